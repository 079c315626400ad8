package sshx

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

// site is a network behind a bastion.
type site struct {
	net, outside sshtest.Network
	servers      map[string]*sshtest.Server
	cfg          Config
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{servers: make(map[string]*sshtest.Server), cfg: trust()}
	s.add(t, &s.outside, "bastion:22", sshtest.Config{Play: ok, Dial: s.net.Dial})
	s.cfg.Dial = s.outside.Dial
	s.cfg.Bastions = []Jump{{Host: "bastion"}}
	return s
}

func (s *site) add(t *testing.T, n *sshtest.Network, address string, cfg sshtest.Config) *sshtest.Server {
	t.Helper()
	l, err := n.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	srv := sshtest.Serve(l, cfg)
	t.Cleanup(srv.Close)
	s.servers[address] = srv
	s.cfg.HostKeys.Lines = append(s.cfg.HostKeys.Lines, knownhosts.Line([]string{address}, srv.HostKey()))
	return srv
}

// TestBastionIsShared reaches 20 hosts through one connection, with no more
// dials at once than allowed, the bastion's included.
func TestBastionIsShared(t *testing.T) {
	s := newSite(t)
	for i := range 20 {
		s.add(t, &s.net, fmt.Sprintf("pg%d:22", i), sshtest.Config{Play: ok})
	}
	s.cfg.MaxConnections = 1
	f := newFleet(t, s.cfg)
	var wg sync.WaitGroup
	for i := range 20 {
		for range 3 {
			wg.Go(func() {
				if _, err := f.Host(host.Target{Address: fmt.Sprintf("pg%d", i)}).Run(testContext(t), host.Cmd{Name: "op"}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	for name, srv := range s.servers {
		if st := srv.Stats(); st.Accepted != 1 {
			t.Errorf("%s: %d connections", name, st.Accepted)
		}
	}
	// The bastion as a host is the same connection.
	mustRun(t, f.Host(host.Target{Address: "bastion", Bastions: "none"}), host.Cmd{})
	if st := s.servers["bastion:22"].Stats(); st.Accepted != 1 || len(st.Forwards) != 20 {
		t.Errorf("%d connections, %d forwards", st.Accepted, len(st.Forwards))
	}
}

// TestBastionChain goes through two, of which the second has a user and a port
// of its own, and opens tunnels at the end of it.
func TestBastionChain(t *testing.T) {
	s := newSite(t)
	var deep sshtest.Network
	s.add(t, &s.net, "[2001:db8::2]:2222", sshtest.Config{Play: ok, Dial: deep.Dial, User: "jump"})
	s.add(t, &deep, "pg1:22", sshtest.Config{Play: ok, User: "root"})
	s.cfg.Bastions = nil
	h := newFleet(t, s.cfg).Host(host.Target{Address: "pg1", Bastions: "bastion,jump@[2001:db8::2]:2222"})
	mustRun(t, h, host.Cmd{})
	c := dial(t, h, listen(t, echo))
	fmt.Fprint(c, "hi")
	buf := make([]byte, 2)
	if _, err := c.Read(buf); err != nil || string(buf) != "hi" {
		t.Errorf("%q, %v", buf, err)
	}
}

func TestBastionFails(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, s *site)
		kind   host.Kind
		want   []string
	}{
		{"down", func(t *testing.T, s *site) { s.servers["bastion:22"].Close() }, host.KindUnreachable, []string{"bastion bastion:22", "connection refused"}},
		{"rejects us", func(t *testing.T, s *site) { s.servers["bastion:22"].RejectLogins(true) }, host.KindAuth, []string{"bastion bastion:22", "as user root"}},
		{"has another key", func(t *testing.T, s *site) { s.servers["bastion:22"].SetHostKeys(sshtest.NewHostKey()) }, host.KindHostKey, []string{"bastion bastion:22", "the key of bastion has changed"}},
		{"is pinned to another key", func(t *testing.T, s *site) {
			s.cfg.Bastions[0].HostKey = keyText(sshtest.NewHostKey().PublicKey())
		}, host.KindHostKey, []string{"bastion bastion:22", "the configuration wants"}},
		{"the host behind it is down", func(t *testing.T, s *site) { s.servers["pg1:22"].Close() }, host.KindUnreachable, []string{"bastion bastion:22", "pg1:22", "Connection refused"}},
		{"the host behind it has another key", func(t *testing.T, s *site) { s.servers["pg1:22"].SetHostKeys(sshtest.NewHostKey()) }, host.KindHostKey, []string{"the key of pg1 has changed"}},
		{"does not forward", func(t *testing.T, s *site) {
			s.servers["bastion:22"].Close()
			s.add(t, &s.outside, "bastion:22", sshtest.Config{NoForwarding: true})
			s.cfg.HostKeys.Lines = s.cfg.HostKeys.Lines[1:]
		}, host.KindForward, []string{"bastion bastion:22", "does not forward to pg1:22", "AllowTcpForwarding"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			s.add(t, &s.net, "pg1:22", sshtest.Config{Play: ok})
			tt.change(t, s)
			_, err := newFleet(t, s.cfg).Host(host.Target{Name: "one", Address: "pg1"}).Run(testContext(t), host.Cmd{Name: "op"})
			wantError(t, err, tt.kind, append(tt.want, "host one (pg1): connect")...)
			if !host.Unreachable(err) {
				t.Error("nothing is known of the host")
			}
		})
	}
}

// TestBastionLost pins that the loss of a bastion's connection is that of all
// behind it, and that both come back.
func TestBastionLost(t *testing.T) {
	s := newSite(t)
	release := make(chan struct{})
	s.add(t, &s.net, "pg1:22", sshtest.Config{Play: func(ctx context.Context, c sshtest.Call) int {
		if c.Op == "long" {
			close(release)
			<-ctx.Done()
		}
		return 0
	}})
	h := newFleet(t, s.cfg).Host(host.Target{Address: "pg1"})
	done := make(chan error)
	go func() {
		_, err := h.Run(testContext(t), host.Cmd{Name: "long"})
		done <- err
	}()
	<-release
	s.servers["bastion:22"].Drop()
	wantError(t, <-done, host.KindLost)
	mustRun(t, h, host.Cmd{})
	if st := s.servers["bastion:22"].Stats(); st.Accepted != 2 {
		t.Errorf("%d connections", st.Accepted)
	}
}

// TestBastionBoots waits for a host that comes up behind a bastion that does.
func TestBastionBoots(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := newSite(t)
		s.add(t, &s.net, "pg1:22", sshtest.Config{Play: ok})
		s.outside.Fail("bastion:22", os.NewSyscallError("connect", syscall.EHOSTUNREACH))
		s.net.Fail("pg1:22", os.NewSyscallError("connect", syscall.ECONNREFUSED))
		go func() {
			time.Sleep(time.Minute)
			s.outside.Fail("bastion:22", nil)
			time.Sleep(time.Minute)
			s.net.Fail("pg1:22", nil)
		}()
		begin := time.Now()
		if _, err := newFleet(t, s.cfg).Host(host.Target{Address: "pg1"}).Run(host.BootContext(long(t)), host.Cmd{Name: "op"}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < 2*time.Minute || took > 130*time.Second {
			t.Errorf("up after %s", took)
		}
	})
}

// TestDeadBastion pins that a plan over many hosts behind a bastion that does not
// answer takes as long as over one.
func TestDeadBastion(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := newSite(t)
		s.outside.Swallow("bastion:22", true)
		f := newFleet(t, s.cfg)
		begin := time.Now()
		for i := range 50 {
			_, err := f.Host(host.Target{Address: fmt.Sprintf("pg%d", i)}).Run(long(t), host.Cmd{Name: "op"})
			wantError(t, err, host.KindUnreachable, "bastion bastion:22", "no answer within 10s")
		}
		if took := time.Since(begin); took > 15*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// TestBastionHiccup pins that one dropped connection of a bastion, which sees
// the floods, is no failure.
func TestBastionHiccup(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := newSite(t)
		s.cfg.RetryDelay = 0
		s.add(t, &s.net, "pg1:22", sshtest.Config{Play: ok})
		s.outside.Fail("bastion:22", os.NewSyscallError("read", syscall.ECONNRESET))
		time.AfterFunc(200*time.Millisecond, func() { s.outside.Fail("bastion:22", nil) })
		mustRun(t, newFleet(t, s.cfg).Host(host.Target{Address: "pg1"}), host.Cmd{})
	})
}
