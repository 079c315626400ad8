package patroni

import (
	"encoding/json"
	"testing"
)

func TestParseControl(t *testing.T) {
	got := parseControl(`pg_control version number:            1700
Database system identifier:           7711100324371004321
Database cluster state:               shut down in recovery
Latest checkpoint location:           0/5082770
Latest checkpoint's REDO location:    0/5082718
Latest checkpoint's TimeLineID:       2
Latest checkpoint's PrevTimeLineID:   2
Minimum recovery ending location:     1/5082820
`)
	want := Control{SystemID: "7711100324371004321", State: "shut down in recovery", Timeline: 2, Checkpoint: 0x5082770, MinRecovery: 0x105082820}
	if got != want {
		t.Errorf("got %+v", got)
	}
	if s := formatLSN(want.MinRecovery); s != "1/5082820" {
		t.Error(s)
	}
}

// Who may start first when the whole cluster is down.
func TestMayLead(t *testing.T) {
	history := [][]json.RawMessage{{json.RawMessage("1"), json.RawMessage("100")}}
	known := Known{Initialize: "7", History: history, Status: MemberStatus{Optime: 1000}}
	for name, c := range map[string]struct {
		known   Known
		control Control
		want    bool
	}{
		"the last leader, stopped in order":      {known, Control{SystemID: "7", State: "shut down", Timeline: 2, Checkpoint: 1000}, true},
		"the last leader, power cut":             {known, Control{SystemID: "7", State: "in production", Timeline: 2, Checkpoint: 500}, true},
		"a former leader, power cut":             {known, Control{SystemID: "7", State: "in production", Timeline: 1, Checkpoint: 500}, false},
		"a replica that has everything":          {known, Control{SystemID: "7", State: "shut down in recovery", Timeline: 2, Checkpoint: 900, MinRecovery: 1000}, true},
		"a replica that stopped before":          {known, Control{SystemID: "7", State: "shut down in recovery", Timeline: 2, Checkpoint: 900, MinRecovery: 999}, false},
		"a replica, power cut":                   {known, Control{SystemID: "7", State: "in archive recovery", Timeline: 2, Checkpoint: 900, MinRecovery: 950}, false},
		"stopped in order before the last write": {known, Control{SystemID: "7", State: "shut down", Timeline: 2, Checkpoint: 999}, false},
		"another cluster":                        {known, Control{SystemID: "8", State: "shut down", Timeline: 2, Checkpoint: 2000}, false},
		"a replica, and nothing is known of the leader": {
			Known{Initialize: "7"}, Control{SystemID: "7", State: "shut down in recovery", Timeline: 1, Checkpoint: 900, MinRecovery: 950}, false,
		},
		"a primary, and nothing is known": {Known{}, Control{SystemID: "7", State: "shut down", Timeline: 1, Checkpoint: 900}, true},
	} {
		got, why := c.known.MayLead(c.control)
		if got != c.want || got == (why != "") {
			t.Errorf("%s: %v, %q", name, got, why)
		}
	}
}
