// Package roll keeps changes to running clusters apart and in a safe order:
// locks across processes, gates before and after a member's turn.
package roll

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// How a lock on a host is kept: the holder sends a line every heartbeat, and
// the host frees the lock when none came for expiry.
const (
	heartbeat = 5 * time.Second
	expiry    = 20 * time.Second
	// settle is how long the host itself waits for a lock before it says
	// that it is busy; whoever wants it asks again.
	settle = 2 * time.Second
)

// ErrLockLost is the cause of a context that was cancelled because a lock
// could not be kept.
var ErrLockLost = errors.New("the lock that keeps other applies out was lost")

// LockHosts takes a lock on a majority of the hosts, in the given order, which
// must be the same for everybody. It is what there is before etcd is, and for
// etcd itself. While somebody else has it, it waits until ctx ends and then
// says who.
//
// The returned context is cancelled when the lock is lost. The release
// function gives it back in bounded time.
func LockHosts(ctx context.Context, log *slog.Logger, path, holder string, hosts []host.Host) (context.Context, func(), error) {
	need := len(hosts)/2 + 1
	held, cancel := context.WithCancelCause(ctx)
	var locks []*hostLock
	release := func() {
		cancel(context.Canceled)
		for _, l := range locks {
			l.release()
		}
	}
	var errs []error
	told := "" // who has it, as far as we heard
	lost := func() func(host.Host, error) {
		var mu sync.Mutex
		n := 0
		return func(h host.Host, why error) {
			mu.Lock()
			defer mu.Unlock()
			if n++; len(locks)-n < need {
				cancel(&problem.Error{Host: h.Name(), Cause: fmt.Errorf("%w: %w", ErrLockLost, why)})
			}
		}
	}()
	for _, h := range hosts {
		l, err := lockHost(ctx, log, h, path, holder, &told, func(why error) { lost(h, why) })
		if err != nil {
			errs = append(errs, err)
			if !host.Unreachable(err) || len(hosts)-len(errs) < need {
				release()
				return nil, nil, errors.Join(errs...)
			}
			continue
		}
		locks = append(locks, l)
	}
	return held, release, nil
}

// Hold says who we are to others who want the lock.
func Hold(what string, runner string) string {
	return fmt.Sprintf("%s, from %s, since %s", what, runner, time.Now().UTC().Format(time.RFC3339))
}

func lockHost(ctx context.Context, log *slog.Logger, h host.Host, path, holder string, told *string, lost func(why error)) (*hostLock, error) {
	for {
		l, busy, err := tryLock(ctx, h, path, holder, lost)
		switch {
		case l != nil:
			return l, nil
		case err != nil && ctx.Err() != nil && *told != "":
			// Our time was up while we asked again. It went to them, on this host or
			// on one before it.
			return nil, heldBy(h.Name(), *told)
		case err != nil:
			return nil, err
		}
		if busy != *told {
			log.InfoContext(ctx, "waiting for a lock", "host", h.Name(), "held by", busy)
			*told = busy
		}
		if ctx.Err() != nil {
			return nil, heldBy(h.Name(), busy)
		}
	}
}

const lockStep = "lock out other applies"

func heldBy(name, holder string) error {
	if holder == "" {
		holder = "somebody who did not say who they are"
	}
	return &problem.Error{
		Host: name, Step: lockStep,
		Cause: errors.New("another apply is at work: " + holder),
		Left:  "everything.",
		Do:    fmt.Sprintf("let it finish and apply again. If it was killed, its lock is free %s after that.", expiry),
	}
}

func tryLock(ctx context.Context, h host.Host, path, holder string, lost func(why error)) (_ *hostLock, busy string, err error) {
	proc, err := h.Start(ctx, host.Cmd{
		Name: "flock.hold", Script: remote.LockScript(),
		Args: []string{path, strings.ReplaceAll(holder, "\n", " "), strconv.Itoa(int(settle.Seconds())), strconv.Itoa(int(expiry.Seconds()))},
	})
	if err != nil {
		return nil, "", err
	}
	line, err := bufio.NewReader(io.LimitReader(proc.Stdout(), 4096)).ReadString('\n')
	line = strings.TrimSpace(line)
	switch {
	case line == "locked":
		l := &hostLock{proc: proc, stop: make(chan struct{})}
		l.done.Go(func() { l.beat(lost) })
		return l, "", nil
	case strings.HasPrefix(line, "busy"):
		_ = proc.Close()
		return nil, strings.TrimSpace(strings.TrimPrefix(line, "busy")), nil
	}
	waitErr := proc.Wait()
	_ = proc.Close()
	if waitErr != nil {
		return nil, "", waitErr
	}
	return nil, "", fmt.Errorf("host %s: cannot take the lock %s: unexpected answer %q (%v)", h.Name(), path, line, err)
}

type hostLock struct {
	proc host.Process
	stop chan struct{}
	once sync.Once
	done sync.WaitGroup
}

// beat feeds the lock until it is released, or cannot be fed any more.
func (l *hostLock) beat(lost func(why error)) {
	t := time.NewTicker(heartbeat)
	defer t.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-t.C:
			if _, err := io.WriteString(l.proc.Stdin(), "beat\n"); err != nil {
				lost(l.why(err))
				return
			}
		}
	}
}

// why is what ended the script: that it cannot be written to says little.
func (l *hostLock) why(err error) error {
	ended := make(chan error, 1)
	go func() { ended <- l.proc.Wait() }()
	select {
	case why := <-ended:
		if why != nil {
			return why
		}
	case <-time.After(2 * time.Second):
	}
	return err
}

// release ends the script's input, upon which it frees the lock.
func (l *hostLock) release() {
	l.once.Do(func() {
		close(l.stop)
		l.done.Wait()
		_ = l.proc.Stdin().Close()
		ended := make(chan struct{})
		go func() {
			_ = l.proc.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(2 * time.Second):
		}
		_ = l.proc.Close()
	})
}
