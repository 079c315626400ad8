package fakefleet_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// want has groups want passwords that were made for a rotation.
func (f *formation) want(rotation func(group int) int64) {
	f.shape = func(group int, s *patroni.ClusterSpec) {
		made := patroni.Made(rotation(group))
		s.Origin = patroni.Origin{Superuser: made, Replication: made, Rewind: made, API: made, Etcd: made}
		s.Owned = s.Wanted.Paths()
	}
}

// clusters applies groups' clusters side by side, and returns the error of each.
func (f *formation) clusters(p *fakefleet.Process, groups ...int) map[int]error {
	errs := map[int]error{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, g := range groups {
		s := f.spec(g)
		wg.Go(func() {
			_, err := p.PatroniManager().ApplyCluster(patient(f.t), s)
			mu.Lock()
			defer mu.Unlock()
			errs[g] = err
		})
	}
	wg.Wait()
	return errs
}

// superuser is the password of the formation's superuser, by etcd.
func (f *formation) superuser() string {
	f.t.Helper()
	var stored struct {
		Superuser string
		Next      any
	}
	if err := json.Unmarshal([]byte(f.Value("/pgha/patroni/service/main/formation/secrets")), &stored); err != nil {
		f.t.Fatal(err)
	}
	if stored.Next != nil {
		f.t.Error("the change of passwords is not finished")
	}
	return stored.Superuser
}

// changed checks that all groups have the passwords in etcd, in all places, and not those
// from before.
func (f *formation) changed(before string) {
	f.t.Helper()
	f.check(0, 1, 2)
	now := f.superuser()
	if now == before {
		f.t.Error("the password is the old one")
	}
	f.Do(func() {
		for g := range 3 {
			scope := fmt.Sprintf("main/%d", g)
			if got := f.Patroni.Login(scope); got != "password="+now {
				f.t.Errorf("group %d logs in to the others with the old password", g)
			}
			if !f.Patroni.LetsIn(scope, "postgres", now) {
				f.t.Errorf("group %d does not let the others in", g)
			}
			for _, m := range f.of(g) {
				if text := string(m.Files.Read("/etc/patroni/config.yml")); !strings.Contains(text, now) || strings.Contains(text, before) {
					f.t.Errorf("%s has the old password", m.Name)
				}
				f.Patroni.Node(m).Disconnect()
			}
		}
	})
	f.Settle()
	f.check(0, 1, 2)
}

// The first group that wants other passwords changes those of all groups, whichever comes
// first; one that still wants the ones of before is told so, and changes nothing.
func TestFormationRotates(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			formed(t, seed, func(t *testing.T, f *formation) {
				f.want(func(int) int64 { return 0 })
				if err := f.apply(patient(t), f.Start("first"), 0, 1, 2); err != nil {
					t.Fatal(err)
				}
				before := f.superuser()
				f.want(func(int) int64 { return 1 })
				p := f.Start("rotate")
				for g, err := range f.clusters(p, 0, 1, 2) {
					if err != nil {
						t.Log(p.Output())
						t.Fatalf("group %d: %s", g, details(err))
					}
				}
				f.changed(before)
				if err := f.apply(patient(t), f.Start("again"), 0, 1, 2); err != nil {
					t.Fatal(details(err))
				}
				for _, m := range f.Mutations("again") {
					t.Errorf("applying again did something: %s", m)
				}

				before = f.superuser()
				f.want(func(group int) int64 { return map[int]int64{0: 1, 1: 2, 2: 1}[group] })
				if err := f.clusters(f.Start("one"), 1)[1]; err != nil {
					t.Fatal(details(err))
				}
				f.changed(before)
				now := f.superuser()
				for g, err := range f.clusters(f.Start("others"), 0, 2) {
					wantError(t, err, "another group has changed for all of them")
					if !strings.Contains(details(err), "all groups of the formation the same rotation") {
						t.Errorf("group %d: %s", g, details(err))
					}
				}
				if f.superuser() != now {
					t.Error("the passwords have changed again")
				}
				f.want(func(int) int64 { return 2 })
				if err := f.apply(patient(t), f.Start("all"), 0, 1, 2); err != nil {
					t.Fatal(details(err))
				}
				if f.superuser() != now {
					t.Error("the passwords have changed again")
				}
			})
		})
	}
}

// Whenever the change is cut off, the next apply of any group finishes it, for all.
func TestFormationRotatesCrash(t *testing.T) {
	run := func(t *testing.T, fault ...fakehost.Fault) (n int) {
		formed(t, 1, func(t *testing.T, f *formation) {
			f.want(func(int) int64 { return 0 })
			if err := f.apply(patient(t), f.Start("first"), 0, 1, 2); err != nil {
				t.Fatal(err)
			}
			before := f.superuser()
			f.want(func(int) int64 { return 1 })
			p := f.Start("killed", fault...)
			errs := f.clusters(p, 1)
			n = p.Mutations()
			if len(fault) == 0 {
				if errs[1] != nil {
					t.Fatal(errs)
				}
				return
			}
			if errs[1] == nil || !p.Crashed() {
				t.Fatal("the run was not killed")
			}
			f.Sleep(time.Minute)
			second := f.Start("second")
			if errs := f.clusters(second, 0, 1, 2); errors.Join(errs[0], errs[1], errs[2]) != nil {
				t.Log(second.Output())
				t.Fatal(errs)
			}
			f.changed(before)
		})
		return n
	}
	total := run(t)
	for k := 1; k <= total; k += stride(3, 1) {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			t.Parallel()
			run(t, fakehost.CrashAfter(k))
		})
	}
}

// A group that still wants the passwords of before finishes a change that another one has
// begun, and does not take it back.
func TestFormationRotatesStale(t *testing.T) {
	formed(t, 1, func(t *testing.T, f *formation) {
		f.want(func(int) int64 { return 0 })
		if err := f.apply(patient(t), f.Start("first"), 0, 1, 2); err != nil {
			t.Fatal(err)
		}
		before := f.superuser()
		f.want(func(group int) int64 { return map[int]int64{1: 1}[group] })
		if err := f.clusters(f.Start("killed", fakehost.CrashAfter(8)), 1)[1]; err == nil {
			t.Fatal("the run was not killed")
		}
		if !strings.Contains(f.Value("/pgha/patroni/service/main/formation/secrets"), `"next"`) {
			t.Fatal("the change was not begun, or is finished")
		}
		f.Sleep(time.Minute)
		wantError(t, f.clusters(f.Start("stale"), 2)[2], "another group has changed for all of them")
		f.changed(before)
		now := f.superuser()
		wantError(t, f.clusters(f.Start("stale still"), 2)[2], "another group has changed for all of them")
		// One that wants yet others gets them.
		f.want(func(group int) int64 { return map[int]int64{0: 3, 1: 1}[group] })
		if err := f.clusters(f.Start("others"), 0)[0]; err != nil {
			t.Fatal(details(err))
		}
		f.changed(now)
	})
}
