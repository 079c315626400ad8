package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestFormationVars pins what modules/citus-cluster is given.
func TestFormationVars(t *testing.T) {
	v := citusVersions{versions{"3.5.16", "4.0.7", "17.12"}, "13.2.2"}
	b, err := json.Marshal(formationVars(v, "10.200.0.0/16", func(host string) string { return "address of " + host }))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	group := func(one, other string) any {
		return map[string]any{one: "address of " + one, other: "address of " + other}
	}
	want := map[string]any{
		"groups":           map[string]any{"0": group("c1", "c2"), "1": group("a1", "a2"), "2": group("b1", "b2")},
		"database":         "shop",
		"allowed_networks": []any{"10.200.0.0/16"},
		"versions":         map[string]any{"etcd": "3.5.16", "patroni": "4.0.7", "postgresql": "17.12", "citus": "13.2.2"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseMoves(t *testing.T) {
	tests := []struct {
		line, state string
		want        moves
		bad         bool
	}{
		{line: "finished|62.5|16", state: "finished", want: moves{16, 62500 * time.Millisecond}},
		{line: "running|0|3", state: "running", want: moves{done: 3}},
		{line: "", bad: true}, // nothing was ever moved
		{line: "finished||16", bad: true},
		{line: "finished|1|", bad: true},
	}
	for _, tt := range tests {
		state, got, err := parseMoves(tt.line)
		if bad := err != nil; bad != tt.bad {
			t.Errorf("%q: %v", tt.line, err)
		}
		if !tt.bad && (state != tt.state || got != tt.want) {
			t.Errorf("%q: %s, %v", tt.line, state, got)
		}
	}
}
