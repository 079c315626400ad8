package acceptance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
)

// killer interrupts commands after steps, and in the middle of some.
type killer struct {
	*site
	t         *testing.T
	hard      uint32          // which half of the steps is killed after without asking: 0 or 1
	skip      string          // steps whose names begin so are not killed after
	only      []string        // if any are given, a run is killed there and nowhere else
	inside    []string        // steps in the middle of which a run is killed, too, without asking
	depth     int             // how often in each of them, each time further in; once if zero
	after     func(at string) // looks at things after each run, which was killed there
	seen      map[string]bool // steps after which something was killed, and "in STEP", "further in STEP"
	late      map[string]bool // steps that were under way when a run was killed
	systemIDs []string
}

// exhaustive asks for everything that can be killed to be killed.
func exhaustive() bool { return os.Getenv("PGHA_EXHAUSTIVE") != "" }

// sweeper kills applies of a site whose writer notices nothing of that.
func sweeper(s *site, w *writer.Writer, inside ...string) *killer {
	k := &killer{site: s, inside: inside, skip: "host."} // those are TestInterrupted's
	failed := w.Failed()
	k.after = func(at string) {
		k.t.Helper()
		if n := w.Failed() - failed; n > 0 {
			k.t.Fatalf("%d writes failed by the time that an apply was killed at %q", n, at)
		}
	}
	return k
}

// alone are an apply's arguments for etcd's resource and nothing else: what it does
// is killed in a fraction of the time that all of the configuration takes.
func alone(refreshed bool) []string {
	if refreshed {
		return []string{"-target=pgha_etcd_cluster.dcs"}
	}
	return []string{"-refresh=false", "-target=pgha_etcd_cluster.dcs"}
}

// few has runs killed at these steps only, unless all are asked for: where each that is
// killed costs the next one most of a minute.
func (k *killer) few(steps ...string) {
	k.only = steps
	if exhaustive() {
		k.only = nil
	}
}

// sweep brings a command to its end as until does, and says what it took.
func (k *killer) sweep(t *testing.T, verb string, args ...string) {
	t.Helper()
	k.t, k.seen, k.late, k.depth = t, map[string]bool{}, nil, 1
	if exhaustive() {
		k.depth = 3
	}
	begin := time.Now()
	k.until(t.Context(), verb, args...)
	t.Logf("%d runs were killed in %s: %s", len(k.seen), time.Since(begin).Round(time.Second), strings.Join(slices.Sorted(maps.Keys(k.seen)), ", "))
}

// until runs a command until it comes to its end undisturbed: each run is
// killed after the first step after which none was killed before, or in it.
func (k *killer) until(ctx context.Context, verb string, args ...string) {
	k.t.Helper()
	for n := 0; ; n++ {
		if n > 150 {
			k.t.Fatal("there is no end to it")
		}
		begin := time.Now()
		r := k.begin(ctx, verb, args...)
		step := r.next(k.due)
		if step != "" {
			k.seen[step] = true
			if in := strings.Count(step, "further "); in > 0 {
				time.Sleep(time.Duration(in) * 700 * time.Millisecond) // wherever that is: it is a moment
			}
			r.kill(k.signal(step))
		}
		code, text := r.end()
		if step != "" {
			k.ended(r)
		}
		k.t.Logf("%s cut off after %q: %d, %s", verb, step, code, time.Since(begin).Round(100*time.Millisecond))
		if k.after != nil {
			k.after(step)
		}
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

// kinds are the steps after which runs were killed, or while they ended, in the last
// sweep.
func (k *killer) kinds() []string {
	return slices.Concat(slices.Collect(maps.Keys(k.seen)), slices.Collect(maps.Keys(k.late)))
}

// due says whether a run is to be killed now: after a step, or in one.
func (k *killer) due(p progress) (mark string, due bool) {
	mark, due = k.mark(p)
	return mark, due && (k.only == nil || slices.Contains(k.only, mark))
}

// mark is where a run is now, and whether none was killed there before.
func (k *killer) mark(p progress) (mark string, fresh bool) {
	switch {
	case k.skip != "" && strings.HasPrefix(p.Step, k.skip):
	case p.State == "finished":
		return p.Step, !k.seen[p.Step]
	case p.State == "started" && slices.Contains(k.inside, p.Step):
		for n := range max(k.depth, 1) {
			if mark = strings.Repeat("further ", n) + "in " + p.Step; !k.seen[mark] {
				return mark, true
			}
		}
	}
	return "", false
}

// signal is what a run is killed with after a step: of two tests with different
// halves, each step has both. In the middle of one it is killed without asking.
func (k *killer) signal(step string) syscall.Signal {
	if strings.Contains(step, "in ") {
		return syscall.SIGKILL
	}
	h := fnv.New32a()
	h.Write([]byte(step))
	if h.Sum32()>>7&1 == k.hard {
		return syscall.SIGKILL
	}
	return syscall.SIGINT
}

// lookForDatabase notes the system identifier of whoever is the primary.
func (k *killer) lookForDatabase(string) {
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

// next waits for something to be due in the progress, and returns what, or nothing
// if the command ends without it.
func (r *running) next(due func(progress) (string, bool)) string {
	for {
		select {
		case p, open := <-r.steps:
			if !open {
				return ""
			}
			switch p.State {
			case "started":
				r.open[p.Step]++
			case "finished", "failed":
				r.open[p.Step]--
			}
			if mark, now := due(p); now {
				return mark
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

// cutIn kills an apply in the middle of a step, as if the machine died.
func (s *site) cutIn(step string) {
	s.t.Helper()
	r := s.begin(s.t.Context(), "apply")
	r.await(s.t, step)
	r.kill(syscall.SIGKILL)
	if code, text := r.end(); code == 0 {
		s.t.Errorf("killed in %s, the apply went through:\n%s", step, text)
	}
}
