package acceptance

import (
	"context"
	"fmt"
	"slices"
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
