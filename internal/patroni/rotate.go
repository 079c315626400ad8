package patroni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// rotation is a change of passwords of a cluster that has a database, and the
// nodes that take part in it. See ADR 14 for the order and why it is so.
type rotation struct {
	next  Secrets
	parts []sharer
	nodes []rotating
	// late are the nodes that do not run and whose hosts cannot be reached.
	late map[string]error
}

// sharer is a cluster whose passwords are changed: one, or each group of a formation.
type sharer struct {
	do *Doer
	c  Cluster
}

// rotating is a node that gets new passwords.
type rotating struct {
	n  Node
	do *Doer // of its cluster
	// member: its Patroni and its PostgreSQL ran when the change began.
	member bool
}

// write puts passwords into the node's file, which Patroni does not read yet.
func (r rotating) write(next Secrets) engine.Plan {
	return engine.Sequence(r.do.step(r.n, "cluster.secrets.write", "put the new passwords into "+ConfigPath, engine.Safe, func(ctx context.Context) error {
		return r.do.writeSecrets(ctx, r.n, next)
	}))
}

// reload has the node use them.
func (r rotating) reload(was, next Secrets) engine.Plan {
	return engine.Sequence(
		r.do.step(r.n, "cluster.secrets.reload", "reload Patroni with the new passwords", engine.Reload, func(ctx context.Context) error {
			return r.do.takeSecrets(ctx, r, was, next)
		}),
		r.do.step(r.n, "cluster.secrets.mark", "note that the node has the new passwords", engine.Safe, func(ctx context.Context) error {
			return r.do.markSecrets(ctx, r.n, was, next)
		}),
	)
}

// origin is where the passwords are to be from.
func (s ClusterSpec) origin(have *Secrets) Origin {
	if have == nil {
		return s.Origin.or(Origin{})
	}
	return s.Origin.or(have.Origin)
}

// rotates reports whether passwords have to be changed while a database uses
// them. Before there is one they are only values in etcd.
func (s ClusterSpec) rotates(k Known) bool {
	if k.Secrets == nil || !hasDatabase(k) && s.Cluster.Citus == nil || s.Cluster.Adopted() {
		return false // other groups of a formation may have one
	}
	return k.Next != nil || s.origin(k.Secrets) != k.Secrets.Origin.or(Origin{})
}

func hasDatabase(k Known) bool { return k.Initialized || k.SystemID != "" }

// next are the secrets that come after those there are: an account whose origin
// is another one gets another password.
func (s ClusterSpec) next(have Secrets) Secrets {
	next := have
	next.Origin = s.origin(&have)
	was := have.Origin.or(Origin{})
	for _, a := range []struct {
		password         *string
		before, now, own string
	}{
		{&next.Superuser, was.Superuser, next.Origin.Superuser, s.Bring.Superuser},
		{&next.Replication, was.Replication, next.Origin.Replication, s.Bring.Replication},
		{&next.Rewind, was.Rewind, next.Origin.Rewind, s.Bring.Rewind},
		{&next.API, was.API, next.Origin.API, s.Bring.API},
	} {
		switch {
		case a.before == a.now:
		case strings.HasPrefix(a.now, "brought:"):
			*a.password = a.own
		default:
			*a.password = etcd.NewPassword()
		}
	}
	if was.Etcd != next.Origin.Etcd && (s.Cluster.Etcd.Auth || have.LogsIn) {
		next.Etcd, next.EtcdUser = etcd.NewPassword(), have.otherEtcdUser(s.Cluster)
	}
	return next
}

// missing names an account whose password is said to be brought and is not.
func (s ClusterSpec) missing(have *Secrets) string {
	was := Origin{}
	if have != nil {
		was = have.Origin.or(Origin{})
	}
	now := s.origin(have)
	for _, a := range []struct{ account, before, now, own string }{
		{"superuser", was.Superuser, now.Superuser, s.Bring.Superuser}, {"replication", was.Replication, now.Replication, s.Bring.Replication},
		{"rewind", was.Rewind, now.Rewind, s.Bring.Rewind}, {"rest_api", was.API, now.API, s.Bring.API},
	} {
		if a.before != a.now && strings.HasPrefix(a.now, "brought:") && a.own == "" {
			return a.account
		}
	}
	return ""
}

// unfinished is why nothing is done about a node while the passwords of its
// cluster are between two states: its file would be written with old ones.
func unfinished(n Node) error {
	return &problem.Error{
		Host: n.Target.Name, Step: "read the cluster's passwords",
		Cause: fmt.Errorf("a change of the passwords of the cluster %s was begun and is not finished", n.Cluster.Name()),
		Left:  "the node.", Do: "apply the pgha_patroni_cluster resource: it finishes the change.",
	}
}

// lockNodes keeps other applies away from all nodes of a cluster whose hosts can
// be reached. It comes before the cluster's own lock, as in a node's removal.
func (m *Manager) lockNodes(ctx context.Context, c Cluster, k Known) (context.Context, func(), error) {
	var unlock []func()
	release := func() {
		for _, u := range slices.Backward(unlock) {
			u()
		}
	}
	for _, name := range sortedKeys(k.Nodes) {
		locked, u, err := m.lockHost(ctx, Node{Cluster: c, Name: name, Target: k.Nodes[name].Target})
		switch {
		case host.Unreachable(err):
			continue // whether that matters is decided later
		case err != nil:
			release()
			return nil, nil, err
		}
		ctx = locked
		unlock = append(unlock, u)
	}
	return ctx, release, nil
}

// sharers are the clusters that have their passwords in common, this one first.
func (m *Manager) sharers(ctx context.Context, do *Doer, c Cluster) ([]sharer, error) {
	list := []sharer{{do, c}}
	if c.Citus == nil {
		return list, nil
	}
	others, err := c.formation(ctx, do.KV)
	if err != nil {
		return nil, err
	}
	for _, number := range slices.Sorted(maps.Keys(others)) {
		r := others[number].Record
		if r == nil || r.Cluster == nil || r.Cluster.Citus == nil {
			continue
		}
		other := *r.Cluster
		other.Scope, other.Namespace, other.Etcd, other.UID = c.Scope, c.Namespace, c.Etcd, r.UID
		theirs, err := m.open(ctx, other)
		if err != nil {
			return nil, err
		}
		list = append(list, sharer{theirs, other})
	}
	return list, nil
}

// lockParts keeps other applies away from all nodes of all parts, and from all parts but the
// first, which the caller locks.
func (m *Manager) lockParts(ctx context.Context, parts []sharer) (context.Context, func(), error) {
	var undo []func()
	release := func() {
		for _, u := range slices.Backward(undo) {
			u()
		}
	}
	for i, p := range parts {
		if i > 0 {
			leave, err := m.Queues.Enter(ctx, p.c.queue(), "cluster", func(context.Context) int { return -1 })
			if err != nil {
				release()
				return nil, nil, err
			}
			undo = append(undo, leave)
		}
		locked, u, err := m.lockNodes(ctx, p.c, p.do.Known)
		if err != nil {
			release()
			return nil, nil, err
		}
		ctx, undo = locked, append(undo, u)
		if i == 0 {
			continue
		}
		if locked, u, err = m.lockCluster(ctx, p.do, p.c, "changing the passwords of the formation "+p.c.Scope); err != nil {
			release()
			return nil, nil, err
		}
		ctx, undo = locked, append(undo, u)
	}
	return ctx, release, nil
}

// unchanged refuses to go on when a part has got other nodes since it was looked at, and
// before it was locked.
func unchanged(ctx context.Context, parts []sharer) error {
	for _, p := range parts {
		k, err := p.c.Load(ctx, p.do.KV)
		if err != nil {
			return err
		}
		if !maps.Equal(k.Nodes, p.do.Known.Nodes) {
			return &problem.Error{
				Step: "lock out other applies", Cause: fmt.Errorf("another apply has changed the nodes of %s just now", p.c.Name()), Left: "everything.", Do: "apply again.",
			}
		}
		p.do.Known = k
	}
	return nil
}

// prepareRotation looks at all nodes and refuses before anything has changed what
// could only be half done: a node that runs and cannot be reached would be locked
// out of etcd and of its leader.
func (m *Manager) prepareRotation(ctx context.Context, s ClusterSpec, parts []sharer) (*rotation, error) {
	k := parts[0].do.Known
	r := &rotation{parts: parts, late: map[string]error{}}
	if k.Next != nil {
		r.next = *k.Next
	} else {
		r.next = s.next(*k.Secrets)
		if k.Standby() != nil {
			// The roles' passwords are rows of the data, which come from the primary site;
			// its replication gives them to this cluster.
			r.next.Superuser, r.next.Replication, r.next.Rewind = k.Secrets.Superuser, k.Secrets.Replication, k.Secrets.Rewind
		}
	}
	for _, p := range parts {
		if err := m.prepare(ctx, p, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// prepare looks at the nodes of one part.
func (m *Manager) prepare(ctx context.Context, p sharer, r *rotation) error {
	c, k := p.c, p.do.Known
	refuse := func(cause, action string) error {
		return &problem.Error{
			Step: "look at the nodes before passwords are changed", Cause: errors.New(cause), Left: "all passwords, as they were.", Do: action,
		}
	}
	if k.Leader == "" && hasDatabase(k) {
		return refuse("the cluster "+c.Name()+" has no leader, on which the accounts' passwords could be set", "start its nodes, then apply again.")
	}
	for _, name := range sortedKeys(k.Members) {
		if _, ok := k.Nodes[name]; !ok {
			return refuse("the member "+name+" is not managed here, so that it would be left with the old passwords", "import it, or stop its Patroni.")
		}
	}
	names := sortedKeys(k.Nodes)
	facts, errs := make([]*remote.Facts, len(names)), make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			var p remote.Probe
			p.Unit(Unit).Content(MarkerPath)
			facts[i], errs[i] = p.Run(ctx, m.Fleet.Host(k.Nodes[name].Target))
		})
	}
	wg.Wait()
	for i, name := range names {
		record := k.Nodes[name]
		n := Node{Cluster: c, Name: name, Address: record.Address, Target: record.Target, DataDir: record.DataDir}
		member, alive := k.Members[name]
		switch {
		case errs[i] == nil:
			marker, err := readMarker(facts[i])
			if err != nil {
				return problem.In(n.Target.Name, "read "+MarkerPath, err)
			}
			if marker == nil || marker.Released || !marker.of(c) || marker.Node != name {
				continue // it was removed, or its host made anew: nothing there holds a password of ours
			}
			r.nodes = append(r.nodes, rotating{n: n, do: p.do, member: facts[i].Unit(Unit).Running() && alive && member.State == "running"})
		case host.Unreachable(errs[i]) && !alive:
			r.late[name] = errs[i]
		case host.Unreachable(errs[i]):
			return refuse(fmt.Sprintf("node %s runs, and its host cannot be reached: %v", name, errs[i]), "bring the connection back, or stop the node's Patroni, then apply again.")
		default:
			return errs[i]
		}
	}
	return nil
}

// steps are the way from the passwords that are in force to the next ones.
func (r *rotation) steps(p clusterPlanner) engine.Plan {
	c, k, do := p.s.Cluster, p.do.Known, p.do
	was, next := *k.Secrets, r.next
	var plan engine.Plan
	same := was
	if same.Origin = next.Origin; same == next && k.Next == nil {
		return plan.Then(p.step("cluster.secrets", "note where the passwords are from", engine.Safe, func(ctx context.Context) error {
			return r.done(ctx, p, storedSecrets{Secrets: next})
		}))
	}
	if k.Next == nil {
		plan = plan.Then(p.step("cluster.secrets.note", "note the new passwords in etcd, before anything uses them", engine.Safe, func(ctx context.Context) error {
			if err := putJSON(ctx, do.KV, c.secretsKey(), storedSecrets{Secrets: was, Next: &next}); err != nil {
				return err
			}
			for _, p := range r.parts {
				p.do.Known.Next = &next
			}
			return nil
		}))
	}
	if next.EtcdUser != was.EtcdUser {
		plan = plan.Then(p.step("cluster.secrets.etcd_user", "make the etcd user "+next.etcdUser(c), engine.Safe, func(ctx context.Context) error {
			return do.KV.GrantUser(ctx, next.etcdUser(c), next.Etcd, c.sharedPrefix())
		}))
	}
	var write, roles, reload []engine.Plan
	for _, node := range r.nodes {
		write = append(write, node.write(next))
		reload = append(reload, node.reload(was, next))
	}
	plan = plan.ThenParallel(write...)
	// Side by side: the groups of a formation log in to each other.
	for _, of := range r.parts {
		if passwords := changedRoles(of.c, was, next); len(passwords) > 0 && hasDatabase(of.do.Known) {
			roles = append(roles, engine.Sequence(p.step("cluster.secrets.roles", "set the passwords of "+strings.Join(sortedKeys(passwords), ", ")+" on the leader of "+of.c.Name(), engine.Safe, func(ctx context.Context) error {
				return of.do.setRoles(ctx, of.c, passwords)
			})))
		}
	}
	plan = plan.ThenParallel(roles...).ThenParallel(reload...)
	if next.EtcdUser != was.EtcdUser {
		plan = plan.Then(p.step("cluster.secrets.etcd_drop", "remove the etcd user "+was.etcdUser(c), engine.Safe, func(ctx context.Context) error {
			if err := r.complete(ctx); err != nil {
				return err
			}
			return do.KV.DropUser(ctx, was.etcdUser(c))
		}))
	}
	return plan.Then(p.step("cluster.secrets.done", "note that the new passwords are in force", engine.Safe, func(ctx context.Context) error {
		// A leader that took over meanwhile may not have had the change.
		for _, of := range r.parts {
			if !hasDatabase(of.do.Known) {
				continue
			}
			if err := of.do.setRoles(ctx, of.c, changedRoles(of.c, was, next)); err != nil {
				return err
			}
		}
		return r.done(ctx, p, storedSecrets{Secrets: next})
	}))
}

// done notes which passwords are in force; and of a group that they are those that it wants.
// One that has finished another group's change, and wants others, has not got them.
func (r *rotation) done(ctx context.Context, p clusterPlanner, now storedSecrets) error {
	c, do := p.s.Cluster, p.do
	if err := putJSON(ctx, do.KV, c.secretsKey(), now); err != nil {
		return err
	}
	for _, of := range r.parts {
		of.do.Known.Secrets, of.do.Known.Next = &now.Secrets, nil
	}
	origin := now.Origin.or(Origin{})
	if c.Citus == nil || do.Known.Record == nil || p.s.origin(&now.Secrets) != origin {
		return nil
	}
	record := *do.Known.Record
	record.Origin = &origin
	do.Known.Record = &record
	return putJSON(ctx, do.KV, c.recordKey(), record)
}

// changedRoles are the roles that get another password.
func changedRoles(c Cluster, was, next Secrets) map[string]string {
	passwords := map[string]string{}
	for _, r := range []struct{ role, was, next string }{
		{c.Users.Superuser, was.Superuser, next.Superuser}, {c.Users.Replication, was.Replication, next.Replication}, {c.Users.Rewind, was.Rewind, next.Rewind},
	} {
		if r.was != r.next {
			passwords[r.role] = r.next
		}
	}
	return passwords
}

// complete makes sure that no node runs that would be locked out of etcd: one
// that was away when the change began may have come back.
func (r *rotation) complete(ctx context.Context) error {
	for _, of := range r.parts {
		k, err := of.c.Load(ctx, of.do.KV)
		if err != nil {
			return err
		}
		for _, name := range sortedKeys(k.Members) {
			if !slices.ContainsFunc(r.nodes, func(n rotating) bool { return n.n.Name == name }) {
				return &problem.Error{
					Cause: fmt.Errorf("node %s has come back while passwords were being changed, and has the old ones", name),
					Left:  "the old etcd user, so that the node goes on running.", Do: "apply again: the node is then part of the change.",
				}
			}
		}
	}
	return nil
}

// writeSecrets puts the new passwords into a node's file. Patroni reads it when
// it is told to, or starts.
func (d *Doer) writeSecrets(ctx context.Context, n Node, next Secrets) error {
	files, err := d.secretFiles(ctx, n, ConfigPath)
	if err != nil || files[0] == nil {
		return err // without a file the node was never complete; its own apply writes it
	}
	content, err := n.Cluster.withSecrets(files[0], next)
	if err != nil {
		return &problem.Error{
			Host: n.Target.Name, Cause: fmt.Errorf("%s: %w", ConfigPath, err), Left: "the file, as it was.",
			Do: "see what the node's drift says about the file; apply the node first (-target), which writes it anew.",
		}
	}
	if bytes.Equal(content, files[0]) {
		return nil
	}
	return d.putConfigFile(ctx, n, configOf(content))
}

// markSecrets notes the digest of the file with the new passwords in the node's
// marker, unless somebody had changed the file: that is to be seen as before.
func (d *Doer) markSecrets(ctx context.Context, n Node, was, next Secrets) error {
	files, err := d.secretFiles(ctx, n, ConfigPath)
	if err != nil || files[0] == nil {
		return err
	}
	var p remote.Probe
	p.Content(MarkerPath)
	f, err := p.Run(ctx, d.host(n))
	if err != nil {
		return err
	}
	m, err := readMarker(f)
	if err != nil || m == nil {
		return err
	}
	before, err := n.Cluster.withSecrets(files[0], was)
	if err != nil {
		return err
	}
	if m.Files[ConfigPath] != configOf(before).SHA256() {
		return nil
	}
	now, err := n.Cluster.withSecrets(files[0], next)
	if err != nil {
		return err
	}
	m.Files[ConfigPath] = configOf(now).SHA256()
	return remote.WriteFile(ctx, d.host(n), m.file())
}
