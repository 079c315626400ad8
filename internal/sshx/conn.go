package sshx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// conn is a connection that has logged in.
//
// There may be a thousand, so it has one goroutine of its own, besides those of
// x/crypto, and a timer.
type conn struct {
	fleet *Fleet
	addr  string
	ssh   ssh.Conn
	raw   *listening
	slots slots
	kept  kept
	// keepless is set where no session can be kept: the host lacks what it takes.
	keepless atomic.Bool

	dead chan struct{}

	mu      sync.Mutex
	cause   error
	timer   *time.Timer // keepalive
	silent  int         // intervals without a sign of life
	pinging bool
}

// listening notes when the other side said something.
type listening struct {
	net.Conn
	heard atomic.Bool
}

func (l *listening) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 && !l.heard.Load() {
		l.heard.Store(true)
	}
	return n, err
}

// adopt makes a conn of a connection that has logged in.
func (f *Fleet) adopt(sc ssh.Conn, raw *listening, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request, addr string) (*conn, error) {
	c := &conn{fleet: f, addr: addr, ssh: sc, raw: raw, dead: make(chan struct{})}
	c.slots.init(f.cfg.MaxSessions, f.cfg.SessionWait, c.kept.yield)
	c.kept.crowded, c.kept.all = c.slots.crowded, &f.idle
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errClosed
	}
	f.conns[c] = struct{}{}
	c.mu.Lock()
	c.timer = time.AfterFunc(f.cfg.KeepaliveInterval, c.listen)
	c.mu.Unlock()
	f.wg.Go(func() { c.serve(chans, reqs) })
	return c, nil
}

// serve answers what the server asks, with no, until the connection ends.
func (c *conn) serve(chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	for chans != nil || reqs != nil {
		select {
		case ch, ok := <-chans:
			if !ok {
				chans = nil
				continue
			}
			ch.Reject(ssh.Prohibited, "nothing is served here")
		case r, ok := <-reqs:
			if !ok {
				reqs = nil
				continue
			}
			if r.WantReply {
				r.Reply(false, nil)
			}
		}
	}
	c.kill(c.ssh.Wait())
}

// kill ends the connection. The first cause counts.
func (c *conn) kill(cause error) {
	c.mu.Lock()
	if c.cause != nil {
		c.mu.Unlock()
		return
	}
	if cause == nil {
		cause = net.ErrClosed
	}
	c.cause = cause
	if c.timer != nil {
		c.timer.Stop()
	}
	// Under the mutex: who comes second must find it dead, too.
	close(c.dead)
	c.mu.Unlock()
	// Not ssh.Conn's Close, which waits for a writer that may be stuck.
	c.raw.Close()
	c.fleet.mu.Lock()
	delete(c.fleet.conns, c)
	c.fleet.mu.Unlock()
}

func (c *conn) isDead() bool {
	select {
	case <-c.dead:
		return true
	default:
		return false
	}
}

// lost returns why the connection ended, nil if it did not.
func (c *conn) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		return nil
	}
	return fmt.Errorf("the connection to %s ended: %w", c.addr, c.cause)
}

// lostBy is lost for who has just seen the end of a channel, which comes a
// moment before the end of the connection that caused it.
func (c *conn) lostBy() error {
	t := time.NewTimer(20 * time.Millisecond)
	defer t.Stop()
	select {
	case <-c.dead:
	case <-t.C:
	}
	return c.lost()
}

// listen runs once per keepalive interval. Whatever the server sends is a sign
// of life; a silent one is asked for one. The answer may be a refusal.
func (c *conn) listen() {
	interval, limit := c.fleet.cfg.KeepaliveInterval, c.fleet.cfg.KeepaliveMax
	heard := c.raw.heard.Swap(false)
	c.mu.Lock()
	switch {
	case heard:
		c.silent = 0
	case c.pinging:
		c.silent++
	}
	dead := c.silent >= limit
	ping := !dead && !heard && !c.pinging && c.cause == nil
	if ping {
		c.pinging = true
	}
	if !dead && c.cause == nil {
		c.timer.Reset(interval)
	}
	c.mu.Unlock()

	if dead {
		c.kill(fmt.Errorf("no answer to %d keepalives, %s apart", limit, interval))
		return
	}
	if ping {
		// It blocks until there is an answer, or the connection is dead.
		err := c.fleet.start(func() {
			c.ssh.SendRequest("keepalive@openssh.com", true, nil)
			c.mu.Lock()
			c.pinging = false
			c.mu.Unlock()
		})
		if err != nil {
			c.kill(err)
		}
	}
}

// openChannel is ssh.Conn's OpenChannel with a context. A channel that opens
// after the context has ended is closed.
func (c *conn) openChannel(ctx context.Context, kind string, extra []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	type opened struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
		err  error
	}
	got := make(chan opened)
	err := c.fleet.start(func() {
		ch, reqs, err := c.ssh.OpenChannel(kind, extra)
		select {
		case got <- opened{ch, reqs, err}:
		case <-ctx.Done():
			if err == nil {
				ch.Close()
				ssh.DiscardRequests(reqs)
			}
		}
	})
	if err != nil {
		return nil, nil, err
	}
	select {
	case o := <-got:
		var refused *ssh.OpenChannelError
		if o.err != nil && !errors.As(o.err, &refused) {
			// Only a connection that is no more does not even refuse.
			c.kill(o.err)
		}
		return o.ch, o.reqs, o.err
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}
