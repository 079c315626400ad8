// Package base is what all resources share on Terraform's side: the services
// that the provider block configured, diagnostics from errors, logs, progress
// and timeouts.
package base

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/redact"
	"github.com/pgha/terraform-provider-pgha/internal/roll"
	"github.com/pgha/terraform-provider-pgha/internal/vip"
)

// Services is what Configure hands to every resource. Nothing in it has
// connected anywhere yet.
type Services struct {
	Fleet    host.Fleet
	Log      *slog.Logger
	Redact   *redact.Set
	Queues   *roll.Queues
	Progress *Progress
	// Runner says who we are to others who want a lock.
	Runner string
	// KeepUnreachable is on_unreachable = "keep".
	KeepUnreachable bool
	Now             func() time.Time
	// OpenEtcd opens a client; etcd.Access.Open but for tests.
	OpenEtcd func(ctx context.Context, a etcd.Access) (etcd.Client, error)

	mu   sync.Mutex
	etcd map[string]*etcdEntry
	// rollouts are the policies that were planned in this process, by cluster: nodes
	// are planned after their cluster, and what etcd has is the policy from before.
	rollouts map[string]*patroni.Rollout
	// planned are the clusters whose making was planned in this process: true for those that
	// are in the state, too.
	planned map[string]bool
}

// PlanCluster notes that a cluster is planned, and reports whether another resource is to make
// the same: neither knows of the other. One that is replaced is planned as one that there
// is, and then as one that is to be made.
func (s *Services) PlanCluster(c patroni.Cluster, exists bool) (twice bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.planned == nil {
		s.planned = map[string]bool{}
	}
	key := c.Etcd.Key() + " " + c.Prefix()
	had, seen := s.planned[key]
	s.planned[key] = had || exists
	return seen && !had && !exists
}

// MakeCluster notes that a planned cluster is being made now.
func (s *Services) MakeCluster(c patroni.Cluster) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.planned, c.Etcd.Key()+" "+c.Prefix())
}

// PlanRollout notes the policy that is planned for a cluster, nil for the default.
func (s *Services) PlanRollout(c patroni.Cluster, r *patroni.Rollout) {
	if r == nil {
		d := patroni.DefaultRollout()
		r = &d
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rollouts == nil {
		s.rollouts = map[string]*patroni.Rollout{}
	}
	s.rollouts[c.Etcd.Key()+c.Prefix()] = r
}

// PlannedRollout is the policy that was planned for a cluster in this process, nil if
// none was.
func (s *Services) PlannedRollout(c patroni.Cluster) *patroni.Rollout {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rollouts[c.Etcd.Key()+c.Prefix()]
}

// etcdEntry is one cluster's client, opened once for the whole process.
type etcdEntry struct {
	mu     sync.Mutex
	client etcd.Client
}

// Etcd returns the process's client of a cluster, opening it if need be. A
// failed attempt is not remembered.
func (s *Services) Etcd(ctx context.Context, a etcd.Access) (etcd.Client, error) {
	key := a.Key()
	s.mu.Lock()
	if s.etcd == nil {
		s.etcd = map[string]*etcdEntry{}
	}
	e := s.etcd[key]
	if e == nil {
		e = &etcdEntry{}
		s.etcd[key] = e
	}
	s.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client == nil {
		c, err := s.OpenEtcd(ctx, a)
		if err != nil {
			return nil, err
		}
		e.client = c
	}
	return e.client, nil
}

// ForgetEtcd closes the client of a cluster that has been changed or removed.
func (s *Services) ForgetEtcd(a etcd.Access) {
	s.mu.Lock()
	e := s.etcd[a.Key()]
	delete(s.etcd, a.Key())
	s.mu.Unlock()
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		_ = e.client.Close()
	}
}

// Patroni returns a manager for Patroni clusters and nodes. Resource is the
// resource's name for people, in progress lines.
func (s *Services) Patroni(resource string) *patroni.Manager {
	m := &patroni.Manager{
		Fleet: s.Fleet, Log: s.Log, Observe: s.Observer(resource), Now: s.Now, Runner: s.Runner,
		Redact: s.Redact, Queues: s.Queues, Etcd: func(ctx context.Context, a etcd.Access) (etcd.Client, error) {
			if err := a.ForPatroni(ctx, s.Fleet); err != nil {
				return nil, err
			}
			return s.Etcd(ctx, a)
		},
	}
	m.Arrived = vip.New(m).Arrived
	return m
}

// EtcdCluster returns a manager for etcd clusters. Done closes what it opened.
func (s *Services) EtcdCluster(resource string) (m *etcd.Manager, done func()) {
	do := etcd.NewDoer(s.Fleet, s.Log)
	do.Open = s.OpenEtcd
	return &etcd.Manager{Doer: do, Observe: s.Observer(resource), Now: s.Now, Runner: s.Runner}, do.Close
}

// EtcdReader is EtcdCluster for who only looks: it uses the process's client, so
// that nobody has to log in once more.
func (s *Services) EtcdReader(resource string) *etcd.Manager {
	m, _ := s.EtcdCluster(resource)
	m.Doer.Open = func(ctx context.Context, a etcd.Access) (etcd.Client, error) {
		c, err := s.Etcd(ctx, a)
		if err != nil {
			return nil, err
		}
		return kept{c}, nil
	}
	return m
}

// kept is a client that others use as well.
type kept struct{ etcd.Client }

// Close leaves it open.
func (kept) Close() error { return nil }

// Observer tells the log and the progress file about each step.
func (s *Services) Observer(resource string) engine.Observer {
	return func(ctx context.Context, e engine.Event) {
		attrs := []any{"resource", resource, "step", e.Step.ID, "host", e.Step.Host, "n", e.Index, "of", e.Total}
		switch e.State {
		case engine.Started:
			s.Log.InfoContext(ctx, "step: "+e.Step.Title, attrs...)
		case engine.Failed:
			s.Log.ErrorContext(ctx, "step failed: "+e.Step.Title, append(attrs, "error", e.Err.Error())...)
		default:
			s.Log.DebugContext(ctx, "step "+string(e.State)+": "+e.Step.Title, append(attrs, "took", e.Took.Round(time.Millisecond).String())...)
		}
		s.Progress.write(s.Redact, resource, e)
	}
}

// From takes the services out of what the framework hands to a resource's
// Configure. It is nil before the provider is configured (during validation).
func From(data any, diags *diag.Diagnostics) *Services {
	if data == nil {
		return nil
	}
	s, ok := data.(*Services)
	if !ok {
		diags.AddError("Unable to configure the provider", "The provider's data has an unexpected type. Please report this.")
	}
	return s
}
