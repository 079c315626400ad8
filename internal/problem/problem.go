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
// informed place decides what is said. Of errors that were joined, each is
// treated so.
func In(host, step string, err error) error {
	return Fill(err, Error{Host: host, Step: step})
}

// Fill returns err with the fields of what filled in that it does not say yet,
// as In does.
func Fill(err error, what Error) error {
	if err == nil {
		return nil
	}
	var p *Error
	if parts := Parts(err); len(parts) > 0 && errors.As(err, &p) {
		var errs []error
		for _, e := range parts {
			errs = append(errs, Fill(e, what))
		}
		return errors.Join(errs...)
	}
	if !errors.As(err, &p) {
		what.Cause = err
		return &what
	}
	c := *p
	for _, f := range []struct{ to, from *string }{{&c.Host, &what.Host}, {&c.Step, &what.Step}, {&c.Left, &what.Left}, {&c.Do, &what.Do}} {
		if *f.to == "" {
			*f.to = *f.from
		}
	}
	return &c
}

// Parts returns the errors that were joined by errors.Join, nil for any other
// error: one that fmt made of several has a text of its own.
func Parts(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	parts := joined.Unwrap()
	var text []string
	for _, e := range parts {
		text = append(text, e.Error())
	}
	if strings.Join(text, "\n") != err.Error() {
		return nil
	}
	return parts
}

// Details renders any error: an *Error by its fields, a joined error as one
// block for each part, anything else as its text.
func Details(err error) string {
	// A joined error that stands inside an *Error is that error's cause and is
	// rendered with it.
	for e := err; e != nil; e = errors.Unwrap(e) {
		if _, outer := e.(*Error); outer {
			break
		}
		if parts := Parts(e); len(parts) > 0 {
			var blocks []string
			for _, part := range parts {
				blocks = append(blocks, Details(part))
			}
			return strings.Join(blocks, "\n\n")
		}
	}
	var p *Error
	if errors.As(err, &p) {
		return p.Detail()
	}
	return err.Error()
}
