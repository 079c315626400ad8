package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// direct is a host from which everything is reached as from here.
type direct struct{ host.Host }

func (direct) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, address)
}

// Who logs in to members whose certificates have all ended is told so at once: it was
// tried again and again before, for as long as a request may take, and by each
// resource of a configuration.
func TestLoginToEndedCertificates(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "member"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(0, 0, -1),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	cfg := DialConfig{TLS: &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}, User: "pgha", Password: "x"}
	cfg.TLS.RootCAs.AddCert(certificate)
	var handshakes atomic.Int64
	for range 3 {
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				handshakes.Add(1)
				_ = c.(*tls.Conn).HandshakeContext(t.Context())
				_ = c.Close()
			}
		}()
		cfg.Endpoints = append(cfg.Endpoints, Endpoint{URL: "https://" + l.Addr().String(), Host: direct{}, Addr: l.Addr().String()})
	}
	begin := time.Now()
	c, err := Dial(t.Context(), cfg)
	if err == nil {
		_ = c.Close()
		t.Fatal("it is logged in")
	}
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("the error is %v", err)
	}
	if took := time.Since(begin); took >= requestTimeout {
		t.Errorf("it took %s", took)
	}
	t.Logf("%d handshakes in %s", handshakes.Load(), time.Since(begin))
}
