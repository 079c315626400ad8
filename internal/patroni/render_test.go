package patroni

import (
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/golden"
)

func exampleNode() Node {
	return Node{
		Cluster: Cluster{
			Scope: "main", Namespace: "/service/", UID: "0123456789abcdef", PostgresPort: 5432, APIPort: 8008,
			Etcd: etcd.Access{Name: "dcs", TLS: true, Auth: true, ClientPort: 2379, Members: map[string]etcd.Member{
				"pg1": {Address: "10.0.0.1"}, "pg2": {Address: "10.0.0.2"}, "pg3": {Address: "fd00::3"},
			}},
			Users:  Users{Superuser: "postgres", Replication: "replicator", Rewind: "rewind_user", API: "patroni"},
			Initdb: Initdb{Locale: "C.UTF-8", Encoding: "UTF8", DataChecksums: true},
		},
		Name: "pg2", Address: "10.0.0.2", Postgres: "17.11", Patroni: "4.0.7", DataDir: "/var/lib/postgresql/17/main",
	}
}

// exampleSecrets are hostile: they show that a value cannot leave its place in the file.
var exampleSecrets = Secrets{
	Superuser: `it's "quoted": #not a comment`, Replication: "a\\b\nc: d", Rewind: "{{ %s }} $(id)", API: "- x", Etcd: "ünïcode ",
}

// Patroni's configuration file. A difference here reloads every node of every
// cluster that there is, at the next apply.
func TestConfig(t *testing.T) {
	for name, c := range map[string]struct {
		change        func(*Node)
		bootstrapping bool
	}{
		"plain node":                      {},
		"bootstrapping":                   {bootstrapping: true},
		"bootstrapping without checksums": {change: func(n *Node) { n.Cluster.Initdb = Initdb{Locale: "de_DE.UTF-8", Encoding: "UTF8"} }, bootstrapping: true},
		"etcd without TLS and users":      {change: func(n *Node) { n.Cluster.Etcd.TLS, n.Cluster.Etcd.Auth = false, false }},
		"ipv6":                            {change: func(n *Node) { n.Address = "fd00::2"; n.Cluster.PostgresPort, n.Cluster.APIPort = 15432, 18008 }},
		"watchdog":                        {change: func(n *Node) { n.Watchdog = Watchdog{Mode: "required", SafetyMargin: 5} }},
		"by name":                         {change: func(n *Node) { n.Address = "pg2.example.test" }},
		"by a name for ipv6": {change: func(n *Node) {
			n.Address, n.NamedIPv6 = "pg2.example.test", true
			n.Cluster.APIAllowlist = []string{"10.1.0.0/16", "10.2.0.1", "fd00::/8", "monitor.example.test"}
		}},
		"tags and an allowlist": {change: func(n *Node) {
			n.Tags = map[string]any{"nofailover": true, "failover_priority": int64(0), "replicatefrom": "pg1", "zone": "a: b"}
			n.Cluster.APIAllowlist = []string{"10.1.0.0/16", "monitor.example.test"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			n := exampleNode()
			if c.change != nil {
				c.change(&n)
			}
			golden.Files(t, "config-"+name, n.config(exampleSecrets, c.bootstrapping))
		})
	}
}

// The other files on a node's host.
func TestFiles(t *testing.T) {
	n := exampleNode()
	marker := Marker{Scope: "main", Namespace: "/service/", UID: "0123456789abcdef", Node: "pg2", MachineID: "f00", DataDir: n.DataDir, Joined: true, Files: map[string]string{ConfigPath: "abc"}}
	golden.Files(t, "files", append(n.files(), noCluster(), marker.file())...)
}
