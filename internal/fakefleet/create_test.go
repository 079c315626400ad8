package fakefleet_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// A seed decides the order of everything that runs side by side: the same one
// gives the same run, so that a failure can be looked at again.
func TestSeedDecides(t *testing.T) {
	run := func(seed uint64) (calls []string) {
		bubble(t, seed, func(t *testing.T, f *fakefleet.Fleet) {
			if err := f.Start("first").Create(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, c := range f.Calls() {
				calls = append(calls, fmt.Sprint(c.At.UnixNano(), " ", c.Host, " ", c.Name))
			}
		})
		return calls
	}
	first := run(1)
	if d := cmp.Diff(first, run(1)); d != "" {
		t.Errorf("the same seed gave another run:\n%s", d)
	}
	if cmp.Equal(first, run(2)) {
		t.Error("another seed gave the same run")
	}
}

// What is complete is left alone: a second run of everything has no steps, and
// makes no call that could change something.
func TestApplyTwice(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		checkComplete(t, f)
		checkNothingLeft(t, f)
	})
}

// Whatever the order in which calls are answered, one database is made, and it
// is one cluster.
func TestInterleavings(t *testing.T) {
	seeds := 24
	if testing.Short() {
		seeds = 6
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			created(t, uint64(100+seed), func(t *testing.T, f *fakefleet.Fleet, _ string) { checkComplete(t, f) })
		})
	}
}

// Two applies of one configuration that are started at once, from two machines,
// make one cluster: they take turns, and the one that waits says whom for.
func TestTwoApplies(t *testing.T) {
	for seed := range 8 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			bubble(t, uint64(200+seed), func(t *testing.T, f *fakefleet.Fleet) {
				var wg sync.WaitGroup
				var processes []*fakefleet.Process
				for _, name := range []string{"alice", "bob"} {
					p := f.Start(name)
					processes = append(processes, p)
					wg.Go(func() {
						if err := p.Create(patient(t)); err != nil {
							t.Errorf("%s: %v", name, err)
						}
					})
				}
				wg.Wait()
				checkComplete(t, f)
				if log := processes[0].Output() + processes[1].Output(); !strings.Contains(log, "waiting for a lock") {
					t.Error("neither waited for the other")
				}
			})
		})
	}
}

// Who cannot wait for the lock is told who has it, and has changed nothing.
func TestLockNamesHolder(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		slow := f.Start("alice", fakehost.FailCall(fakehost.Named("apt.install", ""), -1, fakehost.Verdict{Slow: 10 * time.Minute}))
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := slow.Create(patient(t)); err != nil {
				t.Errorf("alice: %v", err)
			}
		})
		f.Sleep(30 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := f.Start("bob").EtcdManager().Apply(ctx, f.EtcdSpec())
		wantError(t, err, "another apply is at work", "alice")
		if changes := f.Mutations("bob"); len(changes) > 0 {
			t.Errorf("bob changed something: %v", changes)
		}
		wg.Wait()
		checkComplete(t, f)
	})
}
