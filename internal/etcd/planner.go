package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Plan is the way from the facts to the wanted cluster. It is pure: the steps
// carry their own means (do), which are only used when they run.
//
// The order for a new cluster: on all hosts at once a marker and the packages;
// then the authority on the first host, its copies on the others; then on all
// hosts at once certificates, files and the unit; then all members start
// together, because none is ready before a quorum is. A running cluster is
// changed one member at a time.
func Plan(s Spec, f Facts, uid string, now time.Time, do *Doer) (engine.Plan, error) {
	if err := f.Err(); err != nil {
		return engine.Plan{}, err
	}
	uid, err := ownership(s, f, uid)
	if err != nil {
		return engine.Plan{}, err
	}
	p := planner{s: s.withTheirs(f).withStages(f), f: f, uid: uid, now: now, do: do}
	if p.credentials, err = p.findCredentials(); err != nil {
		return engine.Plan{}, err
	}
	if err := p.sort(); err != nil {
		return engine.Plan{}, err
	}
	if err := p.checkQuota(); err != nil {
		return engine.Plan{}, err
	}
	if err := p.checkForeign(); err != nil {
		return engine.Plan{}, err
	}
	if err := p.findUpgrades(); err != nil {
		return engine.Plan{}, err
	}
	if err := p.checkSecuring(); err != nil {
		return engine.Plan{}, err
	}
	if err := p.checkAuthority(); err != nil {
		return engine.Plan{}, err
	}
	p.findRotation()
	return p.plan()
}

// ownership decides whether all hosts are this cluster's to change, and under
// which uid: that of the markers there are, else the given one.
func ownership(s Spec, f Facts, uid string) (string, error) {
	var errs []error
	found := map[string][]string{}
	for _, h := range f.Leaving {
		if m := h.Marker; m != nil && m.Cluster == s.Name {
			found[m.UID] = append(found[m.UID], h.Name)
		}
	}
	for _, name := range s.Names() {
		h := f.Hosts[name]
		refuse := func(cause, do string) {
			errs = append(errs, &problem.Error{Host: name, Step: "check whose etcd this is", Cause: errors.New(cause), Left: "everything on the host.", Do: do})
		}
		m, unit := h.Marker, h.Facts.Unit(Unit)
		data, foreign := h.Data, h.Facts.Path(DefaultDataDir)
		switch {
		case m != nil && m.Cluster != s.Name:
			refuse(fmt.Sprintf("this host's etcd belongs to the cluster %q, as its member %q (%s says so)", m.Cluster, m.Member, MarkerPath),
				"choose another host, or change that cluster in the configuration that made it.")
		case m != nil && m.Member != name:
			refuse(fmt.Sprintf("this host is the member %q of the cluster, not %q", m.Member, name),
				"give the member the name it has; a member cannot be renamed.")
		case m != nil && m.Purging:
			refuse("deleting this cluster was begun and cut off: part of its data is gone", "destroy it again (terraform destroy), which finishes that. Then it can be made anew.")
		case m != nil && m.Restoring != nil:
			refuse("restoring this cluster was begun and cut off: "+m.Restoring.Key, "apply again with restore set to that, which finishes it.")
		case m != nil:
			found[m.UID] = append(found[m.UID], name)
			if m.Bootstrapped && !data.Exists() && f.Live == nil {
				refuse("this member has lost its data: "+h.DataDir+" is empty, while the cluster was formed before",
					"bring the data back, or the other members, so that they can take this one in anew: starting it empty under its old name would put the whole cluster's data at risk. If the cluster is lost for good, restore it (the guide \"Restoring etcd\").")
			}
		case h.Recognised:
			found[s.UID] = append(found[s.UID], name)
		case s.Adopted() && !unit.Running():
			refuse("etcd does not run on this host, and "+MarkerPath+" does not say whose it is: it was imported, and nothing has been applied since",
				"start it (systemctl start "+Unit+"), then plan again. A new member cannot be given to a cluster that somebody else made: add it as the others were made, then import the cluster anew.")
		case unit.Active == "active" || unit.Active == "activating":
			refuse("an etcd that is not ours is running on this host"+defaultData(foreign),
				"stop and disable it if nothing needs it (systemctl disable --now etcd), then apply again; its data is not touched.")
		case data.Exists():
			refuse(s.DataDir()+" holds the data of an etcd member, but "+MarkerPath+" does not say whose it is",
				"move it away if nothing needs it, or choose another name for the cluster.")
		default:
			for _, port := range []int{s.ClientPort, s.PeerPort} {
				if l := h.Facts.Port(port); len(l) > 0 {
					refuse(fmt.Sprintf("port %d is in use: %s", port, strings.Join(l, ", ")), "stop what uses it, or choose another port.")
				}
			}
		}
	}
	for _, name := range s.Names() {
		h := f.Hosts[name]
		if h.adopted() != nil || h.Facts.Path(s.DataDir()+"/member").Exists() || len(errs) > 0 {
			continue
		}
		if why := h.Facts.Disk(s.DataDir()).TooSmall(leastDisk); why != "" {
			errs = append(errs, &problem.Error{
				Host: name, Step: "check the host's disk", Cause: errors.New(why + ", where " + s.DataDir() + " is to be"),
				Left: "everything on the host.", Do: "make room or mount a larger disk there, then apply again.",
			})
		}
	}
	if len(found) > 1 {
		var parts []string
		for _, u := range sortedKeys(found) {
			parts = append(parts, strings.Join(found[u], ", "))
		}
		errs = append(errs, &problem.Error{
			Step:  "check whose etcd this is",
			Cause: fmt.Errorf("the hosts belong to %d different clusters that are all named %q: %s", len(found), s.Name, strings.Join(parts, " | ")),
			Left:  "everything on the hosts.",
			Do:    "give the clusters different names, or list only the hosts of one of them.",
		})
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	for u := range found {
		return u, nil
	}
	return uid, nil
}

// leastDisk is what a new member needs, in bytes: etcd reserves two files of its
// log, of 64 MB each, before it writes anything.
const leastDisk = 256 << 20

func defaultData(p remote.Path) string {
	if p.Exists() {
		return " (Debian's package may have started it by itself: there is data in " + DefaultDataDir + ")"
	}
	return ""
}

type planner struct {
	s           Spec
	f           Facts
	uid         string
	now         time.Time
	do          *Doer
	credentials *Credentials

	asked   bool            // the cluster itself has said which members it has
	stay    []string        // members that are in the cluster and stay in it; all of a new cluster
	changes []change        // of the membership, in order
	stale   map[string]bool // members whose hosts have data of a membership that is over

	upgrades map[string]*upgrade // members that need another version

	turned   map[string]bool // members that have a turn on the way to TLS, after which their marks are whole
	rotation rotation        // of the authority
	made     []byte          // the authority that was made when the plan ran
}

// findCredentials returns those that are there. A cluster that was formed and
// has lost them everywhere cannot be logged in to any more.
func (p *planner) findCredentials() (*Credentials, error) {
	for _, n := range p.s.Names() {
		if c := p.f.Hosts[n].Credentials; c != nil {
			return c, nil
		}
	}
	for _, h := range p.f.Leaving {
		if c := h.Credentials; c != nil {
			return c, nil
		}
	}
	if p.formed() && (p.f.AuthOn || p.f.ShutOut) {
		return nil, &problem.Error{
			Step:  "find the cluster's credentials",
			Cause: fmt.Errorf("%s is on none of the hosts any more", p.s.credentialsPath()),
			Do:    "restore it from a backup of any member's host.",
		}
	}
	return nil, nil
}

func (p *planner) formed() bool { return p.f.formed() }

// formed reports whether the cluster was complete at some time before.
func (f Facts) formed() bool {
	for _, hosts := range []map[string]*HostFacts{f.Hosts, f.Leaving} {
		for _, h := range hosts {
			if h.Recognised || h.Marker != nil && h.Marker.Bootstrapped {
				return true
			}
		}
	}
	return false
}

func (p *planner) plan() (engine.Plan, error) {
	names := p.s.Names()
	lanes := func(of func(name string) (engine.Plan, error)) ([]engine.Plan, error) {
		var plans []engine.Plan
		var errs []error
		for _, n := range names {
			plan, err := of(n)
			errs = append(errs, problem.In(n, "", err))
			plans = append(plans, plan)
		}
		return plans, errors.Join(errs...)
	}
	prepare, err := lanes(p.prepare)
	if err != nil {
		return engine.Plan{}, err
	}
	configure, err := lanes(p.configure)
	if err != nil {
		return engine.Plan{}, err
	}
	var start []engine.Plan
	var heal engine.Plan
	var restart []string
	for _, n := range p.stay {
		switch {
		case p.ill(n):
			heal = heal.ThenPlan(p.heal(n))
		case !p.f.Hosts[n].Facts.Unit(Unit).Running():
			start = append(start, engine.Sequence(p.do.start(p.s, n)))
			if p.upgrades[n] != nil {
				restart = append(restart, n)
			}
		case p.changed(n):
			restart = append(restart, n)
		}
	}
	plan := engine.Plan{}.ThenParallel(prepare...).ThenPlan(p.authority()).ThenPlan(p.keep())
	if p.rotation.dead {
		plan = plan.ThenPlan(p.promote())
	}
	plan = plan.ThenParallel(configure...).ThenParallel(start...).ThenPlan(heal)
	if marker := func(name string) Marker { return p.marker(name, p.formed()) }; p.rotation.dead && !p.asked {
		plan = plan.ThenPlan(p.do.restartAll(p.s, restart, marker))
		restart = nil
	}
	if len(start) > 0 || !heal.Empty() || !p.formed() || p.lockedOut() || p.rotation.dead && !p.asked {
		plan = plan.Then(p.do.healthy(p.well(), p.f.Space.has(NoSpace)))
	}
	if p.s.Auth && !p.formed() {
		plan = plan.Then(p.do.enableAuth(p.s))
	}
	on, err := p.turnsOn()
	if err != nil {
		return engine.Plan{}, err
	}
	off, err := p.turnsOff()
	if err != nil {
		return engine.Plan{}, err
	}
	plan = plan.ThenPlan(off).ThenPlan(p.removeDead()).ThenPlan(p.makeSpace()).ThenPlan(p.shrink())
	restart = p.notTwice(restart)
	roll := p.stage().ThenPlan(p.roll(restart)).ThenPlan(p.endUpgrade()).ThenPlan(p.advance())
	if !p.rotation.dead {
		roll = roll.ThenPlan(p.promote())
	}
	roll = roll.ThenPlan(p.withdraw())
	if p.fewer() {
		plan = plan.ThenPlan(p.endAlarms()).ThenPlan(p.membership()).ThenPlan(roll)
	} else {
		plan = plan.ThenPlan(roll).ThenPlan(p.endAlarms()).ThenPlan(p.membership())
	}
	plan = plan.ThenPlan(on).ThenParallel(p.snapshots()...)
	var marked []engine.Plan
	for _, n := range p.stay {
		if m := p.f.Hosts[n].Marker; !p.f.Hosts[n].Recognised && (m == nil || !m.Bootstrapped || m.RestartDue && !slices.Contains(restart, n)) && !p.turned[n] {
			marked = append(marked, engine.Sequence(p.mark(n, true)))
		}
	}
	return plan.ThenParallel(marked...).ThenPlan(p.remaining()), nil
}

// fewer reports whether the cluster is so small for now that taking a member out of
// service would stop it, while it is to have more: these come first then.
func (p *planner) fewer() bool {
	n, _ := p.f.Live.votes()
	adds := false
	for _, c := range p.changes {
		adds = adds || c.kind == addMember
		if m := p.f.Live.at(c.url); c.kind == removeDead && m != nil && !m.Learner {
			n--
		}
	}
	return adds && n < 3
}

// prepare is what needs nothing of the other hosts.
func (p *planner) prepare(name string) (engine.Plan, error) {
	h := p.f.Hosts[name]
	var plan engine.Plan
	if h.Marker == nil {
		plan = plan.Then(p.mark(name, false))
	}
	var pins []remote.Pin
	var hold []string
	for _, pkg := range h.packages() {
		have := h.Facts.Package(pkg)
		switch {
		case have.Installed && debver.Matches(p.s.Version, have.Version):
			if !have.Held {
				hold = append(hold, pkg)
			}
		case have.Installed && h.member() && (p.upgrades[name] != nil || !p.asked):
			// It gets that in its turn, or once the cluster answers.
		default:
			pin, err := remote.Resolve(pkg, p.s.Version, h.Facts.Available(pkg))
			if err != nil {
				return plan, problem.In(name, "look up package versions", err)
			}
			pins = append(pins, pin)
			hold = append(hold, pkg)
		}
	}
	if p.s.ownTLS() && !h.Facts.Package("openssl").Installed {
		pins = append(pins, remote.Pin{Name: "openssl"})
	}
	plan = plan.ThenPlan(p.begin(name))
	if len(pins) > 0 {
		plan = plan.Then(p.do.install(p.s, name, pins))
	}
	if len(hold) > 0 {
		plan = plan.Then(p.do.hold(p.s, name, hold))
	}
	return plan, nil
}

// configure is what a member's host needs before its etcd can start.
func (p *planner) configure(name string) (engine.Plan, error) {
	h := p.f.Hosts[name]
	var plan engine.Plan
	if m := h.Marker; m != nil && !m.RestartDue && h.Facts.Unit(Unit).Running() && p.changed(name) {
		due := p.marker(name, m.Bootstrapped)
		due.RestartDue = true
		plan = plan.Then(p.do.step(p.s, name, "etcd.mark.restart", "note that the member has to be restarted", engine.Safe, func(ctx context.Context) error {
			return remote.WriteFile(ctx, p.do.host(p.s, name), due.file())
		}))
	}
	if p.s.Auth && (p.credentials != nil || !p.formed() || p.asked) && (h.Credentials == nil || p.credentials == nil || *h.Credentials != *p.credentials) {
		plan = plan.Then(p.do.writeCredentials(p.s, name, p.credentials))
	}
	plan = plan.ThenPlan(p.certificates(name))
	if dir := h.Facts.Path(p.s.DataDir()); h.adopted() == nil && (!dir.Exists() || dir.Owner != account) {
		plan = plan.Then(p.do.makeDataDir(p.s, name))
	}
	reload := h.Facts.Unit(Unit).NeedsReload
	files := p.files(name)
	if !p.formed() && !h.Data.Exists() {
		files = append(files, p.s.initialFile(name, p.uid, nil))
	}
	for _, file := range files {
		if !file.Same(h.Facts.Path(file.Path)) {
			plan = plan.Then(p.do.write(p.s, name, file))
			reload = reload || file.Path == dropInPath
		}
	}
	if reload {
		plan = plan.Then(p.do.reload(p.s, name))
	}
	if h.Facts.Unit(Unit).Enabled != "enabled" {
		plan = plan.Then(p.do.enable(p.s, name))
	}
	return plan, nil
}

// changed reports whether a running member has to be restarted to run with its
// files as they should be.
func (p *planner) changed(name string) bool {
	h := p.f.Hosts[name]
	if h.Marker != nil && h.Marker.RestartDue || p.upgrades[name] != nil {
		return true
	}
	for _, file := range p.files(name) {
		if !file.Same(h.Facts.Path(file.Path)) {
			return true
		}
	}
	return p.distrusts(name) || h.adopted() != nil && h.Running != nil && !h.Running.same(p.s)
}

// files are a member's files. One that was adopted keeps those that it has until
// something has to be changed.
func (p *planner) files(name string) []remote.File {
	h := p.f.Hosts[name]
	found := h.adopted()
	if found == nil {
		return p.s.files(name)
	}
	asFound := !found.plain() || p.s.stage(name) == tlsOff
	if asFound && !h.Facts.Path(dropInPath).Exists() && (h.Running == nil || h.Running.same(p.s)) {
		return nil
	}
	stage := p.s.stage(name)
	if asFound {
		stage = tlsOff // with certificates of somebody else's, or none
	}
	return []remote.File{
		{Path: p.s.envPath(), Content: found.overlay(p.s, stage), Group: account, Mode: "0640"},
		{Path: dropInPath, Content: append(p.s.dropIn(), h.adoptedLaunch().command()...)},
	}
}

func (p *planner) marker(name string, bootstrapped bool) Marker {
	return Marker{
		Cluster: p.s.Name, UID: p.uid, Member: name,
		MachineID: p.f.Hosts[name].Facts.OS().MachineID, Bootstrapped: bootstrapped || p.f.Hosts[name].Recognised,
		TLS:     p.f.Hosts[name].markedTLS(),
		Adopted: p.f.Hosts[name].adopted(), Launch: p.f.Hosts[name].adoptedLaunch(), Restored: p.restored(name),
	}
}

func (p *planner) mark(name string, bootstrapped bool) engine.Step {
	m := p.marker(name, bootstrapped)
	title := "mark the host as a member of the etcd cluster " + p.s.Name
	id := "etcd.mark"
	if bootstrapped {
		title, id = "note that the etcd cluster is complete", "etcd.mark.complete"
	}
	return p.do.step(p.s, name, id, title, engine.Safe, func(ctx context.Context) error {
		return remote.WriteFile(ctx, p.do.host(p.s, name), m.file())
	})
}
