package patroni

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// NodeFacts is what a probe found on a node's host.
type NodeFacts struct {
	Facts  *remote.Facts
	Marker *Marker
	// Status is what the node's Patroni says, nil if it was not asked.
	Status *NodeStatus
	// Broken says why the replica cannot recover by itself, as far as that was
	// looked into.
	Broken string
	// Foreign is the configuration file of a node that somebody else made.
	Foreign *ForeignConfig
	// EtcdFiles is what was found of the files that somebody else makes for the node's
	// connections to etcd, by path.
	EtcdFiles map[string]pki.Looked
	// Extension is what the server of a node of a Citus group says of it, nil if it was
	// not asked, or does not answer.
	Extension *Extension
	// Standalone is the database that the node takes over, while it is Debian's.
	Standalone *Standalone
}

// ProbeNode asks a node's host, in one session.
func ProbeNode(ctx context.Context, h host.Host, n Node) (NodeFacts, error) {
	var p remote.Probe
	p.OS().Content(MarkerPath).Unit(Unit).
		Package(n.serverPackage(), n.clientPackage(), patroniPackage, etcdPackage, "openssl").
		Available(n.serverPackage(), n.clientPackage(), patroniPackage).
		Source(n.serverPackage()).Source(patroniPackage).
		Path(n.DataDir).Path(n.DataDir + "/PG_VERSION").Path(n.DataDir + "/global/pg_control").
		Disk(n.DataDir).Path(ConfigPath).Path(noClusterPath).Path(fencePath).
		DebianClusters().
		Port(n.Cluster.PostgresPort).Port(n.Cluster.APIPort).
		Content(n.Cluster.AuthorityPath()).Content(n.Cluster.etcdAuthorityPath())
	for _, pin := range n.extensions() {
		p.Package(pin.Name).Available(pin.Name).Source(pin.Name)
	}
	p.Package(n.Freed...)
	p.Path(watchdogModulePath).Path(watchdogRulePath).Path(n.Watchdog.device())
	for _, l := range n.leaves() {
		p.Path(l.Key).Content(l.Certificate)
	}
	for _, f := range n.files() {
		p.Path(f.Path)
	}
	if _, err := netip.ParseAddr(n.Address); err != nil {
		p.Resolve(n.Address).Addresses()
	}
	if n.Cluster.Adopted() {
		p.Secret(ConfigPath)
	}
	facts, err := p.Run(ctx, h)
	if err != nil {
		return NodeFacts{}, err
	}
	f := NodeFacts{Facts: facts}
	if f.Marker, err = readMarker(facts); err != nil {
		return f, err
	}
	if brought := n.etcdFiles(); brought != nil {
		if f.EtcdFiles, err = brought.Look(ctx, h, account); err != nil {
			return f, err
		}
	}
	if text := facts.Path(ConfigPath); n.Cluster.Adopted() && text.Type == remote.Regular {
		if f.Foreign, err = ParseForeign(text.Content); err != nil {
			return f, problem.In(n.Target.Name, "", err)
		}
	}
	return f, nil
}

// namedIPv6 reports whether the node's address is a name that leads to IPv6
// alone. What it says of the host itself, as 127.0.1.1 in Debian's /etc/hosts,
// says nothing of where others find it; then the addresses that the host has do.
func (f NodeFacts) namedIPv6(n Node) bool {
	if _, err := netip.ParseAddr(n.Address); err == nil {
		return false
	}
	v4, v6 := families(f.Facts.Resolve(n.Address))
	if !v4 && !v6 {
		var own []string
		for _, line := range f.Facts.Addresses() {
			_, prefix, _ := strings.Cut(line, " ")
			address, _, _ := strings.Cut(prefix, "/")
			own = append(own, address)
		}
		v4, v6 = families(own)
	}
	return v6 && !v4
}

// families says of which families there are addresses that others can reach.
func families(addresses []string) (v4, v6 bool) {
	for _, text := range addresses {
		a, err := netip.ParseAddr(text)
		if err != nil || a.IsLoopback() {
			continue
		}
		v4, v6 = v4 || a.Unmap().Is4(), v6 || !a.Unmap().Is4()
	}
	return v4, v6
}

// hasData reports whether there is a database in the data directory: not only
// an empty folder, or one that a clone was begun in.
func (f NodeFacts) hasData(n Node) bool {
	return f.Facts.Path(n.DataDir + "/global/pg_control").Exists()
}

// Absent reports whether there is definitely no node of the cluster on the
// host: it answered, and neither marker nor unit nor data say so.
func (f NodeFacts) Absent(n Node) bool {
	ours := f.Marker != nil && f.Marker.of(n.Cluster) && f.Marker.Node == n.Name && !f.Marker.Released
	foreign := f.Marker == nil && f.Foreign.is(n)
	return !ours && !foreign && !f.Facts.Unit(Unit).Running()
}

// listsAreStale reports whether the host's package lists lack a wanted version.
func (f NodeFacts) listsAreStale(n Node) bool {
	for _, p := range n.pinned() {
		_, listed := debver.Newest(p.Version, f.Facts.Available(p.Name))
		if !listed && !debver.Matches(p.Version, f.Facts.Package(p.Name).Version) {
			return true
		}
	}
	return !f.Facts.Package(etcdPackage).Installed && len(f.Facts.Available(patroniPackage)) == 0
}

// pinned are the packages with a version, each with the pin.
func (n Node) pinned() []remote.Pin {
	return append([]remote.Pin{
		{Name: n.serverPackage(), Version: n.Postgres},
		{Name: n.clientPackage(), Version: n.Postgres},
		{Name: patroniPackage, Version: n.Patroni},
	}, n.extensions()...)
}

// debianClusters are the clusters of Debian's own that cannot stand beside the
// node: of the same major version, so that Debian's tools would take the node's
// data for theirs, or on the same port, so that only one of them starts at boot.
func (f NodeFacts) debianClusters(n Node) []remote.DebianCluster {
	return slices.DeleteFunc(f.Facts.DebianClusters(), func(c remote.DebianCluster) bool {
		return c.Version != strconv.Itoa(n.major()) && c.Port != n.Cluster.PostgresPort
	})
}
