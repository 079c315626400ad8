package pki

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Certificates that somebody else makes and renews are files on hosts that are read
// and never written. What can be wrong with them is found before anything is started
// with them: a server that has read a wrong one says so in its log at best.

// Pair are the paths of a certificate and of its key. The file of the certificate may
// have those between it and the authority behind it.
type Pair struct{ Certificate, Key string }

// Looked is what Look found at a path.
type Looked struct {
	Type remote.PathType // remote.Regular also behind a link
	// Readable says whether the account can read it: "yes", "no", or empty where
	// there is no such account yet.
	Readable string
	// Text are the certificates of a certificate's file, in PEM.
	Text []byte
	// Public is the SHA-256 of a key's public key, in hexadecimal digits; empty if
	// the file has no key that can be read, "unknown" if that cannot be told.
	Public string
}

// Look looks at certificates and keys on a host, as an account would read them, by
// path. It changes nothing, and no key leaves the host.
func Look(ctx context.Context, h host.Host, account string, certificates, keys []string) (map[string]Looked, error) {
	args, paths := []string{account}, []string{}
	add := func(kind string, list []string) {
		for _, p := range list {
			if p != "" {
				args, paths = append(args, kind, p), append(paths, p)
			}
		}
	}
	add("certificate", certificates)
	add("key", keys)
	res, err := h.Run(ctx, host.Cmd{Name: "pki.look", Script: remote.Script(scripts, "scripts/look.sh"), Args: args})
	if err != nil {
		return nil, err
	}
	found := map[string]Looked{}
	for line := range strings.Lines(string(res.Stdout)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		number, field, _ := strings.Cut(name, ".")
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > len(paths) {
			return nil, fmt.Errorf("host %s: unexpected answer: %q", h.Name(), line)
		}
		l := found[paths[n-1]] // one path may be asked for as both
		switch field {
		case "type":
			l.Type = remote.PathType(value)
		case "readable":
			l.Readable = value
		case "text":
			if l.Text, err = base64.StdEncoding.DecodeString(value); err != nil {
				return nil, fmt.Errorf("host %s: unexpected answer: %w", h.Name(), err)
			}
		case "public":
			l.Public = value
		}
		found[paths[n-1]] = l
	}
	return found, nil
}

// Use is for what a pair of files is needed.
type Use struct {
	Pair
	// What it is, for people: "the server's certificate".
	What string
	// Account is who reads the files.
	Account        string
	Server, Client bool
	// Names are the addresses and names that it has to be good for; CommonName is
	// the one that it has to have, if any.
	Names      []string
	CommonName string
	// Nameless says why it must not have a common name; empty if it may.
	Nameless string
}

// Fault is what is wrong with a file, and what whoever makes it has to do.
type Fault struct{ Path, What, Do string }

// unread says why a file cannot be used by an account at all.
func (l Looked) unread(path, account string) *Fault {
	switch {
	case l.Type == remote.Missing || l.Type == "":
		return &Fault{path, "is not there", "have whoever makes the certificates put it there, or name the right file"}
	case l.Type != remote.Regular:
		return &Fault{path, "is not a file", "name the right file"}
	case l.Readable == "no":
		return &Fault{path, "cannot be read by the user " + account, "give the user " + account + " the right to read it and to enter its folders (chgrp " + account + ", chmod g+r), also after it is renewed"}
	}
	return nil
}

// CheckTrusted says what is wrong with a file of authorities.
func CheckTrusted(path, account string, found map[string]Looked) []Fault {
	l := found[path]
	if f := l.unread(path, account); f != nil {
		return []Fault{*f}
	}
	if len(ParseAll(l.Text)) == 0 {
		return []Fault{{path, "has no certificate in it (in PEM)", "put the authority's certificate there"}}
	}
	return nil
}

// Check says what is wrong with a pair of files as they were found, if it is to be
// trusted by who trusts some authorities. It is pure.
func (u Use) Check(found map[string]Looked, trusted []byte, now time.Time) []Fault {
	certificate, key := found[u.Certificate], found[u.Key]
	var faults []Fault
	for _, f := range []*Fault{certificate.unread(u.Certificate, u.Account), key.unread(u.Key, u.Account)} {
		if f != nil {
			faults = append(faults, *f)
		}
	}
	if len(faults) > 0 {
		return faults
	}
	chain := ParseAll(certificate.Text)
	if len(chain) == 0 {
		return []Fault{{u.Certificate, "has no certificate in it (in PEM)", "put " + u.What + " there"}}
	}
	leaf := chain[0]
	wrong := func(path, what, do string) { faults = append(faults, Fault{path, what, do}) }
	switch public := fmt.Sprintf("%x", sha256.Sum256(leaf.RawSubjectPublicKeyInfo)); key.Public {
	case "unknown", public:
	case "":
		wrong(u.Key, "has no key in it that can be read without a password (in PEM)", "put the key of "+u.Certificate+" there, without a password")
	default:
		wrong(u.Key, "is not the key of "+u.Certificate, "put the certificate and the key there that belong together; whoever renews them has to write both")
	}
	again := "have whoever makes it make another one"
	on := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
	switch {
	case !leaf.NotAfter.After(now):
		wrong(u.Certificate, "has expired on "+on(leaf.NotAfter), "have whoever renews it do so now, and see why that was not done; an apply does not renew it")
	case leaf.NotBefore.After(now):
		wrong(u.Certificate, "is good only from "+on(leaf.NotBefore)+" on", "look at the clock of this host and of whoever makes it")
	default:
		if err := Trusts(certificate.Text, trusted, now); err != nil {
			wrong(u.Certificate, "is not of an authority that is trusted: "+err.Error(), "put the certificate of the authority that has signed it (of all, while it is being replaced) into the file of those that are trusted, and those in between behind the certificate itself")
		}
	}
	if u.Server && !usable(leaf, x509.ExtKeyUsageServerAuth) {
		wrong(u.Certificate, "is not good for a server (it lacks the usage serverAuth)", again+" with it")
	}
	if u.Client && !usable(leaf, x509.ExtKeyUsageClientAuth) {
		wrong(u.Certificate, "is not good for a client (it lacks the usage clientAuth)", again+" with it")
	}
	for _, n := range u.Names {
		if leaf.VerifyHostname(n) != nil {
			wrong(u.Certificate, "is not good for "+n+", where others reach it", again+" with that among its names (subjectAltName)")
		}
	}
	if u.CommonName != "" && leaf.Subject.CommonName != u.CommonName {
		wrong(u.Certificate, fmt.Sprintf("has the common name %q, not %q", leaf.Subject.CommonName, u.CommonName), again+" with that, or set common_name to what all members have")
	}
	if u.Nameless != "" && leaf.Subject.CommonName != "" {
		wrong(u.Certificate, fmt.Sprintf("has the common name %q: %s", leaf.Subject.CommonName, u.Nameless), again+" without one, with names in subjectAltName only")
	}
	return faults
}

// usable reports whether a certificate is good for a use; one that names none is good
// for all.
func usable(c *x509.Certificate, use x509.ExtKeyUsage) bool {
	return len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 || slices.Contains(c.ExtKeyUsage, use) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// Trusts says why who trusts some authorities does not trust the first certificate of
// a text, behind which may be those in between.
func Trusts(certificate, authorities []byte, now time.Time) error {
	chain := ParseAll(certificate)
	if len(chain) == 0 {
		return fmt.Errorf("there is no certificate")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, a := range ParseAll(authorities) {
		roots.AddCert(a)
	}
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

// Overdue says of a certificate that somebody else renews that this should have been
// done by now: less than a twentieth of its time is left. Such renewals come a third
// to a tenth of its time before the end, however long that is.
func Overdue(what string, c *x509.Certificate, now time.Time) string {
	switch left, time := c.NotAfter.Sub(now), c.NotAfter.Sub(c.NotBefore); {
	case left <= 0:
		return what + " has expired on " + c.NotAfter.UTC().Format("2006-01-02 15:04 UTC")
	case left < time/20:
		return fmt.Sprintf("%s expires on %s: less than a twentieth of its time is left, and it has not been renewed", what, c.NotAfter.UTC().Format("2006-01-02 15:04 UTC"))
	}
	return ""
}
