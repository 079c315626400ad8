package provider_test

import (
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
)

// A group of a Citus formation through the protocol: what it is called, what its nodes
// need, and what is refused.
func TestCitusGroup(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.f.Do(func() {
			for _, m := range s.f.Machines() {
				m.Publish(true, "postgresql-17-citus", "13.2.2-1")
			}
		})
		for i, r := range s.hosts {
			s.must(r.apply(s.host(i)))
		}
		s.must(s.dcs.apply(s.etcd()))
		group := func(number int64, database string) object {
			return with(s.patroni(), "citus", object{"group": number, "database": database})
		}
		s.must(s.cluster.apply(group(0, "shop")))
		s.cluster.unchanged(group(0, "shop"))
		if id := plain(s.cluster.get("id")); id != "main/0" {
			t.Errorf("its id is %v", id)
		}
		if config := s.f.Value("/service/main/0/config"); !strings.Contains(config, `"synchronous_mode":"quorum"`) {
			t.Errorf("its configuration is %s", config)
		}
		for name, config := range map[string]object{"another group": group(1, "shop"), "another database": group(0, "other"), "none": s.patroni()} {
			_, _, diags := s.cluster.plan(config)
			if got := errorsIn(diags); !strings.HasPrefix(got, "citus: This cannot be changed") {
				t.Errorf("%s: the error is %q", name, got)
			}
		}
		off := with(group(0, "shop"), "synchronous_mode", "off")
		s.must(s.cluster.apply(off))
		s.cluster.unchanged(off)
		s.must(s.cluster.apply(group(0, "shop")))

		_, _, diags := s.nodes[0].plan(s.node(0))
		if got := errorsIn(diags); !strings.HasPrefix(got, "versions.citus: A node of a Citus group needs Citus") {
			t.Errorf("the error is %q", got)
		}
		node := with(s.node(0), "versions", object{"postgresql": fakefleet.PostgresVersion, "patroni": fakefleet.PatroniVersion, "citus": "13.2.2"})
		s.must(s.nodes[0].apply(node))
		s.nodes[0].unchanged(node)
		if id := plain(s.nodes[0].get("id")); id != "main/0/pg1" {
			t.Errorf("its id is %v", id)
		}
		one, other := s.resource("pgha_patroni_cluster"), s.resource("pgha_patroni_cluster")
		if _, _, diags = one.plan(group(7, "shop")); errorsIn(diags) != "" {
			t.Errorf("the error is %q", errorsIn(diags))
		}
		_, _, diags = other.plan(group(7, "shop"))
		if got := errorsIn(diags); !strings.HasPrefix(got, "citus.group: Two resources are the same cluster") {
			t.Errorf("the error is %q", got)
		}
		workers := s.resource("pgha_citus_worker_group")
		_, _, diags = workers.plan(object{"cluster": s.cluster.get("membership"), "nodes": []any{"main/0/pg1"}, "coordinator_nodes": []any{"main/0/pg1"}})
		if got := errorsIn(diags); !strings.HasPrefix(got, "cluster: Not a group of workers") {
			t.Errorf("the error is %q", got)
		}
	})
}
