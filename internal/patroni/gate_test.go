package patroni

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
)

// seen is a cluster of three, of which pg1 leads and pg2 is synchronous.
func seen() ClusterView {
	return ClusterView{Members: []ClusterMember{
		{Name: "pg1", Role: "leader", State: "running", Timeline: 3},
		{Name: "pg2", Role: "sync_standby", State: "streaming", Timeline: 3, Lag: json.RawMessage("0")},
		{Name: "pg3", Role: "replica", State: "streaming", Timeline: 3, Lag: json.RawMessage("1024")},
	}}
}

func seenBy(mode any) Known {
	k := Known{Nodes: map[string]NodeRecord{"pg1": {}, "pg2": {}, "pg3": {}}, Record: &Record{}}
	if mode != nil {
		k.Config = Document{"synchronous_mode": mode}
	}
	return k
}

// A node's turn waits for what may pass, and is refused for what will not.
func TestFit(t *testing.T) {
	for name, c := range map[string]struct {
		node  string
		known func(*Known)
		view  func(*ClusterView)
		waits string
		never string
	}{
		"a replica":                  {node: "pg3"},
		"the leader":                 {node: "pg1"},
		"one that is down itself":    {node: "pg3", view: func(v *ClusterView) { v.Members[2].State = "start failed" }},
		"one that is away itself":    {node: "pg3", view: func(v *ClusterView) { v.Members = v.Members[:2] }},
		"paused":                     {node: "pg3", view: func(v *ClusterView) { v.Pause = true }, never: "paused"},
		"no leader":                  {node: "pg3", view: func(v *ClusterView) { v.Members[0].Role = "replica" }, waits: "no leader"},
		"a leader that starts":       {node: "pg3", view: func(v *ClusterView) { v.Members[0].State = "starting" }, waits: "pg1"},
		"another one is down":        {node: "pg3", view: func(v *ClusterView) { v.Members[1].State = "stopped" }, waits: "pg2 is stopped"},
		"another one is away":        {node: "pg2", view: func(v *ClusterView) { v.Members = v.Members[:2] }, waits: "pg3 is down"},
		"another one lags":           {node: "pg2", view: func(v *ClusterView) { v.Members[2].Lag = json.RawMessage("33554432") }, waits: "pg3 is 32 MiB behind"},
		"another one, how far":       {node: "pg2", view: func(v *ClusterView) { v.Members[2].Lag = json.RawMessage(`"unknown"`) }, waits: "nobody knows how far pg3 is behind"},
		"more lag is allowed":        {node: "pg2", known: func(k *Known) { k.Record.Rollout = &Rollout{MaxLag: 64 << 20} }, view: func(v *ClusterView) { v.Members[2].Lag = json.RawMessage("33554432") }},
		"another timeline":           {node: "pg2", view: func(v *ClusterView) { v.Members[2].Timeline = 2 }, waits: "pg3 is on timeline 2"},
		"nobody else may lead":       {node: "pg3", view: func(v *ClusterView) { v.Members[1].Tags = map[string]any{"nofailover": true} }, never: "no other replica of"},
		"downtime is allowed":        {node: "pg3", known: func(k *Known) { k.Record.Rollout = &Rollout{AllowDowntime: true, MaxLag: 4096} }, view: func(v *ClusterView) { v.Members[1].Tags = map[string]any{"nofailover": true} }},
		"nobody is synchronous":      {node: "pg3", known: func(k *Known) { k.Config = Document{"synchronous_mode": true} }, view: func(v *ClusterView) { v.Members[1].Role = "replica" }, waits: "no synchronous replica"},
		"a quorum":                   {node: "pg3", known: func(k *Known) { k.Config = Document{"synchronous_mode": "quorum"} }, view: func(v *ClusterView) { v.Members[1].Role = "quorum_standby" }},
		"nobody is, nor is it asked": {node: "pg3", known: func(k *Known) { k.Config = Document{"synchronous_mode": "off"} }, view: func(v *ClusterView) { v.Members[1].Role = "replica" }},
	} {
		t.Run(name, func(t *testing.T) {
			k, v := seenBy(nil), seen()
			if c.known != nil {
				c.known(&k)
			}
			if c.view != nil {
				c.view(&v)
			}
			f := k.fit(Node{Name: c.node, Cluster: Cluster{Scope: "main"}}, v, turn{postgres: true})
			if !strings.Contains(f.waits, c.waits) || (f.waits == "") != (c.waits == "") {
				t.Errorf("it waits for %q, and not for %q", f.waits, c.waits)
			}
			if said := fmt.Sprint(f.never); (f.never == nil) != (c.never == "") || c.never != "" && !strings.Contains(said, c.never) {
				t.Errorf("it is refused with %s, and not with %q", said, c.never)
			}
		})
	}
}

// Those that are not well come first, the leader last.
func TestRank(t *testing.T) {
	v := seen()
	v.Members = append(v.Members,
		ClusterMember{Name: "pg4", Role: "replica", State: "start failed"},
		ClusterMember{Name: "pg5", Role: "replica", State: "streaming", Tags: map[string]any{"replicatefrom": "pg3"}})
	order := []string{"pg1", "pg2", "pg3", "pg4", "pg5"}
	slices.SortStableFunc(order, func(a, b string) int { return rankIn(a, v) - rankIn(b, v) })
	if want := []string{"pg4", "pg5", "pg3", "pg2", "pg1"}; !slices.Equal(order, want) {
		t.Errorf("the order is %v, and not %v", order, want)
	}
	if rankIn("pg9", v) != 0 {
		t.Error("one that is away does not come first")
	}
}

// Who leads next: one that was upgraded, if Patroni and max_lag let it.
func TestTarget(t *testing.T) {
	turn := turn{wantPostgres: "17.12", wantPatroni: "4.0.7"}
	runs := func(version int) NodeStatus {
		s := NodeStatus{ServerVersion: version}
		s.Patroni.Version = "4.0.7"
		return s
	}
	for name, c := range map[string]struct {
		mode     any
		upgraded []string
		view     func(*ClusterView)
		want     string
	}{
		"the upgraded one":                     {upgraded: []string{"pg3"}, want: "pg3"},
		"both upgraded: the synchronous one":   {upgraded: []string{"pg2", "pg3"}, want: "pg2"},
		"none upgraded":                        {want: "pg2"},
		"only a synchronous one may":           {mode: true, upgraded: []string{"pg3"}, want: "pg2"},
		"with a quorum, who is counted":        {mode: "quorum", upgraded: []string{"pg3"}, view: func(v *ClusterView) { v.Members[2].Role = "quorum_standby" }, want: "pg3"},
		"not who is not counted":               {mode: "quorum", upgraded: []string{"pg3"}, want: "pg2"},
		"the upgraded one lags":                {upgraded: []string{"pg3"}, view: func(v *ClusterView) { v.Members[2].Lag = json.RawMessage("999999999") }, want: "pg2"},
		"the upgraded one may not":             {upgraded: []string{"pg3"}, view: func(v *ClusterView) { v.Members[2].Tags = map[string]any{"failover_priority": 0} }, want: "pg2"},
		"nobody may":                           {mode: true, view: func(v *ClusterView) { v.Members[1].Role = "replica" }, want: ""},
		"nobody is there":                      {view: func(v *ClusterView) { v.Members = v.Members[:1] }, want: ""},
		"the synchronous one is on its way up": {mode: "on", view: func(v *ClusterView) { v.Members[1].State = "starting" }, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := seen()
			if c.view != nil {
				c.view(&v)
			}
			statuses := map[string]NodeStatus{"pg2": runs(170011), "pg3": runs(170011)}
			for _, n := range c.upgraded {
				statuses[n] = runs(170012)
			}
			if got := target(Node{Name: "pg1"}, v, statuses, turn, seenBy(c.mode)); got != c.want {
				t.Errorf("%q leads next, and not %q", got, c.want)
			}
		})
	}
}

// Which versions of Patroni can be in one cluster.
func TestCrossing(t *testing.T) {
	for _, c := range []struct {
		from, to string
		ok       bool
	}{{"4.0.7-3~deb13u1", "4.1.5-2", true}, {"4.1.5-2", "4.0.7-3~deb13u1", true}, {"3.0.2-1", "4.0.7-3", false}, {"3.0.2-1", "3.3.1-1", true}, {"3.3.1-1", "4.0.7-3", true}, {"4.0.7-3", "3.3.1-1", false}} {
		if err := crossing("Patroni", c.from, c.to); (err == nil) != c.ok {
			t.Errorf("from %s to %s: %v", debver.Upstream(c.from), debver.Upstream(c.to), err)
		}
	}
}

// Where PostgreSQL goes on running on the only node, nobody has to take over.
func TestFitAlone(t *testing.T) {
	k := Known{Nodes: map[string]NodeRecord{"pg1": {}}, Record: &Record{}}
	v := ClusterView{Members: seen().Members[:1]}
	for _, restarts := range []bool{true, false} {
		if f := k.fit(Node{Name: "pg1"}, v, turn{postgres: restarts, patroni: true}); (f.never == nil) == restarts || f.waits != "" {
			t.Errorf("PostgreSQL restarts: %t; %v, %q", restarts, f.never, f.waits)
		}
	}
}
