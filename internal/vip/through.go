package vip

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/follow"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// through connects to the address, from another host than the one that has it if there is
// one, and makes sure that the server at the other end is the leader's, by its certificate.
// That server takes writes, or follows as a standby leader: Patroni has said so of it.
func (m Manager) through(ctx context.Context, s Spec, nodes map[string]follow.Node, leader string, k patroni.Known) error {
	from := leader
	for _, name := range follow.Sorted(nodes) {
		if name != leader {
			from = name
			break
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	h := m.Fleet.Host(nodes[from].Target)
	c, err := h.Dial(ctx, "tcp", net.JoinHostPort(s.Address.Addr().String(), strconv.Itoa(s.Cluster.PostgresPort)))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	failed := func(err error) error {
		return fmt.Errorf("a connection from %s to %s port %d: %w", h.Name(), s.Address.Addr(), s.Cluster.PostgresPort, err)
	}
	secured, err := askTLS(c)
	if err != nil {
		return failed(err)
	}
	if s.Cluster.Adopted() || !secured {
		return nil // it is reached; nothing is known of its certificate
	}
	if err := isServer(ctx, c, k.Authority, nodes[leader]); err != nil {
		return failed(err)
	}
	return nil
}

// askTLS is the beginning of PostgreSQL's protocol (PostgreSQL documentation, "SSL Session
// Encryption"): it reports whether the server goes on with TLS.
func askTLS(c net.Conn) (bool, error) {
	request := binary.BigEndian.AppendUint32(nil, 8)
	request = binary.BigEndian.AppendUint32(request, 80877103)
	if _, err := c.Write(request); err != nil {
		return false, err
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(c, answer); err != nil {
		return false, fmt.Errorf("no PostgreSQL answers: %w", err)
	}
	switch answer[0] {
	case 'S':
		return true, nil
	case 'N':
		return false, nil
	}
	return false, errors.New("what answers is no PostgreSQL")
}

// isServer makes sure that a server has a certificate of the cluster's authority for a node.
func isServer(ctx context.Context, c net.Conn, authority []byte, n follow.Node) error {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	t := tls.Client(c, &tls.Config{ServerName: n.Address, RootCAs: pool, MinVersion: tls.VersionTLS12})
	if err := t.HandshakeContext(ctx); err != nil {
		var other x509.HostnameError
		if errors.As(err, &other) {
			return fmt.Errorf("it does not reach %s (%s), but the server of %v", n.Name, n.Address, slices.Concat(other.Certificate.DNSNames, ips(other.Certificate)))
		}
		return err
	}
	return nil
}

func ips(c *x509.Certificate) (list []string) {
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	return list
}
