package simetcd

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// TLS as etcd does it: the authorities that a process trusts are those that were
// in its files when it started, its own certificates are read anew at each
// handshake, and a connection that stands is not looked at again.

// trust is what a process of etcd has read as it started.
type trust struct {
	clients, peers []byte
}

// loadTrust reads what a process that starts now trusts, and ends the connections
// of the one before.
func (m *member) loadTrust() {
	m.run++
	m.trust = trust{clients: m.machine.Files.Read(m.env["ETCD_TRUSTED_CA_FILE"]), peers: m.machine.Files.Read(m.env["ETCD_PEER_TRUSTED_CA_FILE"])}
}

// certificate is one of the member's own, as it is on its disk now.
func (m *member) certificate(kind string) []byte {
	return m.machine.Files.ReadAs("etcd", m.env["ETCD_"+kind+"CERT_FILE"])
}

// checked is a certificate together with who looked at it and for what.
type checked struct {
	certificate, authorities string
	usage                    x509.ExtKeyUsage
}

// window is when a chain of certificates is valid, both ends included.
type window struct{ from, to time.Time }

// trusted says why a certificate is refused by who trusts the given authorities.
// What was good is known to be so for as long as all of its chain is valid: fickle
// connections ask for the same few certificates thousands of times.
func (s *Sim) trusted(certificate, authorities []byte, usage x509.ExtKeyUsage) error {
	now := time.Now()
	key := checked{string(certificate), string(authorities), usage}
	if w, ok := s.good[key]; ok && !now.Before(w.from) && !now.After(w.to) {
		return nil
	}
	block, _ := pem.Decode(certificate)
	if block == nil {
		return errors.New("no certificate was given")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authorities)
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	if invalid := new(x509.CertificateInvalidError); errors.As(err, invalid) && invalid.Reason == x509.Expired {
		return errors.New("a certificate has expired or is not yet valid")
	}
	if err != nil {
		return err
	}
	w := window{from: leaf.NotBefore, to: leaf.NotAfter}
	for _, c := range chains[0][1:] {
		if c.NotBefore.After(w.from) {
			w.from = c.NotBefore
		}
		if c.NotAfter.Before(w.to) {
			w.to = c.NotAfter
		}
	}
	s.good[key] = w
	return nil
}

// connection is between two processes of etcd, or from a client to one.
type connection struct {
	from   string  // a client; empty if a is a member
	a, b   *member // a is nil for a client
	as, bs int     // which process
}

// refuse takes note of a handshake that failed.
func (s *Sim) refuse(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(s.Refused, text) {
		s.Refused = append(s.Refused, text)
	}
}

// takes reports whether a member's process listens for a scheme, for clients or for
// peers ("CLIENT", "PEER").
func (m *member) takes(kind, scheme string) bool {
	return strings.Contains(m.env["ETCD_LISTEN_"+kind+"_URLS"], scheme+"://")
}

// linked reports whether two members talk to each other, connecting them if need
// be. Each is a client of the other, by the URL at which the cluster knows it.
func (st *Store) linked(a, b *member) bool {
	if !a.machine.Reaches(b.machine) {
		return false
	}
	if a == b {
		return true
	}
	if a.name > b.name {
		a, b = b, a
	}
	c := connection{a: a, b: b, as: a.run, bs: b.run}
	if st.sim.connections[c] && !st.sim.Fickle {
		return true
	}
	for _, pair := range [][2]*member{{a, b}, {b, a}} {
		from, to := pair[0], pair[1]
		scheme, _, _ := strings.Cut(to.peerURL, "://")
		if !to.takes("PEER", scheme) {
			return false
		}
		if scheme == "http" {
			continue
		}
		err := st.sim.trusted(from.certificate("PEER_"), to.trust.peers, x509.ExtKeyUsageClientAuth)
		if err == nil {
			err = st.sim.trusted(to.certificate("PEER_"), from.trust.peers, x509.ExtKeyUsageServerAuth)
		}
		if err != nil {
			st.sim.refuse("the member %s and its peer %s: %v", from.name, to.name, err)
			st.again()
			return false
		}
	}
	st.sim.connections[c] = true
	return true
}

// again has members that were refused try once more before long.
func (st *Store) again() {
	if st.retrying {
		return
	}
	st.retrying = true
	st.sim.world.After(time.Second, func() {
		st.retrying = false
		st.changed()
	})
}

// Identity is with what a client comes to etcd, in PEM; nil for one that does
// without TLS.
type Identity struct {
	// Client tells connections apart: one of the same name is kept open.
	Client                   string
	Certificate, Authorities []byte
}

// connect makes a client's connection to a member, unless there is one.
func (s *Sim) connect(id Identity, m *member) error {
	c := connection{from: id.Client, b: m, bs: m.run}
	if s.connections[c] && !s.Fickle {
		return nil
	}
	if scheme := map[bool]string{true: "http", false: "https"}[id.Authorities == nil]; !m.takes("CLIENT", scheme) {
		err := fmt.Errorf("it does not take %s", scheme)
		s.refuse("the client %s and the member %s: %v", id.Client, m.name, err)
		return err
	}
	if id.Authorities == nil {
		s.connections[c] = true
		return nil
	}
	err := s.trusted(m.certificate(""), id.Authorities, x509.ExtKeyUsageServerAuth)
	if err == nil && (m.env["ETCD_TRUSTED_CA_FILE"] != "" || m.env["ETCD_CLIENT_CERT_AUTH"] == "true") {
		err = s.trusted(id.Certificate, m.trust.clients, x509.ExtKeyUsageClientAuth)
	}
	if err != nil {
		s.refuse("the client %s and the member %s: %v", id.Client, m.name, err)
		return err
	}
	s.connections[c] = true
	return nil
}

// samePlace reports whether two URLs differ in their scheme at most.
func samePlace(a, b string) bool {
	_, a, _ = strings.Cut(a, "://")
	_, b, _ = strings.Cut(b, "://")
	return a == b
}

// reach is etcd.reach: a member is asked by https, with a certificate of this host.
func (s *Sim) reach(o *fakehost.Op) error {
	if !o.Need(5) {
		return o.Fail(2, "etcd.reach: arguments")
	}
	authority, certificate := o.Machine.Files.Read(o.Arg(1)+"/ca.crt"), o.Machine.Files.Read(o.Arg(1)+"/"+o.Arg(2)+".crt")
	for _, st := range s.stores {
		for _, m := range st.sorted() {
			if m.unit == nil || !o.Machine.Reaches(m.machine) {
				continue
			}
			for kind, own := range map[string]string{"CLIENT": "", "PEER": "PEER_"} {
				if !strings.Contains(m.env["ETCD_LISTEN_"+kind+"_URLS"], "https://"+o.Arg(3)) {
					continue
				}
				trust := map[string][]byte{"CLIENT": m.trust.clients, "PEER": m.trust.peers}[kind]
				err := s.trusted(certificate, trust, x509.ExtKeyUsageClientAuth)
				if err == nil {
					err = s.trusted(m.certificate(own), authority, x509.ExtKeyUsageServerAuth)
				}
				if err != nil {
					return o.Fail(1, "%v", err)
				}
				return nil
			}
		}
	}
	return o.Fail(1, "%s does not answer by https", o.Arg(3))
}

// reachPlain is etcd.reach.plain: a member is asked by http.
func (s *Sim) reachPlain(o *fakehost.Op) error {
	if !o.Need(2) {
		return o.Fail(2, "etcd.reach.plain: arguments")
	}
	for _, st := range s.stores {
		for _, m := range st.sorted() {
			if m.unit != nil && o.Machine.Reaches(m.machine) && strings.Contains(m.env["ETCD_LISTEN_CLIENT_URLS"], "http://"+o.Arg(1)+":"+o.Arg(2)) && st.Leader() != "" {
				return nil
			}
		}
	}
	return o.Fail(1, "it does not answer by http")
}

// Disconnect ends all connections among members and with clients, as a fault in
// the network would.
func (s *Sim) Disconnect() {
	clear(s.connections)
	s.Refresh()
}

// CheckIdentity has a client connect to all members that it reaches, so that it is
// noted if any of them would refuse it.
func (s *Sim) CheckIdentity(from *fakehost.Machine, id Identity) {
	for _, st := range s.stores {
		for _, m := range st.served() {
			if m.unit.Active == "active" && from.Reaches(m.machine) {
				_ = s.connect(id, m)
			}
		}
	}
}

// Reload has the process on a machine trust what is in its files now, as if it had
// been started with them.
func (s *Sim) Reload(on *fakehost.Machine) {
	for _, st := range s.stores {
		for _, m := range st.sorted() {
			if m.machine == on && m.runs() {
				m.loadTrust()
			}
		}
	}
}
