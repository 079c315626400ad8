package acceptance

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// crossSite is several datacenters, each with an etcd and a cluster of its own.
type crossSite struct {
	*site
	nodes    map[string][]string // hosts with a node, by datacenter
	etcd     map[string][]string // hosts with a member of etcd
	primary  string
	patroni  string
	more     string            // further attributes of the replication
	clusters string            // of each cluster
	newer    string            // version of PostgreSQL in dc2, if that is another one
	follow   map[string]string // which datacenter another one follows, unless the primary
	delay    map[string]string // by how much a datacenter applies later
	settings string            // further parameters of each cluster
}

func newCrossSite(t *testing.T, patroni string, more ...labhost.Datacenter) *crossSite {
	t.Helper()
	cli.Binary(t)
	lab := labtest.New(t, labhost.Options{Image: labhost.Warm, Datacenters: append([]labhost.Datacenter{
		{Name: "dc1", Hosts: []string{"a1", "a2", "a3"}}, {Name: "dc2", Hosts: []string{"b1", "b2", "b3"}},
	}, more...)})
	if err := lab.Latency(t.Context(), "dc2", 15*time.Millisecond, 2*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	s := &crossSite{
		site: &site{t: t, lab: lab, Dir: cli.New(t, nil, lab.Env()...)}, primary: "dc1",
		nodes: map[string][]string{"dc1": {"a1", "a2", "a3"}, "dc2": {"b1", "b2"}},
		etcd:  map[string][]string{"dc1": {"a1", "a2", "a3"}, "dc2": {"b1", "b2", "b3"}},
	}
	for _, dc := range more {
		s.nodes[dc.Name], s.etcd[dc.Name] = dc.Hosts, dc.Hosts
	}
	switch patroni {
	case "oldest":
		s.patroni = s.oldest("patroni")
	case "newest":
		s.patroni = s.newest("patroni")
	}
	return s
}

func (s *crossSite) configure() {
	s.t.Helper()
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("terraform {\n  required_providers {\n    pgha = { source = \"pgha/pgha\" }\n  }\n}")
	p("provider \"pgha\" {\n  on_unreachable = \"keep\"\n}")
	p("variable \"primary_site\" {\n  default = %q\n}", s.primary)
	for _, dc := range slices.Sorted(maps.Keys(s.nodes)) {
		p("locals {\n  %s = {", dc)
		for _, h := range s.etcd[dc] {
			p("    %s = %q", h, s.lab.Host(h).Addr)
		}
		p("  }\n}")
		postgres := s.oldest(s.server())
		if dc == "dc2" && s.newer != "" {
			postgres = s.newer
		}
		p(`resource "pgha_host" %[1]q {
  for_each  = local.%[1]s
  name      = each.key
  address   = each.value
  time_sync = "off"
}
resource "pgha_etcd_cluster" %[1]q {
  name    = "dcs"
  version = %[2]q
  members = { for name in keys(local.%[1]s) : name => { host = pgha_host.%[1]s[name].access } }
  deletion_protection = false
  on_destroy = "purge"
}
resource "pgha_patroni_cluster" %[1]q {
  scope            = "main"
  etcd             = pgha_etcd_cluster.%[1]s.access
  allowed_networks = ["10.0.0.0/8"]
  synchronous_mode = "quorum"
  rollout          = { allow_downtime = true }
  failure_detection = "fast"
  postgresql       = { use_pg_rewind = true, parameters = { max_slot_wal_keep_size = "256MB", tcp_user_timeout = "20s" %[7]s } }
  deletion_protection = false
  on_destroy = "purge"
  %[6]s
}
resource "pgha_patroni_node" %[1]q {
  for_each   = toset([%[3]s])
  cluster    = pgha_patroni_cluster.%[1]s.membership
  host       = pgha_host.%[1]s[each.key].access
  name       = each.key
  versions   = { postgresql = %[4]q, patroni = %[5]q }
  on_destroy = "purge"
  depends_on = [pgha_cross_dc_replication.main]
}`, dc, s.oldest("etcd-server"), quotedList(s.nodes[dc]), postgres, s.patroni, s.clusters, s.settings)
	}
	p("resource \"pgha_cross_dc_replication\" \"main\" {\n  name    = \"main\"\n  primary = var.primary_site\n  %s\n  sites = {", s.more)
	for _, dc := range slices.Sorted(maps.Keys(s.nodes)) {
		further := ""
		if f := s.follow[dc]; f != "" {
			further = fmt.Sprintf(", follow = %q", f)
		}
		if d := s.delay[dc]; d != "" {
			further += fmt.Sprintf(", recovery_min_apply_delay = %q", d)
		}
		p("    %[1]s = { clusters = [{ cluster = pgha_patroni_cluster.%[1]s.membership, hosts = [for n in [%[2]s] : local.%[1]s[n]] }]%[3]s }", dc, quotedList(s.nodes[dc]), further)
	}
	p("  }\n}")
	var authorities []string
	for _, dc := range slices.Sorted(maps.Keys(s.nodes)) {
		authorities = append(authorities, "pgha_patroni_cluster."+dc+".ca_certificate")
	}
	p("output \"ca\" { value = join(\"\", [%s]) }", strings.Join(authorities, ", "))
	p("output \"generation\" { value = pgha_cross_dc_replication.main.generation }")
	s.Write("main.tf", b.String())
}

// writes starts a writer that finds the primary, in whichever datacenter.
func (s *crossSite) writes() *writer.Writer {
	s.t.Helper()
	s.app(s.leaderOf(s.primary))
	c := s.writerConfig()
	c.Hosts = nil
	for _, dc := range slices.Sorted(maps.Keys(s.nodes)) {
		for _, h := range s.nodes[dc] {
			c.Hosts = append(c.Hosts, s.lab.Host(h).Addr)
		}
	}
	return writer.Start(s.t, c)
}

// leaderOf is the node that leads in a datacenter, as a primary or as a standby.
func (s *crossSite) leaderOf(dc string) string {
	s.t.Helper()
	name := ""
	s.eventually("a leader in "+dc, time.Minute, func(ctx context.Context) (bool, string) {
		for _, h := range s.nodes[dc] {
			list, err := s.list(ctx, h)
			if err != nil {
				continue
			}
			for _, m := range list {
				if m.Role == "Leader" || m.Role == "Standby Leader" {
					name = m.Member
				}
			}
			return name != "", fmt.Sprint(list)
		}
		return false, "nobody answers"
	})
	return name
}

// is checks, with what the servers themselves say, that one datacenter takes writes, and
// that all nodes of the other one stream, its leader from a server of the first.
func (s *crossSite) is(t *testing.T, primary string) {
	t.Helper()
	for _, dc := range slices.Sorted(maps.Keys(s.nodes)) {
		leader := s.leaderOf(dc)
		for _, h := range s.nodes[dc] {
			recovery := s.sql(h, "select pg_is_in_recovery()")
			if want := map[bool]string{true: "f", false: "t"}[dc == primary && h == leader]; recovery != want {
				t.Errorf("%s of %s is in recovery: %s; %s is the primary", h, dc, recovery, primary)
			}
			if recovery == "f" {
				continue
			}
			from := ""
			s.eventually(h+" to stream", time.Minute, func(context.Context) (bool, string) {
				from = s.sql(h, "select sender_host from pg_stat_wal_receiver where status = 'streaming'")
				return from != "", "it does not"
			})
			want := []string{leader}
			if up := s.upstream(dc, primary); h == leader && up == primary {
				want = []string{s.leaderOf(primary)}
			} else if h == leader {
				want = s.nodes[up] // whichever of them
			}
			if !slices.ContainsFunc(want, func(h string) bool { return s.lab.Host(h).Addr == from }) {
				t.Errorf("%s streams from %s, not from %v", h, from, want)
			}
		}
	}
	for _, dc := range slices.Sorted(maps.Keys(s.nodes)) {
		for _, h := range s.nodes[dc] {
			var slots []string
			for _, other := range slices.Sorted(maps.Keys(s.nodes)) {
				if dc == primary && other != dc && s.upstream(other, primary) == dc {
					slots = append(slots, "pgha_site_"+other)
				}
			}
			want := strings.Join(slots, ",")
			s.eventually("the slots of "+h, time.Minute, func(context.Context) (bool, string) {
				got := s.sql(h, "select coalesce(string_agg(slot_name, ',' order by slot_name), '') from pg_replication_slots where slot_name like 'pgha_site%'")
				return got == want, fmt.Sprintf("%q, want %q", got, want)
			})
		}
	}
}

// upstream is the datacenter that another one follows.
func (s *crossSite) upstream(dc, primary string) string {
	if f := s.follow[dc]; f != "" {
		return f
	}
	return primary
}

// moves applies with another primary.
func (s *crossSite) moves(t *testing.T, to string) {
	t.Helper()
	s.primary = to
	s.Apply(t.Context(), "-var", "primary_site="+to)
}

// The primary moves between datacenters and nothing is lost, whenever an apply is killed; and
// a datacenter that is lost is given up, comes back, and follows.
func TestCrossDC(t *testing.T) {
	turn(t)
	s := newCrossSite(t, "newest")
	w, both := s.planned(t)
	s.run(t, "killed", s.killedMoves)
	s.run(t, "taken back", s.givenUpMove)
	both()
	w.Check(t)
	s.run(t, "lost", s.lostSite)
}

// The same with a Patroni that would crash a primary that is told to follow another site.
func TestCrossDCOldPatroni(t *testing.T) {
	turn(t)
	s := newCrossSite(t, "oldest")
	w, both := s.planned(t)
	s.run(t, "killed", s.killedMoves)
	s.run(t, "taken back", s.givenUpMove)
	both()
	w.Check(t)
}

// runbook keeps what a command printed for the guide "Datacenters", from the first of some
// words on, where PGHA_RUNBOOK says in which folder: make runbook.
func (s *crossSite) runbook(name string, o cli.Output, from string) {
	s.t.Helper()
	folder := os.Getenv("PGHA_RUNBOOK")
	if folder == "" {
		return
	}
	_, text, found := strings.Cut(o.Text, from)
	if !found {
		s.t.Errorf("%s: the output does not say %q:\n%s", name, from, o.Text)
	}
	if err := os.WriteFile(filepath.Join(folder, name+".txt"), []byte(strings.TrimSpace(from+text)+"\n"), 0o644); err != nil {
		s.t.Error(err)
	}
}

// run runs a part of a test, unless one before it has failed: they go on from each other.
func (s *crossSite) run(t *testing.T, name string, f func(t *testing.T)) {
	if !t.Failed() {
		t.Run(name, f)
	}
}

// planned makes all of it, and moves the primary there and back while a client writes.
func (s *crossSite) planned(t *testing.T) (w *writer.Writer, both func()) {
	t.Helper()
	ctx := t.Context()
	s.configure()
	s.Apply(ctx)
	s.NoChanges(ctx)
	s.is(t, "dc1")
	w = s.writes()
	both = s.watch(t)
	rounds := 1
	if exhaustive() {
		rounds = 5
	}
	for range rounds {
		for _, to := range []string{"dc2", "dc1"} {
			plan := s.Plan(ctx, "-var", "primary_site="+to)
			has(t, plan, "Applying this moves the primary from site "+otherDC(to)+" to site "+to, "No acknowledged row is lost")
			if to == "dc1" { // the last one, with which dc1 is the primary
				s.runbook("planned", plan, "Terraform will perform")
			}
			w.TakeGap()
			s.moves(t, to)
			t.Logf("the primary moved to %s: nobody wrote for %s", to, w.TakeGap())
			s.is(t, to)
			s.NoChanges(ctx, "-var", "primary_site="+to)
		}
	}
	return w, both
}

func otherDC(dc string) string { return map[string]string{"dc1": "dc2", "dc2": "dc1"}[dc] }

// only are an apply's arguments for the replication alone.
func (s *crossSite) only(primary string) []string {
	return []string{"-refresh=false", "-target=pgha_cross_dc_replication.main", "-var", "primary_site=" + primary}
}

// watch looks, until what it returns is called, whether servers of both datacenters take
// writes at the same time, and fails the test if they ever do.
func (s *crossSite) watch(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cfg := s.writerConfig()
	var looks int
	var done sync.WaitGroup
	done.Go(func() {
		conns := map[string]*writer.Kept{}
		for _, h := range slices.Concat(s.nodes["dc1"], s.nodes["dc2"]) {
			c := cfg
			c.Hosts = []string{s.lab.Host(h).Addr}
			conns[h] = writer.Keep(c)
			defer conns[h].Close()
		}
		writable := func(h string) bool { return takesWrites(ctx, conns[h]) }
		for ctx.Err() == nil {
			for _, a := range s.nodes["dc1"] {
				for _, b := range s.nodes["dc2"] {
					if writable(a) && writable(b) && writable(a) {
						t.Errorf("%s and %s take writes at the same time", a, b)
						return
					}
				}
			}
			looks++
			time.Sleep(10 * time.Millisecond) // it is to look, and not to load the servers
		}
	})
	return func() {
		cancel()
		done.Wait()
		t.Logf("looked %d times whether both datacenters take writes", looks)
	}
}

// killedMoves kills moves at every step, and takes them up again.
func (s *crossSite) killedMoves(t *testing.T) {
	k := &killer{site: s.site, inside: []string{"crossdc.demote", "crossdc.received", "crossdc.promote", "crossdc.streams"}}
	k.few("in crossdc.demote", "crossdc.demote", "crossdc.received", "in crossdc.promote", "crossdc.promote", "crossdc.note")
	for i, to := range []string{"dc2", "dc1"} {
		k.hard = uint32(i)
		k.sweep(t, "apply", s.only(to)...)
		s.primary = to
		s.is(t, to)
	}
	s.configure()
	s.NoChanges(t.Context())
}

// givenUpMove kills a move when the old site has stopped taking writes, and applies with the
// old site as the primary.
func (s *crossSite) givenUpMove(t *testing.T) {
	ctx := t.Context()
	s.killedAt(ctx, "crossdc.demote", s.only("dc2")...)
	has(t, s.Plan(ctx), "A move of the primary from dc1 to dc2 was cut off")
	s.unlocked(ctx)
	s.is(t, "dc1")
	s.NoChanges(ctx)
	// An interrupt takes it back by itself.
	r := s.begin(ctx, "apply", s.only("dc2")...)
	r.await(t, "crossdc.received")
	r.kill(syscall.SIGINT)
	if code, out := r.end(); code == 0 || !strings.Contains(out, "which takes writes as before") {
		if !strings.Contains(out, "is being promoted") { // it was quicker
			t.Errorf("an interrupted move: %d\n%s", code, out)
		}
		s.unlocked(ctx)
	}
	s.is(t, "dc1")
	s.NoChanges(ctx)
}
