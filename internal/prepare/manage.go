package prepare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/roll"
)

// Marker is what was changed on a host, so that it can be undone.
type Marker struct {
	Name      string `json:"name"`
	MachineID string `json:"machine_id"`
	// Files are the files that are ours.
	Files []string `json:"files"`
	// SysctlBefore are the kernel settings as they were.
	SysctlBefore map[string]string `json:"sysctl_before,omitempty"`
	// ChronyInstalled: we installed it, so we remove it.
	ChronyInstalled bool `json:"chrony_installed,omitempty"`
	// CheckTime: a clock that nothing keeps is reported. It changes nothing on the
	// host, and is noted for whoever imports it.
	CheckTime bool `json:"check_time,omitempty"`
	// HostsEntries: there is a part of /etc/hosts that is ours.
	HostsEntries bool `json:"hosts_entries,omitempty"`
	// Pending is what an apply has begun and not finished, although the files
	// on the host look as if it had: "chrony", "lists", "sysctl".
	Pending []string `json:"pending,omitempty"`
}

func (m Marker) file() remote.File {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		panic(err)
	}
	return remote.File{Path: MarkerPath, Content: append(b, '\n'), Mode: "0600"}
}

// Facts is what a probe found.
type Facts struct {
	*remote.Facts
	Marker *Marker
}

// Manager carries out what the resource asks for.
type Manager struct {
	Fleet   host.Fleet
	Log     *slog.Logger
	Observe engine.Observer
	Runner  string
}

// Probe asks a host, in one session.
func Probe(ctx context.Context, h host.Host, s Spec) (Facts, error) {
	f, err := probe(ctx, h, s, nil)
	if err != nil || f.Marker == nil {
		return f, err
	}
	// What the marker names but the spec does not any more has to be looked
	// at, too.
	for _, path := range f.Marker.Files {
		if !slices.ContainsFunc(s.files(), func(file remote.File) bool { return file.Path == path }) {
			return probe(ctx, h, s, f.Marker)
		}
	}
	return f, nil
}

func probe(ctx context.Context, h host.Host, s Spec, m *Marker) (Facts, error) {
	var p remote.Probe
	if s.CheckTime {
		p.Synchronized()
	}
	p.OS().Clock().TimeService().Content(MarkerPath).Content(hostsPath).Disk(s.Preflight.DiskPath).
		Lookup(s.Target.Address).Package("chrony").Addresses().Content(remote.GuardPath).DebianClusters()
	for _, f := range s.files() {
		p.Path(f.Path)
	}
	for _, k := range sortedKeys(s.Sysctl) {
		p.Sysctl(k)
	}
	for _, port := range s.Preflight.Ports {
		p.Port(int(port))
	}
	if m != nil {
		for _, path := range m.Files {
			p.Path(path)
		}
	}
	facts, err := p.Run(ctx, h)
	if err != nil {
		return Facts{}, err
	}
	f := Facts{Facts: facts}
	if c := facts.Path(MarkerPath); c.Type == remote.Regular {
		f.Marker = new(Marker)
		if err := json.Unmarshal(c.Content, f.Marker); err != nil {
			return f, fmt.Errorf("%s cannot be read: %w", MarkerPath, err)
		}
	}
	return f, nil
}

// Plan is the way from the facts to the prepared host. It is pure.
func Plan(s Spec, f Facts, h host.Host, log *slog.Logger) engine.Plan {
	apt := remote.Apt{Host: h, Log: log}
	next := Marker{Name: s.Target.Name, MachineID: f.OS().MachineID, SysctlBefore: map[string]string{}, CheckTime: s.CheckTime, HostsEntries: len(s.Hosts) > 0}
	var before Marker
	if f.Marker != nil {
		before = *f.Marker
		next.ChronyInstalled = before.ChronyInstalled
	}
	for k, v := range before.SysctlBefore {
		next.SysctlBefore[k] = v
	}
	step := func(id, title string, do func(context.Context) error) engine.Step {
		return engine.Step{ID: id, Host: s.Target.Name, Title: title, Do: do}
	}
	var plan engine.Plan
	lists, sysctl := slices.Contains(before.Pending, "lists"), slices.Contains(before.Pending, "sysctl")
	isApt := func(path string) bool { return strings.HasPrefix(path, "/etc/apt/") }
	for _, file := range s.files() {
		next.Files = append(next.Files, file.Path)
		if file.Same(f.Path(file.Path)) {
			continue
		}
		lists = lists || isApt(file.Path)
		sysctl = sysctl || file.Path == sysctlPath
		plan = plan.Then(step("host.file", "write "+file.Path, func(ctx context.Context) error { return remote.WriteFile(ctx, h, file) }))
	}
	slices.Sort(next.Files)
	var stale []string
	for _, path := range before.Files {
		if !slices.Contains(next.Files, path) {
			stale = append(stale, path)
			lists = lists || isApt(path)
		}
	}
	if remote.Guarded(f.Path(remote.GuardPath)) {
		plan = plan.Then(step("host.guard", "remove "+remote.GuardPath+", which a run that was killed left behind", func(ctx context.Context) error {
			return apt.RemoveGuard(ctx)
		}))
	}
	if len(stale) > 0 {
		plan = plan.Then(step("host.file.remove", "remove "+strings.Join(stale, ", "), func(ctx context.Context) error { return remote.RemoveFiles(ctx, h, stale...) }))
	}
	if have := f.Path(hostsPath); next.HostsEntries || before.HostsEntries {
		want := remote.File{Path: hostsPath, Content: hostsFile(have.Content, s.Hosts), Owner: have.Owner, Group: have.Group, Mode: have.Mode}
		if !want.Same(have) {
			plan = plan.Then(step("host.hosts", "change our part of "+hostsPath, func(ctx context.Context) error { return remote.WriteFile(ctx, h, want) }))
		}
	}
	for _, k := range sortedKeys(s.Sysctl) {
		if now := f.Sysctl(k); now != "" {
			if _, known := next.SysctlBefore[k]; !known {
				next.SysctlBefore[k] = now
			}
		}
	}
	restore := map[string]string{}
	for k, v := range next.SysctlBefore {
		if _, wanted := s.Sysctl[k]; !wanted {
			restore[k] = v
			delete(next.SysctlBefore, k)
		}
	}
	if sysctl || len(restore) > 0 {
		set := restore
		for k, v := range s.Sysctl {
			set[k] = v
		}
		plan = plan.Then(step("host.sysctl", "set kernel settings", func(ctx context.Context) error {
			_, err := remote.ApplySysctl(ctx, h, set)
			return err
		}))
	}
	if lists {
		plan = plan.Then(step("host.lists", "renew the package lists", func(ctx context.Context) error { return apt.UpdateLists(ctx) }))
	}
	chrony := s.InstallChrony && (slices.Contains(before.Pending, "chrony") || !f.Package("chrony").Installed && f.TimeService() == "")
	next.ChronyInstalled = next.ChronyInstalled || chrony
	during := before.with(next)
	for what, pending := range map[string]bool{"chrony": chrony, "lists": lists, "sysctl": sysctl} {
		if pending {
			during.Pending = append(during.Pending, what)
		}
	}
	slices.Sort(during.Pending)
	if f.Marker == nil || !same(during, before) {
		// Before anything else is changed, so that it can be undone, and
		// taken up where it was cut off.
		plan = engine.Sequence(step("host.mark", "note what will be changed on the host", func(ctx context.Context) error {
			return remote.WriteFile(ctx, h, during.file())
		})).ThenPlan(plan)
	}
	if chrony {
		plan = plan.Then(
			step("host.chrony", "install chrony", func(ctx context.Context) error {
				if err := apt.UpdateLists(ctx); err != nil {
					return err
				}
				return apt.Install(ctx, remote.Pin{Name: "chrony"})
			}),
			step("host.chrony.start", "start chrony", func(ctx context.Context) error {
				if err := remote.EnableUnit(ctx, h, "chrony.service"); err != nil {
					return err
				}
				return remote.StartUnit(ctx, h, "chrony.service")
			}),
		)
	}
	if !same(during, next) {
		plan = plan.Then(step("host.mark.rest", "note what is changed on the host", func(ctx context.Context) error {
			return remote.WriteFile(ctx, h, next.file())
		}))
	}
	return plan
}

// with is what either marker names: what has to be undone while one is being
// turned into the other.
func (m Marker) with(next Marker) Marker {
	all := next
	all.Files = slices.Clone(next.Files)
	for _, path := range m.Files {
		if !slices.Contains(all.Files, path) {
			all.Files = append(all.Files, path)
		}
	}
	slices.Sort(all.Files)
	all.SysctlBefore = map[string]string{}
	for _, from := range []map[string]string{next.SysctlBefore, m.SysctlBefore} {
		for k, v := range from {
			all.SysctlBefore[k] = v
		}
	}
	all.ChronyInstalled = m.ChronyInstalled || next.ChronyInstalled
	all.HostsEntries = m.HostsEntries || next.HostsEntries
	all.Pending = nil
	return all
}

func same(a, b Marker) bool { return string(a.file().Content) == string(b.file().Content) }

// Applied is what an apply came to.
type Applied struct {
	Facts    Facts
	Warnings []string
}

// lock keeps other applies away from the host.
func (m *Manager) lock(ctx context.Context, s Spec, h host.Host) (context.Context, func(), error) {
	return roll.LockHosts(ctx, m.Log, "/run/lock/pgha/host", roll.Hold("host "+s.Target.Name, m.Runner), []host.Host{h})
}

// Apply checks the host and brings it to what the spec says.
func (m *Manager) Apply(ctx context.Context, s Spec) (Applied, error) {
	h := m.Fleet.Host(s.Target)
	ctx, unlock, err := m.lock(ctx, s, h)
	if err != nil {
		return Applied{}, err
	}
	defer unlock()
	f, err := Probe(ctx, h, s)
	if err != nil {
		return Applied{}, err
	}
	a := Applied{Facts: f}
	findings := s.Check(f.Facts)
	if s.Preflight.Enforce != EnforceOff && f.Marker == nil {
		findings = append(findings, m.forwards(ctx, s, h)...)
	}
	var hard []error
	for _, finding := range findings {
		if finding.Soft || s.Preflight.Enforce == EnforceWarn {
			a.Warnings = append(a.Warnings, finding.String())
			continue
		}
		hard = append(hard, errors.New(finding.String()))
	}
	if len(hard) > 0 {
		return a, &problem.Error{
			Host: s.Target.Name, Step: "check the host", Cause: errors.Join(hard...), Left: "everything on the host.",
			Do: "mend what was found, change the thresholds in preflight, or set preflight.enforce = \"warn\".",
		}
	}
	return a, engine.Run(ctx, Plan(s, f, h, m.Log), m.Observe)
}

// forwards finds out whether the SSH server lets connections through: etcd and
// Patroni are reached so. Whether anybody answers at the other end is nothing to
// worry about yet.
func (m *Manager) forwards(ctx context.Context, s Spec, h host.Host) []Finding {
	c, err := h.Dial(ctx, "tcp", "127.0.0.1:8008")
	if err == nil {
		_ = c.Close()
	}
	if host.KindOf(err) != host.KindForward {
		return nil
	}
	var e *host.Error
	errors.As(err, &e)
	return []Finding{{
		Host: s.Target.Name, Found: "an SSH server that does not forward connections (" + e.Reason() + ")",
		Need: "it to do so, for etcd and Patroni are reached through it. " + e.Hint,
	}}
}

// Observed is what Read found.
type Observed struct {
	Absent bool
	Facts  Facts
	Drift  []string
}

// Observed looks at the host and changes nothing.
func (m *Manager) Observed(ctx context.Context, s Spec) (Observed, error) {
	h := m.Fleet.Host(s.Target)
	f, err := Probe(ctx, h, s)
	if err != nil {
		return Observed{}, err
	}
	if f.Marker == nil {
		// Where nothing is to be changed there is nothing that could be gone: a
		// host that was imported as it was.
		return Observed{Absent: !s.empty(), Facts: f}, nil
	}
	return Observed{Facts: f, Drift: Plan(s, f, h, m.Log).Describe(engine.Safe)}, nil
}

// Destroy undoes what was changed on the host.
func (m *Manager) Destroy(ctx context.Context, s Spec) error {
	h := m.Fleet.Host(s.Target)
	ctx, unlock, err := m.lock(ctx, s, h)
	if err != nil {
		return err
	}
	defer unlock()
	f, err := Probe(ctx, h, s)
	if err != nil {
		return err
	}
	if f.Marker == nil {
		// Whoever was killed while he removed what else there was has left the folder.
		return remote.RemoveEmptyDirs(ctx, h, "/etc/pgha")
	}
	undo := Spec{Target: s.Target}
	plan := Plan(undo, f, h, m.Log)
	step := func(id, title string, do func(context.Context) error) engine.Step {
		return engine.Step{ID: id, Host: s.Target.Name, Title: title, Do: do}
	}
	if f.Marker.ChronyInstalled && f.Package("chrony").Installed {
		plan = plan.Then(step("host.chrony.remove", "remove chrony, which was installed by us", func(ctx context.Context) error {
			if err := remote.DisableUnit(ctx, h, "chrony.service"); err != nil {
				return err
			}
			// The package would not: it may not touch services while it is
			// removed.
			if err := remote.StopUnit(ctx, h, "chrony.service", time.Minute); err != nil {
				return err
			}
			return remote.Apt{Host: h, Log: m.Log}.Remove(ctx, "chrony")
		}))
	}
	plan = plan.Then(step("host.unmark", "remove our notes from the host", func(ctx context.Context) error {
		if err := remote.RemoveFiles(ctx, h, MarkerPath); err != nil {
			return err
		}
		return remote.RemoveEmptyDirs(ctx, h, "/etc/pgha")
	}))
	return engine.Run(ctx, plan, m.Observe)
}
