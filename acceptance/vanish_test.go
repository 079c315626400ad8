package acceptance

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// What holds a lock goes away in the middle: its process dies, its network dies
// with it so that the host is not even told, or it stops where it stands. The
// next apply waits no longer than the lock lives by itself: 20 s on a host, 30 s
// in etcd, and for a process of the same machine that is gone not at all.
func TestVanished(t *testing.T) {
	turn(t)
	base := settings{Purge: true, Cluster: `postgresql = { parameters = { work_mem = "8MB" } }`}
	s := newSite(t, labhost.Warm, base, "pg1")
	ctx := t.Context()
	s.Apply(ctx)
	s.healthy("pg1", "pg1")
	begin := time.Now()
	s.Apply(ctx)
	nothing := time.Since(begin) // what an apply takes that has nothing to do
	work := 0
	// changed makes a configuration that differs from the last in one place.
	changed := func(where *string, format string) {
		work++
		*where = fmt.Sprintf(format, work)
		s.configure(base)
	}
	// through applies, and fails the test if that takes much longer than a lock
	// and the work.
	through := func(t *testing.T, s *site, lock time.Duration) {
		t.Helper()
		begin := time.Now()
		o := s.TryApply(ctx)
		took := time.Since(begin)
		if o.Code != 0 {
			t.Errorf("the next apply failed:\n%s", o.Text)
		}
		t.Logf("the next apply took %s, and one without a change %s", took.Round(100*time.Millisecond), nothing.Round(100*time.Millisecond))
		if limit := lock + 3*nothing + 20*time.Second; took > limit {
			t.Errorf("the next apply took %s, more than %s", took, limit)
		}
	}
	const parameter = `postgresql = { parameters = { work_mem = "1%dMB" } }`
	const tag = `tags = { custom = { n = "%d" } }`
	const count = `snapshot_count = 2%d000`

	t.Run("the process, with the cluster's lock", func(t *testing.T) {
		changed(&base.Cluster, parameter)
		r := s.begin(ctx, "apply")
		r.await(t, "cluster.config")
		r.stop(t)
		if s.etcdctl("pg1", "get --keys-only /pgha/patroni/service/main/lock") == "" {
			t.Fatal("the lock is not held")
		}
		r.kill(syscall.SIGKILL)
		r.end()
		through(t, s, 0)
	})

	for _, c := range []struct {
		name, step string
		change     func()
	}{
		{"a node's host", "patroni.reconfigure", func() { changed(&base.Node, tag) }},
		{"the hosts of etcd", "etcd.restart", func() { changed(&base.Etcd, count) }},
	} {
		t.Run("the network, with the lock on "+c.name, func(t *testing.T) {
			c.change()
			r := s.begin(ctx, "apply")
			r.await(t, c.step)
			r.stop(t)
			s.silence(t)
			r.kill(syscall.SIGKILL)
			r.end()
			if held := s.on("pg1", "ls /run/lock/pgha/*.holder 2>/dev/null | wc -l"); held == "0" {
				t.Fatal("the host has noticed, and holds no lock any more")
			}
			through(t, s, 20*time.Second)
		})
	}

	t.Run("a process that stands still", func(t *testing.T) {
		changed(&base.Cluster, parameter)
		first := s.begin(ctx, "apply")
		first.await(t, "cluster.config")
		first.stop(t)
		other := &site{t: s.t, lab: s.lab, Dir: cli.New(t, nil, s.lab.Env()...)}
		// It is told who has it, if it does not wait.
		hurried := base
		hurried.Cluster += "\n  timeouts { create = \"12s\" }"
		other.configure(hurried)
		o := other.TryApply(ctx)
		if o.Code == 0 {
			t.Error("an apply went on beside the one that stands still")
		}
		has(t, o, "another apply is at work: changing the cluster main, from ")
		other.configure(base)
		through(t, other, 30*time.Second)
		if err := syscall.Kill(-first.pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		// It fails, of the lock or of what it was at, or had done all there was
		// to do.
		if code, text := first.end(); code != 0 && !strings.Contains(text, "Unable to update Patroni cluster main") {
			t.Errorf("the first one ended with %d:\n%s", code, text)
		}
	})

	s.Apply(ctx)
	s.NoChanges(ctx)
	if got := s.sql("pg1", "show work_mem"); got != fmt.Sprintf("1%dMB", work) {
		t.Errorf("work_mem is %s", got)
	}
	if o := s.Run(ctx, "show", "-json"); strings.Contains(o.Text, "tainted") {
		t.Errorf("something is tainted:\n%s", o.Text)
	}

	t.Run("a create that failed", func(t *testing.T) {
		s.Destroy(ctx)
		r := s.begin(ctx, "apply")
		r.await(t, "patroni.form")
		r.stop(t)
		s.silence(t)
		r.kill(syscall.SIGKILL)
		r.end()
		if o := s.Run(ctx, "show", "-json"); strings.Contains(o.Text, "tainted") || strings.Contains(o.Text, `"pgha_patroni_node.pg1"`) {
			t.Errorf("the node is in the state:\n%s", o.Text)
		}
		through(t, s, 30*time.Second)
		s.NoChanges(ctx)
	})
	s.Destroy(ctx)
}

// stop has the CLI and the provider stand still.
func (r *running) stop(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(-r.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// silence drops all packets of the connections that are open between this
// machine and the lab's hosts. Neither end is told; new ones are not concerned.
func (s *site) silence(t *testing.T) {
	t.Helper()
	prefix := s.lab.RunnerAddr[:strings.LastIndex(s.lab.RunnerAddr, ".0.")] + ".0.0/16"
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "ss", "-Htn", "dst", prefix).Output()
	if err != nil {
		t.Fatal(err)
	}
	var ports []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 3 {
			ports = append(ports, f[3][strings.LastIndexByte(f[3], ':')+1:])
		}
	}
	if len(ports) == 0 {
		t.Fatal("no connection is open")
	}
	set := "{ " + strings.Join(ports, ", ") + " }"
	for _, rule := range []string{"tcp sport " + set + " drop", "tcp dport " + set + " drop"} {
		if out, err := exec.CommandContext(t.Context(), "ip", "netns", "exec", "pgha-"+s.lab.Name, "nft", "insert rule inet lab forward "+rule).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}
