package patroni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/redact"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/roll"
)

// Manager carries out what the resources ask for.
type Manager struct {
	Fleet   host.Fleet
	Log     *slog.Logger
	Observe engine.Observer
	Now     func() time.Time
	Runner  string // who we are, to others who want a lock
	Redact  *redact.Set
	Queues  *roll.Queues
	// Etcd returns the client of an etcd cluster, opening it if need be. It
	// belongs to the process and is not closed here.
	Etcd func(ctx context.Context, a etcd.Access) (etcd.Client, error)
}

// open loads what etcd knows of a cluster.
func (m *Manager) open(ctx context.Context, c Cluster) (*Doer, error) {
	kv, err := m.Etcd(ctx, c.Etcd)
	if err != nil {
		return nil, err
	}
	k, err := c.Load(ctx, kv)
	if err != nil {
		return nil, err
	}
	if k.Secrets != nil {
		for _, s := range k.Secrets.all() {
			m.Redact.Add(s)
		}
	}
	return &Doer{Fleet: m.Fleet, Log: m.Log, KV: kv, Known: k, Runner: m.Runner}, nil
}

// lockHost keeps other applies away from one host.
func (m *Manager) lockHost(ctx context.Context, n Node) (context.Context, func(), error) {
	return roll.LockHosts(ctx, m.Log, "/run/lock/pgha/patroni",
		roll.Hold("node "+n.Name+" of "+n.Cluster.Scope, m.Runner), []host.Host{m.Fleet.Host(n.Target)})
}

// ApplyNode brings a node to what the spec says. It is the same for a new one,
// one whose create was cut off, and one that drifted.
func (m *Manager) ApplyNode(ctx context.Context, n Node) error {
	ctx, unlock, err := m.lockHost(ctx, n)
	if err != nil {
		return err
	}
	defer unlock()
	do, err := m.open(ctx, n.Cluster)
	if err != nil {
		return err
	}
	if err := n.Cluster.Require(do.Known); err != nil {
		return err
	}
	f, err := m.probeWithLists(ctx, n, do)
	if err != nil {
		return err
	}
	var etcdAuthority []byte
	if n.Cluster.Etcd.TLS {
		etcdAuthority = do.KV.Authority()
	}
	plan, err := NodePlan(n, f, &do.Known, etcdAuthority, m.Now(), do)
	if err != nil {
		return err
	}
	return engine.Run(ctx, plan, m.Observe)
}

// probeWithLists probes, and if the host's package lists do not have a wanted
// version, renews them and probes again.
func (m *Manager) probeWithLists(ctx context.Context, n Node, do *Doer) (NodeFacts, error) {
	h := m.Fleet.Host(n.Target)
	f, err := ProbeNode(ctx, h, n)
	if err != nil || !f.listsAreStale(n) {
		return f, err
	}
	renew := do.step(n, "patroni.lists", "renew the package lists", engine.Safe, func(ctx context.Context) error {
		return remote.UpdateLists(ctx, h)
	})
	if err := engine.Run(ctx, engine.Sequence(renew), m.Observe); err != nil {
		return f, err
	}
	return ProbeNode(ctx, h, n)
}

// PreviewNode is the plan that ApplyNode would run now.
func (m *Manager) PreviewNode(ctx context.Context, n Node) (engine.Plan, error) {
	do, err := m.open(ctx, n.Cluster)
	if err != nil {
		return engine.Plan{}, err
	}
	if err := n.Cluster.Require(do.Known); err != nil {
		return engine.Plan{}, err
	}
	f, err := ProbeNode(ctx, m.Fleet.Host(n.Target), n)
	if err != nil {
		return engine.Plan{}, err
	}
	return NodePlan(n, f, &do.Known, do.KV.Authority(), m.Now(), do)
}

// ObservedNode is what Read found on a node's host.
type ObservedNode struct {
	// Absent: the host answered, and the node is definitely not there.
	Absent bool
	// Postgres and Patroni are the installed versions.
	Postgres, Patroni string
	SystemID          string
	// Drift is what an apply would do, a line each.
	Drift []string
}

// ObserveNode looks at a node's host, in one session, and asks its Patroni. It
// changes nothing and needs neither etcd nor secrets.
func (m *Manager) ObserveNode(ctx context.Context, n Node) (ObservedNode, error) {
	f, err := ProbeNode(ctx, m.Fleet.Host(n.Target), n)
	if err != nil {
		return ObservedNode{}, err
	}
	if f.Absent(n) {
		return ObservedNode{Absent: true}, nil
	}
	o := ObservedNode{
		Postgres: f.Facts.Package(n.serverPackage()).Version,
		Patroni:  f.Facts.Package(patroniPackage).Version,
	}
	// What is installed counts as wanted here: a difference in version shows
	// as such, not as a step that is refused.
	wanted := n
	if o.Postgres != "" {
		if major, err := postgres.Major(o.Postgres); err == nil && major == n.major() {
			wanted.Postgres = o.Postgres
		}
	}
	if o.Patroni != "" {
		wanted.Patroni = o.Patroni
	}
	do := &Doer{Fleet: m.Fleet, Log: m.Log, Known: Known{Authority: f.Facts.Path(n.Cluster.authorityPath()).Content}}
	plan, err := NodePlan(wanted, f, nil, nil, m.Now(), do)
	switch {
	case err != nil:
		var p *problem.Error
		if !errors.As(err, &p) {
			return o, err
		}
		o.Drift = append(o.Drift, strings.ReplaceAll(p.Error(), "\n", " "))
	default:
		o.Drift = plan.Describe(engine.Safe)
	}
	if f.Facts.Unit(Unit).Running() {
		st, err := do.status(ctx, n)
		switch {
		case err != nil:
			o.Drift = append(o.Drift, n.Target.Name+": Patroni does not answer: "+err.Error())
		default:
			o.SystemID = st.SystemID
			if st.State != "running" && st.State != "starting" && !strings.HasPrefix(st.State, "creating replica") {
				o.Drift = append(o.Drift, fmt.Sprintf("%s: PostgreSQL is %s", n.Target.Name, st.State))
			}
		}
	}
	return o, nil
}

// DestroyNode takes a node out of its cluster: a leader hands over first, the
// member's keys and slot go, the data stays unless purge is set.
func (m *Manager) DestroyNode(ctx context.Context, n Node, purge bool) error {
	do, err := m.open(ctx, n.Cluster)
	if err != nil {
		return err
	}
	leave, err := m.Queues.Enter(ctx, n.Cluster.own(""), n.Name, func(ctx context.Context) int { return leaderLast(ctx, do, n) })
	if err != nil {
		return err
	}
	defer leave()
	ctx, unlockHost, err := m.lockHost(ctx, n)
	if err != nil {
		return err
	}
	defer unlockHost()
	ctx, unlock, err := m.lockCluster(ctx, do, n.Cluster, "removing node "+n.Name)
	if err != nil {
		return err
	}
	defer unlock()
	// Others have had their turn meanwhile: look again.
	if do.Known, err = n.Cluster.Load(ctx, do.KV); err != nil {
		return err
	}
	f, err := ProbeNode(ctx, m.Fleet.Host(n.Target), n)
	if err != nil {
		return &problem.Error{
			Host: n.Target.Name, Step: "look at the host", Cause: err, Left: "the node and its data.",
			Do: "bring the host back. If it is gone for good: terraform state rm this resource; the cluster forgets the member by itself.",
		}
	}
	if f.Marker == nil && !f.Facts.Unit(Unit).Running() {
		return engine.Run(ctx, engine.Sequence(do.forget(n)), m.Observe)
	}
	if f.Marker != nil && (f.Marker.Scope != n.Cluster.Scope || f.Marker.Node != n.Name) {
		return nodeOwnership(n, f, nil)
	}
	if do.Known.Record != nil && do.Known.Secrets != nil {
		if err := Protected(n, do.Known); err != nil {
			return err
		}
	}
	return engine.Run(ctx, NodeDestroyPlan(n, f, purge, do), m.Observe)
}

// leaderLast ranks nodes for their removal.
func leaderLast(ctx context.Context, do *Doer, n Node) int {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if v, ok, err := do.KV.Get(ctx, n.Cluster.leaderKey()); err == nil && ok && v.Value == n.Name {
		return 1
	}
	return 0
}

// clusterLockTTL is for how long a lock outlives a process that vanished.
const clusterLockTTL = 30 * time.Second

// lockCluster keeps other applies away from a whole cluster, across processes
// and states. The returned context ends when the lock is lost.
func (m *Manager) lockCluster(ctx context.Context, do *Doer, c Cluster, what string) (context.Context, func(), error) {
	l, err := do.KV.Lock(ctx, c.lockKey(), roll.Hold(what, m.Runner), clusterLockTTL)
	var held *etcd.HeldError
	if errors.As(err, &held) {
		return nil, nil, &problem.Error{
			Step: "lock out other applies", Cause: errors.New("another apply is at work: " + held.Holder), Left: "everything.",
			Do: fmt.Sprintf("let it finish and apply again. If it was killed, its lock is free %s after that.", clusterLockTTL),
		}
	}
	if err != nil {
		return nil, nil, err
	}
	locked, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-l.Lost():
			cancel(roll.ErrLockLost)
		case <-locked.Done():
		}
	}()
	return locked, func() {
		cancel(context.Canceled)
		l.Release(ctx)
	}, nil
}
