package labhost

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pgha/terraform-provider-pgha/lab/internal/network"
	"github.com/pgha/terraform-provider-pgha/lab/internal/plan"
	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
)

// supervise runs a host until it is powered off, and again when it reboots:
// nspawn ends with status 133 then and leaves that to its caller. The host's
// end of the cable can outlive the host, and the next boot of the same name
// would fail with "File exists".
const supervise = `
groups=$1 port=$2
shift 2
for g in $groups; do echo $$ > "$g"; done
while :; do
	ip link delete "$port" 2>/dev/null
	"$@"
	test $? = 133 || exit 0
done
`

// boot powers a host on. Its disk must be there, and its network.
func (p place) boot(s *state, h *hostState) error {
	if err := p.mountRoot(h); err != nil {
		return err
	}
	group := p.hostGroup(h.Name)
	dir, err := group.Open()
	if err != nil {
		return err
	}
	defer dir.Close()
	procs, err := group.ProcsFiles()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(p.answered(h.Name)); err != nil {
		return err
	}
	console, err := os.OpenFile(p.console(h.Name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer console.Close()

	dc := s.number(h.Datacenter)
	cmd := exec.Command("nsenter", "--net="+network.NamespacePath(p.name),
		"sh", "-c", supervise, "sh", strings.Join(procs, " "), s.Net.Port(dc, h.Number),
		"systemd-nspawn", "-q", "--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off", "--link-journal=no",
		"-b", "-D", p.root(h.Name), "-M", s.Net.Machine(dc, h.Number), "--hostname="+h.Name,
		"--network-veth", "--network-bridge="+plan.Bridge(dc),
		"--capability=CAP_NET_RAW,CAP_NET_ADMIN",
		"--bind-ro="+h.Pool+":/pool/"+s.Release)
	// This machine may have the hybrid layout of control groups. Debian's
	// systemd wants the unified one, whatever this machine has.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1"}
	cmd.Stdout, cmd.Stderr = console, console
	// In a session of its own, so that Ctrl-C at the lab's terminal does not
	// reach it; and in its group from the first moment, so that nothing of it
	// can be missed when the group is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true}
	cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start host %s: %w", h.Name, err)
	}
	go func() { _ = cmd.Wait() }() // for as long as we live; after that init reaps it
	return nil
}

// answered is a file that is there once a host that was booted let somebody in.
// Without it the one who booted it may have been killed before that.
func (p place) answered(host string) string { return filepath.Join(p.host(host), "answered") }

func (p place) console(host string) string { return filepath.Join(p.host(host), "console.log") }

// running reports whether a host is powered on.
func (p place) running(host string) bool {
	s, err := p.hostGroup(host).State()
	return err == nil && s.Populated
}

// powerOff ends everything a host runs, at once, and keeps its disk.
func (p place) powerOff(ctx context.Context, s *state, h *hostState) error {
	group := p.hostGroup(h.Name)
	if err := group.Kill(ctx); err != nil {
		return err
	}
	forgetMachine(s.Net.Machine(s.number(h.Datacenter), h.Number), p.root(h.Name))
	if err := sys.UnmountBelow(p.root(h.Name)); err != nil {
		return err
	}
	return group.Remove(ctx)
}

// forgetMachine removes what nspawn leaves in /run when it is killed. Later
// versions refuse to start a machine whose mounts are there.
func forgetMachine(machine, root string) {
	const run = "/run/systemd/nspawn"
	for _, d := range []string{"propagate", "unix-export"} {
		dir := filepath.Join(run, d, machine)
		_ = sys.UnmountBelow(dir)
		_ = os.Remove(dir)
	}
	// A lock's file, named after the root's device and inode.
	if st, err := os.Stat(root); err == nil {
		if st, ok := st.Sys().(*syscall.Stat_t); ok && sys.Mounted(root) {
			_ = os.Remove(filepath.Join(run, "locks", fmt.Sprintf("inode-%d:%d", st.Dev, st.Ino)))
		}
	}
	for _, d := range []string{"propagate", "unix-export", "locks", "."} {
		_ = os.Remove(filepath.Join(run, d)) // unless something else is in it
	}
}

// bootTimeout is how long a host may take to answer. It takes two seconds on
// an idle machine; many hosts on a busy one take their time.
const bootTimeout = 3 * time.Minute

// awaitSSH returns when a host lets root in.
func (l *Lab) awaitSSH(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("it did not within %v", bootTimeout))
	defer cancel()
	for {
		client, err := l.Dial(ctx, host)
		if err == nil {
			client.Close()
			return os.WriteFile(l.answered(host), nil, 0o644)
		}
		if !l.running(host) {
			return fmt.Errorf("host %s ended while it was booting; its console (%s) ends with:\n%s", host, l.console(host), tailOf(l.console(host)))
		}
		if perr := sys.Pause(ctx, 20*time.Millisecond); perr != nil {
			return fmt.Errorf("waiting for host %s to answer to SSH: %w; last: %w; its console is %s", host, perr, err, l.console(host))
		}
	}
}

// awaitBoot returns when a new host has started all it starts.
func (l *Lab) awaitBoot(ctx context.Context, host string) error {
	if err := l.awaitSSH(ctx, host); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("it did not within %v", bootTimeout))
	defer cancel()
	state, err := l.SSH(ctx, host, "systemctl is-system-running --wait")
	if state == "running" {
		return nil
	}
	failed, _ := l.SSH(ctx, host, "systemctl --failed --no-legend --plain; systemctl list-jobs --no-legend")
	return fmt.Errorf("host %s booted, but systemd says %q: %w\n%s", host, state, err, failed)
}

// tailOf returns the end of a file.
func tailOf(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}
