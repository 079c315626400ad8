package sshx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/wire"
)

// command translates what is asked of a host into what is sent.
func (c *conn) command(cmd host.Cmd, stream bool) (wire.Command, string, *failure) {
	w := wire.Command{
		Stream: stream,
		Nonce:  wire.NewNonce(),
		Become: c.fleet.becomeWord(),
		User:   cmd.User,
		Op:     cmd.Name,
		Script: cmd.Script,
		Args:   cmd.Args,
	}
	switch cmd.User {
	case "":
		w.User = "root"
	case host.LoginUser:
		w.User = ""
	}
	if w.Op == "" {
		w.Op = "script"
	}
	// timeout(1) takes whole seconds everywhere.
	w.Seconds = int((cmd.Timeout + time.Second - 1) / time.Second)
	line, err := w.Line()
	if err != nil {
		return w, "", &failure{kind: host.KindSession, err: err}
	}
	return w, line, nil
}

// run runs a script to its end.
func (c *conn) run(ctx context.Context, cmd host.Cmd) (host.Result, *failure) {
	if cmd.Timeout <= 0 {
		cmd.Timeout = host.DefaultTimeout
	}
	if cmd.MaxOutput <= 0 {
		cmd.MaxOutput = host.DefaultMaxOutput
	}
	w, line, f := c.command(cmd, false)
	if f != nil {
		return host.Result{}, f
	}
	ch, reqs, free, f := c.openSession(ctx, false)
	if f != nil {
		return host.Result{}, f
	}
	start := time.Now()
	s := c.newSession(ch, w, cmd.MaxOutput)
	s.password = c.fleet.cfg.BecomePassword
	defer s.abandon()
	if err := s.serve(reqs, line, free); err != nil {
		return host.Result{}, asFailure(err)
	}
	if err := c.fleet.start(func() { s.feed(cmd.Stdin, true) }); err != nil {
		return host.Result{}, asFailure(err)
	}
	if f := s.awaitScript(ctx); f != nil {
		return s.result(start), f
	}

	// The script ends by the host's clock, or with the connection. This is
	// for a host that does neither, such as one whose clock stands still.
	begun := time.Now()
	overtime := time.NewTimer(time.Duration(w.Seconds)*time.Second + overtimeLimit)
	defer overtime.Stop()
	select {
	case <-s.over:
	case <-ctx.Done():
		return s.result(start), asFailure(ctx.Err())
	case <-overtime.C:
		return s.result(start), &failure{
			kind: host.KindTimeout,
			err:  fmt.Errorf("no end of the script %s after its limit of %ds", overtimeLimit, w.Seconds),
		}
	}
	return s.result(start), c.finished(s, cmd, time.Since(begun))
}

// overtimeLimit is how long after its time limit a script may take to end: five
// seconds until it is killed, and what a bad connection needs.
const overtimeLimit = 30 * time.Second

// finished is verdict with what the script printed.
func (c *conn) finished(s *session, cmd host.Cmd, ran time.Duration) *failure {
	f := s.verdict(ran)
	if f == nil {
		return nil
	}
	if !cmd.Sensitive {
		s.mu.Lock()
		f.stderr = lastLines(c.fleet.cfg.Redact.Apply(string(s.stderr.last())), 20)
		s.mu.Unlock()
	}
	return f
}

// result is what is known of the script's output.
func (s *session) result(start time.Time) host.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	return host.Result{
		Stdout:    s.stdout.head,
		Stderr:    s.stderr.head,
		ExitCode:  s.code,
		Truncated: s.stdout.dropped || s.stderr.dropped,
		Took:      time.Since(start),
	}
}

// awaitScript waits until the script was told to go. What fails before has not
// run.
func (s *session) awaitScript(ctx context.Context) *failure {
	limit := s.conn.fleet.cfg.StartTimeout
	switch err := s.awaitStart(ctx, limit); {
	case err == nil:
	case errors.Is(err, errSlowStart):
		if f := s.slowStart(limit); f != nil {
			return f
		}
	default:
		return asFailure(err)
	}
	select {
	case <-s.begun:
		return nil
	default:
		return s.verdict(0)
	}
}

// openSession opens a channel for one script and waits for a place for it. free
// gives the place back.
func (c *conn) openSession(ctx context.Context, long bool) (ch ssh.Channel, reqs <-chan *ssh.Request, free func(), f *failure) {
	var refusedAt time.Time
	pause := c.fleet.cfg.RetryDelay / 10
	for {
		if err := c.slots.acquire(ctx, long); err != nil {
			return nil, nil, nil, sessionFailure(err)
		}
		ch, reqs, err := c.openChannel(ctx, "session", nil)
		if err == nil {
			c.slots.granted()
			return ch, reqs, func() { c.slots.release(long) }, nil
		}
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) {
			c.slots.forget(long)
			return nil, nil, nil, asFailure(err)
		}
		hope := c.slots.refused(long)
		if refusedAt.IsZero() {
			refusedAt = time.Now()
		}
		// Where there is none, the rest of a canceled script may be what takes
		// the place, and end soon.
		if !hope && time.Since(refusedAt) >= c.fleet.cfg.SessionWait {
			return nil, nil, nil, sessionFailure(refused)
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, nil, nil, asFailure(err)
		}
		pause = min(2*pause, 2*c.fleet.cfg.RetryDelay)
	}
}

func sessionFailure(err error) *failure {
	var refused *ssh.OpenChannelError
	var full errNoSlot
	switch {
	case errors.As(err, &refused):
		err = fmt.Errorf("the SSH server opens no session: %s: %s", refused.Reason, refused.Message)
	case errors.As(err, &full):
	default:
		return asFailure(err)
	}
	return &failure{
		kind: host.KindSession, err: err,
		hint: "Raise MaxSessions in the server's sshd_config (its default is 10) and see that scripts of an interrupted run are not still running on the host.",
	}
}

// lastLines returns the last n lines of text.
func lastLines(text string, n int) string {
	text = strings.TrimRight(text, "\r\n\t ")
	at := len(text)
	for range n {
		at = strings.LastIndexByte(text[:at], '\n')
		if at < 0 {
			return text
		}
	}
	return text[at+1:]
}
