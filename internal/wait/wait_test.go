package wait

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var errNoAnswer = errors.New("no answer")

// A wait looks every second for ten seconds, the last time at nine: the end
// comes half a second before the next look.
func TestUntil(t *testing.T) {
	for name, c := range map[string]struct {
		// check is the n-th look, from 1.
		check func(ctx context.Context, n int) (bool, string, error)
		cause error         // why the time is up
		want  string        // the error, empty for none
		took  time.Duration // 9.5 s if zero
	}{
		"true the third time": {
			check: func(_ context.Context, n int) (bool, string, error) { return n == 3, "", nil },
			took:  2 * time.Second,
		},
		"an error that passes": {
			check: func(_ context.Context, n int) (bool, string, error) {
				if n == 1 {
					return false, "", errNoAnswer
				}
				return true, "", nil
			},
			took: time.Second,
		},
		"hopeless": {
			check: func(_ context.Context, n int) (bool, string, error) {
				if n == 2 {
					return false, "", fmt.Errorf("look: %w", Never(errors.New("this is a desert")))
				}
				return false, "", nil
			},
			want: "this is a desert", took: time.Second,
		},
		"never": {
			check: func(_ context.Context, n int) (bool, string, error) { return false, fmt.Sprintf("%d clouds", n), nil },
			want:  "gave up waiting for rain after 10s: 10 clouds",
		},
		"never, with errors": {
			check: func(context.Context, int) (bool, string, error) { return false, "", errNoAnswer },
			want:  "gave up waiting for rain after 10s: no answer",
		},
		"an error that is over": {
			check: func(_ context.Context, n int) (bool, string, error) {
				if n < 5 {
					return false, "", errNoAnswer
				}
				return false, "clouds", nil
			},
			want: "gave up waiting for rain after 10s: clouds",
		},
		// Such a look says only that time is up, which is no news.
		"a look that the end cuts off": {
			check: func(ctx context.Context, n int) (bool, string, error) {
				if n < 5 {
					return false, "clouds", nil
				}
				<-ctx.Done()
				return false, "pg1 does not answer: " + ctx.Err().Error(), nil
			},
			want: "gave up waiting for rain after 10s: clouds",
		},
		"ended for a reason": {
			check: func(context.Context, int) (bool, string, error) { return false, "", nil },
			cause: errors.New("the lock was lost"), want: "gave up waiting for rain after 10s (the lock was lost)",
		},
		"interrupted": {
			check: func(context.Context, int) (bool, string, error) { return false, "clouds", nil },
			cause: context.Canceled, want: "interrupted while waiting for rain: clouds",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeoutCause(t.Context(), 9500*time.Millisecond, c.cause)
				defer cancel()
				begin, n := time.Now(), 0
				err := Until(ctx, slog.New(slog.DiscardHandler), "rain", time.Second, func(ctx context.Context) (bool, string, error) {
					n++
					return c.check(ctx, n)
				})
				said := ""
				if err != nil {
					said = err.Error()
				}
				if said != c.want {
					t.Errorf("the error is %q, want %q", said, c.want)
				}
				want := c.took
				if want == 0 {
					want = 9500 * time.Millisecond
				}
				if took := time.Since(begin); took != want {
					t.Errorf("it took %s, want %s", took, want)
				}
			})
		})
	}
}

// The cause of what was waited for in vain can be asked for.
func TestUntilKeepsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := Until(ctx, slog.New(slog.DiscardHandler), "rain", time.Second, func(context.Context) (bool, string, error) { return false, "", errNoAnswer })
		if !errors.Is(err, errNoAnswer) {
			t.Errorf("the error is %v", err)
		}
	})
}

// What a wait is for, and why it goes on, is logged once for each change.
func TestUntilLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		n := 0
		_ = Until(t.Context(), log, "rain", time.Second, func(context.Context) (bool, string, error) {
			n++
			return n == 9, map[bool]string{true: "sun", false: "clouds"}[n < 5], nil
		})
		for text, times := range map[string]int{`msg="waiting for rain"`: 1, "because=sun": 1, "because=clouds": 1, `msg="done waiting for rain" took=8s`: 1} {
			if got := strings.Count(out.String(), text); got != times {
				t.Errorf("%q is logged %d times, want %d:\n%s", text, got, times, out.String())
			}
		}
	})
}
