package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// nodeUpgrade measures upgrades of three nodes to another minor version of PostgreSQL,
// and back, while a client writes a row every 20 ms: how long it cannot, how many of its
// transactions fail, how often the leader changes, how long the whole apply takes. In
// turns with each, the same client during a bare switchover of such a cluster.
func nodeUpgrade(ctx context.Context, s *suite, runs int) ([]Result, error) {
	var gaps, bare, switchovers, totals, failed, bareFailed samples
	err := s.onHosts(ctx, labhost.Warm, func(ctx context.Context, lab *labhost.Lab) error {
		u, err := s.upgrading(ctx, lab)
		if err != nil {
			return err
		}
		defer u.w.Stop()
		for i := range runs {
			broken := u.w.Broken()
			gap, err := switchover(ctx, u.lab, u.w, names(u.lab), "")
			if err != nil {
				return fmt.Errorf("a bare switchover: %w", err)
			}
			bare, bareFailed = append(bare, gap.Seconds()), append(bareFailed, float64(u.w.Broken()-broken))
			broken = u.w.Broken()
			changes, err := u.changes(ctx)
			if err != nil {
				return err
			}
			took, err := u.upgrade(ctx, u.pins[(i+1)%2])
			if err != nil {
				return err
			}
			mine := u.w.TakeGap()
			now, err := u.changes(ctx)
			if err != nil {
				return err
			}
			gaps, totals = append(gaps, mine.Seconds()), append(totals, took.Seconds())
			switchovers, failed = append(switchovers, float64(now-changes)), append(failed, float64(u.w.Broken()-broken))
			s.logf("upgrade_write_gap %d/%d: %.2f s without a write, %d switchovers, %.0f failed transactions, %.1f s in all; a bare switchover: %.2f s", i+1, runs, mine.Seconds(), now-changes, failed[len(failed)-1], took.Seconds(), gap.Seconds())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return []Result{
		gaps.result("upgrade_write_gap", "s").to("switchover_write_gap", 1.1),
		bare.result("switchover_write_gap", "s"),
		gaps.most("upgrade_write_gap_worst", "s").atMost(2),
		switchovers.most("upgrade_switchovers", "switchovers").atMost(1),
		failed.most("upgrade_failed_transactions", "transactions").atMost(1),
		bareFailed.most("switchover_failed_transactions", "transactions"),
		totals.most("upgrade_total", "s").atMost(60),
	}, nil
}

// upgraded is a cluster that is brought from one version to another and back.
type upgraded struct {
	suite *suite
	lab   *labhost.Lab
	m     *module
	w     *writer.Writer
	pins  []string // of PostgreSQL
	v     versions
}

// upgrading makes a cluster of three, and a client that writes.
func (s *suite) upgrading(ctx context.Context, lab *labhost.Lab) (*upgraded, error) {
	u := &upgraded{suite: s, lab: lab}
	have, err := lab.Versions("postgresql-17")
	if err != nil {
		return nil, err
	}
	u.pins = []string{debver.Upstream(have[0]), debver.Upstream(have[len(have)-1])}
	if u.pins[0] == u.pins[1] {
		return nil, fmt.Errorf("the lab has only one version of PostgreSQL, %s", u.pins[0])
	}
	if u.m, err = s.quickstart(lab); err != nil {
		return nil, err
	}
	// Not what the quickstart has: where a standby has to confirm each write, the client
	// waits for the first one to follow the new primary, which takes what it takes.
	if err := u.m.write("asynchronous_override.tf", "resource \"pgha_patroni_cluster\" \"main\" {\n  synchronous_mode = \"off\"\n}\n"); err != nil {
		return nil, err
	}
	if u.v, err = versionsOf(lab); err != nil {
		return nil, err
	}
	if _, err := u.upgrade(ctx, u.pins[0]); err != nil {
		return nil, err
	}
	if _, err := awaitStreaming(ctx, lab); err != nil {
		return nil, err
	}
	leader, err := leaderOf(ctx, u.lab, names(u.lab))
	if err != nil {
		return nil, err
	}
	if _, err := sql(ctx, lab, leader, "create role bench superuser login password 'bench-password'"); err != nil {
		return nil, err
	}
	authority, err := lab.SSH(ctx, leader, "cat /etc/pgha/patroni/*/ca.crt")
	if err != nil {
		return nil, err
	}
	c := writer.Config{User: "bench", Password: "bench-password", CA: authority}
	for _, h := range lab.Hosts() {
		c.Hosts = append(c.Hosts, h.Addr)
	}
	u.w, err = writer.Begin(ctx, c)
	return u, err
}

// upgrade applies a version of PostgreSQL, and returns how long that took.
func (u *upgraded) upgrade(ctx context.Context, postgres string) (time.Duration, error) {
	v := u.v
	v.PostgreSQL = postgres
	hosts := map[string]string{}
	for _, h := range u.lab.Hosts() {
		hosts[h.Name] = h.Addr
	}
	if err := u.m.writeJSON("lab.auto.tfvars.json", map[string]any{"hosts": hosts, "allowed_networks": []string{network(u.lab)}, "versions": v}); err != nil {
		return 0, err
	}
	cmd := u.m.command(ctx, apply...)
	cmd.Env = append(cmd.Env, "PGHA_PROGRESS_FILE="+filepath.Join(u.suite.dir, "upgrade.progress"))
	took, out, err := timed(cmd)
	if err != nil {
		return 0, fmt.Errorf("%w\n%s", err, out)
	}
	return took, nil
}

// changes is how often the leader has changed so far: each is a new timeline.
func (u *upgraded) changes(ctx context.Context) (int, error) {
	leader, err := leaderOf(ctx, u.lab, names(u.lab))
	if err != nil {
		return 0, err
	}
	out, err := sql(ctx, u.lab, leader, "select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")
	if err != nil {
		return 0, err
	}
	timeline, err := strconv.ParseInt(strings.TrimSpace(out), 16, 64)
	return int(timeline), err
}
