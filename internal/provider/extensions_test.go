package provider_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// Extensions are pinned, found in another version, let go, and refused by their names;
// the data source plans for them what the resource does.
func TestExtensions(t *testing.T) {
	const vector, columns = "postgresql-17-pgvector", "postgresql-17-citus"
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.f.Do(func() {
			for _, m := range s.f.Machines() {
				m.Publish(true, vector, "0.7.0-1", "0.8.0-1")
				m.Publish(true, columns, "13.2.2-1")
			}
		})
		s.create()
		pinned := func(i int, more object) object {
			v := object{"postgresql": fakefleet.PostgresVersion, "patroni": fakefleet.PatroniVersion}
			for k, e := range more {
				v[k] = e
			}
			return with(s.node(i), "versions", v)
		}
		has := func(name, version string, held bool) {
			t.Helper()
			s.f.Do(func() {
				p := s.f.Host(2).Packages[name]
				if p == nil {
					p = &fakehost.Package{}
				}
				if p.Version != version || p.Held != held {
					t.Errorf("%s is there as %+v", name, *p)
				}
			})
		}
		both := pinned(1, object{"citus": "13.2.2", "extensions": object{"pgvector": "0.7.0"}})
		s.must(s.nodes[1].apply(both))
		s.nodes[1].unchanged(both)
		has(vector, "0.7.0-1", true)
		has(columns, "13.2.2-1", true)

		for at, config := range map[string]object{
			`versions.extensions["pgvector"]`: pinned(1, object{"citus": "13.2.2", "extensions": object{"pgvector": "0.9.0"}}),
			"versions.citus":                  pinned(1, object{"citus": "14.0.1", "extensions": object{"pgvector": "0.7.0"}}),
		} {
			_, _, diags := s.nodes[1].plan(config)
			if got := errorsIn(diags); !strings.HasPrefix(got, at+": ") || !strings.Contains(got, "no repository of this host has") {
				t.Errorf("the error is %q, want one at %s", got, at)
			}
		}

		// Somebody else brings another version, and the plan goes back.
		s.f.Do(func() { s.f.Host(2).Packages[vector].Version = "0.8.0-1" })
		s.must(s.nodes[1].refresh())
		if text := s.nodes[1].text(); !strings.Contains(text, "0.8.0-1") {
			t.Errorf("the state does not say what is installed:\n%s", text)
		}
		_, _, diags := s.nodes[1].plan(both)
		if warned := told(diags, tfprotov6.DiagnosticSeverityWarning); !strings.Contains(warned, vector+" 0.8.0-1 -> 0.7.0-1") {
			t.Errorf("the plan says:\n%s", warned)
		}
		got, diags := s.data("pgha_upgrade_plan", object{
			"cluster": s.cluster.get("membership"), "nodes": object{"pg2": object{"extensions": object{"pgvector": "0.7.0"}, "citus": "13.2.2"}},
		})
		s.must(diags)
		if turns, reasons, hazards := list(got, "turns", "node"), list(got, "turns", "reason"), list(got, "hazards", ""); fmt.Sprint(turns) != "[pg2]" ||
			!strings.Contains(reasons[0], vector+" 0.8.0-1 -> 0.7.0-1") || len(hazards) != 1 || !strings.Contains(hazards[0], "ALTER EXTENSION") {
			t.Errorf("the data source says %v, %v, %v", turns, reasons, hazards)
		}
		s.must(s.nodes[1].apply(both))
		s.nodes[1].unchanged(both)
		has(vector, "0.7.0-1", true)

		// One that is let go stays, and is not held.
		one := pinned(1, object{"extensions": object{"pgvector": "0.7.0"}})
		s.must(s.nodes[1].apply(one))
		s.nodes[1].unchanged(one)
		has(columns, "13.2.2-1", false)
		s.must(s.nodes[1].apply(s.node(1)))
		s.nodes[1].unchanged(s.node(1))
		has(vector, "0.7.0-1", false)
	})
}
