package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// recorder makes steps and notes what becomes of them.
type recorder struct {
	mu   sync.Mutex
	said []string
}

func (r *recorder) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

func (r *recorder) observe(_ context.Context, e Event) {
	r.note("%s %d/%d %s", e.Step.ID, e.Index, e.Total, e.State)
}

// step takes a while and then ends with err.
func (r *recorder) step(id string, took time.Duration, err error) Step {
	return Step{ID: id, Host: "h-" + id, Title: "do " + id, Do: func(context.Context) error {
		time.Sleep(took) // in virtual time
		return err
	}}
}

func (r *recorder) is(t *testing.T, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, r.said); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
}

func TestRunInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		p := Sequence(r.step("a", 0, nil)).
			ThenParallel(Sequence(r.step("slow", 2*time.Second, nil)), Sequence(r.step("quick", time.Second, nil), r.step("next", 1500*time.Millisecond, nil))).
			Then(r.step("z", 0, nil))
		if err := Run(t.Context(), p, func(ctx context.Context, e Event) {
			if e.State == Finished {
				r.observe(ctx, e)
			}
		}); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(r.said, ",")
		// Which of two lanes starts first is open.
		got = strings.NewReplacer("slow 2/", "slow ?/", "slow 3/", "slow ?/", "quick 2/", "quick ?/", "quick 3/", "quick ?/").Replace(got)
		if want := "a 1/5 finished,quick ?/5 finished,slow ?/5 finished,next 4/5 finished,z 5/5 finished"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

// The first failure halts: what is under way is let finish, and nothing new is
// started, in no lane.
func TestRunHalts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		p := Plan{}.ThenParallel(
			Sequence(r.step("bad", time.Second, errors.New("broken"))),
			Sequence(r.step("long", 3*time.Second, nil), r.step("never", 0, nil)),
		).Then(r.step("after", 0, nil))
		var ended []string
		err := Run(t.Context(), p, func(_ context.Context, e Event) {
			if e.State != Started {
				r.mu.Lock()
				defer r.mu.Unlock()
				ended = append(ended, e.Step.ID+" "+string(e.State))
			}
		})
		if d := cmp.Diff([]string{"bad failed", "long finished"}, ended); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		if err == nil || err.Error() != "host h-bad: do bad: broken" {
			t.Errorf("the error is %v", err)
		}
	})
}

// All failures of steps that ran side by side are told.
func TestRunJoinsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		one, two := errors.New("one"), errors.New("two")
		err := Run(t.Context(), Plan{}.ThenParallel(
			Sequence(r.step("a", time.Second, one)), Sequence(r.step("b", time.Second, two)), Sequence(r.step("c", 0, nil)),
		), nil)
		if !errors.Is(err, one) || !errors.Is(err, two) {
			t.Errorf("the error is %v", err)
		}
		if d := problem.Details(err); !strings.Contains(d, "Host: h-a") || !strings.Contains(d, "Host: h-b") {
			t.Errorf("details:\n%s", d)
		}
	})
}

// Done says whether there is still something to do, and afterwards whether it
// was done.
func TestRunAsksDone(t *testing.T) {
	for name, c := range map[string]struct {
		before, after bool
		fails         error
		want          []string
		says          string
	}{
		"done before":      {before: true, want: []string{"a 1/1 started", "a 1/1 skipped"}},
		"done by it":       {after: true, want: []string{"a 1/1 started", "did", "a 1/1 finished"}},
		"not done by it":   {want: []string{"a 1/1 started", "did", "a 1/1 failed"}, says: "a check afterwards says that it is not done"},
		"cannot be looked": {fails: errors.New("no answer"), want: []string{"a 1/1 started", "a 1/1 failed"}, says: "no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			var r recorder
			state := c.before
			err := Run(t.Context(), Sequence(Step{
				ID: "a", Done: func(context.Context) (bool, error) { return state, c.fails },
				Do: func(context.Context) error { r.note("did"); state = c.after; return nil },
			}), r.observe)
			r.is(t, c.want...)
			if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// An interrupted run starts nothing, and says why it was interrupted.
func TestRunInterrupted(t *testing.T) {
	var r recorder
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the lock was lost"))
	err := Run(ctx, Sequence(Step{ID: "a", Host: "h", Do: func(context.Context) error { r.note("did"); return nil }}), r.observe)
	r.is(t, "a 1/1 started", "a 1/1 failed")
	if err == nil || !strings.Contains(err.Error(), "the lock was lost") {
		t.Errorf("the error is %v", err)
	}
}

// A mistake in a step does not take the whole provider with it, which would
// leave locks behind and say nothing.
// A step that is ended because of something says because of what, whatever the
// error of whoever noticed it knows.
func TestRunSaysWhatEndedIt(t *testing.T) {
	lost := &problem.Error{Host: "pg1", Cause: errors.New("the lock was lost")}
	for name, c := range map[string]struct {
		cause error
		err   error
		want  problem.Error
	}{
		"only that it was ended": {lost, fmt.Errorf("canceled: %w", context.Canceled), problem.Error{Host: "pg1", Step: "wait", Cause: lost.Cause}},
		"more than that":         {lost, errors.New("gave up (the lock was lost)"), problem.Error{Host: "pg1", Step: "wait", Cause: errors.New("gave up (the lock was lost)")}},
		"another host's":         {lost, &problem.Error{Host: "pg2", Cause: errors.New("down")}, problem.Error{Host: "pg2", Step: "wait", Cause: errors.New("down")}},
		"that a step was ended": {lost, &problem.Error{Host: "pg1", Cause: fmt.Errorf("canceled: %w", context.Canceled), Log: []string{"x"}, Left: "all", Do: "read the log"},
			problem.Error{Host: "pg1", Step: "wait", Cause: lost.Cause, Left: "all", Do: GoOn}},
		"that another host's was": {lost, &problem.Error{Host: "pg2", Cause: context.Canceled}, problem.Error{Host: "pg2", Step: "wait", Cause: lost}},
		"of two, one was ended":   {lost, errors.Join(&problem.Error{Host: "pg1", Cause: errors.New("still running"), Do: "stop it"}, context.Canceled), problem.Error{Host: "pg1", Step: "wait", Cause: errors.New("still running")}},
		"a timeout":               {errors.New("the create timeout has passed"), context.DeadlineExceeded, problem.Error{Step: "wait", Cause: errors.New("the create timeout has passed")}},
		"the user":                {nil, context.Canceled, problem.Error{Step: "wait", Cause: context.Canceled}},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		err := Run(ctx, Sequence(Step{ID: "a", Title: "wait", Do: func(context.Context) error {
			cancel(c.cause)
			return c.err
		}}), nil)
		var got *problem.Error
		if !errors.As(err, &got) {
			t.Fatalf("%s: %v", name, err)
		}
		if got.Host != c.want.Host || got.Step != c.want.Step || got.Cause.Error() != c.want.Cause.Error() || got.Left == "" || got.Do == "" ||
			c.want.Left != "" && (got.Left != c.want.Left || got.Do != c.want.Do || got.Log != nil) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestRunSurvivesPanic(t *testing.T) {
	var r recorder
	err := Run(t.Context(), Sequence(Step{ID: "a", Host: "h", Title: "t", Do: func(context.Context) error { panic("oops") }}), r.observe)
	r.is(t, "a 1/1 started", "a 1/1 failed")
	if err == nil || !strings.Contains(err.Error(), "host h: t: internal error, please report it: oops") {
		t.Errorf("the error is %v", err)
	}
}
