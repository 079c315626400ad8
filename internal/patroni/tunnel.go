package patroni

import (
	"context"
	"net"
	"strconv"
)

// DialPrimary connects to the PostgreSQL of whichever node is the primary now, through
// its host's SSH connection. Where there is none, it waits for up to a minute. Name is
// the node's.
func (m *Manager) DialPrimary(ctx context.Context, c Cluster) (conn net.Conn, name string, err error) {
	do, err := m.existing(ctx, c)
	if err != nil {
		return nil, "", err
	}
	if err := c.Require(do.Known); err != nil {
		return nil, "", err
	}
	n, err := do.leading(ctx, c)
	if err != nil {
		return nil, "", err
	}
	// By its own address, not by localhost: that is where the networks that may connect
	// have to be.
	conn, err = do.host(n).Dial(ctx, "tcp", net.JoinHostPort(n.Address, strconv.Itoa(c.PostgresPort)))
	return conn, n.Name, err
}
