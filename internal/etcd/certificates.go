package etcd

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Bounds of Spec.RenewBefore. A certificate that is new has to be good for longer
// than the upper one, or each apply would make another.
const (
	MinRenewBefore = 24 * time.Hour
	MaxRenewBefore = 360 * 24 * time.Hour
)

// CheckRenewBefore says what is wrong with a time before the end of a certificate
// at which it is renewed.
func CheckRenewBefore(d time.Duration) error {
	if d < MinRenewBefore || d > MaxRenewBefore {
		return fmt.Errorf("renew_before is %s; it must be at least %s, so that there is time for an apply, and at most %s (360 days), since certificates are made for %d days", d, MinRenewBefore, MaxRenewBefore, pki.LeafDays)
	}
	return nil
}

// renewBefore is how long before its end a certificate is renewed.
func (s Spec) renewBefore() time.Duration {
	if s.RenewBefore == 0 {
		return pki.RenewBefore
	}
	return s.RenewBefore
}

// authority makes the cluster's certificate authority on the first host and
// copies it to the others: whichever host is lost, the others can sign.
func (p *planner) authority() engine.Plan {
	if !p.s.ownTLS() {
		return engine.Plan{}
	}
	if p.rotation.on() {
		return p.rotateAuthority()
	}
	holder := ""
	var from host.Host
	for _, n := range sortedKeys(p.s.Leaving) {
		if h := p.f.Leaving[n]; h != nil && h.Authority != nil {
			holder, from = n, p.do.Fleet.Host(p.s.Leaving[n].Target)
		}
	}
	var missing []string
	for _, n := range p.s.Names() {
		switch {
		case p.f.Hosts[n].Authority == nil:
			missing = append(missing, n)
		case from == nil:
			holder, from = n, p.do.host(p.s, n)
		}
	}
	var plan engine.Plan
	if from == nil {
		holder, from, missing = missing[0], p.do.host(p.s, missing[0]), missing[1:]
		plan = plan.Then(p.do.createAuthority(p.s, holder))
	}
	var copies []engine.Plan
	for _, n := range missing {
		copies = append(copies, engine.Sequence(p.do.copyAuthority(p.s, holder, from, n)))
	}
	return plan.ThenParallel(copies...)
}

// checkAuthority refuses to go on where the authority's key is on no host any more. A
// new one would be trusted by nobody who runs.
func (p *planner) checkAuthority() error {
	if !p.s.ownTLS() || !p.formed() || p.opening() {
		return nil
	}
	for _, hosts := range []map[string]*HostFacts{p.f.Hosts, p.f.Leaving} {
		for _, h := range hosts {
			if h.Authority != nil || h.Next != nil || h.Old != nil {
				return nil
			}
		}
	}
	return &problem.Error{
		Step:  "find the cluster's certificate authority",
		Cause: fmt.Errorf("%s is on none of the hosts any more, or has no key", Authority(p.s.Name).Path()),
		Left:  "the etcd cluster, running with the certificates that it has.",
		Do:    "restore that folder from a backup of any member's host (root only, 0700). Without it no certificate can be renewed and no member can join.",
	}
}

// anyAuthority is the authority's certificate, nil if it is still to be made.
func (p *planner) anyAuthority() []byte {
	for _, n := range p.s.Names() {
		if a := p.f.Hosts[n].Authority; a != nil {
			return a
		}
	}
	for _, h := range p.f.Leaving {
		if h.Authority != nil {
			return h.Authority
		}
	}
	return nil
}

// certificates are those that a member's host needs. A running etcd reads its
// certificates and keys again at each handshake (etcd, client/pkg/transport/
// listener.go), so that nothing is restarted for new ones.
func (p *planner) certificates(name string) engine.Plan {
	var plan engine.Plan
	if !p.s.ownTLS() {
		return plan
	}
	h, authority, r := p.f.Hosts[name], p.anyAuthority(), p.rotation
	switch {
	case r.on():
		authority = pki.Bundle(r.fresh, r.old)
		if !r.withdraw || !slices.Contains(p.stay, name) || !h.Facts.Unit(Unit).Running() {
			plan = plan.ThenPlan(p.trust(name))
		}
	case authority == nil || h.Facts.Path(p.s.authorityPath()).SHA256 != (remote.File{Content: authority}).SHA256():
		plan = plan.Then(p.do.writeAuthority(p.s, name))
	}
	for _, l := range p.s.leaves(name) {
		why := l.Check(h.Facts.Path(l.Certificate).Content, authority, p.now, p.s.renewBefore())
		if why == "" {
			why = r.foreign(h.Facts.Path(l.Certificate).Content)
		}
		if !h.Facts.Path(l.Key).Exists() {
			why = "there is no key"
		}
		if why != "" {
			plan = plan.Then(p.do.issue(p.s, name, p.signer(h), l, why))
		}
	}
	return plan
}

// lockedOut reports whether a certificate of a running member has ended: then
// nobody who has to connect anew gets through to it, until it has another one.
func (p *planner) lockedOut() bool {
	for _, n := range p.stay {
		h := p.f.Hosts[n]
		if p.s.ownTLS() && h.Facts.Unit(Unit).Running() && h.ended(p.s, p.now) != nil {
			return true
		}
	}
	return false
}

// ended says which of a member's certificates are over.
func (h *HostFacts) ended(s Spec, now time.Time) error {
	var errs []error
	for _, l := range s.leaves(h.Name) {
		if c, err := pki.Parse(h.Facts.Path(l.Certificate).Content); err == nil && !c.NotAfter.After(now) {
			errs = append(errs, errors.New(pki.Ending(l.Certificate, c.NotAfter, now, 0)))
		}
	}
	return errors.Join(errs...)
}

// authorityEnds says when the authority ends, if that is so soon that its
// certificates would have to be renewed by then, or is over.
func (f Facts) authorityEnds(s Spec, now time.Time) []string {
	var lines []string
	for _, n := range s.Names() {
		h := f.Hosts[n]
		if h == nil || h.Authority == nil {
			continue
		}
		c, err := pki.Parse(h.Authority)
		if err != nil {
			lines = append(lines, fmt.Sprintf("%s: the authority's certificate cannot be read: %v", n, err))
			continue
		}
		if why := pki.Ending("the certificate authority of the etcd cluster "+s.Name, c.NotAfter, now, s.renewBefore()); why != "" {
			return append(lines, why)
		}
	}
	return lines
}
