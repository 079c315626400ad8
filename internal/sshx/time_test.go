package sshx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

// The tests of this file run in synctest bubbles, with a network in memory: the
// timeouts are the real ones, and pass at once.

const pg1 = "10.0.0.1:22"

// world is a network with one server, which listens at pg1 once it is started.
type world struct {
	t   *testing.T
	net sshtest.Network
	cfg Config
	log *logBuffer
	srv sshtest.Config
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, cfg: trust()}
	signer := sshtest.NewHostKey()
	w.srv.HostKeys = append(w.srv.HostKeys, signer)
	w.cfg.HostKeys.Lines = []string{knownhosts.Line([]string{pg1}, signer.PublicKey())}
	w.cfg.Dial = w.net.Dial
	w.cfg.RetryDelay = 0 // the default
	w.cfg.Logger, w.log = logTo(slog.LevelInfo)
	w.srv.Play = ok
	return w
}

func (w *world) serve() *sshtest.Server {
	w.t.Helper()
	s, err := w.net.Serve(pg1, w.srv)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

func (w *world) host() host.Host { return newFleet(w.t, w.cfg).Host(targetOf(pg1)) }

// long is a context with more time than any test needs.
func long(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
	t.Cleanup(cancel)
	return ctx
}

func bubble(t *testing.T, f func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}

func TestKeepalive(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := w.serve()
		h := w.host()
		mustRun(t, h, host.Cmd{})
		time.Sleep(10 * time.Minute)
		st := s.Stats()
		if st.Open != 1 || st.Accepted != 1 {
			t.Errorf("the connection did not stay: %+v", st)
		}
		if st.Keepalives < 15 || st.Keepalives > 40 {
			t.Errorf("%d keepalives in ten minutes", st.Keepalives)
		}
	})
}

// TestHalfOpen pins that a host which vanishes without a word is noticed within
// a bit more than a minute, that what ran on it ends as lost, and that the next
// use connects anew.
func TestHalfOpen(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.srv.Play = func(ctx context.Context, c sshtest.Call) int {
			if c.Op == "long" {
				<-ctx.Done()
			}
			return 0
		}
		s := w.serve()
		h := w.host()
		mustRun(t, h, host.Cmd{})
		done := make(chan error)
		go func() {
			_, err := h.Run(long(t), host.Cmd{Name: "long", Timeout: time.Hour})
			done <- err
		}()
		p := start(t, h, host.Cmd{Name: "long"})
		synctest.Wait()
		begin := time.Now()
		s.Freeze(true)
		wantError(t, <-done, host.KindLost, "no answer to 4 keepalives, 15s apart")
		if took := time.Since(begin); took < time.Minute || took > 95*time.Second {
			t.Errorf("noticed after %s", took)
		}
		wantError(t, p.Wait(), host.KindLost)
		if _, err := io.ReadAll(p.Stdout()); err != nil {
			t.Error(err)
		}
		s.Freeze(false)
		mustRun(t, h, host.Cmd{})
		if st := s.Stats(); st.Accepted != 2 {
			t.Errorf("%d connections", st.Accepted)
		}
	})
}

// TestHalfOpenBefore pins that a script which was to be run on a connection that
// turns out to be half-open is run on a new one.
func TestHalfOpenBefore(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := w.serve()
		h := w.host()
		mustRun(t, h, host.Cmd{})
		s.Freeze(true)
		time.AfterFunc(80*time.Second, func() { s.Freeze(false); s.Drop() })
		if _, err := h.Run(long(t), host.Cmd{Name: "op"}); err != nil {
			t.Error(err)
		}
	})
}

// TestBusyIsAlive pins that a connection on which much is going on is alive,
// even if the answers to keepalives are held up by it.
func TestBusyIsAlive(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.srv.Play = func(_ context.Context, c sshtest.Call) int {
			for range 60 {
				fmt.Fprintln(c.Stdout, "tick")
				time.Sleep(10 * time.Second)
			}
			return 0
		}
		s := w.serve()
		h := w.host()
		if _, err := h.Run(long(t), host.Cmd{Name: "busy", Timeout: time.Hour}); err != nil {
			t.Error(err)
		}
		if st := s.Stats(); st.Keepalives > 2 {
			t.Errorf("%d keepalives were asked of a host that talks all the time", st.Keepalives)
		}
	})
}

// TestDeadHost pins how long a plan waits for a host that is not there.
func TestDeadHost(t *testing.T) {
	tests := []struct {
		name     string
		arrange  func(*world)
		atMost   time.Duration
		attempts int
		want     string
	}{
		{"refused", func(*world) {}, time.Second, 2, "connection refused"},
		{"no route", func(w *world) { w.net.Fail(pg1, os.NewSyscallError("connect", syscall.EHOSTUNREACH)) }, time.Second, 2, "no route to host"},
		{"no such name", func(w *world) { w.net.Fail(pg1, &net.DNSError{Err: "no such host", Name: "pg1"}) }, time.Second, 2, "no such host"},
		{"no answer", func(w *world) { w.net.Swallow(pg1, true) }, 10 * time.Second, 1, "no answer within 10s"},
		{"no handshake", func(w *world) { w.serve().Stall(true) }, 10 * time.Second, 1, "SSH handshake: no answer within 10s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				tt.arrange(w)
				dials := 0
				w.cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					dials++
					return w.net.Dial(ctx, network, address)
				}
				h := w.host()
				begin := time.Now()
				_, err := h.Run(long(t), host.Cmd{Name: "op"})
				wantError(t, err, host.KindUnreachable, "connect: unreachable: ", tt.want)
				if took := time.Since(begin); took > tt.atMost || dials != tt.attempts {
					t.Errorf("%d attempts took %s", dials, took)
				}

				// The next resources on the host do not wait again.
				begin = time.Now()
				for range 10 {
					_, err = h.Run(long(t), host.Cmd{Name: "op"})
					wantError(t, err, host.KindUnreachable, "tried a moment ago", tt.want)
				}
				if took := time.Since(begin); took > 0 || dials != tt.attempts {
					t.Errorf("%d attempts more took %s", dials-tt.attempts, took)
				}
				// But later ones do.
				time.Sleep(6 * time.Second)
				_, err = h.Run(long(t), host.Cmd{Name: "op"})
				wantError(t, err, host.KindUnreachable)
				if dials != 2*tt.attempts {
					t.Errorf("%d attempts after a while", dials)
				}
			})
		})
	}
}

// TestHiccup pins that one dropped connection, which sshd's MaxStartups makes of
// a flood, is no failure.
func TestHiccup(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.net.Fail(pg1, os.NewSyscallError("read", syscall.ECONNRESET))
		time.AfterFunc(200*time.Millisecond, func() { w.net.Fail(pg1, nil); w.serve() })
		mustRun(t, w.host(), host.Cmd{})
	})
}

// TestBoot follows a machine from nothing to ready.
func TestBoot(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.net.Fail(pg1, os.NewSyscallError("connect", syscall.EHOSTUNREACH))
		h := w.host()
		begin := time.Now()
		go func() {
			time.Sleep(20 * time.Second)
			w.net.Fail(pg1, nil) // up, and refuses
			time.Sleep(20 * time.Second)
			w.net.Swallow(pg1, true) // the firewall starts
			time.Sleep(20 * time.Second)
			w.net.Swallow(pg1, false)
			s := w.serve()
			s.Stall(true) // no entropy yet
			time.Sleep(20 * time.Second)
			s.RejectLogins(true) // the keys are still missing
			s.Stall(false)
			s.Drop()
			time.Sleep(20 * time.Second)
			s.RejectLogins(false)
		}()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := h.Run(host.BootContext(long(t)), host.Cmd{Name: "op"}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begin); took < 100*time.Second || took > 115*time.Second {
			t.Errorf("ready after %s", took)
		}
		text := w.log.String()
		for _, reason := range []string{"no route to host", "connection refused", "no answer within 10s", "SSH handshake", "authentication rejected", "the host is up"} {
			if !strings.Contains(text, reason) {
				t.Errorf("%q is not in the log:\n%s", reason, text)
			}
		}
		if n := strings.Count(text, "no route"); n != 1 {
			t.Errorf("%d lines for one reason", n)
		}
	})
}

// TestBootRejections pins that a wait for keys does not look like an attack:
// OpenSSH 9.8 shuts out who fails more often than about every five seconds.
func TestBootRejections(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := w.serve()
		s.RejectLogins(true)
		h := w.host()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, err := h.Run(host.BootContext(long(t)), host.Cmd{Name: "op"})
				wantError(t, err, host.KindAuth, "did not come up within 5m0s", "authorized_keys")
			})
		}
		begin := time.Now()
		wg.Wait()
		if took := time.Since(begin); took < 5*time.Minute || took > 5*time.Minute+time.Second {
			t.Errorf("gave up after %s", took)
		}
		if st := s.Stats(); st.Accepted > 80 {
			t.Errorf("%d logins in five minutes", st.Accepted)
		}
	})
}

func TestBootGivesUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h := w.host()
		begin := time.Now()
		_, err := h.Run(host.BootContext(long(t)), host.Cmd{Name: "op"})
		wantError(t, err, host.KindUnreachable, "connect: unreachable: the host did not come up within 5m0s", "connection refused")
		if took := time.Since(begin); took != 5*time.Minute {
			t.Errorf("took %s", took)
		}

		ctx, cancel := context.WithTimeout(host.BootContext(long(t)), 30*time.Second)
		defer cancel()
		begin = time.Now()
		_, err = h.Run(ctx, host.Cmd{Name: "op"})
		wantError(t, err, host.KindCanceled, "while waiting for the host to come up", "connection refused")
		if took := time.Since(begin); took != 30*time.Second {
			t.Errorf("took %s", took)
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error("the cause is not in the error")
		}
	})
}

// TestBootNotThroughAChangedKey pins that what can't get better is not waited
// for.
func TestBootNotThroughAChangedKey(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.srv.HostKeys = nil
		w.serve()
		begin := time.Now()
		_, err := w.host().Run(host.BootContext(long(t)), host.Cmd{Name: "op"})
		wantError(t, err, host.KindHostKey, "the key of 10.0.0.1 has changed")
		if took := time.Since(begin); took > 0 {
			t.Errorf("took %s", took)
		}
	})
}

// TestBootAndPlan pins that one who does not wait is not held up by those who do.
func TestBootAndPlan(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h := w.host()
		done := make(chan error)
		go func() {
			_, err := h.Run(host.BootContext(long(t)), host.Cmd{Name: "op"})
			done <- err
		}()
		time.Sleep(time.Minute)
		begin := time.Now()
		_, err := h.Run(long(t), host.Cmd{Name: "op"})
		wantError(t, err, host.KindUnreachable)
		if took := time.Since(begin); took > time.Second {
			t.Errorf("took %s", took)
		}
		w.serve()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestCloudInit waits for cloud-init once, and only under a boot context.
func TestCloudInit(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		var ops []string
		w.srv.Play = func(ctx context.Context, c sshtest.Call) int {
			mu.Lock()
			ops = append(ops, c.Op)
			mu.Unlock()
			if c.Op == "cloud-init.wait" {
				if c.User != "" {
					t.Errorf("as %q, whose rights may be what cloud-init gives", c.User)
				}
				time.Sleep(time.Minute)
				fmt.Fprintln(c.Stdout, "status: error\nerrors: none of yours")
				return 1
			}
			return 0
		}
		w.serve()
		h := w.host()
		mustRun(t, h, host.Cmd{Name: "plan"})
		begin := time.Now()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := h.Run(host.BootContext(long(t)), host.Cmd{Name: "op"}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begin); took != time.Minute {
			t.Errorf("took %s", took)
		}
		if text := strings.Join(ops, " "); text != "plan cloud-init.wait"+strings.Repeat(" op", 10) {
			t.Errorf("ran %s", text)
		}
		if text := w.log.String(); !strings.Contains(text, "waiting for cloud-init") || !strings.Contains(text, "none of yours") {
			t.Errorf("log:\n%s", text)
		}
	})
}

func TestCloudInitThatNeverEnds(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.srv.Play = func(ctx context.Context, c sshtest.Call) int {
			<-ctx.Done()
			return 0
		}
		w.serve()
		begin := time.Now()
		_, err := w.host().Run(host.BootContext(long(t)), host.Cmd{Name: "op"})
		wantError(t, err, host.KindUnreachable, "did not come up within 5m0s", "cloud-init")
		if took := time.Since(begin); took != 5*time.Minute {
			t.Errorf("took %s", took)
		}
	})
}

// TestCloudInitReboots pins that a reboot by cloud-init is waited through.
func TestCloudInitReboots(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var s *sshtest.Server
		first := true
		w.srv.Play = func(ctx context.Context, c sshtest.Call) int {
			if first {
				first = false
				s.Drop()
				<-ctx.Done()
			}
			return 0
		}
		s = w.serve()
		if _, err := w.host().Run(host.BootContext(long(t)), host.Cmd{Name: "op"}); err != nil {
			t.Error(err)
		}
		if st := s.Stats(); st.Accepted != 2 {
			t.Errorf("%d connections", st.Accepted)
		}
	})
}

// TestOvertime pins that a host whose clock stands still does not hold us up.
func TestOvertime(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.srv.Play = func(ctx context.Context, c sshtest.Call) int {
			<-ctx.Done()
			return 0
		}
		w.serve()
		begin := time.Now()
		_, err := w.host().Run(long(t), host.Cmd{Name: "op"})
		wantError(t, err, host.KindTimeout, "limit of 120s")
		if took := time.Since(begin); took != 150*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// TestCancelWhenFrozen pins that a caller can leave a connection that hangs, long
// before it is known to be dead.
func TestCancelWhenFrozen(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := w.serve()
		h := w.host()
		mustRun(t, h, host.Cmd{})
		s.Freeze(true)
		ctx, cancel := context.WithTimeout(long(t), 30*time.Second)
		defer cancel()
		begin := time.Now()
		_, err := h.Run(ctx, host.Cmd{Name: "op"})
		wantError(t, err, host.KindCanceled)
		if took := time.Since(begin); took != 30*time.Second {
			t.Errorf("took %s", took)
		}
	})
}
