package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// What the lab has not got is left out, and said; what fails ends the run.
func TestSkipped(t *testing.T) {
	measured := func(name string) benchmark {
		return benchmark{name, "", 2, func(_ context.Context, _ *suite, runs int) ([]Result, error) {
			return []Result{samples{float64(runs)}.result(name, "s")}, nil
		}}
	}
	fails := func(name string, err error) benchmark {
		return benchmark{name, "", 2, func(context.Context, *suite, int) ([]Result, error) { return nil, err }}
	}
	missing := fails("missing", fmt.Errorf("%w: no package", errSkip))

	s := &suite{}
	results, err := s.measure(t.Context(), []benchmark{missing, measured("a")}, 0)
	if err != nil || len(results) != 1 || results[0].Name != "a" || results[0].Value != 2 {
		t.Errorf("%v, %v", results, err)
	}
	if len(s.skipped) != 1 || !strings.Contains(s.skipped[0], "SKIPPED: missing: ") || !strings.Contains(s.skipped[0], "no package") {
		t.Errorf("skipped: %q", s.skipped)
	}

	s = &suite{}
	results, err = s.measure(t.Context(), []benchmark{measured("a"), fails("b", errors.New("broken")), measured("c")}, 1)
	if err == nil || len(results) != 1 || len(s.skipped) != 0 {
		t.Errorf("%v, %v, skipped: %q", results, err, s.skipped)
	}
}
