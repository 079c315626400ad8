package acceptance

import (
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// Parameters that PostgreSQL takes over only when it starts: nodes are restarted one
// at a time while rows are written, in the order that each change needs; one that
// PostgreSQL does not start with is put back when the first replica shows it.
func TestParameters(t *testing.T) {
	turn(t)
	with := func(parameters string) settings {
		return settings{Purge: true, Cluster: `synchronous_mode = "on"
  postgresql = { parameters = { ` + parameters + ` } }`}
	}
	all := []string{"pg1", "pg2", "pg3"}
	s := newSite(t, labhost.Warm, with(`max_connections = "120"`), all...)
	ctx := t.Context()
	s.Apply(ctx)
	s.healthy("pg1", all...)
	w := s.write()
	show := func(t *testing.T, name, want string) {
		t.Helper()
		for _, h := range all {
			if have := s.sql(h, "show "+name); have != want {
				t.Errorf("%s on %s is %s, and not %s", name, h, have, want)
			}
		}
		s.healthy("pg1", all...)
		s.NoChanges(ctx)
	}
	var parameters string
	t.Run("raised", func(t *testing.T) {
		before := s.leader("pg1")
		parameters = `max_connections = "150", shared_buffers = "64MB"`
		s.configure(with(parameters))
		has(t, s.Plan(ctx), "Applying this restarts PostgreSQL on all nodes of main", "max_connections: 120 -> 150", "the leader last and only after a switchover")
		s.Apply(ctx)
		show(t, "max_connections", "150")
		show(t, "shared_buffers", "64MB")
		if now := s.leader("pg1"); now == before {
			t.Errorf("%s still leads: it was restarted as the leader", now)
		}
	})
	t.Run("lowered", func(t *testing.T) {
		before := s.leader("pg1")
		parameters = `shared_buffers = "64MB"` // back to the default, which is lower
		s.configure(with(parameters))
		has(t, s.Plan(ctx), "the leader first, where it is")
		s.Apply(ctx)
		show(t, "max_connections", "100")
		if now := s.leader("pg1"); now != before {
			t.Errorf("%s leads, and %s did before", now, before)
		}
	})
	t.Run("refused by PostgreSQL", func(t *testing.T) {
		leader := s.leader("pg1")
		started := s.sql(leader, "select pg_postmaster_start_time()")
		s.configure(with(parameters + `, shared_preload_libraries = "no_such_library"`))
		o := s.TryApply(ctx)
		if o.Code == 0 {
			t.Fatal("it was applied")
		}
		has(t, o, "PostgreSQL does not start", "no_such_library", "the configuration, as it was before, and all members running with it")
		s.healthy("pg1", all...)
		if now := s.sql(leader, "select pg_postmaster_start_time()"); now != started || s.leader("pg1") != leader {
			t.Errorf("the leader %s was touched: %s, before %s", leader, now, started)
		}
		if config := s.on("pg1", "patronictl -c /etc/patroni/config.yml show-config"); strings.Contains(config, "no_such_library") {
			t.Errorf("it is still in the configuration:\n%s", config)
		}
		s.configure(with(parameters))
		s.NoChanges(ctx)
	})
	t.Run("manually", func(t *testing.T) {
		manual := with(parameters + `, max_worker_processes = "12"`)
		manual.Cluster += "\n  " + `rollout = { switchover = "manual" }`
		s.configure(manual)
		leader := s.leader("pg1")
		has(t, s.Apply(ctx), "PostgreSQL on "+leader+" has to be restarted", "manual")
		for _, h := range s.others(leader) {
			if have := s.sql(h, "show max_worker_processes"); have != "12" {
				t.Errorf("max_worker_processes on %s is %s", h, have)
			}
		}
		if have := s.sql(leader, "show max_worker_processes"); have != "8" || s.leader("pg1") != leader {
			t.Errorf("the leader was restarted: max_worker_processes is %s", have)
		}
		has(t, s.Plan(ctx), leader+": restart PostgreSQL for max_worker_processes")
		manual.Cluster = strings.Replace(manual.Cluster, "manual", "auto", 1)
		s.configure(manual)
		s.Apply(ctx)
		show(t, "max_worker_processes", "12")
	})
	w.Check(t)
}
