package patroni

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Watchdog is how a node uses the kernel's watchdog, which resets the host when
// the leader's Patroni does not come to renew its lock.
type Watchdog struct {
	Mode string // "off" (or empty), "automatic", "required"
	// Device is one that the host has by itself; empty is that of the kernel's
	// softdog, which is then loaded.
	Device       string
	SafetyMargin int64 // seconds before the lock runs out
}

// On reports whether a watchdog is to be used.
func (w Watchdog) On() bool { return w.Mode != "" && w.Mode != "off" }

func (w Watchdog) device() string {
	if w.Device != "" {
		return w.Device
	}
	return "/dev/watchdog"
}

// Check says why Patroni would not use the watchdog with the cluster's timing
// (Patroni, watchdog/base.py, timing_slack), or nothing. Patroni only logs it.
func (w Watchdog) Check(ttl, loopWait int64) string {
	if !w.On() || ttl == 0 || ttl-w.SafetyMargin >= loopWait {
		return ""
	}
	return fmt.Sprintf("the watchdog would have to be fed every %d seconds (ttl %d - safety margin %d), and Patroni feeds it every %d (loop_wait): Patroni does not use it then. The safety margin may be %d seconds at most",
		ttl-w.SafetyMargin, ttl, w.SafetyMargin, loopWait, ttl-loopWait)
}

// section is Patroni's. The device is written whenever there is a watchdog: a
// replica whose file says nothing but another mode goes on without one after a
// reload (Patroni, watchdog/base.py, reload_config).
func (w Watchdog) section() watchdog {
	if !w.On() {
		return watchdog{Mode: "off"}
	}
	return watchdog{Mode: w.Mode, Device: w.device(), SafetyMargin: &w.SafetyMargin}
}

// found is what a file of ours says. Without a watchdog it says nothing of a margin.
func (s watchdog) found() Watchdog {
	w := Watchdog{Mode: s.Mode, SafetyMargin: 5}
	if s.SafetyMargin != nil {
		w.SafetyMargin = *s.SafetyMargin
	}
	if s.Device != (Watchdog{}).device() {
		w.Device = s.Device
	}
	return w
}

// What we write for it.
const (
	watchdogModulePath = "/etc/modules-load.d/pgha-watchdog.conf"
	watchdogRulePath   = "/etc/udev/rules.d/61-pgha-watchdog.rules"
)

// files make the device be there and be Patroni's after a boot.
func (w Watchdog) files() []remote.File {
	if !w.On() {
		return nil
	}
	const head = "# Written by the pgha provider; changes are overwritten.\n"
	files := []remote.File{{
		Path:    watchdogRulePath,
		Content: []byte(head + `KERNEL=="` + path.Base(w.device()) + `", OWNER="` + account + `", GROUP="` + account + `", MODE="0600"` + "\n"),
	}}
	if w.Device == "" {
		files = append(files, remote.File{Path: watchdogModulePath, Content: []byte(head + "softdog\n")})
	}
	return files
}

// usable reports whether Patroni may open what is at the device's path.
func usable(device remote.Path) bool {
	mode, err := strconv.ParseUint(device.Mode, 8, 32)
	return device.Type == remote.Other && device.Owner == account && err == nil && mode&0o200 != 0
}

// watchdog is the way to a host with the watchdog that is wanted, or without what
// there was of one.
func (p *nodePlanner) watchdog() engine.Plan {
	n, f, do, w := p.n, p.f, p.do, p.n.Watchdog
	var plan engine.Plan
	wanted := map[string]bool{}
	for _, file := range w.files() {
		wanted[file.Path] = true
		if !file.Same(f.Facts.Path(file.Path)) {
			plan = plan.Then(do.write(n, file))
		}
	}
	for _, path := range []string{watchdogModulePath, watchdogRulePath} {
		if !wanted[path] && f.Facts.Path(path).Exists() {
			plan = plan.Then(do.dropWatchdog(n, path))
		}
	}
	device := f.Facts.Path(w.device())
	// Without a device, "automatic" goes on without one, and so do we.
	if w.On() && !usable(device) && (w.Mode == "required" || device.Exists() || !plan.Empty()) || w.On() && !plan.Empty() {
		plan = plan.Then(do.prepareWatchdog(n))
	}
	return plan
}

// prepareWatchdog makes the device be there and be Patroni's now.
func (d *Doer) prepareWatchdog(n Node) engine.Step {
	title := "give " + n.Watchdog.device() + " to " + account
	module := ""
	if n.Watchdog.Device == "" {
		title, module = "load the kernel's softdog and "+title, "softdog"
	}
	return d.step(n, "patroni.watchdog", title, engine.Safe, func(ctx context.Context) error {
		_, err := d.host(n).Run(ctx, host.Cmd{
			Name: "patroni.watchdog", Script: remote.Script(scripts, "scripts/watchdog.sh"), Args: []string{n.Watchdog.device(), account, module},
		})
		if err != nil && host.KindOf(err) != 0 && !host.Unreachable(err) && n.Watchdog.Mode == "automatic" {
			d.Log.WarnContext(ctx, "the watchdog cannot be used; Patroni goes on without one", "node", n.Name, "error", err)
			return nil
		}
		return err
	})
}

// dropWatchdog removes one of our files. The device goes back to root; a module
// stays until the next boot, since Patroni may still have it open.
func (d *Doer) dropWatchdog(n Node, path string) engine.Step {
	return d.step(n, "patroni.watchdog.remove", "remove "+path, engine.Safe, func(ctx context.Context) error {
		return remote.RemoveFiles(ctx, d.host(n), path)
	})
}

// WatchdogTrouble says what keeps a node from using the watchdog that it is to
// use, as its host is now. It changes nothing.
func (m *Manager) WatchdogTrouble(ctx context.Context, n Node) ([]string, error) {
	if !n.Watchdog.On() {
		return nil, nil
	}
	h := m.Fleet.Host(n.Target)
	var p remote.Probe
	device := n.Watchdog.device()
	f, err := p.Path(device).Run(ctx, h)
	if err != nil {
		return nil, err
	}
	res, err := h.Run(ctx, host.Cmd{
		Name: "patroni.watchdog.look", Script: remote.Script(scripts, "scripts/watchdog_look.sh"), Args: []string{device, Unit},
	})
	if err != nil {
		return nil, err
	}
	facts := map[string]string{}
	for line := range strings.Lines(string(res.Stdout)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		facts[key] = value
	}
	return n.Watchdog.trouble(f.Path(device), facts), nil
}

// trouble judges what the host said.
func (w Watchdog) trouble(device remote.Path, facts map[string]string) []string {
	var list []string
	switch {
	case device.Exists() && device.Type != remote.Other:
		list = append(list, w.device()+" is not a device")
	case device.Exists():
	case w.Device != "":
		list = append(list, "there is no "+w.Device+" on this host")
	case facts["softdog"] == "missing" && facts["container"] != "" && facts["container"] != "none":
		list = append(list, fmt.Sprintf("there is no %s on this host, and it is a container (%s), whose kernel is not its own: softdog cannot be loaded", w.device(), facts["container"]))
	case facts["softdog"] == "missing":
		list = append(list, fmt.Sprintf("there is no %s on this host, and its kernel %s has no module softdog", w.device(), facts["kernel"]))
	}
	if feeds := facts["systemd"]; feeds != "" && feeds != "0" && feeds != "infinity" {
		list = append(list, "systemd itself uses the watchdog (RuntimeWatchdogSec="+feeds+" in /etc/systemd/system.conf)")
	}
	if holder := facts["held"]; holder != "" {
		list = append(list, w.device()+" is open in another process: "+holder)
	}
	return list
}

// checkWatchdog refuses a node that is required to have a watchdog where none can
// be had: it could never lead.
func (m *Manager) checkWatchdog(ctx context.Context, n Node) error {
	if n.Watchdog.Mode != "required" {
		return nil
	}
	trouble, err := m.WatchdogTrouble(ctx, n)
	if err != nil || len(trouble) == 0 {
		return err
	}
	return &problem.Error{
		Host: n.Target.Name, Step: "look at the watchdog", Cause: errors.New(strings.Join(trouble, "; ")), Left: "everything on the host.",
		Do: `mend that, name another device (watchdog_device), or set watchdog to "automatic" or "off". With "required" and without a watchdog this node could never lead.`,
	}
}
