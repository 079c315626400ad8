package etcd_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// planned plans for a fleet as it is, without running anything.
func planned(t *testing.T, f *fakefleet.Fleet, s etcd.Spec, later time.Duration) (string, error) {
	t.Helper()
	p := f.Start("planner")
	plan, err := etcd.Plan(s, etcd.Probe(t.Context(), p, s), "uid", time.Now().Add(later), p.EtcdManager().Doer)
	return plan.String(), err
}

// fleet runs a test on three hosts, with the cluster complete on them or with
// nothing.
func fleet(t *testing.T, complete bool, test func(t *testing.T, f *fakefleet.Fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := fakefleet.New(t, fakefleet.Config{Config: fakehost.Config{Seed: 1}})
		if complete {
			if _, err := f.Start("creator").EtcdManager().Apply(t.Context(), f.EtcdSpec()); err != nil {
				t.Fatal(err)
			}
			f.Settle()
		}
		test(t, f)
	})
}

// State in, steps out.
func TestPlan(t *testing.T) {
	lanes := func(steps string) string {
		var all []string
		for _, h := range []string{"pg1", "pg2", "pg3"} {
			all = append(all, strings.ReplaceAll(steps, "@", "@"+h))
		}
		return "{" + strings.Join(all, " | ") + "}"
	}
	for name, c := range map[string]struct {
		fresh  bool
		state  func(f *fakefleet.Fleet)
		spec   func(*etcd.Spec)
		later  time.Duration
		expect string
	}{
		"fresh hosts": {
			fresh: true,
			expect: lanes("etcd.mark@, etcd.packages@, etcd.hold@") + ", etcd.authority@pg1, {etcd.authority.copy@pg2 | etcd.authority.copy@pg3}, " +
				lanes("etcd.credentials@, etcd.authority.trust@, etcd.certificate@, etcd.certificate@, etcd.data@, etcd.file@, etcd.file@, etcd.file@, etcd.unit.reload@, etcd.unit.enable@") +
				", " + lanes("etcd.start@") + ", etcd.healthy, etcd.auth, " + lanes("etcd.mark.complete@"),
		},
		"fresh hosts, without TLS and passwords": {
			fresh: true, spec: func(s *etcd.Spec) { s.TLS, s.Auth = false, false },
			expect: lanes("etcd.mark@, etcd.packages@, etcd.hold@") + ", " +
				lanes("etcd.data@, etcd.file@, etcd.file@, etcd.file@, etcd.unit.reload@, etcd.unit.enable@") +
				", " + lanes("etcd.start@") + ", etcd.healthy, " + lanes("etcd.mark.complete@"),
		},
		"complete": {expect: ""},
		"one member stands still": {
			state: func(f *fakefleet.Fleet) {
				f.Host(2).Units["etcd.service"].PID, f.Host(2).Units["etcd.service"].Active = 0, "inactive"
			},
			expect: "etcd.start@pg2, etcd.healthy",
		},
		"a data directory that never got its owner": {
			state:  func(f *fakefleet.Fleet) { f.Host(2).Files.Get("/var/lib/etcd/dcs").Owner = "root" },
			expect: "etcd.data@pg2",
		},
		"another quota": {
			spec:   func(s *etcd.Spec) { s.QuotaBytes *= 2 },
			expect: lanes("etcd.mark.restart@, etcd.file@") + ", etcd.restart@pg1, etcd.restart@pg2, etcd.restart@pg3",
		},
		"another quota, and killed before the restart": {
			state:  func(f *fakefleet.Fleet) { remark(f.Host(2), func(mark *etcd.Marker) { mark.RestartDue = true }) },
			expect: "etcd.restart@pg2",
		},
		"killed before the restart, and stopped": {
			state: func(f *fakefleet.Fleet) {
				remark(f.Host(2), func(mark *etcd.Marker) { mark.RestartDue = true })
				f.Host(2).Units["etcd.service"].PID, f.Host(2).Units["etcd.service"].Active = 0, "inactive"
			},
			expect: "etcd.start@pg2, etcd.healthy, etcd.mark.complete@pg2",
		},
		"another version, and the cluster does not answer": {
			spec: func(s *etcd.Spec) { s.Version = "3.5.30" }, expect: "etcd.member.later",
		},
		"certificates end soon": {
			later:  (397 - 29) * 24 * time.Hour,
			expect: lanes("etcd.certificate@, etcd.certificate@"),
		},
		"certificates end soon, which is fine": {
			spec: func(s *etcd.Spec) { s.RenewBefore = 48 * time.Hour }, later: (397 - 29) * 24 * time.Hour, expect: "",
		},
		"certificates end sooner than wanted": {
			spec: func(s *etcd.Spec) { s.RenewBefore = 60 * 24 * time.Hour }, later: (397 - 59) * 24 * time.Hour,
			expect: lanes("etcd.certificate@, etcd.certificate@"),
		},
		"certificates have ended": {later: 398 * 24 * time.Hour, expect: lanes("etcd.certificate@, etcd.certificate@") + ", etcd.healthy"},
		"certificates end later":  {later: (397 - 31) * 24 * time.Hour, expect: ""},
		"an authority on one host only": {
			state: func(f *fakefleet.Fleet) {
				f.Host(1).Files.Remove("/etc/pgha/ca/etcd-dcs")
				f.Host(3).Files.Remove("/etc/pgha/ca/etcd-dcs")
			},
			expect: "{etcd.authority.copy@pg1 | etcd.authority.copy@pg3}",
		},
		"a create that was cut off before the end": {
			state: func(f *fakefleet.Fleet) {
				for _, m := range f.Machines() {
					remark(m, func(mark *etcd.Marker) { mark.Bootstrapped = false })
				}
			},
			expect: "etcd.healthy, etcd.auth, " + lanes("etcd.mark.complete@"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			fleet(t, !c.fresh, func(t *testing.T, f *fakefleet.Fleet) {
				if c.state != nil {
					f.Do(func() { c.state(f) })
				}
				s := f.EtcdSpec()
				if c.spec != nil {
					c.spec(&s)
				}
				got, err := planned(t, f, s, c.later)
				if err != nil {
					t.Fatal(err)
				}
				if got != c.expect {
					t.Errorf("the plan is\n%s\nwant\n%s", got, c.expect)
				}
			})
		})
	}
}

// remark rewrites a host's marker.
func remark(m *fakehost.Machine, change func(*etcd.Marker)) {
	var mark etcd.Marker
	_ = json.Unmarshal(m.Files.Read(etcd.MarkerPath), &mark)
	change(&mark)
	b, _ := json.Marshal(mark)
	m.Files.Text(etcd.MarkerPath, string(b))
}

// What is not ours is left alone, and the error says what it is and what to do.
func TestPlanRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		fresh bool
		state func(f *fakefleet.Fleet)
		spec  func(*etcd.Spec)
		says  []string
	}{
		"another cluster's host": {
			state: func(f *fakefleet.Fleet) { remark(f.Host(2), func(m *etcd.Marker) { m.Cluster = "other.one" }) },
			says:  []string{"host pg2", `"other.one"`, "in the configuration that made it"},
		},
		"another member's host": {
			state: func(f *fakefleet.Fleet) { remark(f.Host(2), func(m *etcd.Marker) { m.Member = "pg9" }) },
			says:  []string{"host pg2", `the member "pg9" of the cluster, not "pg2"`},
		},
		"two clusters of one name": {
			state: func(f *fakefleet.Fleet) { remark(f.Host(2), func(m *etcd.Marker) { m.UID = "another" }) },
			says:  []string{"2 different clusters", "pg1, pg3"},
		},
		"a member that lost its data": {
			state: func(f *fakefleet.Fleet) { f.Host(2).Files.Remove("/var/lib/etcd/dcs") },
			says:  []string{"host pg2", "has lost its data", "so that they can take this one in anew"},
		},
		"a purge that was cut off": {
			state: func(f *fakefleet.Fleet) {
				remark(f.Host(2), func(m *etcd.Marker) { m.Purging = true })
				f.Host(2).Files.Remove("/var/lib/etcd/dcs")
			},
			says: []string{"host pg2", "was begun and cut off", "terraform destroy"},
		},
		"somebody's etcd runs": {
			state: func(f *fakefleet.Fleet) { f.Host(2).Files.Remove(etcd.MarkerPath) },
			says:  []string{"host pg2", "an etcd that is not ours is running"},
		},
		"somebody's data": {
			fresh: true, state: func(f *fakefleet.Fleet) { f.Host(2).Files.Put("/var/lib/etcd/dcs/member/wal", fakehost.File{}) },
			says: []string{"host pg2", "does not say whose it is"},
		},
		"a port in use": {
			fresh: true, state: func(f *fakefleet.Fleet) { f.Host(2).Ports[2380] = "nginx" },
			says: []string{"host pg2", "port 2380 is in use", "nginx"},
		},
		"a disk that is too small": {
			fresh: true, state: func(f *fakefleet.Fleet) { f.Host(2).DiskKiB = 100 << 10 },
			says: []string{"host pg2", "only 100 MiB free of the 256 MiB", "where /var/lib/etcd/dcs is to be"},
		},
		"an authority that is on no host any more": {
			state: func(f *fakefleet.Fleet) {
				for _, m := range f.Machines() {
					m.Files.Remove("/etc/pgha/ca/etcd-dcs")
				}
			},
			says: []string{"/etc/pgha/ca/etcd-dcs is on none of the hosts any more", "backup"},
		},
		"a version that no repository has": {
			fresh: true, spec: func(s *etcd.Spec) { s.Version = "3.6.0" },
			says: []string{"host pg1", "3.6.0", "3.5.16"},
		},
		"a marker that cannot be read": {
			state: func(f *fakefleet.Fleet) { f.Host(2).Files.Text(etcd.MarkerPath, "{") },
			says:  []string{etcd.MarkerPath + " cannot be read"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			fleet(t, !c.fresh, func(t *testing.T, f *fakefleet.Fleet) {
				f.Watch.Off()
				if c.state != nil {
					f.Do(func() { c.state(f) })
				}
				s := f.EtcdSpec()
				if c.spec != nil {
					c.spec(&s)
				}
				plan, err := planned(t, f, s, 0)
				if err == nil {
					t.Fatalf("there is a plan: %s", plan)
				}
				all := details(err)
				for _, part := range c.says {
					if !strings.Contains(all, part) {
						t.Errorf("the error does not say %q:\n%s", part, all)
					}
				}
			})
		})
	}
}

// Nothing is planned while a host cannot be asked.
func TestPlanNeedsAllHosts(t *testing.T) {
	fleet(t, true, func(t *testing.T, f *fakefleet.Fleet) {
		f.Do(func() { f.Host(3).Cut = true })
		_, err := planned(t, f, f.EtcdSpec(), 0)
		var e *host.Error
		if !errors.As(err, &e) || e.Host != "pg3" {
			t.Errorf("the error is %v", err)
		}
	})
}

// Destroying keeps the data unless it is told not to, and does nothing on a
// host where there is nothing.
func TestDestroyPlan(t *testing.T) {
	fleet(t, true, func(t *testing.T, f *fakefleet.Fleet) {
		f.Watch.Off()
		f.Do(func() {
			m := f.Host(3)
			m.Files.Remove(etcd.MarkerPath)
			m.Files.Remove("/var/lib/etcd/dcs")
			m.Units["etcd.service"].Active = "inactive"
		})
		s, p := f.EtcdSpec(), f.Start("planner")
		facts := etcd.Probe(t.Context(), p, s)
		for purge, want := range map[bool]string{
			false: "{etcd.stop@pg1, etcd.unhold@pg1 | etcd.stop@pg2, etcd.unhold@pg2}",
			true: "{etcd.stop@pg1, etcd.unhold@pg1, etcd.mark.purging@pg1, etcd.purge@pg1, etcd.purge.files@pg1, etcd.unmark@pg1" +
				" | etcd.stop@pg2, etcd.unhold@pg2, etcd.mark.purging@pg2, etcd.purge@pg2, etcd.purge.files@pg2, etcd.unmark@pg2}",
		} {
			if got := etcd.DestroyPlan(s, facts, purge, p.EtcdManager().Doer).String(); got != want {
				t.Errorf("purge %v: the plan is\n%s\nwant\n%s", purge, got, want)
			}
		}
	})
}

// details is an error as users see it.
func details(err error) string { return err.Error() + "\n" + problem.Details(err) }
