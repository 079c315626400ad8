package patroni

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const foreignText = `# Written by Alice.
scope: main
name: pg2   # the second one
restapi:
  connect_address: "[fd00::2]:8010"
  authentication: {username: admin, password: api-password}
  allowlist: [127.0.0.1, 10.0.0.0/8]
etcd3:
  hosts: "[fd00::3]:2379, http://10.0.0.1:2379,10.0.0.2"   # all
  password: etcd-password
postgresql:
  connect_address: 10.0.0.2:5433
  data_dir: /srv/pg
  authentication:
    superuser: {username: postgres, password: super-password}
    replication: {username: repl, password: repl-password}
tags:
  nofailover: false
  rack: "7"
`

// A file is read as it is meant, and only what is managed is changed in it.
func TestForeignConfig(t *testing.T) {
	f, err := ParseForeign([]byte(foreignText))
	if err != nil {
		t.Fatal(err)
	}
	n := exampleNode()
	n.Name, n.Tags = "pg2", map[string]any{"rack": "7"}
	n.Cluster.UID = adoptedPrefix + "1"
	if !f.is(n) {
		t.Error("it is not taken for the node's")
	}
	if err := f.unsupported(); err != nil {
		t.Error(err)
	}
	pg, api := f.ports()
	got := []any{pg, api, f.address(), f.users(), f.secrets(), f.allowlist(), f.endpoints(), f.tags()}
	want := []any{
		5433, 8010, "10.0.0.2", Users{Superuser: "postgres", Replication: "repl", Rewind: "rewind_user", API: "admin"},
		Secrets{Superuser: "super-password", Replication: "repl-password", API: "api-password", Etcd: "etcd-password"},
		[]string{"10.0.0.0/8"}, []string{"10.0.0.1:2379", "10.0.0.2:2379", "[fd00::3]:2379"}, map[string]any{"rack": "7"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if text, err := f.Merge(n); err != nil || string(text) != foreignText {
		t.Errorf("a file that is as it should be was changed (%v):\n%s", err, text)
	}

	n.Tags = map[string]any{"nosync": true}
	delete(n.Cluster.Etcd.Members, "pg1")
	text, err := f.Merge(n)
	if err != nil {
		t.Fatal(err)
	}
	for _, kept := range []string{"# Written by Alice.", "# the second one", "repl-password", "connect_address: 10.0.0.2:5433", "nosync: true"} {
		if !strings.Contains(string(text), kept) {
			t.Errorf("it lacks %q:\n%s", kept, text)
		}
	}
	again, err := ParseForeign(text)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"10.0.0.2:2379", "[fd00::3]:2379"}, again.endpoints()); d != "" || len(again.tags()) != 1 {
		t.Errorf("%s %v", d, again.tags())
	}
	if twice, err := again.Merge(n); err != nil || string(twice) != string(text) {
		t.Errorf("merging twice changes it again (%v):\n%s", err, twice)
	}
	n.Tags = nil
	if text, err = again.Merge(n); err != nil || strings.Contains(string(text), "tags") {
		t.Errorf("tags that are gone are still there (%v):\n%s", err, text)
	}
}

// What cannot be managed is refused, with the reason.
func TestForeignConfigRefused(t *testing.T) {
	for says, change := range map[string][2]string{
		"old protocol":        {"etcd3:", "etcd:"},
		"does not use etcd":   {"etcd3:", "consul:"},
		"client certificates": {"restapi:\n", "restapi:\n  verify_client: required\n"},
		"Citus":               {"tags:", "citus: {group: 0, database: x}\ntags:"},
		`superuser is "boss"`: {"username: postgres", "username: boss"},
		"cannot be read":      {"scope: main", "scope: [main"},
	} {
		f, err := ParseForeign([]byte(strings.Replace(foreignText, change[0], change[1], 1)))
		if err == nil {
			err = f.unsupported()
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}
