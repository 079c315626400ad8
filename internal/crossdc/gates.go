package crossdc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// gates are what speaks against a planned move now, a sentence each. Nothing is changed.
func (m Manager) gates(ctx context.Context, s Spec, v view, from, to string) []string {
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	for i := range v[from] {
		a, b := v[from][i], v[to][i]
		switch {
		case a.err != nil:
			say("%s cannot be reached: %v", a.name(), a.err)
			continue
		case b.err != nil:
			say("%s cannot be reached: %v", b.name(), b.err)
			continue
		}
		for _, l := range []*look{a, b} {
			if paused, _ := patroni.Bool(l.known.Config["pause"]); paused {
				say("%s is paused", l.name())
			}
			for _, node := range slices.Sorted(maps.Keys(l.errs)) {
				say("%s: %s does not answer: %v", l.name(), node, l.errs[node])
			}
		}
		if !b.follows() {
			say("%s is no standby", b.name())
			continue
		}
		leader, st, ok := a.leader()
		if !ok || !st.Primary() {
			say("%s has no primary", a.name())
			continue
		}
		next, standby, ok := b.leader()
		if !ok {
			say("%s has no leader", b.name())
			continue
		}
		if running, why := streams(standby); !running {
			say("%s: its leader %s does not stream: %s", b.name(), next, why)
		}
		for _, node := range slices.Sorted(maps.Keys(b.statuses)) {
			if running, why := patroni.Running(b.statuses[node]); !running {
				say("%s: %s: %s", b.name(), node, why)
			}
		}
		if lag := st.XLog.Location - standby.XLog.Replayed; lag > s.Limits.Lag && s.Sites[to].Delay == 0 {
			say("%s is %d MiB behind, and limits.lag is %d MiB", b.name(), lag>>20, s.Limits.Lag>>20)
		}
		if st.Timeline != nil && standby.Timeline != nil && *st.Timeline != *standby.Timeline {
			say("%s is on timeline %d, and %s on %d", a.name(), *st.Timeline, b.name(), *standby.Timeline)
		}
		if different, err := m.differs(ctx, a, b); err != nil {
			say("%s: whether it has the history of %s cannot be found out: %v", b.name(), a.name(), err)
		} else if different != "" {
			say("%s: %s", b.name(), different)
		}
		if st.ServerVersion/10000 != standby.ServerVersion/10000 {
			say("%s runs PostgreSQL %d, and %s %d", a.name(), st.ServerVersion/10000, b.name(), standby.ServerVersion/10000)
		}
		if age, who, err := oldest(ctx, a.live, leader); err != nil {
			say("%s: how old its transactions are cannot be found out: %v", a.name(), err)
		} else if age > s.Limits.Transaction {
			say("%s has a transaction that has been open for %s (%s), which the move would end; limits.transaction is %s", a.name(), age.Round(time.Second), who, s.Limits.Transaction)
		}
		for node, err := range m.back(ctx, s, a, to) {
			say("%s: %s cannot log in to site %s, which it is to follow: %v", a.name(), node, to, err)
		}
	}
	for _, name := range s.names() {
		if err := v.unreachable(name); err != nil && name != from && name != to {
			say("site %s, which is to follow %s, cannot be reached: %v", name, to, err)
		}
	}
	return found
}

// streams reports whether the leader of a standby cluster gets WAL as it is made.
func streams(st patroni.NodeStatus) (bool, string) {
	if ok, why := patroni.Running(st); !ok || st.Primary() {
		return ok, why
	}
	return patroni.Streams(st)
}

// oldest is the age of the oldest transaction of a client, and whose it is.
func oldest(ctx context.Context, l *patroni.Live, node string) (time.Duration, string, error) {
	rows, err := l.SQL(ctx, node, "transactions", "postgres", "select extract(epoch from now() - xact_start)::bigint, pid || ', ' || coalesce(usename, '') || ', ' || coalesce(application_name, '') "+
		"from pg_stat_activity where xact_start is not null and backend_type = 'client backend' and pid <> pg_backend_pid() order by xact_start limit 1")
	if err != nil || len(rows) == 0 {
		return 0, "", err
	}
	age, who, _ := strings.Cut(rows[0], "\t")
	seconds, err := strconv.ParseInt(age, 10, 64)
	return time.Duration(seconds) * time.Second, "pid " + who, err
}

// back tries from each node of a site whether it can follow another one: what would not
// show before that site is the primary, and this one has to.
func (m Manager) back(ctx context.Context, s Spec, l *look, to string) map[string]error {
	member := s.Sites[to].Clusters[l.index]
	if l.cluster.Adopted() {
		return nil // its files say how, and are not ours
	}
	failed := map[string]error{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for node := range l.statuses {
		wg.Go(func() {
			err := l.live.Reaches(ctx, node, member.Hosts, member.Cluster.PostgresPort)
			var e *host.Error
			if errors.As(err, &e) && e.Stderr != "" {
				err = errors.New(strings.TrimSpace(e.Stderr))
			}
			if err != nil {
				mu.Lock()
				failed[node] = err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return failed
}
