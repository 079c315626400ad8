package remote

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// AptWait is how long an apt operation waits for somebody else's run
// (unattended-upgrades on a fresh machine can take minutes).
const AptWait = 5 * time.Minute

// aptTimeout bounds one apt run, waiting and downloads included.
const aptTimeout = 30 * time.Minute

// Pin is a package at an exact version; an empty version is any.
type Pin struct{ Name, Version string }

func (p Pin) String() string {
	if p.Version == "" {
		return p.Name
	}
	return p.Name + "=" + p.Version
}

func apt(ctx context.Context, h host.Host, op string, args ...string) (host.Result, error) {
	return h.Run(ctx, host.Cmd{
		Name:    op,
		Script:  script("apt_lib.sh") + script(strings.ReplaceAll(op, ".", "_")+".sh"),
		Args:    append([]string{strconv.Itoa(int(AptWait.Seconds()))}, args...),
		Timeout: aptTimeout,
	})
}

// UpdateLists renews the package lists. Any repository that fails is an error.
func UpdateLists(ctx context.Context, h host.Host) error {
	_, err := apt(ctx, h, "apt.update")
	return aptProblem(err)
}

// Install installs packages at exactly these versions. No service is started
// or restarted by it and no package is removed for it.
func Install(ctx context.Context, h host.Host, pins ...Pin) error {
	args := make([]string, len(pins))
	for i, p := range pins {
		args[i] = p.String()
	}
	_, err := apt(ctx, h, "apt.install", args...)
	return aptProblem(err)
}

// GuardPath is the file that keeps dpkg from starting services while packages
// are installed.
const GuardPath = "/usr/sbin/policy-rc.d"

// guardMark is how our guard is told from the administrator's own. It is in
// scripts/apt_lib.sh, too.
const guardMark = "# pgha: keeps dpkg from starting or restarting services while packages are installed"

// Guarded reports whether what is at GuardPath is our guard, left behind by a
// run that was killed: no service would start after an installation any more.
func Guarded(p Path) bool { return strings.Contains(string(p.Content), guardMark) }

// RemoveGuard removes our guard, and puts back the administrator's own. It does
// so holding the lock that installations hold, so as not to take it from one
// that is under way.
func RemoveGuard(ctx context.Context, h host.Host) error {
	_, err := apt(ctx, h, "apt.unguard")
	return aptProblem(err)
}

// Hold keeps packages at their versions, whatever upgrades others run.
func Hold(ctx context.Context, h host.Host, names ...string) error {
	_, err := apt(ctx, h, "apt.hold", append([]string{"hold"}, names...)...)
	return aptProblem(err)
}

// Unhold gives packages free again.
func Unhold(ctx context.Context, h host.Host, names ...string) error {
	_, err := apt(ctx, h, "apt.hold", append([]string{"unhold"}, names...)...)
	return aptProblem(err)
}

// Remove removes packages and leaves their configuration and data.
func Remove(ctx context.Context, h host.Host, names ...string) error {
	_, err := apt(ctx, h, "apt.remove", names...)
	return aptProblem(err)
}

// Resolve finds the newest package revision that satisfies a pin among those
// that the host's repositories have. The error lists what there is.
func Resolve(name, pin string, available []string) (Pin, error) {
	if v, ok := debver.Newest(pin, available); ok {
		return Pin{name, v}, nil
	}
	if len(available) == 0 {
		return Pin{}, &problem.Error{
			Cause: fmt.Errorf("no repository of this host has the package %s", name),
			Do:    "add a repository that has it to the host's pgha_host resource (apt.repositories), or correct the version.",
		}
	}
	return Pin{}, &problem.Error{
		Cause: fmt.Errorf("no repository of this host has %s in version %s; there are: %s", name, pin, strings.Join(available, ", ")),
		Do:    "choose one of these versions, or add a repository that has the wanted one to the host's pgha_host resource (apt.repositories).",
	}
}

var aptError = regexp.MustCompile(`(?m)^(E|Err|W): ?.*$|^dpkg: .*$|^ .*(Depends|Conflicts|Breaks): .*$`)

// aptProblem picks what matters from apt's output and says what to do about
// the failures that users meet.
func aptProblem(err error) error {
	var e *host.Error
	if !errors.As(err, &e) || e.Kind != host.KindExit {
		return err
	}
	lines := aptError.FindAllString(e.Stderr, -1)
	if len(lines) == 0 {
		lines = strings.Split(strings.TrimSpace(e.Stderr), "\n")
	}
	if len(lines) > 12 {
		lines = lines[len(lines)-12:]
	}
	p := &problem.Error{Host: e.Host, Cause: err, Log: lines, Left: "the packages that were installed before."}
	said := e.Stderr
	switch {
	case e.ExitCode == 75, strings.Contains(said, "Could not get lock"), strings.Contains(said, "Unable to acquire the dpkg frontend lock"):
		p.Cause = fmt.Errorf("another program has held the package lock for %s", AptWait)
		p.Do = "wait for it to finish (unattended-upgrades on a new machine takes a few minutes) and apply again."
	case strings.Contains(said, "is not valid yet"), strings.Contains(said, "Release file for") && strings.Contains(said, "expired"):
		p.Cause = errors.New("a repository's Release file is out of date")
		p.Do = "renew the mirror, check the host's clock, or set apt.allow_expired_release on its pgha_host resource."
	case strings.Contains(said, "NO_PUBKEY"), strings.Contains(said, "is not signed"):
		p.Cause = errors.New("a repository's signature could not be checked")
		p.Do = "give the repository's signing key in apt.repositories of the host's pgha_host resource."
	case strings.Contains(said, "Packages need to be removed but remove is disabled"):
		p.Cause = errors.New("installing this would remove other packages, which is never done")
		p.Do = "resolve the conflict on the host by hand, then apply again."
	case strings.Contains(said, "No space left on device"), strings.Contains(said, "You don't have enough free space"):
		p.Cause = errors.New("the host's disk is full")
		p.Do = "make room and apply again."
	case strings.Contains(said, "Failed to fetch"), strings.Contains(said, "Temporary failure resolving"), strings.Contains(said, "Could not connect"):
		p.Cause = errors.New("a repository could not be read")
		p.Do = "check the repositories and the proxy of the host's pgha_host resource, and that the host can reach them."
	default:
		p.Cause = fmt.Errorf("%s ended with status %d", e.Op, e.ExitCode)
		p.Do = "see the lines above; once the cause is gone, apply again."
	}
	return p
}
