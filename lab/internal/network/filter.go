package network

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/lab/internal/delay"
	"github.com/pgha/terraform-provider-pgha/lab/internal/plan"
)

// Rules is what the lab's firewall does beyond keeping the lab's traffic in.
type Rules struct {
	Net         plan.Net
	Datacenters int
	// CutHosts are cut off from all other hosts.
	CutHosts []HostCut
	// CutDatacenters are cut off from all other datacenters.
	CutDatacenters []DatacenterCut
	// Bastions are the datacenters that this machine enters only through
	// their bastion.
	Bastions []int
}

// HostCut cuts off one host; FromRunner cuts it off from this machine too.
type HostCut struct {
	Datacenter, Number int
	FromRunner         bool
}

// DatacenterCut cuts off one datacenter; FromRunner, from this machine too.
type DatacenterCut struct {
	Number     int
	FromRunner bool
}

// Render returns the rules in the language of nft(8). They replace all others
// in the lab's namespace in one step.
//
// A datacenter is cut off where packets are routed. A host is cut off at its
// port of the bridge instead: there, traffic within the datacenter is seen
// too, and a virtual address the host may hold goes down with it.
func (r Rules) Render() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	run := r.Net.Runner()

	line("flush ruleset")
	line("table inet lab {")
	line("  chain forward {")
	line("    type filter hook forward priority 0; policy drop;")
	for _, dc := range sorted(r.CutDatacenters, func(c DatacenterCut) int { return c.Number }) {
		but := fmt.Sprintf(" oifname != %q", uplink)
		in := fmt.Sprintf(" iifname != %q", uplink)
		if dc.FromRunner {
			but, in = "", ""
		}
		line("    iifname %q%s drop", plan.Bridge(dc.Number), but)
		line("    oifname %q%s drop", plan.Bridge(dc.Number), in)
	}
	for _, dc := range sorted(r.Bastions, func(dc int) int { return dc }) {
		bastion := r.Net.Host(dc, plan.BastionNumber)
		line("    iifname %q oifname %q ip daddr != %s drop", uplink, plan.Bridge(dc), bastion.V4)
		line("    iifname %q oifname %q ip6 daddr != %s drop", uplink, plan.Bridge(dc), bastion.V6)
	}
	if r.Datacenters > 0 {
		inner := []string{fmt.Sprintf("%q", delay.Device)}
		for dc := 1; dc <= r.Datacenters; dc++ {
			inner = append(inner, fmt.Sprintf("%q", plan.Bridge(dc)))
		}
		lab := "{ " + strings.Join(inner, ", ") + " }"
		line("    iifname %s oifname %s accept", lab, lab)
		line("    iifname %q oifname %s accept", uplink, lab)
		// To this machine, and to nothing behind it.
		line("    iifname %s oifname %q ip daddr %s accept", lab, uplink, run.V4)
		line("    iifname %s oifname %q ip6 daddr %s accept", lab, uplink, run.V6)
	}
	line("  }")
	line("}")

	if len(r.CutHosts) == 0 {
		return b.String()
	}
	cuts := sorted(r.CutHosts, func(c HostCut) int { return c.Datacenter<<8 + c.Number })
	port := func(c HostCut) string { return r.Net.Port(c.Datacenter, c.Number) }
	line("table bridge lab {")
	line("  chain forward {")
	line("    type filter hook forward priority 0; policy accept;")
	for _, c := range cuts {
		line("    iifname %q drop", port(c))
		line("    oifname %q drop", port(c))
	}
	line("  }")
	line("  chain input {")
	line("    type filter hook input priority 0; policy accept;")
	for _, c := range cuts {
		if c.FromRunner {
			line("    iifname %q drop", port(c))
			continue
		}
		// Not those of ARP and neighbour discovery: the way to this machine
		// leads through the gateway, which has to be found.
		line("    iifname %q ip daddr != %s drop", port(c), run.V4)
		line("    iifname %q ip6 daddr != %s meta l4proto != icmpv6 drop", port(c), run.V6)
	}
	line("  }")
	line("  chain output {")
	line("    type filter hook output priority 0; policy accept;")
	for _, c := range cuts {
		if c.FromRunner {
			line("    oifname %q drop", port(c))
			continue
		}
		line("    oifname %q ip saddr != %s drop", port(c), run.V4)
		line("    oifname %q ip6 saddr != %s meta l4proto != icmpv6 drop", port(c), run.V6)
	}
	line("  }")
	line("}")
	return b.String()
}

// Apply puts the rules into force.
func (r Rules) Apply(ctx context.Context, lab string) error {
	if _, err := inside(ctx, lab, r.Render(), "nft", "-f", "-"); err != nil {
		return fmt.Errorf("set the firewall of lab %s: %w", lab, err)
	}
	return nil
}

// sorted returns a copy in order, so that the same rules read the same.
func sorted[T any](s []T, key func(T) int) []T {
	out := slices.Clone(s)
	slices.SortFunc(out, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
	return out
}
