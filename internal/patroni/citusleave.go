package patroni

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
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
	c.UID = c.otherUID()
	return c
}

// leavesFormation reports whether a node is the last one of a group of workers: no other
// member runs. One that is noted and does not run is no other, unless the group is
// protected: then nobody stops the last one that runs (handOver).
func (k Known) leavesFormation(n Node) bool {
	if !n.works() {
		return false
	}
	for name := range k.Members {
		if name != n.Name {
			return false
		}
	}
	for name := range k.Nodes {
		if name != n.Name && k.Record != nil && k.Record.DeletionProtection {
			return false
		}
	}
	return true
}

// works reports whether it is a node of a group of workers.
func (n Node) works() bool { return n.Cluster.Citus != nil && n.Cluster.Citus.Group > 0 }

// leaveFormation are the steps that take a group out, nothing if there is no coordinator
// that could be told.
func (m *Manager) leaveFormation(ctx context.Context, n Node, do *Doer) (engine.Plan, error) {
	var plan engine.Plan
	c := n.Cluster.Coordinator()
	known, err := c.Load(ctx, do.KV)
	if err != nil || c.untold(known) {
		return plan, err
	}
	protected := known.protected(c)
	b := &Database{&Doer{Fleet: do.Fleet, Log: do.Log, KV: do.KV, Known: known, Runner: do.Runner, Redact: do.Redact}, c, c.Citus.Database, statementTimeout}
	// told runs what asks the coordinator. A formation that is not protected may be on
	// its way out as a whole, its coordinator before this group: then, and only then, it
	// is not told. What else keeps it from answering is tried again for a while.
	told := func(ask func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			_, loop := known.Timing()
			bounded, cancel := context.WithTimeout(ctx, 2*time.Minute+10*time.Duration(loop)*time.Second)
			defer cancel()
			if protected {
				return ask(bounded)
			}
			return wait.Until(bounded, do.Log, "the coordinator to be told that "+n.Cluster.Name()+" leaves", 2*time.Second, func(ctx context.Context) (bool, string, error) {
				err := ask(ctx)
				if errors.Is(err, ErrNoPrimary) {
					do.Log.WarnContext(ctx, "the coordinator is not told that the group leaves: it has no primary any more, and the formation is not protected from deletion", "group", n.Cluster.Name(), "because", err.Error())
					return true, "", nil
				}
				return err == nil, "", err
			})
		}
	}
	with := false // it goes with its shards
	return plan.Then(
		do.step(n, "citus.empty", "make sure that the group holds no shards", engine.Safe, told(func(ctx context.Context) error {
			var err error
			with, err = do.empty(ctx, n, b, protected)
			return err
		})),
		do.step(n, "citus.pause", "pause the group, so that its Patroni can end while PostgreSQL goes on", engine.Reload, func(ctx context.Context) error {
			if tells, err := do.wouldTell(ctx, n); err != nil || !tells {
				return err
			}
			return do.beginPause(ctx, n)
		}),
		do.step(n, "citus.stop", "stop and disable Patroni; PostgreSQL goes on", engine.Restart, func(ctx context.Context) error {
			if tells, err := do.wouldTell(ctx, n); err != nil || tells {
				return cmp.Or(err, error(&problem.Error{
					Cause: fmt.Errorf("the group %s is not paused any more: its Patroni would have the coordinator wait for another primary", n.Cluster.Name()),
					Left:  "the node, running.", Do: "apply again.",
				}))
			}
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
			if err := do.KV.DeletePrefix(ctx, n.Cluster.membersPrefix()); err != nil {
				return err
			}
			return do.forgetPause(ctx, n.Cluster)
		}),
		do.step(n, "citus.remove", "remove the group from the coordinator's metadata", engine.Destructive, told(func(ctx context.Context) error {
			if with {
				// Citus does not remove a node that holds the only placement of a shard.
				do.Log.WarnContext(ctx, "the group stays in the metadata of the formation, which is not protected from deletion: it went with its shards", "group", n.Cluster.Name())
				return nil
			}
			return do.unregister(ctx, n, b, known)
		})),
	), nil
}

// wouldTell reports whether a node's Patroni would tell the coordinator that the primary
// is about to move, if it were stopped now: it leads, and is not paused. One that runs has
// to answer.
func (d *Doer) wouldTell(ctx context.Context, n Node) (bool, error) {
	var tells bool
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := wait.Until(bounded, d.Log, "Patroni on "+n.Name+" to say whether it leads", time.Second, func(ctx context.Context) (bool, string, error) {
		var p remote.Probe
		f, err := p.Unit(Unit).Run(ctx, d.host(n))
		if err != nil {
			return false, "", err
		}
		if u := f.Unit(Unit); !u.Running() && u.Active != "activating" {
			tells = false
			return true, "", nil
		}
		st, err := d.status(ctx, n)
		if err != nil {
			return false, "", err
		}
		kv, led, err := d.KV.Get(ctx, n.Cluster.leaderKey())
		if err != nil || led && kv.Value == n.Name && !st.Leads() {
			return false, "it is being promoted", err
		}
		tells = st.Leads() && !st.Pause
		return true, "", nil
	})
	return tells, err
}

// forgetPause takes back our pause of a group whose Patroni does not run any more, so that
// one that is taken up again is not paused.
func (d *Doer) forgetPause(ctx context.Context, c Cluster) error {
	kv, noted, err := d.KV.Get(ctx, c.pauseJournal())
	if err != nil || !noted {
		return err
	}
	var p ourPause
	if err := json.Unmarshal([]byte(kv.Value), &p); err != nil {
		return err
	}
	if before, _ := Bool(p.Before); !before {
		if err := etcd.Unpause(ctx, d.KV, c.Etcd.Name, c.Prefix()); err != nil {
			return err
		}
	}
	return d.KV.Delete(ctx, c.pauseJournal())
}

// empty refuses to take a group out that holds the only placement of a shard. Of a
// formation that is not protected it reports whether there is one.
func (d *Doer) empty(ctx context.Context, n Node, b *Database, protected bool) (holds bool, err error) {
	if _, err := b.Rows(ctx, "citus.prepared", "select recover_prepared_transactions()"); err != nil {
		return false, err
	}
	// Nothing comes onto it any more, from now on.
	set := func(on bool) error {
		_, err := b.Rows(ctx, "citus.property", fmt.Sprintf("select citus_set_node_property(nodename, nodeport, 'shouldhaveshards', %t) from pg_dist_node where groupid = %d and noderole = 'primary'", on, n.Cluster.Citus.Group))
		return err
	}
	had, err := b.Rows(ctx, "citus.shouldhave", fmt.Sprintf("select count(*) from pg_dist_node where groupid = %d and noderole = 'primary' and shouldhaveshards", n.Cluster.Citus.Group))
	if err != nil {
		return false, err
	}
	if err := set(false); err != nil {
		return false, err
	}
	holds, refused, err := d.holds(ctx, n, b, protected)
	if err == nil && refused != nil {
		if err = refused; len(had) == 1 && had[0] != "0" {
			err = errors.Join(err, set(true))
		}
	}
	return holds, err
}

// holds reports whether a group holds shards, and why it cannot leave a protected formation
// with them, or while some are being moved.
func (d *Doer) holds(ctx context.Context, n Node, b *Database, protected bool) (holds bool, refused, err error) {
	jobs, err := b.Rows(ctx, "citus.busy", "select count(*) from pg_dist_background_job where job_type = 'rebalance' and state not in ('finished', 'cancelled', 'failed')")
	if err != nil {
		return false, nil, err
	}
	if len(jobs) == 1 && jobs[0] != "0" && protected {
		return false, &problem.Error{
			Host: n.Target.Name, Cause: errors.New("Citus is moving shards at the moment"), Left: "the node, running.",
			Do: "let it finish (select * from citus_rebalance_status() on the coordinator), then apply again.",
		}, nil
	}
	rows, err := b.Rows(ctx, "citus.placements", fmt.Sprintf(`select count(*), string_agg(distinct s.logicalrelid::text, ', ')
from pg_dist_placement p join pg_dist_shard s using (shardid) join pg_dist_partition t using (logicalrelid)
where p.groupid = %d and t.repmodel <> 't'`, n.Cluster.Citus.Group))
	if err != nil || len(rows) == 0 {
		return false, nil, err
	}
	count, tables, _ := strings.Cut(rows[0], "\t")
	switch {
	case count == "0":
		return false, nil, nil
	case !protected:
		d.Log.WarnContext(ctx, "the group goes with its shards: the formation is not protected from deletion", "group", n.Cluster.Name(), "shards", count, "tables", tables)
		return true, nil, nil
	}
	return true, &problem.Error{
		Host:  n.Target.Name,
		Cause: fmt.Errorf("%s is the last node of the group %s, which holds %s shards of %s", n.Name, n.Cluster.Name(), count, tables),
		Left:  "the node, running.",
		Do:    "drain the group first: destroy its pgha_citus_worker_group, or set drain = true in it. If the whole formation is to go with its data, set deletion_protection = false on its coordinator's pgha_patroni_cluster.",
	}, nil
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
