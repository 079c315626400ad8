package acceptance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// Two clusters of two nodes share an etcd of three members; the name of one
// begins with that of the other. Addresses of both families are mixed in all
// three. One cluster is destroyed with everything it had while rows are written to
// the other.
func TestDualStack(t *testing.T) {
	turn(t)
	cli.Binary(t)
	lab := labtest.New(t, labhost.Options{Image: labhost.Warm, Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: []string{"a1", "a2", "b1", "b2"}}}})
	s := &site{t: t, lab: lab, Dir: cli.New(t, nil, lab.Env()...)}
	ctx := t.Context()
	v4 := func(h string) string { return lab.Host(h).Addr }
	v6 := func(h string) string { return lab.Host(h).Addr6 }
	postgres, patroni := s.oldest(s.server()), s.oldest("patroni")
	node := func(name, cluster, more string) string {
		return fmt.Sprintf(`resource "pgha_patroni_node" %q {
  cluster    = pgha_patroni_cluster.%s.membership
  host       = pgha_host.db[%q].access
  name       = %q
  versions   = { postgresql = %q, patroni = %q }
  on_destroy = "purge"
  %s
}
`, name, cluster, name, name, postgres, patroni, more)
	}
	cluster := func(scope string) string {
		return fmt.Sprintf(`resource "pgha_patroni_cluster" %q {
  scope               = %q
  etcd                = pgha_etcd_cluster.dcs.access
  allowed_networks    = ["samenet", "10.0.0.0/8", "fd77::/16"]
  rest_api_allowlist  = ["10.0.0.0/8", "fd77::/16"]
  deletion_protection = false
  on_destroy          = "purge"
}
data "pgha_cluster" %q {
  cluster    = pgha_patroni_cluster.%s.membership
  depends_on = [pgha_patroni_node.b1, pgha_patroni_node.b2]
}
output %q { value = pgha_patroni_cluster.%s.ca_certificate }
`, scope, scope, scope, scope, "ca_"+scope, scope)
	}
	shared := fmt.Sprintf(`terraform {
  required_providers {
    pgha = { source = "pgha/pgha" }
  }
}
resource "pgha_host" "db" {
  for_each  = { a1 = %q, a2 = %q, b1 = %q, b2 = %q }
  name      = each.key
  address   = each.value
  time_sync = "off"
}
resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = %q
  members = {
    a1 = { host = pgha_host.db["a1"].access }
    a2 = { host = pgha_host.db["a2"].access }
    b1 = { host = pgha_host.db["b1"].access, address = %q }
  }
  deletion_protection = false
  on_destroy          = "purge"
}
`, v4("a1"), v6("a2"), v6("b1"), v4("b2"), s.oldest("etcd-server"), v4("b1"))
	main := cluster("main") + node("a1", "main", "") + node("a2", "main", "")
	main2 := cluster("main2") + node("b1", "main2", "") + node("b2", "main2", fmt.Sprintf("address = %q", v6("b2")))

	s.Write("main.tf", shared+main+main2)
	s.Apply(ctx)
	s.healthy("a1", "a1", "a2")
	s.healthy("b1", "b1", "b2")

	t.Run("both families", func(t *testing.T) {
		for h, want := range map[string]string{"a1": v4("a1"), "a2": v6("a2"), "b1": v6("b1"), "b2": v6("b2")} {
			if at := s.members(h)[h].Host; strings.Trim(at, "[]") != want {
				t.Errorf("Patroni has %s at %s, want %s", h, at, want)
			}
		}
		for _, h := range []string{"a1", "a2", "b1"} {
			if list := s.etcdctl(h, "member list"); strings.Count(list, "started") != 3 || !strings.Contains(list, "https://["+v6("a2")+"]:2380") || !strings.Contains(list, "https://"+v4("b1")+":2379") {
				t.Errorf("etcd's members according to %s:\n%s", h, list)
			}
		}
		// PostgreSQL answers at both addresses of each host.
		leader := s.leader("b1")
		s.sql(leader, "create role app superuser login password 'app-password'")
		var ca string
		s.Outputs(ctx, "ca_main2", &ca)
		for _, address := range []string{v4(leader), v6(leader)} {
			got := s.on("a1", "cd /; PGPASSWORD=app-password psql -XAtqc 'select 1' 'host="+address+" user=app dbname=postgres sslmode=require'")
			if got != "1" {
				t.Errorf("at %s: %s", address, got)
			}
		}
	})

	t.Run("the leader moves to the other family", func(t *testing.T) {
		// Asked of either, by the other: it comes from an address of the family that
		// Patroni does not have for it.
		s.lead("a1", []string{"a2"}, "a1", "a2")
		s.lead("a1", []string{"a1"}, "a1", "a2")
		s.lead("a2", []string{"a2"}, "a1", "a2")
		s.NoChanges(ctx)
	})

	t.Run("each sees its own keys", func(t *testing.T) {
		read := func(key string) string {
			return s.on("b1", `pass=$(sed -n '/^etcd3:/,/^[a-z]/s/^ *password: //p' /etc/patroni/config.yml); dir=/etc/pgha/patroni/main2
ETCDCTL_API=3 ETCDCTL_USER=patroni.main2:$pass etcdctl --endpoints https://`+v4("a1")+`:2379 --cacert $dir/etcd-ca.crt --cert $dir/etcd.crt --key $dir/etcd.key get --keys-only --prefix `+key+" 2>&1 || true")
		}
		if got := read("/service/main2/"); !strings.Contains(got, "/service/main2/leader") {
			t.Errorf("main2 does not see its own leader: %s", got)
		}
		if got := read("/service/main/"); !strings.Contains(got, "permission denied") {
			t.Errorf("main2 sees main's keys: %s", got)
		}
	})

	var ca string
	s.Outputs(ctx, "ca_main2", &ca)
	w := writer.Start(t, writer.Config{Hosts: []string{v6("b1"), v6("b2")}, User: "app", Password: "app-password", CA: ca})

	t.Run("one is destroyed", func(t *testing.T) {
		s.Write("main.tf", shared+main2)
		has(t, s.Plan(ctx), "0 to add, 0 to change, 3 to destroy")
		s.Apply(ctx)
		s.NoChanges(ctx)
		keys := s.etcdctl("a1", "get --keys-only --prefix /")
		if strings.Contains(keys, "/main/") || !strings.Contains(keys, "/service/main2/leader") || !strings.Contains(keys, "/pgha/patroni/service/main2/record") {
			t.Errorf("the keys in etcd:\n%s", keys)
		}
		if users := strings.Fields(s.etcdctl("a1", "user list")); strings.Join(users, " ") != "patroni.main2 pgha root" {
			t.Errorf("etcd's users: %v", users)
		}
		for _, h := range []string{"a1", "a2", "b1"} {
			if got := s.on(h, "ls /etc/pgha/ca"); got != "etcd-dcs\npatroni-main2" {
				t.Errorf("authorities on %s: %s", h, got)
			}
		}
		s.on("a1", "test ! -e /etc/pgha/patroni && test ! -e /var/lib/postgresql/17/main && ! pgrep -x postgres")
		s.healthy("b1", "b1", "b2")
	})

	if n := w.Failed(); n > 0 {
		t.Errorf("%d writes to main2 failed", n)
	}
	w.Check(t)
	s.Destroy(ctx)
	for _, h := range lab.Hosts() {
		s.on(h.Name, "test ! -e /etc/pgha && ! systemctl is-active -q patroni etcd")
	}
}
