package crossdc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// oldestWAL is where the oldest segment begins that a server still has.
const oldestWAL = "select min(('x' || substr(name, 9, 8))::bit(32)::bigint * 4294967296 + ('x' || substr(name, 17, 8))::bit(32)::bigint * (select setting::bigint from pg_settings where name = 'wal_segment_size')) " +
	"from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$'"

// near is how many bytes of WAL a server surely has still: a segment.
const near = 16 << 20

// cloneKey is where it is noted that a cluster is being cloned, and which node is to lead it:
// whoever is cut off leaves it stopped, and without a whole database.
const cloneKey = "journal/site-clone"

// stale are the standby clusters that do not stream, and cannot any more: the servers that
// they follow have thrown away WAL that they lack; or a run that cloned them was cut off. Those
// that follow one of these come after it: what it is cloned from hardly ever has WAL that goes
// on from what they have.
func (m Manager) stale(ctx context.Context, s Spec, v view, primary string) ([]*look, error) {
	var list []*look
	names := s.others(primary)
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(s.depth(a, primary), s.depth(b, primary)) })
	for _, name := range names {
		if _, given := v.lost(name); given {
			continue
		}
		for _, l := range v[name] {
			if l.err == nil && l.cloning != "" {
				list = append(list, l)
				continue
			}
			if l.err != nil || !l.follows() || l.known.Leader == "" {
				continue
			}
			of := v[s.upstream(name, primary)][l.index]
			behind := slices.Contains(list, of)
			if !behind {
				var err error
				if behind, err = outrun(ctx, l, of); err != nil {
					return nil, err
				}
			}
			if behind {
				list = append(list, l)
			}
		}
	}
	return list, nil
}

// depth is over how many other sites one gets its WAL from the primary.
func (s Spec) depth(name, primary string) (n int) {
	for name != primary && n < len(s.Sites) {
		name, n = s.upstream(name, primary), n+1
	}
	return n
}

// outrun reports whether a server has no WAL any more that goes on from what a standby has.
func outrun(ctx context.Context, l, of *look) (bool, error) {
	st, answers := l.statuses[l.known.Leader]
	up, theirs, ok := of.leader()
	if !ok || !answers {
		return false, nil
	}
	// One that is refused begins to stream again and again, for moments.
	has := max(st.XLog.Received, st.XLog.Replayed)
	if ok, _ := streams(st); has == 0 || ok && max(theirs.XLog.Location, theirs.XLog.Received, theirs.XLog.Replayed)-has < near {
		return false, nil
	}
	rows, err := of.live.SQL(ctx, up, "wal", "postgres", oldestWAL)
	if err != nil {
		return false, err
	}
	oldest, err := strconv.ParseInt(strings.Join(rows, ""), 10, 64)
	if err != nil {
		return false, fmt.Errorf("what %s says about its WAL cannot be read: %w", up, err)
	}
	return has < oldest, nil
}

// cloneAll clones what is stale, and then of those that follow it whoever cannot go on from it.
func (m Manager) cloneAll(ctx context.Context, s Spec, v view, primary string) error {
	for range s.Sites {
		if err := m.look(ctx, v); err != nil {
			return err
		}
		stale, err := m.stale(ctx, s, v, primary)
		if err != nil || len(stale) == 0 {
			return err
		}
		first := slices.DeleteFunc(slices.Clone(stale), func(l *look) bool { return slices.Contains(stale, v[s.upstream(l.site, primary)][l.index]) })
		if err := engine.Run(ctx, m.clones(s, v, first, primary), m.Manager.Observe); err != nil {
			return err
		}
	}
	return nil
}

// clones has standby clusters clone anew.
func (m Manager) clones(s Spec, v view, stale []*look, primary string) engine.Plan {
	var lanes []engine.Plan
	for _, l := range stale {
		st := l.statuses[l.known.Leader]
		title := fmt.Sprintf("clone it anew, with its nodes stopped meanwhile: it has WAL up to %s, and site %s has thrown away what comes next (max_slot_wal_keep_size)",
			patroni.FormatLSN(max(st.XLog.Received, st.XLog.Replayed)), s.upstream(l.site, primary))
		if up := s.upstream(l.site, primary); slices.Contains(stale, v[up][l.index]) {
			title = fmt.Sprintf("clone it anew, with its nodes stopped meanwhile: site %s, which it follows, is cloned, and will hardly have WAL that goes on from %s", up, patroni.FormatLSN(max(st.XLog.Received, st.XLog.Replayed)))
		}
		if l.cloning != "" {
			title = "clone it anew, with its nodes stopped meanwhile: that was begun and cut off"
		}
		lanes = append(lanes, engine.Sequence(l.step("clone", title, engine.Destructive, func(ctx context.Context) error {
			return m.cloneSite(ctx, s, v, l, primary, l.cloning != "")
		})))
	}
	return engine.Plan{}.ThenParallel(lanes...)
}

// cloneSite has a standby cluster clone anew: its leader the servers that it follows, and
// then its other nodes that leader. With all, those as well that seem to follow.
func (m Manager) cloneSite(ctx context.Context, s Spec, v view, l *look, primary string, all bool) error {
	k, err := l.live.Refresh(ctx)
	if err != nil {
		return err
	}
	l.known = k
	up := s.upstream(l.site, primary)
	member := s.Sites[up].Clusters[l.index]
	leader := cmp.Or(l.cloning, k.Leader, slices.Sorted(maps.Keys(k.Nodes))[0])
	others := slices.DeleteFunc(slices.Sorted(maps.Keys(k.Nodes)), func(name string) bool { return name == leader })
	st, err := l.live.Status(ctx, leader)
	if ok, _ := streams(st); err != nil || !ok || all {
		if err := l.live.Note(ctx, cloneKey, leader); err != nil {
			return err
		}
		// The others would lead meanwhile, with as little, and have it follow them.
		for _, name := range others {
			if err := l.live.StopPatroni(ctx, name); err != nil {
				return err
			}
		}
		if err := l.live.CloneLeader(ctx, leader, member.Hosts, member.Cluster.PostgresPort); err != nil {
			return errors.Join(err, l.startAll(ctx))
		}
	}
	bounded, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	err = wait.Until(bounded, m.Log, "a leader of "+l.name()+" that streams", time.Second, func(ctx context.Context) (bool, string, error) {
		k, err := l.live.Refresh(ctx)
		if err != nil || k.Leader == "" {
			return false, "nobody leads", err
		}
		l.known = k
		st, err := l.live.Status(ctx, k.Leader)
		if err != nil {
			return false, "", err
		}
		ok, why := streams(st)
		return ok && !st.Primary(), k.Leader + ": " + why, nil
	})
	if err != nil {
		return err
	}
	if err := l.startAll(ctx); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(l.known.Nodes)) {
		if name == l.known.Leader {
			continue
		}
		if err := m.streamsOrClones(ctx, l, name, all); err != nil {
			return err
		}
	}
	if err := m.following(ctx, v, l, primary); err != nil {
		return err
	}
	return l.live.Note(ctx, cloneKey, nil)
}

// startAll starts Patroni on all nodes.
func (l *look) startAll(ctx context.Context) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(l.known.Nodes)) {
		errs = append(errs, l.live.StartPatroni(context.WithoutCancel(ctx), name))
	}
	return errors.Join(errs...)
}

// streamsOrClones gives a replica some time to follow its leader, and then has it clone that;
// at once, as soon as its Patroni answers, if it is to clone it in any case.
func (m Manager) streamsOrClones(ctx context.Context, l *look, name string, clone bool) error {
	check := func(ctx context.Context) (bool, string, error) {
		st, err := l.live.Status(ctx, name)
		if err != nil {
			return false, "", err
		}
		ok, why := patroni.Running(st)
		return ok || clone, why, nil
	}
	bounded, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	if wait.Until(bounded, m.Log, name+" to follow", time.Second, check) == nil && !clone {
		return nil
	}
	return l.live.CloneReplica(ctx, name)
}
