// Package shellhost runs the scripts that hosts are sent on this machine, in a
// folder of the test's own, so that tests see what the shell makes of them.
//
// It stands between the provider and a disaster: absolute paths of a host are
// moved below the test's folder, in scripts and in arguments, and programs that
// would act on the machine itself are replaced by stand-ins, which note how
// they were called.
package shellhost

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// Shells are the command lines of what /bin/sh may be on a host.
func Shells(tb testing.TB) map[string][]string {
	tb.Helper()
	found := map[string][]string{}
	for name, line := range map[string][]string{"dash": {"dash"}, "bash": {"bash", "--posix"}} {
		if _, err := exec.LookPath(line[0]); err == nil {
			found[name] = line
		}
	}
	if len(found) == 0 {
		found["sh"] = []string{"sh"}
	}
	return found
}

// Host is this machine, as far as the test's folder reaches. Root is that
// folder; it stands for the host's "/", without a slash at its end.
type Host struct {
	Root string
	// Deaf: nobody reads what scripts print, as when the connection is gone.
	Deaf  bool
	tb    testing.TB
	shell []string
	bin   string
	calls string
}

// moved are the folders of a host that scripts name by themselves or that the
// provider keeps its files in.
var moved = []string{"/etc/pgha", "/etc/postgresql", "/run", "/usr/sbin", "/etc/systemd", "/var/lib"}

// New returns a host that runs scripts with a shell. What belongs to other users
// cannot be made without being root, so chown only notes its arguments, as do
// systemctl, journalctl, sysctl and the tools of dpkg and apt.
func New(tb testing.TB, shell []string) *Host {
	tb.Helper()
	h := &Host{Root: tb.TempDir(), tb: tb, shell: shell, bin: tb.TempDir()}
	h.calls = filepath.Join(h.bin, "calls")
	for _, dir := range moved {
		if err := os.MkdirAll(h.Path(dir), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.MkdirAll(h.Path("/run/lock"), 0o755); err != nil {
		tb.Fatal(err)
	}
	for _, program := range []string{"chown", "systemctl", "journalctl", "sysctl", "apt-get", "apt-mark", "apt-cache", "dpkg", "dpkg-query", "sync"} {
		h.Program(program, "")
	}
	return h
}

// Program puts a stand-in for a program into the path. It notes its arguments,
// and then runs the given shell text.
func (h *Host) Program(name, text string) {
	h.tb.Helper()
	script := "#!/bin/sh\n{ printf '%s' " + name + "; for a in \"$@\"; do printf ' [%s]' \"$a\"; done; echo; } >>'" + h.calls + "'\n" + h.move(text) + "\n"
	if err := os.WriteFile(filepath.Join(h.bin, name), []byte(script), 0o755); err != nil {
		h.tb.Fatal(err)
	}
}

// Calls are the calls of stand-ins so far, but those of sync: "PROGRAM [ARG] [ARG]".
// The test's folder is left out of them.
func (h *Host) Calls() []string {
	b, err := os.ReadFile(h.calls)
	if err != nil {
		return nil
	}
	lines := strings.Split(strings.TrimSuffix(strings.ReplaceAll(string(b), h.Root, ""), "\n"), "\n")
	return slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "sync") })
}

// Path is where a path of the host is on this machine.
func (h *Host) Path(p string) string { return h.Root + p }

// move puts the host's paths below the test's folder.
func (h *Host) move(text string) string {
	for _, dir := range moved {
		text = strings.ReplaceAll(text, dir, h.Root+dir)
	}
	return text
}

// Name implements host.Host.
func (h *Host) Name() string { return "this machine" }

// Addr implements host.Host.
func (h *Host) Addr() string { return "127.0.0.1" }

func (h *Host) command(ctx context.Context, cmd host.Cmd) *exec.Cmd {
	args := slices.Concat(h.shell, []string{"-c", h.move(cmd.Script), cmd.Name})
	for _, a := range cmd.Args {
		if !strings.HasPrefix(a, h.Root) {
			a = h.move(a)
		}
		args = append(args, a)
	}
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Dir = h.Root
	c.Env = []string{"PATH=" + h.bin + ":" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "TMPDIR=" + h.Root}
	return c
}

// Run implements host.Host.
func (h *Host) Run(ctx context.Context, cmd host.Cmd) (host.Result, error) {
	c := h.command(ctx, cmd)
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(cmd.Stdin), &out, &errs
	if h.Deaf {
		r, w, err := os.Pipe()
		if err != nil {
			h.tb.Fatal(err)
		}
		defer w.Close()
		if err := r.Close(); err != nil {
			h.tb.Fatal(err)
		}
		c.Stdout, c.Stderr = w, w
	}
	err := c.Run()
	res := host.Result{Stdout: out.Bytes(), Stderr: errs.Bytes(), ExitCode: c.ProcessState.ExitCode()}
	return res, h.failed(cmd, err, errs.String())
}

func (h *Host) failed(cmd host.Cmd, err error, stderr string) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		return &host.Error{Host: h.Name(), Op: cmd.Name, Kind: host.KindExit, ExitCode: exit.ExitCode(), Stderr: strings.TrimSpace(stderr)}
	}
	return &host.Error{Host: h.Name(), Op: cmd.Name, Kind: host.KindSession, Err: err}
}

// Start implements host.Host.
func (h *Host) Start(_ context.Context, cmd host.Cmd) (host.Process, error) {
	c := h.command(context.Background(), cmd)
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	return &process{h: h, cmd: cmd, c: c, in: in, out: out}, nil
}

// Dial implements host.Host.
func (h *Host) Dial(context.Context, string, string) (net.Conn, error) {
	return nil, &host.Error{Host: h.Name(), Op: "dial", Kind: host.KindForward}
}

type process struct {
	h   *Host
	cmd host.Cmd
	c   *exec.Cmd
	in  io.WriteCloser
	out io.Reader
}

func (p *process) Stdin() io.WriteCloser { return p.in }
func (p *process) Stdout() io.Reader     { return p.out }
func (p *process) Wait() error           { return p.h.failed(p.cmd, p.c.Wait(), "") }
func (p *process) Close() error          { return p.in.Close() }
