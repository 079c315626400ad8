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
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/bind"
	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

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
	s.run(t, "delayed", s.delayed)
	s.run(t, "behind the slot", func(t *testing.T) { s.behindSlot(t, w) })
	s.run(t, "upgraded", s.upgradedStandby)
	s.run(t, "addresses and a name", s.named)
	s.run(t, "other passwords", s.otherPasswords)
	s.run(t, "imported", s.imported)
	s.run(t, "two states", s.twoStates)
	both()
	w.Check(t)
}

// cutOff cuts a datacenter off from the others until what it returns is called, or the test
// ends.
func (s *site) cutOff(t *testing.T, dc string) (heal func()) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	if err := s.lab.Partition(ctx, dc); err != nil {
		t.Fatal(err)
	}
	heal = sync.OnceFunc(func() {
		if err := s.lab.Heal(ctx, dc); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(heal)
	return heal
}

// apart cuts the datacenters off from each other: nobody is promoted, a move is refused, and
// what was written meanwhile arrives afterwards.
func (s *crossSite) apart(t *testing.T, w *writer.Writer) {
	ctx := t.Context()
	heal := s.cutOff(t, "dc2")
	s.writesFor(w, 15*time.Second, "while the datacenters are apart")
	s.staysApart(t, "dc1", "dc2", s.nodes["dc2"], s.only("dc2"))
	heal()
	s.is(t, "dc1")
	s.NoChanges(ctx)
}

// staysApart makes sure that the primary cannot move to a datacenter that is cut off, and that
// none of its nodes was promoted. Move are the arguments of the apply that moves it.
func (s *site) staysApart(t *testing.T, primary, other string, nodes, move []string) {
	t.Helper()
	ctx := t.Context()
	has(t, s.Plan(ctx, "-var", "primary_site="+other), "What speaks against it now", "cannot log in to site "+other)
	o := s.TryApply(ctx, move...)
	if o.Code == 0 {
		t.Error("the primary moved to a datacenter that is cut off")
	}
	has(t, o, "see whether the primary can move from "+primary+" to "+other, "cannot log in to site "+other, "site "+primary+" takes writes")
	for _, h := range nodes {
		if got := s.sql(h, "select pg_is_in_recovery()"); got != "t" {
			t.Errorf("%s was promoted", h)
		}
	}
}

// delayed has the third datacenter apply what it receives later than the others, and all of
// them give a stream up too soon for how far they are from each other.
func (s *crossSite) delayed(t *testing.T) {
	ctx := t.Context()
	s.delay, s.settings = map[string]string{"dc3": "20s"}, `, wal_sender_timeout = "400ms"`
	s.configure()
	s.Apply(ctx)
	s.NoChanges(ctx)
	s.sql(s.leaderOf("dc1"), "create table delayed (at timestamptz)")
	s.sql(s.leaderOf("dc1"), "insert into delayed values (now())")
	there := "select to_regclass('delayed') is not null"
	s.eventually("the row in dc2", 10*time.Second, func(context.Context) (bool, string) { got := s.sql(s.leaderOf("dc2"), there); return got == "t", got })
	if got := s.sql("c1", there); got != "f" {
		t.Error("dc3 has applied it at once")
	}
	s.eventually("the row in dc3", 40*time.Second, func(context.Context) (bool, string) { got := s.sql("c1", there); return got == "t", got })
	if got := s.sql("c1", "select now() - (select at from delayed) >= '20 s'"); got != "t" {
		t.Error("dc3 has applied it too soon")
	}
	// Somebody moves to a datacenter whose streams end whenever a few packets are lost.
	has(t, s.Plan(ctx, "-var", "primary_site=dc2"), "dc1 (main) has wal_sender_timeout = 400ms, and site dc1 is 3", "dc2 (main) has wal_sender_timeout", "away from site dc2, there and back")
	s.delay, s.settings = nil, ""
	s.configure()
	s.Apply(ctx)
	s.is(t, "dc1")
	s.NoChanges(ctx)
}

// behindSlot has the other datacenter miss more WAL than its slot keeps.
func (s *crossSite) behindSlot(t *testing.T, w *writer.Writer) {
	ctx := t.Context()
	heal := s.cutOff(t, "dc2")
	leader := s.leaderOf("dc1")
	s.tooMuchWAL(leader, "pgha_site_dc2")
	heal()
	s.clonesAnew()
	s.is(t, "dc1")
	s.NoChanges(ctx)
	s.writesFor(w, 3*time.Second, "after dc2 was cloned again")
}

// clonesAnew applies when the plan says that a datacenter has to be cloned.
func (s *site) clonesAnew() {
	s.t.Helper()
	ctx := s.t.Context()
	s.eventually("a plan that says so", 2*time.Minute, func(context.Context) (bool, string) {
		o := s.Plan(ctx)
		return o.Contains("clone it anew"), o.Text
	})
	s.Apply(ctx)
}

// tooMuchWAL writes more WAL than a slot keeps, until it is lost.
func (s *site) tooMuchWAL(leader, slot string) {
	s.t.Helper()
	for range 6 {
		s.sql(leader, "select count(pg_logical_emit_message(false, 'fill', repeat('x', 1000000))) from generate_series(1, 80)")
		s.sql(leader, "checkpoint")
	}
	s.eventually("the WAL to go", 2*time.Minute, func(context.Context) (bool, string) {
		s.sql(leader, "select pg_switch_wal()")
		s.sql(leader, "checkpoint")
		got := s.sql(leader, "select coalesce((select wal_status from pg_replication_slots where slot_name = '"+slot+"'), 'gone')")
		return got == "lost" || got == "gone", got + s.sql(leader, "select string_agg(concat_ws(' ', backend_type, wait_event_type, wait_event), ', ') from pg_stat_activity where backend_type in ('walsender', 'checkpointer')")
	})
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

// atOnce applies from two states at once: one of them does what there is to do, or both see
// that it is done.
func (s *site) atOnce(t *testing.T, args ...string) {
	t.Helper()
	ctx := t.Context()
	other := &site{t: s.t, lab: s.lab, Dir: cli.New(t, nil, s.lab.Env()...)}
	for _, name := range []string{"main.tf", "terraform.tfstate"} {
		text, err := os.ReadFile(filepath.Join(s.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		other.Write(name, string(text))
	}
	failed := 0
	a, b := s.begin(ctx, "apply", args...), other.begin(ctx, "apply", args...)
	for _, r := range []*running{a, b} {
		code, out := r.end()
		if code == 0 {
			continue
		}
		failed++
		if !strings.Contains(out, "another apply is at work") {
			t.Errorf("one of two applies at once: %d\n%s", code, out)
		}
	}
	if failed == 2 {
		t.Error("neither of two applies at once came to its end")
	}
}

// twoStates moves the primary from two states at once: one of them does, and the other one sees
// that it has moved.
func (s *crossSite) twoStates(t *testing.T) {
	ctx := t.Context()
	s.atOnce(t, s.only("dc2")...)
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
