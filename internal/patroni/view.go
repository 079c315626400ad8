package patroni

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// View is a cluster as it is now.
type View struct {
	Scope    string
	SystemID string
	Leader   string
	Paused   bool
	Members  []MemberView
	Config   Document
	// Unmanaged are the paths of the dynamic configuration that somebody
	// else made.
	Unmanaged []string
	Warnings  []string
}

// MemberView is one member as it is now.
type MemberView struct {
	Name           string
	Host           string // address of PostgreSQL
	Port           int
	Role           string
	State          string
	Timeline       int64
	Lag            int64 // bytes behind the leader; -1 if not known
	Postgres       string
	Patroni        string
	PendingRestart bool
	Tags           map[string]any
	Error          string // why its own API could not be asked
}

// View asks the cluster what it is now: one member for the whole, and each for
// what only it knows.
func (m *Manager) View(ctx context.Context, c Cluster) (View, error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return View{}, err
	}
	if err := c.Require(do.Known); err != nil {
		return View{}, err
	}
	k := do.Known
	v := View{Scope: c.Name(), SystemID: k.Initialize, Config: k.Config}
	if k.Record != nil {
		v.Unmanaged = Foreign(k.Config, k.Record.Owned)
	}
	nodes := map[string]Node{}
	for name, r := range k.Nodes {
		nodes[name] = Node{Cluster: c, Name: name, Target: r.Target}
	}
	statuses, errs := do.statuses(ctx, nodes)
	var cluster ClusterView
	asked := false
	names := append([]string{k.Leader}, without(sortedKeys(nodes), k.Leader)...)
	for _, name := range names {
		n, ok := nodes[name]
		if !ok || errs[name] != nil {
			continue
		}
		a, err := do.api(ctx, n)
		if err != nil {
			return v, err
		}
		if cluster, err = a.Cluster(ctx); err == nil {
			asked = true
			break
		}
		errs[name] = err
	}
	if !asked && len(nodes) > 0 {
		var all []error
		for _, name := range sortedKeys(errs) {
			all = append(all, errs[name])
		}
		return v, &problem.Error{
			Step: "ask the cluster " + c.Name(), Cause: fmt.Errorf("no member answers: %w", errors.Join(all...)),
			Do: "make sure that at least one node's host can be reached and that its Patroni runs.",
		}
	}
	v.Paused = cluster.Pause
	for _, member := range cluster.Members {
		mv := MemberView{
			Name: member.Name, Host: member.Host, Port: member.Port, Role: member.Role, State: member.State,
			Timeline: member.Timeline, PendingRestart: member.PendingRestart, Tags: member.Tags, Lag: -1,
		}
		if member.Leader() {
			v.Leader = member.Name
			mv.Lag = 0
		} else if lag, ok := member.LagBytes(); ok {
			mv.Lag = lag
		}
		if st, ok := statuses[member.Name]; ok {
			mv.Postgres, mv.Patroni = postgres.ServerVersion(st.ServerVersion), st.Patroni.Version
			if st.ServerVersion == 0 {
				mv.Postgres = ""
			}
		}
		if err := errs[member.Name]; err != nil {
			mv.Error = m.Redact.Apply(err.Error())
		}
		if mv.Patroni == "" {
			mv.Patroni = k.Members[member.Name].Version
		}
		v.Members = append(v.Members, mv)
	}
	for _, name := range sortedKeys(nodes) {
		if _, listed := cluster.Member(name); !listed {
			mv := MemberView{Name: name, Host: k.Nodes[name].Address, Port: c.PostgresPort, State: "not a member", Lag: -1}
			if err := errs[name]; err != nil {
				mv.State, mv.Error = "unreachable", m.Redact.Apply(err.Error())
			}
			v.Members = append(v.Members, mv)
		}
	}
	if len(cluster.Members) > 0 && v.Leader == "" {
		v.Warnings = append(v.Warnings, "the cluster has no leader: nobody can write")
	}
	if primaries := primaries(statuses); len(primaries) > 1 {
		v.Warnings = append(v.Warnings, "split brain: "+strings.Join(primaries, " and ")+" are primaries at the same time")
	}
	return v, nil
}

// statuses asks all nodes at once.
func (d *Doer) statuses(ctx context.Context, nodes map[string]Node) (map[string]NodeStatus, map[string]error) {
	statuses, errs := map[string]NodeStatus{}, map[string]error{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, n := range nodes {
		wg.Go(func() {
			st, err := d.status(ctx, n)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs[name] = err
			} else {
				statuses[name] = st
			}
		})
	}
	wg.Wait()
	return statuses, errs
}

func primaries(statuses map[string]NodeStatus) []string {
	var list []string
	for _, name := range sortedKeys(statuses) {
		if statuses[name].Primary() {
			list = append(list, name)
		}
	}
	return list
}

// Table renders the members for people.
func (v View) Table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MEMBER\tHOST\tROLE\tSTATE\tTL\tLAG\tPOSTGRESQL\tPATRONI")
	for _, m := range v.Members {
		lag := "unknown"
		switch {
		case m.Name == v.Leader:
			lag = "-"
		case m.Lag >= 0:
			lag = fmt.Sprintf("%d B", m.Lag)
		}
		state := m.State
		if m.PendingRestart {
			state += ", pending restart"
		}
		fmt.Fprintf(w, "%s\t%s:%d\t%s\t%s\t%d\t%s\t%s\t%s\n", m.Name, m.Host, m.Port, dash(m.Role), state, m.Timeline, lag, dash(m.Postgres), dash(m.Patroni))
	}
	_ = w.Flush()
	return b.String()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Credentials are a cluster's accounts with their passwords.
type Credentials struct {
	Users   Users
	Secrets Secrets
}

// Credentials reads them from etcd.
func (m *Manager) Credentials(ctx context.Context, c Cluster) (Credentials, error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return Credentials{}, err
	}
	if err := c.Require(do.Known); err != nil {
		return Credentials{}, err
	}
	if c.Adopted() {
		f, _, err := do.anyForeign(ctx, c, do.Known)
		if err != nil {
			return Credentials{}, err
		}
		return Credentials{Users: f.users(), Secrets: f.secrets()}, nil
	}
	secrets, err := do.secretsInForce(ctx, c)
	return Credentials{Users: c.Users, Secrets: secrets}, err
}
