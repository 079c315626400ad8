package patroni

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// toBeUpgraded is a node that goes from 17.10 and Patroni 4.0.7 to 17.11.
func toBeUpgraded(name string, leads bool) upgrading {
	n := Node{Cluster: Cluster{Scope: "main"}, Name: name, Target: host.Target{Name: "host-" + name}, Postgres: "17.11", Patroni: "4.0.7"}
	t := turn{postgres: true, patroni: true, why: []string{"PostgreSQL 17.10 -> 17.11"}, wantPostgres: "17.11", wantPatroni: "4.0.7"}
	st := NodeStatus{State: "running", ServerVersion: 170010}
	st.Patroni.Version = "4.0.7"
	step := func(id string, risk engine.Risk) engine.Step {
		return engine.Step{ID: id, Host: n.Target.Name, Title: id, Risk: risk, Do: func(context.Context) error { return nil }}
	}
	plan := engine.Sequence(step("gate", engine.Safe))
	if leads {
		plan = plan.Then(step("switchover", engine.Switchover))
	}
	return upgrading{
		n: n, turn: t, moves: leads, status: &st, has: Versions{Postgres: "17.10", Patroni: "4.0.7"}, gets: Versions{Postgres: "17.11", Patroni: "4.0.7"},
		stage: engine.Sequence(step("stage", engine.Safe)), plan: plan.Then(step("restart", engine.Restart)),
	}
}

// The plan has the order of the queue and the successor of the switchover, and names
// what would keep it from going.
func TestPlanUpgrade(t *testing.T) {
	monday := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		known     func(*Known)
		view      func(*ClusterView)
		nodes     func([]upgrading) []upgrading
		order     string // nodes, in order
		next      string
		switches  int
		gaps      int
		problems  []string // a part of each
		noHazards bool
	}{
		"well":            {order: "pg3 pg2 pg1", next: "pg2", switches: 1, gaps: 1},
		"one is not well": {view: func(v *ClusterView) { v.Members[1].State = "start failed" }, order: "pg2 pg3 pg1", next: "pg3", switches: 1, gaps: 1, problems: []string{"turns of pg3, pg1 would wait, and be given up after 2m0s (rollout.patience): pg2 is start failed"}},
		"synchronous":     {known: func(k *Known) { k.Config = Document{"synchronous_mode": "on"} }, order: "pg3 pg2 pg1", next: "pg2", switches: 1, gaps: 1},
		"with an upstream": {view: func(v *ClusterView) {
			v.Members[1].Role = "replica"
			v.Members[2].Tags = map[string]any{"replicatefrom": "pg2"}
		}, order: "pg3 pg2 pg1", next: "pg2", switches: 1, gaps: 1},
		"equals, by their name": {view: func(v *ClusterView) { v.Members[1].Role = "replica" }, order: "pg2 pg3 pg1", next: "pg2", switches: 1, gaps: 1},
		"paused":                {view: func(v *ClusterView) { v.Pause = true }, order: "pg3 pg2 pg1", next: "pg2", switches: 1, gaps: 1, problems: []string{"is paused"}},
		"by hand": {
			known: func(k *Known) { r := DefaultRollout(); r.Manual = true; k.Record.Rollout = &r },
			order: "pg3 pg2 pg1", next: "pg1", switches: 1, gaps: 1, problems: []string{`rollout.switchover is "manual"`},
		},
		"the window is closed": {
			known: func(k *Known) {
				r := DefaultRollout()
				r.Window = &Window{Days: []time.Weekday{time.Sunday}, From: 60, To: 120, Zone: "UTC"}
				k.Record.Rollout = &r
			},
			order: "pg3 pg2 pg1", next: "pg2", switches: 1, gaps: 1, problems: []string{"Sun from 01:00 to 02:00 (UTC)"},
		},
		"alone": {
			known: func(k *Known) { k.Nodes = map[string]NodeRecord{"pg1": {}} }, view: func(v *ClusterView) { v.Members = v.Members[:1] },
			nodes: func(l []upgrading) []upgrading { return l[:1] },
			order: "pg1", next: "pg1", problems: []string{"no other replica of main could take over", "pg1 leads, and no other member can take over"},
		},
		"alone, and downtime is allowed": {
			known: func(k *Known) {
				k.Nodes = map[string]NodeRecord{"pg1": {}}
				r := DefaultRollout()
				r.AllowDowntime = true
				k.Record.Rollout = &r
			},
			view:  func(v *ClusterView) { v.Members = v.Members[:1] },
			nodes: func(l []upgrading) []upgrading { return l[:1] },
			order: "pg1", next: "pg1", gaps: 1,
		},
		"a host is away": {
			view: func(v *ClusterView) { v.Members = v.Members[:2] },
			nodes: func(l []upgrading) []upgrading {
				l[2] = upgrading{n: l[2].n, err: errors.New("no route to host")}
				return l
			},
			order: "pg2 pg1", next: "pg2", switches: 1, gaps: 1, problems: []string{"no route to host", "pg3 is down"},
		},
		"nobody answers": {
			view:  func(v *ClusterView) { v.Members = nil },
			order: "pg1 pg2 pg3", next: "pg1", problems: []string{"no member of main says", "pg1 leads, and no other member can take over"},
		},
		"passwords are being changed": {known: func(k *Known) { k.Next = &Secrets{} }, order: "pg3 pg2 pg1", next: "pg2", switches: 1, gaps: 1, problems: []string{"a change of the passwords"}},
		"etcd was restored":           {known: func(k *Known) { k.Restored = "a snapshot" }, order: "pg3 pg2 pg1", next: "pg2", switches: 1, gaps: 1, problems: []string{"has not been compared"}},
		"nothing to do": {
			nodes: func(l []upgrading) []upgrading {
				for i := range l {
					l[i].turn, l[i].moves, l[i].stage, l[i].plan, l[i].gets = turn{}, false, engine.Plan{}, engine.Plan{}, l[i].has
				}
				return l
			},
			next: "pg1", noHazards: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			k, v := seenBy(nil), seen()
			k.Leader = "pg1"
			if c.known != nil {
				c.known(&k)
			}
			if c.view != nil {
				c.view(&v)
			}
			nodes := []upgrading{toBeUpgraded("pg1", true), toBeUpgraded("pg2", false), toBeUpgraded("pg3", false)}
			if c.nodes != nil {
				nodes = c.nodes(nodes)
			}
			p := planUpgrade(Cluster{Scope: "main"}, &Doer{Known: k}, v, nodes, monday)
			var order, stages []string
			for i, turn := range p.Turns {
				order = append(order, turn.Node)
				if turn.Order != i+1 || turn.Leads != (turn.Node == "pg1") {
					t.Errorf("%+v", turn)
				}
			}
			for i, s := range p.Steps {
				if s.Order != i+1 || s.Host != "host-"+s.Node {
					t.Errorf("%+v", s)
				}
				if s.ID == "stage" {
					stages = append(stages, s.Node)
				}
			}
			if got := strings.Join(order, " "); got != c.order || !slices.Equal(stages, order) {
				t.Errorf("the order is %s and that of the stages %v, want %s", got, stages, c.order)
			}
			if p.NextLeader != c.next || p.Switchovers != c.switches || p.WriteGaps != c.gaps {
				t.Errorf("%s leads next, with %d switchovers and %d gaps; want %s, %d, %d", p.NextLeader, p.Switchovers, p.WriteGaps, c.next, c.switches, c.gaps)
			}
			if len(p.Problems) != len(c.problems) {
				t.Errorf("problems: %q, want %q", p.Problems, c.problems)
			}
			for _, want := range c.problems {
				if !slices.ContainsFunc(p.Problems, func(s string) bool { return strings.Contains(s, want) }) {
					t.Errorf("no problem says %q: %q", want, p.Problems)
				}
			}
			if (len(p.Hazards) == 0) != c.noHazards {
				t.Errorf("hazards: %q", p.Hazards)
			}
			table := p.Table()
			for _, text := range append(slices.Clone(p.Problems), p.Hazards...) {
				if !strings.Contains(table, "- "+text+"\n") {
					t.Errorf("the table does not say %q:\n%s", text, table)
				}
			}
		})
	}
}

// What is handed over to is one that was upgraded before, though another one is nearer.
func TestPlanUpgradeOfSome(t *testing.T) {
	k, v := seenBy(nil), seen()
	k.Leader = "pg1"
	nodes := []upgrading{toBeUpgraded("pg1", true), toBeUpgraded("pg2", false), toBeUpgraded("pg3", false)}
	nodes[1].turn, nodes[1].stage, nodes[1].plan, nodes[1].gets = turn{}, engine.Plan{}, engine.Plan{}, nodes[1].has
	p := planUpgrade(Cluster{Scope: "main"}, &Doer{Known: k}, v, nodes, time.Now())
	if p.NextLeader != "pg3" || len(p.Turns) != 2 {
		t.Errorf("%s leads next, %+v", p.NextLeader, p.Turns)
	}
}

func TestPatroniHazards(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     []string
	}{
		{"4.0.7", "4.0.7", nil}, {"4.0.6", "4.0.7", nil}, {"3.3.1", "4.0.7", []string{"4.0.0"}}, {"4.0.7", "4.1.5", []string{"4.1.0", "4.1.1"}},
		{"4.1.0", "4.1.1", []string{"4.1.1"}}, {"4.1.5", "4.0.7", []string{"4.1.5", "4.1.1"}}, {"4.1.5", "4.1.4", []string{"4.1.5"}}, {"", "4.1.5", nil},
	} {
		got := patroniHazards(c.from, c.to)
		ok := len(got) == len(c.want)
		for i := range c.want {
			ok = ok && strings.HasPrefix(got[i], "Patroni "+c.want[i]+": ")
		}
		if !ok {
			t.Errorf("from %s to %s: %q, want %v", c.from, c.to, got, c.want)
		}
	}
}

// Who leads after a switchover that somebody asks for, and why it is refused.
func TestChosen(t *testing.T) {
	for name, c := range map[string]struct {
		to    string
		known func(*Known)
		view  func(*ClusterView)
		want  string
		says  string
	}{
		"the best":              {want: "pg2"},
		"the one that is named": {to: "pg3", want: "pg3"},
		"a stranger":            {to: "pg9", says: `no node "pg9"`},
		"paused":                {view: func(v *ClusterView) { v.Pause = true }, says: "paused"},
		"no leader":             {view: func(v *ClusterView) { v.Members[0].Role = "replica" }, says: "no leader"},
		"the leader starts":     {view: func(v *ClusterView) { v.Members[0].State = "starting" }, says: "pg1, which leads, is starting"},
		"another one is down":   {to: "pg2", view: func(v *ClusterView) { v.Members = v.Members[:2] }, says: "pg3 is down"},
		"the named one is down": {to: "pg3", view: func(v *ClusterView) { v.Members = v.Members[:2] }, says: "pg3 is down"},
		"the named one lags":    {to: "pg3", view: func(v *ClusterView) { v.Members[2].Lag = json.RawMessage("999999999") }, says: "pg3 is 953 MiB behind"},
		"the named one may not": {to: "pg3", view: func(v *ClusterView) { v.Members[2].Tags = map[string]any{"nofailover": true} }, says: "pg3 may not lead"},
		"nobody may": {view: func(v *ClusterView) {
			v.Members[1].Tags = map[string]any{"nofailover": true}
			v.Members[2].Tags = v.Members[1].Tags
		}, says: "no other replica"},
		"the named one is not in sync": {to: "pg3", known: func(k *Known) { k.Config = Document{"synchronous_mode": "on"} }, says: "pg3 is not synchronous"},
		"the named one is in sync":     {to: "pg2", known: func(k *Known) { k.Config = Document{"synchronous_mode": "on"} }, want: "pg2"},
		"with a quorum, not counted":   {to: "pg3", known: func(k *Known) { k.Config = Document{"synchronous_mode": "quorum"} }, says: "pg3 is not synchronous"},
		"with a quorum, counted": {
			to: "pg3", known: func(k *Known) { k.Config = Document{"synchronous_mode": "quorum"} },
			view: func(v *ClusterView) { v.Members[2].Role = "quorum_standby" }, want: "pg3",
		},
		"alone, with downtime allowed": {
			known: func(k *Known) {
				k.Nodes = map[string]NodeRecord{"pg1": {}}
				k.Record.Rollout = &Rollout{AllowDowntime: true}
			},
			view: func(v *ClusterView) { v.Members = v.Members[:1] }, says: "no other member can take over",
		},
	} {
		t.Run(name, func(t *testing.T) {
			k, v := seenBy(nil), seen()
			if c.known != nil {
				c.known(&k)
			}
			if c.view != nil {
				c.view(&v)
			}
			n, to, err := (&Doer{Known: k}).chosen(Cluster{Scope: "main"}, v, c.to)
			said := ""
			if err != nil {
				said = err.Error()
			}
			if to != c.want || !strings.Contains(said, c.says) || (err == nil) != (c.says == "") || err == nil && n.Name != "pg1" {
				t.Errorf("from %s to %q, %s; want %q, %q", n.Name, to, said, c.want, c.says)
			}
		})
	}
}

// Which replicas the cluster can do without while they are cloned.
func TestSpare(t *testing.T) {
	sync := func(k *Known) { k.Config = Document{"synchronous_mode": "on"} }
	for name, c := range map[string]struct {
		node  string
		known func(*Known)
		view  func(*ClusterView)
		says  string
	}{
		"a replica":                         {node: "pg3"},
		"a replica that is broken":          {node: "pg3", view: func(v *ClusterView) { v.Members[2].State = "start failed" }},
		"the leader":                        {node: "pg1", says: "pg1 leads"},
		"no leader":                         {node: "pg3", view: func(v *ClusterView) { v.Members[0].Role = "replica" }, says: "no leader to clone from"},
		"a leader that starts":              {node: "pg3", view: func(v *ClusterView) { v.Members[0].State = "starting" }, says: "is starting"},
		"the only other one, asynchronous":  {node: "pg3", view: func(v *ClusterView) { v.Members[1].State = "stopped" }},
		"synchronous":                       {node: "pg2", known: sync},
		"the last one that is well":         {node: "pg2", known: sync, view: func(v *ClusterView) { v.Members[2].State = "stopped" }, says: "no replica of main is well"},
		"the last one that may be":          {node: "pg2", known: sync, view: func(v *ClusterView) { v.Members[2].Tags = map[string]any{"nosync": true} }, says: "no replica of main is well"},
		"synchronous mode is off in a word": {node: "pg2", known: func(k *Known) { k.Config = Document{"synchronous_mode": "off"} }, view: func(v *ClusterView) { v.Members[2].State = "stopped" }},
	} {
		t.Run(name, func(t *testing.T) {
			k, v := seenBy(nil), seen()
			if c.known != nil {
				c.known(&k)
			}
			if c.view != nil {
				c.view(&v)
			}
			err := (&Doer{Known: k}).spare(Node{Name: c.node, Cluster: Cluster{Scope: "main"}}, v)
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}
