package pki_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/host/shellhost"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// each runs a test with every shell that a host may have, on two hosts.
func each(t *testing.T, test func(t *testing.T, a, b *shellhost.Host)) {
	for name, shell := range shellhost.Shells(t) {
		t.Run(name, func(t *testing.T) { test(t, shellhost.New(t, shell), shellhost.New(t, shell)) })
	}
}

var authority = pki.Authority{Name: "etcd-dcs.1"}

func leaf() pki.Leaf {
	return pki.Leaf{
		Organization: "etcd-server.dcs", Names: []string{"10.0.0.1", "fd00::1", "pg1", "pg1.example.test."}, Server: true, Client: true,
		Key: "/etc/pgha/etcd/dcs/server.key", Certificate: "/etc/pgha/etcd/dcs/server.crt", Owner: "root", Group: "etcd",
	}
}

func parsed(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	c, err := pki.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func file(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An authority is made once, and its key is root's alone.
func TestCreate(t *testing.T) {
	each(t, func(t *testing.T, h, _ *shellhost.Host) {
		first, err := authority.Create(t.Context(), h)
		if err != nil {
			t.Fatal(err)
		}
		c := parsed(t, first)
		if !c.IsCA || !c.MaxPathLenZero || c.Subject.CommonName != authority.Name || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
			t.Errorf("the authority is %v, CA %v, usage %b", c.Subject, c.IsCA, c.KeyUsage)
		}
		if days := int(time.Until(c.NotAfter).Hours() / 24); days < pki.AuthorityDays-2 || time.Since(c.NotBefore) < 50*time.Minute {
			t.Errorf("valid from %s to %s", c.NotBefore, c.NotAfter)
		}
		for path, mode := range map[string]os.FileMode{"": 0o700, "/ca.key": 0o600, "/ca.crt": 0o644} {
			if st, err := os.Stat(h.Path(authority.Path() + path)); err != nil || st.Mode().Perm() != mode {
				t.Errorf("%s: %v %v", path, st.Mode(), err)
			}
		}
		again, err := authority.Create(t.Context(), h)
		if err != nil || !bytes.Equal(again, first) {
			t.Errorf("made again, it is another one: %v", err)
		}
		// Half of one may be all that is left of the one that everybody
		// trusts.
		if err := os.Remove(h.Path(authority.Path() + "/ca.crt")); err != nil {
			t.Fatal(err)
		}
		if _, err := authority.Create(t.Context(), h); err == nil || !strings.Contains(err.Error(), "only half of a certificate authority") {
			t.Errorf("the error is %v", err)
		}
		nothingLeft(t, h)
	})
}

// nothingLeft checks that no scratch file is left, which may hold a key.
func nothingLeft(t *testing.T, h *shellhost.Host) {
	t.Helper()
	list, err := os.ReadDir(h.Path("/run"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Name() != "lock" {
			t.Errorf("left in /run: %s", e.Name())
		}
	}
}

// A copy signs what the first one's certificate vouches for; the key passes us
// encrypted only.
func TestCopy(t *testing.T) {
	each(t, func(t *testing.T, a, b *shellhost.Host) {
		certificate, err := authority.Create(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // a copy that was cut off is made again
			if err := authority.CopyTo(t.Context(), a, b, certificate); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range []string{"/ca.key", "/ca.crt"} {
			if !bytes.Equal(file(t, a.Path(authority.Path()+f)), file(t, b.Path(authority.Path()+f))) {
				t.Errorf("%s differs", f)
			}
		}
		if st, err := os.Stat(b.Path(authority.Path() + "/ca.key")); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("the key's copy: %v %v", st.Mode(), err)
		}
		other := pki.Authority{Name: "other"}
		foreign, err := other.Create(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		if err := authority.CopyTo(t.Context(), a, b, foreign); err == nil || !strings.Contains(err.Error(), "does not belong to the certificate") {
			t.Errorf("a key with another one's certificate: %v", err)
		}
		if !bytes.Equal(file(t, b.Path(authority.Path()+"/ca.crt")), certificate) {
			t.Error("the copy that was there is gone")
		}
	})
}

// A certificate is what was asked for and no more; its key stays, and only the
// group may read it.
func TestIssue(t *testing.T) {
	each(t, func(t *testing.T, holder, h *shellhost.Host) {
		ca, err := authority.Create(t.Context(), holder)
		if err != nil {
			t.Fatal(err)
		}
		l := leaf()
		var keys [][]byte
		for range 2 {
			if err := authority.Issue(t.Context(), holder, h, l); err != nil {
				t.Fatal(err)
			}
			keys = append(keys, file(t, h.Path(l.Key)))
		}
		if !bytes.Equal(keys[0], keys[1]) {
			t.Error("the second certificate came with another key")
		}
		if st, err := os.Stat(h.Path(l.Key)); err != nil || st.Mode().Perm() != 0o640 {
			t.Errorf("the key: %v %v", st.Mode(), err)
		}
		if !strings.Contains(strings.Join(h.Calls(), "\n"), "chown [--] [root:etcd] ["+l.Key+"]") {
			t.Errorf("the key's owner was not set: %q", h.Calls())
		}
		text := file(t, h.Path(l.Certificate))
		if why := l.Check(text, ca, time.Now(), pki.RenewBefore); why != "" {
			t.Errorf("not good at once: %s", why)
		}
		c := parsed(t, text)
		if d := cmp.Diff([]string{"etcd-server.dcs"}, c.Subject.Organization); d != "" || c.Subject.CommonName != "" || c.IsCA {
			t.Errorf("subject %v, CA %v", c.Subject, c.IsCA)
		}
		if d := cmp.Diff([]string{"pg1", "pg1.example.test"}, c.DNSNames); d != "" || len(c.IPAddresses) != 2 {
			t.Errorf("names %v %v", c.DNSNames, c.IPAddresses)
		}
		nothingLeft(t, h)
		nothingLeft(t, holder)

		client := pki.Leaf{CommonName: "peer", Client: true, Key: "/etc/pgha/c.key", Certificate: "/etc/pgha/c.crt", Owner: "root", Group: "root"}
		if err := authority.Issue(t.Context(), holder, h, client); err != nil {
			t.Fatal(err)
		}
		c = parsed(t, file(t, h.Path(client.Certificate)))
		if c.Subject.CommonName != "peer" || len(c.Subject.Organization) > 0 || len(c.DNSNames) > 0 {
			t.Errorf("subject %v, names %v", c.Subject, c.DNSNames)
		}
		if d := cmp.Diff([]x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, c.ExtKeyUsage); d != "" {
			t.Errorf("usage (-want +got):\n%s", d)
		}
	})
}

// A subject has room for 64 letters: longer names are cut, and stay different.
func TestLongNames(t *testing.T) {
	h := shellhost.New(t, []string{"sh"})
	long := "patroni-node." + strings.Repeat("n", 63)
	a := pki.Authority{Name: long}
	ca, err := a.Create(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	l := leaf()
	l.Organization = long
	if err := a.Issue(t.Context(), h, h, l); err != nil {
		t.Fatal(err)
	}
	c := parsed(t, file(t, h.Path(l.Certificate)))
	if why := l.Check(file(t, h.Path(l.Certificate)), ca, time.Now(), pki.RenewBefore); why != "" || len(c.Subject.Organization[0]) != 64 {
		t.Errorf("%s; the subject is %v", why, c.Subject)
	}
	if other := pki.Subject(long[:len(long)-1] + "m"); other == pki.Subject(long) || len(other) != 64 {
		t.Errorf("another name has the subject %s", other)
	}
	if short := strings.Repeat("n", 64); pki.Subject(short) != short {
		t.Errorf("a name that fits is changed to %s", pki.Subject(short))
	}
}

// Names and subjects become part of a configuration of openssl: what could
// leave its place there never gets to a host.
func TestIssueRefuses(t *testing.T) {
	h := shellhost.New(t, []string{"sh"})
	for _, name := range []string{"", "a b", "a,DNS:evil", "a\nb", "-a", "a..b", "*", "$(id)", "ä", strings.Repeat("a", 254)} {
		l := leaf()
		l.Names = []string{name}
		if err := authority.Issue(t.Context(), h, h, l); err == nil {
			t.Errorf("the name %q is accepted", name)
		}
	}
	for _, subject := range []string{"", "a/CN=root", "a b", "a\n", "-a", "a=b"} {
		l := leaf()
		l.Organization = subject
		if err := authority.Issue(t.Context(), h, h, l); err == nil {
			t.Errorf("the subject %q is accepted", subject)
		}
		if _, err := (pki.Authority{Name: subject}).Create(t.Context(), h); err == nil {
			t.Errorf("the authority's name %q is accepted", subject)
		}
	}
	if calls := h.Calls(); len(calls) > 0 {
		t.Errorf("the host was asked: %q", calls)
	}
}

// Where the clock of one of the hosts is wrong nothing is made, and it is named.
func TestWrongClock(t *testing.T) {
	each(t, func(t *testing.T, holder, h *shellhost.Host) {
		wrong := func(h *shellhost.Host, off string) {
			h.Program("date", `for last; do :; done; [ "$last" = +%s ] && echo $(($(/bin/date +%s) + `+off+`)) || exec /bin/date "$@"`)
		}
		fails := func(err error, says string) {
			t.Helper()
			var p *problem.Error
			if !errors.As(err, &p) || !strings.Contains(p.Detail(), says) || p.Host == "" || p.Left == "" || p.Do == "" {
				t.Errorf("the error is %v, and should say %q", err, says)
			}
		}
		wrong(h, "-3599")
		_, err := authority.Create(t.Context(), h)
		fails(err, "no certificate can be made: the host's clock is 59 minutes behind that of the machine that runs Terraform")
		wrong(h, "0")
		if list, err := os.ReadDir(h.Path("/etc/pgha")); err != nil || len(list) > 0 {
			t.Errorf("something was made: %v %v", list, err)
		}
		ca, err := authority.Create(t.Context(), holder)
		if err != nil {
			t.Fatal(err)
		}
		wrong(holder, "3601")
		fails(authority.Issue(t.Context(), holder, h, leaf()), "60 minutes ahead of")
		wrong(holder, "0")
		wrong(h, "3601")
		fails(authority.Issue(t.Context(), holder, h, leaf()), "60 minutes ahead of")
		if _, err := os.Stat(h.Path(leaf().Certificate)); err == nil {
			t.Error("a certificate was made")
		}
		// A little off is no harm: certificates begin an hour before.
		wrong(h, "1700")
		if err := authority.Issue(t.Context(), holder, h, leaf()); err != nil {
			t.Fatal(err)
		}
		if why := leaf().Check(file(t, h.Path(leaf().Certificate)), ca, time.Now(), pki.RenewBefore); why != "" {
			t.Error(why)
		}
		nothingLeft(t, h)
		nothingLeft(t, holder)
	})
}

// Why a certificate has to be issued again.
func TestCheck(t *testing.T) {
	h := shellhost.New(t, []string{"sh"})
	ca, err := authority.Create(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	other, err := (pki.Authority{Name: "other"}).Create(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	l := leaf()
	if err := authority.Issue(t.Context(), h, h, l); err != nil {
		t.Fatal(err)
	}
	text := file(t, h.Path(l.Certificate))
	server := leaf()
	server.Client = false
	server.Certificate = "/etc/pgha/server-only.crt"
	if err := authority.Issue(t.Context(), h, h, server); err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour
	for name, c := range map[string]struct {
		leaf            func(*pki.Leaf)
		text, authority []byte
		later           time.Duration
		before          time.Duration
		want            string
	}{
		"good":                     {},
		"good for long":            {later: (pki.LeafDays - 31) * day},
		"missing":                  {text: []byte{}, want: "there is no certificate"},
		"not one":                  {text: []byte("x"), want: "cannot be read"},
		"another authority's":      {authority: other, want: "not issued by the cluster's authority"},
		"no authority":             {authority: []byte("x"), want: "certificate of the authority cannot be read"},
		"not for clients":          {text: file(t, h.Path(server.Certificate)), want: "for this use"},
		"another address":          {leaf: func(l *pki.Leaf) { l.Names = append(l.Names, "10.0.0.2") }, want: "not valid for 10.0.0.2"},
		"another name":             {leaf: func(l *pki.Leaf) { l.Names = []string{"pg2"} }, want: "not valid for pg2"},
		"ends soon":                {later: (pki.LeafDays - 29) * day, want: "in 28 days"},
		"ends sooner than wanted":  {later: (pki.LeafDays - 59) * day, before: 60 * day, want: "in 58 days"},
		"ends late enough":         {later: (pki.LeafDays - 61) * day, before: 60 * day},
		"ends soon, which is fine": {later: (pki.LeafDays - 3) * day, before: 2 * day},
		"ended":                    {later: (pki.LeafDays + 1) * day, want: "expired on"},
		"from the future":          {later: -day},
	} {
		wanted := leaf()
		if c.leaf != nil {
			c.leaf(&wanted)
		}
		if c.text == nil {
			c.text = text
		}
		if c.authority == nil {
			c.authority = ca
		}
		if c.before == 0 {
			c.before = pki.RenewBefore
		}
		if got := wanted.Check(c.text, c.authority, time.Now().Add(c.later), c.before); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// The next authority takes the place of the one in force, which stays beside it;
// cut off in between, that is finished by being done again.
func TestPromote(t *testing.T) {
	current, next, old := pki.Authority{Name: "etcd-dcs"}, pki.Authority{Name: "next-etcd-dcs", Subject: "etcd-dcs.2"}, pki.Authority{Name: "old-etcd-dcs"}
	for name, c := range map[string]struct {
		between func(h *shellhost.Host) error
		fails   string
	}{
		"at once":                    {},
		"cut off":                    {between: func(h *shellhost.Host) error { return os.Rename(h.Path(current.Path()), h.Path(old.Path())) }},
		"one that was not withdrawn": {between: func(h *shellhost.Host) error { return os.Mkdir(h.Path(old.Path()), 0o700) }, fails: "has not been withdrawn"},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, h, _ *shellhost.Host) {
				first, err := current.Create(t.Context(), h)
				if err != nil {
					t.Fatal(err)
				}
				second, err := next.Create(t.Context(), h)
				if err != nil || parsed(t, second).Subject.CommonName != "etcd-dcs.2" {
					t.Fatalf("the next authority: %v", err)
				}
				if c.between != nil {
					if err := c.between(h); err != nil {
						t.Fatal(err)
					}
				}
				for range 2 { // done again, it changes nothing
					err := pki.Promote(t.Context(), h, current, next, old)
					if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
						t.Fatalf("the error is %v", err)
					}
				}
				if c.fails != "" {
					second, first = first, nil
				}
				if got := file(t, h.Path(current.Path()+"/ca.crt")); !bytes.Equal(got, second) {
					t.Error("another authority is in force")
				}
				if first != nil && !bytes.Equal(file(t, h.Path(old.Path()+"/ca.crt")), first) {
					t.Error("the old one is not beside it")
				}
				if _, err := os.Stat(h.Path(next.Path())); (err == nil) != (c.fails != "") {
					t.Errorf("the next one: %v", err)
				}
				nothingLeft(t, h)
			})
		})
	}
}

// Which authority of several has signed something, and what several look like
// together.
func TestBundle(t *testing.T) {
	h := shellhost.New(t, []string{"sh"})
	ca, err := authority.Create(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	other, err := (pki.Authority{Name: "other"}).Create(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Issue(t.Context(), h, h, leaf()); err != nil {
		t.Fatal(err)
	}
	c := parsed(t, file(t, h.Path(leaf().Certificate)))
	both := pki.Bundle(other, ca, other)
	if n := len(pki.ParseAll(both)); n != 2 || !bytes.Equal(pki.First(both), other) {
		t.Errorf("a bundle of %d", n)
	}
	if s := pki.Signer(c, both); s == nil || s.Subject.CommonName != authority.Name {
		t.Errorf("signed by %v", s)
	}
	if pki.Signer(c, other) != nil {
		t.Error("signed by another one")
	}
	if f := pki.Fingerprints(both); len(f) != 2 || f[1] != pki.Fingerprint(ca) || f[0] == f[1] {
		t.Errorf("fingerprints %v", f)
	}
}
