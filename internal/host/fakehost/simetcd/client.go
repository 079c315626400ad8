package simetcd

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// Opener returns what opens clients for a process. Logging in is the real
// thing, on the members' hosts; from there on the client talks to the
// simulation.
func (s *Sim) Opener(p *fakehost.Process) func(context.Context, etcd.Access) (etcd.Client, error) {
	return func(ctx context.Context, a etcd.Access) (etcd.Client, error) {
		cfg, err := a.Login(ctx, p)
		if err != nil {
			return nil, err
		}
		c := &client{sim: s, p: p, access: a, authority: cfg.Authority}
		s.world.Do(func() {
			s.clients++
			c.identity = Identity{Client: fmt.Sprintf("%d of the provider", s.clients), Authorities: cfg.Authority}
		})
		// A host may say otherwise than the cluster's resource.
		if a.TLS = cfg.TLS != nil; a.TLS {
			if len(cfg.TLS.Certificates) == 0 && !a.Theirs {
				return nil, errors.New("the login gave no certificate")
			}
		}
		if a.TLS && len(cfg.TLS.Certificates) > 0 {
			c.identity.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cfg.TLS.Certificates[0].Certificate[0]})
		}
		err = c.do(ctx, "login", false, nil, func(st *Store) error {
			c.user, err = st.login(cfg.User, cfg.Password)
			return err
		})
		if errors.Is(err, errNoQuorum) || host.KindOf(err) != 0 {
			err = nil // the real client connects when it is first used
			c.user = cfg.User
		}
		return c, err
	}
}

// client implements etcd.Client.
type client struct {
	sim       *Sim
	p         *fakehost.Process
	access    etcd.Access
	user      string
	authority []byte
	identity  Identity
}

// at finds the member that runs on the host of an endpoint, if it can be
// reached.
func (c *client) at(name string) (*Store, *member) {
	target := c.access.Members[name].Target
	if !c.p.Reaches(target.Address) {
		return nil, nil
	}
	for _, st := range c.sim.stores {
		for _, m := range st.sorted() {
			if m.unit != nil && m.unit.Active == "active" && m.machine.Address == target.Address && c.sim.connect(c.identity, m) == nil {
				return st, m
			}
		}
	}
	return nil, nil
}

// store finds the cluster behind the endpoints: one of its members has to be in
// the majority. A client sends its requests to all of them in turn, so none may be
// one that does not vote yet.
func (c *client) store() *Store {
	var found *Store
	for _, m := range c.access.Members {
		if m.Address == "127.0.0.1" {
			for _, machine := range c.sim.world.Machines() {
				if sc := c.sim.scratch[machine.Name]; sc != nil && machine.Address == m.Target.Address && c.p.Reaches(machine.Address) && c.access.ClientPort == sc.port {
					return sc.store
				}
			}
			return nil
		}
	}
	for _, name := range c.access.Names() {
		st, m := c.at(name)
		if m == nil || c.access.Passive[name] {
			continue
		}
		if m.learner {
			c.sim.world.TB.Errorf("requests may go to %s, which does not vote", name)
		}
		if found == nil && slices.Contains(st.majority(), m) && st.Leader() != "" {
			found = st
		}
	}
	return found
}

// do makes one request. Without a quorum within reach it takes as long as the
// real client's patience.
func (c *client) do(ctx context.Context, name string, mutating bool, keys []string, f func(*Store) error) error {
	call := fakehost.Call{Kind: "etcd", Host: c.access.Name, Name: "etcd." + name, Args: keys, Mutating: mutating}
	err := c.p.Do(ctx, call, func() error {
		err := errNoQuorum
		c.sim.world.Do(func() {
			if st := c.store(); st != nil {
				err = nil
				for _, k := range keys {
					if err = st.may(c.user, k); err != nil {
						return
					}
				}
				err = f(st)
			}
		})
		if errors.Is(err, errNoQuorum) {
			timer := time.NewTimer(c.sim.world.Real(c.sim.RequestTimeout))
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
			return fmt.Errorf("%w: %w", errNoQuorum, context.DeadlineExceeded)
		}
		return err
	})
	if errors.Is(err, fakehost.ErrCrashed) {
		return &host.Error{Host: c.access.Name, Op: "etcd." + name, Kind: host.KindLost, Err: err}
	}
	if kind, ok := fakehost.KindOf(err); ok { // as the hosts' own calls name theirs
		return &host.Error{Host: c.access.Name, Op: "etcd." + name, Kind: kind}
	}
	return err
}

func (c *client) Get(ctx context.Context, key string) (kv etcd.KeyValue, ok bool, err error) {
	err = c.do(ctx, "get", false, []string{key}, func(st *Store) error {
		if _, ok = st.Get(key); ok {
			kv = st.keyValue(key)
		}
		return nil
	})
	return kv, ok, err
}

func (c *client) List(ctx context.Context, prefix string) (list []etcd.KeyValue, err error) {
	err = c.do(ctx, "list", false, []string{prefix}, func(st *Store) error {
		for _, k := range st.Keys(prefix) {
			list = append(list, st.keyValue(k))
		}
		return nil
	})
	return list, err
}

func (c *client) Put(ctx context.Context, key, value string) error {
	return c.do(ctx, "put", true, []string{key}, func(st *Store) error {
		c.learn(key, value)
		st.Put(key, value, nil)
		return nil
	})
}

func (c *client) Create(ctx context.Context, key, value string) (ok bool, err error) {
	err = c.do(ctx, "create", true, []string{key}, func(st *Store) error {
		if _, exists := st.Get(key); !exists {
			c.learn(key, value)
			st.Put(key, value, nil)
			ok = true
		}
		return nil
	})
	return ok, err
}

func (c *client) Swap(ctx context.Context, key, value string, revision int64) (ok bool, err error) {
	err = c.do(ctx, "swap", true, []string{key}, func(st *Store) error {
		if st.Revision(key) == revision {
			st.Put(key, value, nil)
			ok = true
		}
		return nil
	})
	return ok, err
}

func (c *client) Delete(ctx context.Context, key string) error {
	return c.do(ctx, "delete", true, []string{key}, func(st *Store) error {
		st.Delete(key)
		return nil
	})
}

func (c *client) DeletePrefix(ctx context.Context, prefix string) error {
	if len(prefix) < 3 || !strings.HasSuffix(prefix, "/") {
		c.sim.world.TB.Errorf("all keys that begin with %q were to be deleted", prefix)
	}
	return c.do(ctx, "delete-prefix", true, []string{prefix}, func(st *Store) error {
		for _, k := range st.Keys(prefix) {
			st.Delete(k)
		}
		return nil
	})
}

// learn takes note of the secrets that are kept in etcd.
func (c *client) learn(key, value string) {
	if !strings.HasSuffix(key, "/secrets") {
		return
	}
	type secrets struct{ Superuser, Replication, Rewind, RestAPI, Etcd string }
	var stored struct {
		secrets
		Next secrets
	}
	if err := json.Unmarshal([]byte(value), &stored); err != nil {
		c.sim.world.TB.Errorf("%s cannot be read: %v", key, err)
	}
	for _, s := range []secrets{stored.secrets, stored.Next} {
		for _, secret := range []string{s.Superuser, s.Replication, s.Rewind, s.RestAPI, s.Etcd} {
			if secret != "" {
				c.sim.world.Learn(secret)
			}
		}
	}
}

func (c *client) EnableAuth(ctx context.Context, cr etcd.Credentials) error {
	return c.do(ctx, "auth", true, nil, func(st *Store) error {
		if st.auth {
			return nil
		}
		st.users["root"] = &user{password: cr.Root, root: true}
		st.users[etcd.ProviderUser] = &user{password: cr.Provider, root: true}
		st.auth = true
		return nil
	})
}

func (c *client) DisableAuth(ctx context.Context) error {
	return c.do(ctx, "auth-off", true, []string{"/pgha/"}, func(st *Store) error {
		st.auth = false
		return nil
	})
}

// AuthEnabled needs no user.
func (c *client) AuthEnabled(ctx context.Context) (on bool, err error) {
	err = c.do(ctx, "auth-status", false, nil, func(st *Store) error {
		on = st.auth
		return nil
	})
	return on, err
}

func (c *client) GrantUser(ctx context.Context, name, password string, prefixes ...string) error {
	return c.do(ctx, "user", true, []string{"/pgha/"}, func(st *Store) error {
		c.sim.world.Learn(password)
		st.users[name] = &user{password: password, prefixes: slices.Clone(prefixes)}
		return nil
	})
}

func (c *client) DropUser(ctx context.Context, name string) error {
	return c.do(ctx, "user-drop", true, []string{"/pgha/"}, func(st *Store) error {
		delete(st.users, name)
		return nil
	})
}

// Status needs no quorum: each member answers for itself.
func (c *client) Status(ctx context.Context, endpoint string) (s etcd.Status, err error) {
	call := fakehost.Call{Kind: "etcd", Host: c.access.Name, Name: "etcd.status", Args: []string{endpoint}}
	err = c.p.Do(ctx, call, func() error {
		err := errors.New("connection refused")
		c.sim.world.Do(func() {
			for _, name := range c.access.Names() {
				if st, m := c.at(name); m != nil && samePlace(c.access.URL(name), endpoint) {
					s, err = st.status(m), nil
				}
			}
		})
		return err
	})
	return s, err
}

func (st *Store) status(m *member) etcd.Status {
	s := etcd.Status{
		MemberID: m.id, ClusterID: fakehost.Hash(6, st.id), Version: m.version,
		DBSize: st.DB(m.name).Size, DBInUse: st.DB(m.name).InUse, RaftIndex: uint64(st.revision), Applied: uint64(st.revision) - min(uint64(st.revision), st.Behind[m.name]),
	}
	if leader := st.leads(); leader != nil && slices.Contains(st.served(), m) {
		s.Leader = leader.id
	}
	s.Learner = m.learner
	for _, name := range slices.Sorted(maps.Keys(st.Alarms)) {
		if kind := st.Alarms[name]; kind != "" {
			s.Errors = append(s.Errors, fmt.Sprintf("memberID:%d alarm:%s ", st.named(name).id, kind))
		}
	}
	return s
}

func (c *client) Members(ctx context.Context) (list []etcd.MemberInfo, err error) {
	err = c.do(ctx, "members", false, []string{"/pgha/"}, func(st *Store) error {
		for _, m := range st.sorted() {
			info := etcd.MemberInfo{ID: m.id, PeerURLs: []string{m.peerURL}, Learner: m.learner}
			if m.env != nil {
				info.Name, info.ClientURLs = m.name, []string{m.env["ETCD_ADVERTISE_CLIENT_URLS"]}
			}
			list = append(list, info)
		}
		return nil
	})
	return list, err
}

func (c *client) Authority() []byte { return c.authority }
func (c *client) Close() error      { return nil }

// Lock implements etcd.Client as the real client does: by asking again and
// again until ctx ends.
func (c *client) Lock(ctx context.Context, key, holder string, ttl time.Duration) (etcd.Lock, error) {
	return c.lock(ctx, key, holder, ttl, true)
}

// TryLock implements etcd.Client.
func (c *client) TryLock(ctx context.Context, key, holder string, ttl time.Duration) (etcd.Lock, error) {
	return c.lock(ctx, key, holder, ttl, false)
}

func (c *client) lock(ctx context.Context, key, holder string, ttl time.Duration, waits bool) (etcd.Lock, error) {
	l := &heldLock{c: c, key: key, ttl: ttl, lost: make(chan struct{}), released: make(chan struct{})}
	for {
		held := &etcd.HeldError{Key: key}
		var store *Store
		err := c.do(ctx, "lock", false, []string{key}, func(st *Store) error {
			if v, taken := st.Get(key); taken {
				held.Holder = v
				return nil
			}
			store, l.store = st, st
			l.lease = st.NewLease()
			st.Put(key, holder, l.lease)
			l.revision = st.Revision(key)
			return nil
		})
		if err != nil && ctx.Err() != nil && held.Holder != "" {
			return nil, held
		}
		if err != nil {
			return nil, err
		}
		if store != nil {
			c.sim.world.Go(func() { l.keep(store, ttl) })
			return l, nil
		}
		if !waits {
			return nil, held
		}
		timer := time.NewTimer(500 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, held
		case <-timer.C:
		}
	}
}

type heldLock struct {
	c        *client
	key      string
	store    *Store
	lease    *Lease
	ttl      time.Duration
	revision int64
	lost     chan struct{}
	released chan struct{}
	once     sync.Once
}

// keep ends the lease when its owner has been gone for its time.
func (l *heldLock) keep(st *Store, ttl time.Duration) {
	select {
	case <-l.released:
		return
	case <-l.c.sim.world.Closed():
		return
	case <-l.c.p.Dead():
	}
	close(l.lost)
	if l.c.sim.world.Sleep(ttl) {
		l.c.sim.world.Do(func() { st.Expire(l.lease) })
	}
}

func (l *heldLock) Revision() int64       { return l.revision }
func (l *heldLock) Lost() <-chan struct{} { return l.lost }

func (l *heldLock) Release(ctx context.Context) {
	if l.c.p.Crashed() {
		return
	}
	l.once.Do(func() {
		close(l.released)
		err := l.c.do(context.WithoutCancel(ctx), "unlock", false, nil, func(st *Store) error {
			st.Expire(l.lease)
			return nil
		})
		if err != nil { // nobody keeps it alive any more
			l.c.sim.world.After(l.ttl, func() { l.store.Expire(l.lease) })
		}
	})
}
