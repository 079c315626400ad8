package fakefleet_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// Passwords that are on no host any more are not made anew: nobody could log in with
// those.
func TestLostCredentials(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		applyEtcd(t, f, "creator", f.EtcdSpec())
		f.Do(func() {
			for _, m := range f.Machines() {
				m.Files.Remove("/etc/pgha/etcd/dcs/credentials.json")
			}
		})
		p := f.Start("second")
		_, err := p.EtcdManager().Preview(patient(t), f.EtcdSpec(), "")
		wantError(t, err, "credentials.json is on none of the hosts")
		_, err = p.EtcdManager().Apply(patient(t), f.EtcdSpec())
		wantError(t, err, "credentials.json is on none of the hosts")
		for _, m := range f.Mutations("second") {
			if m.Name != "flock.hold" {
				t.Errorf("something was done: %s", m)
			}
		}
	})
}

// Authentication is turned off in one apply. It is turned on again only when every
// Patroni node has noted that it logs in; until then the plan says for whom it waits.
func TestAuthenticationOffAndOn(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		s := f.EtcdSpec()
		applyEtcd(t, f, "creator", s)
		put := func(key, value string) {
			t.Helper()
			f.Do(func() { f.Etcd.Stores()[0].Put(key, value, nil) })
		}
		put("/service/main/members/pg1", `{"version":"4.1.5"}`)
		put("/pgha/patroni/service/main/nodes/pg1", `{"name":"pg1","etcd_login":true}`)
		off := s
		off.Auth = false
		put("/service/main/members/pg9", `{"version":"4.0.7"}`)
		_, err := f.Start("refused").EtcdManager().Apply(patient(t), off)
		wantError(t, err, "main/pg9 runs 4.0.7")
		f.Do(func() { f.Etcd.Stores()[0].Delete("/service/main/members/pg9") })
		p := applyEtcd(t, f, "off", off)
		if steps := p.Steps(); !slices.Equal(steps, []string{"etcd.auth.off@"}) {
			t.Errorf("steps %v", steps)
		}
		client, err := p.Opener(t.Context(), off.Access())
		if err != nil {
			t.Fatal(err)
		}
		if on, err := client.AuthEnabled(t.Context()); on || err != nil {
			t.Errorf("it is on: %v %v", on, err)
		}
		if d := etcdDrift(t, f, off); d != "" {
			t.Errorf("drift %s", d)
		}
		put("/service/main/members/pg2", `{"version":"4.1.5"}`)
		put("/pgha/patroni/service/main/nodes/pg3", `{"name":"pg3"}`)
		p = applyEtcd(t, f, "too early", s)
		if steps := p.Steps(); !slices.Equal(steps, []string{"etcd.auth.later@"}) {
			t.Errorf("steps %v", steps)
		}
		if d := etcdDrift(t, f, s); !strings.Contains(d, "these do not log in yet: pg2 of main, pg3 of main") {
			t.Errorf("drift %s", d)
		}
		for _, n := range []string{"pg2", "pg3"} {
			put("/pgha/patroni/service/main/nodes/"+n, fmt.Sprintf(`{"name":%q,"etcd_login":true}`, n))
		}
		if d := etcdDrift(t, f, s); !strings.Contains(d, "turn authentication on: every Patroni node logs in") {
			t.Errorf("drift %s", d)
		}
		applyEtcd(t, f, "on", s)
		if d := etcdDrift(t, f, s); d != "" {
			t.Errorf("drift %s", d)
		}
		if _, err := f.Start("stranger").Opener(t.Context(), off.Access()); err == nil {
			c, _ := f.Start("stranger").Opener(t.Context(), off.Access())
			if _, _, err := c.Get(t.Context(), "/service/main/leader"); err == nil {
				t.Error("without a password keys can be read")
			}
		}
	})
}

// A cluster that was made without authentication gets it, wherever the run is killed.
func TestAuthenticationTurnedOn(t *testing.T) {
	without := func(t *testing.T, test func(t *testing.T, f *fakefleet.Fleet)) {
		bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
			s := f.EtcdSpec()
			s.Auth = false
			applyEtcd(t, f, "creator", s)
			test(t, f)
		})
	}
	total := 0
	without(t, func(t *testing.T, f *fakefleet.Fleet) {
		p := applyEtcd(t, f, "on", f.EtcdSpec())
		if steps := strings.Join(p.Steps(), " "); !strings.HasSuffix(steps, "etcd.auth@") || strings.Count(steps, "etcd.credentials@") != 3 {
			t.Errorf("steps %s", steps)
		}
		total = p.Mutations()
	})
	for k := 1; k <= total; k++ {
		for _, fault := range []fakehost.Fault{fakehost.CrashBefore(k), fakehost.CrashAfter(k)} {
			without(t, func(t *testing.T, f *fakefleet.Fleet) {
				if _, err := f.Start("first", fault).EtcdManager().Apply(patient(t), f.EtcdSpec()); err == nil {
					t.Fatal("the run that was killed reports success")
				}
				applyEtcd(t, f, "second", f.EtcdSpec())
				if d := etcdDrift(t, f, f.EtcdSpec()); d != "" {
					t.Errorf("killed at %d: drift %s", k, d)
				}
			})
		}
	}
}
