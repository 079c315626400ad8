package labhost

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
)

// newKey returns a new key pair: the private key as OpenSSH stores it, and the
// public one as authorized_keys has it, without a newline.
func newKey(comment string) (private []byte, public string, err error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	block, err := ssh.MarshalPrivateKey(priv, comment)
	if err != nil {
		return nil, "", err
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, "", err
	}
	return pem.EncodeToMemory(block), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshPub))), nil
}

// labKey returns the public part of the key that opens the lab's hosts, which
// it makes if need be.
func (p place) labKey() (string, error) {
	text, err := os.ReadFile(p.keyFile())
	if errors.Is(err, fs.ErrNotExist) {
		private, public, err := newKey("lab " + p.name)
		if err != nil {
			return "", err
		}
		return public, sys.WriteFile(p.keyFile(), private, 0o600)
	}
	if err != nil {
		return "", err
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return "", fmt.Errorf("read the lab's key: %w", err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), nil
}

// writeSSHFiles writes the files that SSH clients work from.
func (p place) writeSSHFiles(s *state) error {
	if err := sys.WriteFile(p.knownHostsFile(), []byte(s.knownHosts()), 0o644); err != nil {
		return err
	}
	return sys.WriteFile(p.sshConfigFile(), []byte(s.sshConfig(p)), 0o644)
}

// knownHosts returns the hosts' keys in the form of OpenSSH's known_hosts.
func (s *state) knownHosts() string {
	var b strings.Builder
	for i, h := range s.publicHosts() {
		if key := s.Hosts[i].HostKey; key != "" {
			fmt.Fprintf(&b, "%s,%s,%s %s\n", h.Addr, h.Addr6, h.Name, key)
		}
	}
	return b.String()
}

// sshConfig returns the hosts as OpenSSH's ssh_config has them.
func (s *state) sshConfig(p place) string {
	var b strings.Builder
	for _, h := range s.publicHosts() {
		fmt.Fprintf(&b, "Host %s\n  HostName %s\n", h.Name, h.Addr)
		if h.Via != "" {
			fmt.Fprintf(&b, "  ProxyJump %s\n", h.Via)
		}
	}
	fmt.Fprintf(&b, `Host *
  User root
  IdentityFile "%s"
  IdentitiesOnly yes
  UserKnownHostsFile "%s"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  LogLevel ERROR
`, p.keyFile(), p.knownHostsFile())
	return b.String()
}
