package patroni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// What a person asks for, outside of an apply: it goes by the rules of turns.

// alone waits for the turns that others have in this process, keeps other applies away
// from a cluster, and loads what etcd knows of it.
func (m *Manager) alone(ctx context.Context, c Cluster, what string) (context.Context, *Doer, func(), error) {
	fail := func(err error) (context.Context, *Doer, func(), error) { return nil, nil, nil, err }
	do, err := m.open(ctx, c)
	if err != nil {
		return fail(err)
	}
	key := c.queue()
	leave, err := m.Queues.Enter(ctx, key, what, func(context.Context) int { return 0 })
	if err != nil {
		return fail(err)
	}
	if why := m.Queues.Halted(key); why != nil {
		leave()
		return fail(&problem.Error{
			Step: "take a turn", Cause: fmt.Errorf("the roll was halted: %w", why),
			Left: "the cluster, as it was.", Do: "mend what failed there, and run the same again.",
		})
	}
	ctx, unlock, err := m.lockCluster(ctx, do, c, what)
	if err != nil {
		leave()
		return fail(err)
	}
	do.locked = true
	release := func() { unlock(); leave() }
	if do.Known, err = c.Load(ctx, do.KV); err == nil {
		err = c.Require(do.Known)
	}
	if err == nil && do.Known.Restored != "" {
		err = uncompared(Node{Cluster: c}, do.Known.Restored)
	}
	if err == nil {
		err = do.endPause(ctx, c)
	}
	if err != nil {
		release()
		return fail(err)
	}
	return ctx, do, release, nil
}

// noted is a node as far as it has to be known to ask it something.
func (k Known) noted(c Cluster, name string) (Node, error) {
	r, there := k.Nodes[name]
	if !there {
		return Node{}, &problem.Error{
			Step: "look the node up", Cause: fmt.Errorf("the cluster %s has no node %q that is managed; it has %s", c.Name(), name, strings.Join(sortedKeys(k.Nodes), ", ")),
			Left: "everything.", Do: "name one of these.",
		}
	}
	return Node{Cluster: c, Name: name, Address: r.Address, Target: r.Target, DataDir: r.DataDir}, nil
}

// anyView asks the nodes, one after the other until one answers, who is in the cluster.
func (d *Doer) anyView(ctx context.Context, c Cluster) (ClusterView, error) {
	names := sortedKeys(d.Known.Nodes)
	if len(names) == 0 {
		return ClusterView{}, &problem.Error{Step: "look at the cluster " + c.Name(), Cause: errors.New("it has no node"), Do: "apply its pgha_patroni_node resources first."}
	}
	n, err := d.Known.noted(c, names[0])
	if err != nil {
		return ClusterView{}, err
	}
	return d.viewOf(ctx, n)
}

// freshView is anyView, corrected by what the members say themselves.
func (d *Doer) freshView(ctx context.Context, c Cluster) (ClusterView, error) {
	view, err := d.anyView(ctx, c)
	if err != nil {
		return view, err
	}
	return d.asked(ctx, c, view, "")
}

// unfitting is an error of who cannot be taken out of service now.
func unfitting(f fitness, left string) error {
	if f.never != nil || f.waits == "" {
		return f.never
	}
	return &problem.Error{Cause: errors.New(f.waits), Left: left, Do: "see to that (patronictl -c " + ConfigPath + " list shows what is wrong), then run the same again."}
}

// Switchover moves the leader's role to another member, or to the one that is
// named, and returns when the former leader follows. It returns who led and who
// leads; they are the same if the one that is named leads already.
func (m *Manager) Switchover(ctx context.Context, c Cluster, to string) (from, leads string, err error) {
	ctx, do, unlock, err := m.alone(ctx, c, "a switchover")
	if err != nil {
		return "", "", err
	}
	defer unlock()
	view, err := do.freshView(ctx, c)
	if err != nil {
		return "", "", err
	}
	if leader, ok := view.Leader(); ok && leader.Name == to {
		return to, to, nil
	}
	n, to, err := do.chosen(c, view, to)
	if err != nil {
		return "", "", problem.In("", "look whether the leader's role can be moved", err)
	}
	plan := engine.Sequence(
		do.step(n, "patroni.switchover", "switch over from "+n.Name+" to "+to, engine.Switchover, func(ctx context.Context) error {
			return do.moveLead(ctx, n, to)
		}),
		do.step(n, "patroni.verify", "wait until "+n.Name+" follows", engine.Safe, func(ctx context.Context) error {
			leads, err = do.followed(ctx, n)
			return err
		}),
	)
	if err := engine.Run(ctx, plan, m.Observe); err != nil {
		return n.Name, leads, err
	}
	if leads != to {
		return n.Name, leads, &problem.Error{
			Step: "look who leads", Cause: fmt.Errorf("%s leads now, and %s was to: Patroni has found it better, or another failover came in between", leads, to),
			Left: "the cluster, well.", Do: "run the same again if it has to be " + to + ".",
		}
	}
	return n.Name, leads, nil
}

// chosen is the leader, and who is to lead next: the one that is named if it may, or
// the best one. It asks nobody.
func (d *Doer) chosen(c Cluster, view ClusterView, to string) (Node, string, error) {
	const left = "the leader, as it was."
	leader, ok := view.Leader()
	if !ok {
		return Node{}, "", unfitting(fitness{waits: "the cluster " + c.Name() + " has no leader"}, left)
	}
	n, err := d.Known.noted(c, leader.Name)
	if err != nil {
		return n, "", err
	}
	if err := unfitting(d.Known.fit(n, view, turn{postgres: true}), left); err != nil {
		return n, "", err
	}
	if !leader.Serves() {
		return n, "", unfitting(fitness{waits: fmt.Sprintf("PostgreSQL on %s, which leads, is %s", leader.Name, leader.State)}, left)
	}
	if to == "" {
		if best := target(n, view, nil, turn{}, d.Known); best != "" {
			return n, best, nil
		}
		return n, "", &problem.Error{
			Cause: fmt.Errorf("%s leads, and no other member can take over", n.Name), Left: left,
			Do: "make another member fit: patronictl -c " + ConfigPath + " list shows what is wrong.",
		}
	}
	if _, err := d.Known.noted(c, to); err != nil {
		return n, "", err
	}
	why := ""
	switch candidate, listed := view.Member(to); {
	case !listed:
		why = to + " is down: its Patroni does not announce itself"
	case !allowedToLead(candidate.Tags):
		why = to + " may not lead: its tags say nofailover, or failover_priority 0"
	case target(n, ClusterView{Members: []ClusterMember{leader, candidate}}, nil, turn{}, d.Known) == "":
		why = cmp.Or(unwell(candidate, leader, d.Known.rollout()), to+" is not synchronous (with a quorum: not counted for it), and with synchronous_mode Patroni lets only a replica lead that is")
	}
	if why != "" {
		return n, "", &problem.Error{Cause: errors.New(why), Left: left, Do: "name another candidate, or none, and the best one is taken."}
	}
	return n, to, nil
}

// followed waits until a former leader streams from whoever leads now.
func (d *Doer) followed(ctx context.Context, n Node) (leads string, err error) {
	bounded, cancel := context.WithTimeout(ctx, max(d.Known.rollout().Patience, 2*time.Minute))
	defer cancel()
	err = wait.Until(bounded, d.Log, n.Name+" to follow", 250*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		view, err := d.viewOf(ctx, n)
		if err != nil {
			return false, "", err
		}
		leader, ok := view.Leader()
		switch {
		case !ok:
			return false, "the cluster has no leader", nil
		case !leader.Serves():
			return false, leader.Name + " is " + leader.State, nil
		case leader.Name == n.Name:
			return false, n.Name + " leads", nil
		}
		leads = leader.Name
		why, err := d.settledIn(ctx, n)
		return err == nil && why == "", why, err
	})
	if err != nil && ctx.Err() == nil {
		return leads, &problem.Error{
			Host: n.Target.Name, Cause: err, Left: "whoever leads, leading.",
			Do: "see Patroni's log on the host (journalctl -u " + Unit + "): the former leader does not follow.",
		}
	}
	return leads, err
}

// RestartNodes restarts Patroni and PostgreSQL on a node, or on all one at a time,
// the leader last and after it has handed over. Each waits for all others to be well.
// It returns the nodes that were restarted, in order.
func (m *Manager) RestartNodes(ctx context.Context, c Cluster, node string) (done []string, err error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return nil, err
	}
	left := sortedKeys(do.Known.Nodes)
	if node != "" {
		if _, err := do.Known.noted(c, node); err != nil {
			return nil, err
		}
		left = []string{node}
	}
	for len(left) > 0 {
		next := left[0]
		if len(left) > 1 {
			view, err := do.anyView(ctx, c)
			if err != nil {
				return done, err
			}
			next = slices.MinFunc(left, func(a, b string) int {
				return cmp.Or(rankIn(a, view)-rankIn(b, view), strings.Compare(a, b))
			})
		}
		if err := m.restart(ctx, c, do.Known, next); err != nil {
			return done, err
		}
		done, left = append(done, next), without(left, next)
	}
	return done, nil
}

// restart is the turn of one node, for which nothing is installed.
func (m *Manager) restart(ctx context.Context, c Cluster, k Known, name string) error {
	n, err := m.asItIs(ctx, c, k, name)
	if err != nil {
		return err
	}
	ctx, unlockHost, err := m.lockHost(ctx, n)
	if err != nil {
		return err
	}
	defer unlockHost()
	ctx, do, unlock, err := m.alone(ctx, c, "the restart of node "+name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := do.Known.rollout().check(m.Now(), "it was to be restarted"); err != nil {
		return problem.In(n.Target.Name, "", err)
	}
	p, err := m.planNode(ctx, n, do)
	if err != nil {
		return err
	}
	return engine.Run(ctx, p.take(p.again()), m.Observe)
}

// again is a turn that brings what is installed, and nothing else.
func (p *nodePlanner) again() turn {
	return turn{
		postgres: true, why: []string{"pgha_restart"},
		wantPostgres: debver.Upstream(p.f.Facts.Package(p.n.serverPackage()).Version),
		wantPatroni:  debver.Upstream(p.f.Facts.Package(patroniPackage).Version),
	}
}

// Reinitialize has a replica's data deleted and cloned again, and returns when it
// streams. Tell is told of what the node is doing meanwhile.
func (m *Manager) Reinitialize(ctx context.Context, c Cluster, node string, tell func(string)) error {
	ctx, do, unlock, err := m.alone(ctx, c, "cloning node "+node+" again")
	if err != nil {
		return err
	}
	defer unlock()
	n, err := do.Known.noted(c, node)
	if err != nil {
		return err
	}
	step := do.step(n, "patroni.reinitialise", reinitialiseTitle, engine.Destructive, func(ctx context.Context) error {
		view, err := do.freshView(ctx, c)
		if err != nil {
			return err
		}
		if err := do.spare(n, view); err != nil {
			return err
		}
		st, err := do.status(ctx, n)
		if err != nil {
			return err
		}
		since, err := do.now(ctx, n)
		if err != nil {
			return err
		}
		if err := do.cloneAgain(ctx, n, st); err != nil {
			return err
		}
		last := ""
		return do.waitMember(ctx, n, since, func(ctx context.Context) error {
			if st, err := do.status(ctx, n); err == nil && st.State != last {
				last = st.State
				tell(node + " is " + st.State)
			}
			return nil
		})
	})
	return engine.Run(ctx, engine.Sequence(step), m.Observe)
}

// spare says why the cluster cannot do without a replica's data for as long as a
// clone takes. It asks nobody.
func (d *Doer) spare(n Node, view ClusterView) error {
	const left = "the node and its data, as they are."
	leader, ok := view.Leader()
	switch {
	case !ok:
		return unfitting(fitness{waits: "the cluster " + n.Cluster.Name() + " has no leader to clone from"}, left)
	case leader.Name == n.Name:
		return &problem.Error{
			Cause: fmt.Errorf("%s leads: its data is the cluster's", n.Name), Left: left,
			Do: "have another member lead first (pgha_switchover), if this is the node whose data is to be replaced.",
		}
	case !leader.Serves():
		return unfitting(fitness{waits: fmt.Sprintf("PostgreSQL on %s, which leads, is %s", leader.Name, leader.State)}, left)
	}
	if err := d.strict(n, view); err != nil {
		return err
	}
	if !d.Known.synchronous() {
		return nil
	}
	for _, m := range view.Members {
		if no, _ := Bool(m.Tags["nosync"]); !no && !m.Leader() && m.Name != n.Name && unwell(m, leader, d.Known.rollout()) == "" {
			return nil
		}
	}
	return &problem.Error{
		Cause: fmt.Errorf("synchronous_mode is on, and without %s no replica of %s is well that could be synchronous", n.Name, n.Cluster.Name()),
		Left:  left, Do: "add a node, or make another one well, then run the same again.",
	}
}
