package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/roll"
)

// Manager carries out what the resource asks for.
type Manager struct {
	Doer    *Doer
	Observe engine.Observer
	Now     func() time.Time
	// Runner says who we are to others who want a lock.
	Runner string
}

func lockPath(cluster string) string { return "/run/lock/pgha/etcd-" + cluster }

// lock keeps other applies away from the cluster's hosts.
func (m *Manager) lock(ctx context.Context, s Spec) (context.Context, func(), error) {
	var hosts []host.Host
	for _, n := range s.Names() {
		hosts = append(hosts, m.Doer.host(s, n))
	}
	hosts = append(hosts, m.leaving(ctx, s)...)
	return roll.LockHosts(ctx, m.Doer.Log, lockPath(s.Name), roll.Hold("etcd cluster "+s.Name, m.Runner), hosts)
}

// leaving are those hosts of leaving members that can be reached.
func (m *Manager) leaving(ctx context.Context, s Spec) []host.Host {
	var hosts []host.Host
	for _, n := range sortedKeys(s.Leaving) {
		h := m.Doer.Fleet.Host(s.Leaving[n].Target)
		var p remote.Probe
		if _, err := p.OS().Run(ctx, h); err == nil {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// Apply brings the cluster to what the spec says and returns its uid. It is
// the same for a new cluster, one whose create was cut off, and one that
// drifted.
func (m *Manager) Apply(ctx context.Context, s Spec) (uid string, err error) {
	ctx, unlock, err := m.lock(ctx, s)
	if err != nil {
		return "", err
	}
	defer unlock()
	f, err := m.probeWithLists(ctx, s)
	if err != nil {
		return "", err
	}
	if err := m.recognise(ctx, s, f); err != nil {
		return "", err
	}
	if RestoreDue(s, f) {
		if f, err = m.restore(ctx, &s, f); err != nil {
			return "", err
		}
	}
	if err := m.filesWrong(s, f); err != nil {
		return "", err
	}
	m.Doer.votes(s, f)
	m.space(ctx, s, &f)
	m.tryAsk(ctx, s, &f)
	uid = f.uid()
	if uid == "" {
		uid = s.UID
	}
	if uid == "" {
		uid = NewUID()
	}
	plan, err := Plan(s, f, uid, m.Now(), m.Doer)
	if err != nil {
		return "", err
	}
	if err := engine.Run(ctx, plan, m.Observe); err != nil {
		return uid, err
	}
	if !f.formed() || f.Live != nil {
		return uid, m.goOn(ctx, s, uid, plan)
	}
	// Now that what was down has been started, the cluster answers, and members can
	// join and leave.
	if f, err = m.probeWithLists(ctx, s); err != nil {
		return "", err
	}
	if err := m.recognise(ctx, s, f); err != nil {
		return "", err
	}
	m.Doer.votes(s, f)
	if err := m.ask(ctx, s, &f); err != nil {
		return "", err
	}
	if plan, err = Plan(s, f, uid, m.Now(), m.Doer); err != nil {
		return "", err
	}
	if err := engine.Run(ctx, plan, m.Observe); err != nil {
		return uid, err
	}
	return uid, m.goOn(ctx, s, uid, plan)
}

// ask adds to the facts what the cluster itself says, if it was ever complete.
func (m *Manager) ask(ctx context.Context, s Spec, f *Facts) error {
	if !f.formed() || len(f.Errors) > 0 {
		return nil
	}
	live, err := m.Doer.live(ctx, s)
	if err != nil {
		return problem.In("", "ask the etcd cluster for its members", err)
	}
	c, err := m.Doer.client(ctx, s)
	if err != nil {
		return err
	}
	joining, err := c.List(ctx, joiningPrefix(s))
	if err != nil {
		return err
	}
	if f.Clients, err = clients(ctx, c); err != nil {
		return err
	}
	f.Live, f.Joining = live, map[string]bool{}
	for _, kv := range joining {
		f.Joining[strings.TrimPrefix(kv.Key, joiningPrefix(s))] = true
	}
	if err := m.askMore(ctx, c, s, f); err != nil {
		return err
	}
	f.NodeFiles, err = m.lookNodes(ctx, c, s, *f)
	return err
}

// askMore adds what concerns another version, and authentication.
func (m *Manager) askMore(ctx context.Context, c Client, s Spec, f *Facts) error {
	kv, found, err := c.Get(ctx, upgradeKey(s))
	if err != nil {
		return err
	}
	if found {
		f.Upgrade = &Upgrade{}
		if err := json.Unmarshal([]byte(kv.Value), f.Upgrade); err != nil {
			return fmt.Errorf("the key %s cannot be read: %w", upgradeKey(s), err)
		}
	}
	if f.AuthOn, err = c.AuthEnabled(ctx); err != nil {
		return err
	}
	other := f.AuthOn != s.Auth
	for _, h := range f.Hosts {
		other = other || !debver.Matches(s.Version, h.Facts.Package(serverPackage).Version)
	}
	if !other {
		return nil
	}
	keys, err := c.List(ctx, "/")
	f.Nodes, f.NotLoggingIn = nodes(keys), notLoggingIn(keys)
	return err
}

// tryAsk is ask where an answer is not needed: without one, nobody is added or
// removed.
func (m *Manager) tryAsk(ctx context.Context, s Spec, f *Facts) {
	if err := m.ask(ctx, s, f); err != nil {
		f.ShutOut = errors.Is(err, ErrAuth)
		m.Doer.Log.WarnContext(ctx, "the etcd cluster does not say which members it has", "cluster", s.Name, "error", err)
	}
}

// uid is that of the first marker there is.
func (f Facts) uid() string {
	for _, hosts := range []map[string]*HostFacts{f.Hosts, f.Leaving} {
		for _, n := range sortedKeys(hosts) {
			if m := hosts[n].Marker; m != nil {
				return m.UID
			}
		}
	}
	return ""
}

// probeWithLists probes, and where a host's package lists do not have the
// wanted version, renews them and probes again.
func (m *Manager) probeWithLists(ctx context.Context, s Spec) (Facts, error) {
	f := Probe(ctx, m.Doer.Fleet, s)
	if err := f.Err(); err != nil {
		return f, err
	}
	var stale []string
	for _, n := range s.Names() {
		h := f.Hosts[n].Facts
		for _, pkg := range f.Hosts[n].packages() {
			_, listed := debver.Newest(s.Version, h.Available(pkg))
			if !listed && !debver.Matches(s.Version, h.Package(pkg).Version) {
				stale = append(stale, n)
				break
			}
		}
	}
	if len(stale) == 0 {
		return f, nil
	}
	var lanes []engine.Plan
	for _, n := range stale {
		lanes = append(lanes, engine.Sequence(m.Doer.step(s, n, "etcd.lists", "renew the package lists", engine.Safe, func(ctx context.Context) error {
			return remote.Apt{Host: m.Doer.host(s, n), Log: m.Doer.Log}.UpdateLists(ctx)
		})))
	}
	if err := engine.Run(ctx, engine.Plan{}.ThenParallel(lanes...), m.Observe); err != nil {
		return f, err
	}
	f = Probe(ctx, m.Doer.Fleet, s)
	return f, f.Err()
}

// Preview is the plan that Apply would run now.
func (m *Manager) Preview(ctx context.Context, s Spec, uid string) (engine.Plan, error) {
	f := Probe(ctx, m.Doer.Fleet, s)
	if err := f.Err(); err != nil {
		return engine.Plan{}, err
	}
	if err := m.recognise(ctx, s, f); err != nil {
		return engine.Plan{}, err
	}
	if err := m.filesWrong(s, f); err != nil {
		return engine.Plan{}, err
	}
	m.Doer.votes(s, f)
	m.space(ctx, s, &f)
	m.tryAsk(ctx, s, &f)
	return Plan(s, f, uid, m.Now(), m.Doer)
}

// Observed is what Read found.
type Observed struct {
	// Absent: all hosts answered and nothing of the cluster is on any.
	Absent bool
	UID    string
	// Versions are the versions that run, by member: those of the packages, where
	// these are what runs.
	Versions map[string]string
	// Drift is what an apply would do, a line each.
	Drift []string
	// Warnings are what an apply would not mend by itself, a line each.
	Warnings []string
	// Overdue are certificates that somebody else should have renewed, a line each.
	Overdue []string
	// Unreachable are the hosts that could not be asked.
	Unreachable map[string]error
}

// Observed looks at the cluster and changes nothing.
func (m *Manager) Observed(ctx context.Context, s Spec) (Observed, error) {
	f := Probe(ctx, m.Doer.Fleet, s)
	if err := m.recognise(ctx, s, f); err != nil {
		return Observed{}, err
	}
	o := Observed{UID: f.uid(), Versions: map[string]string{}, Unreachable: f.Errors}
	if o.UID == "" {
		o.UID = s.UID
	}
	o.Absent = len(f.Errors) == 0
	for n, h := range f.Hosts {
		o.Versions[n] = h.Facts.Package(serverPackage).Version
		o.Absent = o.Absent && h.Absent(s)
	}
	if o.Absent || len(f.Errors) > 0 {
		return o, nil
	}
	o.Warnings = f.authorityEnds(s, m.Now())
	o.Overdue = s.endingFiles(f, m.Now())
	if err := m.filesWrong(s, f); err != nil {
		o.Drift = strings.Split(err.Error(), "\n") // a line each
		return o, nil
	}
	m.Doer.votes(s, f)
	m.space(ctx, s, &f)
	m.tryAsk(ctx, s, &f)
	for n, installed := range o.Versions {
		if l := f.Live.at(s.PeerURL(n)); l != nil && l.Version != "" && l.Version != debver.Upstream(installed) {
			o.Versions[n] = l.Version // its turn has not come yet
		}
	}
	// The versions there are count as wanted here: a difference in version
	// is shown as such, not as a step that is refused.
	wanted := s
	versions := slices.Compact(slices.Sorted(valuesOf(o.Versions)))
	if len(versions) == 1 && versions[0] != "" && !debver.Matches(s.Version, versions[0]) {
		wanted.Version = versions[0]
	}
	plan, err := Plan(wanted, f, o.UID, m.Now(), m.Doer)
	if err != nil {
		var p *problem.Error
		if errors.As(err, &p) {
			o.Drift = append(o.Drift, strings.ReplaceAll(p.Error(), "\n", " "))
			return o, nil
		}
		return o, err
	}
	o.Drift = plan.Describe(engine.Safe)
	if f.unmarked() && plan.Risk() == engine.Safe {
		// Nobody has asked for a change yet: the marks and holds come with the
		// first one.
		o.Drift = nil
	}
	return o, nil
}

func valuesOf(m map[string]string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// Destroy stops the cluster for good. Without purge its data, certificates and
// credentials stay on the hosts, so that creating it again takes it up where
// it was.
func (m *Manager) Destroy(ctx context.Context, s Spec, purge bool) error {
	ctx, unlock, err := m.lock(ctx, s)
	if err != nil {
		return err
	}
	defer unlock()
	f := Probe(ctx, m.Doer.Fleet, s)
	if err := f.Err(); err != nil {
		return &problem.Error{
			Step: "look at the cluster's hosts", Cause: err, Left: "the whole cluster, on all hosts.",
			Do: "bring the host back. If it is gone for good: stop etcd on the other hosts, and remove this resource from the state (terraform state rm).",
		}
	}
	if err := m.recognise(ctx, s, f); err != nil {
		return err
	}
	if err := m.unused(ctx, s, f); err != nil {
		return err
	}
	return engine.Run(ctx, DestroyPlan(s, f, purge, m.Doer), m.Observe)
}

// unused makes sure that no Patroni holds its leader key in this etcd.
func (m *Manager) unused(ctx context.Context, s Spec, f Facts) error {
	running := 0
	for _, h := range f.Hosts {
		if h.Facts.Unit(Unit).Running() && (h.Recognised || h.Marker != nil && h.Marker.Cluster == s.Name && h.Marker.Bootstrapped) {
			running++
		}
	}
	if running < Quorum(len(s.Members)) {
		return nil // nothing can be using it
	}
	c, err := m.Doer.client(ctx, s)
	if err != nil {
		return err
	}
	keys, err := c.List(ctx, "/")
	if err != nil {
		return err
	}
	for _, kv := range keys {
		if strings.HasSuffix(kv.Key, "/leader") && kv.Lease != 0 {
			return &problem.Error{
				Step:  "make sure that nothing uses the etcd cluster",
				Cause: fmt.Errorf("a Patroni cluster does: its leader %q holds the key %s", kv.Value, kv.Key),
				Left:  "the whole etcd cluster.",
				Do:    "destroy that Patroni cluster's nodes first, or stop its Patroni.",
			}
		}
	}
	return nil
}

// RoundTrip measures the longest round trip between two members, by how much
// longer a connection from one to the other's peer port takes to be answered
// (or refused) than one to itself. It is zero when nothing answers.
func (m *Manager) RoundTrip(ctx context.Context, s Spec) time.Duration {
	var mu sync.Mutex
	var longest time.Duration
	var wg sync.WaitGroup
	for _, from := range s.Names() {
		wg.Go(func() {
			h := m.Doer.host(s, from)
			own := host.AnswerTime(ctx, h, s.Members[from].Address, s.PeerPort)
			for _, to := range s.Names() {
				if to == from {
					continue
				}
				if there := host.AnswerTime(ctx, h, s.Members[to].Address, s.PeerPort); there > 0 && own > 0 {
					mu.Lock()
					longest = max(longest, there-own)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return longest
}

// goOn plans again and runs that, as long as a plan has brought the replacement of
// the authority to where more can be done at once.
func (m *Manager) goOn(ctx context.Context, s Spec, uid string, plan engine.Plan) error {
	for goesOn(plan) {
		f := Probe(ctx, m.Doer.Fleet, s)
		if err := f.Err(); err != nil {
			return err
		}
		m.Doer.votes(s, f)
		if err := m.ask(ctx, s, &f); err != nil {
			return err
		}
		var err error
		if plan, err = Plan(s, f, uid, m.Now(), m.Doer); err != nil {
			return err
		}
		if err := engine.Run(ctx, plan, m.Observe); err != nil {
			return err
		}
	}
	return nil
}
