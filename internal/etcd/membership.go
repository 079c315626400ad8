package etcd

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Live is what the cluster itself says of its members.
type Live []LiveMember

// LiveMember is a member as the cluster knows it, and how it is.
type LiveMember struct {
	MemberInfo
	// Problem is what is wrong with it, empty if it is healthy. One that has
	// never started has a problem.
	Problem string
	Leader  bool
	Version string // of the running process, such as "3.5.16"
	// OtherScheme: the cluster knows its peer URLs, which are as they are to be here,
	// with another scheme yet.
	OtherScheme bool
}

// called is how a member is spoken of: by its name, or its address while it has
// never started and so has none.
func (m LiveMember) called() string {
	if m.Name != "" {
		return m.Name
	}
	return strings.Join(m.PeerURLs, ",")
}

// at finds the member that is reached at a peer URL.
func (l Live) at(url string) *LiveMember {
	for i := range l {
		if slices.Contains(l[i].PeerURLs, url) {
			return &l[i]
		}
	}
	return nil
}

// named finds a started member by its name.
func (l Live) named(name string) *LiveMember {
	for i := range l {
		if l[i].Name == name {
			return &l[i]
		}
	}
	return nil
}

// votes counts the members that vote, and those of them that are healthy.
func (l Live) votes() (voters, healthy int) {
	for _, m := range l {
		if m.Learner {
			continue
		}
		voters++
		if m.Problem == "" {
			healthy++
		}
	}
	return voters, healthy
}

// changeKind is what a change does to the membership.
type changeKind int

const (
	// addMember makes a learner of a new member, has it catch up and promotes it.
	addMember changeKind = iota
	// removeMember takes a member out that is healthy.
	removeMember
	// removeDead takes a member out that is not, or one that does not vote.
	removeDead
)

// change is one change of the membership. Changes are made one at a time.
type change struct {
	kind changeKind
	// name is the member's in the configuration if it is added, else how it is
	// spoken of.
	name string
	url  string // peer URL
	id   uint64 // of a member that is removed
}

// changes is the way from the members there are to those that are wanted, by the
// peer URLs of their names. Again are the URLs of members that have lost their
// data: they have to be removed before they can join anew. The order keeps as
// many members to spare as can be: the dead go first, as they only count against
// the quorum; then members are added before others are removed, so that the
// cluster is at no time smaller than it was or will be; the leader goes last.
func changes(live Live, wanted map[string]string, again map[string]bool) ([]change, error) {
	var dead, adds, removes []change
	stays := map[string]bool{}
	for _, name := range sortedKeys(wanted) {
		url := wanted[name]
		m := live.at(url)
		switch {
		case m != nil && again[url]:
			dead = append(dead, change{removeDead, name, url, m.ID})
			adds = append(adds, change{kind: addMember, name: name, url: url})
		case m == nil || m.Learner || m.Name == "":
			adds = append(adds, change{kind: addMember, name: name, url: url})
		}
		stays[url] = true
	}
	leaders := 0
	for _, m := range live {
		if slices.ContainsFunc(m.PeerURLs, func(u string) bool { return stays[u] }) {
			continue
		}
		c := change{removeMember, m.called(), m.PeerURLs[0], m.ID}
		switch {
		case m.Learner || m.Problem != "":
			c.kind = removeDead
			dead = append(dead, c)
		case m.Leader:
			removes = append(removes, c)
			leaders++
		default:
			removes = slices.Insert(removes, len(removes)-leaders, c)
		}
	}
	list := dead
	n, h := live.votes()
	size := n
	for _, c := range dead {
		if m := live.at(c.url); !m.Learner {
			size--
		}
	}
	for len(adds)+len(removes) > 0 {
		if len(adds) > 0 && (len(removes) == 0 || size <= len(wanted)) {
			list, adds = append(list, adds[0]), adds[1:]
			size++
			continue
		}
		list, removes = append(list, removes[0]), removes[1:]
		size--
	}
	for _, c := range list {
		after, healthy, err := c.counts(live, n, h)
		if err != nil {
			return nil, err
		}
		n, h = after, healthy
	}
	return list, nil
}

// counts is how many members vote after the change, and how many of them are
// healthy, or why it must not be made while n vote and h of them are healthy.
func (c change) counts(live Live, n, h int) (after, healthy int, err error) {
	after, healthy = n, h
	m := live.at(c.url)
	what := ""
	switch c.kind {
	case addMember:
		after, healthy, what = n+1, h+1, "adding "+c.name
	case removeMember:
		after, healthy, what = n-1, h-1, "removing "+c.name
	case removeDead:
		what = "removing " + c.name + ", which is not healthy,"
		if m == nil || m.Learner {
			return n, h, nil // it does not vote
		}
		after = n - 1
		if m.Problem == "" {
			healthy-- // it runs on with data that its host has lost
		}
	}
	before, spare := h-Quorum(n), healthy-Quorum(after)
	if after == 0 && before >= 0 {
		return 0, 0, errors.New("removing the last member would end the cluster: destroy it instead")
	}
	// A cluster of three and more can lose one; a smaller one never could.
	if before < 0 || spare < 0 || after >= 3 && spare < 1 && (c.kind != removeDead || spare < before) {
		return 0, 0, &problem.Error{
			Step: "check that etcd keeps its quorum",
			Cause: fmt.Errorf("%s takes the cluster from %d voting members, of which %d are healthy and %d must agree, to %d, of which %d are healthy and %d must agree; one more must be able to fail then, if there are three or more",
				what, n, h, Quorum(n), after, healthy, Quorum(after)),
			Left: "the members as they are.",
			Do:   "bring the members that are not healthy back first (" + live.sick() + "), or remove them from the configuration.",
		}
	}
	return after, healthy, nil
}

// sick lists the voters that are not healthy, and why.
func (l Live) sick() string {
	var list []string
	for _, m := range l {
		if m.Problem != "" {
			list = append(list, m.called()+": "+m.Problem)
		}
	}
	if len(list) == 0 {
		return "all are healthy"
	}
	return strings.Join(list, "; ")
}
