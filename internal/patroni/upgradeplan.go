package patroni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Versions are what a node is to run. An empty one is the version that it has.
type Versions struct {
	Postgres, Patroni string
	Extensions        map[string]string // as Node has them
}

// UpgradePlan is what an apply would do to bring a cluster's nodes to other versions,
// if it began now. It is made by what the apply itself goes by.
type UpgradePlan struct {
	Scope string   `json:"scope"`
	Nodes []string `json:"nodes"` // all that the cluster has, by name
	// Leader leads now, and NextLeader when all is done.
	Leader     string        `json:"leader"`
	NextLeader string        `json:"next_leader"`
	Turns      []UpgradeTurn `json:"turns"`
	Steps      []UpgradeStep `json:"steps"`
	// Switchovers is how often the leader's role moves.
	Switchovers int `json:"switchovers"`
	// WriteGaps is how often nobody can write for a moment: at a switchover, or while
	// a leader is restarted where it is.
	WriteGaps int `json:"write_gaps"`
	// Problems are the reasons why the apply would not go through.
	Problems []string `json:"problems"`
	// Hazards are what the versions ask for that no apply does.
	Hazards []string `json:"hazards"`
}

// UpgradeTurn is a node's turn.
type UpgradeTurn struct {
	Order  int    `json:"order"` // from 1
	Node   string `json:"node"`
	Host   string `json:"host"`
	Leads  bool   `json:"leads"`
	Reason string `json:"reason"` // "PostgreSQL 17.11-0+deb13u1 -> 17.12-0+deb13u1"
	// HandsOverTo is who leads afterwards, where the leader's role is moved.
	HandsOverTo string `json:"hands_over_to,omitempty"`
}

// UpgradeStep is one thing that is done.
type UpgradeStep struct {
	Order int    `json:"order"` // from 1
	Node  string `json:"node"`
	Host  string `json:"host"`
	ID    string `json:"id"`
	Title string `json:"title"`
	Risk  string `json:"risk"` // engine.Risk's names
}

// upgrading is what is known of a node that is to be upgraded.
type upgrading struct {
	n Node
	// turn is what it is taken out of service for, stage is done before the turn, and
	// plan in it.
	turn        turn
	stage, plan engine.Plan
	status      *NodeStatus
	has, gets   Versions // without what packagers add
	moves       bool     // a leader hands over for it
	err         error    // why there is no plan
}

// PlanUpgrade looks at all nodes of a cluster side by side and says what an apply
// would do. Want is what a node is to run. A host that cannot be reached is among the
// problems. Nothing is changed.
func (m *Manager) PlanUpgrade(ctx context.Context, c Cluster, want func(node string) Versions) (UpgradePlan, error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return UpgradePlan{}, err
	}
	if err := c.Require(do.Known); err != nil {
		return UpgradePlan{}, err
	}
	names := sortedKeys(do.Known.Nodes)
	nodes := make([]upgrading, len(names))
	var lanes sync.WaitGroup
	for i, name := range names {
		lanes.Go(func() { nodes[i] = m.upgrading(ctx, c, do, name, want(name)) })
	}
	lanes.Wait()
	var view ClusterView
	if len(names) > 0 {
		if view, err = do.viewOf(ctx, Node{Cluster: c, Name: names[0], Target: do.Known.Nodes[names[0]].Target}); err != nil {
			m.Log.WarnContext(ctx, "no member says who is in the cluster", "scope", c.Name(), "error", err)
		}
	}
	if view.Pause && do.pausedByUs(ctx, c) {
		view.Pause = false // what a run that was cut off has left; the apply ends it
	}
	p := planUpgrade(c, do, view, nodes, m.Now())
	for i, text := range p.Problems {
		p.Problems[i] = m.Redact.Apply(text)
	}
	return p, nil
}

// upgrading looks at one node. Each has a Doer of its own: they work side by side.
func (m *Manager) upgrading(ctx context.Context, c Cluster, shared *Doer, name string, want Versions) upgrading {
	r := shared.Known.Nodes[name]
	u := upgrading{n: Node{Cluster: c, Name: name, Address: r.Address, Target: r.Target}}
	fail := func(err error) upgrading {
		if u.err = err; !host.Unreachable(err) { // which names the host itself
			u.err = problem.In(r.Target.Name, "", err)
		}
		return u
	}
	do := &Doer{Fleet: m.Fleet, Log: m.Log, KV: shared.KV, Known: shared.Known, Runner: m.Runner, Redact: m.Redact}
	n, err := m.asItIs(ctx, c, do.Known, name)
	if err != nil {
		return fail(err)
	}
	u.has = Versions{Postgres: debver.Upstream(n.Postgres), Patroni: debver.Upstream(n.Patroni)}
	n.Postgres, n.Patroni, n.Extensions = cmp.Or(want.Postgres, n.Postgres), cmp.Or(want.Patroni, n.Patroni), want.Extensions
	u.n = n
	if from, to := majorOf(u.has.Postgres), n.major(); from != to {
		return fail(&problem.Error{
			Step: "check the way to the wanted version", Cause: fmt.Errorf("the data is in the format of PostgreSQL %d, and %s is wanted: a major version is not changed in place", from, n.Postgres),
			Do: fmt.Sprintf("stay with a version of %d.", from),
		})
	}
	p, err := m.previewer(ctx, n, do)
	if err != nil {
		return fail(err)
	}
	if u.status = p.f.Status; u.status != nil {
		if why, err := do.broken(ctx, n, *u.status); err == nil && why != "" {
			return fail(unannounced(n, why))
		}
	}
	if u.turn, err = p.turn(); err != nil {
		return fail(err)
	}
	u.gets = Versions{Postgres: u.turn.wantPostgres, Patroni: u.turn.wantPatroni}
	u.moves = p.leads() && p.moves(u.turn)
	if u.turn.needed() {
		u.stage = p.stage(u.turn)
		p.staged = true
	}
	if u.plan, err = p.plan(); err != nil {
		return fail(err)
	}
	return u
}

// asItIs is a node as it is now: what an apply would have to be told to change nothing.
func (m *Manager) asItIs(ctx context.Context, c Cluster, k Known, name string) (Node, error) {
	r := k.Nodes[name]
	n, file, err := m.find(ctx, c, k, name, etcd.Member{Address: r.Address, Target: r.Target})
	if err != nil {
		return n, err
	}
	if !c.Adopted() {
		// Tags that say nothing are in our file if the configuration has them.
		n.Tags = file.file.Tags
	}
	return n, nil
}

func majorOf(version string) int {
	major, err := postgres.Major(version)
	if err != nil {
		return 0
	}
	return major
}

// planUpgrade puts the nodes' plans into the order in which the queue lets them have
// their turns. It is pure; of do only what it knows is used.
func planUpgrade(c Cluster, do *Doer, view ClusterView, nodes []upgrading, now time.Time) UpgradePlan {
	k := do.Known
	p := UpgradePlan{Scope: c.Name(), Nodes: append([]string{}, sortedKeys(k.Nodes)...), Leader: k.Leader, NextLeader: k.Leader, Turns: []UpgradeTurn{}, Steps: []UpgradeStep{}, Problems: []string{}, Hazards: []string{}}
	p.refuse(clusterProblems(c, k, view, nodes, now)...)
	var turns []upgrading
	for _, u := range nodes {
		switch {
		case u.err != nil:
			p.refuse(u.err)
		case u.turn.needed():
			turns = append(turns, u)
		default: // it waits for nobody
			p.add(u.n, u.plan)
		}
	}
	slices.SortStableFunc(turns, func(a, b upgrading) int {
		return cmp.Or(rankIn(a.n.Name, view)-rankIn(b.n.Name, view), strings.Compare(a.n.Name, b.n.Name))
	})
	for _, u := range turns {
		p.add(u.n, u.stage)
	}
	statuses := map[string]NodeStatus{}
	for _, u := range nodes {
		if u.status != nil {
			statuses[u.n.Name] = *u.status
		}
	}
	waits := map[string][]string{}
	for i, u := range turns {
		t := UpgradeTurn{Order: i + 1, Node: u.n.Name, Host: u.n.Target.Name, Leads: u.n.Name == k.Leader, Reason: u.turn.String()}
		if len(view.Members) > 0 {
			f := k.fit(u.n, view, u.turn)
			p.refuse(f.never, do.strict(u.n, view))
			if f.waits != "" {
				waits[f.waits] = append(waits[f.waits], u.n.Name)
			}
		}
		if u.moves {
			t.HandsOverTo = target(u.n, k.allCounted(view), statuses, u.turn, k)
			p.hand(u, t.HandsOverTo, k.rollout())
		}
		p.Turns = append(p.Turns, t)
		p.add(u.n, u.plan)
		statuses[u.n.Name] = u.turn.done()
	}
	for _, why := range sortedKeys(waits) {
		p.problem(fmt.Sprintf("the turns of %s would wait, and be given up after %s (rollout.patience): %s", strings.Join(waits[why], ", "), k.rollout().Patience, why))
	}
	p.hazards(nodes)
	return p
}

// clusterProblems are those that no node's turn begins with.
func clusterProblems(c Cluster, k Known, view ClusterView, nodes []upgrading, now time.Time) []error {
	var errs []error
	if k.Next != nil {
		errs = append(errs, unfinished(Node{Cluster: c}))
	}
	if k.Restored != "" {
		errs = append(errs, uncompared(Node{Cluster: c}, k.Restored))
	}
	if len(nodes) == 0 {
		errs = append(errs, fmt.Errorf("etcd %s has a note of no node of %s", c.Etcd.Name, c.Name()))
	} else if len(view.Members) == 0 {
		errs = append(errs, fmt.Errorf("no member of %s says who is in the cluster", c.Name()))
	}
	if slices.ContainsFunc(nodes, func(u upgrading) bool { return u.err == nil && u.turn.needed() }) {
		errs = append(errs, k.rollout().check(now, ""))
	}
	return errs
}

// hand is the leader's turn.
func (p *UpgradePlan) hand(u upgrading, to string, r Rollout) {
	switch {
	case r.Manual:
		p.Switchovers, p.WriteGaps = p.Switchovers+1, p.WriteGaps+1
		p.problem(fmt.Sprintf("%s leads, and rollout.switchover is \"manual\": its turn is refused until somebody has switched over", u.n.Name))
	case to != "":
		p.Switchovers, p.WriteGaps = p.Switchovers+1, p.WriteGaps+1
		p.NextLeader = to
	case r.AllowDowntime:
		p.WriteGaps++
	default:
		p.problem(fmt.Sprintf("%s leads, and no other member can take over", u.n.Name))
	}
}

// done is what the node says of itself after its turn, as far as others go by it.
func (t turn) done() NodeStatus {
	var major, minor int
	_, _ = fmt.Sscanf(t.wantPostgres, "%d.%d", &major, &minor)
	st := NodeStatus{State: "running", ServerVersion: major*10000 + minor}
	st.Patroni.Version = t.wantPatroni
	return st
}

// add appends a plan's steps.
func (p *UpgradePlan) add(n Node, plan engine.Plan) {
	for _, s := range plan.Steps() {
		p.Steps = append(p.Steps, UpgradeStep{Order: len(p.Steps) + 1, Node: n.Name, Host: s.Host, ID: s.ID, Title: s.Title, Risk: s.Risk.String()})
	}
}

// refuse appends errors to the problems.
func (p *UpgradePlan) refuse(errs ...error) {
	for _, err := range errs {
		if err == nil {
			continue
		}
		if parts := problem.Parts(err); len(parts) > 0 {
			p.refuse(parts...)
			continue
		}
		text := strings.ReplaceAll(err.Error(), "\n", " ")
		var known *problem.Error
		if errors.As(err, &known) && known.Do != "" {
			text += ". What to do: " + known.Do
		}
		p.problem(text)
	}
}

func (p *UpgradePlan) problem(text string) {
	if !slices.Contains(p.Problems, text) {
		p.Problems = append(p.Problems, text)
	}
}

// hazards collects those of all ways that nodes go.
func (p *UpgradePlan) hazards(nodes []upgrading) {
	add := func(text string) {
		if !slices.Contains(p.Hazards, text) {
			p.Hazards = append(p.Hazards, text)
		}
	}
	for _, u := range nodes {
		if u.err != nil {
			continue
		}
		for _, h := range postgres.Hazards(u.has.Postgres, u.gets.Postgres) {
			add(h.String())
		}
		for _, text := range patroniHazards(u.has.Patroni, u.gets.Patroni) {
			add(text)
		}
		for _, text := range u.turn.hazards() {
			add(text)
		}
	}
}
