package etcd

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// The units that take snapshots. A host runs one etcd.
const (
	SnapshotService = "pgha-etcd-snapshot.service"
	SnapshotTimer   = "pgha-etcd-snapshot.timer"

	snapshotServicePath = "/etc/systemd/system/" + SnapshotService
	snapshotTimerPath   = "/etc/systemd/system/" + SnapshotTimer
)

func (s Spec) snapshotScriptPath() string { return Dir(s.Name) + "/snapshot.sh" }

// snapshotPaths are the files with which a host takes snapshots.
func (s Spec) snapshotPaths() []string {
	return []string{s.snapshotScriptPath(), snapshotServicePath, snapshotTimerPath}
}

// takesSnapshots reports whether a member's host is to take snapshots: each, of
// which only the leader's acts, or the one that is named.
func (s Spec) takesSnapshots(name string) bool {
	return s.Snapshots != nil && (s.Snapshots.Member == "" || s.Snapshots.Member == name)
}

// snapshotFiles renders them. Nothing in them is a secret: systemd hands the
// service a copy of the credentials that only it can read.
func (s Spec) snapshotFiles(name string) []remote.File {
	const ours = "# Written by the pgha provider; changes are overwritten.\n"
	when := "leader"
	if s.Snapshots.Member != "" {
		when = "always"
	}
	command := []string{"/bin/sh", s.snapshotScriptPath()}
	for _, arg := range s.snapshotArgs(name, s.Snapshots.Keep, when, "${CREDENTIALS_DIRECTORY}/credentials") {
		command = append(command, strconv.Quote(arg))
	}
	credentials := ""
	if s.Auth {
		credentials = "LoadCredential=credentials:" + s.credentialsPath() + "\n"
	}
	service := ours + `[Unit]
Description=Snapshot of the etcd cluster ` + s.Name + `
After=` + Unit + `

[Service]
Type=oneshot
ExecStart=` + strings.Join(command, " ") + `
` + credentials + `User=` + account + `
Group=` + account + `
UMask=0077
TimeoutStartSec=30min
Nice=10
IOSchedulingPriority=7
ReadWritePaths=` + s.snapshotDir() + `
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
`
	timer := ours + `[Unit]
Description=Snapshots of the etcd cluster ` + s.Name + `

[Timer]
OnCalendar=` + s.Snapshots.Schedule + `
Persistent=true
# On all hosts at the same moment: a leader that changes in between would have
# none of them act, or two.
AccuracySec=1s

[Install]
WantedBy=timers.target
`
	return []remote.File{
		{Path: s.snapshotScriptPath(), Content: []byte(ours + remote.Script(scripts, "scripts/snapshot.sh"))},
		{Path: snapshotServicePath, Content: []byte(service)},
		{Path: snapshotTimerPath, Content: []byte(timer)},
	}
}

// probeSnapshots asks what takes snapshots on a member's host.
func (s Spec) probeSnapshots(p *remote.Probe) {
	p.Unit(SnapshotTimer).Unit(SnapshotService).Path(s.snapshotDir()).Path(s.standardSnapshotDir())
	for _, path := range s.snapshotPaths() {
		p.Path(path)
	}
}

// snapshotsThere reports whether anything on a member's host takes snapshots.
func (h *HostFacts) snapshotsThere(s Spec) bool {
	for _, path := range s.snapshotPaths() {
		if h.Facts.Path(path).Exists() {
			return true
		}
	}
	return h.Facts.Unit(SnapshotTimer).Loaded
}

// snapshots is what each member's host needs to take snapshots, or to stop
// taking them. It comes when the cluster is complete: what is set up is tried.
func (p *planner) snapshots() []engine.Plan {
	var lanes []engine.Plan
	for _, name := range p.s.Names() {
		if p.s.takesSnapshots(name) {
			lanes = append(lanes, p.setUpSnapshots(name))
		} else {
			lanes = append(lanes, p.do.dropSnapshots(p.s, name, p.f.Hosts[name]))
		}
	}
	return lanes
}

func (p *planner) setUpSnapshots(name string) engine.Plan {
	f := p.f.Hosts[name].Facts
	timer, service := f.Unit(SnapshotTimer), f.Unit(SnapshotService)
	on := timer.Running() && timer.Enabled == "enabled" && !timer.NeedsReload && !service.NeedsReload
	var plan engine.Plan
	if dir := f.Path(p.s.snapshotDir()); !dir.Exists() || dir.Owner != account || dir.Mode != "700" {
		plan = plan.Then(p.do.step(p.s, name, "etcd.snapshot.dir", "make "+p.s.snapshotDir(), engine.Safe, func(ctx context.Context) error {
			return p.do.makeSnapshotDir(ctx, p.do.host(p.s, name), p.s)
		}))
		on = false
	}
	for _, file := range p.s.snapshotFiles(name) {
		if !file.Same(f.Path(file.Path)) {
			plan = plan.Then(p.do.write(p.s, name, file))
			on = false
		}
	}
	if !on {
		// Also where all files are there: a run may have been killed since.
		plan = plan.Then(p.do.reload(p.s, name))
	}
	if on && service.Active != "failed" {
		return plan
	}
	why := "take a snapshot, if this member leads, to see that it works"
	switch {
	case p.s.Snapshots.Member != "":
		why = "take a snapshot, to see that it works"
	case service.Active == "failed":
		why = "take a snapshot, if this member leads: " + SnapshotService + " has failed"
	}
	plan = plan.Then(p.do.step(p.s, name, "etcd.snapshot.try", why, engine.Safe, func(ctx context.Context) error {
		return p.do.trySnapshot(ctx, p.s, name)
	}))
	if !on {
		plan = plan.Then(p.do.step(p.s, name, "etcd.snapshot.timer", "start "+SnapshotTimer+", also at boot", engine.Safe, func(ctx context.Context) error {
			h := p.do.host(p.s, name)
			if err := remote.EnableUnit(ctx, h, SnapshotTimer); err != nil {
				return err
			}
			return remote.RestartUnit(ctx, h, SnapshotTimer, 0) // its schedule may have changed
		}))
	}
	return plan
}

// trySnapshot runs the service once, with all that it may and may not do.
func (d *Doer) trySnapshot(ctx context.Context, s Spec, name string) error {
	h := d.host(s, name)
	err := remote.RunUnit(ctx, h, SnapshotService, snapshotTimeout)
	if err == nil || ctx.Err() != nil {
		return err
	}
	lines, _ := remote.Journal(context.WithoutCancel(ctx), h, SnapshotService, 30, "")
	return &problem.Error{
		Host: name, Step: "take a snapshot", Cause: fmt.Errorf("%s failed: %w", SnapshotService, err), Log: lastAttempt(lines),
		Left: "the etcd cluster, running; and the snapshots that there are.", Do: "mend what the log names, then apply again.",
	}
}

// lastAttempt picks what was said from the last start of the service on, but for
// the progress of etcd's tools.
func lastAttempt(lines []string) []string {
	var said []string
	for _, l := range lines {
		if strings.HasPrefix(l, "Starting ") {
			said = nil
			continue
		}
		if text, _ := readable(l); text != "" && !strings.HasPrefix(text, "info: ") {
			said = append(said, text)
		}
	}
	return said[max(0, len(said)-12):]
}

// dropSnapshots stops taking snapshots on a member's host. Those that there are
// stay.
func (d *Doer) dropSnapshots(s Spec, name string, h *HostFacts) engine.Plan {
	if !h.snapshotsThere(s) {
		return engine.Plan{}
	}
	return engine.Sequence(d.step(s, name, "etcd.snapshot.off", "stop taking snapshots; those that there are stay", engine.Safe, func(ctx context.Context) error {
		h := d.host(s, name)
		if err := remote.DropUnits(ctx, h, SnapshotTimer, SnapshotService); err != nil {
			return err
		}
		// The link is what "systemctl enable" has made; with it alone left there,
		// there would be nothing to disable.
		if err := remote.RemoveFiles(ctx, h, append(s.snapshotPaths(), "/etc/systemd/system/timers.target.wants/"+SnapshotTimer)...); err != nil {
			return err
		}
		return remote.DaemonReload(ctx, h)
	}))
}

// purgeSnapshots deletes the snapshots on a member's host: they hold all that was
// in etcd. Those that an apply has taken are in the usual folder, also where the
// timer's are elsewhere.
func (d *Doer) purgeSnapshots(s Spec, name string, h *HostFacts) engine.Plan {
	var dirs []string
	for _, dir := range slices.Compact([]string{s.snapshotDir(), s.standardSnapshotDir()}) {
		if h.Facts.Path(dir).Exists() {
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) == 0 {
		return engine.Plan{}
	}
	return engine.Sequence(d.step(s, name, "etcd.purge.snapshots", "delete the snapshots in "+strings.Join(dirs, " and "), engine.Destructive, func(ctx context.Context) error {
		h := d.host(s, name)
		for _, dir := range dirs {
			if err := remote.PurgeTree(ctx, h, dir); err != nil {
				return err
			}
		}
		return remote.RemoveEmptyDirs(ctx, h, SnapshotDirectory)
	}))
}
