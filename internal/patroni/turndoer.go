package patroni

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

func (d *Doer) stage(n Node, t turn) engine.Step {
	return d.step(n, "patroni.stage", "fetch "+named(t.pins), engine.Safe, func(ctx context.Context) error {
		return remote.Apt{Host: d.host(n), Log: d.Log}.Download(ctx, t.pins...)
	})
}

// stepDown has another member lead before the node's turn.
func (d *Doer) stepDown(n Node, t turn) engine.Step {
	title := "switch over to a replica, one that was upgraded if there is one"
	if d.Known.rollout().Manual {
		title = "wait for somebody to switch over (rollout.switchover is manual)"
	}
	return d.step(n, "patroni.switchover", title, engine.Switchover, func(ctx context.Context) error {
		return d.giveUpLead(ctx, n, t)
	})
}

// errManual: the leader's turn waits for a person. It says nothing against the others'.
var errManual = errors.New(`rollout.switchover is "manual"`)

// errNotMoved: Patroni has looked into a switchover, and left the leader's role where it was.
var errNotMoved = errors.New("Patroni has not switched over")

// giveUpLead moves the leader's role if the node has it. A switchover that Patroni has
// thought better of, because who was to lead was not well at that moment, is asked for
// again, perhaps with somebody else.
func (d *Doer) giveUpLead(ctx context.Context, n Node, t turn) error {
	for tries := 1; ; tries++ {
		view, err := d.viewOf(ctx, n)
		if err != nil {
			return err
		}
		if leader, ok := view.Leader(); !ok || leader.Name != n.Name {
			return nil
		}
		r := d.Known.rollout()
		if r.Manual {
			return &problem.Error{
				Cause: fmt.Errorf("%s leads, and %w of the cluster %s", n.Name, errManual, n.Cluster.Name()),
				Left:  fmt.Sprintf("%s, leading as it was; it still needs: %s.", n.Name, t),
				Do:    "when it suits: set rollout = { switchover = \"auto\" } in the pgha_patroni_cluster, or switch over by hand (patronictl -c " + ConfigPath + " switchover), and apply again.",
			}
		}
		to, leads, err := d.successor(ctx, n, t)
		switch {
		case err != nil || !leads:
			return err
		case to != "":
			if err = d.moveLead(ctx, n, to); !errors.Is(err, errNotMoved) || tries == 3 {
				return err
			}
			d.Log.WarnContext(ctx, "asking for the switchover again", "node", n.Name, "because", err.Error())
			continue
		case r.AllowDowntime:
			d.Log.WarnContext(ctx, "nobody can take over; the leader is restarted where it is, as rollout.allow_downtime says", "node", n.Name)
			return nil
		}
		return &problem.Error{
			Cause: fmt.Errorf("%s leads, and no other member can take over", n.Name), Left: "the leader, as it was.",
			Do: "make another member fit (patronictl -c " + ConfigPath + " list shows what is wrong), or allow a restart of the leader: rollout = { allow_downtime = true }; then apply again.",
		}
	}
}

// successor says who is to lead next, and waits for the one who should, if Patroni does
// not count it for the quorum yet: one that was upgraded, which spares the cluster
// another switchover. It waits for no longer than Patroni takes to do so.
func (d *Doer) successor(ctx context.Context, n Node, t turn) (to string, leads bool, err error) {
	nodes := map[string]Node{}
	for _, name := range without(sortedKeys(d.Known.Nodes), n.Name) {
		nodes[name] = Node{Cluster: n.Cluster, Name: name, Target: d.Known.Nodes[name].Target}
	}
	_, loop := d.Known.Timing()
	bounded, cancel := context.WithTimeout(ctx, time.Duration(2*loop)*time.Second+5*time.Second)
	defer cancel()
	err = wait.Until(bounded, d.Log, "who is to lead after "+n.Name+" to be counted for the quorum", 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		view, err := d.viewOf(ctx, n)
		if err != nil {
			return false, "", err
		}
		leader, _ := view.Leader()
		if leads = leader.Name == n.Name; !leads {
			return true, "", nil
		}
		statuses, _ := d.statuses(ctx, nodes)
		best := target(n, d.Known.allCounted(view), statuses, t, d.Known)
		to = target(n, view, statuses, t, d.Known)
		done := best == to || to != "" && (t.isIn(statuses[to]) || !t.isIn(statuses[best]))
		return done, best + " is not counted", nil
	})
	if ctx.Err() == nil && leads {
		err = nil // it is as good as it gets
	}
	return to, leads, err
}

// moveLead asks for a switchover, and returns as soon as somebody else leads: Patroni
// itself answers only when the former leader is back. It is the candidate who is asked,
// since the other one is about to be stopped; or that one, where nobody here manages the
// candidate. The request is sent once; whatever its answer, the cluster is asked what
// happened.
func (d *Doer) moveLead(ctx context.Context, n Node, candidate string) error {
	at := n
	if record, managed := d.Known.Nodes[candidate]; managed {
		at = Node{Cluster: n.Cluster, Name: candidate, Target: record.Target}
	}
	a, err := d.api(ctx, at)
	if err != nil {
		return err
	}
	_, loop := d.Known.Timing()
	d.Log.InfoContext(ctx, "switching over", "from", n.Name, "to", candidate)
	asking, stop := context.WithCancel(ctx)
	defer stop()
	answer := make(chan error, 1)
	go func() { answer <- a.Switchover(asking, n.Name, candidate, time.Duration(loop)*time.Second) }()
	var said error
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = wait.Until(bounded, d.Log, "another member than "+n.Name+" to lead", 200*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		select {
		case said = <-answer:
			var refused *StatusError
			leads, err := d.leadsNow(ctx, n)
			switch answered := errors.As(said, &refused); {
			case answered && refused.Code == http.StatusPreconditionFailed && (err != nil || leads):
				return false, "", wait.Never(&problem.Error{
					Cause: fmt.Errorf("Patroni refuses to switch over from %s to %s: %s", n.Name, candidate, refused.Text),
					Left:  "the leader, as it was.", Do: "make the candidate fit, then apply again.",
				})
			case answered && refused.Code == http.StatusServiceUnavailable && refused.Text == notMoved && err == nil && leads:
				return false, "", wait.Never(&problem.Error{
					Cause: fmt.Errorf("%w from %s to %s; its log on %s says why", errNotMoved, n.Name, candidate, n.Name),
					Left:  "the leader, as it was.", Do: "make another member fit, then apply again.",
				})
			}
		default:
		}
		kv, led, err := d.KV.Get(ctx, n.Cluster.leaderKey())
		switch {
		case err != nil:
			return false, "", err
		case !led:
			return false, "there is no leader", nil
		case kv.Value == n.Name:
			return false, n.Name + " still leads", nil
		}
		done, err := d.promoted(ctx, n.Cluster, kv.Value, a)
		return done, kv.Value + " is being promoted", err
	})
	if err != nil {
		return errors.Join(err, said)
	}
	return nil
}

// notMoved is Patroni's answer when the request is gone and the leader is who it was
// (api.py, poll_failover_result).
const notMoved = "Switchover failed"

// promoted reports whether a member that has the leader's lock takes writes: it is
// asked itself, or where nobody here manages it, another one about it.
func (d *Doer) promoted(ctx context.Context, c Cluster, name string, other *API) (bool, error) {
	if record, managed := d.Known.Nodes[name]; managed {
		st, err := d.status(ctx, Node{Cluster: c, Name: name, Target: record.Target})
		return err == nil && st.Leads() && st.State == "running", err
	}
	view, err := other.Cluster(ctx)
	leader, _ := view.Leader()
	return err == nil && leader.Name == name && leader.Serves(), err
}

// again installs what the turn is for, and starts what is due. Never a leader's: if the
// node has come to lead since, it hands over first. Patroni does not run meanwhile: one
// that goes on with files of another version may hang when it next starts PostgreSQL,
// for which it starts itself anew (multiprocessing.spawn).
func (d *Doer) again(n Node, t turn) engine.Step {
	title := t.installs() + "restart Patroni and PostgreSQL (" + t.String() + ")"
	if !t.postgres {
		title = t.installs() + "restart Patroni, while PostgreSQL goes on running (" + t.String() + ")"
	}
	return d.step(n, "patroni.restart", title, engine.Restart, func(ctx context.Context) error {
		// Somebody else may be down by now.
		if err := d.waitFit(ctx, n, t); err != nil {
			return err
		}
		leads, err := d.leadsNow(ctx, n)
		if err != nil {
			return err
		}
		if leads {
			if err := d.giveUpLead(ctx, n, t); err != nil {
				return err
			}
			if leads, err = d.leadsNow(ctx, n); err != nil {
				return err
			}
		}
		how := remote.Kill
		if t.postgres || leads {
			how = remote.Stop
		}
		return d.exchange(ctx, n, t, how)
	})
}

func (d *Doer) exchange(ctx context.Context, n Node, t turn, how string) error {
	return remote.Apt{Host: d.host(n), Log: d.Log}.Exchange(ctx, Unit, how, t.pins...)
}

// installs says what is installed, for a title.
func (t turn) installs() string {
	if len(t.pins) == 0 {
		return ""
	}
	return "install " + named(t.pins) + " and "
}

// leadsNow reports whether the node holds the leader's lock.
func (d *Doer) leadsNow(ctx context.Context, n Node) (bool, error) {
	kv, led, err := d.KV.Get(ctx, n.Cluster.leaderKey())
	return led && kv.Value == n.Name, err
}

// isIn reports whether a node runs what the turn is for.
func (t turn) isIn(st NodeStatus) bool {
	if len(t.settings) > 0 {
		return !st.PendingRestart
	}
	return sameVersion(postgres.ServerVersion(st.ServerVersion), t.wantPostgres) && sameVersion(st.Patroni.Version, t.wantPatroni)
}

// pendingReason renders what a node waits for a restart for.
func pendingReason(st NodeStatus) string {
	var list []string
	for _, name := range sortedKeys(st.PendingReason) {
		change, _ := st.PendingReason[name].(map[string]any)
		list = append(list, fmt.Sprintf("%s: %s -> %s", name, Text(change["old_value"]), Text(change["new_value"])))
	}
	return strings.Join(list, ", ")
}

// verifyTurn waits until the node runs in the wanted versions, follows, and has done
// so for the time of soak.
func (d *Doer) verifyTurn(n Node, t turn) engine.Step {
	r := d.Known.rollout()
	title := "wait until it runs as wanted and follows"
	if r.Soak > 0 {
		title += ", and has done so for " + r.Soak.String()
	}
	return d.step(n, "patroni.verify", title, engine.Safe, func(ctx context.Context) error {
		since, err := d.now(ctx, n)
		if err != nil {
			return err
		}
		if err := d.waitMember(ctx, n, since, nil); err != nil {
			return err
		}
		st, err := d.status(ctx, n)
		if err != nil {
			return err
		}
		if !t.isIn(st) && len(t.settings) > 0 {
			return &problem.Error{
				Cause: fmt.Errorf("it was restarted, and still waits for a restart: %s", pendingReason(st)), Left: "the node, running.",
				Do: "a replica cannot have some parameters lower than its leader, and what was set by ALTER SYSTEM counts over the configuration; see what is named, then apply again.",
			}
		}
		if !t.isIn(st) {
			return &problem.Error{
				Cause: fmt.Errorf("PostgreSQL %s and Patroni %s run, and %s and %s are wanted", postgres.ServerVersion(st.ServerVersion), st.Patroni.Version, t.wantPostgres, t.wantPatroni),
				Left:  "the node, running.", Do: "see on the host what was started (systemctl status " + Unit + "), then apply again.",
			}
		}
		bounded, cancel := context.WithTimeout(ctx, r.Patience+r.Soak)
		defer cancel()
		var well time.Time
		good := 0
		err = wait.Until(bounded, d.Log, "node "+n.Name+" to follow as it should", 250*time.Millisecond, func(ctx context.Context) (bool, string, error) {
			why, err := d.settledIn(ctx, n)
			if err != nil || why != "" {
				if good > 0 && r.Soak > 0 && err == nil && time.Since(well) > 0 {
					return false, "", wait.Never(fmt.Errorf("%s was well for %s, and then: %s", n.Name, time.Since(well).Round(time.Second), why))
				}
				good = 0
				return false, why, err
			}
			if good++; good == 1 {
				well = time.Now()
			}
			return good >= 3 && time.Since(well) >= r.Soak, "well for " + time.Since(well).Round(time.Second).String(), nil
		})
		var known *problem.Error
		switch {
		case err == nil && d.Arrived != nil:
			return d.Arrived(ctx, n.Cluster)
		case err == nil || errors.As(err, &known):
			return err
		}
		lines, _ := remote.Journal(context.WithoutCancel(ctx), d.host(n), Unit, 100, since.journal)
		return &problem.Error{
			Cause: err, Log: telling(lines), Left: "the node, running, and all others as they were.",
			Do: "see what it logs. Go back to the versions from before, or mend it, and apply again.",
		}
	})
}

// settledIn says why the node is not yet where it should be after its turn.
func (d *Doer) settledIn(ctx context.Context, n Node) (string, error) {
	view, err := d.viewOf(ctx, n)
	if err != nil {
		return "", err
	}
	leader, ok := view.Leader()
	m, listed := view.Member(n.Name)
	switch {
	case !ok:
		return "the cluster has no leader", nil
	case !listed:
		return n.Name + " does not announce itself yet", nil
	}
	if m.Name != leader.Name {
		if why := unwell(m, leader, d.Known.rollout()); why != "" {
			return why, nil
		}
	}
	if d.Known.synchronous() && eligible(view) > 0 {
		for _, m := range view.Members {
			if m.Synchronous() {
				return "", nil
			}
		}
		return "there is no synchronous replica", nil
	}
	return "", nil
}
