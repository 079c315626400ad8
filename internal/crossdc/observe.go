package crossdc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Observed is what a read found.
type Observed struct {
	Absent bool
	// Primary is the site that is the primary, empty where that cannot be said.
	Primary    string
	Generation int64
	Drift      []string
	// Alarms are what a person has to see at once: two sites that take writes.
	Alarms []string
	// Silent are sites that cannot be reached, each with why.
	Silent map[string]error
}

// Observe looks at all sites and changes nothing.
func (m Manager) Observe(ctx context.Context, s Spec) (o Observed, err error) {
	v, err := m.open(ctx, s)
	if err != nil {
		return o, err
	}
	if err := m.look(ctx, v); err != nil {
		return o, err
	}
	o.Silent = map[string]error{}
	for _, name := range s.names() {
		if err := v.unreachable(name); err != nil {
			o.Silent[name] = err
		}
	}
	if len(o.Silent) == len(s.Sites) {
		return o, errors.Join(slices.Collect(maps.Values(o.Silent))...)
	}
	n := v.note()
	if n == nil {
		o.Absent = len(o.Silent) == 0
		return o, nil
	}
	o.Generation = n.Generation
	if w := s.writers(v); len(w) > 1 {
		o.Alarms = append(o.Alarms, "Several sites take writes at the same time: "+strings.Join(w, " and ")+".")
	}
	primary, split := s.primary(v)
	o.Primary = primary
	switch mv := v.move(); {
	case len(split) > 0:
		var p *problem.Error
		if err := s.splitBrain(v, split); errors.As(err, &p) {
			o.Alarms = append(o.Alarms, p.Cause.Error()+".")
		}
		o.Drift = append(o.Drift, "split brain between the sites "+strings.Join(split, " and "))
	case mv != nil && !v.gave(mv.From):
		o.Drift = append(o.Drift, fmt.Sprintf("a move of the primary from %s to %s was cut off", mv.From, mv.To))
	case primary == "":
		o.Drift = append(o.Drift, "no site is the primary")
	default:
		o.Drift = s.settle(v.without(v.givenUp()), primary).Describe(engine.Safe)
		stale, err := m.stale(ctx, s, v, primary)
		if err != nil {
			return o, err
		}
		o.Drift = append(o.Drift, m.clones(s, v, stale, primary).Describe(engine.Safe)...)
	}
	for _, name := range slices.Sorted(maps.Keys(n.Lost)) {
		if _, there := s.Sites[name]; there && v.unreachable(name) == nil {
			o.Drift = append(o.Drift, m.diverged(ctx, s, v, name, n.Lost[name]))
		}
	}
	return o, nil
}

// diverged says what a site has that was given up and can be reached again.
func (m Manager) diverged(ctx context.Context, s Spec, v view, site string, lost Lost) string {
	var parts []string
	how := "pg_rewind, or by cloning it again"
	for i, l := range v[site] {
		if i >= len(lost.Ends) {
			continue
		}
		part := fmt.Sprintf("%s diverged at %s", l.name(), lost.Ends[i])
		if leader, st, ok := l.leader(); ok && st.Primary() {
			part += fmt.Sprintf(", and %s takes writes there: it is at %s", leader, patroni.FormatLSN(st.XLog.Location))
		} else if len(l.fenced) > 0 {
			part += ", and is kept from taking writes"
		}
		if m.forked(ctx, l, lost) {
			how = "cloning it again, with all of its nodes stopped meanwhile: it has promoted a node since, and cannot be rewound"
		}
		parts = append(parts, part)
	}
	for _, name := range s.names() {
		if s.Sites[name].Follow == site && name != s.Primary {
			how += fmt.Sprintf(". Site %s follows it, and is cloned after it, with its nodes stopped meanwhile, if it cannot go on from there", name)
		}
	}
	return fmt.Sprintf("site %s is back, which was given up on %s: %s. Applying has it follow; what only it has is thrown away by %s", site, lost.At.UTC().Format("2006-01-02 15:04 UTC"), strings.Join(parts, "; "), how)
}

// Preview is what an apply would do, for people.
type Preview struct {
	// Title and Text are of a move of the primary, empty if there is none.
	Title, Text string
	// Against is what speaks against it now.
	Against []string
	// Steps are the others that somebody notices.
	Steps []string
	// Warnings are what fits badly, and is no reason not to go on.
	Warnings []string
}

// Preview looks at all sites, and says what an apply of the spec would do.
func (m Manager) Preview(ctx context.Context, s Spec) (p Preview, err error) {
	v, err := m.open(ctx, s)
	if err != nil {
		return p, err
	}
	if err := m.look(ctx, v); err != nil {
		return p, err
	}
	p.Warnings = append(s.fit(v), s.far(ctx, v)...)
	primary, split := s.primary(v)
	switch mv := v.move(); {
	case len(split) > 0:
		if err := s.foreign(v, s.Primary); err != nil {
			return p, err
		}
		p.Title = "Several sites are primaries"
		p.Text = problem.Details(s.splitBrain(v, split))
	case mv != nil && !v.gave(mv.From):
		p.Title = fmt.Sprintf("A move of the primary from %s to %s was cut off", mv.From, mv.To)
		p.Text = fmt.Sprintf("Applying goes on with it, or takes it back if primary is not %q, and none of the clusters of site %s has been promoted.", mv.To, mv.To)
	case primary == "" && v.forcing() != "":
		p.Title = fmt.Sprintf("A forced move of the primary to site %s was cut off", v.forcing())
		p.Text = fmt.Sprintf("Applying with primary = %q goes on with it: that site takes writes, without what %s may have had last. With another one it is refused.", v.forcing(), strings.Join(v.givenUp(), " and "))
	case primary == "" && v.note() != nil:
		p.Title = "No site is the primary"
		p.Text = problem.Details(m.nobody(ctx, Spec{Primary: s.Primary}, v))
	case primary == "" || primary == s.Primary:
		if primary == "" {
			primary = s.Primary
		}
		if err := s.foreign(v, primary); err != nil {
			return p, err
		}
		p.Steps = s.settle(v.without(v.givenUp()), primary).Describe(engine.Reload)
		stale, err := m.stale(ctx, s, v, primary)
		if err != nil {
			return p, err
		}
		p.Steps = append(p.Steps, m.clones(s, v, stale, primary).Describe(engine.Reload)...)
		for _, site := range v.givenUp() {
			if lost, _ := v.lost(site); v[site] != nil && v.unreachable(site) == nil {
				p.Steps = append(p.Steps, m.diverged(ctx, s, v, site, lost))
			}
		}
	case s.Forced:
		p.Title = fmt.Sprintf("Applying this gives site %s up", primary)
		p.Text = fmt.Sprintf("- Site %s takes writes without what site %s may have had last: %s.\n", s.Primary, primary, m.missing(ctx, v, primary, s.Primary)) +
			fmt.Sprintf("- The nodes of site %s are stopped, and kept from starting, as far as they can be reached. A node that cannot be reached may go on taking writes, and nobody here can know: clients that reach it write what will be thrown away.\n", primary) +
			fmt.Sprintf("- When site %s can be reached again, a plan says so, and applying has it follow.\n", primary)
		if want := acceptance(primary, generation(v)); s.AcceptLoss != want {
			p.Against = append(p.Against, fmt.Sprintf("accept_data_loss is not %q: an apply will be refused", want))
		}
	default:
		p.Title = fmt.Sprintf("Applying this moves the primary from site %s to site %s", primary, s.Primary)
		p.Text = s.describe(v, primary, s.Primary)
		p.Against = m.gates(ctx, s, v, primary, s.Primary)
		p.Steps = s.settle(v.without(v.givenUp()), primary).Describe(engine.Reload)
	}
	return p, nil
}

// Destroy ends the replication's management. A site that has data goes on following: it
// would be a second primary if it were told not to. One that has none follows nobody, and
// nobody keeps WAL for it.
func (m Manager) Destroy(ctx context.Context, s Spec) error {
	v, err := m.open(ctx, s)
	if err != nil {
		return err
	}
	ctx, unlock, err := m.lock(ctx, s, v)
	if err != nil {
		return err
	}
	defer unlock()
	if err := m.look(ctx, v); err != nil {
		return err
	}
	if mv := v.move(); mv != nil {
		return refused("end the replication", fmt.Sprintf("a move of the primary from %s to %s was cut off", mv.From, mv.To), "apply first, which finishes it or takes it back.")
	}
	primary, split := s.primary(v)
	if len(split) > 0 {
		return s.splitBrain(v, split)
	}
	var plan engine.Plan
	empty := map[string]bool{}
	for _, name := range s.names() {
		empty[name] = name != primary && v.unreachable(name) == nil
		for _, l := range v[name] {
			empty[name] = empty[name] && len(l.known.Nodes) == 0 && len(l.known.Members) == 0
		}
	}
	for _, name := range s.names() {
		for _, l := range v[name] {
			if l.err != nil {
				continue
			}
			var gone []string
			for _, other := range s.names() {
				if empty[other] {
					gone = append(gone, slotPath(other))
				}
			}
			if empty[name] {
				gone = append(gone, standbyPath)
			}
			if _, changed := patroni.Patch(l.known.Config, nil, gone); len(changed) > 0 {
				plan = plan.Then(l.step("release", "remove what was for sites that have no nodes any more", engine.Reload, func(ctx context.Context) error {
					return l.live.Set(ctx, nil, gone)
				}))
			}
			if l.note != nil {
				plan = plan.Then(l.step("unnote", "forget the replication", engine.Safe, func(ctx context.Context) error { return l.live.Note(ctx, noteKey, nil) }))
			}
		}
	}
	return engine.Run(ctx, plan, m.Manager.Observe)
}
