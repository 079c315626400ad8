package fakefleet_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// urls are what the members of etcd listen for, and where the others find them.
func urls(f *fakefleet.Fleet, variable string) string {
	var list []string
	f.Do(func() {
		for name, text := range f.Etcd.Stores()[0].Settings(variable) {
			list = append(list, name+" "+text)
		}
	})
	slices.Sort(list)
	return strings.Join(list, "; ")
}

// noted has two nodes of Patroni known in etcd, as ones that come with https if there
// is an authority by which they say so.
func noted(f *fakefleet.Fleet, secure bool) {
	f.Do(func() {
		for _, n := range []string{"pg1", "pg2"} {
			trust := ""
			if secure {
				t := etcd.TrustOf(f.Host(1).Files.Read("/etc/pgha/ca/etcd-dcs/ca.crt"))
				trust = fmt.Sprintf(`,"etcd_trusts":%q,"etcd_signed_by":%q`, t.Trusts, t.SignedBy)
			}
			f.Etcd.Stores()[0].Put("/pgha/patroni/service/main/nodes/"+n, fmt.Sprintf(`{"name":%q%s}`, n, trust), nil)
		}
	})
}

// madePlain runs a test on a cluster that this provider has made without TLS, and on
// clusters that somebody else has, which are to get it.
func madePlain(t *testing.T, test func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec)) {
	t.Run("ours", func(t *testing.T) {
		bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
			s := f.EtcdSpec()
			s.TLS, s.Auth = false, false
			applyEtcd(t, f, "creator", s)
			s.TLS = true
			test(t, f, s)
		})
	})
	for _, l := range []layout{autobase, pigsty} {
		t.Run(l.name, func(t *testing.T) {
			laid(t, 1, l, func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) {
				found, err := discover(t, f, "import")
				if err != nil {
					t.Fatal(err)
				}
				s.UID, s.TLS = found.UID, true
				test(t, f, s)
			})
		})
	}
}

// TLS is turned on in stages: nobody is refused in any of them, by the watch of the
// fleet. The plan says what comes, and for whom it waits.
func TestTLSTurnedOn(t *testing.T) {
	madePlain(t, func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) {
		noted(f, false)
		plan, err := f.Start("planner").EtcdManager().Preview(patient(t), s, s.UID)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(etcd.Describe(plan), "\n")
		for _, part := range []string{"takes https beside http", "it leads, and hands that over first", "come to it with https", "leave http open", "pg1 of main, pg2 of main"} {
			if !strings.Contains(text, part) {
				t.Errorf("the plan does not say %q:\n%s", part, text)
			}
		}
		leader := f.Etcd.Stores()[0].Leader()
		p := applyEtcd(t, f, "first", s)
		var turns []string
		for _, step := range p.Steps() {
			if strings.HasPrefix(step, "etcd.tls.") && !strings.HasPrefix(step, "etcd.tls.begin") && !strings.HasPrefix(step, "etcd.tls.promote") {
				turns = append(turns, step)
			}
		}
		if len(turns) != 7 || turns[2] != "etcd.tls.open@"+leader || !strings.HasPrefix(turns[3], "etcd.tls.peers@") || turns[6] != "etcd.tls.wait@" {
			t.Errorf("turns %v, led by %s", turns, leader)
		}
		if got := urls(f, "ETCD_LISTEN_CLIENT_URLS"); strings.Count(got, "http://10.") != 3 || strings.Count(got, "https://10.") != 3 || strings.Count(got, "https://127.0.0.1") != 3 {
			t.Errorf("listening for clients at %s", got)
		}
		if got := urls(f, "ETCD_ADVERTISE_CLIENT_URLS"); strings.Contains(got, "https") {
			t.Errorf("clients that have no certificates are told of %s", got)
		}
		if d := etcdDrift(t, f, s); !strings.Contains(d, "these do not come with https yet: pg1 of main, pg2 of main") || strings.Contains(d, "etcd.service") {
			t.Errorf("drift %s", d)
		}
		p = applyEtcd(t, f, "too early", s)
		if steps := p.Steps(); !slices.Equal(steps, []string{"etcd.tls.wait@"}) {
			t.Errorf("steps %v", steps)
		}
		noted(f, true)
		if d := etcdDrift(t, f, s); strings.Count(d, "so that it takes https alone") != 3 {
			t.Errorf("drift %s", d)
		}
		applyEtcd(t, f, "second", s)
		isSecure(t, f, s)
		back := s
		back.TLS = false
		_, err = f.Start("back").EtcdManager().Apply(patient(t), back)
		wantError(t, err, "there is no way back to http")
		if text := details(err); !strings.Contains(text, "set tls = true") {
			t.Errorf("the error does not say what to do:\n%s", text)
		}
	})
}

// What cannot be done together with turning TLS on is refused by the plan, before
// anything is touched.
func TestTLSRefused(t *testing.T) {
	for says, change := range map[string]func(f *fakefleet.Fleet, s *etcd.Spec){
		"cannot take http and https side by side": func(f *fakefleet.Fleet, s *etcd.Spec) {
			f.Do(func() {
				for _, m := range f.Machines() {
					m.Publish(true, "etcd-server", "3.4.23-4")
					m.Publish(true, "etcd-client", "3.4.23-4")
				}
			})
			s.Version = "3.4.23"
		},
		"members are to come or go as well": func(_ *fakefleet.Fleet, s *etcd.Spec) {
			s.Leaving = map[string]etcd.Member{"pg3": s.Members["pg3"]}
			delete(s.Members, "pg3")
		},
		"etcd is to get another version as well": func(f *fakefleet.Fleet, s *etcd.Spec) {
			f.Do(func() {
				for _, m := range f.Machines() {
					m.Publish(true, "etcd-server", "3.5.27-1")
					m.Publish(true, "etcd-client", "3.5.27-1")
				}
			})
			s.Version = "3.5.27"
		},
	} {
		t.Run(says, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
				s := f.EtcdSpec()
				s.TLS, s.Auth = false, false
				if strings.Contains(says, "side by side") {
					change(f, &s)
				}
				applyEtcd(t, f, "creator", s)
				if !strings.Contains(says, "side by side") {
					change(f, &s)
				}
				s.TLS = true
				_, err := f.Start("refused").EtcdManager().Preview(patient(t), s, s.UID)
				wantError(t, err, says)
			})
		})
	}
}

// isSecure checks that nobody comes with http any more.
func isSecure(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) {
	t.Helper()
	for _, variable := range []string{"ETCD_LISTEN_CLIENT_URLS", "ETCD_ADVERTISE_CLIENT_URLS", "ETCD_LISTEN_PEER_URLS"} {
		if got := urls(f, variable); strings.Contains(got, "http://") || strings.Count(got, "https://10.") != 3 {
			t.Errorf("%s: %s", variable, got)
		}
	}
	c, err := f.Start("client").Opener(t.Context(), s.Access())
	if err != nil {
		t.Fatal(err)
	}
	members, err := c.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if !strings.HasPrefix(m.PeerURLs[0], "https://") {
			t.Errorf("member %s is at %v", m.Name, m.PeerURLs)
		}
	}
	if d := etcdDrift(t, f, s); d != "" {
		t.Errorf("drift %s", d)
	}
}

// Wherever a run is killed, the next ones bring the cluster to TLS, and nobody is
// refused meanwhile. Until then it is reached as it was described before, too.
func TestTLSTurnedOnKilled(t *testing.T) {
	start := func(t *testing.T, test func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec)) {
		bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
			s := f.EtcdSpec()
			s.TLS, s.Auth = false, false
			applyEtcd(t, f, "creator", s)
			noted(f, false)
			s.TLS = true
			test(t, f, s)
		})
	}
	run := func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec, name string, faults ...fakehost.Fault) (int, error) {
		p := f.Start(name, faults...)
		_, err := p.EtcdManager().Apply(patient(t), s)
		return p.Mutations(), err
	}
	total := map[bool]int{}
	start(t, func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) {
		total[false], _ = run(t, f, s, "first")
		noted(f, true)
		total[true], _ = run(t, f, s, "second")
	})
	if total[false] < 30 || total[true] < 9 {
		t.Fatalf("changes: %v", total)
	}
	for closing, n := range total {
		for k := 1; k <= n; k += stride(7, 2) {
			for name, fault := range map[string]fakehost.Fault{"before": fakehost.CrashBefore(k), "after": fakehost.CrashAfter(k)} {
				t.Run(fmt.Sprintf("closing %t %s %d", closing, name, k), func(t *testing.T) {
					start(t, func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) {
						if closing {
							applyEtcd(t, f, "first", s)
							noted(f, true)
						}
						if _, err := run(t, f, s, "killed", fault); err == nil {
							t.Fatal("the run that was killed reports success")
						}
						// The state may still say that there is no TLS.
						old := s
						old.TLS = false
						if o, err := f.Start("reader").EtcdManager().Observed(patient(t), old); err != nil || o.Absent {
							t.Errorf("observed %+v, %v", o, err)
						}
						if c, err := f.Start("client").Opener(t.Context(), old.Access()); err != nil {
							t.Error(err)
						} else if _, err := c.Members(t.Context()); err != nil {
							t.Error(err)
						}
						applyEtcd(t, f, "again", s)
						noted(f, true)
						applyEtcd(t, f, "last", s)
						isSecure(t, f, s)
					})
				})
			}
		}
	}
}
