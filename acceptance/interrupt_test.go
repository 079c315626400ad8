package acceptance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// An apply is killed after every step there is, again and again, each time one
// step further than before: while a cluster is made, changed and mended, and
// destroyed. Each next apply goes on where the one before was cut off; there is
// one initialisation, no acknowledged row is lost, and nothing is left behind.
// After half of the steps it is killed as if its machine died, after the others
// as by Ctrl-C; TestInterruptedSwapped has them the other way round.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	interrupted(t, 0, func(t *testing.T, k *killer, base settings) {
		t.Run("two at once, from one state", func(t *testing.T) {
			first := k.begin(t.Context(), "apply", "-replace=pgha_patroni_node."+k.others(k.leader("pg1"))[0])
			first.await(t, "patroni.")
			o := k.TryApply(t.Context())
			if o.Code == 0 {
				t.Error("the second one went on")
			}
			has(t, o, "Error acquiring the state lock")
			first.wait(t)
			k.healthy("pg1", "pg1", "pg2", "pg3")
		})
		t.Run("two at once, from two states", func(t *testing.T) { k.twoStates(t, base) })
	})
}

// The same, with each signal where the other one was.
func TestInterruptedSwapped(t *testing.T) {
	t.Parallel()
	interrupted(t, 1, nil)
}

// interrupted is the life of a cluster whose applies are killed. Other things
// happen to it before its end.
func interrupted(t *testing.T, hard uint32, others func(t *testing.T, k *killer, base settings)) {
	base := settings{Purge: true, Cluster: `synchronous_mode = "on"
  postgresql = { parameters = { work_mem = "8MB" } }`}
	s := newSite(t, labhost.Warm, base, "pg1", "pg2", "pg3")
	ctx := t.Context()
	all := []string{"pg1", "pg2", "pg3"}
	k := &killer{site: s, t: t, hard: hard, seen: map[string]bool{}}

	t.Run("create", func(t *testing.T) {
		k.t = t
		k.until(ctx, "apply")
		s.healthy("pg1", all...)
		s.NoChanges(ctx)
		if len(k.systemIDs) != 1 {
			t.Errorf("the database was initialised %d times: %v", len(k.systemIDs), k.systemIDs)
		}
		k.went(t, "host.mark", "etcd.start", "etcd.auth", "cluster.record", "cluster.config", "patroni.certificate", "patroni.form", "patroni.member")
	})

	w := s.write()
	t.Run("update", func(t *testing.T) {
		k.t, k.seen, k.late = t, map[string]bool{}, nil
		changed := base
		changed.Cluster = strings.Replace(base.Cluster, "8MB", "16MB", 1)
		changed.Etcd = "snapshot_count = 20000"
		changed.Host = `hosts_entries = { "db.example.test" = "10.9.9.9" }`
		changed.Node = `tags = { custom = { place = "here" } }`
		// Not the leader's: the writer knows that one by its old address, for which
		// the new certificate is none.
		replicas := s.others(s.leader("pg1"))
		moved := replicas[1]
		changed.Nodes = map[string]string{moved: changed.Node + fmt.Sprintf("\n  address = %q", s.lab.Host(moved).Addr6)}
		changed.Networks = []string{"samenet", "10.0.0.0/8", "fd77::/16"}
		s.configure(changed)
		s.on(replicas[0], "systemctl disable --now patroni 2>&1; rm /etc/systemd/system/patroni.service.d/pgha.conf")
		k.until(ctx, "apply")
		s.healthy("pg1", all...)
		s.NoChanges(ctx)
		k.went(t, "host.hosts", "etcd.file", "etcd.restart", "cluster.config", "patroni.certificate", "patroni.reconfigure")
		// It is not only in files.
		tags := s.on("pg1", "patronictl -c /etc/patroni/config.yml list")
		if n := strings.Count(tags, "place: here"); n != 3 {
			t.Errorf("%d members show their tag:\n%s", n, tags)
		}
		for _, h := range all {
			if got := s.sql(h, "show work_mem"); got != "16MB" {
				t.Errorf("work_mem on %s is %s", h, got)
			}
			if got := s.on(h, `tr '\0' '\n' </proc/$(pgrep -xo etcd)/environ | grep SNAPSHOT_COUNT`); got != "ETCD_SNAPSHOT_COUNT=20000" {
				t.Errorf("etcd on %s runs with %s", h, got)
			}
		}
		base = changed
	})

	if others != nil {
		others(t, k, base)
	}

	w.Check(t)
	t.Run("destroy", func(t *testing.T) {
		k.t, k.seen, k.late = t, map[string]bool{}, nil
		k.until(ctx, "destroy")
		if list := s.Resources(ctx); len(list) > 0 {
			t.Errorf("left in the state: %v", list)
		}
		for _, h := range all {
			if left := s.on(h, "find /etc/pgha /var/lib/postgresql/17/main /var/lib/etcd /etc/patroni/config.yml -mindepth 0 \\( -type f -o -path /var/lib/postgresql/17/main \\) 2>/dev/null; pgrep -x 'etcd|postgres|patroni' || true"); left != "" {
				t.Errorf("left on %s: %s", h, left)
			}
		}
		k.went(t, "patroni.stop", "patroni.forget", "patroni.purge.data", "patroni.unmark")
	})
}

// killer interrupts commands after steps.
type killer struct {
	*site
	t         *testing.T
	hard      uint32          // which half of the steps is killed after without asking: 0 or 1
	seen      map[string]bool // steps after which something was killed
	late      map[string]bool // steps that were under way when a run was killed
	systemIDs []string
}

// until runs a command until it comes to its end undisturbed: each run is
// killed after the first step after which none was killed before.
func (k *killer) until(ctx context.Context, verb string) {
	for n := 0; ; n++ {
		if n > 150 {
			k.t.Fatal("there is no end to it")
		}
		r := k.begin(ctx, verb)
		step := r.next(k.seen)
		if step != "" {
			k.seen[step] = true
			r.kill(k.signal(step))
		}
		code, text := r.end()
		if step != "" {
			k.ended(r)
		}
		k.t.Logf("%s cut off after %q: %d", verb, step, code)
		k.lookForDatabase()
		if state, err := os.ReadFile(filepath.Join(k.Path, "terraform.tfstate")); err == nil && strings.Contains(string(state), `"tainted"`) {
			k.t.Fatalf("something is tainted in the state after %q:\n%s", step, state)
		}
		if step != "" {
			continue
		}
		if code == 0 {
			return
		}
		// A lock of a run that was killed is free after half a minute.
		if !strings.Contains(text, "another apply is at work") {
			k.t.Fatalf("%s failed:\n%s", verb, text)
		}
	}
}

// ended notes the steps that a killed run still brought to their end, or in which it
// was killed: of hosts that are worked on side by side, one may be at the only step of
// its kind while the run is killed for another one's. A step that is killed right
// before it says that it is done does not come again.
func (k *killer) ended(r *running) {
	if k.late == nil {
		k.late = map[string]bool{}
	}
	for step, n := range r.open {
		if n > 0 {
			k.late[step] = true
		}
	}
	for p := range r.steps {
		if p.State == "finished" || p.State == "started" {
			k.late[p.Step] = true
		}
	}
}

// signal is what a run is killed with after a step: of two tests with different
// halves, each step has both.
func (k *killer) signal(step string) syscall.Signal {
	h := fnv.New32a()
	h.Write([]byte(step))
	if h.Sum32()>>7&1 == k.hard {
		return syscall.SIGKILL
	}
	return syscall.SIGINT
}

// lookForDatabase notes the system identifier of whoever is the primary.
func (k *killer) lookForDatabase() {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, h := range k.lab.Hosts() {
		wg.Go(func() {
			out, err := k.lab.SSH(k.site.t.Context(), h.Name, "cd /; runuser -u postgres -- psql -XAtqc 'select system_identifier from pg_control_system() where not pg_is_in_recovery()'")
			mu.Lock()
			defer mu.Unlock()
			if id := strings.TrimSpace(out); err == nil && id != "" && !slices.Contains(k.systemIDs, id) {
				k.systemIDs = append(k.systemIDs, id)
			}
		})
	}
	wg.Wait()
}

// went fails the test unless runs were killed after these steps, or while they
// ended.
func (k *killer) went(t *testing.T, steps ...string) {
	t.Helper()
	for _, s := range steps {
		if !k.seen[s] && !k.late[s] {
			t.Errorf("no run was killed after %s: %v, and while it ended: %v", s, k.seen, k.late)
		}
	}
}

// twoStates applies from a second folder that knows nothing of the first one's
// state, at the same time.
func (k *killer) twoStates(t *testing.T, base settings) {
	ctx := t.Context()
	other := &site{t: t, lab: k.lab, Dir: cli.New(t, nil, k.lab.Env()...)}
	for _, at := range []struct {
		s   *site
		mem string
	}{{k.site, "20MB"}, {other, "24MB"}} {
		c := base
		c.Cluster = strings.Replace(base.Cluster, "16MB", at.mem, 1)
		at.s.configure(c)
	}
	var wg sync.WaitGroup
	out := make([]cli.Output, 2)
	wg.Go(func() { out[0] = k.TryApply(ctx) })
	wg.Go(func() { out[1] = other.TryApply(ctx) })
	wg.Wait()
	ok := 0
	for i, o := range out {
		if o.Code == 0 {
			ok++
		} else if !o.Contains("another apply") {
			t.Errorf("%d failed for another reason:\n%s", i, o.Text)
		}
	}
	if ok == 0 {
		t.Error("both failed")
	}
	k.configure(base)
	k.Apply(ctx)
	k.healthy("pg1", "pg1", "pg2", "pg3")
	k.NoChanges(ctx)
}

// running is a command that was started.
type running struct {
	pid   int
	done  chan struct{}
	err   error
	out   bytes.Buffer
	steps chan progress
	open  map[string]int // steps that are under way, for all that next has read
}

// progress is a line of the progress file.
type progress struct{ Step, State, Host string }

// begin starts a command whose steps are followed.
func (s *site) begin(ctx context.Context, verb string, args ...string) *running {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "progress")
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		s.t.Fatal(err)
	}
	cmd := s.Cmd(ctx, append([]string{verb, "-auto-approve", "-no-color"}, args...)...)
	cmd.Env = append(cmd.Env, "PGHA_PROGRESS_FILE="+file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r := &running{done: make(chan struct{}), steps: make(chan progress, 1000), open: map[string]int{}}
	cmd.Stdout, cmd.Stderr = &r.out, &r.out
	// Opened for both, so that neither waits for the other, and kept until the
	// command has ended: what it has written is read to its end, not cut off.
	hold, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	pipe, err := os.Open(file)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	r.pid = cmd.Process.Pid
	go func() {
		defer pipe.Close()
		lines := bufio.NewScanner(pipe)
		for lines.Scan() {
			var p progress
			if json.Unmarshal(lines.Bytes(), &p) == nil {
				r.steps <- p
			}
		}
		close(r.steps)
	}()
	go func() {
		r.err = cmd.Wait()
		hold.Close()
		close(r.done)
	}()
	return r
}

// next waits for a step to be finished that was not seen before, and returns
// its name, or nothing if the command ends without one.
func (r *running) next(seen map[string]bool) string {
	for {
		select {
		case p, open := <-r.steps:
			switch {
			case !open:
				return ""
			case p.State == "started":
				r.open[p.Step]++
			case p.State == "failed":
				r.open[p.Step]--
			case p.State == "finished":
				r.open[p.Step]--
				if !seen[p.Step] {
					return p.Step
				}
			}
		case <-r.done:
			return ""
		}
	}
}

// await waits for a step whose name begins so to start, and returns its host.
func (r *running) await(t testing.TB, prefix string) string {
	t.Helper()
	for {
		select {
		case p := <-r.steps:
			if strings.HasPrefix(p.Step, prefix) {
				return p.Host
			}
		case <-r.done:
			t.Fatalf("ended before %s:\n%s", prefix, r.out.String())
		case <-time.After(2 * time.Minute):
			t.Fatalf("no %s", prefix)
		}
	}
}

// kill sends a signal: SIGKILL to the CLI and the provider, as when a machine
// dies; anything else to the CLI, as when somebody presses Ctrl-C.
func (r *running) kill(signal syscall.Signal) {
	if signal == syscall.SIGKILL {
		_ = syscall.Kill(-r.pid, signal)
		return
	}
	_ = syscall.Kill(r.pid, signal)
}

// end waits for the end and returns the exit status.
func (r *running) end() (int, string) {
	<-r.done
	var status interface{ ExitCode() int }
	if errors.As(r.err, &status) {
		return status.ExitCode(), r.out.String()
	}
	if r.err != nil {
		return -1, fmt.Sprint(r.err, "\n", r.out.String())
	}
	return 0, r.out.String()
}

func (r *running) wait(t *testing.T) {
	t.Helper()
	if code, text := r.end(); code != 0 {
		t.Errorf("ended with %d:\n%s", code, text)
	}
}
