package fakefleet_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// members is the etcd cluster on some of the hosts. A name like "pg2=pg4" is the
// member pg2 on the host pg4.
func members(f *fakefleet.Fleet, names string) etcd.Spec {
	s := f.EtcdSpec()
	s.Members = map[string]etcd.Member{}
	for _, n := range strings.Fields(names) {
		member, on, other := strings.Cut(n, "=")
		if !other {
			on = member
		}
		for _, m := range f.Machines() {
			if m.Name == on {
				s.Members[member] = etcd.Member{Address: m.Address, Target: fakefleet.Target(m)}
			}
		}
	}
	return s
}

// moving is the spec of a cluster that had other members before.
func moving(f *fakefleet.Fleet, from, to string) etcd.Spec {
	s := members(f, to)
	s.Leaving = map[string]etcd.Member{}
	for n, m := range members(f, from).Members {
		if now, ok := s.Members[n]; !ok || now.Address != m.Address {
			s.Leaving[n] = m
		}
	}
	return s
}

// transition is a change of the membership.
type transition struct {
	from, to string
	before   func(f *fakefleet.Fleet) // called as in World.Do
	dead     string                   // hosts that are lost before and stay so
}

// standing stops etcd on hosts.
func standing(hosts ...int) func(f *fakefleet.Fleet) {
	return func(f *fakefleet.Fleet) {
		for _, n := range hosts {
			u := f.Host(n).Units["etcd.service"]
			u.Active = "deactivating"
			u.Service.Stop(u)
		}
	}
}

var transitions = map[string]transition{
	"one to three":                   {from: "pg1", to: "pg1 pg2 pg3"},
	"three to five":                  {from: "pg1 pg2 pg3", to: "pg1 pg2 pg3 pg4 pg5"},
	"five to three":                  {from: "pg1 pg2 pg3 pg4 pg5", to: "pg2 pg3 pg5"},
	"three to one":                   {from: "pg1 pg2 pg3", to: "pg2"},
	"all move":                       {from: "pg1 pg2 pg3", to: "pg4 pg5 pg6"},
	"a dead one replaced":            {from: "pg1 pg2 pg3", to: "pg1 pg2=pg4 pg3", dead: "pg2"},
	"one is replaced":                {from: "pg1 pg2 pg3", to: "pg1 pg2=pg4 pg3"},
	"one only stands still":          {from: "pg1 pg2 pg3", to: "pg1 pg2", before: standing(2)},
	"the one that stays stands":      {from: "pg1 pg2 pg3", to: "pg1", before: standing(1)},
	"there is no quorum to be asked": {from: "pg1 pg2 pg3", to: "pg1 pg2 pg4", before: standing(1, 2)},
	"its data is lost": {from: "pg1 pg2 pg3", to: "pg1 pg2 pg3", before: func(f *fakefleet.Fleet) {
		f.Host(2).Files.Remove("/var/lib/etcd/dcs")
	}},
}

// prepared runs a test on a cluster before its change.
func prepared(t *testing.T, c transition, seed uint64, test func(t *testing.T, f *fakefleet.Fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := fakefleet.New(t, fakefleet.Config{Config: fakehost.Config{Seed: seed}, Hosts: 6})
		p := f.Start("creator")
		if _, err := p.EtcdManager().Apply(patient(t), members(f, c.from)); err != nil {
			t.Fatal(err)
		}
		client, err := p.Opener(t.Context(), members(f, c.from).Access())
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Put(t.Context(), "/witness", "still there"); err != nil {
			t.Fatal(err)
		}
		f.Do(func() {
			for _, name := range strings.Fields(c.dead) {
				i := slices.IndexFunc(f.Machines(), func(m *fakehost.Machine) bool { return m.Name == name })
				f.Machines()[i].PowerOff()
			}
			f.Etcd.Refresh()
			if c.before != nil {
				c.before(f)
			}
		})
		f.Settle()
		f.OnUnit(func(verb string, u *fakehost.Unit) {
			if verb == "stop" && u.Name == "etcd.service" && f.Etcd.Votes(u.Machine) {
				t.Errorf("etcd is stopped on %s, which still is a member", u.Machine.Name)
			}
		})
		test(t, f)
	})
}

// checkMembers checks that the members are those that are wanted, that it is the
// same cluster as before, and that nothing is left on the hosts that it left.
func checkMembers(t *testing.T, f *fakefleet.Fleet, c transition) {
	t.Helper()
	s := members(f, c.to)
	f.Do(func() {
		st := f.Etcd.Stores()
		if len(st) != 1 {
			t.Fatalf("%d clusters were formed", len(st))
		}
		if got := st[0].Running(); !slices.Equal(got, s.Names()) || st[0].Size() != len(s.Members) {
			t.Errorf("%v run, of %d; want %v", got, st[0].Size(), s.Names())
		}
		if v, _ := st[0].Get("/witness"); v != "still there" {
			t.Errorf("the key is %q", v)
		}
		if left := st[0].Keys("/pgha/etcd/dcs/joining/"); len(left) > 0 {
			t.Errorf("left in etcd: %v", left)
		}
		// Of those who have joined it is noted when, whatever was killed: Patroni has to
		// know them before others leave.
		before := members(f, c.from)
		for _, n := range s.Names() {
			url := s.PeerURL(n)
			was := slices.ContainsFunc(before.Names(), func(n string) bool { return before.PeerURL(n) == url })
			if _, noted := st[0].Get("/pgha/etcd/dcs/since/" + url); !noted && !was {
				t.Errorf("since when %s has been voting is not noted", n)
			}
		}
	})
	on := map[string]bool{}
	for _, m := range s.Members {
		on[m.Target.Name] = true
	}
	for _, m := range f.Machines() {
		// An empty folder is what a run leaves that is killed in the last moment.
		traces := slices.DeleteFunc(f.Traces(m), func(p string) bool { return p == "/etc/pgha" })
		if !on[m.Name] && len(traces) > 0 && !strings.Contains(c.dead, m.Name) {
			t.Errorf("left on %s: %v", m.Name, traces)
		}
	}
	reader := f.Start("reader")
	o, err := reader.EtcdManager().Observed(patient(t), s)
	if err != nil || len(o.Drift) > 0 {
		t.Errorf("afterwards there is drift: %v %v", o.Drift, err)
	}
	if _, err := reader.EtcdManager().Apply(patient(t), s); err != nil {
		t.Error(err)
	}
	for _, m := range f.Mutations("reader") {
		t.Errorf("applying again did something: %s", m)
	}
}

// Members come and go, one at a time, without a moment in which the cluster has
// no quorum; the watch and the simulation see to that.
func TestMembership(t *testing.T) {
	for name, c := range transitions {
		t.Run(name, func(t *testing.T) {
			prepared(t, c, 1, func(t *testing.T, f *fakefleet.Fleet) {
				p := f.Start("changer")
				if _, err := p.EtcdManager().Apply(patient(t), moving(f, c.from, c.to)); err != nil {
					t.Log(p.Output())
					t.Fatal(err)
				}
				checkMembers(t, f, c)
			})
		})
	}
}

// Wherever the run is killed, the next one goes on from there.
func TestMembershipCrash(t *testing.T) {
	for name, c := range transitions {
		t.Run(name, func(t *testing.T) {
			total := 0
			prepared(t, c, 1, func(t *testing.T, f *fakefleet.Fleet) {
				p := f.Start("changer")
				if _, err := p.EtcdManager().Apply(patient(t), moving(f, c.from, c.to)); err != nil {
					t.Fatal(err)
				}
				total = p.Mutations()
			})
			step := 1
			if testing.Short() {
				step = 7
			}
			for k := 1; k <= total; k += step {
				t.Run(fmt.Sprint(k), func(t *testing.T) {
					t.Parallel()
					prepared(t, c, 1, func(t *testing.T, f *fakefleet.Fleet) {
						fault := fakehost.CrashAfter(k)
						if k%2 == 0 {
							fault = fakehost.CrashBefore(k)
						}
						first := f.Start("first", fault)
						if _, err := first.EtcdManager().Apply(patient(t), moving(f, c.from, c.to)); err == nil && first.Crashed() {
							t.Fatal("the run that was killed reports success")
						}
						second := f.Start("second")
						if _, err := second.EtcdManager().Apply(patient(t), moving(f, c.from, c.to)); err != nil {
							t.Log(first.Output())
							t.Log(second.Output())
							t.Fatalf("the second run failed: %v", err)
						}
						checkMembers(t, f, c)
					})
				})
			}
		})
	}
}

// A plan asks no member for anything that is only to come: it would wait for that until
// a request's time is up.
func TestMembershipPlanWaitsForNobody(t *testing.T) {
	c := transitions["three to five"]
	prepared(t, c, 1, func(t *testing.T, f *fakefleet.Fleet) {
		asked := 0
		p := f.Start("planner", func(c fakehost.Call) fakehost.Verdict {
			if c.Name == "etcd.status" {
				asked++
				if strings.Contains(c.Args[0], "10.0.0.4:") || strings.Contains(c.Args[0], "10.0.0.5:") {
					t.Errorf("%s is asked, which does not run", c.Args[0])
				}
			}
			return fakehost.Verdict{}
		})
		if _, err := p.EtcdManager().Preview(patient(t), moving(f, c.from, c.to), ""); err != nil || asked == 0 {
			t.Errorf("%d members were asked: %v", asked, err)
		}
	})
}
