package crossdc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// planned is a planned move, step by step.
type planned struct {
	m    Manager
	s    Spec
	v    view
	move Move
	// promoting: the new site may have been told to take writes. From here there is no way
	// back, only on.
	promoting atomic.Bool
}

// begin is what comes before anybody notices.
func (p *planned) begin() engine.Plan {
	from, to := p.move.From, p.move.To
	plan := p.s.trust(p.v).ThenPlan(p.s.passwords(p.v, from)).ThenPlan(p.s.addSlots(p.v, to))
	for _, site := range []string{to, from} {
		for _, l := range p.v[site] {
			if l.move == nil || l.move.From != from || l.move.To != to {
				plan = plan.Then(l.step("note.move", fmt.Sprintf("note that the primary moves from %s to %s", from, to), engine.Safe, func(ctx context.Context) error {
					return l.live.Note(ctx, moveKey, p.move)
				}))
			}
		}
	}
	var lanes []engine.Plan
	for _, l := range p.v[to] {
		lanes = append(lanes, engine.Sequence(l.step("near", "wait until it is close behind site "+from, engine.Safe, func(ctx context.Context) error {
			return p.near(ctx, l)
		})))
	}
	return plan.ThenParallel(lanes...)
}

// near has a standby without a delay, and waits until little is missing: what has to be
// sent and applied after the last write is what the gap consists of.
func (p *planned) near(ctx context.Context, l *look) error {
	if p.s.Sites[p.move.To].Delay > 0 && l.follows() {
		without := p.s.standby(l.site, l.index, p.move.From)
		delete(without, "recovery_min_apply_delay")
		if err := l.live.Set(ctx, patroni.Settings{standbyPath: without}, nil); err != nil {
			return err
		}
	}
	of := p.v[p.move.From][l.index]
	if of.follows() || p.stopped(of) {
		return nil // it takes no writes any more
	}
	leader := p.move.Leaders[l.index]
	if _, err := of.live.SQL(ctx, leader, "checkpoint", "postgres", "checkpoint"); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	return wait.Until(bounded, p.m.Log, l.name()+" to be close behind site "+p.move.From, 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		st, err := of.live.Status(ctx, leader)
		if err != nil {
			return false, "", err
		}
		next, err := l.live.Status(ctx, l.known.Leader)
		if err != nil {
			return false, "", err
		}
		lag := st.XLog.Location - next.XLog.Replayed
		return lag < 1<<20, fmt.Sprintf("it is %d kB behind", lag>>10), nil
	})
}

// stopped reports whether the old primary of a cluster was stopped in a pause by a run that
// was cut off.
func (p *planned) stopped(l *look) bool {
	paused, _ := patroni.Bool(l.known.Config["pause"])
	st, answers := l.statuses[p.move.Leaders[l.index]]
	return paused && answers && st.State != "running"
}

// leaderless reports whether a node does not answer that was the old site's primary.
func (p *planned) leaderless() bool {
	for _, l := range p.v[p.move.From] {
		if l.errs[p.move.Leaders[l.index]] != nil {
			return true
		}
	}
	return false
}

// cleanly reports whether the Patroni of a cluster's leader stops it cleanly by itself when
// it is told to follow another one: it does from 4.1 on, and crashes it before.
func (p *planned) cleanly(l *look) bool {
	leader := p.move.Leaders[l.index]
	version := cmp.Or(l.statuses[leader].Patroni.Version, l.known.Members[leader].Version)
	return version != "" && patroni.AtLeast(version, 4, 1)
}

// turn is what nobody can write in: the old site stops taking writes, the new one gets the
// rest of them, and takes writes itself.
func (p *planned) turn() engine.Plan {
	from, to := p.v[p.move.From], p.v[p.move.To]
	var pause, stop, promote []engine.Plan
	for _, l := range from {
		if !l.follows() && !p.cleanly(l) && !p.stopped(l) {
			pause = append(pause, engine.Sequence(l.step("pause", "pause Patroni, which would crash PostgreSQL in what follows (before 4.1)", engine.Reload, func(ctx context.Context) error {
				if err := l.live.Set(ctx, patroni.Settings{"pause": true}, nil); err != nil {
					return err
				}
				return l.live.Paused(ctx, true)
			})))
		}
		stop = append(stop, engine.Sequence(
			l.step("demote", fmt.Sprintf("stop taking writes on %s, cleanly", p.move.Leaders[l.index]), engine.Switchover, func(ctx context.Context) error {
				return p.demote(ctx, l)
			}),
			to[l.index].step("received", "wait until it has everything that was written in site "+p.move.From, engine.Safe, func(ctx context.Context) error {
				return p.received(ctx, l, to[l.index])
			}),
			l.step("demoted", "have Patroni keep it a standby of site "+p.move.To, engine.Safe, func(ctx context.Context) error {
				return p.hold(ctx, l)
			}),
		))
	}
	for _, l := range to {
		promote = append(promote, engine.Sequence(l.step("promote", "take writes", engine.Switchover, func(ctx context.Context) error {
			p.promoting.Store(true)
			return p.m.promote(ctx, l)
		})))
	}
	plan := engine.Plan{}.ThenParallel(pause...)
	if len(from) == 1 {
		return plan.ThenPlan(stop[0]).ThenPlan(promote[0])
	}
	// The coordinator first, from which writes come to the workers; and it comes last.
	return plan.ThenPlan(stop[0]).ThenParallel(stop[1:]...).ThenParallel(promote[1:]...).ThenPlan(promote[0])
}

// demote stops a primary cleanly: PostgreSQL sends its standbys all there is before it ends.
func (p *planned) demote(ctx context.Context, l *look) error {
	if l.follows() || p.stopped(l) {
		return nil
	}
	if p.cleanly(l) {
		return p.hold(ctx, l)
	}
	return l.live.StopServer(ctx, p.move.Leaders[l.index], p.s.Limits.Gap)
}

// hold has a cluster of the old site follow the new one. From then on no Patroni there
// makes a primary, whatever happens to it. A pause goes on: a Patroni that has not noticed
// that its PostgreSQL was stopped takes it for crashed when the pause ends, and starts it
// as a primary, standby_cluster or not (Patroni 4.0.7, ha.py, recover; seen in the lab).
func (p *planned) hold(ctx context.Context, l *look) error {
	if l.follows() {
		return nil
	}
	if err := l.live.Set(ctx, patroni.Settings{standbyPath: p.s.standby(l.site, l.index, p.move.To)}, nil); err != nil {
		return err
	}
	_, err := l.live.Refresh(ctx)
	l.known = l.live.Known()
	return err
}

// resume ends the pause of a cluster that has become a standby, when its Patroni has noticed
// that its PostgreSQL was stopped: it lets go of the leader's lock then.
func (p *planned) resume(ctx context.Context, l *look) error {
	ttl, loop := l.known.Timing()
	bounded, cancel := context.WithTimeout(ctx, time.Duration(ttl+2*loop)*time.Second+30*time.Second)
	defer cancel()
	leader := p.move.Leaders[l.index]
	err := wait.Until(bounded, p.m.Log, "the Patroni of "+leader+" to notice that its PostgreSQL was stopped", 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		k, err := l.live.Refresh(ctx)
		if err != nil {
			return false, "", err
		}
		l.known = k
		if k.Leader == leader {
			return false, "it has the leader's lock", nil
		}
		st, err := l.live.Status(ctx, leader)
		if err == nil && st.Primary() {
			return false, "", wait.Never(fmt.Errorf("somebody has started PostgreSQL on %s, and it takes writes", leader))
		}
		return true, "", nil
	})
	if err != nil {
		return &problem.Error{
			Host: l.name(), Cause: err, Left: "site " + p.move.To + ", which takes writes, and Patroni of site " + p.move.From + ", paused.", Do: "see what Patroni logs on " + leader + ", and apply again.",
		}
	}
	return l.live.Set(ctx, nil, []string{"pause"})
}

// received waits until a standby has applied all that a primary that was stopped has
// written. How far that is the old primary's own control file says, or, if it runs again as
// a standby, how far it has come itself.
func (p *planned) received(ctx context.Context, l, to *look) error {
	if !to.follows() {
		return nil // it was promoted, when it had everything, by a run that was cut off
	}
	leader := p.move.Leaders[l.index]
	bounded, cancel := context.WithTimeout(ctx, p.s.Limits.Gap)
	defer cancel()
	var last int64
	err := wait.Until(bounded, p.m.Log, to.name()+" to have everything that "+leader+" has written", 100*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		c, err := l.live.Control(ctx, leader)
		if err != nil {
			return false, "", err
		}
		st, err := to.live.Status(ctx, to.known.Leader)
		if err != nil || !st.Leads() {
			if k, err := to.live.Refresh(ctx); err == nil {
				to.known = k
			}
			return false, "its leader does not answer", err
		}
		has := st.XLog.Replayed
		switch c.State {
		case "shut down":
			// What has been applied ends after the last record, which begins there.
			return has > c.Checkpoint, fmt.Sprintf("%s ends after %s, and it has %s", leader, patroni.FormatLSN(c.Checkpoint), patroni.FormatLSN(has)), nil
		case "in archive recovery", "shut down in recovery":
			was, err := l.live.Status(ctx, leader)
			if err != nil || was.State != "running" || was.Primary() {
				return false, leader + " is starting as a standby", err
			}
			ends := max(was.XLog.Replayed, was.XLog.Received)
			settled := ends == last
			last = ends
			return settled && has >= ends, fmt.Sprintf("%s has %s, and it has %s", leader, patroni.FormatLSN(ends), patroni.FormatLSN(has)), nil
		}
		return false, leader + " is " + c.State, nil
	})
	if err != nil {
		return &problem.Error{
			Host: to.name(), Cause: fmt.Errorf("what %s has written last has not arrived: %w", leader, err), Left: "site " + p.move.To + ", as a standby.",
			Do: "see whether the connection between the sites works, and apply again.",
		}
	}
	return nil
}

// promote has a standby cluster take writes, and waits until it does.
func (m Manager) promote(ctx context.Context, l *look) error {
	if l.follows() {
		if err := l.live.Set(ctx, nil, []string{standbyPath}); err != nil {
			return err
		}
	}
	return m.takesWrites(ctx, l)
}

// takesWrites waits until a cluster has a primary.
func (m Manager) takesWrites(ctx context.Context, l *look) error {
	bounded, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	polls := 0
	return wait.Until(bounded, m.Log, l.name()+" to have a primary", 100*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		if polls++; polls%20 == 0 || l.known.Leader == "" {
			k, err := l.live.Refresh(ctx)
			if err != nil {
				return false, "", err
			}
			l.known = k
		}
		if l.known.Leader == "" {
			return false, "nobody leads", nil
		}
		st, err := l.live.Status(ctx, l.known.Leader)
		return err == nil && st.Primary(), l.known.Leader + " is not promoted yet", err
	})
}

// takeBack has the old site take writes again, after a failure before the promotion.
func (p *planned) takeBack(ctx context.Context, because string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
	defer cancel()
	p.m.Log.WarnContext(ctx, "the primary goes back to site "+p.move.From, "because", because)
	if err := p.m.look(ctx, p.v); err != nil {
		return err
	}
	var lanes []engine.Plan
	for _, l := range p.v[p.move.From] {
		lanes = append(lanes, engine.Sequence(l.step("back", "take writes again on "+p.move.Leaders[l.index], engine.Switchover, func(ctx context.Context) error {
			return p.back(ctx, l)
		})))
	}
	// Workers before the coordinator.
	plan := engine.Plan{}.ThenParallel(lanes[1:]...).ThenPlan(lanes[0])
	if err := engine.Run(ctx, plan, p.m.Manager.Observe); err != nil {
		return err
	}
	if err := p.m.look(ctx, p.v); err != nil {
		return err
	}
	return engine.Run(ctx, p.s.settle(p.v, p.move.From).ThenPlan(p.forget()), p.m.Manager.Observe)
}

// saying is an error with what is left and what to do as they are after all that came after it.
func saying(err error, left, do string) error {
	out := problem.Error{Cause: err}
	if p := new(problem.Error); len(problem.Parts(err)) == 0 && errors.As(err, &p) {
		out = *p
	}
	out.Left, out.Do = left, do
	return &out
}

// back has a cluster of the old site take writes again, led by the node that led it: what
// that one has written last, another one may not have.
func (p *planned) back(ctx context.Context, l *look) error {
	leader := p.move.Leaders[l.index]
	switch paused, _ := patroni.Bool(l.known.Config["pause"]); {
	case paused:
		// In a pause nobody else takes the leader's lock, and nothing is promoted.
		if err := l.live.Set(ctx, nil, []string{standbyPath}); err != nil {
			return err
		}
		if st, err := l.live.Status(ctx, leader); err == nil && st.State != "running" {
			if err := l.live.StartServer(ctx, leader); err != nil {
				return err
			}
		}
		if err := p.m.takesWrites(ctx, l); err != nil {
			return err
		}
		if err := l.live.Set(ctx, nil, []string{"pause"}); err != nil {
			return err
		}
	case l.follows():
		if err := p.leadAgain(ctx, l, leader); err != nil {
			return err
		}
		if err := l.live.Set(ctx, nil, []string{standbyPath}); err != nil {
			return err
		}
	}
	return p.m.takesWrites(ctx, l)
}

// leadAgain waits until a standby cluster is led by the node that was its primary, or by
// one that has all that that one has.
func (p *planned) leadAgain(ctx context.Context, l *look, leader string) error {
	bounded, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	asked := false
	return wait.Until(bounded, p.m.Log, "the leader of "+l.name()+" to have everything that "+leader+" has", 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		k, err := l.live.Refresh(ctx)
		if err != nil {
			return false, "", err
		}
		l.known = k
		if k.Leader == "" {
			return false, "nobody leads", nil
		}
		was, err := l.live.Status(ctx, leader)
		switch {
		case err != nil || was.State != "running":
			return false, leader + " does not run", err
		case was.Primary():
			// Patroni is at it, and goes on with it, whatever the configuration says by then.
			return false, leader + " is being stopped", nil
		case k.Leader == leader:
			return was.Role == "standby_leader", leader + " is " + was.Role, nil
		}
		now, err := l.live.Status(ctx, k.Leader)
		if err != nil {
			return false, "", err
		}
		if now.Role == "standby_leader" && now.State == "running" && now.XLog.Replayed >= max(was.XLog.Replayed, was.XLog.Received) {
			return true, "", nil
		}
		if !asked {
			asked = true
			err = l.live.Switchover(ctx, k.Leader, leader)
		}
		return false, k.Leader + " leads, and does not have everything", err
	})
}

// after is what comes when the new site takes writes.
func (p *planned) after(ctx context.Context) error {
	if err := p.m.look(ctx, p.v); err != nil {
		return err
	}
	to := p.move.To
	var lanes []engine.Plan
	for _, name := range p.s.others(to) {
		for _, l := range p.v[name] {
			if l.err == nil {
				lanes = append(lanes, engine.Sequence(l.step("streams", "wait until it streams from site "+p.s.upstream(name, to), engine.Safe, func(ctx context.Context) error {
					return p.m.following(ctx, p.v, l, to)
				})))
			}
		}
	}
	moved := func(n *Note) { n.Generation++ }
	if n := p.v.note(); n != nil && n.Primary == to {
		moved = nil // it was counted by a run that was cut off
	}
	plan := p.s.note(p.v, to, moved)
	for _, l := range p.v[p.move.From] {
		if paused, _ := patroni.Bool(l.known.Config["pause"]); paused {
			plan = plan.Then(l.step("resume", "resume Patroni, as a standby", engine.Reload, func(ctx context.Context) error { return p.resume(ctx, l) }))
		}
	}
	plan = plan.ThenPlan(p.forget()).ThenPlan(p.s.repoint(p.v, to)).ThenPlan(p.m.settleMetadata(p.v, to))
	plan = plan.ThenParallel(lanes...).ThenPlan(p.s.dropSlots(p.v, to))
	return engine.Run(ctx, plan, p.m.Manager.Observe)
}

// forget removes the note of the move.
func (p *planned) forget() engine.Plan {
	var plan engine.Plan
	for _, site := range []string{p.move.From, p.move.To} {
		for _, l := range p.v[site] {
			if l.err == nil {
				plan = plan.Then(l.step("note.moved", "forget the note of the move", engine.Safe, func(ctx context.Context) error {
					return l.live.Note(ctx, moveKey, nil)
				}))
			}
		}
	}
	return plan
}

// repoint has all standbys follow whom they are to follow with a given primary.
func (s Spec) repoint(v view, primary string) engine.Plan {
	var plan engine.Plan
	for _, name := range s.others(primary) {
		for _, l := range v[name] {
			if l.err != nil || !l.follows() {
				continue
			}
			wanted := patroni.Settings{standbyPath: s.standby(name, l.index, primary)}
			if _, changed := patroni.Patch(l.known.Config, wanted, nil); len(changed) > 0 {
				plan = plan.Then(l.step("follow", "follow site "+s.upstream(name, primary), engine.Reload, func(ctx context.Context) error {
					return l.live.Set(ctx, wanted, nil)
				}))
			}
		}
	}
	return plan
}

// following waits until all nodes of a standby cluster run, its leader streaming from
// another site, on the primary's timeline.
func (m Manager) following(ctx context.Context, v view, l *look, primary string) error {
	if len(l.known.Nodes) == 0 {
		return nil // they are to come
	}
	bounded, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	of := v[primary][l.index]
	err := wait.Until(bounded, m.Log, l.name()+" to follow", 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		k, err := l.live.Refresh(ctx)
		if err != nil {
			return false, "", err
		}
		l.known = k
		l.statuses, l.errs = l.live.Statuses(ctx)
		for name, err := range l.errs {
			return false, name + " does not answer", err
		}
		_, st, ok := l.leader()
		if !ok {
			return false, "nobody leads", nil
		}
		if st.Primary() {
			return false, k.Leader + " is still a primary", nil
		}
		if ok, why := streams(st); !ok {
			return false, k.Leader + ": " + why, nil
		}
		for name, st := range l.statuses {
			if ok, why := patroni.Running(st); !ok {
				return false, name + ": " + why, nil
			}
		}
		tl, err := m.timeline(ctx, of)
		if err != nil {
			return false, "", err
		}
		has, err := l.live.SQL(ctx, k.Leader, "timeline", "postgres", "select coalesce((select received_tli from pg_stat_wal_receiver), 0)")
		if err != nil || len(has) == 0 {
			return false, "", err
		}
		if has[0] != fmt.Sprint(tl) {
			return false, fmt.Sprintf("%s receives timeline %s, and the primary is on %d", k.Leader, has[0], tl), nil
		}
		different, err := m.differs(ctx, of, l)
		return different == "" && err == nil, different, err
	})
	if err != nil {
		return &problem.Error{
			Host: l.name(), Cause: err, Left: "site " + primary + ", which takes writes.",
			Do: "see what Patroni logs on its nodes (journalctl -u patroni), mend it, and apply again.",
		}
	}
	return nil
}

// timeline is the one that a cluster's primary is on.
func (m Manager) timeline(ctx context.Context, l *look) (int64, error) {
	st, err := l.live.Status(ctx, l.known.Leader)
	if err != nil {
		return 0, err
	}
	if st.Timeline == nil {
		return 0, errors.New(l.known.Leader + " does not say which timeline it is on")
	}
	return *st.Timeline, nil
}

// run carries a planned move out, or goes on with one.
func (p *planned) run(ctx context.Context) error {
	if err := engine.Run(ctx, p.begin(), p.m.Manager.Observe); err != nil {
		return p.failed(ctx, err)
	}
	if err := p.m.look(ctx, p.v); err != nil {
		return p.failed(ctx, err)
	}
	if err := engine.Run(ctx, p.turn(), p.m.Manager.Observe); err != nil {
		return p.failed(ctx, err)
	}
	return p.after(ctx)
}

// failed takes the move back if nobody can have been promoted.
func (p *planned) failed(ctx context.Context, err error) error {
	for _, l := range p.v[p.move.To] {
		if !l.follows() {
			p.promoting.Store(true) // by a run before this one
		}
	}
	if p.promoting.Load() {
		return saying(err, "site "+p.move.From+", which takes no writes; site "+p.move.To+" is being promoted.", "mend the cause and apply again: it goes on from here.")
	}
	back := p.takeBack(ctx, err.Error())
	if back != nil {
		return saying(errors.Join(err, back), "both sites as standbys, in the worst case: site "+p.move.From+" could not be made to take writes again.",
			"mend the causes and apply again, with primary = \""+p.move.From+"\" to give the move up.")
	}
	return saying(err, "site "+p.move.From+", which takes writes as before; site "+p.move.To+" follows it.", "mend the cause and apply again. Applying with primary = \""+p.move.From+"\" gives the move up.")
}

// describe says what a planned move does, for people, in its order.
func (s Spec) describe(v view, from, to string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	for i, l := range v[from] {
		leader, st, _ := l.leader()
		if version := st.Patroni.Version; version != "" && !patroni.AtLeast(version, 4, 1) {
			line("- Patroni of %s is paused meanwhile: %s would crash PostgreSQL where 4.1 stops it.", l.name(), version)
		}
		next, standby, _ := v[to][i].leader()
		line("- %s takes no more writes; it is stopped cleanly, and its site then follows. %s takes writes when it has all of them.", dash(leader), dash(next))
		if lag := st.XLog.Location - standby.XLog.Replayed; st.Primary() && standby.XLog.Replayed > 0 {
			line("  It is %d kB behind now.", max(0, lag)>>10)
		}
	}
	for _, name := range s.others(to) {
		if name != from {
			line("- Site %s follows site %s.", name, s.upstream(name, to))
		}
	}
	line("- No acknowledged row is lost. Nobody can write for a few seconds: connections end, and clients have to connect again, to the other site. If it has not happened after %s, site %s takes writes again.", s.Limits.Gap, from)
	return b.String()
}

func dash(s string) string {
	if s == "" {
		return "(nobody)"
	}
	return s
}
