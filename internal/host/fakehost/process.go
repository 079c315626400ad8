package fakehost

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// Process is one run of the provider, as its hosts see it. It implements
// host.Fleet.
type Process struct {
	World *World
	Name  string

	mu        sync.Mutex
	faults    []Fault
	dead      chan struct{} // closed by a crash
	crashed   bool
	mutations int
}

var _ host.Fleet = (*Process)(nil)

// Process starts a run of the provider. The faults are asked in order, the
// first that has something to say decides.
func (w *World) Process(name string, faults ...Fault) *Process {
	return &Process{World: w, Name: name, faults: faults, dead: make(chan struct{})}
}

// Close does nothing: a world outlives the processes in it.
func (p *Process) Close() error { return nil }

// Host returns the host at the target's address.
func (p *Process) Host(t host.Target) host.Host { return &view{p: p, target: t} }

// Crash ends the process as a SIGKILL would: whatever it was about to do stays
// undone, and nobody is told.
func (p *Process) Crash() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.crash()
}

func (p *Process) crash() {
	if !p.crashed {
		p.crashed = true
		close(p.dead)
	}
}

// Crashed reports whether the process is gone.
func (p *Process) Crashed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.crashed
}

// Dead is closed when the process crashes.
func (p *Process) Dead() <-chan struct{} { return p.dead }

// Mutations is how many calls so far were meant to change something.
func (p *Process) Mutations() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mutations
}

// Inject adds faults to those of a process that is under way.
func (p *Process) Inject(faults ...Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, faults...)
}

// ErrCrashed is what a crashed process gets from whatever it still calls.
var ErrCrashed = errors.New("the process that asked is gone")

// Do records a call, lets it take its time, asks the faults about it, and runs
// it unless they object. Everything that a process does goes through it: the
// scripts on hosts, and what simulated services are asked through a client.
// Run is not called as in World.Do.
func (p *Process) Do(ctx context.Context, c Call, run func() error) error {
	c.Process = p.Name
	if err := p.pause(ctx, p.World.latency(c, "request")); err != nil {
		return err
	}

	p.mu.Lock()
	if p.crashed {
		p.mu.Unlock()
		return ErrCrashed
	}
	if c.Mutating {
		p.mutations++
		c.Mutation = p.mutations
	}
	var verdict Verdict
	for _, f := range p.faults {
		if verdict = f(c); verdict != (Verdict{}) {
			break
		}
	}
	if verdict.Crash && !verdict.After {
		p.crash()
	}
	p.mu.Unlock()
	if verdict.Slow > 0 {
		if err := p.pause(ctx, verdict.Slow); err != nil {
			return err
		}
	}

	var err error
	if verdict.Err == nil || verdict.After {
		err = run()
	}
	if verdict.Err != nil {
		err = verdict.Err
	}
	if verdict.Crash {
		p.mu.Lock()
		p.crash()
		p.mu.Unlock()
	}
	p.World.record(c, err)
	if err == nil {
		err = p.pause(ctx, p.World.latency(c, "answer"))
	}
	return err
}

// pause lets real time pass: what a caller waits for by its own clock.
func (p *Process) pause(ctx context.Context, d time.Duration) error {
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Reaches reports whether the process gets through to the host at an address.
// It is called as in World.Do.
func (p *Process) Reaches(address string) bool {
	m := p.World.machines[address]
	return m != nil && m.Up && !m.Cut
}

// view is a host as one process sees it.
type view struct {
	p      *Process
	target host.Target
}

func (v *view) Name() string { return v.target.Name }
func (v *view) Addr() string { return v.target.Address }

func (v *view) fail(op string, kind host.Kind, cause error) *host.Error {
	return &host.Error{Host: v.target.Name, Addr: v.target.Address, Op: op, Kind: kind, Err: cause}
}

// translate gives what Do came to the form that callers of a host expect.
func (v *view) translate(op string, err error) error {
	var e *host.Error
	var k kindError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return err
	case errors.As(err, &k):
		return v.fail(op, host.Kind(k), nil)
	case errors.Is(err, ErrCrashed):
		return v.fail(op, host.KindLost, err)
	}
	return v.fail(op, host.KindCanceled, err)
}

// machine returns the machine if it can be reached. It is called as in
// World.Do.
func (v *view) machine(op string) (*Machine, error) {
	if !v.p.Reaches(v.target.Address) {
		return nil, v.fail(op, host.KindUnreachable, errors.New("no route to host"))
	}
	return v.p.World.machines[v.target.Address], nil
}

// Run implements host.Host.
func (v *view) Run(ctx context.Context, cmd host.Cmd) (host.Result, error) {
	w := v.p.World
	op, ok := w.check(cmd)
	var res host.Result
	if !ok {
		return res, v.fail(cmd.Name, host.KindExit, errors.New("not modelled"))
	}
	c := Call{Kind: "host", Host: v.target.Name, Name: cmd.Name, Args: cmd.Args, User: cmd.User, Mutating: op.mutates && !op.reads(cmd)}
	err := v.p.Do(ctx, c, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		m, err := v.machine(cmd.Name)
		if err != nil {
			return err
		}
		o := &Op{Machine: m, Cmd: cmd, Process: v.p, ctx: ctx}
		err = op.run(o)
		res.Stdout, res.Stderr = o.Out.Bytes(), o.Err.Bytes()
		if limit := cmd.MaxOutput; limit > 0 && len(res.Stdout) > limit {
			res.Stdout, res.Truncated = res.Stdout[:limit], true
		}
		var exit exitError
		if errors.As(err, &exit) {
			res.ExitCode = int(exit)
			e := v.fail(cmd.Name, host.KindExit, nil)
			e.ExitCode = int(exit)
			if !cmd.Sensitive {
				e.Stderr = trimmed(o.Err.String())
			}
			return e
		}
		return err
	})
	w.checkOutput(cmd, res.Stdout)
	return res, v.translate(cmd.Name, err)
}

// Dial implements host.Host.
func (v *view) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	op := "dial " + address
	var client net.Conn
	err := v.p.Do(ctx, Call{Kind: "dial", Host: v.target.Name, Name: "dial", Args: []string{address}}, func() error {
		var err error
		var distance time.Duration
		v.p.World.Do(func() {
			var from *Machine
			if from, err = v.machine(op); err == nil {
				client, distance, err = from.dial(v, address)
			}
		})
		if pauseErr := v.p.pause(ctx, distance); pauseErr != nil {
			if client != nil {
				_ = client.Close()
			}
			return pauseErr
		}
		return err
	})
	if err != nil {
		return nil, v.translate(op, err)
	}
	return client, nil
}
