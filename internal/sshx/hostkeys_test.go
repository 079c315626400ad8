package sshx

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

var rsaHostKey = sync.OnceValue(func() ssh.Signer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return signerOf(key)
})

func ecdsaHostKey() ssh.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return signerOf(key)
}

func signerOf(key any) ssh.Signer {
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		panic(err)
	}
	return s
}

// certify makes a host certificate for names, signed by ca.
func certify(key, ca ssh.Signer, until time.Time, names ...string) ssh.Signer {
	cert := &ssh.Certificate{
		Key: key.PublicKey(), CertType: ssh.HostCert, ValidPrincipals: names,
		ValidBefore: uint64(until.Unix()),
	}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		panic(err)
	}
	s, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		panic(err)
	}
	return s
}

func TestHostKeys(t *testing.T) {
	ed, other, ec, rs, ca := sshtest.NewHostKey(), sshtest.NewHostKey(), ecdsaHostKey(), rsaHostKey(), sshtest.NewHostKey()
	tomorrow, yesterday := time.Now().Add(24*time.Hour), time.Now().Add(-24*time.Hour)
	cert := certify(ed, ca, tomorrow, "127.0.0.1")
	line := func(name string, key ssh.Signer) string { return name + " " + keyText(key.PublicKey()) }
	const here, bare, elsewhere = "HERE", "127.0.0.1", "[127.0.0.1]:1"

	tests := []struct {
		name   string
		server []ssh.Signer
		file   []string // "HERE" is the server's name
		policy HostKeyPolicy
		pin    string
		algo   string   // the key that was asked for
		fails  []string // "FILE" is the file's
	}{
		{name: "known", server: []ssh.Signer{ed}, file: []string{line(here, ed)}, algo: ssh.KeyAlgoED25519},
		{name: "known by a hashed name", server: []ssh.Signer{ed}, file: []string{line("HASHED", ed)}},
		{name: "known without the port", server: []ssh.Signer{ed}, file: []string{line(bare, ed)}},
		{name: "one of several", server: []ssh.Signer{ed}, file: []string{line(here, other), line(here, ed)}},
		{name: "RSA only, of three", server: []ssh.Signer{ed, ec, rs}, file: []string{line(here, rs)}, algo: ssh.KeyAlgoRSASHA512},
		{name: "ECDSA only, of three", server: []ssh.Signer{ed, rs, ec}, file: []string{line(here, ec)}, algo: ssh.KeyAlgoECDSA256},
		{name: "the best if nothing is known", server: []ssh.Signer{rs, ec, ed}, policy: Insecure, algo: ssh.KeyAlgoED25519},
		{name: "lines that can't be read", server: []ssh.Signer{ed}, file: []string{"nonsense", line(here, ed)}},

		{name: "changed", server: []ssh.Signer{ed}, file: []string{"# comment", line(here, other)}, fails: []string{
			"has changed", "it offered " + describe(ed.PublicKey()), "FILE:2 has " + describe(other.PublicKey()), "ssh-keygen -R", "installed anew"}},
		{name: "changed to another type", server: []ssh.Signer{ec}, file: []string{line(here, ed)}, fails: []string{
			"has changed", describe(ec.PublicKey()), "FILE:1 has " + describe(ed.PublicKey())}},
		{name: "unknown", server: []ssh.Signer{ed}, fails: []string{"which is unknown (not in FILE)", describe(ed.PublicKey()), keyText(ed.PublicKey()), "accept_new"}},
		{name: "known by another port only", server: []ssh.Signer{ed}, file: []string{line(elsewhere, ed)}, fails: []string{"unknown"}},
		{name: "another one without the port", server: []ssh.Signer{ed}, file: []string{line(bare, other)}, fails: []string{"unknown"}},
		{name: "revoked", server: []ssh.Signer{ed}, file: []string{line(here, ed), "@revoked * " + keyText(ed.PublicKey())}, fails: []string{"is revoked by FILE:2"}},
		{name: "revoked, though nothing is checked", server: []ssh.Signer{ed}, policy: Insecure, file: []string{"@revoked * " + keyText(ed.PublicKey())}, fails: []string{"is revoked"}},
		{name: "not checked", server: []ssh.Signer{ed}, policy: Insecure, file: []string{line(here, other)}},

		{name: "pinned", server: []ssh.Signer{ed}, pin: keyText(ed.PublicKey())},
		{name: "pinned, whatever is known", server: []ssh.Signer{ed}, pin: keyText(ed.PublicKey()), file: []string{line(here, other)}},
		{name: "pinned RSA of three", server: []ssh.Signer{ed, ec, rs}, pin: keyText(rs.PublicKey()), algo: ssh.KeyAlgoRSASHA512},
		{name: "one of two pins", server: []ssh.Signer{ed}, pin: keyText(other.PublicKey()) + "\n" + keyText(ed.PublicKey())},
		{name: "fingerprint", server: []ssh.Signer{ed}, pin: ssh.FingerprintSHA256(ed.PublicKey())},
		{name: "fingerprint of ECDSA, of three", server: []ssh.Signer{ed, ec, rs}, pin: ssh.FingerprintSHA256(ec.PublicKey()), algo: ssh.KeyAlgoECDSA256},
		{name: "fingerprint of RSA, of three", server: []ssh.Signer{ed, ec, rs}, pin: ssh.FingerprintSHA256(rs.PublicKey()), algo: ssh.KeyAlgoRSASHA512},
		{name: "another pin", server: []ssh.Signer{ed}, pin: keyText(other.PublicKey()), file: []string{line(here, ed)}, fails: []string{
			"the configuration wants " + describe(other.PublicKey()), describe(ed.PublicKey())}},
		{name: "another fingerprint", server: []ssh.Signer{ed, rs}, pin: ssh.FingerprintSHA256(other.PublicKey()), fails: []string{
			"the configuration wants " + ssh.FingerprintSHA256(other.PublicKey())}},
		{name: "another pin, though nothing is checked", server: []ssh.Signer{ed}, policy: Insecure, pin: keyText(other.PublicKey()), fails: []string{"the configuration wants"}},
		{name: "pinned, and revoked", server: []ssh.Signer{ed}, pin: keyText(ed.PublicKey()), file: []string{"@revoked * " + keyText(ed.PublicKey())}, fails: []string{"is revoked"}},

		{name: "certificate", server: []ssh.Signer{cert}, file: []string{"@cert-authority " + line(here, ca)}, algo: ssh.CertAlgoED25519v01},
		{name: "certificate, known without the port", server: []ssh.Signer{cert}, file: []string{"@cert-authority " + line("127.0.0.*", ca)}},
		{name: "certificate beside keys", server: []ssh.Signer{ed, ec, cert}, file: []string{line(here, other), "@cert-authority " + line(here, ca)}},
		{name: "certificate, but the key is known", server: []ssh.Signer{cert, ed}, file: []string{line(here, ed)}, algo: ssh.KeyAlgoED25519},
		{name: "certificate of another authority", server: []ssh.Signer{certify(ed, other, tomorrow, "127.0.0.1")}, file: []string{"@cert-authority " + line(here, ca)}, fails: []string{"certificate"}},
		{name: "certificate of another authority, but the key is known", server: []ssh.Signer{certify(ed, other, tomorrow, "127.0.0.1")}, file: []string{"@cert-authority " + line(here, ca), line(here, ed)}},
		{name: "certificate for another name", server: []ssh.Signer{certify(ed, ca, tomorrow, "pg2")}, file: []string{"@cert-authority " + line(here, ca)}, fails: []string{"certificate", "principal"}},
		{name: "expired certificate", server: []ssh.Signer{certify(ed, ca, yesterday, "127.0.0.1")}, file: []string{"@cert-authority " + line(here, ca)}, fails: []string{"certificate", "expired"}},
		{name: "revoked authority", server: []ssh.Signer{cert}, file: []string{"@cert-authority " + line(here, ca), "@revoked * " + keyText(ca.PublicKey())}, fails: []string{"is revoked"}},
		{name: "the authority's key as a host's own", server: []ssh.Signer{ca}, file: []string{"@cert-authority " + line(here, ca)}, fails: []string{"not a certificate of the authority"}},
		{name: "a key where a certificate is expected", server: []ssh.Signer{ed}, policy: AcceptNew, file: []string{"@cert-authority " + line(here, ca)}, fails: []string{"not a certificate of the authority"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, sshtest.Config{Play: ok, HostKeys: tt.server})
			file := filepath.Join(t.TempDir(), "known_hosts")
			text := strings.Join(tt.file, "\n")
			name := knownhosts.Normalize(s.Addr())
			text = strings.ReplaceAll(text, "HERE", name)
			text = strings.ReplaceAll(text, "HASHED", knownhosts.HashHostname(name))
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := trust()
			cfg.HostKeys = HostKeys{Policy: tt.policy, Files: []string{file}, AcceptedFile: filepath.Join(t.TempDir(), "accepted")}
			tgt := target(s)
			tgt.HostKey = tt.pin
			_, err := newFleet(t, cfg).Host(tgt).Run(testContext(t), host.Cmd{Name: "op"})
			if tt.fails != nil {
				for i, want := range tt.fails {
					tt.fails[i] = strings.ReplaceAll(want, "FILE", file)
				}
				e := wantError(t, err, host.KindHostKey, append(tt.fails, "host pg1")...)
				if e.Op != "connect" {
					t.Errorf("op %q", e.Op)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if got := s.Stats().HostKeyAlgo; tt.algo != "" && got != tt.algo {
				t.Errorf("asked for %s, want %s", got, tt.algo)
			}
			if after, _ := os.ReadFile(file); string(after) != text {
				t.Error("the user's file was written to")
			}
		})
	}
}

// TestAcceptNew pins what trust on first use may do: the first key of an unknown
// host, once, into a file of our own.
func TestAcceptNew(t *testing.T) {
	dir := t.TempDir()
	accepted := filepath.Join(dir, "sub", "accepted")
	users := filepath.Join(dir, "known_hosts")
	s := serve(t, sshtest.Config{Play: ok})
	config := func() Config {
		cfg := trust()
		cfg.HostKeys = HostKeys{Policy: AcceptNew, Files: []string{users}, AcceptedFile: accepted}
		return cfg
	}
	s.RejectLogins(true)
	_, err := newFleet(t, config()).Host(target(s)).Run(testContext(t), host.Cmd{Name: "op"})
	wantError(t, err, host.KindAuth)
	if _, err := os.Stat(accepted); err == nil {
		t.Error("the key of who does not let us in was accepted")
	}
	s.RejectLogins(false)

	for range 3 {
		mustRun(t, newFleet(t, config()).Host(target(s)), host.Cmd{})
	}
	got, err := os.ReadFile(accepted)
	if err != nil {
		t.Fatal(err)
	}
	if want := knownhosts.Line([]string{s.Addr()}, s.HostKey()) + "\n"; string(got) != want {
		t.Errorf("accepted %q, want %q", got, want)
	}
	if info, _ := os.Stat(accepted); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
	if _, err := os.Stat(users); err == nil {
		t.Error("the user's file was made")
	}

	s.SetHostKeys(sshtest.NewHostKey())
	_, err = newFleet(t, config()).Host(target(s)).Run(testContext(t), host.Cmd{Name: "op"})
	wantError(t, err, host.KindHostKey, "has changed", accepted+":1")

	// The strict policy does not trust what the other one accepted.
	strict := config()
	strict.HostKeys.Policy = Strict
	_, err = newFleet(t, strict).Host(target(s)).Run(testContext(t), host.Cmd{Name: "op"})
	wantError(t, err, host.KindHostKey, "unknown")
}

// TestAcceptNewAtOnce pins that many hosts, and many processes that meet the
// same host, leave one line per host.
func TestAcceptNewAtOnce(t *testing.T) {
	accepted := filepath.Join(t.TempDir(), "accepted")
	if err := os.WriteFile(accepted, []byte("# no line end"), 0o600); err != nil {
		t.Fatal(err)
	}
	var servers []*sshtest.Server
	for range 8 {
		servers = append(servers, serve(t, sshtest.Config{Play: ok}))
	}
	var wg sync.WaitGroup
	for range 4 {
		cfg := trust()
		cfg.HostKeys = HostKeys{Policy: AcceptNew, AcceptedFile: accepted}
		f := newFleet(t, cfg)
		for _, s := range servers {
			wg.Go(func() {
				if _, err := f.Host(target(s)).Run(testContext(t), host.Cmd{Name: "op"}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	data, err := os.ReadFile(accepted)
	if err != nil {
		t.Fatal(err)
	}
	lines, bad := parseKnownHosts("f", data)
	if len(lines) != len(servers) || len(bad) > 0 {
		t.Errorf("%d lines, want %d; bad: %v", len(lines), len(servers), bad)
	}
}

// TestAcceptedMeanwhile pins that of two first keys of one host only one counts.
func TestAcceptedMeanwhile(t *testing.T) {
	file := &acceptedFile{knownFile: knownFile{path: filepath.Join(t.TempDir(), "accepted")}}
	one, two := sshtest.NewHostKey().PublicKey(), sshtest.NewHostKey().PublicKey()
	if err := file.add("pg1:22", one); err != nil {
		t.Fatal(err)
	}
	if err := file.add("pg1:22", one); err != nil {
		t.Error(err)
	}
	err := file.add("pg1:22", two)
	if f := asFailure(err); f == nil || f.kind != host.KindHostKey || !strings.Contains(f.Error(), describe(one)) {
		t.Errorf("got %v", err)
	}
	if err := file.add("pg1:2222", two); err != nil {
		t.Error(err)
	}
}

// TestKnownHostsChange pins that a key which somebody adds during an apply, such
// as for a machine that was just created, is found.
func TestKnownHostsChange(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known_hosts")
	s := serve(t, sshtest.Config{Play: ok})
	cfg := trust()
	cfg.HostKeys.Files = []string{file}
	h := newFleet(t, cfg).Host(target(s))
	_, err := h.Run(testContext(t), host.Cmd{Name: "op"})
	wantError(t, err, host.KindHostKey, "unknown")
	if err := os.WriteFile(file, []byte(knownhosts.Line([]string{s.Addr()}, s.HostKey())), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, h, host.Cmd{})
}

func TestUnreadableKnownHosts(t *testing.T) {
	dir := t.TempDir() // a folder is no file
	s := serve(t, sshtest.Config{Play: ok})
	cfg := trust(s)
	cfg.HostKeys.Files = []string{dir}
	_, err := newFleet(t, cfg).Host(target(s)).Run(testContext(t), host.Cmd{Name: "op"})
	wantError(t, err, host.KindHostKey, "can't read the known host keys")
}

// BenchmarkKnownHosts is what a large file with hashed names costs per connection:
// it is read once, but every name is compared.
func BenchmarkKnownHosts(b *testing.B) {
	var text strings.Builder
	key := keyText(sshtest.NewHostKey().PublicKey())
	for i := range 1000 {
		fmt.Fprintln(&text, knownhosts.HashHostname(fmt.Sprintf("pg%d", i)), key)
	}
	file := filepath.Join(b.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	ring, err := newKeyring(HostKeys{Files: []string{file}}, func(error) {})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := ring.verifier(hop{host: "pg500", port: 22}); err != nil {
			b.Fatal(err)
		}
	}
}
