package acceptance

import (
	"strings"
	"testing"
	"time"

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
	u.old = pins{u.oldest("postgresql-17"), u.oldest("patroni")}
	u.new = pins{u.newest("postgresql-17"), u.newest("patroni")}
	u.Apply(t.Context())
	u.healthy(hosts[0], hosts...)
	u.w = u.write()
	return u
}

// to writes the configuration with other versions of all nodes.
func (u *staged) to(v pins) {
	u.base.Postgres, u.base.Patroni, u.base.Canary = v.Postgres, v.Patroni, nil
	u.configure(u.base)
}

// runs are the versions that really run, by host, and when PostgreSQL was started.
func (u *staged) runs(h string) (v pins, started string) {
	u.t.Helper()
	v.Postgres, _, _ = strings.Cut(u.sql(h, "show server_version"), " ")
	v.Patroni = u.on(h, `python3 -c 'import json, ssl, urllib.request as u; print(json.load(u.urlopen("https://127.0.0.1:8008/patroni", context=ssl._create_unverified_context()))["patroni"]["version"])'`)
	return v, u.sql(h, "select pg_postmaster_start_time()")
}

// check looks at what runs on all hosts.
func (u *staged) check(t *testing.T, want pins) {
	t.Helper()
	for _, h := range u.all {
		if have, _ := u.runs(h); have != want {
			t.Errorf("%s runs %v, and not %v", h, have, want)
		}
		if held := u.on(h, "apt-mark showhold"); !strings.Contains(held, "postgresql-17\n") || !strings.Contains(held, "patroni") {
			t.Errorf("on %s only these are held: %s", h, held)
		}
	}
	u.healthy(u.all[0], u.all...)
	u.NoChanges(t.Context())
}

// switchovers is how often the leader has changed so far.
func (u *staged) switchovers() int {
	return strings.Count(u.on(u.all[0], "patronictl -c /etc/patroni/config.yml history -f tsv"), "\n")
}

// Three nodes are brought to other versions of PostgreSQL and Patroni, and back,
// while rows are written: one switchover for each, and no acknowledged row is lost.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	u := newStaged(t, `rollout = { patience = "40s" }`, "pg1", "pg2", "pg3")
	ctx := t.Context()
	for _, step := range []struct {
		name        string
		to          pins
		switchovers int
	}{
		{"PostgreSQL", pins{u.new.Postgres, u.old.Patroni}, 1},
		{"PostgreSQL and back", u.old, 1},
		{"Patroni alone", pins{u.old.Postgres, u.new.Patroni}, 0},
		{"Patroni and back", u.old, 0},
		{"both", u.new, 1},
	} {
		t.Run(step.name, func(t *testing.T) {
			before := u.switchovers()
			_, started := u.runs("pg1")
			u.to(step.to)
			plan := u.Plan(ctx)
			t.Logf("plan:\n%s", plan.Text)
			begin := time.Now()
			u.Apply(ctx)
			t.Logf("applied in %s; %d writes failed so far, longest gap %s", time.Since(begin).Round(100*time.Millisecond), u.w.Failed(), u.w.LongestGap())
			u.check(t, step.to)
			if n := u.switchovers() - before; n != step.switchovers {
				t.Errorf("%d switchovers, and not %d", n, step.switchovers)
			}
			if _, now := u.runs("pg1"); step.switchovers == 0 && now != started {
				t.Errorf("PostgreSQL was restarted: started at %s, before at %s", now, started)
			}
		})
	}
	u.w.Check(t)
}
