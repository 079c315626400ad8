package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// recognise finds the members that run on hosts without a mark: those of a
// cluster that somebody else made, before the first apply. Their own answer
// counts, not what is written anywhere.
func (m *Manager) recognise(ctx context.Context, s Spec, f Facts) error {
	if !s.Adopted() {
		return nil
	}
	var c Client
	for _, name := range s.Names() {
		h := f.Hosts[name]
		if h == nil || h.Marker != nil || h.Running == nil {
			continue
		}
		if c == nil {
			// Who has no mark has no password of ours either.
			var err error
			without := s
			without.Auth = false
			if c, err = m.Doer.client(ctx, without); err != nil {
				return err
			}
		}
		st, err := c.Status(ctx, s.ClientURL(name))
		if err != nil {
			m.Doer.Log.WarnContext(ctx, "a member of the etcd cluster does not say which cluster it is of", "host", name, "error", err)
			continue
		}
		h.Recognised = adoptedUID(st.ClusterID) == s.UID
	}
	return nil
}

// unmarked reports whether the cluster is somebody else's and nothing was ever
// applied to it.
func (f Facts) unmarked() bool {
	for _, h := range f.Hosts {
		if !h.Recognised {
			return false
		}
	}
	return len(f.Hosts) > 0
}

// Discover finds out what the etcd cluster on some hosts is: one that this
// provider has made, or one made by hand. It changes nothing. Members are given
// by their names; the addresses are those at which clients reach them.
func (m *Manager) Discover(ctx context.Context, name string, members map[string]Member) (Spec, error) {
	s := Spec{Name: name, Members: members}
	all := map[string]Spec{}
	var errs []error
	for _, member := range s.Names() {
		one, err := m.discover(ctx, s, member)
		if err != nil {
			errs = append(errs, problem.In(member, "look at its etcd", err))
			continue
		}
		all[member] = one
	}
	if err := errors.Join(errs...); err != nil {
		return s, err
	}
	differ := without(agree(all), "version")
	if len(differ) == 0 {
		if err := m.checkTheirs(ctx, all[s.Names()[0]]); err != nil {
			return s, err
		}
		if err := m.runningVersions(ctx, all[s.Names()[0]], all); err != nil {
			return s, err
		}
		differ = agree(all)
	}
	if len(differ) > 0 {
		return s, &problem.Error{
			Step: "compare the members", Cause: fmt.Errorf("they differ in %s: a cluster has one setting for all its members", strings.Join(differ, ", ")),
			Do: "make them alike first, one member at a time.",
		}
	}
	found := all[s.Names()[0]]
	for member, one := range all {
		if one.UID != found.UID {
			return s, fmt.Errorf("the marks on the hosts differ: %s says %q and %s says %q", s.Names()[0], found.UID, member, one.UID)
		}
	}
	found.Members = members
	var err error
	if found.Files, err = sameFiles(all); err != nil {
		return s, err
	}
	if found.Adopted() {
		if err := checkFound(found); err != nil {
			return s, err
		}
	}
	if found.Snapshots, err = m.discoverSnapshots(ctx, found); err != nil {
		return s, err
	}
	return found, m.membership(ctx, &found)
}

// discover reads one member's settings.
func (m *Manager) discover(ctx context.Context, s Spec, name string) (Spec, error) {
	var p remote.Probe
	p.Content(MarkerPath).Unit(Unit).Process(Unit).Package(serverPackage).Port(standardPort).Secret(s.credentialsPath())
	f, err := p.Run(ctx, m.Doer.host(s, name))
	if err != nil {
		return s, err
	}
	marker, err := readMarker(f)
	if err != nil {
		return s, err
	}
	running, stale, err := runningSettings(ctx, m.Doer.host(s, name), f.Process(Unit))
	if err != nil {
		return s, err
	}
	refuse := func(cause, do string) (Spec, error) { return s, &problem.Error{Cause: errors.New(cause), Do: do} }
	switch {
	case marker != nil && marker.Cluster != s.Name:
		return refuse(fmt.Sprintf("this host's etcd belongs to the cluster %q", marker.Cluster), "import it under that name.")
	case running == nil:
		return refuse(Unit+" does not run, and only a running member says what it runs with"+listening(f), "start it (systemctl start "+Unit+"). A unit of another name is not known.")
	case stale && (marker == nil || marker.Adopted != nil):
		return refuse("its configuration file ("+running[configKey]+") was changed after the member was started, which may run with something else", "restart this member (systemctl restart "+Unit+") while all others are well.")
	case running["NAME"] != name:
		return refuse(fmt.Sprintf("the member on this host is called %q, not %q", running["NAME"], name), "name it so in the id.")
	}
	if err := running.tune(&s); err != nil {
		return s, err
	}
	ours := marker != nil && marker.Adopted == nil
	if !ours {
		if err := checkLayout(f.Process(Unit), running); err != nil {
			return s, err
		}
	}
	address, clientPort, tls, err := running.first("ADVERTISE_CLIENT_URLS")
	if err != nil {
		return s, err
	}
	if address != s.Members[name].Address {
		return refuse(fmt.Sprintf("clients are told to reach it at %s, and the id says %s", address, s.Members[name].Address),
			fmt.Sprintf("write %s=%s in the id, or if SSH needs another address, %s=%s?ssh=%s.", name, address, name, address, s.Members[name].Target.Address))
	}
	_, peerPort, peerTLS, err := running.first("INITIAL_ADVERTISE_PEER_URLS")
	if err != nil {
		return s, err
	}
	s.ClientPort, s.PeerPort, s.TLS = clientPort, peerPort, tls
	if !ours && tls != peerTLS {
		return refuse("clients reach it with "+protocol(tls)+" and the other members with "+protocol(peerTLS)+", which this release cannot manage", "make both alike first, one member at a time.")
	}
	if !ours {
		s.UID = adoptedPrefix // whose certificates they are is known by that
	}
	if !ours && tls {
		if err := running.theirFiles().check(running); err != nil {
			return s, err
		}
	}
	if ours && tls {
		s.Files = running.broughtFiles(s.Name)
	}
	if marker != nil {
		s.UID = marker.UID
	}
	s.Auth = readCredentials(f, s.Name) != nil
	if l := launchOf(f.Process(Unit), f.Package(serverPackage).Installed); ours || l == nil || !l.Foreign {
		s.Version = debver.Upstream(f.Package(serverPackage).Version)
	}
	return s, nil
}

func protocol(tls bool) string {
	if tls {
		return "https"
	}
	return "http"
}

// standardPort is etcd's own for clients.
const standardPort = 2379

// listening says who is at etcd's usual port, if anybody is.
func listening(f *remote.Facts) string {
	if l := f.Port(standardPort); len(l) > 0 {
		return fmt.Sprintf(" (port %d is in use: %s)", standardPort, strings.Join(l, ", "))
	}
	return ""
}

// membership compares the members that were named with those that the cluster
// knows, and gives a cluster that somebody else made its uid.
func (m *Manager) membership(ctx context.Context, s *Spec) error {
	c, err := m.Doer.client(ctx, *s)
	if err != nil {
		return err
	}
	known, err := c.Members(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, k := range known {
		names = append(names, k.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, s.Names()) {
		return &problem.Error{
			Step: "compare the members", Cause: fmt.Errorf("the cluster has the members %s, and the id names %s", strings.Join(names, ", "), strings.Join(s.Names(), ", ")),
			Do: "name all of them, and no other.",
		}
	}
	if s.UID != adoptedPrefix {
		return nil
	}
	st, err := c.Status(ctx, s.ClientURL(s.Names()[0]))
	if err != nil {
		return err
	}
	s.UID = adoptedUID(st.ClusterID)
	// Only reading a key shows whether authentication is on.
	_, _, err = c.Get(ctx, "/pgha/")
	if errors.Is(err, ErrAuth) {
		return &problem.Error{
			Step: "read a key", Cause: fmt.Errorf("the cluster wants a user and a password that this provider has not made: %w", err),
			Do: "leave the cluster as it is: this provider would need its root password for every change, and knows none but its own. One without users can be taken up.",
		}
	}
	return err
}
