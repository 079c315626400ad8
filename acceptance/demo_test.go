package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// demo runs scripts/demo.sh as make does, in a lab and a folder of its own.
type demo struct {
	lab, dir string
	env      []string
}

func (d demo) run(ctx context.Context, t *testing.T, command string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, "scripts/demo.sh", command)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), d.env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	err := cmd.Run()
	t.Logf("demo.sh %s: %v after %s\n%s", command, err, time.Since(begin).Round(time.Second), out.String())
	if err != nil {
		t.Fatalf("demo.sh %s: %v", command, err)
	}
	return out.String()
}

// The first thing that a new user does: make demo, twice, make demo-status and
// make demo-down, on hosts that have nothing but Debian.
func TestDemo(t *testing.T) {
	turn(t)
	labtest.Need(t)
	binary := cli.Binary(t)
	d := demo{lab: fmt.Sprintf("demo-t%d", os.Getpid()), dir: filepath.Join(t.TempDir(), "demo")}
	d.env = []string{"LAB=" + d.lab, "DIR=" + d.dir, "CLI=" + binary}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		d.run(ctx, t, "down")
	})

	first := d.run(t.Context(), t, "up")
	d.check(t, first)
	if !strings.Contains(first, "Apply complete!") {
		t.Error("the first run applied nothing")
	}
	state := read(t, filepath.Join(d.dir, "quickstart", "terraform.tfstate"))

	again := d.run(t.Context(), t, "up")
	d.check(t, again)
	if !strings.Contains(again, "No changes.") || !strings.Contains(again, "0 added, 0 changed, 0 destroyed") {
		t.Error("running the demo again is not harmless")
	}
	if now := read(t, filepath.Join(d.dir, "quickstart", "terraform.tfstate")); now != state {
		t.Errorf("the second run changed the state:\n%s\n---\n%s", state, now)
	}
	if table := d.run(t.Context(), t, "status"); !tableRow.MatchString(table) {
		t.Error("make demo-status shows no table")
	}

	d.run(t.Context(), t, "down")
	if _, err := os.Stat(d.dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", d.dir, err)
	}
	left, err := exec.CommandContext(t.Context(), "go", "run", "../lab", "status", "--all").CombinedOutput()
	if err != nil || strings.Contains(string(left), d.lab) {
		t.Errorf("the lab is still there (%v):\n%s", err, left)
	}
}

// tableRow is a line of the table: name, address, role, state, timeline, lag
// and the versions of PostgreSQL and Patroni.
var tableRow = regexp.MustCompile(`(?m)^pg[123] +[\d.:]+ +(leader|replica|quorum_standby) +(running|streaming) +\d+ +(-|\d+ \w+) +17\.\d+ +[\d.]+ *$`)

func (d demo) check(t *testing.T, out string) {
	t.Helper()
	if rows := tableRow.FindAllString(out, -1); len(rows) != 3 {
		t.Errorf("the table has %d rows: %q", len(rows), rows)
	}
	for _, want := range []string{"connected to ", " psql \"", "make demo-down"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
}
