package sshx

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

// settled waits until the kept session of h is there and nobody uses it.
func settled(t *testing.T, h host.Host) {
	t.Helper()
	k := &h.(*machine).link.live().kept
	await(t, func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.idle != nil && !k.taken
	})
}

// keeper is a script's way to the shell that starts the scripts: it leads the
// session.
const keeper = `keeper=$(cut -d ' ' -f 6 "/proc/$$/stat"); `

func needProc(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc")
	}
}

// TestKept pins that scripts which come one after the other, of whatever user,
// take one session, and one question of sudo.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	asked, logged := filepath.Join(dir, "asked"), filepath.Join(dir, "logged")
	s := serve(t, sshtest.Config{Env: withPrograms(t, map[string]string{
		"id":      loggedInAs("deploy", "1000"),
		"sudo":    "echo >>'" + asked + "'\nexport SUDO_USER=deploy\n" + fakeSudo,
		"logger":  `echo "$*" >>'` + logged + `'`,
		"runuser": `[ "$1 $3" = "-u --" ] || exit 1; AS=$2; export AS; shift 3; exec "$@"`,
	})})
	cfg := trust(s)
	cfg.User, cfg.BecomePassword = "deploy", "hunter2hunter2"
	h := newFleet(t, cfg).Host(target(s))
	for i := range 10 {
		user := []string{"", "root", "daemon"}[i%3]
		res := mustRun(t, h, host.Cmd{Script: `echo "$1 $AS"; cat; echo err >&2`, Args: []string{fmt.Sprint(i)}, User: user, Stdin: []byte("in")})
		as := user
		if user != "daemon" {
			as = ""
		}
		if diff := cmp.Diff(fmt.Sprintf("%d %s\nin", i, as), string(res.Stdout)); diff != "" || string(res.Stderr) != "err\n" {
			t.Errorf("stderr %q, stdout (-want +got):\n%s", res.Stderr, diff)
		}
	}
	if st := s.Stats(); st.Sessions != 1 || st.InSession != 1 {
		t.Errorf("%d sessions", st.Sessions)
	}
	if text, _ := os.ReadFile(asked); len(text) != 1 {
		t.Errorf("sudo was called %d times", len(text))
	}
	// Who keeps an eye on what is done as root sees the others, too.
	want := strings.Repeat("-t pgha -p authpriv.notice -- deploy : USER=root ; OPERATION=test\n-t pgha -p authpriv.notice -- deploy : USER=daemon ; OPERATION=test\n"+
		"-t pgha -p authpriv.notice -- deploy : USER=root ; OPERATION=test\n", 3)
	if text, _ := os.ReadFile(logged); string(text) != want {
		t.Errorf("logged:\n%s", text)
	}
}

// TestKeptLeaksNothing pins that a script finds all as if it were the first,
// whatever those before it did to their shell.
func TestKeptLeaksNothing(t *testing.T) {
	needProc(t)
	h, s := connect(t, sshtest.Config{})
	const look = `
		pwd; umask; ulimit -n; set -- /proc/$$/fd/*; echo "$# descriptors"
		env | grep -v '^_=' | sort; grep Sig[IB] /proc/self/status; cat | wc -c; exec 2>&1; trap; echo $-`
	first := mustRun(t, h, host.Cmd{Script: look})
	for _, script := range []string{
		"cd /tmp; umask 077; ulimit -n 20; export LEAK=1 PATH=/nowhere LC_ALL=C HOME=/nowhere",
		"trap '' INT HUP TERM PIPE; set -eufx",
		"exec <&- >&- 2>&- 3</dev/null 4</dev/null 5</dev/null 8</dev/null",
		"nonce=x line=y word=z size=1 wrapper=false; export nonce line word size wrapper; copy() { :; }; run() { :; }",
		"read x; exit 9",
		"printf 'no line end'; printf 'none' >&2",
		"head -c 100000 /dev/urandom; head -c 100000 /dev/urandom >&2",
		"kill -KILL $$",
		"(sleep 0.1; kill -CONT $$) & kill -STOP $$; wait",
	} {
		_, _ = h.Run(testContext(t), host.Cmd{Name: "op", Script: script, Stdin: []byte("line 1\nline 2\n")})
		settled(t, h)
		again := mustRun(t, h, host.Cmd{Script: look})
		if diff := cmp.Diff(string(first.Stdout)+string(first.Stderr), string(again.Stdout)+string(again.Stderr)); diff != "" {
			t.Errorf("after %s (-want +got):\n%s", script, diff)
		}
	}
	if st := s.Stats(); st.Sessions != 1 {
		t.Errorf("%d sessions", st.Sessions)
	}
}

// TestKeptBinary pins that every byte gets through, in both directions, again and
// again.
func TestKeptBinary(t *testing.T) {
	h, s := connect(t, sshtest.Config{})
	var all []byte
	for i := range 256 {
		all = append(all, byte(i), byte(255-i), '\n')
	}
	for _, in := range [][]byte{all, nil, bytes.Repeat(all, 5000), all[:1], bytes.Repeat([]byte{0}, 8192)} {
		res := mustRun(t, h, host.Cmd{Script: "tee /dev/stderr", Stdin: in})
		if !bytes.Equal(res.Stdout, in) || !bytes.Equal(res.Stderr, in) {
			t.Errorf("%d and %d bytes came back of %d", len(res.Stdout), len(res.Stderr), len(in))
		}
	}
	// What a script leaves of its input is not the next one's.
	for _, script := range []string{"head -c 10 >/dev/null", "exec <&-", "read -r line", "exit 1"} {
		_, _ = h.Run(testContext(t), host.Cmd{Name: "op", Script: script, Stdin: bytes.Repeat(all, 2000)})
		settled(t, h)
		if res := mustRun(t, h, host.Cmd{Script: "cat", Stdin: []byte("mine")}); string(res.Stdout) != "mine" {
			t.Errorf("after %s: %q", script, res.Stdout)
		}
	}
	if st := s.Stats(); st.Sessions != 1 {
		t.Errorf("%d sessions", st.Sessions)
	}
}

// TestKeptLeftBehind pins that a child which a script has left behind is not
// heard in the output of others, and that its session ends instead of being used
// again.
func TestKeptLeftBehind(t *testing.T) {
	dir := t.TempDir()
	h, s := connect(t, sshtest.Config{})
	res := mustRun(t, h, host.Cmd{
		// In a session of its own, so that the time limit does not reach it.
		Script: `setsid sh -c 'until [ -e "$1/go" ]; do sleep 0.05; done; echo late; echo late >&2; echo >"$1/said"' sh "$1" & echo now`,
		Args:   []string{dir},
	})
	if string(res.Stdout) != "now\n" {
		t.Errorf("got %q", res.Stdout)
	}
	wait := `echo >"$1/go"; until [ -e "$1/said" ]; do sleep 0.05; done; echo mine`
	res = mustRun(t, h, host.Cmd{Script: wait, Args: []string{dir}})
	if string(res.Stdout) != "mine\n" || len(res.Stderr) > 0 {
		t.Errorf("got %q and %q", res.Stdout, res.Stderr)
	}
	settled(t, h)
	mustRun(t, h, host.Cmd{Script: "true"})
	if st := s.Stats(); st.Sessions > 2 {
		t.Errorf("%d sessions", st.Sessions)
	}

	// One that never ends.
	mustRun(t, h, host.Cmd{Script: `sleep 60 & echo now`})
	before := s.Stats().Sessions
	mustRun(t, h, host.Cmd{Script: "true"})
	if st := s.Stats(); st.Sessions != before+1 {
		t.Errorf("%d sessions, then %d", before, st.Sessions)
	}
	if err := s.Await(testContext(t), func(st sshtest.Stats) bool { return st.InSession == 0 }); err != nil {
		t.Errorf("the session waits for the child: %+v", s.Stats())
	}
}

// TestKeptNotAgain pins after which ends of a script its session is given up.
func TestKeptNotAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the time of real limits")
	}
	t.Parallel()
	needProc(t)
	tests := []struct {
		name string
		cmd  host.Cmd
		kind host.Kind // of its error
	}{
		{"timed out", host.Cmd{Script: "sleep 60", Timeout: time.Second}, host.KindTimeout},
		{"timed out and killed", host.Cmd{Script: "trap '' TERM; while :; do sleep 60; done", Timeout: time.Second}, host.KindTimeout},
		{"its wrapper killed", host.Cmd{Script: "kill -KILL $PPID; sleep 0.1"}, host.KindLost},
		{"no such user", host.Cmd{Script: "true", User: "nobody-by-that-name"}, host.KindBecome},
		{"the keeper killed", host.Cmd{Script: keeper + `kill -KILL "$keeper"; echo nobody hears this`}, host.KindLost},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, s := connect(t, sshtest.Config{})
			mustRun(t, h, host.Cmd{Script: "true"})
			settled(t, h)
			tt.cmd.Name = "bad"
			_, err := h.Run(testContext(t), tt.cmd)
			wantError(t, err, tt.kind)
			mustRun(t, h, host.Cmd{Script: "true"})
			if st := s.Stats(); st.Sessions != 2 || st.Accepted != 1 {
				t.Errorf("%d sessions on %d connections", st.Sessions, st.Accepted)
			}
			if err := s.Await(testContext(t), func(st sshtest.Stats) bool { return st.InSession == 1 }); err != nil {
				t.Error("the old session is still there")
			}
		})
	}
}

// TestKeptCanceled pins that nothing follows a canceled script in its session.
func TestKeptCanceled(t *testing.T) {
	h, s := connect(t, sshtest.Config{})
	mustRun(t, h, host.Cmd{Script: "true"})
	settled(t, h)
	mark := filepath.Join(t.TempDir(), "running")
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error)
	go func() {
		_, err := h.Run(ctx, host.Cmd{Name: "long", Script: `echo > "$1"; sleep 3; echo late`, Args: []string{mark}, Timeout: 5 * time.Second})
		done <- err
	}()
	await(t, func() bool { _, err := os.Stat(mark); return err == nil })
	cancel()
	err := <-done
	wantError(t, err, host.KindCanceled)
	if !host.OutcomeUnknown(err) {
		t.Error("the outcome of a canceled script is not known")
	}
	if res := mustRun(t, h, host.Cmd{Script: "echo mine"}); string(res.Stdout) != "mine\n" {
		t.Errorf("got %q", res.Stdout)
	}
	if st := s.Stats(); st.Sessions != 2 || st.Accepted != 1 {
		t.Errorf("%d sessions on %d connections", st.Sessions, st.Accepted)
	}
}

// TestKeptIsStuck pins that a script is run elsewhere, and once, when the kept
// session does not start it; and that it does not start it later.
func TestKeptIsStuck(t *testing.T) {
	needProc(t)
	s := serve(t, sshtest.Config{Env: asRoot(t)})
	cfg := trust(s)
	cfg.StartTimeout = time.Second
	h := newFleet(t, cfg).Host(target(s))
	dir := t.TempDir()
	res := mustRun(t, h, host.Cmd{Script: keeper + `echo "$keeper"
		(until [ -e "$1/settled" ]; do sleep 0.02; done; kill -STOP "$keeper"; echo >"$1/stopped") </dev/null >/dev/null 2>&1 &`, Args: []string{dir}})
	stopped := strings.TrimSpace(string(res.Stdout))
	settled(t, h)
	if err := os.WriteFile(filepath.Join(dir, "settled"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { _, err := os.Stat(filepath.Join(dir, "stopped")); return err == nil })
	count := host.Cmd{Script: `echo ran >> "$1/runs"`, Args: []string{dir}}
	mustRun(t, h, count)
	mustRun(t, h, host.Cmd{Script: `kill -CONT "$1"; while kill -0 "$1"; do sleep 0.02; done 2>/dev/null`, Args: []string{stopped}})
	if text, _ := os.ReadFile(filepath.Join(dir, "runs")); string(text) != "ran\n" {
		t.Errorf("it ran %d times", bytes.Count(text, []byte("\n")))
	}
	if st := s.Stats(); st.Accepted != 1 {
		t.Errorf("%d connections", st.Accepted)
	}
}

// TestKeptLimitOutlivesKeeper pins that a script ends by its time limit also when
// nobody is left who could wait for it.
func TestKeptLimitOutlivesKeeper(t *testing.T) {
	needProc(t)
	h, _ := connect(t, sshtest.Config{})
	file := filepath.Join(t.TempDir(), "pid")
	_, err := h.Run(testContext(t), host.Cmd{
		Name: "op", Script: keeper + `echo $$ >"$1"; kill -KILL "$keeper"; exec sleep 60`, Args: []string{file}, Timeout: 2 * time.Second,
	})
	wantError(t, err, host.KindLost)
	pid, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		_, err := os.Stat("/proc/" + strings.TrimSpace(string(pid)))
		return os.IsNotExist(err)
	})
}

// TestKeptWithoutPerl pins that hosts without what keeps a session, which are not
// Debian's, can be asked all the same: or nobody would say what they are.
func TestKeptWithoutPerl(t *testing.T) {
	s := serve(t, sshtest.Config{Env: withPrograms(t, map[string]string{
		"id": "case $1 in -un) echo root;; *) echo 0;; esac", "perl": `printf '%s absent perl\n' "$4" >&2; exit 127`,
	})})
	h := newFleet(t, trust(s)).Host(target(s))
	for range 3 {
		if res := mustRun(t, h, host.Cmd{Script: "cat", Stdin: []byte("in")}); string(res.Stdout) != "in" {
			t.Errorf("got %q", res.Stdout)
		}
	}
	if st := s.Stats(); st.Sessions != 4 || st.Accepted != 1 {
		t.Errorf("%d sessions on %d connections", st.Sessions, st.Accepted)
	}
}

// TestKeptEndsMeanwhile pins that the end of the kept session, such as by a limit
// of the server's, is no failure of the next script's.
func TestKeptEndsMeanwhile(t *testing.T) {
	needProc(t)
	h, s := connect(t, sshtest.Config{})
	for range 3 {
		mustRun(t, h, host.Cmd{Script: keeper + `(sleep 0.1; kill -KILL "$keeper") </dev/null >/dev/null 2>&1 &`})
		if err := s.Await(testContext(t), func(st sshtest.Stats) bool { return st.InSession == 0 }); err != nil {
			t.Fatal(err)
		}
		mustRun(t, h, host.Cmd{Script: "true"})
	}
}

// TestKeptLost pins what becomes of a script in a session that was used before
// when the connection is lost: without the word to go it is repeated, after it
// never.
func TestKeptLost(t *testing.T) {
	var s *sshtest.Server
	var runs atomic.Int64
	s = serve(t, sshtest.Config{Play: func(ctx context.Context, c sshtest.Call) int {
		if c.Op == "doomed" {
			runs.Add(1)
			s.Drop()
			<-ctx.Done()
		}
		return 0
	}})
	h := newFleet(t, trust(s)).Host(target(s))
	mustRun(t, h, host.Cmd{})
	settled(t, h)
	_, err := h.Run(testContext(t), host.Cmd{Name: "doomed"})
	wantError(t, err, host.KindLost)
	if runs.Load() != 1 {
		t.Errorf("it ran %d times", runs.Load())
	}
	mustRun(t, h, host.Cmd{})
	if st := s.Stats(); st.Accepted != 2 || st.Sessions != 2 {
		t.Errorf("%d connections, %d sessions", st.Accepted, st.Sessions)
	}
}

// TestKeptMakesRoom pins that a session which is only kept takes nobody's place.
func TestKeptMakesRoom(t *testing.T) {
	for _, limited := range []string{"server", "client"} {
		t.Run(limited, func(t *testing.T) {
			srv := sshtest.Config{Env: asRoot(t)}
			if limited == "server" {
				srv.MaxSessions = 1
			}
			s := serve(t, srv)
			cfg := trust(s)
			if limited == "client" {
				cfg.MaxSessions = 1
			}
			h := newFleet(t, cfg).Host(target(s))
			for range 2 {
				mustRun(t, h, host.Cmd{Script: "true"})
				settled(t, h)
				p := start(t, h, host.Cmd{Script: "cat"})
				if err := p.Stdin().Close(); err != nil {
					t.Fatal(err)
				}
				if err := p.Wait(); err != nil {
					t.Error(err)
				}
				p.Close()
				mustRun(t, h, host.Cmd{Script: "true", User: host.LoginUser})
			}
			if st := s.Stats(); st.SessionPeak != 1 {
				t.Errorf("%d sessions at once", st.SessionPeak)
			}
		})
	}
}

// TestKeptIsTaken pins that who finds the session taken does not wait for the
// end of a long script.
func TestKeptIsTaken(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.srv.Play = func(_ context.Context, c sshtest.Call) int {
			if c.Op == "long" {
				time.Sleep(time.Minute)
			}
			return 0
		}
		s := w.serve()
		h := w.host()
		done := make(chan error)
		go func() {
			_, err := h.Run(long(t), host.Cmd{Name: "long"})
			done <- err
		}()
		time.Sleep(time.Millisecond)
		begin := time.Now()
		mustRun(t, h, host.Cmd{})
		if took := time.Since(begin); took > keptWait {
			t.Errorf("waited for %s", took)
		}
		begin = time.Now()
		mustRun(t, h, host.Cmd{})
		if took := time.Since(begin); took > 0 {
			t.Errorf("waited for %s though it had to be in vain", took)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		mustRun(t, h, host.Cmd{})
		if st := s.Stats(); st.Sessions != 3 {
			t.Errorf("%d sessions", st.Sessions)
		}
	})
}

// TestKeptOfMany pins that the sessions of a large fleet do not pile up, and that
// it is the least used ones that end.
func TestKeptOfMany(t *testing.T) {
	var n sshtest.Network
	cfg := trust()
	cfg.Dial = n.Dial
	key := sshtest.NewHostKey()
	var servers []*sshtest.Server
	for i := range maxIdle + 5 {
		addr := fmt.Sprintf("10.0.0.%d:22", i+1)
		s, err := n.Serve(addr, sshtest.Config{Play: ok, HostKeys: []ssh.Signer{key}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		servers = append(servers, s)
		cfg.HostKeys.Lines = append(cfg.HostKeys.Lines, knownhosts.Line([]string{addr}, key.PublicKey()))
	}
	f := newFleet(t, cfg)
	use := func(i int) {
		h := f.Host(host.Target{Address: fmt.Sprintf("10.0.0.%d", i+1)})
		mustRun(t, h, host.Cmd{})
		settled(t, h)
	}
	for i := range maxIdle {
		use(i)
	}
	use(0)
	for i := maxIdle; i < len(servers); i++ {
		use(i)
	}
	for i, s := range servers {
		want := 1
		if 0 < i && i < 6 {
			want = 0
		}
		if err := s.Await(testContext(t), func(st sshtest.Stats) bool { return st.InSession == want }); err != nil {
			t.Errorf("host %d: %+v", i, s.Stats())
		}
	}
}

// TestNothingKeptOfCaller pins that a connection does not keep what belongs to
// who opened it: with Terraform, that is loggers of several kilobytes for each of
// a thousand hosts.
func TestNothingKeptOfCaller(t *testing.T) {
	type key struct{}
	s := serve(t, sshtest.Config{Play: ok})
	h := newFleet(t, trust(s)).Host(target(s))
	caller := func() weak.Pointer[[1 << 16]byte] {
		big := new([1 << 16]byte)
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, big), patience)
		defer cancel()
		if _, err := h.Run(ctx, host.Cmd{Name: "op"}); err != nil {
			t.Error(err)
		}
		return weak.Make(big)
	}()
	settled(t, h)
	await(t, func() bool { runtime.GC(); return caller.Value() == nil })
}
