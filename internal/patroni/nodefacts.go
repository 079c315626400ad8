package patroni

import (
	"context"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// NodeFacts is what a probe found on a node's host.
type NodeFacts struct {
	Facts  *remote.Facts
	Marker *Marker
}

// ProbeNode asks a node's host, in one session.
func ProbeNode(ctx context.Context, h host.Host, n Node) (NodeFacts, error) {
	var p remote.Probe
	p.OS().Clock().Content(MarkerPath).Unit(Unit).
		Package(n.serverPackage(), n.clientPackage(), patroniPackage, etcdPackage, "openssl").
		Available(n.serverPackage(), n.clientPackage(), patroniPackage).
		Path(n.DataDir).Path(n.DataDir + "/PG_VERSION").Path(n.DataDir + "/global/pg_control").
		Disk(n.DataDir).Path(ConfigPath).Path(noClusterPath).
		List("/etc/postgresql/" + strconv.Itoa(n.major())).
		Port(n.Cluster.PostgresPort).Port(n.Cluster.APIPort).
		Content(n.Cluster.authorityPath()).Content(n.Cluster.etcdAuthorityPath())
	for _, l := range n.leaves() {
		p.Path(l.Key).Content(l.Certificate)
	}
	for _, f := range n.files() {
		p.Path(f.Path)
	}
	facts, err := p.Run(ctx, h)
	if err != nil {
		return NodeFacts{}, err
	}
	m, err := readMarker(facts)
	return NodeFacts{Facts: facts, Marker: m}, err
}

// hasData reports whether there is a database in the data directory: not only
// an empty folder, or one that a clone was begun in.
func (f NodeFacts) hasData(n Node) bool {
	return f.Facts.Path(n.DataDir + "/global/pg_control").Exists()
}

// Absent reports whether there is definitely no node of the cluster on the
// host: it answered, and neither marker nor unit nor data say so.
func (f NodeFacts) Absent(n Node) bool {
	ours := f.Marker != nil && f.Marker.Scope == n.Cluster.Scope && f.Marker.Node == n.Name && !f.Marker.Released
	return !ours && !f.Facts.Unit(Unit).Running()
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
	return []remote.Pin{
		{Name: n.serverPackage(), Version: n.Postgres},
		{Name: n.clientPackage(), Version: n.Postgres},
		{Name: patroniPackage, Version: n.Patroni},
	}
}

// debianClusters are the clusters of Debian's own that the probe found.
func (f NodeFacts) debianClusters(n Node) []string {
	var list []string
	for _, name := range f.Facts.List("/etc/postgresql/" + strconv.Itoa(n.major())) {
		list = append(list, strconv.Itoa(n.major())+"/"+strings.TrimSpace(name))
	}
	return list
}
