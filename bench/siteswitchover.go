package main

import (
	"context"
	"fmt"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// Two datacenters, 30 ms there and back from each other: three nodes in one, two and a
// witness for etcd in the other.
const (
	oneWay = 15 * time.Millisecond
	jitter = 2 * time.Millisecond
)

var siteHosts = []labhost.Datacenter{{Name: "dc1", Hosts: []string{"a1", "a2", "a3"}}, {Name: "dc2", Hosts: []string{"b1", "b2", "b3"}}}

// siteSwitchover measures planned moves of the primary between two datacenters, there and
// back, while a client writes a row every 20 ms that knows the addresses of all nodes: how
// long it cannot, and how long the whole apply takes, from the command to the prompt.
//
// The gap is what PostgreSQL takes to stop and to send the rest, the provider to see that
// it has arrived, Patroni to promote, and the client to connect again. The newest Patroni
// is measured, which stops a primary cleanly by itself.
func siteSwitchover(ctx context.Context, s *suite, runs int) ([]Result, error) {
	var gaps, totals samples
	err := s.onDatacenters(ctx, labhost.Warm, siteHosts, func(ctx context.Context, lab *labhost.Lab) error {
		if err := lab.Latency(ctx, "dc2", oneWay, jitter); err != nil {
			return err
		}
		m, err := s.sites(lab)
		if err != nil {
			return err
		}
		move := func(to string) (time.Duration, error) {
			took, _, err := m.run(ctx, append(apply, "-var", "primary_site="+to)...)
			return took, err
		}
		if _, err := move("dc1"); err != nil {
			return err
		}
		w, err := writesToSites(ctx, lab)
		if err != nil {
			return err
		}
		defer w.Stop()
		for i := range runs {
			w.TakeGap()
			took, err := move([]string{"dc2", "dc1"}[i%2])
			if err != nil {
				return err
			}
			if err := written(ctx, w); err != nil {
				return err
			}
			gap := w.TakeGap()
			gaps, totals = append(gaps, gap.Seconds()), append(totals, took.Seconds())
			s.logf("site_switchover %d/%d: %.2f s without a write, %.1f s in all", i+1, runs, gap.Seconds(), took.Seconds())
		}
		lost, acked, err := w.Missing(ctx)
		if err == nil && lost > 0 {
			err = fmt.Errorf("%d of %d acknowledged rows are lost", lost, acked)
		}
		s.logf("site_switchover: %d of %d acknowledged rows are lost", lost, acked)
		return err
	})
	if err != nil {
		return nil, err
	}
	return []Result{gaps.result("site_switchover_gap", "s").atMost(5), totals.result("site_switchover_total", "s")}, nil
}

// sites is modules/multi-datacenter for a lab's hosts, not yet applied.
func (s *suite) sites(lab *labhost.Lab) (*module, error) {
	v, err := versionsOf(lab)
	if err != nil {
		return nil, err
	}
	patroni, err := lab.Versions("patroni")
	if err != nil {
		return nil, err
	}
	v.Patroni = debver.Upstream(patroni[len(patroni)-1])
	m, err := s.newModule(lab.Env()...)
	if err != nil {
		return nil, err
	}
	if err := m.copyFrom("modules/multi-datacenter"); err != nil {
		return nil, err
	}
	sites := map[string]any{}
	for _, dc := range siteHosts {
		hosts := map[string]string{}
		for _, h := range dc.Hosts {
			hosts[h] = lab.Host(h).Addr
		}
		site := map[string]any{"hosts": hosts}
		if dc.Name == "dc2" {
			site["nodes"] = dc.Hosts[:2]
		}
		sites[dc.Name] = site
	}
	if err := m.writeJSON("lab.auto.tfvars.json", map[string]any{"sites": sites, "allowed_networks": []string{network(lab)}, "versions": v}); err != nil {
		return nil, err
	}
	return m, m.write("lab_override.tf", hostOverride)
}

// writesToSites starts a client that finds the primary among all nodes.
func writesToSites(ctx context.Context, lab *labhost.Lab) (*writer.Writer, error) {
	nodes := []string{"a1", "a2", "a3", "b1", "b2"}
	lead, err := leaderOf(ctx, lab, nodes)
	if err != nil {
		return nil, err
	}
	if _, err := sql(ctx, lab, lead, "create role bench superuser login password 'bench-password'"); err != nil {
		return nil, err
	}
	c := writer.Config{User: "bench", Password: "bench-password"}
	for _, h := range nodes {
		c.Hosts = append(c.Hosts, lab.Host(h).Addr)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		w, err := writer.Begin(ctx, c) // a standby may not have the role yet
		if err == nil || time.Now().After(end) {
			if err != nil {
				err = fmt.Errorf("the client cannot begin: %w", err)
			}
			return w, err
		}
	}
}
