package base

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Fail adds an error. The summary has the form "Unable to <verb> <thing>
// <name>"; the detail says host, step, cause, what was left and what to do.
func (s *Services) Fail(diags *diag.Diagnostics, summary string, err error) {
	var at *AttributeError
	if errors.As(err, &at) {
		diags.AddAttributeError(at.Path, summary, s.Redact.Apply(problem.Details(at.Err)))
		return
	}
	diags.AddError(summary, s.Redact.Apply(detail(err)))
}

// detail renders an error, and adds the hint of a host's own error where the
// rest does not say what to do.
func detail(err error) string {
	text := problem.Details(err)
	var e *host.Error
	if errors.As(err, &e) && e.Hint != "" && !strings.Contains(text, e.Hint) {
		text += "\nHint: " + e.Hint
	}
	return text
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
