package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
)

// straight is a host from which connections are made as from here.
type straight struct{ host.Host }

func (straight) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// A server is taken for that of another name than the one at which it is reached, and
// for no other, and not if its authority is not trusted; also by gRPC, which has an
// opinion of its own about names.
func TestVerifyAs(t *testing.T) {
	lends := httptest.NewUnstartedServer(http.NotFoundHandler())
	lends.StartTLS() // with a certificate for 127.0.0.1 and example.com
	defer lends.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, Certificates: lends.TLS.Certificates})))
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	trusted := x509.NewCertPool()
	trusted.AddCert(lends.Certificate())
	for name, c := range map[string]struct {
		as    string
		roots *x509.CertPool
		good  bool
	}{
		"its name": {"example.com", trusted, true}, "another name": {"example.org", trusted, false}, "of nobody known": {"example.com", x509.NewCertPool(), false},
	} {
		cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.roots}
		verifyAs(cfg, c.as)
		at := listener.Addr().String()
		client, err := Dial(t.Context(), DialConfig{Endpoints: []Endpoint{{URL: "https://" + at, Addr: at, Host: straight{}}}, TLS: cfg})
		if err != nil {
			t.Fatal(err)
		}
		patience := 30 * time.Second
		if !c.good {
			patience = time.Second // it is tried again and again
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err = client.Status(ctx, "https://"+at)
		cancel()
		_ = client.Close()
		// It answers that it is no etcd.
		if got := status.Code(err) == codes.Unimplemented; got != c.good {
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
