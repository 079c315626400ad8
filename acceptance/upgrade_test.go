package acceptance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// staged is a site whose nodes are brought to other versions while rows are written.
type staged struct {
	*site
	base     settings
	all      []string
	w        *writer.Writer
	old, new pins
}

func newStaged(t *testing.T, cluster string, hosts ...string) *staged {
	u := &staged{all: hosts}
	u.base = settings{Purge: true, Cluster: cluster}
	u.site = newSite(t, labhost.Warm, u.base, hosts...)
	u.make(t)
	return u
}

// make applies the configuration with the oldest versions, and begins to write.
func (u *staged) make(t *testing.T) {
	u.old = pins{u.oldest("postgresql-17"), u.oldest("patroni")}
	u.new = pins{u.newest("postgresql-17"), u.newest("patroni")}
	u.Apply(t.Context())
	u.healthy(u.all[0], u.all...)
	u.w = u.write()
}

// to writes the configuration with other versions of all nodes.
func (u *staged) to(v pins) {
	u.base.Postgres, u.base.Patroni, u.base.Canary = v.Postgres, v.Patroni, nil
	u.configure(u.base)
}

// runs are the versions that really run on a host.
func (u *staged) runs(h string) (v pins) {
	u.t.Helper()
	v.Postgres, _, _ = strings.Cut(u.sql(h, "show server_version"), " ")
	v.Patroni = u.on(h, `python3 -c 'import json, ssl, urllib.request as u; print(json.load(u.urlopen("https://127.0.0.1:8008/patroni", context=ssl._create_unverified_context()))["patroni"]["version"])'`)
	return v
}

// started is when PostgreSQL was started, by host: of all unless some are named.
func (u *staged) started(hosts ...string) map[string]string {
	u.t.Helper()
	if len(hosts) == 0 {
		hosts = u.all
	}
	at := map[string]string{}
	for _, h := range hosts {
		at[h] = u.sql(h, "select pg_postmaster_start_time()")
	}
	return at
}

// unrestarted fails the test if a server was started since, and tells what was said
// meanwhile.
func (u *staged) unrestarted(t *testing.T, since map[string]string) {
	t.Helper()
	for h, now := range u.started() {
		if now == since[h] {
			continue
		}
		said := u.on(h, "journalctl --no-pager -q -o short-precise -u patroni --since=-5m | grep -vE 'no action. I am|left-over process|This usually| patroni.[0-9]+.:   ' | tail -n 60 | cut -c 8-300")
		t.Errorf("PostgreSQL was restarted on %s, at %s, and before at %s:\n%s", h, now, since[h], said)
	}
}

// check looks at what runs on all hosts.
func (u *staged) check(t *testing.T, want pins) {
	t.Helper()
	u.healthy(u.all[0], u.all...)
	for _, h := range u.all {
		if have := u.runs(h); have != want {
			t.Errorf("%s runs %v, and not %v", h, have, want)
		}
		if n := u.on(h, "systemctl show -p NRestarts --value patroni"); n != "0" {
			t.Errorf("systemd has restarted Patroni on %s %s times", h, n)
		}
		if held := u.on(h, "apt-mark showhold"); !strings.Contains(held, "postgresql-17\n") || !strings.Contains(held, "patroni") {
			t.Errorf("on %s only these are held: %s", h, held)
		}
	}
	u.NoChanges(t.Context())
}

// switchovers is how often the leader has changed so far.
func (u *staged) switchovers() int {
	return strings.Count(u.on(u.all[0], "patronictl -c /etc/patroni/config.yml history -f tsv"), "\n")
}

// Three nodes are brought to other versions of PostgreSQL and Patroni, and back,
// while rows are written: one switchover for each, and no acknowledged row is lost.
func TestUpgrade(t *testing.T) {
	turn(t)
	u := newStaged(t, `rollout = { patience = "40s" }`, "pg1", "pg2", "pg3")
	ctx := t.Context()
	for _, step := range []struct {
		name        string
		to          pins
		switchovers int
	}{
		{"PostgreSQL", pins{u.new.Postgres, u.old.Patroni}, 1},
		{"Patroni alone", u.new, 0},
		{"Patroni and back", pins{u.new.Postgres, u.old.Patroni}, 0},
		{"PostgreSQL and back", u.old, 1},
	} {
		t.Run(step.name, func(t *testing.T) {
			before, broken := u.switchovers(), u.w.Broken()
			started := u.started()
			u.to(step.to)
			if plan := u.Plan(ctx); step.switchovers == 1 {
				has(t, plan, u.leader("pg1")+": switch over to a replica", "restart Patroni and PostgreSQL")
			} else {
				has(t, plan, "restart Patroni, while PostgreSQL goes on running")
			}
			begin := time.Now()
			u.Apply(ctx)
			t.Logf("applied in %s; %d transactions failed, longest gap %s", time.Since(begin).Round(100*time.Millisecond), u.w.Broken()-broken, u.w.TakeGap())
			if n := u.w.Broken() - broken; n > step.switchovers {
				t.Errorf("%d transactions failed", n)
			}
			u.check(t, step.to)
			if n := u.switchovers() - before; n != step.switchovers {
				t.Errorf("%d switchovers, and not %d", n, step.switchovers)
			}
			if step.switchovers == 0 {
				u.unrestarted(t, started)
			}
		})
	}
	u.w.Check(t)
}

// fromTwo brings the nodes to other versions by applies from two states at once, with
// these values of -parallelism.
func (u *staged) fromTwo(t *testing.T, to pins, parallelism ...int) {
	t.Helper()
	ctx := t.Context()
	out := make([]cli.Output, len(parallelism))
	var wg sync.WaitGroup
	u.to(to)
	for i, n := range parallelism {
		one := u.site
		if i > 0 {
			one = &site{t: t, lab: u.lab, Dir: cli.New(t, nil, u.lab.Env()...)}
			one.configure(u.base)
		}
		wg.Go(func() { out[i] = one.TryApply(ctx, fmt.Sprintf("-parallelism=%d", n)) })
	}
	wg.Wait()
	for i, o := range out {
		if o.Code != 0 {
			t.Errorf("%d failed:\n%s", i, o.Text)
		}
	}
	u.check(t, to)
}

// Five nodes, one of which follows another replica, with a quorum of synchronous ones:
// both at once by applies that are killed, and back by applies from two states at once,
// each with one switchover.
func TestUpgradeFive(t *testing.T) {
	turn(t)
	u := &staged{all: []string{"pg1", "pg2", "pg3", "pg4", "pg5"}}
	u.base = settings{
		Purge: true, Cluster: `synchronous_mode = "quorum"`, EtcdOn: []string{"pg1", "pg2", "pg3"},
		Nodes: map[string]string{"pg5": `tags = { replicatefrom = "pg4", nofailover = true }`},
	}
	u.site = newSite(t, labhost.Warm, u.base, u.all...)
	u.make(t)
	for _, way := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"killed", func(t *testing.T) {
			u.to(u.new)
			k := &killer{site: u.site, inside: []string{"patroni.restart"}}
			k.few("in patroni.restart", "patroni.restart", "patroni.switchover")
			k.sweep(t, "apply")
			k.went(t, "in patroni.restart", "patroni.restart", "patroni.switchover")
			u.check(t, u.new)
		}},
		{"back, from two states", func(t *testing.T) { u.fromTwo(t, u.old, 10, 5) }},
	} {
		t.Run(way.name, func(t *testing.T) {
			before, broken := u.switchovers(), u.w.Broken()
			way.run(t)
			if n := u.switchovers() - before; n != 1 {
				t.Errorf("%d switchovers", n)
			}
			if n := u.w.Broken() - broken; n > 1 {
				t.Errorf("%d transactions failed", n)
			}
		})
	}
	u.w.Check(t)
}

// Everything that can go wrong while nodes are brought to another version: nothing is
// lost, what has not had its turn is as it was, and the next apply goes on.
func TestUpgradeFaults(t *testing.T) {
	turn(t)
	const policy = `synchronous_mode = "on"
  rollout = { patience = "15s", max_lag = "1MiB", switchover = %q }`
	u := newStaged(t, fmt.Sprintf(policy, "auto"), "pg1", "pg2", "pg3")
	ctx := t.Context()
	// untouched fails the test unless hosts run as they did.
	untouched := func(t *testing.T, before map[string]string, hosts ...string) {
		t.Helper()
		now := u.started(hosts...)
		for _, h := range hosts {
			if now[h] != before[h] {
				t.Errorf("PostgreSQL on %s was restarted: %s, before %s", h, now[h], before[h])
			}
		}
	}
	refused := func(t *testing.T, texts ...string) {
		t.Helper()
		o := u.TryApply(ctx)
		if o.Code == 0 {
			t.Error("the apply went through")
		}
		has(t, o, texts...)
	}

	t.Run("a version that nobody has", func(t *testing.T) {
		u.to(pins{"17.99", u.old.Patroni})
		o := u.Plan(ctx)
		if o.Code != 1 {
			t.Errorf("it is planned: exit status %d", o.Code)
		}
		has(t, o, "cannot be brought to that version", "17.99", u.new.Postgres, u.old.Postgres)
		u.to(pins{"18.1", u.old.Patroni})
		has(t, u.Plan(ctx), "A major version is not changed in place")
	})

	t.Run("a library that does not fit", func(t *testing.T) {
		before := u.started()
		leader := u.leader("pg1")
		u.sql(leader, `set allow_system_table_mods = on; create function misfit() returns language_handler language c as '$libdir/plpgsql', 'plpgsql_call_handler'; update pg_proc set probin = '$libdir/misfit' where proname = 'misfit'`)
		u.to(pins{u.new.Postgres, u.old.Patroni})
		refused(t, "do not load into PostgreSQL "+u.new.Postgres, "misfit", "the packages are not installed")
		untouched(t, before, u.all...)
		u.sql(leader, "drop function misfit()")
		for _, h := range u.all {
			if v := u.on(h, "dpkg-query -Wf '${Version}' postgresql-17; ls -d /var/lib/postgresql/pgha-* 2>/dev/null || true"); !strings.HasPrefix(v, u.old.Postgres) || strings.Contains(v, "scratch") {
				t.Errorf("on %s: %s", h, v)
			}
		}
	})

	t.Run("a replica that lags", func(t *testing.T) {
		before := u.started()
		leader := u.leader("pg1")
		// The synchronous one would hold up the writer.
		slow, other := "", ""
		for name, m := range u.members("pg1") {
			switch m.Role {
			case "Replica":
				slow = name
			case "Sync Standby":
				other = name
			}
		}
		u.on(slow, "pkill -STOP -f wal[r]eceiver")
		u.sql(leader, "select pg_logical_emit_message(false, 'x', repeat('x', 4000000))")
		u.to(u.old)
		u.base.Canary = map[string]pins{other: {u.new.Postgres, u.old.Patroni}}
		u.configure(u.base)
		refused(t, slow+" is ", "behind, and rollout.max_lag is 1 MiB", "rollout.patience")
		untouched(t, before, u.all...)
		u.on(slow, "pkill -CONT -f wal[r]eceiver")
		u.healthy("pg1", u.all...)
	})

	t.Run("canary, then the rest", func(t *testing.T) {
		canary := u.others(u.leader("pg1"))[1]
		before := u.started()
		u.to(u.old)
		u.base.Canary = map[string]pins{canary: u.new}
		u.configure(u.base)
		u.Apply(ctx)
		if have := u.runs(canary); have != u.new {
			t.Errorf("the canary runs %v", have)
		}
		untouched(t, before, u.others(canary)...)
		u.NoChanges(ctx)
		leads := u.switchovers()
		u.to(u.new)
		u.Apply(ctx)
		u.check(t, u.new)
		if n := u.switchovers() - leads; n != 1 {
			t.Errorf("%d switchovers", n)
		}
	})

	t.Run("the leader by hand", func(t *testing.T) {
		leader := u.leader("pg1")
		before := u.started()
		u.base.Cluster = fmt.Sprintf(policy, "manual")
		u.to(u.old)
		has(t, u.Plan(ctx), "rollout.switchover is manual")
		refused(t, leader+" leads, and rollout.switchover", "set rollout = { switchover = \"auto\" }", "switch over by hand")
		untouched(t, before, leader)
		for _, h := range u.others(leader) {
			if have := u.runs(h); have != u.old {
				t.Errorf("%s runs %v", h, have)
			}
		}
		u.on(leader, "patronictl -c /etc/patroni/config.yml switchover --force") // to the synchronous one
		u.healthy("pg1", u.all...)
		u.Apply(ctx)
		u.check(t, u.old)
		u.base.Cluster = fmt.Sprintf(policy, "auto")
	})

	t.Run("a host dies in its turn", func(t *testing.T) {
		before := u.started()
		u.to(pins{u.new.Postgres, u.old.Patroni})
		r := u.begin(ctx, "apply")
		dead := r.await(t, "patroni.restart")
		if err := u.lab.Kill(ctx, dead); err != nil {
			t.Fatal(err)
		}
		if code, text := r.end(); code == 0 || !strings.Contains(text, dead) || !strings.Contains(text, "the roll was halted") {
			t.Errorf("the apply ended with %d:\n%s", code, text)
		}
		untouched(t, before, u.others(dead)...)
		if err := u.lab.Start(ctx, dead); err != nil {
			t.Fatal(err)
		}
		u.healthy(u.others(dead)[0], u.all...)
		u.Apply(ctx)
		u.check(t, pins{u.new.Postgres, u.old.Patroni})
	})

	t.Run("somebody else switches over", func(t *testing.T) {
		u.to(u.old)
		leader := u.leader("pg1")
		r := u.begin(ctx, "apply")
		r.await(t, "patroni.restart")
		u.on(leader, "patronictl -c /etc/patroni/config.yml switchover --force") // to the synchronous one
		r.wait(t)
		u.check(t, u.old)
	})

	t.Run("killed after each step", func(t *testing.T) {
		k := &killer{site: u.site, t: t, seen: map[string]bool{}}
		u.to(u.new)
		k.until(ctx, "apply")
		k.went(t, "patroni.stage", "patroni.scratch", "patroni.gate", "patroni.switchover", "patroni.mark", "patroni.restart", "patroni.verify")
		u.check(t, u.new)
	})

	t.Run("killed in the pause", func(t *testing.T) {
		u.to(pins{u.new.Postgres, u.old.Patroni})
		before := u.started()
		r := u.begin(ctx, "apply")
		if step := r.next(func(p progress) (string, bool) { return p.Step, p.Step == "patroni.pause" && p.State == "finished" }); step == "" {
			t.Fatal("it was not paused")
		}
		r.kill(syscall.SIGKILL)
		r.end()
		has(t, u.Plan(ctx), "cluster: resume it: the run that has paused it was cut off")
		u.Apply(ctx)
		u.check(t, pins{u.new.Postgres, u.old.Patroni})
		untouched(t, before, u.all...)
		if config := u.on("pg1", "patronictl -c /etc/patroni/config.yml show-config"); strings.Contains(config, "pause") {
			t.Errorf("it is still paused:\n%s", config)
		}
	})

	t.Run("killed while packages are exchanged", func(t *testing.T) {
		want := pins{u.old.Postgres, u.new.Patroni}
		u.to(want)
		r := u.begin(ctx, "apply")
		h := r.await(t, "patroni.restart")
		u.eventually("Patroni to be ended", time.Minute, func(ctx context.Context) (bool, string) {
			out, err := u.lab.SSH(ctx, h, "systemctl is-active patroni || true")
			return err == nil && strings.TrimSpace(out) != "active", fmt.Sprint(out, err)
		})
		r.kill(syscall.SIGKILL)
		r.end()
		// What was begun on the host comes to its end there, with nobody's help.
		u.healthy(u.others(h)[0], u.all...)
		if have := u.runs(h); have != want {
			t.Errorf("%s runs %v, and not %v", h, have, want)
		}
		u.on(h, "test ! -e /usr/sbin/policy-rc.d && test -z \"$(dpkg --audit)\"")
	})

	t.Run("from two states, one node at a time", func(t *testing.T) {
		u.fromTwo(t, pins{u.old.Postgres, u.new.Patroni}, 1, 2)
	})
	u.w.Check(t)
}
