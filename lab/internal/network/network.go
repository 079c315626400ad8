// Package network makes a lab's network: bridges, one for each datacenter,
// and a router between them, in a network namespace of the lab's own.
//
// The namespace is what keeps labs apart from each other and from this
// machine. Forwarding is switched on in it alone, its firewall is nobody
// else's, a container engine's rules do not reach it, and the one link that
// leads out ends at this machine's address.
package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pgha/terraform-provider-pgha/lab/internal/plan"
	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
)

// uplink is the name of the namespace's end of the link to this machine.
const uplink = "uplink"

// Network is a lab's network, as it shall be.
type Network struct {
	Lab         string
	Net         plan.Net
	Datacenters int // they are numbered from 1
}

// namespaceFolder is where iproute2 keeps named namespaces.
const namespaceFolder = "/run/netns"

// NamespacePath is the file that stands for a lab's network namespace.
func NamespacePath(lab string) string {
	return filepath.Join(namespaceFolder, plan.Namespace(lab))
}

// Up makes what is missing of the network and leaves the rest as it is.
func (n Network) Up(ctx context.Context) error {
	ns := plan.Namespace(n.Lab)
	if !namespaceExists(n.Lab) {
		// After a reboot the name can be left over, without a namespace.
		if err := os.Remove(NamespacePath(n.Lab)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if _, err := sys.Run(ctx, "ip", "netns", "add", ns); err != nil {
			return err
		}
	}
	// Before there are devices, which take their settings from the defaults.
	if _, err := inside(ctx, n.Lab, "", "sh", "-ec", sysctls); err != nil {
		return fmt.Errorf("set up the lab's network namespace: %w", err)
	}
	if !deviceExists(plan.Uplink(n.Lab)) {
		if err := n.link(ctx); err != nil {
			return fmt.Errorf("connect this machine to the lab's network: %w", err)
		}
	}
	have, err := inside(ctx, n.Lab, "", "ip", "-br", "link", "show", "type", "bridge")
	if err != nil {
		return err
	}
	var missing []int
	for dc := 1; dc <= n.Datacenters; dc++ {
		if !strings.Contains("\n"+have, "\n"+plan.Bridge(dc)+" ") {
			missing = append(missing, dc)
		}
	}
	if missing == nil {
		return nil
	}
	return n.bridges(ctx, missing)
}

// sysctls are the namespace's settings.
//
//   - No reverse path filter: a packet that was held back comes in again by
//     another device than its sender's.
//   - No duplicate address detection: it makes an address wait for a second.
//   - A neighbour is asked for ten times a second, not once: hosts come up in
//     less than that, and whoever waits for one should not wait longer.
//   - Bridged packets stay out of the IP rules, which are about datacenters.
const sysctls = `
cd /proc/sys/net
put() { if [ -e "$2" ]; then echo "$1" > "$2"; fi; }
put 1 ipv4/ip_forward
put 1 ipv6/conf/all/forwarding
put 0 ipv4/conf/all/rp_filter
put 0 ipv4/conf/default/rp_filter
put 0 ipv6/conf/all/accept_dad
put 0 ipv6/conf/default/accept_dad
put 100 ipv4/neigh/default/retrans_time_ms
put 100 ipv6/neigh/default/retrans_time_ms
put 0 bridge/bridge-nf-call-iptables
put 0 bridge/bridge-nf-call-ip6tables
put 0 bridge/bridge-nf-call-arptables
`

// link makes the link between this machine and the lab.
func (n Network) link(ctx context.Context) error {
	ns, dev := plan.Namespace(n.Lab), plan.Uplink(n.Lab)
	run, rtr := n.Net.Runner(), n.Net.Router()
	if _, err := sys.Run(ctx, "ip", "link", "add", dev, "type", "veth", "peer", "name", uplink, "netns", ns); err != nil {
		return err
	}
	err := ip(ctx, "-n", ns)(
		"link set lo up",
		fmt.Sprintf("addr replace %s/24 dev %s", rtr.V4, uplink),
		fmt.Sprintf("addr replace %s/64 dev %s nodad", rtr.V6, uplink),
		"link set "+uplink+" up",
	)
	if err != nil {
		return err
	}
	return ip(ctx)(
		fmt.Sprintf("addr replace %s/24 dev %s", run.V4, dev),
		fmt.Sprintf("addr replace %s/64 dev %s nodad", run.V6, dev),
		"link set "+dev+" up",
		fmt.Sprintf("route replace %s via %s dev %s", n.Net.Prefix4(), rtr.V4, dev),
		fmt.Sprintf("route replace %s via %s dev %s", n.Net.Prefix6(), rtr.V6, dev),
	)
}

// bridges makes the bridges of datacenters.
func (n Network) bridges(ctx context.Context, dcs []int) error {
	var commands []string
	for _, dc := range dcs {
		br, gw := plan.Bridge(dc), n.Net.Gateway(dc)
		commands = append(commands,
			fmt.Sprintf("link add %s address %s type bridge stp_state 0 forward_delay 0 mcast_snooping 0", br, n.Net.BridgeMAC(dc)),
			fmt.Sprintf("addr add %s/24 dev %s", gw.V4, br),
			fmt.Sprintf("addr add %s/64 dev %s nodad", gw.V6, br),
			fmt.Sprintf("link set %s up", br),
		)
	}
	return ip(ctx, "-n", plan.Namespace(n.Lab))(commands...)
}

// ip returns a function that runs commands of ip(8) in one batch.
func ip(ctx context.Context, options ...string) func(commands ...string) error {
	return func(commands ...string) error {
		args := append(append([]string{"ip"}, options...), "-batch", "-")
		_, err := sys.Command{Args: args, Stdin: strings.Join(commands, "\n") + "\n"}.Run(ctx)
		return err
	}
}

// inside runs a command in the lab's network namespace. It is not "ip netns
// exec", which mounts a new /sys and so hides the control groups.
func inside(ctx context.Context, lab, stdin string, args ...string) (string, error) {
	args = append([]string{"nsenter", "--net=" + NamespacePath(lab)}, args...)
	return sys.Command{Args: args, Stdin: stdin}.Run(ctx)
}

// namespaceExists reports whether a lab's namespace is there, and not just the
// file that held it before a reboot.
func namespaceExists(lab string) bool {
	const nsfs = 0x6e736673
	var st syscall.Statfs_t
	return syscall.Statfs(NamespacePath(lab), &st) == nil && st.Type == nsfs
}

// Down removes a lab's network. It needs nothing but the lab's name, and none
// of the network need be there. No process of the lab may be left.
func Down(ctx context.Context, lab string) error {
	// The link goes first, and by name: a namespace is taken down some time
	// after it was deleted, and a new lab of the same name wants the name now.
	if dev := plan.Uplink(lab); deviceExists(dev) {
		if _, err := sys.Run(ctx, "ip", "link", "delete", dev); err != nil && deviceExists(dev) {
			return err
		}
	}
	if namespaceExists(lab) {
		if _, err := sys.Run(ctx, "ip", "netns", "delete", plan.Namespace(lab)); err != nil {
			return err
		}
	}
	if err := os.Remove(NamespacePath(lab)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func deviceExists(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}

// Labs returns the names of the labs that have a network, whether or not
// anything else is known of them.
func Labs() []string {
	entries, _ := os.ReadDir(namespaceFolder)
	var labs []string
	for _, e := range entries {
		if lab, ok := strings.CutPrefix(e.Name(), plan.Namespace("")); ok {
			labs = append(labs, lab)
		}
	}
	return labs
}

// Conflict returns an address of this machine that lies in the range n, and
// does not belong to the lab itself.
func Conflict(n plan.Net, lab string) (string, bool) {
	ifs, _ := net.Interfaces()
	for _, i := range ifs {
		if i.Name == plan.Uplink(lab) {
			continue
		}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && p.Masked().Overlaps(n.Prefix4()) {
				return fmt.Sprintf("%s on %s", a, i.Name), true
			}
		}
	}
	return "", false
}
