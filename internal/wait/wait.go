// Package wait polls for conditions, says what it waits for, and stops early
// when the condition can no longer come true.
package wait

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Never wraps an error that says that waiting on is pointless: Until returns
// it at once, while it takes any other error for a passing one.
func Never(err error) error { return &never{err} }

type never struct{ err error }

func (n *never) Error() string { return n.err.Error() }
func (n *never) Unwrap() error { return n.err }

// Until asks check again and again until it reports true. What it is waiting
// for is logged once, and whatever progress check reports, each time that it
// changes. When ctx ends first, the error says what was waited for, how long,
// and the last progress or error.
func Until(ctx context.Context, log *slog.Logger, what string, every time.Duration, check func(context.Context) (done bool, progress string, err error)) error {
	begin := time.Now()
	var last string
	var lastErr error
	timer := time.NewTimer(0)
	defer timer.Stop()
	log.InfoContext(ctx, "waiting for "+what)
	for {
		select {
		case <-ctx.Done():
			return stopped(ctx, what, time.Since(begin), last, lastErr)
		case <-timer.C:
		}
		done, progress, err := check(ctx)
		var n *never
		switch {
		case errors.As(err, &n):
			return n.err
		case err != nil && ctx.Err() == nil:
			lastErr = err
			if e := err.Error(); e != last {
				last = e
				log.InfoContext(ctx, "still waiting for "+what, "because", e)
			}
		case done:
			log.InfoContext(ctx, "done waiting for "+what, "took", time.Since(begin).Round(time.Millisecond).String())
			return nil
		case err == nil && ctx.Err() == nil: // else it may only say that time is up
			lastErr = nil
			if progress != "" && progress != last {
				last = progress
				log.InfoContext(ctx, "still waiting for "+what, "because", progress)
			}
		}
		timer.Reset(every)
	}
}

func stopped(ctx context.Context, what string, took time.Duration, last string, lastErr error) error {
	reason := fmt.Sprintf("gave up waiting for %s after %s", what, took.Round(time.Second))
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, context.Canceled):
		reason = "interrupted while waiting for " + what
	case !errors.Is(cause, context.DeadlineExceeded):
		reason += " (" + cause.Error() + ")"
	}
	if lastErr != nil {
		return fmt.Errorf("%s: %w", reason, lastErr)
	}
	if last != "" {
		return fmt.Errorf("%s: %s", reason, last)
	}
	return errors.New(reason)
}
