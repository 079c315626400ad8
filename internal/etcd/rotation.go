package etcd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// The authority of a running cluster is replaced in stages, each of which leaves
// everybody let in; see adr/0023. Which stage it is at is what is on the hosts:
//
//	the next authority is beside the one in force   members come to trust both
//	the one in force is another, the old beside it  members trust both; nodes come to
//	nothing is beside it                            nobody trusts any other
//
// etcd reads which authorities it trusts only when it starts (etcd, client/pkg/
// transport/listener.go), and its own certificates at each handshake.

// nextAuthority and oldAuthority are beside a cluster's own while it is being
// replaced. No cluster's own authority can have such a name.
func nextAuthority(cluster string) pki.Authority {
	return pki.Authority{Name: "next-" + Authority(cluster).Name}
}

func oldAuthority(cluster string) pki.Authority {
	return pki.Authority{Name: "old-" + Authority(cluster).Name}
}

// authorities are the places for them: that in force, the next and the old one.
func (s Spec) authorities() [3]pki.Authority {
	return [3]pki.Authority{Authority(s.Name), nextAuthority(s.Name), oldAuthority(s.Name)}
}

// subject is the common name of the authority that is wanted. It says which one it
// is, so that no other note of it is needed.
func (s Spec) subject() string {
	name := Authority(s.Name).Name
	if s.Authority != "" {
		name += "." + s.Authority
	}
	return pki.Subject(name)
}

// ClientTrust is what a client of the cluster notes in etcd of its certificates, as
// part of what is known of a Patroni node.
type ClientTrust struct {
	// Trusts are the authorities that it trusts, by their fingerprints with spaces
	// between; SignedBy is the one that has signed its own certificate.
	Trusts   string `json:"etcd_trusts,omitempty"`
	SignedBy string `json:"etcd_signed_by,omitempty"`
}

// TrustOf is what a client notes that trusts some authorities, the first of which
// has signed its certificate.
func TrustOf(authorities []byte) ClientTrust {
	all := pki.Fingerprints(authorities)
	slices.Sort(all)
	return ClientTrust{Trusts: strings.Join(all, " "), SignedBy: pki.Fingerprint(authorities)}
}

// ClientFacts is a client of the cluster: a node of a Patroni cluster.
type ClientFacts struct {
	Name string // "pg1 of main"
	Key  string // where it is noted
	ClientTrust
}

// clients are the nodes of all Patroni clusters that keep their keys in the
// cluster, those among them that run and that nobody has noted.
func clients(ctx context.Context, c Client) ([]ClientFacts, error) {
	keys, err := c.List(ctx, "/")
	if err != nil {
		return nil, err
	}
	const own = "/pgha/patroni"
	list := []ClientFacts{}
	noted := map[string]bool{}
	add := func(key, cluster, name string) *ClientFacts {
		list = append(list, ClientFacts{Name: name + " of " + clusterName(cluster), Key: key})
		return &list[len(list)-1]
	}
	for _, kv := range keys {
		cluster, name, isNode := cutLast(kv.Key, "/nodes/")
		if !isNode || !strings.HasPrefix(kv.Key, own+"/") {
			continue
		}
		noted[strings.TrimPrefix(cluster, own)+"/"+name] = true
		// A note that cannot be read says nothing: its node is waited for.
		_ = json.Unmarshal([]byte(kv.Value), &add(kv.Key, cluster, name).ClientTrust)
	}
	for _, kv := range keys {
		cluster, name, isMember := cutLast(kv.Key, "/members/")
		if isMember && !strings.HasPrefix(kv.Key, "/pgha/") && !noted[cluster+"/"+name] {
			add(kv.Key, cluster, name)
		}
	}
	return list, nil
}

// rotation is how far the replacement of the cluster's authority has come.
type rotation struct {
	// old is replaced by fresh; both are certificates in PEM. Old is nil if nothing
	// is being replaced, fresh while it is still to be made.
	old, fresh []byte
	// began: fresh signs on some host, so that all members trust both. Promoted: it
	// does on all of them.
	began, promoted bool
	// waiting are the clients that would be locked out of what comes next.
	waiting []string
	// turn: members are to have certificates of the fresh one. Withdraw: nobody
	// needs the old one any more.
	turn, withdraw bool
	// dead: the old one has ended. Nobody who connects anew is let in by it, so
	// there is nobody to wait for.
	dead bool
}

// on reports whether an authority is being replaced.
func (r rotation) on() bool { return r.old != nil }

// same reports whether two texts begin with the same certificate.
func same(a, b []byte) bool { return len(a) > 0 && pki.Fingerprint(a) == pki.Fingerprint(b) }

// settled reports whether there is nothing else to be done that concerns members as
// such: none comes, goes or gets another version, and the cluster answers.
func (p *planner) settled() bool {
	return p.asked && len(p.changes) == 0 && len(p.upgrades) == 0 && p.f.Upgrade == nil
}

// findRotation finds out how far it is, and what may be done next. Nothing new is
// begun while the cluster is not settled.
func (p *planner) findRotation() {
	if !p.s.ownTLS() || !p.formed() || p.securing() {
		return
	}
	var all []*HostFacts
	for _, hosts := range []map[string]*HostFacts{p.f.Hosts, p.f.Leaving} {
		for _, n := range sortedKeys(hosts) {
			all = append(all, hosts[n])
		}
	}
	r := &p.rotation
	for _, h := range all {
		if h.Old != nil && !r.began {
			r.began, r.old, r.fresh = true, h.Old, h.Authority
			if r.fresh == nil { // cut off while it was put in its place
				r.fresh = h.Next
			}
		}
	}
	r.promoted = r.began
	for _, h := range all {
		if h.Next != nil {
			r.promoted = false
			if r.fresh == nil {
				r.fresh = h.Next
			}
		}
	}
	for _, h := range all {
		if r.old == nil && r.fresh != nil && h.Authority != nil && !same(h.Authority, r.fresh) {
			r.old = h.Authority
		}
	}
	if current := p.anyAuthority(); r.old == nil && r.fresh == nil && p.s.Authority != "" && current != nil {
		if c, err := pki.Parse(current); err == nil && c.Subject.CommonName != p.s.subject() {
			r.old = current
		}
	}
	if r.old == nil {
		*r = rotation{}
		return
	}
	if c, err := pki.Parse(r.old); err == nil {
		r.dead = !c.NotAfter.After(p.now)
	}
	settled := p.settled()
	if !settled && !r.dead && r.fresh == nil {
		*r = rotation{} // it has not begun
		return
	}
	want := pki.Fingerprint(r.fresh)
	trusting := true
	for _, c := range p.f.Clients {
		switch trusts := strings.Contains(c.Trusts, want); {
		case !trusts || c.SignedBy != want:
			r.waiting = append(r.waiting, c.Name)
			trusting = trusting && trusts
		}
	}
	r.turn = r.dead || settled && r.promoted && trusting
	r.withdraw = settled && r.promoted && len(r.waiting) == 0
}

// place is where an authority is on a host, or where it belongs while another one
// is being replaced.
func (p *planner) place(h *HostFacts, certificate []byte) (pki.Authority, bool) {
	places := p.s.authorities()
	for i, have := range [][]byte{h.Authority, h.Next, h.Old} {
		if same(have, certificate) {
			return places[i], true
		}
	}
	fresh := !same(certificate, p.rotation.old)
	switch {
	case p.rotation.began && fresh, !p.rotation.began && !fresh:
		return places[0], false
	case fresh:
		return places[1], false
	}
	return places[2], false
}

// rotateAuthority brings both authorities to all members' hosts.
func (p *planner) rotateAuthority() engine.Plan {
	r := p.rotation
	plan := p.spread(r.old)
	if r.withdraw {
		plan = engine.Plan{}
	}
	if r.fresh != nil {
		return plan.ThenPlan(p.spread(r.fresh))
	}
	first := p.s.Names()[0]
	next := nextAuthority(p.s.Name)
	next.Subject = p.s.subject()
	made := &p.made
	plan = plan.Then(p.do.step(p.s, first, "etcd.authority.next", "make the certificate authority that replaces the one in force", engine.Safe, func(ctx context.Context) (err error) {
		*made, err = next.Create(ctx, p.do.host(p.s, first))
		return err
	}))
	var lanes []engine.Plan
	for _, n := range p.s.Names()[1:] {
		lanes = append(lanes, engine.Sequence(p.do.copyAs(p.s, first, p.do.host(p.s, first), next, n, next, made)))
	}
	return plan.ThenParallel(lanes...)
}

// spread copies an authority to the members' hosts that do not have it.
func (p *planner) spread(certificate []byte) engine.Plan {
	holder, from, at := "", host.Host(nil), pki.Authority{}
	find := func(n string, h *HostFacts, of host.Host) {
		if place, there := p.place(h, certificate); there && from == nil {
			holder, from, at = n, of, place
		}
	}
	for _, n := range p.s.Names() {
		find(n, p.f.Hosts[n], p.do.host(p.s, n))
	}
	for _, n := range sortedKeys(p.f.Leaving) {
		find(n, p.f.Leaving[n], p.do.Fleet.Host(p.s.Leaving[n].Target))
	}
	var lanes []engine.Plan
	for _, n := range p.s.Names() {
		if place, there := p.place(p.f.Hosts[n], certificate); !there && from != nil {
			lanes = append(lanes, engine.Sequence(p.do.copyAs(p.s, holder, from, at, n, place, &certificate)))
		}
	}
	return engine.Plan{}.ThenParallel(lanes...)
}

// copyAs copies an authority, whose certificate is known when this is done, from a
// place on one host to a place on another.
func (d *Doer) copyAs(s Spec, from string, holder host.Host, at pki.Authority, to string, as pki.Authority, certificate *[]byte) engine.Step {
	return d.step(s, to, "etcd.authority.copy", "copy a certificate authority from "+from+", encrypted to this host", engine.Safe, func(ctx context.Context) error {
		return at.CopyAs(ctx, holder, d.host(s, to), as, *certificate)
	})
}

// signer is the authority on a member's host that signs for it.
func (p *planner) signer(h *HostFacts) pki.Authority {
	r := p.rotation
	at := Authority(p.s.Name)
	if r.on() && !r.dead && !r.turn {
		at, _ = p.place(h, r.old)
	}
	return at
}

// foreign says that a certificate, which is good otherwise, is not of the authority
// that it is to be of by now.
func (r rotation) foreign(certificate []byte) string {
	c, err := pki.Parse(certificate)
	if err != nil || !r.turn || r.fresh != nil && pki.Signer(c, r.fresh) != nil {
		return ""
	}
	return "it is of the authority that is being replaced"
}

// trusted is what members are to trust, nil if that is still to be made.
func (p *planner) trusted() []byte {
	r := p.rotation
	switch {
	case !r.on():
		return p.anyAuthority()
	case r.fresh == nil:
		return nil
	case r.withdraw:
		return r.fresh
	}
	return pki.Bundle(r.fresh, r.old)
}

// distrusts reports whether a running member has to be restarted, because it is to
// trust other authorities than those in its file.
func (p *planner) distrusts(name string) bool {
	want := p.trusted()
	return p.rotation.on() && (want == nil || !bytes.Equal(p.f.Hosts[name].Trusted, want))
}

// trust writes which authorities a member trusts.
func (p *planner) trust(name string) engine.Plan {
	want := p.trusted()
	if want != nil && bytes.Equal(p.f.Hosts[name].Trusted, want) {
		return engine.Plan{}
	}
	old, made := p.rotation.old, &p.made
	return engine.Sequence(p.do.step(p.s, name, "etcd.authority.trust", "write "+p.s.authorityPath()+p.trustedBy(), engine.Safe, func(ctx context.Context) error {
		content := want
		if content == nil {
			content = pki.Bundle(*made, old)
		}
		return remote.WriteFile(ctx, p.do.host(p.s, name), remote.File{Path: p.s.authorityPath(), Content: content})
	}))
}

// trustedBy says what is trusted.
func (p *planner) trustedBy() string {
	switch r := p.rotation; {
	case !r.on():
		return ""
	case r.withdraw:
		return ", with the new authority alone"
	}
	return ", with the old and the new authority"
}

// promote has the fresh authority sign from now on, once all members trust both.
func (p *planner) promote() engine.Plan {
	r := p.rotation
	var plan engine.Plan
	if !r.on() || r.promoted || !p.settled() && !r.dead {
		return plan
	}
	places := p.s.authorities()
	for _, n := range p.s.Names() {
		plan = plan.Then(p.do.step(p.s, n, "etcd.authority.promote", "have the new authority sign, which all members trust", engine.Safe, func(ctx context.Context) error {
			err := pki.Promote(ctx, p.do.host(p.s, n), places[0], places[1], places[2])
			p.do.Close() // whose certificate is of the old one
			return err
		}))
	}
	return plan
}

// shrink writes that members trust the fresh authority alone, once all have
// certificates of it.
func (p *planner) shrink() engine.Plan {
	if !p.rotation.withdraw {
		return engine.Plan{}
	}
	var lanes []engine.Plan
	for _, n := range p.stay {
		lanes = append(lanes, p.trust(n))
	}
	return engine.Plan{}.ThenParallel(lanes...)
}

// withdraw deletes the old authority, once nobody trusts it any more.
func (p *planner) withdraw() engine.Plan {
	if !p.rotation.withdraw {
		return engine.Plan{}
	}
	var lanes []engine.Plan
	for _, n := range p.s.Names() {
		if p.f.Hosts[n].Old != nil {
			lanes = append(lanes, engine.Sequence(p.do.step(p.s, n, "etcd.authority.withdraw", "delete the old authority with its key", engine.Safe, func(ctx context.Context) error {
				return remote.PurgeTree(ctx, p.do.host(p.s, n), oldAuthority(p.s.Name).Path())
			})))
		}
	}
	return engine.Plan{}.ThenParallel(lanes...)
}

// remaining says what is still to come after this plan, and for whom it waits.
func (p *planner) remaining() engine.Plan {
	r := p.rotation
	if !r.on() || r.withdraw {
		return engine.Plan{}
	}
	for _, c := range p.f.Clients {
		if r.fresh == nil {
			r.waiting = append(r.waiting, c.Name)
		}
	}
	what := "the members get certificates of the new authority and the old one is withdrawn, with another restart of one member at a time"
	if len(r.waiting) > 0 {
		what = "wait until " + strings.Join(slices.Compact(slices.Sorted(slices.Values(r.waiting))), ", ") + " trust the new authority and have certificates of it, which applying them does; then " + what
	}
	return engine.Sequence(p.do.step(p.s, "", "etcd.authority.wait", what, engine.Safe, func(ctx context.Context) error {
		p.do.Log.InfoContext(ctx, "the authority of the etcd cluster is being replaced", "cluster", p.s.Name, "waiting_for", strings.Join(r.waiting, ", "))
		return nil
	}))
}

// restartAll restarts members at once, whose connections have to be made anew and
// cannot be while the others are as they are.
func (d *Doer) restartAll(s Spec, names []string, marker func(name string) Marker) engine.Plan {
	var lanes []engine.Plan
	for _, n := range names {
		lanes = append(lanes, engine.Sequence(d.step(s, n, "etcd.restart.all", "restart "+Unit+", together with the others: the authority has ended, and nobody who trusts it alone can connect", engine.Restart, func(ctx context.Context) error {
			if err := remote.RestartUnit(ctx, d.host(s, n), Unit, stopTimeout); err != nil {
				return err
			}
			return remote.WriteFile(ctx, d.host(s, n), marker(n).file())
		})))
	}
	return engine.Plan{}.ThenParallel(lanes...)
}

// goesOn reports whether a plan has brought the replacement of the authority so far
// that there may be more to do at once.
func goesOn(plan engine.Plan) bool {
	return slices.ContainsFunc(plan.Steps(), func(s engine.Step) bool { return s.ID == "etcd.authority.promote" })
}

// Trusted are the authorities that an etcd cluster's members trust, the one that
// signs first, as one of its hosts has them, that at the given address before the
// others; nil if none answers. It needs nothing but the hosts.
func (a Access) Trusted(ctx context.Context, fleet host.Fleet, near string) []byte {
	ctx, cancel := context.WithTimeout(ctx, trustedPatience)
	defer cancel()
	names := a.Names()
	slices.SortStableFunc(names, func(x, y string) int {
		far := func(name string) int {
			if a.Members[name].Target.Address == near {
				return 0
			}
			return 1
		}
		return far(x) - far(y)
	})
	of := Spec{Name: a.Name}
	found, err := fromAny(ctx, names, func(ctx context.Context, name string) ([]byte, error) {
		var p remote.Probe
		places := of.authorities()
		f, err := p.Content(places[0].CertificatePath()).Content(places[1].CertificatePath()).Content(of.authorityPath()).Run(ctx, fleet.Host(a.Members[name].Target))
		if err != nil {
			return nil, err
		}
		for _, place := range places[:2] {
			if signs := f.Path(place.CertificatePath()).Content; len(signs) > 0 {
				return pki.Bundle(signs, f.Path(of.authorityPath()).Content), nil
			}
		}
		return nil, errNoAuthority
	})
	if err != nil {
		return nil
	}
	return found
}

// errNoAuthority says that a host has none.
var errNoAuthority = errors.New("there is no authority")

// trustedPatience is how long Trusted waits for a host.
const trustedPatience = 10 * time.Second
