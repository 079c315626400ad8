package crossdc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// look is what one cluster of a site is.
type look struct {
	site    string
	index   int
	cluster patroni.Cluster
	live    *patroni.Live // to ask it and to change it
	err     error         // why its etcd cannot be reached; nil if it can
	known   patroni.Known
	// statuses are what its nodes say of themselves.
	statuses map[string]patroni.NodeStatus
	errs     map[string]error
	note     *Note
	move     *Move
	cloning  string // the node that was being cloned as the leader when a run was cut off
	fenced   map[string]bool
}

func (l *look) name() string {
	return l.site + " (" + l.cluster.Name() + ")"
}

// follows reports whether it is configured as a standby.
func (l *look) follows() bool { return l.known.Standby() != nil }

// leader is the node that leads, in its own words as well, and what it says.
func (l *look) leader() (string, patroni.NodeStatus, bool) {
	st, answers := l.statuses[l.known.Leader]
	return l.known.Leader, st, answers && st.Leads()
}

// writable are the nodes that take writes.
func (l *look) writable() []string {
	var names []string
	for _, n := range slices.Sorted(maps.Keys(l.statuses)) {
		if l.statuses[n].Primary() {
			names = append(names, n)
		}
	}
	return names
}

// view is what all sites are, by name, each cluster at its place.
type view map[string][]*look

// all are the clusters that can be reached.
func (v view) all() []*look {
	var list []*look
	for _, name := range slices.Sorted(maps.Keys(v)) {
		for _, l := range v[name] {
			if l.err == nil {
				list = append(list, l)
			}
		}
	}
	return list
}

// unreachable is why a site cannot be reached, nil if it can.
func (v view) unreachable(site string) error {
	var errs []error
	for _, l := range v[site] {
		errs = append(errs, l.err)
	}
	return errors.Join(errs...)
}

// state of a site by what its clusters are configured to be.
type state int

const (
	unknown state = iota // not all clusters can be reached
	leads                // none follows
	follows              // all follow
	between              // some do
)

func (v view) state(site string) state {
	f := 0
	for _, l := range v[site] {
		if l.err != nil {
			return unknown
		}
		if l.follows() {
			f++
		}
	}
	switch f {
	case 0:
		return leads
	case len(v[site]):
		return follows
	}
	return between
}

// note is the newest note that any cluster has.
func (v view) note() *Note {
	var newest *Note
	for _, l := range v.all() {
		if l.note != nil && (newest == nil || l.note.Generation > newest.Generation) {
			newest = l.note
		}
	}
	return newest
}

// move is the planned move that was cut off, if one was.
func (v view) move() *Move {
	for _, l := range v.all() {
		if l.move != nil {
			return l.move
		}
	}
	return nil
}

// hasDatabase reports whether any cluster of a site has, or has had, a database.
func (v view) hasDatabase(site string) bool {
	return slices.ContainsFunc(v[site], func(l *look) bool { return l.err == nil && l.known.HasDatabase() })
}

// lost are the sites that were given up and have not been taken back yet.
func (v view) lost(site string) (Lost, bool) {
	n := v.note()
	if n == nil {
		return Lost{}, false
	}
	l, there := n.Lost[site]
	return l, there
}

// forcing is the site to which a forced move was cut off before it took writes: it is noted as
// the primary, and still follows. Empty if there is none.
func (v view) forcing() string {
	n := v.note()
	if n == nil || len(n.Lost) == 0 {
		return ""
	}
	if st := v.state(n.Primary); st == follows || st == between {
		return n.Primary
	}
	return ""
}

// Manager brings replications to what their specs say.
type Manager struct {
	*patroni.Manager
}

// open opens all clusters, side by side. One whose hosts cannot be reached is noted as such.
func (m Manager) open(ctx context.Context, s Spec) (view, error) {
	v := view{}
	var wg sync.WaitGroup
	for _, name := range s.names() {
		v[name] = make([]*look, len(s.Sites[name].Clusters))
		for i, member := range s.Sites[name].Clusters {
			l := &look{site: name, index: i, cluster: member.Cluster}
			v[name][i] = l
			wg.Go(func() { l.live, l.err = m.Live(ctx, member.Cluster) })
		}
	}
	wg.Wait()
	var errs []error
	for _, name := range s.names() {
		for _, l := range v[name] {
			if l.err != nil && !host.Unreachable(l.err) {
				errs = append(errs, problem.Fill(l.err, problem.Error{Step: "look at the cluster of site " + name}))
			}
		}
	}
	return v, errors.Join(errs...)
}

// look asks all clusters again, side by side, what they are.
func (m Manager) look(ctx context.Context, v view) error {
	all := v.all()
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, l := range all {
		wg.Go(func() { errs[i] = l.ask(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (l *look) ask(ctx context.Context) (err error) {
	if l.known, err = l.live.Refresh(ctx); err != nil {
		return err
	}
	var note Note
	there, err := l.live.Noted(ctx, noteKey, &note)
	if err != nil {
		return err
	}
	if l.note = nil; there {
		l.note = &note
	}
	var move Move
	if there, err = l.live.Noted(ctx, moveKey, &move); err != nil {
		return err
	}
	if l.move = nil; there {
		l.move = &move
	}
	l.cloning = ""
	if _, err = l.live.Noted(ctx, cloneKey, &l.cloning); err != nil {
		return err
	}
	l.statuses, l.errs = l.live.Statuses(ctx)
	l.fenced = map[string]bool{}
	for name, err := range l.errs {
		if host.Unreachable(err) {
			continue
		}
		if is, err := l.live.Fenced(ctx, name); err == nil && is {
			l.fenced[name] = true
		}
	}
	return nil
}

// primary is the site that is the primary, by what the clusters are configured to be; of
// those that are lost, or cannot be reached, by what the others have noted. It is empty
// while it is moving; and while two are, which split names.
func (s Spec) primary(v view) (primary string, split []string) {
	var leading []string
	for _, name := range s.names() {
		_, lost := v.lost(name)
		switch st := v.state(name); {
		case lost:
		case st == leads && (v[name][0].note != nil || v.hasDatabase(name)):
			leading = append(leading, name)
		case st == unknown && v.note() != nil && v.note().Primary == name:
			leading = append(leading, name)
		}
	}
	switch len(leading) {
	case 0:
		return "", nil
	case 1:
		return leading[0], nil
	}
	return "", leading
}

// writers names the sites, and nodes, that take writes now.
func (s Spec) writers(v view) []string {
	var list []string
	for _, name := range s.names() {
		var nodes []string
		for _, l := range v[name] {
			nodes = append(nodes, l.writable()...)
		}
		if len(nodes) > 0 {
			list = append(list, fmt.Sprintf("%s (%s)", name, strings.Join(nodes, ", ")))
		}
	}
	return list
}
