// Package problem gives errors the form that users are promised: which host,
// which step, what the cause was, what the host itself logged, what was left
// as it is, and what to do next.
package problem

import (
	"errors"
	"strings"
)

// Error is a failure with everything that a person needs to act on it. Every
// field but Cause may be empty.
type Error struct {
	Host  string   // name of the host
	Step  string   // title of the step, e.g. "install packages"
	Cause error    // what went wrong
	Log   []string // last lines of the host's own log, secrets removed
	Left  string   // what was left as it is; a sentence
	Do    string   // what to do next; a sentence
}

// Error joins the fields into one line for logs; Detail is for people.
func (e *Error) Error() string {
	var parts []string
	if e.Host != "" {
		parts = append(parts, "host "+e.Host)
	}
	if e.Step != "" {
		parts = append(parts, e.Step)
	}
	if e.Cause != nil {
		parts = append(parts, e.Cause.Error())
	}
	return strings.Join(parts, ": ")
}

func (e *Error) Unwrap() error { return e.Cause }

// Detail renders the error as the body of a diagnostic: a line for each field
// that is known.
func (e *Error) Detail() string {
	var b strings.Builder
	line := func(label, text string) {
		if text != "" {
			b.WriteString(label + ": " + text + "\n")
		}
	}
	line("Host", e.Host)
	line("Step", e.Step)
	if e.Cause != nil {
		line("Cause", e.Cause.Error())
	}
	if len(e.Log) > 0 {
		b.WriteString("Log of the host:\n")
		for _, l := range e.Log {
			b.WriteString("  " + l + "\n")
		}
	}
	line("Left as it is", e.Left)
	line("What to do", e.Do)
	return strings.TrimRight(b.String(), "\n")
}

// In returns err with host and step filled in where it does not name them
// yet. It keeps an *Error that is already there, so that the innermost, best
// informed place decides what is said.
func In(host, step string, err error) error {
	if err == nil {
		return nil
	}
	var p *Error
	if errors.As(err, &p) {
		c := *p
		if c.Host == "" {
			c.Host = host
		}
		if c.Step == "" {
			c.Step = step
		}
		return &c
	}
	return &Error{Host: host, Step: step, Cause: err}
}

// Details renders any error: an *Error by its fields, a joined error as one
// block for each part, anything else as its text.
func Details(err error) string {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		// A joined error that stands inside an *Error is that error's cause
		// and is rendered with it.
		if _, outer := err.(*Error); !outer {
			var parts []string
			for _, e := range joined.Unwrap() {
				parts = append(parts, Details(e))
			}
			return strings.Join(parts, "\n\n")
		}
	}
	var p *Error
	if errors.As(err, &p) {
		return p.Detail()
	}
	return err.Error()
}
