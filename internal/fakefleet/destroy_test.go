package fakefleet_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// A replica that is destroyed goes, with its keys and its slot; nobody else
// notices. Its data stays, and creating it again takes that up without a
// clone.
func TestDestroyReplicaKeepsData(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		m := replicas(f)[0]
		before := f.Primary()
		if err := f.Start("destroyer").DestroyNodes(patient(t), uid, false, m); err != nil {
			t.Fatal(err)
		}
		if f.Primary() != before {
			t.Errorf("the leader changed from %s to %s", before, f.Primary())
		}
		if keys := f.Keys("/service/main/members/" + m.Name); len(keys) > 0 {
			t.Errorf("keys of the member are left: %v", keys)
		}
		f.Do(func() {
			if slots := f.Patroni.Primary("main").Slots(); slots[m.Name] || len(slots) != 1 {
				t.Errorf("slots on the leader: %v", slots)
			}
			if held := m.Held(); slices.Contains(held, "patroni") {
				t.Errorf("packages are still held: %v", held)
			}
		})
		if f.SystemIDs()[m.Name] == "" {
			t.Error("the data is gone")
		}
		f.Do(func() { f.Patroni.Write("main", 1000) })

		p := f.Start("again")
		if err := p.ApplyNodes(patient(t), uid, m); err != nil {
			t.Fatal(err)
		}
		f.WaitHealthy(2)
		if !slices.Contains(p.Steps(), "patroni.start@"+m.Name) || slices.Contains(p.Steps(), "patroni.form@"+m.Name) {
			t.Errorf("the data was not taken up: %v", p.Steps())
		}
	})
}

// A leader hands over before it is stopped.
func TestDestroyLeader(t *testing.T) {
	for seed := range 5 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			created(t, uint64(seed+1), func(t *testing.T, f *fakefleet.Fleet, uid string) {
				m := leader(t, f)
				if err := f.Start("destroyer").DestroyNodes(patient(t), uid, true, m); err != nil {
					t.Fatal(err)
				}
				if p := f.Primary(); p == "" || p == m.Name {
					t.Errorf("the leader is %q", p)
				}
				f.WaitHealthy(1)
				f.Do(func() {
					if n := len(f.Patroni.Promotions); n != 1 {
						t.Errorf("%d promotions: %v", n, f.Patroni.Promotions)
					}
				})
			})
		})
	}
}

// The request for a switchover is sent once, whatever becomes of it: an answer
// that is lost, or another member that takes over, is found out by asking the
// cluster.
func TestDestroyLeaderOddAnswers(t *testing.T) {
	third := func(f *fakefleet.Fleet, leader, candidate string) string {
		for _, n := range f.Names() {
			if n != leader && n != candidate {
				return n
			}
		}
		return ""
	}
	for name, outcome := range map[string]func(f *fakefleet.Fleet, leader, candidate string) fakefleetOutcome{
		"the answer is lost": func(*fakefleet.Fleet, string, string) fakefleetOutcome { return fakefleetOutcome{Silent: true} },
		"another takes over": func(f *fakefleet.Fleet, l, c string) fakefleetOutcome { return fakefleetOutcome{To: third(f, l, c)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
				requests := 0
				f.Do(func() {
					f.Patroni.Switchover = func(l, c string) fakefleetOutcome {
						requests++
						return outcome(f, l, c)
					}
				})
				m := leader(t, f)
				if err := f.Start("destroyer").DestroyNodes(patient(t), uid, false, m); err != nil {
					t.Fatal(err)
				}
				f.WaitHealthy(1)
				if requests != 1 {
					t.Errorf("a switchover was asked for %d times", requests)
				}
			})
		})
	}
}

// A switchover that Patroni refuses ends the destroy, with the leader running.
func TestDestroyLeaderRefused(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		f.Do(func() {
			f.Patroni.Switchover = func(string, string) fakefleetOutcome {
				return fakefleetOutcome{Refuse: "no good candidates have been found"}
			}
		})
		m := leader(t, f)
		err := f.Start("destroyer").DestroyNodes(patient(t), uid, false, m)
		wantError(t, err, "no good candidates have been found", "refuses to switch over")
		if f.Primary() != m.Name {
			t.Errorf("the leader is %q", f.Primary())
		}
	})
}

// While nobody else can take over, the leader stays, also when the others have
// been away for so long that Patroni does not list them any more.
func TestDestroyLeaderWithoutCandidate(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		m := leader(t, f)
		for _, r := range replicas(f) {
			f.Do(r.PowerOff)
		}
		// etcd lost its quorum with them, so only it can come back.
		for _, r := range replicas(f) {
			if r.Name != m.Name {
				f.Do(func() {
					r.Units["patroni.service"].Enabled = "disabled"
					r.PowerOn()
				})
			}
		}
		f.WaitFor("a leader", func() bool { return f.Patroni.Primary("main") != nil })
		f.Settle()
		m = leader(t, f)
		err := f.Start("destroyer").DestroyNodes(patient(t), uid, false, m)
		wantError(t, err, "is the leader, and none of the")
		if f.Primary() != m.Name {
			t.Errorf("the leader is %q", f.Primary())
		}
	})
}

// The last node of a protected cluster is not destroyed, also when all are
// asked to go at once.
func TestDestroyAllProtected(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		err := f.Start("destroyer").DestroyNodes(patient(t), uid, true, f.Machines()...)
		wantError(t, err, "is the last node of the cluster main", "protected from deletion")
		f.WaitHealthy(0)
		if ids := f.SystemIDs(); len(ids) != 1 {
			t.Errorf("databases on %v", ids)
		}
	})
}

// Destroying everything with purge leaves nothing of ours on the hosts, and
// nothing that runs.
func TestDestroyEverything(t *testing.T) {
	for seed := range 5 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			created(t, uint64(seed+1), func(t *testing.T, f *fakefleet.Fleet, uid string) {
				p := f.Start("destroyer")
				s := f.ClusterSpec()
				s.DeletionProtection = false
				if _, err := p.PatroniManager().ApplyCluster(patient(t), s); err != nil {
					t.Fatal(err)
				}
				if err := p.DestroyNodes(patient(t), uid, true, f.Machines()...); err != nil {
					t.Log(p.Output())
					t.Fatal(err)
				}
				if err := p.PatroniManager().DestroyCluster(patient(t), s.Cluster, true); err != nil {
					t.Fatal(err)
				}
				if keys := f.Keys("/"); len(keys) > 0 {
					t.Errorf("keys are left in etcd: %v", keys)
				}
				f.Watch.Off()
				if err := p.EtcdManager().Destroy(patient(t), f.EtcdSpec(), true); err != nil {
					t.Fatal(err)
				}
				// A run that was killed before Terraform saved that the cluster
				// is gone leaves it in the state: it must not be stuck there.
				again := f.Start("again").PatroniManager()
				if o, err := again.ObserveCluster(patient(t), s.Cluster, nil); err != nil || !o.Absent {
					t.Errorf("a cluster that was purged: %+v %v", o, err)
				}
				if err := again.DestroyCluster(patient(t), s.Cluster, true); err != nil {
					t.Error(err)
				}
				// A host that was built anew looks almost the same, and says nothing.
				m := f.Machines()[0]
				f.Do(func() { delete(m.Packages, "etcd-server") })
				if o, err := again.ObserveCluster(patient(t), s.Cluster, nil); err == nil || o.Absent {
					t.Errorf("a cluster whose hosts were built anew is taken for purged: %+v", o)
				}
				for _, m := range f.Machines() {
					if left := f.Traces(m); len(left) > 0 {
						t.Errorf("left on %s: %v", m.Name, left)
					}
					f.Do(func() {
						for name, u := range m.Units {
							if u.Active != "inactive" || u.Enabled == "enabled" && name != "chrony.service" {
								t.Errorf("%s on %s is %s and %s", name, m.Name, u.Active, u.Enabled)
							}
						}
						if held := m.Held(); len(held) > 0 {
							t.Errorf("held on %s: %v", m.Name, held)
						}
					})
				}
			})
		})
	}
}

// Destroying a whole cluster and keeping the data, then creating it again,
// brings the same database and passwords back.
func TestDestroyAndTakeUp(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		secrets, ids := f.Value(own+"secrets"), f.SystemIDs()
		p := f.Start("destroyer")
		s := f.ClusterSpec()
		s.DeletionProtection = false
		if _, err := p.PatroniManager().ApplyCluster(patient(t), s); err != nil {
			t.Fatal(err)
		}
		f.Do(func() { f.Patroni.Write("main", 5000) })
		if err := p.DestroyNodes(patient(t), uid, false, f.Machines()...); err != nil {
			t.Fatal(err)
		}
		if err := p.PatroniManager().DestroyCluster(patient(t), s.Cluster, false); err != nil {
			t.Fatal(err)
		}
		f.Watch.Off()
		if err := p.EtcdManager().Destroy(patient(t), f.EtcdSpec(), false); err != nil {
			t.Fatal(err)
		}
		again := f.Start("again")
		if err := again.Create(patient(t)); err != nil {
			t.Log(again.Output())
			t.Fatal(err)
		}
		checkComplete(t, f)
		if f.Value(own+"secrets") != secrets {
			t.Error("the passwords are others")
		}
		if now := f.SystemIDs(); fmt.Sprint(now) != fmt.Sprint(ids) {
			t.Errorf("databases %v, before %v", now, ids)
		}
	})
}

// etcd is not destroyed under a Patroni that uses it.
func TestDestroyEtcdInUse(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		err := f.Start("destroyer").EtcdManager().Destroy(patient(t), f.EtcdSpec(), true)
		wantError(t, err, "a Patroni cluster does", "/service/main/leader")
		if n := len(f.Mutations("destroyer")); n > 0 {
			t.Errorf("%d changes were made", n)
		}
	})
}

// Whenever the provider is killed while it destroys a leader, running the
// destroy again finishes it, and no promise is broken on the way.
func TestCrashDuringDestroy(t *testing.T) {
	total := 0
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		p := f.Start("destroyer")
		if err := p.DestroyNodes(patient(t), uid, true, leader(t, f)); err != nil {
			t.Fatal(err)
		}
		total = p.Mutations()
	})
	for k := 1; k <= total; k++ {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			t.Parallel()
			created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
				m := leader(t, f)
				if err := f.Start("killed", fakehost.CrashAfter(k)).DestroyNodes(patient(t), uid, true, m); err == nil {
					t.Fatal("the run that was killed reports success")
				}
				f.Sleep(time.Minute)
				p := f.Start("second")
				if err := p.DestroyNodes(patient(t), uid, true, m); err != nil {
					t.Log(p.Output())
					t.Fatal(err)
				}
				f.WaitHealthy(1)
				for _, left := range f.Traces(m) {
					if !strings.Contains(left, "etcd") && left != "/etc/pgha" && !strings.HasPrefix(left, "/etc/pgha/ca") && !strings.HasPrefix(left, "/run/") {
						t.Errorf("left on %s: %s", m.Name, left)
					}
				}
				if keys := f.Keys(own + "journal"); len(keys) > 0 {
					t.Errorf("a changed setting was not put back: %v", keys)
				}
				if config := f.Value("/service/main/config"); strings.Contains(config, "member_slots_ttl") {
					t.Errorf("a changed setting was not put back: %s", config)
				}
			})
		})
	}
}
