package etcd

import (
	"strings"
	"testing"
)

func TestRefusesOldPatroni(t *testing.T) {
	for version, want := range map[string]bool{
		"3.3.27": false, "3.4.23": false, "3.4.41": false, "3.4.42": true, "3.5.16": false, "3.5.27": false, "3.5.28": true,
		"3.5.30": true, "3.6.0": false, "3.6.8": false, "3.6.9": true, "3.6.10": true,
	} {
		if got := RefusesOldPatroni(version); got != want {
			t.Errorf("%s: %v", version, got)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	for version, want := range map[string]string{
		"3.5.16": "", "3.5.16-4": "", "3.4.23+dfsg-1": "", "3.5.3": "", "3.5.30~rc1-1": "",
		"3.5.2": "corrupt", "3.5.0-1": "corrupt", "3.6.4": "never tried", "3.3.25": "never tried", "4.0.0": "never tried",
		"3.5": "not a version", "latest": "not a version", "3.x.1": "not a version",
	} {
		err := CheckVersion(version)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", version, err, want)
		}
	}
}

// Which ways there are from the versions that run to the one that is wanted.
func TestCheckUpgrade(t *testing.T) {
	old := map[string]string{"main/pg1": "4.1.5", "main/pg2": "4.0.7"}
	for name, c := range map[string]struct {
		running  string
		to       string
		auth     bool
		changing bool
		nodes    map[string]string
		want     string // empty: it may
	}{
		"within a line":                     {running: "3.5.16 3.5.16 3.5.16", to: "3.5.21-1"},
		"back within a line":                {running: "3.5.30 3.5.30 3.5.30", to: "3.5.16"},
		"half way":                          {running: "3.5.30 3.5.16 3.5.16", to: "3.5.30"},
		"half way, and back":                {running: "3.5.30 3.5.16 3.5.16", to: "3.5.16"},
		"to the next line":                  {running: "3.4.23 3.4.23 3.4.23", to: "3.5.16"},
		"half way to the next line":         {running: "3.5.16 3.4.23 3.5.16", to: "3.5.16"},
		"back while one runs the old line":  {running: "3.5.16 3.4.23 3.5.16", to: "3.4.23"},
		"back when all run the new line":    {running: "3.5.16 3.5.16 3.5.16", to: "3.4.23", want: "no older line starts with it"},
		"two lines at once":                 {running: "3.4.23", to: "3.6.0", want: "3.5 comes first"},
		"a line is skipped, one is further": {running: "3.4.23 3.5.16", to: "3.6.0", want: "3.5 comes first"},
		"to the next line with passwords":   {running: "3.4.23", to: "3.5.16", auth: true, want: "with authentication"},
		"to the next line and other members": {running: "3.4.23", to: "3.5.16", changing: true,
			want: "its members are to change as well"},
		"within a line and other members": {running: "3.5.16", to: "3.5.21", changing: true},
		"a Patroni is too old":            {running: "3.5.16", to: "3.5.30", auth: true, nodes: old, want: "main/pg2 runs 4.0.7, and would be without etcd"},
		"a Patroni is too old for more":   {running: "3.5.16", to: "3.5.27", auth: true, nodes: old},
		"no passwords":                    {running: "3.5.16", to: "3.5.30", nodes: old},
		"all nodes are new":               {running: "3.5.16", to: "3.5.30", auth: true, nodes: map[string]string{"main/pg1": "4.1.1"}},
	} {
		err := checkUpgrade(strings.Fields(c.running), c.to, authentication{c.auth, c.auth}, c.changing, c.nodes)
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestNodes(t *testing.T) {
	got := nodes([]KeyValue{
		{Key: "/service/main/members/pg1", Value: `{"version":"4.0.7","role":"primary"}`},
		{Key: "/service/cit/2/members/w1", Value: `{"version":"3.0.2"}`},
		{Key: "/service/main/leader", Value: "pg1"},
		{Key: "/pgha/main/members/x", Value: `{"version":"1"}`},
		{Key: "/service/main/members/odd", Value: `nothing`},
	})
	if len(got) != 2 || got["main/pg1"] != "4.0.7" || got["2/w1"] != "3.0.2" {
		t.Errorf("%v", got)
	}
}

// A member can be spared if a majority stays without it.
func TestSpares(t *testing.T) {
	for size := 1; size <= 7; size++ {
		for dead := range 1 << size {
			var live Live
			healthy := 0
			for i := range size {
				m := LiveMember{MemberInfo: MemberInfo{ID: uint64(i + 1), Name: string(rune('a' + i)), PeerURLs: []string{string(rune('a' + i))}}}
				if dead>>i&1 == 1 {
					m.Problem = "does not answer"
				} else {
					healthy++
				}
				live = append(live, m)
			}
			for _, m := range live {
				without := healthy
				if m.Problem == "" {
					without--
				}
				ok := size < 3 || without > size/2
				if err := live.spares(m.PeerURLs[0]); (err == nil) != ok {
					t.Fatalf("%d members, dead %b, without %s: %v", size, dead, m.Name, err)
				}
			}
		}
	}
}
