package etcd

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What was true of a moment only does not come back from a snapshot: of Patroni's
// clusters, of each group of a Citus cluster, of ours.
func TestFitting(t *testing.T) {
	s := Spec{Name: "dcs", Restore: &Restore{Member: "e1", Path: "/x/20261129T010203Z-e1.db"}}
	keys := []KeyValue{
		{Key: "/pgha/etcd/dcs/joining/https://x:2380", Value: "e4"}, {Key: "/pgha/etcd/dcs/since/https://x:2380", Value: "1"},
		{Key: "/pgha/patroni/service/main/record", Value: "{}"}, {Key: "/pgha/patroni/service/main/secrets", Value: "{}"},
		{Key: "/pgha/patroni/service/main/nodes/pg1", Value: "{}"}, {Key: "/pgha/patroni/service/main/lock", Lease: 7},
		{Key: "/service/main/config", Value: `{"ttl":30,"slots":{"a":{"type":"physical"}}}`}, {Key: "/service/main/initialize", Value: "1"},
		{Key: "/service/main/history", Value: "[]"}, {Key: "/service/main/leader", Value: "pg1", Lease: 1}, {Key: "/service/main/members/pg1", Value: "{}", Lease: 1},
		{Key: "/service/main/members/pg2", Value: "{}"}, {Key: "/service/main/status", Value: "{}"}, {Key: "/service/main/sync", Value: "{}"},
		{Key: "/service/main/failover", Value: "{}"}, {Key: "/service/main/failsafe", Value: "{}"}, {Key: "/service/main/optime/leader", Value: "1"},
		{Key: "/service/cit/0/config", Value: `{"pause": true}`}, {Key: "/service/cit/0/initialize", Value: "2"}, {Key: "/service/cit/0/leader", Value: "c1"},
		{Key: "/service/cit/10/initialize", Value: "3"}, {Key: "/service/cit/10/sync", Value: "{}"}, {Key: "/service/cit/10/config", Value: "{}"},
		{Key: "/service/cit/1/initialize", Value: "4"}, {Key: "/service/cit/1/leader", Value: "w1"},
		{Key: "/somebody/leader", Value: "not Patroni's"}, {Key: "/somebody/status", Value: "x"}, {Key: "/other/session", Lease: 9},
	}
	got := fitting(s, keys)
	slices.Sort(got.drop)
	want := []string{
		"/other/session", "/pgha/etcd/dcs/joining/https://x:2380", "/pgha/etcd/dcs/since/https://x:2380", "/pgha/patroni/service/main/lock",
		"/service/cit/0/leader", "/service/cit/1/leader", "/service/cit/10/sync",
		"/service/main/failover", "/service/main/failsafe", "/service/main/leader", "/service/main/members/pg1", "/service/main/members/pg2",
		"/service/main/optime/leader", "/service/main/status", "/service/main/sync",
	}
	if d := cmp.Diff(want, got.drop); d != "" {
		t.Errorf("dropped (-want +got):\n%s", d)
	}
	put := map[string]string{
		"/pgha/patroni/service/main/restored":   "e1:/x/20261129T010203Z-e1.db",
		"/service/main/config":                  `{"pause":true,"slots":{"a":{"type":"physical"}},"ttl":30}`,
		"/pgha/etcd/dcs/paused/service/main/":   "by a restore",
		"/service/cit/10/config":                `{"pause":true}`,
		"/pgha/etcd/dcs/paused/service/cit/10/": "by a restore",
	}
	if d := cmp.Diff(put, got.put); d != "" {
		t.Errorf("put (-want +got):\n%s", d)
	}
}

// A pause that is taken back leaves what was there; nothing is made of nothing.
func TestSetPause(t *testing.T) {
	for _, c := range []struct {
		config  string
		pause   bool
		want    string
		changed bool
	}{
		{`{"a":1.50,"b":"x"}`, true, `{"a":1.50,"b":"x","pause":true}`, true},
		{`{"a":1.50,"b":"x","pause":true}`, false, `{"a":1.50,"b":"x"}`, true},
		{`{"pause":true}`, true, `{"pause":true}`, false},
		{`{"pause":false}`, true, `{"pause":true}`, true},
		{`{"a":1}`, false, `{"a":1}`, false},
		{``, true, ``, false},
		{`[]`, true, `[]`, false},
	} {
		if got, changed := setPause(c.config, c.pause); got != c.want || changed != c.changed {
			t.Errorf("%s, %v: %s, %v; want %s, %v", c.config, c.pause, got, changed, c.want, c.changed)
		}
	}
}

// No cluster that may have a quorum is ever restored over: of one to seven members any
// number run, and any number of the rest were exchanged for new hosts and do not
// answer, while any number of those left have been built anew.
func TestNeverOverAQuorum(t *testing.T) {
	for n := 1; n <= 7; n++ {
		for running := 0; running <= n; running++ {
			for away := 0; away <= n-running; away++ {
				for blank := 0; blank <= n-running-away; blank++ {
					total := oldSize(n, n-away-blank, away)
					refused := mayServe(running, away, total)
					if real := running+away >= Quorum(n); real && !refused {
						t.Errorf("of %d members %d run, %d are away, %d are blank: restored over a quorum", n, running, away, blank)
					}
					if blank == 0 && refused != (running+away >= Quorum(n)) {
						t.Errorf("of %d members %d run and %d are away: refused %v", n, running, away, refused)
					}
				}
			}
		}
	}
}

// Where a snapshot is, as it is written and read.
func TestParseRestore(t *testing.T) {
	for _, from := range []string{"nothing", "e1:/var/backups/etcd/dcs/20261129T010203Z-e1.db", "e-1:/a b:c.db"} {
		r, err := ParseRestore(from, "x")
		if err != nil || r.From() != from || r.key() != from+" x" {
			t.Errorf("%s: %+v, %v", from, r, err)
		}
	}
	for _, from := range []string{"", "e1", ":/a", "e1:relative", "/a/b", "Nothing", "e1:/a\nb"} {
		if r, err := ParseRestore(from, ""); err == nil {
			t.Errorf("%q is taken for %+v", from, r)
		}
	}
}
