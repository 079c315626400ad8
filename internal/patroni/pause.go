package patroni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// The leader's Patroni is restarted, while PostgreSQL goes on running, in a pause of the
// cluster: did it take longer to come back than its lock lasts, or not come back at all,
// another member would be promoted beside a primary that nobody stops. A pause that is
// forgotten is none the better: it is noted in etcd, with what was there before, and
// ended by whoever comes next, as soon as the leader's Patroni runs.

// pauseJournal is where it is noted.
func (c Cluster) pauseJournal() string { return c.own("journal/pause") }

// ourPause is what is noted of a pause.
type ourPause struct {
	Node   string `json:"node"`   // for whose restart
	Before any    `json:"before"` // what the configuration had
}

func (d *Doer) pause(n Node) engine.Step {
	return d.step(n, "patroni.pause", "pause the cluster for the restart of the leader's Patroni: nobody takes over meanwhile", engine.Reload, func(ctx context.Context) error {
		return d.beginPause(ctx, n)
	})
}

// beginPause has the cluster pause for a node's restart, and waits until all members
// have heard of it. One that somebody else has paused stays so afterwards.
func (d *Doer) beginPause(ctx context.Context, n Node) error {
	c := n.Cluster
	a, err := d.api(ctx, n)
	if err != nil {
		return err
	}
	if k, err := c.Load(ctx, d.KV); err != nil {
		return err
	} else if k.Leader == "" {
		return &problem.Error{
			Host: n.Target.Name, Step: "pause the cluster", Cause: fmt.Errorf("the cluster %s has no leader", c.Name()),
			Left: "Patroni, running as it was.", Do: "bring a leader back first (patronictl list), then apply again.",
		}
	}
	live, err := a.Config(ctx)
	if err != nil {
		return err
	}
	text, err := jsonText(ourPause{Node: n.Name, Before: live["pause"]})
	if err != nil {
		return err
	}
	if _, err := d.KV.Create(ctx, c.pauseJournal(), text); err != nil {
		return err
	}
	if on, _ := Bool(live["pause"]); !on {
		if err := a.PatchConfig(ctx, Document{"pause": true}); err != nil {
			return err
		}
	}
	ttl, loop := d.Known.Timing()
	bounded, cancel := context.WithTimeout(ctx, time.Duration(ttl+2*loop)*time.Second+15*time.Second)
	defer cancel()
	return wait.Until(bounded, d.Log, "all members to see that the cluster is paused", 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		st, err := a.Status(ctx)
		if err != nil || !st.Pause {
			return false, n.Name + " does not see it yet", err
		}
		k, err := c.Load(ctx, d.KV)
		if err != nil {
			return false, "", err
		}
		for _, name := range sortedKeys(k.Members) {
			if m := k.Members[name]; !m.Pause {
				return false, name + " does not see it yet", nil
			}
		}
		return true, "", nil
	})
}

// againPaused restarts the leader's Patroni in a pause, in which it leaves PostgreSQL
// running. If somebody else leads by now, it is a replica's.
func (d *Doer) againPaused(n Node, t turn) engine.Step {
	return d.step(n, "patroni.restart", t.installs()+"restart Patroni, while PostgreSQL goes on running ("+t.String()+")", engine.Restart, func(ctx context.Context) error {
		st, err := d.status(ctx, n)
		if err != nil {
			return err
		}
		if !st.Pause {
			return &problem.Error{
				Cause: fmt.Errorf("somebody has resumed the cluster %s in the middle of this turn: Patroni would stop PostgreSQL", n.Cluster.Name()),
				Left:  "the node, running.", Do: "apply again.",
			}
		}
		return d.startAgain(ctx, n, func(ctx context.Context) error { return d.exchange(ctx, n, t, remote.Stop) })
	})
}

func (d *Doer) resume(n Node) engine.Step {
	return d.step(n, "patroni.resume", "resume the cluster", engine.Reload, func(ctx context.Context) error {
		return d.endPause(ctx, n.Cluster)
	})
}

// endPause ends a pause that is noted, if the leader's Patroni runs. Where it does not,
// the pause is what keeps others from being promoted.
func (d *Doer) endPause(ctx context.Context, c Cluster) error {
	kv, noted, err := d.KV.Get(ctx, c.pauseJournal())
	if err != nil || !noted {
		return err
	}
	var p ourPause
	if err := json.Unmarshal([]byte(kv.Value), &p); err != nil {
		return err
	}
	k, err := c.Load(ctx, d.KV)
	if err != nil {
		return err
	}
	leader := k.Leader
	if leader == "" {
		leader = p.Node
	}
	record, known := k.Nodes[leader]
	if !known {
		return nil
	}
	a, err := d.api(ctx, Node{Cluster: c, Name: leader, Target: record.Target})
	if err != nil {
		return err
	}
	st, err := a.Status(ctx)
	if err != nil || !st.Leads() || k.Leader != leader {
		d.Log.WarnContext(ctx, "the cluster stays paused until its leader's Patroni runs", "leader", leader)
		return nil
	}
	live, err := a.Config(ctx)
	if err != nil {
		return err
	}
	if on, _ := Bool(live["pause"]); on {
		if now, _ := Bool(p.Before); !now {
			if err := a.PatchConfig(ctx, Document{"pause": p.Before}); err != nil {
				return err
			}
		}
	}
	return d.KV.Delete(ctx, c.pauseJournal())
}

// afterFailure ends a pause if that can be done, and says so if it cannot.
func (d *Doer) afterFailure(ctx context.Context, n Node) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if !d.pausedByUs(ctx, n.Cluster) {
		return nil
	}
	err := d.endPause(ctx, n.Cluster)
	if err == nil && !d.pausedByUs(ctx, n.Cluster) {
		return nil
	}
	return &problem.Error{
		Host: n.Target.Name, Step: "resume the cluster",
		Cause: errors.Join(fmt.Errorf("the cluster %s stays paused: while its leader's Patroni does not run, another member would be promoted beside it", n.Cluster.Name()), err),
		Left:  "PostgreSQL, running.", Do: "mend what keeps Patroni on " + n.Target.Name + " from running, then apply again: that resumes the cluster.",
	}
}

// pausedByUs reports whether a pause is one that a run was cut off in.
func (d *Doer) pausedByUs(ctx context.Context, c Cluster) bool {
	_, noted, err := d.KV.Get(ctx, c.pauseJournal())
	return err == nil && noted
}
