package provider_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// status reads pgha_etcd_status.
func (s *site) status() map[string]tftypes.Value {
	s.t.Helper()
	got, diags := s.data("pgha_etcd_status", object{"etcd": s.dcs.get("access")})
	s.must(diags)
	for path, v := range got {
		if leaks := s.f.Leaks(v.String()); len(leaks) > 0 {
			s.t.Errorf("%s shows secrets", path)
		}
	}
	return got
}

// wants compares values by their path with how they are written.
func wants(t testing.TB, got map[string]tftypes.Value, want map[string]string) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(want)) {
		text := plain(got[path])
		var b bool
		switch {
		case got[path].IsNull():
			text = "null"
		case got[path].Type().Is(tftypes.Bool):
			_ = got[path].As(&b)
			text = fmt.Sprint(b)
		}
		if text != want[path] {
			t.Errorf("%s is %s, want %s", path, text, want[path])
		}
	}
}

// What the data source shows of an etcd cluster that is well, of one with an
// alarm, with a member away, and of one that has lost its quorum.
func TestEtcdStatus(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		got := s.status()
		lead := ""
		s.f.Do(func() { lead = s.f.Etcd.Stores()[0].Leader() })
		wants(t, got, map[string]string{
			"leader": lead, "healthy": "true", "members[0].name": "pg1", "members[0].address": "10.0.0.1:2379", "members[0].peer_urls[0]": "https://10.0.0.1:2380",
			"members[2].voter": "true", "members[1].healthy": "true", "members[1].problem": "null", "members[1].lag": "0", "members[1].version": "3.5.16",
			"members[1].db_size": "20480", "members[1].db_size_in_use": "16384", "members[1].quota": "2147483648", "members[1].error": "null",
		})
		roles := map[string]int{}
		ids := map[string]bool{}
		for i := range 3 {
			roles[plain(got[fmt.Sprintf("members[%d].role", i)])]++
			ids[plain(got[fmt.Sprintf("members[%d].id", i)])] = true
			for kind, least := range map[string]time.Duration{"server": 390 * 24 * time.Hour, "peer": 390 * 24 * time.Hour, "ca": 3600 * 24 * time.Hour} {
				text := plain(got[fmt.Sprintf("members[%d].%s_certificate_expires", i, kind)])
				if end, err := time.Parse(time.RFC3339, text); err != nil || time.Until(end) < least {
					t.Errorf("the certificate %s of member %d ends on %q", kind, i, text)
				}
			}
		}
		if roles["leader"] != 1 || roles["follower"] != 2 || len(ids) != 3 {
			t.Errorf("roles %v, ids %v", roles, ids)
		}
		for path, v := range got {
			if strings.HasPrefix(path, "warnings[") {
				t.Errorf("a warning about a healthy cluster: %s", v)
			}
		}

		s.f.Do(func() { s.f.Etcd.Stores()[0].Alarms["pg2"] = "NOSPACE" })
		wants(t, s.status(), map[string]string{
			"healthy": "false", "members[1].alarms[0]": "NOSPACE", "members[1].problem": "has raised the alarm NOSPACE", "members[0].healthy": "true",
			"warnings[0]": "the cluster accepts no writes: alarm NOSPACE of pg2",
		})
		s.f.Do(func() { s.f.Etcd.Stores()[0].Alarms["pg2"] = "" })

		// A member's host is off: the others say which it is, and nothing fails.
		away := (slices.Index(s.f.Names(), lead) + 1) % 3
		s.f.Do(s.f.Machines()[away].PowerOff)
		s.f.Settle()
		got = s.status()
		at := fmt.Sprintf("members[%d].", away)
		wants(t, got, map[string]string{
			"leader": lead, "healthy": "false", at + "healthy": "false", at + "voter": "true", at + "lag": "null", at + "db_size": "null", at + "quota": "null",
			at + "version": "null", at + "ca_certificate_expires": "null", at + "role": "follower",
			"warnings[0]": "2 of 3 members are healthy: the loss of one more would stop the cluster",
		})
		if why := plain(got[at+"error"]); !strings.Contains(why, "no route to host") || !strings.Contains(plain(got[at+"problem"]), "does not answer") {
			t.Errorf("of the host that is off: %s, %s", why, got[at+"problem"])
		}
		if table := plain(got["table"]); !strings.Contains(table, "does not answer") {
			t.Errorf("table:\n%s", table)
		}

		// Without a quorum: what the last host itself says, and that there is none.
		last := (away + 1) % 3
		s.f.Do(s.f.Machines()[(away+2)%3].PowerOff)
		s.f.Settle()
		got = s.status()
		wants(t, got, map[string]string{
			"leader": "null", "healthy": "false", fmt.Sprintf("members[%d].error", last): "null", fmt.Sprintf("members[%d].healthy", last): "false",
			"warnings[0]": "the cluster has no quorum: nobody can read or write",
		})

		for _, m := range s.f.Machines() {
			s.f.Do(m.PowerOff)
		}
		_, diags := s.data("pgha_etcd_status", object{"etcd": s.dcs.get("access")})
		if text := errorsIn(diags); !strings.Contains(text, "Unable to read etcd cluster dcs") || !strings.Contains(text, "at least one of its members' hosts") {
			t.Errorf("with all hosts off: %s", text)
		}
		s.f.Watch.Off()
	})
}
