package patroni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// ClusterSpec is what a cluster's nodes share, as it should be.
type ClusterSpec struct {
	Cluster Cluster
	// Wanted is the dynamic configuration that we own; Owned are the paths
	// that we owned before, those that are no longer wanted included.
	Wanted             Settings
	Owned              []string
	DeletionProtection bool
	// Bring are passwords that the user brings; empty ones are made. Origin
	// says which passwords are wanted; what it leaves open stays as it is.
	Bring  Secrets
	Origin Origin
	// Rollout is how what takes nodes out of service goes over them; nil is
	// DefaultRollout.
	Rollout *Rollout
	// Extension is the version that Citus's extension is to have in all groups of a
	// formation, of the coordinator's group alone; empty leaves it to the user.
	Extension string
	// RecoverFrom are the hosts of nodes that may be there already, by the nodes'
	// names, for the case that etcd does not know the cluster any more.
	RecoverFrom map[string]host.Target
}

// Applied is what an apply of a cluster came to.
type Applied struct {
	UID       string
	Authority []byte
	// Pending are the members that still have to be restarted for a changed
	// parameter, each with the reason why that was not done.
	Pending map[string]string
	// Unverified are the members that could not be asked whether they took
	// the configuration over.
	Unverified map[string]error
	// Late are the nodes that were down while passwords were changed, and have
	// the old ones until they are applied again.
	Late map[string]error
	// Behind are the groups of a Citus formation whose extension is not at its version yet,
	// each with why.
	Behind map[string]string
}

// ApplyCluster makes the cluster known to etcd (its authority, secrets, etcd
// user and dynamic configuration) or brings it to what the spec says. Nodes
// are not made here: the configuration is in etcd before the first of them.
func (m *Manager) ApplyCluster(ctx context.Context, s ClusterSpec) (Applied, error) {
	c := s.Cluster
	do, err := m.open(ctx, c)
	if err != nil {
		return Applied{}, err
	}
	// First: whoever has it may wait for the turns of all groups.
	ctx, together, err := m.together(ctx, do, c)
	if err != nil {
		return Applied{}, err
	}
	defer together()
	leave, err := m.Queues.Enter(ctx, c.queue(), "cluster", func(context.Context) int { return -1 })
	if err != nil {
		return Applied{}, err
	}
	defer leave()
	if c.Citus != nil { // another group may have changed them meanwhile
		if do.Known, err = c.Load(ctx, do.KV); err != nil {
			return Applied{}, err
		}
	}
	nodes := do.Known.Nodes
	rotates := s.rotates(do.Known)
	var parts []sharer
	if rotates {
		if parts, err = m.sharers(ctx, do, c); err != nil {
			return Applied{}, err
		}
		locked, unlockParts, err := m.lockParts(ctx, parts)
		if err != nil {
			return Applied{}, err
		}
		defer unlockParts()
		ctx = locked
	}
	ctx, unlock, err := m.lockCluster(ctx, do, c, "changing the cluster "+c.Name())
	if err != nil {
		return Applied{}, err
	}
	defer unlock()
	if do.Known, err = c.Load(ctx, do.KV); err != nil {
		return Applied{}, err
	}
	if c.Adopted() {
		if err := c.present(do.Known); err != nil {
			return Applied{}, err
		}
	}
	if s.rotates(do.Known) && (!rotates || !maps.Equal(nodes, do.Known.Nodes)) {
		return Applied{}, &problem.Error{
			Step: "lock out other applies", Cause: errors.New("another apply has changed the cluster's nodes or passwords just now"), Left: "everything.", Do: "apply again.",
		}
	}
	if len(parts) > 1 {
		if err := unchanged(ctx, parts[1:]); err != nil {
			return Applied{}, err
		}
	}
	if do.Known.Record == nil {
		if err := do.alone(ctx, c); err != nil {
			return Applied{}, err
		}
	}
	if err := s.formed(ctx, do); err != nil {
		return Applied{}, err
	}
	if err := m.recover(ctx, s, do); err != nil {
		return Applied{}, err
	}
	if do.Known, err = c.Load(ctx, do.KV); err != nil {
		return Applied{}, err
	}
	if do.Known.Record == nil && do.Known.Initialized && !c.Adopted() {
		return Applied{}, &problem.Error{
			Step:  "look the cluster up in etcd",
			Cause: fmt.Errorf("etcd %s has a Patroni cluster %q already (%s), and it was not made by this provider", c.Etcd.Name, c.Name(), c.Prefix()),
			Left:  "that cluster.",
			Do: "import it, if it is the one that is meant (terraform import ADDRESS_OF_THIS_RESOURCE '" + c.importID() + "'), or choose another scope. " +
				"If etcd was restored or lost, do not create anything: its databases are still there.",
		}
	}
	if err := do.putBack(ctx, c); err != nil {
		return Applied{}, err
	}
	if account := s.missing(do.Known.Secrets); account != "" && !c.Adopted() {
		return Applied{}, &problem.Error{
			Step: "take the passwords that are brought", Cause: fmt.Errorf("credentials.%s has a password_wo_version and no password_wo", account),
			Left: "all passwords, as they were.", Do: "give it a password, or remove password_wo_version to have one made.",
		}
	}
	if err := do.noteExtension(ctx, c, s.Extension); err != nil {
		return Applied{}, err
	}
	applied := Applied{Late: map[string]error{}}
	// A change that was cut off is finished first. If another one is wanted
	// since, it comes after that.
	for range 3 {
		p := clusterPlanner{s: s, do: do}
		if s.rotates(do.Known) {
			if err := s.sameOrigin(do.Known); err != nil {
				return applied, err
			}
			if p.rotation, err = m.prepareRotation(ctx, s, parts); err != nil {
				return applied, err
			}
			m.learn(p.rotation.next)
			maps.Copy(applied.Late, p.rotation.late)
		}
		if err := engine.Run(ctx, p.plan(), m.Observe); err != nil {
			return applied, err
		}
		if do.Known, err = c.Load(ctx, do.KV); err != nil {
			return applied, err
		}
		if !s.rotates(do.Known) {
			break
		}
	}
	fresh := do.Known
	applied.UID, applied.Authority = fresh.Record.UID, fresh.Authority
	if applied.Behind, err = do.applyExtension(ctx, c, s.Extension); err != nil {
		return applied, err
	}
	unsettled, err := do.unsettled(ctx, c)
	if err != nil {
		return applied, err
	}
	pending, unverified, err := do.verify(ctx, c, s.Wanted, unsettled)
	applied.Unverified = unverified
	if err != nil {
		return applied, err
	}
	applied.Pending, err = m.restartPending(ctx, c, do, pending, len(unverified) > 0)
	return applied, err
}

// alone refuses a second cluster of the same scope in another namespace of one
// etcd: the cluster's user in etcd and its authority have the scope's name, and
// one would take the other's, and delete it in the end. Only the groups of one Citus
// formation share them, and none of them can be beside a cluster without a group:
// that one's keys would have theirs among them.
func (d *Doer) alone(ctx context.Context, c Cluster) error {
	keys, err := d.KV.List(ctx, "/pgha/patroni/")
	if err != nil {
		return err
	}
	for _, kv := range keys {
		if kv.Key == c.recordKey() {
			continue
		}
		group, rest, grouped := c.groupOf(kv.Key)
		grouped = grouped && rest == "record"
		if grouped && c.Citus == nil {
			return &problem.Error{
				Step:  "look the cluster up in etcd",
				Cause: fmt.Errorf("etcd %s has the group %d of a Citus formation %q, and this cluster of the same scope is not a group of it", c.Etcd.Name, group, c.Scope),
				Left:  "that formation.", Do: "choose another scope, or make this cluster a group of it (citus).",
			}
		}
		if grouped || scopeOf(kv.Key) != c.Scope {
			continue
		}
		if c.Citus != nil && kv.Key == "/pgha/patroni"+c.sharedPrefix()+"record" {
			return &problem.Error{
				Step:  "look the cluster up in etcd",
				Cause: fmt.Errorf("etcd %s has a cluster %q already, and it is not a group of a Citus formation", c.Etcd.Name, c.Scope),
				Left:  "that cluster.", Do: "choose another scope.",
			}
		}
		other := strings.TrimSuffix(strings.TrimPrefix(kv.Key, "/pgha/patroni"), "record")
		return &problem.Error{
			Step:  "look the cluster up in etcd",
			Cause: fmt.Errorf("etcd %s has a cluster %q already, in another namespace (%s): two of one scope would share a user in etcd and a certificate authority", c.Etcd.Name, c.Scope, other),
			Left:  "that cluster.", Do: "choose another scope, or make the cluster on another etcd.",
		}
	}
	return nil
}

// scopeOf is the scope of whose record a key is, empty if it is none's. The last part of
// the path is a group's number, if it is a number.
func scopeOf(key string) string {
	dir, ok := strings.CutSuffix(key, "/record")
	if !ok {
		return ""
	}
	parts := strings.Split(dir, "/")
	if _, err := strconv.Atoi(parts[len(parts)-1]); err == nil && len(parts) > 5 { // /pgha/patroni/NAMESPACE/SCOPE/GROUP
		parts = parts[:len(parts)-1]
	}
	return parts[len(parts)-1]
}

type clusterPlanner struct {
	s  ClusterSpec
	do *Doer
	// rotation is nil unless passwords change that are in use.
	rotation *rotation
}

// origin is what the record of a group says of its passwords: while they are still to be
// changed, what it said before.
func (p clusterPlanner) origin() *Origin {
	r := p.do.Known.Record
	switch {
	case p.s.Cluster.Citus == nil || p.s.Cluster.Adopted():
		return nil
	case p.rotation != nil && r != nil:
		return r.Origin
	case p.rotation != nil:
		return nil
	}
	o := p.s.origin(p.do.Known.Secrets)
	return &o
}

func (p clusterPlanner) step(id, title string, risk engine.Risk, do func(context.Context) error) engine.Step {
	return engine.Step{ID: id, Title: title, Risk: risk, Do: do}
}

// plan lists what is missing or different. Each step is idempotent and leaves
// what an earlier, interrupted run made.
func (p clusterPlanner) plan() engine.Plan {
	c, k, do := p.s.Cluster, p.do.Known, p.do
	var plan engine.Plan
	owned := p.s.Wanted.Paths()
	if k.Record != nil && k.Record.Released && !c.Adopted() {
		plan = plan.Then(p.step("cluster.release.undo", "remove the notes on the hosts of etcd that the cluster was released", engine.Safe, func(ctx context.Context) error {
			return do.dropRelease(ctx, c)
		}))
	}
	if r := k.Record; r == nil || r.Released || r.DeletionProtection != p.s.DeletionProtection || !slices.Equal(r.Owned, owned) || !r.Cluster.same(c) || !reflect.DeepEqual(r.Rollout, p.s.Rollout) || !reflect.DeepEqual(r.Origin, p.origin()) {
		plan = plan.Then(p.step("cluster.record", "note the cluster "+c.Name()+" in etcd", engine.Safe, func(ctx context.Context) error {
			// A new one gets its user in this run, or in the next one.
			record := Record{UID: etcd.NewUID(), DeletionProtection: p.s.DeletionProtection, Owned: owned, Cluster: &c, EtcdUser: c.Etcd.Auth, Rollout: p.s.Rollout, Origin: p.origin()}
			switch {
			case r != nil:
				record.UID, record.EtcdUser = r.UID, r.EtcdUser
			case c.Adopted():
				record.UID = c.UID
			}
			do.Known.Record = &record
			return putJSON(ctx, do.KV, c.recordKey(), record)
		}))
	}
	if c.Adopted() {
		return plan.ThenPlan(p.grantLogin()).ThenPlan(p.config())
	}
	anew := k.Secrets == nil || c.Citus == nil && !hasDatabase(k) && (p.s.Bring.changes(*k.Secrets) || p.s.origin(k.Secrets) != k.Secrets.Origin.or(Origin{}))
	if anew {
		plan = plan.Then(p.step("cluster.secrets", "make the cluster's passwords and keep them in etcd", engine.Safe, func(ctx context.Context) error {
			secrets := NewSecrets()
			if k.Secrets != nil {
				secrets = p.s.next(*k.Secrets)
				secrets.EtcdUser = k.Secrets.EtcdUser // nobody uses it yet
			}
			secrets = secrets.with(p.s.Bring)
			secrets.Origin = p.s.origin(k.Secrets)
			do.Known.Secrets = &secrets
			return putJSON(ctx, do.KV, c.secretsKey(), storedSecrets{Secrets: secrets})
		}))
	}
	if len(k.Authority) == 0 {
		plan = plan.Then(p.step("cluster.authority", "make the cluster's certificate authority on the hosts of etcd", engine.Safe, func(ctx context.Context) error {
			return do.makeAuthority(ctx, c)
		}))
	}
	login := k.Secrets == nil || anew && p.s.origin(k.Secrets).Etcd != k.Secrets.Origin.or(Origin{}).Etcd
	if c.Etcd.Auth && (k.Record == nil || !k.Record.EtcdUser || login || len(k.Authority) == 0 || k.ConfigRevision == 0) {
		plan = plan.Then(p.step("cluster.etcd_user", "make the etcd user "+c.etcdUser()+", for "+c.sharedPrefix()+" only", engine.Safe, func(ctx context.Context) error {
			if err := do.KV.GrantUser(ctx, do.Known.Secrets.etcdUser(c), do.Known.Secrets.Etcd, c.sharedPrefix()); err != nil {
				return err
			}
			record := *do.Known.Record
			if record.EtcdUser {
				return nil
			}
			record.EtcdUser = true
			do.Known.Record = &record
			return putJSON(ctx, do.KV, c.recordKey(), record)
		}))
	}
	plan = plan.ThenPlan(p.config())
	if p.rotation != nil {
		plan = plan.ThenPlan(p.rotation.steps(p))
	}
	return plan
}

// config is the step that changes the dynamic configuration, if it differs.
func (p clusterPlanner) config() engine.Plan {
	c, k, do := p.s.Cluster, p.do.Known, p.do
	var plan engine.Plan
	if _, changed := Patch(k.Config, p.s.Wanted, p.s.Owned); len(changed) > 0 || k.ConfigRevision == 0 {
		reload, restart := DescribeChanges(k.Config, p.s.Wanted, changed)
		title := "write the dynamic configuration"
		risk := engine.Safe
		if k.ConfigRevision != 0 {
			risk = engine.Reload
			title = "change the dynamic configuration: " + strings.Join(append(reload, restart...), ", ")
		}
		plan = plan.Then(p.step("cluster.config", title, risk, func(ctx context.Context) error {
			if err := do.keepParameters(ctx, c, changed); err != nil {
				return err
			}
			return do.reconcile(ctx, c, p.s.Wanted, p.s.Owned)
		}))
	}
	return plan
}

// with returns the secrets with those that are brought put in.
func (s Secrets) with(bring Secrets) Secrets {
	for _, f := range []struct{ to, from *string }{
		{&s.Superuser, &bring.Superuser}, {&s.Replication, &bring.Replication}, {&s.Rewind, &bring.Rewind}, {&s.API, &bring.API},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	return s
}

// changes reports whether secrets that are brought differ from those there are.
func (s Secrets) changes(have Secrets) bool { return have.with(s) != have }

// makeAuthority makes the cluster's authority on the first host of etcd that
// holds none yet, unless another one does, and copies it to all that answer.
func (d *Doer) makeAuthority(ctx context.Context, c Cluster) error {
	a := c.authority()
	holders := c.holders(d.Fleet)
	// A run that was cut off may have made it on any of them.
	first := holders[0]
	var missing []host.Host
	found := false
	for _, h := range holders {
		var p remote.Probe
		p.Path(a.Path() + "/ca.key")
		f, err := p.Run(ctx, h)
		if err != nil {
			return err
		}
		switch {
		case !f.Path(a.Path() + "/ca.key").Exists():
			missing = append(missing, h)
		case !found:
			first, found = h, true
		}
	}
	certificate, err := a.Create(ctx, first)
	if err != nil {
		return err
	}
	for _, h := range missing {
		if h == first || h.Name() == first.Name() {
			continue
		}
		if err := a.CopyTo(ctx, first, h, certificate); err != nil {
			return err
		}
	}
	return d.KV.Put(ctx, c.authorityKey(), string(certificate))
}

// reconcile brings the dynamic configuration to what is wanted, touching only
// what is ours. While Patroni runs it is asked to; it merges and tells its
// nodes. Somebody else's change in between, and an answer that was lost, lead
// to another look, never to the same request again blindly.
func (d *Doer) reconcile(ctx context.Context, c Cluster, wanted Settings, owned []string) error {
	var last error
	var down time.Time // since when no member's Patroni has been running
	for tries := 0; tries < 8; tries++ {
		k, err := c.Load(ctx, d.KV)
		if err != nil {
			return err
		}
		if k.ConfigRevision == 0 && k.Leader == "" {
			created, err := d.KV.Create(ctx, c.configKey(), string(wanted.Document().JSON()))
			if err != nil || created {
				return err
			}
			continue
		}
		patch, changed := Patch(k.Config, wanted, owned)
		if len(changed) == 0 {
			return nil
		}
		if len(k.Members) == 0 {
			// Nobody runs: Patroni's own tool writes the key directly then, too.
			swapped, err := d.KV.Swap(ctx, c.configKey(), string(merge(k.Config, patch).JSON()), k.ConfigRevision)
			if err != nil || swapped {
				return err
			}
			continue
		}
		last = d.patchAny(ctx, c, k, patch)
		switch {
		case last == nil, errors.Is(last, ErrConflict), errors.Is(last, ErrUnknown):
			// Look whether it is there.
		case errors.Is(last, errAllDown) && (down.IsZero() || time.Since(down) < keyPatience(k)):
			// The keys of members that have ended run out, or they start.
			if down.IsZero() {
				down = time.Now()
				d.Log.InfoContext(ctx, "waiting for a member's Patroni to start, or for its key in etcd to run out", "because", last.Error())
			}
			tries = 0
			select {
			case <-ctx.Done():
				return last
			case <-time.After(time.Second):
			}
		default:
			return last
		}
	}
	if last != nil {
		return last
	}
	return errors.New("the dynamic configuration keeps being changed by somebody else")
}

// errAllDown: the hosts of all members can be reached, and Patroni runs on none.
var errAllDown = errors.New("Patroni runs on none of the members' hosts")

// keyPatience is how long the key of a member can outlive it.
func keyPatience(k Known) time.Duration {
	ttl := int64(30)
	if v, ok := Int(k.Config["ttl"]); ok {
		ttl = v
	}
	return time.Duration(ttl)*time.Second + 15*time.Second
}

// merge applies a patch as Patroni does (utils.patch_config).
func merge(live, patch Document) Document {
	out := maps.Clone(map[string]any(live))
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range patch {
		child, isMap := v.(map[string]any)
		have, haveMap := out[k].(map[string]any)
		switch {
		case v == nil:
			delete(out, k)
		case isMap && haveMap:
			out[k] = map[string]any(merge(have, child))
		default:
			out[k] = v
		}
	}
	return out
}

// patchAny sends the patch to the leader, or if it cannot be reached to any
// other member.
func (d *Doer) patchAny(ctx context.Context, c Cluster, k Known, patch Document) error {
	names := sortedKeys(k.Members)
	slices.SortStableFunc(names, func(a, b string) int {
		switch {
		case a == k.Leader:
			return -1
		case b == k.Leader:
			return 1
		}
		return 0
	})
	var errs []error
	down := true
	for _, name := range names {
		record, ok := k.Nodes[name]
		if !ok {
			errs = append(errs, fmt.Errorf("member %s is not managed here", name))
			down = false
			continue
		}
		a, err := d.api(ctx, Node{Cluster: c, Name: name, Target: record.Target})
		if err != nil {
			return err
		}
		err = a.PatchConfig(ctx, patch)
		if err == nil || !host.Unreachable(err) && host.KindOf(err) == 0 {
			return err
		}
		errs = append(errs, err)
		down = down && host.KindOf(err) == host.KindDial
	}
	if down {
		errs = append(errs, errAllDown)
	}
	return &problem.Error{
		Step: "change the dynamic configuration", Cause: fmt.Errorf("no member's REST API can be reached: %w", errors.Join(errs...)),
		Left: "the configuration, as it was.", Do: "make sure that at least one node's host can be reached, then apply again.",
	}
}
