package acceptance

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// Everyday life of replicas, while rows are written: a node is added behind
// another replica, moved behind the leader, broken in two ways, its host is
// rebuilt, it is removed, and another one is replaced. Not one write fails.
func TestNodes(t *testing.T) {
	turn(t)
	base := settings{
		EtcdOn: []string{"pg1", "pg2", "pg3"},
		Cluster: `member_slots_ttl = "0s"
  postgresql = { parameters = { wal_keep_size = "16MB", max_wal_size = "64MB", min_wal_size = "32MB" } }`,
	}
	s := newSite(t, labhost.Warm, base, "pg1", "pg2", "pg3", "pg4")
	ctx := t.Context()
	s.dropNode("pg4")
	s.Apply(ctx)
	s.healthy("pg1", "pg1", "pg2", "pg3")
	w := s.write()
	leader := s.leader("pg1")
	var replica string
	for _, name := range s.others(leader) {
		if name != "pg4" {
			replica = name
		}
	}
	all := []string{"pg1", "pg2", "pg3", "pg4"}
	followers := func(of string) string {
		return s.sql(of, "select coalesce(string_agg(application_name, ',' order by application_name), '') from pg_stat_replication where state = 'streaming'")
	}
	follows := func(upstream string) {
		t.Helper()
		s.eventually("pg4 to stream from "+upstream, time.Minute, func(context.Context) (bool, string) {
			have := followers(upstream)
			return strings.Contains(have, "pg4"), upstream + " streams to " + have
		})
	}

	t.Run("a fourth node, behind a replica", func(t *testing.T) {
		cascading := base
		cascading.Nodes = map[string]string{"pg4": `tags = { replicatefrom = "` + replica + `" }`}
		s.configure(cascading)
		has(t, s.Plan(ctx), "1 to add, 0 to change, 0 to destroy")
		s.Apply(ctx)
		s.healthy("pg1", all...)
		follows(replica)
		s.NoChanges(ctx)
	})

	t.Run("tags changed", func(t *testing.T) {
		s.configure(base)
		has(t, s.Plan(ctx), "(reload)", "0 to add, 1 to change, 0 to destroy")
		s.Apply(ctx)
		follows(leader)
		s.NoChanges(ctx)
	})

	t.Run("a data directory is not moved in place", func(t *testing.T) {
		moved := base
		moved.Nodes = map[string]string{"pg4": `data_directory = "/srv/postgresql"`}
		s.configure(moved)
		o := s.Plan(ctx)
		has(t, o, "A data directory is not moved in place", "remove the node and make it again")
		if o.Code != 1 {
			t.Errorf("the plan ended with %d", o.Code)
		}
		s.configure(base)
	})

	// reinitialised plans and applies what makes pg4 whole again.
	reinitialised := func(t *testing.T, why string) {
		t.Helper()
		marker := s.on("pg4", "stat -c %i /var/lib/postgresql/17/main/PG_VERSION")
		o := s.Plan(ctx)
		has(t, o, "delete the replica's data and clone it again", why, "(destructive)", "Applying this replaces the data of replica pg4", "0 to add, 1 to change, 0 to destroy")
		s.Apply(ctx)
		s.healthy("pg1", all...)
		if now := s.on("pg4", "stat -c %i /var/lib/postgresql/17/main/PG_VERSION"); now == marker {
			t.Error("the data directory is still the old one")
		}
		s.NoChanges(ctx)
	}

	t.Run("a replica that lost its slot", func(t *testing.T) {
		s.on("pg4", "systemctl stop patroni")
		s.eventually("the slot to be gone", time.Minute, func(context.Context) (bool, string) {
			have := s.sql(leader, "select coalesce(string_agg(slot_name, ','), '') from pg_replication_slots")
			return !strings.Contains(have, "pg4"), have
		})
		for range 12 {
			s.sql(leader, "select pg_logical_emit_message(true, 'test', 'x'), pg_switch_wal()")
		}
		s.sql(leader, "checkpoint")
		s.on("pg4", "systemctl start patroni")
		s.eventually("pg4 to notice", time.Minute, func(ctx context.Context) (bool, string) {
			out, err := s.lab.SSH(ctx, "pg4", "journalctl -q -u patroni --since -1min -o cat | grep 'has already been removed' | tail -n 1")
			return err == nil && out != "", out
		})
		reinitialised(t, "has already been removed")
	})

	t.Run("a replica whose data is damaged", func(t *testing.T) {
		s.on("pg4", "rm /var/lib/postgresql/17/main/global/pg_filenode.map; pkill -9 -u postgres -x postgres; true")
		s.eventually("pg4 to fail", time.Minute, func(ctx context.Context) (bool, string) {
			out, err := s.lab.SSH(ctx, "pg4", "journalctl -q -u patroni --since -1min -o cat | grep pg_filenode.map | tail -n 1")
			return err == nil && out != "", out
		})
		reinitialised(t, "pg_filenode.map")
	})

	t.Run("a rebuilt host", func(t *testing.T) {
		if err := s.lab.Rebuild(ctx, "pg4"); err != nil {
			t.Fatal(err)
		}
		has(t, s.Plan(ctx), "Host pg4 is another machine", "Node pg4 is no longer on host pg4", "2 to add, 0 to change, 0 to destroy")
		s.Apply(ctx)
		s.healthy("pg1", all...)
		s.NoChanges(ctx)
	})

	t.Run("removed", func(t *testing.T) {
		s.dropNode("pg4")
		has(t, s.Plan(ctx), "0 to add, 0 to change, 1 to destroy")
		s.Apply(ctx)
		s.healthy("pg1", "pg1", "pg2", "pg3")
		s.NoChanges(ctx)
	})

	t.Run("replaced", func(t *testing.T) {
		s.Apply(ctx, "-replace=pgha_patroni_node."+replica)
		s.healthy("pg1", "pg1", "pg2", "pg3")
		s.NoChanges(ctx)
	})

	if now := s.leader("pg1"); now != leader {
		t.Errorf("%s leads, and %s led at the beginning", now, leader)
	}
	if n := w.Failed(); n > 0 {
		t.Errorf("%d writes failed", n)
	}
	w.Check(t)
}
