// Package vip keeps a virtual address on whichever node of a cluster leads: vip-manager
// on each node, under a guard of ours that is the only one to add and remove the address
// (adr/0031).
package vip

import (
	_ "embed" // for the guard
	"fmt"
	"net/netip"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/follow"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

//go:embed guard.py
var guard []byte

// Package is Debian's package of vip-manager.
const Package = "vip-manager2"

// packageUnit is the unit that comes with the package. It is not ours, and has nothing
// to do: ours runs vip-manager.
const packageUnit = "vip-manager.service"

// Spec is a virtual address as it should be.
type Spec struct {
	Cluster patroni.Cluster
	// Address is the address itself, with the length of its subnet's prefix.
	Address netip.Prefix
	// Interface is empty for the one whose subnet has the address.
	Interface string
	// StandbyLeader: it follows the leader of a standby cluster instead of a primary.
	StandbyLeader bool
	Nodes         []string
	Version       string // pin of vip-manager
}

// Name is what people call it.
func (s Spec) Name() string { return s.Address.Addr().String() + " of " + s.Cluster.Name() }

// Addresses as files and units have them in their names, and back.
var (
	toLabel   = strings.NewReplacer(":", "-")
	fromLabel = strings.NewReplacer("-", ":")
)

// agent is the guard of the address.
func (s Spec) agent() follow.Agent {
	a := s.Address.Addr().String()
	return follow.Agent{
		Cluster: s.Cluster, Kind: "vip", Label: toLabel.Replace(a), Subject: a, Config: "vip.json", Program: "guard.py", Release: "remove",
		Package: Package, Pin: s.Version, PackageUnit: packageUnit,
	}
}

// role is what Patroni's REST API is asked for.
func (s Spec) role() string {
	if s.StandbyLeader {
		return "standby-leader"
	}
	return "primary"
}

// Oldest is the first version of vip-manager whose trigger may be Patroni's REST API and
// that was tried.
const Oldest = "3.0.0"

// CheckVersion refuses versions of vip-manager that cannot do it.
func CheckVersion(version string) error {
	v := debver.Upstream(version)
	if v == "" || v[0] < '0' || v[0] > '9' {
		return fmt.Errorf("%q is no version of vip-manager, such as 3.0.0", version)
	}
	if debver.Compare(v, Oldest) >= 0 {
		return nil
	}
	if debver.Compare(v, "2") < 0 {
		return fmt.Errorf("vip-manager %s knows only version 2 of etcd's API, where nothing of Patroni's is, and no trigger but etcd and Consul: it would never take the address. At least %s is needed, Debian 13's vip-manager2", version, Oldest)
	}
	return fmt.Errorf("vip-manager %s was not tried; at least %s is needed, Debian 13's vip-manager2", version, Oldest)
}

// CheckAddress refuses addresses that no host can have.
func CheckAddress(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case a.Zone() != "" || a.Is4In6():
		return fmt.Errorf("%s is not written as an address and a prefix length, such as 10.77.1.100/24 or fd00:77::100/64", p)
	case a.IsLoopback(), a.IsMulticast(), a.IsUnspecified(), a.IsLinkLocalUnicast():
		return fmt.Errorf("%s is not an address that clients could use", a)
	case p.Bits() == a.BitLen() || p.Bits() == 0:
		return fmt.Errorf("/%d is the length of no subnet: it is that of the subnet that the address lies in, which its interface has, as /24 in 10.77.1.100/24", p.Bits())
	case a == p.Masked().Addr() && (a.Is6() || p.Bits() < 31):
		return fmt.Errorf("%s is the address of the subnet itself", a)
	case a.Is4() && p.Bits() < 31 && a == broadcast(p):
		return fmt.Errorf("%s is the broadcast address of %s", a, p.Masked())
	}
	return nil
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// config is what the guard reads, and the marker of whose address it is.
type config struct {
	Address    string `json:"address"`
	Prefix     int    `json:"prefix"`
	Interface  string `json:"interface"`
	Patroni    string `json:"patroni"` // URL to ask
	CAFile     string `json:"cafile"`
	VIPManager string `json:"vip_manager"` // path of the program
	follow.Owner
}

// files are what a node's host has.
func (s Spec) files(k patroni.Known, node, nic string) follow.Files {
	a := s.agent()
	url, cafile := a.PatroniURL(k, node)
	c := config{
		Address: s.Address.Addr().String(), Prefix: s.Address.Bits(), Interface: nic, Patroni: url + "/" + s.role(), CAFile: cafile,
		VIPManager: "/usr/bin/vip-manager", Owner: a.Owner(),
	}
	// What stops the guard removes the address. One that crashed finds it again when systemd
	// has started it, or the kernel has removed it by then. A guard that hangs has lost it long
	// before systemd gives up on it.
	return a.Files(c, guard, "Virtual address "+c.Address+" on the "+s.role()+" of "+s.Cluster.Name(), `ExecStopPost=/bin/sh -c '[ "$$SERVICE_RESULT" != success ] || exec /usr/bin/python3 -I `+a.ProgramPath()+` remove `+a.Dir()+`'
WatchdogSec=10
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET
`, false)
}
