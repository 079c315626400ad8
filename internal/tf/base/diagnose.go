package base

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Fail adds an error. The summary has the form "Unable to <verb> <thing>
// <name>"; the detail says host, step, cause, what was left and what to do.
func (s *Services) Fail(diags *diag.Diagnostics, summary string, err error) {
	var at *AttributeError
	if errors.As(err, &at) {
		diags.AddAttributeError(at.Path, summary, s.Redact.Apply(detail(at.Err)))
		return
	}
	diags.AddError(summary, s.Redact.Apply(detail(err)))
}

// detail renders an error in the form that users are promised, whatever form it
// has come in.
func detail(err error) string { return problem.Details(formed(err)) }

// formed gives an error the form. What only package host knows is made to read
// as the rest: who has not got to the host, or not become root there, has changed
// nothing; nor have probes and locks, which are all that runs outside of steps.
// And where a host's ground has given way, a full disk above all, that is named
// as the cause, however far from it the words were said.
func formed(err error) error {
	if joined := problem.Parts(err); len(joined) > 0 {
		var parts []error
		for _, e := range joined {
			parts = append(parts, formed(e))
		}
		return errors.Join(parts...)
	}
	var p *problem.Error
	var e *host.Error
	isHost := errors.As(err, &e)
	if !errors.As(err, &p) {
		if !isHost {
			return err
		}
		p = &problem.Error{Host: e.Host, Step: stepOf(e), Cause: err, Left: "everything on the host."}
		if e.Addr != "" && e.Addr != e.Host {
			p.Host += " (" + e.Addr + ")"
		}
	}
	c := *p
	advice, said := "", strings.Join(p.Log, "\n")
	if isHost {
		advice = e.Hint
		if c.Cause == error(e) {
			c.Cause = errors.New(e.Reason())
		}
		if e.Kind == host.KindExit {
			said += e.Stderr
		}
	}
	if g, ok := host.GroundOf(said); ok {
		c.Do, advice = g.Do, ""
		if !strings.Contains(c.Detail(), g.Is) {
			c.Cause = fmt.Errorf("%s: %w", g.Is, c.Cause)
		}
	}
	switch {
	case advice == "" || strings.Contains(c.Do, advice):
	case c.Do == "" || c.Do == engine.GoOn:
		c.Do = advice
	default:
		c.Do = advice + " " + c.Do
	}
	if c.Do == "" {
		c.Do = engine.GoOn
	}
	return &c
}

// stepOf says for people what was being done when a host failed.
func stepOf(e *host.Error) string {
	switch e.Kind {
	case host.KindUnreachable, host.KindAuth, host.KindHostKey:
		return "connect"
	case host.KindBecome:
		return "become root"
	case host.KindSession:
		return "run commands"
	case host.KindForward, host.KindDial:
		return "open a connection through the host"
	}
	return e.Op
}

// AttributeError is an error that one attribute is to blame for.
type AttributeError struct {
	Path path.Path
	Err  error
}

func (e *AttributeError) Error() string { return e.Err.Error() }
func (e *AttributeError) Unwrap() error { return e.Err }

// Unreachable handles a Read of something whose host cannot be reached: the
// prior state stays as it is, and by on_unreachable that is an error or a
// warning. It returns false if err is of another kind.
func (s *Services) Unreachable(diags *diag.Diagnostics, what string, err error) bool {
	if !host.Unreachable(err) {
		return false
	}
	summary := "Unable to read " + what
	text := s.Redact.Apply(detail(err)) + "\n\nIt is unreachable, which does not mean gone: its state is kept as it was, and nothing is removed or recreated."
	if s.KeepUnreachable {
		diags.AddWarning(summary, text)
	} else {
		diags.AddError(summary, text+"\nTo plan without it, set on_unreachable = \"keep\" in the provider block.")
	}
	return true
}

// WithTimeout bounds an operation and says so when it ends it.
func WithTimeout(ctx context.Context, d time.Duration, operation string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("the %s timeout of %s has passed; raise it in the timeouts block if it takes longer for a good reason", operation, d))
}
