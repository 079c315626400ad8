package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
)

// needs are the commands the lab runs, and the Debian package of each.
var needs = []struct{ command, pkg string }{
	{"mmdebstrap", "mmdebstrap"},
	{"systemd-nspawn", "systemd-container"},
	{"nft", "nftables"},
	{"ip", "iproute2"},
	{"nsenter", "util-linux"},
	{"apt-ftparchive", "apt-utils"},
	{"ssh", "openssh-client"},
}

// missing returns the packages that have to be installed, and the commands.
func missing() (packages, commands []string) {
	for _, n := range needs {
		if _, err := exec.LookPath(n.command); err != nil {
			packages, commands = append(packages, n.pkg), append(commands, n.command)
		}
	}
	if _, err := keyring(); err != nil {
		packages, commands = append(packages, "debian-archive-keyring"), append(commands, "(Debian's archive keys)")
	}
	return packages, commands
}

// Require sees to it that this machine has what the lab needs. What Debian
// packages it installs, if it may; of anything else it says that it is
// missing.
func Require(ctx context.Context, log func(format string, args ...any)) error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("the lab runs on Linux only, not on %s: its hosts are containers with systemd", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		return errors.New("the lab has to run as root: it mounts file systems and makes network namespaces; run it with sudo")
	}
	if packages, _ := missing(); len(packages) > 0 {
		if err := supply(ctx, log); err != nil {
			return err
		}
	}
	return machineID()
}

// supplyLock keeps labs from installing packages at the same time, whatever
// their cache folders are.
const supplyLock = "/run/lock/pgha-lab-packages"

// supply installs what is missing.
func supply(ctx context.Context, log func(format string, args ...any)) error {
	release, err := sys.Lock(ctx, supplyLock, func(holder string) { log("waiting for %s, which is installing packages on this machine", holder) })
	if err != nil {
		return err
	}
	defer release()
	packages, commands := missing()
	if len(packages) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("this machine lacks %s, and has no apt-get to install them with; Debian calls the packages %s",
			strings.Join(commands, ", "), strings.Join(packages, " "))
	}
	log("installing %s on this machine", strings.Join(packages, " "))
	// An old package of keys lacks those of later releases: ask for the newest.
	if !slices.Contains(packages, "debian-archive-keyring") {
		packages = append(packages, "debian-archive-keyring")
	}
	// Whoever else installs something just now is waited for.
	install := append([]string{"apt-get", "-y", "-q", "-o", "DPkg::Lock::Timeout=600", "--no-install-recommends", "install"}, packages...)
	for _, args := range [][]string{{"apt-get", "-q", "update"}, install} {
		if err := patiently(ctx, args); err != nil {
			return fmt.Errorf("install what the lab needs on this machine (%s): %w", strings.Join(packages, " "), err)
		}
	}
	if _, commands := missing(); len(commands) > 0 {
		return fmt.Errorf("this machine still lacks %s after installing %s", strings.Join(commands, ", "), strings.Join(packages, " "))
	}
	return nil
}

// patiently runs apt-get, again while another one holds the lock on the package
// lists: that lock apt-get itself does not wait for.
func patiently(ctx context.Context, args []string) error {
	for giveUp := time.Now().Add(10 * time.Minute); ; {
		cmd := sys.Command{Args: args, Env: []string{"DEBIAN_FRONTEND=noninteractive"}}
		// Interrupted, dpkg would leave the machine in need of repair.
		_, err := cmd.Run(context.WithoutCancel(ctx))
		if err == nil || time.Now().After(giveUp) || !strings.Contains(err.Error(), "Could not get lock") {
			return err
		}
		if err := sys.Pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// machineID sees to it that this machine has an id: nspawn makes the hardware
// addresses of its network devices from it, and fails without one.
func machineID() error {
	if b, err := os.ReadFile("/etc/machine-id"); err == nil && len(strings.TrimSpace(string(b))) == 32 {
		return nil
	}
	id := NewMachineID()
	if err := os.WriteFile("/etc/machine-id", []byte(id+"\n"), 0o444); err != nil {
		return fmt.Errorf("give this machine an id, which systemd-nspawn needs: %w", err)
	}
	return nil
}

// newUUID asks the kernel for a random one.
func newUUID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		panic(err) // /proc has it since ever
	}
	return strings.TrimSpace(string(b))
}

// NewMachineID returns a new id as /etc/machine-id has it, without a newline.
func NewMachineID() string { return strings.ReplaceAll(newUUID(), "-", "") }
