// Package labtest brings up labs for tests.
package labtest

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// New brings up a lab for a test, and removes it when the test is done. With
// no name given, the lab has one of its own, so tests may run in parallel, in
// one package or in several. The test is skipped with -short and where there
// can be no lab (elsewhere than on Linux, or not as root).
//
// If the test fails, what the hosts logged last is in its output, and all of it in
// files. With PGHA_LAB_KEEP in the environment the lab of a failed test stays, to be
// looked at ("lab status --all"); the next test that uses this function removes it.
func New(t testing.TB, o labhost.Options) *labhost.Lab {
	t.Helper()
	Need(t)
	if o.Name == "" {
		o.Name = name(t.Name())
	}
	o.Ephemeral = true
	o.Progress = t.Output()
	if err := labhost.DownAbandoned(t.Context(), o); err != nil {
		t.Logf("an abandoned lab could not be removed: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("PGHA_LAB_KEEP") != "" {
			t.Logf("lab %s stays (PGHA_LAB_KEEP)", o.Name)
			return
		}
		// The test's context has ended by now.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := labhost.Down(ctx, o); err != nil {
			t.Error(err)
		}
	})
	l, err := labhost.Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logHosts(t, l)
		}
	})
	return l
}

// Need skips a test where there can be no lab.
func Need(t testing.TB) {
	t.Helper()
	switch {
	case testing.Short():
		t.Skip("brings up a lab; not with -short")
	case runtime.GOOS != "linux" || os.Geteuid() != 0:
		t.Skip("SKIPPED: brings up a lab, which only root on Linux can")
	}
}

var odd = regexp.MustCompile(`[^a-z0-9]+`)

// name makes the name of a lab of that of a test. Two runs of one test may be
// going on at once, and two tests' names may differ at the end only.
func name(test string) string {
	h := fnv.New32a()
	h.Write([]byte(test))
	unique := fmt.Sprintf("t%d-%04x-", os.Getpid(), h.Sum32()&0xffff)
	s := strings.Trim(odd.ReplaceAllString(strings.ToLower(strings.TrimPrefix(test, "Test")), "-"), "-")
	return strings.Trim(unique+s[:min(len(s), 32-len(unique))], "-")
}

// saidLast prints what a host's services said, without the noise of logins.
const saidLast = `systemctl --failed --no-legend --plain
journalctl --no-pager -q -n 2000 -o short-precise |
	grep -vE ' (sshd(-session)?|runuser|sudo|systemd-logind|dbus-daemon)\[|request stats|took too long|dropped internal Raft|timedated'`

// logHosts puts the last of what the hosts said into the test's output, a few lines
// each so that a report of a whole run still shows what the test itself found, and
// all of it into files.
func logHosts(t testing.TB, l *labhost.Lab) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	dir := filepath.Join(os.TempDir(), "pgha-lab-failed", l.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Log(err)
	}
	t.Logf("what the hosts said is in %s", dir)
	for _, h := range l.Hosts() {
		out, err := l.SSH(ctx, h.Name, saidLast)
		if err != nil {
			out += "\n" + err.Error()
		}
		if err := os.WriteFile(filepath.Join(dir, h.Name+".log"), []byte(out), 0o644); err != nil {
			t.Log(err)
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		lines = lines[max(0, len(lines)-4):]
		for i, line := range lines {
			lines[i] = line[:min(len(line), 160)]
		}
		t.Logf("---- host %s:\n%s", h.Name, strings.Join(lines, "\n"))
	}
}
