package fakefleet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
)

// pins are the versions of a node.
type pins struct{ postgres, patroni string }

var (
	oldPins      = pins{fakefleet.PostgresVersion, fakefleet.PatroniVersion}
	newPostgres  = pins{"17.12", fakefleet.PatroniVersion}
	newPatroni   = pins{fakefleet.PostgresVersion, "4.1.5"}
	newPins      = pins{"17.12", "4.1.5"}
	allTheirPins = []pins{oldPins, newPostgres, newPatroni, newPins}
)

// roll is a cluster whose nodes are brought to other versions, while somebody writes.
type roll struct {
	*fakefleet.Fleet
	t   *testing.T
	uid string
	// extensions are what all nodes pin, besides, and freed what they do not any more.
	extensions map[string]string
	freed      []string
}

// rolling runs a test on a complete cluster of so many nodes. On all hosts there is
// more that was built of PostgreSQL's source, on one what needs the very same version.
func rolling(t *testing.T, hosts int, seed uint64, test func(t *testing.T, r *roll)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := fakefleet.New(t, fakefleet.Config{Hosts: hosts, Config: fakehost.Config{Seed: seed}})
		f.Do(func() {
			for i, m := range f.Machines() {
				m.Packages["libpq5"] = &fakehost.Package{Version: "17.11-0+deb13u1"}
				if i == 1 {
					m.Packages["postgresql-plpython3-17"] = &fakehost.Package{Version: "17.11-0+deb13u1"}
				}
			}
		})
		if err := f.Start("creator").Create(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.WaitHealthy(hosts - 1)
		f.Go(func() {
			for f.Sleep(500 * time.Millisecond) {
				f.Do(func() { f.Patroni.Write(fakefleet.Scope, 8<<10) })
			}
		})
		f.Settle()
		test(t, &roll{Fleet: f, t: t, uid: uid(t, f)})
	})
}

// set changes the cluster's resource.
func (r *roll) set(change func(*patroni.ClusterSpec)) {
	r.t.Helper()
	s := r.ClusterSpec()
	change(&s)
	if _, err := r.Start("setter").PatroniManager().ApplyCluster(patient(r.t), s); err != nil {
		r.t.Fatal(err)
	}
	r.Sleep(15 * time.Second)
}

// rollout changes how turns are taken.
func (r *roll) rollout(change func(*patroni.Rollout)) {
	r.t.Helper()
	rollout := patroni.DefaultRollout()
	change(&rollout)
	r.set(func(s *patroni.ClusterSpec) { s.Rollout = &rollout })
}

func (r *roll) node(m *fakehost.Machine, v pins) patroni.Node {
	n := r.Node(m, r.uid)
	n.Postgres, n.Patroni = v.postgres, v.patroni
	n.Extensions, n.Freed = r.extensions, r.freed
	return n
}

// apply brings machines to versions, so many of them at a time and in a random order,
// as Terraform does. Errors are by host.
func (r *roll) apply(ctx context.Context, p *fakefleet.Process, v pins, parallelism int, machines ...*fakehost.Machine) map[string]error {
	if len(machines) == 0 {
		machines = r.Machines()
	}
	random := rand.New(rand.NewPCG(r.Seed(), uint64(parallelism)))
	var mu sync.Mutex
	errs := map[string]error{}
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallelism)
	for _, i := range random.Perm(len(machines)) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			err := p.PatroniManager().ApplyNode(ctx, r.node(machines[i], v))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs[machines[i].Name] = err
			}
		})
	}
	wg.Wait()
	return errs
}

// must brings all nodes to versions, and fails the test if one has an error.
func (r *roll) must(name string, v pins, parallelism int) *fakefleet.Process {
	r.t.Helper()
	p := r.Start(name)
	if errs := r.apply(patient(r.t), p, v, parallelism); len(errs) > 0 {
		r.t.Log(p.Output())
		r.Do(func() { r.t.Log(r.Patroni.Describe()) })
		r.t.Fatalf("%s: %v", name, errs)
	}
	return p
}

// all is how many there are.
func (r *roll) all() int { return len(r.Machines()) }

// switchovers is how often somebody was promoted so far.
func (r *roll) switchovers() (n int) {
	r.Do(func() { n = len(r.Patroni.Promotions) })
	return n
}

// started is when PostgreSQL was, by host.
func (r *roll) started() map[string]time.Time {
	times := map[string]time.Time{}
	r.Do(func() {
		for _, m := range r.Machines() {
			times[m.Name] = r.Patroni.Node(m).Started()
		}
	})
	return times
}

// runs are the versions that really run on a host.
func (r *roll) runs(m *fakehost.Machine) (v pins) {
	r.Do(func() {
		server, version := r.Patroni.Node(m).Versions()
		v = pins{postgres.ServerVersion(server), version}
	})
	return v
}

// check checks that all nodes run what is wanted and nothing is left of the way there:
// all packages of one source fit together and are held, markers say that nothing is
// due, and another run finds nothing to do.
func (r *roll) check(want pins) {
	r.t.Helper()
	r.WaitHealthy(r.all() - 1)
	for _, m := range r.Machines() {
		if have := r.runs(m); have != want {
			r.t.Errorf("%s runs %v, not %v", m.Name, have, want)
		}
		r.Do(func() {
			for name := range m.Packages {
				pin := ""
				switch {
				case name == "patroni":
					pin = want.patroni
				case name == vector:
					pin = r.extensions["pgvector"]
				case strings.HasPrefix(name, "postgresql-"), name == "libpq5":
					pin = want.postgres
				}
				if v := m.Installed(name); pin != "" && !debver.Matches(pin, v) {
					r.t.Errorf("%s has %s %s", m.Name, name, v)
				}
			}
			for _, name := range []string{"patroni", "postgresql-17", "postgresql-client-17"} {
				if held := m.Held(); !slices.Contains(held, name) {
					r.t.Errorf("%s holds %v", m.Name, held)
				}
			}
		})
		if due := r.due(m); due != "" {
			r.t.Errorf("the restart of %s is due on %s", due, m.Name)
		}
	}
	if holder := r.Value(own + "lock"); holder != "" {
		r.t.Errorf("the cluster is locked: %s", holder)
	}
	reader := r.Start("reader")
	for _, m := range r.Machines() {
		n := r.node(m, want)
		o, err := reader.PatroniManager().ObserveNode(patient(r.t), n)
		if err != nil || len(o.Drift) > 0 {
			r.t.Errorf("%s has drifted: %v %v", m.Name, o.Drift, err)
		}
		plan, err := reader.PatroniManager().PreviewNode(patient(r.t), n, nil)
		if said := plan.Describe(engine.Safe); err != nil || len(said) > 0 {
			r.t.Errorf("%s is to be changed again: %v %v", m.Name, said, err)
		}
	}
	if errs := r.apply(patient(r.t), reader, want, r.all()); len(errs) > 0 {
		r.t.Error(errs)
	}
	for _, c := range r.Mutations("reader") {
		r.t.Errorf("applying again did something: %s", c)
	}
}

// due is what a host's marker says.
func (r *roll) due(m *fakehost.Machine) string {
	var marker patroni.Marker
	r.Do(func() {
		if err := json.Unmarshal(m.Files.Read(patroni.MarkerPath), &marker); err != nil {
			r.t.Error(err)
		}
	})
	return marker.RestartDue
}

// turns are the hosts that were started anew by a process, in order.
func (r *roll) turns(process string) []string {
	var hosts []string
	for _, c := range r.Mutations(process) {
		if c.Err == "" && c.Name == "apt.exchange" {
			hosts = append(hosts, c.Host)
		}
	}
	return hosts
}

// whenFirst is a fault that spoils nothing, and has something done, beside all else,
// when a call is made for the first time.
func (r *roll) whenFirst(match func(fakehost.Call) bool, do func(c fakehost.Call)) fakehost.Fault {
	done := false
	return func(c fakehost.Call) fakehost.Verdict {
		if !done && match(c) {
			done = true
			r.Go(func() { do(c) })
		}
		return fakehost.Verdict{}
	}
}

// Whatever the order in which all nodes come, however many at a time: no second one is
// down, no leader is restarted (the watch sees that), and all run what is wanted. If
// all come at once, one switchover is enough; none is made for Patroni alone, for
// which PostgreSQL goes on.
func TestNodeUpgrade(t *testing.T) {
	seeds := 16
	if testing.Short() {
		seeds = 4
	}
	for seed := range uint64(seeds) {
		hosts := 3 + 2*int(seed%4/3)
		t.Run(fmt.Sprintf("%d nodes %d", hosts, seed), func(t *testing.T) {
			t.Parallel()
			rolling(t, hosts, 300+seed, func(t *testing.T, r *roll) {
				random := rand.New(rand.NewPCG(seed, 3))
				r.Do(func() { r.Patroni.DemoteTime = time.Duration(random.IntN(3000)) * time.Millisecond })
				have := oldPins
				for i := range 3 {
					want := allTheirPins[random.IntN(len(allTheirPins))]
					if want == have {
						want = map[pins]pins{oldPins: newPins, newPins: oldPins, newPostgres: newPatroni, newPatroni: newPostgres}[have]
					}
					parallelism := []int{1, 2, hosts}[random.IntN(3)]
					before, started, first := r.switchovers(), r.started(), r.Primary()
					name := fmt.Sprintf("changer %d", i)
					r.must(name, want, parallelism)
					r.check(want)
					n := r.switchovers() - before
					turns := r.turns(name)
					what := fmt.Sprintf("%v to %v, %d at a time: %d switchovers, turns %v, %s led", have, want, parallelism, n, turns, first)
					if !slices.Equal(slices.Sorted(slices.Values(turns)), r.Names()) {
						t.Errorf("%s: not one turn each", what)
					}
					switch alone := have.postgres == want.postgres; {
					case alone && n > 0, !alone && n == 0, n > hosts:
						t.Error(what)
					case !alone && parallelism == hosts && (n != 1 || turns[hosts-1] != first):
						t.Errorf("%s: the leader is the last one, with one switchover", what)
					}
					for host, at := range r.started() {
						if same := at.Equal(started[host]); same != (have.postgres == want.postgres) {
							t.Errorf("%s: PostgreSQL on %s, started anew: %v", what, host, !same)
						}
					}
					have = want
				}
			})
		})
	}
}

// Two runs at once, of one configuration, or of two that have some of the nodes each.
func TestNodeUpgradeTwoRuns(t *testing.T) {
	seeds := 12
	if testing.Short() {
		seeds = 3
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rolling(t, 3+2*int(seed%2), 400+seed, func(t *testing.T, r *roll) {
				random := rand.New(rand.NewPCG(seed, 4))
				before := r.switchovers()
				var wg sync.WaitGroup
				for i, name := range []string{"alice", "bob"} {
					machines := r.Machines()
					if seed%3 == 0 {
						machines = [][]*fakehost.Machine{machines[:2], machines[2:]}[i]
					}
					p, parallelism := r.Start(name), 1+random.IntN(r.all())
					wait := time.Duration(random.IntN(20)) * time.Second
					wg.Go(func() {
						r.Sleep(wait)
						if errs := r.apply(patient(t), p, newPins, parallelism, machines...); len(errs) > 0 {
							t.Errorf("%s: %v", name, errs)
						}
					})
				}
				wg.Wait()
				r.check(newPins)
				if n := r.switchovers() - before; n == 0 || n > r.all() {
					t.Errorf("%d switchovers", n)
				}
				if turns := append(r.turns("alice"), r.turns("bob")...); len(turns) != r.all() {
					t.Errorf("turns of %v", turns)
				}
			})
		})
	}
}

// Wherever a run is killed, whatever happens to a host then, the next one goes on from
// there, or back.
func TestNodeUpgradeCrash(t *testing.T) {
	for _, want := range []pins{newPins, newPatroni} {
		total := 0
		rolling(t, 3, 1, func(_ *testing.T, r *roll) { total = r.must("changer", want, 3).Mutations() })
		t.Logf("%v: %d changes", want, total)
		for k := 1; k <= total; k += stride(6, 2) {
			for _, after := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s %d after %v", want, k, after), func(t *testing.T) {
					t.Parallel()
					rolling(t, 3, 1, func(t *testing.T, r *roll) {
						fault := fakehost.CrashBefore(k)
						if after {
							fault = fakehost.CrashAfter(k)
						}
						first := r.Start("first", fault)
						if errs := r.apply(patient(t), first, want, 3); len(errs) == 0 || !first.Crashed() {
							t.Fatalf("it was not killed: %v", errs)
						}
						random := rand.New(rand.NewPCG(uint64(k), 5))
						switch random.IntN(3) {
						case 0:
							r.Settle()
						case 1:
							m := r.Machines()[random.IntN(3)]
							r.Settle()
							r.Do(m.PowerOff)
							r.Sleep(time.Duration(random.IntN(60)) * time.Second)
							r.Do(m.PowerOn)
							r.Settle()
						}
						to := want
						if random.IntN(3) == 0 {
							to = oldPins
						}
						second := r.Start("second")
						if errs := r.apply(patient(t), second, to, 1+random.IntN(3)); len(errs) > 0 {
							t.Log(first.Output())
							t.Log(second.Output())
							t.Fatalf("the second run failed: %v", errs)
						}
						r.check(to)
					})
				})
			}
		}
	}
}

// A host that loses its power at any moment of a roll: what is done then, does not take
// a second one away, and the next run goes on when it is back.
func TestNodeUpgradePowerCut(t *testing.T) {
	seeds := 24
	if testing.Short() {
		seeds = 6
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rolling(t, 3, 500+seed, func(t *testing.T, r *roll) {
				random := rand.New(rand.NewPCG(seed, 6))
				dead := r.Machines()[random.IntN(3)]
				at, calls := 20+random.IntN(160), 0
				p := r.Start("first", r.whenFirst(func(c fakehost.Call) bool { calls++; return calls == at }, func(c fakehost.Call) {
					t.Logf("%s dies at %s on %s", dead.Name, c.Name, c.Host)
					r.Do(func() {
						dead.PowerOff()
						r.Etcd.Refresh()
					})
					// Nobody can help who looks, and restarts the next moment.
					r.Sleep(100 * time.Millisecond)
					if late := r.Watch.Violations(); len(late) > 0 {
						t.Logf("in that very moment: %v", late)
						r.Watch.Forget()
					}
				}))
				errs := r.apply(patient(t), p, newPins, 1+random.IntN(3))
				r.Do(dead.PowerOn)
				r.Settle()
				if have := r.runs(dead); have != newPins && errs[dead.Name] == nil {
					t.Errorf("nothing is said of %s, which runs %v: %v", dead.Name, have, errs)
				}
				r.must("second", newPins, 3)
				r.check(newPins)
			})
		})
	}
}

func anyError(errs map[string]error) error {
	var list []error
	for _, err := range errs {
		list = append(list, err)
	}
	return errors.Join(list...)
}
