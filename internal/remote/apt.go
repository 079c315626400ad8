package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// AptWait is how long an apt operation waits for somebody else's run
// (unattended-upgrades on a fresh machine can take minutes).
const AptWait = 5 * time.Minute

const (
	// aptTimeout bounds one apt run, downloads included.
	aptTimeout = 30 * time.Minute
	// aptSettle is how long the host itself waits for a lock before it says who
	// has it.
	aptSettle = 5 * time.Second
	// aptAgain is how long to wait before the next try.
	aptAgain = 2 * time.Second
)

// Apt is a host's package manager.
type Apt struct {
	Host host.Host
	Log  *slog.Logger
	// Wait is how long to wait for somebody else's run; zero is AptWait.
	Wait time.Duration
}

// Pin is a package at an exact version; an empty version is any.
type Pin struct{ Name, Version string }

func (p Pin) String() string {
	if p.Version == "" {
		return p.Name
	}
	return p.Name + "=" + p.Version
}

// run runs a script. While somebody else installs packages, it waits and tells
// the log for whom.
func (a Apt) run(ctx context.Context, op string, args ...string) error {
	limit := a.Wait
	if limit == 0 {
		limit = AptWait
	}
	settle := min(aptSettle, limit)
	cmd := host.Cmd{
		Name:    op,
		Script:  script("apt_lib.sh") + script(strings.ReplaceAll(op, ".", "_")+".sh"),
		Args:    append([]string{strconv.Itoa(int(settle.Seconds()))}, args...),
		Timeout: aptTimeout,
	}
	_, err := a.Host.Run(ctx, cmd)
	who := holder(err)
	if who == "" {
		return aptProblem(err)
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last := err
	err = wait.Until(bounded, a.Log, "the package lock of "+a.Host.Name()+", held by "+who, aptAgain, func(context.Context) (bool, string, error) {
		// Not the bounded context: what has got the lock is let finish.
		_, last = a.Host.Run(ctx, cmd)
		who = holder(last)
		return who == "", "it is held by " + who, nil
	})
	if who != "" && ctx.Err() == nil {
		return &problem.Error{
			Host: a.Host.Name(), Cause: fmt.Errorf("another program has held the package lock for %s: %s", limit, who),
			Left: "the packages that were installed before.",
			Do:   "see on the host what it does, wait for it to finish (unattended-upgrades on a new machine takes a few minutes) and apply again.",
		}
	}
	if err != nil {
		return err
	}
	return aptProblem(last)
}

var aptHolder = regexp.MustCompile(`(?:held by|locked by) ([^\n]+)`)

// holder says who has a lock that an operation failed for, empty if it failed for
// another reason or not at all.
func holder(err error) string {
	var e *host.Error
	if !errors.As(err, &e) || e.Kind != host.KindExit {
		return ""
	}
	busy := e.ExitCode == 75
	for _, says := range []string{"Could not get lock", "Unable to acquire the dpkg frontend lock", "frontend lock was locked", "database lock was locked"} {
		busy = busy || strings.Contains(e.Stderr, says)
	}
	switch m := aptHolder.FindStringSubmatch(e.Stderr); {
	case !busy:
		return ""
	case m != nil:
		return strings.TrimSpace(m[1])
	}
	return "a program that does not say who it is"
}

// UpdateLists renews the package lists. Any repository that fails is an error.
func (a Apt) UpdateLists(ctx context.Context) error { return a.run(ctx, "apt.update") }

// Install installs packages at exactly these versions. No service is started
// or restarted by it and no package is removed for it.
func (a Apt) Install(ctx context.Context, pins ...Pin) error {
	args := make([]string, len(pins))
	for i, p := range pins {
		args[i] = p.String()
	}
	return a.run(ctx, "apt.install", args...)
}

// Download fetches what Install would, and installs nothing.
func (a Apt) Download(ctx context.Context, pins ...Pin) error {
	args := make([]string, len(pins))
	for i, p := range pins {
		args[i] = p.String()
	}
	return a.run(ctx, "apt.download", args...)
}

// How a unit's process is ended for Exchange.
const (
	// Stop has it end by itself.
	Stop = "stop"
	// Kill leaves what else runs in the unit alone.
	Kill = "kill"
)

// Exchange ends a unit's process, installs packages at exactly these versions, and
// starts the unit again, without waiting until it has started: in one go, which comes to
// its end on the host whoever goes away meanwhile, and starts the unit also if the
// installation fails. Without pins it is a restart.
func (a Apt) Exchange(ctx context.Context, unit, how string, pins ...Pin) error {
	args := []string{how, unit}
	for _, p := range pins {
		args = append(args, p.String())
	}
	return a.run(ctx, "apt.exchange", args...)
}

// Lookup asks the repositories, as they are now, which versions of packages they
// have. The host's own package lists stay as they are.
func (a Apt) Lookup(ctx context.Context, names ...string) (map[string][]string, error) {
	res, err := a.Host.Run(ctx, host.Cmd{Name: "apt.lookup", Script: script("apt_lookup.sh"), Args: names, Timeout: aptTimeout})
	if err != nil {
		return nil, aptProblem(err)
	}
	found := map[string][]string{}
	for line := range strings.Lines(string(res.Stdout)) {
		if name, version, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			found[name] = append(found[name], version)
		}
	}
	return found, nil
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
func (a Apt) RemoveGuard(ctx context.Context) error { return a.run(ctx, "apt.unguard") }

// Hold keeps packages at their versions, whatever upgrades others run.
func (a Apt) Hold(ctx context.Context, names ...string) error {
	return a.run(ctx, "apt.hold", append([]string{"hold"}, names...)...)
}

// Unhold gives packages free again.
func (a Apt) Unhold(ctx context.Context, names ...string) error {
	return a.run(ctx, "apt.hold", append([]string{"unhold"}, names...)...)
}

// Remove removes packages and leaves their configuration and data.
func (a Apt) Remove(ctx context.Context, names ...string) error {
	return a.run(ctx, "apt.remove", names...)
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
			Left:  "everything on the host.",
		}
	}
	return Pin{}, &problem.Error{
		Cause: fmt.Errorf("no repository of this host has %s in version %s; there are: %s", name, pin, strings.Join(available, ", ")),
		Do:    "choose one of these versions, or add a repository that has the wanted one to the host's pgha_host resource (apt.repositories).",
		Left:  "everything on the host.",
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
	var lines []string
	for _, l := range aptError.FindAllString(e.Stderr, -1) {
		// A list that is optional is complained of five times over.
		if !slices.Contains(lines, l) && !strings.Contains(l, "Translation-") {
			lines = append(lines, l)
		}
	}
	if len(lines) == 0 {
		lines = strings.Split(strings.TrimSpace(e.Stderr), "\n")
	}
	if len(lines) > 12 {
		lines = lines[len(lines)-12:]
	}
	p := &problem.Error{Host: e.Host, Cause: err, Log: lines, Left: "the packages that were installed before."}
	said := e.Stderr
	switch {
	case strings.Contains(said, "is not valid yet"), strings.Contains(said, "Release file for") && strings.Contains(said, "expired"):
		p.Cause = errors.New("a repository's Release file is out of date")
		p.Do = "renew the mirror, check the host's clock, or set apt.allow_expired_release on its pgha_host resource."
	case strings.Contains(said, "Hash Sum mismatch"), strings.Contains(said, "unexpected size"):
		p.Cause = errors.New("a repository serves files that do not have the checksums it promises")
		p.Do = "see whether the mirror is being renewed, or whether a proxy serves old files; then apply again."
	case strings.Contains(said, "NO_PUBKEY"), strings.Contains(said, "is not signed"), strings.Contains(said, "Missing key"),
		strings.Contains(said, "BADSIG"), strings.Contains(said, "signatures were invalid"), strings.Contains(said, "signature verification failed"):
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
