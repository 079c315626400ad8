package etcd

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// A cluster of this provider can have certificates that somebody else makes and renews
// on the hosts; see adr/0026. Nothing is issued then, and the files are never written.

// NamePlaceholder stands for the member's or the node's name in the paths of files that
// somebody else makes.
const NamePlaceholder = "{name}"

// Files are certificates on the members' hosts that somebody else makes and renews.
type Files struct {
	Server, Peer, Client pki.Pair
	// PeerName is the common name of all peers' certificates; empty for whichever they
	// have.
	PeerName string
	// Trusted are the authorities that have signed all of them.
	Trusted string
}

// PatroniFiles are those on the hosts of Patroni's nodes, for their connections to etcd.
// The pair may be empty where the cluster asks its clients for none.
type PatroniFiles struct {
	pki.Pair
	Trusted string
}

func named(name string, paths ...*string) {
	for _, p := range paths {
		*p = strings.ReplaceAll(*p, NamePlaceholder, name)
	}
}

// on are the files on a member's host. What is not given is the server's.
func (f Files) on(name string) Files {
	name, _, _ = strings.Cut(name, " at ") // as reach calls those that leave
	for _, pair := range []*pki.Pair{&f.Peer, &f.Client} {
		pair.Certificate, pair.Key = cmp.Or(pair.Certificate, f.Server.Certificate), cmp.Or(pair.Key, f.Server.Key)
	}
	named(name, &f.Server.Certificate, &f.Server.Key, &f.Peer.Certificate, &f.Peer.Key, &f.Client.Certificate, &f.Client.Key, &f.Trusted)
	return f
}

// On are the files on a node's host.
func (f PatroniFiles) On(name string) PatroniFiles {
	named(name, &f.Certificate, &f.Key, &f.Trusted)
	return f
}

// filePath is a path that a unit's file and an environment file can have as it is.
var filePath = regexp.MustCompile(`^/[A-Za-z0-9/._+{}@-]+$`)

// hidden are folders that the units which read the files cannot see, or that are no
// place to keep them.
var hidden = []string{"/home/", "/root/", "/tmp/", "/var/tmp/", "/run/user/", "/dev/", "/proc/", "/sys/", "/etc/pgha/"}

// CheckFilePath says why a path cannot be that of a file that somebody else makes.
func CheckFilePath(p string) error {
	plain := strings.ReplaceAll(p, NamePlaceholder, "name")
	switch {
	case !path.IsAbs(p):
		return fmt.Errorf("%q is not a whole path, from / on", p)
	case !filePath.MatchString(p) || strings.ContainsAny(plain, "{}"):
		return fmt.Errorf("%q has characters in it besides letters, digits and /._+@-, and %s", p, NamePlaceholder)
	case path.Clean(plain) != plain:
		return fmt.Errorf("%q is not a plain path", p)
	}
	for _, dir := range hidden {
		if strings.HasPrefix(p, dir) {
			return fmt.Errorf("%q is in %s, where etcd's and Patroni's units cannot see it or that is no place for it", p, dir)
		}
	}
	return nil
}

// settings are what a member is told of them. Since 3.5 it comes to itself, for who
// speaks JSON to it as Patroni does, with a client's certificate of its own.
func (f Files) settings(version string) [][2]string {
	list := [][2]string{
		{"CERT_FILE", f.Server.Certificate}, {"KEY_FILE", f.Server.Key}, {"TRUSTED_CA_FILE", f.Trusted}, {"CLIENT_CERT_AUTH", "true"},
		{"PEER_CERT_FILE", f.Peer.Certificate}, {"PEER_KEY_FILE", f.Peer.Key}, {"PEER_TRUSTED_CA_FILE", f.Trusted}, {"PEER_CLIENT_CERT_AUTH", "true"},
	}
	if f.comesAsClient(version) {
		list = append(list, [2]string{"CLIENT_CERT_FILE", f.Client.Certificate}, [2]string{"CLIENT_KEY_FILE", f.Client.Key})
	}
	if f.PeerName != "" {
		// As with certificates of our own, see env: the name counts then, and not where
		// a member comes from.
		list = append(list, [2]string{"PEER_CERT_ALLOWED_CN", f.PeerName}, [2]string{"EXPERIMENTAL_PEER_SKIP_CLIENT_SAN_VERIFICATION", "true"})
	}
	return list
}

func (f Files) comesAsClient(version string) bool {
	return f.Client != f.Server && debver.Compare(version, "3.5") >= 0
}

// uses are what a member's files are needed for.
func (s Spec) uses(name string) []pki.Use {
	f, address := s.Files.on(name), s.Members[name].Address
	uses := []pki.Use{
		{Pair: f.Server, What: "the server's certificate", Server: true, Client: !f.comesAsClient(s.Version), Names: []string{address}},
		{Pair: f.Peer, What: "the certificate for the other members", Server: true, Client: true, Names: []string{address}, CommonName: f.PeerName},
		{Pair: f.Client, What: "the certificate for the provider and the snapshots", Client: true},
	}
	for i := range uses {
		uses[i].Account = account
	}
	return uses
}

// look looks at a member's files on its host.
func (s Spec) look(ctx context.Context, h host.Host, name string) (map[string]pki.Looked, error) {
	f := s.Files.on(name)
	certificates, keys := []string{f.Server.Certificate, f.Peer.Certificate, f.Client.Certificate, f.Trusted}, []string{f.Server.Key, f.Peer.Key, f.Client.Key}
	for _, list := range []*[]string{&certificates, &keys} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return pki.Look(ctx, h, account, certificates, keys)
}

// FilesError is what is wrong with files that somebody else makes.
type FilesError struct{ text string }

func (e *FilesError) Error() string { return e.text }

// filesWrong makes errors of what is wrong on a host.
func filesWrong(hostName string, faults []pki.Fault, left string) error {
	var errs []error
	seen := map[string]bool{}
	for _, f := range faults {
		text := f.Path + " " + f.What
		if !seen[text] {
			seen[text] = true
			errs = append(errs, &problem.Error{Host: hostName, Step: "check the certificates that somebody else makes", Cause: &FilesError{text}, Left: left, Do: f.Do + ", then apply again."})
		}
	}
	return errors.Join(errs...)
}

// trustOf is what is noted of authorities that a process trusts: their fingerprints.
func trustOf(authorities []byte) string {
	return strings.Join(slices.Compact(slices.Sorted(slices.Values(pki.Fingerprints(authorities)))), " ")
}

// signed is a certificate with which somebody comes, or that is shown to others.
type signed struct {
	host, path string
	text       []byte
}

// checkFiles says what is wrong with the files of somebody else's on the members'
// hosts: of each by itself, and whether all members trust all certificates.
func (p *planner) checkFiles() error {
	if err := p.checkKind(); err != nil {
		return err
	}
	if err := p.checkNodeFiles(); err != nil || p.s.Files == nil {
		return err
	}
	const left = "everything; no member was started or restarted."
	var errs []error
	var all []signed
	for _, n := range p.s.Names() {
		h, f := p.f.Hosts[n], p.s.Files.on(n)
		faults := pki.CheckTrusted(f.Trusted, account, h.Looked)
		if len(faults) == 0 {
			for _, u := range p.s.uses(n) {
				faults = append(faults, u.Check(h.Looked, h.Trusted, p.now)...)
				all = append(all, signed{n, u.Certificate, h.Looked[u.Certificate].Text})
			}
		}
		if err := filesWrong(n, faults, left); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, c := range p.f.NodeFiles {
		all = append(all, c.signed)
	}
	return p.checkTrust(all, left)
}

// checkTrust makes sure that each member trusts all who come to it.
func (p *planner) checkTrust(all []signed, left string) error {
	var errs []error
	for _, n := range p.s.Names() {
		f := p.s.Files.on(n)
		for _, c := range all {
			if c.host == n {
				continue
			}
			if err := pki.Trusts(c.text, p.f.Hosts[n].Trusted, p.now); err != nil {
				errs = append(errs, filesWrong(n, []pki.Fault{{
					Path: f.Trusted, What: "does not have the authority of " + c.path + " on " + c.host + ": " + err.Error(),
					Do: "put the authorities of all certificates there, on all hosts; one that is being replaced goes only once nobody has certificates of it any more",
				}}, left))
			}
		}
	}
	return errors.Join(errs...)
}

// checkKind refuses to give a cluster that was formed certificates of the other kind.
func (p *planner) checkKind() error {
	if p.s.Files != nil && p.s.Adopted() {
		return &problem.Error{
			Step: "look for what makes the cluster's certificates", Cause: &FilesError{"this cluster was made by somebody else, and its members' own settings name their certificates"},
			Left: "everything.", Do: "leave certificates.files out. certificates.patroni_files are what Patroni's nodes need.",
		}
	}
	if p.s.PatroniFiles != nil && (p.s.ownTLS() || !p.s.TLS) {
		return &problem.Error{
			Step: "look for what makes the cluster's certificates", Cause: &FilesError{"this provider makes them, those of Patroni's nodes as well"},
			Left: "everything.", Do: "leave certificates.patroni_files out, or bring all of the cluster's certificates (certificates.files).",
		}
	}
	for _, n := range p.s.Names() {
		h := p.f.Hosts[n]
		if m := h.Marker; m == nil || m.Adopted != nil || !p.s.TLS || !h.Data.Exists() && !m.Bootstrapped || (m.Trusts != "") == (p.s.Files != nil) {
			continue
		}
		return &problem.Error{
			Host: n, Step: "look for what makes the cluster's certificates", Cause: &FilesError{"a cluster keeps the kind of certificates that it was formed with: made by this provider, or brought as files"},
			Left: "the etcd cluster, with the certificates that it has.", Do: OtherKind,
		}
	}
	return nil
}

// OtherKind says what to do who wants the other kind of certificates.
const OtherKind = "set certificates.files as it was, or leave it out as it was. The paths in it may change. Only a new cluster can have the other kind: everybody would have to trust both at once, and Patroni reads from which files only when it starts."

// needsFiles reports whether it is restarted for that: whom a restart would shut out is
// known only once the cluster has been asked.
func (p *planner) needsFiles(name string) bool {
	return p.distrustsFiles(name) && (p.asked || !p.formed())
}

// distrustsFiles reports whether a running member trusts other authorities than its
// file has by now: it reads that only when it starts.
func (p *planner) distrustsFiles(name string) bool {
	m := p.f.Hosts[name].Marker
	return p.s.Files != nil && m != nil && m.Trusts != trustOf(p.f.Hosts[name].Trusted)
}

// withdraws reports whether some member is to trust an authority no more.
func (s Spec) withdraws(f Facts) bool {
	for _, h := range f.Hosts {
		if h.Marker == nil || s.Files == nil {
			continue
		}
		now := strings.Fields(trustOf(h.Trusted))
		for _, before := range strings.Fields(h.Marker.Trusts) {
			if !slices.Contains(now, before) {
				return true
			}
		}
	}
	return false
}

// checkStep looks at a member's files on its host once more, before it is started.
func (d *Doer) checkStep(s Spec, name string, do func(ctx context.Context) error) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		if err := d.checkFiles(ctx, s, name); err != nil {
			return err
		}
		return do(ctx)
	}
}

func (d *Doer) checkFiles(ctx context.Context, s Spec, name string) error {
	if s.Files == nil {
		return nil
	}
	found, err := s.look(ctx, d.host(s, name), name)
	if err != nil {
		return err
	}
	f := s.Files.on(name)
	faults := pki.CheckTrusted(f.Trusted, account, found)
	for _, u := range s.uses(name) {
		if len(faults) == 0 {
			faults = append(faults, u.Check(found, found[f.Trusted].Text, time.Now())...)
		}
	}
	return filesWrong(name, faults, "the member, as it is: it was neither started nor restarted.")
}

// filesWrong is what is wrong with files by what is on the hosts alone. It is asked for
// first: members whose certificates are over keep whoever asks them waiting.
func (m *Manager) filesWrong(s Spec, f Facts) error {
	if _, err := ownership(s, f, ""); err != nil || s.Files == nil {
		return nil // the plan says so
	}
	p := planner{s: s, f: f, now: m.Now()}
	return p.checkFiles()
}

// CheckFiles says what is wrong with the files on the hosts of a cluster that is to be
// made, as far as its hosts can be asked now.
func (m *Manager) CheckFiles(ctx context.Context, s Spec) error {
	if s.Files == nil {
		return nil
	}
	p := planner{s: s, f: Facts{Hosts: map[string]*HostFacts{}}, now: m.Now()}
	f := Probe(ctx, m.Doer.Fleet, s)
	for _, n := range s.Names() {
		if h := f.Hosts[n]; h != nil {
			p.f.Hosts[n] = h
		}
	}
	p.s.Members = map[string]Member{}
	for n := range p.f.Hosts {
		p.s.Members[n] = s.Members[n]
	}
	return p.checkFiles()
}

// endingFiles says which certificates of somebody else's should have been renewed.
func (s Spec) endingFiles(f Facts, now time.Time) []string {
	var lines []string
	if s.Files == nil {
		return nil
	}
	for _, n := range s.Names() {
		if h := f.Hosts[n]; h != nil {
			lines = append(lines, s.Files.on(n).ending(n, h.Looked, now)...)
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// ending is that of one host. An authority counts if it has signed something.
func (f Files) ending(name string, found map[string]pki.Looked, now time.Time) []string {
	var lines []string
	tell := func(what string, c *x509.Certificate) {
		if why := pki.Overdue(what+" on "+name, c, now); why != "" && !slices.Contains(lines, why) {
			lines = append(lines, why)
		}
	}
	for _, p := range []string{f.Server.Certificate, f.Peer.Certificate, f.Client.Certificate} {
		for i, c := range pki.ParseAll(found[p].Text) {
			if i == 0 {
				tell(p, c)
			}
			if a := pki.Signer(c, found[f.Trusted].Text); a != nil {
				tell("the authority "+a.Subject.CommonName+" in "+f.Trusted, a)
			}
		}
	}
	return lines
}
