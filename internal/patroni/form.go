package patroni

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// form starts a node without data. Whether it makes the database or clones it
// is decided when its turn comes: all nodes of a new cluster are created side
// by side, and exactly one of them may make it. Patroni's own key in etcd is
// what decides; the claim before it keeps the others from starting, which
// would only make them wait in Patroni's longer intervals.
func (d *Doer) form(n Node) engine.Step {
	return d.step(n, "patroni.form", "initialise the database, or clone the leader's", engine.Safe, func(ctx context.Context) error {
		// Getting the files in place while others are at it costs nothing.
		if err := d.putConfig(ctx, n, false); err != nil {
			return err
		}
		claim, err := d.claim(ctx, n)
		if err != nil {
			return err
		}
		if claim == nil {
			return d.clone(ctx, n)
		}
		defer claim.Release(ctx)
		return d.bootstrap(ctx, n)
	})
}

// reform is form for a Patroni that runs already, without data and with another
// configuration. One that never got as far as its REST API, because it cannot use
// etcd with what it was started with, does not read a new configuration, however
// long it is waited for: it is stopped first, which nobody notices.
func (d *Doer) reform(n Node) engine.Step {
	form, reconfigure := d.form(n), d.reconfigure(n)
	return d.step(n, form.ID, form.Title, engine.Safe, func(ctx context.Context) error {
		_, initialising, err := d.KV.Get(ctx, n.Cluster.initializeKey())
		if err != nil {
			return err
		}
		if !initialising {
			_, err = d.status(ctx, n)
		}
		if host.KindOf(err) != host.KindDial { // somebody listens
			return reconfigure.Do(ctx)
		}
		d.Log.InfoContext(ctx, "stopping a Patroni that has no data and does not get any further", "node", n.Name)
		if err := remote.StopUnit(ctx, d.host(n), Unit, time.Minute); err != nil {
			return err
		}
		return form.Do(ctx)
	})
}

// claim waits until the cluster is initialised and a leader runs (it returns
// nil), or until this node may initialise it.
func (d *Doer) claim(ctx context.Context, n Node) (etcd.Lock, error) {
	c := n.Cluster
	mayLead := allowedToLead(n.Tags)
	var claim etcd.Lock
	var leaderless time.Time
	began := time.Now()
	err := wait.Until(ctx, d.Log, "a leader to clone, or the right to initialise the database", 200*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		k, err := c.Load(ctx, d.KV)
		if err != nil {
			return false, "", err
		}
		if err := c.Require(k); err != nil {
			return false, "", wait.Never(err)
		}
		if k.Initialize != "" {
			if k.Leader == "" {
				if leaderless.IsZero() {
					leaderless = time.Now()
				}
				if time.Since(leaderless) > leaderPatience {
					return false, "", wait.Never(&problem.Error{
						Cause: fmt.Errorf("the cluster %s has been initialised (system identifier %s), and nobody has led it for %s", c.Name(), k.Initialize, leaderPatience),
						Left:  "this node, stopped and without data.",
						Do:    "start a node that has the data. Without one there is nothing to clone: restore a backup.",
					})
				}
				return false, "the cluster has no leader", nil
			}
			leaderless = time.Time{}
			leader := k.Members[k.Leader]
			return leader.State == "running", fmt.Sprintf("the leader %s is %s", k.Leader, leader.State), nil
		}
		if k.Initialized {
			return false, "another node is initialising the database", nil
		}
		if k.SystemID != "" {
			return false, "", wait.Never(&problem.Error{
				Cause: fmt.Errorf("the cluster %s has had a database (system identifier %s), and etcd's key that says so (%s) is gone: making a new database could bury the old one", c.Name(), k.SystemID, c.initializeKey()),
				Left:  "this node, stopped and without data.",
				Do:    "start a node that has the data: its Patroni makes the key again. If the database is to be made anew, destroy the pgha_patroni_cluster resource with on_destroy = \"purge\" first.",
			})
		}
		if c.TakeOver.Node != "" {
			return false, "the database of node " + c.TakeOver.Node + " is to be taken over first", takeOverLate(c, k, time.Since(began))
		}
		if !mayLead {
			return false, "this node's tags do not let it lead, so another one has to initialise the database", nil
		}
		if k.ConfigRevision == 0 {
			return false, "", wait.Never(&problem.Error{
				Cause: fmt.Errorf("the dynamic configuration of the cluster is not in etcd (%s)", c.configKey()),
				Do:    "apply the pgha_patroni_cluster resource.",
			})
		}
		l, err := d.KV.TryLock(ctx, c.bootstrapKey(), "node "+n.Name+", "+d.Runner, 30*time.Second)
		var held *etcd.HeldError
		if errors.As(err, &held) {
			return false, "another node is initialising the database: " + held.Holder, nil
		}
		if err != nil {
			return false, "", err
		}
		// Somebody may have finished between the look and the claim.
		if _, exists, err := d.KV.Get(ctx, c.initializeKey()); err != nil || exists {
			l.Release(ctx)
			return false, "", err
		}
		claim = l
		return true, "", nil
	})
	return claim, err
}

// bootstrap makes this node initialise the database. Its file has a bootstrap
// section for just as long as that takes.
func (d *Doer) bootstrap(ctx context.Context, n Node) error {
	h := d.host(n)
	d.Log.InfoContext(ctx, "this node initialises the database", "node", n.Name)
	if err := d.putConfig(ctx, n, true); err != nil {
		return err
	}
	k, err := n.Cluster.Load(ctx, d.KV)
	if err != nil {
		return err
	}
	if standby := k.Standby(); standby != nil {
		if err := d.waitUpstream(ctx, n, standby); err != nil {
			return err
		}
	}
	log, err := d.start(ctx, n)
	if err != nil {
		return err
	}
	if err := d.waitBootstrap(ctx, n, log); err != nil {
		return err
	}
	if err := d.noteSystemID(ctx, n.Cluster); err != nil {
		return err
	}
	if err := d.putConfig(ctx, n, false); err != nil {
		return err
	}
	return remote.ReloadUnit(ctx, h, Unit)
}

// noteSystemID notes the system identifier as soon as Patroni has, and never
// changes it.
func (d *Doer) noteSystemID(ctx context.Context, c Cluster) error {
	v, _, err := d.KV.Get(ctx, c.initializeKey())
	if err != nil || v.Value == "" {
		return err
	}
	_, err = d.KV.Create(ctx, c.systemIDKey(), v.Value)
	return err
}

// waitBootstrap waits until the node is the primary of an initialised cluster.
func (d *Doer) waitBootstrap(ctx context.Context, n Node, since moment) error {
	polls := 0
	return wait.Until(ctx, d.Log, "the database to be initialised", 250*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		if polls++; polls%8 == 0 {
			if err := d.bootstrapFailed(ctx, n, since); err != nil {
				return false, "", wait.Never(err)
			}
		}
		v, _, err := d.KV.Get(ctx, n.Cluster.initializeKey())
		if err != nil {
			return false, "", err
		}
		if v.Value != "" {
			st, err := d.status(ctx, n)
			return err == nil && st.Leads() && st.State == "running", "it is becoming the leader", nil
		}
		return false, "initdb and the first start are under way", nil
	})
}

// wakeLeader has the leader look at its members as soon as a new one has a key
// in etcd. It makes the new one's replication slot then, and not only in its next
// regular loop; without the slot the replica fails to stream, and tries again
// seconds later. Removing a setting that nobody has changes nothing, and ends the
// leader's pause between two loops (Patroni, api.py, do_PATCH_config).
func (d *Doer) wakeLeader(ctx context.Context, n Node) {
	bounded, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var leader NodeRecord
	err := wait.Until(bounded, d.Log, "the new member's key in etcd", 200*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		k, err := n.Cluster.Load(ctx, d.KV)
		if err != nil {
			return false, "", err
		}
		leader = k.Nodes[k.Leader]
		_, there := k.Members[n.Name]
		return there && leader.Name != "", "it is not there yet", nil
	})
	if err == nil {
		var a *API
		if a, err = d.api(ctx, Node{Cluster: n.Cluster, Name: leader.Name, Target: leader.Target}); err == nil {
			err = a.PatchConfig(bounded, wakeUp)
		}
	}
	if err != nil {
		d.Log.DebugContext(ctx, "the leader was not woken; it will look at its members in its next loop", "node", n.Name, "error", err)
	}
}

// clone starts Patroni without data while there is a leader. If the leader goes
// and nobody follows it there is nothing to clone any more, and Patroni would
// wait for ever.
func (d *Doer) clone(ctx context.Context, n Node) error {
	log, err := d.start(ctx, n)
	if err != nil {
		return err
	}
	d.wakeLeader(ctx, n)
	var leaderless time.Time
	return d.waitMember(ctx, n, log, func(ctx context.Context) error {
		v, _, err := d.KV.Get(ctx, n.Cluster.leaderKey())
		switch {
		case err != nil:
			return nil // not for us to judge
		case v.Value != "":
			leaderless = time.Time{}
			return nil
		case leaderless.IsZero():
			leaderless = time.Now()
		}
		if time.Since(leaderless) < leaderPatience {
			return nil
		}
		return &problem.Error{
			Host:  n.Target.Name,
			Cause: fmt.Errorf("there was a leader to clone when this node was started, and nobody has led the cluster %s for %s", n.Cluster.Name(), leaderPatience),
			Left:  "Patroni, running without data: it clones as soon as there is a leader.",
			Do:    "see why the other nodes do not lead (patronictl -c " + ConfigPath + " list, and their logs), mend that, then apply again.",
		}
	})
}
