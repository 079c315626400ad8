package sshx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/redact"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

func TestRun(t *testing.T) {
	h, s := connect(t, sshtest.Config{})
	root, err := user.Lookup("root")
	if err != nil {
		t.Fatal(err)
	}
	type output struct {
		Out, Err string
		Code     int
	}
	tests := []struct {
		name string
		cmd  host.Cmd
		want output
	}{
		{"nothing", host.Cmd{Script: ""}, output{}},
		{"output", host.Cmd{Script: "echo out; echo err >&2"}, output{"out\n", "err\n", 0}},
		{"output without a line end", host.Cmd{Script: "printf out; printf err >&2"}, output{"out", "err", 0}},
		{"output of line ends", host.Cmd{Script: "echo; echo; echo >&2"}, output{"\n\n", "\n", 0}},
		{"arguments", host.Cmd{Script: `printf '<%s>' "$@"`, Args: []string{"", "a b", "it's", "$HOME", "\n", `\n`, "-n"}},
			output{"<><a b><it's><$HOME><\n><\\n><-n>", "", 0}},
		{"input", host.Cmd{Script: "cat", Stdin: []byte("a\x00b\xff\n")}, output{"a\x00b\xff\n", "", 0}},
		{"input that nobody reads", host.Cmd{Script: "exit 0", Stdin: bytes.Repeat([]byte("x"), 4<<20)}, output{}},
		{"no input", host.Cmd{Script: "cat"}, output{}},
		{"only the script's input", host.Cmd{Script: "wc -c", Stdin: []byte("12345")}, output{"5\n", "", 0}},
		{"exit status", host.Cmd{Script: "echo no >&2; exit 3"}, output{"", "no\n", 3}},
		{"exec", host.Cmd{Script: "exec printf done"}, output{"done", "", 0}},
		{"a trap of the script's own", host.Cmd{Script: "trap 'echo bye' EXIT; exit 4"}, output{"bye\n", "", 4}},
		{"set -e", host.Cmd{Script: "set -e; false; echo no"}, output{"", "", 1}},
		{"the name in messages", host.Cmd{Name: "facts.read", Script: `echo "$0"`}, output{"facts.read\n", "", 0}},
		{"a script's own 124", host.Cmd{Script: "exit 124"}, output{"", "", 124}},
		{"a script's own 137", host.Cmd{Script: "exit 137"}, output{"", "", 137}},
		{"killed by itself", host.Cmd{Script: "kill -KILL $$"}, output{"", "Killed\n", 137}},
		{"terminated by itself", host.Cmd{Script: "kill -TERM $$"}, output{"", "Terminated\n", 143}},
		{"locale, directory, mask", host.Cmd{Script: `echo "$LC_ALL $PWD $(umask)"`}, output{"C.UTF-8 / 0022\n", "", 0}},
		{"home", host.Cmd{Script: `echo "$HOME $USER $LOGNAME"`}, output{root.HomeDir + " root root\n", "", 0}},
		{"no terminal", host.Cmd{Script: "tty"}, output{"not a tty\n", "", 1}},
		{"output closed by the script", host.Cmd{Script: "echo a; exec >&- 2>&-; exit 5"}, output{"a\n", "", 5}},
	}
	check := func(t *testing.T, name string, cmd host.Cmd, want output) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			if cmd.Name == "" {
				cmd.Name = "test"
			}
			res, err := h.Run(testContext(t), cmd)
			got := output{string(res.Stdout), string(res.Stderr), res.ExitCode}
			if got.Code > 128 && len(got.Err) != len(want.Err) {
				got.Err = want.Err // not every sh announces it
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if want.Code == 0 && err != nil {
				t.Error(err)
			}
			if got := host.ExitCode(err); want.Code != 0 && got != want.Code {
				t.Errorf("the error's exit status is %d: %v", got, err)
			}
		})
	}
	for _, tt := range tests {
		check(t, tt.name, tt.cmd, tt.want)
		// Whatever it was, the next one sees nothing of it.
		check(t, "after "+tt.name, host.Cmd{Script: `printf '<%s>' "$@"; cat; pwd; umask`, Args: []string{"x"}, Stdin: []byte("in\n")}, output{"<x>in\n/\n0022\n", "", 0})
	}
	if st := s.Stats(); st.Sessions != 1 {
		t.Errorf("%d sessions", st.Sessions)
	}
	for _, tt := range tests {
		if tt.cmd.User = host.LoginUser; tt.name != "home" {
			check(t, tt.name+", alone", tt.cmd, tt.want)
		}
	}
	if st := s.Stats(); st.Sessions != len(tests) {
		t.Errorf("%d sessions", st.Sessions)
	}
}

// TestRunSyntaxError pins that a broken script fails by itself, without
// breaking what is around it.
func TestRunSyntaxError(t *testing.T) {
	h, _ := connect(t, sshtest.Config{})
	_, err := h.Run(testContext(t), host.Cmd{Name: "broken", Script: "if true; then ("})
	wantError(t, err, host.KindExit, "host pg1 (127.0.0.1): broken: exit status 2", "yntax error")
}

// TestNoise pins that what login shells print is no part of the output.
func TestNoise(t *testing.T) {
	for _, noise := range []string{"Welcome to the machine!\n", "no line end", strings.Repeat("long ", 10_000)} {
		h, _ := connect(t, sshtest.Config{Noise: noise})
		res := mustRun(t, h, host.Cmd{Script: "echo out; echo err >&2"})
		if got := string(res.Stdout) + string(res.Stderr); got != "out\nerr\n" {
			t.Errorf("got %q", got)
		}
	}
}

// TestFlood pins that output over the limit is dropped, not left to block the
// script.
func TestFlood(t *testing.T) {
	h, _ := connect(t, sshtest.Config{})
	const flood = `head -c 6000000 /dev/zero | tr '\0' x; head -c 6000000 /dev/zero | tr '\0' y >&2; echo; echo last words >&2; exit 9`
	res, err := h.Run(testContext(t), host.Cmd{Name: "flood", Script: flood, MaxOutput: 1000})
	wantError(t, err, host.KindExit, "last words")
	if len(res.Stdout) != 1000 || len(res.Stderr) != 1000 || !res.Truncated || res.ExitCode != 9 {
		t.Errorf("%d and %d bytes, truncated %t, exit status %d", len(res.Stdout), len(res.Stderr), res.Truncated, res.ExitCode)
	}

	res = mustRun(t, h, host.Cmd{Script: "printf 12345", MaxOutput: 5})
	if res.Truncated || string(res.Stdout) != "12345" {
		t.Errorf("as much as allowed: %q, truncated %t", res.Stdout, res.Truncated)
	}
	res = mustRun(t, h, host.Cmd{Script: "head -c 4194305 /dev/zero"})
	if len(res.Stdout) != host.DefaultMaxOutput || !res.Truncated {
		t.Errorf("by default: %d bytes, truncated %t", len(res.Stdout), res.Truncated)
	}
}

func TestLargeInput(t *testing.T) {
	h, _ := connect(t, sshtest.Config{})
	in := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	res := mustRun(t, h, host.Cmd{Script: "cat", Stdin: in})
	if !bytes.Equal(res.Stdout, in) {
		t.Errorf("%d bytes came back of %d", len(res.Stdout), len(in))
	}
}

func TestTimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the time of real limits")
	}
	t.Parallel()
	h, _ := connect(t, sshtest.Config{})
	tests := []struct {
		name, script string
	}{
		{"asleep", "echo before; sleep 600"},
		{"cleans up when told to end", "echo before; trap 'exit 0' TERM; sleep 600 & wait"},
		{"does not heed", "echo before; trap '' TERM; while :; do sleep 600; done"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			res, err := h.Run(testContext(t), host.Cmd{Name: "slow", Script: tt.script, Timeout: 900 * time.Millisecond})
			wantError(t, err, host.KindTimeout, "slow: timed out: the script ran longer than 1s")
			if string(res.Stdout) != "before\n" {
				t.Errorf("output %q", res.Stdout)
			}
		})
	}
}

// TestTimeoutEndsChildren pins that a script is told to end before it is killed,
// and that its children are, too.
func TestTimeoutEndsChildren(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the time of real limits")
	}
	t.Parallel()
	h, _ := connect(t, sshtest.Config{})
	mark := filepath.Join(t.TempDir(), "mark")
	_, err := h.Run(testContext(t), host.Cmd{
		Name: "slow", Timeout: time.Second, Args: []string{mark},
		Script: `trap 'echo "told $(kill -0 $child 2>&1 && echo alive || echo gone)" > "$1"' TERM; sleep 600 & child=$!; wait; wait`,
	})
	wantError(t, err, host.KindTimeout)
	if got, _ := os.ReadFile(mark); !strings.HasPrefix(string(got), "told ") {
		t.Errorf("the script was not told: %q", got)
	}
}

// TestKilledFromOutside pins that an end by somebody else's signal is not taken
// for the time limit, nor for a result.
func TestKilledFromOutside(t *testing.T) {
	h, _ := connect(t, sshtest.Config{})
	// The script's parent is the wrapper.
	_, err := h.Run(testContext(t), host.Cmd{Name: "doomed", Script: "echo x; kill -KILL $PPID; sleep 0.2"})
	wantError(t, err, host.KindLost, "ended from outside")

	_, err = h.Run(testContext(t), host.Cmd{Name: "doomed", Script: "echo x; kill -TERM $PPID; sleep 0.2"})
	wantError(t, err, host.KindLost, "ended from outside")
}

// TestDaemonLeftBehind pins that a child which keeps the output open does not
// keep Run waiting: sshd keeps such a session open for ever.
func TestDaemonLeftBehind(t *testing.T) {
	h, _ := connect(t, sshtest.Config{})
	start := time.Now()
	res := mustRun(t, h, host.Cmd{Script: "echo started; sleep 30 &"})
	if string(res.Stdout) != "started\n" {
		t.Errorf("output %q", res.Stdout)
	}
	if took := time.Since(start); took > patience/2 {
		t.Errorf("took %s", took)
	}
}

func TestCancel(t *testing.T) {
	h, s := connect(t, sshtest.Config{})
	mustRun(t, h, host.Cmd{Script: "true"})
	mark := filepath.Join(t.TempDir(), "running")
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	done := make(chan error)
	go func() {
		_, err := h.Run(ctx, host.Cmd{Name: "long", Script: `echo > "$1"; sleep 600`, Args: []string{mark}})
		done <- err
	}()
	await(t, func() bool { _, err := os.Stat(mark); return err == nil })
	cancel()
	err := <-done
	wantError(t, err, host.KindCanceled, "long: canceled: context canceled")
	if !host.OutcomeUnknown(err) {
		t.Error("the outcome of a canceled script is not known")
	}

	// The script is asked to end, and the connection serves the others.
	if err := s.Await(testContext(t), func(st sshtest.Stats) bool { return st.InSession == 0 }); err != nil {
		t.Errorf("the session is still there: %+v", s.Stats())
	}
	mustRun(t, h, host.Cmd{Script: "true"})
	if st := s.Stats(); st.Accepted != 1 || len(st.Signals) != 1 || st.Signals[0] != "TERM" {
		t.Errorf("%+v", st)
	}
}

// await polls for what only the file system tells.
func await(t *testing.T, ok func() bool) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it did not happen")
		}
	}
}

func TestCanceledBefore(t *testing.T) {
	h, s := connect(t, sshtest.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := h.Run(ctx, host.Cmd{Name: "never", Script: "true"})
	wantError(t, err, host.KindCanceled)
	if st := s.Stats(); len(st.Commands) > 0 {
		t.Errorf("something was run: %v", st.Commands)
	}
}

// TestNotToldToGo pins the promise that everything else rests on: a script whose
// start was given up does not run later.
func TestNotToldToGo(t *testing.T) {
	dir := t.TempDir()
	gate, mark := filepath.Join(dir, "gate"), filepath.Join(dir, "mark")
	env := withPrograms(t, map[string]string{
		"id":   "case $1 in -un) echo deploy;; *) echo 1000;; esac",
		"sudo": `while ! [ -e '` + gate + `' ]; do sleep 0.05; done; [ "$1" = -n ] && shift; shift; "$@"; echo > '` + mark + `'`,
	})
	s := serve(t, sshtest.Config{Env: env})
	cfg := trust(s)
	cfg.StartTimeout = time.Second
	h := newFleet(t, cfg).Host(target(s))
	_, err := h.Run(testContext(t), host.Cmd{Name: "late", Script: `echo > "$1.ran"`, Args: []string{mark}})
	wantError(t, err, host.KindBecome, "within 1s")
	if host.OutcomeUnknown(err) {
		t.Error("the outcome is known: it was not started")
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { _, err := os.Stat(mark); return err == nil })
	if _, err := os.Stat(mark + ".ran"); err == nil {
		t.Error("the script ran after it was given up")
	}
}

func TestLoginWithoutShell(t *testing.T) {
	tests := []struct {
		name  string
		shell string
		want  []string
	}{
		{"nologin", "echo 'This account is currently not available.'; exit 1", []string{"This account is currently not available.", "exit status 1", "nologin"}},
		{"forced command", "echo backup done", []string{"backup done", "exit status 0", "forced command"}},
		{"forced command that waits", "read x; echo never", []string{"within", "printed nothing", "forced command"}},
		{"silent", "exit 0", []string{"printed nothing"}},
		{"start-up file fails", "echo '/root/.bashrc: line 3: syntax error' >&2; exit 2", []string{"syntax error"}},
		{"echoes the command", `printf '%s\n' "$SSH_ORIGINAL_COMMAND"; exit 1`, []string{"cannot run commands"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, sshtest.Config{Shell: func(line string) *exec.Cmd {
				cmd := exec.Command("/bin/sh", "-c", tt.shell)
				cmd.Env = []string{"SSH_ORIGINAL_COMMAND=" + line, "PATH=/usr/bin:/bin"}
				return cmd
			}})
			cfg := trust(s)
			if strings.Contains(tt.name, "waits") {
				cfg.StartTimeout = 200 * time.Millisecond
			}
			h := newFleet(t, cfg).Host(target(s))
			_, err := h.Run(testContext(t), host.Cmd{Name: "x", Script: "true", Stdin: []byte("a secret")})
			wantError(t, err, host.KindSession, tt.want...)
			if host.OutcomeUnknown(err) || !host.Unreachable(err) {
				t.Error("it has not run, and nothing is known of the host")
			}
		})
	}
}

// TestInputIsForTheScriptOnly pins that what a script reads is not sent to who is not our
// wrapper.
func TestInputIsForTheScriptOnly(t *testing.T) {
	got := filepath.Join(t.TempDir(), "got")
	s := serve(t, sshtest.Config{Shell: func(string) *exec.Cmd {
		return exec.Command("/bin/sh", "-c", "head -c 10 > '"+got+"'")
	}})
	cfg := trust(s)
	cfg.StartTimeout = 200 * time.Millisecond
	h := newFleet(t, cfg).Host(target(s))
	_, err := h.Run(testContext(t), host.Cmd{Name: "x", Script: "cat", Stdin: []byte("a secret password")})
	wantError(t, err, host.KindSession)
	await(t, func() bool { _, err := os.Stat(got); return err == nil })
	if b, _ := os.ReadFile(got); len(b) > 0 {
		t.Errorf("it got %q", b)
	}
}

func TestBadCommands(t *testing.T) {
	h, s := connect(t, sshtest.Config{})
	for name, cmd := range map[string]host.Cmd{
		"zero byte": {Args: []string{"\x00"}},
		"too long":  {Args: []string{strings.Repeat("x", 200_000)}},
		"user":      {User: "a b"},
	} {
		cmd.Name = name
		_, err := h.Run(testContext(t), cmd)
		wantError(t, err, host.KindSession)
		_, err = h.Start(testContext(t), cmd)
		wantError(t, err, host.KindSession)
	}
	if st := s.Stats(); st.Sessions > 0 {
		t.Errorf("%d sessions were opened", st.Sessions)
	}
}

func TestErrorText(t *testing.T) {
	s := serve(t, sshtest.Config{Env: asRoot(t)})
	cfg := trust(s)
	cfg.Redact = new(redact.Set)
	cfg.Redact.Add("hunter2hunter2")
	h := newFleet(t, cfg).Host(target(s))
	script := "i=0; while [ $i -lt 100 ]; do echo line $i password hunter2hunter2 >&2; i=$((i+1)); done; exit 1"

	_, err := h.Run(testContext(t), host.Cmd{Name: "op", Script: script})
	e := wantError(t, err, host.KindExit, "line 99 password [redacted]", "line 80")
	if strings.Contains(e.Stderr, "line 79") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("too much: %s", e.Stderr)
	}
	_, err = h.Run(testContext(t), host.Cmd{Name: "op", Script: script, Sensitive: true})
	e = wantError(t, err, host.KindExit)
	if e.Stderr != "" || strings.Contains(err.Error(), "line") {
		t.Errorf("sensitive output in %q", err)
	}
}

// TestErrorOf pins that no secret gets out with an error, whoever put it there,
// and that the error can still be told by its cause.
func TestErrorOf(t *testing.T) {
	cfg := trust()
	cfg.Redact = new(redact.Set)
	cfg.Redact.Add("hunter2hunter2")
	m := newFleet(t, cfg).Host(host.Target{Name: "pg1", Address: "10.0.0.1"}).(*machine)
	err := m.errorOf("op", &failure{kind: host.KindLost, err: fmt.Errorf("hunter2hunter2: %w", os.ErrClosed), hint: "not hunter2hunter2"})
	wantError(t, err, host.KindLost, "[redacted]: file already closed", "not [redacted]")
	if !errors.Is(err, os.ErrClosed) {
		t.Error("the cause is gone")
	}
	if text := fmt.Sprintf("%v %+v", err, err); strings.Contains(text, "hunter2") {
		t.Errorf("got %s", text)
	}
	if err := m.errorOf("op", nil); err != nil {
		t.Error(err)
	}
}

func TestLog(t *testing.T) {
	s := serve(t, sshtest.Config{Env: asRoot(t)})
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo} {
		cfg := trust(s)
		cfg.Redact = new(redact.Set)
		cfg.Redact.Add("hunter2hunter2")
		var log *logBuffer
		cfg.Logger, log = logTo(level)
		h := newFleet(t, cfg).Host(target(s))
		mustRun(t, h, host.Cmd{Name: "plain.op", Script: "echo visible output hunter2hunter2 # the text", Args: []string{"argument"}})
		mustRun(t, h, host.Cmd{Name: "sensitive.op", Script: "cat", Stdin: []byte("sensitive data"), Sensitive: true})
		text := log.String()
		for _, never := range []string{"hunter2", "the text", "argument", "sensitive data"} {
			if strings.Contains(text, never) {
				t.Errorf("%s: %q is in the log:\n%s", level, never, text)
			}
		}
		for _, word := range []string{"plain.op", "sensitive.op", "visible output [redacted]", "host=pg1", "exit=0", "in=14", "out=14"} {
			if got, want := strings.Contains(text, word), level == slog.LevelDebug; got != want {
				t.Errorf("%s: %q in the log: %t:\n%s", level, word, got, text)
			}
		}
	}
}

func TestLastLines(t *testing.T) {
	tests := []struct {
		text string
		n    int
		want string
	}{
		{"", 2, ""}, {"a", 2, "a"}, {"a\n", 2, "a"}, {"a\nb\nc\n", 2, "b\nc"}, {"a\nb\nc", 3, "a\nb\nc"}, {"\n\n", 2, ""},
	}
	for _, tt := range tests {
		if got := lastLines(tt.text, tt.n); got != tt.want {
			t.Errorf("lastLines(%q, %d) = %q, want %q", tt.text, tt.n, got, tt.want)
		}
	}
}

// TestProcessList pins that a script may print the command lines that it runs
// under, sudo's with its prompt included.
func TestProcessList(t *testing.T) {
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		t.Skip("no /proc")
	}
	s := serve(t, sshtest.Config{Env: withPrograms(t, map[string]string{
		"id": loggedInAs("deploy", "1000"),
		// Not exec: the prompt stays in the list.
		"sudo": `all="$*"; while [ "$1" != -- ]; do shift; done; shift; "$@"; exit $?`,
	})})
	cfg := trust(s)
	cfg.BecomePassword = "hunter2hunter2"
	h := newFleet(t, cfg).Host(target(s))
	res := mustRun(t, h, host.Cmd{Script: `
p=$$
while [ "$p" -gt 1 ]; do
	cat "/proc/$p/cmdline" | tr '\0' ' '
	cat "/proc/$p/cmdline" | tr '\0' ' ' >&2
	p=$(awk '/^PPid:/ {print $2}' "/proc/$p/status")
done
echo the end; echo the end >&2`})
	if !bytes.Contains(res.Stdout, []byte(" password:")) {
		t.Fatalf("the prompt is not in the list:\n%s", res.Stdout)
	}
	if diff := cmp.Diff(string(res.Stdout), string(res.Stderr)); diff != "" {
		t.Errorf("(-stdout +stderr):\n%s", diff)
	}
	if !bytes.HasSuffix(res.Stdout, []byte("the end\n")) {
		t.Error("cut off")
	}
}
