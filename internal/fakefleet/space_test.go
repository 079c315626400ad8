package fakefleet_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

const mib = 1 << 20

// smallSpec is the fleet's etcd cluster with the smallest quota.
func smallSpec(f *fakefleet.Fleet) etcd.Spec {
	s := f.EtcdSpec()
	s.QuotaBytes = 16 * mib
	return s
}

// small runs a test on an etcd cluster whose databases have a size.
func small(t *testing.T, size, inUse, live int64, test func(t *testing.T, f *fakefleet.Fleet)) {
	t.Helper()
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		applyEtcd(t, f, "creator", smallSpec(f))
		f.Do(func() { f.Etcd.Stores()[0].Fill(size, inUse, live) })
		test(t, f)
	})
}

// alarms are those that are raised, by member.
func alarms(f *fakefleet.Fleet) (list []string) {
	f.Do(func() {
		for n, a := range f.Etcd.Stores()[0].Alarms {
			if a != "" {
				list = append(list, n+" "+a)
			}
		}
	})
	slices.Sort(list)
	return list
}

// defragmented are the members that a run has defragmented, in order.
func defragmented(f *fakefleet.Fleet, process string) (list []string) {
	for _, c := range f.Mutations(process) {
		if c.Name == "etcd.defragment" {
			for _, m := range f.Machines() {
				if strings.Contains(c.Args[0], m.Address+":") {
					list = append(list, m.Name)
				}
			}
		}
	}
	return list
}

// A cluster that its history has filled: the plan says what is going on and what
// it will do, and the apply drops the history, defragments one member after the
// other, the leader last, and takes the alarm back.
func TestFullOfHistory(t *testing.T) {
	small(t, 16*mib, 15*mib, 3*mib, func(t *testing.T, f *fakefleet.Fleet) {
		s := smallSpec(f)
		if got := alarms(f); len(got) != 3 {
			t.Fatalf("alarms: %v", got)
		}
		d := etcdDrift(t, f, s)
		for _, want := range []string{
			"cluster: drop the history of all keys (the cluster accepts no writes: alarm NOSPACE of pg1, pg2, pg3) (safe)",
			"cluster: defragment pg1, pg2, pg3, one at a time, the leader last", "(restart)", "cluster: accept writes again (disarm the alarm NOSPACE) (safe)",
		} {
			if !strings.Contains(d, want) {
				t.Errorf("the drift does not say %q:\n%s", want, d)
			}
		}
		lead := etcdLeader(f).Name
		applyEtcd(t, f, "mender", s)
		if order := defragmented(f, "mender"); len(order) != 3 || order[2] != lead {
			t.Errorf("defragmented %v; %s leads", order, lead)
		}
		if got, d := alarms(f), etcdDrift(t, f, s); len(got) > 0 || d != "" {
			t.Errorf("alarms %v, drift %s", got, d)
		}
		if p := applyEtcd(t, f, "again", s); p.Mutations() > 0 {
			t.Errorf("applying again had steps %v", p.Steps())
		}
	})
}

// A cluster that is full of what is needed: the apply says so, with numbers, and
// does not take the alarm back; a higher quota does.
func TestFullOfData(t *testing.T) {
	small(t, 16*mib, 15*mib, 15*mib, func(t *testing.T, f *fakefleet.Fleet) {
		s := smallSpec(f)
		_, err := f.Start("first").EtcdManager().Apply(patient(t), s)
		wantError(t, err, "accept writes again", "the quota is to be 16.0 MiB, and 15.0 MiB of the database of pg1 are in use")
		if text := details(err); !strings.Contains(text, "set quota_backend_bytes to 16.9 MiB or more") || !strings.Contains(text, "find out what fills it") {
			t.Errorf("what to do: %s", text)
		}
		if got := alarms(f); len(got) != 3 {
			t.Errorf("alarms: %v", got)
		}
		s.QuotaBytes = 64 * mib
		lead := etcdLeader(f).Name
		applyEtcd(t, f, "raiser", s)
		if order := restarts(f, "raiser"); len(order) != 3 || order[2] != lead {
			t.Errorf("restarted %v; %s leads", order, lead)
		}
		if got, d := alarms(f), etcdDrift(t, f, s); len(got) > 0 || d != "" {
			t.Errorf("alarms %v, drift %s", got, d)
		}
	})
}

// A quota that the data does not fit into is refused; one that it fits into
// without what is wasted comes after a defragmentation.
func TestLowerQuota(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		applyEtcd(t, f, "creator", f.EtcdSpec())
		f.Do(func() { f.Etcd.Stores()[0].Fill(100*mib, 40*mib, 40*mib) })
		s := f.EtcdSpec()
		s.QuotaBytes = 32 * mib
		p := f.Start("too low")
		_, err := p.EtcdManager().Preview(patient(t), s, "")
		wantError(t, err, "the quota is to be 32.0 MiB, and 40.0 MiB of the database of pg1 are in use")
		if !errors.As(err, new(*etcd.QuotaError)) {
			t.Errorf("the error is %T", err)
		}
		if _, err := p.EtcdManager().Apply(patient(t), s); err == nil || p.Mutations() > 0 {
			t.Errorf("%v, after %d changes", err, p.Mutations())
		}
		s.QuotaBytes = 64 * mib
		p = applyEtcd(t, f, "low", s)
		steps := strings.Join(p.Steps(), " ")
		if a, b := strings.Index(steps, "etcd.defragment@"), strings.Index(steps, "etcd.restart@"); a < 0 || b < a {
			t.Errorf("steps %s", steps)
		}
		if got := alarms(f); len(got) > 0 {
			t.Errorf("alarms %v", got)
		}
	})
}

// What is wasted is given back where it is more than the settings allow, and only
// on those members.
func TestDefragmentAbove(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		s := f.EtcdSpec()
		applyEtcd(t, f, "creator", s)
		f.Do(func() {
			st := f.Etcd.Stores()[0]
			st.Fill(100*mib, 90*mib, 90*mib)
			st.DB("pg2").InUse = 10 * mib
		})
		if d := etcdDrift(t, f, s); d != "" {
			t.Errorf("without the setting: %s", d)
		}
		s.DefragmentAbove = 64 * mib
		if d := etcdDrift(t, f, s); !strings.Contains(d, "defragment pg2, one at a time") || !strings.Contains(d, "in the database of pg2 90.0 MiB of 100.0 MiB are free") {
			t.Errorf("drift: %s", d)
		}
		applyEtcd(t, f, "mender", s)
		if order := defragmented(f, "mender"); !slices.Equal(order, []string{"pg2"}) {
			t.Errorf("defragmented %v", order)
		}
		if d := etcdDrift(t, f, s); d != "" {
			t.Errorf("drift: %s", d)
		}
	})
}

// Nothing is defragmented while a member is away, while one is catching up, or
// where the disk has no room for a second database.
func TestDefragmentWaits(t *testing.T) {
	t.Run("a member is away", func(t *testing.T) {
		small(t, 16*mib, 15*mib, 3*mib, func(t *testing.T, f *fakefleet.Fleet) {
			u := f.Host(3).Units["etcd.service"]
			f.Do(func() {
				f.Host(3).Files.Get("/etc/pgha/etcd/dcs/server.key").Mode = "600"
				u.Active = "deactivating"
				u.Service.Stop(u)
			})
			f.WaitFor("etcd to stop", func() bool { return u.Active == "inactive" })
			_, err := f.Start("first").EtcdManager().Apply(patient(t), smallSpec(f))
			wantError(t, err, "pg3", "start etcd.service")
			if order := defragmented(f, "first"); len(order) > 0 || len(alarms(f)) == 0 {
				t.Errorf("defragmented %v, alarms %v", order, alarms(f))
			}
			f.Do(func() { f.Host(3).Files.Get("/etc/pgha/etcd/dcs/server.key").Mode = "640" })
			f.Sleep(time.Minute)
			applyEtcd(t, f, "second", smallSpec(f))
			if got := alarms(f); len(got) > 0 {
				t.Errorf("alarms %v", got)
			}
		})
	})
	t.Run("a member goes away in between", func(t *testing.T) {
		small(t, 16*mib, 15*mib, 3*mib, func(t *testing.T, f *fakefleet.Fleet) {
			p := f.Start("first", fakehost.FailCall(func(c fakehost.Call) bool {
				if c.Name != "etcd.defragment" {
					return false
				}
				for _, m := range f.Machines() {
					if strings.Contains(c.Args[0], m.Address+":") {
						f.World.After(time.Second/2, m.PowerOff)
					}
				}
				return false
			}, -1, fakehost.Verdict{}))
			_, err := p.EtcdManager().Apply(patient(t), smallSpec(f))
			if order := defragmented(f, "first"); err == nil || len(order) != 1 || !strings.Contains(err.Error(), order[0]) {
				t.Errorf("defragmented %v, and the error is %v", order, err)
			}
			f.Do(func() {
				for _, m := range f.Machines() {
					m.PowerOn()
				}
			})
			f.Sleep(time.Minute)
			applyEtcd(t, f, "second", smallSpec(f))
			if got := alarms(f); len(got) > 0 {
				t.Errorf("alarms %v", got)
			}
		})
	})
	t.Run("a member is catching up", func(t *testing.T) {
		small(t, 16*mib, 15*mib, 3*mib, func(t *testing.T, f *fakefleet.Fleet) {
			f.Do(func() {
				st := f.Etcd.Stores()[0]
				for i := range 300 {
					st.Put("/x", strings.Repeat("x", i%7), nil)
				}
				st.Behind["pg2"] = 200
			})
			f.World.After(time.Minute, func() { f.Etcd.Stores()[0].Behind["pg2"] = 0 })
			begin := time.Now()
			applyEtcd(t, f, "mender", smallSpec(f))
			if waited := time.Since(begin); waited < 50*time.Second || len(defragmented(f, "mender")) != 3 {
				t.Errorf("after %s: %v", waited, defragmented(f, "mender"))
			}
		})
	})
	t.Run("no room", func(t *testing.T) {
		small(t, 16*mib, 15*mib, 3*mib, func(t *testing.T, f *fakefleet.Fleet) {
			follower := ""
			f.Do(func() {
				for _, m := range f.Machines() {
					if m.Name != f.Etcd.Stores()[0].Leader() {
						follower = m.Name
						m.DiskKiB = 8 << 10
						break
					}
				}
			})
			_, err := f.Start("first").EtcdManager().Apply(patient(t), smallSpec(f))
			wantError(t, err, follower, "defragment its database", "has only 8 MiB free")
			if len(alarms(f)) == 0 {
				t.Error("the alarm was taken back")
			}
		})
	})
}

// Data that differs is shown and not touched; a person has to decide.
func TestCorrupt(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		s := f.EtcdSpec()
		f.Do(func() { f.Etcd.Stores()[0].Alarms["pg2"] = "CORRUPT" })
		if d := etcdDrift(t, f, s); !strings.Contains(d, "make sure that no member's data differs (alarm CORRUPT)") {
			t.Errorf("drift: %s", d)
		}
		p := f.Start("first")
		_, err := p.EtcdManager().Apply(patient(t), s)
		wantError(t, err, "pg2", "alarm CORRUPT")
		if text := details(err); !strings.Contains(text, "endpoint hashkv") || p.Mutations() > 0 {
			t.Errorf("%d changes, %s", p.Mutations(), text)
		}
	})
}

// Killed anywhere while a full cluster is mended, the next apply ends it.
func TestSpaceCrash(t *testing.T) {
	crashes(t, "full", func(f *fakefleet.Fleet) (etcd.Spec, etcd.Spec) { return smallSpec(f), smallSpec(f) }, func(f *fakefleet.Fleet) {
		f.Do(func() { f.Etcd.Stores()[0].Fill(16*mib, 15*mib, 3*mib) })
	})
	crashes(t, "a higher quota", func(f *fakefleet.Fleet) (etcd.Spec, etcd.Spec) {
		to := smallSpec(f)
		to.QuotaBytes = 64 * mib
		return smallSpec(f), to
	}, func(f *fakefleet.Fleet) {
		f.Do(func() { f.Etcd.Stores()[0].Fill(16*mib, 15*mib, 15*mib) })
	})
}
