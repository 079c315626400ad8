package crossdc

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
)

// fit is what fits badly in the settings of the clusters.
func (s Spec) fit(v view) []string {
	var list []string
	for _, name := range s.names() {
		for _, l := range v[name] {
			if l.err != nil || l.known.ConfigRevision == 0 {
				continue
			}
			flat := l.known.Config.Flatten()
			if up := s.upstream(name, s.Primary); up != "" && v[up][l.index].err == nil {
				list = append(list, less(l, v[up][l.index])...)
			}
			size := patroni.Text(flat[patroni.Parameter("max_slot_wal_keep_size")])
			given, set := postgres.SettingTime("tcp_user_timeout", patroni.Text(flat[patroni.Parameter("tcp_user_timeout")]))
			switch {
			case size == "" || size == "-1":
				list = append(list, l.name()+" keeps WAL without a bound for a site that is away (max_slot_wal_keep_size): its disk can run full, and then nobody writes")
			case !set || given == 0 || given > 5*time.Minute:
				// PostgreSQL, slot.c, InvalidatePossiblyObsoleteSlot: the checkpointer waits for who sends
				// to the site, and that one for its socket.
				list = append(list, l.name()+" has no tcp_user_timeout of five minutes or less: when a site that is cut off gets further behind than max_slot_wal_keep_size, no checkpoint ends for a quarter of an hour, until the kernel gives its connection up, and so long its WAL is kept. Set tcp_user_timeout = \"60s\"")
			}
			if rewind, set := patroni.Bool(flat["postgresql/use_pg_rewind"]); !set || !rewind {
				list = append(list, l.name()+" does without pg_rewind (use_pg_rewind): a site that was given up has to be cloned again")
			}
		}
	}
	return list
}

// atLeast are parameters of which a standby needs as much as its primary has (PostgreSQL
// documentation, "Hot Standby", "Administrator's Overview"), with their defaults in Patroni.
var atLeast = map[string]int64{"max_connections": 100, "max_prepared_transactions": 0, "max_locks_per_transaction": 64, "max_wal_senders": 10, "max_worker_processes": 8}

// less are those of which a standby has less than whom it follows.
func less(l, of *look) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(atLeast)) {
		value := func(l *look) int64 {
			if n, ok := patroni.Int(l.known.Config.Flatten()[patroni.Parameter(name)]); ok {
				return n
			}
			return atLeast[name]
		}
		if have, needs := value(l), value(of); have < needs {
			list = append(list, fmt.Sprintf("%s has %s = %d, and %s, which it follows, has %d: a standby with less stops applying what it receives. Raise it there first", l.name(), name, have, of.name(), needs))
		}
	}
	return list
}

// patience are the parameters by which either end of a stream gives it up; a minute by default
// (PostgreSQL documentation, "Replication").
var patience = []string{"wal_sender_timeout", "wal_receiver_timeout"}

// trips is how many round trips a stream has to be patient for: TCP sends what is lost again
// after three at the soonest, and twice as late with each further try.
const trips = 20

// far is what fits badly for sites that are as far from each other as is measured here.
func (s Spec) far(ctx context.Context, v view) []string {
	type pair struct {
		l, of *look
		away  time.Duration
	}
	var pairs []*pair
	var wg sync.WaitGroup
	for _, name := range s.names() {
		up := s.upstream(name, s.Primary)
		for i, l := range v[name] {
			if up == "" || l.err != nil || v[up][i].err != nil || l.known.Leader == "" {
				continue
			}
			p, member := &pair{l: l, of: v[up][i]}, s.Sites[up].Clusters[i]
			pairs = append(pairs, p)
			wg.Go(func() { p.away = l.live.Distance(ctx, l.known.Leader, member.Hosts[0], member.Cluster.PostgresPort) })
		}
	}
	wg.Wait()
	var list []string
	for _, p := range pairs {
		list = append(list, impatient(p.l, p.of, p.away)...)
	}
	return list
}

// impatient are the settings by which a stream between two clusters ends whenever the network
// is slow for a moment. Either may be the sender after a move.
func impatient(l, of *look, away time.Duration) []string {
	least := trips * away
	var list []string
	for _, name := range patience {
		for _, end := range []*look{of, l} {
			value, set := end.known.Config.Flatten()[patroni.Parameter(name)]
			if !set {
				continue // a minute
			}
			if d, ok := postgres.SettingTime(name, patroni.Text(value)); ok && d > 0 && d < least {
				list = append(list, fmt.Sprintf("%s has %s = %s, and site %s is %s away from site %s, there and back: whenever the network loses a few packets, replication ends and begins anew. Set %s or more, or leave it out (60s)",
					end.name(), name, d, l.site, away.Round(100*time.Microsecond), of.site, least.Round(time.Second/10)))
			}
		}
	}
	return list
}
