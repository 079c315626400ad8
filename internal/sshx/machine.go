package sshx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// machine implements host.Host.
type machine struct {
	fleet   *Fleet
	target  host.Target
	link    *link
	invalid *failure // what is wrong with target
}

func (m *machine) Name() string {
	if m.target.Name == "" {
		return m.target.Address
	}
	return m.target.Name
}

func (m *machine) Addr() string { return m.target.Address }

// Run implements host.Host.
func (m *machine) Run(ctx context.Context, cmd host.Cmd) (host.Result, error) {
	start := time.Now()
	var res host.Result
	err := m.use(ctx, func(c *conn) *failure {
		var f *failure
		res, f = c.run(ctx, cmd)
		return f
	})
	m.logRun(ctx, cmd, res, err, time.Since(start))
	return res, m.errorOf(cmd.Name, err)
}

// Start implements host.Host.
func (m *machine) Start(ctx context.Context, cmd host.Cmd) (host.Process, error) {
	var p *process
	f := m.use(ctx, func(c *conn) *failure {
		var f *failure
		p, f = c.startProcess(ctx, cmd)
		return f
	})
	if f != nil {
		m.logRun(ctx, cmd, host.Result{}, f, 0)
		return nil, m.errorOf(cmd.Name, f)
	}
	p.machine = m
	m.fleet.log.DebugContext(ctx, "script started", "host", m.Name(), "op", cmd.Name)
	return p, nil
}

// Dial implements host.Host. The network is one of TCP.
func (m *machine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	op := "dial " + address
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, m.errorOf(op, &failure{kind: host.KindDial, err: net.UnknownNetworkError(network)})
	}
	var t net.Conn
	f := m.use(ctx, func(c *conn) *failure {
		var f *failure
		t, f = c.forward(ctx, address)
		return f
	})
	if f != nil {
		return nil, m.errorOf(op, f)
	}
	return t, nil
}

// use calls fn with the host's connection. It does so again, with a new one, if
// fn found out that the connection is dead before anything was done with it,
// which fn reports as "unreachable".
func (m *machine) use(ctx context.Context, fn func(*conn) *failure) *failure {
	if m.invalid != nil {
		return m.invalid.connecting()
	}
	for again := false; ; again = true {
		c, f := m.link.connect(ctx, m.Name())
		if f != nil {
			return f.connecting()
		}
		f = fn(c)
		if f != nil && f.kind == host.KindUnreachable && c.isDead() && !again && ctx.Err() == nil {
			m.fleet.log.DebugContext(ctx, "the connection was dead, connecting anew", "host", m.Name(), "reason", f.err)
			continue
		}
		return f
	}
}

// errorOf makes a host.Error of a failure, nil of none.
func (m *machine) errorOf(op string, f *failure) error {
	if f == nil {
		return nil
	}
	if f.connect {
		op = "connect"
	}
	redact := m.fleet.cfg.Redact
	e := &host.Error{
		Host: m.Name(), Addr: m.Addr(), Op: op, Kind: f.kind, ExitCode: f.code,
		Stderr: f.stderr, Hint: redact.Apply(f.hint), Err: f.err,
	}
	if f.err != nil {
		if text := f.err.Error(); redact.Apply(text) != text {
			e.Err = redacted{text: redact.Apply(text), err: f.err}
		}
	}
	return e
}

// redacted is an error with the secrets taken out of its text.
type redacted struct {
	text string
	err  error
}

func (r redacted) Error() string        { return r.text }
func (r redacted) Is(target error) bool { return errors.Is(r.err, target) }

// logRun logs that a script was run. Neither it nor its arguments are of
// interest to people; its output is, when something is wrong with it.
func (m *machine) logRun(ctx context.Context, cmd host.Cmd, res host.Result, f *failure, took time.Duration) {
	log := m.fleet.log
	if !log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{
		slog.String("host", m.Name()), slog.String("op", cmd.Name),
		slog.Duration("took", took.Round(time.Millisecond)), slog.Int("exit", res.ExitCode),
		slog.Int("in", len(cmd.Stdin)), slog.Int("out", len(res.Stdout)), slog.Int("err", len(res.Stderr)),
	}
	redact := m.fleet.cfg.Redact
	if f != nil {
		attrs = append(attrs, slog.String("kind", f.kind.String()), slog.String("error", redact.Apply(fmt.Sprint(f.err))))
	}
	if !cmd.Sensitive {
		const most = 2 << 10
		attrs = append(attrs,
			slog.String("stdout", shortened(redact.Bytes(res.Stdout), most)),
			slog.String("stderr", shortened(redact.Bytes(res.Stderr), most)))
	}
	log.LogAttrs(ctx, slog.LevelDebug, "script", attrs...)
}

func shortened(text []byte, most int) string {
	if len(text) <= most {
		return string(text)
	}
	return fmt.Sprintf("%s... (%d bytes more)", text[:most], len(text)-most)
}
