//go:build linux

package vip

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// watchman is a guard that runs.
type watchman struct {
	t       *testing.T
	b       *box
	dir     string
	runtime string
	log     string
	script  string
	cmd     *exec.Cmd
	config  map[string]any
	ended   chan struct{}
}

var python = sync.OnceValues(func() (string, error) {
	name := os.Getenv("PGHA_TEST_PYTHON")
	if name == "" {
		name = "python3"
	}
	// It may be a script that looks for the real one.
	out, err := exec.Command(name, "-c", "import sys; print(sys.executable)").Output()
	return strings.TrimSpace(string(out)), err
})

// watchman prepares a guard in the box.
func (b *box) watchman(address netip.Prefix) *watchman {
	b.t.Helper()
	dir := b.t.TempDir()
	w := &watchman{t: b.t, b: b, dir: filepath.Join(dir, "etc"), runtime: filepath.Join(dir, "run"), log: filepath.Join(dir, "log"), script: filepath.Join(dir, "guard.py")}
	manager := os.Getenv("PGHA_TEST_VIP_MANAGER")
	if manager == "" {
		manager = filepath.Join(dir, "vip-manager")
		self, err := os.Executable()
		if err == nil {
			err = os.Symlink(self, manager)
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
	w.config = map[string]any{
		"address": address.Addr().String(), "prefix": address.Bits(), "interface": "eth0",
		"patroni": "http://127.0.0.1:8008/primary", "cafile": "", "vip_manager": manager,
	}
	interpreter, err := python()
	if err != nil {
		b.t.Skip("SKIPPED: needs python3")
	}
	text, err := os.ReadFile("guard.py")
	if err != nil {
		b.t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("#!/usr/bin/python3 "), []byte("#!"+interpreter+" "), 1)
	for _, d := range []string{w.dir, w.runtime} {
		if err := os.Mkdir(d, 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := os.WriteFile(w.script, text, 0o755); err != nil {
		b.t.Fatal(err)
	}
	w.configure()
	return w
}

// patient has the guard leave everything to vip-manager, however slow the machine is.
func (w *watchman) patient() *watchman {
	w.t.Helper()
	text, err := os.ReadFile(w.script)
	changed := bytes.Replace(text, []byte("\nPATIENCE = 2\n"), []byte("\nPATIENCE = 600\n"), 1)
	if err == nil && bytes.Equal(text, changed) {
		err = errors.New("it has another PATIENCE")
	}
	if err == nil {
		err = os.WriteFile(w.script, changed, 0o755)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return w
}

func (w *watchman) configure() {
	w.t.Helper()
	text, _ := json.Marshal(w.config)
	if err := os.WriteFile(filepath.Join(w.dir, "vip.json"), text, 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// command is the guard's program, to be run in the box.
func (w *watchman) command(args ...string) *exec.Cmd {
	interpreter, _ := python()
	cmd := exec.Command(interpreter, append([]string{"-I", w.script}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "RUNTIME_DIRECTORY=" + w.runtime}
	return cmd
}

// start runs the guard.
func (w *watchman) start(env ...string) *watchman {
	w.t.Helper()
	f, err := os.OpenFile(w.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	w.cmd = w.command("run", w.dir)
	w.cmd.Env = append(w.cmd.Env, env...)
	if setpriv, err := exec.LookPath("setpriv"); err == nil {
		// It has no more than its unit gives it.
		w.cmd.Path, w.cmd.Args = setpriv, append([]string{"setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--no-new-privs"}, w.cmd.Args...)
	}
	w.cmd.Stdout, w.cmd.Stderr = f, f
	w.b.in(w.cmd.Start)
	w.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(w.cmd, w.ended)
	cmd, ended := w.cmd, w.ended
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if w.t.Failed() {
			w.t.Logf("the guard in %s:\n%s", w.b.name, w.said())
		}
	})
	return w
}

func (w *watchman) said() string {
	text, _ := os.ReadFile(w.log)
	return string(text)
}

func (w *watchman) says(what string) {
	w.t.Helper()
	until(w.t, "the guard to say "+what, func() bool { return strings.Contains(w.said(), what) })
}

func (w *watchman) signal(s syscall.Signal) {
	w.t.Helper()
	if err := w.cmd.Process.Signal(s); err != nil {
		w.t.Fatal(err)
	}
}

// report is the guard's status.json.
func (w *watchman) report() (r struct {
	Holding, Primary bool
	Since            float64
	Because, Digest  string
}) {
	text, _ := os.ReadFile(filepath.Join(w.runtime, "status.json"))
	_ = json.Unmarshal(text, &r)
	return r
}

// manager is the process of the guard's vip-manager; 0 if it has none.
func (w *watchman) manager() int {
	own := strconv.Itoa(w.cmd.Process.Pid)
	text, _ := os.ReadFile("/proc/" + own + "/task/" + own + "/children")
	for _, pid := range strings.Fields(string(text)) {
		line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		if bytes.Contains(line, []byte("--config=")) {
			n, _ := strconv.Atoi(pid)
			return n
		}
	}
	return 0
}

// ask runs the ip of vip-manager.
func (w *watchman) ask(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(w.runtime, "bin", "ip"), args...)
	cmd.Env = []string{"PGHA_GUARD_SOCKET=" + filepath.Join(w.runtime, "guard.sock")}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
