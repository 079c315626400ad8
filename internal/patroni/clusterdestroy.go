package patroni

import (
	"context"
	"fmt"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// DestroyCluster removes the cluster from etcd, or with keep only notes that it
// was released: its configuration and passwords stay, so that nodes whose data
// was kept can be taken up again.
func (m *Manager) DestroyCluster(ctx context.Context, c Cluster, purge bool) error {
	do, err := m.open(ctx, c)
	if err != nil {
		// What is left of a cluster that was only released cannot be purged
		// without etcd.
		if gone := m.gone(ctx, c); gone == wasPurged || gone == wasReleased && !purge {
			return nil
		}
		return err
	}
	if do.Known.Record == nil {
		return nil
	}
	ctx, together, err := m.together(ctx, do, c)
	if err != nil {
		return err
	}
	defer together()
	ctx, unlock, err := m.lockCluster(ctx, do, c, "removing the cluster "+c.Name())
	if err != nil {
		return err
	}
	defer unlock()
	if do.Known, err = c.Load(ctx, do.KV); err != nil {
		return err
	}
	if do.Known.Leader != "" {
		return &problem.Error{
			Step:  "make sure that no node runs",
			Cause: fmt.Errorf("%s is the leader of the cluster %s", do.Known.Leader, c.Name()),
			Left:  "the cluster.", Do: "destroy its nodes first, or stop their Patroni.",
		}
	}
	last := true // to have what the groups of a formation share
	if c.Citus != nil {
		others, err := c.formation(ctx, do.KV)
		if err != nil {
			return err
		}
		for _, g := range others {
			last = last && g.Record == nil
		}
	}
	var plan engine.Plan
	if purge {
		plan = plan.Then(engine.Step{ID: "cluster.purge", Title: "delete the cluster's keys in etcd", Risk: engine.Destructive, Do: func(ctx context.Context) error {
			if err := do.KV.DeletePrefix(ctx, c.Prefix()); err != nil {
				return err
			}
			if last && (c.Etcd.Auth || do.Known.Record.EtcdUser) {
				for _, user := range []string{c.etcdUser(), Secrets{}.otherEtcdUser(c)} {
					if err := do.KV.DropUser(ctx, user); err != nil {
						return err
					}
				}
			}
			return nil
		}})
		if last {
			plan = plan.Then(engine.Step{ID: "cluster.purge.authority", Title: "delete the cluster's certificate authority", Risk: engine.Destructive, Do: func(ctx context.Context) error {
				for _, h := range c.holders(m.Fleet) {
					if err := remote.PurgeTree(ctx, h, c.authority().Path()); err != nil {
						return err
					}
					if err := remote.RemoveEmptyDirs(ctx, h, pki.Dir, "/etc/pgha"); err != nil {
						return err
					}
				}
				return nil
			}})
		}
		plan = plan.Then(engine.Step{ID: "cluster.forget", Title: "delete our notes about the cluster", Risk: engine.Destructive, Do: func(ctx context.Context) error {
			if last {
				if err := do.KV.DeletePrefix(ctx, c.shared("")); err != nil {
					return err
				}
			}
			return do.KV.DeletePrefix(ctx, c.own(""))
		}})
	} else {
		plan = plan.Then(engine.Step{ID: "cluster.release", Title: "note that the cluster was released", Risk: engine.Safe, Do: func(ctx context.Context) error {
			r := *do.Known.Record
			r.Released = true
			return putJSON(ctx, do.KV, c.recordKey(), r)
		}})
		if !c.Adopted() {
			plan = plan.Then(engine.Step{ID: "cluster.release.note", Title: "note that on the hosts of etcd", Risk: engine.Safe, Do: func(ctx context.Context) error {
				return do.noteRelease(ctx, c)
			}})
		}
	}
	return engine.Run(ctx, plan, m.Observe)
}
