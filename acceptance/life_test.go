package acceptance

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// The life of a cluster on three hosts, step after step, with a writer running:
// second plan, reload, power cut of the leader, removal
// with the data kept, taking up again, removal for good.
func TestLife(t *testing.T) {
	turn(t)
	base := settings{Cluster: `synchronous_mode = "on"
  postgresql = { parameters = { work_mem = "8MB" } }`}
	s := newSite(t, labhost.Warm, base, "pg1", "pg2", "pg3")
	ctx := t.Context()
	s.Apply(ctx)
	s.healthy("pg1", "pg1", "pg2", "pg3")
	s.NoChanges(ctx)
	system := s.sql("pg1", "select system_identifier from pg_control_system()")
	w := s.write()

	t.Run("second apply touches nothing", func(t *testing.T) {
		before := s.fingerprint()
		s.Apply(ctx)
		if after := s.fingerprint(); after != before {
			t.Errorf("an apply with nothing to do changed something:\n%s\n%s", before, after)
		}
	})

	t.Run("a changed parameter is a reload", func(t *testing.T) {
		started := s.started()
		changed := base
		changed.Cluster = strings.Replace(base.Cluster, "8MB", "16MB", 1)
		s.configure(changed)
		plan := s.Plan(ctx)
		has(t, plan, "Applying this reloads all nodes of main", "postgresql.parameters.work_mem: 8MB -> 16MB")
		if plan.Contains("pending restart") {
			t.Error("the plan speaks of a restart")
		}
		s.Apply(ctx)
		for _, h := range []string{"pg1", "pg2", "pg3"} {
			if got := s.sql(h, "show work_mem"); got != "16MB" {
				t.Errorf("%s runs with work_mem = %s after the apply", h, got)
			}
		}
		if got := s.started(); !slices.Equal(got, started) {
			t.Errorf("a server was restarted: %v, before %v", got, started)
		}
		s.NoChanges(ctx)
		base = changed
	})

	t.Run("a tag is a reload", func(t *testing.T) {
		started := s.started()
		changed := base
		changed.Nodes = map[string]string{"pg3": `tags = { nofailover = true, custom = { rack = "b 'quoted' $(x) \"y\"" } }`}
		s.configure(changed)
		has(t, s.Plan(ctx), "Applying this affects the running node pg3", "reload Patroni")
		s.Apply(ctx)
		got := s.on("pg1", "patronictl -c /etc/patroni/config.yml list -f json")
		if !strings.Contains(got, `"nofailover": true`) || !strings.Contains(got, `b 'quoted' $(x) \"y\"`) {
			t.Errorf("the tags are not there: %s", got)
		}
		s.configure(base)
		s.Apply(ctx)
		s.NoChanges(ctx)
		if got := s.started(); !slices.Equal(got, started) {
			t.Errorf("a server was restarted: %v, before %v", got, started)
		}
	})
	t.Run("power cut of the leader", func(t *testing.T) { s.powerCut(t, base) })
	w.Check(t)

	rows := s.sql(s.leader("pg1"), "select count(*) from written")
	t.Run("destroyed and taken up again", func(t *testing.T) {
		plan := s.Plan(ctx, "-destroy")
		has(t, plan, "is the leader now", "stays")
		state := read(t, filepath.Join(s.Path, "terraform.tfstate"))
		s.Destroy(ctx)
		// As if each run had been killed before Terraform saved what it did: what
		// is gone is seen to be so, without etcd.
		s.Write("terraform.tfstate", state)
		s.Destroy(ctx)
		for _, h := range []string{"pg1", "pg2", "pg3"} {
			if got := s.on(h, "systemctl is-active patroni etcd postgresql || true"); strings.Contains(got, "\nactive") || strings.HasPrefix(got, "active") {
				if strings.Count(got, "active") != strings.Count(got, "inactive")+1 { // postgresql.service is a shell
					t.Errorf("something still runs on %s: %s", h, got)
				}
			}
			s.on(h, "test -e /var/lib/postgresql/17/main/PG_VERSION")
			if got := s.on(h, "apt-mark showhold"); got != "" {
				t.Errorf("still held on %s: %s", h, got)
			}
		}
		s.Apply(ctx)
		s.healthy("pg1", "pg1", "pg2", "pg3")
		if got := s.sql("pg1", "select system_identifier from pg_control_system()"); got != system {
			t.Errorf("another database: %s, was %s", got, system)
		}
		if got := s.sql(s.leader("pg1"), "select count(*) from written"); got != rows {
			t.Errorf("%s rows, were %s", got, rows)
		}
		s.NoChanges(ctx)
	})

	t.Run("protected", func(t *testing.T) {
		changed := base
		changed.Protect = true
		s.configure(changed)
		s.Apply(ctx)
		o := s.Run(ctx, "destroy", "-auto-approve", "-no-color")
		if o.Code == 0 {
			t.Error("a protected cluster was destroyed")
		}
		has(t, o, "It is protected from deletion")
		s.healthy("pg1", "pg1", "pg2", "pg3")
	})

	t.Run("destroyed for good", func(t *testing.T) {
		changed := base
		changed.Purge = true
		s.configure(changed)
		s.Apply(ctx)
		has(t, s.Plan(ctx, "-destroy"), "is deleted (on_destroy is \"purge\")")
		s.Destroy(ctx)
		for _, h := range []string{"pg1", "pg2", "pg3"} {
			for _, path := range []string{"/etc/pgha", "/var/lib/etcd/dcs", "/var/lib/postgresql/17/main", "/etc/patroni/config.yml",
				"/etc/systemd/system/patroni.service.d/pgha.conf", "/etc/systemd/system/etcd.service.d/pgha.conf", "/etc/sysctl.d/90-pgha.conf",
				"/etc/security/limits.d/90-pgha.conf", "/usr/sbin/policy-rc.d", "/etc/postgresql-common/createcluster.d/pgha.conf"} {
				s.on(h, "test ! -e "+path+" || { ls -lR "+path+" >&2; false; }")
			}
		}
		s.Apply(ctx) // and made anew, as another database
		if got := s.sql("pg1", "select system_identifier from pg_control_system()"); got == system {
			t.Error("the purged database came back")
		}
		s.Destroy(ctx)
	})
}

// started is when each server's postmaster started.
func (s *site) started() []string {
	var list []string
	for _, h := range s.lab.Hosts() {
		list = append(list, h.Name+" "+s.sql(h.Name, "select pg_postmaster_start_time()"))
	}
	return list
}

// fingerprint is what an apply with nothing to do must not change: files,
// processes, etcd's own revision apart from Patroni's heartbeat.
func (s *site) fingerprint() string {
	var b strings.Builder
	for _, h := range s.lab.Hosts() {
		fmt.Fprintln(&b, h.Name, s.on(h.Name, `find /etc -newermt '1970-01-01' -type f -printf '%p %T@ %m %u %g\n' | sort | sha256sum
			systemctl show -p InvocationID patroni etcd
			cat /var/lib/postgresql/17/main/patroni.dynamic.json | sha256sum`))
	}
	return b.String()
}
