package acceptance

import (
	"fmt"
	"strings"
	"sync"
	"testing"

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
	turn(t)
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
	turn(t)
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
	k.after = k.lookForDatabase

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
