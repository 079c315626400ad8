package acceptance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// etcdVersions are the versions of etcd that run, by host.
func (s *site) etcdVersions(hosts ...string) map[string]string {
	s.t.Helper()
	all := map[string]string{}
	for _, h := range hosts {
		all[h] = s.on(h, `readlink -f /proc/$(systemctl show -p MainPID --value etcd)/exe; /proc/$(systemctl show -p MainPID --value etcd)/exe --version | sed -n 's/^etcd Version: //p'; dpkg-query -Wf '${Version}' etcd-server; apt-mark showhold | tr '\n' ' '`)
	}
	return all
}

// upgrading is a site whose etcd is brought to other versions while rows are written.
type upgrading struct {
	*site
	base settings
	all  []string
	w    *writer.Writer
	// nodes are the processes of Patroni and PostgreSQL, which nobody may restart.
	nodes string
}

func (u *upgrading) processes() string {
	var b strings.Builder
	for _, h := range u.all {
		b.WriteString(u.on(h, "systemctl show -p MainPID --value patroni; head -n 1 /var/lib/postgresql/*/main/postmaster.pid") + " ")
	}
	return b.String()
}

func (u *upgrading) to(version string) {
	u.base.EtcdVersion = version
	u.configure(u.base)
}

// check looks at what runs, and at what was left behind.
func (u *upgrading) check(t *testing.T, version string) {
	t.Helper()
	for h, v := range u.etcdVersions(u.all...) {
		lines := strings.Split(v, "\n")
		if len(lines) < 3 || lines[0] != "/usr/bin/etcd" || lines[1] != version || !strings.HasPrefix(lines[2], version+"-") && !strings.HasPrefix(lines[2], version+"+") || !strings.Contains(v, "etcd-server") {
			t.Errorf("on %s: %s", h, v)
		}
		u.on(h, "test ! -e /usr/lib/pgha && test ! -e /etc/systemd/system/etcd.service.d/pgha-previous.conf")
	}
	u.healthy("pg1", u.all...)
	if now := u.processes(); now != u.nodes {
		t.Errorf("Patroni or PostgreSQL was restarted: %s, before %s", now, u.nodes)
	}
	if n := u.w.Failed(); n > 0 {
		t.Errorf("%d writes failed", n)
	}
	u.NoChanges(t.Context())
}

func newUpgrading(t *testing.T, o labhost.Options, base settings) *upgrading {
	t.Helper()
	all := []string{"pg1", "pg2", "pg3"}
	o.Image, o.Datacenters = labhost.Warm, []labhost.Datacenter{{Name: "dc1", Hosts: all}}
	u := &upgrading{site: newSiteIn(t, o, base), base: base, all: all}
	u.Apply(t.Context())
	u.healthy("pg1", all...)
	u.w = u.write()
	u.nodes = u.processes()
	return u
}

// etcd is upgraded and taken back under a Patroni cluster that notices nothing,
// whatever happens to the apply and to the hosts.
func TestEtcdUpgrade(t *testing.T) {
	turn(t)
	cli.Binary(t)
	u := newUpgrading(t, labhost.Options{}, settings{Purge: true, Patroni: "4.1.5", Etcd: "auth = false"})
	ctx := t.Context()
	older, newer := u.oldest("etcd-server"), u.newest("etcd-server")

	t.Run("authentication on and off", func(t *testing.T) {
		anybody := func(host string) string {
			return u.on(host, `dir=/etc/pgha/etcd/dcs; ETCDCTL_API=3 etcdctl --endpoints https://127.0.0.1:2379 --cacert $dir/ca.crt --cert $dir/server.crt --key $dir/server.key get --keys-only /service/main/leader 2>&1 || true`)
		}
		logsIn := func(host string) bool {
			return u.on(host, "sed -n '/^etcd3:/,/^[a-z]/p' /etc/patroni/config.yml | grep -c 'username: patroni.main' || true") == "1"
		}
		// longer waits for longer than Patroni's ttl, and looks at everything then.
		longer := func() {
			u.eventually("Patroni to have gone on for longer than its ttl", time.Minute, func() func(context.Context) (bool, string) {
				end := time.Now().Add(40 * time.Second)
				return func(context.Context) (bool, string) { return time.Now().After(end), "" }
			}())
			u.check(t, older)
		}
		u.base.Etcd = ""
		u.to(older)
		has(t, u.Plan(ctx), "leave authentication off until the next apply: these do not log in yet: pg1 of main, pg2 of main, pg3 of main")
		// The first apply is killed when one node logs in.
		r := u.begin(ctx, "apply")
		r.await(t, "patroni.reconfigure")
		r.kill(syscall.SIGKILL)
		r.end()
		u.Apply(ctx)
		if got := anybody("pg1"); !strings.Contains(got, "/service/main/leader") {
			t.Errorf("authentication is on after the first apply: %s", got)
		}
		has(t, u.Plan(ctx), "turn authentication on: every Patroni node logs in")
		u.Apply(ctx)
		for _, h := range u.all {
			if got := anybody(h); !strings.Contains(got, "permission denied") || !logsIn(h) {
				t.Errorf("without a password %s says %s", h, got)
			}
		}
		longer()
		u.base.Etcd = "auth = false"
		u.to(older)
		has(t, u.Plan(ctx), "turn authentication off: whoever reaches the client port then reads and writes everything")
		u.Apply(ctx)
		if got := anybody("pg1"); !strings.Contains(got, "/service/main/leader") {
			t.Errorf("without authentication a key cannot be read: %s", got)
		}
		// Tokens from before are of no use to a member that was restarted.
		u.on(u.etcdFollower(), "systemctl restart etcd")
		longer()
		u.base.Etcd = ""
		u.to(older)
		u.Apply(ctx) // all log in as before
		for _, h := range u.all {
			if got := anybody(h); !strings.Contains(got, "permission denied") {
				t.Errorf("without a password %s says %s", h, got)
			}
		}
		longer()
	})

	t.Run("a version that nobody has tried", func(t *testing.T) {
		for version, says := range map[string]string{"3.6.4": "never tried with this release", "3.5.2": "can corrupt its data", "3.4.23": "no older line starts with it"} {
			u.to(version)
			o := u.Plan(ctx)
			if o.Code != 1 {
				t.Errorf("%s is planned: exit status %d", version, o.Code)
			}
			has(t, o, says)
		}
		u.to(older)
	})

	t.Run("killed again and again", func(t *testing.T) {
		u.to(newer)
		o := u.Plan(ctx)
		has(t, o, "take a snapshot and verify it", fmt.Sprintf("restart it with etcd %s", newer), "it leads, and hands that over first")
		_, plan, _ := strings.Cut(o.Text, "Warning: Applying this")
		t.Logf("the plan:\n%s", plan)
		order := u.turns(t)
		k := sweeper(u.site, u.w, "etcd.upgrade.snapshot", "etcd.upgrade.keep", "etcd.upgrade.packages", "etcd.upgrade")
		failed := k.after
		k.after = func(at string) {
			failed(at)
			if slices.Contains([]string{"etcd.upgrade.snapshot", "etcd.upgrade.keep", "etcd.upgrade.packages"}, strings.TrimPrefix(at, "in ")) {
				for h, v := range u.etcdVersions(u.all...) {
					if !strings.Contains(v, "\n"+older+"\n") {
						t.Errorf("killed at %s, %s runs %s", at, h, v)
					}
				}
			}
			if at == "in etcd.upgrade" { // the first turn
				// A member that is killed now comes back as it was: its turn has not come.
				u.on(order[1], "systemctl kill -s KILL etcd; sleep 4; systemctl is-active etcd")
				if v := u.etcdVersions(order[1])[order[1]]; !strings.HasPrefix(v, "/usr/lib/pgha/etcd/etcd\n"+older+"\n") {
					t.Errorf("killed before its turn, %s came back with %s", order[1], v)
				}
			}
		}
		k.sweep(t, "apply", alone(false)...)
		u.Apply(ctx)
		k.went(t, "etcd.mark.restart", "etcd.upgrade.snapshot", "etcd.upgrade.keep", "etcd.upgrade.packages", "in etcd.upgrade", "etcd.upgrade", "etcd.upgrade.tidy", "etcd.upgrade.end")
		u.check(t, newer)
		// One of the try that was killed while taking it, and one that counts.
		if n := u.snapshotFiles(); len(n) == 0 || len(n) > 2 {
			t.Errorf("snapshots: %v", n)
		}
	})

	t.Run("a member that does not come back", func(t *testing.T) {
		u.to(older)
		order := u.turns(t)
		first := order[0]
		u.on(first, `mkdir -p /run/systemd/system/etcd.service.d && printf '[Service]\nExecStartPre=/bin/sh -c "echo the test forbids it >&2; exit 1"\n' >/run/systemd/system/etcd.service.d/test.conf && systemctl daemon-reload`)
		o := u.TryApply(ctx)
		if o.Code == 0 {
			t.Errorf("it goes through:\n%s", o.Text)
		}
		has(t, o, "Unable to update etcd cluster dcs", first, "the test forbids it", fmt.Sprintf("set version = %q again", newer))
		for _, h := range order[1:] {
			if v := u.etcdVersions(h)[h]; !strings.Contains(v, "\n"+newer+"\n") {
				t.Errorf("after the failure on %s, %s runs %s", first, h, v)
			}
		}
		u.on(first, "rm -r /run/systemd/system/etcd.service.d && systemctl daemon-reload")
		// And back to where it came from.
		u.to(newer)
		u.Apply(ctx)
		u.check(t, newer)
	})

	t.Run("a host that dies", func(t *testing.T) {
		u.to(older)
		u.loses(t, "etcd.upgrade.packages")
		u.Apply(ctx)
		u.check(t, older)
	})

	t.Run("two at once", func(t *testing.T) {
		u.to(newer)
		r := u.begin(ctx, "apply")
		r.await(t, "etcd.upgrade.keep")
		other := &site{t: t, lab: u.lab, Dir: cli.New(t, nil, u.lab.Env()...)}
		hurried := u.base
		hurried.Etcd += "\n  timeouts {\n    create = \"20s\"\n  }"
		other.configure(hurried)
		// It waits, or says for whom: the first one may be done before its time is up.
		if o := other.TryApply(ctx); o.Code != 0 {
			has(t, o, "another apply is at work: etcd cluster dcs")
		}
		if code, text := r.end(); code != 0 {
			t.Errorf("the first one ended with %d:\n%s", code, text)
		}
		u.check(t, newer)
	})

	t.Run("killed on the way back", func(t *testing.T) {
		u.to(newer)
		u.Apply(ctx)
		u.to(older)
		k := sweeper(u.site, u.w, "etcd.upgrade.keep", "etcd.upgrade.packages", "etcd.upgrade")
		k.few("etcd.upgrade.packages", "in etcd.upgrade", "etcd.upgrade", "etcd.upgrade.end")
		k.sweep(t, "apply", alone(false)...)
		u.Apply(ctx)
		k.went(t, "etcd.upgrade.packages", "in etcd.upgrade", "etcd.upgrade", "etcd.upgrade.end")
		u.check(t, older)
	})

	u.w.Check(t)
	t.Logf("the longest time without a row: %s", u.w.LongestGap())
	u.Destroy(ctx)
	for _, h := range u.all {
		u.on(h, "test ! -e /etc/pgha && test ! -e /usr/lib/pgha && ! systemctl is-active -q patroni etcd")
	}
}

// loses has the host of a member die when a step of an apply has begun: neither that
// apply nor the next one goes on without it, and both name it. Then it comes back.
func (u *upgrading) loses(t *testing.T, step string) {
	t.Helper()
	ctx := t.Context()
	dead := u.etcdFollower()
	if u.leader("pg1") == dead { // of Patroni: writes would fail
		dead = slices.DeleteFunc(u.others(dead), u.etcdLeads)[0]
	}
	r := u.begin(ctx, "apply")
	r.await(t, step)
	if err := u.lab.Kill(ctx, dead); err != nil {
		t.Fatal(err)
	}
	code, text := r.end()
	if code == 0 || !strings.Contains(text, dead) {
		t.Errorf("it ended with %d, and does not name %s:\n%s", code, dead, text)
	}
	o := u.TryApply(ctx)
	if o.Code == 0 {
		t.Error("it goes on without the host")
	}
	has(t, o, dead)
	if err := u.lab.Start(ctx, dead); err != nil {
		t.Fatal(err)
	}
	u.eventually("the host", time.Minute, func(ctx context.Context) (bool, string) {
		out, err := u.lab.SSH(ctx, dead, "systemctl is-active etcd")
		return err == nil, fmt.Sprint(out, err)
	})
	if failed := u.w.Failed(); failed > 0 {
		t.Errorf("%d writes failed", failed)
	}
	u.healthy("pg1", u.all...)
	u.nodes = u.processes() // those on the host that died are new
}

// turns is the order in which members take their turns, by the plan.
func (u *upgrading) turns(t *testing.T) []string {
	t.Helper()
	o := u.Plan(t.Context())
	var order []string
	for line := range strings.Lines(o.Text) {
		before, _, found := strings.Cut(line, ": restart it with etcd ")
		if fields := strings.Fields(before); found && len(fields) > 0 {
			if h := fields[len(fields)-1]; slices.Contains(u.all, h) {
				order = append(order, h)
			}
		}
	}
	if len(order) != 3 {
		t.Fatalf("the plan does not name the order, but %v:\n%s", order, o.Text)
	}
	return order
}

// snapshotFiles are the snapshots on all hosts.
func (u *upgrading) snapshotFiles() (list []string) {
	for _, h := range u.all {
		list = append(list, strings.Fields(u.on(h, "ls /var/backups/etcd/dcs/*.db 2>/dev/null || true"))...)
	}
	return list
}

// From 3.4 to 3.5, without passwords, on Debian 12: until the last member has its turn
// there is a way back, and then none.
func TestEtcdUpgradeLine(t *testing.T) {
	turn(t)
	cli.Binary(t)
	u := newUpgrading(t, labhost.Options{Release: "bookworm"}, settings{Purge: true, Etcd: "auth = false"})
	ctx := t.Context()
	older, newer := u.oldest("etcd-server"), u.newest("etcd-server")

	u.to(newer)
	has(t, u.Plan(ctx), "from then on the cluster is one of 3.5, and there is no way back but a snapshot")
	order := u.turns(t)
	r := u.begin(ctx, "apply")
	// Killed in the second turn.
	if r.next(func(p progress) (string, bool) { return p.Step, p.Step == "etcd.upgrade" && p.State == "finished" }) == "" {
		_, text := r.end()
		t.Fatalf("it has ended:\n%s", text)
	}
	r.kill(syscall.SIGKILL)
	r.end()
	if v := u.etcdVersions(order[0])[order[0]]; !strings.Contains(v, "\n"+newer+"\n") {
		t.Errorf("after its turn %s runs %s", order[0], v)
	}
	u.to(older)
	u.Apply(ctx)
	u.check(t, older)

	u.to(newer)
	u.Apply(ctx)
	u.check(t, newer)
	u.to(older)
	o := u.Plan(ctx)
	if o.Code != 1 {
		t.Errorf("the way back is planned: exit status %d", o.Code)
	}
	has(t, o, "no older line starts with it", "The way back is a snapshot from before")
	// This Patroni would not start with a password until authentication is on.
	u.base.Etcd = ""
	u.to(newer)
	o = u.Plan(ctx)
	if o.Code != 1 {
		t.Errorf("authentication is planned: exit status %d", o.Code)
	}
	has(t, o, "Authentication of etcd cluster dcs cannot be changed now", "main/pg1 runs 3.0.2")
	u.base.Etcd = "auth = false"
	u.to(newer)
	u.w.Check(t)
	u.Destroy(ctx)
}
