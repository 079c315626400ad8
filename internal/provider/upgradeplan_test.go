package provider_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// list are the texts of a list of a data source.
func list(got map[string]tftypes.Value, path, field string) []string {
	var texts []string
	for i := 0; ; i++ {
		at := fmt.Sprintf("%s[%d]", path, i)
		if field != "" {
			at += "." + field
		}
		v, there := got[at]
		if !there {
			return texts
		}
		texts = append(texts, plain(v))
	}
}

func truth(v tftypes.Value) bool {
	var is bool
	return v.As(&is) == nil && is
}

// What the data source says of an upgrade: of none, of one, of one that cannot be, and
// with a host away. It changes nothing.
func TestUpgradePlan(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		lead := s.f.Primary()
		others := slices.DeleteFunc([]string{"pg1", "pg2", "pg3"}, func(n string) bool { return n == lead })
		read := func(config object) map[string]tftypes.Value {
			t.Helper()
			config["cluster"] = s.cluster.get("membership")
			got, diags := s.data("pgha_upgrade_plan", config)
			s.must(diags)
			for path, v := range got {
				if leaks := s.f.Leaks(v.String()); len(leaks) > 0 {
					t.Errorf("%s shows secrets", path)
				}
			}
			return got
		}
		number := func(got map[string]tftypes.Value, path string, want int) {
			t.Helper()
			if have := fmt.Sprint(plain(got[path])); have != fmt.Sprint(want) {
				t.Errorf("%s is %s, and not %d", path, have, want)
			}
		}

		none := read(object{})
		if titles := list(none, "steps", "title"); len(titles) > 0 || !truth(none["ready"]) || len(list(none, "problems", "")) > 0 {
			t.Errorf("as it is: %v, ready %s, %v", titles, none["ready"], list(none, "problems", ""))
		}

		got := read(object{"versions": object{"postgresql": "17.12"}})
		if turns := list(got, "turns", "node"); !slices.Equal(turns, append(slices.Clone(others), lead)) {
			t.Errorf("turns %v, and %s leads", turns, lead)
		}
		if to := list(got, "turns", "hands_over_to"); to[2] != others[0] && to[2] != others[1] || plain(got["next_leader"]) != to[2] {
			t.Errorf("%v take over, and %s leads then", to, plain(got["next_leader"]))
		}
		steps := list(got, "steps", "id")
		begin := slices.Index(steps, "patroni.gate")
		if hosts := list(got, "steps", "host")[:begin]; !slices.Contains(hosts, "pg1") || !slices.Contains(hosts, "pg2") || !slices.Contains(hosts, "pg3") || steps[0] != "patroni.stage" {
			t.Errorf("before the first turn only these have fetched what they need: %v", hosts)
		}
		one := "patroni.gate patroni.mark patroni.restart patroni.verify patroni.mark patroni.hold"
		want := one + " " + one + " " + strings.Replace(one, "patroni.gate", "patroni.gate patroni.switchover", 1)
		if ids := strings.Join(steps[begin:], " "); ids != want {
			t.Errorf("the steps are\n%s, want\n%s", ids, want)
		}
		number(got, "switchovers", 1)
		number(got, "write_gaps", 1)
		if h := list(got, "hazards", ""); len(h) != 1 || !strings.HasPrefix(h[0], "PostgreSQL 17.12: ") {
			t.Errorf("hazards %v", h)
		}
		var doc struct {
			Leader string
			Steps  []struct{ Risk string }
		}
		if err := json.Unmarshal([]byte(plain(got["json"])), &doc); err != nil || doc.Leader != lead || len(doc.Steps) != len(steps) {
			t.Errorf("%v: %+v", err, doc)
		}
		if table := plain(got["table"]); !strings.Contains(table, "Switchovers: 1") || !strings.Contains(table, "PostgreSQL 17.11-0+deb13u1 -> 17.12-0+deb13u1") {
			t.Errorf("table:\n%s", table)
		}

		// Patroni alone, on one node: PostgreSQL goes on running, and nobody hands over.
		canary := read(object{"nodes": object{lead: object{"patroni": "4.1.5"}}})
		number(canary, "switchovers", 0)
		number(canary, "write_gaps", 0)
		if turns := list(canary, "turns", "node"); !slices.Equal(turns, []string{lead}) || len(list(canary, "hazards", "")) != 2 {
			t.Errorf("turns %v, hazards %v", turns, list(canary, "hazards", ""))
		}

		// What cannot be is among the problems; the rest is planned.
		for name, c := range map[string]struct {
			config object
			says   string
		}{
			"another major version": {object{"nodes": object{others[0]: object{"postgresql": "18.1"}}}, "a major version is not changed in place"},
			"no such version":       {object{"versions": object{"patroni": "4.0.9"}}, "has patroni in version 4.0.9; there are: 4.0.7-3~deb13u1, 4.1.5-2"},
			"a stranger":            {object{"nodes": object{"pg9": object{"patroni": "4.1.5"}}}, `no node "pg9"`},
		} {
			got := read(c.config)
			if problems := strings.Join(list(got, "problems", ""), "\n"); !strings.Contains(problems, c.says) || truth(got["ready"]) {
				t.Errorf("%s: problems %s, ready %s", name, problems, got["ready"])
			}
		}
		typ := s.schemas.DataSourceSchemas["pgha_upgrade_plan"].ValueType()
		checked, err := s.server.ValidateDataResourceConfig(t.Context(), &tfprotov6.ValidateDataResourceConfigRequest{
			TypeName: "pgha_upgrade_plan", Config: s.dynamic(typ, value(typ, object{
				"cluster": s.cluster.get("membership"), "versions": object{"postgresql": "seventeen"}, "nodes": object{"pg1": object{"postgresql": "v17"}},
			})),
		})
		if err != nil || !strings.Contains(errorsIn(checked.Diagnostics), "versions.postgresql: ") || !strings.Contains(errorsIn(checked.Diagnostics), `nodes["pg1"].postgresql: `) {
			t.Errorf("what is no version is taken for one: %v, %s", err, errorsIn(checked.Diagnostics))
		}

		for _, m := range s.f.Machines() {
			if m.Name == others[1] {
				s.f.Do(m.PowerOff)
			}
		}
		s.f.Settle()
		away := read(object{"versions": object{"postgresql": "17.12"}})
		problems := strings.Join(list(away, "problems", ""), "\n")
		if !strings.Contains(problems, "host "+others[1]) || !slices.Equal(list(away, "turns", "node"), []string{others[0], lead}) {
			t.Errorf("turns %v, problems:\n%s", list(away, "turns", "node"), problems)
		}
		t.Logf("%s", plain(away["table"]))
	})
}
