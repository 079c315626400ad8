// Package plan decides which names and addresses a lab has. It is pure.
package plan

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Net is the address range of one lab: A.B.0.0/16, and fd77:A:B::/48 with the
// same digits, so that an address is recognised whichever family it is of.
//
//	A.B.0.1, fd77:A:B::1      this machine, as the hosts see it ("the runner")
//	A.B.0.2, fd77:A:B::2      the lab's router, as this machine sees it
//	A.B.n.1, fd77:A:B:n::1    the gateway of datacenter n
//	A.B.n.10                  its bastion, if it has one
//	A.B.n.11 and on           its hosts, in the order given
//	A.B.n.100 to .199         never given to a host: for virtual addresses
type Net struct{ A, B byte }

// The limits keep every interface name within the kernel's 15 characters and
// the hosts below the addresses set aside for virtual ones.
const (
	maxDatacenters = 99
	BastionNumber  = 10
	FirstHost      = 11
	LastHost       = 99
	firstVIP       = 100
	lastVIP        = 199
)

// ParseNet reads the first two octets of a private range, such as "10.77".
func ParseNet(s string) (Net, error) {
	a, b, ok := strings.Cut(s, ".")
	na, errA := strconv.ParseUint(a, 10, 8)
	nb, errB := strconv.ParseUint(b, 10, 8)
	n := Net{byte(na), byte(nb)}
	if !ok || errA != nil || errB != nil || n.String() != s {
		return Net{}, fmt.Errorf("%q is not an address range: give the first two octets, such as 10.77", s)
	}
	if n.A != 10 && (n.A != 172 || n.B < 16 || n.B > 31) {
		return Net{}, fmt.Errorf("%s.0.0/16 is not a range the lab can use: it has to lie within 10.0.0.0/8 or 172.16.0.0/12", s)
	}
	return n, nil
}

func (n Net) String() string { return fmt.Sprintf("%d.%d", n.A, n.B) }

// MarshalText and UnmarshalText make a Net readable in the lab's state file.
func (n Net) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText is the reverse of MarshalText.
func (n *Net) UnmarshalText(b []byte) (err error) {
	*n, err = ParseNet(string(b))
	return err
}

// Pair is one place's address in each family.
type Pair struct{ V4, V6 netip.Addr }

func (n Net) at(dc, host int) Pair {
	// The digits of the decimal number, read as hexadecimal ones.
	v6 := netip.MustParseAddr(fmt.Sprintf("fd77:%d:%d:%d::%d", n.A, n.B, dc, host))
	return Pair{netip.AddrFrom4([4]byte{n.A, n.B, byte(dc), byte(host)}), v6}
}

// Prefix4 is the lab's IPv4 range.
func (n Net) Prefix4() netip.Prefix { return netip.PrefixFrom(n.at(0, 0).V4, 16) }

// Prefix6 is the lab's IPv6 range.
func (n Net) Prefix6() netip.Prefix { return netip.PrefixFrom(n.at(0, 0).V6, 48) }

// Runner is this machine's end of the link to the lab.
func (n Net) Runner() Pair { return n.at(0, 1) }

// Router is the lab's end of that link.
func (n Net) Router() Pair { return n.at(0, 2) }

// Gateway is the router's address in a datacenter.
func (n Net) Gateway(dc int) Pair { return n.at(dc, 1) }

// Host is the address of a host.
func (n Net) Host(dc, host int) Pair { return n.at(dc, host) }

// VIP is the i-th virtual address (from 1) of a datacenter.
func (n Net) VIP(dc, i int) (Pair, error) {
	if i < 1 || firstVIP+i > lastVIP {
		return Pair{}, fmt.Errorf("a datacenter has the virtual addresses 1 to %d, not %d", lastVIP-firstVIP, i)
	}
	return n.at(dc, firstVIP+i), nil
}

// Subnet4 is a datacenter's IPv4 range.
func (n Net) Subnet4(dc int) netip.Prefix { return netip.PrefixFrom(n.at(dc, 0).V4, 24) }

// Subnet6 is a datacenter's IPv6 range.
func (n Net) Subnet6(dc int) netip.Prefix { return netip.PrefixFrom(n.at(dc, 0).V6, 64) }

// Machine is the name by which nspawn knows a host. It is made of the address
// because it has to be unique on this machine, across labs.
func (n Net) Machine(dc, host int) string {
	return fmt.Sprintf("%d-%d-%d-%d", n.A, n.B, dc, host)
}

// Port is the bridge's end of a host's cable: nspawn's prefix, then the
// machine's name.
func (n Net) Port(dc, host int) string { return "vb-" + n.Machine(dc, host) }

// Bridge is the name of a datacenter's bridge.
func Bridge(dc int) string { return fmt.Sprintf("br%d", dc) }

// BridgeMAC is the bridge's hardware address. A bridge without one takes the
// lowest of its ports', and changes it when a port comes or goes, while the
// hosts still send to the old one.
func (n Net) BridgeMAC(dc int) string {
	return fmt.Sprintf("02:77:%02x:%02x:%02x:01", n.A, n.B, dc)
}

// Free returns the first range that is not taken, for a lab that was given
// none. 10.77 is left to the lab named demo.
func Free(taken func(Net) bool) (Net, error) {
	for b := 78; b <= 254; b++ {
		if n := (Net{10, byte(b)}); !taken(n) {
			return n, nil
		}
	}
	return Net{}, fmt.Errorf("no address range from 10.78 to 10.254 is free: remove labs (lab down --all) or give one (--net)")
}
