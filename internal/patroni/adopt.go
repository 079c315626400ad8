package patroni

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// A cluster that somebody else made is managed as it is: its nodes keep their
// configuration files and certificates, its passwords stay in those files, and
// nothing is put between it and its users. Until the first apply that changes
// something there is not even a note about it anywhere. See adr/0013.

// adoptedPrefix begins the uid of a cluster that somebody else made; the system
// identifier follows.
const adoptedPrefix = "system-"

// Adopted reports whether somebody else made the cluster.
func (c Cluster) Adopted() bool { return strings.HasPrefix(c.UID, adoptedPrefix) }

// present makes sure that etcd has the cluster that was adopted, and not another
// one of the same scope.
func (c Cluster) present(k Known) error {
	if k.Initialize != "" && (c.UID == adoptedPrefix || c.UID == adoptedPrefix+k.Initialize) {
		return nil
	}
	found := "nothing of it"
	if k.Initialize != "" {
		found = "one with the system identifier " + k.Initialize
	}
	return &problem.Error{
		Step:  "look the cluster up in etcd",
		Cause: fmt.Errorf("the cluster %s has the system identifier %s, and etcd %s has %s", c.Name(), cmp.Or(strings.TrimPrefix(c.UID, adoptedPrefix), "that it was made with"), c.Etcd.Name, found),
		Left:  "everything.", Do: "find out what became of etcd's data before anything else.",
	}
}

// addressOf is the address in a member's connection URL.
func (m Member) addressOf() string {
	u, err := url.Parse(m.ConnURL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// complete adds those nodes of which there is no note yet, but that run on the
// hosts of etcd's members: how these are reached is known. Those of a Citus formation
// are added in any case: whatever is done with a group goes through the coordinator's
// primary and its own, wherever these are, and a formation has more hosts than etcd.
func (k *Known) complete(c Cluster) {
	if !c.Adopted() {
		return
	}
	for name, m := range k.Members {
		address := m.addressOf()
		if _, noted := k.Nodes[name]; noted || address == "" {
			continue
		}
		if c.Citus != nil {
			k.Nodes[name] = NodeRecord{Name: name, Address: address, Target: host.Target{Name: name, Address: address}}
		}
		for _, em := range c.Etcd.Members {
			if em.Address == address {
				k.Nodes[name] = NodeRecord{Name: name, Address: em.Address, Target: em.Target}
			}
		}
	}
}

// foreign reads the configuration file of a node of an adopted cluster.
func (d *Doer) foreign(ctx context.Context, n Node) (*ForeignConfig, error) {
	d.mu.Lock()
	f := d.files[n.Name]
	d.mu.Unlock()
	if f != nil {
		return f, nil
	}
	var p remote.Probe
	p.Secret(ConfigPath)
	facts, err := p.Run(ctx, d.host(n))
	if err != nil {
		return nil, err
	}
	if facts.Path(ConfigPath).Type != remote.Regular {
		return nil, &problem.Error{Host: n.Target.Name, Cause: errors.New(ConfigPath + " is not there"), Do: "bring the node's configuration file back."}
	}
	return d.remember(n, facts.Path(ConfigPath).Content)
}

// remember keeps a node's file for the rest of the run, and its passwords out of
// every log.
func (d *Doer) remember(n Node, text []byte) (*ForeignConfig, error) {
	f, err := ParseForeign(text)
	if err != nil {
		return nil, problem.In(n.Target.Name, "", err)
	}
	for _, s := range f.secrets().all() {
		if s != "" && d.Redact != nil {
			d.Redact.Add(s)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files == nil {
		d.files = map[string]*ForeignConfig{}
	}
	d.files[n.Name] = f
	return f, nil
}

// foreignAPI is the REST API of a node of an adopted cluster. If it has TLS, it
// must show the certificate that its own file names.
func (d *Doer) foreignAPI(ctx context.Context, n Node) (*API, error) {
	f, err := d.foreign(ctx, n)
	if err != nil {
		return nil, err
	}
	_, port := f.ports()
	cfg := APIConfig{Port: port, User: f.users().API, Password: f.secrets().API}
	if path := f.file.RestAPI.CertFile; path != "" {
		var p remote.Probe
		p.Content(path)
		facts, err := p.Run(ctx, d.host(n))
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(facts.Path(path).Content)
		if block == nil {
			return nil, fmt.Errorf("host %s: restapi.certfile %s has no certificate", n.Target.Name, path)
		}
		if cfg.Certificate, err = x509.ParseCertificate(block.Bytes); err != nil {
			return nil, fmt.Errorf("host %s: restapi.certfile %s: %w", n.Target.Name, path, err)
		}
	}
	return NewAPI(d.host(n), cfg)
}

// Identify finds out what a Patroni cluster is: one that this provider has made,
// or one made by hand, of which a node has to be looked at. It changes nothing.
func (m *Manager) Identify(ctx context.Context, c Cluster, nodes map[string]etcd.Member) (Cluster, Known, error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return c, Known{}, err
	}
	k := do.Known
	if k.Record != nil && !k.Record.Released && k.Record.Cluster != nil && !strings.HasPrefix(k.Record.UID, adoptedPrefix) {
		noted := *k.Record.Cluster
		noted.Scope, noted.Namespace, noted.Etcd, noted.UID = c.Scope, c.Namespace, c.Etcd, k.Record.UID
		return noted, k, nil
	}
	if k.Record != nil && k.Record.Released {
		return c, k, &problem.Error{
			Step: "look the cluster up in etcd", Cause: fmt.Errorf("the resource of the cluster %s was destroyed, and its data kept", c.Name()),
			Do: "do not import it: applying the configuration that made it takes it up again.",
		}
	}
	if k.Initialize == "" {
		if err := do.ungrouped(ctx, c); err != nil {
			return c, k, err
		}
		return c, k, &problem.Error{
			Step: "look the cluster up in etcd", Cause: fmt.Errorf("etcd %s has no Patroni cluster %s%s", c.Etcd.Name, c.Namespace, c.Name()),
			Do: "check scope and namespace: patronictl list on a node shows them.",
		}
	}
	c.UID = adoptedPrefix + k.Initialize
	k.complete(c)
	for name, n := range nodes {
		k.Nodes[name] = NodeRecord{Name: name, Address: n.Address, Target: n.Target}
	}
	f, n, err := do.anyForeign(ctx, c, k)
	if err != nil {
		return c, k, err
	}
	if k.Record != nil {
		c.UID = k.Record.UID
	}
	if err := f.belongs(n); err != nil {
		return c, k, err
	}
	if err := f.unsupported(); err != nil && c.Adopted() {
		return c, k, &problem.Error{Host: n.Target.Name, Step: "read " + ConfigPath, Cause: err, Do: "leave the cluster as it is; this release cannot manage it."}
	}
	c = f.describes(c)
	if err := do.amongGroups(ctx, c, k); err != nil {
		return c, k, err
	}
	n.Cluster = c
	rows, err := do.query(ctx, n, "initdb", "postgres", "select pg_encoding_to_char(encoding) || '|' || datcollate || '|' || current_setting('data_checksums') from pg_database where datname = 'template1'")
	if err != nil {
		return c, k, err
	}
	if len(rows) == 1 {
		if parts := strings.Split(rows[0], "|"); len(parts) == 3 {
			c.Initdb = Initdb{Encoding: parts[0], Locale: parts[1], DataChecksums: parts[2] == "on"}
		}
	}
	return c, k, nil
}

// anyForeign reads the file of a node, the leader's if that can be had.
func (d *Doer) anyForeign(ctx context.Context, c Cluster, k Known) (*ForeignConfig, Node, error) {
	names := sortedKeys(k.Nodes)
	if _, ok := k.Nodes[k.Leader]; ok {
		names = append([]string{k.Leader}, without(names, k.Leader)...)
	}
	var errs []error
	for _, name := range names {
		n := Node{Cluster: c, Name: name, Target: k.Nodes[name].Target, Address: k.Nodes[name].Address}
		f, err := d.foreign(ctx, n)
		if err == nil {
			return f, n, nil
		}
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, Node{}, errors.Join(errs...)
	}
	return nil, Node{}, &problem.Error{
		Step: "find a node of the cluster", Cause: fmt.Errorf("none of the members %s of %s runs on a host of etcd %s, and no other host was named", strings.Join(sortedKeys(k.Members), ", "), c.Name(), c.Etcd.Name),
		Do: fmt.Sprintf("name one in the id: %s@NODE=ADDRESS@...", c.Name()),
	}
}

// FoundNode is a node that exists.
type FoundNode struct {
	Node     Node
	SystemID string
}

// Find reads back what a node is: what an apply would have to be told to change
// nothing. It changes nothing.
func (m *Manager) Find(ctx context.Context, c Cluster, k Known, name string, at etcd.Member) (Node, error) {
	n, _, err := m.find(ctx, c, k, name, at)
	return n, err
}

// find is Find, with the configuration file that the node has.
func (m *Manager) find(ctx context.Context, c Cluster, k Known, name string, at etcd.Member) (Node, *ForeignConfig, error) {
	n := Node{Cluster: c, Name: name, Address: at.Address, Target: at.Target}
	h := m.Fleet.Host(at.Target)
	var p remote.Probe
	p.Content(MarkerPath).Secret(ConfigPath).Unit(Unit).Package(patroniPackage).List("/usr/lib/postgresql")
	f, err := p.Run(ctx, h)
	if err != nil {
		return n, nil, err
	}
	refuse := func(cause, do string) error {
		return &problem.Error{Host: at.Target.Name, Step: "look at the node", Cause: errors.New(cause), Do: do}
	}
	if f.Path(ConfigPath).Type != remote.Regular || !f.Unit(Unit).Running() {
		return n, nil, refuse(fmt.Sprintf("%s is not there, or %s does not run", ConfigPath, Unit), "start the node. Instances of patroni@.service cannot be imported in this release.")
	}
	do := &Doer{Fleet: m.Fleet, Log: m.Log, Known: k, Redact: m.Redact}
	foreign, err := do.remember(n, f.Path(ConfigPath).Content)
	if err != nil {
		return n, nil, err
	}
	if err := foreign.belongs(n); err != nil {
		return n, nil, err
	}
	if err := foreign.unsupported(); err != nil && c.Adopted() {
		return n, nil, refuse(err.Error(), "leave the node as it is; this release cannot manage it.")
	}
	if a := foreign.address(); a != at.Address {
		return n, nil, refuse(fmt.Sprintf("clients reach it at %s, and the id says %s", a, at.Address), fmt.Sprintf("write %s=%s?ssh=%s in the id.", name, a, at.Target.Address))
	}
	api, err := do.api(ctx, n)
	if err != nil {
		return n, nil, err
	}
	st, err := api.Status(ctx)
	if err != nil {
		return n, nil, err
	}
	if st.SystemID != k.Initialize {
		return n, nil, refuse(fmt.Sprintf("the node's database has the system identifier %s, and the cluster's has %s", st.SystemID, k.Initialize), "find out whose data it is before anything else.")
	}
	n.DataDir, n.Tags = foreign.file.PostgreSQL.DataDir, foreign.tags()
	if !c.Adopted() {
		n.Watchdog = foreign.file.Watchdog.found()
	}
	n.Postgres = fmt.Sprintf("%d.%d", st.ServerVersion/10000, st.ServerVersion%10000)
	n.Patroni = debver.Upstream(f.Package(patroniPackage).Version)
	if c.Citus != nil {
		var p remote.Probe
		f, err := p.Package(n.ExtensionPackage(CitusExtension)).Run(ctx, h)
		if err != nil {
			return n, nil, err
		}
		have := f.Package(n.ExtensionPackage(CitusExtension))
		if !have.Installed {
			return n, nil, refuse(fmt.Sprintf("Citus is not from the package %s, and this release knows no other", n.ExtensionPackage(CitusExtension)), "leave the node as it is; this release cannot manage it.")
		}
		n.Extensions = map[string]string{CitusExtension: debver.Upstream(have.Version)}
	}
	return n, foreign, nil
}

// adopted is the plan for a node of a cluster that somebody else made. The
// bookkeeping (marks, notes, holds) comes with the first apply that has something
// to change; before that it is no drift.
func (p *nodePlanner) adopted() (engine.Plan, error) {
	n, f, do := p.n, p.f, p.do
	quiet := p.k == nil && f.Marker == nil
	var plan engine.Plan
	if f.Foreign == nil {
		return plan, &problem.Error{
			Host: n.Target.Name, Step: "look at the node",
			Cause: fmt.Errorf("the cluster %s was made by somebody else, and there is no %s on this host to go by", n.Cluster.Name(), ConfigPath),
			Left:  "everything on the host.", Do: "make the node as the others were made, then import it; this release does not add nodes to such a cluster.",
		}
	}
	if p.k != nil && p.k.Record == nil {
		plan = plan.Then(do.noteAdopted(n.Cluster))
	}
	if !quiet && (f.Marker == nil || f.Marker.Released) {
		plan = plan.Then(do.mark(n, p.marker(false), "mark the host as node of the cluster "+n.Cluster.Name()))
	}
	t, err := p.turn()
	if err != nil {
		return plan, err
	}
	if t.needed() && !quiet {
		plan = plan.ThenPlan(p.stage(t)).ThenPlan(p.take(t))
		p.restarted()
		f = p.f
	}
	added, err := p.added(t)
	if err != nil {
		return plan, err
	}
	var hold []string
	for _, pin := range n.pinned() {
		have := f.Facts.Package(pin.Name)
		comes := slices.ContainsFunc(added, func(a remote.Pin) bool { return a.Name == pin.Name })
		if comes || t.has(pin.Name) || have.Installed && !have.Held {
			hold = append(hold, pin.Name)
		}
	}
	if !quiet {
		if len(added) > 0 {
			plan = plan.Then(do.install(n, added))
		}
		plan = plan.ThenPlan(p.holds(hold))
	}
	want, err := f.Foreign.Merge(n)
	if err != nil {
		return plan, problem.In(n.Target.Name, "", err)
	}
	if f.Facts.Unit(Unit).Enabled != "enabled" && !quiet {
		plan = plan.Then(do.enable(n))
	}
	changed := !bytes.Equal(want, f.Foreign.text)
	if !quiet || changed {
		plan = plan.ThenPlan(p.adoptedCertificates())
	}
	// A run that was cut off may have written the file, and no more.
	unsaid := p.k != nil && (p.restartsAlone() || p.logsIn() && !p.k.Nodes[n.Name].LogsIn || p.unnoted())
	switch running := f.Facts.Unit(Unit).Running(); {
	case (changed || unsaid) && running:
		changed = true
		plan = plan.Then(do.register(n, p.record()), do.reconfigure(n)).ThenPlan(p.comes())
	case !running:
		plan = plan.Then(do.register(n, p.record()), do.startWithData(n))
	}
	if f.Facts.Unit(Unit).Running() && f.Broken != "" {
		plan = plan.Then(do.reinitialise(n, f.Broken))
	}
	if !p.marked() && !quiet {
		if !changed && f.Facts.Unit(Unit).Running() {
			plan = plan.Then(do.register(n, p.record()))
		}
		plan = plan.Then(do.mark(n, p.marker(true), "note that the node is complete"))
	}
	return plan, nil
}

// noteAdopted notes a cluster that somebody else made, so that other operations
// find it.
func (d *Doer) noteAdopted(c Cluster) engine.Step {
	return engine.Step{ID: "cluster.record", Title: "note the cluster " + c.Name() + " in etcd", Risk: engine.Safe, Do: func(ctx context.Context) error {
		b, err := jsonText(Record{UID: c.UID, DeletionProtection: true, Cluster: &c})
		if err != nil {
			return err
		}
		_, err = d.KV.Create(ctx, c.recordKey(), b)
		return err
	}}
}

// putForeign writes what is managed into a file that somebody else wrote, which
// keeps its owner and mode. Patroni's validator is not asked: what it would say
// about the rest is nobody's question here.
func (d *Doer) putForeign(ctx context.Context, n Node) error {
	var p remote.Probe
	p.Secret(ConfigPath)
	facts, err := p.Run(ctx, d.host(n))
	if err != nil {
		return err
	}
	have := facts.Path(ConfigPath)
	f, err := ParseForeign(have.Content)
	if err != nil {
		return err
	}
	text, err := f.Merge(n)
	if err != nil || bytes.Equal(text, have.Content) {
		return err
	}
	return remote.WriteFile(ctx, d.host(n), remote.File{
		Path: ConfigPath, Content: text, Owner: have.Owner, Group: have.Group, Mode: "0" + have.Mode, Sensitive: true,
	})
}

// importID is the id with which a cluster that exists is imported.
func (c Cluster) importID() string {
	scope := c.Scope
	if c.Citus != nil {
		scope = fmt.Sprintf("%s:%d", scope, c.Citus.Group)
	}
	if c.Namespace != "/service/" {
		scope = c.Namespace + scope
	}
	var members []string
	for _, name := range c.Etcd.Names() {
		members = append(members, name+"="+c.Etcd.Members[name].Address)
	}
	return scope + "@" + c.Etcd.Name + "@" + strings.Join(members, ",")
}

// same reports whether what was noted for others is what a cluster is now.
func (c *Cluster) same(now Cluster) bool {
	if c == nil {
		return false
	}
	return c.PostgresPort == now.PostgresPort && c.APIPort == now.APIPort && c.Users == now.Users && c.Initdb == now.Initdb && c.TakeOver == now.TakeOver && reflect.DeepEqual(c.Citus, now.Citus) &&
		slices.Equal(c.APIAllowlist, now.APIAllowlist)
}
