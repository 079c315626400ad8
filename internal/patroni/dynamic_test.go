package patroni

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func document(t *testing.T, text string) Document {
	t.Helper()
	d, err := ParseDocument([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What is sent is what differs and is ours. Merged the way Patroni merges, it
// gives what is wanted, and nothing of somebody else's is touched.
func TestPatch(t *testing.T) {
	for name, c := range map[string]struct {
		live   string
		wanted Settings
		owned  []string
		patch  string
		after  string
	}{
		"the same in other words": {
			live:   `{"ttl": 30, "synchronous_mode": true, "postgresql": {"use_slots": "on", "parameters": {"shared_buffers": "1GB", "work_mem": 4096}}}`,
			wanted: Settings{"ttl": "30", "synchronous_mode": true, "postgresql/use_slots": true, Parameter("shared_buffers"): "1024MB", Parameter("work_mem"): "4MB"},
			patch:  `{}`, after: `{"ttl": 30, "synchronous_mode": true, "postgresql": {"use_slots": "on", "parameters": {"shared_buffers": "1GB", "work_mem": 4096}}}`,
		},
		"a parameter, beside somebody else's": {
			live:   `{"ttl": 30, "postgresql": {"parameters": {"work_mem": "4MB", "jit": "off"}}}`,
			wanted: Settings{"ttl": int64(30), Parameter("work_mem"): "8MB"}, owned: []string{"ttl", Parameter("work_mem")},
			patch: `{"postgresql": {"parameters": {"work_mem": "8MB"}}}`,
			after: `{"ttl": 30, "postgresql": {"parameters": {"work_mem": "8MB", "jit": "off"}}}`,
		},
		"no longer wanted": {
			live:   `{"ttl": 30, "failsafe_mode": true, "postgresql": {"parameters": {"work_mem": "4MB", "jit": "off"}}}`,
			wanted: Settings{"ttl": int64(30)}, owned: []string{"ttl", "failsafe_mode", Parameter("work_mem"), Parameter("gone_already")},
			patch: `{"failsafe_mode": null, "postgresql": {"parameters": {"work_mem": null}}}`,
			after: `{"ttl": 30, "postgresql": {"parameters": {"jit": "off"}}}`,
		},
		"a list as a whole": {
			live:   `{"postgresql": {"pg_hba": ["a", "b"]}}`,
			wanted: Settings{"postgresql/pg_hba": []string{"b", "a"}},
			patch:  `{"postgresql": {"pg_hba": ["b", "a"]}}`, after: `{"postgresql": {"pg_hba": ["b", "a"]}}`,
		},
		"a map as a whole, although Patroni merges": {
			live:   `{"standby_cluster": {"host": "10.0.0.1", "port": 5432}}`,
			wanted: Settings{"standby_cluster": map[string]any{"host": "10.0.0.2"}},
			patch:  `{"standby_cluster": {"host": "10.0.0.2", "port": null}}`, after: `{"standby_cluster": {"host": "10.0.0.2"}}`,
		},
		"an extension's parameter": {
			live: `{}`, wanted: Settings{Parameter("pg_stat_statements.max"): "1000"},
			patch: `{"postgresql": {"parameters": {"pg_stat_statements.max": "1000"}}}`, after: `{"postgresql": {"parameters": {"pg_stat_statements.max": "1000"}}}`,
		},
		"a slot, beside somebody else's": {
			live: `{"slots": {"theirs": {"type": "physical"}}}`, wanted: Settings{"slots/ours": map[string]string{"type": "logical"}},
			patch: `{"slots": {"ours": {"type": "logical"}}}`, after: `{"slots": {"theirs": {"type": "physical"}, "ours": {"type": "logical"}}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			live := document(t, c.live)
			patch, changed := Patch(live, c.wanted, c.owned)
			same(t, "patch", patch, c.patch)
			if len(changed) == 0 != (c.patch == `{}`) {
				t.Errorf("changed: %v", changed)
			}
			after := merge(live, patch)
			same(t, "after", after, c.after)
			if _, left := Patch(document(t, string(after.JSON())), c.wanted, c.wanted.Paths()); len(left) > 0 {
				t.Errorf("not settled: %v", left)
			}
		})
	}
}

func same(t *testing.T, what string, got Document, want string) {
	t.Helper()
	var a, b any
	if err := json.Unmarshal(got.JSON(), &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(b, a); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// Taken apart and put together again it is the same document.
func TestFlatten(t *testing.T) {
	text := `{"ttl":30,"slots":{"a.b/c":{"type":"physical"}},"postgresql":{"use_slots":true,"pg_hba":["x"],"parameters":{"work_mem":"4MB"}},"standby_cluster":{"host":"h"}}`
	flat := document(t, text).Flatten()
	want := []string{"postgresql/parameters/work_mem", "postgresql/pg_hba", "postgresql/use_slots", "slots/a.b/c", "standby_cluster", "ttl"}
	if d := cmp.Diff(want, flat.Paths()); d != "" {
		t.Errorf("paths (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"slots/a.b/c", "standby_cluster"}, Foreign(document(t, text), []string{"ttl", "postgresql/pg_hba", "postgresql/use_slots", Parameter("work_mem")})); d != "" {
		t.Errorf("not ours (-want +got):\n%s", d)
	}
}

// A change is described by what it does to running servers.
func TestDescribeChanges(t *testing.T) {
	live := document(t, `{"ttl": 30, "postgresql": {"parameters": {"max_connections": "100", "work_mem": "4MB"}}}`)
	wanted := Settings{"ttl": int64(40), Parameter("max_connections"): "200", Parameter("jit"): "off"}
	_, changed := Patch(live, wanted, []string{Parameter("work_mem")})
	reload, restart := DescribeChanges(live, wanted, changed)
	if d := cmp.Diff([]string{"postgresql.parameters.jit: (not set) -> off", "postgresql.parameters.work_mem: 4MB -> (not set)", "ttl: 30 -> 40"}, reload); d != "" {
		t.Errorf("reload (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"postgresql.parameters.max_connections: 100 -> 200"}, restart); d != "" {
		t.Errorf("restart (-want +got):\n%s", d)
	}
}

// The keys of a scope are not those of one whose name begins the same.
func TestPrefix(t *testing.T) {
	for _, c := range []Cluster{{Scope: "main", Namespace: "/service/"}, {Scope: "main", Namespace: "service"}} {
		if p := c.Prefix(); p != "/service/main/" {
			t.Errorf("prefix %q", p)
		}
		if k := c.own("record"); k != "/pgha/patroni/service/main/record" {
			t.Errorf("our key %q", k)
		}
	}
}
