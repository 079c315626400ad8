package fakefleet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost/simpatroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// bubble runs a test in virtual time, on a fleet whose calls take a time that
// the seed decides.
func bubble(t *testing.T, seed uint64, f func(t *testing.T, fleet *fakefleet.Fleet)) {
	t.Helper()
	bubbleOf(t, seed, 3, f)
}

// bubbleOf is bubble with so many hosts.
func bubbleOf(t *testing.T, seed uint64, hosts int, f func(t *testing.T, fleet *fakefleet.Fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t, fakefleet.New(t, fakefleet.Config{Config: fakehost.Config{Seed: seed}, Hosts: hosts}))
	})
}

// created runs a test on a fleet that is a complete cluster. Uid is that of the
// Patroni cluster.
func created(t *testing.T, seed uint64, f func(t *testing.T, fleet *fakefleet.Fleet, uid string)) {
	t.Helper()
	bubble(t, seed, func(t *testing.T, fleet *fakefleet.Fleet) {
		if err := fleet.Start("creator").Create(t.Context()); err != nil {
			t.Fatal(err)
		}
		fleet.WaitHealthy(2)
		fleet.Settle()
		f(t, fleet, uid(t, fleet))
	})
}

// uid is that of the Patroni cluster, as etcd has it.
func uid(t *testing.T, f *fakefleet.Fleet) string {
	t.Helper()
	var record struct{ UID string }
	if err := json.Unmarshal([]byte(f.Value(own+"record")), &record); err != nil {
		t.Fatal(err)
	}
	return record.UID
}

// own is where the provider keeps what it knows of the cluster.
const own = "/pgha/patroni/service/main/"

func containsBootstrap(text []byte) bool { return bytes.Contains(text, []byte("\nbootstrap:")) }

// replicas are the hosts that do not lead.
func replicas(f *fakefleet.Fleet) []*fakehost.Machine {
	var list []*fakehost.Machine
	for _, m := range f.Machines() {
		if m.Name != f.Primary() {
			list = append(list, m)
		}
	}
	return list
}

// leader is the host that leads.
func leader(t *testing.T, f *fakefleet.Fleet) *fakehost.Machine {
	t.Helper()
	for _, m := range f.Machines() {
		if m.Name == f.Primary() {
			return m
		}
	}
	t.Fatal("there is no leader")
	return nil
}

// patient bounds an operation that is expected to end.
func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	t.Cleanup(cancel)
	return ctx
}

// wantError checks that an error tells all that it has to.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("there is no error; it should say %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error does not say %q:\n%v", p, err)
		}
	}
}

// stride is by how many changes a sweep goes on that kills a run at one after the
// other: few in short tests, and each only where PGHA_EXHAUSTIVE is set, which takes
// minutes of both processors for the longest ones.
func stride(short, usual int) int {
	switch {
	case testing.Short():
		return short
	case os.Getenv("PGHA_EXHAUSTIVE") != "":
		return 1
	}
	return usual
}

type fakefleetOutcome = simpatroni.Outcome

// details is an error as users see it.
func details(err error) string { return problem.Details(err) }
