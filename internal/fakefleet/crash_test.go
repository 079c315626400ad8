package fakefleet_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// creations counts the changes of an undisturbed creation.
func creations(t *testing.T, seed uint64) (n int) {
	bubble(t, seed, func(t *testing.T, f *fakefleet.Fleet) {
		p := f.Start("first")
		if err := p.Create(t.Context()); err != nil {
			t.Fatal(err)
		}
		n = p.Mutations()
	})
	return n
}

// Whenever the provider is killed while it creates a whole cluster, a second
// run takes it up from there: one database is made, all nodes are of it, and
// the passwords are those that were made first.
func TestCrashAndResume(t *testing.T) {
	const seed = 1
	total := creations(t, seed)
	step := 1
	if testing.Short() {
		step = 5
	}
	for _, after := range []bool{true, false} {
		for k := 1; k <= total; k += step {
			if !after && testing.Short() {
				break
			}
			t.Run(fmt.Sprintf("%s change %d", map[bool]string{true: "after", false: "before"}[after], k), func(t *testing.T) {
				t.Parallel()
				fault := fakehost.CrashBefore(k)
				if after {
					fault = fakehost.CrashAfter(k)
				}
				bubble(t, seed, func(t *testing.T, f *fakefleet.Fleet) { crashAndResume(t, f, fault) })
			})
		}
	}
}

func crashAndResume(t *testing.T, f *fakefleet.Fleet, fault fakehost.Fault) {
	first := f.Start("first", fault)
	if err := first.Create(t.Context()); err == nil {
		t.Fatal("the run that was killed reports success")
	}
	if !first.Crashed() {
		t.Fatal("the run was not killed")
	}
	passwords := f.Value("/pgha/patroni/service/main/secrets")

	second := f.Start("second")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	if err := second.Create(ctx); err != nil {
		t.Log(first.Output())
		t.Log(second.Output())
		f.Do(func() { t.Log(f.Patroni.Describe()) })
		t.Fatalf("the second run failed: %v", err)
	}
	checkComplete(t, f)
	if passwords != "" && f.Value("/pgha/patroni/service/main/secrets") != passwords {
		t.Error("the passwords were made anew")
	}
	checkNothingLeft(t, f)
}

// checkComplete checks that one database was made and all nodes are of it.
func checkComplete(t *testing.T, f *fakefleet.Fleet) {
	t.Helper()
	f.WaitHealthy(len(f.Machines()) - 1)
	if n := len(f.Patroni.Initdbs); n != 1 {
		t.Errorf("the database was initialised %d times: %v", n, f.Patroni.Initdbs)
	}
	ids := f.SystemIDs()
	for name, id := range ids {
		if id != ids["pg1"] || id != f.Value("/service/main/initialize") {
			t.Errorf("%s is of another database: %v", name, ids)
		}
	}
	if len(ids) != len(f.Machines()) {
		t.Errorf("databases on %v", ids)
	}
	if n := len(f.Etcd.Stores()); n != 1 {
		t.Errorf("%d etcd clusters were formed", n)
	}
	for _, m := range f.Machines() {
		f.Do(func() {
			if text := m.Files.Read("/etc/patroni/config.yml"); len(text) == 0 || containsBootstrap(text) {
				t.Errorf("%s is left with a bootstrap section", m.Name)
			}
		})
	}
}

// checkNothingLeft checks that yet another run finds nothing to do.
func checkNothingLeft(t *testing.T, f *fakefleet.Fleet) {
	t.Helper()
	third := f.Start("third")
	if err := third.Create(t.Context()); err != nil {
		t.Fatalf("applying again: %v", err)
	}
	for _, c := range f.Mutations("third") {
		t.Errorf("applying again did something: %s", c)
	}
	if steps := third.Steps(); len(steps) > 0 {
		t.Errorf("applying again had steps: %v", steps)
	}
}
