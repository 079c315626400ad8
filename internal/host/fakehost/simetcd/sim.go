// Package simetcd is etcd on the hosts of package fakehost: units that start
// from the files which were really written for them, members that form a
// cluster and are ready once a quorum is, and a client over one key space.
package simetcd

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// unitName is Debian's unit.
const unitName = "etcd.service"

// Sim is all etcd clusters of a world.
type Sim struct {
	world  *fakehost.World
	stores []*Store
	// scratch are etcds that nobody but a restore knows of, by host.
	scratch map[string]*scratch
	// RequestTimeout is how long a client waits for a cluster that has no
	// quorum, in the world's time.
	RequestTimeout time.Duration
	// Broken is a version that does not start.
	Broken string
	// Refused are the handshakes that failed because of a certificate, each once.
	Refused []string
	// Fickle connections are made anew for everything that goes through them, so that
	// nobody is let in by what was good once.
	Fickle      bool
	connections map[connection]bool
	good        map[checked]window // certificates that were trusted
	clients     int
}

// binaryPath is etcd in Debian's package. Its content is its version.
const binaryPath = "/usr/bin/etcd"

// Install makes etcd's packages bring a simulated etcd.
func Install(w *fakehost.World) *Sim {
	s := &Sim{world: w, scratch: map[string]*scratch{}, RequestTimeout: 10 * time.Second, connections: map[connection]bool{}, good: map[checked]window{}}
	w.OnInstall("etcd-server", func(m *fakehost.Machine, _ string) {
		m.Account("etcd")
		m.Files.Put(binaryPath, fakehost.File{Mode: "755", Content: []byte(debver.Upstream(m.Installed("etcd-server")))})
		if m.Units[unitName] != nil {
			return // what runs goes on
		}
		m.Files.Put("/var/lib/etcd", fakehost.File{Type: fakehost.Dir, Owner: "etcd", Group: "etcd", Mode: "700"})
		m.AddUnit(unitName, &service{sim: s, machine: m}).Enabled = "enabled"
	})
	w.Handle("etcd.snapshot", true, s.snapshot)
	w.Handle("etcd.reach", false, s.reach)
	w.Handle("etcd.reach.plain", false, s.reachPlain)
	w.Handle("etcd.snapshots", false, s.snapshots)
	w.Handle("etcd.keep", true, func(o *fakehost.Op) error {
		if !o.Need(2) {
			return o.Fail(2, "etcd.keep: arguments")
		}
		f := o.Machine.Files.Get(o.Arg(1))
		if f == nil {
			return o.Fail(1, "cp: cannot stat '%s': No such file or directory", o.Arg(1))
		}
		o.Machine.Files.Put(o.Arg(2), *f)
		return nil
	})
	w.OnUnitFile(unitName, func(m *fakehost.Machine) fakehost.Service { return &service{sim: s, machine: m} })
	s.handleRestore()
	w.OnUnitFile("pgha-etcd-snapshot.service", func(m *fakehost.Machine) fakehost.Service { return &snapshotUnit{sim: s, machine: m} })
	return s
}

// Store is one cluster: its key space, its users and its members.
type Store struct {
	sim      *Sim
	id       string
	token    string
	members  map[string]*member // by peer URL
	leader   *member
	formed   bool // a quorum has been there
	settled  bool // members have been connected for long enough to take another
	retrying bool // members that refused each other will try again

	// line is the cluster's own version, such as "3.5": the oldest of its members, and
	// never less than it was.
	line string

	keys     map[string]*entry
	revision int64
	users    map[string]*user
	auth     bool
	watchers map[string]func(key string)
	// Alarms are what each member's Status reports as errors, by the member that
	// has raised them.
	Alarms map[string]string
	// Behind is by how many entries of the log a member is.
	Behind map[string]uint64
	dbs    map[string]*DB
}

// member is a place in a cluster, and the process that fills it if one does.
type member struct {
	name    string // empty: it has never started
	id      uint64
	peerURL string
	learner bool
	ready   bool // a learner that has caught up
	machine *fakehost.Machine
	unit    *fakehost.Unit // nil while it does not run
	env     map[string]string
	// launch is what it was started with, and version what runs.
	launch  launch
	version string
	run     int // counts its processes
	trust   trust
}

// Stores returns the clusters that were made so far, in order.
func (s *Sim) Stores() []*Store { return slices.Clone(s.stores) }

// sorted are all members, in the order of their URLs.
func (st *Store) sorted() []*member {
	var list []*member
	for _, url := range slices.Sorted(maps.Keys(st.members)) {
		list = append(list, st.members[url])
	}
	return list
}

func (m *member) runs() bool { return m.unit != nil && m.machine.Up }

// voters are the members that vote, and those of them that run.
func (st *Store) voters() (all, running []*member) {
	for _, m := range st.sorted() {
		if m.learner {
			continue
		}
		all = append(all, m)
		if m.runs() {
			running = append(running, m)
		}
	}
	return all, running
}

// Running returns the names of the voting members that run.
func (st *Store) Running() []string {
	var list []string
	_, running := st.voters()
	for _, m := range running {
		list = append(list, m.name)
	}
	slices.Sort(list)
	return list
}

// Quorum reports whether enough members run, and reach each other, to decide.
func (st *Store) Quorum() bool { return len(st.majority()) > st.Size()/2 }

// majority is the largest group of running voters that all reach each other,
// found by looking at what each of them reaches.
func (st *Store) majority() []*member {
	var best []*member
	_, running := st.voters()
	for _, m := range running {
		var group []*member
		for _, other := range running {
			if st.linked(m, other) {
				group = append(group, other)
			}
		}
		if len(group) > len(best) {
			best = group
		}
	}
	return best
}

// served are the members that answer for the majority: its own, and learners.
func (st *Store) served() []*member {
	list := st.majority()
	for _, m := range st.sorted() {
		if m.learner && m.runs() {
			list = append(list, m)
		}
	}
	return list
}

// Leader is the name of the leading member, empty if there is none.
func (st *Store) Leader() string {
	if l := st.leads(); l != nil {
		return l.name
	}
	return ""
}

func (st *Store) leads() *member {
	if !st.Quorum() {
		return nil
	}
	return st.leader
}

// dataID is the file by which a data directory says which cluster it is of.
const dataID = "/member/id"

// join puts a process into its cluster, or says why it cannot be.
func (s *Sim) join(u *fakehost.Unit, env map[string]string) (*Store, *member, error) {
	m, name, dir := u.Machine, env["ETCD_NAME"], env["ETCD_DATA_DIR"]
	have := string(m.Files.Read(dir + dataID))
	if have != "" {
		if m.Files.Get(dir+restored) != nil {
			return s.begins(u, env, have)
		}
		return s.again(u, env, have)
	}
	peers := map[string]string{} // names by URL
	own := ""
	for _, p := range strings.Split(env["ETCD_INITIAL_CLUSTER"], ",") {
		n, url, _ := strings.Cut(p, "=")
		if peers[url] = n; n == name {
			own = url
		}
	}
	if own == "" || own != env["ETCD_INITIAL_ADVERTISE_PEER_URLS"] {
		return nil, nil, fmt.Errorf("couldn't find local name %q in the initial cluster configuration", name)
	}
	var st *Store
	var err error
	if env["ETCD_INITIAL_CLUSTER_STATE"] == "existing" {
		st, err = s.existing(peers)
	} else {
		st, err = s.bootstrapped(env, peers, own)
	}
	if err != nil {
		return nil, nil, err
	}
	mem := st.members[own]
	if mem.env != nil {
		return nil, nil, fmt.Errorf("member %s has already been bootstrapped", name)
	}
	mem.name, mem.machine, mem.unit, mem.env = name, m, u, env
	if mem.learner {
		s.world.After(time.Second, func() { mem.ready = true })
	}
	m.Files.Put(dir+"/member", fakehost.File{Type: fakehost.Dir, Owner: "etcd", Group: "etcd", Mode: "700"})
	m.Files.Put(dir+dataID, fakehost.File{Owner: "etcd", Group: "etcd", Mode: "600", Content: []byte(st.id)})
	return st, mem, nil
}

// again is a member that comes back with its data.
func (s *Sim) again(u *fakehost.Unit, env map[string]string, id string) (*Store, *member, error) {
	for _, st := range s.stores {
		if st.id != id {
			continue
		}
		for _, mem := range st.sorted() {
			if mem.machine == u.Machine {
				mem.name, mem.unit, mem.env = env["ETCD_NAME"], u, env
				return st, mem, nil
			}
		}
		return nil, nil, errors.New("the member has been permanently removed from the cluster")
	}
	return nil, nil, fmt.Errorf("member %s is not of the cluster that its data is of", env["ETCD_NAME"])
}

// existing finds the cluster that a new member is to join.
func (s *Sim) existing(peers map[string]string) (*Store, error) {
	for _, st := range s.stores {
		known := 0
		for url := range peers {
			if st.members[url] != nil {
				known++
			}
		}
		switch {
		case known == 0 || !st.Quorum():
		case len(peers) != len(st.members):
			return nil, errors.New("error validating peerURLs: member count is unequal")
		case known != len(peers):
			return nil, errors.New("error validating peerURLs: unmatched member while checking PeerURLs")
		default:
			return st, nil
		}
	}
	return nil, errors.New("cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs")
}

// bootstrapped finds the new cluster that a member is of, or makes it.
func (s *Sim) bootstrapped(env, peers map[string]string, own string) (*Store, error) {
	var st *Store
	for _, other := range s.stores {
		if other.token != env["ETCD_INITIAL_CLUSTER_TOKEN"] || !other.alive() {
			continue
		}
		if other.members[own] == nil {
			s.world.TB.Errorf("%s begins anew with the token of a cluster that it was removed from", own)
			return nil, errors.New("the member has been permanently removed from the cluster")
		}
		st = other
	}
	if st == nil {
		st = &Store{
			sim: s, id: fmt.Sprintf("%x", fakehost.Hash(4, env["ETCD_INITIAL_CLUSTER_TOKEN"], len(s.stores))), token: env["ETCD_INITIAL_CLUSTER_TOKEN"],
			members: map[string]*member{}, keys: map[string]*entry{}, users: map[string]*user{}, Alarms: map[string]string{}, Behind: map[string]uint64{},
			watchers: map[string]func(string){}, revision: 1, settled: true,
		}
		for url, n := range peers {
			st.members[url] = &member{name: n, id: fakehost.Hash(5, st.id, n), peerURL: url}
		}
		s.stores = append(s.stores, st)
	}
	for _, other := range st.members {
		if other.env != nil && other.env["ETCD_INITIAL_CLUSTER"] != env["ETCD_INITIAL_CLUSTER"] {
			return nil, fmt.Errorf("the initial cluster of %s is another one than that of %s", env["ETCD_NAME"], other.name)
		}
	}
	return st, nil
}

// alive reports whether any member still has the cluster's data.
func (st *Store) alive() bool {
	for _, m := range st.members {
		if m.machine != nil && string(m.machine.Files.Read(m.env["ETCD_DATA_DIR"]+dataID)) == st.id {
			return true
		}
	}
	return false
}

// changed follows up on a member that came or went: with a quorum there is a
// leader before long, and members that waited for it are ready.
func (st *Store) changed() {
	if !slices.Contains(st.majority(), st.leader) {
		st.leader = nil
	}
	if !st.Quorum() || st.leader != nil && st.allReady() {
		return
	}
	st.sim.world.After(300*time.Millisecond, func() {
		group := st.majority()
		if !st.Quorum() {
			return
		}
		if st.leader == nil {
			st.leader = group[int(fakehost.Hash(st.sim.world.Seed(), "leader", st.revision)%uint64(len(group)))]
		}
		st.formed = true
		for _, m := range st.served() {
			if m.unit.Active == "activating" {
				m.unit.Ready()
			}
		}
		st.wake("")
	})
}

func (st *Store) allReady() bool {
	for _, m := range st.sorted() {
		if m.runs() && m.unit.Active != "active" {
			return false
		}
	}
	return true
}

// MoveLeader makes another running member lead.
func (st *Store) MoveLeader(name string) {
	for _, m := range st.sorted() {
		if m.name == name && !m.learner {
			st.leader = m
		}
	}
}

// Refresh has the cluster notice that the network has changed.
func (s *Sim) Refresh() {
	for _, st := range s.stores {
		st.changed()
	}
}

// Size is how many members vote, running or not.
func (st *Store) Size() int {
	all, _ := st.voters()
	return len(all)
}

// Versions are the versions that run, by member.
func (st *Store) Versions() map[string]string {
	all := map[string]string{}
	for _, m := range st.sorted() {
		if m.runs() {
			all[m.name] = m.version
		}
	}
	return all
}
