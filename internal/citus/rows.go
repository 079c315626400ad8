package citus

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Count is what a table has, all its shards together.
type Count struct {
	Rows int64 `json:"rows"`
	// Deleted is how many deletes the servers have counted in its shards
	// (pg_stat_get_tuples_deleted). Those of the group that is drained are left out: what
	// they count goes with them.
	Deleted int64 `json:"deleted"`
}

// counting bounds the count of all rows.
const counting = 12 * time.Hour

// countRows counts the rows of tables.
func countRows(ctx context.Context, b *patroni.Database, tables []string) (map[string]Count, error) {
	counts := map[string]Count{}
	if len(tables) == 0 {
		return counts, nil
	}
	// One shard at a time in each group: nobody waits for it but an apply.
	statements := []string{"set statement_timeout = 0", "set citus.max_adaptive_executor_pool_size = 1"}
	for _, t := range tables {
		statements = append(statements, fmt.Sprintf("select json_build_object('name', %s, 'rows', (select count(*) from %s))", patroni.Literal(t), t))
	}
	rows, err := b.Within(counting).Rows(ctx, "citus.rows", strings.Join(statements, ";\n"))
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		var c struct {
			Name string `json:"name"`
			Rows int64  `json:"rows"`
		}
		if err := json.Unmarshal([]byte(row), &c); err != nil {
			return nil, fmt.Errorf("the count of rows cannot be read: %w", err)
		}
		counts[c.Name] = Count{Rows: c.Rows}
	}
	return counts, nil
}

// countDeleted adds what the servers have counted of deletes, outside of a group.
func countDeleted(ctx context.Context, b *patroni.Database, counts map[string]Count, group int) error {
	if len(counts) == 0 {
		return nil
	}
	var names []string
	for _, t := range slices.Sorted(maps.Keys(counts)) {
		names = append(names, "("+patroni.Literal(t)+")")
	}
	list, err := patroni.List[struct {
		Name    string `json:"name"`
		Deleted int64  `json:"deleted"`
	}](ctx, b.Within(counting), "citus.deleted", fmt.Sprintf(`select v.name, coalesce(sum(r.result::bigint) filter (where r.success and n.groupid <> %d), 0) as deleted
from (values %s) v(name) cross join lateral run_command_on_placements(v.name::regclass, 'select pg_stat_get_tuples_deleted(''%%s''::regclass)') r
 left join pg_dist_node n on (n.nodename, n.nodeport) = (r.nodename, r.nodeport)
group by 1`, group, strings.Join(names, ", ")))
	for _, d := range list {
		counts[d.Name] = Count{Rows: counts[d.Name].Rows, Deleted: d.Deleted}
	}
	return err
}

// counted are the names of tables with shards whose rows can be counted: a partitioned
// table's are those of its partitions.
func counted(held []Holding) []string {
	var names []string
	for _, h := range held {
		if !h.Parent {
			names = append(names, h.Table)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// missing names the tables that have fewer rows than before although no server has seen a
// delete, and those where clients have deleted some.
func missing(before, after map[string]Count) (lost, deleted []string) {
	for _, t := range slices.Sorted(maps.Keys(after)) {
		was, is := before[t], after[t]
		text := fmt.Sprintf("%s: %d rows before, %d now", t, was.Rows, is.Rows)
		switch {
		case is.Rows >= was.Rows:
		case is.Deleted > was.Deleted:
			deleted = append(deleted, text)
		default:
			lost = append(lost, text)
		}
	}
	return lost, deleted
}

// rowsBefore is the note of what the tables had when a drain began: one that is cut off is
// compared by the run that ends it.
const rowsBefore = "rows"

// noteRows counts what the tables have whose shards are to be moved off a group.
func (m Manager) noteRows(ctx context.Context, b *patroni.Database, s Spec) (map[string]Count, error) {
	held, err := Holdings(ctx, b)
	if err != nil {
		return nil, err
	}
	mine, _ := of(held, s.number())
	before := map[string]Count{}
	for _, t := range counted(mine) {
		before[t] = Count{}
	}
	m.Log.InfoContext(ctx, "counting the rows of the tables whose shards are moved", "tables", len(before))
	// Deletes first, and afterwards last: none that the count did not see goes unnoticed.
	if err := countDeleted(ctx, b, before, s.number()); err != nil {
		return nil, err
	}
	rows, err := countRows(ctx, b, counted(mine))
	if err != nil {
		return nil, err
	}
	for t, c := range rows {
		before[t] = Count{Rows: c.Rows, Deleted: before[t].Deleted}
	}
	text, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	if len(text) > noteLimit {
		m.Log.InfoContext(ctx, "too many tables to note what each had: a run that goes on with this one cannot compare them", "tables", len(before))
		return before, nil
	}
	return before, m.Note(ctx, s.Group, rowsBefore, string(text))
}

// noteLimit is what etcd takes in one value, with room to spare (its --max-request-bytes is
// 1.5 MiB).
const noteLimit = 1 << 20

// notedRows is what a drain that was cut off has counted, nil if there is none.
func notedRows(notes map[string]string) (map[string]Count, error) {
	text, noted := notes[rowsBefore]
	if !noted {
		return nil, nil
	}
	before := map[string]Count{}
	if err := json.Unmarshal([]byte(text), &before); err != nil {
		return nil, fmt.Errorf("the note of the rows before the drain cannot be read: %w", err)
	}
	return before, nil
}

// settled is how long a server may take to count a delete (PostgreSQL, pgstat.c:
// PGSTAT_IDLE_INTERVAL is 10 s).
const settled = 12 * time.Second

// compareRows refuses to call a group drained whose tables have fewer rows than before, unless
// clients delete them. It says so once: whoever knows better applies again.
func (m Manager) compareRows(ctx context.Context, b *patroni.Database, s Spec, before map[string]Count) error {
	held, err := Holdings(ctx, b)
	if err != nil {
		return err
	}
	var tables []string
	for _, t := range counted(held) {
		if _, was := before[t]; was { // one that is not there any more was dropped
			tables = append(tables, t)
		}
	}
	after, err := countRows(ctx, b, tables)
	if err != nil {
		return err
	}
	if err := countDeleted(ctx, b, after, s.number()); err != nil {
		return err
	}
	lost, deleted := missing(before, after)
	if len(lost) > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(settled):
		}
		if err := countDeleted(ctx, b, after, s.number()); err != nil {
			return err
		}
		lost, deleted = missing(before, after)
	}
	if err := m.Note(ctx, s.Group, rowsBefore, ""); err != nil {
		return err
	}
	if len(deleted) > 0 {
		m.Log.WarnContext(ctx, "tables have fewer rows than before the drain; clients delete from them", "tables", strings.Join(deleted, "; "))
	}
	if len(lost) > 0 {
		return &problem.Error{
			Step: "compare the rows with those before the drain", Cause: fmt.Errorf("%s, and no server has counted a delete meanwhile", strings.Join(lost, "; ")),
			Left: "the group, registered and without shards: all of them are on other groups.",
			Do:   "find out where the rows went. If a client has truncated the table, apply again: that goes on without comparing once more.",
		}
	}
	m.Log.InfoContext(ctx, "no rows are missing", "tables", len(after))
	return nil
}
