package patroni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// When etcd has lost what it knew of a cluster, or knows it from a snapshot, the nodes
// tell: each has the passwords in its file, the dynamic configuration beside its data
// (patroni.dynamic.json), the cluster's uid in its mark, and the system identifier in
// the data itself. None of them is believed alone: they have to agree.

// survivor is what was found on the host of a node that is there already.
type survivor struct {
	node    Node
	record  NodeRecord
	marker  Marker
	secrets Secrets
	ca      []byte
	config  Document // nil if it is not there
	unit    remote.Unit
	// status is what its Patroni says, if it answers; else control is what its data
	// says.
	answers bool
	status  NodeStatus
	control Control
}

// primary reports whether it takes writes now, as its Patroni says.
func (v survivor) primary() bool { return v.answers && v.status.Primary() }

// was reports whether it was the primary when its server ended, or still is with
// nobody to say so.
func (v survivor) was() bool {
	return !v.answers && (v.control.State == "in production" || v.control.State == "shut down")
}

func (v survivor) systemID() string { return cmp.Or(v.control.SystemID, v.status.SystemID) }

func (v survivor) timeline() int64 {
	if v.answers && v.status.Timeline != nil {
		return max(*v.status.Timeline, v.control.Timeline)
	}
	return v.control.Timeline
}

// position is how far its data goes, as far as is known.
func (v survivor) position() int64 {
	x := v.status.XLog
	return max(x.Location, x.Received, x.Replayed, v.control.Checkpoint, v.control.MinRecovery)
}

// look asks the hosts of nodes. Those on which there is no node of the cluster are
// left out.
func (d *Doer) survivors(ctx context.Context, c Cluster, nodes map[string]host.Target) (found []survivor, gone []string, errs map[string]error) {
	errs = map[string]error{}
	for _, name := range sortedKeys(nodes) {
		v, there, err := d.survivor(ctx, c, name, nodes[name])
		switch {
		case err != nil:
			errs[name] = problem.Fill(err, problem.Error{Host: nodes[name].Name, Step: "ask the node what it knows of the cluster"})
		case there:
			found = append(found, v)
		default:
			gone = append(gone, name)
		}
	}
	return found, gone, errs
}

func (d *Doer) survivor(ctx context.Context, c Cluster, name string, t host.Target) (v survivor, there bool, err error) {
	h := d.Fleet.Host(t)
	var p remote.Probe
	f, err := p.OS().Content(MarkerPath).Secret(ConfigPath).Content(c.AuthorityPath()).Unit(Unit).Run(ctx, h)
	if err != nil {
		return v, false, err
	}
	m, err := readMarker(f)
	if err != nil || m == nil || !m.of(c) || m.Released || !m.Joined {
		return v, false, err
	}
	file, err := ParseForeign(f.Path(ConfigPath).Content)
	if err != nil {
		return v, false, err
	}
	v.marker, v.unit, v.ca, v.secrets = *m, f.Unit(Unit), f.Path(c.AuthorityPath()).Content, file.secrets()
	if e := file.file.Etcd3; e != nil && e.Username != c.etcdUser() {
		v.secrets.EtcdUser = e.Username
	}
	for _, s := range v.secrets.all() {
		d.Redact.Add(s)
	}
	var data remote.Probe
	df, err := data.Content(m.DataDir+"/PG_VERSION").Content(m.DataDir+"/patroni.dynamic.json").Path(m.DataDir+"/global/pg_control").Run(ctx, h)
	if err != nil {
		return v, false, err
	}
	if !df.Path(m.DataDir + "/global/pg_control").Exists() {
		return v, false, nil // it has no database yet
	}
	if text := df.Path(m.DataDir + "/patroni.dynamic.json").Content; len(text) > 0 {
		if v.config, err = ParseDocument(text); err != nil {
			return v, false, err
		}
	}
	version := strings.TrimSpace(string(df.Path(m.DataDir + "/PG_VERSION").Content))
	v.node = Node{Cluster: c, Name: m.Node, Address: file.address(), Target: t, Postgres: version + ".0", DataDir: m.DataDir}
	major, err := postgres.Major(v.node.Postgres)
	if err != nil {
		return v, false, err
	}
	v.record = NodeRecord{
		Name: m.Node, Address: v.node.Address, Target: t, MachineID: f.OS().MachineID, DataDir: m.DataDir, Major: major, Codename: f.OS().Codename,
	}
	if m.Node != name {
		return v, false, fmt.Errorf("it is the node %q, not %q", m.Node, name)
	}
	if v.unit.Running() {
		a, err := NewAPI(h, APIConfig{Port: c.APIPort, Authority: v.ca, User: c.Users.API, Password: v.secrets.API})
		if err != nil {
			return v, false, err
		}
		if v.status, err = a.Status(ctx); err == nil && v.status.State == "running" {
			v.answers = true
		}
	}
	v.control, err = d.control(ctx, v.node)
	return v, true, err
}

// agree says in what the nodes differ, so that nobody can know what is true of the
// cluster.
func agree(c Cluster, found []survivor) error {
	var errs []error
	refuse := func(host, cause, do string) {
		errs = append(errs, &problem.Error{Host: host, Step: "compare what the nodes know of the cluster", Cause: errors.New(cause), Left: "everything.", Do: do})
	}
	first := found[0]
	var primaries []string
	for _, v := range found {
		name := v.node.Target.Name
		if v.marker.UID != first.marker.UID || c.UID != "" && v.marker.UID != c.UID {
			refuse(name, fmt.Sprintf("it is a node of another cluster %q (uid %s, not %s)", c.Name(), v.marker.UID, cmp.Or(c.UID, first.marker.UID)), "name only the nodes of one cluster.")
		}
		if v.systemID() != first.systemID() {
			refuse(name, fmt.Sprintf("its database is another one than that on %s (system identifier %s, not %s)", first.node.Target.Name, v.systemID(), first.systemID()), "find out which is the right one, and name only the nodes that have it.")
		}
		if accounts := differ(v.secrets, first.secrets); len(accounts) > 0 {
			refuse(name, fmt.Sprintf("the passwords in its %s are others than on %s: of %s. A change of passwords was cut off", ConfigPath, first.node.Target.Name, strings.Join(accounts, ", ")),
				"find out which of them PostgreSQL takes, and put those into the files of all nodes.")
		}
		if v.primary() {
			primaries = append(primaries, name)
		}
	}
	if len(primaries) > 1 {
		refuse("", "several nodes take writes: "+strings.Join(primaries, ", "), "find out which of them is right, stop Patroni on the others, and name only the right one.")
	}
	return errors.Join(errs...)
}

// differ names the accounts whose passwords differ.
func differ(a, b Secrets) []string {
	var names []string
	for name, same := range map[string]bool{
		"superuser": a.Superuser == b.Superuser, "replication": a.Replication == b.Replication, "rewind": a.Rewind == b.Rewind,
		"restapi": a.API == b.API, "etcd": a.Etcd == b.Etcd && a.EtcdUser == b.EtcdUser,
	} {
		if !same {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// first picks the node that has all data: the one that takes writes; else the one that
// did when its server ended; else the one that has got furthest, if it is known how far
// that is.
func first(found []survivor) (survivor, error) {
	best := slices.MaxFunc(found, func(a, b survivor) int {
		rank := func(v survivor) int {
			switch {
			case v.primary():
				return 2
			case v.was():
				return 1
			}
			return 0
		}
		if !a.primary() && !b.primary() {
			if n := cmp.Compare(a.timeline(), b.timeline()); n != 0 {
				return n
			}
		}
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.position(), b.position()))
	})
	if best.primary() || best.answers {
		return best, nil
	}
	var like []string
	for _, v := range found {
		if v.was() && v.control.State == "in production" && v.timeline() == best.timeline() {
			like = append(like, v.node.Target.Name)
		}
	}
	const step = "find the node that has all data"
	if len(like) > 1 {
		return best, &problem.Error{
			Step: step, Cause: fmt.Errorf("several nodes were primaries on timeline %d: %s", best.timeline(), strings.Join(like, ", ")), Left: "everything.",
			Do: "find out which of them is right, and name only that one in recover_from.",
		}
	}
	if !best.was() && best.control.Checkpoint < best.control.MinRecovery {
		return best, &problem.Error{
			Step: step, Left: "everything.",
			Cause: fmt.Errorf("no node's PostgreSQL runs, none was the primary, and how much WAL each has received is not known; %s has replayed up to %s at least", best.node.Target.Name, formatLSN(best.position())),
			Do:    "bring the node back that led last, and name it, too. If it is lost for good, name only the node that is to lead in recover_from.",
		}
	}
	return best, nil
}

// lost reports whether etcd once knew a cluster that it does not know now: the state
// knows it, or the hosts of etcd hold its authority, which is made after the record
// and deleted after it.
func (m *Manager) lost(ctx context.Context, c Cluster) (bool, error) {
	if c.UID != "" {
		return true, nil
	}
	for _, h := range c.holders(m.Fleet) {
		var p remote.Probe
		f, err := p.Path(c.authority().Path()+"/ca.key").Run(ctx, h)
		if err != nil {
			return false, err
		}
		if f.Path(c.authority().Path() + "/ca.key").Exists() {
			return true, nil
		}
	}
	return false, nil
}

// recover has etcd know again what it has lost, or compares what it knows from a
// snapshot with the nodes. It does nothing for a cluster that etcd knows well, or that
// is new.
func (m *Manager) recover(ctx context.Context, s ClusterSpec, do *Doer) error {
	c := s.Cluster
	if c.Adopted() || do.Known.Record != nil && do.Known.Restored == "" {
		return nil
	}
	nodes := map[string]host.Target{}
	for name, r := range do.Known.Nodes {
		nodes[name] = r.Target
	}
	for name, t := range s.RecoverFrom {
		nodes[name] = t
	}
	found, gone, errs := do.survivors(ctx, c, nodes)
	// The authority of a formation may be that of other groups, if this one is new.
	if len(found) == 0 && len(errs) == 0 && do.Known.Record == nil && c.Citus != nil && c.UID == "" && len(do.Known.Authority) > 0 {
		return nil
	}
	if len(found) == 0 && len(errs) == 0 && do.Known.Record == nil {
		switch was, err := m.lost(ctx, c); {
		case err != nil:
			return err
		case was:
			return &problem.Error{
				Step:  "look the cluster up in etcd",
				Cause: fmt.Errorf("etcd %s knows nothing of the Patroni cluster %q, and it did once: a new cluster would have other passwords than its databases", c.Etcd.Name, c.Name()), Left: "everything.",
				Do: "name the cluster's nodes in recover_from: it is taken up again from them. If its databases are gone for good, and it is to be made anew, delete " + c.authority().Path() + " on the hosts of etcd (" + strings.Join(c.Etcd.Names(), ", ") + ").",
			}
		}
		return nil
	}
	if do.Known.Record == nil {
		// Nothing is known of those that do not answer.
		if len(errs) > 0 {
			return problem.Fill(errors.Join(values(errs)...), problem.Error{
				Left: "everything.", Do: "bring the host back; any node may be the one that has all data. If it is lost for good, take it out of recover_from.",
			})
		}
	}
	if len(found) == 0 {
		if len(errs) > 0 {
			return errors.Join(values(errs)...)
		}
		return do.KV.Delete(ctx, etcd.RestoredKey(c.own(""))) // it had no nodes
	}
	if err := agree(c, found); err != nil {
		return err
	}
	if id := do.Known.Initialize; id != "" && id != found[0].systemID() {
		return &problem.Error{
			Step: "compare what etcd knows of the cluster with its nodes", Cause: fmt.Errorf("the database on %s is not the one that etcd knows (system identifier %s, not %s)", found[0].node.Target.Name, found[0].systemID(), id),
			Left: "everything.", Do: "restore etcd from a snapshot of this cluster, or from nothing.",
		}
	}
	best, err := first(found)
	if err != nil && do.Known.Leader == "" {
		return err
	}
	if len(errs) > 0 && do.Known.Leader == "" && !best.primary() {
		return problem.Fill(errors.Join(values(errs)...), problem.Error{
			Left: "the cluster, paused.", Do: "bring the host back; any node may be the one that has all data. If it is lost for good, let Patroni resume on the others (patronictl resume), then apply again.",
		})
	}
	r := recovery{s: s, do: do, m: m, found: found, gone: gone, best: best}
	return engine.Run(ctx, r.plan(), m.Observe)
}

func values(errs map[string]error) []error {
	var list []error
	for _, n := range sortedKeys(errs) {
		list = append(list, errs[n])
	}
	return list
}

// recovery is a cluster that is taken up again.
type recovery struct {
	s     ClusterSpec
	do    *Doer
	m     *Manager
	found []survivor
	gone  []string
	best  survivor
}

// plan is the order: the note that this is not finished; the configuration, with
// Patroni paused; all that we know; then the login, which lets Patroni in; then the
// node with all data leads, and Patroni resumes. Nobody leads before it is known who
// may.
func (r recovery) plan() engine.Plan {
	c, kv := r.s.Cluster, r.do.KV
	step := func(id, host, title string, risk engine.Risk, do func(context.Context) error) engine.Step {
		return engine.Step{ID: id, Host: host, Title: title, Risk: risk, Do: do}
	}
	var plan engine.Plan
	if r.do.Known.Record == nil {
		plan = plan.Then(
			step("cluster.recover.note", "", "note that the cluster "+c.Name()+" is being taken up from its nodes", engine.Safe, func(ctx context.Context) error {
				return kv.Put(ctx, etcd.RestoredKey(c.own("")), "its nodes")
			}),
			step("cluster.recover.config", "", "write the dynamic configuration that "+r.best.node.Name+" has, with Patroni paused", engine.Safe, r.writeConfig),
			step("cluster.recover.record", "", "note the cluster and its nodes "+strings.Join(r.names(), ", "), engine.Safe, r.writeRecord),
		)
	}
	plan = plan.Then(step("cluster.recover.secrets", "", "take the passwords from the nodes' files", engine.Safe, r.writeSecrets))
	if !r.best.primary() && r.do.Known.Leader == "" {
		// Whoever is further behind would make no difference between not knowing of
		// others and there being none.
		for _, v := range r.found {
			if v.node.Name != r.best.node.Name && v.unit.Active != "inactive" {
				plan = plan.Then(step("cluster.recover.hold", v.node.Target.Name, "stop Patroni until "+r.best.node.Name+" leads, which has all data", engine.Restart, func(ctx context.Context) error {
					return remote.StopUnit(ctx, r.do.host(v.node), Unit, stopTimeout)
				}))
			}
		}
	}
	plan = plan.Then(
		step("cluster.recover.login", "", "let Patroni into etcd", engine.Safe, r.grant),
		step("cluster.recover.lead", r.best.node.Target.Name, "wait until a node leads, "+r.best.node.Name+" if none does, and let Patroni resume", engine.Safe, r.lead),
	)
	for _, v := range r.found {
		plan = plan.Then(step("cluster.recover.start", v.node.Target.Name, "start Patroni, unless it runs", engine.Safe, func(ctx context.Context) error {
			return remote.StartUnit(ctx, r.do.host(v.node), Unit)
		}))
	}
	for _, name := range r.gone {
		plan = plan.Then(step("cluster.recover.forget", "", "forget the node "+name+", which is none any more", engine.Safe, func(ctx context.Context) error {
			return kv.Delete(ctx, c.nodeKey(name))
		}))
	}
	return plan.Then(step("cluster.recover.done", "", "note that the cluster was taken up from its nodes", engine.Safe, func(ctx context.Context) error {
		return kv.Delete(ctx, etcd.RestoredKey(c.own("")))
	}))
}

func (r recovery) names() []string {
	var names []string
	for _, v := range r.found {
		names = append(names, v.node.Name)
	}
	return names
}

// writeConfig puts the dynamic configuration into etcd unless there is one: that of
// the node with all data, which its Patroni would put there itself.
func (r recovery) writeConfig(ctx context.Context) error {
	c, kv := r.s.Cluster, r.do.KV
	config := r.best.config
	if config == nil {
		config = r.s.Wanted.Document()
	}
	paused, err := etcd.Pause(ctx, kv, c.Etcd.Name, c.Prefix(), string(config.JSON()))
	if err != nil {
		return err
	}
	if _, err := kv.Create(ctx, c.configKey(), paused); err != nil {
		return err
	}
	_, err = kv.Create(ctx, c.initializeKey(), r.best.systemID())
	return err
}

// writeRecord writes what we know of a cluster. The record comes last: with it the
// cluster is known.
func (r recovery) writeRecord(ctx context.Context) error {
	c, kv := r.s.Cluster, r.do.KV
	for _, v := range r.found {
		if err := putJSON(ctx, kv, c.nodeKey(v.node.Name), v.record); err != nil {
			return err
		}
	}
	if _, err := kv.Create(ctx, c.systemIDKey(), r.best.systemID()); err != nil {
		return err
	}
	if err := r.writeAuthority(ctx); err != nil {
		return err
	}
	if err := r.writeSecrets(ctx); err != nil {
		return err
	}
	return putJSON(ctx, kv, c.recordKey(), Record{UID: r.best.marker.UID, DeletionProtection: r.s.DeletionProtection, Owned: r.s.Wanted.Paths(), Cluster: &c})
}

// writeAuthority notes the authority that the hosts of etcd hold. Where none holds it
// any more, one is made later, and the nodes get new certificates.
func (r recovery) writeAuthority(ctx context.Context) error {
	c := r.s.Cluster
	for _, h := range c.holders(r.do.Fleet) {
		var p remote.Probe
		f, err := p.Content(c.authority().CertificatePath()).Path(c.authority().Path()+"/ca.key").Run(ctx, h)
		if err != nil {
			return err
		}
		certificate := f.Path(c.authority().CertificatePath()).Content
		if !f.Path(c.authority().Path()+"/ca.key").Exists() || len(certificate) == 0 {
			continue
		}
		if _, err := pki.Parse(certificate); err != nil {
			return problem.In(h.Name(), "read the cluster's authority", err)
		}
		return r.do.KV.Put(ctx, c.authorityKey(), string(certificate))
	}
	return nil
}

// writeSecrets has etcd know the passwords that the nodes have.
func (r recovery) writeSecrets(ctx context.Context) error {
	c, have := r.s.Cluster, r.do.Known.Secrets
	secrets := r.best.secrets
	if have != nil && len(differ(*have, secrets)) == 0 {
		return nil
	}
	secrets.Origin = r.s.origin(have)
	r.do.Known.Secrets = &secrets
	return putJSON(ctx, r.do.KV, c.secretsKey(), storedSecrets{Secrets: secrets})
}

// grant makes the user with which the nodes come, with the password that they have.
func (r recovery) grant(ctx context.Context) error {
	c := r.s.Cluster
	if !c.Etcd.Auth {
		return nil
	}
	return r.do.KV.GrantUser(ctx, r.best.secrets.etcdUser(c), r.best.secrets.Etcd, c.sharedPrefix())
}

// recoverPatience is for how long it is waited for a node to lead.
const recoverPatience = 5 * time.Minute

// lead waits until a node leads. While nothing runs that could be disturbed, it lets
// the one resume that may lead; the others do not run.
func (r recovery) lead(ctx context.Context) error {
	c, kv := r.s.Cluster, r.do.KV
	if !r.best.primary() && r.do.Known.Leader == "" {
		if err := etcd.Unpause(ctx, kv, c.Etcd.Name, c.Prefix()); err != nil {
			return err
		}
		if err := remote.StartUnit(ctx, r.do.host(r.best.node), Unit); err != nil {
			return err
		}
	}
	since, err := r.do.now(ctx, r.best.node)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, recoverPatience)
	defer cancel()
	polls := 0
	err = wait.Until(bounded, r.do.Log, "a node of "+c.Name()+" to lead", 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		if polls++; polls%10 == 0 {
			if err := r.do.crashed(ctx, r.best.node, since); err != nil {
				return false, "", wait.Never(err)
			}
		}
		v, led, err := kv.Get(ctx, c.leaderKey())
		return led && v.Value != "", r.best.node.Name + " does not lead yet", err
	})
	if err != nil {
		return err
	}
	return etcd.Unpause(ctx, kv, c.Etcd.Name, c.Prefix())
}

// uncompared refuses to go by what etcd knows of a cluster before that was compared
// with the nodes.
func uncompared(n Node, from string) error {
	return &problem.Error{
		Host: n.Target.Name, Step: "look the cluster up in etcd", Cause: fmt.Errorf("what etcd knows of the cluster %s is from %s, and has not been compared with its nodes yet", n.Cluster.Name(), from),
		Left: "everything on the host.", Do: "apply the pgha_patroni_cluster resource first.",
	}
}
