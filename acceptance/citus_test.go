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
)

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
	coordinator := f.leads(0)
	held := make(chan struct{})
	go func() {
		defer close(held)
		_, _ = f.lab.SSH(ctx, coordinator, `cd /; runuser -u postgres -- psql -XAtqd shop -c "begin; insert into orders select generate_series(100001, 101000), 'held'; set application_name = 'holds'; select pg_sleep(600); rollback"`)
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
	var refused error
	truncated := make(chan struct{})
	go func() {
		defer close(truncated)
		_, refused = f.lab.SSH(ctx, coordinator, "cd /; runuser -u postgres -- psql -XAtqd shop -c 'truncate gone'")
	}()
	select {
	case <-truncated:
	case <-time.After(5 * time.Second): // its own shards are those that are moved
	}
	f.shop("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'holds'")
	<-held
	<-truncated
	<-applied
	if refused != nil {
		t.Fatal(refused)
	}
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
