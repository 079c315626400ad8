package fakefleet_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// lose stops etcd on hosts and, if it is to be gone, deletes its data.
func lose(f *fakefleet.Fleet, gone bool, machines ...*fakehost.Machine) {
	f.Watch.Off()
	for _, m := range machines {
		f.Do(func() { m.Units["etcd.service"].Halt() })
	}
	f.Sleep(2 * time.Second)
	for _, m := range machines {
		f.Do(func() {
			if gone {
				for _, p := range m.Files.Below("/var/lib/etcd/dcs") {
					m.Files.Remove(p)
				}
			}
		})
	}
}

// snapshotNow takes a snapshot and returns what restores it.
func snapshotNow(t *testing.T, f *fakefleet.Fleet) *etcd.Restore {
	t.Helper()
	do := f.Start("snapshot").EtcdManager().Doer
	defer do.Close()
	at, err := do.TakeSnapshot(patient(t), f.EtcdSpec(), "for a test")
	if err != nil {
		t.Fatal(err)
	}
	r, err := etcd.ParseRestore(at, "")
	if err != nil {
		t.Fatal(err)
	}
	return &r
}

func restoreSpec(f *fakefleet.Fleet, r *etcd.Restore) etcd.Spec {
	s := f.EtcdSpec()
	s.Restore = r
	return s
}

// failsafe has Patroni's primary go on without etcd.
func failsafe(t *testing.T, f *fakefleet.Fleet) {
	t.Helper()
	s := f.ClusterSpec()
	s.Wanted["failsafe_mode"] = true
	if _, err := f.Start("failsafe").PatroniManager().ApplyCluster(patient(t), s); err != nil {
		t.Fatal(err)
	}
	f.Settle()
}

// write has a client write so much, if there is a primary.
func write(f *fakefleet.Fleet, bytes int64) (ok bool) {
	f.Do(func() { ok = f.Patroni.Write(fakefleet.Scope, bytes) })
	return ok
}

// checkRestored checks that etcd serves from a new cluster, and that Patroni is well
// on it.
func checkRestored(t *testing.T, f *fakefleet.Fleet) {
	t.Helper()
	f.WaitHealthy(2)
	f.Settle()
	if v := f.Value("/service/main/config"); strings.Contains(v, "pause") || v == "" {
		t.Errorf("Patroni's configuration: %s", v)
	}
	if keys := f.Keys("/pgha/etcd/dcs/paused/"); len(keys) > 0 {
		t.Errorf("noted as paused: %v", keys)
	}
	f.Do(func() {
		for _, m := range f.Machines() {
			for _, p := range m.Files.Paths() {
				if strings.Contains(p, "restore.db") || strings.Contains(p, ".scratch") || strings.Contains(p, "/restored-") {
					t.Errorf("%s is left on %s", p, m.Name)
				}
			}
		}
	})
	for name, id := range f.SystemIDs() {
		if id != f.Value("/service/main/initialize") {
			t.Errorf("the database on %s is %s", name, id)
		}
	}
	if len(f.Patroni.Initdbs) != 1 {
		t.Errorf("databases were made on %v", f.Patroni.Initdbs)
	}
}

// etcd's data is lost on all hosts. From a snapshot a new cluster is made; Patroni's
// primary, which has gone on in failsafe mode, leads on, although another node led
// when the snapshot was taken.
func TestRestore(t *testing.T) {
	for _, safe := range []bool{true, false} {
		t.Run(fmt.Sprintf("failsafe %v", safe), func(t *testing.T) {
			created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
				if safe {
					failsafe(t, f)
				}
				old := leader(t, f)
				r := snapshotNow(t, f)
				s := restoreSpec(f, r)
				if _, err := f.Start("early").EtcdManager().Apply(patient(t), s); err == nil {
					t.Fatal("a healthy cluster was restored over")
				} else {
					wantError(t, err, "which may have a quorum and the data", "pg1, pg2, pg3")
				}
				if d, err := f.Start("previewer").EtcdManager().PreviewRestore(patient(t), s); err == nil {
					t.Errorf("planned: %v", d)
				}
				// Somebody else leads now.
				f.Do(func() { old.Units["patroni.service"].Halt() })
				f.Watch.Off()
				f.Sleep(time.Minute)
				f.Do(func() { old.Units["patroni.service"].Elapse() })
				f.WaitHealthy(2)
				f.Settle()
				now := leader(t, f)
				if now == old {
					t.Fatal("the same node leads")
				}
				f.Do(func() {
					if !safe { // only the primary has the last rows
						for _, m := range f.Machines() {
							if m != now {
								f.Patroni.Node(m).Disconnect()
								m.Units["etcd.service"].Halt()
							}
						}
						f.Patroni.Write(fakefleet.Scope, 1000)
					}
				})
				lose(f, true, f.Machines()...)
				for range 30 {
					f.Sleep(2 * time.Second)
					if ok := write(f, 1000); safe && !ok {
						t.Fatal("the primary does not take writes in failsafe mode")
					}
				}
				lines, err := f.Start("previewer").EtcdManager().PreviewRestore(patient(t), s)
				if err != nil || !strings.Contains(strings.Join(lines, "\n"), "from the snapshot "+r.From()) {
					t.Errorf("the plan says %v, %v", lines, err)
				}
				p := f.Start("restorer")
				uid, err := p.EtcdManager().Apply(patient(t), s)
				if err != nil {
					t.Fatalf("%v\n%s", err, p.Output())
				}
				checkRestored(t, f)
				if f.Primary() != now.Name {
					t.Errorf("%s leads, and %s had the newest data", f.Primary(), now.Name)
				}
				if f.Value(own+"restored") != r.From() {
					t.Error("it is not noted that what is known of the cluster is from a snapshot")
				}
				again := f.Start("again")
				if u, err := again.EtcdManager().Apply(patient(t), s); err != nil || u != uid || again.Mutations() > 0 {
					t.Errorf("applied again: %s, %v, %v", u, err, again.Steps())
				}
				if d := etcdDrift(t, f, s); d != "" {
					t.Errorf("drift: %s", d)
				}
			})
		})
	}
}

// The hosts of a majority are built anew: the one that is left has the authority, the
// credentials and the snapshot.
func TestRestoreQuorumLost(t *testing.T) {
	created(t, 2, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		failsafe(t, f)
		r := snapshotNow(t, f)
		s := restoreSpec(f, r)
		for _, m := range f.Machines() {
			if m.Name == r.Member {
				continue
			}
			lose(f, true, m)
			f.Do(func() {
				for _, p := range m.Files.Paths() {
					if strings.HasPrefix(p, "/etc/pgha/etcd") || strings.HasPrefix(p, "/etc/pgha/ca") || strings.Contains(p, "etcd.service.d") {
						m.Files.Remove(p)
					}
				}
			})
		}
		if _, err := f.Start("restorer").EtcdManager().Apply(patient(t), s); err != nil {
			t.Fatal(err)
		}
		checkRestored(t, f)
		if d := etcdDrift(t, f, s); d != "" {
			t.Errorf("drift: %s", d)
		}
	})
}

// What cannot be restored is refused, and nothing is touched.
func TestRestoreRefused(t *testing.T) {
	created(t, 3, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		r := snapshotNow(t, f)
		refused := func(name string, s etcd.Spec, parts ...string) {
			t.Helper()
			p := f.Start(name)
			_, err := p.EtcdManager().Apply(patient(t), s)
			wantError(t, err, parts...)
			if n := p.Mutations(); n > 0 {
				t.Errorf("%s: %d changes were made: %v", name, n, p.Steps())
			}
		}
		lose(f, true, f.Machines()...)
		refused("no file", restoreSpec(f, &etcd.Restore{Member: "pg1", Path: "/var/backups/etcd/dcs/none.db"}), "none.db does not exist")
		refused("no member", restoreSpec(f, &etcd.Restore{Member: "pg9", Path: r.Path}), "pg9")
		f.Do(func() { byName(f, "pg2").Files.Text("/root/broken.db", "xx") })
		refused("broken", restoreSpec(f, &etcd.Restore{Member: "pg2", Path: "/root/broken.db"}), "not a whole snapshot")
		text := string(byName(f, r.Member).Files.Read(r.Path))
		f.Do(func() {
			byName(f, "pg2").Files.Text("/root/newer.db", strings.Replace(text, `"Version":"3.5.0"`, `"Version":"3.6.0"`, 1))
		})
		refused("newer", restoreSpec(f, &etcd.Restore{Member: "pg2", Path: "/root/newer.db"}), "is of etcd 3.6")
		// One host is off: its member might come back.
		f.Do(byName(f, "pg3").PowerOff)
		refused("a host is off", restoreSpec(f, r), "pg3")
	})
}

// The snapshot of another cluster has other passwords.
func TestRestoreAnothersSnapshot(t *testing.T) {
	created(t, 3, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		r := snapshotNow(t, f)
		f.Do(func() {
			m := byName(f, r.Member)
			text := string(m.Files.Read(r.Path))
			i := strings.Index(text, `"Password":"`) + len(`"Password":"`)
			other := text[:i] + strings.Repeat("0", 48) + text[i+48:]
			i = strings.LastIndex(other, `{"Name":"pgha","Password":"`) + len(`{"Name":"pgha","Password":"`)
			other = other[:i] + strings.Repeat("1", 48) + other[i+48:]
			m.Files.Text("/root/other.db", other)
		})
		lose(f, false, f.Machines()...)
		_, err := f.Start("restorer").EtcdManager().Apply(patient(t), restoreSpec(f, &etcd.Restore{Member: r.Member, Path: "/root/other.db"}))
		wantError(t, err, "is not of this cluster")
		// Nobody was touched: started again, the cluster is what it was.
		f.Do(func() {
			for _, m := range f.Machines() {
				m.Units["etcd.service"].Elapse()
			}
		})
		applyEtcd(t, f, "again", f.EtcdSpec())
		f.WaitHealthy(2)
	})
}

// Killed before or after each change of a restore, the next apply ends it, and
// nobody has lost anything.
func TestRestoreCrash(t *testing.T) {
	total := 0
	run := func(t *testing.T, from string, fault ...fakehost.Fault) {
		created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
			failsafe(t, f)
			r := &etcd.Restore{}
			if from != etcd.FromNothing {
				r = snapshotNow(t, f)
			}
			s := restoreSpec(f, r)
			lose(f, true, f.Machines()...)
			p := f.Start("first", fault...)
			_, err := p.EtcdManager().Apply(patient(t), s)
			if total == 0 {
				total = p.Mutations()
			} else if err == nil || !p.Crashed() {
				t.Fatalf("the run was not killed: %v", err)
			}
			f.Sleep(time.Minute)
			if p := f.Primary(); p == "" {
				t.Error("the primary stopped taking writes meanwhile")
			}
			applyEtcd(t, f, "second", s)
			if from != etcd.FromNothing {
				checkRestored(t, f)
			}
			if d := etcdDrift(t, f, s); d != "" {
				t.Errorf("drift: %s", d)
			}
			if p := applyEtcd(t, f, "third", s); p.Mutations() > 0 {
				t.Errorf("applying again had steps: %v", p.Steps())
			}
		})
	}
	for _, from := range []string{"snapshot", etcd.FromNothing} {
		total = 0
		t.Run(from, func(t *testing.T) { run(t, from) })
		step := stride(5, 4)
		for k := 1; k <= total; k += step {
			t.Run(fmt.Sprintf("%s before change %d", from, k), func(t *testing.T) { t.Parallel(); run(t, from, fakehost.CrashBefore(k)) })
			t.Run(fmt.Sprintf("%s after change %d", from, k), func(t *testing.T) { t.Parallel(); run(t, from, fakehost.CrashAfter(k)) })
		}
	}
}

// All hosts were without power, and etcd's data is gone. Patroni's processes are new:
// none knows of the others, and only one node has the last rows. None leads before that
// one does, whose name nobody has to say: the snapshot knows the nodes.
func TestRestoreAfterPowerCut(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			created(t, seed, func(t *testing.T, f *fakefleet.Fleet, uid string) {
				r := snapshotNow(t, f)
				lead := leader(t, f)
				ways["power"](t, f)
				applyEtcd(t, f, "restorer", restoreSpec(f, r))
				f.Settle()
				if p := f.Primary(); p != "" {
					t.Errorf("%s leads before anybody knows who may", p)
				}
				s := f.ClusterSpec()
				s.Cluster.UID = uid
				p := f.Start("cluster")
				if _, err := p.PatroniManager().ApplyCluster(patient(t), s); err != nil {
					t.Fatalf("%v\n%s", err, p.Output())
				}
				checkRestored(t, f)
				if f.Primary() != lead.Name {
					t.Errorf("%s leads, and %s had the newest data", f.Primary(), lead.Name)
				}
				if err := f.Start("nodes").ApplyNodes(patient(t), uid, f.Machines()...); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// A cluster that is made anew with the attribute in its configuration has nothing to be
// restored, then or later; nor has a member that joins one that was restored.
func TestRestoreLeftInTheConfiguration(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		s := restoreSpec(f, &etcd.Restore{Member: "pg1", Path: "/srv/old.db"})
		all := s.Members
		s.Members = map[string]etcd.Member{"pg1": all["pg1"]}
		applyEtcd(t, f, "creator", s)
		if p := applyEtcd(t, f, "again", s); p.Mutations() > 0 {
			t.Errorf("applying again had steps: %v", p.Steps())
		}
		s.Members = all
		f.Sleep(10 * time.Second)
		applyEtcd(t, f, "grow", s)
		if p := applyEtcd(t, f, "last", s); p.Mutations() > 0 {
			t.Errorf("applying again had steps: %v", p.Steps())
		}
		if n := len(f.Etcd.Stores()); n != 1 {
			t.Errorf("%d clusters were made", n)
		}
	})
}
