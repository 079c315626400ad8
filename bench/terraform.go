package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// module is a root module in a folder of its own, in which the real CLI runs
// with the provider built from this tree.
type module struct {
	dir, cli string
	env      []string
}

// newModule makes an empty one. Env is added to the environment of its commands.
func (s *suite) newModule(env ...string) (*module, error) {
	dir, err := os.MkdirTemp(s.dir, "module-")
	if err != nil {
		return nil, err
	}
	rc := filepath.Join(s.dir, "cli.tfrc")
	text := fmt.Sprintf("provider_installation {\n  dev_overrides { \"pgha/pgha\" = %q }\n  direct {}\n}\n", filepath.Dir(s.provider))
	if err := os.WriteFile(rc, []byte(text), 0o600); err != nil {
		return nil, err
	}
	env = append(env, "TF_CLI_CONFIG_FILE="+rc, "TF_IN_AUTOMATION=1", "TF_INPUT=0", "CHECKPOINT_DISABLE=1")
	return &module{dir: dir, cli: s.cli, env: append(os.Environ(), env...)}, nil
}

// copyFrom takes the .tf files of a folder over.
func (m *module) copyFrom(folder string) error {
	paths, err := filepath.Glob(filepath.Join(folder, "*.tf"))
	if err != nil {
		return err
	}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if err := m.write(filepath.Base(p), string(text)); err != nil {
			return err
		}
	}
	return nil
}

func (m *module) write(name, text string) error {
	return os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o600)
}

func (m *module) writeJSON(name string, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return m.write(name, string(b))
}

// apply is the arguments of an apply.
var apply = []string{"apply", "-auto-approve", "-no-color"}

// plan plans, and returns how long that took. A plan that is not empty is an
// error. It goes by the words: -detailed-exitcode also counts what is no change
// for anybody, if the plan is only to refresh.
func (m *module) plan(ctx context.Context, args ...string) (time.Duration, error) {
	took, out, err := m.run(ctx, append([]string{"plan", "-no-color"}, args...)...)
	if err == nil && !strings.Contains(out, "\nNo changes.") {
		err = fmt.Errorf("the plan is not empty:\n%s", out)
	}
	return took, err
}

func (m *module) run(ctx context.Context, args ...string) (time.Duration, string, error) {
	return timed(m.command(ctx, args...))
}

func (m *module) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, m.cli, args...)
	cmd.Dir, cmd.Env = m.dir, m.env
	return cmd
}

// timed runs a command to its end, and returns how long it took and what it
// printed. When its context ends it is interrupted, and gets time to clean up.
// The error of one that failed holds the end of what it printed.
func timed(cmd *exec.Cmd) (time.Duration, string, error) {
	// In a group of its own, or Ctrl-C would reach it twice: by the terminal
	// and by us. Terraform gives up at once then.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(begin)
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		lines = lines[max(0, len(lines)-40):]
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, strings.Join(lines, "\n"))
	}
	return took, string(out), err
}
