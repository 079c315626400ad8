package sshx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// dial makes one attempt to connect to a server, through the jump hosts before
// it. It returns how long the attempt itself took, without the time it had to
// wait for its turn and for the jump hosts.
func (l *link) dial(ctx context.Context) (c *conn, took time.Duration, err error) {
	var via *conn
	if l.parent != nil {
		// Before the turn is taken: the jump host needs one, too.
		if via, err = l.parent.passage(ctx); err != nil {
			return nil, 0, asFailure(err).within("bastion " + l.parent.hop.addr())
		}
	}
	select {
	case l.fleet.turns <- struct{}{}:
		defer func() { <-l.fleet.turns }()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}

	start := time.Now()
	defer func() { took = time.Since(start) }()
	budget := l.fleet.cfg.ConnectTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, budget, errNoAnswer(budget))
	defer cancel()

	v, err := l.fleet.keys.verifier(l.hop)
	if err != nil {
		return nil, 0, &failure{kind: host.KindHostKey, err: err}
	}
	auth := l.fleet.newLogin(ctx)
	defer auth.close()
	if f := auth.nothing(); f != nil {
		return nil, 0, f
	}

	var refused *failure
	for algos := v.algorithms(); ; {
		c, err = l.handshake(ctx, via, v, auth, algos)
		if err == nil {
			break
		}
		f := asFailure(err)
		if algos = v.another(algos); len(algos) > 0 && f.kind == host.KindHostKey {
			refused = f
			continue
		}
		// A server without a key of another type is one with a wrong key.
		var negotiation *ssh.AlgorithmNegotiationError
		if refused != nil && errors.As(err, &negotiation) {
			f = refused
		}
		return nil, 0, f
	}
	if v.add != nil {
		if err := l.fleet.keys.accepted.add(l.hop.addr(), v.add); err != nil {
			c.kill(err)
			f := asFailure(err)
			f.kind, f.passing, f.brief = host.KindHostKey, false, false
			return nil, 0, f
		}
		l.fleet.log.InfoContext(ctx, "accepted the host key of a new host", "addr", l.hop.addr(), "key", describe(v.add))
	}
	return c, 0, nil
}

// handshake opens a transport, directly or through a jump host, and logs in.
func (l *link) handshake(ctx context.Context, via *conn, v *verifier, auth *login, algos []string) (*conn, error) {
	addr := l.hop.addr()
	v.offered, v.failure = nil, nil
	transport, f := l.transport(ctx, via)
	if f != nil {
		return nil, overdue(ctx, "", f)
	}
	raw := &listening{Conn: transport}

	// x/crypto knows no context, and its timeout covers TCP only.
	stop := context.AfterFunc(ctx, func() {
		auth.interrupt()
		raw.Close()
	})
	sc, chans, reqs, err := ssh.NewClientConn(raw, addr, &ssh.ClientConfig{
		User:              l.hop.user,
		Auth:              auth.methods(),
		HostKeyCallback:   v.callback,
		HostKeyAlgorithms: algos,
		ClientVersion:     "SSH-2.0-terraform-provider-pgha",
	})
	inTime := stop()
	switch {
	case err == nil && inTime:
	case err == nil:
		sc.Close()
		return nil, overdue(ctx, auth.stage(), asFailure(ctx.Err()))
	case v.failure != nil:
		return nil, v.failure
	case v.offered == nil:
		return nil, overdue(ctx, "SSH handshake", loginFailure(err, false))
	default:
		return nil, overdue(ctx, auth.stage(), auth.explain(loginFailure(err, true), l.hop.user))
	}

	c, err := l.fleet.adopt(sc, raw, chans, reqs, addr)
	if err != nil {
		sc.Close()
		return nil, err
	}
	l.fleet.log.DebugContext(ctx, "connected", "addr", addr, "user", l.hop.user,
		"server", string(sc.ServerVersion()), "key", describe(plain(v.offered)))
	return c, nil
}

func (l *link) transport(ctx context.Context, via *conn) (net.Conn, *failure) {
	addr := l.hop.addr()
	if via == nil {
		c, err := l.fleet.cfg.Dial(ctx, "tcp", addr)
		return c, asFailure(err)
	}
	c, f := via.forward(ctx, addr)
	if f == nil {
		return c, nil
	}
	if f.kind == host.KindDial {
		f.kind = host.KindUnreachable
	}
	return nil, f.within("bastion " + l.parent.hop.addr())
}

// errNoAnswer is the cause of a context that ended with the connect timeout.
type errNoAnswer time.Duration

func (e errNoAnswer) Error() string { return fmt.Sprintf("no answer within %s", time.Duration(e)) }

// overdue returns what a failed attempt failed of: the end of its time, if that
// was over, since all else is then a consequence.
func overdue(ctx context.Context, stage string, f *failure) *failure {
	if stage != "" && f.kind == host.KindUnreachable {
		f = f.within(stage)
	}
	if ctx.Err() == nil {
		return f
	}
	var late errNoAnswer
	if !errors.As(context.Cause(ctx), &late) {
		return asFailure(ctx.Err())
	}
	f = &failure{kind: host.KindUnreachable, err: late, passing: true}
	if stage != "" {
		f = f.within(stage)
	}
	return f
}
