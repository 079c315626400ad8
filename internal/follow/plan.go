package follow

import (
	"context"
	"slices"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/roll"
)

func (m Manager) step(n Node, id, title string, risk engine.Risk, do func(ctx context.Context, h host.Host) error) engine.Step {
	h := m.Fleet.Host(n.Target)
	return engine.Step{ID: id, Host: n.Target.Name, Title: title, Risk: risk, Do: func(ctx context.Context) error { return do(ctx, h) }}
}

// Plan has the nodes come first, side by side, that the caller does not want to be last;
// then those; and then what leaves. None of the steps has an agent that runs let go of
// anything.
func (m Manager) Plan(s Seen, files map[string]Files, last func(node string) bool) (engine.Plan, error) {
	var early, late []engine.Plan
	for _, name := range Sorted(s.Nodes) {
		lane, err := m.setUp(s.Agent, s.Nodes[name], s.Facts[name], files[name])
		switch {
		case err != nil:
			return engine.Plan{}, err
		case last(name):
			late = append(late, lane)
		default:
			early = append(early, lane)
		}
	}
	return engine.Plan{}.ThenParallel(early...).ThenParallel(late...).ThenPlan(m.leave(s)), nil
}

// leave stops the agents of all hosts that are no more to have one, then does what has to be
// done when none runs, and then removes what was for them.
func (m Manager) leave(s Seen, between ...engine.Step) engine.Plan {
	var stop, remove []engine.Plan
	for _, name := range Sorted(s.Gone) {
		if f := s.Left[name]; s.Agent.isOn(f) {
			stop = append(stop, m.stop(s.Agent, s.Gone[name]))
			remove = append(remove, m.remove(s.Agent, s.Gone[name]))
		}
	}
	return engine.Plan{}.ThenParallel(stop...).Then(between...).ThenParallel(remove...)
}

// isOn reports whether anything of the agent is on a host. What is another cluster's by now
// is not.
func (a Agent) isOn(f Facts) bool {
	switch {
	case f.Facts == nil:
		return false
	case f.Owner != nil:
		return f.Owner.UID == a.Cluster.UID
	}
	return f.Unit(a.Unit()).Loaded || f.Path(a.Dir()).Exists() || f.Path(a.unitPath()).Exists()
}

// setUp is what one host needs.
func (m Manager) setUp(a Agent, n Node, f Facts, files Files) (engine.Plan, error) {
	var plan engine.Plan
	apt := func(h host.Host) remote.Apt { return remote.Apt{Host: h, Log: m.Log} }
	have := f.Package(a.Package)
	if remote.Guarded(f.Path(remote.GuardPath)) {
		plan = plan.Then(m.step(n, a.Kind+".guard", "remove "+remote.GuardPath+", which a run that was killed left behind", engine.Safe, func(ctx context.Context, h host.Host) error {
			return apt(h).RemoveGuard(ctx)
		}))
	}
	installs := !have.Installed || a.Pin != "" && !debver.Matches(a.Pin, have.Version)
	if installs {
		pin := remote.Pin{Name: a.Package}
		if a.Pin != "" {
			var err error
			if pin, err = remote.Resolve(a.Package, a.Pin, f.Available(a.Package)); err != nil {
				return plan, err
			}
		}
		plan = plan.Then(m.step(n, a.Kind+".package", "install "+pin.String(), engine.Safe, func(ctx context.Context, h host.Host) error {
			return apt(h).Install(ctx, pin)
		}))
	}
	if a.Pin != "" && (installs || !have.Held) { // another version is not held because the one before was
		plan = plan.Then(m.step(n, a.Kind+".hold", "hold "+a.Package, engine.Safe, func(ctx context.Context, h host.Host) error { return apt(h).Hold(ctx, a.Package) }))
	}
	if a.PackageUnit != "" && (f.Unit(a.PackageUnit).Enabled == "enabled" || !have.Installed) {
		plan = plan.Then(m.step(n, a.Kind+".package.unit", "disable "+a.PackageUnit+", which comes with the package", engine.Safe, func(ctx context.Context, h host.Host) error {
			return remote.DisableUnit(ctx, h, a.PackageUnit)
		}))
	}
	u := f.Unit(a.Unit())
	unread := u.NeedsReload || !u.Loaded
	for _, file := range []remote.File{files.Config, files.Program, files.Unit} {
		if file.Same(f.Path(file.Path)) {
			continue
		}
		unread = unread || file.Path == files.Unit.Path
		plan = plan.Then(m.step(n, a.Kind+".file", "write "+file.Path, engine.Safe, func(ctx context.Context, h host.Host) error { return remote.WriteFile(ctx, h, file) }))
	}
	if unread {
		plan = plan.Then(m.step(n, a.Kind+".unit.reload", "make systemd read its unit files again", engine.Safe, func(ctx context.Context, h host.Host) error { return remote.DaemonReload(ctx, h) }))
	}
	if u.Enabled != "enabled" {
		plan = plan.Then(m.step(n, a.Kind+".enable", "enable "+a.Unit(), engine.Safe, func(ctx context.Context, h host.Host) error { return remote.EnableUnit(ctx, h, a.Unit()) }))
	}
	switch {
	case !u.Running():
		plan = plan.Then(m.step(n, a.Kind+".start", "start "+a.Unit(), engine.Safe, func(ctx context.Context, h host.Host) error { return remote.StartUnit(ctx, h, a.Unit()) }))
	case f.Digest != files.digest():
		plan = plan.Then(m.step(n, a.Kind+".reload", "reload "+a.Unit()+", which keeps "+a.Subject+" meanwhile", engine.Reload, func(ctx context.Context, h host.Host) error {
			return remote.ReloadUnit(ctx, h, a.Unit())
		}))
	}
	return plan, nil
}

// stop ends an agent, which lets go of what it holds.
func (m Manager) stop(a Agent, n Node) engine.Plan {
	return engine.Sequence(m.step(n, a.Kind+".stop", "stop "+a.Unit(), engine.Reload, func(ctx context.Context, h host.Host) error {
		if err := remote.DropUnits(ctx, h, a.Unit()); err != nil || a.Release == "" {
			return err
		}
		// Whatever became of the one that was stopped.
		_, err := h.Run(ctx, host.Cmd{
			Name: a.Kind + "." + a.Release, Script: "cd /\n[ ! -e \"$1\" ] || [ ! -e \"$2\" ] || exec python3 -I \"$1\" \"$3\" \"$4\"\n",
			Args: []string{a.ProgramPath(), a.ConfigPath(), a.Release, a.Dir()},
		})
		return err
	}))
}

// remove removes all that is on a host for an agent that does not run any more. Of several
// that go at once, one goes after the other: the last one lets the package go.
func (m Manager) remove(a Agent, n Node) engine.Plan {
	return engine.Sequence(m.step(n, a.Kind+".files", "remove what is for "+a.Subject, engine.Safe, func(ctx context.Context, h host.Host) error {
		ctx, unlock, err := roll.LockHosts(ctx, m.Log, "/run/lock/pgha/"+a.Kind, roll.Hold("removing "+a.Subject, m.Runner), []host.Host{h})
		if err != nil {
			return err
		}
		defer unlock()
		if err := m.unhold(ctx, a, h); err != nil {
			return err
		}
		if err := a.DropScratch(ctx, h); err != nil {
			return err
		}
		// The link is what "systemctl enable" has made.
		if err := remote.RemoveFiles(ctx, h, a.unitPath(), "/etc/systemd/system/multi-user.target.wants/"+a.Unit()); err != nil {
			return err
		}
		if err := remote.DaemonReload(ctx, h); err != nil {
			return err
		}
		// The configuration last: it says whose the rest is.
		if err := remote.RemoveFiles(ctx, h, a.ProgramPath(), a.ConfigPath()); err != nil {
			return err
		}
		return remote.RemoveEmptyDirs(ctx, h, a.Dir(), a.parent(), root)
	}))
}

// unhold lets the package be upgraded again, unless another agent of the kind needs it.
func (m Manager) unhold(ctx context.Context, a Agent, h host.Host) error {
	if a.Pin == "" && a.PackageUnit == "" {
		return nil // it was never held
	}
	var p remote.Probe
	f, err := p.List(a.parent()).Package(a.Package).Run(ctx, h)
	if err != nil || !f.Package(a.Package).Held {
		return err
	}
	if slices.ContainsFunc(f.List(a.parent()), func(name string) bool { return name != a.Label }) {
		return nil
	}
	return remote.Apt{Host: h, Log: m.Log}.Unhold(ctx, a.Package)
}
