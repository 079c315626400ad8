package patroni

import (
	"cmp"
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
	Scope     string `json:"-"`
	Namespace string `json:"-"` // "/service/"

	// UID tells this cluster from another one of the same scope. It is made
	// when the cluster is first created and kept in etcd: a node that does
	// not find it there never initialises a database.
	UID string `json:"-"`

	Etcd etcd.Access `json:"-"`

	PostgresPort int      `json:"postgresql_port"`
	APIPort      int      `json:"rest_api_port"`
	Users        Users    `json:"users"`
	APIAllowlist []string `json:"rest_api_allowlist"` // besides the members and the node itself
	Initdb       Initdb   `json:"initdb"`
	// TTL and LoopWait are Patroni's, in seconds, zero if they are not known. A
	// node's watchdog has to fit them.
	TTL      int64 `json:"-"`
	LoopWait int64 `json:"-"`
	// TakeOver: the database is not made, but is there already.
	TakeOver TakeOver `json:"take_over,omitzero"`
	// Citus is nil unless it is a group of a Citus formation.
	Citus *Citus `json:"citus,omitempty"`
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
	return "/" + strings.Trim(c.Namespace, "/") + "/" + c.Name() + "/"
}

// own is where we keep what we know about the cluster. Only our own etcd user
// may read it.
func (c Cluster) own(key string) string {
	return "/pgha/patroni" + c.Prefix() + key
}

// queue is where operations on the cluster take turns within this process. Clusters in
// several datacenters have the same scope.
func (c Cluster) queue() string { return c.Etcd.Key() + c.own("") }

// Keys of Patroni's own (Patroni, dcs/__init__.py).
func (c Cluster) initializeKey() string        { return c.Prefix() + "initialize" }
func (c Cluster) leaderKey() string            { return c.Prefix() + "leader" }
func (c Cluster) configKey() string            { return c.Prefix() + "config" }
func (c Cluster) membersPrefix() string        { return c.Prefix() + "members/" }
func (c Cluster) memberKey(name string) string { return c.membersPrefix() + name }
func (c Cluster) nodeKey(name string) string   { return c.own("nodes/") + name }
func (c Cluster) announcePrefix() string       { return c.own("announced/") }
func (c Cluster) recordKey() string            { return c.own("record") }
func (c Cluster) systemIDKey() string          { return c.own("system_id") }
func (c Cluster) secretsKey() string           { return c.shared("secrets") }
func (c Cluster) authorityKey() string         { return c.shared("authority") }
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
	// EtcdUser: the cluster has had a user in etcd.
	EtcdUser bool `json:"etcd_user,omitempty"`
	// Rollout is how changes that take a node out of service go over the cluster; nil
	// is DefaultRollout.
	Rollout *Rollout `json:"rollout,omitempty"`
	// Origin is where the passwords are from that a group of a formation wants, which has
	// them in common with the other groups; nil of another cluster.
	Origin *Origin `json:"origin,omitempty"`
	// Owned are the paths of the dynamic configuration that are managed;
	// everything else in it was made by somebody else.
	Owned []string `json:"owned,omitempty"`
	// Cluster is what its nodes have to know, for whoever takes it up without
	// having made it. Scope, namespace and etcd are not in it.
	Cluster *Cluster `json:"cluster,omitempty"`
}

// Secrets are the cluster's passwords. They live in etcd, under a prefix that
// only our own user may read, and in each node's own file.
type Secrets struct {
	Superuser   string `json:"superuser"`
	Replication string `json:"replication"`
	Rewind      string `json:"rewind"`
	API         string `json:"restapi"`
	Etcd        string `json:"etcd"` // of the cluster's etcd user
	// EtcdUser is the name of that user, empty for the one that a cluster begins
	// with: a new password comes with a new user, so that no node ever holds a
	// login that etcd rejects.
	EtcdUser string `json:"etcd_user,omitempty"`
	// LogsIn: the cluster has a user in etcd, whether authentication is on or not.
	// Its nodes go on giving it: a Patroni that has logged in before and cannot
	// any more is refused by an etcd without authentication, for its old token.
	LogsIn bool `json:"-"`
	// Origin says where each of them is from.
	Origin Origin `json:"origin"`
}

// Origin says of each account which password it has: "made:2" is one that was
// made for that number of the attribute rotation, "brought:3" one that the user
// brought with that password_wo_version. Another origin than the one noted asks
// for another password.
type Origin struct {
	Superuser   string `json:"superuser,omitempty"`
	Replication string `json:"replication,omitempty"`
	Rewind      string `json:"rewind,omitempty"`
	API         string `json:"restapi,omitempty"`
	Etcd        string `json:"etcd,omitempty"`
}

// Made is the origin of a password that was made for a rotation.
func Made(rotation int64) string { return fmt.Sprintf("made:%d", rotation) }

// Brought is the origin of a password that was brought with a version.
func Brought(version int64) string { return fmt.Sprintf("brought:%d", version) }

// or fills in what an origin leaves open, and what is still open then: passwords
// that were made with the cluster.
func (o Origin) or(other Origin) Origin {
	return Origin{
		Superuser: cmp.Or(o.Superuser, other.Superuser, Made(0)), Replication: cmp.Or(o.Replication, other.Replication, Made(0)),
		Rewind: cmp.Or(o.Rewind, other.Rewind, Made(0)), API: cmp.Or(o.API, other.API, Made(0)), Etcd: cmp.Or(o.Etcd, other.Etcd, Made(0)),
	}
}

// NewSecrets makes passwords.
func NewSecrets() Secrets {
	return Secrets{
		Superuser: etcd.NewPassword(), Replication: etcd.NewPassword(), Rewind: etcd.NewPassword(),
		API: etcd.NewPassword(), Etcd: etcd.NewPassword(),
	}
}

// storedSecrets is how they are kept: while they are being changed, those that
// come next beside those that are in force, in one value that changes at once.
type storedSecrets struct {
	Secrets
	Next *Secrets `json:"next,omitempty"`
}

// etcdUser is the name of the cluster's user in etcd.
func (s Secrets) etcdUser(c Cluster) string { return cmp.Or(s.EtcdUser, c.etcdUser()) }

// otherEtcdUser is the name of the user that comes after that.
func (s Secrets) otherEtcdUser(c Cluster) string {
	if s.EtcdUser != "" {
		return ""
	}
	return c.etcdUser() + "@2"
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
	etcd.Login
	etcd.ClientTrust
}

// Known is what etcd knows about a cluster: our notes and Patroni's keys.
type Known struct {
	Record  *Record
	Secrets *Secrets
	// Next are the secrets that a change which is not finished gives the
	// cluster; each of them may be in force already, or not yet.
	Next      *Secrets
	Authority []byte
	// Trusted are the authorities of other datacenters, which the nodes trust, too.
	Trusted []byte
	Nodes   map[string]NodeRecord
	// Announced are the nodes that are being made now.
	Announced []NodeRecord
	// Extension is the version that Citus's extension is to have in all groups of the
	// formation, empty if that is left to the user.
	Extension string
	// Restored says what this is from, if it has not been compared with the nodes yet:
	// etcd was restored, or the cluster is being taken up from its nodes.
	Restored string
	// EtcdLogin is the password of the cluster's user in etcd, of a cluster that
	// somebody else made; empty if it has none.
	EtcdLogin string
	// SystemID is our own note of the system identifier, empty until there is a
	// database. It outlives Patroni's key.
	SystemID string

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

// Timing is what the nodes go by, in seconds: ttl and loop_wait.
func (k Known) Timing() (ttl, loopWait int64) {
	ttl, loopWait = 30, 10
	if v, ok := Int(k.Config["ttl"]); ok {
		ttl = v
	}
	if v, ok := Int(k.Config["loop_wait"]); ok {
		loopWait = v
	}
	return ttl, loopWait
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
	// PendingRestart: it runs with other parameters than the configuration has; which,
	// from Patroni 3.3 on.
	PendingRestart bool           `json:"pending_restart"`
	PendingReason  map[string]any `json:"pending_restart_reason"`
}

// MemberStatus is Patroni's /status key.
type MemberStatus struct {
	Optime      int64            `json:"optime"`
	Slots       map[string]int64 `json:"slots"`
	RetainSlots []string         `json:"retain_slots"`
}

// Load reads everything that etcd knows, in two requests; three for a Citus group.
func (c Cluster) Load(ctx context.Context, kv etcd.Client) (Known, error) {
	k := Known{Nodes: map[string]NodeRecord{}, Members: map[string]Member{}}
	own, err := kv.List(ctx, c.own(""))
	if err != nil {
		return k, err
	}
	if c.Citus != nil {
		shared, err := kv.List(ctx, c.shared(""))
		if err != nil {
			return k, err
		}
		own = append(own, shared...)
	}
	var errs []error
	read := func(e etcd.KeyValue, into any) {
		if err := readJSON(e, into); err != nil {
			errs = append(errs, err)
		}
	}
	for _, e := range own {
		switch name, isNode := strings.CutPrefix(e.Key, c.own("nodes/")); {
		case e.Key == c.recordKey():
			k.Record = new(Record)
			read(e, k.Record)
		case e.Key == c.secretsKey():
			var stored storedSecrets
			read(e, &stored)
			k.Secrets, k.Next = &stored.Secrets, stored.Next
		case strings.HasPrefix(e.Key, c.announcePrefix()):
			var n NodeRecord
			e.Value, _, _ = strings.Cut(e.Value, "\n") // what follows is about the lock
			read(e, &n)
			k.Announced = append(k.Announced, n)
		case e.Key == etcd.RestoredKey(c.own("")):
			k.Restored = e.Value
		case c.Citus != nil && e.Key == c.extensionKey():
			k.Extension = e.Value
		case e.Key == c.loginKey():
			k.EtcdLogin = e.Value
		case e.Key == c.systemIDKey():
			k.SystemID = e.Value
		case e.Key == c.authorityKey():
			k.Authority = []byte(e.Value)
		case e.Key == c.trustedKey():
			k.Trusted = []byte(e.Value)
		case isNode:
			var n NodeRecord
			read(e, &n)
			k.Nodes[name] = n
		}
	}
	for _, s := range []*Secrets{k.Secrets, k.Next} {
		if s != nil && k.Record != nil {
			s.LogsIn = k.Record.EtcdUser
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
	k.complete(c)
	return k, errors.Join(errs...)
}

// Require says what is missing for a node to be part of the cluster.
func (c Cluster) Require(k Known) error {
	if c.Adopted() {
		return c.present(k)
	}
	switch {
	case k.Record == nil || k.Secrets == nil || len(k.Authority) == 0:
		return &problem.Error{
			Step:  "look the cluster up in etcd",
			Cause: fmt.Errorf("etcd %s knows nothing of the Patroni cluster %q", c.Etcd.Name, c.Name()),
			Left:  "everything on the host.",
			Do: "apply the pgha_patroni_cluster resource. If etcd lost its data while databases exist, restore etcd first, " +
				"and name the nodes in recover_from of the cluster.",
		}
	case c.UID != "" && k.Record.UID != c.UID:
		return &problem.Error{
			Step:  "look the cluster up in etcd",
			Cause: fmt.Errorf("etcd %s knows another Patroni cluster %q (uid %s, not %s)", c.Etcd.Name, c.Name(), k.Record.UID, c.UID),
			Left:  "everything on the host.",
			Do:    "refresh and plan again: the cluster was made anew since this plan.",
		}
	}
	return nil
}

// readJSON reads a value that putJSON has written.
func readJSON(e etcd.KeyValue, into any) error {
	if err := json.Unmarshal([]byte(e.Value), into); err != nil {
		return fmt.Errorf("etcd key %s cannot be read: %w", e.Key, err)
	}
	return nil
}

// putJSON writes a value as JSON.
func putJSON(ctx context.Context, kv etcd.Client, key string, v any) error {
	text, err := jsonText(v)
	if err != nil {
		return err
	}
	return kv.Put(ctx, key, text)
}

func jsonText(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}
