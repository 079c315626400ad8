package fakehost

import (
	"errors"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// listener is something that listens on a port.
type listener struct {
	process string // as ss shows it
	serve   func(conn net.Conn, from *Process)
}

// Listen has serve answer connections to a port, each in a goroutine of its
// own; nil closes them at once. Process is its name for those who ask who
// listens.
func (m *Machine) Listen(port int, process string, serve func(conn net.Conn, from *Process)) {
	m.listeners[port] = listener{process, serve}
}

// Unlisten closes a port.
func (m *Machine) Unlisten(port int) { delete(m.listeners, port) }

// Virtual has connections to an address go to whichever machine has it, which is nil if
// none does.
func (w *World) Virtual(address string, holder func() *Machine) { w.virtual[address] = holder }

// Distance between two machines, as a round trip. The default is none.
type Distance func(from, to *Machine) time.Duration

// dial connects from a machine. It is called as in World.Do.
func (m *Machine) dial(v *view, address string) (net.Conn, time.Duration, error) {
	name, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, 0, v.fail("dial "+address, host.KindDial, err)
	}
	port, _ := strconv.Atoi(portText)
	to := m.World.machines[name]
	if holder := m.World.virtual[name]; holder != nil {
		to = holder()
	}
	if ip := net.ParseIP(name); name == "localhost" || ip != nil && ip.IsLoopback() {
		to = m
	}
	if !m.Reaches(to) {
		return nil, 0, v.fail("dial "+address, host.KindDial, errors.New("connection timed out"))
	}
	var distance time.Duration
	if d := m.World.distance; d != nil && to != m {
		distance = d(m, to)
	}
	l, ok := to.listeners[port]
	if !ok {
		return nil, distance, v.fail("dial "+address, host.KindDial, errors.New("connection refused"))
	}
	client, server, err := pipe()
	if err != nil {
		return nil, 0, v.fail("dial "+address, host.KindDial, err)
	}
	to.conns[server], m.conns[client] = true, true
	m.World.work.Go(func() {
		if l.serve != nil {
			l.serve(server, v.p)
		}
		_ = server.Close()
		m.World.Do(func() {
			delete(to.conns, server)
			delete(m.conns, client)
		})
	})
	return client, distance, nil
}

// SetDistance makes connections between machines take time.
func (w *World) SetDistance(d Distance) { w.Do(func() { w.distance = d }) }

func (m *Machine) dropConnections() {
	for c := range m.conns {
		_ = c.Close()
	}
	clear(m.conns)
}

// pipe returns the two ends of a connection in memory, with buffers: in TLS both
// sides may speak at once.
func pipe() (client, server net.Conn, err error) {
	l := bufconn.Listen(64 << 10)
	defer func() { _ = l.Close() }()
	accepted := make(chan net.Conn, 1)
	failed := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			failed <- err
			return
		}
		accepted <- c
	}()
	if client, err = l.Dial(); err != nil {
		return nil, nil, err
	}
	select {
	case server = <-accepted:
		return client, server, nil
	case err = <-failed:
		return nil, nil, err
	}
}
