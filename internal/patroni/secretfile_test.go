package patroni

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A file with other passwords put in is to the byte the one that is rendered with
// them: nodes compare digests.
func TestWithSecrets(t *testing.T) {
	plain := Secrets{Superuser: "0123456789", Replication: "12:34:56:78", Rewind: "yes-no", API: "1e1000000", Etcd: "0x00000000", EtcdUser: "patroni.main@2"}
	for name, change := range map[string]func(*Node){
		"plain": func(*Node) {},
		"tags": func(n *Node) {
			n.Tags = map[string]any{"nofailover": true, "failover_priority": int64(0), "zone": "a: b", "text": "two\nlines"}
		},
		"etcd without users": func(n *Node) { n.Cluster.Etcd.Auth, n.Cluster.Etcd.TLS = false, false },
		"ipv6":               func(n *Node) { n.Address = "fd00::2" },
	} {
		n := exampleNode()
		change(&n)
		for _, pair := range [][2]Secrets{{exampleSecrets, plain}, {plain, exampleSecrets}, {plain, plain}} {
			got, err := n.Cluster.withSecrets(n.config(pair[0], false).Content, pair[1])
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if d := cmp.Diff(string(n.config(pair[1], false).Content), string(got)); d != "" {
				t.Errorf("%s (-rendered +changed):\n%s", name, d)
			}
		}
	}
	for _, broken := range []string{"", "a: [", "scope: main", "restapi: x"} {
		if _, err := exampleNode().Cluster.withSecrets([]byte(broken), plain); err == nil {
			t.Errorf("%q was taken", broken)
		}
	}
}

func TestPassFile(t *testing.T) {
	for name, c := range map[string]struct{ have, want string }{
		"Patroni 4":       {"10.0.0.1:5432:*:replicator:old\n", "10.0.0.1:5432:*:replicator:n\\:e\\\\w\n"},
		"Patroni 3":       {"10.0.0.1:5432:*:replicator:old", "10.0.0.1:5432:*:replicator:n\\:e\\\\w"},
		"IPv6":            {"fd00\\:\\:1:5432:*:replicator:o\\:l\\\\d\n", "fd00\\:\\:1:5432:*:replicator:n\\:e\\\\w\n"},
		"several":         {"a:5432:*:replicator:x\nb:5432:*:other:y\n", "a:5432:*:replicator:n\\:e\\\\w\nb:5432:*:other:y\n"},
		"nothing of ours": {"# a:b:c:replicator:d\n\na:b\n", "# a:b:c:replicator:d\n\na:b\n"},
		"empty":           {"", ""},
	} {
		if got := string(passFile([]byte(c.have), map[string]string{"replicator": `n:e\w`})); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
