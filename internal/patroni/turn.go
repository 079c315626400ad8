package patroni

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// turn is what a running node is taken out of service for, for as long as a restart
// takes (adr/0028). Packages are fetched before it and installed in it: until then
// nothing of the node is changed, and whatever ends meanwhile starts again as it was.
type turn struct {
	pins []remote.Pin // packages that get another version
	// postgres and patroni: it has to be started anew. Patroni alone is, while
	// PostgreSQL goes on running.
	postgres, patroni bool
	why               []string // "PostgreSQL 17.11 -> 17.12"
	// extensions are those whose packages get another version.
	extensions []remote.Pin
	// extends is the version that Citus's extension gets in the turn, and holds the one
	// that it keeps, although its library will be another one's.
	extends, holds string
	// settings are the parameters that PostgreSQL is restarted for, if it is not for
	// another version.
	settings []string
	// wantPostgres and wantPatroni are the versions that run afterwards, without
	// what packagers add.
	wantPostgres, wantPatroni string
}

func (t turn) needed() bool { return t.postgres || t.patroni }

func (t turn) String() string { return strings.Join(t.why, ", ") }

// due is what the marker says meanwhile.
func (t turn) due() string {
	if t.postgres {
		return duePostgres
	}
	return duePatroni
}

// Refusal is why a version cannot be had, of "postgresql" or "patroni", or of the
// extension that Key names, of "extensions".
type Refusal struct {
	Part, Key string
	Err       error
}

// refusal is one of a package that is pinned.
func (n Node) refusal(name string, err error) *Refusal {
	for key := range n.Extensions {
		if n.ExtensionPackage(key) == name {
			return &Refusal{Part: partExtensions, Key: key, Err: err}
		}
	}
	if name == patroniPackage {
		return &Refusal{Part: duePatroni, Err: err}
	}
	return &Refusal{Part: duePostgres, Err: err}
}

func (r *Refusal) Error() string { return r.Err.Error() }
func (r *Refusal) Unwrap() error { return r.Err }

// Refusals finds those that an error is made of.
func Refusals(err error) []*Refusal {
	var list []*Refusal
	switch e := err.(type) { //nolint:errorlint // all of a tree are wanted, not the first one
	case *Refusal:
		return []*Refusal{e}
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			list = append(list, Refusals(part)...)
		}
	case interface{ Unwrap() error }:
		return Refusals(e.Unwrap())
	}
	return list
}

// What can be due in a marker.
const (
	duePostgres = "postgresql"
	duePatroni  = "patroni"
)

// partExtensions is what a Refusal is of, besides.
const partExtensions = "extensions"

// part is something that has a version of its own.
type part struct {
	name, label, pin string
	needs            *bool // what has to be started anew for it
}

// parts are all of a node. A library of an extension is in the memory of each session
// that has used it, and of the server itself if it is preloaded: PostgreSQL is started
// anew for another version of one, so that all have the same.
func (t *turn) parts(n Node) []part {
	list := []part{
		{n.serverPackage(), "PostgreSQL", n.Postgres, &t.postgres},
		{patroniPackage, "Patroni", n.Patroni, &t.patroni},
	}
	for _, pin := range n.extensions() {
		list = append(list, part{pin.Name, pin.Name, pin.Version, &t.postgres})
	}
	return list
}

// turn finds out whether the node needs one.
func (p *nodePlanner) turn() (turn, error) {
	n, f := p.n, p.f
	t := turn{wantPostgres: debver.Upstream(n.Postgres), wantPatroni: debver.Upstream(n.Patroni)}
	if f.Marker == nil && f.Foreign == nil || f.Marker != nil && (!f.Marker.Joined || f.Marker.Released) || !f.Facts.Unit(Unit).Running() {
		return t, nil
	}
	var errs []error
	for _, part := range t.parts(n) {
		have := f.Facts.Package(part.name)
		if !have.Installed || debver.Matches(part.pin, have.Version) {
			continue
		}
		exact, err := remote.Resolve(part.name, part.pin, f.Facts.Available(part.name))
		if err != nil {
			errs = append(errs, n.refusal(part.name, problem.In(n.Target.Name, "look up package versions", err)))
			continue
		}
		if err := crossing(part.label, have.Version, exact.Version); err != nil {
			errs = append(errs, n.refusal(part.name, problem.In(n.Target.Name, "check the way to the wanted version", err)))
			continue
		}
		*part.needs = true
		t.why = append(t.why, fmt.Sprintf("%s %s -> %s", part.label, have.Version, exact.Version))
		t.pins = append(t.pins, exact)
		if part.name == part.label {
			t.extensions = append(t.extensions, exact)
		}
		t.pins = append(t.pins, p.companions(part.name, have.Version, exact.Version)...)
	}
	if len(errs) > 0 {
		return t, errors.Join(errs...)
	}
	if t.postgres || t.patroni {
		p.client(&t)
	}
	if t.has(n.serverPackage()) {
		// One may need the server that comes with the turn: apt refuses it before.
		joining, _ := p.added(t) // packages says what there is not
		t.pins = append(t.pins, joining...)
	}
	p.stale(&t)
	return t, p.extends(&t)
}

// companions are the other packages that were built from the same source as one that
// gets another version, and fit that one only.
func (p *nodePlanner) companions(source, from, to string) []remote.Pin {
	var pins []remote.Pin
	have := p.f.Facts.Source(source)
	for _, name := range sortedKeys(have) {
		if name != source && have[name] == from {
			pins = append(pins, remote.Pin{Name: name, Version: to})
		}
	}
	return pins
}

// client adds the client's package, which has a source of its own where it is another
// repository's.
func (p *nodePlanner) client(t *turn) {
	name := p.n.clientPackage()
	have := p.f.Facts.Package(name)
	if !have.Installed || debver.Matches(p.n.Postgres, have.Version) || t.has(name) {
		return
	}
	if exact, err := remote.Resolve(name, p.n.Postgres, p.f.Facts.Available(name)); err == nil {
		t.pins = append(t.pins, exact)
	}
}

// loads reports whether libraries change that PostgreSQL loads.
func (t *turn) loads(n Node) bool { return t.has(n.serverPackage()) || len(t.extensions) > 0 }

func (t *turn) has(name string) bool {
	for _, pin := range t.pins {
		if pin.Name == name {
			return true
		}
	}
	return false
}

// stale adds what runs in another version than is installed: a run was cut off
// between the two, or somebody has upgraded the packages by hand.
func (p *nodePlanner) stale(t *turn) {
	if m := p.f.Marker; m != nil {
		switch m.RestartDue {
		case duePostgres:
			if !t.postgres {
				t.postgres = true
				t.why = append(t.why, "the restart of PostgreSQL that a run was cut off before")
			}
		case duePatroni:
			if !t.patroni {
				t.patroni = true
				t.why = append(t.why, "the restart of Patroni that a run was cut off before")
			}
		}
	}
	st := p.f.Status
	if st == nil {
		return
	}
	if runs, has := postgres.ServerVersion(st.ServerVersion), debver.Upstream(p.f.Facts.Package(p.n.serverPackage()).Version); st.ServerVersion > 0 && !sameVersion(runs, has) && !t.postgres {
		t.postgres = true
		t.why = append(t.why, fmt.Sprintf("PostgreSQL %s is installed, and %s runs", has, runs))
	}
	if runs, has := st.Patroni.Version, debver.Upstream(p.f.Facts.Package(patroniPackage).Version); runs != "" && !sameVersion(runs, has) && !t.patroni {
		t.patroni = true
		t.why = append(t.why, fmt.Sprintf("Patroni %s is installed, and %s runs", has, runs))
	}
}

// sameVersion reports whether what runs may be of an installed version. Those from before
// a release (18~rc1) are not told apart by what runs.
func sameVersion(runs, installed string) bool {
	return runs == installed || installed == "" || strings.Contains(installed, "~")
}

// crossing says why a version is not reached by a rolling restart.
func crossing(what, from, to string) error {
	refuse := func(cause, do string) error {
		return &problem.Error{Cause: errors.New(cause), Left: "the node, running as it was.", Do: do}
	}
	if what == "Patroni" {
		from, to := debver.Upstream(from), debver.Upstream(to)
		switch old, new := before(from, 4, 0, 0), before(to, 4, 0, 0); {
		case old && !new && before(from, 3, 1, 0):
			return refuse(fmt.Sprintf("Patroni %s and %s cannot be in one cluster: a failover between them is not safe", from, to),
				"go to a version from 3.1.0 on first, on all nodes, then on to 4.")
		case !old && new:
			return refuse(fmt.Sprintf("Patroni %s is wanted after %s: what version 4 has written is not all read by version 3", to, from),
				"stay with version 4; within it every version can be chosen.")
		}
	}
	return nil
}

// stage fetches what the turn installs, before anybody has to wait for it.
func (p *nodePlanner) stage(t turn) engine.Plan {
	if len(t.pins) == 0 || p.staged {
		return engine.Plan{}
	}
	plan := engine.Sequence(p.do.stage(p.n, t))
	if t.loads(p.n) {
		plan = plan.Then(p.do.scratch(p.n, t))
	}
	return plan
}

// take is the turn itself.
func (p *nodePlanner) take(t turn) engine.Plan {
	n, do := p.n, p.do
	ready, extend, finish := p.extending(t)
	var plan engine.Plan
	if !p.leads() {
		plan = extend // what a run that was cut off after a switchover has left is an outage
	}
	plan = plan.Then(do.gate(n, t)).ThenPlan(ready)
	stays := p.leads() && !p.moves(t)
	switch {
	case stays:
		plan = plan.Then(do.pause(n))
	case p.leads():
		plan = plan.Then(do.stepDown(n, t)).ThenPlan(extend)
	}
	if p.f.Marker != nil {
		m := *p.f.Marker
		m.RestartDue = t.due()
		plan = plan.Then(do.mark(n, m, "note that the node has to be restarted"))
	}
	if stays {
		plan = plan.Then(do.againPaused(n, t), do.verifyTurn(n, t), do.resume(n))
	} else {
		plan = plan.Then(do.again(n, t))
		if p.leads() { // and may have stayed it, where nobody could take over
			plan = plan.ThenPlan(extend)
		}
		plan = plan.Then(do.verifyTurn(n, t))
	}
	if p.f.Marker != nil {
		m := *p.f.Marker
		m.RestartDue = ""
		plan = plan.Then(do.mark(n, m, "note that the node was restarted"))
	}
	return plan.ThenPlan(finish)
}

// restarted has what comes after the turn go by the marker that it has left.
func (p *nodePlanner) restarted() {
	if p.f.Marker != nil {
		m := *p.f.Marker
		m.RestartDue = ""
		p.f.Marker = &m
	}
}

// leads reports whether the node was the leader when it was looked at.
func (p *nodePlanner) leads() bool {
	if p.k != nil {
		return p.k.Leader == p.n.Name
	}
	return p.f.Status != nil && p.f.Status.Leads()
}

// moves reports whether a leader has to hand over for the turn. Where PostgreSQL goes
// on running it need not; but with a watchdog, of which a pause takes the cluster's
// protection away, it does.
func (p *nodePlanner) moves(t turn) bool { return t.postgres || p.n.Watchdog.On() }
