package patroni

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What changed parameters were is kept as a patch: with null for what was not set, and
// without what a reload takes back.
func TestUndo(t *testing.T) {
	live := Document{"ttl": 30, "postgresql": map[string]any{"parameters": map[string]any{"max_connections": "100", "work_mem": "4MB"}}}
	back := undo(live, []string{"ttl", Parameter("max_connections"), Parameter("shared_buffers"), Parameter("work_mem")})
	want := Document{"postgresql": map[string]any{"parameters": map[string]any{"max_connections": "100", "shared_buffers": nil}}}
	if d := cmp.Diff(want, back); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if back := undo(live, []string{"ttl", Parameter("work_mem")}); back != nil {
		t.Errorf("a reload is taken back with %v", back)
	}
}

// A change that is not taken over by all yet is kept while another one is made, and
// what is put back is the one that a replica did not start with.
func TestKeptParameters(t *testing.T) {
	at := func(parameters map[string]any) Document {
		return Document{"postgresql": map[string]any{"parameters": parameters}}
	}
	kept := adding(at(map[string]any{"max_connections": "100"}), at(map[string]any{"max_connections": "150", "shared_buffers": nil}))
	if d := cmp.Diff(at(map[string]any{"max_connections": "100", "shared_buffers": nil}), kept); d != "" {
		t.Errorf("kept (-want +got):\n%s", d)
	}
	back, rest := only(kept, []string{"shared_buffers"})
	if d := cmp.Diff(at(map[string]any{"shared_buffers": nil}), back); d != "" {
		t.Errorf("put back (-want +got):\n%s", d)
	}
	if d := cmp.Diff(at(map[string]any{"max_connections": "100"}), rest); d != "" {
		t.Errorf("still kept (-want +got):\n%s", d)
	}
	if back, rest := only(nil, []string{"shared_buffers"}); len(back)+len(rest) > 0 {
		t.Errorf("of nothing: %v, %v", back, rest)
	}
}

// Replicas are restarted before the leader, unless what is lowered needs the leader's
// restart first.
func TestTurnsForParameters(t *testing.T) {
	pending := map[string][]string{"pg1": {"max_connections"}, "pg2": {"max_connections"}, "pg3": {"max_connections"}}
	if order := turns(pending, seen(), false); !slices.Equal(order, []string{"pg3", "pg2", "pg1"}) {
		t.Errorf("raised: %v", order)
	}
	if order := turns(pending, seen(), true); !slices.Equal(order, []string{"pg1", "pg3", "pg2"}) {
		t.Errorf("lowered: %v", order)
	}
}

// A restart that somebody else's change waits for is no drift of ours.
func TestWaitsFor(t *testing.T) {
	owned := []string{"ttl", Parameter("max_connections"), Parameter("work_mem"), Parameter("shared_buffers")}
	for name, c := range map[string]struct {
		m    Member
		want string
	}{
		"nothing":                {Member{}, ""},
		"ours":                   {Member{PendingRestart: true, PendingReason: map[string]any{"max_connections": nil, "wal_level": nil}}, "max_connections"},
		"somebody else's":        {Member{PendingRestart: true, PendingReason: map[string]any{"wal_level": nil}}, ""},
		"an old one, some of it": {Member{PendingRestart: true}, "max_connections, shared_buffers"},
	} {
		if have := c.m.waitsFor(owned); have != c.want {
			t.Errorf("%s: %q, and not %q", name, have, c.want)
		}
	}
}

// A refresh names what the restart of each member does: the leader's is a switchover,
// unless a parameter becomes lower that replicas must not have lower than it.
func TestHowRestarted(t *testing.T) {
	change := func(from, to string) map[string]any { return map[string]any{"old_value": from, "new_value": to} }
	for name, c := range map[string]struct {
		member string
		reason map[string]any
		want   string
	}{
		"a replica":                 {"pg2", map[string]any{"max_connections": change("100", "150")}, " (restart)"},
		"the leader":                {"pg1", map[string]any{"max_connections": change("100", "150")}, ", on the leader after a switchover to a replica (switchover)"},
		"the leader, lowered":       {"pg1", map[string]any{"max_connections": change("200", "150")}, ", on the leader where it is (restart)"},
		"the leader, not given":     {"pg1", map[string]any{"max_wal_senders": change("20", "10")}, ", on the leader where it is (restart)"},
		"the leader, anything else": {"pg1", map[string]any{"shared_buffers": change("64MB", "32MB")}, ", on the leader after a switchover to a replica (switchover)"},
	} {
		k := Known{
			Leader: "pg1", Members: map[string]Member{c.member: {PendingRestart: true, PendingReason: c.reason}},
			Config: Document{"postgresql": map[string]any{"parameters": map[string]any{"max_connections": "150"}}},
		}
		if have := howRestarted(k, c.member); have != c.want {
			t.Errorf("%s: %q, and not %q", name, have, c.want)
		}
	}
}
