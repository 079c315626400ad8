package patroni

import (
	"strings"
	"testing"
)

func worker(name string) Node {
	return Node{Name: name, Cluster: Cluster{Scope: "shop", Namespace: "/service/", Citus: &Citus{Group: 1, Database: "shop"}}}
}

// Which node takes its group out of the formation: the last one that runs.
func TestLeavesFormation(t *testing.T) {
	coordinator, plain := worker("a1"), worker("a1")
	coordinator.Cluster.Citus, plain.Cluster.Citus = &Citus{Database: "shop"}, nil
	alone := map[string]Member{"a1": {}}
	two := map[string]Member{"a1": {}, "a2": {}}
	noted := map[string]NodeRecord{"a1": {}, "a2": {}}
	for name, c := range map[string]struct {
		n    Node
		k    Known
		want bool
	}{
		"alone":                            {worker("a1"), Known{Members: alone, Nodes: map[string]NodeRecord{"a1": {}}}, true},
		"stopped":                          {worker("a1"), Known{Nodes: map[string]NodeRecord{"a1": {}}}, true},
		"another one runs":                 {worker("a1"), Known{Members: two, Nodes: noted}, false},
		"another one is lost":              {worker("a1"), Known{Members: alone, Nodes: noted, Record: &Record{}}, true},
		"another one is lost, protected":   {worker("a1"), Known{Members: alone, Nodes: noted, Record: &Record{DeletionProtection: true}}, false},
		"another one runs, of no note":     {worker("a1"), Known{Members: two, Nodes: map[string]NodeRecord{"a1": {}}}, false},
		"the coordinator's":                {coordinator, Known{Members: alone}, false},
		"of a cluster without a group":     {plain, Known{Members: alone}, false},
		"alone in a group with protection": {worker("a1"), Known{Members: alone, Nodes: map[string]NodeRecord{"a1": {}}, Record: &Record{DeletionProtection: true}}, true},
	} {
		if got := c.k.leavesFormation(c.n); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestGroupNames(t *testing.T) {
	c := worker("a1").Cluster
	if c.Name() != "shop/1" || c.Prefix() != "/service/shop/1/" || c.recordKey() != "/pgha/patroni/service/shop/1/record" ||
		c.secretsKey() != "/pgha/patroni/service/shop/formation/secrets" || c.etcdUser() != "patroni.shop" || c.Coordinator().Prefix() != "/service/shop/0/" {
		t.Errorf("%s %s %s %s %s", c.Name(), c.Prefix(), c.recordKey(), c.secretsKey(), c.etcdUser())
	}
	for key, want := range map[string]int{
		"/pgha/patroni/service/shop/1/record": 1, "/pgha/patroni/service/shop/12/nodes/x": 12, "/pgha/patroni/service/shop/record": -1,
		"/pgha/patroni/service/shop/formation/secrets": -1, "/pgha/patroni/service/shopping/1/record": -1, "/pgha/patroni/other/shop/1/record": -1,
	} {
		got, _, ok := c.groupOf(key)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%s is of group %d, and not %d", key, got, want)
		}
	}
	for key, want := range map[string]string{
		"/pgha/patroni/service/shop/record": "shop", "/pgha/patroni/other/shop/1/record": "shop", "/pgha/patroni/a/b/shop/0/record": "shop",
		"/pgha/patroni/service/7/record": "7", "/pgha/patroni/service/shop/1/secrets": "",
	} {
		if got := scopeOf(key); got != want {
			t.Errorf("%s is of scope %q, and not %q", key, got, want)
		}
	}
	one, other := 1, 2
	for name, c := range map[string]struct {
		m    Marker
		want bool
	}{
		"its own":       {Marker{Scope: "shop", Namespace: "/service/", Group: &one}, true},
		"another group": {Marker{Scope: "shop", Namespace: "/service/", Group: &other}, false},
		"no group":      {Marker{Scope: "shop", Namespace: "/service/"}, false},
		"another scope": {Marker{Scope: "shops", Namespace: "/service/", Group: &one}, false},
	} {
		if got := c.m.of(worker("a1").Cluster); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Patroni before 4 takes quorum for off.
func TestQuorumNeedsPatroni4(t *testing.T) {
	k := Known{Config: Document{"synchronous_mode": "quorum"}}
	for version, refused := range map[string]bool{"3.0.2": true, "3.3.1-1": true, "4.0.7": false, "4.1.5-2": false} {
		n := worker("a1")
		n.Patroni = version
		errs := unfit(n, NodeRecord{}, k)
		if (len(errs) > 0) != refused || refused && !strings.Contains(errs[0].Error(), "takes for off") {
			t.Errorf("%s: %v", version, errs)
		}
	}
}
