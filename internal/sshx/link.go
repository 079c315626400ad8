package sshx

import (
	"context"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// linkKey says what makes two connections the same.
type linkKey struct {
	addr, user, hostKey string
	via                 string // the hops before it
}

// link is the place of the one connection to a server. It exists from the first
// mention of the server to the end of the fleet; its connections come and go.
type link struct {
	fleet  *Fleet
	hop    hop
	parent *link // the jump host before it, if any

	dials shared[*conn]
	boots shared[*conn]

	mu     sync.Mutex
	cur    *conn
	failed *failure // last failure outside of a boot context, and when
	at     time.Time
	booted bool // cloud-init has been waited for

	waitingFor *failure // why the host is not up yet
}

// live returns the connection if there is one that works.
func (l *link) live() *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur != nil && l.cur.isDead() {
		l.cur = nil
	}
	return l.cur
}

// attempt returns the connection, after one attempt to make it if there is
// none. All who need it at the same time share the attempt.
//
// A failed attempt tells how long it took, without its waiting for a turn.
func (l *link) attempt(ctx context.Context) (*conn, time.Duration, error) {
	if c := l.live(); c != nil {
		return c, 0, nil
	}
	c, err := l.dials.do(ctx, l.fleet.start, func(ctx context.Context) (*conn, error) {
		ctx, cancel := l.fleet.until(ctx)
		defer cancel()
		if c := l.live(); c != nil {
			return c, nil
		}
		c, took, err := l.dial(ctx)
		if err == nil {
			return l.keep(c), nil
		}
		if l.fleet.ctx.Err() != nil {
			err = errClosed
		}
		return nil, &attemptError{err: err, took: took}
	})
	if failed, ok := err.(*attemptError); ok {
		return nil, failed.took, failed.err
	}
	return c, 0, err
}

// attemptError takes the duration of an attempt through the shared call.
type attemptError struct {
	err  error
	took time.Duration
}

func (e *attemptError) Error() string { return e.err.Error() }

// keep makes c the connection of the link, unless another attempt, begun when
// nobody seemed to wait for this one any more, was faster.
func (l *link) keep(c *conn) *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur != nil && !l.cur.isDead() {
		c.kill(errClosed)
		return l.cur
	}
	l.cur = c
	l.failed = nil
	return c
}

// passage returns the connection for one who goes on from there to another host.
// It is attempt, but of a hundred hosts behind a jump host that does not answer,
// only the first ones find that out by waiting.
func (l *link) passage(ctx context.Context) (*conn, error) {
	if host.Booting(ctx) {
		c, _, err := l.attempt(ctx)
		return c, err
	}
	if c := l.live(); c != nil {
		return c, nil
	}
	if f := l.recent(); f != nil {
		return nil, f.within("tried a moment ago")
	}
	c, _, err := l.attempt(ctx)
	// What failed at once is worth another attempt at once.
	if f := asFailure(err); f != nil && f.kind != host.KindCanceled && !f.brief {
		l.remember(f)
	}
	return c, err
}

// recent returns the last failure while it is fresh. Who did not get there a
// moment ago will not get there now, and a plan asks once per resource.
func (l *link) recent() *failure {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil || time.Since(l.at) >= l.fleet.cfg.FailureMemory {
		return nil
	}
	return l.failed
}

// remember makes f the recent failure. Host keys are not remembered: that they
// are not accepted is found out at once, and somebody may be adding them.
func (l *link) remember(f *failure) {
	if f.kind == host.KindHostKey {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed, l.at = f, time.Now()
}
