package sshx

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// Fleet implements host.Fleet over SSH.
type Fleet struct {
	cfg     Config
	log     *slog.Logger
	signers []ssh.Signer
	keys    *keyring

	idle idlers

	// turns holds a place for each dial that may be under way.
	turns chan struct{}

	// ctx ends with the fleet.
	ctx  context.Context
	stop context.CancelFunc

	mu     sync.Mutex
	closed bool
	links  map[linkKey]*link
	conns  map[*conn]struct{}
	wg     sync.WaitGroup
}

var _ host.Fleet = (*Fleet)(nil)

// New checks the configuration and returns a fleet that has dialled nothing.
func New(cfg Config) (*Fleet, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	for _, k := range cfg.Keys {
		cfg.Redact.Add(string(k.PEM))
		cfg.Redact.Add(k.Passphrase)
	}
	cfg.Redact.Add(cfg.Password)
	cfg.Redact.Add(cfg.BecomePassword)

	f := &Fleet{
		cfg:   cfg,
		log:   cfg.Logger,
		turns: make(chan struct{}, cfg.MaxConnections),
		links: make(map[linkKey]*link),
		conns: make(map[*conn]struct{}),
	}
	var err error
	if f.signers, err = parseKeys(cfg.Keys); err != nil {
		return nil, err
	}
	f.keys, err = newKeyring(cfg.HostKeys, func(err error) {
		f.log.Warn("skipped a line of the known host keys", "error", err)
	})
	if err != nil {
		return nil, err
	}
	// Before anything else, so that a mistake in a configured chain does not
	// wait for the first host to be used.
	if _, err := cfg.route(host.Target{Address: "localhost"}); err != nil {
		return nil, err
	}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f, nil
}

// Host returns the host at t. It dials nothing; what is wrong with t is
// reported by the first use.
func (f *Fleet) Host(t host.Target) host.Host {
	h := &machine{fleet: f, target: t}
	hops, err := f.cfg.route(t)
	if err == nil {
		for _, hop := range hops {
			if _, err = parsePins(hop.hostKey); err != nil {
				break
			}
		}
	}
	if err != nil {
		h.invalid = &failure{kind: host.KindUnreachable, err: err}
		return h
	}
	var parent *link
	via := ""
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, hop := range hops {
		key := linkKey{addr: hop.addr(), user: hop.user, hostKey: hop.hostKey, via: via}
		l := f.links[key]
		if l == nil {
			l = &link{fleet: f, hop: hop, parent: parent}
			f.links[key] = l
		}
		parent = l
		via = fmt.Sprintf("%s|%s@%s %q", via, hop.user, hop.addr(), hop.hostKey)
	}
	h.link = parent
	return h
}

// Close ends all connections, and with them what runs over them, and waits for
// them to be gone. What is used afterwards fails.
func (f *Fleet) Close() error {
	f.mu.Lock()
	f.closed = true
	var conns []*conn
	for c := range f.conns {
		conns = append(conns, c)
	}
	f.mu.Unlock()
	f.stop()
	for _, c := range conns {
		c.kill(errClosed)
	}
	gone := make(chan struct{})
	go func() {
		f.wg.Wait()
		close(gone)
	}()
	// All that is left to wait for has just been interrupted, but nobody
	// shall hang at the end of an apply if that is wrong.
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		f.log.Warn("connections did not end in time")
	}
	return nil
}

// start is a go statement that Close waits for, and that fails after Close.
func (f *Fleet) start(fn func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errClosed
	}
	f.wg.Go(fn)
	return nil
}

// until returns ctx, ending also with the fleet.
func (f *Fleet) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(f.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}
