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
)

// ids are the ids with which a site's resources are imported, by address.
func (s *site) ids() map[string]string {
	var members []string
	for _, h := range s.lab.Hosts() {
		members = append(members, h.Name+"="+h.Addr)
	}
	dcs := "dcs@" + strings.Join(members, ",")
	all := map[string]string{"pgha_etcd_cluster.dcs": dcs, "pgha_patroni_cluster.main": "main@" + dcs}
	for _, h := range s.lab.Hosts() {
		all[fmt.Sprintf("pgha_host.db[%q]", h.Name)] = h.Name + "=" + h.Addr
		all["pgha_patroni_node."+h.Name] = h.Name + "=" + h.Addr + "@main@" + dcs
	}
	return all
}

// importBlocks has everything imported by the configuration.
func (s *site) importBlocks() {
	var b strings.Builder
	for address, id := range s.ids() {
		fmt.Fprintf(&b, "import {\n  to = %s\n  id = %q\n}\n", address, id)
	}
	s.Write("import.tf", b.String())
}

// again is a second folder for the same hosts, with an empty state.
func (s *site) again(c settings) *site {
	other := &site{t: s.t, lab: s.lab, Dir: cli.New(s.t, nil, s.lab.Env()...)}
	other.configure(c)
	return other
}

// What this provider has made is imported into an empty state, by the CLI's
// command and by blocks in the configuration, and the plan is empty.
func TestImport(t *testing.T) {
	turn(t)
	base := settings{
		Protect: true,
		Cluster: `failure_detection = "fast"
  synchronous_mode = "quorum"
  rest_api_allowlist = ["10.1.0.0/16"]
  slots = { cdc = { type = "physical" } }
  credentials = { replication = { username = "follower" } }
  postgresql = {
    parameters = { work_mem = "8MB", max_connections = "150" }
    pg_ident   = ["people alice app"]
  }`,
		Etcd: `quota_backend_bytes = "1GiB"`,
		Node: `tags = { failover_priority = 2, custom = { place = "it's \"here\"" } }`,
	}
	s := newSite(t, labhost.Warm, base, "pg1", "pg2", "pg3")
	ctx := t.Context()
	s.Apply(ctx)
	s.healthy("pg1", "pg1", "pg2", "pg3")
	before := s.fingerprint()

	t.Run("blocks", func(t *testing.T) {
		other := s.again(base)
		other.importBlocks()
		has(t, other.Plan(ctx), "8 to import, 0 to add, 0 to change, 0 to destroy")
		other.Apply(ctx)
		other.NoChanges(ctx)
		if list := other.Resources(ctx); len(list) != 8 {
			t.Errorf("in the state: %v", list)
		}
	})
	t.Run("command", func(t *testing.T) {
		other := s.again(base)
		for _, address := range []string{`pgha_host.db["pg1"]`, "pgha_patroni_node.pg1", "pgha_etcd_cluster.dcs", "pgha_patroni_cluster.main"} {
			if o := other.Run(ctx, "import", "-no-color", address, s.ids()[address]); o.Code != 0 {
				t.Errorf("import %s failed:\n%s", address, o.Text)
			}
		}
		id := s.ids()["pgha_patroni_node.pg2"]
		for wrong, says := range map[string]string{
			"pg1": "NODE=ADDRESS",
			strings.Replace(id, "@main@", "@other@", 1):                                    "has no Patroni cluster /service/other",
			strings.Replace(id, "pg2=", "pg1=", 1):                                         `this host runs the node "pg2"`,
			strings.Replace(id, ",pg3="+s.lab.Host("pg3").Addr, "", 1):                     "the cluster has the members pg1, pg2, pg3",
			strings.Replace(id, "@dcs@", "@other@", 1):                                     `this host's etcd belongs to the cluster "dcs"`,
			strings.Replace(id, "pg2="+s.lab.Host("pg2").Addr+"@", "pg2=10.255.255.1@", 1): "unreachable",
		} {
			o := other.Run(ctx, "import", "-no-color", "pgha_patroni_node.pg2", wrong)
			if o.Code == 0 {
				t.Errorf("%q was imported", wrong)
			}
			has(t, o, says)
		}
	})
	if after := s.fingerprint(); after != before {
		t.Errorf("importing changed the hosts:\n%s\nwas\n%s", after, before)
	}
	s.NoChanges(ctx)
}

// etcdByHand makes etcd on hosts as a person does with Debian's packages: in the clear.
func (s *site) etcdByHand(hosts ...string) {
	var members []string
	for _, h := range hosts {
		members = append(members, fmt.Sprintf("%s=http://%s:2380", h, s.lab.Host(h).Addr))
	}
	for _, h := range hosts {
		s.on(h, fmt.Sprintf(`cat >/etc/default/etcd <<'END'
ETCD_NAME=%[1]s
ETCD_DATA_DIR="/var/lib/etcd/by-hand"
ETCD_LISTEN_PEER_URLS=http://%[2]s:2380
ETCD_LISTEN_CLIENT_URLS=http://%[2]s:2379,http://127.0.0.1:2379
ETCD_INITIAL_ADVERTISE_PEER_URLS=http://%[2]s:2380
ETCD_ADVERTISE_CLIENT_URLS=http://%[2]s:2379
ETCD_INITIAL_CLUSTER=%[3]s
ETCD_INITIAL_CLUSTER_STATE=new
ETCD_INITIAL_CLUSTER_TOKEN=by-hand
END
systemctl -q enable etcd 2>/dev/null; systemctl start --no-block etcd`, h, s.lab.Host(h).Addr, strings.Join(members, ",")))
	}
}

// handNode is a node as a person configures it.
type handNode struct {
	host, scope string
	etcdOn      []string
	dynamic     string // what bootstrap.dcs has
	more        string // further sections
}

// patroniByHand configures Patroni on a host, in a file with comments, and does not start it.
func (s *site) patroniByHand(n handNode) {
	var endpoints []string
	for _, h := range n.etcdOn {
		endpoints = append(endpoints, s.lab.Host(h).Addr+":2379")
	}
	s.on(n.host, fmt.Sprintf(`cat >/etc/patroni/config.yml <<'END'
# Written by Alice. Do not touch without asking her.
scope: %[5]s
name: %[1]s
%[6]srestapi:
  listen: 0.0.0.0:8008
  connect_address: %[2]s:8008
  authentication:
    username: admin
    password: alice-api-password
etcd3:
  hosts: %[3]s   # all three
bootstrap:
  dcs:
%[4]s
  initdb:
  - encoding: UTF8
  - data-checksums
  - locale: C.UTF-8
postgresql:
  listen: 0.0.0.0:5432
  connect_address: %[2]s:5432
  data_dir: /var/lib/postgresql/17/main
  bin_dir: /usr/lib/postgresql/17/bin
  pgpass: /var/lib/postgresql/pgpass
  authentication:
    superuser: {username: postgres, password: alice-super-password}
    replication: {username: repl, password: alice-repl-password}
  pg_hba:
  - local all all peer
  - host all all 127.0.0.1/32 scram-sha-256
  - host replication repl samenet scram-sha-256
  - host replication repl samehost scram-sha-256
  - host all all 10.0.0.0/8 scram-sha-256
  parameters:
    unix_socket_directories: /var/run/postgresql
  basebackup:
  - checkpoint: fast
tags:
  nofailover: false
  noloadbalance: false
  datacenter: here
END
chown root:postgres /etc/patroni/config.yml && chmod 640 /etc/patroni/config.yml
systemctl -q enable patroni 2>/dev/null`, n.host, s.lab.Host(n.host).Addr, strings.Join(endpoints, ","), n.dynamic, n.scope, n.more))
}

// leadsByHand waits until a host's Patroni leads.
func (s *site) leadsByHand(host string) {
	s.eventually(host+" to lead", time.Minute, func(ctx context.Context) (bool, string) {
		list, err := s.list(ctx, host)
		return slices.ContainsFunc(list, func(m member) bool { return m.Member == host && m.Role == "Leader" && m.State == "running" }), fmt.Sprint(list, err)
	})
}

// byHand makes a cluster as a person does with Debian's packages. Dynamic is what
// bootstrap.dcs has.
func (s *site) byHand(dynamic string) {
	var all []string
	for _, h := range s.lab.Hosts() {
		all = append(all, h.Name)
	}
	for _, h := range all {
		s.patroniByHand(handNode{host: h, scope: "main", etcdOn: all, dynamic: dynamic})
	}
	s.etcdByHand(all...)
	s.on(all[0], "systemctl start patroni")
	s.leadsByHand(all[0])
	for _, h := range all[1:] {
		s.on(h, "systemctl start patroni")
	}
	s.healthy(all[0], "pg1", "pg2", "pg3")
}

const handMade = `    ttl: 30
    loop_wait: 5
    retry_timeout: 10
    maximum_lag_on_failover: 1048576
    postgresql:
      use_pg_rewind: true
      parameters:
        max_connections: 120
        work_mem: 6MB
        log_checkpoints: true`

// adopted is the configuration that describes the cluster made by hand.
func adopted() settings {
	return settings{
		Protect: true,
		Host: `sysctl = {}
  max_open_files = 0`,
		Etcd: `tls  = false
  auth = false
  auto_compaction_retention = "0s"`,
		Cluster: `loop_wait = "5s"
  maximum_lag_on_failover = "1MiB"
  check_timeline   = false
  credentials = { replication = { username = "repl" }, rest_api = { username = "admin" } }
  postgresql = { parameters = { max_connections = "120", work_mem = "6MB", log_checkpoints = "on" } }`,
		Networks: []string{},
		Node:     `tags = { custom = { datacenter = "here" } }`,
	}
}

// A cluster that was made by hand is imported: the plan is empty, nothing is
// restarted or written. A configuration that differs gets a plan that names each
// difference. Then it is changed, step by step, under a writer.
func TestAdopt(t *testing.T) {
	turn(t)
	base := adopted()
	s := newSite(t, labhost.Warm, base, "pg1", "pg2", "pg3")
	ctx := t.Context()
	all := []string{"pg1", "pg2", "pg3"}
	s.byHand(handMade)
	before, started := s.fingerprint(), s.started()
	s.importBlocks()
	has(t, s.Plan(ctx), "8 to import, 0 to add, 0 to change, 0 to destroy")
	s.Apply(ctx)
	s.NoChanges(ctx)
	if after := s.fingerprint(); after != before {
		t.Fatalf("importing changed the hosts:\n%s\nwas\n%s", after, before)
	}

	s.sql(s.leader("pg1"), "create role app superuser login password 'app-password'")
	cfg := writer.Config{User: "app", Password: "app-password"}
	for _, h := range s.lab.Hosts() {
		cfg.Hosts = append(cfg.Hosts, h.Addr)
	}
	s.eventually("the role on the replicas", 30*time.Second, func(context.Context) (bool, string) {
		for _, h := range all {
			if s.sql(h, "select count(*) from pg_roles where rolname = 'app'") != "1" {
				return false, h
			}
		}
		return true, ""
	})
	w := writer.Start(t, cfg)

	changed := base
	t.Run("differences are named", func(t *testing.T) {
		changed.Cluster = strings.Replace(base.Cluster, `work_mem = "6MB"`, `work_mem = "9MB"`, 1)
		changed.Node = `tags = { noloadbalance = true, custom = { datacenter = "there" } }`
		s.configure(changed)
		has(t, s.Plan(ctx), `"work_mem"        = "6MB" -> "9MB"`, "noloadbalance", `"here" -> "there"`, "0 to add, 4 to change, 0 to destroy", "Applying this reloads all nodes of main")
		s.Apply(ctx)
		s.NoChanges(ctx)
		for _, h := range all {
			if got := s.sql(h, "show work_mem"); got != "9MB" {
				t.Errorf("work_mem on %s is %s", h, got)
			}
			text := s.on(h, "cat /etc/patroni/config.yml")
			for _, kept := range []string{"# Written by Alice", "alice-repl-password", "# all three", "datacenter: there", "noloadbalance: true"} {
				if !strings.Contains(text, kept) {
					t.Errorf("/etc/patroni/config.yml on %s lacks %q:\n%s", h, kept, text)
				}
			}
			s.on(h, "test $(stat -c %a:%U:%G /etc/patroni/config.yml) = 640:root:postgres && apt-mark showhold | grep -qx patroni && test ! -e /etc/systemd/system/patroni.service.d")
		}
		if now := s.started(); !slices.Equal(now, started) {
			t.Errorf("PostgreSQL was restarted: %s, was %s", now, started)
		}
		if keys := s.on("pg1", "ETCDCTL_API=3 etcdctl get --prefix /pgha/"); strings.Contains(keys, "alice-") {
			t.Errorf("a password is in an etcd that everybody may read:\n%s", keys)
		}
	})
	t.Run("drift", func(t *testing.T) {
		s.on("pg2", "sed -i 's/datacenter: there/datacenter: nowhere/' /etc/patroni/config.yml")
		s.on("pg3", "systemctl stop patroni")
		has(t, s.Plan(ctx), "drift", "pg2: write /etc/patroni/config.yml and reload Patroni", "pg3: start Patroni on the database that is there")
		s.Apply(ctx)
		s.healthy("pg1", all...)
		s.NoChanges(ctx)
	})
	t.Run("etcd's settings", func(t *testing.T) {
		changed.Etcd = strings.Replace(base.Etcd, `"0s"`, `"1h"`, 1)
		s.configure(changed)
		has(t, s.Plan(ctx), "auto_compaction_retention", "restart etcd.service, for its settings, while all others are well")
		s.Apply(ctx)
		s.NoChanges(ctx)
		for _, h := range all {
			s.on(h, "tr '\\0' '\\n' </proc/$(systemctl show -p MainPID --value etcd)/environ | grep -qx ETCD_AUTO_COMPACTION_RETENTION=1h0m0s && test -d /var/lib/etcd/by-hand/member")
		}
	})
	t.Run("another version of Patroni", func(t *testing.T) {
		started := s.started()
		changed.Patroni = s.newest("patroni")
		s.configure(changed)
		has(t, s.Plan(ctx), "restart Patroni, while PostgreSQL goes on running")
		s.Apply(ctx)
		s.healthy("pg1", all...)
		s.NoChanges(ctx)
		if now := s.started(); !slices.Equal(now, started) {
			t.Errorf("PostgreSQL was restarted: %s, was %s", now, started)
		}
		for _, h := range all {
			s.on(h, "dpkg-query -Wf '${Version}' patroni | grep -q ^"+changed.Patroni)
		}
	})
	t.Run("the leader leaves", func(t *testing.T) {
		leader := s.leader("pg1")
		s.Write("import.tf", "")
		s.configure(changed)
		s.dropNode(leader)
		has(t, s.Plan(ctx), leader+" is the leader now", "0 to add, 0 to change, 1 to destroy")
		s.Apply(ctx)
		s.healthy(s.others(leader)[0], s.others(leader)...)
		s.NoChanges(ctx)
	})
	w.Check(t)
}
