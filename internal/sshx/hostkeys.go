package sshx

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// keyring decides about host keys for a whole fleet.
type keyring struct {
	policy   HostKeyPolicy
	files    []*knownFile
	lines    []knownLine // of the configuration
	accepted *acceptedFile
	warn     func(error)
}

func newKeyring(c HostKeys, warn func(error)) (*keyring, error) {
	k := &keyring{policy: c.Policy, warn: warn}
	for _, path := range c.Files {
		k.files = append(k.files, &knownFile{path: path})
	}
	lines, bad := parseKnownHosts("", []byte(strings.Join(c.Lines, "\n")))
	if len(bad) > 0 {
		// Unlike in a file, which has other users, this is a mistake.
		return nil, errors.Join(bad...)
	}
	k.lines = lines
	if c.Policy == AcceptNew {
		k.accepted = &acceptedFile{knownFile: knownFile{path: c.AcceptedFile}}
	}
	return k, nil
}

// verifier decides about the key of one server during one handshake.
type verifier struct {
	ring  *keyring
	addr  string
	name  string // as in known_hosts
	pins  []pin
	known []knownLine // keys and authorities of this host
	dead  []knownLine // revoked keys
	loose bool        // known has only lines for the name without the port

	// offered and failure are what the handshake's callback saw.
	offered ssh.PublicKey
	failure *failure

	// add is the key to keep once the login has succeeded. Before that, it
	// may be the key of an installer that happens to answer.
	add ssh.PublicKey
}

// pin is a key that a configuration names for one host: the key or its
// fingerprint.
type pin struct {
	key         ssh.PublicKey
	fingerprint string
}

func (p pin) matches(key ssh.PublicKey) bool {
	if p.key != nil {
		return sameKey(p.key, key)
	}
	return p.fingerprint == ssh.FingerprintSHA256(key)
}

func (p pin) String() string {
	if p.key != nil {
		return describe(p.key)
	}
	return p.fingerprint
}

// parsePins reads host.Target's HostKey. Several lines are several keys, of
// which the host may have any, so that a key can be replaced.
func parsePins(text string) ([]pin, error) {
	var pins []pin
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if rest, ok := strings.CutPrefix(line, "SHA256:"); ok {
			pins = append(pins, pin{fingerprint: "SHA256:" + strings.TrimRight(rest, "=")})
			continue
		}
		key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || len(options) > 0 {
			return nil, fmt.Errorf("host key %q is neither of the form \"ssh-ed25519 AAAA...\" nor \"SHA256:...\"", line)
		}
		pins = append(pins, pin{key: plain(key)})
	}
	return pins, nil
}

// verifier prepares the decision about one server.
func (k *keyring) verifier(h hop) (*verifier, error) {
	v := &verifier{ring: k, addr: h.addr(), name: knownName(h.addr())}
	var err error
	if v.pins, err = parsePins(h.hostKey); err != nil {
		return nil, err
	}
	all := [][]knownLine{k.lines}
	for _, f := range k.files {
		lines, err := f.read(k.warn)
		if err != nil {
			return nil, err
		}
		all = append(all, lines)
	}
	if k.accepted != nil {
		lines, err := k.accepted.read(k.warn)
		if err != nil {
			return nil, err
		}
		all = append(all, lines)
	}
	find := func(name string) (found []knownLine) {
		for _, lines := range all {
			for i := range lines {
				if !lines[i].revoked && lines[i].matches(name) {
					found = append(found, lines[i])
				}
			}
		}
		return found
	}
	for _, lines := range all {
		for i := range lines {
			if lines[i].revoked {
				v.dead = append(v.dead, lines[i])
			}
		}
	}
	v.known = find(v.name)
	// Like ssh(1): a host that is not known by its port may be known without.
	// It can only help to accept a key, see check.
	if bare := knownName(h.host); len(v.known) == 0 && bare != v.name {
		v.loose = true
		v.known = find(bare)
	}
	return v, nil
}

// preferred are the host key algorithms we ask for, best first.
var preferred = []string{
	ssh.KeyAlgoED25519,
	ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
	ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
}

var preferredCerts = []string{
	ssh.CertAlgoED25519v01,
	ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
	ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
}

// algorithms returns what to ask the server for: first the types of key that
// are known, because a server offers only one of its keys, and an unknown one
// would look like an intruder's. The others follow, so that it is the key that
// is judged, with a message that says what is known instead.
func (v *verifier) algorithms() []string {
	var algos []string
	add := func(names ...string) {
		for _, name := range names {
			if !slices.Contains(algos, name) {
				algos = append(algos, name)
			}
		}
	}
	if len(v.pins) > 0 {
		for _, p := range v.pins {
			if p.key != nil {
				add(signatures(p.key)...)
			}
		}
	} else {
		for _, l := range v.known {
			if l.ca {
				add(preferredCerts...)
			}
		}
		for _, l := range v.known {
			if !l.ca {
				add(signatures(l.key)...)
			}
		}
	}
	add(preferred...)
	return algos
}

// signatures returns the algorithms a key can sign with, SHA-1 left out.
func signatures(key ssh.PublicKey) []string {
	if key.Type() == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{key.Type()}
}

// callback is an ssh.HostKeyCallback. Its verdict stays in v.failure, since
// the error of a handshake does not always wrap it.
func (v *verifier) callback(_ string, remote net.Addr, key ssh.PublicKey) error {
	v.offered, v.failure, v.add = key, nil, nil
	if f := v.check(remote, key); f != nil {
		v.failure = f
		return f
	}
	return nil
}

func (v *verifier) check(remote net.Addr, key ssh.PublicKey) *failure {
	cert, _ := key.(*ssh.Certificate)
	bare := plain(key)
	for _, l := range v.dead {
		if sameKey(l.key, bare) || cert != nil && sameKey(l.key, cert.SignatureKey) {
			return refuse(fmt.Sprintf("Give %s a new host key.", v.name),
				"the offered key %s is revoked by %s", describe(bare), l.source)
		}
	}

	if len(v.pins) > 0 {
		for _, p := range v.pins {
			if p.matches(bare) {
				return nil
			}
		}
		return refuse("If the host got a new key, for example by being installed anew, set the new one in the configuration. Otherwise somebody may be in between.",
			"%s offered %s, but the configuration wants %s", v.name, describe(bare), join(v.pins))
	}

	var certErr error
	if cert != nil {
		if certErr = v.checkCert(cert, remote); certErr == nil {
			return nil
		}
	}
	for _, l := range v.known {
		if !l.ca && sameKey(l.key, bare) {
			return nil
		}
	}

	others := v.others()
	switch {
	case v.ring.policy == Insecure:
		return nil
	case len(others) > 0:
		return v.changed(bare, others)
	case certErr != nil:
		return refuse("", "%s offered a host certificate that is not accepted: %w", v.name, certErr)
	case v.ring.policy == AcceptNew && !v.expectsCert():
		v.add = bare
		return nil
	}
	return v.unknown(bare)
}

// others returns the keys that are known instead of the one offered. A line
// for another port of the same machine says nothing about this one.
func (v *verifier) others() []knownLine {
	if v.loose {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(v.known), func(l knownLine) bool { return l.ca })
}

func (v *verifier) expectsCert() bool {
	return !v.loose && slices.ContainsFunc(v.known, func(l knownLine) bool { return l.ca })
}

func (v *verifier) checkCert(cert *ssh.Certificate, remote net.Addr) error {
	checker := ssh.CertChecker{
		IsHostAuthority: func(authority ssh.PublicKey, _ string) bool {
			return slices.ContainsFunc(v.known, func(l knownLine) bool { return l.ca && sameKey(l.key, authority) })
		},
	}
	return checker.CheckHostKey(v.addr, remote, cert)
}

func (v *verifier) changed(offered ssh.PublicKey, others []knownLine) *failure {
	var has []string
	for _, l := range others {
		has = append(has, fmt.Sprintf("%s has %s", l.source, describe(l.key)))
	}
	hint := fmt.Sprintf("If the host was installed anew, remove the old key (%s) and add the new one after comparing it with what \"ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub\" prints on the host's console. Otherwise somebody may be in between.", removal(v.name, others))
	return refuse(hint, "the key of %s has changed: it offered %s, but %s", v.name, describe(offered), strings.Join(has, ", "))
}

func removal(name string, lines []knownLine) string {
	for _, l := range lines {
		if l.file != "" {
			return fmt.Sprintf("ssh-keygen -R '%s' -f '%s'", name, l.file)
		}
	}
	return "it is in the configuration"
}

func (v *verifier) unknown(offered ssh.PublicKey) *failure {
	where := make([]string, 0, len(v.ring.files))
	for _, f := range v.ring.files {
		where = append(where, f.path)
	}
	looked := "no known_hosts file is configured"
	if len(where) > 0 {
		looked = "not in " + strings.Join(where, ", ")
	}
	if v.expectsCert() {
		looked = "it is not a certificate of the authority that is known for the host"
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(offered)))
	return refuse(fmt.Sprintf("Compare the fingerprint with what \"ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub\" prints on the host's console; then add the line %q to known_hosts, or set the host's key in the configuration, or choose the policy %s.", v.name+" "+line, AcceptNew),
		"%s offered %s, which is unknown (%s)", v.name, describe(offered), looked)
}

func refuse(hint, format string, args ...any) *failure {
	return &failure{kind: host.KindHostKey, err: fmt.Errorf(format, args...), hint: hint}
}

// describe names a key for people.
func describe(key ssh.PublicKey) string { return key.Type() + " " + ssh.FingerprintSHA256(key) }

func join(pins []pin) string {
	var all []string
	for _, p := range pins {
		all = append(all, p.String())
	}
	return strings.Join(all, " or ")
}

// plain returns the key itself, without a certificate around it.
func plain(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// another removes from algos what led to the key that was just refused, for
// another handshake. A pinned fingerprint does not tell the type of its key,
// and a server shows one of its keys at a time.
func (v *verifier) another(algos []string) []string {
	if v.offered == nil || v.failure == nil || !slices.ContainsFunc(v.pins, func(p pin) bool { return p.key == nil }) {
		return nil
	}
	seen := signatures(plain(v.offered))
	return slices.DeleteFunc(slices.Clone(algos), func(a string) bool { return slices.Contains(seen, a) })
}
