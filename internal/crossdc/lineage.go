package crossdc

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// differs says that a standby's data are no part of a primary's history, empty if they are.
// The numbers of timelines do not say it: two sites that are promoted without knowing of each
// other both take the next one. Neither Patroni nor pg_rewind then sees a difference. But
// the histories of the two differ in where that timeline began.
func (m Manager) differs(ctx context.Context, of, l *look) (string, error) {
	leader, standby := of.known.Leader, l.known.Leader
	// The standby first: it never has more than the primary has afterwards.
	has, err := l.live.Status(ctx, standby)
	if err != nil {
		return "", err
	}
	st, err := of.live.Status(ctx, leader)
	if err != nil {
		return "", err
	}
	if !st.Primary() || st.Timeline == nil {
		return "", fmt.Errorf("%s is no primary", leader)
	}
	if has.XLog.Replayed > st.XLog.Location {
		return fmt.Sprintf("%s has applied more than %s has written: their histories differ", standby, leader), nil
	}
	if *st.Timeline < 2 {
		return "", nil
	}
	query := fmt.Sprintf("select coalesce(pg_read_file('pg_wal/%08X.history', 0, 1000000, true), '')", *st.Timeline)
	a, err := of.live.SQL(ctx, leader, "history", "postgres", query)
	if err != nil {
		return "", err
	}
	b, err := l.live.SQL(ctx, standby, "history", "postgres", query)
	if err != nil {
		return "", err
	}
	if strings.TrimSpace(strings.Join(a, "\n")) != strings.TrimSpace(strings.Join(b, "\n")) {
		return fmt.Sprintf("%s has another history of timeline %d than %s, or none", standby, *st.Timeline, leader), nil
	}
	return "", nil
}

// forked reports whether a site that was given up has begun a timeline of its own since: its
// data cannot be rewound then, whatever the numbers of timelines say.
func (m Manager) forked(ctx context.Context, l *look, lost Lost) bool {
	if l.index >= len(lost.Ends) || lost.Ends[l.index].Timeline == 0 {
		return true // nobody knows
	}
	end := lost.Ends[l.index].Timeline
	for _, name := range slices.Sorted(maps.Keys(l.known.Nodes)) {
		if st, answers := l.statuses[name]; answers && st.Timeline != nil && *st.Timeline > end {
			return true
		}
		if c, err := l.live.Control(ctx, name); err != nil || c.Timeline > end {
			return true
		}
	}
	return false
}
