package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Members are upgraded in this order (adr/0022): a snapshot; on all hosts at once
// the new packages, while the etcd that runs is kept beside them and would be what
// starts again if it ended; then one member after the other takes its turn. So the
// turns are as short as a restart, and no member runs what its turn has not come for.

const (
	// binaryPath is etcd in Debian's package.
	binaryPath = "/usr/bin/etcd"
	// previousDir holds the etcd that runs until its member's turn comes. The file
	// has the name that monitoring knows.
	previousDir    = "/usr/lib/pgha/etcd"
	previousPath   = previousDir + "/etcd"
	previousDropIn = "/etc/systemd/system/etcd.service.d/pgha-previous.conf"
)

// previousFile is the drop-in that has the unit start the etcd that was kept.
func previousFile() remote.File {
	return remote.File{Path: previousDropIn, Content: []byte(`# Written by the pgha provider while it upgrades etcd: until this member's turn
# comes it is started in the version that it ran before.
[Service]
ExecStart=
ExecStart=` + previousPath + "\n")}
}

// upgrade is what brings a member to another version, or back.
type upgrade struct {
	from, to    string // versions; to is the package's
	pins        []remote.Pin
	staged      bool // the packages are installed before its turn
	irrevocable bool // with the last member the cluster's data takes another format
}

// Upgrade is the note in etcd of an upgrade that was begun.
type Upgrade struct {
	To       string `json:"to"`       // the pin
	Snapshot string `json:"snapshot"` // from before, as "MEMBER:PATH"
}

// upgradeKey is where it is noted in etcd that an upgrade is under way.
func upgradeKey(s Spec) string { return "/pgha/etcd/" + s.Name + "/upgrade" }

// runs is the version of a running member, as the cluster says, or of its package
// if it says nothing. Empty if etcd is not installed.
func (p *planner) runs(name string) string {
	if m := p.f.Live.at(p.s.PeerURL(name)); m != nil && m.Version != "" {
		return m.Version
	}
	return debver.Upstream(p.f.Hosts[name].Facts.Package(serverPackage).Version)
}

// member reports whether a host has a member of the cluster, whose version is not
// changed in passing.
func (h *HostFacts) member() bool { return h.Recognised || h.Marker != nil && h.Marker.Bootstrapped }

// outdated reports whether a member has, or runs, another version than is wanted.
func (p *planner) outdated(name string) bool {
	if p.f.Hosts[name].foreign() {
		return p.otherVersion(name)
	}
	have := p.f.Hosts[name].Facts.Package(serverPackage).Version
	if !debver.Matches(p.s.Version, have) {
		return true
	}
	m := p.f.Live.at(p.s.PeerURL(name))
	return m != nil && m.Version != "" && m.Version != debver.Upstream(have)
}

// findUpgrades finds the members that need another version, and refuses ways that
// etcd or Patroni cannot go.
func (p *planner) findUpgrades() error {
	p.upgrades = map[string]*upgrade{}
	if !p.asked {
		return nil
	}
	var names, running []string
	for _, n := range p.stay {
		if p.f.Hosts[n].member() && p.outdated(n) {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return nil
	}
	for _, m := range p.f.Live {
		if m.Version != "" {
			running = append(running, m.Version)
		}
	}
	if len(running) == 0 {
		return nil
	}
	if err := checkUpgrade(running, p.s.Version, authentication{on: p.f.AuthOn && p.s.Auth, wanted: p.s.Auth}, len(p.changes) > 0, p.f.Nodes); err != nil {
		return err
	}
	oldest, _, _ := releaseOf(slices.MinFunc(running, debver.Compare))
	for _, n := range names {
		h := p.f.Hosts[n].Facts
		u := &upgrade{from: p.runs(n), to: h.Package(serverPackage).Version}
		for _, pkg := range []string{serverPackage, clientPackage} {
			if have := h.Package(pkg); have.Installed && debver.Matches(p.s.Version, have.Version) {
				continue
			}
			pin, err := remote.Resolve(pkg, p.s.Version, h.Available(pkg))
			if err != nil {
				return problem.In(n, "look up package versions", err)
			}
			u.pins = append(u.pins, pin)
			if pkg == serverPackage {
				u.to = pin.Version
			}
		}
		to, _, _ := releaseOf(u.to)
		u.irrevocable = to.compare(oldest) > 0
		u.staged = p.kept(n) || p.keepable(n)
		p.upgrades[n] = u
	}
	return nil
}

// kept reports whether the etcd that runs on a host was kept, and is what its unit
// starts.
func (p *planner) kept(name string) bool {
	h := p.f.Hosts[name].Facts
	return h.Path(previousDropIn).Exists() && h.Path(previousPath).Exists()
}

// keepable reports whether what runs on a host can be kept: it has to be the
// package's binary, started as Debian's unit does.
func (p *planner) keepable(name string) bool {
	h := p.f.Hosts[name]
	args := h.Facts.Process(Unit).Args
	return h.adopted() == nil && len(args) == 1 && args[0] == binaryPath && p.runs(name) == debver.Upstream(h.Facts.Package(serverPackage).Version)
}

// ill reports whether a member is not healthy that an upgrade which was begun may
// have left so. It is brought to the wanted version at once: waiting for it to be
// well before would be in vain.
func (p *planner) ill(name string) bool {
	m := p.f.Live.at(p.s.PeerURL(name))
	return p.f.Upgrade != nil && p.upgrades[name] != nil && (m == nil || m.Problem != "")
}

// stage is what comes before the first turn of an upgrade.
func (p *planner) stage() engine.Plan {
	var plan engine.Plan
	var lanes []engine.Plan
	for _, n := range p.stay {
		u := p.upgrades[n]
		if u == nil || p.ill(n) || !u.staged {
			continue
		}
		var lane engine.Plan
		if !p.kept(n) {
			lane = lane.Then(p.do.keepPrevious(p.s, n, u))
		}
		if len(u.pins) > 0 {
			lane = lane.Then(p.do.installUpgrade(p.s, n, u))
		}
		lanes = append(lanes, lane)
	}
	if len(p.upgrades) > 0 && (p.f.Upgrade == nil || p.f.Upgrade.To != p.s.Version) {
		plan = plan.Then(p.do.beginUpgrade(p.s, p.well()))
	}
	return plan.ThenParallel(lanes...)
}

// endUpgrade forgets an upgrade that is through, and what it kept.
func (p *planner) endUpgrade() engine.Plan {
	var lanes []engine.Plan
	for _, n := range p.stay {
		h := p.f.Hosts[n].Facts
		if u := p.upgrades[n]; u != nil && u.staged || h.Path(previousDropIn).Exists() || h.Path(previousDir).Exists() {
			lanes = append(lanes, engine.Sequence(p.do.step(p.s, n, "etcd.upgrade.tidy", "remove what an upgrade has kept", engine.Safe, func(ctx context.Context) error {
				return p.do.unkeep(ctx, p.do.host(p.s, n))
			})))
		}
	}
	plan := engine.Plan{}.ThenParallel(lanes...)
	if p.asked && (len(p.upgrades) > 0 || p.f.Upgrade != nil) {
		plan = plan.Then(p.do.step(p.s, "", "etcd.upgrade.end", "note in etcd that all members run "+p.s.Version, engine.Safe, func(ctx context.Context) error {
			return p.do.forget(ctx, p.s, upgradeKey(p.s))
		}))
	}
	return plan
}

// heal brings a member to the wanted version that an upgrade has left ill. It may only
// have been slow to say how it is, and may vote: it is not stopped unless enough are
// well without it, and no two are at once.
func (p *planner) heal(name string) engine.Plan {
	u := p.upgrades[name]
	var plan engine.Plan
	if len(u.pins) > 0 {
		plan = plan.Then(p.do.installUpgrade(p.s, name, u))
	}
	return plan.Then(p.do.step(p.s, name, "etcd.upgrade.heal", fmt.Sprintf("start it with etcd %s: it is not healthy with what it has", u.to), engine.Restart, func(ctx context.Context) error {
		live, err := p.do.live(ctx, p.s)
		if err == nil {
			err = live.spares(p.s.PeerURL(name))
		}
		if err != nil {
			return err
		}
		h := p.do.host(p.s, name)
		if err := p.do.unkeep(ctx, h); err != nil {
			return err
		}
		if err := remote.StopUnit(ctx, h, Unit, stopTimeout); err != nil {
			return err
		}
		return remote.StartUnit(ctx, h, Unit)
	}))
}

// beginUpgrade takes a snapshot and notes that the upgrade is under way.
func (d *Doer) beginUpgrade(all, well Spec) engine.Step {
	return d.step(all, "", "etcd.upgrade.snapshot", "take a snapshot and verify it, before any member is touched for version "+all.Version, engine.Safe, func(ctx context.Context) error {
		if err := d.steadySoon(ctx, well); err != nil {
			return problem.In("", "wait for all members to be well", err)
		}
		path, err := d.TakeSnapshot(ctx, well, "upgrade to "+all.Version)
		if err != nil {
			return err
		}
		note, err := json.Marshal(Upgrade{To: all.Version, Snapshot: path})
		if err != nil {
			return err
		}
		return d.patiently(ctx, all, func(ctx context.Context, c Client) error { return c.Put(ctx, upgradeKey(all), string(note)) })
	})
}

// keepPrevious keeps the etcd that runs, and has the unit start it.
func (d *Doer) keepPrevious(s Spec, name string, u *upgrade) engine.Step {
	return d.step(s, name, "etcd.upgrade.keep", "keep etcd "+u.from+", which is what starts until its turn comes", engine.Safe, func(ctx context.Context) error {
		h := d.host(s, name)
		_, err := h.Run(ctx, host.Cmd{Name: "etcd.keep", Script: remote.Script(scripts, "scripts/keep.sh"), Args: []string{binaryPath, previousPath}})
		if err != nil {
			return err
		}
		if err := remote.WriteFile(ctx, h, previousFile()); err != nil {
			return err
		}
		return remote.DaemonReload(ctx, h)
	})
}

// installUpgrade installs a member's packages. Its etcd runs on.
func (d *Doer) installUpgrade(s Spec, name string, u *upgrade) engine.Step {
	var list []string
	for _, p := range u.pins {
		list = append(list, p.String())
	}
	return d.step(s, name, "etcd.upgrade.packages", "install "+strings.Join(list, ", ")+", and hold them", engine.Safe, func(ctx context.Context) error {
		return d.installPins(ctx, d.host(s, name), u.pins)
	})
}

func (d *Doer) installPins(ctx context.Context, h host.Host, pins []remote.Pin) error {
	apt := remote.Apt{Host: h, Log: d.Log}
	if err := apt.Install(ctx, pins...); err != nil {
		return err
	}
	var names []string
	for _, p := range pins {
		names = append(names, p.Name)
	}
	return apt.Hold(ctx, names...)
}

// switchOver makes the next start of a member one in its new version.
func (d *Doer) switchOver(ctx context.Context, s Spec, name string, u *upgrade) error {
	h := d.host(s, name)
	if !u.staged && len(u.pins) > 0 {
		if err := d.installPins(ctx, h, u.pins); err != nil {
			return problem.In(name, "install packages", err)
		}
	}
	if err := remote.RemoveFiles(ctx, h, previousDropIn); err != nil {
		return err
	}
	return remote.DaemonReload(ctx, h)
}

// dropPrevious removes the etcd that was kept.
func (d *Doer) dropPrevious(ctx context.Context, h host.Host) error {
	if err := remote.RemoveFiles(ctx, h, previousPath, previousPath+".new"); err != nil {
		return err
	}
	return remote.RemoveEmptyDirs(ctx, h, previousDir, "/usr/lib/pgha")
}

// unkeep has the unit start the package's etcd again, and removes the one that was
// kept.
func (d *Doer) unkeep(ctx context.Context, h host.Host) error {
	if err := remote.RemoveFiles(ctx, h, previousDropIn); err != nil {
		return err
	}
	if err := remote.DaemonReload(ctx, h); err != nil {
		return err
	}
	return d.dropPrevious(ctx, h)
}

// nodes are the versions of the Patroni nodes that keep their keys in a cluster,
// by "SCOPE/MEMBER": each says it in its member key (patroni/ha.py).
func nodes(keys []KeyValue) map[string]string {
	all := map[string]string{}
	for _, kv := range keys {
		before, name, ok := strings.Cut(kv.Key, "/members/")
		var m struct {
			Version string `json:"version"`
		}
		if !ok || strings.HasPrefix(kv.Key, "/pgha/") || json.Unmarshal([]byte(kv.Value), &m) != nil || m.Version == "" {
			continue
		}
		all[before[strings.LastIndexByte(before, '/')+1:]+"/"+name] = m.Version
	}
	return all
}
