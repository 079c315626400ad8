package fakefleet_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// upgraded are the hosts that run these versions.
func (r *roll) upgraded(v pins) (hosts []string) {
	for _, m := range r.Machines() {
		if r.runs(m) == v {
			hosts = append(hosts, m.Name)
		}
	}
	return hosts
}

// fails brings all nodes to versions, which some refuse, and checks how many are done.
func (r *roll) fails(name string, v pins, done int, faults ...fakehost.Fault) map[string]error {
	r.t.Helper()
	p := r.Start(name, faults...)
	errs := r.apply(patient(r.t), p, v, r.all())
	if have := r.upgraded(v); len(have) != done || len(errs) != r.all()-done {
		r.t.Log(p.Output())
		r.t.Fatalf("%v were upgraded, and not %d; the errors are %v", have, done, errs)
	}
	for _, host := range r.upgraded(v) {
		if errs[host] != nil {
			r.t.Errorf("%s was upgraded, and says %v", host, errs[host])
		}
	}
	return errs
}

// By hand: all but the leader have their turns, and that one says what to do. Somebody
// switches over, or lets it be done; then it goes on.
func TestNodeUpgradeManual(t *testing.T) {
	for _, byHand := range []bool{true, false} {
		t.Run(fmt.Sprint("by hand ", byHand), func(t *testing.T) {
			t.Parallel()
			rolling(t, 3, 1, func(t *testing.T, r *roll) {
				lead := leader(t, r.Fleet)
				r.rollout(func(o *patroni.Rollout) { o.Manual = true })
				errs := r.fails("first", newPins, 2)
				wantError(t, errs[lead.Name], lead.Name+" leads", `rollout.switchover is "manual"`)
				if r.Primary() != lead.Name || r.runs(lead) != oldPins || lead.Installed("patroni") != "4.0.7-3~deb13u1" {
					t.Errorf("%s leads; %s runs %v", r.Primary(), lead.Name, r.runs(lead))
				}
				if byHand {
					to := replicas(r.Fleet)[1]
					if said := r.Patroni.Node(to).SwitchOver(lead.Name, to.Name); !strings.Contains(said, "Successfully") {
						t.Fatal(said)
					}
				} else {
					r.rollout(func(*patroni.Rollout) {})
				}
				r.must("second", newPins, 3)
				r.check(newPins)
				if n := r.switchovers(); n != 1 {
					t.Errorf("%d switchovers", n)
				}
			})
		})
	}
}

// Somebody else moves the leader's role at any moment of a roll.
func TestNodeUpgradeLeaderMoves(t *testing.T) {
	seeds := 16
	if testing.Short() {
		seeds = 4
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rolling(t, 3, 600+seed, func(t *testing.T, r *roll) {
				r.Do(func() { r.Patroni.DemoteTime = time.Duration(seed%5) * time.Second })
				at, calls := 20+int(fakehost.Hash(seed, "moves")%150), 0
				p := r.Start("first", r.whenFirst(func(fakehost.Call) bool { calls++; return calls == at }, func(c fakehost.Call) {
					from, to := r.Primary(), replicas(r.Fleet)[seed%2]
					said := r.Patroni.Node(to).SwitchOver(from, to.Name)
					t.Logf("%s -> %s at %s on %s: %s", from, to.Name, c.Name, c.Host, said)
				}))
				errs := r.apply(patient(t), p, newPins, 3)
				r.Settle()
				if len(errs) > 0 {
					t.Log(errs)
					r.must("second", newPins, 3)
				}
				r.check(newPins)
			})
		})
	}
}

// Another process makes a node the leader while that node has its turn and waits for the
// cluster: its turn comes last, and costs one switchover and not two.
func TestNodeUpgradeLeadsMeanwhile(t *testing.T) {
	rolling(t, 3, 1, func(t *testing.T, r *roll) {
		to := replicas(r.Fleet)[0]
		r.Do(func() { r.Patroni.DemoteTime = 30 * time.Second })
		var other sync.WaitGroup
		other.Go(func() {
			m := r.Start("other").PatroniManager()
			if _, _, err := m.Switchover(patient(t), r.node(to, oldPins).Cluster, to.Name); err != nil {
				t.Error(err)
			}
		})
		if errs := r.apply(patient(t), r.Start("first"), newPins, 3); len(errs) > 0 {
			t.Error(errs)
		}
		other.Wait()
		r.check(newPins)
		if turns := r.turns("first"); turns[2] != to.Name {
			t.Errorf("%s has come to lead, and the turns were %v", to.Name, turns)
		}
		if n := r.switchovers(); n != 2 {
			t.Errorf("%d switchovers, one of them by somebody else", n)
		}
	})
}

// Of a cluster that is paused nothing is touched but what is fetched.
func TestNodeUpgradePaused(t *testing.T) {
	rolling(t, 3, 1, func(t *testing.T, r *roll) {
		pause := func(value string) {
			r.Do(func() {
				st := r.Etcd.Stores()[0]
				const key = "/service/main/config"
				text, _ := st.Get(key)
				text = strings.Replace(strings.Replace(text, `"pause":true,`, "", 1), "{", value, 1)
				st.Put(key, text, nil)
			})
			r.Settle()
		}
		pause(`{"pause":true,`)
		started := r.started()
		errs := r.fails("first", newPins, 0)
		paused := 0
		for _, err := range errs {
			if strings.Contains(err.Error(), "the cluster main is paused") {
				paused++
			}
		}
		if paused != 1 {
			t.Errorf("one of them has a look, the others are halted: %v", errs)
		}
		r.untouched(started)
		pause("{")
		r.must("second", newPins, 3)
		r.check(newPins)
	})
}

// untouched checks that no host has got another version, and none was restarted.
func (r *roll) untouched(started map[string]time.Time) {
	r.t.Helper()
	for _, m := range r.Machines() {
		v := ""
		r.Do(func() { v = m.Installed("postgresql-17") + " " + m.Installed("patroni") })
		if v != "17.11-0+deb13u1 4.0.7-3~deb13u1" || !r.started()[m.Name].Equal(started[m.Name]) || r.due(m) != "" {
			r.t.Errorf("%s has %s, PostgreSQL was started at %s, and before at %s, due is %q", m.Name, v, r.started()[m.Name], started[m.Name], r.due(m))
		}
	}
}

// The first turn that fails is the last one of its run.
func TestNodeUpgradeHalts(t *testing.T) {
	for _, call := range []string{"apt.download", "apt.exchange"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			rolling(t, 3, 1, func(t *testing.T, r *roll) {
				lead, started := r.Primary(), r.started()
				errs := r.fails("first", newPins, 0, fakehost.FailCall(func(c fakehost.Call) bool { return c.Name == call }, 1, fakehost.Verdict{Err: fakehost.Kind(host.KindExit)}))
				halted := 0
				for _, err := range errs {
					if strings.Contains(err.Error(), "the roll was halted") {
						halted++
					}
				}
				if halted != 2 || r.Primary() != lead {
					t.Errorf("%s leads; the errors are %v", r.Primary(), errs)
				}
				for name, at := range r.started() {
					if !at.Equal(started[name]) {
						t.Errorf("PostgreSQL on %s was restarted", name)
					}
				}
				r.must("second", newPins, 3)
				r.check(newPins)
			})
		})
	}
}

// A host that is off when its turn comes halts the roll: the others stay as they were.
// When it is back it goes on.
func TestNodeUpgradeHostOff(t *testing.T) {
	for _, which := range []int{0, 1, 2} {
		t.Run(fmt.Sprint(which), func(t *testing.T) {
			t.Parallel()
			rolling(t, 3, 1, func(t *testing.T, r *roll) {
				dead := r.Machines()[which]
				// They all have fetched their packages, and the first turn begins.
				p := r.Start("first", r.whenFirst(fakehost.Named("etcd.lock", ""), func(fakehost.Call) {
					r.Do(func() {
						dead.PowerOff()
						r.Etcd.Refresh()
					})
				}))
				errs := r.apply(patient(t), p, newPins, 3)
				if len(errs) != 3 {
					t.Errorf("the errors are %v", errs)
				}
				r.Do(dead.PowerOn)
				r.Settle()
				for _, m := range r.Machines() {
					if r.runs(m) != oldPins || r.due(m) != "" {
						t.Errorf("%s runs %v", m.Name, r.runs(m))
					}
				}
				r.must("second", newPins, 3)
				r.check(newPins)
			})
		})
	}
}

// A replica that is too far behind is waited for, until patience ends.
func TestNodeUpgradeLag(t *testing.T) {
	for _, catchesUp := range []bool{true, false} {
		t.Run(fmt.Sprint("catches up ", catchesUp), func(t *testing.T) {
			t.Parallel()
			rolling(t, 3, 1, func(t *testing.T, r *roll) {
				r.rollout(func(o *patroni.Rollout) { o.MaxLag, o.Patience = 1<<20, 3*time.Minute })
				slow := replicas(r.Fleet)[0]
				behind := func(yes bool) { r.Do(func() { r.Patroni.Node(slow).Slow(yes) }) }
				behind(true)
				r.Do(func() { r.Patroni.Write(fakefleet.Scope, 3<<20) })
				r.Sleep(20 * time.Second)
				if catchesUp {
					r.Go(func() {
						if r.Sleep(2 * time.Minute) {
							behind(false)
						}
					})
					begin := time.Now()
					r.must("first", newPins, 3)
					if took := time.Since(begin); took < time.Minute {
						t.Errorf("nobody waited: it took %s", took)
					}
				} else {
					// It can have its own turn, and is not well afterwards.
					errs := r.apply(patient(t), r.Start("first"), newPins, 3)
					if len(errs) != 3 {
						t.Errorf("the errors are %v", errs)
					}
					wantError(t, anyError(errs), "rollout.max_lag is 1 MiB")
					for _, m := range r.Machines() {
						if m != slow && r.runs(m) != oldPins {
							t.Errorf("%s runs %v", m.Name, r.runs(m))
						}
					}
					behind(false)
					r.Settle()
					r.must("second", newPins, 3)
				}
				r.check(newPins)
				if n := r.switchovers(); n != 1 {
					t.Errorf("%d switchovers", n)
				}
			})
		})
	}
}

// Where nobody may take over, the leader is left alone, unless that is allowed.
func TestNodeUpgradeNoCandidate(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		t.Run(fmt.Sprint("allowed ", allowed), func(t *testing.T) {
			t.Parallel()
			rolling(t, 1, 1, func(t *testing.T, r *roll) {
				r.rollout(func(o *patroni.Rollout) { o.AllowDowntime = allowed })
				started := r.started()
				if !allowed {
					errs := r.fails("first", newPins, 0)
					if err := anyError(errs); !strings.Contains(details(err), "no other replica of main could take over") || !strings.Contains(details(err), "allow_downtime = true") {
						t.Errorf("the error is\n%s", details(err))
					}
					r.untouched(started)
					// For Patroni alone it is done: PostgreSQL goes on running.
					r.must("second", newPatroni, 1)
					if now := r.started(); !maps.EqualFunc(now, started, time.Time.Equal) {
						t.Errorf("PostgreSQL was restarted: %v, before %v", now, started)
					}
					r.rollout(func(o *patroni.Rollout) { o.AllowDowntime = true })
				}
				r.must("third", newPins, 1)
				r.check(newPins)
				if n := r.switchovers(); n > 1 {
					t.Errorf("%d promotions", n)
				}
			})
		})
	}
}

// Outside of its window a roll fetches, and changes nothing.
func TestNodeUpgradeWindow(t *testing.T) {
	rolling(t, 3, 1, func(t *testing.T, r *roll) {
		now := time.Now().UTC()
		at := now.Hour()*60 + now.Minute()
		r.rollout(func(o *patroni.Rollout) {
			o.Window = &patroni.Window{From: (at + 120) % 1440, To: (at + 180) % 1440, Zone: "UTC"}
		})
		started := r.started()
		for host, err := range r.fails("first", newPins, 0) {
			if all := details(err); !strings.Contains(all, "maintenance window is open") || !strings.Contains(all, "what it needs is fetched") {
				t.Errorf("%s says\n%s", host, all)
			}
		}
		fetched := 0
		for _, c := range r.Mutations("first") {
			if c.Name == "apt.download" {
				fetched++
			} else {
				t.Errorf("outside of the window: %s", c)
			}
		}
		if fetched != 3 {
			t.Errorf("%d hosts have fetched what they need", fetched)
		}
		r.untouched(started)
		r.Sleep(2 * time.Hour)
		r.must("second", newPins, 3)
		r.check(newPins)
	})
}

// Whatever Patroni answers to a request to switch over, and whenever, the leader is
// restarted only when it does not lead any more.
func TestNodeUpgradeSwitchover(t *testing.T) {
	for name, c := range map[string]struct {
		out     fakefleetOutcome
		refused bool
		again   bool // the second request goes through
	}{
		"late":          {out: fakefleetOutcome{Late: 10 * time.Minute}},
		"silent":        {out: fakefleetOutcome{Silent: true}},
		"another":       {out: fakefleetOutcome{To: "another"}},
		"another late":  {out: fakefleetOutcome{To: "another", Late: time.Minute}},
		"refused":       {out: fakefleetOutcome{Refuse: "no good candidates have been found"}, refused: true},
		"given up":      {out: fakefleetOutcome{Fail: true}, refused: true},
		"once given up": {out: fakefleetOutcome{Fail: true}, again: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rolling(t, 3, 1, func(t *testing.T, r *roll) {
				lead, requests := leader(t, r.Fleet), 0
				names := []string{replicas(r.Fleet)[0].Name, replicas(r.Fleet)[1].Name}
				r.Do(func() {
					r.Patroni.DemoteTime = 5 * time.Second
					r.Patroni.Switchover = func(from, candidate string) fakefleetOutcome {
						requests++
						out := c.out
						out.Fail = out.Fail && (!c.again || requests == 1)
						if out.To != "" {
							out.To = names[1-slices.Index(names, candidate)]
						}
						return out
					}
				})
				if c.refused {
					errs := r.fails("first", newPins, 2)
					if c.out.Fail {
						wantError(t, errs[lead.Name], "Patroni has not switched over from "+lead.Name, "its log on "+lead.Name)
					} else {
						wantError(t, errs[lead.Name], "Patroni refuses to switch over", c.out.Refuse)
					}
					if r.Primary() != lead.Name || r.runs(lead) != oldPins {
						t.Errorf("%s leads", r.Primary())
					}
					r.Do(func() { r.Patroni.Switchover = nil })
					r.must("second", newPins, 3)
				} else {
					begin := time.Now()
					r.must("first", newPins, 3)
					if took := time.Since(begin); requests != 1+map[bool]int{true: 1}[c.again] || took > 3*time.Minute {
						t.Errorf("%d requests; it took %s", requests, took)
					}
				}
				r.check(newPins)
				if n := r.switchovers(); n != 1 {
					t.Errorf("%d switchovers", n)
				}
			})
		})
	}
}

// With a synchronous replica: it comes after the other one, only one that is
// synchronous takes over, and no turn ends before somebody is again.
func TestNodeUpgradeSynchronous(t *testing.T) {
	seeds := 6
	if testing.Short() {
		seeds = 2
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rolling(t, 3, 700+seed, func(t *testing.T, r *roll) {
				r.set(func(s *patroni.ClusterSpec) { s.Wanted["synchronous_mode"] = true })
				r.Settle()
				lead := r.Primary()
				sync := r.Value("/service/main/sync")
				r.must("first", newPins, 3)
				turns := r.turns("first")
				if strings.Contains(sync, `"sync_standby":"`+turns[0]) || turns[2] != lead {
					t.Errorf("turns %v; %s led, and before it was %s", turns, lead, sync)
				}
				if n := r.switchovers(); n != 1 {
					t.Errorf("%d switchovers", n)
				}
				if now := r.Value("/service/main/sync"); strings.Contains(now, `"sync_standby":""`) {
					t.Errorf("nobody is synchronous: %s", now)
				}
				r.check(newPins)
			})
		})
	}
}

// A turn whose run loses patience is not lost: packages that are installed and not
// started yet come first in the next run, whatever is wanted then.
func TestNodeUpgradeCutOff(t *testing.T) {
	for _, to := range []pins{newPins, oldPins} {
		t.Run(to.postgres, func(t *testing.T) {
			t.Parallel()
			rolling(t, 3, 1, func(t *testing.T, r *roll) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				// The user has had enough as the first packages are installed.
				p := r.Start("first", r.whenFirst(fakehost.Named("apt.exchange", ""), func(fakehost.Call) {
					if r.Sleep(35 * time.Millisecond) {
						cancel()
					}
				}))
				if errs := r.apply(ctx, p, newPins, 3); len(errs) == 0 {
					t.Fatal("it was not cut off")
				}
				r.Settle()
				r.must("second", to, 3)
				r.check(to)
			})
		})
	}
}
