package sshx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

const (
	// maxPause is the longest time between two dials to a host that boots.
	maxPause = 5 * time.Second

	// authPause is the shortest time after a rejected login. sshd (since
	// 9.8, PerSourcePenalties) shuts out for a while who fails more often
	// than about every five seconds.
	authPause = 4 * time.Second

	// logAgain is how often a wait for the same reason is logged.
	logAgain = 30 * time.Second
)

// connect returns a connection to the host. Under a boot context it waits for
// the host as long as the boot timeout; else it takes one connect timeout, or
// two attempts if the first one failed at once.
func (l *link) connect(ctx context.Context, name string) (*conn, *failure) {
	if host.Booting(ctx) {
		return l.connectBooting(ctx, name)
	}
	if c := l.live(); c != nil {
		return c, nil
	}
	if f := l.recent(); f != nil {
		return nil, f.within("tried a moment ago")
	}
	for try := 1; ; try++ {
		c, took, err := l.attempt(ctx)
		if err == nil {
			return c, nil
		}
		f := asFailure(err)
		if f.kind == host.KindCanceled {
			return nil, f
		}
		if try == 1 && f.brief && took < l.fleet.cfg.ConnectTimeout/2 && sleep(ctx, l.fleet.cfg.RetryDelay) == nil {
			continue
		}
		l.remember(f)
		return nil, f
	}
}

// connectBooting is shared by all who wait for the same host: ten resources that
// each knocked at a host which does not let them in yet would be shut out of it.
func (l *link) connectBooting(ctx context.Context, name string) (*conn, *failure) {
	if c := l.live(); c != nil && l.isBooted() {
		return c, nil
	}
	c, err := l.boots.do(ctx, l.fleet.start, func(ctx context.Context) (*conn, error) {
		ctx, cancel := l.fleet.until(ctx)
		defer cancel()
		c, f := l.awaitBoot(ctx, name)
		switch {
		case f == nil:
			return c, nil
		case l.fleet.ctx.Err() != nil:
			return nil, errClosed
		}
		return nil, f
	})
	f := asFailure(err)
	if last := l.reason(); f != nil && f.kind == host.KindCanceled && last != nil {
		return nil, &failure{kind: f.kind, err: fmt.Errorf("%w while waiting for the host to come up: %w", f.err, last)}
	}
	return c, f
}

// awaitBoot tries until the host is up or the boot timeout is over.
func (l *link) awaitBoot(ctx context.Context, name string) (*conn, *failure) {
	budget := l.fleet.cfg.BootTimeout
	waitCtx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	log := l.fleet.log.With("host", name, "addr", l.hop.addr())
	start := time.Now()
	var lastText string
	var logged time.Time
	l.setReason(nil)
	for pause := l.fleet.cfg.RetryDelay; ; pause = min(pause*2, maxPause) {
		c, _, err := l.attempt(waitCtx)
		if err == nil {
			err = l.awaitCloudInit(waitCtx, name, c)
		}
		if err == nil {
			if lastText != "" {
				log.InfoContext(ctx, "the host is up", "waited", time.Since(start).Round(time.Second))
			}
			return c, nil
		}
		f := asFailure(err)
		if f.kind != host.KindCanceled {
			if !f.passing {
				return nil, f
			}
			l.setReason(f)
			wait := pause
			if f.kind == host.KindAuth {
				wait = max(wait, authPause)
			}
			if text := f.Error(); text != lastText || time.Since(logged) >= logAgain {
				log.InfoContext(ctx, "waiting for the host to come up", "reason", l.fleet.cfg.Redact.Apply(text),
					"waited", time.Since(start).Round(time.Second), "at_most", budget)
				lastText, logged = text, time.Now()
			}
			_ = sleep(waitCtx, wait)
		}
		switch {
		case ctx.Err() != nil:
			return nil, asFailure(ctx.Err())
		case waitCtx.Err() != nil:
			f = l.reason()
			if f == nil {
				f = &failure{kind: host.KindUnreachable, err: errors.New("no attempt to connect came to an end")}
			}
			return nil, f.within(fmt.Sprintf("the host did not come up within %s", budget))
		}
	}
}

// reason is why the host is still being waited for.
func (l *link) reason() *failure {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waitingFor
}

func (l *link) setReason(f *failure) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waitingFor = f
}

func (l *link) isBooted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.booted
}

// sleep waits for about d, unless ctx ends. The tenth more or less keeps
// clients that started together from knocking together.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	d += time.Duration((rand.Float64() - 0.5) / 5 * float64(d))
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
