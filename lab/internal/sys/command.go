package sys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Command is one command to run on this machine.
type Command struct {
	Args  []string
	Stdin string
	Env   []string // added to this process's environment
	// Log receives everything the command prints, besides what Run returns.
	// A build's log is too long for an error and too useful to lose.
	Log io.Writer
	// Group, if not empty, is a control group that the command and all it
	// starts live in, so that they can be ended together even after this
	// process was killed.
	Group Group
}

// Run runs a command with arguments and returns its standard output.
func Run(ctx context.Context, args ...string) (string, error) {
	return Command{Args: args}.Run(ctx)
}

// Run runs the command to its end and returns its standard output. When ctx
// ends, the command's whole process group is killed. The error names the
// command and carries the last lines it printed.
func (c Command) Run(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if c.Log != nil {
		cmd.Stdout, cmd.Stderr = io.MultiWriter(&stdout, c.Log), io.MultiWriter(&stderr, c.Log)
	}
	if c.Stdin != "" {
		cmd.Stdin = strings.NewReader(c.Stdin)
	}
	// The C locale, since some output is parsed.
	cmd.Env = append(append(os.Environ(), "LC_ALL=C.UTF-8"), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.Group != "" {
		dir, err := c.Group.Open()
		if err != nil {
			return "", err
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A grandchild that keeps the pipes open must not keep us waiting.
	cmd.WaitDelay = 5 * time.Second

	err := cmd.Run()
	if err == nil {
		return stdout.String(), nil
	}
	if ctx.Err() != nil {
		return stdout.String(), fmt.Errorf("%s: %w", c.Args[0], context.Cause(ctx))
	}
	said := tail(stderr.String(), 12)
	if said == "" {
		said = tail(stdout.String(), 12)
	}
	if said == "" {
		return stdout.String(), fmt.Errorf("%s: %w", strings.Join(c.Args, " "), err)
	}
	return stdout.String(), fmt.Errorf("%s: %w:\n%s", strings.Join(c.Args, " "), err, said)
}

// ExitCode returns the exit status in err, or -1 if err holds none.
func ExitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// tail returns the last n lines of s, without blank ones at the end.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
