package provider_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// theirCertificates puts an authority's certificate on all hosts, and a certificate that
// is good for all of them, with its key, for etcd and for Patroni.
func (s *site) theirCertificates(t *testing.T) {
	t.Helper()
	sign := func(c, parent *x509.Certificate, by *ecdsa.PrivateKey) (string, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if by == nil {
			by = key
		}
		c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), key
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "theirs"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	authority, caKey := sign(ca, ca, nil)
	leaf := &x509.Certificate{IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1), net.IPv4(10, 0, 0, 2), net.IPv4(10, 0, 0, 3)}}
	certificate, key := sign(leaf, ca, caKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	s.f.Do(func() {
		for _, m := range s.f.Machines() {
			m.Files.Text("/etc/ssl/ca.crt", authority)
			for account, name := range map[string]string{"etcd": "server", "postgres": "node"} {
				m.Files.Text("/etc/ssl/"+name+".crt", certificate)
				m.Files.Put("/etc/ssl/"+name+".key", fakehost.File{Content: private, Mode: "640", Group: account})
			}
		}
	})
}

// A cluster with certificates of somebody else's: what is wrong on a host is an error of
// the plan, at the attribute; what is wrong later is a warning, and drift; the kind of
// certificates and Patroni's paths stay.
func TestBroughtFiles(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		for i, r := range s.hosts {
			s.must(r.apply(s.host(i)))
		}
		s.theirCertificates(t)
		nodes := object{"certificate": "/etc/ssl/node.crt", "key": "/etc/ssl/node.key", "trusted": "/etc/ssl/ca.crt"}
		brought := with(s.etcd(), "certificates", object{"files": files(nil), "patroni_files": nodes})
		_, _, diags := s.dcs.plan(with(s.etcd(), "certificates", object{"patroni_files": nodes}))
		if got := errorsIn(diags); !strings.HasPrefix(got, "certificates.patroni_files: This provider makes") {
			t.Errorf("Patroni's alone: the plan says %q", got)
		}
		key := *s.f.Host(2).Files.Get("/etc/ssl/server.key")
		s.f.Do(func() { s.f.Host(2).Files.Remove("/etc/ssl/server.key") })
		_, _, diags = s.dcs.plan(brought)
		if got := errorsIn(diags); !strings.HasPrefix(got, "certificates.files: ") || !strings.Contains(got, "Host: pg2") || !strings.Contains(got, "/etc/ssl/server.key is not there") {
			t.Errorf("the plan says %q", got)
		}
		s.f.Do(func() { s.f.Host(2).Files.Put("/etc/ssl/server.key", key) })
		s.must(s.dcs.apply(brought))
		s.dcs.unchanged(brought)
		s.must(s.cluster.apply(s.patroni()))
		s.f.Do(func() { s.f.Host(3).Files.Get("/etc/ssl/node.key").Content = []byte("x") })
		_, _, diags = s.nodes[2].plan(s.node(2))
		if got := errorsIn(diags); !strings.HasPrefix(got, "host: ") || !strings.Contains(got, "/etc/ssl/node.key has no key in it") {
			t.Errorf("the plan of a node says %q", got)
		}
		s.f.Do(func() { s.f.Host(3).Files.Get("/etc/ssl/node.key").Content = key.Content })
		s.must(s.nodes[0].apply(s.node(0)))
		s.nodes[0].unchanged(s.node(0))

		for at, other := range map[string]object{
			"certificates.files":         {},
			"certificates.patroni_files": {"files": files(nil), "patroni_files": with(nodes, "trusted", "/etc/ssl/other.crt")},
		} {
			_, _, diags := s.dcs.plan(with(s.etcd(), "certificates", other))
			if got := errorsIn(diags); !strings.HasPrefix(got, at+": ") || !strings.Contains(got, "What to do: ") {
				t.Errorf("%v: the plan says %q, want an error at %s", other, got, at)
			}
		}
		_, _, diags = s.dcs.plan(with(s.etcd(), "certificates", object{"files": files(object{"trusted": "/etc/ssl/other.crt"}), "patroni_files": nodes}))
		if got := errorsIn(diags); !strings.HasPrefix(got, "certificates.files: ") || !strings.Contains(got, "/etc/ssl/other.crt is not there") {
			t.Errorf("another path: the plan says %q", got)
		}
		s.f.Do(func() {
			for _, m := range s.f.Machines() {
				m.Files.Put("/etc/ssl/other.crt", *m.Files.Get("/etc/ssl/ca.crt"))
			}
		})
		moved := with(s.etcd(), "certificates", object{"files": files(object{"trusted": "/etc/ssl/other.crt"}), "patroni_files": nodes})
		_, _, diags = s.dcs.plan(moved)
		s.must(diags)
		if text := told(diags, tfprotov6.DiagnosticSeverityWarning); strings.Count(text, "restart etcd.service, for its settings") != 3 {
			t.Errorf("another path: the plan says %q", text)
		}
		s.must(s.dcs.apply(moved))
		s.dcs.unchanged(moved)

		s.f.Do(func() { s.f.Host(2).Files.Get("/etc/ssl/server.key").Content = []byte("x") })
		s.must(s.dcs.refresh())
		_, _, diags = s.dcs.plan(moved)
		if text := told(diags, tfprotov6.DiagnosticSeverityWarning); errorsIn(diags) != "" || !strings.Contains(text, "Applying this will fail") || !strings.Contains(text, "/etc/ssl/server.key has no key in it") {
			t.Errorf("a file that went bad: %s %s", errorsIn(diags), text)
		}
	})
}
