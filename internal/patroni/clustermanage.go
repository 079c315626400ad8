package patroni

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// ClusterSpec is what a cluster's nodes share, as it should be.
type ClusterSpec struct {
	Cluster Cluster
	// Wanted is the dynamic configuration that we own; Owned are the paths
	// that we owned before, those that are no longer wanted included.
	Wanted             Settings
	Owned              []string
	DeletionProtection bool
	// Bring are passwords that the user brings; empty ones are made.
	Bring Secrets
}

// Applied is what an apply of a cluster came to.
type Applied struct {
	UID       string
	Authority []byte
	// Pending are the members that have to be restarted for a changed
	// parameter, each with the parameters.
	Pending map[string][]string
	// Unverified are the members that could not be asked whether they took
	// the configuration over.
	Unverified map[string]error
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
	leave, err := m.Queues.Enter(ctx, c.own(""), "cluster", func(context.Context) int { return -1 })
	if err != nil {
		return Applied{}, err
	}
	defer leave()
	ctx, unlock, err := m.lockCluster(ctx, do, c, "changing the cluster "+c.Scope)
	if err != nil {
		return Applied{}, err
	}
	defer unlock()
	if do.Known, err = c.Load(ctx, do.KV); err != nil {
		return Applied{}, err
	}
	if do.Known.Record == nil && do.Known.Initialized {
		return Applied{}, &problem.Error{
			Step:  "look the cluster up in etcd",
			Cause: fmt.Errorf("etcd %s has a Patroni cluster %q already (%s), and it was not made by this provider", c.Etcd.Name, c.Scope, c.Prefix()),
			Left:  "that cluster.", Do: "choose another scope. If etcd was restored or lost, do not create anything: its databases are still there.",
		}
	}
	p := clusterPlanner{s: s, do: do}
	var applied Applied
	if err := engine.Run(ctx, p.plan(), m.Observe); err != nil {
		return applied, err
	}
	fresh, err := c.Load(ctx, do.KV)
	if err != nil {
		return applied, err
	}
	do.Known = fresh
	applied.UID, applied.Authority = fresh.Record.UID, fresh.Authority
	applied.Pending, applied.Unverified, err = do.verify(ctx, c, s.Wanted)
	return applied, err
}

type clusterPlanner struct {
	s  ClusterSpec
	do *Doer
}

func (p clusterPlanner) step(id, title string, risk engine.Risk, do func(context.Context) error) engine.Step {
	return engine.Step{ID: id, Title: title, Risk: risk, Do: do}
}

// plan lists what is missing or different. Each step is idempotent and leaves
// what an earlier, interrupted run made.
func (p clusterPlanner) plan() engine.Plan {
	c, k, do := p.s.Cluster, p.do.Known, p.do
	var plan engine.Plan
	if r := k.Record; r == nil || r.Released || r.DeletionProtection != p.s.DeletionProtection {
		plan = plan.Then(p.step("cluster.record", "note the cluster "+c.Scope+" in etcd", engine.Safe, func(ctx context.Context) error {
			record := Record{UID: etcd.NewUID(), DeletionProtection: p.s.DeletionProtection}
			if r != nil {
				record.UID = r.UID
			}
			return putJSON(ctx, do.KV, c.recordKey(), record)
		}))
	}
	if k.Secrets == nil || p.s.Bring.changes(*k.Secrets) && !k.Initialized {
		plan = plan.Then(p.step("cluster.secrets", "make the cluster's passwords and keep them in etcd", engine.Safe, func(ctx context.Context) error {
			secrets := NewSecrets()
			if k.Secrets != nil {
				secrets = *k.Secrets
			}
			secrets = secrets.with(p.s.Bring)
			do.Known.Secrets = &secrets
			return putJSON(ctx, do.KV, c.secretsKey(), secrets)
		}))
	}
	if len(k.Authority) == 0 {
		plan = plan.Then(p.step("cluster.authority", "make the cluster's certificate authority on the hosts of etcd", engine.Safe, func(ctx context.Context) error {
			return do.makeAuthority(ctx, c)
		}))
	}
	if c.Etcd.Auth && (k.Record == nil || k.Secrets == nil || len(k.Authority) == 0 || k.ConfigRevision == 0) {
		plan = plan.Then(p.step("cluster.etcd_user", "make the etcd user "+c.etcdUser()+", for "+c.Prefix()+" only", engine.Safe, func(ctx context.Context) error {
			return do.KV.GrantUser(ctx, c.etcdUser(), do.Known.Secrets.Etcd, c.Prefix())
		}))
	}
	if _, changed := Patch(k.Config, p.s.Wanted, p.s.Owned); len(changed) > 0 || k.ConfigRevision == 0 {
		reload, restart := DescribeChanges(k.Config, p.s.Wanted, changed)
		title := "write the dynamic configuration"
		risk := engine.Safe
		if k.ConfigRevision != 0 {
			risk = engine.Reload
			title = "change the dynamic configuration: " + strings.Join(append(reload, restart...), ", ")
		}
		plan = plan.Then(p.step("cluster.config", title, risk, func(ctx context.Context) error {
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
	for range 8 {
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
		default:
			return last
		}
	}
	if last != nil {
		return last
	}
	return errors.New("the dynamic configuration keeps being changed by somebody else")
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
	for _, name := range names {
		record, ok := k.Nodes[name]
		if !ok {
			errs = append(errs, fmt.Errorf("member %s is not managed here", name))
			continue
		}
		a, err := d.api(Node{Cluster: c, Name: name, Target: record.Target})
		if err != nil {
			return err
		}
		err = a.PatchConfig(ctx, patch)
		if err == nil || !host.Unreachable(err) && host.KindOf(err) == 0 {
			return err
		}
		errs = append(errs, err)
	}
	return &problem.Error{
		Step: "change the dynamic configuration", Cause: fmt.Errorf("no member's REST API can be reached: %w", errors.Join(errs...)),
		Left: "the configuration, as it was.", Do: "make sure that at least one node's host can be reached, then apply again.",
	}
}

// verify waits until every running member has taken the configuration over: it
// keeps what it last accepted in patroni.dynamic.json, and its server says
// which parameters it runs with. Patroni answers 200 to a configuration that
// its nodes then ignore, so the answer alone proves nothing.
func (d *Doer) verify(ctx context.Context, c Cluster, wanted Settings) (pending map[string][]string, unverified map[string]error, err error) {
	pending, unverified = map[string][]string{}, map[string]error{}
	var names []string
	for _, path := range wanted.Paths() {
		if name, ok := IsParameter(path); ok {
			names = append(names, name)
		}
	}
	for _, member := range sortedKeys(d.Known.Members) {
		record, ok := d.Known.Nodes[member]
		if !ok || d.Known.Members[member].State != "running" {
			continue
		}
		n := Node{Cluster: c, Name: member, Target: record.Target, DataDir: record.DataDir}
		loop := int64(10)
		if v, ok := Int(d.Known.Config["loop_wait"]); ok {
			loop = v
		}
		waitCtx, cancel := context.WithTimeout(ctx, time.Duration(2*loop)*time.Second+15*time.Second)
		err := wait.Until(waitCtx, d.Log, "node "+member+" to take the configuration over", 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
			late, wait, err := d.takenOver(ctx, n, wanted, names)
			pending[member] = wait
			if host.Unreachable(err) {
				return false, "", waitNever(err)
			}
			return err == nil && len(late) == 0, "it still runs without " + strings.Join(late, ", "), err
		})
		cancel()
		if len(pending[member]) == 0 {
			delete(pending, member)
		}
		switch {
		case err == nil:
		case host.Unreachable(err):
			unverified[member] = err
		default:
			lines, _ := remote.Journal(context.WithoutCancel(ctx), d.host(n), Unit, 60, "")
			return pending, unverified, &problem.Error{
				Host: n.Target.Name, Step: "make sure that the node runs with the configuration", Cause: err, Log: telling(lines),
				Left: "the configuration in etcd, changed.", Do: "see what Patroni says about it in the lines above, correct it, and apply again.",
			}
		}
	}
	return pending, unverified, nil
}

func waitNever(err error) error { return wait.Never(err) }

// takenOver lists what of the wanted settings a node does not run with yet, and
// the parameters that wait for a restart.
func (d *Doer) takenOver(ctx context.Context, n Node, wanted Settings, names []string) (late, pending []string, err error) {
	cache := n.DataDir + "/patroni.dynamic.json"
	var p remote.Probe
	p.Content(cache)
	f, err := p.Run(ctx, d.host(n))
	if err != nil {
		return nil, nil, err
	}
	document, err := ParseDocument(f.Path(cache).Content)
	if err != nil {
		return []string{"patroni.dynamic.json"}, nil, nil
	}
	flat := document.Flatten()
	for _, path := range wanted.Paths() {
		if have, ok := flat[path]; !ok || !Same(path, have, wanted[path]) {
			late = append(late, strings.ReplaceAll(path, "/", "."))
		}
	}
	if len(names) == 0 || len(late) > 0 {
		return late, nil, nil
	}
	settings, err := d.serverSettings(ctx, n, names)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		s, ok := settings[strings.ToLower(name)]
		switch want := Text(wanted[Parameter(name)]); {
		case !ok: // an extension's that is not loaded, or not in this version
		case s.PendingRestart:
			pending = append(pending, name)
		case postgres.SameSetting(name, s.Value, want):
		case postgres.NeedsRestart(name):
			// Patroni flags it in its next loop.
			late = append(late, name)
		case s.Source != "configuration file" && s.Source != "command line" && s.Source != "default":
			// Set for a database or a role: not ours to judge.
		default:
			late = append(late, name)
		}
	}
	return late, pending, nil
}

// ObservedCluster is what Read found.
type ObservedCluster struct {
	Absent             bool
	UID                string
	Authority          []byte
	DeletionProtection bool
	// Live is the dynamic configuration taken apart; Foreign are the paths
	// in it that are not ours.
	Live    Settings
	Foreign []string
}

// ObserveCluster asks etcd.
func (m *Manager) ObserveCluster(ctx context.Context, c Cluster, owned []string) (ObservedCluster, error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return ObservedCluster{}, err
	}
	k := do.Known
	if k.Record == nil || k.Record.Released {
		return ObservedCluster{Absent: true}, nil
	}
	return ObservedCluster{
		UID: k.Record.UID, Authority: k.Authority, DeletionProtection: k.Record.DeletionProtection,
		Live: k.Config.Flatten(), Foreign: Foreign(k.Config, owned),
	}, nil
}

// DestroyCluster removes the cluster from etcd, or with keep only notes that it
// was released: its configuration and passwords stay, so that nodes whose data
// was kept can be taken up again.
func (m *Manager) DestroyCluster(ctx context.Context, c Cluster, purge bool) error {
	do, err := m.open(ctx, c)
	if err != nil {
		return err
	}
	if do.Known.Record == nil {
		return nil
	}
	ctx, unlock, err := m.lockCluster(ctx, do, c, "removing the cluster "+c.Scope)
	if err != nil {
		return err
	}
	defer unlock()
	if do.Known, err = c.Load(ctx, do.KV); err != nil {
		return err
	}
	if do.Known.Leader != "" {
		return &problem.Error{
			Step:  "make sure that no node runs",
			Cause: fmt.Errorf("%s is the leader of the cluster %s", do.Known.Leader, c.Scope),
			Left:  "the cluster.", Do: "destroy its nodes first, or stop their Patroni.",
		}
	}
	var plan engine.Plan
	if purge {
		plan = plan.Then(
			engine.Step{ID: "cluster.purge", Title: "delete the cluster's keys in etcd", Risk: engine.Destructive, Do: func(ctx context.Context) error {
				if err := do.KV.DeletePrefix(ctx, c.Prefix()); err != nil {
					return err
				}
				if c.Etcd.Auth {
					return do.KV.DropUser(ctx, c.etcdUser())
				}
				return nil
			}},
			engine.Step{ID: "cluster.purge.authority", Title: "delete the cluster's certificate authority", Risk: engine.Destructive, Do: func(ctx context.Context) error {
				for _, h := range c.holders(m.Fleet) {
					if err := remote.PurgeTree(ctx, h, c.authority().Path()); err != nil {
						return err
					}
					if err := remote.RemoveEmptyDirs(ctx, h, pki.Dir, "/etc/pgha"); err != nil {
						return err
					}
				}
				return nil
			}},
			engine.Step{ID: "cluster.forget", Title: "delete our notes about the cluster", Risk: engine.Destructive, Do: func(ctx context.Context) error {
				return do.KV.DeletePrefix(ctx, c.own(""))
			}},
		)
	} else {
		plan = plan.Then(engine.Step{ID: "cluster.release", Title: "note that the cluster was released", Risk: engine.Safe, Do: func(ctx context.Context) error {
			r := *do.Known.Record
			r.Released = true
			return putJSON(ctx, do.KV, c.recordKey(), r)
		}})
	}
	return engine.Run(ctx, plan, m.Observe)
}

// Leader is the name of the member that holds the leader's lock, empty if none
// does.
func (m *Manager) Leader(ctx context.Context, c Cluster) (string, error) {
	kv, err := m.Etcd(ctx, c.Etcd)
	if err != nil {
		return "", err
	}
	v, _, err := kv.Get(ctx, c.leaderKey())
	return v.Value, err
}
