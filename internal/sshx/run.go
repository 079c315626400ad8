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
func (c *conn) command(cmd host.Cmd) wire.Command {
	w := wire.Command{
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
	return w
}

// asText is what package wire has made of a command.
func asText(text string, err error) (string, *failure) {
	if err != nil {
		return "", &failure{kind: host.KindSession, err: err}
	}
	return text, nil
}

// run runs a script to its end.
func (c *conn) run(ctx context.Context, cmd host.Cmd) (host.Result, *failure) {
	if cmd.Timeout <= 0 {
		cmd.Timeout = host.DefaultTimeout
	}
	if cmd.MaxOutput <= 0 {
		cmd.MaxOutput = host.DefaultMaxOutput
	}
	if !c.mayKeep(cmd) {
		return c.runNew(ctx, cmd, false)
	}
	sh, mine := c.kept.take(ctx)
	if sh != nil {
		res, f, started := c.runKept(ctx, sh, cmd)
		if started || ctx.Err() != nil || c.isDead() {
			return res, f
		}
		// It has ended since, or was about to. The script has not been told to go,
		// so nothing was done.
		c.fleet.log.DebugContext(ctx, "the session that was kept is of no use, opening another one", "addr", c.addr, "reason", f.err)
		mine = false
	}
	res, f := c.runNew(ctx, cmd, mine)
	if mine && f != nil && f.absent == wire.KeeperNeeds {
		c.keepless.Store(true)
		return c.runNew(ctx, cmd, false)
	}
	return res, f
}

// mayKeep says whether a script can share a session with others. That is root's,
// which can become every user, but not again the one who has logged in.
func (c *conn) mayKeep(cmd host.Cmd) bool {
	if c.keepless.Load() {
		return false
	}
	login := c.ssh.User()
	switch cmd.User {
	case "", "root":
		return login == "root" || c.fleet.cfg.Become != BecomeNone
	case host.LoginUser, login:
		return false
	}
	return login == "root" || c.fleet.cfg.Become != BecomeNone
}

// runNew runs a script in a session that it opens, and which it keeps for others
// if so wanted.
func (c *conn) runNew(ctx context.Context, cmd host.Cmd, keep bool) (res host.Result, f *failure) {
	start := time.Now()
	w := c.command(cmd)
	w.Keep, w.Input = keep, len(cmd.Stdin)
	opened := false
	defer func() {
		if keep && !opened {
			c.kept.drop()
		}
	}()
	line, f := asText(w.Line())
	if f != nil {
		return host.Result{}, f
	}
	ch, reqs, free, f := c.openSession(ctx, false)
	if f != nil {
		return host.Result{}, f
	}
	opened = true
	s := c.newSession(c.newShell(ch, w.Nonce, free), w, cmd.MaxOutput)
	s.password = c.fleet.cfg.BecomePassword
	defer func() { s.end(f) }()
	if err := s.serve(reqs, line); err != nil {
		return host.Result{}, asFailure(err)
	}
	return c.await(ctx, s, cmd, start)
}

// runKept runs a script in the session that was kept. It reports whether it was
// started, or at least its failure to be is its own.
func (c *conn) runKept(ctx context.Context, sh *shell, cmd host.Cmd) (res host.Result, f *failure, started bool) {
	start := time.Now()
	w := c.command(cmd)
	w.Keep, w.Input = true, len(cmd.Stdin)
	request, f := asText(w.Request(sh.opener))
	if f != nil {
		c.kept.put(sh)
		return host.Result{}, f, true
	}
	s := c.newSession(sh, w, cmd.MaxOutput)
	defer func() { s.end(f) }()
	if err := s.resume(request); err != nil {
		return host.Result{}, asFailure(err), false
	}
	res, f = c.await(ctx, s, cmd, start)
	s.mu.Lock()
	defer s.mu.Unlock()
	return res, f, s.gone || s.judged
}

// await waits for the end of a session's script.
func (c *conn) await(ctx context.Context, s *session, cmd host.Cmd, start time.Time) (host.Result, *failure) {
	if err := c.fleet.start(func() { s.feed(cmd.Stdin, !s.cmd.Keep) }); err != nil {
		return host.Result{}, asFailure(err)
	}
	if f := s.awaitScript(ctx); f != nil {
		return s.result(start), f
	}

	// The script ends by the host's clock, or with the connection. This is
	// for a host that does neither, such as one whose clock stands still.
	begun := time.Now()
	overtime := time.NewTimer(time.Duration(s.cmd.Seconds)*time.Second + overtimeLimit)
	defer overtime.Stop()
	select {
	case <-s.over:
	case <-ctx.Done():
		return s.result(start), asFailure(ctx.Err())
	case <-overtime.C:
		return s.result(start), &failure{
			kind: host.KindTimeout,
			err:  fmt.Errorf("no end of the script %s after its limit of %ds", overtimeLimit, s.cmd.Seconds),
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
		hope = c.kept.yield() || hope
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
