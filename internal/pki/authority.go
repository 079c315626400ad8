// Package pki runs small certificate authorities on the hosts themselves: one
// for each cluster. The authority's key and every leaf's key are made on a host
// and never leave the hosts in the clear; what passes through this process are
// signing requests, certificates and, when an authority gets one more holder,
// a message encrypted to that host.
package pki

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Validity of what is made here. Certificates begin an hour before they are
// made, so that clocks may differ a little.
const (
	AuthorityDays = 3650
	LeafDays      = 397
	// RenewBefore is how long before its end a certificate is renewed, unless
	// something else is wanted.
	RenewBefore = 30 * 24 * time.Hour
)

// Dir is where authorities live on their holders.
const Dir = "/etc/pgha/ca"

// Authority is a certificate authority kept on one or several hosts.
type Authority struct {
	// Name tells authorities on one host apart. Letters, digits, '.', '_' and '-'.
	Name string
	// Subject is the common name of the certificate, the name if it is empty.
	Subject string
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// Path is the authority's folder on its holders.
func (a Authority) Path() string { return Dir + "/" + a.Name }

// CertificatePath is the authority's certificate on its holders.
func (a Authority) CertificatePath() string { return a.Path() + "/ca.crt" }

// Create makes the authority on a host unless it is there, and returns its
// certificate in PEM.
func (a Authority) Create(ctx context.Context, h host.Host) ([]byte, error) {
	if !plainName.MatchString(a.Name) {
		return nil, fmt.Errorf("%q is not a name for a certificate authority", a.Name)
	}
	res, err := h.Run(ctx, host.Cmd{
		Name: "ca.create", Script: script("ca_create"), Args: []string{a.Path(), Subject(cmp.Or(a.Subject, a.Name)), strconv.Itoa(AuthorityDays), now()},
	})
	if err != nil {
		return nil, wrongClock(h, err)
	}
	if _, err := Parse(res.Stdout); err != nil {
		return nil, fmt.Errorf("certificate of the authority %s on host %s: %w", a.Name, h.Name(), err)
	}
	return res.Stdout, nil
}

// CopyTo makes a further host a holder, so that losing one loses nothing. The
// key travels encrypted to the receiving host.
func (a Authority) CopyTo(ctx context.Context, holder, h host.Host, certificate []byte) error {
	return a.CopyAs(ctx, holder, h, a, certificate)
}

// CopyAs is CopyTo where the further host has another name for the authority.
func (a Authority) CopyAs(ctx context.Context, holder, h host.Host, as Authority, certificate []byte) error {
	room := "/run/pgha-receive-" + a.Name
	to, err := h.Run(ctx, host.Cmd{Name: "ca.receive", Script: script("ca_receive"), Args: []string{room}})
	if err != nil {
		return err
	}
	message, err := holder.Run(ctx, host.Cmd{
		Name: "ca.export", Script: script("ca_export"), Args: []string{a.Path()}, Stdin: to.Stdout, Sensitive: true,
	})
	if err != nil {
		return err
	}
	_, err = h.Run(ctx, host.Cmd{
		Name: "ca.import", Script: script("ca_import"), Args: []string{as.Path(), room},
		Stdin: bytes.Join([][]byte{certificate, message.Stdout}, []byte("\n")), Sensitive: true,
	})
	return err
}

// now is the time for scripts, which compare their host's with it.
func now() string { return strconv.FormatInt(time.Now().Unix(), 10) }

// clockStatus is what scripts end with that found their host's clock wrong, before
// they made anything.
const clockStatus = 9

// wrongClock names the host whose clock is wrong, which need not be the one that the
// certificate is for.
func wrongClock(h host.Host, err error) error {
	var e *host.Error
	if host.ExitCode(err) != clockStatus || !errors.As(err, &e) {
		return err
	}
	return &problem.Error{
		Host: h.Name(), Cause: fmt.Errorf("no certificate can be made: %s", e.Stderr), Left: "all certificates, as they were.",
		Do: "set the host's clock right, or that of the machine that runs Terraform, and have it kept so (time_sync = \"chrony\" in pgha_host), then run the same again: it goes on from here.",
	}
}

// Leaf is a certificate that a host needs.
type Leaf struct {
	// CommonName is for whom a peer goes by it. Everybody else has an
	// Organization only: etcd takes a client's common name for the name of a
	// user, and its HTTP gateway, which Patroni speaks to, refuses clients
	// that have one (etcd, embed/serve.go).
	CommonName, Organization string

	// Names are the IP addresses and DNS names it is valid for.
	Names []string

	// Server and Client say which ends of a connection it is for.
	Server, Client bool

	// Key and Certificate are the files' paths; Owner and Group may read the
	// key.
	Key, Certificate string
	Owner, Group     string
}

// keyMode lets the owner's group read a key: PostgreSQL and Patroni accept
// that for a key that belongs to root.
const keyMode = "0640"

// Issue has a holder sign a certificate for the key of a leaf, making the key
// first if there is none, and puts the certificate in place.
func (a Authority) Issue(ctx context.Context, holder, h host.Host, l Leaf) error {
	names, err := subjectAltName(l.Names)
	if err != nil {
		return err
	}
	subject, err := l.subject()
	if err != nil {
		return err
	}
	request, err := h.Run(ctx, host.Cmd{
		Name: "leaf.request", Script: script("leaf_request"), Args: []string{l.Key, l.Owner, l.Group, keyMode, now()},
	})
	if err != nil {
		return wrongClock(h, err)
	}
	signed, err := holder.Run(ctx, host.Cmd{
		Name: "ca.sign", Script: script("ca_sign"), Stdin: request.Stdout,
		Args: []string{a.Path(), subject, strconv.Itoa(LeafDays), l.usages(), names, now()},
	})
	if err != nil {
		return wrongClock(holder, err)
	}
	if _, err := Parse(signed.Stdout); err != nil {
		return fmt.Errorf("certificate signed by host %s: %w", holder.Name(), err)
	}
	return remote.WriteFile(ctx, h, remote.File{
		Path: l.Certificate, Content: signed.Stdout, Owner: "root", Group: l.Group, Mode: "0644",
	})
}

func (l Leaf) subject() (string, error) {
	field, name := "/CN=", l.CommonName
	if name == "" {
		field, name = "/O=", l.Organization
	}
	if !plainName.MatchString(name) {
		return "", fmt.Errorf("%q is not a subject for a certificate", name)
	}
	return field + Subject(name), nil
}

// Subject is a name as it can be in a certificate's subject, which has room for 64
// letters: of a longer one the end becomes a digest, so that two stay different.
func Subject(name string) string {
	const room = 64
	if len(name) <= room {
		return name
	}
	digest := fmt.Sprintf(".%x", sha256.Sum256([]byte(name)))[:17]
	return name[:room-len(digest)] + digest
}

func (l Leaf) usages() string {
	var u []string
	if l.Server {
		u = append(u, "serverAuth")
	}
	if l.Client {
		u = append(u, "clientAuth")
	}
	return strings.Join(u, ",")
}

var dnsName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)

// subjectAltName renders names for openssl.
func subjectAltName(names []string) (string, error) {
	var parts []string
	for _, n := range names {
		if ip, err := netip.ParseAddr(n); err == nil {
			parts = append(parts, "IP:"+ip.WithZone("").String())
			continue
		}
		if len(n) > 253 || !dnsName.MatchString(n) {
			return "", fmt.Errorf("%q is neither an IP address nor a host name that a certificate can be made for", n)
		}
		parts = append(parts, "DNS:"+strings.TrimSuffix(n, "."))
	}
	return strings.Join(parts, ","), nil
}

// Parse reads the first certificate of a PEM text.
func Parse(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("there is no certificate in the text")
	}
	return x509.ParseCertificate(block.Bytes)
}

// ParseAll reads all certificates of a PEM text that can be read.
func ParseAll(text []byte) []*x509.Certificate {
	var list []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			list = append(list, c)
		}
	}
	return list
}

// Signer is that of the authorities in a PEM text which has signed a certificate,
// nil if none of them has.
func Signer(c *x509.Certificate, authorities []byte) *x509.Certificate {
	for _, a := range ParseAll(authorities) {
		if bytes.Equal(c.RawIssuer, a.RawSubject) && c.CheckSignatureFrom(a) == nil {
			return a
		}
	}
	return nil
}

// Check says what is wrong with a leaf's certificate as it was found on a
// host: why it has to be issued (again), or "" if it is good until later than
// renewBefore from now. It is pure.
func (l Leaf) Check(certificate, authority []byte, now time.Time, renewBefore time.Duration) string {
	if len(certificate) == 0 {
		return "there is no certificate"
	}
	c, err := Parse(certificate)
	if err != nil {
		return "the certificate cannot be read: " + err.Error()
	}
	if len(ParseAll(authority)) == 0 {
		return "the certificate of the authority cannot be read"
	}
	// When it is valid is judged below, and of the authority elsewhere.
	if Signer(c, authority) == nil {
		return "the certificate was not issued by the cluster's authority"
	}
	if l.Server && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) || l.Client && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return "the certificate was not issued for this use"
	}
	for _, n := range l.Names {
		if err := c.VerifyHostname(n); err != nil {
			return "the certificate is not valid for " + n
		}
	}
	return Ending("the certificate", c.NotAfter, now, renewBefore)
}

// Ending says of what ends within a time, or has ended, when that is; "" of what
// is good for longer.
func Ending(what string, end, now time.Time, within time.Duration) string {
	left := end.Sub(now)
	switch on := end.UTC().Format(time.DateOnly); {
	case left <= 0:
		return what + " expired on " + on
	case left >= within:
		return ""
	default:
		return fmt.Sprintf("%s expires on %s, in %d days", what, on, int(left.Hours()/24))
	}
}

// First is the first certificate of a PEM text, as PEM.
func First(text []byte) []byte {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	return pem.EncodeToMemory(block)
}

// Bundle puts certificates together into one PEM text, each once.
func Bundle(texts ...[]byte) []byte {
	var out []byte
	seen := map[string]bool{}
	for _, text := range texts {
		for _, c := range ParseAll(text) {
			if !seen[string(c.Raw)] {
				seen[string(c.Raw)] = true
				out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
			}
		}
	}
	return out
}

// Fingerprints name the certificates of a PEM text: the SHA-256 of each in
// hexadecimal digits.
func Fingerprints(text []byte) []string {
	var list []string
	for _, c := range ParseAll(text) {
		list = append(list, fmt.Sprintf("%x", sha256.Sum256(c.Raw)))
	}
	return list
}

// Fingerprint names the first certificate of a PEM text. It is empty if there is
// none.
func Fingerprint(text []byte) string {
	for _, f := range Fingerprints(text) {
		return f
	}
	return ""
}

// Promote puts the next authority in the place of the one in force, which is kept
// beside it as the old one. It is done at once for all who use the place, except
// for a moment in which nothing is there; cut off then, it is finished by being
// done again. Where there is no next one, nothing is done.
func Promote(ctx context.Context, h host.Host, current, next, old Authority) error {
	_, err := h.Run(ctx, host.Cmd{Name: "ca.promote", Script: script("ca_promote"), Args: []string{current.Path(), next.Path(), old.Path()}})
	return err
}

// Split takes the first certificate of a PEM text apart from the others, each as PEM.
func Split(text []byte) (first, rest []byte) {
	block, rest := pem.Decode(text)
	if block == nil {
		return text, nil
	}
	first = pem.EncodeToMemory(block)
	return first, Bundle(rest)
}
