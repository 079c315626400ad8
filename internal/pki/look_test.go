package pki_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host/shellhost"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// party is a certificate that somebody else made, and its key.
type party struct {
	c         *x509.Certificate
	key       crypto.Signer
	text, pem []byte
}

func newParty(t *testing.T, by *party, key crypto.Signer, change func(*x509.Certificate)) *party {
	t.Helper()
	if key == nil {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key = k
	}
	p := &party{key: key, c: &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(99 * time.Hour)}}
	if change != nil {
		change(p.c)
	}
	if by == nil {
		by = p
	}
	der, err := x509.CreateCertificate(rand.Reader, p.c, by.c, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	if p.c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if der, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		t.Fatal(err)
	}
	p.text, p.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.c.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return p
}

func ca(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
}

// What is at a path is told of certificates in full, and of keys by their public key
// alone, whatever kind they are.
func TestLook(t *testing.T) {
	authority := newParty(t, nil, nil, ca)
	leaf := newParty(t, authority, nil, nil)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	old := newParty(t, authority, key, nil)
	public := func(p *party) string { return fmt.Sprintf("%x", sha256.Sum256(p.c.RawSubjectPublicKeyInfo)) }
	each(t, func(t *testing.T, h, _ *shellhost.Host) {
		dir := "/etc/pgha/theirs"
		put := func(name string, text []byte, mode os.FileMode) string {
			if err := os.MkdirAll(h.Path(dir), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(h.Path(dir+name), text, mode); err != nil {
				t.Fatal(err)
			}
			return dir + name
		}
		chain := put("/chain.crt", append(append([]byte("text before\n"), leaf.text...), authority.text...), 0o644)
		both := put("/both.pem", append(append([]byte{}, leaf.pem...), leaf.text...), 0o600)
		dos := put("/dos.crt", []byte(strings.ReplaceAll(string(leaf.text), "\n", "\r\n")), 0o644)
		ec, rsaKey, empty, no := put("/ec.key", leaf.pem, 0o600), put("/rsa.key", old.pem, 0o644), put("/empty", nil, 0o644), dir+"/no"
		link := dir + "/link.crt"
		if err := os.Symlink(h.Path(chain), h.Path(link)); err != nil {
			t.Fatal(err)
		}
		found, err := pki.Look(t.Context(), h, "nobody", []string{chain, both, dos, link, empty, no, "", "/etc/pgha"}, []string{ec, rsaKey, both, empty})
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]pki.Looked{
			chain: {Type: remote.Regular, Text: append(append([]byte{}, leaf.text...), authority.text...)}, both: {Type: remote.Regular, Text: leaf.text, Public: public(leaf)},
			dos: {Type: remote.Regular, Text: leaf.text}, link: {Type: remote.Regular, Text: append(append([]byte{}, leaf.text...), authority.text...)},
			empty: {Type: remote.Regular}, no: {Type: remote.Missing}, "/etc/pgha": {Type: remote.Other}, ec: {Type: remote.Regular, Public: public(leaf)}, rsaKey: {Type: remote.Regular, Public: public(old)},
		} {
			if got := found[path]; got.Type != want.Type || string(got.Text) != string(want.Text) || got.Public != want.Public {
				t.Errorf("%s: %+v, want %+v", path, got, want)
			}
		}
		if os.Getuid() == 0 {
			// The test's folder is closed to others, which counts.
			if got := found[rsaKey].Readable; got != "no" {
				t.Errorf("a key below a closed folder is readable: %q", got)
			}
		}
		other, err := pki.Look(t.Context(), h, "no-such-account", []string{chain}, nil)
		if err != nil || other[chain].Readable != "" {
			t.Errorf("for an account that is not there: %+v %v", other, err)
		}
		root, err := pki.Look(t.Context(), h, "root", []string{chain}, nil)
		if err != nil || os.Getuid() == 0 && root[chain].Readable != "yes" {
			t.Errorf("for root: %+v %v", root, err)
		}
	})
}

// What is wrong with a pair, and that a chain of several certificates is good.
func TestUse(t *testing.T) {
	authority := newParty(t, nil, nil, ca)
	between := newParty(t, authority, nil, func(c *x509.Certificate) { ca(c); c.Subject.CommonName = "between" })
	good := func(c *x509.Certificate) {
		c.DNSNames = []string{"pg1.example.test"}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	leaf := newParty(t, between, nil, good)
	public := func(p *party) string { return fmt.Sprintf("%x", sha256.Sum256(p.c.RawSubjectPublicKeyInfo)) }
	base := pki.Use{Pair: pki.Pair{Certificate: "/c", Key: "/k"}, What: "the certificate", Account: "etcd", Server: true, Client: true, Names: []string{"pg1.example.test"}}
	whole := func() map[string]pki.Looked {
		return map[string]pki.Looked{
			"/c": {Type: remote.Regular, Readable: "yes", Text: append(append([]byte{}, leaf.text...), between.text...)}, "/k": {Type: remote.Regular, Readable: "yes", Public: public(leaf)},
		}
	}
	for name, c := range map[string]struct {
		change func(u *pki.Use, found map[string]pki.Looked)
		later  time.Duration
		want   string
	}{
		"good": {},
		"without openssl": {change: func(_ *pki.Use, f map[string]pki.Looked) {
			f["/k"] = pki.Looked{Type: remote.Regular, Public: "unknown"}
		}},
		"without the one between": {change: func(_ *pki.Use, f map[string]pki.Looked) { f["/c"] = pki.Looked{Type: remote.Regular, Text: leaf.text} }, want: "/c is not of an authority that is trusted"},
		"the wrong one first": {change: func(_ *pki.Use, f map[string]pki.Looked) {
			f["/c"] = pki.Looked{Type: remote.Regular, Text: append(append([]byte{}, between.text...), leaf.text...)}
		}, want: "/k is not the key of /c"},
		"later":           {later: 98 * time.Hour},
		"over":            {later: 100 * time.Hour, want: "/c has expired on"},
		"before":          {later: -2 * time.Hour, want: "/c is good only from"},
		"its name":        {change: func(u *pki.Use, _ map[string]pki.Looked) { u.CommonName = "x" }},
		"another name":    {change: func(u *pki.Use, _ map[string]pki.Looked) { u.CommonName = "y" }, want: `/c has the common name "x", not "y"`},
		"a name":          {change: func(u *pki.Use, _ map[string]pki.Looked) { u.Nameless = "nobody may" }, want: `/c has the common name "x": nobody may`},
		"another address": {change: func(u *pki.Use, _ map[string]pki.Looked) { u.Names = []string{"10.0.0.1"} }, want: "/c is not good for 10.0.0.1"},
		"no key":          {change: func(_ *pki.Use, f map[string]pki.Looked) { delete(f, "/k") }, want: "/k is not there"},
		"two that cannot be read": {change: func(_ *pki.Use, f map[string]pki.Looked) {
			f["/c"], f["/k"] = pki.Looked{Type: remote.Regular, Readable: "no"}, pki.Looked{Type: remote.Other}
		}, want: "/c cannot be read by the user etcd | /k is not a file"},
		"no certificate in it":  {change: func(_ *pki.Use, f map[string]pki.Looked) { f["/c"] = pki.Looked{Type: remote.Regular} }, want: "/c has no certificate in it"},
		"a key with a password": {change: func(_ *pki.Use, f map[string]pki.Looked) { f["/k"] = pki.Looked{Type: remote.Regular} }, want: "/k has no key in it that can be read without a password"},
	} {
		u, found := base, whole()
		if c.change != nil {
			c.change(&u, found)
		}
		var got []string
		for _, f := range u.Check(found, authority.text, time.Now().Add(c.later)) {
			got = append(got, f.Path+" "+f.What)
			if f.Do == "" {
				t.Errorf("%s: nothing is said to do about %q", name, f.What)
			}
		}
		text := strings.Join(got, " | ")
		if (text == "") != (c.want == "") || !strings.HasPrefix(text, c.want) {
			t.Errorf("%s: %q, want %q", name, text, c.want)
		}
	}
}

// A certificate of somebody else's is told of when a twentieth of its time is left,
// whatever that time is.
func TestOverdue(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		lasts, left time.Duration
		want        string
	}{
		{72 * time.Hour, 4 * time.Hour, ""}, {72 * time.Hour, 3 * time.Hour, "it expires on"}, {2160 * time.Hour, 109 * time.Hour, ""}, {2160 * time.Hour, 107 * time.Hour, "it expires on"},
		{72 * time.Hour, 0, "it has expired on"}, {72 * time.Hour, -time.Hour, "it has expired on"},
	} {
		got := pki.Overdue("it", &x509.Certificate{NotBefore: now.Add(c.left - c.lasts), NotAfter: now.Add(c.left)}, now)
		if (got == "") != (c.want == "") || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s of %s left: %q, want %q", c.left, c.lasts, got, c.want)
		}
	}
}
