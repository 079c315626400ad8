package etcd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// The authorities of the Patroni clusters on an etcd cluster are kept on its
// members' hosts, all on all of them: whichever host is lost, certificates can be
// signed. So they follow the members.

// keptPrefix begins their names.
const keptPrefix = "patroni-"

// kept are the authorities of Patroni clusters on a host, by their names.
func kept(f *remote.Facts) []string {
	return slices.DeleteFunc(f.List(pki.Dir), func(n string) bool { return !strings.HasPrefix(n, keptPrefix) })
}

// holders are the hosts with each of the authorities, members that leave among
// them.
func (p *planner) holders() map[string][]host.Host {
	all := map[string][]host.Host{}
	for _, n := range p.s.Names() {
		for _, a := range p.f.Hosts[n].Kept {
			all[a] = append(all[a], p.do.host(p.s, n))
		}
	}
	for _, n := range sortedKeys(p.f.Leaving) {
		for _, a := range p.f.Leaving[n].Kept {
			all[a] = append(all[a], p.do.Fleet.Host(p.s.Leaving[n].Target))
		}
	}
	return all
}

// keep copies authorities to the members that lack them.
func (p *planner) keep() engine.Plan {
	var lanes []engine.Plan
	holders := p.holders()
	for _, n := range p.s.Names() {
		var lane engine.Plan
		for _, a := range slices.Sorted(maps.Keys(holders)) {
			if slices.Contains(p.f.Hosts[n].Kept, a) {
				continue
			}
			lane = lane.Then(p.do.step(p.s, n, "etcd.authority.keep", "copy the authority "+a+" from another member, encrypted to this host", engine.Safe, func(ctx context.Context) error {
				return copyKept(ctx, pki.Authority{Name: a}, holders[a], p.do.host(p.s, n))
			}))
		}
		lanes = append(lanes, lane)
	}
	return engine.Plan{}.ThenParallel(lanes...)
}

// copyKept copies an authority from the first of its holders that is whole: one
// may have been cut off while it was copied.
func copyKept(ctx context.Context, a pki.Authority, holders []host.Host, to host.Host) error {
	for _, h := range holders {
		var p remote.Probe
		f, err := p.Path(a.Path()+"/ca.key").Content(a.CertificatePath()).Run(ctx, h)
		if err != nil {
			return err
		}
		if certificate := f.Path(a.CertificatePath()).Content; f.Path(a.Path()+"/ca.key").Exists() && len(certificate) > 0 {
			return a.CopyTo(ctx, h, to, certificate)
		}
	}
	return fmt.Errorf("no host has the key and the certificate of the authority %s", a.Name)
}

// dropKept deletes them from the host of a member that has left.
func (d *Doer) dropKept(s Spec, name string, h *HostFacts) engine.Plan {
	var plan engine.Plan
	for _, a := range h.Kept {
		plan = plan.Then(d.step(s, name, "etcd.authority.drop", "delete the authority "+a+", which the members keep", engine.Destructive, func(ctx context.Context) error {
			return remote.PurgeTree(ctx, d.host(s, name), pki.Authority{Name: a}.Path())
		}))
	}
	return plan
}
