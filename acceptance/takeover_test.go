package acceptance

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// A PostgreSQL that Debian's package has made, with settings, an extension's
// leftovers and rows in it, becomes a cluster of three: restarted once, which the
// plan says, with its data, its settings and its system identifier. An apply that
// is killed in the worst moment leaves it to the next one.
func TestTakeOver(t *testing.T) {
	turn(t)
	base := settings{Node: "", Networks: []string{"samenet", "10.0.0.0/8"}, Protect: true}
	base.Cluster = `take_over = { node = "pg1", cluster = "17/old" }
  postgresql = { parameters = { max_connections = "130" } }`
	base.Nodes = map[string]string{"pg1": `data_directory = "/var/lib/postgresql/17/old"`}
	// The port of the database that is to be taken over is in use, of course.
	base.Host = `preflight = { free_ports = [2379, 2380, 8008] }`
	s := newSite(t, labhost.Warm, base, "pg1", "pg2", "pg3")
	ctx := t.Context()
	s.on("pg1", `pg_createcluster 17 old -- --data-checksums >/dev/null
printf "max_connections = 130\nwork_mem = '7MB'\nlog_line_prefix = '%%m [%%p] it''s '\nlisten_addresses = '*'\n" >/etc/postgresql/17/old/conf.d/ours.conf
printf 'host all app 10.0.0.0/8 scram-sha-256\n' >>/etc/postgresql/17/old/pg_hba.conf
systemctl start postgresql@17-old && systemctl enable -q postgresql`)
	s.sql("pg1", "create role app superuser login password 'app-password'")
	s.sql("pg1", "create table precious as select g as id, repeat('x', 100) as v from generate_series(1, 20000) g")
	system := s.sql("pg1", "select system_identifier from pg_control_system()")
	started := s.sql("pg1", "select pg_postmaster_start_time()")
	cfg := writer.Config{User: "app", Password: "app-password"}
	for _, h := range s.lab.Hosts() {
		cfg.Hosts = append(cfg.Hosts, h.Addr)
	}
	w := writer.Start(t, cfg)

	t.Run("refused", func(t *testing.T) {
		wrong := base
		wrong.Nodes = nil
		s.configure(wrong)
		o := s.Plan(ctx)
		if o.Code != 1 {
			t.Errorf("the wrong directory is planned (%d)", o.Code)
		}
		has(t, o, "Unable to take over the database on host pg1", `set data_directory = "/var/lib/postgresql/17/old" on the node`)
		wrong = base
		wrong.Cluster = strings.Replace(base.Cluster, `"130"`, `"90"`, 1)
		s.configure(wrong)
		o = s.TryApply(ctx, "-target=pgha_patroni_node.pg1")
		if o.Code == 0 {
			t.Error("a database with fewer connections than it has was made of it")
		}
		has(t, o, `put into postgresql.parameters of the cluster: max_connections = "130"`)
		if now := s.sql("pg1", "select pg_postmaster_start_time()"); now != started {
			t.Errorf("it was restarted at %s", now)
		}
	})

	s.configure(base)
	o := s.Plan(ctx)
	has(t, o, "Applying this takes over the database on host pg1", "PostgreSQL restarts once: Debian's cluster 17/old is stopped", "host all app 10.0.0.0/8 scram-sha-256", `max_connections = "130"`)
	// Killed right after the database was stopped.
	killed := s.begin(ctx, "apply")
	for p := range killed.steps {
		if p.Step == "patroni.takeover.stop" && p.State == "finished" {
			killed.kill(9)
			break
		}
	}
	_, _ = killed.end()
	s.on("pg1", "test \"$(pg_lsclusters -h | awk '$2 == \"old\" { print $4 }')\" = down")
	s.eventually("the locks of the run that was killed to be free", 2*time.Minute, func(context.Context) (bool, string) {
		o := s.TryApply(ctx)
		if o.Code != 0 && !o.Contains("another apply is at work") {
			t.Fatalf("the next apply failed:\n%s", o.Text)
		}
		return o.Code == 0, "another apply is at work"
	})
	s.healthy("pg1", "pg1", "pg2", "pg3")
	s.NoChanges(ctx)
	if leader := s.leader("pg1"); leader != "pg1" {
		t.Errorf("%s leads", leader)
	}
	for _, h := range []string{"pg1", "pg2", "pg3"} {
		if got := s.sql(h, "select system_identifier from pg_control_system()"); got != system {
			t.Errorf("%s has another database: %s, was %s", h, got, system)
		}
		if got := s.sql(h, "select count(*) from precious"); got != "20000" {
			t.Errorf("%s rows on %s", got, h)
		}
		if got := s.sql(h, "select current_setting('work_mem') || ' ' || current_setting('max_connections') || ' ' || current_setting('log_line_prefix')"); got != "7MB 130 %m [%p] it's " && got != "7MB 130 %m [%p] it's" {
			t.Errorf("settings on %s: %q", h, got)
		}
	}
	s.on("pg1", "grep -qx disabled /etc/postgresql/17/old/start.conf && ! systemctl is-active -q postgresql@17-old")

	t.Run("it survives its host", func(t *testing.T) {
		if err := s.lab.Kill(ctx, "pg1"); err != nil {
			t.Fatal(err)
		}
		s.eventually("another leader", time.Minute, func(context.Context) (bool, string) {
			l := s.leader("pg2")
			return l != "" && l != "pg1", l
		})
		if err := s.lab.Start(ctx, "pg1"); err != nil {
			t.Fatal(err)
		}
		s.healthy("pg2", "pg1", "pg2", "pg3")
		s.NoChanges(ctx)
	})
	w.Check(t)
}
