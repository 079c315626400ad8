package patroni

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// The last node of a group of workers takes the group out of the formation's metadata
// with it. Stopped as any other node is, its Patroni tells the coordinator that the
// primary is about to move, and the coordinator's waits for the next one in an open
// transaction, for ever: everything that touches the group hangs. And removed from the
// metadata while its Patroni runs, the coordinator's puts it back. So the group is paused,
// its Patroni ends while PostgreSQL goes on, and its keys go before the metadata does.

// Coordinator is the cluster that coordinates the formation.
func (c Cluster) Coordinator() Cluster {
	c.Citus = &Citus{Database: c.Citus.Database}
	c.UID = ""
	return c
}

// leavesFormation reports whether a node is the last one of a group of workers.
func (k Known) leavesFormation(n Node) bool {
	if n.Cluster.Citus == nil || n.Cluster.Citus.Group == 0 {
		return false
	}
	for name := range k.Nodes {
		if name != n.Name {
			return false
		}
	}
	for name := range k.Members {
		if name != n.Name {
			return false
		}
	}
	return true
}

// leaveFormation are the steps that take a group out, nothing if there is no coordinator
// that could be told.
func (m *Manager) leaveFormation(ctx context.Context, n Node, do *Doer) (engine.Plan, error) {
	var plan engine.Plan
	c := n.Cluster.Coordinator()
	known, err := c.Load(ctx, do.KV)
	if err != nil || known.Record == nil || len(known.Nodes) == 0 {
		return plan, err
	}
	protected := known.Record.DeletionProtection
	b := &Database{&Doer{Fleet: do.Fleet, Log: do.Log, KV: do.KV, Known: known, Runner: do.Runner, Redact: do.Redact}, c, c.Citus.Database}
	// told runs what asks the coordinator. A formation that is not protected may be on
	// its way out as a whole, its coordinator before this group.
	told := func(ask func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			bounded, cancel := context.WithTimeout(ctx, 2*time.Minute)
			defer cancel()
			err := ask(bounded)
			var refused *problem.Error
			if err == nil || protected || errors.As(err, &refused) && refused.Step == holdsShards {
				return err
			}
			do.Log.WarnContext(ctx, "the coordinator is not told that the group leaves: the formation is not protected from deletion", "group", n.Cluster.Name(), "because", err.Error())
			return nil
		}
	}
	return plan.Then(
		do.step(n, "citus.empty", "make sure that the group holds no shards", engine.Safe, told(func(ctx context.Context) error {
			return do.empty(ctx, n, b, protected)
		})),
		do.step(n, "citus.pause", "pause the group, so that its Patroni can end while PostgreSQL goes on", engine.Reload, func(ctx context.Context) error {
			if st, err := do.status(ctx, n); err != nil || !st.Leads() {
				return nil //nolint:nilerr // it does not run, or leads nothing: there is nothing to tell
			}
			return do.beginPause(ctx, n)
		}),
		do.step(n, "citus.stop", "stop and disable Patroni; PostgreSQL goes on", engine.Restart, func(ctx context.Context) error {
			h := do.host(n)
			if err := remote.DisableUnit(ctx, h, Unit); err != nil {
				return err
			}
			return remote.StopUnit(ctx, h, Unit, stopTimeout)
		}),
		do.step(n, "citus.keys", "delete the group's members and leader in etcd, so that it is not put back", engine.Safe, func(ctx context.Context) error {
			for _, key := range []string{"leader", "sync", "failover", "status"} {
				if err := do.KV.Delete(ctx, n.Cluster.Prefix()+key); err != nil {
					return err
				}
			}
			return do.KV.DeletePrefix(ctx, n.Cluster.membersPrefix())
		}),
		do.step(n, "citus.remove", "remove the group from the coordinator's metadata", engine.Destructive, told(func(ctx context.Context) error {
			return do.unregister(ctx, n, b, known)
		})),
	), nil
}

// holdsShards is the step in which a group is refused that does.
const holdsShards = "make sure that the group holds no shards"

// empty refuses to take a group out that holds the only placement of a shard.
func (d *Doer) empty(ctx context.Context, n Node, b *Database, protected bool) error {
	if _, err := b.Rows(ctx, "citus.prepared", "select recover_prepared_transactions()"); err != nil {
		return err
	}
	rows, err := b.Rows(ctx, "citus.placements", fmt.Sprintf(`select count(*), string_agg(distinct s.logicalrelid::text, ', ')
from pg_dist_placement p join pg_dist_shard s using (shardid) join pg_dist_partition t using (logicalrelid)
where p.groupid = %d and t.repmodel <> 't'`, n.Cluster.Citus.Group))
	if err != nil || len(rows) == 0 {
		return err
	}
	count, tables, _ := strings.Cut(rows[0], "|")
	if count == "0" {
		return nil
	}
	if !protected {
		d.Log.WarnContext(ctx, "the group goes with its shards: the formation is not protected from deletion", "group", n.Cluster.Name(), "shards", count, "tables", tables)
		return nil
	}
	return &problem.Error{
		Host: n.Target.Name, Step: holdsShards,
		Cause: fmt.Errorf("%s is the last node of the group %s, which holds %s shards of %s", n.Name, n.Cluster.Name(), count, tables),
		Left:  "the node, running.",
		Do:    "drain the group first: destroy its pgha_citus_worker_group, or set drain = true in it. If the whole formation is to go with its data, set deletion_protection = false on its coordinator's pgha_patroni_cluster.",
	}
}

// unregister removes the group's rows from the metadata, replicas first, and looks
// whether they stay away: the coordinator's Patroni goes by what it has read of etcd.
func (d *Doer) unregister(ctx context.Context, n Node, b *Database, known Known) error {
	group := n.Cluster.Citus.Group
	remove := fmt.Sprintf(`select citus_remove_node(nodename, nodeport) from (select * from pg_dist_node where groupid = %d order by noderole = 'primary') r`, group)
	_, loop := known.Timing()
	for range 5 {
		if _, err := b.Rows(ctx, "citus.remove", remove); err != nil {
			return err
		}
		if err := lapse(ctx, time.Duration(2*loop)*time.Second); err != nil {
			return err
		}
		rows, err := b.Rows(ctx, "citus.nodes", fmt.Sprintf("select count(*) from pg_dist_node where groupid = %d", group))
		if err != nil {
			return err
		}
		if len(rows) == 1 && rows[0] == "0" {
			return nil
		}
		d.Log.WarnContext(ctx, "the coordinator's Patroni has put the group back; removing it again", "group", n.Cluster.Name())
	}
	return &problem.Error{
		Host: n.Target.Name, Cause: fmt.Errorf("the group %s comes back into pg_dist_node whenever it is removed", n.Cluster.Name()),
		Left: "PostgreSQL, running without Patroni.", Do: "find out which Patroni of group " + fmt.Sprint(group) + " still runs (patronictl list), stop it, then apply again.",
	}
}

func lapse(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
