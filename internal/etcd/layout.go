package etcd

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Whoever makes a cluster by hand, or with another tool, has a layout of its own:
// where the program is, which files its unit reads, whether settings are in the
// environment, in the command or in a configuration file. None of these names is
// known beforehand: what runs is asked what it is.

// Launch is how a member is started that somebody else made, where that is not as
// Debian's package does it.
type Launch struct {
	// Program is the file that runs.
	Program string `json:"program"`
	// Foreign: it is not of Debian's package, and nothing is installed over it.
	Foreign bool `json:"foreign,omitempty"`
	// Command: the unit's own command has settings, which count over those in the
	// environment. To change any, the command has to be replaced.
	Command bool `json:"command,omitempty"`
}

// launchOf reads it from the process that runs; nil if Debian's package started it,
// or if nothing runs. Packaged says that Debian's package is installed.
func launchOf(p remote.Process, packaged bool) *Launch {
	if len(p.Args) == 0 {
		return nil
	}
	l := Launch{Program: p.Program}
	if l.Program == "" {
		l.Program = p.Args[0]
	}
	l.Foreign = l.Program != binaryPath || !packaged
	// Debian's unit has its arguments from the environment file, which ours
	// replaces.
	l.Command = !slices.Equal(p.Args[1:], strings.Fields(p.Environ["DAEMON_ARGS"]))
	if !l.Foreign && !l.Command {
		return nil
	}
	return &l
}

// adoptedLaunch is how a member was started that somebody else made: by its mark,
// or before there is one by what runs.
func (h *HostFacts) adoptedLaunch() *Launch {
	if h.adopted() == nil {
		return nil
	}
	if h.Marker != nil {
		return h.Marker.Launch
	}
	return h.Launch
}

// foreign reports whether a member's etcd is not of Debian's package. Its mark
// says so, unless the package's has been put in its place since.
func (h *HostFacts) foreign() bool {
	if l := h.adoptedLaunch(); l == nil || !l.Foreign {
		return false
	}
	return h.Running == nil || h.Launch != nil && h.Launch.Foreign
}

// packages are those of Debian that a member's host is to have.
func (h *HostFacts) packages() []string {
	unknown := h.Marker == nil && h.Launch != nil && h.Launch.Foreign // not recognised yet
	if h.foreign() || unknown {
		return nil
	}
	return []string{serverPackage, clientPackage}
}

// command is what a member's drop-in says of its command, nothing if the unit's own
// may stay.
func (l *Launch) command() string {
	if l == nil || !l.Command {
		return ""
	}
	return "# The unit's own command has settings, which would count over those above.\nExecStart=\nExecStart=" + l.Program + "\n"
}

// otherVersion reports whether a member whose etcd is not of Debian's package runs
// another version than is wanted. One that says nothing is not taken for another.
func (p *planner) otherVersion(name string) bool {
	m := p.f.Live.at(p.s.PeerURL(name))
	return m != nil && m.Version != "" && !debver.Matches(p.s.Version, m.Version)
}

// checkForeign refuses what cannot be done with an etcd that is not of Debian's
// package: another version than runs, and snapshots without etcdctl.
func (p *planner) checkForeign() error {
	var errs []error
	if p.s.TLS && !p.s.ownTLS() && (p.s.RenewBefore != 0 || p.s.Authority != "") {
		errs = append(errs, &problem.Error{
			Step: "look for what makes the cluster's certificates", Cause: errors.New("somebody else does, and they cannot be renewed or replaced from here"),
			Left: "the certificates, as they are.", Do: "leave certificates out of the configuration.",
		})
	}
	for _, n := range p.s.Names() {
		h := p.f.Hosts[n]
		if !h.foreign() {
			continue
		}
		program := h.adoptedLaunch().Program
		if p.otherVersion(n) {
			runs := p.f.Live.at(p.s.PeerURL(n)).Version
			errs = append(errs, problem.In(n, "", refuseVersion(
				fmt.Sprintf("it runs %s in version %s, which is not of Debian's package %s, and version %s is wanted: only the package can be upgraded", program, runs, serverPackage, p.s.Version),
				fmt.Sprintf("set version = %q, which is what runs. To bring the members to another version, put it in the place of %s yourself, one member at a time: restart each, and wait until it is well, before the next; the leader last. Then set version to that.", runs, program))))
		}
		if p.s.takesSnapshots(n) && !h.Facts.Tool("etcdctl") {
			errs = append(errs, &problem.Error{
				Host: n, Step: "look for what takes snapshots", Cause: errors.New("etcdctl is not in the path of this host's programs, and nothing is installed beside an etcd that is not of Debian's package"),
				Left: "everything.", Do: "put the etcdctl that came with " + program + " into /usr/local/bin, or leave snapshots out.",
			})
		}
	}
	return errors.Join(errs...)
}

// plainPath is a path that a unit's file can have as it is.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9/._+-]+$`)

// checkLayout says why a member that somebody else made cannot be taken up as it
// runs.
func checkLayout(p remote.Process, s settings) error {
	refuse := func(cause, do string) error { return &problem.Error{Cause: errors.New(cause), Do: do} }
	program := p.Program
	if program == "" {
		program = p.Args[0]
	}
	switch {
	case path.Base(program) != "etcd":
		return refuse(fmt.Sprintf("the main process of %s is %s: only etcd itself says what it runs with", Unit, program),
			"have the unit start etcd itself (a shell with exec, a container not at all), one member at a time.")
	case !plainPath.MatchString(program):
		return refuse(fmt.Sprintf("the program is %q, which a unit's file cannot have as it is", program), "move it to a path without blanks, one member at a time.")
	case p.Account != "" && p.Account != account:
		return refuse(fmt.Sprintf("it runs as the user %s, not as %s", p.Account, account),
			fmt.Sprintf("one member at a time: make the user %s, give it the data directory, set User=%s in the unit and restart it.", account, account))
	case !path.IsAbs(s["DATA_DIR"]):
		return refuse(fmt.Sprintf("its data directory is %q, which depends on where it was started", s["DATA_DIR"]), "give it a data directory with a whole path (ETCD_DATA_DIR), one member at a time.")
	case s["FORCE_NEW_CLUSTER"] == "true":
		return refuse("it was started with force-new-cluster, and would make a cluster of its own at its next start", "take that out and restart it.")
	}
	return nil
}

// runningVersions asks the members that are not of Debian's package for the version
// that they run; the others' is their package's.
func (m *Manager) runningVersions(ctx context.Context, s Spec, all map[string]Spec) error {
	var c Client
	for _, name := range sortedKeys(all) {
		one := all[name]
		if one.Version != "" {
			continue
		}
		if c == nil {
			var err error
			if c, err = m.Doer.client(ctx, s); err != nil {
				return err
			}
		}
		st, err := c.Status(ctx, s.ClientURL(name))
		if err != nil {
			return problem.In(name, "ask for its version", err)
		}
		one.Version = st.Version
		all[name] = one
	}
	return nil
}

// checkFound says why a cluster that somebody else made cannot be described by a
// configuration.
func checkFound(s Spec) error {
	if err := CheckVersion(s.Version); err != nil {
		return &problem.Error{Step: "check its version", Cause: err, Left: "the cluster, as it is.", Do: "bring it to a version that this release knows first."}
	}
	if err := CheckTiming(s.Heartbeat, s.Election); err != nil {
		return &problem.Error{Step: "check its settings", Cause: err, Left: "the cluster, as it is.", Do: "change that first, one member at a time."}
	}
	return nil
}
