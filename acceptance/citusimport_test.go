package acceptance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
)

// handFormation is a formation that was made by hand.
type handFormation struct {
	*formation
	protected string // deletion_protection of the groups
	more      string // more attributes of their citus
}

// byHand makes the formation as a person does with Debian's packages: the coordinator
// first, then the workers' primaries, then the replicas.
func (f *handFormation) byHand() {
	f.t.Helper()
	var etcdOn []string
	for _, names := range f.groups {
		etcdOn = append(etcdOn, names[0])
	}
	for g, names := range f.groups {
		for _, h := range names {
			f.on(h, fmt.Sprintf("apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install 'postgresql-17-citus=%s-*' >/dev/null", f.citus))
			f.patroniByHand(handNode{host: h, scope: "shop", etcdOn: etcdOn, dynamic: handMade, more: fmt.Sprintf("citus: {group: %d, database: shop}  # and nothing else\n", g)})
		}
	}
	f.etcdByHand(etcdOn...)
	for _, h := range etcdOn {
		f.on(h, "systemctl start patroni")
		f.leadsByHand(h)
	}
	for _, names := range f.groups {
		for _, h := range names[1:] {
			f.on(h, "systemctl start patroni")
		}
	}
	f.registered()
}

// registered waits until the metadata has all primaries and replicas of the groups that
// have joined.
func (f *handFormation) registered() {
	f.t.Helper()
	primaries, replicas := 0, 0
	for _, names := range f.groups {
		primaries, replicas = primaries+1, replicas+len(names)-1
	}
	f.eventually("all nodes to be in the metadata", 2*time.Minute, func(context.Context) (bool, string) {
		have := f.shop("select groupid, noderole, nodename, isactive, metadatasynced from pg_dist_node order by 1, 2")
		return strings.Count(have, "primary") == primaries && strings.Count(have, "secondary") == replicas, have
	})
}

// adoptedFormation is the configuration that describes it, with so many groups.
func (f *handFormation) adoptedFormation(joined int) {
	f.t.Helper()
	f.joined = joined
	var hosts, nodes, groups []string
	for g, names := range f.groups {
		for _, h := range names {
			hosts = append(hosts, fmt.Sprintf("%s = %q", h, f.lab.Host(h).Addr))
			if g < joined {
				nodes = append(nodes, fmt.Sprintf("%s = \"%d\"", h, g))
			}
		}
		if g < joined {
			groups = append(groups, fmt.Sprintf("%q", fmt.Sprint(g)))
		}
	}
	f.Write("main.tf", fmt.Sprintf(`terraform {
  required_providers {
    pgha = { source = "pgha/pgha" }
  }
}
resource "pgha_host" "db" {
  for_each       = { %s }
  name           = each.key
  address        = each.value
  time_sync      = "off"
  sysctl         = {}
  max_open_files = 0
}
resource "pgha_etcd_cluster" "dcs" {
  name                      = "dcs"
  version                   = %q
  members                   = { for name in %s : name => { host = pgha_host.db[name].access } }
  tls                       = false
  auth                      = false
  auto_compaction_retention = "0s"
}
resource "pgha_patroni_cluster" "group" {
  for_each                = toset([%s])
  scope                   = "shop"
  citus                   = { group = tonumber(each.key), database = "shop"%s }
  etcd                    = pgha_etcd_cluster.dcs.access
  allowed_networks        = []
  loop_wait               = "5s"
  maximum_lag_on_failover = "1MiB"
  check_timeline          = false
  credentials             = { replication = { username = "repl" }, rest_api = { username = "admin" } }
  postgresql              = { parameters = { max_connections = "120", work_mem = "6MB", log_checkpoints = "on" } }
  deletion_protection     = %s
}
resource "pgha_patroni_node" "db" {
  for_each = { %s }
  cluster  = pgha_patroni_cluster.group[each.value].membership
  host     = pgha_host.db[each.key].access
  name     = each.key
  versions = { postgresql = %q, patroni = %q, citus = %q }
  tags     = { custom = { datacenter = "here" } }
}
resource "pgha_citus_worker_group" "worker" {
  for_each          = setsubtract(keys(pgha_patroni_cluster.group), ["0"])
  cluster           = pgha_patroni_cluster.group[each.key].membership
  nodes             = [for n in pgha_patroni_node.db : n.id if startswith(n.id, "shop/${each.key}/")]
  coordinator_nodes = [for n in pgha_patroni_node.db : n.id if startswith(n.id, "shop/0/")]
  %s
}
`, strings.Join(hosts, ", "), f.oldest("etcd-server"), etcdOn(f.groups), strings.Join(groups, ", "), f.more, f.protected, strings.Join(nodes, ", "),
		f.oldest("postgresql-17"), f.oldest("patroni"), f.citus, f.worker))
}

// processes are when Patroni and PostgreSQL were started, but for some hosts.
func (f *handFormation) processes(but ...string) string {
	f.t.Helper()
	var b strings.Builder
	for _, h := range f.lab.Hosts() {
		if !slices.Contains(but, h.Name) {
			fmt.Fprintln(&b, h.Name, f.sql(h.Name, "select pg_postmaster_start_time()"), f.on(h.Name, "systemctl show -p InvocationID --value patroni"))
		}
	}
	return b.String()
}

// A formation that was made by hand is imported: the plan is empty, nothing is restarted
// or written, and the data source shows it. What cannot be done with it is refused. Then a
// group is drained, gets shards again, and leaves.
func TestCitusImport(t *testing.T) {
	turn(t)
	f := &handFormation{formation: newFormation(t, []string{"c1"}, []string{"a1", "a2"}, []string{"b1"}), protected: "true"}
	ctx := t.Context()
	f.byHand()
	f.shards = 8
	f.tables()
	rows, before, processes := f.sums(), f.fingerprint(), f.processes()

	f.adoptedFormation(3)
	n := f.imports()
	has(t, f.Plan(ctx), fmt.Sprintf("%d to import, 0 to add, 0 to change, 0 to destroy", n))
	f.Apply(ctx)
	f.NoChanges(ctx)
	if after := f.fingerprint(); after != before {
		t.Fatalf("importing changed the hosts:\n%s\nwas\n%s", after, before)
	}
	if now := f.processes(); now != processes {
		t.Fatalf("importing restarted something:\n%s\nwas\n%s", now, processes)
	}
	if keys := f.on("c1", "ETCDCTL_API=3 etcdctl get --prefix --keys-only /pgha | grep . || true"); keys != "" {
		t.Errorf("importing wrote into etcd:\n%s", keys)
	}
	if now := f.sums(); now != rows {
		t.Errorf("the tables hold %s, before %s", now, rows)
	}
	f.Write("import.tf", "")

	t.Run("the view", func(t *testing.T) {
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
		if len(view.Groups) != 3 || view.Groups[1].Shards == 0 || view.Groups[2].Shards == 0 || len(view.Tables) != 3 || len(view.Warnings) > 0 {
			t.Errorf("the formation is %+v", view)
		}
		f.Write("view.tf", "")
		f.Apply(ctx)
	})

	t.Run("refused", func(t *testing.T) {
		again := *f.formation
		again.site = &site{t: t, lab: f.lab, Dir: cli.New(t, nil, f.lab.Env()...)} // with an empty state
		other := &handFormation{formation: &again, protected: "true"}
		other.adoptedFormation(3)
		refuses := func(address, id, says string) {
			t.Helper()
			o := other.Run(ctx, "import", "-no-color", address, id)
			if o.Code == 0 {
				t.Errorf("%q was imported", id)
			}
			has(t, o, says)
		}
		ids := f.ids()
		node, group := `pgha_patroni_node.db["a2"]`, `pgha_patroni_cluster.group["1"]`
		refuses(node, strings.Replace(ids[node], "@shop:1@", "@shop@", 1), "is a Citus formation, with the groups 0, 1, 2")
		refuses(node, strings.Replace(ids[node], "@shop:1@", "@shop:2@", 1), `this host runs the node "a2" of /service/shop/1, not "a2" of /service/shop/2`)
		refuses(node, strings.Replace(ids[node], "@shop:1@", "@shop:7@", 1), "has no Patroni cluster /service/shop/7")
		f.on("a2", "sed -i 's/database: shop/database: other/' /etc/patroni/config.yml")
		refuses(node, ids[node], `citus.database is "other" here`)
		f.on("a1", "sed -i 's/database: shop/database: other/' /etc/patroni/config.yml")
		refuses(group, ids[group], "citus.database of group 1 is other, and that of group 0 is shop")
		for _, h := range []string{"a1", "a2"} {
			f.on(h, "sed -i 's/database: other/database: shop/' /etc/patroni/config.yml")
		}

		f.more = `, extension_version = each.key == "0" ? "13.2-1" : null`
		f.adoptedFormation(3)
		o := f.Plan(ctx)
		if o.Code != 1 {
			t.Errorf("the plan's exit status is %d", o.Code)
		}
		has(t, o, "The extension of an imported formation is not managed")
		f.more = ""
		f.adoptedFormation(3)

		f.Write("new.tf", `resource "pgha_patroni_cluster" "new" {
  scope            = "shop"
  citus            = { group = 7, database = "shop" }
  etcd             = pgha_etcd_cluster.dcs.access
  allowed_networks = ["samenet"]
}
`)
		if o := f.TryApply(ctx); o.Code == 0 {
			t.Error("a group was added")
		} else {
			has(t, o, "group 0 of shop was made by somebody else")
		}
		f.Write("new.tf", "")
		f.NoChanges(ctx)
	})

	if exhaustive() { // it leaves, below, is drained as well
		t.Run("drained, and back", func(t *testing.T) { f.drainedAndBack(t, f.adoptedFormation, "", rows) })
	}

	t.Run("a switchover", func(t *testing.T) {
		// The group's leader is now on a host that has no member of etcd, and no note.
		f.on("a1", "patronictl -c /etc/patroni/config.yml switchover --group 1 --leader a1 --candidate a2 --force")
		f.registered()
		f.NoChanges(ctx)
		f.on("a1", "patronictl -c /etc/patroni/config.yml switchover --group 1 --leader a2 --candidate a1 --force")
		f.registered()
	})
	processes = f.processes("b1")

	t.Run("it leaves", func(t *testing.T) {
		f.adoptedFormation(2)
		if o := f.TryApply(ctx); o.Code == 0 {
			t.Error("a protected group was taken out")
		} else {
			has(t, o, "It is protected from deletion")
		}
		if f.held(2) == "0" {
			t.Error("it was drained")
		}
		f.protected = `each.key != "2"`
		f.adoptedFormation(3)
		f.Apply(ctx)
		f.adoptedFormation(2)
		has(t, f.Plan(ctx), "Destroying the group shop/2 moves all its shards to other groups")
		f.Apply(ctx)
		if left := f.shop("select * from pg_dist_node where groupid = 2"); left != "" {
			t.Errorf("it is still in the metadata: %s", left)
		}
		if now := f.sums(); now != rows {
			t.Errorf("the tables hold %s, before %s", now, rows)
		}
		if now := f.processes("b1"); now != processes {
			t.Errorf("something was restarted:\n%s\nwas\n%s", now, processes)
		}
		f.on("b1", "! systemctl is-active -q patroni && ! pgrep -x postgres && test -e /var/lib/postgresql/17/main/PG_VERSION")
		f.shop("create table more (id bigint primary key)")
		f.shop("select create_distributed_table('more', 'id')")
		f.NoChanges(ctx)
	})
}
