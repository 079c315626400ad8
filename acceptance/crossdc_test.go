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

	"github.com/jackc/pgx/v5"

	"github.com/pgha/terraform-provider-pgha/acceptance/bind"
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
  postgresql       = { use_pg_rewind = true, parameters = { max_slot_wal_keep_size = "256MB" } }
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
}`, dc, s.oldest("etcd-server"), quotedList(s.nodes[dc]), postgres, s.patroni, s.clusters)
	}
	p("resource \"pgha_cross_dc_replication\" \"main\" {\n  name    = \"main\"\n  primary = var.primary_site\n  %s\n  sites = {", s.more)
	for _, dc := range slices.Sorted(maps.Keys(s.nodes)) {
		follow := ""
		if f := s.follow[dc]; f != "" {
			follow = fmt.Sprintf(", follow = %q", f)
		}
		p("    %[1]s = { clusters = [{ cluster = pgha_patroni_cluster.%[1]s.membership, hosts = [for n in [%[2]s] : local.%[1]s[n]] }]%[3]s }", dc, quotedList(s.nodes[dc]), follow)
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

// What is around moves: sites that are cut off, names and addresses, passwords, upgrades.
func TestCrossDCAround(t *testing.T) {
	turn(t)
	s := newCrossSite(t, "newest", labhost.Datacenter{Name: "dc3", Hosts: []string{"c1"}})
	s.follow = map[string]string{"dc3": "dc2"}
	s.configure()
	s.Apply(t.Context())
	s.is(t, "dc1")
	w := s.writes()
	both := s.watch(t)
	s.run(t, "partition", func(t *testing.T) { s.apart(t, w) })
	s.run(t, "behind the slot", func(t *testing.T) { s.behindSlot(t, w) })
	s.run(t, "upgraded", s.upgradedStandby)
	s.run(t, "addresses and a name", s.named)
	s.run(t, "other passwords", s.otherPasswords)
	s.run(t, "imported", s.imported)
	s.run(t, "two states", s.twoStates)
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
		conns := map[string]*pgx.Conn{}
		writable := func(h string) bool {
			short, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			if conns[h] == nil {
				c := cfg
				c.Hosts = []string{s.lab.Host(h).Addr}
				conn, err := writer.ConnectTo(short, c, nil)
				if err != nil {
					return false
				}
				conns[h] = conn
			}
			var recovery bool
			if err := conns[h].QueryRow(short, "select pg_is_in_recovery()").Scan(&recovery); err != nil {
				_ = conns[h].Close(context.Background())
				conns[h] = nil
				return false
			}
			return !recovery
		}
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
		for _, c := range conns {
			if c != nil {
				_ = c.Close(context.Background())
			}
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

// apart cuts the datacenters off from each other: nobody is promoted, a move is refused, and
// what was written meanwhile arrives afterwards.
func (s *crossSite) apart(t *testing.T, w *writer.Writer) {
	ctx := t.Context()
	if err := s.lab.Partition(ctx, "dc2"); err != nil {
		t.Fatal(err)
	}
	healed := false
	defer func() {
		if !healed {
			_ = s.lab.Heal(context.WithoutCancel(ctx), "dc2")
		}
	}()
	s.writesFor(w, 15*time.Second, "while the datacenters are apart")
	has(t, s.Plan(ctx, "-var", "primary_site=dc2"), "What speaks against it now", "cannot log in to site dc2")
	o := s.TryApply(ctx, s.only("dc2")...)
	if o.Code == 0 {
		t.Error("the primary moved to a datacenter that is cut off")
	}
	has(t, o, "see whether the primary can move from dc1 to dc2", "cannot log in to site dc2", "site dc1 takes writes")
	for _, h := range s.nodes["dc2"] {
		if got := s.sql(h, "select pg_is_in_recovery()"); got != "t" {
			t.Errorf("%s was promoted", h)
		}
	}
	if err := s.lab.Heal(ctx, "dc2"); err != nil {
		t.Fatal(err)
	}
	healed = true
	s.is(t, "dc1")
	s.NoChanges(ctx)
}

// behindSlot has the other datacenter miss more WAL than its slot keeps.
func (s *crossSite) behindSlot(t *testing.T, w *writer.Writer) {
	ctx := t.Context()
	if err := s.lab.Partition(ctx, "dc2"); err != nil {
		t.Fatal(err)
	}
	healed := false
	defer func() {
		if !healed {
			_ = s.lab.Heal(context.WithoutCancel(ctx), "dc2")
		}
	}()
	leader := s.leaderOf("dc1")
	for range 6 {
		s.sql(leader, "select count(pg_logical_emit_message(false, 'fill', repeat('x', 1000000))) from generate_series(1, 80)")
		s.sql(leader, "checkpoint")
	}
	s.eventually("the WAL to go", 2*time.Minute, func(context.Context) (bool, string) {
		s.sql(leader, "select pg_switch_wal()")
		s.sql(leader, "checkpoint")
		got := s.sql(leader, "select coalesce((select wal_status from pg_replication_slots where slot_name = 'pgha_site_dc2'), 'gone')")
		return got == "lost" || got == "gone", got
	})
	if err := s.lab.Heal(ctx, "dc2"); err != nil {
		t.Fatal(err)
	}
	healed = true
	s.eventually("a plan that says so", 2*time.Minute, func(context.Context) (bool, string) {
		o := s.Plan(ctx)
		return o.Contains("clone it anew"), o.Text
	})
	s.Apply(ctx)
	s.is(t, "dc1")
	s.NoChanges(ctx)
	s.writesFor(w, 3*time.Second, "after dc2 was cloned again")
}

// named has a virtual address in each datacenter, which only the primary's has, and one name
// that leads to the primary in whichever.
func (s *crossSite) named(t *testing.T) {
	ctx := t.Context()
	vips, err := s.lab.Versions("vip-manager2")
	if err != nil || len(vips) == 0 {
		t.Fatal(err, "the lab has no vip-manager2")
	}
	z := bind.Zone{
		Name: "pg.test", Primary: "b3", Keys: []bind.Key{{Name: "pgha", Algorithm: "hmac-sha256", Secret: crossSecret}},
		Policy: []string{"grant pgha name db.pg.test. A AAAA TXT"},
	}
	if err := z.Serve(ctx, s.lab); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	addresses := map[string]string{}
	for _, dc := range slices.Sorted(maps.Keys(s.nodes)) {
		addresses[dc], _ = s.lab.VIP(dc, 1)
		fmt.Fprintf(&b, `resource "pgha_vip" %[1]q {
  cluster = pgha_patroni_cluster.%[1]s.membership
  nodes   = { for name, node in pgha_patroni_node.%[1]s : name => node.id }
  address = "%[2]s/24"
  version = %[3]q
}
resource "pgha_dns_record" %[1]q {
  cluster     = pgha_patroni_cluster.%[1]s.membership
  nodes       = { for name, node in pgha_patroni_node.%[1]s : name => node.id }
  zone        = "pg.test"
  name        = "db"
  servers     = [%[4]q]
  key         = { name = "pgha", secret_wo = %[5]q, secret_wo_version = 1 }
  replication = pgha_cross_dc_replication.main.id
  generation  = pgha_cross_dc_replication.main.generation
}
`, dc, addresses[dc], strings.Split(vips[0], "-")[0], s.lab.Host("b3").Addr, crossSecret)
	}
	s.Write("names.tf", b.String())
	s.Apply(ctx)
	s.NoChanges(ctx)
	resolver := bind.Resolver(s.lab, "b3")
	leads := func(dc string) {
		t.Helper()
		leader := s.lab.Host(s.leaderOf(dc)).Addr
		s.eventually("the name to lead to "+dc, time.Minute, func(ctx context.Context) (bool, string) {
			got, err := resolver.LookupHost(ctx, "db.pg.test.")
			return err == nil && slices.Equal(got, []string{leader}), fmt.Sprint(got, err)
		})
		s.eventually("the address of "+dc, time.Minute, func(context.Context) (bool, string) {
			here := s.on(s.leaderOf(dc), "ip -br address show to "+addresses[dc])
			return here != "", here
		})
		for _, h := range s.nodes[otherDC(dc)] {
			if got := s.on(h, "ip -br address show to "+addresses[otherDC(dc)]); got != "" {
				t.Errorf("%s has the address of %s, which takes no writes: %s", h, otherDC(dc), got)
			}
		}
	}
	leads("dc1")
	for _, to := range []string{"dc2", "dc1"} {
		s.moves(t, to)
		leads(to)
		s.configure()
		s.NoChanges(ctx)
	}
	s.Write("names.tf", "")
	s.Apply(ctx)
	if got, err := resolver.LookupHost(ctx, "db.pg.test."); err == nil {
		t.Errorf("the name is still there: %v", got)
	}
}

const crossSecret = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

// upgradedStandby has the other datacenter's nodes go over to another minor version, one after
// the other, its leader last and after a switchover.
func (s *crossSite) upgradedStandby(t *testing.T) {
	ctx := t.Context()
	s.newer = s.newest(s.server())
	s.configure()
	led := s.leaderOf("dc2")
	s.Apply(ctx)
	for _, h := range s.nodes["dc2"] {
		if got := s.sql(h, "show server_version"); !strings.HasPrefix(got, s.newer) {
			t.Errorf("%s runs %s, not %s", h, got, s.newer)
		}
	}
	if now := s.leaderOf("dc2"); now == led {
		t.Errorf("%s still leads: it was restarted without a switchover", now)
	}
	s.is(t, "dc1")
	s.NoChanges(ctx)
}

// otherPasswords changes those of all accounts, in all datacenters, with one apply.
func (s *crossSite) otherPasswords(t *testing.T) {
	ctx := t.Context()
	before := s.passwords("b1")
	w := s.writes()
	s.clusters, s.more = "credentials = { rotation = 2 }", "credentials_rotation = 2"
	s.configure()
	s.Apply(ctx)
	s.NoChanges(ctx)
	for _, account := range []string{"superuser", "replication", "rewind"} {
		a, b := s.passwords("a1")[account], s.passwords("b1")[account]
		if b == before[account] || a != b {
			t.Errorf("the password of %s is another one in dc2: %t, and the same as in dc1: %t", account, b != before[account], a == b)
		}
	}
	// A standby that has to connect again is let in.
	s.sql(s.leaderOf("dc2"), "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'walreceiver'")
	s.is(t, "dc1")
	w.Check(t)
}

// imported takes the replication up again with an empty state.
func (s *crossSite) imported(t *testing.T) {
	ctx := t.Context()
	id := "main"
	for _, dc := range slices.Sorted(maps.Keys(s.etcd)) {
		var members []string
		for _, h := range s.etcd[dc] {
			members = append(members, h+"="+s.lab.Host(h).Addr)
		}
		id += " " + dc + "=main@dcs@" + strings.Join(members, ",")
	}
	if o := s.Run(ctx, "state", "rm", "pgha_cross_dc_replication.main"); o.Code != 0 {
		t.Fatal(o.Text)
	}
	s.more = "" // what says when passwords were changed is nowhere
	s.configure()
	if o := s.Run(ctx, "import", "-no-color", "pgha_cross_dc_replication.main", id); o.Code != 0 {
		t.Fatal(o.Text)
	}
	s.NoChanges(ctx)
}

// twoStates moves the primary from two states at once: one of them does, and the other one sees
// that it has moved.
func (s *crossSite) twoStates(t *testing.T) {
	ctx := t.Context()
	other := &site{t: s.t, lab: s.lab, Dir: cli.New(t, nil, s.lab.Env()...)}
	for _, name := range []string{"main.tf", "terraform.tfstate"} {
		text, err := os.ReadFile(filepath.Join(s.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		other.Write(name, string(text))
	}
	a, b := s.begin(ctx, "apply", s.only("dc2")...), other.begin(ctx, "apply", s.only("dc2")...)
	codeA, outA := a.end()
	codeB, outB := b.end()
	for _, r := range []struct {
		code int
		out  string
	}{{codeA, outA}, {codeB, outB}} {
		if r.code != 0 && !strings.Contains(r.out, "another apply is at work") {
			t.Errorf("one of two applies at once: %d\n%s", r.code, r.out)
		}
	}
	if codeA != 0 && codeB != 0 {
		t.Error("neither of two applies at once came to its end")
	}
	s.primary = "dc2"
	s.is(t, "dc2")
	var generation int
	s.configure()
	s.unlocked(ctx)
	s.Outputs(ctx, "generation", &generation)
	s.NoChanges(ctx)
	s.moves(t, "dc1")
	s.is(t, "dc1")
	var after int
	s.Outputs(ctx, "generation", &after)
	if after != generation+1 {
		t.Errorf("the primary has moved %d times since, not once", after-generation)
	}
}

// lostSite loses the datacenter that takes writes, gives it up, and takes it in again.
func (s *crossSite) lostSite(t *testing.T) {
	ctx := t.Context()
	hosts := s.etcd["dc1"]
	w := s.writes()
	time.Sleep(2 * time.Second) // rows that are lost, or not
	if err := s.lab.Kill(ctx, hosts...); err != nil {
		t.Fatal(err)
	}
	o := s.TryApply(ctx, s.only("dc2")...)
	if o.Code == 0 {
		t.Fatal("a planned move went on without the primary's datacenter")
	}
	has(t, o, "set failover = \"forced\"")
	s.more = `failover = "forced"`
	s.configure()
	o = s.TryApply(ctx, s.only("dc2")...)
	if o.Code == 0 {
		t.Fatal("a datacenter was given up without anybody having accepted that")
	}
	has(t, o, "what site dc1 has and site dc2 does not is lost by this", "its last commit is")
	s.runbook("refused", o, "Error: Unable to update")
	_, token, found := strings.Cut(o.Text, "accept_data_loss = \"")
	token, _, _ = strings.Cut(token, "\"")
	if !found || !strings.HasPrefix(token, "dc1@") {
		t.Fatalf("the refusal does not say what to accept:\n%s", o.Text)
	}
	s.more = `failover = "forced"
  accept_data_loss = "` + token + `"`
	s.primary = "dc2"
	s.configure()
	plan := s.Plan(ctx)
	has(t, plan, "Applying this gives site dc1 up", "A node that cannot be reached may go on taking writes")
	s.runbook("forced", plan, "Warning: Applying this gives")
	s.Apply(ctx)
	var addresses []string
	for _, h := range s.nodes["dc2"] {
		addresses = append(addresses, s.lab.Host(h).Addr)
	}
	lost, acked := w.Lost(t)
	t.Logf("%d of %d acknowledged rows were lost with dc1", lost, acked)
	if lost > 150 { // three seconds of them: the sites are 30 ms apart
		t.Errorf("%d rows of %d are lost", lost, acked)
	}
	if got := s.sql(s.leaderOf("dc2"), "select pg_is_in_recovery()"); got != "f" {
		t.Fatal("dc2 does not take writes")
	}
	c := w.Config()
	c.Hosts, c.Table = addresses, "afterwards"
	after := writer.Start(t, c)
	s.more = ""
	s.configure()
	// It comes back as it was: as a primary, since nobody could tell it.
	if err := s.lab.Start(ctx, hosts...); err != nil {
		t.Fatal(err)
	}
	s.leaderOf("dc1")
	s.eventually("dc1 to take writes again", 2*time.Minute, func(ctx context.Context) (bool, string) {
		out, _ := s.lab.SSH(ctx, s.leaderOf("dc1"), "cd /; runuser -u postgres -- psql -XAtqc 'select pg_is_in_recovery()'")
		return strings.TrimSpace(out) == "f", out
	})
	plan = s.Plan(ctx)
	has(t, plan, "SPLIT BRAIN in the replication main", "site dc1 is back, which was given up", "diverged at")
	s.runbook("returned", plan, "Terraform will perform")
	s.Apply(ctx)
	s.is(t, "dc2")
	s.NoChanges(ctx)
	s.moves(t, "dc1")
	s.is(t, "dc1")
	after.CheckAt(t, append(addresses, s.lab.Host("a1").Addr, s.lab.Host("a2").Addr, s.lab.Host("a3").Addr))
}
