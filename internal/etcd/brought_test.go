package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/pki"
)

// A server is taken for that of another name than the one at which it is reached, and
// for no other, and not if its authority is not trusted.
func TestVerifyAs(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS() // with a certificate for 127.0.0.1 and example.com
	defer server.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(server.Certificate())
	for name, c := range map[string]struct {
		as    string
		roots *x509.CertPool
		good  bool
	}{
		"its name": {"example.com", trusted, true}, "another name": {"example.org", trusted, false}, "of nobody known": {"example.com", x509.NewCertPool(), false},
	} {
		cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.roots}
		verifyAs(cfg, c.as)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
		resp, err := client.Get(server.URL)
		if err == nil {
			_ = resp.Body.Close()
		}
		if (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Members' files are read back from what they run with: one text for all, with a
// placeholder where each has its own name in a path.
func TestSameFiles(t *testing.T) {
	of := func(server, trusted string) Spec {
		f := settings{"CERT_FILE": "/s/" + server + ".crt", "KEY_FILE": "/s/" + server + ".key", "TRUSTED_CA_FILE": trusted, "PEER_CERT_FILE": "/s/" + server + ".crt", "PEER_KEY_FILE": "/s/" + server + ".key"}
		return Spec{Files: f.broughtFiles("dcs")}
	}
	files := func(server string) *Files {
		return &Files{Server: pki.Pair{Certificate: "/s/" + server + ".crt", Key: "/s/" + server + ".key"}, Trusted: "/s/ca.crt"}
	}
	for name, c := range map[string]struct {
		all  map[string]Spec
		want *Files
		fail bool
	}{
		"our own":                {all: map[string]Spec{"a1": {}, "a2": {}}},
		"the same":               {all: map[string]Spec{"a1": of("x", "/s/ca.crt"), "a2": of("x", "/s/ca.crt")}, want: files("x")},
		"named after each":       {all: map[string]Spec{"a1": of("a1", "/s/ca.crt"), "a2": of("a2", "/s/ca.crt")}, want: files("{name}")},
		"alone":                  {all: map[string]Spec{"a1": of("a1", "/s/ca.crt")}, want: files("a1")},
		"a name that is on all":  {all: map[string]Spec{"a1": of("a1", "/s/ca.crt"), "a2": of("a1", "/s/ca.crt")}, want: files("a1")},
		"differing in something": {all: map[string]Spec{"a1": of("x", "/s/ca.crt"), "a2": of("y", "/s/ca.crt")}, fail: true},
	} {
		got, err := sameFiles(c.all)
		switch {
		case (err != nil) != c.fail:
			t.Errorf("%s: %v", name, err)
		case err == nil && (got == nil) != (c.want == nil), got != nil && c.want != nil && *got != *c.want:
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	if f := (settings{"CERT_FILE": Dir("dcs") + "/server.crt"}).broughtFiles("dcs"); f != nil {
		t.Errorf("our own are taken for somebody else's: %+v", f)
	}
	if f := (settings{}).broughtFiles("dcs"); f != nil {
		t.Errorf("none are taken for somebody else's: %+v", f)
	}
}
