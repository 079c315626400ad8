package sshx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// forward opens a connection from the server to address, "host:port".
func (c *conn) forward(ctx context.Context, address string) (net.Conn, *failure) {
	name, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &failure{kind: host.KindDial, err: err}
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, &failure{kind: host.KindDial, err: fmt.Errorf("%q is not a port number", service)}
	}
	// RFC 4254, section 7.2. The originator is for the server's log; sshd
	// refuses a name there.
	ch, reqs, err := c.openChannel(ctx, "direct-tcpip", ssh.Marshal(&struct {
		Host       string
		Port       uint32
		Originator string
		FromPort   uint32
	}{name, uint32(port), "127.0.0.1", 0}))
	if err != nil {
		return nil, openFailure(err, address)
	}
	t, err := c.tunnel(ch, reqs, address)
	if err != nil {
		ch.Close()
		return nil, asFailure(err)
	}
	return t, nil
}

// tunnel is a forwarded connection. HTTP, gRPC and PostgreSQL clients rely on
// deadlines, which channels of x/crypto don't have, so two goroutines move the
// data between the channel and one end of a net.Pipe; this is the other end.
type tunnel struct {
	net.Conn
	local, remote net.Addr

	ch ssh.Channel

	mu     sync.Mutex
	cause  error       // why reading ended, other than by the far end's closing
	sent   bool        // everything that was written
	linger *time.Timer // until the channel is closed even if it was not
}

// linger is how long a closed tunnel may take to deliver what was written.
const linger = 5 * time.Second

func (c *conn) tunnel(ch ssh.Channel, reqs <-chan *ssh.Request, address string) (*tunnel, error) {
	near, far := net.Pipe()
	t := &tunnel{Conn: near, ch: ch, local: c.raw.LocalAddr(), remote: tunnelAddr(address)}

	// Reading: ends when the channel does, or when nobody wants the data.
	if err := c.fleet.start(func() {
		err := pump(far, ch)
		lost := c.lostBy()
		t.mu.Lock()
		t.cause = cmp.Or(lost, err)
		t.mu.Unlock()
		far.Close()
	}); err != nil {
		near.Close()
		far.Close()
		return nil, err
	}
	// Writing: ends when the near end is closed, having sent everything.
	if err := c.fleet.start(func() {
		_ = pump(ch, far)
		t.mu.Lock()
		t.sent = true
		if t.linger != nil {
			t.linger.Stop()
		}
		t.mu.Unlock()
		ch.Close()
		far.Close()
	}); err != nil {
		near.Close()
		return nil, err
	}
	return t, c.fleet.start(func() { ssh.DiscardRequests(reqs) })
}

// pump copies with a buffer that grows when there is something to copy: most
// tunnels are idle most of the time.
func pump(dst io.Writer, src io.Reader) error {
	buf := make([]byte, 1<<10)
	for {
		r, err := src.Read(buf)
		if r > 0 {
			if _, werr := dst.Write(buf[:r]); werr != nil {
				return nil // nobody reads any more
			}
			if r == len(buf) && len(buf) < 1<<15 {
				buf = make([]byte, 2*len(buf))
			}
		}
		if err == io.EOF || errors.Is(err, io.ErrClosedPipe) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *tunnel) LocalAddr() net.Addr  { return t.local }
func (t *tunnel) RemoteAddr() net.Addr { return t.remote }

// Close delivers what was written, in the background and in bounded time.
func (t *tunnel) Close() error {
	t.Conn.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.sent && t.linger == nil {
		t.linger = time.AfterFunc(linger, func() { t.ch.Close() })
	}
	return nil
}

// Read tells the end of the data from the end of the SSH connection: to whom
// reads until the end, they would look alike.
func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	switch err {
	case io.EOF:
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.cause != nil {
			return n, t.cause
		}
	case io.ErrClosedPipe:
		return n, net.ErrClosed
	}
	return n, err
}

func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	if err == io.ErrClosedPipe {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.cause != nil {
			return n, t.cause
		}
		return n, net.ErrClosed
	}
	return n, err
}

// tunnelAddr is the address as it was dialled: pgx dials it again, with the
// same dialer, to cancel a query.
func tunnelAddr(address string) net.Addr {
	if ap, err := netip.ParseAddrPort(address); err == nil {
		return net.TCPAddrFromAddrPort(ap)
	}
	return namedAddr(address)
}

type namedAddr string

func (namedAddr) Network() string  { return "tcp" }
func (a namedAddr) String() string { return string(a) }
