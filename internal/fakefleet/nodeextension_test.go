package fakefleet_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// vector is the package of an extension.
const vector = "postgresql-17-pgvector"

// An extension is installed while everything runs; another version of it is brought
// along the same road as one of PostgreSQL, and back; and one that is let go stays.
func TestNodeExtensions(t *testing.T) {
	rolling(t, 3, 1, func(t *testing.T, r *roll) {
		r.Do(func() {
			for _, m := range r.Machines() {
				m.Publish(false, vector, "0.7.0-1", "0.8.0-1", "0.8.0-2")
			}
		})
		has := func(version string, held bool) {
			t.Helper()
			r.Do(func() {
				for _, m := range r.Machines() {
					if v := m.Installed(vector); v != version || slices.Contains(m.Held(), vector) != held {
						t.Errorf("%s has %s %q, and holds %v", m.Name, vector, v, m.Held())
					}
				}
			})
		}
		started := r.started()
		r.extensions = map[string]string{"pgvector": "0.7.0"}
		r.must("first", oldPins, 3)
		r.check(oldPins)
		has("0.7.0-1", true)
		if now := r.started(); !maps.Equal(now, started) || r.switchovers() > 0 {
			t.Errorf("something was restarted: %v, before %v", now, started)
		}

		r.extensions = map[string]string{"pgvector": "0.8.0"}
		p := r.must("second", oldPins, 3)
		r.check(oldPins)
		has("0.8.0-2", true)
		for host, now := range r.started() {
			if !now.After(started[host]) {
				t.Errorf("%s was not restarted", host)
			}
		}
		if n := r.switchovers(); n != 1 {
			t.Errorf("%d switchovers", n)
		}
		tried := 0
		for _, c := range r.Calls() {
			if c.Process == p.Name && c.Name == "postgres.scratch" {
				tried++
				if said := strings.Join(c.Args, " "); !strings.Contains(said, vector+"=0.8.0-2") {
					t.Errorf("the scratch server got %s", said)
				}
			}
		}
		if tried != 3 {
			t.Errorf("the libraries were tried %d times", tried)
		}

		r.extensions = map[string]string{"pgvector": "0.7.0"}
		r.must("back", oldPins, 1)
		r.check(oldPins)
		has("0.7.0-1", true)

		r.extensions, r.freed = nil, []string{vector}
		started = r.started()
		r.must("let go", oldPins, 3)
		r.freed = nil
		r.check(oldPins)
		has("0.7.0-1", false)
		if now := r.started(); !maps.Equal(now, started) {
			t.Errorf("something was restarted: %v, before %v", now, started)
		}
	})
}

// A version that there is not is refused before anything is touched, by its name.
func TestNodeExtensionRefused(t *testing.T) {
	rolling(t, 3, 1, func(t *testing.T, r *roll) {
		r.Do(func() {
			for _, m := range r.Machines() {
				m.Publish(true, vector, "0.7.0-1")
				m.Packages[vector] = &fakehost.Package{Version: "0.7.0-1"}
			}
		})
		r.extensions = map[string]string{"pgvector": "0.9.0"}
		started := r.started()
		_, err := r.Start("planner").PatroniManager().PreviewNode(patient(t), r.node(r.Host(1), newPins), nil)
		refused := patroni.Refusals(err)
		if len(refused) != 1 || refused[0].Part != "extensions" || refused[0].Key != "pgvector" {
			t.Errorf("refused: %v", refused)
		}
		wantError(t, err, vector+" in version 0.9.0", "there are: 0.7.0-1")
		wantError(t, anyError(r.apply(patient(t), r.Start("first"), oldPins, 3)), vector)
		if now := r.started(); !maps.Equal(now, started) {
			t.Errorf("something was restarted: %v, before %v", now, started)
		}
	})
}
