package etcd

import (
	"context"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// stopTimeout is how long a member may take to stop.
const stopTimeout = 2 * time.Minute

// DestroyPlan is the way to no cluster. It is pure.
func DestroyPlan(s Spec, f Facts, purge bool, do *Doer) engine.Plan {
	var lanes []engine.Plan
	for _, n := range s.Names() {
		h := f.Hosts[n]
		if h.Absent(s) || s.Adopted() && h.Marker == nil && !h.Recognised {
			continue
		}
		var snapshots engine.Plan
		if purge {
			snapshots = do.purgeSnapshots(s, n, h)
		}
		lanes = append(lanes, destroyLane(s, n, h, purge, snapshots, do))
	}
	return engine.Plan{}.ThenParallel(lanes...)
}

// destroyLane takes a member off one host. Before its own data is deleted, if it
// is, comes what else is to be deleted then.
func destroyLane(s Spec, n string, h *HostFacts, purge bool, before engine.Plan, do *Doer) engine.Plan {
	dataDir := h.DataDir
	if h.adopted() != nil {
		// Who chose the directory may have more in it.
		dataDir += "/member"
	}
	step := func(id, title string, risk engine.Risk, run func(context.Context, host.Host) error) engine.Step {
		return do.step(s, n, id, title, risk, func(ctx context.Context) error { return run(ctx, do.host(s, n)) })
	}
	lane := do.dropSnapshots(s, n, h)
	if h.Facts.Unit(Unit).Active != "inactive" || h.Facts.Unit(Unit).Enabled == "enabled" {
		lane = lane.Then(step("etcd.stop", "stop and disable "+Unit, engine.Destructive, func(ctx context.Context, h host.Host) error {
			if err := remote.DisableUnit(ctx, h, Unit); err != nil {
				return err
			}
			return remote.StopUnit(ctx, h, Unit, stopTimeout)
		}))
	}
	if len(h.packages()) > 0 {
		lane = lane.Then(step("etcd.unhold", "let "+serverPackage+" and "+clientPackage+" be upgraded again", engine.Safe, func(ctx context.Context, h host.Host) error {
			return remote.Apt{Host: h, Log: do.Log}.Unhold(ctx, serverPackage, clientPackage)
		}))
	}
	if purge {
		if m := h.Marker; m != nil && !m.Purging {
			leaving := *m
			leaving.Purging = true
			lane = lane.Then(step("etcd.mark.purging", "note that the member's data is being deleted", engine.Safe, func(ctx context.Context, h host.Host) error {
				return remote.WriteFile(ctx, h, leaving.file())
			}))
		}
		lane = lane.ThenPlan(before).Then(
			step("etcd.purge", "delete "+dataDir, engine.Destructive, func(ctx context.Context, h host.Host) error {
				return remote.PurgeTree(ctx, h, dataDir)
			}),
			step("etcd.purge.files", "delete the cluster's certificates, keys and settings", engine.Destructive, func(ctx context.Context, h host.Host) error {
				paths := []string{Dir(s.Name)}
				for _, a := range s.authorities() {
					paths = append(paths, a.Path())
				}
				for _, path := range paths {
					if err := remote.PurgeTree(ctx, h, path); err != nil {
						return err
					}
				}
				if err := do.dropPrevious(ctx, h); err != nil {
					return err
				}
				if err := remote.RemoveFiles(ctx, h, dropInPath, previousDropIn); err != nil {
					return err
				}
				if err := remote.RemoveEmptyDirs(ctx, h, "/etc/systemd/system/etcd.service.d", "/etc/pgha/etcd", pki.Dir); err != nil {
					return err
				}
				return remote.DaemonReload(ctx, h)
			}),
			step("etcd.unmark", "remove the mark that this host is a member", engine.Safe, func(ctx context.Context, h host.Host) error {
				if err := remote.RemoveFiles(ctx, h, MarkerPath); err != nil {
					return err
				}
				return remote.RemoveEmptyDirs(ctx, h, "/etc/pgha")
			}),
		)
	}
	return lane
}
