package crossdc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// missing says, for people, what a site has not got of another one, as far as anybody knows.
func (m Manager) missing(ctx context.Context, v view, from, to string) string {
	var lines []string
	for i, l := range v[to] {
		leader, st, ok := l.leader()
		if !ok {
			lines = append(lines, l.name()+" has no leader that answers")
			continue
		}
		has := max(st.XLog.Received, st.XLog.Replayed)
		line := fmt.Sprintf("%s has received the WAL up to %s", l.name(), patroni.FormatLSN(has))
		if rows, err := l.live.SQL(ctx, leader, "replayed", "postgres", "select coalesce(extract(epoch from now() - pg_last_xact_replay_timestamp())::bigint::text, '')"); err == nil && len(rows) == 1 && rows[0] != "" {
			line += ", and its last commit is " + rows[0] + " s old"
		}
		of := v[from][i]
		switch _, was, answers := of.leader(); {
		case of.err != nil:
			line += fmt.Sprintf("; how far site %s had come nobody can say, since neither its etcd nor its servers can be reached", from)
		case answers && was.Primary():
			line += fmt.Sprintf("; site %s is at %s: %d kB are missing", from, patroni.FormatLSN(was.XLog.Location), max(0, was.XLog.Location-has)>>10)
		default:
			line += fmt.Sprintf("; site %s was at %s at least, by its etcd: %d kB are missing, and what it has written in its last seconds", from, patroni.FormatLSN(of.known.Status.Optime), max(0, of.known.Status.Optime-has)>>10)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; ")
}

// force moves the primary without the site that has it.
func (m Manager) force(ctx context.Context, s Spec, v view, from string) error {
	to := s.Primary
	step := fmt.Sprintf("give site %s up for site %s", from, to)
	if err := v.unreachable(to); err != nil {
		return problem.Fill(err, problem.Error{Step: step, Left: "everything.", Do: "bring the connection to site " + to + " back: nothing is promoted that cannot be looked at."})
	}
	if v.unreachable(from) == nil && len(m.gates(ctx, s, v, from, to)) == 0 {
		return refused(step, "site "+from+" is well, and so is the replication: a planned move loses nothing", "remove failover and accept_data_loss, and apply again.")
	}
	for _, l := range v[to] {
		if _, _, ok := l.leader(); !ok {
			return refused(step, l.name()+" has no leader: there is nothing to promote", "see what Patroni logs on its nodes, mend it, and apply again.")
		}
	}
	if want := acceptance(from, generation(v)); s.AcceptLoss != want {
		cause := "what site " + from + " has and site " + to + " does not is lost by this: " + m.missing(ctx, v, from, to)
		if s.AcceptLoss != "" {
			cause += fmt.Sprintf(". accept_data_loss is %q, which is for another time", s.AcceptLoss)
		}
		return refused(step, cause, fmt.Sprintf("if that is to be accepted, set accept_data_loss = %q, and apply again. It counts for this one move.", want))
	}
	return m.promoteSite(ctx, s, v, []string{from})
}

// choose is for when several sites are primaries, and the user may have said which one stays.
func (m Manager) choose(ctx context.Context, s Spec, v view, split []string) error {
	if err := s.foreign(v, s.Primary); err != nil {
		return err // nobody's copy of the other
	}
	rest := slices.DeleteFunc(slices.Clone(split), func(n string) bool { return n == s.Primary })
	if !s.Forced || len(rest) != 1 || len(split) != 2 || s.AcceptLoss != acceptance(rest[0], generation(v)) {
		return s.splitBrain(v, split)
	}
	return m.promoteSite(ctx, s, v, rest)
}

// promoteSite fences what is given up as far as it can be reached, and has a site take
// writes without it.
func (m Manager) promoteSite(ctx context.Context, s Spec, v view, given []string) error {
	to := s.Primary
	var unfenced []string
	var plan engine.Plan
	for _, site := range given {
		for _, l := range v[site] {
			plan = plan.Then(engine.Step{ID: "crossdc.fence", Host: l.name(), Title: "keep its nodes from taking writes, as far as they can be reached", Risk: engine.Destructive, Do: func(ctx context.Context) error {
				unfenced = append(unfenced, m.fence(ctx, s, l, to)...)
				return nil
			}})
		}
	}
	if err := engine.Run(ctx, plan, m.Manager.Observe); err != nil {
		return err
	}
	if len(unfenced) > 0 {
		m.Log.WarnContext(ctx, "these may still take writes: nobody can reach them", "hosts", strings.Join(unfenced, ", "))
	}
	var ends []End
	for _, l := range v[to] {
		_, st, _ := l.leader()
		e := End{LSN: max(st.XLog.Received, st.XLog.Replayed, st.XLog.Location)}
		if st.Timeline != nil {
			e.Timeline = *st.Timeline
		}
		ends = append(ends, e)
	}
	var promote []engine.Plan
	for _, l := range v[to] {
		promote = append(promote, engine.Sequence(l.step("promote", "take writes", engine.Switchover, func(ctx context.Context) error { return m.promote(ctx, l) })))
	}
	// The note comes first: a site that returns is known by it, whenever this is cut off.
	next := s.note(v.without(given), to, func(n *Note) {
		n.Generation++
		for _, site := range given {
			if n.Lost == nil {
				n.Lost = map[string]Lost{}
			}
			n.Lost[site] = Lost{At: m.Now(), Ends: ends, Unfenced: unfenced}
		}
	})
	if n := v.note(); n != nil && n.Primary == to && len(n.Lost) > 0 {
		next = s.note(v.without(given), to, nil) // a run that was cut off has noted it; by now the ends may be others
	}
	whole := next.ThenPlan(s.blind(v, given, to, true)).ThenParallel(promote[1:]...).ThenPlan(promote[0])
	if err := engine.Run(ctx, whole, m.Manager.Observe); err != nil {
		return problem.Fill(err, problem.Error{Left: "what was promoted; what was given up stays fenced.", Do: "mend the cause, and apply again: it goes on from here."})
	}
	if err := m.look(ctx, v); err != nil {
		return err
	}
	rest := s.trust(v).ThenPlan(s.addSlots(v.without(given), to)).ThenPlan(s.repoint(v.without(given), to))
	rest = rest.ThenPlan(v.forgetMoves())
	rest = rest.ThenPlan(m.settleMetadata(v, to)).ThenPlan(s.blind(v, given, to, false))
	// What was given up is taken in by the next apply: somebody may want to save what only it
	// has.
	return engine.Run(ctx, rest.ThenPlan(s.dropSlots(v.without(given), to)), m.Manager.Observe)
}

// givenUp are the sites that were given up and do not follow yet.
func (v view) givenUp() []string {
	if n := v.note(); n != nil {
		return slices.Sorted(maps.Keys(n.Lost))
	}
	return nil
}

// gave reports whether a site is one of them.
func (v view) gave(site string) bool { return slices.Contains(v.givenUp(), site) }

// forgetMoves removes notes of planned moves, which one that was forced has made void.
func (v view) forgetMoves() engine.Plan {
	var plan engine.Plan
	for _, l := range v.all() {
		if l.move != nil {
			plan = plan.Then(l.step("note.moved", "forget the note of a move", engine.Safe, func(ctx context.Context) error { return l.live.Note(ctx, moveKey, nil) }))
		}
	}
	return plan
}

// without is a view without some sites.
func (v view) without(sites []string) view {
	w := maps.Clone(v)
	for _, s := range sites {
		w[s] = nil
	}
	return w
}

// fence keeps the nodes of a cluster from taking writes, and returns the hosts on which it
// could not: their Patroni and PostgreSQL are stopped and do not start again, not at a boot
// either, and where its etcd can be reached, that says that it is a standby, which stops
// those who do not hear us and do hear it.
func (m Manager) fence(ctx context.Context, s Spec, l *look, to string) (unfenced []string) {
	if l.err != nil {
		return slices.Clone(s.Sites[l.site].Clusters[l.index].Hosts)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range slices.Sorted(maps.Keys(l.known.Nodes)) {
		wg.Go(func() {
			if err := l.live.Fence(ctx, name); err != nil {
				m.Log.WarnContext(ctx, "a node could not be kept from taking writes", "node", name, "error", err)
				mu.Lock()
				unfenced = append(unfenced, name)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	wanted := patroni.Settings{standbyPath: s.standby(l.site, l.index, to)}
	if err := l.live.SetDirectly(ctx, wanted, []string{"pause"}); err != nil {
		m.Log.WarnContext(ctx, "the etcd of a site that is given up does not take that it is a standby", "site", l.site, "error", err)
	}
	slices.Sort(unfenced)
	return unfenced
}

// takeIn has sites that were given up follow, as soon as all of their clusters can be
// reached. What they have that the primary does not is thrown away by pg_rewind, or with all
// of their data.
func (m Manager) takeIn(ctx context.Context, s Spec, v view) error {
	if err := m.look(ctx, v); err != nil {
		return err
	}
	n := v.note()
	if n == nil {
		return nil
	}
	primary := n.Primary
	for _, site := range slices.Sorted(maps.Keys(n.Lost)) {
		if _, there := s.Sites[site]; !there || v.unreachable(site) != nil || site == primary {
			continue
		}
		back := true
		for _, l := range v[site] {
			for _, err := range l.errs {
				back = back && !host.Unreachable(err) // a Patroni that does not run is no host that is away
			}
		}
		if !back {
			m.Log.WarnContext(ctx, "a site that was given up is back in part only, and is left as it is", "site", site)
			continue
		}
		if err := m.takeInSite(ctx, s, v, site, primary); err != nil {
			return err
		}
		if err := m.look(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

func (m Manager) takeInSite(ctx context.Context, s Spec, v view, site, primary string) error {
	plan := s.trust(v).ThenPlan(s.passwords(v, primary)).ThenPlan(s.addSlots(v, primary))
	lost, _ := v.lost(site)
	var lanes []engine.Plan
	for _, l := range v[site] {
		forked := m.forked(ctx, l, lost)
		wanted := patroni.Settings{standbyPath: s.standby(site, l.index, primary)}
		lanes = append(lanes, engine.Sequence(
			l.step("follow", "follow site "+primary+", and throw away what only it has", engine.Destructive, func(ctx context.Context) error {
				if len(l.writable()) == 0 {
					if err := l.live.SetDirectly(ctx, wanted, append(s.idle(l, primary), "pause")); err != nil {
						return err
					}
					return l.live.ForgetPosition(ctx) // rewound, they are behind it
				}
				return l.live.Set(ctx, wanted, s.idle(l, primary))
			}),
			l.step("unfence", "let its nodes start again, as standbys", engine.Restart, func(ctx context.Context) error {
				var errs []error
				for _, name := range slices.Sorted(maps.Keys(l.known.Nodes)) {
					errs = append(errs, l.live.Unfence(ctx, name))
				}
				return errors.Join(errs...)
			}),
			l.step("rewind", "wait until it streams from site "+primary+", rewound or cloned again", engine.Destructive, func(ctx context.Context) error {
				if forked {
					return m.cloneSite(ctx, s, v, l, primary, true)
				}
				return m.rewound(ctx, s, v, l, primary)
			}),
		))
	}
	plan = plan.ThenParallel(lanes...).ThenPlan(s.note(v, primary, func(n *Note) { delete(n.Lost, site) }))
	return engine.Run(ctx, plan, m.Manager.Observe)
}

// rewound waits until all nodes of a cluster follow again. Patroni rewinds them by itself;
// those that it cannot rewind are cloned again, the leader first.
func (m Manager) rewound(ctx context.Context, s Spec, v view, l *look, primary string) error {
	bounded, cancel := context.WithTimeoutCause(ctx, rewindPatience, errors.New("Patroni has not rewound it"))
	err := m.following(bounded, v, l, primary)
	cancel()
	if err == nil || ctx.Err() != nil {
		return err
	}
	m.Log.WarnContext(ctx, "nodes that do not follow are cloned again", "cluster", l.name(), "because", err)
	return m.cloneSite(ctx, s, v, l, primary, false)
}

// rewindPatience is for how long Patroni may try to have a site that was given up follow.
const rewindPatience = 4 * time.Minute
