package patroni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Cluster is what all nodes of a Patroni cluster share and have to know. It
// holds no secrets: it is passed along between resources.
type Cluster struct {
	Scope     string
	Namespace string // "/service/"

	// UID tells this cluster from another one of the same scope. It is made
	// when the cluster is first created and kept in etcd: a node that does
	// not find it there never initialises a database.
	UID string

	Etcd etcd.Access

	PostgresPort int
	APIPort      int
	Users        Users
	APIAllowlist []string // besides the members and the node itself
	Initdb       Initdb
}

// Users are the names of the accounts that Patroni works with.
type Users struct {
	Superuser   string
	Replication string
	Rewind      string
	API         string // of the REST API's basic authentication
}

// Initdb is how the database is first made. It counts once.
type Initdb struct {
	Locale        string // such as "C.UTF-8"
	Encoding      string // such as "UTF8"
	DataChecksums bool
}

// Prefix is where Patroni keeps the cluster in etcd. It ends in "/": without
// it, the keys of a scope whose name begins the same would match, too.
func (c Cluster) Prefix() string {
	return "/" + strings.Trim(c.Namespace, "/") + "/" + c.Scope + "/"
}

// own is where we keep what we know about the cluster. Only our own etcd user
// may read it.
func (c Cluster) own(key string) string {
	return "/pgha/patroni" + c.Prefix() + key
}

// Keys of Patroni's own (Patroni, dcs/__init__.py).
func (c Cluster) initializeKey() string        { return c.Prefix() + "initialize" }
func (c Cluster) leaderKey() string            { return c.Prefix() + "leader" }
func (c Cluster) configKey() string            { return c.Prefix() + "config" }
func (c Cluster) membersPrefix() string        { return c.Prefix() + "members/" }
func (c Cluster) memberKey(name string) string { return c.membersPrefix() + name }
func (c Cluster) nodeKey(name string) string   { return c.own("nodes/") + name }
func (c Cluster) recordKey() string            { return c.own("record") }
func (c Cluster) secretsKey() string           { return c.own("secrets") }
func (c Cluster) authorityKey() string         { return c.own("authority") }
func (c Cluster) bootstrapKey() string         { return c.own("bootstrap") }
func (c Cluster) lockKey() string              { return c.own("lock") }
func (c Cluster) etcdUser() string             { return "patroni." + c.Scope }
func (c Cluster) authority() pki.Authority     { return pki.Authority{Name: "patroni-" + c.Scope} }
func (c Cluster) holders(f host.Fleet) []host.Host {
	var hosts []host.Host
	for _, n := range c.Etcd.Names() {
		hosts = append(hosts, f.Host(c.Etcd.Members[n].Target))
	}
	return hosts
}

// Record is what we note about a cluster in etcd.
type Record struct {
	UID                string `json:"uid"`
	DeletionProtection bool   `json:"deletion_protection"`
	// Released: the resource was destroyed and the data kept.
	Released bool `json:"released,omitempty"`
}

// Secrets are the cluster's passwords. They live in etcd, under a prefix that
// only our own user may read, and in each node's own file.
type Secrets struct {
	Superuser   string `json:"superuser"`
	Replication string `json:"replication"`
	Rewind      string `json:"rewind"`
	API         string `json:"restapi"`
	Etcd        string `json:"etcd"` // of the cluster's etcd user
}

// NewSecrets makes passwords.
func NewSecrets() Secrets {
	return Secrets{
		Superuser: etcd.NewPassword(), Replication: etcd.NewPassword(), Rewind: etcd.NewPassword(),
		API: etcd.NewPassword(), Etcd: etcd.NewPassword(),
	}
}

// all lists the secrets, for redaction.
func (s Secrets) all() []string {
	return []string{s.Superuser, s.Replication, s.Rewind, s.API, s.Etcd}
}

// NodeRecord is what we note about a node in etcd: how to reach its host, for
// whoever has to act on the whole cluster.
type NodeRecord struct {
	Name      string      `json:"name"`
	Address   string      `json:"address"`
	Target    host.Target `json:"target"`
	MachineID string      `json:"machine_id"`
	DataDir   string      `json:"data_dir"`
	Major     int         `json:"major"`
	Codename  string      `json:"codename"`
}

// Known is what etcd knows about a cluster: our notes and Patroni's keys.
type Known struct {
	Record    *Record
	Secrets   *Secrets
	Authority []byte
	Nodes     map[string]NodeRecord

	// Initialize is the system identifier; Initialized is false if the key
	// is not there, true with an empty Initialize while a node is at it.
	Initialize  string
	Initialized bool
	Leader      string // name of the member that holds the leader's lock
	// Config is the dynamic configuration; ConfigRevision is zero if there
	// is none.
	Config         Document
	ConfigRevision int64
	Members        map[string]Member
	// Status is Patroni's /status: last LSN and slots.
	Status MemberStatus
	// History is Patroni's /history: an entry for each timeline that ended.
	History [][]json.RawMessage
}

// Member is a member's own key.
type Member struct {
	Name    string         `json:"-"`
	ConnURL string         `json:"conn_url"`
	APIURL  string         `json:"api_url"`
	State   string         `json:"state"`
	Role    string         `json:"role"`
	Version string         `json:"version"` // of Patroni
	Tags    map[string]any `json:"tags"`
	Pause   bool           `json:"pause"`
}

// MemberStatus is Patroni's /status key.
type MemberStatus struct {
	Optime      int64            `json:"optime"`
	Slots       map[string]int64 `json:"slots"`
	RetainSlots []string         `json:"retain_slots"`
}

// Load reads everything that etcd knows, in two requests.
func (c Cluster) Load(ctx context.Context, kv etcd.Client) (Known, error) {
	k := Known{Nodes: map[string]NodeRecord{}, Members: map[string]Member{}}
	own, err := kv.List(ctx, c.own(""))
	if err != nil {
		return k, err
	}
	var errs []error
	read := func(e etcd.KeyValue, into any) {
		if err := json.Unmarshal([]byte(e.Value), into); err != nil {
			errs = append(errs, fmt.Errorf("etcd key %s cannot be read: %w", e.Key, err))
		}
	}
	for _, e := range own {
		switch name, isNode := strings.CutPrefix(e.Key, c.own("nodes/")); {
		case e.Key == c.recordKey():
			k.Record = new(Record)
			read(e, k.Record)
		case e.Key == c.secretsKey():
			k.Secrets = new(Secrets)
			read(e, k.Secrets)
		case e.Key == c.authorityKey():
			k.Authority = []byte(e.Value)
		case isNode:
			var n NodeRecord
			read(e, &n)
			k.Nodes[name] = n
		}
	}
	theirs, err := kv.List(ctx, c.Prefix())
	if err != nil {
		return k, err
	}
	for _, e := range theirs {
		switch name, isMember := strings.CutPrefix(e.Key, c.membersPrefix()); {
		case e.Key == c.initializeKey():
			k.Initialize, k.Initialized = e.Value, true
		case e.Key == c.leaderKey():
			k.Leader = e.Value
		case e.Key == c.configKey():
			k.ConfigRevision = e.Revision
			if k.Config, err = ParseDocument([]byte(e.Value)); err != nil {
				errs = append(errs, fmt.Errorf("etcd key %s: %w", e.Key, err))
			}
		case e.Key == c.Prefix()+"status":
			read(e, &k.Status)
		case e.Key == c.Prefix()+"history":
			read(e, &k.History)
		case isMember:
			m := Member{Name: name}
			read(e, &m)
			m.Name = name
			k.Members[name] = m
		}
	}
	return k, errors.Join(errs...)
}

// Require says what is missing for a node to be part of the cluster.
func (c Cluster) Require(k Known) error {
	switch {
	case k.Record == nil || k.Secrets == nil || len(k.Authority) == 0:
		return &problem.Error{
			Step:  "look the cluster up in etcd",
			Cause: fmt.Errorf("etcd %s knows nothing of the Patroni cluster %q", c.Etcd.Name, c.Scope),
			Left:  "everything on the host.",
			Do: "if etcd lost its data while databases exist, do not create the cluster anew: restore etcd first. " +
				"Otherwise apply the pgha_patroni_cluster resource.",
		}
	case c.UID != "" && k.Record.UID != c.UID:
		return &problem.Error{
			Step:  "look the cluster up in etcd",
			Cause: fmt.Errorf("etcd %s knows another Patroni cluster %q (uid %s, not %s)", c.Etcd.Name, c.Scope, k.Record.UID, c.UID),
			Left:  "everything on the host.",
			Do:    "refresh and plan again: the cluster was made anew since this plan.",
		}
	}
	return nil
}

// putJSON writes a value as JSON.
func putJSON(ctx context.Context, kv etcd.Client, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return kv.Put(ctx, key, string(b))
}
