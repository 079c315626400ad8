package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// The group that shards are moved onto, and what there is to move: half of the shards of
// a table, with about half a kilobyte a row. There are many shards, since most of the time
// of such a small one's move is what Citus does for each, and rows take up the memory that
// the lab's disks are in. The strategy is one by which it is half each time; the default
// one goes by sizes on disk, which are never twice the same.
const (
	filled      = 2
	movedShards = 256
	movedRows   = 1_000_000
	strategy    = "by_shard_count"
)

// citusRebalance measures how long it takes to move shards onto a group that has none:
// by an apply of a pgha_citus_worker_group with rebalance = "on_join", and by hand with
// what Citus has for it. Before each the table is made anew while the group may have no
// shards, so that both make the same moves of the same data; that is no part of it. Making a group of new hosts is none
// either, with which both would have the same work.
//
// Of the provider it is the whole apply, from the command to the prompt: Terraform's own
// start, the refresh of all of the formation's hosts, locks, moves, state. By hand it is
// from the first command to when the job's end is seen by asking each second, as the
// provider does; that the person has to find the coordinator's primary, and to be there,
// is not in it. What the provider adds, some 12 s with six hosts on two processors, does not
// grow with the data: most of it is the refresh of what did not change. So the ratio is one
// for moves that take as long as these, five minutes.
func citusRebalance(ctx context.Context, s *suite, runs int) ([]Result, error) {
	type way struct {
		name      string
		rebalance func(context.Context) (time.Duration, error)
		took      samples
	}
	var provider, hand *way
	err := s.onFormationHosts(ctx, labhost.Warm, func(ctx context.Context, lab *labhost.Lab) error {
		f, err := s.newFormation(lab)
		if err != nil {
			return err
		}
		r := &rebalanced{formation: f}
		provider = &way{name: "the provider", rebalance: r.withProvider}
		hand = &way{name: "by hand", rebalance: r.byHand}
		s.logf("citus_rebalance: making the formation")
		if err := r.make(ctx); err != nil {
			return err
		}
		for i := range runs {
			order := []*way{provider, hand}
			if i%2 == 1 {
				slices.Reverse(order)
			}
			for _, w := range order {
				if err := r.prepare(ctx); err != nil {
					return fmt.Errorf("preparing: %w", err)
				}
				took, err := w.rebalance(ctx)
				if err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
				state, m, err := f.lastMoves(ctx)
				if err != nil {
					return err
				}
				have, err := f.held(ctx, filled)
				if err != nil {
					return err
				}
				if state != "finished" || m.done != movedShards/2 || have != m.done {
					return fmt.Errorf("%s: the job is %s after %d moves, not %d, and the group holds %d shards", w.name, state, m.done, movedShards/2, have)
				}
				w.took = append(w.took, took.Seconds())
				s.logf("citus_rebalance %d/%d: %s took %.1f s, of which Citus's job of %d moves %.1f s", i+1, runs, w.name, took.Seconds(), m.done, m.took.Seconds())
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return []Result{
		provider.took.result("citus_rebalance", "s").to("citus_rebalance_by_hand", 1.05),
		hand.took.result("citus_rebalance_by_hand", "s"),
	}, nil
}

// rebalanced is a formation of which a group is emptied and filled.
type rebalanced struct{ *formation }

// make makes the formation. It keeps little WAL: the lab's disks are small, and rows are
// made anew each time.
func (r *rebalanced) make(ctx context.Context) error {
	if err := r.m.writeJSON("wal.auto.tfvars.json", map[string]any{"parameters": map[string]string{"max_wal_size": "512MB"}}); err != nil {
		return err
	}
	if err := r.configure(false); err != nil {
		return err
	}
	return r.apply(ctx)
}

// configure says whether the group is drained. Nothing else differs, or an apply would have
// something to do for the other group as well.
func (r *rebalanced) configure(drained bool) error {
	return r.m.write("drain_override.tf", fmt.Sprintf(`resource "pgha_citus_worker_group" "worker" {
  drain              = %t && each.key == "%d"
  rebalance          = "on_join"
  rebalance_strategy = %q
}
`, drained, filled, strategy))
}

// prepare has the group hold nothing, and the others all that there is to move.
func (r *rebalanced) prepare(ctx context.Context) error {
	if _, err := r.sql(ctx, 0, "drop table if exists moved"); err != nil {
		return err
	}
	if err := r.configure(true); err != nil {
		return err
	}
	if _, _, err := r.m.run(ctx, apply...); err != nil {
		return err
	}
	_, err := r.sql(ctx, 0,
		"create table moved (id bigint primary key, what text not null)",
		fmt.Sprintf("select create_distributed_table('moved', 'id', shard_count := %d)", movedShards),
		// Not so long that PostgreSQL would compress it.
		fmt.Sprintf("insert into moved select n, repeat(md5(n::text), 16) from generate_series(1, %d) n", movedRows),
		"vacuum analyze moved",
	)
	if err != nil {
		return err
	}
	have, err := r.held(ctx, filled)
	if err != nil {
		return err
	}
	if have > 0 {
		return fmt.Errorf("the group holds %d shards", have)
	}
	return r.quiet(ctx)
}

// withProvider has an apply end the drain.
func (r *rebalanced) withProvider(ctx context.Context) (time.Duration, error) {
	if err := r.configure(false); err != nil {
		return 0, err
	}
	took, _, err := r.m.run(ctx, apply...)
	return took, err
}

// byHand does the same with psql, each time over a connection of its own.
func (r *rebalanced) byHand(ctx context.Context) (time.Duration, error) {
	leader, err := leaderOf(ctx, r.lab, formationGroups[0])
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	for _, statement := range []string{
		fmt.Sprintf("select citus_set_node_property(nodename, nodeport, 'shouldhaveshards', true) from pg_dist_node where groupid = %d and noderole = 'primary'", filled),
		"select citus_rebalance_start(rebalance_strategy := '" + strategy + "')",
	} {
		if _, err := sqlIn(ctx, r.lab, leader, distributed, statement); err != nil {
			return 0, err
		}
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		state, err := sqlIn(ctx, r.lab, leader, distributed, "select state from pg_dist_background_job order by job_id desc limit 1")
		switch {
		case err != nil:
			return 0, err
		case state == "finished":
			return time.Since(begin), nil
		case state == "failed", state == "cancelled":
			return 0, fmt.Errorf("the job is %s", state)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
