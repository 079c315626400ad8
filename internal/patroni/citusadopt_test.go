package patroni

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// adoptedWorker is a node of a formation that somebody else made.
func adoptedWorker(name string) Node {
	n := worker(name)
	n.Cluster.UID, n.Cluster.PostgresPort, n.Cluster.APIPort = adoptedPrefix+"1", 5432, 8008
	return n
}

// The file of a node says of which group it is, and of which database.
func TestForeignCitus(t *testing.T) {
	f, err := ParseForeign([]byte(strings.Replace(foreignText, "tags:", "citus: {group: 1, database: shop}\ntags:", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.unsupported(); err != nil {
		t.Error(err)
	}
	n := adoptedWorker("pg2")
	n.Cluster.Scope = "main"
	if !f.is(n) || f.cluster() != "/service/main/1" {
		t.Errorf("it is not taken for the node's, but for one of %s", f.cluster())
	}
	if got := f.describes(n.Cluster); *got.Citus != (Citus{Group: 1, Database: "shop"}) || got.PostgresPort != 5433 || got.Users.API != "admin" {
		t.Errorf("%+v %v", got, got.Citus)
	}
	for name, c := range map[string]*Citus{"another group": {Group: 2}, "no group": nil} {
		n.Cluster.Citus = c
		if f.is(n) {
			t.Errorf("it is taken for the file of a node of %s", name)
		}
	}
}

// Of a formation that somebody else made all members are nodes, wherever they run; of a
// single cluster only those on the hosts of etcd.
func TestCompleteFormation(t *testing.T) {
	known := func(c Cluster) Known {
		c.Etcd.Members = map[string]etcd.Member{"e1": {Address: "10.0.0.1", Target: host.Target{Name: "e1", Address: "192.0.2.1"}}}
		k := Known{Nodes: map[string]NodeRecord{"a3": {Name: "a3", Address: "noted"}}, Members: map[string]Member{
			"a1": {ConnURL: "postgres://10.0.0.1:5432/postgres"}, "a2": {ConnURL: "postgres://10.0.0.2:5432/postgres"}, "a3": {ConnURL: "postgres://10.0.0.3:5432/postgres"}, "a4": {},
		}}
		k.complete(c)
		return k
	}
	want := map[string]NodeRecord{
		"a1": {Name: "a1", Address: "10.0.0.1", Target: host.Target{Name: "e1", Address: "192.0.2.1"}},
		"a2": {Name: "a2", Address: "10.0.0.2", Target: host.Target{Name: "a2", Address: "10.0.0.2"}},
		"a3": {Name: "a3", Address: "noted"},
	}
	c := adoptedWorker("a1").Cluster
	if d := cmp.Diff(want, known(c).Nodes); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	delete(want, "a2")
	c.Citus = nil
	if d := cmp.Diff(want, known(c).Nodes); d != "" {
		t.Errorf("without Citus (-want +got):\n%s", d)
	}
	if k := known(worker("a1").Cluster); len(k.Nodes) != 1 {
		t.Errorf("of our own: %v", k.Nodes)
	}
}

// Another group of a formation that somebody else made is one, too, whichever database it
// has; one that etcd does not have is not taken for it.
func TestOtherGroupAdopted(t *testing.T) {
	c := adoptedWorker("a1").Cluster
	for _, other := range []Cluster{c.Coordinator(), c.in(2)} {
		if !other.Adopted() {
			t.Errorf("%s is taken for our own", other.Name())
		}
		if err := other.Require(Known{Initialize: "4711"}); err != nil {
			t.Error(err)
		}
		if err := other.Require(Known{}); err == nil {
			t.Errorf("%s is found where nothing is", other.Name())
		}
	}
	if c.in(1).UID != c.UID {
		t.Errorf("the group itself is %q", c.in(1).UID)
	}
	if err := c.Require(Known{Initialize: "4711"}); err == nil {
		t.Error("another database is taken for the group's")
	}
	if own := worker("a1").Cluster.Coordinator(); own.Adopted() || own.UID != "" {
		t.Errorf("our own coordinator is %q", own.UID)
	}
}

// Groups of one formation are all made by us, or all by somebody else.
func TestMixedFormation(t *testing.T) {
	theirs, ours := adoptedWorker("a1").Cluster, adoptedWorker("a1").Cluster
	ours.UID = "made-by-us"
	other := func(c Cluster) map[int]Group {
		uid := c.UID
		c = c.in(0)
		c.UID = "" // which is not in the note itself
		return map[int]Group{0: {Record: &Record{UID: uid, Cluster: &c}}}
	}
	for name, c := range map[string]struct {
		group Cluster
		among map[int]Group
		says  string
	}{
		"ours among theirs":   {ours, other(theirs), "group 0 of shop was made by somebody else"},
		"theirs among ours":   {theirs, other(ours), "group 0 of shop was made by this provider, and group 1 by somebody else"},
		"theirs among theirs": {theirs, other(theirs), ""},
		"ours among ours":     {ours, other(ours), ""},
	} {
		err := c.group.fits(c.among)
		if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	theirs.Citus = &Citus{Group: 1, Database: "other"}
	if err := theirs.fits(other(adoptedWorker("a1").Cluster)); err == nil || !strings.Contains(err.Error(), "citus.database of group 1 is other, and that of group 0 is shop") {
		t.Errorf("another database: %v", err)
	}
}

// A group that somebody else made is protected until a note says that it is not.
func TestProtectedAdopted(t *testing.T) {
	c := adoptedWorker("a1").Cluster
	for name, p := range map[string]struct {
		c    Cluster
		k    Known
		want bool
	}{
		"no note":               {c, Known{}, true},
		"no note, not theirs":   {worker("a1").Cluster, Known{}, false},
		"a note":                {c, Known{Record: &Record{}}, false},
		"a note of protection":  {c, Known{Record: &Record{DeletionProtection: true}}, true},
		"our own, unprotected":  {worker("a1").Cluster, Known{Record: &Record{}}, false},
		"our own, as protected": {worker("a1").Cluster, Known{Record: &Record{DeletionProtection: true}}, true},
	} {
		if got := p.k.protected(p.c); got != p.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
