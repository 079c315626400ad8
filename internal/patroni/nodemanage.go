package patroni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
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
	// Arrived waits until what follows a cluster's leader is where it should be, and says
	// what is not. It is asked after each node's turn. None if nil.
	Arrived func(ctx context.Context, c Cluster) error
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
	for _, known := range []*Secrets{k.Secrets, k.Next} {
		if known != nil {
			m.learn(*known)
		}
	}
	if k.EtcdLogin != "" {
		m.Redact.Add(k.EtcdLogin)
	}
	return &Doer{Fleet: m.Fleet, Log: m.Log, KV: kv, Known: k, Runner: m.Runner, Redact: m.Redact, Arrived: m.Arrived}, nil
}

// learn keeps secrets out of everything that is said from now on.
func (m *Manager) learn(s Secrets) {
	for _, secret := range s.all() {
		m.Redact.Add(secret)
	}
}

// lockHost keeps other applies away from one host.
func (m *Manager) lockHost(ctx context.Context, n Node) (context.Context, func(), error) {
	return roll.LockHosts(ctx, m.Log, "/run/lock/pgha/patroni",
		roll.Hold("node "+n.Name+" of "+n.Cluster.Name(), m.Runner), []host.Host{m.Fleet.Host(n.Target)})
}

// ApplyNode brings a node to what the spec says. It is the same for a new one,
// one whose create was cut off, and one that drifted. A broken replica is cloned
// again only if the plan has said so.
func (m *Manager) ApplyNode(ctx context.Context, n Node) error {
	ctx, unlock, err := m.lockHost(ctx, n)
	if err != nil {
		return err
	}
	defer unlock()
	comer := m.Queues.Come(n.Cluster.queue())
	defer comer.GiveUp()
	do, err := m.open(ctx, n.Cluster)
	if err != nil {
		return err
	}
	p, err := m.planNode(ctx, n, do)
	if err != nil {
		return err
	}
	if p.f.Facts.Path(fencePath).Exists() {
		return fencedOff(n)
	}
	t, err := p.turn()
	if err != nil {
		return err
	}
	if t.needed() {
		return m.takeTurn(ctx, p, t, comer)
	}
	comer.GiveUp()
	plan, err := p.plan()
	if err != nil {
		return err
	}
	if _, noted := do.Known.Nodes[n.Name]; !noted {
		made, err := do.announce(ctx, p.n, record(p.n, p.f))
		if err != nil {
			return err
		}
		defer made(ctx)
	}
	if err := engine.Run(ctx, plan, m.Observe); err != nil || !do.pausedByUs(ctx, n.Cluster) {
		return err
	}
	// The leader's Patroni may be up again now.
	ctx, unlockCluster, err := m.lockCluster(ctx, do, n.Cluster, "resuming "+n.Cluster.Name())
	if err != nil {
		return err
	}
	defer unlockCluster()
	return do.endPause(ctx, n.Cluster)
}

// planNode looks at a node's host and its cluster, and refuses what cannot be done.
func (m *Manager) planNode(ctx context.Context, n Node, do *Doer) (*nodePlanner, error) {
	if err := n.Cluster.Require(do.Known); err != nil {
		return nil, err
	}
	if do.Known.Next != nil {
		return nil, unfinished(n)
	}
	if do.Known.Restored != "" {
		return nil, uncompared(n, do.Known.Restored)
	}
	if err := do.checkEtcd(ctx, n); err != nil {
		return nil, err
	}
	if err := do.checkScheme(n); err != nil {
		return nil, err
	}
	if _, noted := do.Known.Nodes[n.Name]; n.Cluster.Citus != nil && !noted {
		others, err := n.Cluster.formation(ctx, do.KV)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(nameTaken(n, others), do.fitsLibrary(ctx, n)); err != nil {
			return nil, err
		}
	}
	n = n.withLogin(do.Known)
	f, err := m.probeWithLists(ctx, n, do)
	if err != nil {
		return nil, err
	}
	n.NamedIPv6 = f.namedIPv6(n)
	if err := m.checkWatchdog(ctx, n); err != nil {
		return nil, err
	}
	if f.Facts.Unit(Unit).Running() && (f.Marker != nil || f.Foreign.is(n)) {
		if st, err := do.status(ctx, n); err == nil {
			f.Status = &st
			if n.Cluster.Adopted() && adoptedPrefix+st.SystemID != n.Cluster.UID {
				return nil, &problem.Error{
					Host: n.Target.Name, Step: "check whose PostgreSQL this is", Cause: fmt.Errorf("its system identifier is %s, and the cluster's is %s", st.SystemID, strings.TrimPrefix(n.Cluster.UID, adoptedPrefix)),
					Left: "everything on the host.", Do: "find out whose data it is before anything else.",
				}
			}
			if f.Broken, err = do.broken(ctx, n, st); err != nil {
				return nil, err
			}
		}
		if err := do.askExtension(ctx, n, &f); err != nil {
			return nil, err
		}
	}
	if f.Broken != "" && !n.Reclone {
		return nil, unannounced(n, f.Broken)
	}
	if n.takesOver() && !hasDatabase(do.Known) {
		if f.Standalone, err = do.standalone(ctx, n); err != nil {
			return nil, err
		}
	}
	var etcdAuthority []byte
	if n.Cluster.Etcd.TLS {
		etcdAuthority = do.KV.Authority()
	}
	return newNodePlanner(n, f, &do.Known, etcdAuthority, m.Now(), do)
}

// takeTurn fetches what the turn needs, waits for it, and takes it. The first turn
// that fails is the last one of this process: whoever comes after it stays as it is.
func (m *Manager) takeTurn(ctx context.Context, p *nodePlanner, t turn, comer *roll.Comer) error {
	n, key := p.n, p.n.Cluster.queue()
	if err := engine.Run(ctx, p.stage(t), m.Observe); err != nil {
		m.Queues.Halt(key, fmt.Errorf("fetching packages on %s failed", n.Target.Name))
		return err
	}
	if err := p.k.rollout().check(m.Now(), "what it needs is fetched"); err != nil {
		return problem.In(n.Target.Name, "", err)
	}
	rank := func(ctx context.Context) int { return p.do.rank(ctx, n) }
	leave, err := comer.Enter(ctx, n.Name, rank)
	if err != nil {
		return err
	}
	defer func() { leave() }()
	for {
		if why := m.Queues.Halted(key); why != nil {
			return &problem.Error{
				Host: n.Target.Name, Step: "take its turn", Cause: fmt.Errorf("the roll was halted: %w", why),
				Left: "the node, running as it was.", Do: "mend what failed there, and apply again: it goes on with this node.",
			}
		}
		locked, unlock, err := m.lockCluster(ctx, p.do, n.Cluster, "the turn of node "+n.Name)
		if err != nil {
			m.Queues.Halt(key, fmt.Errorf("the turn of %s failed", n.Name))
			return err
		}
		// Others have had their turns meanwhile: look again.
		if p.do.Known, err = n.Cluster.Load(locked, p.do.KV); err == nil && p.do.Known.Leader == n.Name && m.Queues.Awaited(key) {
			// Another process has made it the leader, whose turn comes last.
			unlock()
			leave()
			if leave, err = m.Queues.Enter(ctx, key, n.Name, rank); err != nil {
				leave = func() {}
				return err
			}
			continue
		}
		defer unlock()
		if err == nil {
			err = m.turnLocked(locked, p)
		}
		if err != nil && !errors.Is(err, errManual) {
			m.Queues.Halt(key, fmt.Errorf("the turn of %s failed", n.Name))
		}
		return err
	}
}

// turnLocked takes a turn while no other process does anything with the cluster, by what
// was just read of it.
func (m *Manager) turnLocked(ctx context.Context, p *nodePlanner) error {
	n := p.n
	p.do.locked = true
	if err := p.do.endPause(ctx, n.Cluster); err != nil {
		return err
	}
	p, err := m.planNode(ctx, n, p.do)
	if err != nil {
		return err
	}
	p.staged = true
	if err := p.k.rollout().check(m.Now(), "what it needs is fetched"); err != nil {
		return problem.In(n.Target.Name, "", err)
	}
	plan, err := p.plan()
	if err != nil {
		return err
	}
	if err := engine.Run(ctx, plan, m.Observe); err != nil {
		return errors.Join(err, p.do.afterFailure(ctx, n))
	}
	return nil
}

// announce notes in etcd that a node is being made, until that is done or this
// process is gone, and looks at the others once more. All nodes of a new cluster
// are made side by side, and none is there when they are planned: of two that do
// not fit together, at least the later one sees the other here, before anything
// is done on its host.
func (d *Doer) announce(ctx context.Context, n Node, r NodeRecord) (made func(context.Context), err error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	// A key of its own for each process: none waits for one that was killed.
	l, err := d.KV.Lock(ctx, n.Cluster.announcePrefix()+n.Name+"/"+url.PathEscape(d.Runner), string(b), clusterLockTTL)
	if err != nil {
		return nil, err
	}
	k, err := n.Cluster.Load(ctx, d.KV)
	if err == nil {
		err = errors.Join(unfit(n, r, k)...)
	}
	if err != nil {
		l.Release(ctx)
		return nil, err
	}
	return l.Release, nil
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
		return remote.Apt{Host: h, Log: m.Log}.UpdateLists(ctx)
	})
	if err := engine.Run(ctx, engine.Sequence(renew), m.Observe); err != nil {
		return f, err
	}
	return ProbeNode(ctx, h, n)
}

// PreviewNode is the plan that ApplyNode would run now, under the policy that is
// planned for the cluster, or where that is nil, under the one that etcd has.
func (m *Manager) PreviewNode(ctx context.Context, n Node, planned *Rollout) (engine.Plan, error) {
	do, err := m.open(ctx, n.Cluster)
	if err != nil {
		return engine.Plan{}, err
	}
	if planned != nil && do.Known.Record != nil {
		r := *do.Known.Record
		r.Rollout = planned
		do.Known.Record = &r
	}
	p, err := m.previewer(ctx, n, do)
	if err != nil {
		return engine.Plan{}, err
	}
	return p.plan()
}

// previewer looks at a node's host and its cluster, and changes nothing.
func (m *Manager) previewer(ctx context.Context, n Node, do *Doer) (*nodePlanner, error) {
	if err := n.Cluster.Require(do.Known); err != nil {
		return nil, err
	}
	f, err := ProbeNode(ctx, m.Fleet.Host(n.Target), n)
	if err != nil {
		return nil, err
	}
	n = n.withLogin(do.Known)
	n.NamedIPv6 = f.namedIPv6(n)
	if f.listsAreStale(n) {
		m.lookup(ctx, n, &f)
	}
	if f.Facts.Unit(Unit).Running() {
		if st, err := do.status(ctx, n); err == nil {
			f.Status = &st
		}
		do.lookAtExtension(ctx, n, &f)
	}
	if err := do.checkEtcd(ctx, n); err != nil {
		return nil, &Refusal{Part: duePatroni, Err: err}
	}
	if do.Known.Next != nil {
		// The cluster's turn comes first, and then these are in force.
		do.Known.Secrets, do.Known.Next = do.Known.Next, nil
	}
	p, err := newNodePlanner(n, f, &do.Known, do.KV.Authority(), m.Now(), do)
	if err != nil {
		return nil, err
	}
	p.preview = true
	return p, nil
}

// lookup asks the repositories for what the host's package lists do not have: an
// apply would renew the lists, which a plan does not.
func (m *Manager) lookup(ctx context.Context, n Node, f *NodeFacts) {
	var names []string
	for _, pin := range n.pinned() {
		names = append(names, pin.Name)
	}
	found, err := remote.Apt{Host: m.Fleet.Host(n.Target), Log: m.Log}.Lookup(ctx, names...)
	if err != nil {
		m.Log.WarnContext(ctx, "unable to ask the repositories for versions", "host", n.Target.Name, "error", err)
		return
	}
	for _, name := range names {
		f.Facts.Offer(name, found[name])
	}
}

// FitsNode says why a node that is to be made cannot be in one cluster with the
// nodes that there are, as far as that can be seen now: of a cluster or a host
// that cannot be asked yet it says nothing.
func (m *Manager) FitsNode(ctx context.Context, n Node) error {
	do, err := m.open(ctx, n.Cluster)
	if err != nil || n.Cluster.Require(do.Known) != nil {
		return nil
	}
	if len(without(sortedKeys(do.Known.Nodes), n.Name)) == 0 {
		return do.fitsLibrary(ctx, n)
	}
	var p remote.Probe
	p.OS()
	facts, err := p.Run(ctx, m.Fleet.Host(n.Target))
	if err != nil {
		return nil
	}
	return errors.Join(append(unfit(n, record(n, NodeFacts{Facts: facts}), do.Known), do.fitsLibrary(ctx, n))...)
}

// ObservedNode is what Read found on a node's host.
type ObservedNode struct {
	// Absent: the host answered, and the node is definitely not there.
	Absent bool
	// Postgres and Patroni are the installed versions.
	Postgres, Patroni string
	Extensions        map[string]string // likewise
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
		Patroni:  f.Facts.Package(patroniPackage).Version, Extensions: map[string]string{},
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
	wanted.Extensions = maps.Clone(n.Extensions)
	for name := range n.Extensions {
		if have := f.Facts.Package(n.ExtensionPackage(name)); have.Installed {
			o.Extensions[name], wanted.Extensions[name] = have.Version, have.Version
		}
	}
	do := &Doer{Fleet: m.Fleet, Log: m.Log, Known: Known{Authority: f.Facts.Path(n.Cluster.AuthorityPath()).Content}, Redact: m.Redact}
	if f.Foreign != nil {
		if _, err := do.remember(n, f.Foreign.text); err != nil {
			return ObservedNode{}, err
		}
	}
	var trouble []string
	if f.Facts.Unit(Unit).Running() {
		st, err := do.status(ctx, n)
		switch {
		case err != nil:
			trouble = append(trouble, n.Target.Name+": Patroni does not answer: "+err.Error())
		default:
			f.Status = &st
			o.SystemID = st.SystemID
			if f.Broken, err = do.broken(ctx, n, st); err != nil {
				m.Log.WarnContext(ctx, "unable to look into the replica's state", "node", n.Name, "error", err)
			}
			if n.Watchdog.Mode == "required" && st.WatchdogFailed {
				trouble = append(trouble, n.Target.Name+": Patroni cannot use "+n.Watchdog.device()+", so that the node cannot lead")
			}
			if st.State != "running" && st.State != "starting" && !strings.HasPrefix(st.State, "creating replica") {
				trouble = append(trouble, fmt.Sprintf("%s: PostgreSQL is %s", n.Target.Name, st.State))
			}
		}
	}
	var etcdAuthority []byte
	if n.Cluster.Etcd.IssuesForPatroni() {
		etcdAuthority = n.Cluster.Etcd.Trusted(ctx, m.Fleet, n.Target.Address)
	}
	plan, err := NodePlan(wanted, f, nil, etcdAuthority, m.Now(), do)
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
	o.Drift = append(o.Drift, trouble...)
	return o, nil
}

// DestroyNode takes a node out of its cluster: a leader hands over first, the
// member's keys and slot go, the data stays unless purge is set.
func (m *Manager) DestroyNode(ctx context.Context, n Node, purge bool) error {
	do, err := m.open(ctx, n.Cluster)
	if err != nil {
		return err
	}
	leave, err := m.Queues.Enter(ctx, n.Cluster.queue(), n.Name, func(ctx context.Context) int { return leaderLast(ctx, do, n) })
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
	if err := do.putBack(ctx, n.Cluster); err != nil {
		return err
	}
	f, err := ProbeNode(ctx, m.Fleet.Host(n.Target), n)
	if err != nil {
		return &problem.Error{
			Host: n.Target.Name, Step: "look at the host", Cause: err, Left: "the node and its data.",
			Do: "bring the host back. If it is gone for good: terraform state rm this resource; the cluster forgets the member by itself.",
		}
	}
	if f.Marker == nil && !f.Facts.Unit(Unit).Running() && !f.Foreign.is(n) {
		return engine.Run(ctx, engine.Sequence(do.forget(n)), m.Observe)
	}
	if f.Marker != nil && (!f.Marker.of(n.Cluster) || f.Marker.Node != n.Name) {
		return nodeOwnership(n, f, nil)
	}
	if n.Cluster.Adopted() && do.Known.Record == nil {
		do.Known.Record = &Record{UID: n.Cluster.UID, DeletionProtection: true}
	}
	if do.Known.Record != nil && (do.Known.Secrets != nil || n.Cluster.Adopted()) {
		if err := Protected(n, do.Known); err != nil {
			return err
		}
	}
	plan := NodeDestroyPlan(n, f, purge, do)
	if do.Known.leavesFormation(n) {
		leaves, err := m.leaveFormation(ctx, n, do)
		if err != nil {
			return err
		}
		plan = leaves.ThenPlan(plan)
	}
	return engine.Run(ctx, plan, m.Observe)
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
	return m.lock(ctx, do, c.lockKey(), what)
}

func (m *Manager) lock(ctx context.Context, do *Doer, key, what string) (context.Context, func(), error) {
	l, err := do.KV.Lock(ctx, key, roll.Hold(what, m.Runner), clusterLockTTL)
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
