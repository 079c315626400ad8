// Package simpatroni is Patroni with PostgreSQL on the hosts of package
// fakehost: a unit that reads the configuration file which was really written
// for it, takes part in its cluster through the simulated etcd, and answers
// its REST API over TLS.
//
// It models what decides about data: who may initialise, who leads, who has
// what. Write-ahead log is a number of bytes.
package simpatroni

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost/simetcd"
)

// UnitName is Debian's unit.
const UnitName = "patroni.service"

// Sim is all Patroni nodes of a world.
type Sim struct {
	world *fakehost.World
	etcd  *simetcd.Sim
	nodes map[string]*Node // by machine

	// Initdbs are the nodes that initialised a database, in order.
	Initdbs []string
	// Lost says of each promotion that threw acknowledged data away what it
	// lost.
	Lost []string
	// Promotions are the nodes that were promoted, in order.
	Promotions []string
	// Reinitialized are the nodes that were told to throw their data away, in order.
	Reinitialized []string

	// BootstrapFails, if not empty, is what PostgreSQL logs as it fails to
	// start in a bootstrap.
	BootstrapFails []string
	// CloneFails, if not empty, is what pg_basebackup says as it fails.
	CloneFails string
	// CloneTime is how long pg_basebackup takes, three seconds if zero.
	CloneTime time.Duration
	// Switchover, if not nil, decides what becomes of a request.
	Switchover func(leader, candidate string) Outcome
	// DemoteTime is how long a leader takes to stop PostgreSQL for a switchover.
	DemoteTime time.Duration
	// moving is who is to lead next, while a switchover is under way in a cluster.
	moving map[string]string
	// BeforePatch, if not nil, is called before a PATCH /config is carried
	// out, with the document as it is.
	BeforePatch func(document map[string]any)
	// acked is how far each cluster's acknowledged writes reach.
	acked map[string]int64
	// passwords are what each cluster's database has of its roles'.
	passwords map[string]map[string]string
	// logins are with what the nodes of a group log in to those of others (pg_dist_authinfo).
	logins map[string]string
}

// Outcome is what becomes of a switchover.
type Outcome struct {
	// To is the member that leads afterwards; empty is the candidate.
	To string
	// Refuse is a text with which it is refused (412).
	Refuse string
	// Fail: it is looked into, and given up (503); nothing has changed.
	Fail bool
	// Silent: the connection ends without an answer, after it was done.
	Silent bool
	// Late is how much later the answer comes.
	Late time.Duration
}

// Install makes Debian's packages bring a simulated Patroni and PostgreSQL.
func Install(w *fakehost.World, etcd *simetcd.Sim) *Sim {
	s := &Sim{world: w, etcd: etcd, nodes: map[string]*Node{}, acked: map[string]int64{}, passwords: map[string]map[string]string{}, logins: map[string]string{}, moving: map[string]string{}}
	w.OnInstall("patroni", func(m *fakehost.Machine, _ string) {
		m.Account("postgres")
		m.AddUnit(UnitName, s.node(m)).Enabled = "enabled"
	})
	w.OnInstall("postgresql-", func(m *fakehost.Machine, name string) {
		major := strings.TrimPrefix(name, "postgresql-")
		if strings.Contains(major, "client") || strings.Contains(major, "common") {
			return
		}
		m.Account("postgres")
		for _, program := range []string{"postgres", "pg_controldata", "initdb"} {
			m.Files.Put("/usr/lib/postgresql/"+major+"/bin/"+program, fakehost.File{Mode: "755"})
		}
		m.Files.Put("/var/lib/postgresql", fakehost.File{Type: fakehost.Dir, Owner: "postgres", Group: "postgres"})
		s.mainCluster(m, major)
	})
	s.handle()
	return s
}

// mainCluster makes the cluster that Debian's package makes unless it is told
// not to.
func (s *Sim) mainCluster(m *fakehost.Machine, major string) {
	const dir = "/etc/postgresql-common/createcluster.d"
	for _, name := range m.Files.List(dir) {
		if strings.Contains(string(m.Files.Read(dir+"/"+name)), "create_main_cluster = false") {
			return
		}
	}
	m.Files.Put("/etc/postgresql/"+major+"/main/postgresql.conf", fakehost.File{Owner: "postgres", Group: "postgres"})
	m.Files.Put("/var/lib/postgresql/"+major+"/main/PG_VERSION", fakehost.File{Owner: "postgres", Content: []byte(major + "\n")})
}

func (s *Sim) node(m *fakehost.Machine) *Node {
	n := s.nodes[m.Name]
	if n == nil {
		n = &Node{sim: s, m: m}
		s.nodes[m.Name] = n
	}
	return n
}

// Node returns the node on a machine, nil if Patroni is not installed there.
func (s *Sim) Node(m *fakehost.Machine) *Node { return s.nodes[m.Name] }

// members are the nodes of a scope whose Patroni runs, in order.
func (s *Sim) members(scope string) []*Node {
	var list []*Node
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		if n := s.nodes[name]; n.up && n.cfg.Scope == scope {
			list = append(list, n)
		}
	}
	return list
}

// servers are the nodes of a scope whose PostgreSQL runs, in order, with or without
// their Patroni.
func (s *Sim) servers(scope string) []*Node {
	var list []*Node
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		if n := s.nodes[name]; n.pg != nil && n.cfg.Scope == scope {
			list = append(list, n)
		}
	}
	return list
}

// Primary returns the node of a scope that accepts writes, nil if there is
// none. Two of them fail the test.
func (s *Sim) Primary(scope string) *Node {
	var primary *Node
	for _, n := range s.servers(scope) {
		if n.Primary() {
			if primary != nil {
				s.world.TB.Errorf("%s and %s are primaries at the same time", primary.m.Name, n.m.Name)
			}
			primary = n
		}
	}
	return primary
}

// Healthy reports whether a scope has a primary and so many streaming replicas.
func (s *Sim) Healthy(scope string, replicas int) bool {
	n := 0
	for _, m := range s.members(scope) {
		if m.Streaming() {
			n++
		}
	}
	return s.Primary(scope) != nil && n == replicas
}

// Write has a client write and commit: the primary's log grows, and with it
// that of every replica that streams. It returns false if there is no primary.
func (s *Sim) Write(scope string, bytes int64) bool {
	p := s.Primary(scope)
	if p == nil {
		return false
	}
	p.pg.lsn += bytes
	s.acked[scope] = p.pg.lsn
	for _, n := range s.servers(scope) {
		if n.receives() && n.m.Reaches(p.m) {
			n.pg.lsn = p.pg.lsn
		}
	}
	return true
}

// Describe is a line for each node, for failed tests.
func (s *Sim) Describe() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		n := s.nodes[name]
		_, _ = fmt.Fprintf(&b, "%s: up=%v state=%s role=%s pg=%+v\n", name, n.up, n.state, n.Role(), n.pg)
	}
	return b.String()
}
