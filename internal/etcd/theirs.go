package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// A cluster that somebody else made with TLS keeps its certificates: none is made,
// renewed or written. Who talks to it trusts what a member's own settings name, and
// where the members want a client's certificate, comes with the member's own: root on
// its host can read that, and it stays in memory.

// AdoptedUID reports whether a uid is that of a cluster that somebody else made.
func AdoptedUID(uid string) bool { return strings.HasPrefix(uid, adoptedPrefix) }

// ownTLS reports whether the cluster's certificates are made by this provider.
func (s Spec) ownTLS() bool { return s.TLS && s.Files == nil && (!s.Adopted() || s.Secured) }

// theirFiles are the files with which a member speaks TLS to its clients.
type theirFiles struct {
	Authority, Certificate, Key string
	// Client is the certificate, and its key, with which a client may come; empty
	// where the member asks for none.
	Client, ClientKey string
}

// theirFiles reads them from a member's settings.
func (s settings) theirFiles() theirFiles {
	f := theirFiles{Authority: s["TRUSTED_CA_FILE"], Certificate: s["CERT_FILE"], Key: s["KEY_FILE"]}
	// An authority alone has etcd want one as well (etcd, client/pkg/transport/
	// listener.go).
	if s["CLIENT_CERT_AUTH"] == "true" || f.Authority != "" {
		f.Client, f.ClientKey = f.Certificate, f.Key
		if s["CLIENT_CERT_FILE"] != "" {
			f.Client, f.ClientKey = s["CLIENT_CERT_FILE"], s["CLIENT_KEY_FILE"]
		}
	}
	return f
}

// all are the files, each once.
func (f theirFiles) all() []string {
	list := slices.DeleteFunc([]string{f.Authority, f.Certificate, f.Client, f.ClientKey}, func(p string) bool { return p == "" })
	slices.Sort(list)
	return slices.Compact(list)
}

// argument is how snapshot.sh is told of them: the authority, and the certificate and
// the key of a client.
func (f theirFiles) argument() string {
	authority := f.Authority
	if authority == "" {
		authority = f.Certificate
	}
	return strings.Join([]string{authority, f.Client, f.ClientKey}, ":")
}

// check says why a member's TLS cannot be used.
func (f theirFiles) check(s settings) error {
	refuse := func(cause, do string) error { return &problem.Error{Cause: errors.New(cause), Do: do} }
	if f.Certificate == "" || f.Key == "" || s["AUTO_TLS"] == "true" {
		return refuse("it makes its certificates by itself (auto-tls), and nobody can tell them from others", "give it certificates in files, one member at a time.")
	}
	for _, p := range append(f.all(), f.Key) {
		if !plainPath.MatchString(p) {
			return refuse(fmt.Sprintf("the file %q of its certificates has no whole, plain path", p), "name it by one, one member at a time.")
		}
	}
	return nil
}

// withTheirs adds to the spec of a cluster with certificates of somebody else's where
// they are.
func (s Spec) withTheirs(f Facts) Spec {
	if !s.TLS || !s.Adopted() {
		return s
	}
	s.Theirs = map[string]theirFiles{}
	for n, h := range f.Hosts {
		if found := h.adopted(); found != nil && !found.plain() {
			s.Theirs[n] = found.theirFiles()
		}
	}
	return s
}

// askMember gets from a member's host what its own settings name. One that takes http
// needs nothing.
func (a Access) askMember(ctx context.Context, h host.Host) (session, error) {
	fail := func(err error, do string) (session, error) {
		return session{}, &problem.Error{Host: h.Name(), Step: "read the member's certificates", Cause: err, Do: do}
	}
	var p remote.Probe
	f, err := p.Process(Unit).Run(ctx, h)
	if err != nil {
		return session{}, err
	}
	found, _, err := runningSettings(ctx, h, f.Process(Unit))
	switch {
	case err != nil:
		return session{}, err
	case found == nil:
		return fail(errors.New(Unit+" does not run, and only a running member says where they are"), "start it (systemctl start "+Unit+").") // or another one is asked
	}
	if found.plain() {
		return session{host: h.Name(), scheme: schemeHTTP}, nil
	}
	files := found.theirFiles()
	if err := files.check(found); err != nil {
		return session{}, problem.In(h.Name(), "read the member's certificates", err)
	}
	var secrets remote.Probe
	for _, path := range files.all() {
		secrets.Secret(path)
	}
	if f, err = secrets.Run(ctx, h); err != nil {
		return session{}, err
	}
	for _, path := range files.all() {
		if len(f.Path(path).Content) == 0 {
			return fail(fmt.Errorf("%s is not there, or cannot be read", path), "put it back; the member cannot start without it.")
		}
	}
	s := session{host: h.Name(), theirs: true, authority: slices.Clone(f.Path(files.Certificate).Content)}
	if files.Authority != "" {
		s.authority = slices.Concat(s.authority, []byte("\n"), f.Path(files.Authority).Content)
	}
	if files.Client != "" {
		s.certificate, s.key = f.Path(files.Client).Content, f.Path(files.ClientKey).Content
	}
	return s, nil
}

// theirTLS is how a client connects with what a member's host gave. A member's own
// certificate, which root has read there, is trusted as it is.
func (s session) theirTLS() (*tls.Config, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.authority) {
		return nil, fmt.Errorf("host %s has no certificate that can be read", s.host)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	if s.certificate == nil {
		return cfg, nil
	}
	pair, err := tls.X509KeyPair(s.certificate, s.key)
	if err != nil {
		return nil, fmt.Errorf("host %s: the member's certificate and key: %w", s.host, err)
	}
	block, _ := pem.Decode(s.certificate)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("host %s: the member's certificate: %w", s.host, err)
	}
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return nil, &problem.Error{
			Host: s.host, Step: "read the member's certificates", Cause: errors.New("the cluster wants a certificate of its clients, and the member's own is not good for a client (it lacks the usage clientAuth)"),
			Do: "give the members certificates for both usages, which etcd's own gateway needs too, one member at a time.",
		}
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}

// checkTheirs makes sure that every member of a cluster with certificates of somebody
// else's can be talked to.
func (m *Manager) checkTheirs(ctx context.Context, s Spec) error {
	if !s.Access().Theirs {
		return nil
	}
	c, err := m.Doer.client(ctx, s)
	if err != nil {
		return err
	}
	for _, name := range s.Names() {
		if _, err := c.Status(ctx, s.ClientURL(name)); err != nil {
			return &problem.Error{
				Host: name, Step: "talk to the member with the cluster's own certificates", Cause: err, Left: "the cluster, as it is.",
				Do: "see whether its certificate is of the authority that the members name as theirs (trusted-ca-file), good for its address, and not over.",
			}
		}
	}
	return nil
}

// uid is enough of a uid to tell whose certificates the cluster's are.
func (a Access) uid() string {
	if a.Theirs {
		return adoptedPrefix
	}
	return ""
}

// ForPatroni says why Patroni cannot be given what it needs to talk to the cluster:
// where its certificates are somebody else's, and none are named for it. Those of a
// cluster on which TLS was turned on from here are not.
func (a Access) ForPatroni(ctx context.Context, fleet host.Fleet) error {
	if !a.TLS || a.OwnTLS() || a.PatroniFiles != nil {
		return nil
	}
	if a.Files == nil {
		cfg, err := a.Login(ctx, fleet)
		if err != nil || !cfg.Theirs {
			return err
		}
	}
	return &problem.Error{
		Step: "look for what makes certificates for Patroni", Cause: fmt.Errorf("the certificates of the etcd cluster %s are made by somebody else, and this provider has no authority to make any for Patroni's nodes", a.Name),
		Left: "everything.", Do: "have them made for the nodes, too, on their hosts, and name the files in certificates.patroni_files of the pgha_etcd_cluster resource.",
	}
}

// theirCertificates looks when the certificates end that a member's settings name.
func (v *hostView) theirCertificates(ctx context.Context, h host.Host, s settings) error {
	files := []string{s["CERT_FILE"], s["PEER_CERT_FILE"], s["TRUSTED_CA_FILE"]}
	var p remote.Probe
	for _, path := range files {
		p.Content(path)
	}
	f, err := p.Run(ctx, h)
	if err != nil {
		return err
	}
	for i, end := range []*time.Time{&v.server, &v.peer, &v.authority} {
		*end = ends(f.Path(files[i]))
	}
	return nil
}
