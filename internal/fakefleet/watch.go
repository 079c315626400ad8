package fakefleet

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost/simpatroni"
)

// Watch looks at everything that is about to be done to units, and notes what
// breaks a promise: a leader that is stopped although another member could
// take over, a second member that goes down, a quorum that is lost. What it
// noted fails the test at its end. So does who was refused by etcd for a
// certificate.
type Watch struct {
	f          *Fleet
	violations []string
	off        bool
}

func newWatch(f *Fleet) *Watch {
	w := &Watch{f: f}
	f.OnUnit(func(verb string, u *fakehost.Unit) {
		if w.off || verb != "stop" && verb != "restart" || !u.Running() {
			return
		}
		switch u.Name {
		case simpatroni.UnitName:
			w.patroni(verb, u)
		case "etcd.service":
			w.etcd(verb, u)
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
		if other := w.f.Patroni.Node(m); other != nil && other != n && other.Streaming() {
			healthy++
		}
	}
	if n.Primary() && healthy > 0 {
		w.note("%s of %s, the leader, while %d replicas stream", verb, u.Machine.Name, healthy)
	}
	for _, name := range w.down(u.Machine.Name) {
		w.note("%s of %s while %s is down", verb, u.Machine.Name, name)
	}
}

// down lists the other members that the cluster knows and that do not run.
func (w *Watch) down(except string) []string {
	var list []string
	for _, st := range w.f.Etcd.Stores() {
		for _, k := range st.Keys("/service/") {
			scope, name, ok := strings.Cut(strings.TrimPrefix(k, "/service/"), "/members/")
			if !ok || name == except || scope == "" {
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
