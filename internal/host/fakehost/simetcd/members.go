package simetcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// errUnhealthy is what --strict-reconfig-check says.
var errUnhealthy = fmt.Errorf("%w: etcdserver: unhealthy cluster", etcd.ErrUnsettled)

// healthInterval is for how long members have to be connected before the next
// one is added.
const healthInterval = 5 * time.Second

// byID finds a member.
func (st *Store) byID(id uint64) *member {
	for _, m := range st.members {
		if m.id == id {
			return m
		}
	}
	return nil
}

// named finds a member that has started.
func (st *Store) named(name string) *member {
	for _, m := range st.sorted() {
		if m.name == name {
			return m
		}
	}
	return &member{}
}

// Votes reports whether a machine is a voting member of any cluster, and has the
// data for it.
func (s *Sim) Votes(m *fakehost.Machine) bool {
	for _, st := range s.stores {
		for _, one := range st.members {
			if one.machine == m && !one.learner && string(m.Files.Read(one.env["ETCD_DATA_DIR"]+dataID)) == st.id {
				return true
			}
		}
	}
	return false
}

func (c *client) AddLearner(ctx context.Context, peerURL string) (id uint64, err error) {
	err = c.do(ctx, "member-add", true, nil, func(st *Store) error {
		if m := st.members[peerURL]; m != nil {
			id = m.id
			return nil
		}
		for _, m := range st.members {
			if m.learner {
				return errors.New("etcdserver: too many learner members in cluster")
			}
		}
		if !st.settled {
			return errUnhealthy
		}
		st.revision++
		id = fakehost.Hash(5, st.id, peerURL, st.revision)
		st.members[peerURL] = &member{id: id, peerURL: peerURL, learner: true}
		return nil
	})
	return id, err
}

func (c *client) Promote(ctx context.Context, id uint64) error {
	return c.do(ctx, "member-promote", true, nil, func(st *Store) error {
		m := st.byID(id)
		switch {
		case m == nil:
			return errors.New("etcdserver: member not found")
		case !m.learner:
			return nil
		case st.auth && !c.atLeader(st):
			return errors.New("etcdserver: invalid auth token")
		case !m.ready || !m.runs():
			return etcd.ErrNotReady
		}
		m.learner, st.settled = false, false
		c.sim.world.After(healthInterval, func() { st.settled = true })
		st.changed()
		return nil
	})
}

func (c *client) RemoveMember(ctx context.Context, id uint64) error {
	return c.do(ctx, "member-remove", true, nil, func(st *Store) error {
		m := st.byID(id)
		if m == nil {
			return nil
		}
		all, running := st.voters()
		if n := len(all) - 1; !m.learner {
			healthy := len(running)
			if m.runs() {
				healthy--
			}
			if healthy < n/2+1 {
				return errUnhealthy
			}
		}
		delete(st.members, m.peerURL)
		if u := m.unit; u != nil {
			for _, p := range ports(m.env) {
				m.machine.Unlisten(p)
			}
			m.unit = nil
			u.Logf("{\"level\":\"error\",\"msg\":\"the member has been permanently removed from the cluster\"}")
			u.Exit("success", restartSec)
		}
		st.changed()
		return nil
	})
}

func (c *client) UpdateMember(ctx context.Context, id uint64, peerURLs []string) error {
	return c.do(ctx, "member-update", true, nil, func(st *Store) error {
		m := st.byID(id)
		if m == nil {
			return errors.New("etcdserver: member not found")
		}
		delete(st.members, m.peerURL)
		m.peerURL = peerURLs[0]
		st.members[m.peerURL] = m
		st.changed()
		return nil
	})
}

func (c *client) MoveLeader(ctx context.Context, id uint64) error {
	return c.do(ctx, "move-leader", true, nil, func(st *Store) error {
		m := st.byID(id)
		switch {
		case !c.atLeader(st):
			return errors.New("etcdserver: not leader")
		case m == nil || m.learner || !slices.Contains(st.majority(), m):
			return fmt.Errorf("etcdserver: bad leader transferee")
		}
		st.leader = m
		return nil
	})
}

// atLeader reports whether the client talks to the leader and to no other.
func (c *client) atLeader(st *Store) bool {
	names := c.access.Names()
	_, m := c.at(names[0])
	return len(names) == 1 && m != nil && m == st.leads()
}
