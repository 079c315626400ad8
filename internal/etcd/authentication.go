package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Authentication of a running cluster is turned on in two applies, so that nobody
// is shut out: the first one gives everybody a user and a password, which etcd takes
// no notice of while authentication is off; the next one turns it on, if all Patroni
// nodes have noted that they log in. Turning it off is one step.

// Login is what a Patroni node notes in etcd of how it comes in, as part of what is
// known of it.
type Login struct {
	// LogsIn: it has a user and a password.
	LogsIn bool `json:"etcd_login,omitempty"`
}

// notLoggingIn are the Patroni nodes, as "pg1 of main", that would be shut out if
// authentication were turned on: those that have not noted that they log in, and
// those that run and that nobody has noted.
func notLoggingIn(keys []KeyValue) []string {
	const own = "/pgha/patroni"
	logsIn := map[string]bool{} // by key of the cluster and name
	for _, kv := range keys {
		cluster, name, isNode := cutLast(kv.Key, "/nodes/")
		var l Login
		if isNode && strings.HasPrefix(kv.Key, own+"/") && json.Unmarshal([]byte(kv.Value), &l) == nil {
			logsIn[strings.TrimPrefix(cluster, own)+"/"+name] = l.LogsIn
		}
	}
	for _, kv := range keys {
		cluster, name, isMember := cutLast(kv.Key, "/members/")
		if key := cluster + "/" + name; isMember && !strings.HasPrefix(kv.Key, "/pgha/") && !logsIn[key] {
			logsIn[key] = false
		}
	}
	var list []string
	for _, key := range sortedKeys(logsIn) {
		if !logsIn[key] {
			cluster, name, _ := cutLast(key, "/")
			list = append(list, name+" of "+clusterName(cluster))
		}
	}
	return list
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// oldPatroni are the nodes whose Patroni is older than a version, each with its own.
func (p *planner) oldPatroni(than string) string {
	var old []string
	for _, n := range sortedKeys(p.f.Nodes) {
		if debver.Compare(p.f.Nodes[n], than) < 0 {
			old = append(old, n+" runs "+p.f.Nodes[n])
		}
	}
	return strings.Join(old, ", ")
}

// copesSince is the first line of Patroni that starts with a password where etcd 3.5
// wants none. Before, it waits for an etcd that answers as 3.4 did (tried with 3.0.2
// and 4.0.7, and with 4.1.5). Without a password it goes on sending its old token, and
// is refused by members that have been restarted.
const copesSince = "4.1"

// turnsOff is the step that turns authentication off, if it is on and not wanted.
func (p *planner) turnsOff() (engine.Plan, error) {
	if !p.asked || p.s.Auth || !p.f.AuthOn {
		return engine.Plan{}, nil
	}
	if old := p.oldPatroni(copesSince); old != "" {
		return engine.Plan{}, &problem.Error{
			Step: "check that everybody stays let in", Cause: fmt.Errorf("a Patroni before %s that has a password does not start where etcd 3.5 wants none, and without one is refused for its old token: %s", copesSince, old),
			Left: "authentication, which is on.", Do: "bring Patroni to " + copesSince + " or later on all nodes first, or leave auth = true.",
		}
	}
	return engine.Sequence(p.do.step(p.s, "", "etcd.auth.off", "turn authentication off: whoever reaches the client port then reads and writes everything", engine.Reload, func(ctx context.Context) error {
		c, err := p.do.client(ctx, p.s)
		if err != nil {
			return err
		}
		return c.DisableAuth(ctx)
	})), nil
}

// turnsOn is the step that turns authentication on in a running cluster, or that
// says for whom it waits.
func (p *planner) turnsOn() (engine.Plan, error) {
	if !p.asked || !p.s.Auth || p.f.AuthOn {
		return engine.Plan{}, nil
	}
	for _, m := range p.f.Live {
		since, why := "", ""
		switch r, _, _ := releaseOf(m.Version); {
		case RefusesOldPatroni(m.Version):
			since, why = "4.1.1", "with authentication on, refuses what Patroni before 4.1.1 asks first"
		case r.compare(release{3, 5}) >= 0:
			since, why = copesSince, "while authentication is still off, keeps a Patroni before "+copesSince+" from starting that has a password already"
		}
		if old := p.oldPatroni(since); since != "" && old != "" {
			return engine.Plan{}, &problem.Error{
				Step: "check that everybody can log in", Cause: fmt.Errorf("etcd %s, %s: %s", m.Version, why, old),
				Left: "authentication, which is off.", Do: "bring Patroni to " + since + " or later on all nodes first, or leave auth = false.",
			}
		}
	}
	if waiting := p.f.NotLoggingIn; len(waiting) > 0 {
		return engine.Sequence(p.do.step(p.s, "", "etcd.auth.later", "leave authentication off until the next apply: these do not log in yet: "+strings.Join(waiting, ", ")+". Applying a node (pgha_patroni_node) has it log in; import those that are in no configuration", engine.Safe, func(ctx context.Context) error {
			p.do.Log.WarnContext(ctx, "authentication of etcd is not on yet; the next apply turns it on, once these log in", "nodes", slices.Clone(waiting))
			return nil
		})), nil
	}
	step := p.do.enableAuth(p.s)
	step.Title = "turn authentication on: every Patroni node logs in; whoever else uses this etcd without a password is shut out"
	step.Risk = engine.Reload
	return engine.Sequence(step), nil
}

// clusterName is a Patroni cluster's name, of where it keeps its keys: the scope, and of
// a Citus formation the group after it, "main/1".
func clusterName(dir string) string {
	parts := strings.Split(strings.Trim(dir, "/"), "/")
	last := parts[len(parts)-1]
	if _, err := strconv.Atoi(last); err == nil && len(parts) > 2 {
		return parts[len(parts)-2] + "/" + last
	}
	return last
}
