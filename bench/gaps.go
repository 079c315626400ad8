package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/bind"
	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// presets are those of failure_detection.
var presets = []string{"fast", "normal", "wide"}

// way is one in which clients find the primary.
type way struct {
	name              string
	config            writer.Config
	w                 *writer.Writer
	planned, powercut samples
}

// gaps measures how long a client that writes a row every 20 ms cannot write, which finds the
// primary by a virtual address, by a DNS record, or by a connection string with all nodes:
// three clients at once, at planned switchovers, and when the power of the primary's host
// is cut. There are a fifth as many of the latter.
func gaps(ctx context.Context, s *suite, runs int) ([]Result, error) {
	var results []Result
	hosts := []string{"pg1", "pg2", "pg3"}
	err := s.onNamed(ctx, labhost.Warm, append([]string{"ns1"}, hosts...), func(ctx context.Context, lab *labhost.Lab) error {
		g, err := s.newGaps(ctx, lab, hosts)
		if err != nil {
			return err
		}
		for _, preset := range presets {
			ways, err := g.measure(ctx, preset, runs)
			if err != nil {
				return fmt.Errorf("failure_detection %s: %w", preset, err)
			}
			for _, w := range ways {
				results = append(results, w.planned.result("gap_"+w.name+"_planned_"+preset, "s"), w.powercut.result("gap_"+w.name+"_powercut_"+preset, "s"))
			}
		}
		return nil
	})
	return results, err
}

// gapped is a cluster with a virtual address and a DNS record.
type gapped struct {
	s       *suite
	lab     *labhost.Lab
	hosts   []string
	m       *module
	address string
}

const gapSecret = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

func (s *suite) newGaps(ctx context.Context, lab *labhost.Lab, hosts []string) (*gapped, error) {
	v, err := versionsOf(lab)
	if err != nil {
		return nil, err
	}
	vips, err := lab.Versions("vip-manager2")
	if err != nil || len(vips) == 0 {
		return nil, errors.Join(err, errors.New("the lab has no vip-manager2"))
	}
	m, err := s.quickstartOn(lab, hosts, v)
	if err != nil {
		return nil, err
	}
	g := &gapped{s: s, lab: lab, hosts: hosts, m: m}
	g.address, _ = lab.VIP("dc1", 1)
	z := bind.Zone{
		Name: "pg.test", Primary: "ns1", Keys: []bind.Key{{Name: "pgha", Algorithm: "hmac-sha256", Secret: gapSecret}},
		Policy: []string{"grant pgha name db.pg.test. A AAAA TXT"},
	}
	if err := z.Serve(ctx, lab); err != nil {
		return nil, err
	}
	return g, m.write("ways.tf", fmt.Sprintf(`resource "pgha_vip" "main" {
  cluster = pgha_patroni_cluster.main.membership
  nodes   = { for name, node in pgha_patroni_node.db : name => node.id }
  address = "%s/24"
  version = %q
}
resource "pgha_dns_record" "main" {
  cluster = pgha_patroni_cluster.main.membership
  nodes   = { for name, node in pgha_patroni_node.db : name => node.id }
  zone    = "pg.test"
  name    = "db"
  servers = [%q]
  key     = { name = "pgha", secret_wo = %q, secret_wo_version = 1 }
}
`, g.address, debver.Upstream(vips[0]), lab.Host("ns1").Addr, gapSecret))
}

// measure is for one preset.
func (g *gapped) measure(ctx context.Context, preset string, runs int) ([]*way, error) {
	override := hostOverride + fmt.Sprintf(`resource "pgha_patroni_cluster" "main" {
  failure_detection = %q
  postgresql        = { parameters = { wal_retrieve_retry_interval = "500ms" } }
}
`, preset)
	if err := g.m.write("lab_override.tf", override); err != nil {
		return nil, err
	}
	if out, err := g.m.command(ctx, apply...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	if _, err := awaitComplete(ctx, func(ctx context.Context) (bool, error) { return streams(ctx, g.lab, g.hosts) }); err != nil {
		return nil, err
	}
	ways, err := g.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, w := range ways {
			w.w.Stop()
		}
	}()
	for i := range runs {
		for _, w := range ways {
			w.w.TakeGap()
		}
		// The client with all nodes is watched by the switchover itself.
		multi := ways[len(ways)-1]
		gap, err := switchover(ctx, g.lab, multi.w, g.hosts, "")
		if err != nil {
			return nil, err
		}
		multi.planned = append(multi.planned, gap.Seconds())
		for _, w := range ways[:len(ways)-1] {
			if err := written(ctx, w.w); err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
			w.planned = append(w.planned, w.w.TakeGap().Seconds())
		}
		g.s.logf("gap %s %d/%d: a switchover: %s", preset, i+1, runs, said(ways, func(w *way) samples { return w.planned }))
	}
	for i := range max(1, runs/5) {
		if err := g.powercut(ctx, ways); err != nil {
			return nil, err
		}
		g.s.logf("gap %s %d/%d: a power cut: %s", preset, i+1, max(1, runs/5), said(ways, func(w *way) samples { return w.powercut }))
	}
	return ways, nil
}

func said(ways []*way, of func(*way) samples) (text string) {
	for _, w := range ways {
		list := of(w)
		text += fmt.Sprintf("%s %.2f s  ", w.name, list[len(list)-1])
	}
	return text
}

// begin has three clients write, each into a table of its own.
func (g *gapped) begin(ctx context.Context) ([]*way, error) {
	lead, err := leaderOf(ctx, g.lab, g.hosts)
	if err != nil {
		return nil, err
	}
	if _, err := sql(ctx, g.lab, lead, "do $$ begin if not exists (select from pg_roles where rolname = 'bench') then create role bench superuser login password 'bench-password'; end if; end $$"); err != nil {
		return nil, err
	}
	resolver := bind.Resolver(g.lab, "ns1")
	of := func(hosts ...string) writer.Config {
		return writer.Config{User: "bench", Password: "bench-password", Hosts: hosts}
	}
	var all []string
	for _, h := range g.hosts {
		all = append(all, g.lab.Host(h).Addr)
	}
	ways := []*way{{name: "vip", config: of(g.address)}, {name: "dns", config: of("db.pg.test.")}, {name: "multihost", config: of(all...)}}
	ways[1].config.Lookup = resolver.LookupHost
	for _, w := range ways {
		w.config.Table = "written_" + w.name
		if w.w, err = writer.Begin(ctx, w.config); err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return ways, nil
}

// powercut takes the power from the primary's host, waits until all clients write again, and
// brings it back.
func (g *gapped) powercut(ctx context.Context, ways []*way) error {
	lead, err := leaderOf(ctx, g.lab, g.hosts)
	if err != nil {
		return err
	}
	for _, w := range ways {
		if err := written(ctx, w.w); err != nil {
			return err
		}
		w.w.TakeGap()
	}
	if err := g.lab.Kill(ctx, lead); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for _, w := range ways {
		for before := w.w.Acked(); w.w.Acked() < before+50; {
			select {
			case <-bounded.Done():
				return fmt.Errorf("%s: no rows are written any more", w.name)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	for _, w := range ways {
		w.powercut = append(w.powercut, w.w.TakeGap().Seconds())
	}
	if err := g.lab.Start(ctx, lead); err != nil {
		return err
	}
	for ok := false; !ok; {
		if ok, err = streams(ctx, g.lab, g.hosts); err != nil {
			ok = false // it is on its way up
		}
		select {
		case <-bounded.Done():
			return fmt.Errorf("%s does not come back: %w", lead, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
	return nil
}
