package patroni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Database is a database of a cluster, on whichever node is its primary at the moment.
type Database struct {
	do      *Doer
	cluster Cluster
	name    string
	within  time.Duration // what one statement may take
}

// Database opens a database of a cluster.
func (m *Manager) Database(ctx context.Context, c Cluster, name string) (*Database, error) {
	do, err := m.existing(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := c.Require(do.Known); err != nil {
		return nil, err
	}
	return &Database{do, c, name, statementTimeout}, nil
}

// Within is the same database, with another bound on what one statement may take.
func (b *Database) Within(bound time.Duration) *Database {
	patient := *b
	patient.within = bound
	return &patient
}

// Rows is Doer.query on the primary, which is looked for anew each time.
func (b *Database) Rows(ctx context.Context, name, statement string) ([]string, error) {
	n, err := b.do.leading(ctx, b.cluster)
	if err != nil {
		return nil, &problem.Error{
			Step: "find the primary of " + b.cluster.Name(), Cause: fmt.Errorf("%w: %w", ErrNoPrimary, err), Left: "everything.",
			Do: "make sure that the cluster has a leader (patronictl list), then apply again.",
		}
	}
	return b.do.queryWithin(ctx, n, name, b.name, statement, b.within)
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

// Addresses are the addresses of a cluster's nodes, by name, as etcd has them noted.
func (m *Manager) Addresses(ctx context.Context, c Cluster) (map[string]string, error) {
	do, err := m.existing(ctx, c)
	if err != nil {
		return nil, err
	}
	addresses := map[string]string{}
	for name, r := range do.Known.Nodes {
		addresses[name] = r.Address
	}
	return addresses, nil
}

// Free is what the fullest of the nodes of a group has left on the disk of its data, in
// bytes, negative if none answers; and the names of those that do not.
func (m *Manager) Free(ctx context.Context, c Cluster, group int) (least int64, silent []string, err error) {
	do, err := m.open(ctx, c.in(group))
	if err != nil {
		return -1, nil, err
	}
	least = -1
	for _, name := range sortedKeys(do.Known.Nodes) {
		r := do.Known.Nodes[name]
		var p remote.Probe
		f, err := p.Disk(r.DataDir).Run(ctx, m.Fleet.Host(r.Target))
		if err != nil {
			silent = append(silent, name)
			continue
		}
		if free := f.Disk(r.DataDir).Free; least < 0 || free < least {
			least = free
		}
	}
	return least, silent, nil
}

// ErrNoPrimary says that nobody takes writes.
var ErrNoPrimary = errors.New("it has no primary")

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

// Notes are the texts whose keys begin with a prefix, by the rest of their keys.
func (m *Manager) Notes(ctx context.Context, c Cluster, prefix string) (map[string]string, error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return nil, err
	}
	prefix = c.own("journal/") + prefix
	list, err := do.KV.List(ctx, prefix)
	notes := map[string]string{}
	for _, e := range list {
		notes[strings.TrimPrefix(e.Key, prefix)] = e.Value
	}
	return notes, err
}

// Known is what etcd knows of a cluster, which has to be there.
func (m *Manager) Known(ctx context.Context, c Cluster) (Known, error) {
	do, err := m.existing(ctx, c)
	if err != nil {
		return Known{}, err
	}
	return do.Known, c.Require(do.Known)
}

// ErrNoCluster says that etcd knows nothing of a cluster.
var ErrNoCluster = errors.New("etcd knows nothing of the cluster")

// existing is open for a cluster that has to be there. One that somebody else made is,
// without any note of ours.
func (m *Manager) existing(ctx context.Context, c Cluster) (*Doer, error) {
	do, err := m.open(ctx, c)
	if err == nil && do.Known.Record == nil && !c.Adopted() {
		err = ErrNoCluster
	}
	return do, err
}

// Protected reports whether a cluster is protected from deletion.
func (m *Manager) Protected(ctx context.Context, c Cluster) (bool, error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return false, err
	}
	return do.Known.protected(c), nil
}

// protected reports whether a cluster is protected from deletion. One that somebody else
// made is, until a note says something else.
func (k Known) protected(c Cluster) bool {
	if k.Record == nil {
		return c.Adopted()
	}
	return k.Record.DeletionProtection
}

// Alone keeps other processes, and other operations of this one, from doing the same at
// once with a formation: what is named, for people.
func (m *Manager) Alone(ctx context.Context, c Cluster, key, what string) (context.Context, func(), error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	return m.only(ctx, do, c.Etcd.Key()+c.shared(key), c.shared("lock/"+key), what, 0)
}

// Literal is a text as SQL has it.
func Literal(s string) string { return quoteLiteral(s) }
