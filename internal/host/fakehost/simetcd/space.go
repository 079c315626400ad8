package simetcd

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// DB is a member's database.
type DB struct {
	// Size is that of the file, InUse what is in use, Live what of that is no
	// history; in bytes.
	Size, InUse, Live int64
	// Defragmented is how often it was.
	Defragmented int
}

// DB is a member's database, a small one unless somebody has changed it.
func (st *Store) DB(name string) *DB {
	if st.dbs == nil {
		st.dbs = map[string]*DB{}
	}
	if st.dbs[name] == nil {
		st.dbs[name] = &DB{Size: 20480, InUse: 16384, Live: 16384}
	}
	return st.dbs[name]
}

// Fill gives all members' databases a size, and raises the alarm on those that
// reach their quota.
func (st *Store) Fill(size, inUse, live int64) {
	for _, m := range st.members {
		*st.DB(m.name) = DB{Size: size, InUse: inUse, Live: live}
		st.check(m.name)
	}
}

// check raises the alarm where a database has reached its quota.
func (st *Store) check(name string) {
	quota, err := strconv.ParseInt(st.named(name).env["ETCD_QUOTA_BACKEND_BYTES"], 10, 64)
	if err == nil && st.DB(name).Size >= quota {
		st.Alarms[name] = etcd.NoSpace
	}
}

// Alarms implements etcd.Client.
func (c *client) Alarms(ctx context.Context) (list []etcd.Alarm, err error) {
	err = c.do(ctx, "alarms", false, []string{"/pgha/"}, func(st *Store) error {
		for _, m := range st.sorted() {
			if kind := st.Alarms[m.name]; kind != "" {
				list = append(list, etcd.Alarm{Member: m.id, Kind: kind})
			}
		}
		return nil
	})
	return list, err
}

// Disarm implements etcd.Client. What has not been mended raises the alarm again.
func (c *client) Disarm(ctx context.Context, a etcd.Alarm) error {
	return c.do(ctx, "disarm", true, []string{"/pgha/"}, func(st *Store) error {
		for _, m := range st.members {
			if m.id == a.Member && st.Alarms[m.name] == a.Kind {
				st.Alarms[m.name] = ""
				st.check(m.name)
			}
		}
		return nil
	})
}

// Compact implements etcd.Client.
func (c *client) Compact(ctx context.Context) error {
	return c.do(ctx, "compact", true, []string{"/pgha/"}, func(st *Store) error {
		for _, m := range st.members {
			db := st.DB(m.name)
			db.InUse = min(db.InUse, db.Live)
		}
		return nil
	})
}

// Defragment implements etcd.Client. The member is away meanwhile; that no other
// one may be is a promise.
func (c *client) Defragment(ctx context.Context, endpoint string) error {
	call := fakehost.Call{Kind: "etcd", Host: c.access.Name, Name: "etcd.defragment", Args: []string{endpoint}, Mutating: true}
	return c.p.Do(ctx, call, func() error {
		err := errors.New("connection refused")
		c.sim.world.Do(func() {
			for _, name := range c.access.Names() {
				st, m := c.at(name)
				if m == nil || !samePlace(c.access.URL(name), endpoint) {
					continue
				}
				for other, n := range st.Behind {
					if n > 0 {
						c.sim.world.TB.Errorf("%s is defragmented while %s is catching up", name, other)
					}
				}
				if len(st.majority()) < st.Size() {
					c.sim.world.TB.Errorf("%s is defragmented while only %v of %d members run", name, st.Running(), st.Size())
				}
				db := st.DB(m.name)
				db.Size = db.InUse
				db.Defragmented++
				err = nil
			}
		})
		c.sim.world.Sleep(time.Second)
		return err
	})
}
