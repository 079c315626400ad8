package crossdc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Applied is what an apply came to.
type Applied struct {
	Generation int64
	// Waits are sites that could not be reached and are left as they are.
	Waits map[string]error
}

// Apply brings the replication to what the spec says: the same for a new one, one that
// drifted, a move of the primary, and a move that was cut off.
func (m Manager) Apply(ctx context.Context, s Spec) (Applied, error) {
	if err := s.Check(); err != nil {
		return Applied{}, refused("compare the sites", err.Error(), "correct the configuration.")
	}
	v, err := m.open(ctx, s)
	if err != nil {
		return Applied{}, err
	}
	ctx, unlock, err := m.lock(ctx, s, v)
	if err != nil {
		return Applied{}, err
	}
	defer unlock()
	if err := m.look(ctx, v); err != nil {
		return Applied{}, err
	}
	if err := m.bring(ctx, s, v); err != nil {
		return Applied{}, err
	}
	if err := m.look(ctx, v); err != nil {
		return Applied{}, err
	}
	a := Applied{Waits: map[string]error{}}
	if n := v.note(); n != nil {
		a.Generation = n.Generation
	}
	for _, name := range s.names() {
		if err := v.unreachable(name); err != nil {
			a.Waits[name] = err
		}
	}
	return a, nil
}

// lock keeps other applies away from all clusters that can be reached, always in the same
// order.
func (m Manager) lock(ctx context.Context, s Spec, v view) (context.Context, func(), error) {
	all := v.all()
	slices.SortFunc(all, func(a, b *look) int {
		x, y := a.cluster, b.cluster
		return cmp.Or(cmp.Compare(x.UID, y.UID), cmp.Compare(x.Name(), y.Name()))
	})
	var undo []func()
	unlock := func() {
		for _, u := range slices.Backward(undo) {
			u()
		}
	}
	for _, l := range all {
		locked, u, err := l.live.Lock(ctx, "the replication "+s.Name+" between sites")
		if err != nil {
			unlock()
			return nil, nil, problem.Fill(err, problem.Error{Step: "lock the cluster " + l.name()})
		}
		ctx, undo = locked, append(undo, u)
	}
	return ctx, unlock, nil
}

// bring decides what has to be done, and does it.
func (m Manager) bring(ctx context.Context, s Spec, v view) error {
	if mv := v.move(); mv != nil && !v.gave(mv.From) {
		if err := m.goOn(ctx, s, v, *mv); err != nil {
			return err
		}
		if err := m.look(ctx, v); err != nil {
			return err
		}
	}
	primary, split := s.primary(v)
	switch {
	case len(split) > 0:
		return m.choose(ctx, s, v, split)
	case primary == "" && v.note() == nil:
		return m.begin(ctx, s, v, s.Primary)
	case primary == "" && v.forcing() == s.Primary:
		m.Log.InfoContext(ctx, "a forced move of the primary was cut off and goes on", "to", s.Primary)
		return m.promoteSite(ctx, s, v, v.givenUp())
	case primary == "":
		return m.nobody(ctx, s, v)
	}
	if err := s.foreign(v, primary); err != nil {
		return err
	}
	if primary == s.Primary {
		return m.stay(ctx, s, v)
	}
	if s.Forced {
		return m.force(ctx, s, v, primary)
	}
	return m.moveTo(ctx, s, v, primary)
}

// begin sets a replication up.
func (m Manager) begin(ctx context.Context, s Spec, v view, primary string) error {
	for _, name := range s.names() {
		if err := v.unreachable(name); err != nil {
			return problem.Fill(err, problem.Error{Step: "look at the clusters of site " + name, Left: "everything.", Do: "bring the connection back, and apply again: a new replication needs all of its sites."})
		}
	}
	if err := s.foreign(v, primary); err != nil {
		return err
	}
	return engine.Run(ctx, s.settle(v, primary), m.Manager.Observe)
}

// stay brings the sites to what they should be, with the primary that they have: settings,
// and sites that were lost and are back.
func (m Manager) stay(ctx context.Context, s Spec, v view) error {
	if err := v.unreachable(s.Primary); err != nil {
		return err
	}
	// Those that were given up follow at the end, if they are back. A run that gave them up
	// may have been cut off after the promotion.
	plan := s.settle(v.without(v.givenUp()), s.Primary)
	if given := v.givenUp(); len(given) > 0 {
		plan = plan.ThenPlan(m.settleMetadata(v, s.Primary)).ThenPlan(s.blind(v, given, s.Primary, false)).ThenPlan(v.forgetMoves())
	}
	if err := engine.Run(ctx, plan, m.Manager.Observe); err != nil {
		return err
	}
	if err := m.takeIn(ctx, s, v); err != nil {
		return err
	}
	return m.cloneAll(ctx, s, v, s.Primary)
}

// moveTo moves the primary as planned.
func (m Manager) moveTo(ctx context.Context, s Spec, v view, from string) error {
	to := s.Primary
	if _, lost := v.lost(to); lost {
		return refused("see whether the primary can move", fmt.Sprintf("site %s was given up and does not follow yet", to), "apply with primary = \""+from+"\" first: it takes that site in again.")
	}
	v = v.without(v.givenUp()) // they are taken in where the primary stays
	// A change of settings may come with the move.
	if err := engine.Run(ctx, s.settle(v, from), m.Manager.Observe); err != nil {
		return err
	}
	if err := m.look(ctx, v); err != nil {
		return err
	}
	if against := m.gates(ctx, s, v, from, to); len(against) > 0 {
		return &problem.Error{
			Step: fmt.Sprintf("see whether the primary can move from %s to %s", from, to), Cause: errors.New(strings.Join(against, "; ")), Left: "everything: site " + from + " takes writes.",
			Do: "see to what is named, and apply again. If site " + from + " is lost for good, or cannot wait, set failover = \"forced\".",
		}
	}
	p := &planned{m: m, s: s, v: v, move: Move{From: from, To: to}}
	for _, l := range v[from] {
		p.move.Leaders = append(p.move.Leaders, l.known.Leader)
	}
	return p.run(ctx)
}

// goOn finishes a planned move that was cut off, or takes it back, whichever is wanted. One
// that had not come as far as the gap is taken back in any case: all that is to be so before
// a move is looked at again then.
func (m Manager) goOn(ctx context.Context, s Spec, v view, mv Move) error {
	for _, site := range []string{mv.From, mv.To} {
		if _, there := s.Sites[site]; !there {
			return refused("go on with a move", fmt.Sprintf("the primary was being moved from %s to %s, and %s is no site any more", mv.From, mv.To, site), "put the site back into sites, and apply.")
		}
	}
	v = v.without(v.givenUp())
	p := &planned{m: m, s: s, v: v, move: mv}
	for _, l := range v[mv.To] {
		if l.err == nil && !l.follows() {
			p.promoting.Store(true)
		}
	}
	begun := p.promoting.Load()
	for _, l := range v[mv.From] {
		begun = begun || l.err == nil && (l.follows() || p.stopped(l))
	}
	for _, site := range []string{mv.From, mv.To} {
		if err := v.unreachable(site); err != nil {
			if s.Forced && site == mv.From {
				return nil // it is given up
			}
			return problem.Fill(err, problem.Error{
				Step: fmt.Sprintf("go on with the move of the primary from %s to %s", mv.From, mv.To), Left: "both sites.", Do: "bring the connection back, and apply again.",
			})
		}
	}
	if s.Forced && s.Primary == mv.To && !p.promoting.Load() && begun && p.leaderless() {
		return m.force(ctx, s, v, mv.From) // what the old primary has written last nobody can say
	}
	if !p.promoting.Load() && (s.Primary != mv.To || !begun) {
		m.Log.InfoContext(ctx, "a move of the primary was cut off and is taken back", "from", mv.From, "to", mv.To)
		if err := p.takeBack(ctx, "it was cut off"); err != nil {
			return saying(err, "both sites as standbys, in the worst case.", "mend the cause and apply again.")
		}
		return nil
	}
	m.Log.InfoContext(ctx, "a move of the primary was cut off and goes on", "from", mv.From, "to", mv.To)
	return p.run(ctx)
}

// nobody is when all sites are standbys, and no move is noted that says why.
func (m Manager) nobody(ctx context.Context, s Spec, v view) error {
	if !s.Forced {
		return refused("find out which site is the primary", "all sites are standbys: none of them takes writes, and no move of ours was under way",
			fmt.Sprintf("find out which of them has everything, and apply with it as primary, failover = \"forced\" and accept_data_loss = %q.", acceptance("none", generation(v))))
	}
	if s.AcceptLoss != acceptance("none", generation(v)) {
		return refused("find out which site is the primary", "all sites are standbys", fmt.Sprintf("if site %s has everything, set accept_data_loss = %q.", s.Primary, acceptance("none", generation(v))))
	}
	return m.promoteSite(ctx, s, v, nil)
}

func generation(v view) int64 {
	if n := v.note(); n != nil {
		return n.Generation
	}
	return 1
}
