package acceptance

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// formation is a Citus formation: a coordinator and groups of workers.
type formation struct {
	*site
	groups   [][]string // hosts, by group
	joined   int        // so many of the groups are there
	worker   string     // more attributes of the groups of workers
	keep     bool       // destroying keeps the data
	provider string     // what is in the provider block
	citus    string     // version
	shards   int        // of a table that is made
	more     []string   // tables that sums looks at as well
	// extension is what the coordinator's cluster says of the extension's version.
	extension string
}

// newFormation makes a lab for one, or skips the test where Citus is not among the
// lab's packages.
func newFormation(t *testing.T, groups ...[]string) *formation {
	t.Helper()
	cli.Binary(t)
	o := labhost.Options{Image: labhost.Warm, Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: slices.Concat(groups...)}}}
	lab := labtest.New(t, o)
	f := &formation{site: &site{t: t, lab: lab, Dir: cli.New(t, nil, lab.Env()...)}, groups: groups, shards: 12}
	have, err := lab.Versions("postgresql-17-citus")
	if err != nil || len(have) == 0 {
		t.Skipf("SKIPPED: Citus is in no registry, and not in lab/extra-debs (CONTRIBUTING.md): %v", err)
	}
	f.citus = f.oldest("postgresql-17-citus")
	return f
}

// configure writes the configuration with so many groups.
func (f *formation) configure(joined int) {
	f.t.Helper()
	f.joined = joined
	var hosts, nodes, groups []string
	extension := ""
	if f.extension != "" {
		extension = fmt.Sprintf(", extension_version = each.key == \"0\" ? %q : null", f.extension)
	}
	for g, names := range f.groups[:joined] {
		groups = append(groups, fmt.Sprintf("%q", fmt.Sprint(g)))
		for _, h := range names {
			hosts = append(hosts, fmt.Sprintf("%s = %q", h, f.lab.Host(h).Addr))
			nodes = append(nodes, fmt.Sprintf("%s = \"%d\"", h, g))
		}
	}
	text := fmt.Sprintf(`terraform {
  required_providers {
    pgha = { source = "pgha/pgha" }
  }
}
provider "pgha" {
  %s
}
resource "pgha_host" "db" {
  for_each  = { %s }
  name      = each.key
  address   = each.value
  time_sync = "off"
}
resource "pgha_etcd_cluster" "dcs" {
  name                = "dcs"
  version             = %q
  members             = { for name in %s : name => { host = pgha_host.db[name].access } }
  deletion_protection = false
  on_destroy          = "purge"
}
resource "pgha_patroni_cluster" "group" {
  for_each            = toset([%s])
  scope               = "shop"
  citus               = { group = tonumber(each.key), database = "shop"%s }
  etcd                = pgha_etcd_cluster.dcs.access
  allowed_networks    = ["10.0.0.0/8"]
  rollout             = { allow_downtime = true } # of two nodes, one is alone while the other restarts
  deletion_protection = false
  on_destroy          = "purge"
}
resource "pgha_patroni_node" "db" {
  for_each   = { %s }
  cluster    = pgha_patroni_cluster.group[each.value].membership
  host       = pgha_host.db[each.key].access
  name       = each.key
  versions   = { postgresql = %q, patroni = %q, citus = %q }
  on_destroy = "purge"
}
resource "pgha_citus_worker_group" "worker" {
  for_each = setsubtract(keys(pgha_patroni_cluster.group), ["0"])
  cluster  = pgha_patroni_cluster.group[each.key].membership
  nodes    = [for n in pgha_patroni_node.db : n.id if startswith(n.id, "shop/${each.key}/")]
  coordinator_nodes = [for n in pgha_patroni_node.db : n.id if startswith(n.id, "shop/0/")]
  %s
}
output "ca" { value = pgha_patroni_cluster.group["0"].ca_certificate }
`, f.provider, strings.Join(hosts, ", "), f.oldest("etcd-server"), etcdOn(f.groups), strings.Join(groups, ", "), extension, strings.Join(nodes, ", "), f.oldest("postgresql-17"), f.oldest("patroni"), f.citus, f.worker)
	if f.keep {
		// That of the clusters is read from etcd; how to go about changes is nowhere.
		text = strings.ReplaceAll(text, "rollout             = { allow_downtime = true }", "")
		text = strings.Replace(text, "deletion_protection = false", "", 1)
		text = strings.ReplaceAll(text, `on_destroy          = "purge"`, "")
		text = strings.ReplaceAll(text, `on_destroy = "purge"`, "")
	}
	f.Write("main.tf", text)
}

// etcdOn has a member of etcd on the first host of each of three groups.
func etcdOn(groups [][]string) string {
	var list []string
	for _, names := range groups[:3] {
		list = append(list, fmt.Sprintf("%q", names[0]))
	}
	return "[" + strings.Join(list, ", ") + "]"
}

// leads is the primary of a group.
func (f *formation) leads(group int) string {
	f.t.Helper()
	var leader string
	f.eventually(fmt.Sprintf("group %d to have a primary", group), time.Minute, func(ctx context.Context) (bool, string) {
		for _, h := range f.groups[group] {
			out, err := f.lab.SSH(ctx, h, "cd /; runuser -u postgres -- /usr/lib/postgresql/*/bin/psql -XAtqc 'select pg_is_in_recovery()'")
			if err == nil && strings.TrimSpace(out) == "f" {
				leader = h
				return true, ""
			}
		}
		return false, "none"
	})
	return leader
}

// shop runs a statement in the distributed database, on the coordinator's primary.
func (f *formation) shop(statement string) string {
	f.t.Helper()
	return f.on(f.leads(0), "cd /; runuser -u postgres -- /usr/lib/postgresql/*/bin/psql -XAtq -v ON_ERROR_STOP=1 -d shop -c "+quote(statement))
}

// ids are the ids with which the formation's resources are imported, by address.
func (f *formation) ids() map[string]string {
	var members []string
	for _, names := range f.groups[:3] {
		members = append(members, names[0]+"="+f.lab.Host(names[0]).Addr)
	}
	dcs := "dcs@" + strings.Join(members, ",")
	all := map[string]string{"pgha_etcd_cluster.dcs": dcs}
	for g, names := range f.groups[:f.joined] {
		cluster := fmt.Sprintf("shop:%d@%s", g, dcs)
		all[fmt.Sprintf(`pgha_patroni_cluster.group["%d"]`, g)] = cluster
		if g > 0 {
			all[fmt.Sprintf(`pgha_citus_worker_group.worker["%d"]`, g)] = cluster
		}
		for _, h := range names {
			all[fmt.Sprintf("pgha_host.db[%q]", h)] = h + "=" + f.lab.Host(h).Addr
			all[fmt.Sprintf("pgha_patroni_node.db[%q]", h)] = h + "=" + f.lab.Host(h).Addr + "@" + cluster
		}
	}
	return all
}

// sums are what the distributed tables hold.
func (f *formation) sums() string {
	f.t.Helper()
	var sums []string
	for _, table := range append([]string{"orders", "items", "customers"}, f.more...) {
		sums = append(sums, table+" "+f.shop("select count(*), sum(id) from "+table))
	}
	return strings.Join(sums, ", ")
}

// held are the placements of a group, reference tables left out.
func (f *formation) held(group int) string {
	f.t.Helper()
	return f.shop(fmt.Sprintf("select count(*) from pg_dist_placement p join pg_dist_shard using (shardid) join pg_dist_partition t using (logicalrelid) where t.repmodel <> 't' and p.groupid = %d", group))
}

// tables makes tables with rows: two that are distributed together, and one that is on
// every group.
func (f *formation) tables() {
	f.t.Helper()
	for _, statement := range []string{
		"create table orders (id bigint primary key, what text)", "set citus.shard_count = %d; select create_distributed_table('orders', 'id')",
		"create table items (id bigint primary key, what text)", "select create_distributed_table('items', 'id', colocate_with := 'orders')",
		"create table customers (id int primary key, what text)", "select create_reference_table('customers')",
		"insert into orders select n, 'x' from generate_series(1, 10000) n", "insert into items select n, 'y' from generate_series(1, 5000) n",
		"insert into customers select n, 'z' from generate_series(1, 100) n",
	} {
		f.shop(strings.Replace(statement, "%d", fmt.Sprint(f.shards), 1))
	}
}

// write has somebody write rows into a distributed table, as a role of its own.
func (f *formation) write(t *testing.T) *writer.Writer {
	t.Helper()
	for _, statement := range []string{
		"create table written (id bigint primary key, at timestamptz not null default now())", "select create_distributed_table('written', 'id', colocate_with := 'orders')",
		"create role app superuser login password 'app-password'",
	} {
		f.shop(statement)
	}
	for g := range f.joined {
		f.on(f.leads(g), `cd /; runuser -u postgres -- psql -XAtqd shop -v ON_ERROR_STOP=1 -c "insert into pg_dist_authinfo values (0, 'app', 'password=app-password')"`)
	}
	var ca string
	f.Outputs(t.Context(), "ca", &ca)
	return writer.Start(t, writer.Config{
		Hosts: []string{f.lab.Host("c1").Addr, f.lab.Host("c2").Addr}, User: "app", Password: "app-password", Database: "shop", CA: ca, Table: "written",
	})
}

// imports writes import blocks for all of the formation's resources, and returns how many.
func (f *formation) imports() int {
	f.t.Helper()
	var b strings.Builder
	ids := f.ids()
	for address, id := range ids {
		fmt.Fprintf(&b, "import {\n  to = %s\n  id = %q\n}\n", address, id)
	}
	f.Write("import.tf", b.String())
	return len(ids)
}

// drainedAndBack moves all shards off group 2, and some onto it again. Configure writes the
// configuration; how are more attributes of the groups; sums are what the tables hold before
// and after.
func (f *formation) drainedAndBack(t *testing.T, configure func(joined int), how, sums string) {
	ctx := t.Context()
	f.worker = "rebalance = \"on_join\"\n  drain = each.key == \"2\"" + how
	configure(3)
	has(t, f.Plan(ctx), "Applying this moves all shards off the group shop/2")
	f.Apply(ctx)
	if held := f.held(2); held != "0" {
		t.Errorf("%s placements are left", held)
	}
	f.NoChanges(ctx)
	f.worker = "rebalance = \"on_join\"\n  rebalance_threshold = 0.1" + how
	configure(3)
	has(t, f.Plan(ctx), "Applying this moves shards onto the group shop/2", "an even share")
	f.Apply(ctx)
	if f.held(2) == "0" {
		t.Error("it has no shards")
	}
	f.NoChanges(ctx)
	if now := f.sums(); now != sums {
		t.Errorf("the tables hold %s, before %s", now, sums)
	}
}

// staleRow leaves the row of a host in the metadata that is no node.
func (f *formation) staleRow(t *testing.T) {
	ctx := t.Context()
	const row = "select count(*) from pg_dist_node where nodename = '10.9.9.9'"
	f.shop("select citus_add_secondary_node('10.9.9.9', 5432, nodename, nodeport) from pg_dist_node where groupid = 1 and noderole = 'primary'")
	has(t, f.Plan(ctx), "remove 10.9.9.9:5432 from the metadata: it is no node of the group")
	f.Apply(ctx)
	if n := f.shop(row); n != "0" {
		t.Error("it is still there")
	}
	f.NoChanges(ctx)
}

// rowsGone truncates a table while group 2 is drained: no server counts that as deletes, so
// that the group is not called drained, until somebody applies again.
func (f *formation) rowsGone(t *testing.T) {
	ctx := t.Context()
	f.shop("create table gone (id bigint primary key)")
	f.shop("select create_distributed_table('gone', 'id', colocate_with := 'none', shard_count := 4)")
	f.shop("insert into gone select generate_series(1, 1000)")
	moving := f.worker
	f.worker += "\n  drain = each.key == \"2\""
	f.configure(3)
	// A transaction that has written everywhere keeps the first move from ending.
	held := make(chan struct{})
	go func() {
		defer close(held)
		_, _ = f.lab.SSH(ctx, f.leads(0), `cd /; runuser -u postgres -- psql -XAtqd shop -c "begin; insert into orders select generate_series(100001, 101000), 'held'; set application_name = 'holds'; select pg_sleep(600); rollback"`)
	}()
	f.eventually("the transaction to have written", time.Minute, func(context.Context) (bool, string) {
		return f.shop("select count(*) from pg_stat_activity where application_name = 'holds'") != "0", ""
	})
	var o cli.Output
	applied := make(chan struct{})
	go func() {
		defer close(applied)
		o = f.TryApply(ctx)
	}()
	f.eventually("shards to be moved", 3*time.Minute, func(context.Context) (bool, string) {
		have := f.shop("select count(*) from pg_dist_background_job where state = 'running'")
		return have != "0", have
	})
	truncated := make(chan struct{})
	go func() {
		defer close(truncated)
		f.shop("truncate gone")
	}()
	select {
	case <-truncated:
	case <-time.After(5 * time.Second): // its own shards are those that are moved
	}
	f.shop("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'holds'")
	<-held
	<-truncated
	<-applied
	if o.Code == 0 {
		t.Error("nobody noticed")
	}
	has(t, o, "compare the rows with those before the drain", "gone: 1000 rows before, 0 now", "apply again")
	if left := f.held(2); left != "0" {
		t.Errorf("%s placements are left", left)
	}
	f.Apply(ctx)
	f.NoChanges(ctx)
	f.shop("drop table gone")
	f.worker = moving
	f.configure(3)
	f.Apply(ctx)
	f.NoChanges(ctx)
}

// A coordinator and two groups of workers, two hosts each, are made from nothing by one
// apply. A third group joins, and gets shards, and leaves again, while rows are written.
func TestCitus(t *testing.T) {
	turn(t)
	f := newFormation(t, []string{"c1", "c2"}, []string{"a1", "a2"}, []string{"b1", "b2"}, []string{"d1", "d2"})
	ctx := t.Context()
	f.configure(3)
	f.Apply(ctx)
	t.Logf("%s", f.on("c1", "patronictl -c /etc/patroni/config.yml list"))
	f.NoChanges(ctx)
	f.eventually("all groups to be in the metadata", time.Minute, func(context.Context) (bool, string) {
		have := f.shop("select groupid, noderole, nodename, isactive, metadatasynced, shouldhaveshards from pg_dist_node order by 1, 2")
		return strings.Count(have, "primary") == 3 && strings.Count(have, "secondary") == 3, have
	})
	if bad := f.shop("select count(*) from citus_check_cluster_node_health() where result is not true"); bad != "0" {
		t.Errorf("%s connections between nodes do not work", bad)
	}
	if mode := f.on("a1", "patronictl -c /etc/patroni/config.yml show-config | grep synchronous_mode"); mode != "synchronous_mode: quorum" {
		t.Errorf("group 1 has %s", mode)
	}
	f.tables()
	for _, statement := range []string{
		"create schema tenant", "create table tenant.visits (id bigint primary key, what text)", "select citus_schema_distribute('tenant')",
		"insert into tenant.visits select n, 'v' from generate_series(1, 500) n",
	} {
		f.shop(statement)
	}
	f.more = []string{"tenant.visits"}
	before := f.sums()
	w := f.write(t)
	const joined = "select count(*) || ' ' || sum(o.id) from orders o join items i using (id) join customers c on c.id = o.id % 100 + 1"
	r := writer.Read(t, w.Config(), joined, f.shop(joined))

	t.Run("a group joins", func(t *testing.T) {
		f.worker = `rebalance = "on_join"`
		f.configure(4)
		has(t, f.Plan(ctx), "Applying this moves shards onto the group shop/3", "an even share")
		begin, failed, unread := time.Now(), w.Failed(), r.Failed()
		f.Apply(ctx)
		t.Logf("joined in %s; longest gap %s, %d writes and %d reads failed", time.Since(begin).Round(time.Second), w.TakeGap(), w.Failed()-failed, r.Failed()-unread)
		if f.held(3) == "0" {
			t.Error("it has no shards")
		}
		if n := w.Failed() - failed; n > 0 {
			t.Errorf("%d writes failed", n)
		}
		if now := f.sums(); now != before {
			t.Errorf("the tables hold %s, before %s", now, before)
		}
		f.NoChanges(ctx)
	})

	t.Run("a table that cannot be moved", func(t *testing.T) {
		f.shop("create table loose (id bigint)")
		f.shop("select create_distributed_table('loose', 'id')")
		f.configure(3)
		o := f.Plan(ctx)
		if o.Code != 1 {
			t.Errorf("it is planned: exit status %d", o.Code)
		}
		has(t, o, "The group shop/3 cannot be drained", "loose: no primary key and no replica identity", "replica identity full", `shard_transfer_mode = "block_writes"`)
		if set := f.shop("select shouldhaveshards from pg_dist_node where groupid = 3 and noderole = 'primary'"); set != "t" {
			t.Errorf("shouldhaveshards is %s", set)
		}
		f.shop("drop table loose")
	})

	t.Run("it leaves", func(t *testing.T) {
		f.shop("select citus_schema_move('tenant', nodename, nodeport) from pg_dist_node where groupid = 3 and noderole = 'primary'")
		f.configure(3)
		has(t, f.Plan(ctx), "Destroying the group shop/3 moves all its shards to other groups", "shards with", "orders: ", "items: ")
		begin, failed, unread := time.Now(), w.Failed(), r.Failed()
		f.Apply(ctx)
		t.Logf("left in %s; longest gap %s, %d writes and %d reads failed", time.Since(begin).Round(time.Second), w.TakeGap(), w.Failed()-failed, r.Failed()-unread)
		if n := w.Failed() - failed; n > 0 {
			t.Errorf("%d writes failed", n)
		}
		if held := f.held(3); held != "0" {
			t.Errorf("%s placements are left", held)
		}
		if rows := f.shop("select * from pg_dist_node where groupid = 3"); rows != "" {
			t.Errorf("it is still in the metadata: %s", rows)
		}
		if now := f.sums(); now != before {
			t.Errorf("the tables hold %s, before %s", now, before)
		}
		f.NoChanges(ctx)
		for _, h := range f.groups[3] {
			f.on(h, "test ! -e /etc/pgha && ! systemctl is-active -q patroni && ! pgrep -x postgres")
		}
	})
	t.Run("imported", func(t *testing.T) {
		other := &formation{site: &site{t: t, lab: f.lab, Dir: cli.New(t, nil, f.lab.Env()...)}, groups: f.groups, citus: f.citus}
		other.keep = true // as an import finds it
		other.configure(3)
		n := other.imports()
		has(t, other.Plan(ctx), fmt.Sprintf("%d to import, 0 to add, 0 to change, 0 to destroy", n))
	})

	t.Run("drained, and back", func(t *testing.T) {
		for _, statement := range []string{
			"create extension if not exists citus_columnar", "create table events (id bigint primary key, what text) using columnar", "select create_distributed_table('events', 'id', colocate_with := 'none', shard_count := 4)",
			"insert into events select n, 'e' from generate_series(1, 1000) n",
			"create table logs (id bigint, at date, primary key (id, at)) partition by range (at)", "create table logs_2026 partition of logs for values from ('2026-01-01') to ('2027-01-01')",
			"select create_distributed_table('logs', 'id', colocate_with := 'none', shard_count := 4)", "insert into logs select n, '2026-12-01' from generate_series(1, 1000) n",
		} {
			f.shop(statement)
		}
		f.worker = "rebalance = \"on_join\"\n  drain = each.key == \"2\""
		f.configure(3)
		has(t, f.Plan(ctx), "The group shop/2 cannot be drained", "events: columnar", `shard_transfer_mode = "block_writes"`)
		base := f.more
		f.more = append(base, "events", "logs")
		failed := w.Failed()
		f.drainedAndBack(t, f.configure, "\n  shard_transfer_mode = \"block_writes\"", f.sums())
		if n := w.Failed() - failed; n > 0 {
			t.Errorf("%d writes failed", n)
		}
		f.shop("drop table events")
		f.shop("drop table logs")
		f.more = base
		f.worker = "rebalance = \"on_join\"\n  rebalance_threshold = 0.1"
		f.configure(3)
		f.Apply(ctx)
	})

	t.Run("a row of a lost node", func(t *testing.T) { f.staleRow(t) })

	t.Run("rows are gone", func(t *testing.T) { f.rowsGone(t) })

	t.Run("killed", func(t *testing.T) {
		k := sweeper(f.site, w, "citus.rebalance", "citus.drain", "citus.remove")
		f.configure(4)
		k.few("in citus.rebalance")
		k.sweep(t, "apply")
		k.went(t, "in citus.rebalance")
		if f.held(3) == "0" {
			t.Error("it has no shards")
		}
		f.NoChanges(ctx)
		f.configure(3)
		k.few("in citus.drain", "in citus.remove")
		k.sweep(t, "apply")
		k.went(t, "in citus.drain", "in citus.remove")
		if rows := f.shop("select * from pg_dist_node where groupid = 3"); rows != "" {
			t.Errorf("it is still in the metadata: %s", rows)
		}
		if now := f.sums(); now != before {
			t.Errorf("the tables hold %s, before %s", now, before)
		}
		f.NoChanges(ctx)
	})

	// Nothing is left of transactions that were under way, and everybody is back.
	whole := func(t *testing.T) {
		t.Helper()
		f.eventually("the metadata to have all nodes", 2*time.Minute, func(context.Context) (bool, string) {
			have := f.shop("select groupid, noderole, nodename, isactive, metadatasynced from pg_dist_node order by 1, 2")
			return strings.Count(have, "primary") == 3 && strings.Count(have, "secondary") == 3, have
		})
		for g := range 3 {
			f.eventually(fmt.Sprintf("no prepared transaction to be left in group %d", g), 2*time.Minute, func(context.Context) (bool, string) {
				f.shop("select recover_prepared_transactions()")
				have := f.sql(f.leads(g), "select gid from pg_prepared_xacts")
				return have == "", have
			})
		}
		f.NoChanges(ctx)
	}
	// Each of the two groups has an address, which follows its own leader alone.
	var text strings.Builder
	addresses := make([]string, 2)
	for g := range addresses {
		addresses[g], _ = f.lab.VIP("dc1", g+1)
		fmt.Fprintf(&text, `resource "pgha_vip" "group%d" {
  cluster = pgha_patroni_cluster.group["%[1]d"].membership
  nodes   = { for n in pgha_patroni_node.db : n.name => n.id if startswith(n.id, "shop/%[1]d/") }
  address = "%s/24"
  version = %q
}
`, g, addresses[g], f.oldest("vip-manager2"))
	}
	f.Write("vip.tf", text.String())
	f.Apply(ctx)
	f.NoChanges(ctx)
	for group, what := range []string{"the coordinator", "a worker"} {
		t.Run(what+" loses its power", func(t *testing.T) {
			lost, failed := f.leads(group), w.Failed()
			var watch []*holders
			for g, a := range addresses {
				watch = append(watch, f.watchHolders(t, a))
				f.eventually("the address of group "+strconv.Itoa(g), time.Minute, func(context.Context) (bool, string) {
					have := watch[g].holder()
					return have == f.leads(g), have
				})
				watch[g].drop(lost)
				watch[g].took()
			}
			w.TakeGap()
			if err := f.lab.Kill(ctx, lost); err != nil {
				t.Fatal(err)
			}
			acked := w.Acked()
			f.eventually("rows to be written again", 2*time.Minute, func(context.Context) (bool, string) {
				return w.Acked() > acked+100, ""
			})
			t.Logf("%s is lost: longest gap %s, %d writes failed", lost, w.TakeGap().Round(time.Millisecond), w.Failed()-failed)
			f.eventually("the address of the group to move", time.Minute, func(context.Context) (bool, string) {
				have := watch[group].holder()
				return have != "" && have == f.leads(group), have
			})
			f.stayed(t, watch[1-group])
			if err := f.lab.Start(ctx, lost); err != nil {
				t.Fatal(err)
			}
			whole(t)
		})
	}
	f.Write("vip.tf", "")
	f.Apply(ctx)
	t.Run("a whole group is lost", func(t *testing.T) {
		for _, h := range f.groups[2] {
			if err := f.lab.Kill(ctx, h); err != nil {
				t.Fatal(err)
			}
		}
		o := f.Plan(ctx)
		if o.Code != 1 {
			t.Errorf("the plan's exit status is %d", o.Code)
		}
		has(t, o, "Host: b2", "unreachable")
		f.provider = "on_unreachable = \"keep\"\n  ssh {\n    connect_timeout = \"3s\"\n  }"
		f.configure(3)
		f.Write("view.tf", `data "pgha_citus" "shop" {
  cluster = pgha_patroni_cluster.group["0"].membership
}
output "formation" { value = { table = data.pgha_citus.shop.table, warnings = data.pgha_citus.shop.warnings, groups = data.pgha_citus.shop.groups, tables = data.pgha_citus.shop.tables } }
`)
		f.Apply(ctx)
		var view struct {
			Table    string
			Warnings []string
			Groups   []struct{ Group, Shards, Bytes int64 }
			Tables   []struct{ Name, Type string }
		}
		f.Outputs(ctx, "formation", &view)
		t.Logf("%s\n%v", view.Table, view.Warnings)
		if len(view.Groups) != 3 || view.Groups[2].Shards == 0 || len(view.Tables) != 5 {
			t.Errorf("the formation is %+v", view)
		}
		if n := f.shop("select count(*) from customers"); n != "100" {
			t.Errorf("a table that is everywhere has %s rows", n)
		}
		for _, h := range f.groups[2] {
			if err := f.lab.Start(ctx, h); err != nil {
				t.Fatal(err)
			}
		}
		f.provider = ""
		f.configure(3)
		f.Write("view.tf", "")
		f.eventually("the group to be back", 3*time.Minute, func(context.Context) (bool, string) {
			out, err := f.lab.SSH(ctx, f.leads(0), "cd /; runuser -u postgres -- psql -XAtqd shop -c 'select count(*) from orders'")
			return err == nil && strings.TrimSpace(out) == "10000", out
		})
		f.Apply(ctx)
		whole(t)
		if now := f.sums(); now != before {
			t.Errorf("the tables hold %s, before %s", now, before)
		}
	})
	w.Check(t)
	r.Check(t)
	f.Destroy(ctx)
	for _, h := range slices.Concat(f.groups...) {
		f.on(h, "test ! -e /etc/pgha && ! systemctl is-active -q patroni etcd")
	}
}
