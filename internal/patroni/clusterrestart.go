package patroni

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// A parameter that PostgreSQL takes over only when it starts is written first, for all
// nodes at once, and then the nodes are restarted for it, one at a time as in any
// other turn (adr/0028). What it was before is kept in etcd until all run with it: if
// the first replica does not start with it, the configuration is put back.

// parametersJournal is where that is kept, as a patch.
func (c Cluster) parametersJournal() string { return c.own("journal/parameters") }

// undo is the patch that takes changed parameters back which need a restart; nil if
// there are none.
func undo(live Document, changed []string) Document {
	flat := live.Flatten()
	var back Document
	for _, path := range changed {
		if EffectOf(path) != ByRestart {
			continue
		}
		if back == nil {
			back = Document{}
		}
		put(back, path, flat[path]) // null where it was not set
	}
	return back
}

// adding returns a kept patch with another one added. What is kept already is older,
// and stays.
func adding(kept, back Document) Document {
	flat := kept.Flatten()
	for path, was := range back.Flatten() {
		if _, there := flat[path]; !there {
			put(kept, path, was)
		}
	}
	return kept
}

// only splits a kept patch into what is about some parameters, and the rest.
func only(kept Document, parameters []string) (about, rest Document) {
	about, rest = Document{}, Document{}
	for path, was := range kept.Flatten() {
		if name, _ := IsParameter(path); slices.Contains(parameters, name) {
			put(about, path, was)
		} else {
			put(rest, path, was)
		}
	}
	return about, rest
}

// keptParameters is the patch that is kept, nil if there is none.
func (d *Doer) keptParameters(ctx context.Context, c Cluster) (Document, error) {
	kv, there, err := d.KV.Get(ctx, c.parametersJournal())
	if err != nil || !there {
		return nil, err
	}
	return ParseDocument([]byte(kv.Value))
}

// keepParameters keeps what the parameters were, before they are changed.
func (d *Doer) keepParameters(ctx context.Context, c Cluster, changed []string) error {
	back := undo(d.Known.Config, changed)
	if back == nil || !hasDatabase(d.Known) {
		return nil
	}
	kept, err := d.keptParameters(ctx, c)
	if err != nil {
		return err
	}
	if kept != nil {
		back = adding(kept, back)
	}
	return putJSON(ctx, d.KV, c.parametersJournal(), back)
}

// unsettled are the parameters that were changed and that not all nodes are known to
// run with, with what they were before ("" where they were not given): those too that
// are left to their defaults now.
func (d *Doer) unsettled(ctx context.Context, c Cluster) (map[string]string, error) {
	kept, err := d.keptParameters(ctx, c)
	names := map[string]string{}
	for path, was := range kept.Flatten() {
		if name, ok := IsParameter(path); ok {
			names[name] = ""
			if was != nil {
				names[name] = Text(was)
			}
		}
	}
	return names, err
}

// restartPending restarts the members that wait for it. It returns those that still
// do, and why, where the rollout policy says so.
func (m *Manager) restartPending(ctx context.Context, c Cluster, do *Doer, pending map[string][]string, unverified bool) (left map[string]string, err error) {
	left = map[string]string{}
	if len(pending) == 0 {
		if unverified {
			return left, nil
		}
		return left, do.forgetParameters(ctx, c)
	}
	r := do.Known.rollout()
	if err := r.check(m.Now(), "the configuration is written"); err != nil {
		for name := range pending {
			left[name] = fmt.Sprintf("The maintenance window is closed: it is open %s.", r.Window)
		}
		return left, nil
	}
	view, err := do.viewOf(ctx, Node{Cluster: c, Name: sortedKeys(pending)[0], Target: do.Known.Nodes[sortedKeys(pending)[0]].Target})
	if err != nil {
		return left, err
	}
	leader, _ := view.Leader()
	lowered, err := do.lowered(ctx, c, leader.Name, pending)
	if err != nil {
		return left, err
	}
	first := true
	for _, name := range turns(pending, view, lowered != "") {
		if name == leader.Name && r.Manual {
			left[name] = "It leads, and " + errManual.Error() + "."
			continue
		}
		n := Node{Cluster: c, Name: name, Target: do.Known.Nodes[name].Target, DataDir: do.Known.Nodes[name].DataDir}
		t := turn{postgres: true, settings: pending[name], why: []string{strings.Join(pending[name], ", ")}}
		plan := engine.Sequence(do.gate(n, t))
		inPlace := lowered != "" && name == leader.Name
		if name == leader.Name && !inPlace {
			plan = plan.Then(do.stepDown(n, t))
		}
		plan = plan.Then(do.restartFor(n, t, inPlace, first), do.verifyTurn(n, t))
		if err := engine.Run(ctx, plan, m.Observe); err != nil {
			return left, err
		}
		first = false
	}
	if len(left) > 0 || unverified {
		return left, nil
	}
	return left, do.forgetParameters(ctx, c)
}

func (d *Doer) forgetParameters(ctx context.Context, c Cluster) error {
	if _, there, err := d.KV.Get(ctx, c.parametersJournal()); err != nil || !there {
		return err
	}
	return d.KV.Delete(ctx, c.parametersJournal())
}

// turns is the order in which members are restarted. A parameter that a standby must
// not have lower than the leader is lowered on the leader first.
func turns(pending map[string][]string, view ClusterView, leaderFirst bool) []string {
	names := sortedKeys(pending)
	rank := func(name string) int {
		if m, _ := view.Member(name); leaderFirst && m.Leader() {
			return -1
		}
		return rankIn(name, view)
	}
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	return names
}

// lowered names a parameter that is to become lower and that standbys must not have
// lower than the leader. Only the leader's own restart lowers it for them: whoever
// else came to lead would still run with the higher one.
func (d *Doer) lowered(ctx context.Context, c Cluster, leader string, pending map[string][]string) (string, error) {
	var names []string
	for _, name := range pending[leader] {
		if StandbyFirst(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "", nil
	}
	flat := d.Known.Config.Flatten()
	settings, err := d.serverSettings(ctx, Node{Cluster: c, Name: leader, Target: d.Known.Nodes[leader].Target}, names)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		value, given := flat[Parameter(name)]
		if !given {
			return name, nil // the default is the lowest that anybody has
		}
		runs, known1 := Int(settings[strings.ToLower(name)].Value)
		wanted, known2 := Int(value)
		if known1 && known2 && wanted < runs {
			return name, nil
		}
	}
	return "", nil
}

// restartFor has Patroni restart a member for changed parameters.
func (d *Doer) restartFor(n Node, t turn, inPlace, first bool) engine.Step {
	title := "restart PostgreSQL for " + t.String()
	if inPlace {
		title += ", on the leader where it is: replicas cannot have less than it"
	}
	return d.step(n, "cluster.restart", title, engine.Restart, func(ctx context.Context) error {
		since, err := d.now(ctx, n)
		if err != nil {
			return err
		}
		kv, led, err := d.KV.Get(ctx, n.Cluster.leaderKey())
		if err != nil {
			return err
		}
		if led && kv.Value == n.Name && !inPlace {
			if err := d.giveUpLead(ctx, n, t); err != nil {
				return err
			}
		}
		err = d.restartByPatroni(ctx, n, t, since)
		if err == nil || ctx.Err() != nil || !first || inPlace {
			return err
		}
		return d.takeBack(ctx, n, t.settings, err)
	})
}

// restartByPatroni asks for a restart, and waits for it whatever the answer is: a
// former leader may be on its way up already, and then it has the parameters.
func (d *Doer) restartByPatroni(ctx context.Context, n Node, t turn, since moment) error {
	a, err := d.api(ctx, n)
	if err != nil {
		return err
	}
	asked := false
	bounded, cancel := context.WithTimeout(ctx, restartPatience)
	defer cancel()
	polls := 0
	return wait.Until(bounded, d.Log, "PostgreSQL on "+n.Name+" to run with what was changed", 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		st, err := a.Status(ctx)
		if err != nil {
			return false, "its Patroni does not answer", nil
		}
		if ok, _ := Running(st); ok {
			waits, err := d.waiting(ctx, n, t.settings)
			if err == nil && !waits {
				return true, "", nil
			}
		}
		if !asked && st.State == "running" {
			asked = true
			var refused *StatusError
			if err := a.Restart(ctx); errors.As(err, &refused) && strings.Contains(refused.Text, "failed") {
				return false, "", wait.Never(d.refusesToStart(ctx, n, since, err))
			}
			return false, "it is being restarted", nil
		}
		if polls++; polls%10 == 0 {
			if err := d.stuck(ctx, n, since); err != nil {
				return false, "", wait.Never(err)
			}
		}
		return false, "PostgreSQL is " + st.State, nil
	})
}

// waiting reports whether a server still waits for a restart for parameters. Patroni
// itself notices a loop later.
func (d *Doer) waiting(ctx context.Context, n Node, parameters []string) (bool, error) {
	settings, err := d.serverSettings(ctx, n, parameters)
	if err != nil {
		return false, err
	}
	for _, s := range settings {
		if s.PendingRestart {
			return true, nil
		}
	}
	return false, nil
}

// restartPatience bounds a restart: a checkpoint, and recovery.
const restartPatience = 15 * time.Minute

func (d *Doer) refusesToStart(ctx context.Context, n Node, since moment, cause error) error {
	lines, _ := remote.Journal(context.WithoutCancel(ctx), d.host(n), Unit, 100, since.journal)
	return &problem.Error{Host: n.Target.Name, Cause: fmt.Errorf("PostgreSQL does not start with the changed configuration: %w", cause), Log: telling(lines)}
}

// takeBack puts the parameters back that a replica was restarted for and did not start
// with: it was the first one, and all others still run with what was before. Earlier
// changes, which it ran with already, stay.
func (d *Doer) takeBack(ctx context.Context, n Node, parameters []string, why error) error {
	failed := func(left string, more error) error {
		return problem.Fill(errors.Join(why, more), problem.Error{
			Host: n.Target.Name, Step: "restart the first replica with the changed configuration", Left: left,
			Do: "correct the parameter, and apply again.",
		})
	}
	const changed = "the changed configuration; the other members, running as before."
	c := n.Cluster
	kept, err := d.keptParameters(ctx, c)
	if err != nil {
		return failed(changed, err)
	}
	back, rest := only(kept, parameters)
	if len(back) == 0 {
		return failed("the changed configuration, since nobody knows any more what it was before; the other members, running with that.", nil)
	}
	k, err := c.Load(ctx, d.KV)
	if err != nil {
		return failed(changed, err)
	}
	if err := d.patchAny(ctx, c, k, back); err != nil {
		return failed(changed, err)
	}
	since, err := d.now(ctx, n)
	if err == nil {
		bounded, cancel := context.WithTimeout(ctx, 3*time.Minute)
		defer cancel()
		err = d.waitMember(bounded, n, since, nil)
	}
	if err != nil {
		return failed("the configuration, as it was before; the other members, running; this replica does not run yet.", err)
	}
	if len(rest) == 0 {
		err = d.KV.Delete(ctx, c.parametersJournal())
	} else {
		err = putJSON(ctx, d.KV, c.parametersJournal(), rest)
	}
	return failed("the configuration, as it was before, and all members running with it.", err)
}
