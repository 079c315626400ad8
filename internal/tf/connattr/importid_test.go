package connattr

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
)

func TestImportIDs(t *testing.T) {
	m := func(name, address string) etcd.Member {
		return etcd.Member{Address: address, Target: host.Target{Name: name, Address: address}}
	}
	other := m("pg1", "10.0.0.1")
	other.Target = host.Target{Name: "pg1", Address: "192.0.2.1", Port: 2222, User: "admin", Bastions: "a@b:1,[fd00::1]:2"}
	three := map[string]etcd.Member{"pg1": m("pg1", "10.0.0.1"), "pg2": m("pg2", "fd00::2"), "pg3": m("pg3", "db3.example")}
	const list = "pg1=10.0.0.1,pg2=[fd00::2],pg3=db3.example"

	name, node, c, err := ParseNodeID("pg1=" + formatMember("pg1", other) + "@/db/main@db9=10.0.0.9@dcs@" + list)
	if err != nil || name != "pg1" {
		t.Fatalf("%q %v", name, err)
	}
	if d := cmp.Diff(other, node); d != "" {
		t.Errorf("node (-want +got):\n%s", d)
	}
	want := ClusterID{Namespace: "/db/", Scope: "main", Nodes: map[string]etcd.Member{"db9": m("db9", "10.0.0.9")}, Etcd: "dcs", Members: three}
	if d := cmp.Diff(want, c); d != "" {
		t.Errorf("cluster (-want +got):\n%s", d)
	}
	if c, err = ParseClusterID("main@dcs@" + list); err != nil || c.Namespace != "/service/" || c.Scope != "main" || c.Nodes != nil {
		t.Errorf("%+v %v", c, err)
	}
	if c, err = ParseClusterID("main:2@dcs@" + list); err != nil || c.Scope != "main" || c.Group == nil || *c.Group != 2 {
		t.Errorf("%+v %v", c, err)
	}
	for _, id := range []string{"main:x@dcs@a=1", "main:-1@dcs@a=1", ":1@dcs@a=1"} {
		if _, err := ParseClusterID(id); err == nil || !strings.Contains(err.Error(), "main:1") {
			t.Errorf("%q: %v", id, err)
		}
	}
	if got, err := ParseHostID("pg1=10.0.0.1?port=2222"); err != nil || got != (host.Target{Name: "pg1", Address: "10.0.0.1", Port: 2222}) {
		t.Errorf("%+v %v", got, err)
	}
	for id, parse := range map[string]func(string) error{
		"pg1":                       func(s string) error { _, err := ParseHostID(s); return err },
		"=10.0.0.1":                 func(s string) error { _, err := ParseHostID(s); return err },
		"pg1=10.0.0.1?ssh=10.1.1.1": func(s string) error { _, err := ParseHostID(s); return err },
		"pg1=10.0.0.1?port=x":       func(s string) error { _, err := ParseHostID(s); return err },
		"dcs":                       func(s string) error { _, _, err := ParseEtcdID(s); return err },
		"dcs@":                      func(s string) error { _, _, err := ParseEtcdID(s); return err },
		"dcs@a=1,a=2":               func(s string) error { _, _, err := ParseEtcdID(s); return err },
		"main@a=1":                  func(s string) error { _, err := ParseClusterID(s); return err },
		"@dcs@a=1":                  func(s string) error { _, err := ParseClusterID(s); return err },
		"pg1@main@dcs@a=1":          func(s string) error { _, _, _, err := ParseNodeID(s); return err },
		"pg1=1":                     func(s string) error { _, _, _, err := ParseNodeID(s); return err },
	} {
		if err := parse(id); err == nil || !strings.Contains(err.Error(), "=") && !strings.Contains(err.Error(), "has one") {
			t.Errorf("%q: %v", id, err)
		}
	}
}
