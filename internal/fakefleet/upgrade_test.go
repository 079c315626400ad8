package fakefleet_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

const newerEtcd = "3.5.30"

// upgradable runs a test on an etcd cluster whose hosts can get a newer version.
func upgradable(t *testing.T, seed uint64, test func(t *testing.T, f *fakefleet.Fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := fakefleet.New(t, fakefleet.Config{Config: fakehost.Config{Seed: seed}})
		p := f.Start("creator")
		if _, err := p.EtcdManager().Apply(patient(t), f.EtcdSpec()); err != nil {
			t.Fatal(err)
		}
		client, err := p.Opener(t.Context(), f.EtcdSpec().Access())
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Put(t.Context(), "/witness", "still there"); err != nil {
			t.Fatal(err)
		}
		f.Do(func() {
			for _, m := range f.Machines() {
				for _, pkg := range []string{"etcd-server", "etcd-client"} {
					m.Publish(true, pkg, newerEtcd+"-1")
				}
			}
		})
		f.Settle()
		test(t, f)
	})
}

func version(f *fakefleet.Fleet, v string) etcd.Spec {
	s := f.EtcdSpec()
	s.Version = v
	return s
}

// checkVersion checks that all members run a version, that it is held, and that
// nothing is left of the way there.
func checkVersion(t *testing.T, f *fakefleet.Fleet, want string) {
	t.Helper()
	f.Do(func() {
		st := f.Etcd.Stores()
		if len(st) != 1 || len(st[0].Running()) != 3 {
			t.Fatalf("%d clusters, %v run", len(st), st[0].Running())
		}
		for name, v := range st[0].Versions() {
			if v != want {
				t.Errorf("%s runs %s, not %s", name, v, want)
			}
		}
		if left := st[0].Keys("/pgha/etcd/dcs/upgrade"); len(left) > 0 {
			t.Errorf("left in etcd: %v", left)
		}
		for _, m := range f.Machines() {
			if held := m.Held(); !slices.Equal(held, []string{"etcd-client", "etcd-server"}) {
				t.Errorf("%s holds %v", m.Name, held)
			}
			for _, p := range m.Files.Paths() {
				if strings.HasPrefix(p, "/usr/lib/pgha") || strings.Contains(p, "previous") {
					t.Errorf("left on %s: %s", m.Name, p)
				}
			}
		}
	})
	reader := f.Start("reader")
	o, err := reader.EtcdManager().Observed(patient(t), version(f, want))
	if err != nil || len(o.Drift) > 0 {
		t.Errorf("afterwards there is drift: %v %v", o.Drift, err)
	}
	if _, err := reader.EtcdManager().Apply(patient(t), version(f, want)); err != nil {
		t.Error(err)
	}
	for _, m := range f.Mutations("reader") {
		t.Errorf("applying again did something: %s", m)
	}
}

func snapshots(f *fakefleet.Fleet) (list []string) {
	f.Do(func() {
		for _, m := range f.Machines() {
			list = append(list, m.Files.List("/var/backups/etcd/dcs")...)
		}
	})
	return list
}

// Members are upgraded one at a time, the leader last, after a snapshot; the plan
// says so. Going back within the line is the same.
func TestUpgrade(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			upgradable(t, seed+1, func(t *testing.T, f *fakefleet.Fleet) {
				lead := ""
				f.Do(func() { lead = f.Etcd.Stores()[0].Leader() })
				p := f.Start("changer")
				plan, err := p.EtcdManager().Preview(patient(t), version(f, newerEtcd), "")
				if err != nil {
					t.Fatal(err)
				}
				said := strings.Join(etcd.Describe(plan), "\n")
				last := strings.LastIndex(said, "restart it with etcd 3.5.30-1 instead of 3.5.16")
				if a := strings.Index(said, "take a snapshot and verify it"); a < 0 || last < a || !strings.HasPrefix(said[strings.LastIndex(said[:last], "\n")+1:], lead+": ") ||
					!strings.Contains(said[last:], "it leads, and hands that over first") {
					t.Errorf("%s leads; the plan is\n%s", lead, said)
				}
				if _, err := p.EtcdManager().Apply(patient(t), version(f, newerEtcd)); err != nil {
					t.Fatal(err)
				}
				if order := restarts(f, "changer"); len(order) != 3 || order[2] != lead {
					t.Errorf("restarted %v, the leader was %s", order, lead)
				}
				f.Do(func() {
					if now := f.Etcd.Stores()[0].Leader(); now == lead {
						t.Errorf("%s leads as before: it has not handed that over", now)
					}
				})
				checkVersion(t, f, newerEtcd)
				if n := len(snapshots(f)); n != 1 {
					t.Errorf("%d snapshots", n)
				}
				f.Sleep(time.Minute)
				if _, err := f.Start("back").EtcdManager().Apply(patient(t), version(f, "3.5.16")); err != nil {
					t.Fatal(err)
				}
				checkVersion(t, f, "3.5.16")
				if n := len(snapshots(f)); n != 2 {
					t.Errorf("%d snapshots after going back", n)
				}
			})
		})
	}
}

// Wherever the run is killed, whatever its host does then, a member runs the new
// version only if its turn had come; the next run goes on from there, or back.
func TestUpgradeCrash(t *testing.T) {
	total := 0
	upgradable(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		p := f.Start("changer")
		if _, err := p.EtcdManager().Apply(patient(t), version(f, newerEtcd)); err != nil {
			t.Fatal(err)
		}
		total = p.Mutations()
	})
	step := 1
	if testing.Short() {
		step = 5
	}
	for k := 1; k <= total; k += step {
		for _, to := range []string{newerEtcd, "3.5.16"} {
			t.Run(fmt.Sprint(k, " then ", to), func(t *testing.T) {
				t.Parallel()
				upgradable(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
					fault := fakehost.CrashAfter(k)
					if k%2 == 0 {
						fault = fakehost.CrashBefore(k)
					}
					first := f.Start("first", fault)
					if _, err := first.EtcdManager().Apply(patient(t), version(f, newerEtcd)); err == nil && first.Crashed() {
						t.Fatal("the run that was killed reports success")
					}
					turned := restarts(f, "first")
					f.Settle()
					if k%3 == 0 {
						rebooted(t, f, turned)
					}
					second := f.Start("second")
					if _, err := second.EtcdManager().Apply(patient(t), version(f, to)); err != nil {
						t.Log(first.Output())
						t.Log(second.Output())
						t.Fatalf("the second run failed: %v", err)
					}
					checkVersion(t, f, to)
				})
			})
		}
	}
}

// rebooted has the hosts lose their power, one after the other. None of them may come
// back with a version that its turn has not come for.
func rebooted(t *testing.T, f *fakefleet.Fleet, turned []string) {
	t.Helper()
	for _, m := range f.Machines() {
		ready := false // its drop-in is gone: its turn had begun
		f.Do(func() {
			ready = slices.Contains(turned, m.Name) || m.Installed("etcd-server") == newerEtcd+"-1" && m.Files.Get("/etc/systemd/system/etcd.service.d/pgha-previous.conf") == nil
			m.PowerOff()
			f.Etcd.Refresh()
		})
		f.Settle()
		f.Do(m.PowerOn)
		f.Settle()
		f.Do(func() {
			v := f.Etcd.Stores()[0].Versions()[m.Name]
			if !ready && v != "3.5.16" {
				t.Errorf("%s came back with %s before its turn", m.Name, v)
			}
		})
	}
}

// A version that does not start halts the upgrade at its first member; the others go
// on with what they ran. The next apply brings the old version back, or another new
// one.
func TestUpgradeHalts(t *testing.T) {
	for _, to := range []string{"3.5.16", "3.5.31"} {
		t.Run(to, func(t *testing.T) {
			upgradable(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
				f.Do(func() {
					f.Etcd.Broken = newerEtcd
					for _, m := range f.Machines() {
						m.Publish(true, "etcd-server", "3.5.31-1")
						m.Publish(true, "etcd-client", "3.5.31-1")
					}
				})
				_, err := f.Start("changer").EtcdManager().Apply(patient(t), version(f, newerEtcd))
				wantError(t, err, "restart etcd.service")
				if all := details(err); !strings.Contains(all, "does not start in this test") || !strings.Contains(all, `set version = "3.5.16"`) {
					t.Errorf("the error is\n%s", all)
				}
				order := restarts(f, "changer")
				f.Do(func() {
					if running := f.Etcd.Stores()[0].Running(); len(order) != 1 || len(running) != 2 || slices.Contains(running, order[0]) {
						t.Errorf("restarted %v, %v run", order, running)
					}
				})
				p := f.Start("second")
				if _, err := p.EtcdManager().Apply(patient(t), version(f, to)); err != nil {
					t.Log(p.Output())
					t.Fatal(err)
				}
				checkVersion(t, f, to)
			})
		})
	}
}

// A host that dies halts it, and is named.
func TestUpgradeDeadHost(t *testing.T) {
	upgradable(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		var dead *fakehost.Machine
		p := f.Start("changer", fakehost.FailCall(func(c fakehost.Call) bool {
			if c.Name != "unit" || c.Args[0] != "restart" || dead != nil {
				return false
			}
			for _, m := range f.Machines() {
				if m.Name != c.Host {
					dead = m
				}
			}
			f.Do(func() {
				dead.PowerOff()
				f.Etcd.Refresh()
			})
			return false
		}, -1, fakehost.Verdict{}))
		f.Watch.Off()
		_, err := p.EtcdManager().Apply(patient(t), version(f, newerEtcd))
		if err == nil || !strings.Contains(details(err), dead.Name) {
			t.Fatalf("the error does not name %s:\n%v", dead.Name, err)
		}
		f.Do(dead.PowerOn)
		f.Settle()
		if _, err := f.Start("second").EtcdManager().Apply(patient(t), version(f, newerEtcd)); err != nil {
			t.Fatal(err)
		}
		checkVersion(t, f, newerEtcd)
	})
}

// With passwords a newer etcd shuts an old Patroni out: refused before anything is
// touched, and in the plan.
func TestUpgradeRefusedForPatroni(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		f.Do(func() {
			for _, m := range f.Machines() {
				for _, pkg := range []string{"etcd-server", "etcd-client"} {
					m.Publish(true, pkg, newerEtcd+"-1", "3.5.27-1")
				}
			}
		})
		p := f.Start("changer")
		_, err := p.EtcdManager().Preview(patient(t), version(f, newerEtcd), "")
		wantError(t, err, "main/pg1 runs 4.0.7")
		_, err = p.EtcdManager().Apply(patient(t), version(f, newerEtcd))
		wantError(t, err, "main/pg1 runs 4.0.7")
		for _, m := range f.Mutations("changer") {
			if m.Name != "flock.hold" {
				t.Errorf("something was done: %s", m)
			}
		}
		if _, err := p.EtcdManager().Apply(patient(t), version(f, "3.5.27")); err != nil {
			t.Fatal(err)
		}
		f.WaitHealthy(2)
	})
}

// Members that an upgrade which was begun finds ill may only have been slow to say how
// they are: they vote, and are not stopped both at once.
func TestUpgradeSlowMembers(t *testing.T) {
	upgradable(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		first := f.Start("first", func(c fakehost.Call) fakehost.Verdict {
			noted := c.Name == "etcd.put" && c.Args[0] == "/pgha/etcd/dcs/upgrade"
			return fakehost.Verdict{Crash: noted, After: noted}
		})
		if _, err := first.EtcdManager().Apply(patient(t), version(f, newerEtcd)); err == nil {
			t.Fatal("the run that was killed reports success")
		}
		f.Settle()
		f.OnUnit(func(verb string, u *fakehost.Unit) {
			for _, m := range f.Machines() {
				if other := m.Units["etcd.service"]; verb == "stop" && u.Name == "etcd.service" && other != u && other.Active != "active" {
					t.Errorf("etcd is stopped on %s while it is %s on %s", u.Machine.Name, other.Active, m.Name)
				}
			}
		})
		installed := false
		second := f.Start("second", func(c fakehost.Call) fakehost.Verdict {
			installed = installed || c.Name == "apt.install"
			if c.Name != "etcd.status" || installed || strings.Contains(c.Args[0], "10.0.0.1:") {
				return fakehost.Verdict{}
			}
			return fakehost.Verdict{Err: fakehost.Kind(host.KindTimeout)}
		})
		// It may halt, if the first one is not back when it is the second one's turn.
		_, err := second.EtcdManager().Apply(patient(t), version(f, newerEtcd))
		if steps := strings.Join(second.Steps(), " "); !strings.Contains(steps, "etcd.upgrade.heal@pg2") {
			t.Errorf("nobody was taken for ill: %s (%v)", steps, err)
		}
		f.Settle()
		if _, err := f.Start("third").EtcdManager().Apply(patient(t), version(f, newerEtcd)); err != nil {
			t.Fatal(err)
		}
		checkVersion(t, f, newerEtcd)
	})
}
