package patroni

import (
	"context"
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

// restartAlone starts a node's Patroni again, without PostgreSQL. Only one node of a
// cluster at a time does that. Where Patroni does not come back, the cluster stays
// paused: without a pause another node would take over while this one's PostgreSQL
// runs on.
func (d *Doer) restartAlone(n Node) engine.Step {
	return d.step(n, "patroni.process", "restart Patroni alone, so that it comes to etcd with https; PostgreSQL runs on, and the cluster "+n.Cluster.Name()+" is paused for that moment", engine.Reload, func(ctx context.Context) error {
		if !d.locked {
			l, err := d.KV.Lock(ctx, n.Cluster.lockKey(), roll.Hold("restarting Patroni on "+n.Name, d.Runner), clusterLockTTL)
			if err != nil {
				return err
			}
			defer l.Release(ctx)
		}
		if err := d.beginPause(ctx, n); err != nil {
			return err
		}
		if err := d.startAgain(ctx, n, func(ctx context.Context) error { return remote.RestartUnit(ctx, d.host(n), Unit, stopTimeout) }); err != nil {
			return problem.Fill(err, problem.Error{
				Host: n.Target.Name, Step: "restart Patroni alone", Left: "PostgreSQL, running; the cluster, paused, so that nobody takes over.",
				Do: "see why Patroni does not start (journalctl -u patroni), mend that, then apply again: the cluster goes on then.",
			})
		}
		return d.endPause(ctx, n.Cluster)
	})
}

// startAgain has Patroni's process restarted and waits until the new one is at work: with a
// lease of its own, as a member that runs.
func (d *Doer) startAgain(ctx context.Context, n Node, restart func(context.Context) error) error {
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
	if err := restart(ctx); err != nil {
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
