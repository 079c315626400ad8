//go:build unix

package sshx

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// The tests of this file talk with OpenSSH, where it is installed, since what a
// test's own server does is what its author believes of OpenSSH.

// sshd is OpenSSH on the loopback interface. It is started once per connection,
// as inetd would, so that it needs no port of its own choosing and no daemon.
type sshd struct {
	addr string
	dir  string
	user string
	log  *logBuffer
}

// sessions is how many have been opened so far, by the server's log.
func (s *sshd) sessions() int { return strings.Count(s.log.String(), "Starting session: command for ") }

func startSSHD(t *testing.T, options ...string) *sshd {
	t.Helper()
	program := ""
	for _, p := range []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"} {
		if _, err := os.Stat(p); err == nil {
			program = p
		}
	}
	if program == "" {
		t.Skip("no OpenSSH server here")
	}
	me, err := user.Current()
	if err != nil {
		t.Skip(err)
	}
	if me.Uid == "0" {
		// sshd wants it for its unprivileged half.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Skip(err)
		}
	}
	s := &sshd{dir: t.TempDir(), user: me.Username}
	_, public := clientKey()
	files := map[string]string{"authorized_keys": string(ssh.MarshalAuthorizedKey(public))}
	config := []string{
		"AuthorizedKeysFile " + filepath.Join(s.dir, "authorized_keys"),
		"StrictModes no", "UsePAM no", "PermitRootLogin yes", "PidFile none",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no", "LogLevel VERBOSE",
		// Or each session starts with the profile of who runs the test, which may
		// take a second.
		"SetEnv HOME=" + s.dir,
	}
	for kind, key := range sshdKeys() {
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			t.Fatal(err)
		}
		files["host_"+kind] = string(pem.EncodeToMemory(block))
		config = append(config, "HostKey "+filepath.Join(s.dir, "host_"+kind))
	}
	// The first value that sshd reads counts.
	files["config"] = strings.Join(append(options, config...), "\n") + "\n"
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	log := new(logBuffer)
	s.log = log
	var wg sync.WaitGroup
	var mu sync.Mutex
	procs := make(map[*exec.Cmd]bool)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f, err := c.(*net.TCPConn).File()
			c.Close()
			if err != nil {
				continue
			}
			cmd := exec.Command(program, "-i", "-e", "-f", filepath.Join(s.dir, "config"))
			cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, log
			cmd.WaitDelay = time.Second // the log may be held by what it started
			mu.Lock()
			if err := cmd.Start(); err == nil {
				procs[cmd] = true
				wg.Go(func() {
					cmd.Wait()
					mu.Lock()
					delete(procs, cmd)
					mu.Unlock()
				})
			}
			mu.Unlock()
			f.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for cmd := range procs {
			cmd.Process.Kill()
		}
		mu.Unlock()
		wg.Wait()
		if t.Failed() {
			t.Logf("the server's log:\n%s", log)
		}
	})
	return s
}

// sshdKeys are the server's host keys, by the name of their kind.
var sshdKeys = sync.OnceValue(func() map[string]crypto.PrivateKey {
	_, ed, err1 := ed25519.GenerateKey(rand.Reader)
	ec, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	rs, err3 := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(err1, err2, err3); err != nil {
		panic(err)
	}
	return map[string]crypto.PrivateKey{"ed25519": ed, "ecdsa": ec, "rsa": rs}
})

func sshdKey(kind string) ssh.PublicKey { return signerOf(sshdKeys()[kind]).PublicKey() }

// trust makes a configuration that knows the server by one kind of its keys.
func (s *sshd) trust(kind string) Config {
	cfg := trust()
	cfg.User = s.user
	cfg.HostKeys.Lines = []string{knownName(s.addr) + " " + keyText(sshdKey(kind))}
	return cfg
}

func (s *sshd) host(t *testing.T, change func(*Config)) host.Host {
	t.Helper()
	cfg := s.trust("ed25519")
	if change != nil {
		change(&cfg)
	}
	return newFleet(t, cfg).Host(targetOf(s.addr))
}

// asMe runs a script as who runs the test.
func asMe(script string) host.Cmd {
	return host.Cmd{Name: "op", Script: script, User: host.LoginUser}
}

func TestOpenSSHRun(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	h := s.host(t, nil)

	cmd := asMe(`printf '<%s>' "$@"; cat; echo err >&2; exit 3`)
	cmd.Args, cmd.Stdin = []string{"it's", `a\b`, "$HOME", ""}, []byte("in\x00put")
	res, err := h.Run(testContext(t), cmd)
	wantError(t, err, host.KindExit, "exit status 3", "err")
	if got, want := string(res.Stdout), `<it's><a\b><$HOME><>`+"in\x00put"; got != want || string(res.Stderr) != "err\n" {
		t.Errorf("got %q and %q, want %q", got, res.Stderr, want)
	}

	in := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	cmd = asMe("cat")
	cmd.Stdin = in
	if res := mustRun(t, h, cmd); !bytes.Equal(res.Stdout, in) {
		t.Errorf("%d bytes came back of %d", len(res.Stdout), len(in))
	}
	cmd = asMe("exit 0")
	cmd.Stdin = in
	mustRun(t, h, cmd)

	start := time.Now()
	if res := mustRun(t, h, asMe("echo started; sleep 20 &")); string(res.Stdout) != "started\n" {
		t.Errorf("got %q", res.Stdout)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("a daemon left behind held it up for %s", took)
	}

	_, err = h.Run(testContext(t), asMe("exit 124"))
	wantError(t, err, host.KindExit, "exit status 124")
	_, err = h.Run(testContext(t), asMe("kill -KILL $PPID"))
	wantError(t, err, host.KindLost)
}

func TestOpenSSHAsRoot(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	if s.user != "root" {
		t.Skip("not root")
	}
	h := s.host(t, nil)
	res := mustRun(t, h, host.Cmd{Name: "op", Script: `echo "$(id -un) $HOME $LC_ALL $PWD"`})
	if got := string(res.Stdout); got != "root /root C.UTF-8 /\n" {
		t.Errorf("got %q", got)
	}
	res = mustRun(t, h, host.Cmd{Name: "op", Script: "id -un; cat", User: "nobody", Stdin: []byte("in")})
	if got := string(res.Stdout); got != "nobody\nin" {
		t.Errorf("got %q", got)
	}
}

// TestOpenSSHKept pins what the kept session is for: one for all that is asked of
// a host, by the server's own count.
func TestOpenSSHKept(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	if s.user != "root" {
		t.Skip("not root")
	}
	h := s.host(t, nil)
	in := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for i := range 20 {
		user := []string{"root", "nobody"}[i%2]
		res := mustRun(t, h, host.Cmd{Name: "op", Script: "id -un; echo err >&2; cat", User: user, Stdin: in})
		if string(res.Stdout) != user+"\n"+string(in) || string(res.Stderr) != "err\n" {
			t.Errorf("%d and %d bytes", len(res.Stdout), len(res.Stderr))
		}
		mustRun(t, h, host.Cmd{Name: "op", Script: "exit 0", User: user, Stdin: in})
	}
	if n := s.sessions(); n != 1 {
		t.Errorf("%d sessions", n)
	}

	// A child that holds the output costs a session of more than one script, and
	// takes nobody's place: sshd allows ten.
	for range 12 {
		mustRun(t, h, host.Cmd{Name: "op", Script: "sleep 20 &"})
	}
	if n := s.sessions(); n < 10 {
		t.Errorf("%d sessions", n)
	}
	if c := h.(*machine).link.live(); c.slots.limit != 8 {
		t.Errorf("the server has refused sessions: learned a limit of %d", c.slots.limit)
	}
	_, err := h.Run(testContext(t), host.Cmd{Name: "op", Script: "kill -KILL $PPID"})
	wantError(t, err, host.KindLost)
	mustRun(t, h, host.Cmd{Name: "op", Script: "true"})
}

// TestOpenSSHKeptTooLong pins that a server which ends idle sessions is no
// obstacle, whoever is faster.
func TestOpenSSHKeptTooLong(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the time of real limits")
	}
	t.Parallel()
	s := startSSHD(t, "ChannelTimeout session:command=15s") // a busy machine takes more than five to begin
	if s.user != "root" {
		t.Skip("not root")
	}
	h := s.host(t, nil)
	if _, err := h.Run(testContext(t), host.Cmd{Name: "op", Script: "true"}); err != nil && strings.Contains(s.log.String(), "Bad configuration option") {
		t.Skip("this OpenSSH does not know ChannelTimeout")
	}
	for range 2 {
		k := &h.(*machine).link.live().kept
		await(t, func() bool {
			k.mu.Lock()
			defer k.mu.Unlock()
			return k.idle == nil && !k.taken
		})
		mustRun(t, h, host.Cmd{Name: "op", Script: "true"})
	}
	if n := s.sessions(); n != 3 {
		t.Errorf("%d sessions", n)
	}
}

func TestOpenSSHTimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the time of real limits")
	}
	t.Parallel()
	s := startSSHD(t)
	h := s.host(t, nil)
	for _, script := range []string{"sleep 600", "trap '' TERM; while :; do sleep 600; done"} {
		cmd := asMe(script)
		cmd.Timeout = time.Second
		_, err := h.Run(testContext(t), cmd)
		wantError(t, err, host.KindTimeout)
	}
}

// TestOpenSSHCancel pins that a canceled script ends at once where sshd passes
// signals on. For root it does not ("session signalling requires privilege
// separation"): there the script ends by its time limit.
func TestOpenSSHCancel(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	if s.user == "root" {
		t.Skip("sshd passes no signals on for root")
	}
	h := s.host(t, nil)
	mark := filepath.Join(t.TempDir(), "mark")
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	done := make(chan error)
	go func() {
		cmd := asMe(`echo > "$1"; trap 'echo > "$1.ended"; exit' TERM; sleep 600 & wait`)
		cmd.Args = []string{mark}
		_, err := h.Run(ctx, cmd)
		done <- err
	}()
	await(t, func() bool { _, err := os.Stat(mark); return err == nil })
	cancel()
	wantError(t, <-done, host.KindCanceled)
	await(t, func() bool { _, err := os.Stat(mark + ".ended"); return err == nil })
	mustRun(t, h, asMe("true"))
}

func TestOpenSSHStart(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	h := s.host(t, nil)
	p := start(t, h, asMe("echo locked; while read -r beat; do echo $beat; done; exit 2"))
	out := bufio.NewReader(p.Stdout())
	for _, beat := range []string{"locked", "1", "2"} {
		if beat != "locked" {
			fmt.Fprintln(p.Stdin(), beat)
		}
		if got, err := out.ReadString('\n'); got != beat+"\n" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	p.Stdin().Close()
	wantError(t, p.Wait(), host.KindExit, "exit status 2")
}

func TestOpenSSHDial(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	h := s.host(t, nil)
	c := dial(t, h, listen(t, echo))
	io.WriteString(c, "hello")
	c.SetDeadline(time.Now().Add(patience))
	buf := make([]byte, 5)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
		t.Errorf("%q, %v", buf, err)
	}
	_, err := h.Dial(testContext(t), "tcp", "127.0.0.1:1")
	wantError(t, err, host.KindDial, "Connection refused")
}

func TestOpenSSHForbidsForwarding(t *testing.T) {
	t.Parallel()
	for _, option := range []string{"AllowTcpForwarding no", "AllowTcpForwarding remote", "DisableForwarding yes", "PermitOpen 127.0.0.1:2"} {
		t.Run(option, func(t *testing.T) {
			s := startSSHD(t, option)
			h := s.host(t, nil)
			_, err := h.Dial(testContext(t), "tcp", "127.0.0.1:1")
			wantError(t, err, host.KindForward, "AllowTcpForwarding")
			mustRun(t, h, asMe("true"))
		})
	}
}

func TestOpenSSHMaxSessions(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "MaxSessions 3")
	h := s.host(t, nil)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := h.Run(testContext(t), asMe("true")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if c := h.(*machine).link.live(); c.slots.limit != 3 {
		t.Errorf("learned a limit of %d", c.slots.limit)
	}

	s = startSSHD(t, "MaxSessions 0")
	h = s.host(t, func(c *Config) { c.SessionWait = 100 * time.Millisecond })
	_, err := h.Run(testContext(t), asMe("true"))
	wantError(t, err, host.KindSession, "MaxSessions")
	dial(t, h, listen(t, echo))
}

// TestOpenSSHHostKeys pins that a host is known by whichever of its keys is.
func TestOpenSSHHostKeys(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		f := newFleet(t, s.trust(kind))
		mustRun(t, f.Host(targetOf(s.addr)), asMe("true"))

		cfg := s.trust(kind)
		cfg.HostKeys.Lines = nil
		tgt := targetOf(s.addr)
		tgt.HostKey = ssh.FingerprintSHA256(sshdKey(kind))
		mustRun(t, newFleet(t, cfg).Host(tgt), asMe("true"))
	}
}

func TestOpenSSHForcedCommand(t *testing.T) {
	t.Parallel()
	for option, want := range map[string]string{
		"ForceCommand echo go away":       "go away",
		"ForceCommand internal-sftp":      "did not run the command",
		"ForceCommand exit 7":             "exit status 7",
		"ForceCommand /nonexistent/shell": "not",
	} {
		t.Run(option, func(t *testing.T) {
			s := startSSHD(t, option)
			h := s.host(t, func(c *Config) {
				if strings.HasSuffix(option, "sftp") {
					c.StartTimeout = time.Second // it waits for input, and so do we
				}
			})
			_, err := h.Run(testContext(t), asMe("true"))
			wantError(t, err, host.KindSession, want, "forced command")
		})
	}
}

func TestOpenSSHRejects(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	h := s.host(t, func(c *Config) { c.Keys = []Key{newKey(t)} })
	_, err := h.Run(testContext(t), asMe("true"))
	wantError(t, err, host.KindAuth, "as user "+s.user, "authorized_keys")

	h = s.host(t, func(c *Config) {
		for range 10 {
			c.Keys = append([]Key{newKey(t)}, c.Keys...)
		}
	})
	_, err = h.Run(testContext(t), asMe("true"))
	wantError(t, err, host.KindAuth, "gave up before the right key was tried")
}

// TestOpenSSHBastion goes through the server to itself.
func TestOpenSSHBastion(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	cfg := s.trust("ed25519")
	tgt := targetOf(s.addr)
	cfg.Bastions = []Jump{{Host: tgt.Address, Port: tgt.Port}}
	h := newFleet(t, cfg).Host(tgt)
	mustRun(t, h, asMe("true"))
	c := dial(t, h, listen(t, echo))
	fmt.Fprint(c, "hi")
	buf := make([]byte, 2)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hi" {
		t.Errorf("%q, %v", buf, err)
	}
}
