package patroni

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// A Citus formation that somebody else made is adopted group by group, as any cluster is.
// Of its other groups there may be no note of ours: Patroni's keys in etcd say that they
// are there, and their nodes' files what they are.

// otherUID is the uid of another group of the same formation. It is not known: of one that
// somebody else made only so much is kept that it is such a one.
func (c Cluster) otherUID() string {
	if c.Adopted() {
		return adoptedPrefix
	}
	return ""
}

// members are the names of the members of all groups of a scope, by the groups' numbers,
// as Patroni's keys have them. A group that has none now is among them, too.
func (d *Doer) members(ctx context.Context, c Cluster) (map[int][]string, error) {
	keys, err := d.KV.List(ctx, c.sharedPrefix())
	if err != nil {
		return nil, err
	}
	groups := map[int][]string{}
	for _, e := range keys {
		number, rest, ok := strings.Cut(strings.TrimPrefix(e.Key, c.sharedPrefix()), "/")
		group, err := strconv.Atoi(number)
		if !ok || err != nil {
			continue
		}
		if name, is := strings.CutPrefix(rest, "members/"); is {
			groups[group] = append(groups[group], name)
		} else if rest == "initialize" {
			groups[group] = append(groups[group], []string{}...)
		}
	}
	return groups, nil
}

// ungrouped refuses to take a formation for a cluster.
func (d *Doer) ungrouped(ctx context.Context, c Cluster) error {
	if c.Citus != nil {
		return nil
	}
	groups, err := d.members(ctx, c)
	if err != nil || len(groups) == 0 {
		return err
	}
	var numbers []string
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		numbers = append(numbers, strconv.Itoa(g))
	}
	return &problem.Error{
		Step: "look the cluster up in etcd", Cause: fmt.Errorf("%s is a Citus formation, with the groups %s", strings.TrimSuffix(c.sharedPrefix(), "/"), strings.Join(numbers, ", ")),
		Do: fmt.Sprintf("name the group in the id, after the scope: %s:%s@...", c.Scope, numbers[0]),
	}
}

// amongGroups refuses to adopt a group that does not go with the others of its formation.
// Workers are compared with the coordinator, if that can be looked at.
func (d *Doer) amongGroups(ctx context.Context, c Cluster, k Known) error {
	if c.Citus == nil || !c.Adopted() {
		return nil
	}
	groups, err := d.members(ctx, c)
	if err != nil {
		return err
	}
	for _, number := range slices.Sorted(maps.Keys(groups)) {
		for _, name := range groups[number] {
			if _, ours := k.Members[name]; ours && number != c.Citus.Group {
				return &problem.Error{
					Step:  "compare the group with the others of its formation",
					Cause: fmt.Errorf("groups %d and %d both have a member %q, and Patroni tells the members of a formation apart by their names alone", c.Citus.Group, number, name),
					Left:  "everything.", Do: "give the nodes of all groups different names, then import them.",
				}
			}
		}
	}
	others, err := c.formation(ctx, d.KV)
	if err != nil {
		return err
	}
	if _, there := groups[0]; there && c.Citus.Group != 0 && others[0].Record == nil {
		coordinator, err := d.fromFile(ctx, c.Coordinator())
		switch {
		case host.Unreachable(err):
			d.Log.WarnContext(ctx, "the group is not compared with its coordinator, which cannot be reached", "group", c.Name(), "error", err)
		case err != nil:
			return err
		default:
			others[0] = Group{Record: &Record{UID: coordinator.UID, Cluster: &coordinator}}
		}
	}
	return c.fits(others)
}

// fromFile is a cluster as the file of one of its nodes describes it.
func (d *Doer) fromFile(ctx context.Context, c Cluster) (Cluster, error) {
	k, err := c.Load(ctx, d.KV)
	if err != nil {
		return c, err
	}
	f, _, err := d.anyForeign(ctx, c, k)
	if err != nil {
		return c, err
	}
	return f.describes(c), nil
}

// foreignGroups refuses a group that is to be made in a formation that somebody else made.
func (d *Doer) foreignGroups(ctx context.Context, c Cluster) error {
	groups, err := d.members(ctx, c)
	if err != nil {
		return err
	}
	for _, number := range slices.Sorted(maps.Keys(groups)) {
		if number != c.Citus.Group {
			return mixed(c, number, true)
		}
	}
	return nil
}

// mixed is the error of a group that is to be part of a formation of which we made the
// other groups and not this one, or the other way round.
func mixed(c Cluster, number int, theirs bool) error {
	e := &problem.Error{Step: "compare the group with the others of its formation", Left: "everything."}
	if theirs {
		e.Cause = fmt.Errorf("group %d of %s was made by somebody else, whose passwords and certificates a group of this provider's would not have", number, c.Scope)
		e.Do = "make the group as the others were made, then import it; this release does not add groups to such a formation."
	} else {
		e.Cause = fmt.Errorf("group %d of %s was made by this provider, and group %d by somebody else", number, c.Scope, c.Citus.Group)
		e.Do = "leave the group as it is, or have it made by this provider; this release does not take it up."
	}
	return e
}

// untold reports whether there is no coordinator that could be told that a group leaves.
func (c Cluster) untold(k Known) bool {
	if c.Adopted() {
		return k.Initialize == ""
	}
	return k.Record == nil || len(k.Nodes) == 0
}
