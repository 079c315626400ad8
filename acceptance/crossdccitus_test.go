package acceptance

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// crossFormation is a Citus formation in two datacenters: a coordinator and two groups of
// workers in each, one host for each of them.
type crossFormation struct {
	*site
	hosts   map[string][]string // by datacenter, in the order of the groups
	primary string
	more    string
	// rotation is how often the passwords were changed.
	rotation int
}

func (f *crossFormation) configure() {
	f.t.Helper()
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("terraform {\n  required_providers {\n    pgha = { source = \"pgha/pgha\" }\n  }\n}\nprovider \"pgha\" {\n  on_unreachable = \"keep\"\n}")
	p("variable \"primary_site\" {\n  default = %q\n}\nlocals {\n  hosts = {", f.primary)
	for _, dc := range []string{"dc1", "dc2"} {
		for g, h := range f.hosts[dc] {
			p("    %s = { site = %q, group = %d, address = %q }", h, dc, g, f.lab.Host(h).Addr)
		}
	}
	p(`  }
  groups = { for pair in setproduct(["dc1", "dc2"], [0, 1, 2]) : "${pair[0]}/${pair[1]}" => { site = pair[0], group = pair[1] } }
}
resource "pgha_host" "db" {
  for_each  = local.hosts
  name      = each.key
  address   = each.value.address
  time_sync = "off"
}
resource "pgha_etcd_cluster" "dcs" {
  for_each = toset(["dc1", "dc2"])
  name     = "dcs"
  version  = %[1]q
  members  = { for name, h in local.hosts : name => { host = pgha_host.db[name].access } if h.site == each.key }
  deletion_protection = false
  on_destroy = "purge"
}
resource "pgha_patroni_cluster" "group" {
  for_each         = local.groups
  scope            = "shop"
  citus            = { group = each.value.group, database = "shop" }
  etcd             = pgha_etcd_cluster.dcs[each.value.site].access
  allowed_networks = ["10.0.0.0/8"]
  failure_detection = "fast"
  postgresql       = { use_pg_rewind = true, parameters = { max_slot_wal_keep_size = "256MB", tcp_user_timeout = "20s" } }
  credentials      = { rotation = %[6]d }
  rollout          = { allow_downtime = true }
  deletion_protection = false
  on_destroy = "purge"
}
resource "pgha_cross_dc_replication" "shop" {
  name    = "shop"
  primary = var.primary_site
  credentials_rotation = %[6]d
  %[5]s
  sites = { for site in ["dc1", "dc2"] : site => {
    clusters = [for g in [0, 1, 2] : {
      cluster = pgha_patroni_cluster.group["${site}/${g}"].membership
      hosts   = [for h in local.hosts : h.address if h.site == site && h.group == g]
    }]
  } }
}
resource "pgha_patroni_node" "db" {
  for_each   = local.hosts
  cluster    = pgha_patroni_cluster.group["${each.value.site}/${each.value.group}"].membership
  host       = pgha_host.db[each.key].access
  name       = each.key
  versions   = { postgresql = %[2]q, patroni = %[3]q, citus = %[4]q }
  on_destroy = "purge"
  depends_on = [pgha_cross_dc_replication.shop]
}
data "pgha_cross_dc_replication" "shop" {
  name       = "shop"
  sites      = pgha_cross_dc_replication.shop.sites
  depends_on = [pgha_patroni_node.db]
}
output "roles" { value = data.pgha_cross_dc_replication.shop.roles }
output "ca" { value = "${pgha_patroni_cluster.group["dc1/0"].ca_certificate}${pgha_patroni_cluster.group["dc2/0"].ca_certificate}" }`,
		f.oldest("etcd-server"), f.oldest("postgresql-17"), f.newest("patroni"), f.oldest("postgresql-17-citus"), f.more, max(1, f.rotation))
	f.Write("main.tf", b.String())
}

// shop runs a statement on a datacenter's coordinator.
func (f *crossFormation) shop(dc, statement string) string {
	f.t.Helper()
	return f.on(f.hosts[dc][0], "cd /; runuser -u postgres -- /usr/lib/postgresql/*/bin/psql -XAtq -v ON_ERROR_STOP=1 -d shop -c "+quote(statement))
}

// is checks that one datacenter takes writes, with its own workers alone in the metadata, and
// that each server of the other streams from its counterpart.
func (f *crossFormation) is(t *testing.T, primary string) {
	t.Helper()
	for dc, hosts := range f.hosts {
		for g, h := range hosts {
			want := map[bool]string{true: "f", false: "t"}[dc == primary]
			if got := f.sql(h, "select pg_is_in_recovery()"); got != want {
				t.Errorf("%s of %s is in recovery: %s; %s is the primary", h, dc, got, primary)
			}
			if dc == primary {
				continue
			}
			f.eventually(h+" to stream", 2*time.Minute, func(context.Context) (bool, string) {
				from := f.sql(h, "select sender_host from pg_stat_wal_receiver where status = 'streaming'")
				return from == f.lab.Host(f.hosts[primary][g]).Addr, from
			})
		}
	}
	f.eventually("the metadata", time.Minute, func(context.Context) (bool, string) {
		got := f.shop(primary, "select string_agg(nodename, ',' order by groupid) from pg_dist_node where isactive and metadatasynced")
		var want []string
		for _, h := range f.hosts[primary] {
			want = append(want, f.lab.Host(h).Addr)
		}
		return got == strings.Join(want, ","), got
	})
	if got := f.shop(primary, "select count(*) from pg_prepared_xacts"); got != "0" {
		t.Errorf("%s prepared transactions are left", got)
	}
}

// All groups of a formation move together, and the metadata comes with them.
func TestCrossDCCitus(t *testing.T) {
	turn(t)
	cli.Binary(t)
	lab := labtest.New(t, labhost.Options{Image: labhost.Warm, Datacenters: []labhost.Datacenter{
		{Name: "dc1", Hosts: []string{"a0", "a1", "a2"}}, {Name: "dc2", Hosts: []string{"b0", "b1", "b2"}},
	}})
	if have, err := lab.Versions("postgresql-17-citus"); err != nil || len(have) == 0 {
		t.Skipf("SKIPPED: Citus is in no registry, and not in lab/extra-debs (CONTRIBUTING.md): %v", err)
	}
	ctx := t.Context()
	if err := lab.Latency(ctx, "dc2", 15*time.Millisecond, 2*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	f := &crossFormation{site: &site{t: t, lab: lab, Dir: cli.New(t, nil, lab.Env()...)}, primary: "dc1", hosts: map[string][]string{"dc1": {"a0", "a1", "a2"}, "dc2": {"b0", "b1", "b2"}}}
	f.configure()
	f.Apply(ctx)
	f.NoChanges(ctx)
	f.is(t, "dc1")
	f.shop("dc1", "create table orders (id bigint primary key, what text)")
	f.shop("dc1", "select create_distributed_table('orders', 'id')")
	f.shop("dc1", "create table written (id bigint primary key, at timestamptz not null default now())")
	f.shop("dc1", "select create_distributed_table('written', 'id')")
	f.shop("dc1", "insert into orders select n, 'x' from generate_series(1, 10000) n")
	f.shop("dc1", "create role app superuser login password 'app-password'")
	for _, h := range f.hosts["dc1"] { // as the role comes to the other groups
		f.on(h, `cd /; runuser -u postgres -- psql -XAtqd shop -v ON_ERROR_STOP=1 -c "insert into pg_dist_authinfo values (0, 'app', 'password=app-password')"`)
	}
	c := f.writerConfig()
	c.Database, c.Hosts = "shop", []string{lab.Host("a0").Addr, lab.Host("b0").Addr}
	w := writer.Start(t, c)
	rounds := 1
	if exhaustive() {
		rounds = 5
	}
	for _, to := range slices.Repeat([]string{"dc2", "dc1"}, rounds) {
		w.TakeGap()
		f.primary = to
		f.Apply(ctx, "-var", "primary_site="+to)
		t.Logf("the primary moved to %s: nobody wrote for %s", to, w.TakeGap())
		f.is(t, to)
		if got := f.shop(to, "select count(*), sum(id) from orders"); got != "10000|50005000" {
			t.Errorf("orders in %s: %s", to, got)
		}
		f.NoChanges(ctx, "-var", "primary_site="+to)
	}
	k := &killer{site: f.site, inside: []string{"crossdc.promote"}}
	k.few("crossdc.demote", "in crossdc.promote", "crossdc.promote")
	k.sweep(t, "apply", f.only("dc2")...)
	f.is(t, "dc2")
	w.Check(t)
	if got := f.shop("dc2", "select count(*), sum(id) from orders"); got != "10000|50005000" {
		t.Errorf("orders after killed moves: %s", got)
	}
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{{"apart", f.apart}, {"behind a slot", f.behindSlot}, {"other passwords", f.otherPasswords}, {"two states", f.twoStates}, {"lost", f.lost}} {
		if !t.Failed() {
			t.Run(part.name, part.run)
		}
	}
}

// only are an apply's arguments for the replication alone.
func (f *crossFormation) only(primary string) []string {
	return []string{"-refresh=false", "-target=pgha_cross_dc_replication.shop", "-var", "primary_site=" + primary}
}

// apart cuts the datacenters off from each other: no group is promoted, a move is refused, and
// what was written meanwhile arrives afterwards.
func (f *crossFormation) apart(t *testing.T) {
	ctx := t.Context()
	f.primary = "dc2"
	f.configure()
	f.Apply(ctx) // the killed ones were of the replication alone
	heal := f.cutOff(t, "dc1")
	f.shop("dc2", "insert into orders select n, 'apart' from generate_series(30001, 31000) n")
	time.Sleep(15 * time.Second) // longer than "fast" takes to fail over
	f.staysApart(t, "dc2", "dc1", f.hosts["dc1"], f.only("dc1"))
	heal()
	f.is(t, "dc2")
	f.NoChanges(ctx)
	f.moves(t, "dc1")
	if got := f.shop("dc1", "select count(*) from orders"); got != "11000" {
		t.Errorf("orders after they were apart: %s", got)
	}
	f.moves(t, "dc2")
	f.shop("dc2", "delete from orders where id > 10000")
}

// moves applies with another primary.
func (f *crossFormation) moves(t *testing.T, to string) {
	t.Helper()
	f.primary = to
	f.Apply(t.Context(), "-var", "primary_site="+to)
	f.is(t, to)
	f.configure()
}

// twoStates moves the primary from two states at once.
func (f *crossFormation) twoStates(t *testing.T) {
	f.atOnce(t, f.only("dc1")...)
	f.primary = "dc1"
	f.is(t, "dc1")
	f.configure()
	f.unlocked(t.Context())
	f.NoChanges(t.Context())
	f.moves(t, "dc2")
	if got := f.shop("dc2", "select count(*), sum(id) from orders"); got != "10000|50005000" {
		t.Errorf("orders: %s", got)
	}
}

// behindSlot has one group of the other datacenter miss more WAL than its slot keeps, while
// the datacenters are apart.
func (f *crossFormation) behindSlot(t *testing.T) {
	ctx := t.Context()
	f.primary = "dc2"
	f.configure()
	heal := f.cutOff(t, "dc1")
	f.shop("dc2", "insert into orders select n, 'apart' from generate_series(10001, 11000) n")
	f.tooMuchWAL("b1", "pgha_site_dc1")
	heal()
	f.clonesAnew()
	f.is(t, "dc2")
	f.NoChanges(ctx)
	f.shop("dc2", "delete from orders where id > 10000")
}

// otherPasswords changes those of a formation's accounts, in both datacenters, with one
// change, whose applies are killed, while a client writes to all of its shards.
func (f *crossFormation) otherPasswords(t *testing.T) {
	ctx := t.Context()
	before := f.passwords("a1")
	f.shop("dc2", "create table meanwhile (id bigint primary key, at timestamptz not null default now())")
	f.shop("dc2", "select create_distributed_table('meanwhile', 'id')")
	c := f.writerConfig()
	c.Database, c.Hosts, c.Table = "shop", []string{f.lab.Host("a0").Addr, f.lab.Host("b0").Addr}, "meanwhile"
	w := writer.Start(t, c)
	f.rotation = 2
	f.configure()
	k := &killer{site: f.site, only: []string{"cluster.secrets.write", "cluster.secrets.mark"}}
	k.sweep(t, "apply")
	k.went(t, "cluster.secrets.write", "cluster.secrets.mark")
	f.NoChanges(ctx)
	for _, account := range []string{"superuser", "replication", "rewind"} {
		want := f.passwords("b0")[account]
		for _, h := range []string{"a0", "a1", "a2", "b1", "b2"} {
			if got := f.passwords(h)[account]; got != want || got == before[account] {
				t.Errorf("the password of %s on %s: another one than on b0: %t, the one of before: %t", account, h, got != want, got == before[account])
			}
		}
	}
	if got := f.shop("dc2", "select count(*), sum(id) from orders"); got != "10000|50005000" {
		t.Errorf("orders: %s", got)
	}
	// Who has to connect again is let in: standbys, and workers by the coordinator.
	for _, h := range f.hosts["dc1"] {
		f.sql(h, "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'walreceiver'")
	}
	for _, h := range f.hosts["dc2"][1:] {
		f.sql(h, "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'citus%'")
	}
	if got := f.shop("dc2", "select count(*) from run_command_on_workers('select 1') where success"); got != "2" {
		t.Errorf("%s of 2 workers answer the coordinator", got)
	}
	f.is(t, "dc2")
	w.CheckAt(t, []string{f.lab.Host("b0").Addr})
}

// lost gives the datacenter up that takes writes, while it can be reached: its workers must
// not get what is written to the other coordinator.
func (f *crossFormation) lost(t *testing.T) {
	ctx := t.Context()
	f.primary = "dc2"
	f.configure()
	// A group of workers has gone on further than its standby knows, and than Patroni takes for
	// healthy: rewound, it is behind what etcd knows.
	f.on("a1", "ip route add unreachable "+f.lab.Host("b1").Addr)
	f.sql("b1", "select count(pg_logical_emit_message(false, 'ahead', repeat('x', 1000000))) from generate_series(1, 40)")
	// Only the coordinator's host is lost.
	if err := f.lab.Kill(ctx, "b0"); err != nil {
		t.Fatal(err)
	}
	f.more = `failover = "forced"`
	f.configure()
	o := f.TryApply(ctx, f.only("dc1")...)
	_, token, _ := strings.Cut(o.Text, "accept_data_loss = \"")
	token, _, _ = strings.Cut(token, "\"")
	if o.Code == 0 || !strings.HasPrefix(token, "dc2@") {
		t.Fatalf("the refusal does not say what to accept:\n%s", o.Text)
	}
	if !regexp.MustCompile(`[0-9]{5} kB are missing`).MatchString(strings.Join(strings.Fields(o.Text), " ")) {
		t.Errorf("the refusal does not say how much is missing:\n%s", o.Text)
	}
	f.more += "\n  accept_data_loss = \"" + token + "\""
	f.configure()
	f.Apply(ctx, f.only("dc1")...)
	f.primary = "dc1"
	f.eventually("the metadata", time.Minute, func(context.Context) (bool, string) {
		got := f.shop("dc1", "select string_agg(nodename, ',' order by groupid) from pg_dist_node")
		return !strings.Contains(got, f.lab.Host("b1").Addr) && !strings.Contains(got, f.lab.Host("b0").Addr), got
	})
	f.shop("dc1", "insert into orders select n, 'after' from generate_series(20001, 21000) n")
	for _, h := range []string{"b1", "b2"} {
		if out := f.on(h, "systemctl is-active patroni || true; pgrep -c postgres || true"); !strings.HasPrefix(out, "inactive") {
			t.Errorf("%s was not fenced: %s", h, out)
		}
	}
	if out := f.on("a0", "ip route show type unreachable"); out != "" {
		t.Errorf("a0 is still cut off: %s", out)
	}
	f.on("a1", "ip route del unreachable "+f.lab.Host("b1").Addr)
	f.more = ""
	f.configure()
	if err := f.lab.Start(ctx, "b0"); err != nil {
		t.Fatal(err)
	}
	f.on("b0", "true")
	f.Apply(ctx)
	f.is(t, "dc1")
	f.NoChanges(ctx)
	if got := f.shop("dc1", "select count(*) from orders"); got != "11000" {
		t.Errorf("orders: %s", got)
	}
}
