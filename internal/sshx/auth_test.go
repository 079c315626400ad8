package sshx

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

// encryptedKey is of ssh-keygen's making, with a single round of key derivation:
// the usual number takes seconds under the race detector.
func encryptedKey(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/encrypted_key")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// serveAgent is an SSH agent with the key given, if any. It returns its socket.
func serveAgent(t *testing.T, private any) string {
	t.Helper()
	ring := agent.NewKeyring()
	if private != nil {
		if err := ring.Add(agent.AddedKey{PrivateKey: private}); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Skip(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				agent.ServeAgent(ring, c)
				c.Close()
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return socket
}

func TestLogin(t *testing.T) {
	key, public := clientKey()
	otherKey, other := func() (ed25519.PrivateKey, ssh.PublicKey) {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := ssh.NewSignerFromKey(private)
		if err != nil {
			t.Fatal(err)
		}
		return private, signer.PublicKey()
	}()
	locked := encryptedKey(t)
	unlocked, err := ssh.ParsePrivateKeyWithPassphrase(locked, []byte("the-passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	full, empty := serveAgent(t, otherKey), serveAgent(t, nil)

	tests := []struct {
		name   string
		server sshtest.Config
		client Config
		fails  []string
	}{
		{"key", sshtest.Config{AuthorizedKeys: []ssh.PublicKey{public}}, Config{Keys: []Key{key}}, nil},
		{"key with a passphrase", sshtest.Config{AuthorizedKeys: []ssh.PublicKey{unlocked.PublicKey()}}, Config{Keys: []Key{{PEM: locked, Passphrase: "the-passphrase"}}}, nil},
		{"the second key", sshtest.Config{AuthorizedKeys: []ssh.PublicKey{public}}, Config{Keys: []Key{newKey(t), key}}, nil},
		{"agent", sshtest.Config{AuthorizedKeys: []ssh.PublicKey{other}}, Config{UseAgent: true, AgentSocket: full}, nil},
		{"agent after a key", sshtest.Config{AuthorizedKeys: []ssh.PublicKey{other}}, Config{Keys: []Key{key}, UseAgent: true, AgentSocket: full}, nil},
		{"password", sshtest.Config{AuthorizedKeys: []ssh.PublicKey{other}, Password: "hunter2hunter2"}, Config{Password: "hunter2hunter2"}, nil},
		{"password after a key", sshtest.Config{AuthorizedKeys: []ssh.PublicKey{other}, Password: "hunter2hunter2"}, Config{Keys: []Key{key}, Password: "hunter2hunter2"}, nil},
		{"questions", sshtest.Config{AuthorizedKeys: []ssh.PublicKey{other}, Password: "hunter2hunter2", Questions: []string{"Password: "}}, Config{Password: "hunter2hunter2"}, nil},
		{"a broken agent does not matter with a key", sshtest.Config{AuthorizedKeys: []ssh.PublicKey{public}}, Config{Keys: []Key{key}, UseAgent: true, AgentSocket: "/nonexistent/agent"}, nil},

		{"the wrong key", sshtest.Config{AuthorizedKeys: []ssh.PublicKey{other}}, Config{Keys: []Key{key}}, []string{
			"connect: authentication rejected", "as user root with " + describe(public), "authorized_keys"}},
		{"the wrong password", sshtest.Config{AuthorizedKeys: []ssh.PublicKey{other}, Password: "hunter2hunter2"}, Config{Password: "not-this-one"}, []string{"as user root with a password"}},
		{"a question too many", sshtest.Config{AuthorizedKeys: []ssh.PublicKey{other}, Password: "hunter2hunter2", Questions: []string{"Password: ", "Verification code: "}}, Config{Password: "hunter2hunter2"}, []string{"the server asks", "nobody is here to answer"}},
		{"the wrong user", sshtest.Config{User: "deploy"}, Config{Keys: []Key{key}}, []string{"as user root"}},
		{"nothing", sshtest.Config{}, Config{}, []string{"nothing to log in with", "Configure a private key"}},
		{"an agent without a socket", sshtest.Config{}, Config{UseAgent: true}, []string{"SSH_AUTH_SOCK is not set"}},
		{"an agent that is not there", sshtest.Config{}, Config{UseAgent: true, AgentSocket: "/nonexistent/agent"}, []string{"agent can't be used", "no such file"}},
		{"an agent without keys", sshtest.Config{AuthorizedKeys: []ssh.PublicKey{other}}, Config{UseAgent: true, AgentSocket: empty}, []string{"as user root"}},
	}
	t.Setenv("SSH_AUTH_SOCK", "")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.server.Play = ok
			s := serve(t, tt.server)
			cfg := trust(s)
			tt.client.HostKeys, tt.client.Logger, tt.client.RetryDelay = cfg.HostKeys, cfg.Logger, cfg.RetryDelay
			_, err := newFleet(t, tt.client).Host(target(s)).Run(testContext(t), host.Cmd{Name: "op"})
			if tt.fails == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantError(t, err, host.KindAuth, tt.fails...)
			if st := s.Stats(); st.Accepted > 1 {
				t.Errorf("a rejected login was tried %d times: servers shut out who does", st.Accepted)
			}
		})
	}
}

// TestAgentThatHangs pins that an agent which waits for its user is under the
// connect timeout like everything else.
func TestAgentThatHangs(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	s := serve(t, sshtest.Config{Play: ok})
	cfg := trust(s)
	cfg.Keys, cfg.UseAgent, cfg.AgentSocket = nil, true, socket
	cfg.ConnectTimeout = 500 * time.Millisecond
	_, err = newFleet(t, cfg).Host(target(s)).Run(testContext(t), host.Cmd{Name: "op"})
	wantError(t, err, host.KindUnreachable, "with the SSH agent: no answer within 500ms")
}

// TestUserCertificate logs in with a certificate, which is another public key
// than the one in it.
func TestUserCertificate(t *testing.T) {
	key, public := clientKey()
	ca := sshtest.NewHostKey()
	cert := &ssh.Certificate{
		Key: public, CertType: ssh.UserCert, KeyId: "deploy", ValidPrincipals: []string{"root"},
		ValidBefore: ssh.CertTimeInfinity,
	}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	key.Certificate = ssh.MarshalAuthorizedKey(cert)
	s := serve(t, sshtest.Config{Play: ok, AuthorizedKeys: []ssh.PublicKey{cert}})
	cfg := trust(s)
	cfg.Keys = []Key{key}
	mustRun(t, newFleet(t, cfg).Host(target(s)), host.Cmd{})
}

func newKey(t *testing.T) Key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return Key{PEM: pem.EncodeToMemory(block)}
}
