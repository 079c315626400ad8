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
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// fitness is whether a node can be taken out of service.
type fitness struct {
	// waits says what may pass by itself.
	waits string
	// never says what will not.
	never error
}

// fit looks whether all others are well, so that the cluster can do without the node
// for a moment. It is pure.
func (k Known) fit(n Node, view ClusterView, t turn) fitness {
	r := k.rollout()
	if view.Pause {
		return fitness{never: &problem.Error{
			Cause: fmt.Errorf("the cluster %s is paused: nobody would take over, and Patroni would leave PostgreSQL as it is", n.Cluster.Name()),
			Left:  "the node, running as it was.", Do: "find out who has paused it and why; when they are done, resume it (patronictl -c " + ConfigPath + " resume) and apply again.",
		}}
	}
	leader, ok := view.Leader()
	switch {
	case !ok:
		return fitness{waits: "the cluster has no leader"}
	case !leader.Serves() && leader.Name != n.Name:
		return fitness{waits: fmt.Sprintf("PostgreSQL on %s, which leads, is %s", leader.Name, leader.State)}
	}
	for _, name := range sortedKeys(k.Nodes) {
		if _, listed := view.Member(name); !listed && name != n.Name {
			return fitness{waits: name + " is down: its Patroni does not announce itself"}
		}
	}
	candidates, sync := 0, 0
	for _, m := range view.Members {
		if m.Synchronous() {
			sync++
		}
		if m.Name == n.Name || m.Leader() {
			continue
		}
		if why := unwell(m, leader, r); why != "" {
			return fitness{waits: why}
		}
		if allowedToLead(m.Tags) {
			candidates++
		}
	}
	// Where PostgreSQL goes on running on the only node, nobody misses it.
	if candidates == 0 && !r.AllowDowntime && (t.postgres || len(view.Members) > 1) {
		return fitness{never: &problem.Error{
			Cause: fmt.Errorf("while %s is restarted no other replica of %s could take over", n.Name, n.Cluster.Name()),
			Left:  "the node, running as it was.", Do: "add a node, or allow it: rollout = { allow_downtime = true } in the pgha_patroni_cluster.",
		}}
	}
	if k.synchronous() && sync == 0 && eligible(view) > 0 {
		return fitness{waits: "there is no synchronous replica"}
	}
	return fitness{}
}

// allCounted is a view in which all who are to be counted for the quorum are: Patroni
// counts one that has been restarted in its next loop.
func (k Known) allCounted(view ClusterView) ClusterView {
	if strings.ToLower(Text(k.Config["synchronous_mode"])) != "quorum" {
		return view
	}
	view.Members = slices.Clone(view.Members)
	for i, m := range view.Members {
		if no, _ := Bool(m.Tags["nosync"]); m.Role == "replica" && !no {
			view.Members[i].Role = "quorum_standby"
		}
	}
	return view
}

// unwell says why a member is not as well as it has to be.
func unwell(m, leader ClusterMember, r Rollout) string {
	if !m.Healthy() {
		return fmt.Sprintf("%s is %s", m.Name, m.State)
	}
	if m.Timeline != 0 && leader.Timeline != 0 && m.Timeline != leader.Timeline {
		return fmt.Sprintf("%s is on timeline %d, and the leader on %d", m.Name, m.Timeline, leader.Timeline)
	}
	switch lag, known := m.LagBytes(); {
	case !known:
		return fmt.Sprintf("nobody knows how far %s is behind", m.Name)
	case lag > r.MaxLag:
		return fmt.Sprintf("%s is %d MiB behind, and rollout.max_lag is %d MiB", m.Name, lag>>20, r.MaxLag>>20)
	}
	return ""
}

// synchronous reports whether commits wait for replicas.
func (k Known) synchronous() bool {
	mode := k.Config["synchronous_mode"]
	if mode == nil || k.Standby() != nil { // Patroni ignores it in a standby cluster
		return false
	}
	on, known := Bool(mode)
	return !known || on // "quorum"
}

// eligible is how many replicas may be synchronous.
func eligible(view ClusterView) int {
	n := 0
	for _, m := range view.Members {
		if no, _ := Bool(m.Tags["nosync"]); !m.Leader() && !no {
			n++
		}
	}
	return n
}

// gate waits until the cluster can do without the node.
func (d *Doer) gate(n Node, t turn) engine.Step {
	return d.step(n, "patroni.gate", "wait until all other members are well", engine.Safe, func(ctx context.Context) error {
		return d.waitFit(ctx, n, t)
	})
}

func (d *Doer) waitFit(ctx context.Context, n Node, t turn) error {
	r := d.Known.rollout()
	bounded, cancel := context.WithTimeout(ctx, r.Patience)
	defer cancel()
	err := wait.Until(bounded, d.Log, "all other members to be well, before the turn of "+n.Name, 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		view, err := d.viewOf(ctx, n)
		if err == nil {
			view, err = d.asked(ctx, n.Cluster, view, n.Name)
		}
		if err != nil {
			return false, "", err
		}
		if err := d.strict(n, view); err != nil {
			return false, "", wait.Never(err)
		}
		f := d.Known.fit(n, view, t)
		if f.never != nil {
			return false, "", wait.Never(f.never)
		}
		return f.waits == "", f.waits, nil
	})
	var known *problem.Error
	if err == nil || errors.As(err, &known) || ctx.Err() != nil {
		return err
	}
	return &problem.Error{
		Cause: fmt.Errorf("%s is not restarted for %s: %w", n.Name, t, err), Left: "the node, running as it was.",
		Do: "see to what is named above (patronictl -c " + ConfigPath + " list), then apply again. How long to wait for it is rollout.patience of the pgha_patroni_cluster.",
	}
}

// asked is a view, corrected by what the members say themselves: etcd shows one that has
// lost its power as well for as long as its key lives (ttl). One of them may be left out.
func (d *Doer) asked(ctx context.Context, c Cluster, view ClusterView, but string) (ClusterView, error) {
	nodes := map[string]Node{}
	for _, name := range without(sortedKeys(d.Known.Nodes), but) {
		n, err := d.Known.noted(c, name)
		if err != nil {
			return view, err
		}
		nodes[name] = n
	}
	statuses, errs := d.statuses(ctx, nodes)
	view.Members = slices.Clone(view.Members)
	for i, m := range view.Members {
		st, answers := statuses[m.Name]
		switch ok, _ := Running(st); {
		case errs[m.Name] != nil:
			view.Members[i].State = "not answering: " + errs[m.Name].Error()
		case answers && !ok && m.Healthy():
			view.Members[i].State = "not streaming"
			if st.State != "running" {
				view.Members[i].State = st.State
			}
		}
	}
	return view, nil
}

// viewOf asks the node, and if it does not answer any other one, who is in the cluster.
func (d *Doer) viewOf(ctx context.Context, n Node) (ClusterView, error) {
	var errs []error
	for _, name := range append([]string{n.Name}, without(sortedKeys(d.Known.Nodes), n.Name)...) {
		at := n
		if name != n.Name {
			at = Node{Cluster: n.Cluster, Name: name, Target: d.Known.Nodes[name].Target}
		}
		a, err := d.api(ctx, at)
		if err == nil {
			var view ClusterView
			if view, err = a.Cluster(ctx); err == nil {
				return view, nil
			}
		}
		errs = append(errs, err)
	}
	return ClusterView{}, errors.Join(errs...)
}

// rank says in which order nodes have their turns: those that are not well, whom
// nobody misses, asynchronous replicas, synchronous ones, the leader. Of replicas,
// those from which others replicate come later.
func (d *Doer) rank(ctx context.Context, n Node) int {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	view, err := d.viewOf(ctx, n)
	if err != nil {
		return 0
	}
	return rankIn(n.Name, view)
}

func rankIn(name string, view ClusterView) int {
	m, listed := view.Member(name)
	if !listed || !m.Leader() && !m.Healthy() {
		return 0
	}
	rank := 10
	switch {
	case m.Leader():
		return 40
	case m.Synchronous():
		rank = 20
	}
	for _, other := range view.Members {
		if Text(other.Tags["replicatefrom"]) == name {
			rank += 5
			break
		}
	}
	return rank
}

// target picks who leads next: of those that may, one that runs already what is
// wanted, then as candidate does. Statuses are by name.
func target(n Node, view ClusterView, statuses map[string]NodeStatus, t turn, k Known) string {
	leader, _ := view.Leader()
	rest := func(keep func(ClusterMember) bool) ClusterView {
		v := ClusterView{Members: []ClusterMember{leader}}
		for _, m := range view.Members {
			if !m.Leader() && m.Name != n.Name && unwell(m, leader, k.rollout()) == "" && keep(m) {
				v.Members = append(v.Members, m)
			}
		}
		return v
	}
	fits := func(m ClusterMember) bool {
		// Patroni refuses one that is not synchronous, or not counted for the quorum
		// (ha.py, get_failover_candidates).
		return !k.synchronous() || m.Synchronous()
	}
	upgraded := func(m ClusterMember) bool {
		st, asked := statuses[m.Name]
		return asked && t.isIn(st)
	}
	if name, _ := candidate(rest(func(m ClusterMember) bool { return fits(m) && upgraded(m) })); name != "" {
		return name
	}
	name, _ := candidate(rest(fits))
	return name
}
