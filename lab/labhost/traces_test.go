package labhost_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/lab/internal/plan"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// leavesNothing checks that down leaves nothing of a lab on this machine. Other
// labs may be there at the same time, so it looks for what is the lab's by its
// name.
func leavesNothing(t *testing.T, l *labhost.Lab, down func() error) {
	t.Helper()
	before := traces(t, l)
	pids := processes(l)
	if err := down(); err != nil {
		t.Fatal(err)
	}
	for what := range before {
		t.Logf("before: %s", what)
	}
	if after := traces(t, l); len(after) > 0 {
		t.Errorf("the lab left: %v", after)
	}
	for pid, command := range pids {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && string(b) == command {
			t.Errorf("the lab left process %d: %q", pid, command)
		}
	}
	if after := processes(l); len(after) > 0 {
		t.Errorf("the lab left processes: %v", after)
	}
}

// processes returns the lab's processes, zombies too: those in its control
// group, and whoever names its folder.
func processes(l *labhost.Lab) map[int]string {
	found := map[int]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		group, _ := os.ReadFile(filepath.Join(d, "cgroup"))
		command, _ := os.ReadFile(filepath.Join(d, "cmdline"))
		if bytes.Contains(group, []byte("/"+l.Group()+"/")) || bytes.Contains(command, []byte(l.Dir+"/")) {
			found[pid] = string(command)
		}
	}
	return found
}

// traces returns what else there is of a lab.
func traces(t *testing.T, l *labhost.Lab) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	note := func(what, text string, mark ...string) {
		for line := range strings.Lines(text) {
			for _, m := range mark {
				if strings.Contains(line, m) {
					found[what+": "+strings.TrimSpace(line)] = true
				}
			}
		}
	}
	command := func(args ...string) string {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		return string(out)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	prefix4, _, _ := strings.Cut(l.RunnerAddr, ".0.1")
	prefix6, _, _ := strings.Cut(l.RunnerAddr6, "::1")
	note("mount", string(mounts), l.Dir+"/", plan.Namespace(l.Name))
	note("interface", command("ip", "-o", "address"), plan.Uplink(l.Name), prefix4+".", prefix6)
	note("interface", command("ip", "-o", "link"), plan.Uplink(l.Name)+"@", "vb-"+strings.ReplaceAll(prefix4, ".", "-")+"-")
	note("route", command("ip", "route", "show", "table", "all"), prefix4+".")
	note("route", command("ip", "-6", "route", "show", "table", "all"), prefix6)
	note("namespace", command("ip", "netns", "list"), plan.Namespace(l.Name))
	note("rule", command("nft", "list", "ruleset"), prefix4+".", prefix6)
	for _, pattern := range []string{
		"/sys/fs/cgroup/*/" + l.Group(), "/sys/fs/cgroup/" + l.Group(), l.Dir,
		"/run/netns/" + plan.Namespace(l.Name), "/run/systemd/nspawn/*/*" + strings.ReplaceAll(prefix4, ".", "-") + "-*",
	} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			found["file: "+f] = true
		}
	}
	return found
}
