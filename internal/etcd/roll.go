package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// turn is a running member's turn to be restarted, in another version perhaps.
type turn struct {
	name   string
	marker Marker // that it gets afterwards: it no longer says that a restart is due
	leads  bool   // when this was planned
	alone  bool   // there is no quorum without it
	last   bool
	why    string // it is restarted, unless for another version

	upgrade *upgrade   // nil if it keeps its version
	stage   *stageTurn // nil if TLS is not being turned on
}

func (t turn) id() string {
	if t.stage != nil {
		return "etcd.tls." + stageNames[t.stage.to]
	}
	if t.upgrade != nil {
		return "etcd.upgrade"
	}
	return "etcd.restart"
}

func (t turn) title() string {
	var b strings.Builder
	if t.stage != nil {
		b.WriteString(t.stage.title())
	} else if u := t.upgrade; u != nil {
		fmt.Fprintf(&b, "restart it with etcd %s instead of %s", u.to, u.from)
	} else {
		b.WriteString("restart " + Unit + ", " + t.why)
	}
	b.WriteString(", while all others are well")
	if t.leads {
		b.WriteString("; it leads, and hands that over first")
	}
	if t.alone {
		b.WriteString("; the cluster does not answer meanwhile")
	}
	if u := t.upgrade; u != nil && t.last && u.irrevocable {
		r, _, _ := releaseOf(u.to)
		fmt.Fprintf(&b, "; from then on the cluster is one of %s, and there is no way back but a snapshot", r)
	}
	return b.String()
}

// roll has the members restarted that need it, one at a time, the leader last.
func (p *planner) roll(names []string) engine.Plan {
	order := slices.Clone(names)
	leads := func(n string) bool {
		m := p.f.Live.at(p.s.PeerURL(n))
		return m != nil && m.Leader
	}
	slices.SortStableFunc(order, func(a, b string) int {
		switch {
		case leads(a) == leads(b):
			return strings.Compare(a, b)
		case leads(a):
			return 1
		}
		return -1
	})
	var plan engine.Plan
	for i, n := range order {
		plan = plan.Then(p.do.turn(p.well(), turn{
			name: n, marker: p.marker(n, p.formed()), leads: leads(n) && len(p.stay) > 1, alone: len(p.stay) < 3, last: i == len(order)-1, why: p.why(n), upgrade: p.upgrades[n],
		}))
	}
	return plan
}

// why is what a member is restarted for, if not for another version.
func (p *planner) why(name string) string {
	var all []string
	if p.reconfigured(name) {
		all = append(all, "for its settings")
	}
	switch {
	case p.distrusts(name) && p.rotation.withdraw:
		all = append(all, "to trust the new authority alone")
	case p.distrusts(name):
		all = append(all, "to trust the old and the new authority")
	case p.needsFiles(name):
		all = append(all, "which then trusts the authorities that are in its file by now")
	case len(all) == 0:
		return "which an earlier apply has left undone"
	}
	return strings.Join(all, " and ")
}

// turn takes a member out of service for a moment. Before, all members have to be
// well, and enough without it; after, it has to be one of them again.
func (d *Doer) turn(s Spec, t turn) engine.Step {
	return d.step(s, t.name, t.id(), t.title(), engine.Restart, func(ctx context.Context) error {
		begin := time.Now()
		if err := d.checkFiles(ctx, s, t.name); err != nil {
			return err
		}
		if err := d.steadySoon(ctx, s); err != nil {
			return problem.Fill(err, problem.Error{Step: "wait for all members to be well before " + t.name + " is restarted", Left: "the members, as they are."})
		}
		if err := d.yield(ctx, s, t); err != nil {
			return problem.Fill(err, problem.Error{Host: t.name, Step: "take it out of service", Left: "the members, as they are."})
		}
		h := d.host(s, t.name)
		if t.upgrade != nil {
			if err := d.switchOver(ctx, s, t.name, t.upgrade); err != nil {
				return err
			}
		}
		if t.stage != nil {
			if err := d.take(ctx, s, t); err != nil {
				return err
			}
		}
		d.Log.InfoContext(ctx, "restarting an etcd member", "host", t.name)
		err := remote.RestartUnit(ctx, h, Unit, stopTimeout)
		if err == nil {
			err = d.back(ctx, s, t)
		}
		if err == nil && t.stage != nil {
			err = d.taken(ctx, s, t)
		}
		if err != nil {
			return t.failed(problem.In(t.name, "restart "+Unit, d.withLog(ctx, s, t.name, err)))
		}
		if err := remote.WriteFile(ctx, h, t.marker.file()); err != nil {
			return err
		}
		d.Log.InfoContext(ctx, "an etcd member is back", "host", t.name, "took", time.Since(begin).Round(time.Millisecond).String())
		return nil
	})
}

// failed says what is left when a member did not come back as it should.
func (t turn) failed(err error) error {
	err = problem.Fill(err, problem.Error{Left: "the other members, running; none of them was touched after this one."})
	var p *problem.Error
	if t.upgrade != nil && errors.As(err, &p) && len(p.Log) > 0 {
		p.Do = fmt.Sprintf("mend what the log names, then apply again: it goes on with this member. Or set version = %q again and apply that, which brings back what was changed.", t.upgrade.from)
	}
	return err
}

// yield makes sure that the cluster can do without a member, which hands over the
// leader's role if it has it: to one that has been upgraded, if there is one.
func (d *Doer) yield(ctx context.Context, s Spec, t turn) error {
	live, err := d.live(ctx, s)
	if err != nil {
		return err
	}
	if err := live.spares(s.PeerURL(t.name)); err != nil {
		return err
	}
	m := live.at(s.PeerURL(t.name))
	if m == nil || !m.Leader {
		return nil
	}
	upgraded := func(o LiveMember) bool {
		return o.ID != m.ID && t.upgrade != nil && o.Version == debver.Upstream(t.upgrade.to) && o.Problem == "" && !o.Learner
	}
	if slices.ContainsFunc(live, upgraded) {
		return d.handOver(ctx, s, live, upgraded)
	}
	return d.handOver(ctx, s, live, func(o LiveMember) bool { return o.ID != m.ID })
}

// spares says why a member cannot be taken out of service, with the arithmetic. A
// cluster of one or two members never could spare one.
func (l Live) spares(peer string) error {
	n, h := l.votes()
	if m := l.at(peer); m != nil && !m.Learner && m.Problem == "" {
		h--
	}
	if n < 3 || h >= Quorum(n) {
		return nil
	}
	return &problem.Error{
		Step:  "check that etcd keeps its quorum",
		Cause: fmt.Errorf("without it %d of %d voting members would be healthy, and %d must agree", h, n, Quorum(n)),
		Left:  "the members, as they are.", Do: "bring the members that are not healthy back first (" + l.sick() + "), then apply again.",
	}
}

// back waits until a member that was restarted is well, and makes sure that it runs
// what it should.
func (d *Doer) back(ctx context.Context, s Spec, t turn) error {
	if err := d.steadySoon(ctx, s); err != nil {
		return err
	}
	if t.upgrade == nil {
		return nil
	}
	c, err := d.client(ctx, s)
	if err != nil {
		return err
	}
	st, err := c.Status(ctx, s.ClientURL(t.name))
	if err != nil {
		return err
	}
	if st.Version != debver.Upstream(t.upgrade.to) {
		return fmt.Errorf("it was restarted and runs version %s, not %s: something else than the package's /usr/bin/etcd is started", st.Version, t.upgrade.to)
	}
	return nil
}
