package fakehost

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// Call is something that a process did.
type Call struct {
	At      time.Time
	Process string
	Kind    string // "host", "dial", "etcd", "patroni"
	Host    string // name of the host, or of the cluster
	Name    string // host.Cmd.Name, or the request
	Args    []string
	User    string
	// Mutating calls are meant to change something, Mutation counts those of
	// the process from 1.
	Mutating bool
	Mutation int
	Err      string // how it ended, empty if well
}

func (c Call) String() string {
	s := fmt.Sprintf("%s %s: %s %s", c.Process, c.Host, c.Name, strings.Join(c.Args, " "))
	if c.Err != "" {
		s += " (" + c.Err + ")"
	}
	return s
}

func (w *World) record(c Call, err error) {
	c.At = time.Now()
	if err != nil {
		c.Err = err.Error()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, c)
}

// Calls returns what was done so far, in order.
func (w *World) Calls() []Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

// Mutations returns what a process did that was meant to change something.
func (w *World) Mutations(process string) []Call {
	var list []Call
	for _, c := range w.Calls() {
		if c.Mutating && c.Process == process {
			list = append(list, c)
		}
	}
	return list
}

// Secret makes text known that must be in no argument, log or error.
func (w *World) Secret(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Learn(text)
}

// Learn is Secret, called as in World.Do. Of a text of several lines, such as a
// key, each long line counts.
func (w *World) Learn(text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if len(line) < 8 || strings.HasPrefix(line, "-----") || w.known[line] {
			continue
		}
		w.known[line] = true
		w.secrets = append(w.secrets, line)
	}
}

// Secrets returns all that is known to be secret.
func (w *World) Secrets() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.secrets)
}

// Leaks returns the secrets that appear in a text, shortened.
func (w *World) Leaks(text string) []string {
	var found []string
	for _, s := range w.Secrets() {
		if strings.Contains(text, s) {
			found = append(found, s[:4]+"...")
		}
	}
	return found
}

// checkArguments fails the test if a secret was on a command line, also one
// that became known only afterwards.
func (w *World) checkArguments() {
	w.TB.Helper()
	for _, c := range w.Calls() {
		if leaks := w.Leaks(strings.Join(append(c.Args, c.Name, c.User), "\n")); len(leaks) > 0 {
			w.TB.Errorf("a secret is among the arguments of %s on %s (%v)", c.Name, c.Host, leaks)
		}
	}
}

// checkOutput fails the test if a command may be logged with its output, and a secret
// is in that: as it is, or as the content of a file that a probe has asked for.
func (w *World) checkOutput(cmd host.Cmd, out []byte) {
	if cmd.Sensitive {
		return
	}
	for line := range strings.Lines(string(out)) {
		_, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		decoded, _ := base64.StdEncoding.DecodeString(value)
		if leaks := w.Leaks(line + string(decoded)); len(leaks) > 0 {
			w.TB.Errorf("a secret is in what %s answers, which may be logged (%v)", cmd.Name, leaks)
		}
	}
}

// check fails the test if a command is not as every command must be, or is of
// a name that is not modelled.
func (w *World) check(cmd host.Cmd) (operation, bool) {
	op, ok := w.ops[cmd.Name]
	switch {
	case !ok:
		w.TB.Errorf("the operation %q is not modelled", cmd.Name)
		return op, false
	case strings.TrimSpace(cmd.Script) == "":
		w.TB.Errorf("the operation %s has no script", cmd.Name)
	}
	for _, s := range w.Secrets() {
		if strings.Contains(cmd.Script, s) || slices.ContainsFunc(cmd.Args, func(a string) bool { return strings.Contains(a, s) }) {
			w.TB.Errorf("the operation %s has a secret in its script or arguments", cmd.Name)
		}
	}
	return op, true
}
