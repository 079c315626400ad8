package sshx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

// listen serves TCP connections on the loopback interface.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

func echo(c net.Conn) { io.Copy(c, c) }

func dial(t *testing.T, h host.Host, address string) net.Conn {
	t.Helper()
	c, err := h.Dial(testContext(t), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestDial(t *testing.T) {
	h, s := connect(t, sshtest.Config{Play: ok})
	c := dial(t, h, listen(t, echo))
	sent := bytes.Repeat([]byte("0123456789"), 300_000)
	go c.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(got); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading after closing: %v", err)
	}
	if _, err := c.Write(got); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing after closing: %v", err)
	}
	if st := s.Stats(); st.Sessions != 0 || st.Accepted != 1 {
		t.Errorf("%d sessions, %d connections", st.Sessions, st.Accepted)
	}
}

// TestDialMany pins that tunnels need no session, of which there are
// few.
func TestDialMany(t *testing.T) {
	s := serve(t, sshtest.Config{Play: ok, MaxSessions: 1})
	h := newFleet(t, trust(s)).Host(target(s))
	address := listen(t, echo)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			c, err := h.Dial(testContext(t), "tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			text := fmt.Sprint("tunnel ", i)
			io.WriteString(c, text)
			got := make([]byte, len(text))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if st := s.Stats(); st.Accepted != 1 {
		t.Errorf("%d connections", st.Accepted)
	}
}

func TestDialFails(t *testing.T) {
	h, _ := connect(t, sshtest.Config{Play: ok})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	_, err = h.Dial(testContext(t), "tcp", closed)
	e := wantError(t, err, host.KindDial, "connection from the host refused", closed, "Connection refused")
	if e.Op != "dial "+closed || host.Unreachable(err) {
		t.Errorf("%+v", e)
	}
	for network, address := range map[string]string{"udp": "127.0.0.1:1", "unix": "/run/x", "tcp": "no port", "tcp4": "127.0.0.1:http"} {
		_, err = h.Dial(testContext(t), network, address)
		wantError(t, err, host.KindDial)
	}

	h, _ = connect(t, sshtest.Config{Play: ok, NoForwarding: true})
	_, err = h.Dial(testContext(t), "tcp", "127.0.0.1:8008")
	wantError(t, err, host.KindForward, "forwarding refused", "does not forward to 127.0.0.1:8008", "AllowTcpForwarding", "PermitOpen")
	if !host.Unreachable(err) {
		t.Error("nothing is known of what is there")
	}
	mustRun(t, h, host.Cmd{})
}

// TestDialContext gives up a dial that the host is still at.
func TestDialContext(t *testing.T) {
	arrived, leave := make(chan struct{}), make(chan struct{})
	defer close(leave)
	h, s := connect(t, sshtest.Config{Play: ok, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		close(arrived)
		<-leave
		return nil, errors.New("too late")
	}})
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error)
	go func() {
		_, err := h.Dial(ctx, "tcp", "10.0.0.1:5432")
		done <- err
	}()
	<-arrived
	cancel()
	wantError(t, <-done, host.KindCanceled, "dial 10.0.0.1:5432: canceled")
	mustRun(t, h, host.Cmd{})
	if st := s.Stats(); st.Accepted != 1 {
		t.Errorf("%d connections", st.Accepted)
	}
}

// TestDeadlines is what HTTP, gRPC and PostgreSQL clients expect of a net.Conn.
func TestDeadlines(t *testing.T) {
	h, _ := connect(t, sshtest.Config{Play: ok})
	c := dial(t, h, listen(t, echo))
	wantTimeout := func(err error) {
		t.Helper()
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Fatalf("not a timeout: %v", err)
		}
	}
	buf := make([]byte, 10)

	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	_, err := c.Read(buf)
	wantTimeout(err)

	// One that is set while reading interrupts it.
	c.SetReadDeadline(time.Time{})
	reading := make(chan error)
	go func() {
		_, err := c.Read(make([]byte, 10))
		reading <- err
	}()
	c.SetReadDeadline(time.Unix(1, 0))
	wantTimeout(<-reading)

	// The connection is as good as before.
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "hello")
	if _, err := io.ReadFull(c, buf[:5]); err != nil || string(buf[:5]) != "hello" {
		t.Fatalf("%q, %v", buf, err)
	}

	// Nobody reads what is echoed, so in the end writing blocks.
	c.SetDeadline(time.Time{})
	writing := make(chan error)
	go func() {
		_, err := c.Write(make([]byte, 64<<20))
		writing <- err
	}()
	c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	wantTimeout(<-writing)
}

// TestCloseDelivers pins that what was written before closing arrives:
// PostgreSQL clients say good-bye and close.
func TestCloseDelivers(t *testing.T) {
	got := make(chan string, 1)
	address := listen(t, func(c net.Conn) {
		b, _ := io.ReadAll(c)
		got <- string(b)
	})
	h, _ := connect(t, sshtest.Config{Play: ok})
	c := dial(t, h, address)
	text := strings.Repeat("x", 200_000)
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	c.Close()
	select {
	case g := <-got:
		if g != text {
			t.Errorf("%d bytes arrived", len(g))
		}
	case <-testContext(t).Done():
		t.Error("the far end did not see the end")
	}
}

// TestCloseOfStuckTunnel pins that closing does not wait for a far end that does
// not read.
func TestCloseOfStuckTunnel(t *testing.T) {
	leave := make(chan struct{})
	address := listen(t, func(c net.Conn) { <-leave })
	h, _ := connect(t, sshtest.Config{Play: ok})
	c := dial(t, h, address)
	done := make(chan struct{})
	go func() {
		c.Write(make([]byte, 64<<20))
		close(done)
	}()
	c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	<-done
	c.Close()
	close(leave)
}

// TestEndAndLoss pins that the end of the data and the loss of the connection
// don't look alike.
func TestEndAndLoss(t *testing.T) {
	h, s := connect(t, sshtest.Config{Play: ok})
	c := dial(t, h, listen(t, func(c net.Conn) { io.WriteString(c, "all of it") }))
	got, err := io.ReadAll(c)
	if string(got) != "all of it" || err != nil {
		t.Errorf("%q, %v", got, err)
	}

	started := make(chan struct{})
	c = dial(t, h, listen(t, func(c net.Conn) {
		io.WriteString(c, "half")
		close(started)
		io.Copy(io.Discard, c)
	}))
	<-started
	buf := make([]byte, 4)
	io.ReadFull(c, buf)
	s.Drop()
	if _, err := io.ReadAll(c); err == nil {
		t.Error("a loss looks like an end")
	}
	await(t, func() bool { _, err := c.Write([]byte("x")); return err != nil })
}

// TestHTTP is how the Patroni API is reached.
func TestHTTP(t *testing.T) {
	h, _ := connect(t, sshtest.Config{Play: ok})
	hang := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hang":
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		default:
			fmt.Fprint(w, r.URL.Path, strings.Repeat("x", 100_000))
		}
	}))
	defer srv.Close()
	defer close(hang)
	transport := &http.Transport{DialContext: h.Dial, MaxIdleConnsPerHost: 2}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			res, err := client.Get(fmt.Sprintf("%s/%d", srv.URL, i))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if body, err := io.ReadAll(res.Body); err != nil || !strings.HasPrefix(string(body), fmt.Sprintf("/%dxxx", i)) {
				t.Errorf("%d bytes, %v", len(body), err)
			}
		})
	}
	wg.Wait()

	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/hang", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestTunnelAddresses pins what pgx uses to cancel a query.
func TestTunnelAddresses(t *testing.T) {
	h, _ := connect(t, sshtest.Config{Play: ok})
	address := listen(t, echo)
	c := dial(t, h, address)
	if got := c.RemoteAddr(); got.String() != address || got.Network() != "tcp" {
		t.Errorf("%s %s", got.Network(), got)
	}
	_, port, _ := net.SplitHostPort(address)
	c = dial(t, h, "localhost:"+port)
	if got := c.RemoteAddr(); got.String() != "localhost:"+port || got.Network() != "tcp" {
		t.Errorf("%s %s", got.Network(), got)
	}
	if c.LocalAddr() == nil {
		t.Error("no local address")
	}
}

func TestDialReconnects(t *testing.T) {
	h, s := connect(t, sshtest.Config{Play: ok})
	address := listen(t, echo)
	for range 3 {
		dial(t, h, address)
		s.Drop()
	}
}
