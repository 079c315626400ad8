package network

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pgha/terraform-provider-pgha/lab/internal/delay"
	"github.com/pgha/terraform-provider-pgha/lab/internal/plan"
	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
)

// Distance is how far each datacenter is from the others, and the process
// that makes it so.
type Distance struct {
	Network
	// Settings has one element per datacenter, in the order of their numbers.
	Settings []delay.Setting
	// Folder is where the process's configuration and log are kept.
	Folder string
	// Group is the control group that the process lives in.
	Group sys.Group
}

// routes is the number of the routing table that leads into the device.
const routes = "77"

// Apply makes the distances so. Where there are none, packets pass through
// the kernel alone, and no process runs.
func (d Distance) Apply(ctx context.Context) error {
	any := false
	for _, s := range d.Settings {
		any = any || s != (delay.Setting{})
	}
	if !any {
		return d.stop(ctx)
	}
	if err := os.MkdirAll(d.Folder, 0o755); err != nil {
		return err
	}
	if err := sys.WriteFile(d.configFile(), d.config(), 0o644); err != nil {
		return err
	}
	state, err := d.Group.State()
	if err != nil {
		return err
	}
	if state.Populated {
		d.Group.Signal(syscall.SIGHUP)
	} else if err := d.start(); err != nil {
		return fmt.Errorf("start the process that delays packets: %w", err)
	}
	return d.route(ctx)
}

func (d Distance) configFile() string { return filepath.Join(d.Folder, "delay.json") }

func (d Distance) config() []byte {
	var c delay.Config
	for i, s := range d.Settings {
		dc := i + 1
		c.Zones = append(c.Zones, delay.Zone{
			Prefixes: []netip.Prefix{d.Net.Subnet4(dc), d.Net.Subnet6(dc)},
			Setting:  s,
		})
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		panic(err) // nothing in it can fail
	}
	return b
}

// start makes the device and starts the process that serves it.
func (d Distance) start() error {
	// The process makes the device, and takes it along when it dies.
	log, err := os.OpenFile(filepath.Join(d.Folder, "delay.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := d.Group.Create(); err != nil {
		return err
	}
	files, err := d.Group.ProcsFiles()
	if err != nil {
		return err
	}
	said, ready, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{delay.Argv0, NamespacePath(d.Lab), d.configFile()}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{ready}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	ready.Close()
	if err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // for as long as we live, else init reaps it
	for _, f := range files {
		if err := os.WriteFile(f, fmt.Appendf(nil, "%d", cmd.Process.Pid), 0); err != nil {
			_ = cmd.Process.Kill()
			return fmt.Errorf("put the process into its control group: %w", err)
		}
	}
	_ = said.SetReadDeadline(time.Now().Add(10 * time.Second))
	b, err := io.ReadAll(said)
	if err != nil || string(b) != "ready" {
		_ = cmd.Process.Kill()
		return fmt.Errorf("it did not become ready: %s %v", strings.TrimSpace(string(b)), err)
	}
	return nil
}

// route leads packets from one datacenter to another into the device. Those
// between this machine and a host keep their way.
func (d Distance) route(ctx context.Context) error {
	commands := []string{
		// The process is slower than the kernel: let bursts queue up.
		"link set " + delay.Device + " txqueuelen 10000 up",
	}
	for dc := 1; dc <= d.Datacenters; dc++ {
		commands = append(commands,
			fmt.Sprintf("route replace %s dev %s table %s", d.Net.Subnet4(dc), delay.Device, routes),
			fmt.Sprintf("route replace %s dev %s table %s", d.Net.Subnet6(dc), delay.Device, routes),
		)
	}
	ns := plan.Namespace(d.Lab)
	if err := ip(ctx, "-n", ns)(commands...); err != nil {
		return err
	}
	for _, family := range []string{"-4", "-6"} {
		have, err := sys.Run(ctx, "ip", "-n", ns, family, "rule", "show")
		if err != nil {
			return err
		}
		var rules []string
		for dc := 1; dc <= d.Datacenters; dc++ {
			if !strings.Contains(have, "iif "+plan.Bridge(dc)+" lookup") {
				rules = append(rules, fmt.Sprintf("rule add iif %s lookup %s", plan.Bridge(dc), routes))
			}
		}
		if rules != nil {
			if err := ip(ctx, "-n", ns, family)(rules...); err != nil {
				return err
			}
		}
	}
	return nil
}

// stop ends the process and leads packets past it.
func (d Distance) stop(ctx context.Context) error {
	ns := plan.Namespace(d.Lab)
	for _, family := range []string{"-4", "-6"} {
		have, err := sys.Run(ctx, "ip", "-n", ns, family, "rule", "show")
		if err != nil {
			return err
		}
		var rules []string
		for dc := 1; dc <= d.Datacenters; dc++ {
			if strings.Contains(have, "iif "+plan.Bridge(dc)+" lookup") {
				rules = append(rules, fmt.Sprintf("rule delete iif %s lookup %s", plan.Bridge(dc), routes))
			}
		}
		if rules != nil {
			if err := ip(ctx, "-n", ns, family)(rules...); err != nil {
				return err
			}
		}
	}
	if err := d.Group.Kill(ctx); err != nil {
		return err
	}
	return d.Group.Remove(ctx)
}
