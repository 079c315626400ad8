package citus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// Job is a background job of Citus's that moves shards (pg_dist_background_job). It is
// the server's own: it goes on when whoever has begun it is gone.
type Job struct {
	ID    int64  `json:"job_id"`
	State string `json:"state"` // scheduled, running, finished, cancelling, cancelled, failing, failed
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
	// Said is what the tasks said that failed, or that are tried again.
	Said string `json:"said"`
}

const jobs = `select j.job_id, j.state::text,
 (select count(*) from pg_dist_background_task t where t.job_id = j.job_id and t.status = 'done') as done,
 (select count(*) from pg_dist_background_task t where t.job_id = j.job_id) as total,
 coalesce((select string_agg(distinct t.message, '; ') from pg_dist_background_task t where t.job_id = j.job_id and t.status <> 'done' and t.message <> ''), '') as said
from pg_dist_background_job j where j.job_type = 'rebalance'`

// Jobs are those that are not over.
func Jobs(ctx context.Context, b *patroni.Database) ([]Job, error) {
	return patroni.List[Job](ctx, b, "citus.jobs", jobs+" and j.state not in ('finished', 'cancelled', 'failed') order by j.job_id")
}

// Moving says how shards are moved.
type Moving struct {
	Strategy string // empty is Citus's default
	Mode     string // auto, force_logical, block_writes
	// Threshold is how far groups may differ in what the strategy counts before shards are
	// moved, as a part of the average; nil is the strategy's own.
	Threshold *float64
}

// own is the name of the strategy that a threshold of ours makes of the wanted one, empty if
// there is none. Citus takes a threshold for a job from its strategy alone.
func (m Moving) own() string {
	if m.Threshold == nil {
		return ""
	}
	return fmt.Sprintf("pgha_%s_%g", cmp.Or(m.Strategy, "default"), *m.Threshold)
}

// strategy is the strategy's name in SQL.
func (m Moving) strategy() string { return nullable(cmp.Or(m.own(), m.Strategy)) }

// planned are the arguments with which Citus plans by that strategy, without changing
// anything: ours, with the threshold, may be only to come.
func (m Moving) planned() string {
	threshold := "null"
	if m.Threshold != nil {
		threshold = fmt.Sprintf("%g", *m.Threshold)
	}
	return fmt.Sprintf("rebalance_strategy := %s, threshold := %s", nullable(m.Strategy), threshold)
}

// nullable is a text in SQL, null for an empty one.
func nullable(s string) string {
	if s == "" {
		return "null"
	}
	return patroni.Literal(s)
}

// prepare makes the strategy that has our threshold.
func (m Moving) prepare(ctx context.Context, b *patroni.Database) error {
	if m.own() == "" {
		return nil
	}
	base := "default_strategy"
	if m.Strategy != "" {
		base = "name = " + patroni.Literal(m.Strategy)
	}
	_, err := b.Rows(ctx, "citus.strategy", fmt.Sprintf(`select citus_add_rebalance_strategy(%[1]s, s.shard_cost_function, s.node_capacity_function, s.shard_allowed_on_node_function,
 %[2]g, least(s.minimum_threshold, %[2]g), s.improvement_threshold)
from pg_dist_rebalance_strategy s where %[3]s and not exists (select from pg_dist_rebalance_strategy where name = %[1]s)`, patroni.Literal(m.own()), *m.Threshold, base))
	return err
}

// begin starts to move shards: to where the strategy wants them, or with drain only off
// those that are not to have any. It returns zero where there is nothing to move.
func (m Moving) begin(ctx context.Context, b *patroni.Database, drain bool) (int64, error) {
	if err := m.prepare(ctx, b); err != nil {
		return 0, err
	}
	ids, err := patroni.List[struct {
		ID *int64 `json:"id"`
	}](ctx, b, "citus.rebalance", fmt.Sprintf(`select citus_rebalance_start(rebalance_strategy := %s, drain_only := %t, shard_transfer_mode := %s) as id`, m.strategy(), drain, patroni.Literal(m.Mode)))
	if err != nil || len(ids) == 0 || ids[0].ID == nil {
		return 0, err
	}
	return *ids[0].ID, nil
}

// errEnded: a job is over, and has not done all that it was to do.
var errEnded = errors.New("not all shards were moved")

// follow waits for a job's end, and says how far it is. A lost connection and a failover
// of the coordinator are waited out: the job goes on, or is begun again by Citus.
func follow(ctx context.Context, log *slog.Logger, b *patroni.Database, id int64, what string) error {
	var last Job
	failed := 0
	err := wait.Until(ctx, log, what, time.Second, func(ctx context.Context) (bool, string, error) {
		list, err := patroni.List[Job](ctx, b, "citus.jobs", jobs+fmt.Sprintf(" and j.job_id = %d", id))
		if err != nil {
			if failed++; failed > 60 {
				return false, "", wait.Never(err)
			}
			return false, "", err
		}
		failed = 0
		if len(list) == 0 {
			return false, "", wait.Never(&problem.Error{Cause: fmt.Errorf("%w: the coordinator knows nothing of job %d", errEnded, id), Do: "apply again: what is left to move is moved then."})
		}
		last = list[0]
		switch last.State {
		case "finished":
			return true, "", nil
		case "failed", "cancelled":
			return false, "", wait.Never(&problem.Error{
				Cause: fmt.Errorf("%w: job %d of Citus is %s after %d of %d moves: %s", errEnded, id, last.State, last.Done, last.Total, strings.TrimSpace(last.Said)),
				Left:  "all data: a shard that was not moved is where it was.", Do: "see to what it says, then apply again: it goes on with what is left.",
			})
		}
		said := ""
		if last.Said != "" {
			said = "; it says " + last.Said
		}
		return false, fmt.Sprintf("%d of %d moves are done (job %d)%s", last.Done, last.Total, id, said), nil
	})
	if err == nil {
		log.InfoContext(ctx, "shards were moved", "job", id, "moves", last.Total)
	}
	return err
}

// rest waits for jobs that somebody has begun before, this provider in a run that was cut
// off, for example. How they end does not matter here.
func rest(ctx context.Context, log *slog.Logger, b *patroni.Database) error {
	list, err := Jobs(ctx, b)
	if err != nil {
		return err
	}
	for _, j := range list {
		if err := follow(ctx, log, b, j.ID, fmt.Sprintf("the job %d of Citus to end, which is under way", j.ID)); err != nil && !errors.Is(err, errEnded) {
			return err
		}
	}
	return nil
}
