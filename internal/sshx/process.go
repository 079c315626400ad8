package sshx

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// process implements host.Process.
type process struct {
	machine *machine
	session *session
	cmd     host.Cmd
	begun   time.Time
	stdout  *io.PipeReader
	stdin   stdin

	closing sync.Once
	closed  chan struct{}
}

var _ host.Process = (*process)(nil)

// startProcess starts a script and returns when it runs.
func (c *conn) startProcess(ctx context.Context, cmd host.Cmd) (*process, *failure) {
	w := c.command(cmd)
	w.Stream = true
	line, f := asText(w.Line())
	if f != nil {
		return nil, f
	}
	ch, reqs, free, f := c.openSession(ctx, true)
	if f != nil {
		return nil, f
	}
	// Of the error output only the end matters, for the error.
	s := c.newSession(c.newShell(ch, w.Nonce, free), w, 0)
	s.password = c.fleet.cfg.BecomePassword
	var stdout *io.PipeReader
	stdout, s.stream = io.Pipe()
	p := &process{session: s, cmd: cmd, stdout: stdout, closed: make(chan struct{})}
	p.stdin.ch = ch
	if err := s.serve(reqs, line); err != nil {
		s.abandon()
		return nil, asFailure(err)
	}
	fed := make(chan struct{})
	if err := c.fleet.start(func() { s.feed(cmd.Stdin, false); close(fed) }); err != nil {
		s.abandon()
		return nil, asFailure(err)
	}
	if f := s.awaitScript(ctx); f != nil {
		s.abandon()
		return nil, f
	}
	// What the caller writes comes after what we do.
	select {
	case <-fed:
	case <-ctx.Done():
		s.abandon()
		return nil, asFailure(ctx.Err())
	}
	p.begun = time.Now()
	return p, nil
}

func (p *process) Stdin() io.WriteCloser { return &p.stdin }
func (p *process) Stdout() io.Reader     { return p.stdout }

// Wait implements host.Process. After Close it does not wait any longer. What
// the script has printed can still be read, so Close is needed even then.
func (p *process) Wait() error {
	select {
	case <-p.session.over:
	case <-p.closed:
		select {
		case <-p.session.over:
		default:
			return p.machine.errorOf(p.cmd.Name, &failure{kind: host.KindCanceled, err: errors.New("it was closed before its end")})
		}
	}
	f := p.session.conn.finished(p.session, p.cmd, time.Since(p.begun))
	return p.machine.errorOf(p.cmd.Name, f)
}

// Close implements host.Process. The script is not asked to terminate: its input
// ends, and it may have something to put in order.
func (p *process) Close() error {
	p.closing.Do(func() {
		close(p.closed)
		p.stdout.Close()
		p.session.leave()
		// In the background: a Write may be under way, and blocked.
		_ = p.session.conn.fleet.start(func() { p.stdin.Close() })
	})
	return nil
}

// stdin is the input of a process. Closing it and writing to it at once is
// more than x/crypto's channels allow.
type stdin struct {
	mu sync.Mutex
	ch interface {
		io.Writer
		CloseWrite() error
	}
	closed bool
}

func (w *stdin) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, io.ErrClosedPipe
	}
	return w.ch.Write(p)
}

func (w *stdin) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	return w.ch.CloseWrite()
}
