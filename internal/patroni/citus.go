package patroni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Citus is a group's place in a Citus formation: one of several Patroni clusters of the
// same scope, each with a leader, a dynamic configuration and a database of its own
// (Patroni documentation, "Citus support").
type Citus struct {
	Group    int    `json:"group"` // 0 is the coordinator's
	Database string `json:"database"`
}

// CitusExtension is the name that Citus has as an extension, and among the pins of
// extensions.
const CitusExtension = "citus"

// Name tells a cluster from the others on its etcd: the scope, and of a Citus
// formation the group: "main", "main/1".
func (c Cluster) Name() string {
	if c.Citus == nil {
		return c.Scope
	}
	return c.Scope + "/" + strconv.Itoa(c.Citus.Group)
}

// sharedPrefix is where Patroni keeps all groups of a formation. Of a cluster without
// Citus it is where it keeps that.
func (c Cluster) sharedPrefix() string {
	return "/" + strings.Trim(c.Namespace, "/") + "/" + c.Scope + "/"
}

// shared is where we keep what all groups of a formation have in common: passwords and
// authority, since they log in to each other. The name cannot be that of a group.
func (c Cluster) shared(key string) string {
	if c.Citus == nil {
		return c.own(key)
	}
	return "/pgha/patroni" + c.sharedPrefix() + "formation/" + key
}

// groupOf is the number of the group that a key of ours is of, if it is of one of this
// formation.
func (c Cluster) groupOf(key string) (group int, rest string, ok bool) {
	inner, ok := strings.CutPrefix(key, "/pgha/patroni"+c.sharedPrefix())
	if !ok {
		return 0, "", false
	}
	number, rest, ok := strings.Cut(inner, "/")
	group, err := strconv.Atoi(number)
	return group, rest, ok && err == nil
}

// Group is another group of a formation, as our notes have it.
type Group struct {
	Record *Record
	Nodes  map[string]NodeRecord
}

// formation reads what etcd knows of the other groups.
func (c Cluster) formation(ctx context.Context, kv etcd.Client) (map[int]Group, error) {
	keys, err := kv.List(ctx, "/pgha/patroni"+c.sharedPrefix())
	if err != nil {
		return nil, err
	}
	others := map[int]Group{}
	for _, e := range keys {
		group, rest, ok := c.groupOf(e.Key)
		if !ok || c.Citus != nil && group == c.Citus.Group {
			continue
		}
		g := others[group]
		if g.Nodes == nil {
			g.Nodes = map[string]NodeRecord{}
		}
		switch dir, name := path.Split(rest); {
		case rest == "record":
			g.Record = new(Record)
			err = readJSON(e, g.Record)
		case dir == "nodes/":
			var n NodeRecord
			err = readJSON(e, &n)
			g.Nodes[name] = n
		}
		if err != nil {
			return nil, err
		}
		others[group] = g
	}
	return others, nil
}

// fits refuses a group that does not go with the others of its formation.
func (c Cluster) fits(others map[int]Group) error {
	for _, number := range slices.Sorted(maps.Keys(others)) {
		r := others[number].Record
		if r == nil || r.Cluster == nil || r.Cluster.Citus == nil {
			continue
		}
		other := *r.Cluster
		other.UID = r.UID
		refuse := func(what string, have, want any) error {
			return &problem.Error{
				Step:  "compare the group with the others of its formation",
				Cause: fmt.Errorf("%s of group %d is %v, and that of group %d is %v", what, c.Citus.Group, want, number, have),
				Left:  "everything.", Do: "give all groups of a scope the same.",
			}
		}
		switch {
		case other.Adopted() != c.Adopted():
			return mixed(c, number, other.Adopted())
		case other.Citus.Database != c.Citus.Database:
			return refuse("citus.database", other.Citus.Database, c.Citus.Database)
		case other.PostgresPort != c.PostgresPort || other.APIPort != c.APIPort:
			return refuse("the ports (postgresql_port, rest_api_port)", [2]int{other.PostgresPort, other.APIPort}, [2]int{c.PostgresPort, c.APIPort})
		case other.Users != c.Users:
			return refuse("the accounts (credentials)", other.Users, c.Users)
		}
	}
	return nil
}

// nameTaken refuses a node whose name another group has: Patroni tells members of a
// formation apart by their names alone.
func nameTaken(n Node, others map[int]Group) error {
	for _, number := range slices.Sorted(maps.Keys(others)) {
		if _, taken := others[number].Nodes[n.Name]; taken {
			return &problem.Error{
				Host: n.Target.Name, Step: "compare the node with those of other groups",
				Cause: fmt.Errorf("group %d of %s has a node %q already", number, n.Cluster.Scope, n.Name), Left: "everything on the host.",
				Do: "give the node a name that no other node of the formation has.",
			}
		}
	}
	return nil
}

// together keeps those who make, change or remove groups of one formation apart: what
// the groups share is made by the first of them, and removed by the last.
func (m *Manager) together(ctx context.Context, do *Doer, c Cluster) (context.Context, func(), error) {
	if c.Citus == nil {
		return ctx, func() {}, nil
	}
	return m.only(ctx, do, c.Etcd.Key()+c.shared(""), c.shared("lock"), "changing the group "+c.Name(), c.Citus.Group)
}

// only waits for its turn in this process, and then keeps other processes away.
func (m *Manager) only(ctx context.Context, do *Doer, queue, lock, what string, rank int) (context.Context, func(), error) {
	leave, err := m.Queues.Enter(ctx, queue, what, func(context.Context) int { return rank })
	if err != nil {
		return nil, nil, err
	}
	locked, unlock, err := m.lock(ctx, do, lock, what)
	if err != nil {
		leave()
		return nil, nil, err
	}
	return locked, func() { unlock(); leave() }, nil
}

// formed refuses a group that cannot be part of its formation.
func (s ClusterSpec) formed(ctx context.Context, do *Doer) error {
	c := s.Cluster
	if c.Citus == nil {
		return nil
	}
	others, err := c.formation(ctx, do.KV)
	if err != nil {
		return err
	}
	if err := c.fits(others); err != nil {
		return err
	}
	if do.Known.Record == nil && c.UID == "" && do.Known.Secrets == nil && len(s.RecoverFrom) == 0 {
		if err := do.foreignGroups(ctx, c); err != nil {
			return err
		}
	}
	return s.sameOrigin(do.Known)
}

// sameOrigin refuses passwords that only this group of a formation wants: they are those of
// all groups, and the first one that wants others changes them for all. One that still wants
// what they were before has not been told.
func (s ClusterSpec) sameOrigin(k Known) error {
	if s.Cluster.Citus == nil || k.Secrets == nil || k.Next != nil || s.origin(k.Secrets) == k.Secrets.Origin.or(Origin{}) {
		return nil
	}
	if k.Record != nil && (k.Record.Origin == nil || *k.Record.Origin != s.origin(k.Secrets)) {
		return nil // it is this one that changes them
	}
	cause := "other passwords are wanted (credentials) than the formation has"
	if k.Record != nil {
		cause += ", which another group has changed for all of them"
	}
	return &problem.Error{
		Step: "compare the passwords with those of the formation", Cause: errors.New(cause),
		Left: "all passwords, as they are.", Do: "give credentials of all groups of the formation the same rotation and the same password_wo_version.",
	}
}
