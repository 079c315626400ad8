package fakehost

import (
	"errors"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// Fault looks at a call that is about to be made and may spoil it.
type Fault func(Call) Verdict

// Verdict is what happens to a call. The zero Verdict lets it be.
type Verdict struct {
	// Err is what the caller gets.
	Err error
	// After: the call does its work first. Otherwise it is not made.
	After bool
	// Crash ends the process with this call.
	Crash bool
	// Slow lets the call take longer, by the caller's clock.
	Slow time.Duration
}

// Kind is an error of a kind, for faults that do not know the host.
func Kind(k host.Kind) error { return kindError(k) }

type kindError host.Kind

// KindOf returns the kind of what Kind made.
func KindOf(err error) (host.Kind, bool) {
	var k kindError
	ok := errors.As(err, &k)
	return host.Kind(k), ok
}

func (k kindError) Error() string { return host.Kind(k).String() }

// CrashBefore ends the process when it is about to change something for the
// k-th time; CrashAfter lets that change be made, and its answer be lost.
func CrashBefore(k int) Fault { return crash(k, false) }

// CrashAfter is described with CrashBefore.
func CrashAfter(k int) Fault { return crash(k, true) }

func crash(k int, after bool) Fault {
	return func(c Call) Verdict {
		if c.Mutation != k {
			return Verdict{}
		}
		return Verdict{Err: ErrCrashed, Crash: true, After: after}
	}
}

// FailNth spoils the k-th change once.
func FailNth(k int, v Verdict) Fault {
	return func(c Call) Verdict {
		if c.Mutation != k {
			return Verdict{}
		}
		return v
	}
}

// FailCall spoils the calls that match, as often as given; a negative number is
// always. It is for one process.
func FailCall(match func(Call) bool, times int, v Verdict) Fault {
	return func(c Call) Verdict {
		if times == 0 || !match(c) {
			return Verdict{}
		}
		times--
		return v
	}
}

// Named matches calls by their name, on one host or, if it is empty, on all.
func Named(name, host string) func(Call) bool {
	return func(c Call) bool { return c.Name == name && (host == "" || c.Host == host) }
}
