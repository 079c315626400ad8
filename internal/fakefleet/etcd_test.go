package fakefleet_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// restarts lists the hosts on which a process restarted etcd, in order.
func restarts(f *fakefleet.Fleet, process string) []string {
	var hosts []string
	for _, c := range f.Mutations(process) {
		if c.Name == "unit" && c.Args[0] == "restart" {
			hosts = append(hosts, c.Host)
		}
	}
	return hosts
}

// A changed setting restarts the members one at a time, the leader last, and
// none before the one before is well again: the watch sees that no quorum is
// lost.
func TestRollingRestart(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			created(t, seed+1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
				lead := ""
				f.Do(func() { lead = f.Etcd.Stores()[0].Leader() })
				s := f.EtcdSpec()
				s.QuotaBytes = 4 << 30
				if _, err := f.Start("changer").EtcdManager().Apply(patient(t), s); err != nil {
					t.Fatal(err)
				}
				order := restarts(f, "changer")
				if len(order) != 3 || order[2] != lead {
					t.Errorf("restarted %v, the leader was %s", order, lead)
				}
				o, err := f.Start("reader").EtcdManager().Observed(patient(t), s)
				if err != nil || len(o.Drift) > 0 {
					t.Errorf("drift afterwards: %v %v", o.Drift, err)
				}
			})
		})
	}
}

// A member that does not come back halts the rest, which go on running; the
// next apply takes it up from there.
func TestRollingRestartHalts(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		p := f.Start("changer", fakehost.FailCall(func(c fakehost.Call) bool {
			if c.Name != "unit" || c.Args[0] != "restart" {
				return false
			}
			for _, m := range f.Machines() {
				if m.Name == c.Host {
					f.Do(func() { m.Files.Get("/etc/pgha/etcd/dcs/server.key").Mode = "600" })
				}
			}
			return false
		}, -1, fakehost.Verdict{}))
		s := f.EtcdSpec()
		s.QuotaBytes = 4 << 30
		_, err := p.EtcdManager().Apply(patient(t), s)
		wantError(t, err, "restart etcd.service")
		if detail := details(err); !strings.Contains(detail, "permission denied") {
			t.Errorf("etcd's log is not quoted:\n%s", detail)
		}
		if order := restarts(f, "changer"); len(order) != 1 {
			t.Errorf("restarted %v", order)
		}
		f.Do(func() {
			if running := f.Etcd.Stores()[0].Running(); len(running) != 2 {
				t.Errorf("running: %v", running)
			}
			for _, m := range f.Machines() {
				m.Files.Get("/etc/pgha/etcd/dcs/server.key").Mode = "640"
			}
		})
		if _, err := f.Start("second").EtcdManager().Apply(patient(t), s); err != nil {
			t.Fatal(err)
		}
		f.Settle()
		f.WaitHealthy(2)
	})
}

// While a member's data differs no other one is restarted.
func TestRollingRestartWaitsForHealth(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		f.Do(func() { f.Etcd.Stores()[0].Alarms["pg2"] = "CORRUPT" })
		s := f.EtcdSpec()
		s.QuotaBytes = 4 << 30
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		_, err := f.Start("changer").EtcdManager().Apply(ctx, s)
		wantError(t, err, "alarm CORRUPT")
		if order := restarts(f, "changer"); len(order) > 0 {
			t.Errorf("restarted %v", order)
		}
	})
}

// A member of etcd that stands still is started again by the next apply.
func TestStoppedMember(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		u := f.Host(3).Units["etcd.service"]
		f.Do(func() {
			u.Active = "deactivating"
			u.Service.Stop(u)
		})
		f.WaitFor("etcd to stop", func() bool { return u.Active == "inactive" })
		p := f.Start("starter")
		o, err := p.EtcdManager().Observed(patient(t), f.EtcdSpec())
		if err != nil || !strings.Contains(strings.Join(o.Drift, "\n"), "start etcd.service") {
			t.Errorf("drift %v %v", o.Drift, err)
		}
		if _, err := p.EtcdManager().Apply(patient(t), f.EtcdSpec()); err != nil {
			t.Fatal(err)
		}
		if d := p.Steps(); !slices.Equal(d, []string{"etcd.start@pg3", "etcd.healthy@"}) {
			t.Errorf("steps %v", d)
		}
	})
}

// A host that cannot be reached keeps a creation from starting at all: nothing
// is changed on the others.
func TestCreateWithUnreachableHost(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		f.Do(func() { f.Host(2).Cut = true })
		p := f.Start("creator")
		_, err := p.EtcdManager().Apply(patient(t), f.EtcdSpec())
		if !host.Unreachable(err) {
			t.Errorf("the error is %v", err)
		}
		if n := p.Mutations(); n > 0 {
			t.Errorf("%d changes were made", n)
		}
		f.Do(func() { f.Host(2).Cut = false })
		if err := f.Start("second").Create(patient(t)); err != nil {
			t.Fatal(err)
		}
		checkComplete(t, f)
	})
}

// An apply that ends in the middle of a host's outage is taken up when the
// host is back.
func TestOutageDuringCreate(t *testing.T) {
	for k := 5; k < 130; k += 12 {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			t.Parallel()
			bubble(t, 3, func(t *testing.T, f *fakefleet.Fleet) {
				p := f.Start("first", func(c fakehost.Call) fakehost.Verdict {
					if c.Mutation == k {
						for _, m := range f.Machines() {
							if m.Name == "pg3" {
								f.Do(func() { m.Cut = true })
							}
						}
					}
					return fakehost.Verdict{}
				})
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				if err := p.Create(ctx); err == nil {
					t.Error("a host was away, and the apply reports success")
				}
				f.Do(func() { f.Host(3).Cut = false })
				f.Sleep(time.Minute)
				if err := f.Start("second").Create(patient(t)); err != nil {
					t.Fatal(err)
				}
				checkComplete(t, f)
				checkNothingLeft(t, f)
			})
		})
	}
}

// Any one change that fails once, without the process being killed, ends the
// apply with an error that names the host, and the next one completes it.
func TestFailedChange(t *testing.T) {
	step := 4
	if testing.Short() {
		step = 16
	}
	for k := 1; k <= creations(t, 1); k += step {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			t.Parallel()
			bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
				p := f.Start("first", fakehost.FailNth(k, fakehost.Verdict{Err: fakehost.Kind(host.KindTimeout), After: k%2 == 0}))
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				err := p.Create(ctx)
				if err != nil && !strings.Contains(err.Error(), "pg") && !strings.Contains(err.Error(), "dcs") {
					t.Errorf("the error names no host: %v", err)
				}
				f.Sleep(time.Minute)
				if err := f.Start("second").Create(patient(t)); err != nil {
					t.Fatal(err)
				}
				checkComplete(t, f)
			})
		})
	}
}

// Without a quorum nothing is known and nothing is done: the error says so.
func TestNoQuorum(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		f.Do(f.Host(2).PowerOff)
		f.Do(f.Host(3).PowerOff)
		_, err := f.Start("reader").PatroniManager().ObserveCluster(patient(t), f.ClusterSpec().Cluster, nil)
		if err == nil || !errors.Is(err, context.DeadlineExceeded) && !host.Unreachable(err) {
			t.Errorf("the error is %v", err)
		}
		o, err := f.Start("other").EtcdManager().Observed(patient(t), f.EtcdSpec())
		if err != nil || o.Absent || len(o.Unreachable) != 2 {
			t.Errorf("observed %+v, %v", o, err)
		}
	})
}

// The round trip between members decides etcd's timing unless it is given.
func TestRoundTrip(t *testing.T) {
	bubble(t, 0, func(t *testing.T, f *fakefleet.Fleet) {
		f.SetDistance(func(from, to *fakehost.Machine) time.Duration {
			if from == to {
				return 0
			}
			return 80*time.Millisecond + time.Millisecond*time.Duration(len(from.Name))
		})
		got := f.Start("measurer").EtcdManager().RoundTrip(t.Context(), f.EtcdSpec())
		t.Log(got)
		if h, e := etcd.Timing(got); got != 0 && (h < 80*time.Millisecond || e < 10*h) {
			t.Errorf("%s leads to %s and %s", got, h, e)
		}
	})
}
