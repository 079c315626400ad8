package follow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Manager puts agents on hosts and takes them off.
type Manager struct {
	*patroni.Manager
}

// Note is what etcd has of an agent.
type Note struct {
	Nodes map[string]Node `json:"nodes"` // where it may be
	// Spec is what it is to be, for whoever takes it up without a state. Nothing in it is secret.
	Spec json.RawMessage `json:"spec"`
}

// Note reads the note about an agent; nil if there is none.
func (m Manager) Note(ctx context.Context, a Agent) (*Note, error) {
	all, err := m.Notes(ctx, a.Cluster, a.noteKey())
	text, there := all[""]
	if err != nil || !there {
		return nil, err
	}
	n := new(Note)
	if err := json.Unmarshal([]byte(text), n); err != nil {
		return nil, fmt.Errorf("what etcd has noted about %s cannot be read: %w", a.Subject, err)
	}
	return n, nil
}

// Lock keeps other applies away from an agent.
func (m Manager) Lock(ctx context.Context, a Agent, what string) (context.Context, func(), error) {
	return m.Alone(ctx, a.Cluster, a.noteKey(), what+" "+a.Subject)
}

// Seen is what there is of an agent on all hosts that it is to be on, or is no more to be.
type Seen struct {
	Agent  Agent
	Known  patroni.Known
	Before *Note
	Nodes  map[string]Node
	Facts  map[string]Facts
	Gone   map[string]Node
	Left   map[string]Facts
}

// Purpose is what a look is for.
type Purpose int

const (
	// ToPlan: every node that is named has to be one, and nothing is changed.
	ToPlan Purpose = iota
	// ToApply is ToPlan, but package lists that lack the version are renewed.
	ToApply
	// ToRead: nodes that are named may have been destroyed since.
	ToRead
)

// See looks at all hosts.
func (m Manager) See(ctx context.Context, a Agent, names []string, purpose Purpose) (s Seen, err error) {
	s = Seen{Agent: a, Gone: map[string]Node{}}
	if s.Known, err = m.Known(ctx, a.Cluster); err != nil {
		return s, err
	}
	if purpose == ToRead {
		names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { _, there := s.Known.Nodes[name]; return !there })
	}
	if s.Before, err = m.Note(ctx, a); err != nil {
		return s, err
	}
	if s.Nodes, err = a.Nodes(s.Known, names); err != nil {
		return s, err
	}
	if s.Before != nil {
		for name, n := range s.Before.Nodes {
			if now, stays := s.Nodes[name]; !stays || now.Target.Address != n.Target.Address {
				s.Gone[name] = n
			}
		}
	}
	return s, m.look(ctx, &s, purpose == ToApply)
}

func (m Manager) look(ctx context.Context, s *Seen, lists bool) (err error) {
	a := s.Agent
	s.Facts, err = Everywhere(s.Nodes, func(n Node) (Facts, error) {
		h := m.Fleet.Host(n.Target)
		f, err := a.Probe(ctx, h)
		if err != nil || !lists || !a.listsAreStale(f) {
			return f, err
		}
		if err := (remote.Apt{Host: h, Log: m.Log}).UpdateLists(ctx); err != nil {
			return f, err
		}
		return a.Probe(ctx, h)
	})
	if err != nil {
		return err
	}
	for _, name := range Sorted(s.Nodes) {
		if o := s.Facts[name].Owner; o != nil && o.UID != a.Cluster.UID {
			return &problem.Error{
				Host: s.Nodes[name].Target.Name, Step: CannotBe, Cause: fmt.Errorf("%s is of another cluster, %s, on this host", a.Subject, o.Cluster), Left: "everything on the host.",
				Do: "choose another one, or destroy the resource of that cluster first.",
			}
		}
	}
	s.Left, err = Everywhere(s.Gone, func(n Node) (Facts, error) {
		f, err := a.Probe(ctx, m.Fleet.Host(n.Target))
		if _, known := s.Known.Nodes[n.Name]; host.Unreachable(err) && !known {
			// Neither a node any more, nor there. If it came back, its agent would ask a
			// Patroni that is in no cluster.
			m.Log.WarnContext(ctx, "the host of a former node cannot be reached: what was there stays", "host", n.Target.Name, "of", a.Subject)
			return Facts{}, nil
		}
		return f, err
	})
	return err
}

// Absent reports whether neither etcd nor a host knows anything of the agent.
func (s Seen) Absent() bool {
	absent := s.Before == nil
	for _, f := range s.Facts {
		absent = absent && f.Owner == nil
	}
	return absent
}

// Observable tells apart what a look that was to read has failed with: that there is nothing,
// or what is drift, since an apply would refuse it.
func Observable(err error) (absent bool, drift []string, failed error) {
	var refused *problem.Error
	switch {
	case errors.Is(err, patroni.ErrNoCluster):
		return true, nil, nil
	case errors.As(err, &refused) && refused.Step == CannotBe:
		return false, []string{refused.Error()}, nil
	}
	return false, nil, err
}

// CannotBe is the step in which something is refused that the hosts cannot have.
const CannotBe = "see whether the hosts can have it"

// Run carries a plan out. Etcd notes all hosts before anything is on one of them, so that
// whoever comes after a run that was cut off knows where to look.
func (m Manager) Run(ctx context.Context, s Seen, spec any, plan engine.Plan, then ...engine.Step) error {
	all := map[string]Node{}
	for _, nodes := range []map[string]Node{s.Gone, s.Nodes} {
		for name, n := range nodes {
			all[name] = n
		}
	}
	note := func(id string, nodes map[string]Node) engine.Step {
		return engine.Step{ID: s.Agent.Kind + id, Title: "note in etcd where " + s.Agent.Subject + " may be", Do: func(ctx context.Context) error {
			text, err := json.Marshal(spec)
			if err != nil {
				return err
			}
			if text, err = json.Marshal(Note{nodes, text}); err != nil {
				return err
			}
			return m.Manager.Note(ctx, s.Agent.Cluster, s.Agent.noteKey(), string(text))
		}}
	}
	whole := engine.Sequence(note(".note", all)).ThenPlan(plan)
	if len(s.Gone) > 0 {
		whole = whole.Then(note(".note.rest", s.Nodes))
	}
	return engine.Run(ctx, whole.Then(then...), m.Observe)
}

// Destroy takes an agent off all hosts that it may be on. Between is done when none of them
// runs any more, and all that is for them is still there; it is told on which hosts.
func (m Manager) Destroy(ctx context.Context, a Agent, names []string, between func(on []Node) []engine.Step) error {
	ctx, done, err := m.Lock(ctx, a, "removing")
	if err != nil {
		return err
	}
	defer done()
	s := Seen{Agent: a, Gone: map[string]Node{}}
	if s.Known, err = m.Known(ctx, a.Cluster); err != nil && !errors.Is(err, patroni.ErrNoCluster) {
		return err
	}
	if s.Before, err = m.Note(ctx, a); err != nil {
		return err
	}
	if s.Before != nil {
		s.Gone = s.Before.Nodes
	}
	for _, name := range names {
		if r, there := s.Known.Nodes[name]; there {
			s.Gone[name] = Node{r.Name, r.Address, r.Target}
		}
	}
	if err := m.look(ctx, &s, false); err != nil {
		return err
	}
	var steps []engine.Step
	if between != nil {
		var on []Node
		for _, name := range Sorted(s.Gone) {
			if f := s.Left[name]; f.Owner != nil && a.isOn(f) {
				on = append(on, s.Gone[name])
			}
		}
		steps = between(on)
	}
	forget := engine.Step{ID: a.Kind + ".unnote", Title: "forget " + a.Subject + " in etcd", Do: func(ctx context.Context) error {
		return m.Manager.Note(ctx, a.Cluster, a.noteKey(), "")
	}}
	return engine.Run(ctx, m.leave(s, steps...).Then(forget), m.Observe)
}
