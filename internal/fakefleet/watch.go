package fakefleet

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost/simpatroni"
)

// Watch looks at everything that is about to be done to units, and notes what
// breaks a promise: a leader that is stopped although another member could
// take over, a second member that goes down, a quorum that is lost, packages that
// are replaced under a node that runs, outside of its turn. What it noted fails the
// test at its end. So does who was refused by etcd for a certificate.
type Watch struct {
	f          *Fleet
	violations []string
	off        bool
}

func newWatch(f *Fleet) *Watch {
	w := &Watch{f: f}
	f.OnUnit(func(verb string, u *fakehost.Unit) {
		if w.off || verb != "stop" && verb != "restart" && verb != "again" || !u.Running() {
			return
		}
		switch u.Name {
		case simpatroni.UnitName:
			w.patroni(verb, u)
		case "etcd.service":
			w.etcd(verb, u)
		}
	})
	f.OnVersion(func(m *fakehost.Machine, name, from, to string) {
		if n := f.Patroni.Node(m); !w.off && n != nil && n.Up() && from != "" && runs(m, name) {
			w.turn(m, fmt.Sprintf("%s on %s goes from %s to %s", name, m.Name, from, to))
		}
	})
	f.TB.Cleanup(func() {
		for _, v := range w.Violations() {
			f.TB.Errorf("a promise was broken: %s", v)
		}
	})
	return w
}

// Off ends the watch: what follows takes a whole cluster away on purpose.
func (w *Watch) Off() { w.f.Do(func() { w.off = true }) }

// Violations is what was noted so far.
func (w *Watch) Violations() []string {
	var list []string
	w.f.Do(func() {
		list = slices.Concat(w.violations, w.f.Patroni.Lost, w.f.Etcd.Refused)
	})
	return list
}

// Forget drops what was noted so far, for tests that break a promise on purpose.
func (w *Watch) Forget() {
	w.f.Do(func() { w.violations, w.f.Patroni.Lost, w.f.Etcd.Refused = nil, nil, nil })
}

func (w *Watch) note(format string, args ...any) {
	w.violations = append(w.violations, fmt.Sprintf(format, args...))
}

// patroni is called before a node's Patroni is stopped.
func (w *Watch) patroni(verb string, u *fakehost.Unit) {
	n := w.f.Patroni.Node(u.Machine)
	if n == nil || n.Paused() {
		return // paused, PostgreSQL goes on running
	}
	healthy := 0
	for _, m := range w.f.Machines() {
		if other := w.f.Patroni.Node(m); other != nil && other != n && other.Streaming() && w.beside(m.Name, u.Machine.Name) {
			healthy++
		}
	}
	if verb != "again" && n.Primary() && healthy > 0 {
		w.note("%s of %s, the leader, while %d replicas stream", verb, u.Machine.Name, healthy)
	}
	for _, name := range w.down(u.Machine.Name) {
		w.note("%s of %s while %s is down", verb, u.Machine.Name, name)
	}
	if verb == "stop" {
		return // somebody who leaves, or is broken
	}
	if n.Running() {
		w.turn(u.Machine, verb+" of "+u.Machine.Name)
	}
	for _, m := range w.f.Machines() {
		other := w.f.Patroni.Node(m)
		if other == nil || other == n || w.known(m.Name) == "" || !w.beside(m.Name, u.Machine.Name) {
			continue
		}
		if !m.Up || !other.Up() || !other.Primary() && !other.Streaming() {
			w.note("%s of %s while %s really is down", verb, u.Machine.Name, m.Name)
		}
	}
}

// turn notes what is done to a running node although the cluster's lock is not held
// for its turn.
func (w *Watch) turn(m *fakehost.Machine, what string) {
	for _, st := range w.f.Etcd.Stores() {
		for _, k := range st.Keys("/pgha/patroni/service/") {
			holder, _ := st.Get(k)
			for _, turn := range []string{"the turn of node " + m.Name + ",", "the restart of node ", "restarting Patroni on " + m.Name + ","} {
				if strings.HasSuffix(k, "/lock") && strings.HasPrefix(holder, turn) {
					return
				}
			}
		}
	}
	w.note("%s, outside of its turn", what)
}

// known is the key of a member, empty if the cluster does not know of it.
func (w *Watch) known(name string) string {
	for _, st := range w.f.Etcd.Stores() {
		for _, k := range st.Keys("/service/") {
			if strings.HasSuffix(k, "/members/"+name) {
				return k
			}
		}
	}
	return ""
}

// beside reports whether two members are of the same cluster, as far as both are known: the
// groups of a Citus formation have one each, and their turns side by side.
func (w *Watch) beside(a, b string) bool {
	one, other := w.known(a), w.known(b)
	return one == "" || other == "" || strings.TrimSuffix(one, a) == strings.TrimSuffix(other, b)
}

// down lists the other members that their cluster knows and that do not run.
func (w *Watch) down(except string) []string {
	var list []string
	for _, st := range w.f.Etcd.Stores() {
		for _, k := range st.Keys("/service/") {
			scope, name, ok := strings.Cut(strings.TrimPrefix(k, "/service/"), "/members/")
			if !ok || name == except || scope == "" || !w.beside(name, except) {
				continue
			}
			var member struct{ State string }
			text, _ := st.Get(k)
			_ = json.Unmarshal([]byte(text), &member)
			if member.State != "running" && member.State != "starting" {
				list = append(list, name)
			}
		}
	}
	return list
}

// etcd is called before a member of etcd is stopped.
func (w *Watch) etcd(verb string, u *fakehost.Unit) {
	for _, st := range w.f.Etcd.Stores() {
		running := st.Running()
		if i := slices.Index(running, u.Machine.Name); i < 0 || !st.Quorum() {
			continue
		}
		if len(running)-1 < w.f.quorum(st.Size()) {
			w.note("%s of etcd on %s leaves %d of %d members", verb, u.Machine.Name, len(running)-1, st.Size())
		}
	}
}

func (f *Fleet) quorum(members int) int { return members/2 + 1 }

// runs reports whether a package is part of what a running node runs.
func runs(m *fakehost.Machine, name string) bool {
	return name == "patroni" || strings.HasPrefix(cmp.Or(m.Source[name], name), "postgresql-")
}
