package crossdc

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// step is one about a cluster.
func (l *look) step(id, title string, risk engine.Risk, do func(context.Context) error) engine.Step {
	return engine.Step{ID: "crossdc." + id, Host: l.name(), Title: title, Risk: risk, Do: do}
}

// settle is the way to what the sites should be with a given primary, without anything
// that changes who takes writes: what they trust, their passwords, their slots, whom they
// follow. Slots come before those that use them, and go after them. It is pure.
func (s Spec) settle(v view, primary string) engine.Plan {
	var plan engine.Plan
	plan = plan.ThenPlan(s.trust(v)).ThenPlan(s.passwords(v, primary))
	plan = plan.ThenPlan(s.addSlots(v, primary))
	for _, name := range s.names() {
		for _, l := range v[name] {
			if l.err != nil || name == primary {
				continue
			}
			wanted := patroni.Settings{standbyPath: s.standby(name, l.index, primary)}
			if _, changed := patroni.Patch(l.known.Config, wanted, nil); len(changed) > 0 && (l.follows() || !l.known.HasDatabase()) {
				plan = plan.Then(l.step("follow", fmt.Sprintf("follow site %s at %s", s.upstream(name, primary), strings.Join(s.Sites[s.upstream(name, primary)].Clusters[l.index].Hosts, ", ")), engine.Reload, func(ctx context.Context) error {
					return l.live.Set(ctx, wanted, nil)
				}))
			}
		}
	}
	return plan.ThenPlan(s.dropSlots(v, primary)).ThenPlan(s.note(v, primary, nil))
}

// trust has each cluster trust the authorities of its counterparts in the other sites.
func (s Spec) trust(v view) engine.Plan {
	var plan engine.Plan
	for _, name := range s.names() {
		for _, l := range v[name] {
			if l.err != nil || l.cluster.Adopted() {
				continue
			}
			var more [][]byte
			whole := true
			for _, other := range s.others(name) {
				if l.index >= len(v[other]) || v[other][l.index].err != nil {
					whole = false // what it had of that site stays
					continue
				}
				more = append(more, v[other][l.index].known.Authority)
			}
			if !whole {
				more = append(more, l.known.Trusted)
			}
			want := pki.Bundle(more...)
			if string(want) != string(l.known.Trusted) {
				plan = plan.Then(l.step("trust", "trust the certificate authorities of the other sites", engine.Safe, func(ctx context.Context) error {
					return l.live.Trust(ctx, want)
				}))
			}
		}
	}
	return plan
}

// passwords gives the clusters of other sites those of the primary's, which are a part of
// the data that they copy.
func (s Spec) passwords(v view, primary string) engine.Plan {
	var plan engine.Plan
	for _, name := range s.others(primary) {
		for _, l := range v[name] {
			of := v[primary][l.index]
			if l.err != nil || of.err != nil || l.cluster.Adopted() || of.cluster.Adopted() || l.known.SharesPasswords(of.known) {
				continue
			}
			plan = plan.Then(l.step("passwords", "take the passwords of site "+primary, engine.Safe, func(ctx context.Context) error {
				return l.live.TakePasswords(ctx, of.live)
			}))
		}
	}
	return plan
}

// addSlots makes the slots for those that follow, with a given primary.
func (s Spec) addSlots(v view, primary string) engine.Plan {
	var plan engine.Plan
	for _, name := range s.names() {
		for _, l := range v[name] {
			if l.err != nil {
				continue
			}
			wanted := s.slots(name, l.index, primary)
			if _, changed := patroni.Patch(l.known.Config, wanted, nil); len(changed) > 0 {
				plan = plan.Then(l.step("slots", "keep WAL for "+strings.Join(s.followers(name, primary), ", ")+" in "+strings.Join(slotNames(changed), ", "), engine.Reload, func(ctx context.Context) error {
					return l.live.Set(ctx, wanted, nil)
				}))
			}
		}
	}
	return plan
}

// dropSlots removes slots that nobody uses with a given primary: they would keep WAL for ever.
func (s Spec) dropSlots(v view, primary string) engine.Plan {
	var plan engine.Plan
	for _, name := range s.names() {
		for _, l := range v[name] {
			if l.err != nil {
				continue
			}
			if gone := s.idle(l, primary); len(gone) > 0 {
				plan = plan.Then(l.step("slots.drop", "keep no more WAL in "+strings.Join(slotNames(gone), ", ")+", which nobody uses", engine.Reload, func(ctx context.Context) error {
					return l.live.Set(ctx, nil, gone)
				}))
			}
		}
	}
	return plan
}

// idle are the paths of slots of ours that a cluster does not need with a given primary.
func (s Spec) idle(l *look, primary string) []string {
	wanted := s.slots(l.site, l.index, primary)
	var gone []string
	for path := range l.known.Config.Flatten() {
		if _, stays := wanted[path]; !stays && strings.HasPrefix(path, slotPaths) {
			gone = append(gone, path)
		}
	}
	slices.Sort(gone)
	return gone
}

func slotNames(paths []string) []string {
	var names []string
	for _, p := range paths {
		names = append(names, strings.TrimPrefix(p, "slots/"))
	}
	return names
}

// note has every cluster know what the replication is. With change, the newest note is
// changed before.
func (s Spec) note(v view, primary string, change func(*Note)) engine.Plan {
	next := Note{Replication: s.Name, Primary: primary, Generation: 1}
	if n := v.note(); n != nil {
		next = *n
		next.Lost = maps.Clone(n.Lost)
		next.Replication, next.Primary = s.Name, primary
	}
	if change != nil {
		change(&next)
	}
	if len(next.Lost) == 0 {
		next.Lost = nil
	}
	var plan engine.Plan
	for _, l := range v.all() {
		n := next
		n.Site = l.site
		if l.note == nil || !l.note.same(n) {
			plan = plan.Then(l.step("note", "note in etcd that site "+primary+" is the primary of "+s.Name, engine.Safe, func(ctx context.Context) error {
				return l.live.Note(ctx, noteKey, n)
			}))
		}
	}
	return plan
}

func (n Note) same(o Note) bool {
	return n.Replication == o.Replication && n.Site == o.Site && n.Primary == o.Primary && n.Generation == o.Generation &&
		slices.Equal(slices.Sorted(maps.Keys(n.Lost)), slices.Sorted(maps.Keys(o.Lost)))
}

// foreign refuses what is somebody else's: clusters of another replication, nodes of one
// name in two sites, and databases that are not copies of each other.
func (s Spec) foreign(v view, primary string) error {
	const step = "compare the sites"
	taken := map[string]string{}
	for _, name := range s.names() {
		for _, l := range v[name] {
			if l.err != nil {
				continue
			}
			if n := l.note; n != nil && n.Replication != s.Name {
				return refused(step, fmt.Sprintf("the cluster %s is in the replication %q already", l.name(), n.Replication), "give this one the same name to take it over, or destroy that one first.")
			}
			if n := l.note; n != nil && n.Site != name {
				return refused(step, fmt.Sprintf("the cluster %s is that of site %q", l.name(), n.Site), "call the site what it was called: slots have its name.")
			}
			for node := range l.known.Nodes {
				if other, twice := taken[node]; twice {
					return refused(step, fmt.Sprintf("site %s and site %s both have a node %q: a standby with the name of a member of the primary would count as that one for synchronous replication", other, name, node),
						"give all nodes of all sites names of their own.")
				}
				taken[node] = name
			}
			of := v[primary][l.index]
			if name == primary || of.err != nil || l.known.Initialize == "" || of.known.Initialize == "" || l.known.Initialize == of.known.Initialize {
				continue
			}
			return refused(step, fmt.Sprintf("%s has a database of its own (system identifier %s, and that of the primary site %s is %s)", l.name(), l.known.Initialize, primary, of.known.Initialize),
				"to have it follow, destroy its nodes and its pgha_patroni_cluster with on_destroy = \"purge\", if nobody needs that database, and apply again. The nodes of a site that is to follow are created after the pgha_cross_dc_replication (depends_on).")
		}
	}
	return nil
}

// splitBrain is the problem of two sites that take writes, and nobody has said which of them
// is right.
func (s Spec) splitBrain(v view, sites []string) error {
	var lines []string
	for _, name := range sites {
		for _, l := range v[name] {
			if leader, st, ok := l.leader(); ok {
				at := ""
				if st.Timeline != nil {
					at = fmt.Sprintf(" on timeline %d", *st.Timeline)
				}
				lines = append(lines, fmt.Sprintf("%s: %s takes writes%s, at %s", l.name(), leader, at, patroni.FormatLSN(st.XLog.Location)))
			} else {
				lines = append(lines, l.name()+": configured as a primary; nobody leads that answers")
			}
		}
	}
	var words []string
	for _, name := range sites {
		words = append(words, fmt.Sprintf("accept_data_loss = %q to throw away what only %s has", acceptance(name, generation(v)), name))
	}
	return &problem.Error{
		Step: "find out which site is the primary", Left: "all sites, as they are.",
		Cause: fmt.Errorf("split brain: the sites %s are primaries at the same time: %s", strings.Join(sites, " and "), strings.Join(lines, "; ")),
		Do: "stop whoever writes to the wrong one, save what only that one has (pg_dump, or its WAL), and then choose: primary = the site that stays, with failover = \"forced\" and " + strings.Join(words, ", or ") +
			". The site that is given up is rewound, or cloned again, and follows.",
	}
}
