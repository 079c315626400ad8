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
	n.Cluster.Etcd.TLS = false
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

// A node comes to etcd with https and with a password: nothing else in its file
// changes, and merging again changes nothing.
func TestForeignConfigComes(t *testing.T) {
	f, err := ParseForeign([]byte(foreignText))
	if err != nil {
		t.Fatal(err)
	}
	n := exampleNode()
	n.Tags = f.tags()
	n.EtcdUser, n.EtcdPassword = "patroni.main", "on: a #hostile one"
	text, err := f.Merge(n)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseForeign(text)
	if err != nil {
		t.Fatal(err)
	}
	e := again.file.Etcd3
	want := foreignEtcd{
		Hosts: f.file.Etcd3.Hosts, Protocol: "https", CACert: "/etc/pgha/patroni/main/etcd-ca.crt", Cert: "/etc/pgha/patroni/main/etcd.crt", Key: "/etc/pgha/patroni/main/etcd.key",
		Username: "patroni.main", Password: "on: a #hostile one",
	}
	if d := cmp.Diff(want, *e); d != "" {
		t.Error(d)
	}
	for _, kept := range []string{"# Written by Alice.", "repl-password", "rack:"} {
		if !strings.Contains(string(text), kept) {
			t.Errorf("it lacks %q:\n%s", kept, text)
		}
	}
	if twice, err := again.Merge(n); err != nil || string(twice) != string(text) {
		t.Errorf("merging twice changes it again (%v):\n%s", err, twice)
	}
	n.EtcdUser, n.EtcdPassword = "", ""
	if kept, err := again.Merge(n); err != nil || string(kept) != string(text) {
		t.Errorf("what is not known was taken out (%v):\n%s", err, kept)
	}
	byURL, err := ParseForeign([]byte(strings.Replace(foreignText, "etcd3:\n", "etcd3:\n  url: http://10.0.0.1:2379\n", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := byURL.Merge(n); err == nil || !strings.Contains(err.Error(), "names etcd by url") {
		t.Errorf("etcd by url: %v", err)
	}
}

// What cannot be managed is refused, with the reason.
func TestForeignConfigRefused(t *testing.T) {
	for says, change := range map[string][2]string{
		"old protocol":        {"etcd3:", "etcd:"},
		"does not use etcd":   {"etcd3:", "consul:"},
		"client certificates": {"restapi:\n", "restapi:\n  verify_client: required\n"},
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
