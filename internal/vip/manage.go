package vip

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/follow"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// Manager brings virtual addresses to what their specs say.
type Manager struct {
	follow.Manager
}

// New makes one of a manager of Patroni clusters.
func New(m *patroni.Manager) Manager { return Manager{follow.Manager{Manager: m}} }

// noted is the spec, for whoever takes it up without a state.
type noted struct {
	Address       string `json:"address"` // with the prefix length
	Interface     string `json:"interface,omitempty"`
	StandbyLeader bool   `json:"standby_leader,omitempty"`
	Version       string `json:"version"`
}

func (s Spec) noted() noted {
	return noted{s.Address.String(), s.Interface, s.StandbyLeader, s.Version}
}

// Find is the spec of an address that etcd has noted.
func (m Manager) Find(ctx context.Context, c patroni.Cluster, a netip.Addr) (Spec, error) {
	s := Spec{Cluster: c, Address: netip.PrefixFrom(a, a.BitLen())}
	n, err := m.Note(ctx, s.agent())
	if err != nil {
		return s, err
	}
	if n == nil {
		return s, &problem.Error{
			Step: "look the address up in etcd", Cause: fmt.Errorf("%s has no virtual address %s that this provider has set up", c.Name(), a), Left: "everything.",
			Do: "to have it, create the resource: there is nothing to import.",
		}
	}
	var was noted
	if err := json.Unmarshal(n.Spec, &was); err != nil {
		return s, err
	}
	s.Address, err = netip.ParsePrefix(was.Address)
	s.Interface, s.StandbyLeader, s.Version, s.Nodes = was.Interface, was.StandbyLeader, was.Version, follow.Sorted(n.Nodes)
	return s, err
}

// view is what there is of an address on all hosts.
type view struct {
	follow.Seen
	looks map[string]Look
}

// see looks at all hosts, and refuses an address that they cannot have.
func (m Manager) see(ctx context.Context, s Spec, purpose follow.Purpose) (v view, err error) {
	if v.Seen, err = m.See(ctx, s.agent(), s.Nodes, purpose); err != nil {
		return v, err
	}
	if v.looks, err = m.looks(ctx, s, v.Nodes); err != nil {
		return v, err
	}
	for _, name := range follow.Sorted(v.Nodes) {
		if err := s.fits(v.Nodes[name], v.Facts[name], v.looks[name]); err != nil {
			return v, err
		}
	}
	return v, nil
}

func (m Manager) looks(ctx context.Context, s Spec, nodes map[string]follow.Node) (map[string]Look, error) {
	return follow.Everywhere(nodes, func(n follow.Node) (Look, error) { return s.look(ctx, m.Fleet.Host(n.Target)) })
}

// plan has the node that has the address come last.
func (m Manager) plan(s Spec, v view) (engine.Plan, error) {
	files := map[string]follow.Files{}
	for name := range v.Nodes {
		files[name] = s.files(v.Known, name, v.looks[name].Subnet.Interface)
	}
	return m.Plan(v.Seen, files, func(name string) bool { return len(v.looks[name].Here) > 0 })
}

// Check refuses an address that the nodes' hosts cannot have, and changes nothing.
func (m Manager) Check(ctx context.Context, s Spec) error {
	v, err := m.see(ctx, s, follow.ToPlan)
	if err != nil {
		return err
	}
	return s.taken(v.looks)
}

// Apply brings an address to what the spec says: the same for a new one, one whose
// creation was cut off, and one that drifted.
func (m Manager) Apply(ctx context.Context, s Spec) error {
	ctx, done, err := m.Lock(ctx, s.agent(), "setting up")
	if err != nil {
		return err
	}
	defer done()
	v, err := m.see(ctx, s, follow.ToApply)
	if err != nil {
		return err
	}
	if err := s.taken(v.looks); err != nil {
		return err
	}
	plan, err := m.plan(s, v)
	if err != nil {
		return err
	}
	return m.Run(ctx, v.Seen, s.noted(), plan, engine.Step{ID: "vip.verify", Title: "see that " + s.Address.Addr().String() + " is where it should be", Do: func(ctx context.Context) error {
		return m.verify(ctx, s, v.Nodes)
	}})
}

// settling is how long the address may take to be where it should be: a failover that is
// under way, and what Patroni takes for it.
const settling = 90 * time.Second

// leader is the node that is to have the address, empty if none is: no leader, or one of the
// other kind.
func (s Spec) leader(k patroni.Known) string {
	if _, standby := k.Config["standby_cluster"]; standby != s.StandbyLeader {
		return ""
	}
	return k.Leader
}

// verify waits until one node has the address, which is the leader, and a connection to it
// from another host reaches that node's server.
func (m Manager) verify(ctx context.Context, s Spec, nodes map[string]follow.Node) error {
	bounded, cancel := context.WithTimeoutCause(ctx, settling, fmt.Errorf("%s is not where it should be after %s", s.Address.Addr(), settling))
	defer cancel()
	err := wait.Until(bounded, m.Log, s.Name()+" to be on the leader alone", time.Second, func(ctx context.Context) (bool, string, error) {
		wrong, leader, k, err := m.compare(ctx, s, nodes)
		if err != nil || len(wrong) > 0 {
			return false, strings.Join(wrong, "; "), err
		}
		if leader == "" {
			return true, "", nil
		}
		return true, "", m.through(ctx, s, nodes, leader, k)
	})
	if err != nil {
		return problem.Fill(err, problem.Error{
			Step: "see that " + s.Address.Addr().String() + " is where it should be", Left: "what was set up, on all nodes.",
			Do: "see what the guards say (journalctl -u " + s.agent().Unit() + " on each node), mend it, and apply again.",
		})
	}
	return nil
}

// compare looks at who leads, and then at all nodes at once.
func (m Manager) compare(ctx context.Context, s Spec, nodes map[string]follow.Node) (wrong []string, leader string, k patroni.Known, err error) {
	if k, err = m.Known(ctx, s.Cluster); err != nil {
		return nil, "", k, err
	}
	looks, err := m.looks(ctx, s, nodes)
	return s.wrong(s.leader(k), looks), s.leader(k), k, err
}

// Observed is what Read found.
type Observed struct {
	Absent bool
	Drift  []string
}

// moving is how long what is on its way from one node to another is given to arrive,
// before a read says that it is missing.
const moving = 8 * time.Second

// Observe looks at an address and changes nothing.
func (m Manager) Observe(ctx context.Context, s Spec) (o Observed, err error) {
	v, err := m.see(ctx, s, follow.ToRead)
	if err != nil {
		o.Absent, o.Drift, err = follow.Observable(err)
		return o, err
	}
	if o.Absent = v.Absent(); o.Absent {
		return o, nil
	}
	plan, err := m.plan(s, v)
	if err != nil {
		return o, err
	}
	o.Drift = plan.Describe(engine.Safe)
	wrong := s.wrong(s.leader(v.Known), v.looks)
	for end := time.Now().Add(moving); len(wrong) > 0 && len(o.Drift) == 0 && time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return o, ctx.Err()
		case <-time.After(time.Second):
		}
		if wrong, _, _, err = m.compare(ctx, s, v.Nodes); err != nil {
			return o, err
		}
	}
	o.Drift = append(o.Drift, wrong...)
	return o, nil
}

// Destroy takes the address off all hosts that may have it.
func (m Manager) Destroy(ctx context.Context, s Spec) error {
	return m.Manager.Destroy(ctx, s.agent(), s.Nodes, nil)
}
