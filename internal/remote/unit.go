package remote

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

func unit(ctx context.Context, h host.Host, timeout time.Duration, verb string, names ...string) error {
	_, err := h.Run(ctx, host.Cmd{
		Name: "unit", Script: script("unit.sh"), Args: append([]string{verb}, names...), Timeout: timeout,
	})
	return err
}

// DaemonReload makes systemd read unit files again.
func DaemonReload(ctx context.Context, h host.Host) error { return unit(ctx, h, 0, "daemon-reload") }

// EnableUnit makes units start at boot, for systemd alone: what a package's SysV script of
// the same name has in /etc/rc?.d stays as it is.
func EnableUnit(ctx context.Context, h host.Host, names ...string) error {
	return unit(ctx, h, 0, "enable", names...)
}

// DisableUnit makes units not start at boot, nor when their packages are upgraded, for which
// SysV links count as well. It does not stop them.
func DisableUnit(ctx context.Context, h host.Host, names ...string) error {
	return unit(ctx, h, 0, "disable", names...)
}

// StartUnit asks for a unit to start and does not wait until it has. A unit
// whose conditions do not hold is "started" without an error, so the caller
// always checks that it runs.
func StartUnit(ctx context.Context, h host.Host, name string) error {
	if err := unit(ctx, h, 0, "reset-failed", name); err != nil {
		return err
	}
	return unit(ctx, h, 0, "start-no-block", name)
}

// RunUnit starts a unit that ends by itself, and waits for that.
func RunUnit(ctx context.Context, h host.Host, name string, timeout time.Duration) error {
	if err := unit(ctx, h, 0, "reset-failed", name); err != nil {
		return err
	}
	return unit(ctx, h, timeout, "start", name)
}

// DropUnits stops units whose files are about to be removed, and forgets how
// they ended. Those that systemd does not know are fine.
func DropUnits(ctx context.Context, h host.Host, names ...string) error {
	return unit(ctx, h, 0, "drop", names...)
}

// StopUnit stops a unit and waits for it for at most the given time.
func StopUnit(ctx context.Context, h host.Host, name string, timeout time.Duration) error {
	return unit(ctx, h, timeout, "stop", name)
}

// RestartUnit restarts a unit and waits until it is up.
func RestartUnit(ctx context.Context, h host.Host, name string, timeout time.Duration) error {
	return unit(ctx, h, timeout, "restart", name)
}

// JournalEnd marks the place that a host's journal has reached, for Journal. It
// is empty where nothing was ever logged.
func JournalEnd(ctx context.Context, h host.Host) (string, error) {
	res, err := h.Run(ctx, host.Cmd{Name: "journal.end", Script: script("journal_end.sh")})
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(res.Stdout)), nil
}

// Journal returns a unit's last lines; only what was logged after a place that
// JournalEnd marked, if that is not empty.
func Journal(ctx context.Context, h host.Host, name string, lines int, after string) ([]string, error) {
	args := []string{name, strconv.Itoa(lines)}
	if after != "" {
		args = append(args, after)
	}
	res, err := h.Run(ctx, host.Cmd{Name: "journal", Script: script("journal.sh"), Args: args})
	if err != nil {
		return nil, err
	}
	text := strings.TrimRight(string(res.Stdout), "\n")
	if text == "" {
		return nil, nil
	}
	return strings.Split(text, "\n"), nil
}

// ApplySysctl sets kernel settings now and returns the keys that this kernel
// does not let be set.
func ApplySysctl(ctx context.Context, h host.Host, settings map[string]string) (refused []string, err error) {
	args := make([]string, 0, len(settings))
	for _, k := range sortedKeys(settings) {
		args = append(args, k+"="+settings[k])
	}
	res, err := h.Run(ctx, host.Cmd{Name: "sysctl.apply", Script: script("sysctl_apply.sh"), Args: args})
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(res.Stdout)), nil
}

// LockScript holds a lock on a host for as long as it is fed; package roll
// runs it.
func LockScript() string { return script("flock_hold.sh") }

// ReloadUnit makes a unit read its configuration again.
func ReloadUnit(ctx context.Context, h host.Host, name string) error {
	return unit(ctx, h, 0, "reload", name)
}
