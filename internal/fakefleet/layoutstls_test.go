package fakefleet_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// theirKeys are certificates that somebody else made, in PEM: one authority, and one
// certificate for all hosts, as Autobase makes them; another that is good for servers
// only; and one of an authority that nobody knows.
type theirKeys struct{ authority, certificate, key, serverOnly, serverOnlyKey, stranger, strangerKey string }

var keysOfTheirs = sync.OnceValue(func() theirKeys {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	begin, end := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
	serial := int64(0)
	sign := func(c, parent *x509.Certificate, signer *ecdsa.PrivateKey) (certificate, private string, key *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		if signer == nil {
			signer = key
		}
		serial++
		c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(serial), begin, end
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
		must(err)
		text, err := x509.MarshalPKCS8PrivateKey(key)
		must(err)
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})), key
	}
	authority := func() (*x509.Certificate, string, *ecdsa.PrivateKey) {
		c := &x509.Certificate{Subject: pkix.Name{CommonName: "their authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
		text, _, key := sign(c, c, nil)
		return c, text, key
	}
	leaf := func(usages ...x509.ExtKeyUsage) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{CommonName: "etcd"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usages, DNSNames: []string{"localhost"},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 0, 0, 1), net.IPv4(10, 0, 0, 2), net.IPv4(10, 0, 0, 3)},
		}
	}
	var k theirKeys
	ca, text, caKey := authority()
	k.authority = text
	k.certificate, k.key, _ = sign(leaf(), ca, caKey)
	k.serverOnly, k.serverOnlyKey, _ = sign(leaf(x509.ExtKeyUsageServerAuth), ca, caKey)
	other, _, otherKey := authority()
	k.stranger, k.strangerKey, _ = sign(leaf(), other, otherKey)
	return k
})

// secured is a layout with certificates of their own.
func secured(l layout) layout {
	plain := l.files
	l.name, l.tls = l.name+", secured", true
	l.files = func(m *fakehost.Machine, peers string) map[string]string {
		k := keysOfTheirs()
		files := plain(m, peers)
		text := strings.ReplaceAll(files["/etc/etcd/etcd.conf"], "http://", "https://")
		if strings.Contains(text, "ETCD_NAME") {
			for _, kind := range []string{"", "PEER_"} {
				text += "ETCD_" + kind + "CERT_FILE=\"/etc/etcd/tls/server.crt\"\nETCD_" + kind + "KEY_FILE=\"/etc/etcd/tls/server.key\"\nETCD_" + kind +
					"TRUSTED_CA_FILE=\"/etc/etcd/tls/ca.crt\"\nETCD_" + kind + "CLIENT_CERT_AUTH=\"false\"\n"
			}
		} else {
			section := "-transport-security:\n  cert-file: /etc/etcd/tls/server.crt\n  key-file: /etc/etcd/tls/server.key\n  trusted-ca-file: /etc/etcd/tls/ca.crt\n"
			text = strings.Replace(text, "client-transport-security:\n", "client"+section, 1)
			text = strings.Replace(text, "peer-transport-security:\n", "peer"+section, 1)
		}
		m.World.Learn(k.key)
		files["/etc/etcd/etcd.conf"] = text
		files["/etc/etcd/tls/ca.crt"], files["/etc/etcd/tls/server.crt"], files["/etc/etcd/tls/server.key"] = k.authority, k.certificate, k.key
		return files
	}
	return l
}

// A cluster with certificates of somebody else's keeps them: nothing of ours is made,
// and what this provider makes elsewhere is refused.
func TestLayoutTLS(t *testing.T) {
	for _, l := range []layout{secured(autobase), secured(pigsty)} {
		laid(t, 1, l, func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) {
			s.UID = adoptedUID(t, f)
			s.QuotaBytes = 1 << 30
			s.Snapshots = &etcd.Snapshots{Schedule: "daily", Keep: 3, Directory: "/var/backups/etcd"}
			if _, err := f.Start("changer").EtcdManager().Apply(patient(t), s); err != nil {
				t.Fatal(details(err))
			}
			undrifted(t, f, s, "reader")
			ours(t, f, l)
			f.Do(func() {
				for _, m := range f.Machines() {
					for _, p := range m.Files.Paths() {
						if strings.HasPrefix(p, "/etc/pgha/ca") || strings.HasPrefix(p, "/etc/pgha/") && (strings.HasSuffix(p, ".crt") || strings.HasSuffix(p, ".key")) {
							t.Errorf("%s was made on %s", p, m.Name)
						}
						if strings.HasPrefix(p, "/etc/pgha/") && strings.Contains(string(m.Files.Read(p)), "PRIVATE KEY") {
							t.Errorf("a key was written to %s on %s", p, m.Name)
						}
					}
					if service := string(m.Files.Read("/etc/systemd/system/pgha-etcd-snapshot.service")); !strings.Contains(service, `"/etc/etcd/tls/ca.crt:/etc/etcd/tls/server.crt:/etc/etcd/tls/server.key"`) {
						t.Errorf("snapshots on %s are taken without certificates:\n%s", m.Name, service)
					}
					if m.Files.Read("/etc/etcd/tls/server.crt") == nil || string(m.Files.Read("/etc/etcd/tls/server.crt")) != keysOfTheirs().certificate {
						t.Errorf("their certificate on %s was touched", m.Name)
					}
				}
				if len(f.Etcd.Refused) > 0 {
					t.Errorf("refused: %v", f.Etcd.Refused)
				}
			})

			renewed := s
			renewed.Authority = "2026"
			_, err := f.Start("renewer").EtcdManager().Preview(patient(t), renewed, s.UID)
			wantError(t, err, "cannot be renewed or replaced from here")

			a := s.Access()
			if err := a.ForPatroni(t.Context(), f.Start("patroni")); !a.Theirs || err == nil {
				t.Errorf("Patroni may be put on it: %+v", a)
			}
			viewer := f.Start("viewer")
			v, err := a.View(patient(t), viewer, viewer.Opener)
			if err != nil || len(v.Members) != 3 || len(v.Warnings) > 0 {
				t.Fatalf("seen: %+v, %v", v, err)
			}
			for _, m := range v.Members {
				if m.Server.Year() != 2200 || m.Peer.Year() != 2200 || m.Authority.Year() != 2200 || m.Quota != 1<<30 {
					t.Errorf("seen: %+v", m)
				}
			}

			// A member that stands still says nothing; the others are asked.
			u := f.Host(1).Units["etcd.service"]
			f.Do(func() {
				u.Active = "deactivating"
				u.Service.Stop(u)
			})
			f.WaitFor("etcd to stop", func() bool { return u.Active == "inactive" })
			starter := f.Start("starter")
			if _, err := starter.EtcdManager().Apply(patient(t), s); err != nil || !slices.Contains(starter.Steps(), "etcd.start@pg1") {
				t.Fatalf("%v %v", starter.Steps(), err)
			}

			m := f.AddDebian("pg4", "10.0.0.4", "13")
			f.Do(func() { fakefleet.Stock(m) })
			s.Members["pg4"] = etcd.Member{Address: m.Address, Target: fakefleet.Target(m)}
			p := f.Start("adder")
			_, err = p.EtcdManager().Apply(patient(t), s)
			wantError(t, err, "host pg4", "does not run on this host")
			if steps := p.Steps(); slices.ContainsFunc(steps, func(s string) bool { return s != "etcd.lists@pg4" }) {
				t.Errorf("for a member that cannot join: %v", steps)
			}
		})
	}
}

// What cannot be talked to in safety is refused, by name.
func TestLayoutTLSRefused(t *testing.T) {
	for says, change := range map[string]func(files map[string]string, k theirKeys){
		"lacks the usage clientAuth": func(files map[string]string, k theirKeys) {
			files["/etc/etcd/tls/server.crt"], files["/etc/etcd/tls/server.key"] = k.serverOnly, k.serverOnlyKey
			// The peers have another one, which is good for both.
			files["/etc/etcd/tls/peer.crt"], files["/etc/etcd/tls/peer.key"] = k.certificate, k.key
			text := strings.ReplaceAll(files["/etc/etcd/etcd.conf"], "PEER_CERT_FILE=\"/etc/etcd/tls/server", "PEER_CERT_FILE=\"/etc/etcd/tls/peer")
			files["/etc/etcd/etcd.conf"] = strings.ReplaceAll(text, "PEER_KEY_FILE=\"/etc/etcd/tls/server", "PEER_KEY_FILE=\"/etc/etcd/tls/peer")
		},
		"by itself (auto-tls)": func(files map[string]string, _ theirKeys) {
			files["/etc/etcd/etcd.conf"] += "ETCD_AUTO_TLS=\"true\"\n"
		},
		"with https and the other members with http": func(files map[string]string, _ theirKeys) {
			var lines []string
			for line := range strings.Lines(files["/etc/etcd/etcd.conf"]) {
				if strings.Contains(line, "PEER_URLS") || strings.Contains(line, "INITIAL_CLUSTER=") {
					line = strings.ReplaceAll(line, "https://", "http://")
				}
				if !strings.Contains(line, "PEER_CERT_FILE") && !strings.Contains(line, "PEER_KEY_FILE") && !strings.Contains(line, "PEER_TRUSTED") {
					lines = append(lines, line)
				}
			}
			files["/etc/etcd/etcd.conf"] = strings.Join(lines, "")
		},
	} {
		t.Run(says, func(t *testing.T) {
			l := secured(autobase)
			with := l.files
			l.files = func(m *fakehost.Machine, peers string) map[string]string {
				files := with(m, peers)
				change(files, keysOfTheirs())
				return files
			}
			if strings.Contains(says, "other members") {
				l.tls = false // of the peers
			}
			laid(t, 1, l, func(t *testing.T, f *fakefleet.Fleet, _ etcd.Spec) {
				_, err := discover(t, f, "importer")
				wantError(t, err, says)
			})
		})
	}
	// One member's certificate is of an authority that the others have never heard of.
	laid(t, 1, secured(autobase), func(t *testing.T, f *fakefleet.Fleet, _ etcd.Spec) {
		f.Do(func() {
			k := keysOfTheirs()
			f.World.Learn(k.strangerKey)
			f.Host(3).Files.Text("/etc/etcd/tls/server.crt", k.stranger)
			f.Host(3).Files.Text("/etc/etcd/tls/server.key", k.strangerKey)
		})
		_, err := discover(t, f, "importer")
		wantError(t, err, "pg3", "talk to the member with the cluster's own certificates")
		f.Do(func() { f.Etcd.Refused = nil }) // which is what was wanted
	})
}
