package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// sort finds out who stays in the cluster, who joins it and who leaves it.
func (p *planner) sort() error {
	names := p.s.Names()
	if !p.formed() {
		if len(p.s.Leaving) > 0 {
			// Without them this would be a new cluster, without the old one's data.
			return &problem.Error{
				Step:  "find the cluster that these hosts are to join",
				Cause: fmt.Errorf("none of its present members can be asked: %s", strings.Join(sortedKeys(p.s.Leaving), ", ")),
				Left:  "everything.", Do: "bring at least a majority of them back, or keep them in members.",
			}
		}
		p.stay = names
		return nil
	}
	if p.f.Live == nil {
		// Nobody can join or leave while the cluster does not answer. What stands
		// still is started first; then it is asked again.
		for _, n := range names {
			if m := p.f.Hosts[n].Marker; p.f.Hosts[n].Recognised || m != nil && m.Bootstrapped {
				p.stay = append(p.stay, n)
			}
		}
		return nil
	}
	p.asked = true
	if err := p.strangers(); err != nil {
		return err
	}
	live := slices.Clone(p.f.Live)
	wanted, again := map[string]string{}, map[string]bool{}
	p.stale = map[string]bool{}
	var errs []error
	for _, n := range names {
		h, peer := p.f.Hosts[n], p.s.PeerURL(n)
		wanted[n] = peer
		m := live.at(peer)
		switch {
		case h.adopted() != nil && (m == nil || !h.Data.Exists()):
			// What it was started with would count over what a new member needs.
			errs = append(errs, &problem.Error{
				Host: n, Step: "check whose data this is",
				Cause: errors.New("this member was made by hand, and is not in the cluster any more, or has lost its data"),
				Left:  "everything on the host.", Do: "take it out of members (and of the cluster, with etcdctl member remove, if it is still there); then add the host again under another name.",
			})
		case m != nil && m.Name != "" && !h.Data.Exists():
			again[peer] = true
		case m != nil && m.Name != "" && !m.Learner:
			p.stay = append(p.stay, n)
			if !h.Facts.Unit(Unit).Running() {
				m.Problem = "" // it is started before any change is made
			}
		case m == nil && h.Data.Exists():
			// The mark says that it is ours: see ownership.
			errs = append(errs, p.over(n))
			p.stale[n] = true
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var err error
	p.changes, err = changes(live, wanted, again)
	return err
}

// well is the cluster without those that join or leave: all of these have to be
// healthy before and after a step.
func (p *planner) well() Spec { return p.s.with(p.stay) }

// over makes sure that the data on a host is that of a membership which is over.
func (p *planner) over(name string) error {
	h := p.f.Hosts[name]
	other := p.f.Live.named(name)
	switch {
	case other != nil && h.Marker != nil && h.Marker.Bootstrapped:
		return &problem.Error{
			Host: name, Step: "check whose data this is",
			Cause: fmt.Errorf("the member is in the cluster as %s, and would be at %s: the address of a member cannot be changed on the same host", strings.Join(other.PeerURLs, ", "), p.s.PeerURL(name)),
			Left:  "the member.", Do: "keep its address. To move it, add a member under another name on another host, and remove this one.",
		}
	case h.Facts.Unit(Unit).Running():
		return &problem.Error{
			Host: name, Step: "check whose data this is",
			Cause: errors.New("an etcd runs on this host that its cluster does not count as a member"),
			Left:  "everything on the host.", Do: "stop it (systemctl stop " + Unit + "), then apply again: it joins the cluster anew, and its data is deleted for that.",
		}
	}
	return nil
}

// strangers refuses members that the configuration has never heard of: somebody
// added them for a reason.
func (p *planner) strangers() error {
	known := map[string]bool{}
	for _, n := range p.s.Names() {
		known[p.s.PeerURL(n)] = true
	}
	for _, m := range p.s.Leaving {
		known[p.s.url(m.Address, p.s.PeerPort)] = true
	}
	for _, m := range p.f.Live {
		if slices.ContainsFunc(m.PeerURLs, func(u string) bool { return known[u] || p.f.Joining[u] }) {
			continue
		}
		return &problem.Error{
			Step:  "compare the members",
			Cause: fmt.Errorf("the cluster has a member that the configuration does not name: %q at %s (id %x)", m.Name, strings.Join(m.PeerURLs, ", "), m.ID),
			Left:  "the members as they are.",
			Do:    "add it to members, or take it out of the cluster (etcdctl member remove).",
		}
	}
	return nil
}

// removeDead takes out the members that only count against the quorum.
func (p *planner) removeDead() engine.Plan {
	var plan engine.Plan
	for _, c := range p.changes {
		if c.kind != removeDead {
			continue
		}
		if h := p.f.Hosts[c.name]; h != nil && p.s.PeerURL(c.name) == c.url && h.Facts.Unit(Unit).Active != "inactive" {
			// It has lost its data. Removed, it would be free to begin anew. It does
			// not count as complete until it has joined.
			plan = plan.Then(p.mark(c.name, false), p.do.step(p.s, c.name, "etcd.member.stop", "stop "+Unit+", which has lost its data", engine.Restart, func(ctx context.Context) error {
				return remote.StopUnit(ctx, p.do.host(p.s, c.name), Unit, stopTimeout)
			}))
		}
		plan = plan.Then(p.do.remove(p.s, c))
	}
	return plan
}

// membership are the changes that come once all members that stay are well, one
// after the other, and what has to be done on the hosts of those that left.
func (p *planner) membership() engine.Plan {
	var plan engine.Plan
	if !p.asked {
		return p.later()
	}
	if over := p.joined(); len(over) > 0 {
		// Before anybody is removed, for which it counts since when they have voted.
		plan = plan.Then(p.do.step(p.s, "", "etcd.member.joined", "note that members have joined", engine.Safe, func(ctx context.Context) error {
			var keys []string
			for _, url := range over {
				if m := p.f.Live.at(url); m != nil {
					if err := p.do.began(ctx, p.s, url); err != nil {
						return err
					}
				}
				keys = append(keys, joiningKey(p.s, url))
			}
			return p.do.forget(ctx, p.s, keys...)
		}))
	}
	for _, c := range p.changes {
		switch c.kind {
		case addMember:
			plan = plan.ThenPlan(p.join(c))
		case removeMember:
			plan = plan.Then(p.do.remove(p.s, c))
		case removeDead: // they went first
		}
	}
	var lanes []engine.Plan
	for _, n := range sortedKeys(p.s.Leaving) {
		lanes = append(lanes, p.left(n))
	}
	return plan.ThenParallel(lanes...)
}

// later is what comes of the membership while the cluster does not answer: it is
// said, and planned anew once it does.
func (p *planner) later() engine.Plan {
	var what []string
	for _, n := range p.s.Names() {
		if !slices.Contains(p.stay, n) {
			what = append(what, "add "+n)
		}
	}
	for _, n := range sortedKeys(p.s.Leaving) {
		what = append(what, "remove "+n+" and delete its data, certificates and keys")
	}
	for _, n := range p.stay {
		if p.outdated(n) {
			what = append(what, "bring "+n+" to version "+p.s.Version)
		}
	}
	if !p.formed() || len(what) == 0 {
		return engine.Plan{}
	}
	risk := engine.Restart
	if len(p.s.Leaving) > 0 {
		risk = engine.Destructive
	}
	return engine.Sequence(p.do.step(p.s, "", "etcd.member.later", "wait until the cluster answers, then, one member at a time: "+strings.Join(what, "; "), risk, func(ctx context.Context) error {
		return p.do.patiently(ctx, p.s, func(ctx context.Context, c Client) error {
			_, err := c.Members(ctx)
			return err
		})
	}))
}

// joined are the peer URLs of members that are noted as being added and are not
// any more: the run that added them was killed before it could say so.
func (p *planner) joined() []string {
	var urls []string
	for _, url := range sortedKeys(p.f.Joining) {
		m := p.f.Live.at(url)
		changing := slices.ContainsFunc(p.changes, func(c change) bool { return c.url == url })
		if !changing && (m == nil || !m.Learner) {
			urls = append(urls, url)
		}
	}
	return urls
}

// join takes a new member in.
func (p *planner) join(c change) engine.Plan {
	n := c.name
	var plan engine.Plan
	if p.stale[n] {
		dir := p.s.DataDir()
		plan = plan.Then(
			p.do.step(p.s, n, "etcd.member.stale", "delete "+dir+", the data of a membership that is over", engine.Destructive, func(ctx context.Context) error {
				return remote.PurgeTree(ctx, p.do.host(p.s, n), dir)
			}),
			p.do.makeDataDir(p.s, n),
		)
	}
	return plan.Then(
		p.do.addLearner(p.s, c),
		p.do.startLearner(p.s, c, p.uid, p.changed(n)),
		p.do.promote(p.s, c),
		p.mark(n, true),
	)
}

// left cleans up the host of a member that has left. It keeps nothing but
// snapshots: data that is no member's any more is of no use, and the cluster's
// keys must not stay.
func (p *planner) left(name string) engine.Plan {
	member := p.s.Leaving[name]
	for _, m := range p.s.Members {
		if m.Target == member.Target || m.Address == member.Address {
			return engine.Plan{} // the host is another member's
		}
	}
	h := p.f.Leaving[name]
	if h == nil {
		return engine.Sequence(p.do.step(p.s, name, "etcd.member.lost", "leave its host alone, which cannot be reached", engine.Safe, func(ctx context.Context) error {
			p.do.Log.WarnContext(ctx, "the host of a member that has left cannot be reached: should it come back, stop etcd there and delete "+MarkerPath+", "+Dir(p.s.Name)+", "+Authority(p.s.Name).Path()+" and "+p.s.DataDir(), "host", name)
			return nil
		}))
	}
	if m := h.Marker; m == nil || m.Cluster != p.s.Name || m.UID != p.uid {
		return engine.Plan{}
	}
	s := p.s
	s.Members = p.s.Leaving
	return destroyLane(s, name, h, true, p.do.dropKept(s, name, h), p.do)
}

// addLearner adds a member that does not vote yet.
func (d *Doer) addLearner(s Spec, c change) engine.Step {
	return d.step(s, c.name, "etcd.member.add", "add it to the etcd cluster as a learner, which does not vote yet", engine.Safe, func(ctx context.Context) error {
		if _, err := d.gate(ctx, s, c); err != nil {
			return err
		}
		// Should we be killed and the member no longer be wanted, the next run
		// knows by this that it may be removed.
		err := d.patiently(ctx, s, func(ctx context.Context, client Client) error {
			if err := client.Put(ctx, joiningKey(s, c.url), c.name); err != nil {
				return err
			}
			return client.Delete(ctx, sinceKey(s, c.url)) // of a membership that is over
		})
		if err != nil {
			return err
		}
		return d.patiently(ctx, s, func(ctx context.Context, client Client) error {
			_, err := client.AddLearner(ctx, c.url)
			return err
		})
	})
}

// startLearner starts a member that was added, for the first time or again.
func (d *Doer) startLearner(s Spec, c change, uid string, changed bool) engine.Step {
	return d.step(s, c.name, "etcd.member.start", "start "+Unit+", which fetches the cluster's data", engine.Safe, func(ctx context.Context) error {
		h := d.host(s, c.name)
		if err := d.checkFiles(ctx, s, c.name); err != nil {
			return err
		}
		var members []MemberInfo
		err := d.patiently(ctx, s, func(ctx context.Context, client Client) (err error) {
			members, err = client.Members(ctx)
			return err
		})
		if err != nil {
			return err
		}
		var others []string
		for _, m := range members {
			if !slices.Contains(m.PeerURLs, c.url) {
				others = append(others, m.PeerURLs...)
			}
		}
		slices.Sort(others)
		if err := remote.WriteFile(ctx, h, s.initialFile(c.name, uid, others)); err != nil {
			return err
		}
		if changed {
			// It may run already, with other settings.
			if err := remote.StopUnit(ctx, h, Unit, stopTimeout); err != nil {
				return err
			}
		}
		return remote.StartUnit(ctx, h, Unit)
	})
}

// promote waits until a learner has caught up, and lets it vote.
func (d *Doer) promote(s Spec, c change) engine.Step {
	return d.step(s, c.name, "etcd.member.promote", "let it vote once it has caught up", engine.Safe, func(ctx context.Context) error {
		if err := d.waitCaughtUp(ctx, s, c); err != nil {
			return err
		}
		if _, err := d.gate(ctx, s, c); err != nil {
			return err
		}
		if err := d.waitPromoted(ctx, s, c); err != nil {
			return err
		}
		d.vote(c.url, true)
		if err := d.began(ctx, s, c.url); err != nil {
			return err
		}
		return d.forget(ctx, s, joiningKey(s, c.url))
	})
}

// remove takes a member out of the cluster. One that leads hands that over
// first.
func (d *Doer) remove(s Spec, c change) engine.Step {
	title := "remove the member " + c.name
	if c.kind == removeDead {
		title += ", which is not healthy or does not vote yet"
	} else {
		title += ", once every Patroni knows one that stays; if it leads, it hands that over first"
	}
	return d.step(s, "", "etcd.member.remove", title, engine.Destructive, func(ctx context.Context) error {
		if c.kind == removeMember {
			if err := d.waitKnown(ctx, s, c); err != nil {
				return err
			}
		}
		live, err := d.gate(ctx, s, c)
		if err != nil {
			return err
		}
		if m := live.at(c.url); m != nil && m.Leader {
			if err := d.handOver(ctx, s, live, func(o LiveMember) bool { return o.ID != c.id }); err != nil {
				return err
			}
		}
		d.vote(c.url, false)
		err = d.patiently(ctx, s, func(ctx context.Context, client Client) error { return client.RemoveMember(ctx, c.id) })
		if err != nil {
			return err
		}
		return d.forget(ctx, s, joiningKey(s, c.url), sinceKey(s, c.url))
	})
}

// forget drops notes about members.
func (d *Doer) forget(ctx context.Context, s Spec, keys ...string) error {
	return d.patiently(ctx, s, func(ctx context.Context, client Client) error {
		for _, key := range keys {
			if err := client.Delete(ctx, key); err != nil {
				return err
			}
		}
		return nil
	})
}

// Describe lists the steps of a plan that people have to know of: what running
// members notice, who joins and leaves, and which certificates are made.
func Describe(p engine.Plan) []string {
	told := map[string]bool{"etcd.authority.next": true, "etcd.authority.promote": true, "etcd.authority.withdraw": true, "etcd.authority.wait": true, "etcd.tls.promote": true, "etcd.tls.wait": true}
	var list engine.Plan
	for _, s := range p.Steps() {
		if s.Risk >= engine.Reload || strings.HasPrefix(s.ID, "etcd.member.") || strings.HasPrefix(s.ID, "etcd.upgrade.") || strings.HasPrefix(s.ID, "etcd.auth.") || s.ID == "etcd.certificate" || told[s.ID] {
			list = list.Then(s)
		}
	}
	return list.Describe(engine.Safe)
}

// joiningKey is where it is noted in etcd that a member is being added.
func joiningKey(s Spec, peer string) string { return joiningPrefix(s) + peer }

func joiningPrefix(s Spec) string { return "/pgha/etcd/" + s.Name + "/joining/" }
