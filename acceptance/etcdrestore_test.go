package acceptance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// recoverFrom names all nodes.
const recoverFrom = "recover_from = { for name, h in pgha_host.db : name => h.access }\n"

// safe is a cluster whose primary goes on without etcd.
func safe() settings {
	return settings{
		Networks: []string{"samenet", "10.0.0.0/8"}, Protect: true,
		Cluster: "failure_detection = \"fast\"\nfailsafe_mode = true\nrest_api_allowlist = [\"10.0.0.0/8\"]\n" + recoverFrom,
	}
}

// loseEtcd deletes etcd's data on hosts, for good.
func (s *site) loseEtcd(hosts ...string) {
	s.t.Helper()
	for _, h := range hosts {
		s.on(h, "systemctl stop etcd && rm -rf /var/lib/etcd/dcs/member")
	}
}

// hosts are the names of all hosts.
func (s *site) hosts() []string { return s.others("") }

// writesFor lets time pass, and fails unless the writer is served all the time.
func (s *site) writesFor(w *writer.Writer, d time.Duration, what string) {
	s.t.Helper()
	acked, failed := w.Acked(), w.Failed()
	time.Sleep(d) // that nothing happens for a time can only be seen by waiting
	if w.Acked()-acked < 50 || w.Failed() > failed {
		s.t.Errorf("%s: %d rows were acknowledged in %s, and %d attempts failed", what, w.Acked()-acked, d, w.Failed()-failed)
	}
	s.t.Logf("%s: %d rows in %s, %d failed", what, w.Acked()-acked, d, w.Failed()-failed)
}

// killedAt runs an apply and kills it when a step has finished.
func (s *site) killedAt(ctx context.Context, step string, args ...string) {
	s.t.Helper()
	r := s.begin(ctx, "apply", args...)
	reached := false
	for p := range r.steps {
		if p.Step == step && p.State == "finished" {
			reached = true
			r.kill(9)
			break
		}
	}
	if _, out := r.end(); !reached {
		s.t.Fatalf("the apply never came to %s:\n%s", step, out)
	}
}

// unlocked applies until the lock of a run that was killed is free.
func (s *site) unlocked(ctx context.Context, args ...string) {
	s.t.Helper()
	s.eventually("an apply", 4*time.Minute, func(context.Context) (bool, string) {
		o := s.TryApply(ctx, args...)
		if o.Code != 0 && !o.Contains("another apply is at work") {
			s.t.Fatalf("the apply failed:\n%s", o.Text)
		}
		return o.Code == 0, "another apply is at work"
	})
}

// checkPatroni checks what patronictl and the configuration say after a restore.
func (s *site) checkPatroni(leader string) {
	s.t.Helper()
	s.healthy("pg1", s.hosts()...)
	if now := s.leader("pg1"); leader != "" && now != leader {
		s.t.Errorf("%s leads, and %s was the primary", now, leader)
	}
	if out := s.on("pg1", "patronictl -c /etc/patroni/config.yml list"); strings.Contains(out, "Maintenance") {
		s.t.Errorf("Patroni is paused:\n%s", out)
	}
	ids := map[string]bool{}
	for _, h := range s.hosts() {
		ids[s.sql(h, "select system_identifier from pg_control_system()")] = true
		s.on(h, "test ! -e /etc/pgha/etcd/dcs/restore.db && test ! -e /var/lib/etcd/dcs.scratch && ! ls -d /var/lib/etcd/dcs/restored-* 2>/dev/null")
	}
	if len(ids) != 1 {
		s.t.Errorf("there are several databases: %v", ids)
	}
}

// Etcd's data is lost on all hosts, after another node came to lead and all passwords
// were changed, of which the snapshot knows nothing. The primary takes writes all the
// time, in failsafe mode; an apply that is killed in the middle is gone on with; the
// node that leads goes on leading; nothing is restarted; nobody has another password.
func TestEtcdRestore(t *testing.T) {
	turn(t)
	base := safe()
	base.Etcd = `snapshots = { schedule = "Mon 05:00", keep = 3 }`
	s := newSite(t, labhost.Warm, base, "pg1", "pg2", "pg3")
	ctx := t.Context()
	s.Apply(ctx)
	s.healthy("pg1", s.hosts()...)
	w := s.write()
	st := s.etcdStatus(ctx)
	s.Write("status.tf", "")
	s.on(st.Leader, "systemctl start pgha-etcd-snapshot.service")
	path := s.on(st.Leader, "ls /var/backups/etcd/dcs/*.db | tail -n 1")
	from := st.Leader + ":" + path
	t.Logf("the snapshot is %s", from)

	first := s.leader("pg1")
	to := s.others(first)[0]
	s.on("pg1", "patronictl -c /etc/patroni/config.yml switchover main --force --candidate "+to)
	s.eventually("the switchover", time.Minute, func(context.Context) (bool, string) { l := s.leader("pg1"); return l == to, l })
	s.healthy("pg1", s.hosts()...)
	rotated := base
	rotated.Cluster += "credentials = { rotation = 1 }\n"
	s.configure(rotated)
	s.Apply(ctx)
	s.NoChanges(ctx)
	started := s.started()
	failed := w.Failed()

	restored := rotated
	restored.Etcd += fmt.Sprintf("\n  restore = { from = %q }", from)
	s.configure(restored)
	o := s.Plan(ctx)
	if o.Code != 1 {
		t.Errorf("a healthy cluster may be restored over (%d)", o.Code)
	}
	has(t, o, "which may have a quorum and the data", "remove restore from the configuration")

	s.loseEtcd("pg2", "pg3")
	s.on("pg1", "systemctl stop etcd") // its data must not be heard of again
	s.writesFor(w, 45*time.Second, "without etcd")
	wrong := rotated
	wrong.Etcd += fmt.Sprintf("\n  restore = { from = %q }", from+".none")
	s.configure(wrong)
	o = s.Run(ctx, "plan", "-no-color", "-refresh=false", "-target=pgha_etcd_cluster.dcs")
	has(t, o, "does not exist", "pgha_etcd_status lists them")

	s.configure(restored)
	args := []string{"-refresh=false", "-target=pgha_etcd_cluster.dcs"}
	o = s.Run(ctx, append([]string{"plan", "-no-color"}, args...)...)
	has(t, o, "Applying this builds the etcd cluster dcs anew", from, "revision", "is lost there", "never starts again")
	t.Logf("the plan:\n%s", o.Text)
	k := sweeper(s, w, "etcd.restore.fit", "etcd.restore.copy", "etcd.restore.stop", "etcd.restore.begin", "etcd.restore.member", "etcd.restore.resume", "etcd.restore.done")
	k.few("etcd.restore.fit", "in etcd.restore.begin", "etcd.restore.begin", "etcd.healthy")
	k.sweep(t, "apply", args...)
	k.went(t, "etcd.restore.fit", "etcd.restore.begin", "etcd.healthy")
	for _, h := range s.hosts() {
		s.on(h, "test ! -e /etc/pgha/etcd/dcs/restore.db && ! systemctl is-active -q pgha-etcd-scratch.service && test ! -e /var/lib/etcd/dcs.scratch")
	}
	s.on("pg1", "test -d /var/lib/etcd/dcs/before-*/wal")
	// The passwords that etcd knows are old ones; the nodes' count.
	o = s.Plan(ctx)
	has(t, o, "compare what etcd knows from "+from+" with the nodes")
	k.few("cluster.recover.secrets")
	k.sweep(t, "apply")
	k.went(t, "cluster.recover.secrets")
	s.checkPatroni(to)
	s.NoChanges(ctx)
	if now := s.started(); !slices.Equal(now, started) {
		t.Errorf("PostgreSQL was restarted: %v, before %v", now, started)
	}
	if n := w.Failed() - failed; n > 0 {
		t.Errorf("%d writes failed since the switchover", n)
	}
	// It is highly available again.
	if err := s.lab.Kill(ctx, to); err != nil {
		t.Fatal(err)
	}
	other := s.others(to)[0]
	s.eventually("another leader", time.Minute, func(context.Context) (bool, string) { l := s.leader(other); return l != "" && l != to, l })
	if err := s.lab.Start(ctx, to); err != nil {
		t.Fatal(err)
	}
	s.healthy(other, s.hosts()...)
	t.Run("without failsafe mode", func(t *testing.T) { s.demotes(t, w, restored) })
	w.Check(t)
}

// demotes loses etcd's data where Patroni has no failsafe mode: the primary takes no
// writes until etcd is restored, and then has all that it has ever acknowledged.
func (s *site) demotes(t *testing.T, w *writer.Writer, c settings) {
	ctx := t.Context()
	c.Cluster = strings.Replace(c.Cluster, "failsafe_mode = true\n", "", 1)
	s.configure(c)
	s.Apply(ctx)
	s.healthy("pg1", s.hosts()...)
	from := slices.DeleteFunc(s.hosts(), func(h string) bool { return !s.etcdLeads(h) })[0]
	s.on(from, "systemctl start pgha-etcd-snapshot.service")
	c.Etcd, _, _ = strings.Cut(c.Etcd, "restore")
	c.Etcd += fmt.Sprintf("restore = { from = %q, id = \"again\" }", from+":"+s.on(from, "ls /var/backups/etcd/dcs/*.db | tail -n 1"))
	s.loseEtcd(s.hosts()...)
	s.eventually("no node to take writes", 2*time.Minute, func(context.Context) (bool, string) {
		for _, h := range s.hosts() {
			if got := s.on(h, "cd /; runuser -u postgres -- psql -XAtqc 'select pg_is_in_recovery()' 2>&1 || true"); got == "f" {
				return false, h + " does"
			}
		}
		return true, ""
	})
	acked := w.Acked()
	s.configure(c)
	s.unlocked(ctx, "-refresh=false", "-target=pgha_etcd_cluster.dcs")
	s.eventually("rows to be written again", 2*time.Minute, func(context.Context) (bool, string) { return w.Acked() > acked+20, fmt.Sprint(w.Acked() - acked) })
	s.unlocked(ctx)
	s.checkPatroni("")
	s.NoChanges(ctx)
	t.Logf("the longest time without a row was %s", w.LongestGap())
}

// Etcd's data is lost on all hosts, and there is no snapshot. The cluster is taken up
// from its nodes: from a primary that goes on in failsafe mode, and after that from
// nodes that were all without power, of which only one has the last rows.
func TestEtcdLostWithoutSnapshot(t *testing.T) {
	turn(t)
	base := safe()
	s := newSite(t, labhost.Warm, base, "pg1", "pg2", "pg3")
	ctx := t.Context()
	s.Apply(ctx)
	s.healthy("pg1", s.hosts()...)
	w := s.write()
	leader, started, failed := s.leader("pg1"), s.started(), w.Failed()
	uid := s.on("pg1", "cat /etc/pgha/patroni.json")

	s.loseEtcd(s.hosts()...)
	s.writesFor(w, 40*time.Second, "without etcd")
	anew := base
	anew.Etcd = `restore = { from = "nothing" }`
	anew.Cluster = strings.Replace(base.Cluster, recoverFrom, "", 1)
	s.configure(anew)
	args := []string{"-refresh=false", "-target=pgha_etcd_cluster.dcs"}
	o := s.Run(ctx, append([]string{"plan", "-no-color"}, args...)...)
	has(t, o, "with nothing in it", "recover_from")
	k := sweeper(s, w)
	k.few("etcd.restore.begin", "etcd.restart")
	k.sweep(t, "apply", args...)
	s.writesFor(w, 20*time.Second, "with an etcd that has nothing in it")
	// Nobody can make a second cluster over it by accident.
	o = s.TryApply(ctx)
	if o.Code == 0 {
		t.Fatal("a new cluster was made over the databases")
	}
	has(t, o, "and it did once", "recover_from")
	anew.Cluster = base.Cluster
	s.configure(anew)
	k.few("cluster.recover.config", "cluster.recover.login")
	k.sweep(t, "apply")
	k.went(t, "cluster.recover.config", "cluster.recover.login")
	s.checkPatroni(leader)
	s.NoChanges(ctx)
	if now := s.started(); !slices.Equal(now, started) {
		t.Errorf("PostgreSQL was restarted: %v, before %v", now, started)
	}
	if now := s.on("pg1", "cat /etc/pgha/patroni.json"); now != uid {
		t.Errorf("the node is another cluster's: %s, before %s", now, uid)
	}
	if n := w.Failed() - failed; n > 0 {
		t.Errorf("%d writes failed", n)
	}

	// Etcd is lost again, then the replicas' power, and soon after that the primary's:
	// it alone has the last rows.
	s.loseEtcd(s.hosts()...)
	s.writesFor(w, 15*time.Second, "without etcd again")
	for _, h := range s.others(leader) {
		if err := s.lab.Kill(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	acked := w.Acked()
	s.eventually("rows that only the primary has", 10*time.Second, func(context.Context) (bool, string) { return w.Acked() > acked+20, fmt.Sprint(w.Acked() - acked) })
	if err := s.lab.Kill(ctx, leader); err != nil {
		t.Fatal(err)
	}
	t.Logf("only the primary has %d rows", w.Acked()-acked)
	for _, h := range s.hosts() {
		if err := s.lab.Start(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range s.hosts() {
		s.on(h, "systemctl stop etcd; test ! -e /var/lib/etcd/dcs/member/wal")
	}
	anew.Etcd = `restore = { from = "nothing", id = "again" }`
	s.configure(anew)
	s.unlocked(ctx, args...)
	s.killedAt(ctx, "cluster.recover.hold")
	s.unlocked(ctx)
	s.checkPatroni(leader)
	s.NoChanges(ctx)
	w.Check(t)
}
