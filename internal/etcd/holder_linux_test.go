package etcd

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// Only of a process that is certainly no more a lock is taken over at once.
func TestGone(t *testing.T) {
	own := process()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	f := strings.Fields(own)
	other := func(i int, value string) string {
		g := strings.Fields(own)
		g[i] = value
		return strings.Join(g, " ")
	}
	child := strings.Join([]string{f[0], f[1], pid, started(cmd.Process.Pid)}, " ")
	for name, c := range map[string]struct {
		id   string
		want bool
	}{
		"ourselves":                {own, false},
		"another that runs":        {child, false},
		"nothing":                  {"", false},
		"half of it":               {f[0] + " " + f[1], false},
		"another machine":          {other(0, "6f1c"), false},
		"another namespace":        {other(1, "pid:[1]"), false},
		"no number":                {other(2, "x"), false},
		"a group":                  {other(2, "-1"), false},
		"its number is used again": {other(3, "1"), true},
		"init's, used again":       {strings.Join([]string{f[0], f[1], "1", "x"}, " "), started(1) != ""},
	} {
		if got := gone(c.id); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if !gone(child) {
		t.Errorf("%q is not gone, and we are %d", child, os.Getpid())
	}
}
