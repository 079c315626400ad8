package fakefleet

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/prepare"
	"github.com/pgha/terraform-provider-pgha/internal/redact"
	"github.com/pgha/terraform-provider-pgha/internal/roll"
	"github.com/pgha/terraform-provider-pgha/internal/vip"
)

// Process is one run of the provider on the fleet, with the managers that its
// resources use and the clients that they share.
type Process struct {
	*fakehost.Process
	Fleet  *Fleet
	Log    *slog.Logger
	Redact *redact.Set
	Queues *roll.Queues
	Opener func(context.Context, etcd.Access) (etcd.Client, error)

	mu      sync.Mutex
	out     bytes.Buffer
	clients map[string]etcd.Client
	steps   []engine.Event
}

// Start starts a run. What it logs is looked through for secrets at the end of
// the test.
func (f *Fleet) Start(name string, faults ...fakehost.Fault) *Process {
	p := &Process{
		Process: f.Process(name, faults...), Fleet: f, Redact: new(redact.Set), Queues: new(roll.Queues), clients: map[string]etcd.Client{},
	}
	p.Opener = f.Etcd.Opener(p.Process)
	p.Log = slog.New(slog.NewTextHandler(writer{p}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f.TB.Cleanup(func() {
		if leaks := f.Leaks(p.Output()); len(leaks) > 0 {
			f.TB.Errorf("the log of %s has secrets in it: %v", name, leaks)
		}
	})
	return p
}

type writer struct{ p *Process }

func (w writer) Write(b []byte) (int, error) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	return w.p.out.Write(b)
}

// Output is what the run has logged so far.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// Steps are the steps that were finished, in order.
func (p *Process) Steps() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for _, e := range p.steps {
		if e.State == engine.Finished {
			list = append(list, e.Step.ID+"@"+e.Step.Host)
		}
	}
	return list
}

func (p *Process) observe(ctx context.Context, e engine.Event) {
	p.mu.Lock()
	p.steps = append(p.steps, e)
	p.mu.Unlock()
	text := ""
	if e.Err != nil {
		text = p.Redact.Apply(e.Err.Error())
	}
	p.Log.DebugContext(ctx, "step", "id", e.Step.ID, "host", e.Step.Host, "state", string(e.State), "error", text)
}

// client opens a cluster's client once.
func (p *Process) client(ctx context.Context, a etcd.Access) (etcd.Client, error) {
	p.mu.Lock()
	c := p.clients[a.Key()]
	p.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := p.Opener(ctx, a)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients[a.Key()] = c
	return c, nil
}

// EtcdManager manages etcd clusters.
func (p *Process) EtcdManager() *etcd.Manager {
	do := etcd.NewDoer(p, p.Log)
	do.Open = p.Opener
	return &etcd.Manager{Doer: do, Observe: p.observe, Now: time.Now, Runner: p.Name}
}

// PatroniManager manages Patroni clusters and nodes.
func (p *Process) PatroniManager() *patroni.Manager {
	m := &patroni.Manager{
		Fleet: p, Log: p.Log, Observe: p.observe, Now: time.Now, Runner: p.Name, Redact: p.Redact, Queues: p.Queues, Etcd: p.client,
	}
	m.Arrived = vip.New(m).Arrived
	return m
}

// HostManager prepares hosts.
func (p *Process) HostManager() *prepare.Manager {
	return &prepare.Manager{Fleet: p, Log: p.Log, Observe: p.observe, Runner: p.Name}
}

// EtcdSpec is an etcd cluster "dcs" on the first three hosts, or on all if there
// are fewer.
func (f *Fleet) EtcdSpec() etcd.Spec {
	s := etcd.Spec{
		Name: "dcs", Version: EtcdVersion, Members: map[string]etcd.Member{}, ClientPort: 2379, PeerPort: 2380, TLS: true, Auth: true,
		Heartbeat: 100 * time.Millisecond, Election: time.Second, QuotaBytes: 2 << 30, CompactionRetention: time.Hour,
		Files: f.Files, PatroniFiles: f.PatroniFiles,
	}
	for i, m := range f.Machines() {
		if i < 3 {
			s.Members[m.Name] = etcd.Member{Address: m.Address, Target: Target(m)}
		}
	}
	return s
}

// Target is how a machine is reached.
func Target(m *fakehost.Machine) host.Target { return host.Target{Name: m.Name, Address: m.Address} }

// ClusterSpec is a Patroni cluster "main" on the etcd cluster.
func (f *Fleet) ClusterSpec() patroni.ClusterSpec {
	return patroni.ClusterSpec{
		Cluster: patroni.Cluster{
			Scope: Scope, Namespace: "/service/", Etcd: f.EtcdSpec().Access(), PostgresPort: 5432, APIPort: 8008,
			Users:  patroni.Users{Superuser: "postgres", Replication: "replicator", Rewind: "rewind_user", API: "patroni"},
			Initdb: patroni.Initdb{Locale: "C.UTF-8", Encoding: "UTF8", DataChecksums: true},
		},
		Wanted: patroni.Settings{
			"ttl": int64(30), "loop_wait": int64(10), "retry_timeout": int64(10), "postgresql/use_pg_rewind": true,
			"postgresql/pg_hba":                  []string{"local all all peer", "hostssl all all samenet scram-sha-256", "hostssl replication replicator samenet scram-sha-256"},
			patroni.Parameter("max_connections"): "200", patroni.Parameter("work_mem"): "16MB",
		},
		DeletionProtection: true,
	}
}

// Node is the node of the cluster on a machine.
func (f *Fleet) Node(m *fakehost.Machine, uid string) patroni.Node {
	c := f.ClusterSpec().Cluster
	c.UID = uid
	return patroni.Node{
		Cluster: c, Name: m.Name, Address: m.Address, Target: Target(m), Postgres: PostgresVersion, Patroni: PatroniVersion,
		DataDir: "/var/lib/postgresql/17/" + Scope,
	}
}

// Create does what applying a whole configuration does: etcd, then the cluster,
// then a node on every host, side by side.
func (p *Process) Create(ctx context.Context) error {
	if _, err := p.EtcdManager().Apply(ctx, p.Fleet.EtcdSpec()); err != nil {
		return err
	}
	applied, err := p.PatroniManager().ApplyCluster(ctx, p.Fleet.ClusterSpec())
	if err != nil {
		return err
	}
	return p.ApplyNodes(ctx, applied.UID, p.Fleet.Machines()...)
}

// ApplyNodes applies nodes side by side.
func (p *Process) ApplyNodes(ctx context.Context, uid string, machines ...*fakehost.Machine) error {
	return p.Each(machines, func(m *fakehost.Machine) error {
		return p.PatroniManager().ApplyNode(ctx, p.Fleet.Node(m, uid))
	})
}

// DestroyNodes destroys nodes side by side.
func (p *Process) DestroyNodes(ctx context.Context, uid string, purge bool, machines ...*fakehost.Machine) error {
	return p.Each(machines, func(m *fakehost.Machine) error {
		return p.PatroniManager().DestroyNode(ctx, p.Fleet.Node(m, uid), purge)
	})
}

// Each does something for all machines side by side.
func (p *Process) Each(machines []*fakehost.Machine, f func(*fakehost.Machine) error) error {
	errs := make([]error, len(machines))
	var wg sync.WaitGroup
	for i, m := range machines {
		wg.Go(func() { errs[i] = f(m) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
