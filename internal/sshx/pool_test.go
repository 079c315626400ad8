package sshx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

// ok is a host on which every script succeeds.
func ok(context.Context, sshtest.Call) int { return 0 }

// TestOneConnection pins that all users of a host share one connection, whoever
// comes first and whatever they call the host.
func TestOneConnection(t *testing.T) {
	s := serve(t, sshtest.Config{Play: ok})
	f := newFleet(t, trust(s))
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			tgt := target(s)
			tgt.Name = fmt.Sprintf("name%d", i)
			if _, err := f.Host(tgt).Run(testContext(t), host.Cmd{Name: "op"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if st := s.Stats(); st.Accepted != 1 || st.Scripts != 50 || st.SessionPeak > 8 {
		t.Errorf("%d connections, %d scripts, %d at once", st.Accepted, st.Scripts, st.SessionPeak)
	}
}

func TestTargetsThatDiffer(t *testing.T) {
	s := serve(t, sshtest.Config{Play: ok})
	f := newFleet(t, trust(s))
	pinned := target(s)
	pinned.HostKey = string(ssh.MarshalAuthorizedKey(s.HostKey()))
	other := target(s)
	other.User = "deploy"
	for range 3 {
		for _, tgt := range []host.Target{target(s), pinned, other} {
			mustRun(t, f.Host(tgt), host.Cmd{})
		}
	}
	if st := s.Stats(); st.Accepted != 3 {
		t.Errorf("%d connections, want one per target", st.Accepted)
	}
}

// TestSessionLimit keeps as many scripts waiting as it can, to see how many run.
func TestSessionLimit(t *testing.T) {
	arrived, leave := make(chan struct{}), make(chan struct{})
	s := serve(t, sshtest.Config{Play: func(ctx context.Context, _ sshtest.Call) int {
		arrived <- struct{}{}
		<-leave
		return 0
	}})
	cfg := trust(s)
	cfg.MaxSessions = 5
	h := newFleet(t, cfg).Host(target(s))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := h.Run(testContext(t), host.Cmd{Name: "op"}); err != nil {
				t.Error(err)
			}
		})
	}
	for range 5 {
		<-arrived
	}
	// The sixth waits for a place, and stops waiting with its context.
	ctx, cancel := context.WithCancel(testContext(t))
	waiting := make(chan error)
	go func() {
		_, err := h.Run(ctx, host.Cmd{Name: "op"})
		waiting <- err
	}()
	cancel()
	wantError(t, <-waiting, host.KindCanceled)
	go func() {
		for range arrived {
		}
	}()
	close(leave)
	wg.Wait()
	close(arrived)
	if st := s.Stats(); st.SessionPeak != 5 || st.Refused > 0 {
		t.Errorf("%d sessions at once, %d refused", st.SessionPeak, st.Refused)
	}
}

// TestLowerServerLimit pins that a server which allows less than we assume is
// found out and gets no more than it allows.
func TestLowerServerLimit(t *testing.T) {
	s := serve(t, sshtest.Config{Play: ok, MaxSessions: 2})
	h := newFleet(t, trust(s)).Host(target(s))
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			// Not root's, which would share a session.
			if _, err := h.Run(testContext(t), host.Cmd{Name: "op", User: host.LoginUser}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if st := s.Stats(); st.Sessions != 40 || st.SessionPeak > 2 {
		t.Errorf("%d sessions, %d at once", st.Sessions, st.SessionPeak)
	}
}

func TestNoSessionsAtAll(t *testing.T) {
	s := serve(t, sshtest.Config{Play: ok, MaxSessions: -1})
	cfg := trust(s)
	cfg.SessionWait = 100 * time.Millisecond
	h := newFleet(t, cfg).Host(target(s))
	_, err := h.Run(testContext(t), host.Cmd{Name: "op"})
	wantError(t, err, host.KindSession, "op: cannot run commands: the SSH server opens no session", "open failed", "MaxSessions")
	if st := s.Stats(); st.Refused < 2 || st.Accepted != 1 {
		t.Errorf("%+v", st)
	}
}

// TestLocksLeaveRoom pins that who waits for locks can't keep out the one who
// holds it, and that long-running scripts which take everything the server
// allows lead to an error instead of to a wait without end.
func TestLocksLeaveRoom(t *testing.T) {
	s := serve(t, sshtest.Config{Env: asRoot(t)})
	cfg := trust(s)
	cfg.MaxSessions = 4
	h := newFleet(t, cfg).Host(target(s))
	for range 2 {
		start(t, h, host.Cmd{Script: "cat"})
	}
	ctx, cancel := context.WithCancel(testContext(t))
	third := make(chan error)
	go func() {
		_, err := h.Start(ctx, host.Cmd{Name: "lock", Script: "cat"})
		third <- err
	}()
	for range 10 {
		mustRun(t, h, host.Cmd{Script: "true"})
	}
	cancel()
	wantError(t, <-third, host.KindCanceled)

	s = serve(t, sshtest.Config{Env: asRoot(t), MaxSessions: 1})
	cfg = trust(s)
	cfg.SessionWait = 100 * time.Millisecond
	h = newFleet(t, cfg).Host(target(s))
	start(t, h, host.Cmd{Script: "cat"})
	_, err := h.Run(testContext(t), host.Cmd{Name: "op", Script: "true"})
	wantError(t, err, host.KindSession, "long-running", "MaxSessions")
}

// TestDialsAtOnce lets 40 servers wait with their handshakes, to see how many
// dials are under way.
func TestDialsAtOnce(t *testing.T) {
	var now, peak atomic.Int64
	arrived, leave := make(chan struct{}, 100), make(chan struct{})
	var servers []*sshtest.Server
	for range 40 {
		servers = append(servers, serve(t, sshtest.Config{Play: ok}))
	}
	cfg := trust(servers...)
	cfg.MaxConnections = 7
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
		}
		arrived <- struct{}{}
		<-leave
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	f := newFleet(t, cfg)
	var wg sync.WaitGroup
	for _, s := range servers {
		wg.Go(func() {
			if _, err := f.Host(target(s)).Run(testContext(t), host.Cmd{Name: "op"}); err != nil {
				t.Error(err)
			}
		})
	}
	for range 7 {
		<-arrived
	}
	close(leave)
	wg.Wait()
	if got := peak.Load(); got != 7 {
		t.Errorf("%d dials at once, want 7", got)
	}
}

// TestCancelWhileDialing pins that a caller who leaves a dial harms nobody,
// and that the last one to leave ends it.
func TestCancelWhileDialing(t *testing.T) {
	s := serve(t, sshtest.Config{Play: ok})
	cfg := trust(s)
	dialing, leave := make(chan struct{}, 10), make(chan struct{})
	ended := make(chan error, 10)
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		dialing <- struct{}{}
		select {
		case <-leave:
			return new(net.Dialer).DialContext(ctx, network, address)
		case <-ctx.Done():
			ended <- ctx.Err()
			return nil, ctx.Err()
		}
	}
	h := newFleet(t, cfg).Host(target(s))
	run := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		go func() {
			_, err := h.Run(ctx, host.Cmd{Name: "op"})
			done <- err
		}()
		return done
	}

	ctx, cancel := context.WithCancel(testContext(t))
	leaver := run(ctx)
	<-dialing
	stayer := run(testContext(t))
	await(t, func() bool { return waiting(h) == 2 })
	cancel()
	wantError(t, <-leaver, host.KindCanceled, "connect: canceled")
	close(leave)
	if err := <-stayer; err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Accepted != 1 {
		t.Errorf("%d connections", st.Accepted)
	}

	s.Drop()
	leave = make(chan struct{})
	await(t, func() bool { return h.(*machine).link.live() == nil })
	ctx, cancel = context.WithCancel(testContext(t))
	last := run(ctx)
	<-dialing
	cancel()
	wantError(t, <-last, host.KindCanceled)
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the dial ended with %v", err)
	}
}

// waiting is how many wait for the dial of h that is under way.
func waiting(h host.Host) int {
	d := &h.(*machine).link.dials
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cur == nil {
		return 0
	}
	return d.cur.waiting
}

// TestOtherHostsDialMeanwhile pins that a host which does not answer holds up
// nobody else.
func TestOtherHostsDialMeanwhile(t *testing.T) {
	slow, quick := serve(t, sshtest.Config{Play: ok}), serve(t, sshtest.Config{Play: ok})
	slow.Stall(true)
	f := newFleet(t, trust(slow, quick))
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error)
	go func() {
		_, err := f.Host(target(slow)).Run(ctx, host.Cmd{Name: "op"})
		done <- err
	}()
	if err := slow.Await(ctx, func(st sshtest.Stats) bool { return st.Dialing == 1 }); err != nil {
		t.Fatal(err)
	}
	mustRun(t, f.Host(target(quick)), host.Cmd{})
	cancel()
	wantError(t, <-done, host.KindCanceled)
}

func TestReconnect(t *testing.T) {
	s := serve(t, sshtest.Config{Play: ok})
	h := newFleet(t, trust(s)).Host(target(s))
	for i := range 3 {
		mustRun(t, h, host.Cmd{})
		if st := s.Stats(); st.Accepted != i+1 {
			t.Fatalf("%d connections", st.Accepted)
		}
		// Whether our side has noticed by the next use is left to chance.
		s.Drop()
	}
}

// TestLostWhileRunning pins that a script which was cut off is neither repeated
// nor reported as failed or done.
func TestLostWhileRunning(t *testing.T) {
	var s *sshtest.Server
	runs := make(chan struct{}, 10)
	s = serve(t, sshtest.Config{Play: func(ctx context.Context, c sshtest.Call) int {
		runs <- struct{}{}
		fmt.Fprintln(c.Stdout, "half")
		s.Drop()
		<-ctx.Done()
		return 0
	}})
	h := newFleet(t, trust(s)).Host(target(s))
	_, err := h.Run(testContext(t), host.Cmd{Name: "op"})
	wantError(t, err, host.KindLost, "op: connection lost: the connection to 127.0.0.1:")
	if !host.OutcomeUnknown(err) || len(runs) != 1 {
		t.Errorf("run %d times", len(runs))
	}
}

// TestLostBeforeGo pins that a script which was not told to go is repeated on a
// new connection, once.
func TestLostBeforeGo(t *testing.T) {
	var s *sshtest.Server
	var drop atomic.Int64
	runs := make(chan string, 10)
	s = serve(t, sshtest.Config{
		Play: func(_ context.Context, c sshtest.Call) int { runs <- c.Op; return 0 },
		Dial: nil,
	})
	// A proxy that cuts the connection when the session is to be opened.
	cfg := trust(s)
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		return &cutter{Conn: c, cut: &drop}, err
	}
	h := newFleet(t, cfg).Host(target(s))
	mustRun(t, h, host.Cmd{Name: "first"})
	<-runs

	drop.Store(1)
	mustRun(t, h, host.Cmd{Name: "second"})
	if st := s.Stats(); st.Accepted != 2 || len(runs) != 1 {
		t.Errorf("%d connections, %d runs", st.Accepted, len(runs))
	}
}

// cutter fails as many writes as cut says, and its connection with them.
type cutter struct {
	net.Conn
	cut *atomic.Int64
}

func (c *cutter) Write(p []byte) (int, error) {
	if c.cut.Load() > 0 && c.cut.Add(-1) >= 0 {
		c.Conn.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func TestClose(t *testing.T) {
	s := serve(t, sshtest.Config{Env: asRoot(t)})
	f := newFleet(t, trust(s))
	h := f.Host(target(s))
	p := start(t, h, host.Cmd{Script: "cat"})
	running := make(chan error)
	mark := filepath.Join(t.TempDir(), "mark")
	go func() {
		_, err := h.Run(testContext(t), host.Cmd{Name: "op", Script: `echo > "$1"; sleep 600`, Args: []string{mark}})
		running <- err
	}()
	await(t, func() bool { _, err := os.Stat(mark); return err == nil })
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	wantError(t, <-running, host.KindLost, "the fleet is closed")
	wantError(t, p.Wait(), host.KindLost)
	_, err := h.Run(testContext(t), host.Cmd{Name: "op"})
	e := wantError(t, err, host.KindUnreachable, "the fleet is closed")
	if !errors.Is(e, net.ErrClosed) {
		t.Error("not net.ErrClosed")
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseWhileDialing(t *testing.T) {
	s := serve(t, sshtest.Config{Play: ok})
	s.Stall(true)
	f := newFleet(t, trust(s))
	done := make(chan error)
	go func() {
		_, err := f.Host(target(s)).Run(testContext(t), host.Cmd{Name: "op"})
		done <- err
	}()
	if err := s.Await(testContext(t), func(st sshtest.Stats) bool { return st.Dialing == 1 }); err != nil {
		t.Fatal(err)
	}
	f.Close()
	wantError(t, <-done, host.KindUnreachable, "the fleet is closed")
}

func TestInvalidTargets(t *testing.T) {
	f := newFleet(t, trust())
	for want, tgt := range map[string]host.Target{
		"the address is empty":   {},
		"is neither an IP":       {Address: "a b"},
		"has a field of its own": {Address: "example.com:22"},
		"70000 is not a port":    {Address: "pg1", Port: 70000},
		"bastion":                {Address: "pg1", Bastions: "a@:99999"},
		"direct connection":      {Address: "pg1", Bastions: "a,none"},
		"host key":               {Address: "pg1", HostKey: "ssh-ed25519 AAAA"},
	} {
		tgt.Name = "pg1"
		_, err := f.Host(tgt).Run(testContext(t), host.Cmd{Name: "op"})
		wantError(t, err, host.KindUnreachable, "host pg1", "connect", want)
		_, err = f.Host(tgt).Dial(testContext(t), "tcp", "127.0.0.1:1")
		wantError(t, err, host.KindUnreachable, want)
	}
}

// TestHostName pins what a host answers to.
func TestHostName(t *testing.T) {
	f := newFleet(t, trust())
	if h := f.Host(host.Target{Name: "pg1", Address: "10.0.0.1"}); h.Name() != "pg1" || h.Addr() != "10.0.0.1" {
		t.Errorf("%s, %s", h.Name(), h.Addr())
	}
	if h := f.Host(host.Target{Address: "10.0.0.1"}); h.Name() != "10.0.0.1" {
		t.Errorf("%s", h.Name())
	}
}

// TestAddresses dials names and addresses of all forms over a network in memory.
func TestAddresses(t *testing.T) {
	var n sshtest.Network
	for _, tt := range []struct {
		address string
		port    int
		dialed  string
	}{
		{"10.0.0.1", 0, "10.0.0.1:22"},
		{"PG1.Example.com", 2222, "pg1.example.com:2222"},
		{"2001:db8::1", 0, "[2001:db8::1]:22"},
		{"[2001:db8::2]", 2222, "[2001:db8::2]:2222"},
		{"fe80::1%eth0", 22, "[fe80::1%eth0]:22"},
	} {
		t.Run(tt.address, func(t *testing.T) {
			l, err := n.Listen(tt.dialed)
			if err != nil {
				t.Fatal(err)
			}
			s := sshtest.Serve(l, sshtest.Config{Play: ok})
			defer s.Close()
			cfg := trust()
			cfg.HostKeys.Lines = []string{knownhosts.Line([]string{tt.dialed}, s.HostKey())}
			cfg.Dial = n.Dial
			mustRun(t, newFleet(t, cfg).Host(host.Target{Address: tt.address, Port: tt.port}), host.Cmd{})
		})
	}
}

func TestNewRefuses(t *testing.T) {
	key, _ := clientKey()
	locked := Key{PEM: encryptedKey(t)}
	tests := []struct {
		name string
		cfg  Config
		want string
	}{
		{"policy", Config{HostKeys: HostKeys{Policy: "maybe"}}, "unknown host key policy"},
		{"no file for accepted keys", Config{HostKeys: HostKeys{Policy: AcceptNew}}, "needs a file"},
		{"the user's file for accepted keys", Config{HostKeys: HostKeys{Policy: AcceptNew, Files: []string{"a"}, AcceptedFile: "a"}}, "file of their own"},
		{"a line of known hosts", Config{HostKeys: HostKeys{Lines: []string{"ok", "pg1 ssh-ed25519 AAAA"}}}, "known hosts of the configuration:1"},
		{"become", Config{Become: "su"}, "unknown way"},
		{"doas with a password", Config{Become: BecomeDoas, BecomePassword: "x"}, "nopass"},
		{"key", Config{Keys: []Key{key, {PEM: []byte("-----BEGIN SECRET")}}}, "private key 2"},
		{"no passphrase", Config{Keys: []Key{locked}}, "no passphrase"},
		{"wrong passphrase", Config{Keys: []Key{{PEM: locked.PEM, Passphrase: "wrong-phrase"}}}, "private key 1"},
		{"certificate", Config{Keys: []Key{{PEM: key.PEM, Certificate: []byte("x")}}}, "certificate"},
		{"port", Config{Port: 99999}, "not a port"},
		{"bastion", Config{Bastions: []Jump{{Host: ""}}}, "bastion"},
		{"negative", Config{MaxSessions: -1}, "negative"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.cfg)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), "wrong-phrase")) {
				t.Errorf("a secret is in %v", err)
			}
		})
	}
}
