package patroni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// Live is a cluster that is looked at and changed as a whole, by who has several of
// them in hand: those of two datacenters.
type Live struct {
	m  *Manager
	do *Doer
	c  Cluster
}

// Live opens a cluster, which has to be there. It may have no node yet.
func (m *Manager) Live(ctx context.Context, c Cluster) (*Live, error) {
	do, err := m.existing(ctx, c)
	if err != nil {
		return nil, err
	}
	return &Live{m, do, c}, c.Require(do.Known)
}

// Cluster is the cluster that was opened.
func (l *Live) Cluster() Cluster { return l.c }

// Known is what etcd knew when it was last asked.
func (l *Live) Known() Known { return l.do.Known }

// Refresh asks etcd again.
func (l *Live) Refresh(ctx context.Context) (k Known, err error) {
	if k, err = l.c.Load(ctx, l.do.KV); err == nil {
		l.do.Known = k
	}
	return k, err
}

// Lock keeps other applies away from the cluster's configuration and its nodes' turns. The
// context ends when the lock is lost.
func (l *Live) Lock(ctx context.Context, what string) (context.Context, func(), error) {
	leave, err := l.m.Queues.Enter(ctx, l.c.queue(), "cluster", func(context.Context) int { return -1 })
	if err != nil {
		return nil, nil, err
	}
	locked, unlock, err := l.m.lockCluster(ctx, l.do, l.c, what)
	if err != nil {
		leave()
		return nil, nil, err
	}
	return locked, func() { unlock(); leave() }, nil
}

func (l *Live) node(name string) (Node, error) { return l.do.Known.noted(l.c, name) }

// Statuses asks all nodes at once what they are.
func (l *Live) Statuses(ctx context.Context) (map[string]NodeStatus, map[string]error) {
	nodes := map[string]Node{}
	for name, r := range l.do.Known.Nodes {
		nodes[name] = Node{Cluster: l.c, Name: name, Target: r.Target}
	}
	return l.do.statuses(ctx, nodes)
}

// Status asks one node.
func (l *Live) Status(ctx context.Context, name string) (NodeStatus, error) {
	n, err := l.node(name)
	if err != nil {
		return NodeStatus{}, err
	}
	return l.do.status(ctx, n)
}

// Set changes the dynamic configuration: what is wanted, and what is owned and no longer
// wanted goes.
func (l *Live) Set(ctx context.Context, wanted Settings, owned []string) error {
	return l.do.reconcile(ctx, l.c, wanted, owned)
}

// SetDirectly writes the dynamic configuration past Patroni, for a cluster whose Patroni
// is kept from running.
func (l *Live) SetDirectly(ctx context.Context, wanted Settings, owned []string) error {
	for range 8 {
		k, err := l.Refresh(ctx)
		if err != nil {
			return err
		}
		patch, changed := Patch(k.Config, wanted, owned)
		if len(changed) == 0 {
			return nil
		}
		swapped, err := l.do.KV.Swap(ctx, l.c.configKey(), string(merge(k.Config, patch).JSON()), k.ConfigRevision)
		if err != nil || swapped {
			return err
		}
	}
	return errors.New("the dynamic configuration keeps being changed by somebody else")
}

// Control is what pg_controldata says of a node's data directory, whether its server runs
// or not.
func (l *Live) Control(ctx context.Context, name string) (Control, error) {
	n, err := l.node(name)
	if err != nil {
		return Control{}, err
	}
	n.Postgres = strconv.Itoa(l.do.Known.Nodes[name].Major)
	return l.do.control(ctx, n)
}

// SQL asks a node's server, in a database. Name is for the log.
func (l *Live) SQL(ctx context.Context, node, name, database, statement string) ([]string, error) {
	n, err := l.node(node)
	if err != nil {
		return nil, err
	}
	return l.do.query(ctx, n, name, database, statement)
}

// StopServer stops a node's PostgreSQL and leaves its Patroni alone, which has to be
// paused: it would start it again.
func (l *Live) StopServer(ctx context.Context, name string, patience time.Duration) error {
	r := l.do.Known.Nodes[name]
	_, err := l.m.Fleet.Host(r.Target).Run(ctx, host.Cmd{
		Name: "postgres.stop", User: account, Script: remote.Script(scripts, "scripts/stop.sh"), Timeout: patience + 10*time.Second,
		Args: []string{postgres.BinDir(r.Major), r.DataDir, strconv.Itoa(int(patience.Seconds()))},
	})
	return err
}

// StartServer has a paused Patroni start the PostgreSQL that was stopped under it.
func (l *Live) StartServer(ctx context.Context, name string) error {
	n, err := l.node(name)
	if err != nil {
		return err
	}
	a, err := l.do.api(ctx, n)
	if err != nil {
		return err
	}
	return a.Restart(ctx)
}

// Switchover has a node of the cluster lead instead of another one.
func (l *Live) Switchover(ctx context.Context, from, to string) error {
	n, err := l.node(from)
	if err != nil {
		return err
	}
	a, err := l.do.api(ctx, n)
	if err != nil {
		return err
	}
	_, loop := l.do.Known.Timing()
	return a.Switchover(ctx, from, to, time.Duration(loop)*time.Second)
}

// CloneReplica has a replica throw its data away and clone its leader's; it returns when
// that has begun.
func (l *Live) CloneReplica(ctx context.Context, name string) error {
	n, err := l.node(name)
	if err != nil {
		return err
	}
	st, err := l.do.status(ctx, n)
	if err != nil {
		return err
	}
	return l.do.cloneAgain(ctx, n, st)
}

// CloneLeader has the leader of a standby cluster throw its data away and copy another
// site's, which no Patroni does by itself. Patroni must not run on the other nodes.
func (l *Live) CloneLeader(ctx context.Context, name string, hosts []string, port int) error {
	n, err := l.node(name)
	if err != nil {
		return err
	}
	r := l.do.Known.Nodes[name]
	h := l.m.Fleet.Host(r.Target)
	if err := remote.StopUnit(ctx, h, Unit, stopTimeout); err != nil {
		return err
	}
	_, err = h.Run(ctx, host.Cmd{
		Name: "postgres.clone", Script: remote.Script(scripts, "scripts/clone_leader.sh"), Timeout: cloneTimeout,
		Args:  []string{postgres.BinDir(r.Major), r.DataDir, strings.Join(hosts, ","), strconv.Itoa(port), l.c.Users.Replication, l.c.AuthorityPath()},
		Stdin: []byte(l.do.Known.Secrets.Replication + "\n"),
	})
	var forgot error
	if err == nil {
		forgot = l.ForgetPosition(ctx)
	}
	started := errors.Join(forgot, remote.StartUnit(context.WithoutCancel(ctx), h, Unit))
	if err != nil {
		return problem.Fill(err, problem.Error{
			Host: n.Target.Name, Step: "clone the database of the primary site", Left: "the data that was there, and Patroni running with it.",
			Do: "mend what is named (space on the disk, the connection), and apply again.",
		})
	}
	return started
}

// ForgetPosition removes what Patroni has noted in etcd of how far the cluster's WAL went.
// Who is behind that by more than maximum_lag_on_failover (1 MiB if it is not set) does not
// take the leader's lock: nobody ever, if that WAL is of a history that is thrown away. A
// leader writes it anew with each of its loops.
func (l *Live) ForgetPosition(ctx context.Context) error {
	var errs []error
	for _, key := range []string{"status", "optime/leader"} { // the latter is for Patroni before 2.1
		errs = append(errs, l.do.KV.Delete(ctx, l.c.Prefix()+key))
	}
	return errors.Join(errs...)
}

// cloneTimeout bounds the copy of a database.
const cloneTimeout = 24 * time.Hour

// Distance is the round trip from a node to another cluster's server, by how much longer a
// connection there takes to be answered than one to its own; zero where nothing answers.
func (l *Live) Distance(ctx context.Context, name, address string, port int) time.Duration {
	r, there := l.do.Known.Nodes[name]
	if !there {
		return 0
	}
	h := l.m.Fleet.Host(r.Target)
	own, other := host.AnswerTime(ctx, h, r.Address, l.c.PostgresPort), host.AnswerTime(ctx, h, address, port)
	if own == 0 || other == 0 {
		return 0
	}
	return max(0, other-own)
}

// Paused waits until all members have seen whether the cluster is paused.
func (l *Live) Paused(ctx context.Context, paused bool) error {
	ttl, loop := l.do.Known.Timing()
	bounded, cancel := context.WithTimeout(ctx, time.Duration(ttl+2*loop)*time.Second+15*time.Second)
	defer cancel()
	return wait.Until(bounded, l.do.Log, fmt.Sprintf("all members of %s to see that it is paused: %t", l.c.Name(), paused), 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		k, err := l.c.Load(ctx, l.do.KV)
		if err != nil {
			return false, "", err
		}
		for _, name := range sortedKeys(k.Members) {
			if k.Members[name].Pause != paused {
				return false, name + " does not see it yet", nil
			}
		}
		return true, "", nil
	})
}

// Note keeps a value about the cluster in etcd, as JSON; nil deletes it.
func (l *Live) Note(ctx context.Context, key string, v any) error {
	if v == nil {
		return l.do.KV.Delete(ctx, l.c.own(key))
	}
	return putJSON(ctx, l.do.KV, l.c.own(key), v)
}

// Noted reads such a value, and reports whether there is one.
func (l *Live) Noted(ctx context.Context, key string, v any) (bool, error) {
	kv, there, err := l.do.KV.Get(ctx, l.c.own(key))
	if err != nil || !there {
		return false, err
	}
	return true, json.Unmarshal([]byte(kv.Value), v)
}

// fencePath is where a node's unit is kept from starting.
const fencePath = "/etc/systemd/system/patroni.service.d/pgha-fence.conf"

// fence keeps systemd from starting Patroni while the file is there that it names.
const fence = `# Written by the pgha provider: another datacenter leads. An apply removes it.
[Unit]
ConditionPathExists=!` + fencePath + `
`

// fencedOff is why nothing is done about a node that is kept from running.
func fencedOff(n Node) error {
	return &problem.Error{
		Host: n.Target.Name, Step: "see whether the node may run", Cause: fmt.Errorf("its site was given up for another one, and %s keeps its Patroni from starting", fencePath),
		Left: "the node, stopped.", Do: "apply the pgha_cross_dc_replication: it has the site follow, and lets its nodes start.",
	}
}

// Fence stops a node's Patroni, and with it PostgreSQL, and keeps it from starting, at the
// next boot as well.
func (l *Live) Fence(ctx context.Context, name string) error {
	h := l.m.Fleet.Host(l.do.Known.Nodes[name].Target)
	if err := remote.WriteFile(ctx, h, remote.File{Path: fencePath, Content: []byte(fence)}); err != nil {
		return err
	}
	if err := remote.DaemonReload(ctx, h); err != nil {
		return err
	}
	return remote.StopUnit(ctx, h, Unit, stopTimeout)
}

// Unfence is the other way round, and starts Patroni, which whoever was cut off may not have.
func (l *Live) Unfence(ctx context.Context, name string) error {
	h := l.m.Fleet.Host(l.do.Known.Nodes[name].Target)
	var p remote.Probe
	f, err := p.Path(fencePath).Run(ctx, h)
	if err != nil {
		return err
	}
	if f.Path(fencePath).Exists() {
		if err := remote.RemoveFiles(ctx, h, fencePath); err != nil {
			return err
		}
		if err := remote.DaemonReload(ctx, h); err != nil {
			return err
		}
	}
	return remote.StartUnit(ctx, h, Unit)
}

// StopPatroni stops a node's Patroni, and with it PostgreSQL.
func (l *Live) StopPatroni(ctx context.Context, name string) error {
	return remote.StopUnit(ctx, l.m.Fleet.Host(l.do.Known.Nodes[name].Target), Unit, stopTimeout)
}

// StartPatroni starts it, and does not wait until it has.
func (l *Live) StartPatroni(ctx context.Context, name string) error {
	return remote.StartUnit(ctx, l.m.Fleet.Host(l.do.Known.Nodes[name].Target), Unit)
}

// Fenced reports whether a node is.
func (l *Live) Fenced(ctx context.Context, name string) (bool, error) {
	var p remote.Probe
	f, err := p.Path(fencePath).Run(ctx, l.m.Fleet.Host(l.do.Known.Nodes[name].Target))
	return err == nil && f.Path(fencePath).Exists(), err
}

// Trust has the nodes trust further authorities: those of other datacenters, whose servers
// they follow. Nodes that are there get the file; those to come are made with it. PostgreSQL
// and Patroni read it with each connection that they open.
func (l *Live) Trust(ctx context.Context, more []byte) error {
	if err := l.do.KV.Put(ctx, l.c.trustedKey(), string(more)); err != nil {
		return err
	}
	l.do.Known.Trusted = more
	file := l.c.trustedFile(l.do.Known.Authority, more)
	var errs []error
	for _, name := range sortedKeys(l.do.Known.Nodes) {
		h := l.m.Fleet.Host(l.do.Known.Nodes[name].Target)
		var p remote.Probe
		f, err := p.Content(file.Path).Run(ctx, h)
		if err == nil && f.Path(file.Path).Exists() && !file.Same(f.Path(file.Path)) {
			err = remote.WriteFile(ctx, h, file)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// trustedFile is the file of all authorities that a node trusts.
func (c Cluster) trustedFile(own, more []byte) remote.File {
	return remote.File{Path: c.AuthorityPath(), Content: append(append([]byte{}, own...), more...)}
}

// trustedKey is where it is noted.
func (c Cluster) trustedKey() string { return c.shared("trusted") }

// SharesPasswords reports whether two clusters have the same passwords for the accounts that
// are a part of the data, as a standby needs: it has them from its primary.
func (k Known) SharesPasswords(of Known) bool {
	a, b := k.Secrets, of.Secrets
	return a != nil && b != nil && a.Superuser == b.Superuser && a.Replication == b.Replication && a.Rewind == b.Rewind
}

// TakePasswords has the cluster use the passwords of another one for all accounts that are
// a part of the data. Nodes that are there are given them; a formation's groups have them in
// common, and the first of them is given them for all. The caller has locked them all.
func (l *Live) TakePasswords(ctx context.Context, of *Live) error {
	if _, err := l.Refresh(ctx); err != nil {
		return err
	}
	if l.do.Known.SharesPasswords(of.do.Known) {
		return nil
	}
	theirs := of.do.Known.Secrets
	was := *l.do.Known.Secrets
	if n := l.do.Known.Next; n != nil && (n.API != was.API || n.Etcd != was.Etcd || n.EtcdUser != was.EtcdUser) {
		return &problem.Error{
			Step: "take the passwords of the primary site", Cause: fmt.Errorf("a change of the passwords of the cluster %s was begun and is not finished", l.c.Name()),
			Left: "all passwords, as they were.", Do: "apply the pgha_patroni_cluster resource first: it finishes the change.",
		}
	}
	next := was
	next.Superuser, next.Replication, next.Rewind = theirs.Superuser, theirs.Replication, theirs.Rewind
	if err := putJSON(ctx, l.do.KV, l.c.secretsKey(), storedSecrets{Secrets: was, Next: &next}); err != nil {
		return err
	}
	groups, err := l.m.sharers(ctx, l.do, l.c)
	if err != nil {
		return err
	}
	var lanes []engine.Plan
	for _, of := range groups {
		for _, name := range sortedKeys(of.do.Known.Nodes) {
			n, err := of.do.Known.noted(of.c, name)
			if err != nil {
				return err
			}
			node := rotating{n: n, do: of.do, member: of.do.Known.Members[name].State == "running"}
			lanes = append(lanes, node.write(next).ThenPlan(node.reload(was, next)))
		}
	}
	if err := engine.Run(ctx, engine.Plan{}.ThenParallel(lanes...), l.m.Observe); err != nil {
		return err
	}
	l.do.Known.Secrets = &next
	return putJSON(ctx, l.do.KV, l.c.secretsKey(), storedSecrets{Secrets: next})
}

// Standby is the standby_cluster of a dynamic configuration, nil if it has none that
// counts (Patroni, global_config.py: one of these three makes it one).
func (k Known) Standby() map[string]any {
	s, ok := k.Config["standby_cluster"].(map[string]any)
	if !ok {
		return nil
	}
	for _, key := range []string{"host", "port", "restore_command"} {
		if Text(s[key]) != "" {
			return s
		}
	}
	return nil
}

// HasDatabase reports whether the cluster has, or has had, a database.
func (k Known) HasDatabase() bool { return hasDatabase(k) }

// FormatLSN writes a location in the WAL as PostgreSQL does.
func FormatLSN(n int64) string { return formatLSN(n) }

// AtLeast compares a version of Patroni.
func AtLeast(version string, major, minor int) bool { return !before(version, major, minor, 0) }

// Blind keeps the hosts of a cluster from reaching addresses, or lets them again: a route
// that leads nowhere. It does not outlive a boot.
func (l *Live) Blind(ctx context.Context, addresses []string, on bool) error {
	verb := "del"
	if on {
		verb = "replace"
	}
	for _, name := range sortedKeys(l.do.Known.Nodes) {
		_, err := l.m.Fleet.Host(l.do.Known.Nodes[name].Target).Run(ctx, host.Cmd{
			Name: "patroni.blind", Script: remote.Script(scripts, "scripts/blind.sh"), Args: append([]string{verb}, addresses...),
		})
		if err != nil {
			return err
		}
	}
	return nil
}
