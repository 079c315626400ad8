package sys

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseMounts(t *testing.T) {
	const table = `/dev/vda / ext4 rw,relatime 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,name=systemd 0 0
tmpfs /home/a\040b/disk tmpfs rw,size=4k 0 0
broken
`
	got := parseMounts(table)
	want := []Mount{{Point: "/", Type: "ext4"}, {Point: "/sys/fs/cgroup/systemd", Type: "cgroup"}, {Point: "/home/a b/disk", Type: "tmpfs"}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Mount{})); diff != "" {
		t.Error(diff)
	}
	if !got[1].hasOption("name=systemd") || got[1].hasOption("name") {
		t.Error("options are not read whole")
	}
}

func TestRunSaysWhatTheCommandSaid(t *testing.T) {
	_, err := Run(t.Context(), "sh", "-c", "echo out; echo why >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "why") || ExitCode(err) != 3 {
		t.Errorf("got %v", err)
	}
}

// A build is a tree of processes; a cancelled one must not go on in the
// background, nor keep us waiting for a pipe that a grandchild holds.
func TestRunEndsTheWholeGroup(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	pidFile := filepath.Join(t.TempDir(), "pid")
	why := errors.New("enough")
	go func() {
		for {
			if b, _ := os.ReadFile(pidFile); strings.HasSuffix(string(b), "\n") {
				cancel(why)
				return
			}
			if Pause(ctx, time.Millisecond) != nil {
				return
			}
		}
	}()
	_, err := Run(ctx, "sh", "-c", `sh -c 'echo $$ > "$0"; while :; do :; done' "$0" & wait`, pidFile)
	if !errors.Is(err, why) {
		t.Errorf("got %v, want the reason of the cancellation", err)
	}
	b, _ := os.ReadFile(pidFile)
	stat := filepath.Join("/proc", strings.TrimSpace(string(b)), "stat")
	for {
		s, err := os.ReadFile(stat)
		if err != nil || strings.Contains(string(s), ") Z") {
			return
		}
		if err := Pause(t.Context(), time.Millisecond); err != nil {
			t.Fatal("the grandchild lives on")
		}
	}
}

func TestLockIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "lock")
	release, err := Lock(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var holder string
	_, err = Lock(ctx, path, func(h string) { holder = h; cancel() })
	if !errors.Is(err, context.Canceled) || !strings.HasPrefix(holder, "process ") {
		t.Errorf("a second lock: %v, holder %q", err, holder)
	}
	release()
	again, err := Lock(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// Whoever removes a lab removes its lock too, while others wait for it.
func TestLockSurvivesItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var held atomic.Int32
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() {
			for range 5 {
				release, err := Lock(t.Context(), path, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if held.Add(1) != 1 {
					t.Error("two hold the lock")
				}
				held.Add(-1)
				_ = os.Remove(path)
				release()
			}
		})
	}
	g.Wait()
}

func TestWriteFileLeavesNoScraps(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, text := range []string{"one", "two"} {
		if err := WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, _ := os.ReadFile(path)
	st, _ := os.Stat(path)
	entries, _ := os.ReadDir(dir)
	if string(b) != "two" || st.Mode().Perm() != 0o600 || len(entries) != 1 {
		t.Errorf("%q, %v, %d files", b, st.Mode(), len(entries))
	}
}

// What runs in a group with a quota gets that much of a processor, what it starts later too,
// and nothing is left of the group when it is removed.
func TestQuota(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	g := Group("pgha-lab-test/quota")
	dir, err := g.Open()
	if err != nil {
		t.Skip(err)
	}
	defer dir.Close()
	remove := func() {
		for _, g := range []Group{g, "pgha-lab-test"} {
			if err := errors.Join(g.Kill(context.Background()), g.Remove(context.Background())); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(remove)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "while :; do sh -c 'i=0; while test $i -lt 10000; do i=$((i + 1)); done'; done")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.Quota(t.Context(), 0.2); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := Pause(t.Context(), 2*time.Second); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if share := used.Seconds() / took.Seconds(); share > 0.3 || share < 0.05 {
		t.Errorf("it has had %.2f of a processor", share)
	}
	remove()
	if left, err := Group("pgha-lab-test").Children(); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
