package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// TestMain lets this test binary serve as the command itself, to be killed.
func TestMain(m *testing.M) {
	if os.Getenv("PGHA_LAB_TEST_COMMAND") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func find(name string) command {
	for _, c := range commands {
		if c.name == name {
			return c
		}
	}
	panic(name)
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		command string
		args    string
		want    input
	}{
		{"up", "dc1=pg1 --image warm dc2=pg2 --bastion dc2 --release bookworm --name x --net 10.99 --disk 1G", input{
			options: labhost.Options{Name: "x", Image: "warm", Release: "bookworm", Bastions: []string{"dc2"}, Net: "10.99", DiskSize: "1G"},
			args:    []string{"dc1=pg1", "dc2=pg2"},
		}},
		{"up", "", input{options: labhost.Options{Name: "demo"}}},
		{"partition", "pg1 --from-runner", input{options: labhost.Options{Name: "demo"}, args: []string{"pg1"}, fromRunner: true}},
		{"down", "--all", input{options: labhost.Options{Name: "demo"}, all: true}},
		// A command's own flags are the host's business.
		{"ssh", "--name x pg1 ls --all -l", input{options: labhost.Options{Name: "x"}, args: []string{"pg1", "ls", "--all", "-l"}}},
		{"latency", "dc1 30ms 5ms", input{options: labhost.Options{Name: "demo"}, args: []string{"dc1", "30ms", "5ms"}}},
	} {
		in, err := find(c.command).parse(strings.Fields(c.args), nil, nil)
		if err != nil {
			t.Errorf("lab %s %s: %v", c.command, c.args, err)
			continue
		}
		if diff := cmp.Diff(c.want, *in, cmp.AllowUnexported(input{})); diff != "" {
			t.Errorf("lab %s %s: %s", c.command, c.args, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for args, problem := range map[string]string{
		"kill":                "too few",
		"ssh":                 "too few",
		"latency dc1":         "too few",
		"latency dc1 1ms 1 2": "too many",
		"down --force":        "not defined",
		"down pg1":            "too many",
		"frobnicate":          "no command",
		"up pg1":              "is not a datacenter",
		"up --disk lots":      "not the size of a disk",
		"up --image hot":      "no image",
		"down --name ../..":   "not a name for a lab",
	} {
		err := run(t.Context(), strings.Fields(args), &bytes.Buffer{}, &bytes.Buffer{})
		if err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("lab %s: %v, want an error with %q", args, err, problem)
		}
	}
}

// Whatever is cut off half-way, down removes, and up completes.
func TestKilledUp(t *testing.T) {
	labtest.Need(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	lab := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), self, append([]string{args[0], "--name", "killed-up"}, args[1:]...)...)
		cmd.Env = append(os.Environ(), "PGHA_LAB_TEST_COMMAND=1")
		return cmd
	}
	must := func(cmd *exec.Cmd) string {
		t.Helper()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("lab %v: %v: %s", cmd.Args[1:], err, out)
		}
		return string(out)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "pgha-lab", "labs", "killed-up")
	o := labhost.Options{Name: "killed-up"}
	t.Cleanup(func() { _ = labhost.Down(context.Background(), o) })
	must(lab("down"))
	must(lab("build")) // which would otherwise be what is killed

	for _, c := range []struct {
		when   string
		signal syscall.Signal
		so     func() bool
	}{
		{"as soon as it has a state", syscall.SIGKILL, func() bool { return exists(dir + "/lab.json") }},
		{"while it makes disks", syscall.SIGKILL, func() bool { return exists(dir + "/hosts/pg1/root/etc/hostname") }},
		{"while hosts boot", syscall.SIGKILL, func() bool { return exists(dir + "/hosts/pg2/console.log") }},
		{"while hosts boot, politely", syscall.SIGTERM, func() bool { return exists(dir + "/hosts/pg2/console.log") }},
	} {
		for _, next := range []string{"down", "up"} {
			t.Run(c.when+", then "+next, func(t *testing.T) {
				cmd := lab("up", "dc1=pg1,pg2")
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				for !c.so() {
					if err := sys.Pause(t.Context(), time.Millisecond); err != nil {
						t.Fatal(err)
					}
				}
				if err := cmd.Process.Signal(c.signal); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait()
				if next == "up" {
					must(lab("up"))
					if out := must(lab("status")); strings.Count(out, "running") != 2 {
						t.Errorf("not all hosts run:\n%s", out)
					}
					if out := must(lab("ssh", "pg2", "hostname")); out != "pg2\n" {
						t.Errorf("pg2 says %q", out)
					}
				}
				must(lab("down"))
				mounts, _ := os.ReadFile("/proc/mounts")
				if exists(dir) || exists("/run/netns/pgha-killed-up") || bytes.Contains(mounts, []byte("killed-up")) {
					t.Error("something of the lab is left")
				}
				if s, _ := sys.Group("pgha-lab/killed-up").State(); s.Populated {
					t.Error("processes of the lab are left")
				}
			})
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
