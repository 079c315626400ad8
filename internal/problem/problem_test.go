package problem

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var errCause = errors.New("no space left on device")

func full() *Error {
	return &Error{
		Host: "pg1", Step: "install packages", Cause: errCause, Log: []string{"dpkg: error", "E: sub-process"},
		Left: "the node, running.", Do: "free some space, then apply again.",
	}
}

func TestText(t *testing.T) {
	for want, err := range map[string]error{
		"host pg1: install packages: no space left on device": full(),
		"no space left on device":                             &Error{Cause: errCause},
		"host pg1: no space left on device":                   &Error{Host: "pg1", Cause: errCause},
		"install packages":                                    &Error{Step: "install packages"},
	} {
		if err.Error() != want {
			t.Errorf("%q, want %q", err.Error(), want)
		}
	}
	if !errors.Is(full(), errCause) {
		t.Error("the cause is lost")
	}
}

func TestDetails(t *testing.T) {
	const detail = `Host: pg1
Step: install packages
Cause: no space left on device
Log of the host:
  dpkg: error
  E: sub-process
Left as it is: the node, running.
What to do: free some space, then apply again.`
	second := &Error{Host: "pg2", Cause: errors.New("gone")}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"all fields":        {full(), detail},
		"wrapped":           {fmt.Errorf("apply: %w", full()), detail},
		"a plain error":     {errCause, "no space left on device"},
		"joined":            {errors.Join(full(), second), detail + "\n\nHost: pg2\nCause: gone"},
		"joined and nested": {errors.Join(errors.Join(full(), second), errCause), detail + "\n\nHost: pg2\nCause: gone\n\nno space left on device"},
		"one of several":    {fmt.Errorf("first: %w (%w)", errCause, errors.New("second")), "first: no space left on device (second)"},
		"a joined cause":    {&Error{Host: "pg1", Cause: errors.Join(errors.New("a"), errors.New("b"))}, "Host: pg1\nCause: a\nb"},
	} {
		if d := cmp.Diff(c.want, Details(c.err)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// Whoever passes an error on adds what it does not say yet, and the innermost
// place decides.
func TestIn(t *testing.T) {
	if In("h", "s", nil) != nil {
		t.Error("no error became one")
	}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"a plain error":     {errCause, "Host: outer\nStep: passing\nCause: no space left on device"},
		"one that has both": {&Error{Host: "pg1", Step: "install", Cause: errCause}, "Host: pg1\nStep: install\nCause: no space left on device"},
		"one without step":  {&Error{Host: "pg1", Cause: errCause}, "Host: pg1\nStep: passing\nCause: no space left on device"},
		"one without host":  {&Error{Step: "install", Cause: errCause}, "Host: outer\nStep: install\nCause: no space left on device"},
		"several": {
			errors.Join(&Error{Host: "pg1", Cause: errCause}, &Error{Cause: errors.New("second")}),
			"Host: pg1\nStep: passing\nCause: no space left on device\n\nHost: outer\nStep: passing\nCause: second",
		},
		"several plain ones": {errors.Join(errCause, errors.New("second")), "Host: outer\nStep: passing\nCause: no space left on device\nsecond"},
	} {
		err := In("outer", "passing", c.err)
		if d := cmp.Diff(c.want, Details(err)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		if name != "several" && !errors.Is(err, errCause) {
			t.Errorf("%s: the cause is lost", name)
		}
	}
}

// The error that was passed in stays as it was: it may be shared.
func TestInCopies(t *testing.T) {
	e := &Error{Cause: errCause}
	_ = In("h", "s", e)
	if e.Host != "" || e.Step != "" {
		t.Errorf("it was changed: %+v", e)
	}
}
