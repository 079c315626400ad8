package patroni

import (
	"context"
	"fmt"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/roll"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// Of how it comes to etcd, Patroni reads its user and password again when it is
// reloaded, and nothing else (Patroni, dcs/etcd.py, reload_config, 3.0 to 4.1). To come
// with https it has to be started again. A Patroni that ends leaves PostgreSQL running
// while the cluster is paused (ha.py, shutdown), takes it over again when it starts, and
// nobody else takes the leader's lock meanwhile.

// pausedKey is where it is noted that the cluster is paused for a restart of Patroni
// alone, and for whose.
func (c Cluster) pausedKey() string { return c.own("paused") }

// restartAlone starts a node's Patroni again, without PostgreSQL. Only one node of a
// cluster at a time does that. Where Patroni does not come back, the cluster stays
// paused: without a pause another node would take over while this one's PostgreSQL
// runs on.
func (d *Doer) restartAlone(n Node) engine.Step {
	return d.step(n, "patroni.process", "restart Patroni alone, so that it comes to etcd with https; PostgreSQL runs on, and the cluster "+n.Cluster.Scope+" is paused for that moment", engine.Reload, func(ctx context.Context) error {
		l, err := d.KV.Lock(ctx, n.Cluster.lockKey(), roll.Hold("restarting Patroni on "+n.Name, d.Runner), clusterLockTTL)
		if err != nil {
			return err
		}
		defer l.Release(ctx)
		paused, err := d.pause(ctx, n)
		if err != nil {
			return err
		}
		if err := d.startAgain(ctx, n); err != nil {
			return problem.Fill(err, problem.Error{
				Host: n.Target.Name, Step: "restart Patroni alone", Left: "PostgreSQL, running; the cluster, paused, so that nobody takes over.",
				Do: "see why Patroni does not start (journalctl -u patroni), mend that, then apply again: the cluster goes on then.",
			})
		}
		if !paused {
			return nil
		}
		return d.goOn(ctx, n.Cluster)
	})
}

// startAgain restarts Patroni's process and waits until the new one is at work: with a
// lease of its own, as a member that runs.
func (d *Doer) startAgain(ctx context.Context, n Node) error {
	was, err := d.status(ctx, n)
	if err != nil {
		return err
	}
	before, _, err := d.KV.Get(ctx, n.Cluster.memberKey(n.Name))
	if err != nil {
		return err
	}
	since, err := d.now(ctx, n)
	if err != nil {
		return err
	}
	if err := remote.RestartUnit(ctx, d.host(n), Unit, stopTimeout); err != nil {
		return err
	}
	if err := d.waitMember(ctx, n, since, nil); err != nil {
		return err
	}
	polls := 0
	err = wait.Until(ctx, d.Log, "Patroni on "+n.Name+" to be at work again", 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		if polls++; polls%12 == 0 {
			if err := d.stuck(ctx, n, since); err != nil {
				return false, "", wait.Never(err)
			}
		}
		own, found, err := d.KV.Get(ctx, n.Cluster.memberKey(n.Name))
		if err != nil || !found || own.Lease == before.Lease {
			return false, "it has not told the others of itself", err
		}
		lead, found, err := d.KV.Get(ctx, n.Cluster.leaderKey())
		if err == nil && found && lead.Value == n.Name && lead.Lease != own.Lease {
			return false, "it leads, and has not renewed the lock", nil
		}
		return err == nil, "", err
	})
	if err != nil {
		return err
	}
	if st, err := d.status(ctx, n); err == nil && st.PostmasterStart != was.PostmasterStart {
		d.Log.WarnContext(ctx, "PostgreSQL has been started anew, which restarting Patroni alone does not do by itself", "node", n.Name, "before", was.PostmasterStart, "now", st.PostmasterStart)
	}
	return nil
}

// pause has the cluster pause, and waits until all members do. It reports false if
// somebody else has paused it: then it is not for us to end that.
func (d *Doer) pause(ctx context.Context, n Node) (ours bool, err error) {
	k, err := n.Cluster.Load(ctx, d.KV)
	if err != nil {
		return false, err
	}
	if k.Leader == "" {
		return false, &problem.Error{
			Host: n.Target.Name, Step: "pause the cluster", Cause: fmt.Errorf("the cluster %s has no leader", n.Cluster.Scope),
			Left: "Patroni, running as it was.", Do: "bring a leader back first (patronictl list), then apply again.",
		}
	}
	ours = k.PausedFor != "" || !k.paused()
	if ours {
		if err := d.KV.Put(ctx, n.Cluster.pausedKey(), "restarting Patroni on "+n.Name); err != nil {
			return ours, err
		}
		if err := d.setPause(ctx, n.Cluster, true); err != nil {
			return ours, err
		}
	}
	return ours, d.waitPause(ctx, n.Cluster, true)
}

// goOn ends a pause of ours.
func (d *Doer) goOn(ctx context.Context, c Cluster) error {
	if err := d.setPause(ctx, c, false); err != nil {
		return err
	}
	if err := d.waitPause(ctx, c, false); err != nil {
		return err
	}
	return d.KV.Delete(ctx, c.pausedKey())
}

// paused reports whether the configuration says so.
func (k Known) paused() bool { return k.Config["pause"] == true }

// setPause writes it, unless it is there. Patroni's nodes are told by etcd.
func (d *Doer) setPause(ctx context.Context, c Cluster, pause bool) error {
	for {
		k, err := c.Load(ctx, d.KV)
		if err != nil {
			return err
		}
		if k.ConfigRevision == 0 {
			return fmt.Errorf("etcd has no configuration of the cluster %s", c.Scope)
		}
		if k.paused() == pause {
			return nil
		}
		patch := Document{"pause": nil}
		if pause {
			patch["pause"] = true
		}
		if swapped, err := d.KV.Swap(ctx, c.configKey(), string(merge(k.Config, patch).JSON()), k.ConfigRevision); err != nil || swapped {
			return err
		}
	}
}

// waitPause waits until all members say that they have heard of it.
func (d *Doer) waitPause(ctx context.Context, c Cluster, pause bool) error {
	ttl, loop := d.Known.Timing()
	patience := time.Duration(ttl+2*loop)*time.Second + 15*time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("they did not within %s", patience))
	defer cancel()
	what := "all members of " + c.Scope + " to pause"
	if !pause {
		what = "all members of " + c.Scope + " to go on"
	}
	return wait.Until(ctx, d.Log, what, 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		k, err := c.Load(ctx, d.KV)
		if err != nil {
			return false, "", err
		}
		for _, name := range sortedKeys(k.Members) {
			if k.Members[name].Pause != pause {
				return false, name + " has not heard of it", nil
			}
		}
		return true, "", nil
	})
}

// endPause ends a pause of ours that a run has left which was cut off.
func (d *Doer) endPause(ctx context.Context, c Cluster) error {
	if d.Known.PausedFor == "" {
		return nil
	}
	d.Log.InfoContext(ctx, "having Patroni go on, which was paused", "cluster", c.Scope, "for", d.Known.PausedFor)
	return d.goOn(ctx, c)
}
