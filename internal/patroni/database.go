package patroni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// Database is a database of a cluster, on whichever node is its primary at the moment.
type Database struct {
	do      *Doer
	cluster Cluster
	name    string
}

// statementTimeout bounds one statement. What takes longer is to be a job of the server.
const statementTimeout = 5 * time.Minute

// Database opens a database of a cluster.
func (m *Manager) Database(ctx context.Context, c Cluster, name string) (*Database, error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return nil, err
	}
	if do.Known.Record == nil {
		return nil, ErrNoCluster
	}
	if err := c.Require(do.Known); err != nil {
		return nil, err
	}
	return &Database{do, c, name}, nil
}

// Rows runs a statement, and returns what it prints, a row each. It is run as the
// operating system's own user, over the server's local socket. Name is for the log.
// The primary is looked for anew each time.
func (b *Database) Rows(ctx context.Context, name, statement string) ([]string, error) {
	n, err := b.primary(ctx)
	if err != nil {
		return nil, err
	}
	res, err := b.do.host(n).Run(ctx, host.Cmd{
		Name: "postgres." + name, User: account, Script: remote.Script(scripts, "scripts/database.sh"), Timeout: statementTimeout,
		Args: []string{strconv.Itoa(n.Cluster.PostgresPort), socketDir, b.name}, Stdin: []byte(statement + ";\n"),
	})
	if err != nil {
		return nil, err
	}
	var rows []string
	for line := range strings.Lines(string(res.Stdout)) {
		rows = append(rows, strings.TrimSuffix(line, "\n"))
	}
	return rows, nil
}

// List runs a query and reads its rows, each as an object of JSON whose fields are the
// query's columns.
func List[T any](ctx context.Context, b *Database, name, query string) ([]T, error) {
	rows, err := b.Rows(ctx, name, "select row_to_json(r) from ("+query+") r")
	if err != nil {
		return nil, err
	}
	list := []T{}
	for _, row := range rows {
		var v T
		if err := json.Unmarshal([]byte(row), &v); err != nil {
			return nil, fmt.Errorf("what %s printed cannot be read: %w", name, err)
		}
		list = append(list, v)
	}
	return list, nil
}

// primary waits for the cluster to have a leader; in a failover that takes a moment.
func (b *Database) primary(ctx context.Context) (Node, error) {
	var n Node
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := wait.Until(bounded, b.do.Log, "the cluster "+b.cluster.Name()+" to have a leader", 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		k, err := b.cluster.Load(ctx, b.do.KV)
		if err != nil {
			return false, "", err
		}
		if len(k.Nodes) == 0 {
			return false, "", wait.Never(errors.New("it has no nodes any more"))
		}
		if n, err = k.noted(b.cluster, k.Leader); err != nil || k.Leader == "" {
			return false, "nobody leads", nil
		}
		st, err := b.do.status(ctx, n)
		return err == nil && st.Leads() && st.State == "running", n.Name + " is not running as leader", err
	})
	if err != nil {
		return n, &problem.Error{
			Step: "find the primary of " + b.cluster.Name(), Cause: fmt.Errorf("%w: %w", ErrNoPrimary, err), Left: "everything.",
			Do: "make sure that the cluster has a leader (patronictl list), then apply again.",
		}
	}
	return n, nil
}

// Addresses are the addresses of a cluster's nodes, by name, as etcd has them noted.
func (m *Manager) Addresses(ctx context.Context, c Cluster) (map[string]string, error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return nil, err
	}
	if do.Known.Record == nil {
		return nil, ErrNoCluster
	}
	addresses := map[string]string{}
	for name, r := range do.Known.Nodes {
		addresses[name] = r.Address
	}
	return addresses, nil
}

// ErrNoPrimary says that nobody takes writes.
var ErrNoPrimary = errors.New("it has no primary")

// LeaderAddress is the address of the node that leads a cluster, as etcd has it, empty if nobody
// does.
func (m *Manager) LeaderAddress(ctx context.Context, c Cluster) (string, error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return "", err
	}
	return do.Known.Nodes[do.Known.Leader].Address, nil
}

// Note keeps a text about a cluster in etcd, for whoever goes on with what was cut off; an
// empty one deletes it.
func (m *Manager) Note(ctx context.Context, c Cluster, key, text string) error {
	do, err := m.open(ctx, c)
	if err != nil {
		return err
	}
	if text == "" {
		return do.KV.Delete(ctx, c.own("journal/")+key)
	}
	return do.KV.Put(ctx, c.own("journal/")+key, text)
}

// Noted reports whether there is such a text.
func (m *Manager) Noted(ctx context.Context, c Cluster, key string) (bool, error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return false, err
	}
	_, noted, err := do.KV.Get(ctx, c.own("journal/")+key)
	return noted, err
}

// ErrNoCluster says that etcd knows nothing of a cluster.
var ErrNoCluster = errors.New("etcd knows nothing of the cluster")

// Protected reports whether a cluster is protected from deletion.
func (m *Manager) Protected(ctx context.Context, c Cluster) (bool, error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return false, err
	}
	return do.Known.Record != nil && do.Known.Record.DeletionProtection, nil
}

// Alone keeps other processes, and other operations of this one, from doing the same at
// once with a formation: what is named, for people.
func (m *Manager) Alone(ctx context.Context, c Cluster, key, what string) (context.Context, func(), error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	leave, err := m.Queues.Enter(ctx, c.shared(key), what, func(context.Context) int { return 0 })
	if err != nil {
		return nil, nil, err
	}
	locked, unlock, err := m.lock(ctx, do, c.shared("lock/"+key), what)
	if err != nil {
		leave()
		return nil, nil, err
	}
	return locked, func() { unlock(); leave() }, nil
}

// Literal is a text as SQL has it.
func Literal(s string) string { return quoteLiteral(s) }
