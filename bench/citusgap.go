package main

import (
	"context"
	"fmt"

	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// citusGaps measures how long a client of the coordinator, which writes a row into a
// distributed table every 20 ms, cannot write at a planned switchover of a group of
// workers, and of the coordinator, in turns. The clusters are as modules/citus-cluster
// makes them: with synchronous_mode quorum, so that a client also waits for the former
// leader to follow the new one.
func citusGaps(ctx context.Context, s *suite, runs int) ([]Result, error) {
	type group struct {
		number       int
		name         string
		gaps, failed samples
	}
	worker, coordinator := &group{number: writtenTo, name: "a group of workers"}, &group{number: 0, name: "the coordinator"}
	err := s.onFormationHosts(ctx, labhost.Warm, func(ctx context.Context, lab *labhost.Lab) error {
		f, err := s.newFormation(lab)
		if err != nil {
			return err
		}
		if err := f.apply(ctx); err != nil {
			return err
		}
		w, err := f.write(ctx)
		if err != nil {
			return err
		}
		defer w.Stop()
		for i := range runs {
			for _, g := range []*group{worker, coordinator} {
				broken := w.Broken()
				gap, err := switchover(ctx, lab, w, formationGroups[g.number], fmt.Sprintf("--group %d", g.number))
				if err != nil {
					return fmt.Errorf("a switchover of %s: %w", g.name, err)
				}
				g.gaps, g.failed = append(g.gaps, gap.Seconds()), append(g.failed, float64(w.Broken()-broken))
				s.logf("citus_gap %d/%d: a switchover of %s: %.2f s without a write, %.0f failed transactions", i+1, runs, g.name, gap.Seconds(), g.failed[len(g.failed)-1])
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return []Result{
		worker.gaps.result("citus_gap_worker", "s"),
		worker.gaps.most("citus_gap_worker_worst", "s"),
		worker.failed.most("citus_gap_worker_failed_transactions", "transactions"),
		coordinator.gaps.result("citus_gap_coordinator", "s"),
		coordinator.gaps.most("citus_gap_coordinator_worst", "s"),
		coordinator.failed.most("citus_gap_coordinator_failed_transactions", "transactions"),
	}, nil
}

// writtenTo is the group of workers that has all shards of the table that is written to,
// and switches over. With shards elsewhere the client would have rows that do not need
// the group, and its longest gap would be shorter than what those of the group wait.
const writtenTo = 1

// write makes the table, and a client that writes.
func (f *formation) write(ctx context.Context) (*writer.Writer, error) {
	shards := func(on bool) string {
		return fmt.Sprintf("select citus_set_node_property(nodename, nodeport, 'shouldhaveshards', %t) from pg_dist_node where groupid not in (0, %d) and noderole = 'primary'", on, writtenTo)
	}
	_, err := f.sql(ctx, 0,
		"create role bench superuser login password 'bench-password'",
		"create table written (id bigint primary key, at timestamptz not null default now())",
		shards(false), "select create_distributed_table('written', 'id')", shards(true),
	)
	if err != nil {
		return nil, err
	}
	c := writer.Config{User: "bench", Password: "bench-password", Database: distributed, Table: "written"}
	for g := range formationGroups {
		if _, err := f.sql(ctx, g, "insert into pg_dist_authinfo values (0, 'bench', 'password=bench-password')"); err != nil {
			return nil, err
		}
	}
	for _, h := range formationGroups[0] {
		c.Hosts = append(c.Hosts, f.lab.Host(h).Addr)
	}
	if c.CA, err = f.lab.SSH(ctx, formationGroups[0][0], "cat /etc/pgha/patroni/*/ca.crt"); err != nil {
		return nil, err
	}
	return writer.Begin(ctx, c)
}
