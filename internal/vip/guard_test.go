//go:build linux

package vip

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// eachFamily runs a test for IPv4 and for IPv6.
func eachFamily(t *testing.T, f func(t *testing.T, address netip.Prefix)) {
	for name, address := range virtual {
		t.Run(name, func(t *testing.T) { f(t, address) })
	}
}

// one is a box with a guard that has the address.
func one(t *testing.T, address netip.Prefix) (*segment, *box, *pretender, *watchman) {
	t.Helper()
	s := newSegment(t)
	b := s.box()
	p := b.patroni(http.StatusOK)
	w := b.watchman(address).start()
	until(t, "the guard to take the address", func() bool { return w.report().Holding })
	return s, b, p, w
}

func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped by -short: waits for a lease to end")
	}
}

func TestGuardFollowsPatroni(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s := newSegment(t)
		b := s.box()
		p := b.patroni(http.StatusServiceUnavailable)
		o := s.observe(address, b)
		w := b.watchman(address).patient().start()
		w.says("Patroni answers 503")
		until(t, "vip-manager to run", func() bool { return w.manager() != 0 })
		p.rounds(2)
		for range 2 {
			if o.holds(b) {
				t.Fatal("it has the address of a primary")
			}
			begin := time.Now()
			p.set(http.StatusOK)
			o.until(b, "the address of the new primary", true)
			t.Logf("taken after %s", o.since(b).Sub(begin).Round(time.Millisecond))
			until(t, "its status", func() bool { return w.report().Holding })
			if r := w.report(); !r.Primary || r.Because != "Patroni answers 200" || r.Digest == "" || time.Since(time.UnixMicro(int64(r.Since*1e6))) > patient {
				t.Errorf("its status is %+v", r)
			}
			o.mu.Lock()
			if got := o.has[b]; got.Prefix != address || got.left > uint32(lease.Seconds()) {
				t.Errorf("it has %v", got)
			}
			o.mu.Unlock()
			p.rounds(2)
			begin = time.Now()
			p.set(http.StatusServiceUnavailable)
			o.until(b, "the end of it", false)
			took := o.lastSeen(b).Sub(begin)
			t.Logf("gone after %s", took.Round(time.Millisecond))
			if took > grace {
				t.Errorf("it was let go only after %s", took)
			}
			until(t, "its status", func() bool { return w.report().Because == "Patroni answers 503" })
		}
	})
}

// TestGuardsNeverBoth swaps the roles of two nodes, and has both be primary for a while: the
// one that comes later waits for the other.
func TestGuardsNeverBoth(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s := newSegment(t)
		type node struct {
			*box
			*pretender
			*watchman
		}
		var nodes [2]node
		for i := range nodes {
			b := s.box()
			nodes[i] = node{b, b.patroni(http.StatusServiceUnavailable), b.watchman(address)}
		}
		o := s.observe(address, nodes[0].box, nodes[1].box)
		for _, n := range nodes {
			n.watchman.start()
			n.rounds(1)
		}
		for i := range 3 {
			for _, n := range nodes {
				n.set(http.StatusServiceUnavailable)
			}
			until(t, "the end of the address", func() bool { return !o.holds(nodes[0].box) && !o.holds(nodes[1].box) })
			// The second begins while the first asks, or while it waits for vip-manager.
			nodes[0].set(http.StatusOK)
			nodes[0].rounds(i)
			nodes[1].set(http.StatusOK)
			until(t, "one of two primaries to take the address", func() bool { return o.holds(nodes[0].box) || o.holds(nodes[1].box) })
			nodes[0].rounds(3)
		}
		if o.holds(nodes[1].box) {
			nodes[0], nodes[1] = nodes[1], nodes[0]
		}
		nodes[1].set(http.StatusServiceUnavailable)
		nodes[1].rounds(2)
		for i := range 4 {
			from, to := nodes[i%2], nodes[(i+1)%2]
			begin := time.Now()
			if i < 2 {
				to.set(http.StatusOK)
				until(t, "the other to be noticed", func() bool { return strings.Contains(to.report().Because, from.mac+" has it") })
				begin = time.Now()
				from.set(http.StatusServiceUnavailable)
			} else {
				from.set(http.StatusServiceUnavailable)
				to.set(http.StatusOK)
			}
			o.until(to.box, "the other to have it", true)
			t.Logf("moved within %s", time.Since(begin).Round(time.Millisecond))
			if o.holds(from.box) {
				t.Error("the former primary still has it")
			}
		}
	})
}

func TestGuardKilled(t *testing.T) {
	slow(t)
	s, b, _, w := one(t, virtual["IPv4"])
	w6 := b.watchman(virtual["IPv6"]).start()
	until(t, "the other guard to take its address", func() bool { return w6.report().Holding })
	o, o6 := s.observe(virtual["IPv4"], b), s.observe(virtual["IPv6"], b)
	begin := time.Now()
	w.signal(syscall.SIGKILL)
	w6.signal(syscall.SIGKILL)
	for _, o := range []*observer{o, o6} {
		o.until(b, "the kernel to take it away", false)
		took := o.lastSeen(b).Sub(begin)
		t.Logf("%s gone after %s", o.address, took.Round(time.Millisecond))
		if took > lease+slack {
			t.Errorf("%s was there for %s", o.address, took)
		}
	}
}

// TestGuardFrozen pins that a node which stands still loses the address, and does not take
// it back for an answer that was on its way meanwhile.
func TestGuardFrozen(t *testing.T) {
	slow(t)
	address := virtual["IPv4"]
	s, b, p, w := one(t, address)
	o := s.observe(address, b)
	late := p.delay()
	manager := w.manager()
	begin := time.Now()
	w.signal(syscall.SIGSTOP)
	if err := syscall.Kill(manager, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	close(late)
	o.until(b, "the kernel to take it away", false)
	took := o.lastSeen(b).Sub(begin)
	t.Logf("gone after %s", took.Round(time.Millisecond))
	if took > lease+slack {
		t.Errorf("the address was there for %s", took)
	}
	p.set(http.StatusServiceUnavailable)
	w.signal(syscall.SIGCONT)
	if err := syscall.Kill(manager, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.rounds(8)
	if after := o.lastSeen(b).Sub(begin); after != took {
		t.Errorf("the address came back after %s", after)
	}
	p.set(http.StatusOK)
	o.until(b, "the address of the primary", true)
}

func TestGuardWithoutPatroni(t *testing.T) {
	for name, silence := range map[string]func(p *pretender){
		"hangs":   func(p *pretender) { p.silence(true) },
		"refuses": (*pretender).refuse,
	} {
		t.Run(name, func(t *testing.T) {
			address := virtual["IPv4"]
			s, b, p, w := one(t, address)
			o := s.observe(address, b)
			silence(p)
			o.until(b, "the guard to let go", false)
			took := o.lastSeen(b).Sub(p.lastPositive())
			t.Logf("gone after %s", took.Round(time.Millisecond))
			if took < grace-200*time.Millisecond || took > grace+slack {
				t.Errorf("it was let go after %s", took)
			}
			w.says("is not here: Patroni does not answer (")
			if name == "hangs" {
				p.silence(false)
			} else {
				p.listen()
			}
			o.until(b, "the address again", true)
		})
	}
}

func TestGuardWaitsForStranger(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s := newSegment(t)
		b, stranger := s.box(), s.box()
		add := fmt.Sprintf("addr add %s dev eth0", address)
		if address.Addr().Is6() {
			add += " nodad"
		}
		ip(t, stranger.name, add)
		p := b.patroni(http.StatusOK)
		o := s.observe(address, b)
		w := b.watchman(address).start()
		until(t, "the stranger to be noticed", func() bool { return strings.Contains(w.report().Because, stranger.mac+" has it") })
		p.rounds(4)
		if !o.lastSeen(b).IsZero() {
			t.Fatal("it took an address that somebody has")
		}
		ip(t, stranger.name, fmt.Sprintf("addr del %s dev eth0", address))
		begin := time.Now()
		o.until(b, "the address that is free", true)
		t.Logf("taken after %s", o.since(b).Sub(begin).Round(time.Millisecond))

		o = s.observe(address, b)
		ip(t, stranger.name, add)
		until(t, "the stranger to be noticed again", func() bool {
			r := w.report()
			return r.Holding && strings.Contains(r.Because, stranger.mac+" answers for it too")
		})
		w.says("TWO HOLDERS")
		ip(t, stranger.name, fmt.Sprintf("addr del %s dev eth0", address))
		until(t, "the end of it", func() bool { return w.report().Because == "Patroni answers 200" })
		o.uninterrupted()
	})
}

func TestGuardOutlivesVIPManager(t *testing.T) {
	address := virtual["IPv4"]
	s, b, p, w := one(t, address)
	o := s.observe(address, b)
	first := w.manager()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "another vip-manager", func() bool { now := w.manager(); return now != 0 && now != first })
	w.says("vip-manager was ended by signal 9; it is started again after 1 s")
	// The first that it does is to delete what is there.
	w.says("stays: Patroni answers 200")
	p.rounds(4)
	o.uninterrupted()
}

func TestGuardWithoutVIPManager(t *testing.T) {
	address := virtual["IPv4"]
	s := newSegment(t)
	b := s.box()
	b.patroni(http.StatusOK)
	o := s.observe(address, b)
	w := b.watchman(address)
	w.config["vip_manager"] = filepath.Join(w.dir, "absent")
	w.configure()
	w.start()
	o.until(b, "the address without a vip-manager", true)
	w.says("vip-manager cannot be started: No such file or directory; it is started again after 1 s")
	w.says("without vip-manager, which did not ask for it in time")
	w.says("it is started again after 2 s")
}

// Another vip-manager in the place of the one that runs, as a package brings it, runs soon.
func TestGuardExchangesVIPManager(t *testing.T) {
	address := virtual["IPv4"]
	s := newSegment(t)
	b := s.box()
	p := b.patroni(http.StatusOK)
	w := b.watchman(address)
	program, other := filepath.Join(w.dir, "vip-manager"), filepath.Join(w.dir, "other")
	for _, name := range []string{program, other} {
		if err := os.Symlink(w.config["vip_manager"].(string), name); err != nil {
			t.Fatal(err)
		}
	}
	// A copy is another file; links to the same one are not.
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	w.config["vip_manager"] = program
	w.configure()
	w.start()
	s.observe(address, b).until(b, "the address", true)
	o, first := s.observe(address, b), w.manager()
	if err := errors.Join(os.Remove(other), os.WriteFile(other, text, 0o755), os.Rename(other, program)); err != nil {
		t.Fatal(err)
	}
	w.says("vip-manager was exchanged, and is started again")
	until(t, "another vip-manager", func() bool { now := w.manager(); return now != 0 && now != first })
	p.rounds(4)
	o.uninterrupted()
}

// Who is connected to the address is told when it goes, instead of waiting for answers that
// nobody can give any more.
func TestGuardHangsUp(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s, b, p, _ := one(t, address)
		client := s.box()
		var l net.Listener
		b.in(func() (err error) { l, err = net.Listen("tcp", ":5432"); return err })
		defer l.Close()
		accepted := make(chan net.Conn, 2)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				accepted <- c
			}
		}()
		var kept []net.Conn
		defer func() {
			for _, c := range kept {
				c.Close()
			}
		}()
		connect := func(to string) (c net.Conn) {
			client.in(func() (err error) {
				c, err = (&net.Dialer{Timeout: patient}).Dial("tcp", net.JoinHostPort(to, "5432"))
				return err
			})
			kept = append(kept, c, <-accepted)
			return c
		}
		virtual, own := connect(address.Addr().String()), connect(b.address)
		p.set(http.StatusServiceUnavailable)
		virtual.SetReadDeadline(time.Now().Add(patient))
		if _, err := virtual.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the connection to the address ended with %v", err)
		}
		own.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := own.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection to the host's own address ended with %v", err)
		}
	})
}

func TestGuardReloads(t *testing.T) {
	address := virtual["IPv4"]
	s, b, p, w := one(t, address)
	o := s.observe(address, b)
	before, manager := w.report(), w.manager()
	if err := os.WriteFile(filepath.Join(w.dir, "vip.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.signal(syscall.SIGHUP)
	w.says("unusable, and it goes on with what it has")
	w.config["cluster"] = "another word"
	w.configure()
	w.signal(syscall.SIGHUP)
	until(t, "the new configuration", func() bool { r := w.report(); return r.Holding && r.Digest != before.Digest })
	until(t, "another vip-manager", func() bool { now := w.manager(); return now != 0 && now != manager })
	p.rounds(6)
	if now := w.report().Since; now != before.Since {
		t.Errorf("it holds since %f, and not since %f", now, before.Since)
	}
	o.uninterrupted()

	// Another address is another matter.
	other := netip.MustParsePrefix("10.77.1.101/24")
	both := s.observe(other, b)
	w.config["address"] = other.Addr().String()
	w.configure()
	w.signal(syscall.SIGHUP)
	both.until(b, "the other address", true)
	o.until(b, "the end of the first", false)
}

func TestGuardEnds(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s, b, _, w := one(t, address)
		o := s.observe(address, b)
		manager := w.manager()
		begin := time.Now()
		w.signal(syscall.SIGTERM)
		o.until(b, "the end of the address", false)
		t.Logf("gone after %s", o.lastSeen(b).Sub(begin).Round(time.Millisecond))
		<-w.ended
		if took := time.Since(begin); w.cmd.ProcessState.ExitCode() != 0 || took > lease {
			t.Errorf("it ended after %s: %s", took, w.cmd.ProcessState)
		}
		if err := syscall.Kill(manager, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("its vip-manager is still there: %v", err)
		}
	})
}

func TestGuardTakesBack(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s := newSegment(t)
		b := s.box()
		b.patroni(http.StatusOK)
		o := s.observe(address, b)
		w := b.watchman(address).patient().start()
		o.until(b, "the address of the primary", true)
		ip(t, b.name, fmt.Sprintf("addr del %s dev eth0", address))
		begin := time.Now()
		w.says("is not here: somebody has removed it")
		o.until(b, "the address again", true)
		t.Logf("back after %s", o.since(b).Sub(begin).Round(time.Millisecond))
	})
}

// TestGuardFindsAddress is about an address that is there when the guard starts.
func TestGuardFindsAddress(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		prefix int
		stays  bool
	}{
		"primary":              {http.StatusOK, 24, true},
		"primary, other mask":  {http.StatusOK, 32, true},
		"standby":              {http.StatusServiceUnavailable, 24, false},
		"standby, other mask":  {http.StatusServiceUnavailable, 16, false},
		"Patroni is not there": {0, 24, false},
	} {
		t.Run(name, func(t *testing.T) {
			address := virtual["IPv4"]
			s := newSegment(t)
			b := s.box()
			ip(t, b.name, fmt.Sprintf("addr add %s/%d dev eth0", address.Addr(), c.prefix))
			o := s.observe(address, b)
			if c.status != 0 {
				b.patroni(c.status)
			}
			w := b.watchman(address).start()
			if !c.stays {
				o.until(b, "the end of the address", false)
				return
			}
			until(t, "its status", func() bool { return w.report().Holding })
			until(t, "a lease", func() bool {
				o.mu.Lock()
				defer o.mu.Unlock()
				return o.has[b].Prefix == address && o.has[b].left <= uint32(lease.Seconds())
			})
			o.uninterrupted()
		})
	}
}

// TestGuardTellsNeighbours looks at what a third host believes, which has talked to the
// first holder.
func TestGuardTellsNeighbours(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s, first, p, _ := one(t, address)
		second, client := s.box(), s.box()
		o := s.observe(address, first, second)
		q := second.patroni(http.StatusServiceUnavailable)
		second.watchman(address).start()
		q.rounds(1)
		knows := func() string {
			out, err := exec.Command("ip", "-n", client.name, "neigh", "show", address.Addr().String(), "dev", "eth0").Output()
			if err != nil {
				t.Error(err)
			}
			_, mac, _ := strings.Cut(string(out), "lladdr ")
			mac, _, _ = strings.Cut(mac, " ")
			return mac
		}
		client.in(func() error {
			c, err := net.Dial("udp", net.JoinHostPort(address.Addr().String(), "9"))
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("?"))
			return err
		})
		until(t, "the client to know the first holder", func() bool { return knows() == first.mac })
		p.set(http.StatusServiceUnavailable)
		q.set(http.StatusOK)
		o.until(second, "the second to have it", true)
		until(t, "the client to know the second holder", func() bool { return knows() == second.mac })
	})
}

func TestGuardRefuses(t *testing.T) {
	s, b, p, w := one(t, virtual["IPv4"])
	o := s.observe(virtual["IPv4"], b)
	for _, c := range [][]string{
		{"addr", "add", "10.77.1.101/24", "dev", "eth0"},
		{"addr", "add", "10.77.1.100/32", "dev", "eth0"},
		{"addr", "add", "10.77.1.100/24", "dev", "lo"},
		{"addr", "delete", "10.77.1.11/24", "dev", "eth0"},
		{"addr", "flush", "dev", "eth0"},
		{"link", "set", "eth0", "down"},
		{"addr", "add", "nonsense", "dev", "eth0"},
		{},
	} {
		if out, err := w.ask(c...); err == nil || !strings.Contains(out, "only 10.77.1.100/24 on eth0") {
			t.Errorf("ip %v: %v %s", c, err, out)
		}
	}
	if out, err := w.ask("addr", "delete", "10.77.1.100/24", "dev", "eth0"); err == nil || !strings.Contains(out, "stays: Patroni answers 200") {
		t.Errorf("delete: %v %s", err, out)
	}
	if out, err := w.ask("addr", "add", "10.77.1.100/24", "dev", "eth0"); err != nil || out != "" {
		t.Errorf("add: %v %s", err, out)
	}
	o.uninterrupted()
	p.set(http.StatusServiceUnavailable)
	o.until(b, "the end of the address", false)
	if out, err := w.ask("addr", "add", "10.77.1.100/24", "dev", "eth0"); err == nil || !strings.Contains(out, "not primary in the last 1 s: Patroni answers 503") {
		t.Errorf("add: %v %s", err, out)
	}
	if out, err := w.ask("addr", "delete", "10.77.1.100/24", "dev", "eth0"); err != nil || out != "" {
		t.Errorf("delete: %v %s", err, out)
	}
	list, err := b.addresses()
	if err != nil || !slices.ContainsFunc(list, func(s seen) bool { return s.Addr().String() == b.address }) {
		t.Errorf("the box has %v, %v", list, err)
	}
	w.signal(syscall.SIGKILL)
	<-w.ended
	if out, err := w.ask("addr", "add", "10.77.1.100/24", "dev", "eth0"); err == nil || !strings.Contains(out, "cannot be asked") {
		t.Errorf("add: %v %s", err, out)
	}
}

func TestGuardVerifiesPatroni(t *testing.T) {
	address := virtual["IPv4"]
	s := newSegment(t)
	b := s.box()
	p := &pretender{b: b, status: http.StatusOK, port: 8008, tls: true}
	p.listen()
	o := s.observe(address, b)
	w := b.watchman(address)
	authority := filepath.Join(w.dir, "ca.crt")
	if err := os.WriteFile(authority, []byte(""), 0o644); err != nil {
		t.Fatal(err)
	}
	w.config["patroni"], w.config["cafile"] = "https://127.0.0.1:8008/primary", authority
	// What vip-manager is told may be somebody else's, too.
	w.config["endpoint"] = 8100
	w.configure()
	given := fmt.Sprintf("ip: %s\nnetmask: %d\ninterface: eth0\ndcs-type: patroni\ndcs-endpoints: [http://127.0.0.1:8100]\ntrigger-key: /vip\ntrigger-value: \"200\"\ninterval: 100\n", address.Addr(), address.Bits())
	if err := os.WriteFile(filepath.Join(w.dir, "vip-manager.yml"), []byte(given), 0o644); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.says("Patroni does not answer (")
	if !o.lastSeen(b).IsZero() {
		t.Error("it believes a Patroni that it cannot know")
	}
	// It notices by itself that the authority has changed.
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw})
	if err := os.WriteFile(authority, text, 0o644); err != nil {
		t.Fatal(err)
	}
	o.until(b, "the address", true)
	w.says("since vip-manager asked for it")
}

// TestGuardTellsSystemd hears what systemd would.
func TestGuardTellsSystemd(t *testing.T) {
	s := newSegment(t)
	b := s.box()
	p := b.patroni(http.StatusServiceUnavailable)
	late := p.delayed()
	w := b.watchman(virtual["IPv4"])
	path := filepath.Join(w.runtime, "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w.start("NOTIFY_SOCKET=" + path)
	var heard []string
	hear := func(what string) {
		t.Helper()
		buffer := make([]byte, 4096)
		for {
			_ = c.SetReadDeadline(time.Now().Add(patient))
			n, err := c.Read(buffer)
			if err != nil {
				t.Fatalf("%s was not heard, only %q", what, heard)
			}
			if text := string(buffer[:n]); !slices.Contains(heard, text) || text == what {
				heard = append(heard, text)
				if strings.HasPrefix(text, what) {
					return
				}
			}
		}
	}
	hear("WATCHDOG=1")
	if slices.Contains(heard, "READY=1") {
		t.Error("it was ready before Patroni had answered")
	}
	close(late)
	hear("READY=1")
	hear("WATCHDOG=1")
	hear("WATCHDOG=1")
	p.set(http.StatusOK)
	hear("STATUS=10.77.1.100/24 is here: Patroni answers 200")
}

// delayed has the first answer wait until the channel is closed.
func (p *pretender) delayed() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = make(chan struct{})
	return p.late
}

func TestGuardProbesAndRemoves(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s := newSegment(t)
		b, stranger := s.box(), s.box()
		w := b.watchman(address)
		probe := func(args ...string) string {
			t.Helper()
			interpreter, _ := python()
			cmd := exec.Command(interpreter, append([]string{"-I", "-", "probe"}, args...)...)
			text, err := os.ReadFile(w.script)
			if err != nil {
				t.Fatal(err)
			}
			var out, failed bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), &out, &failed
			b.in(cmd.Start)
			if err := cmd.Wait(); err != nil || failed.Len() > 0 {
				t.Fatalf("probe %v: %v %s", args, err, failed.String())
			}
			return out.String()
		}
		own := b.address
		if address.Addr().Is6() {
			own = "fd00:77::11"
		}
		subnet := fmt.Sprintf("{\"interface\": \"eth0\", \"prefix\": %d, \"mac\": %q, \"address\": %q}\n", address.Bits(), b.mac, own)
		vip := address.Addr().String()
		if got := probe(vip, "-"); got != subnet {
			t.Errorf("it sees %s, and not %s", got, subnet)
		}
		if got := probe(map[bool]string{true: "10.78.1.100", false: "fd00:78::100"}[address.Addr().Is4()], "-"); got != "{}\n" {
			t.Errorf("in no subnet it sees %s", got)
		}
		ip(t, stranger.name, fmt.Sprintf("addr add %s dev eth0%s", address, map[bool]string{true: " nodad"}[address.Addr().Is6()]))
		if got, want := probe(vip, "eth0"), subnet+fmt.Sprintf("{\"answer\": %q}\n", stranger.mac); got != want {
			t.Errorf("of a stranger's it sees %s, and not %s", got, want)
		}
		ip(t, stranger.name, fmt.Sprintf("addr del %s dev eth0", address))

		ip(t, b.name, fmt.Sprintf("addr add %s/%d dev eth0 valid_lft 100 preferred_lft 100", vip, address.Bits()+1))
		ip(t, b.name, fmt.Sprintf("addr add %s dev lo", address))
		if err := os.WriteFile(filepath.Join(w.runtime, "status.json"), []byte(`{"holding": true}`), 0o644); err != nil {
			t.Fatal(err)
		}
		want := []string{
			strings.TrimSpace(subnet), fmt.Sprintf(`{"local": "eth0", "prefix": %d, "lease": true}`, address.Bits()+1),
			fmt.Sprintf(`{"local": "lo", "prefix": %d, "lease": false}`, address.Bits()), `{"status": {"holding": true}}`,
		}
		got := strings.Split(strings.TrimSpace(probe(vip, "-", filepath.Join(w.runtime, "status.json"))), "\n")
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("of its own it sees %q, and not %q", got, want)
		}

		for range 2 {
			// As the provider runs it on a host that may have no other program.
			cmd := w.command("remove", w.dir)
			cmd.Args[2], cmd.Env = "-", []string{}
			text, err := os.Open(w.script)
			if err != nil {
				t.Fatal(err)
			}
			defer text.Close()
			cmd.Stdin = text
			b.in(cmd.Start)
			if err := cmd.Wait(); err != nil {
				t.Errorf("remove: %v", err)
			}
			list, err := b.addresses()
			var left []string
			for _, s := range list {
				if s.Addr() == address.Addr() {
					left = append(left, s.String())
				}
			}
			if err != nil || !slices.Equal(left, []string{address.String()}) {
				t.Errorf("only lo's is to be left, and there is %v, %v", left, err)
			}
		}
	})
}
