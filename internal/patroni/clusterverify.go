package patroni

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// verify waits until every running member has taken the configuration over: it
// keeps what it last accepted in patroni.dynamic.json, and its server says
// which parameters it runs with. Patroni answers 200 to a configuration that
// its nodes then ignore, so the answer alone proves nothing.
func (d *Doer) verify(ctx context.Context, c Cluster, wanted Settings, unsettled map[string]string) (pending map[string][]string, unverified map[string]error, err error) {
	pending, unverified = map[string][]string{}, map[string]error{}
	var names []string
	for _, path := range wanted.Paths() {
		if name, ok := IsParameter(path); ok {
			names = append(names, name)
		}
	}
	for _, name := range sortedKeys(unsettled) {
		if !slices.Contains(names, name) {
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
		begin := time.Now()
		err := wait.Until(waitCtx, d.Log, "node "+member+" to take the configuration over", 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
			late, wait, err := d.takenOver(ctx, n, wanted, names, unsettled, time.Since(begin) < time.Duration(loop+5)*time.Second)
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
func (d *Doer) takenOver(ctx context.Context, n Node, wanted Settings, names []string, unsettled map[string]string, early bool) (late, pending []string, err error) {
	if n.DataDir == "" { // nobody has noted it
		f, err := d.foreign(ctx, n)
		if err != nil {
			return nil, nil, err
		}
		n.DataDir = f.file.PostgreSQL.DataDir
	}
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
		if have, ok := flat[path]; (!ok || !Same(path, have, wanted[path])) && (ok || !IsDefault(path, wanted[path])) {
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
		_, given := wanted[Parameter(name)]
		switch want := Text(wanted[Parameter(name)]); {
		case !ok: // an extension's that is not loaded, or not in this version
		case s.PendingRestart:
			pending = append(pending, name)
		case !given:
			// It is left to its default, and Patroni may not have reloaded yet. Where it
			// never waits for a restart, that is the value that it has.
			if was := unsettled[name]; early && was != "" && s.is(name, was) {
				late = append(late, name)
			}
		case s.is(name, want):
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
