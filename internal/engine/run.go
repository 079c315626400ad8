package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Event is what an Observer is told.
type Event struct {
	Time  time.Time
	Index int // of the step among Total, from 1, in the order of starting
	Total int
	Step  Step
	State State
	Took  time.Duration // with Finished, Skipped and Failed
	Err   error         // with Failed
}

// State is where a step has come to.
type State string

const (
	// Started: the step's turn has come.
	Started State = "started"
	// Skipped: Done said that there is nothing left to do.
	Skipped State = "skipped"
	// Finished: it is done.
	Finished State = "finished"
	// Failed: it returned an error; nothing after it is started.
	Failed State = "failed"
)

// Observer is told of each step as it starts and ends. It may be called from
// several goroutines at once.
type Observer func(context.Context, Event)

// Run runs a plan. The first failure halts it: steps that are under way side
// by side are let finish, and nothing new is started. The error names the
// host and the step; several failures in lanes are joined.
func Run(ctx context.Context, p Plan, observe Observer) error {
	if observe == nil {
		observe = func(context.Context, Event) {}
	}
	r := &run{observe: observe, total: len(p.Steps())}
	return r.plan(ctx, p)
}

// GoOn is what to do after a failure that does not say it itself: every step
// can be cut off and run again.
const GoOn = "once the cause is gone, run the same again: it goes on from here."

// left is what is left as it is when a step fails that does not say it itself.
func (e Event) left() string {
	return fmt.Sprintf("what this step (%d of %d) and those after it had not changed yet.", e.Index, e.Total)
}

// because names what has ended the context, a lost lock for example, where the error
// knows only that it was ended.
func because(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause == nil || cause == ctx.Err() {
		return err
	}
	if parts := problem.Parts(err); len(parts) > 1 {
		var errs []error
		for _, e := range parts {
			errs = append(errs, because(ctx, e))
		}
		return errors.Join(errs...)
	}
	var p, of *problem.Error
	lost := errors.As(cause, &of)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		if !errors.As(err, &p) {
			return cause
		}
		// What was to be done about a failure of the step itself is beside the point.
		said := problem.Error{Host: p.Host, Step: p.Step, Left: p.Left, Cause: cause}
		if lost && of.Host == p.Host {
			said.Cause = of.Cause
		}
		return &said
	case lost:
		return problem.Fill(err, problem.Error{Host: of.Host})
	}
	return err
}

type run struct {
	observe Observer
	total   int
	started atomic.Int64
	halted  atomic.Bool
}

func (r *run) plan(ctx context.Context, p Plan) error {
	for _, part := range p.parts {
		if r.halted.Load() {
			return nil
		}
		var err error
		if part.step != nil {
			err = r.step(ctx, *part.step)
		} else {
			err = r.lanes(ctx, part.lanes)
		}
		if err != nil {
			r.halted.Store(true)
			return err
		}
	}
	return nil
}

func (r *run) lanes(ctx context.Context, lanes []Plan) error {
	errs := make([]error, len(lanes))
	var wg sync.WaitGroup
	for i, l := range lanes {
		wg.Go(func() { errs[i] = r.plan(ctx, l) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (r *run) step(ctx context.Context, s Step) (err error) {
	e := Event{Index: int(r.started.Add(1)), Total: r.total, Step: s}
	begin := time.Now()
	tell := func(state State, err error) {
		e.Time, e.State, e.Err = time.Now(), state, err
		if state != Started {
			e.Took = e.Time.Sub(begin)
		}
		r.observe(ctx, e)
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("internal error, please report it: %v", v)
		}
		if err != nil {
			err = because(ctx, err)
			err = problem.Fill(err, problem.Error{Host: s.Host, Step: s.Title, Left: e.left(), Do: GoOn})
			tell(Failed, err)
		}
	}()

	tell(Started, nil)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if s.Done != nil {
		done, err := s.Done(ctx)
		if err != nil {
			return err
		}
		if done {
			tell(Skipped, nil)
			return nil
		}
	}
	if err := s.Do(ctx); err != nil {
		return err
	}
	if s.Done != nil {
		done, err := s.Done(ctx)
		if err != nil {
			return err
		}
		if !done {
			return errors.New("the step ran without an error, but a check afterwards says that it is not done")
		}
	}
	tell(Finished, nil)
	return nil
}
