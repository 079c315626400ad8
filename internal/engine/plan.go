// Package engine holds plans as data and runs them.
//
// A planner is a pure function from a wanted state and facts to a Plan: it
// does no input or output, so a plan can be shown to a person, compared in a
// test, and run, and all three are about the same thing. What a run that was
// cut off left undone is found by probing and planning again; Done closes the
// gap between the probe and the step's turn.
package engine

import (
	"context"
	"fmt"
	"strings"
)

// Risk is what a step does to service, in rising order.
type Risk int

const (
	// Safe steps are not noticed by anybody who uses the cluster.
	Safe Risk = iota
	// Reload makes a running server read its configuration again.
	Reload
	// Restart stops and starts one member.
	Restart
	// Switchover moves the leader's role to another member: writes pause.
	Switchover
	// Destructive steps remove data or a member for good.
	Destructive
)

func (r Risk) String() string {
	switch r {
	case Safe:
		return "safe"
	case Reload:
		return "reload"
	case Restart:
		return "restart"
	case Switchover:
		return "switchover"
	case Destructive:
		return "destructive"
	}
	return fmt.Sprintf("risk %d", int(r))
}

// Step is one thing to do on one host, or in the cluster as a whole.
type Step struct {
	// ID is stable across versions, such as "patroni.config.write".
	ID string

	// Host is the name of the host; empty for the cluster as a whole.
	Host string

	// Title says what happens, for people: "write /etc/patroni/config.yml".
	Title string

	Risk Risk

	// Done re-checks whether there is still something to do. It is asked
	// right before Do, and right after it, where it must hold. Nil means
	// that Do itself is idempotent and reports its own failure.
	Done func(ctx context.Context) (bool, error)

	// Do does it. It is idempotent.
	Do func(ctx context.Context) error
}

// Plan is a list of steps, in which some stretches run side by side.
type Plan struct {
	parts []part
}

// part is one step, or lanes that run side by side.
type part struct {
	step  *Step
	lanes []Plan
}

// Sequence returns a plan of the given steps in order.
func Sequence(steps ...Step) Plan {
	var p Plan
	return p.Then(steps...)
}

// Then returns the plan with steps added at its end.
func (p Plan) Then(steps ...Step) Plan {
	parts := p.parts[:len(p.parts):len(p.parts)]
	for i := range steps {
		s := steps[i]
		parts = append(parts, part{step: &s})
	}
	return Plan{parts}
}

// ThenPlan returns the plan with another one added at its end.
func (p Plan) ThenPlan(q Plan) Plan {
	return Plan{append(p.parts[:len(p.parts):len(p.parts)], q.parts...)}
}

// ThenParallel returns the plan with lanes added that run side by side; what
// follows waits for all of them.
func (p Plan) ThenParallel(lanes ...Plan) Plan {
	var full []Plan
	for _, l := range lanes {
		if !l.Empty() {
			full = append(full, l)
		}
	}
	switch len(full) {
	case 0:
		return p
	case 1:
		return p.ThenPlan(full[0])
	}
	return Plan{append(p.parts[:len(p.parts):len(p.parts)], part{lanes: full})}
}

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.parts) == 0 }

// Steps returns all steps in the order in which a person would read them:
// lanes one after the other.
func (p Plan) Steps() []Step {
	var steps []Step
	for _, part := range p.parts {
		if part.step != nil {
			steps = append(steps, *part.step)
		}
		for _, l := range part.lanes {
			steps = append(steps, l.Steps()...)
		}
	}
	return steps
}

// Risk returns the highest risk of any step.
func (p Plan) Risk() Risk {
	risk := Safe
	for _, s := range p.Steps() {
		risk = max(risk, s.Risk)
	}
	return risk
}

// Describe lists the steps of at least the given risk, a line each.
func (p Plan) Describe(least Risk) []string {
	var lines []string
	for _, s := range p.Steps() {
		if s.Risk < least {
			continue
		}
		where := s.Host
		if where == "" {
			where = "cluster"
		}
		lines = append(lines, fmt.Sprintf("%s: %s (%s)", where, s.Title, s.Risk))
	}
	return lines
}

// String lists the steps' ids and hosts, for tests and debug logs: lanes in
// braces.
func (p Plan) String() string {
	var parts []string
	for _, part := range p.parts {
		if part.step != nil {
			s := part.step.ID
			if part.step.Host != "" {
				s += "@" + part.step.Host
			}
			parts = append(parts, s)
			continue
		}
		var lanes []string
		for _, l := range part.lanes {
			lanes = append(lanes, l.String())
		}
		parts = append(parts, "{"+strings.Join(lanes, " | ")+"}")
	}
	return strings.Join(parts, ", ")
}
