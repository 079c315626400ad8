package provider_test

import (
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
)

// data reads a data source.
func (c *core) data(name string, config object) (map[string]tftypes.Value, []*tfprotov6.Diagnostic) {
	c.t.Helper()
	typ := c.schemas.DataSourceSchemas[name].ValueType()
	resp, err := c.server.ReadDataSource(c.t.Context(), &tfprotov6.ReadDataSourceRequest{TypeName: name, Config: c.dynamic(typ, value(typ, config))})
	if err != nil {
		c.t.Fatal(err)
	}
	if errorsIn(resp.Diagnostics) != "" {
		return nil, resp.Diagnostics
	}
	return leaves(c.t, c.static(typ, resp.State)), resp.Diagnostics
}

// What the data sources show of a cluster and its hosts, well and with a member
// away.
func TestDataSources(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		config := object{"cluster": s.cluster.get("membership")}
		got, diags := s.data("pgha_cluster", config)
		s.must(diags)
		lead := s.f.Primary()
		for path, want := range map[string]string{"leader": lead, "system_identifier": s.f.SystemIDs()[lead], "members[0].name": "pg1", "members[2].patroni_version": "4.0.7"} {
			if plain(got[path]) != want {
				t.Errorf("%s is %s, want %s", path, got[path], want)
			}
		}
		roles := map[string]int{}
		for _, path := range []string{"members[0].role", "members[1].role", "members[2].role"} {
			roles[plain(got[path])]++
		}
		if roles["leader"] != 1 || roles["replica"] != 2 {
			t.Errorf("roles %v", roles)
		}
		if table := plain(got["table"]); !strings.Contains(table, "pg3") || !strings.Contains(table, "streaming") {
			t.Errorf("table:\n%s", table)
		}
		for path, v := range got {
			if strings.HasPrefix(path, "warnings[") {
				t.Errorf("a warning about a healthy cluster: %s", v)
			}
			if leaks := s.f.Leaks(v.String()); len(leaks) > 0 {
				t.Errorf("%s shows secrets", path)
			}
		}

		away := 0
		for i, m := range s.f.Machines() {
			if m.Name != lead {
				away = i
			}
		}
		m := s.f.Machines()[away]
		s.f.Do(m.PowerOff)
		s.f.Settle()
		got, diags = s.data("pgha_cluster", config)
		s.must(diags)
		found := false
		for path, v := range got {
			if strings.HasSuffix(path, ".name") && plain(v) == m.Name {
				found = true
				if e := got[strings.TrimSuffix(path, ".name")+".error"]; e.IsNull() {
					t.Errorf("nothing is said about %s", m.Name)
				}
			}
		}
		if !found || plain(got["leader"]) != lead {
			t.Errorf("the member that is away is not shown: %v", got)
		}
		if _, diags := s.data("pgha_host_facts", object{"host": s.hosts[away].get("access")}); !strings.Contains(errorsIn(diags), "Unable to read the facts of host "+m.Name) {
			t.Errorf("the facts of a host that is off: %s", errorsIn(diags))
		}

		got, diags = s.data("pgha_host_facts", object{"host": s.hosts[(away+1)%3].get("access")})
		s.must(diags)
		for path, want := range map[string]string{
			"os": "debian", "release": "13", "codename": "trixie", "memory": "8GiB", "clock_skew": "0s", "time_service": "systemd-timesyncd",
			`packages["patroni"].version`: "4.0.7-3~deb13u1",
		} {
			if plain(got[path]) != want {
				t.Errorf("%s is %s, want %s", path, got[path], want)
			}
		}
		var held bool
		if got[`packages["postgresql-17"].held`].As(&held) != nil || !held || !strings.HasPrefix(plain(got[`packages["postgresql-17"].version`]), fakefleet.PostgresVersion) {
			t.Errorf("PostgreSQL: %v", got)
		}
	})
}
