package patroni

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// NodePlan is the way from the facts to the wanted node. It is pure. Known is
// nil when only the host was looked at (Read): secrets are then unknown, and
// files that hold some are compared by the digests in the marker.
func NodePlan(n Node, f NodeFacts, k *Known, etcdAuthority []byte, now time.Time, do *Doer) (engine.Plan, error) {
	p, err := newNodePlanner(n, f, k, etcdAuthority, now, do)
	if err != nil {
		return engine.Plan{}, err
	}
	return p.plan()
}

func newNodePlanner(n Node, f NodeFacts, k *Known, etcdAuthority []byte, now time.Time, do *Doer) (*nodePlanner, error) {
	if err := nodeOwnership(n, f, k); err != nil {
		return nil, err
	}
	p := &nodePlanner{n: n, f: f, k: k, etcdAuthority: etcdAuthority, now: now, do: do}
	if err := n.checkEtcdFiles(f.EtcdFiles, etcdAuthority, now); err != nil {
		return nil, err
	}
	if k != nil && n.takesOver() && !hasDatabase(*k) {
		if err := p.checkTakeOver(); err != nil {
			return nil, err
		}
	}
	if k == nil {
		p.authority, p.trusted = pki.Split(f.Facts.Path(n.Cluster.AuthorityPath()).Content)
		if len(etcdAuthority) == 0 {
			p.etcdAuthority = f.Facts.Path(n.Cluster.etcdAuthorityPath()).Content
		}
	} else {
		p.authority, p.trusted = k.Authority, k.Trusted
	}
	return p, nil
}

// nodeOwnership says whether the host is ours to change.
func nodeOwnership(n Node, f NodeFacts, k *Known) error {
	var errs []error
	refuse := func(cause, do string) {
		errs = append(errs, &problem.Error{
			Host: n.Target.Name, Step: "check whose PostgreSQL this is", Cause: errors.New(cause), Left: "everything on the host.", Do: do,
		})
	}
	m, unit := f.Marker, f.Facts.Unit(Unit)
	data := f.Facts.Path(n.DataDir)
	var debians []remote.DebianCluster
	if m == nil && !f.Foreign.is(n) {
		debians = f.debianClusters(n)
	}
	if f.Standalone != nil {
		debians = slices.DeleteFunc(debians, func(c remote.DebianCluster) bool { return c.String() == n.Cluster.TakeOver.Debian })
	}
	debian := func(of func(remote.DebianCluster) bool) bool { return slices.ContainsFunc(debians, of) }
	switch {
	case debian(func(c remote.DebianCluster) bool { return c.DataDir == n.DataDir }):
		// refused below
	case m != nil && !m.of(n.Cluster):
		refuse(fmt.Sprintf("this host's Patroni belongs to the cluster %q, as its node %q (%s says so)", m.cluster(), m.Node, MarkerPath),
			"choose another host, or change that node in the configuration that made it.")
	case m != nil && m.Node != n.Name:
		refuse(fmt.Sprintf("this host is the node %q of the cluster, not %q", m.Node, n.Name), "give the node the name it has; a node cannot be renamed.")
	case m != nil && m.DataDir != n.DataDir:
		refuse(fmt.Sprintf("the node's data is in %s, and %s is wanted", m.DataDir, n.DataDir),
			"a data directory is not moved in place: remove the node, and create it again with the new data_directory; it is then cloned there.")
	case m != nil && m.Joined && !m.Released && m.UID != "" && n.Cluster.UID != "" && m.UID != n.Cluster.UID && f.hasData(n):
		refuse(fmt.Sprintf("this node and its database are of another cluster %q, which was made before (uid %s, not %s)", m.cluster(), m.UID, n.Cluster.UID),
			"if etcd has lost the cluster since, it must be taken up from its nodes (recover_from), not made anew. If the database is of no use any more, destroy the node.")
	case m != nil:
		// ours
	case f.Standalone != nil:
		// it is to be taken over, see checkTakeOver
	case f.Foreign.is(n):
		// somebody else made it, and it is this very node
	case unit.Running() || unit.Active == "activating":
		refuse("a Patroni that is not ours is running on this host", "stop and disable it if nothing needs it, or choose another host.")
	case data.Type == remote.Dir && !data.Empty:
		refuse(n.DataDir+" is not empty, and "+MarkerPath+" does not say whose it is",
			"move it away if nothing needs it, or choose another data_directory.")
	case data.Exists() && data.Type != remote.Dir:
		refuse(n.DataDir+" is not a directory", "choose another data_directory.")
	}
	for _, c := range debians {
		refuse(c.Describe()+" is on this host", c.Removal()+"; then apply again.")
	}
	if m == nil && !f.Foreign.is(n) {
		for port, what := range map[int]string{n.Cluster.PostgresPort: "postgresql_port", n.Cluster.APIPort: "rest_api_port"} {
			if f.Standalone != nil && port == f.Standalone.Port {
				continue
			}
			if l := f.Facts.Port(port); len(l) > 0 && !debian(func(c remote.DebianCluster) bool { return c.Running && c.Port == port }) {
				refuse(fmt.Sprintf("port %d (%s) is in use: %s", port, what, strings.Join(l, ", ")), "stop what uses it, or choose another port.")
			}
		}
	}
	if d := f.Facts.Disk(n.DataDir); len(errs) == 0 && !f.hasData(n) {
		if why := d.TooSmall(leastDisk); why != "" {
			refuse(why+", where "+n.DataDir+" is to be", "make room or mount a larger disk there, or choose another data_directory.")
		}
	}
	if k != nil {
		errs = append(errs, unfit(n, record(n, f), *k)...)
	}
	return errors.Join(errs...)
}

// unfit says why the node cannot be in one cluster with those that etcd knows.
func unfit(n Node, own NodeRecord, k Known) []error {
	var errs []error
	refuse := func(cause, do string) {
		errs = append(errs, &problem.Error{
			Host: n.Target.Name, Step: "check that the node fits into the cluster", Cause: errors.New(cause), Left: "everything on the host.", Do: do,
		})
	}
	if mode := k.Config["synchronous_mode"]; strings.EqualFold(Text(mode), "quorum") && before(n.Patroni, 4, 0, 0) && !n.Cluster.Adopted() {
		refuse(fmt.Sprintf("synchronous_mode is quorum, which Patroni %s takes for off: no commit would wait for a replica", n.Patroni),
			`set synchronous_mode = "on" in the pgha_patroni_cluster, or bring Patroni to 4 or later.`)
	}
	others := k.Announced
	for _, name := range sortedKeys(k.Nodes) {
		r := k.Nodes[name]
		r.Name = name
		others = append(others, r)
	}
	for _, other := range others {
		name := other.Name
		if name == n.Name {
			// At our own address nobody else can be running: there the key of
			// a machine that was replaced only has not run out yet.
			if other.MachineID != own.MachineID && other.Address != n.Address {
				if _, alive := k.Members[name]; alive {
					refuse(fmt.Sprintf("the cluster has a running node %q on another machine, at %s", name, other.Address), "choose another name, or remove that node first.")
				}
			}
			continue
		}
		if postgres.SlotName(name) == postgres.SlotName(n.Name) {
			refuse(fmt.Sprintf("the nodes %q and %q would share the replication slot %s", n.Name, name, postgres.SlotName(name)), "choose a name that differs in more than case and punctuation.")
		}
		if other.Major != 0 && other.Major != own.Major {
			refuse(fmt.Sprintf("PostgreSQL %d is wanted here, and node %q has %d: one cluster has one major version", own.Major, name, other.Major),
				"set versions.postgresql to the same major version on all nodes.")
		}
		if other.Codename != "" && other.Codename != own.Codename {
			refuse(fmt.Sprintf("this host runs Debian %q and node %q runs %q: their C libraries sort text differently, so that indexes copied between them would be corrupt", own.Codename, name, other.Codename),
				"use one release of Debian for all nodes of a cluster.")
		}
	}
	return errs
}

// record is what is noted of a node in etcd.
func record(n Node, f NodeFacts) NodeRecord {
	os := f.Facts.OS()
	return NodeRecord{
		Name: n.Name, Address: n.Address, Target: n.Target, MachineID: os.MachineID,
		DataDir: n.DataDir, Major: n.major(), Codename: os.Codename,
	}
}

// leastDisk is what a database needs that has nothing in it yet, with its first
// WAL, in bytes.
const leastDisk = 256 << 20

type nodePlanner struct {
	n             Node
	f             NodeFacts
	k             *Known
	authority     []byte
	trusted       []byte // besides the cluster's authority
	etcdAuthority []byte
	now           time.Time
	do            *Doer
	staged        bool // what a turn installs was fetched
	preview       bool // nothing is done by it; what comes before it in an apply is not known
}

func (p *nodePlanner) marker(joined bool) Marker {
	m := Marker{
		Scope: p.n.Cluster.Scope, Namespace: p.n.Cluster.Namespace, UID: p.n.Cluster.UID, Node: p.n.Name,
		MachineID: p.f.Facts.OS().MachineID, DataDir: p.n.DataDir, Joined: joined,
	}
	if citus := p.n.Cluster.Citus; citus != nil {
		m.Group = &citus.Group
	}
	if p.f.Foreign != nil {
		if text, err := p.f.Foreign.Merge(p.n); err == nil {
			m.Files = map[string]string{ConfigPath: remote.File{Content: text}.SHA256()}
		}
		return m
	}
	if p.k != nil && p.k.Secrets != nil {
		m.Files = map[string]string{ConfigPath: p.n.config(*p.k.Secrets, false).SHA256()}
	}
	return m
}

func (p *nodePlanner) plan() (engine.Plan, error) {
	if p.n.Cluster.Adopted() {
		return p.adopted()
	}
	n, f, do := p.n, p.f, p.do
	var plan engine.Plan
	if f.Marker == nil || f.Marker.Released || f.Marker.UID != n.Cluster.UID && n.Cluster.UID != "" {
		plan = plan.Then(do.mark(n, p.marker(false), "mark the host as node of the cluster "+n.Cluster.Name()))
	}
	if f.Standalone != nil {
		plan = plan.Then(do.register(n, p.record())) // the others wait for it from now on
	}
	t, err := p.turn()
	if err != nil {
		return engine.Plan{}, err
	}
	packages, err := p.packages(t)
	if err != nil {
		return engine.Plan{}, err
	}
	f = p.f // as it is after the packages
	running := f.Facts.Unit(Unit).Running()
	due := f.Marker != nil && f.Marker.ReloadDue
	changed := p.configChanged() || due && running
	certificates, renewed := p.certificates()
	plan = plan.ThenPlan(packages)
	if n.etcdFiles() != nil && !running {
		plan = plan.Then(do.lookEtcdFiles(n))
	}
	if running && !due && p.k != nil && f.Marker != nil && (changed || renewed) {
		m := *f.Marker
		m.ReloadDue = true
		due = true
		plan = plan.Then(do.mark(n, m, "note that the node has to be reloaded"))
	}
	plan = plan.ThenPlan(certificates)
	if dir := f.Facts.Path(n.DataDir); !dir.Exists() || dir.Owner != account {
		plan = plan.Then(do.makeDataDir(n))
	}
	reload := f.Facts.Unit(Unit).NeedsReload
	for _, file := range n.files() {
		if !file.Same(f.Facts.Path(file.Path)) {
			plan = plan.Then(do.write(n, file))
			reload = true
		}
	}
	if reload {
		plan = plan.Then(do.daemonReload(n))
	}
	if f.Facts.Unit(Unit).Enabled != "enabled" {
		plan = plan.Then(do.enable(n))
	}
	plan = plan.ThenPlan(p.watchdog())
	switch {
	case running && changed && p.locked():
		plan = plan.Then(do.register(n, p.record()), do.unlock(n))
	case running && changed && !f.hasData(n) && p.k != nil:
		plan = plan.Then(do.register(n, p.record()), do.reform(n))
	case running && changed:
		plan = plan.Then(do.register(n, p.record()), do.reconfigure(n)).ThenPlan(p.comes())
	case !running && f.Standalone != nil && f.Standalone.Online:
		plan = plan.ThenPlan(p.takeOver())
	case !running && (f.hasData(n) || p.k == nil):
		// The data decides: a node with a database only has to start.
		plan = plan.Then(do.register(n, p.record()), do.startWithData(n))
	case !running:
		plan = plan.Then(do.register(n, p.record()), do.form(n))
	}
	if running && f.Broken != "" {
		plan = plan.Then(do.reinitialise(n, f.Broken))
	}
	if running && !changed && p.marked() && p.unnoted() {
		plan = plan.Then(do.register(n, p.record()))
	}
	if !p.marked() || due && p.k != nil {
		if running && !changed && !p.marked() {
			plan = plan.Then(do.register(n, p.record()), do.member(n))
		}
		plan = plan.Then(do.mark(n, p.marker(true), "note that the node is complete"))
	}
	return plan, nil
}

// marked reports whether the marker says all that it has to.
func (p *nodePlanner) marked() bool {
	m := p.f.Marker
	if m == nil || !m.Joined || m.Released || m.RestartDue != "" {
		return false
	}
	want := p.marker(true)
	return p.k == nil || m.Files[ConfigPath] == want.Files[ConfigPath] && m.UID == want.UID && m.MachineID == want.MachineID
}

// configChanged reports whether the configuration file is not as it should be.
func (p *nodePlanner) configChanged() bool {
	have := p.f.Facts.Path(ConfigPath)
	if p.k != nil {
		return !p.n.config(*p.k.Secrets, false).Same(have)
	}
	want := ""
	if p.f.Marker != nil {
		want = p.f.Marker.Files[ConfigPath]
	}
	return have.Type != remote.Regular || want != "" && have.SHA256 != want || have.Mode != "640" || have.Group != account
}

// locked reports whether Patroni runs and has not come as far as its REST API: it
// waits for etcd, and does not read its file again before it was let in.
func (p *nodePlanner) locked() bool {
	if p.k == nil {
		return false
	}
	_, member := p.k.Members[p.n.Name]
	return !member && len(p.f.Facts.Port(p.n.Cluster.APIPort)) == 0
}

// logsIn reports whether the node has a user and a password for etcd.
func (p *nodePlanner) logsIn() bool {
	if p.n.Cluster.Adopted() {
		return p.n.EtcdPassword != ""
	}
	return p.n.Cluster.Etcd.Auth || p.k != nil && p.k.Secrets != nil && p.k.Secrets.LogsIn
}

// record is what is noted of the node in etcd. How it comes there is said of one
// that runs only when it does. Whoever replaces etcd's authority goes by what it says
// of certificates, which are in place when it is written.
func (p *nodePlanner) record() NodeRecord {
	r := record(p.n, p.f)
	r.LogsIn = p.logsIn()
	if p.k != nil && p.f.Facts.Unit(Unit).Running() {
		// Of one that somebody else made nothing else says that its file was read.
		due := p.f.Marker != nil && p.f.Marker.ReloadDue || p.n.Cluster.Adopted()
		r.LogsIn = r.LogsIn && (p.k.Nodes[p.n.Name].LogsIn || !due && !p.fileChanged())
	}
	if p.n.Cluster.Etcd.IssuesForPatroni() && !p.restartsAlone() {
		r.ClientTrust = etcd.TrustOf(p.etcdAuthority)
	}
	return r
}

// unnoted reports whether etcd does not know yet which of its authorities the node
// trusts.
func (p *nodePlanner) unnoted() bool {
	if p.k == nil {
		return false
	}
	noted, there := p.k.Nodes[p.n.Name]
	return there && noted.ClientTrust != p.record().ClientTrust
}

// packages installs what is pinned, exactly, and holds it.
func (p *nodePlanner) packages(t turn) (engine.Plan, error) {
	n, f, do := p.n, p.f, p.do
	var pins []remote.Pin
	var hold []string
	var errs []error
	for _, pin := range n.pinned() {
		have := f.Facts.Package(pin.Name)
		switch {
		case have.Installed && debver.Matches(pin.Version, have.Version):
			if !have.Held {
				hold = append(hold, pin.Name)
			}
		case t.has(pin.Name):
			hold = append(hold, pin.Name)
		default:
			exact, err := remote.Resolve(pin.Name, pin.Version, f.Facts.Available(pin.Name))
			if err != nil {
				errs = append(errs, n.refusal(pin.Name, problem.In(n.Target.Name, "look up package versions", err)))
				continue
			}
			if !slices.Contains(pins, exact) { // as a companion
				pins = append(pins, exact)
			}
			if pin.Name != n.clientPackage() && have.Installed {
				pins = append(pins, p.companions(pin.Name, have.Version, exact.Version)...)
			}
			hold = append(hold, pin.Name)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return engine.Plan{}, err
	}
	for _, name := range []string{etcdPackage, "openssl"} {
		if !f.Facts.Package(name).Installed {
			pins = append(pins, remote.Pin{Name: name})
		}
	}
	var plan engine.Plan
	if !noCluster().Same(f.Facts.Path(noClusterPath)) {
		plan = plan.Then(do.write(n, noCluster()))
	}
	if len(pins) > 0 {
		plan = plan.Then(do.install(n, pins))
	}
	if t.needed() {
		plan = plan.ThenPlan(p.stage(t)).ThenPlan(p.take(t))
		p.restarted()
	}
	return plan.ThenPlan(p.holds(hold)), nil
}

// added are the extensions that the node does not have yet, and that no turn brings.
func (p *nodePlanner) added(t turn) ([]remote.Pin, error) {
	var pins []remote.Pin
	var errs []error
	for _, pin := range p.n.extensions() {
		if p.f.Facts.Package(pin.Name).Installed || t.has(pin.Name) {
			continue
		}
		exact, err := remote.Resolve(pin.Name, pin.Version, p.f.Facts.Available(pin.Name))
		if err != nil {
			errs = append(errs, p.n.refusal(pin.Name, problem.In(p.n.Target.Name, "look up package versions", err)))
			continue
		}
		pins = append(pins, exact)
	}
	return pins, errors.Join(errs...)
}

// holds holds packages, and lets those be upgraded again that are no longer pinned.
func (p *nodePlanner) holds(hold []string) (plan engine.Plan) {
	if len(hold) > 0 {
		plan = plan.Then(p.do.hold(p.n, hold))
	}
	var free []string
	for _, name := range p.n.Freed {
		if p.f.Facts.Package(name).Held {
			free = append(free, name)
		}
	}
	if len(free) > 0 {
		plan = plan.Then(p.do.unhold(p.n, free))
	}
	return plan
}

// certificates issues what is missing or runs out. With renewed, what runs has
// to be reloaded for it.
func (p *nodePlanner) certificates() (plan engine.Plan, renewed bool) {
	n, f, do := p.n, p.f, p.do
	trusted := []remote.File{n.Cluster.trustedFile(p.authority, p.trusted)}
	if n.Cluster.Etcd.IssuesForPatroni() {
		trusted = append(trusted, remote.File{Path: n.Cluster.etcdAuthorityPath(), Content: p.etcdAuthority})
	}
	for _, file := range trusted {
		if !file.Same(f.Facts.Path(file.Path)) {
			plan = plan.Then(do.write(n, file))
			// Patroni reads it with each connection that it opens to etcd; but where
			// it says something else than etcd knows, etcd is to hear of it, even if this
			// run is killed before.
			renewed = renewed || p.unnoted()
		}
	}
	for i, l := range n.leaves() {
		authority := p.authority
		if i == 1 {
			authority = pki.First(p.etcdAuthority) // the one that signs
		}
		why := l.Check(f.Facts.Path(l.Certificate).Content, authority, p.now, pki.RenewBefore)
		if !f.Facts.Path(l.Key).Exists() {
			why = "there is no key"
		}
		if why != "" {
			plan = plan.Then(do.issue(n, l, i == 1, why))
			renewed = true
		}
	}
	if renewed && f.Facts.Unit(Unit).Running() {
		plan = plan.Then(do.reload(n))
	}
	return plan, renewed
}

// NodeDestroyPlan is the way to a host without the node. It is pure. Last says
// that no other member is left to take over.
func NodeDestroyPlan(n Node, f NodeFacts, purge bool, do *Doer) engine.Plan {
	var plan engine.Plan
	unit := f.Facts.Unit(Unit)
	if unit.Running() || unit.Active == "activating" {
		plan = plan.Then(do.handOver(n))
	}
	if unit.Loaded {
		plan = plan.Then(do.stop(n))
	}
	var held []string
	for _, pin := range n.pinned() {
		held = append(held, pin.Name)
	}
	plan = plan.Then(do.forget(n), do.unhold(n, held))
	for _, path := range []string{watchdogModulePath, watchdogRulePath} {
		if f.Facts.Path(path).Exists() {
			plan = plan.Then(do.dropWatchdog(n, path))
		}
	}
	if purge {
		plan = plan.Then(do.purge(n)...)
	} else if f.Marker != nil {
		m := *f.Marker
		m.Released = true
		plan = plan.Then(do.mark(n, m, "note that the node was released and its data kept"))
	}
	return plan
}

// Protected says why the last node must not be deleted, or nothing.
func Protected(n Node, k Known) error {
	if k.Record == nil || !k.Record.DeletionProtection || !k.Initialized {
		return nil
	}
	others := 0
	for name := range k.Nodes {
		if name != n.Name {
			others++
		}
	}
	for name := range k.Members {
		if _, noted := k.Nodes[name]; name != n.Name && !noted {
			others++
		}
	}
	if others > 0 {
		return nil
	}
	return &problem.Error{
		Host: n.Target.Name, Step: "check that the cluster survives",
		Cause: fmt.Errorf("%s is the last node of the cluster %s, and the cluster is protected from deletion", n.Name, n.Cluster.Name()),
		Left:  "the node, running.",
		Do:    "set deletion_protection = false on the pgha_patroni_cluster resource and apply that first, if the whole cluster is to go.",
	}
}

func without(list []string, s string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(e string) bool { return e == s })
}
