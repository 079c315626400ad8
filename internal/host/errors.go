package host

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says what went wrong between us and a host, as far as callers decide
// by it.
type Kind int

const (
	// KindUnreachable: no connection could be made. The host may be well.
	KindUnreachable Kind = iota + 1

	// KindAuth: the host answered and rejected our credentials.
	KindAuth

	// KindHostKey: the host's key is unknown or not the expected one.
	KindHostKey

	// KindBecome: logged in, but could not become root or the wanted user.
	KindBecome

	// KindForward: the SSH server refuses to forward connections.
	KindForward

	// KindDial: the host could not connect to the address it was asked to.
	KindDial

	// KindTimeout: the script ran longer than it was allowed to.
	KindTimeout

	// KindLost: the connection ended while the script ran. Whether and how
	// far it ran is unknown.
	KindLost

	// KindExit: the script ended with a status other than zero.
	KindExit

	// KindCanceled: the caller's context ended.
	KindCanceled

	// KindSession: logged in, but the server opens no session for us or its
	// login shell does not run our commands. The script was not started.
	KindSession
)

func (k Kind) String() string {
	switch k {
	case KindUnreachable:
		return "unreachable"
	case KindAuth:
		return "authentication rejected"
	case KindHostKey:
		return "host key not accepted"
	case KindBecome:
		return "cannot become the wanted user"
	case KindForward:
		return "forwarding refused"
	case KindDial:
		return "connection from the host refused"
	case KindTimeout:
		return "timed out"
	case KindLost:
		return "connection lost"
	case KindExit:
		return "command failed"
	case KindCanceled:
		return "canceled"
	case KindSession:
		return "cannot run commands"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// Error is a failure to do something on a host.
type Error struct {
	Host     string // name for people
	Addr     string
	Op       string // Cmd.Name, "connect" or "dial ADDRESS"
	Kind     Kind
	ExitCode int    // with KindExit
	Stderr   string // last lines, secrets removed; empty for sensitive commands
	Hint     string // what the user can do, where the error itself tells
	Err      error  // cause, if any
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "host %s", e.Host)
	if e.Addr != "" && e.Addr != e.Host {
		fmt.Fprintf(&b, " (%s)", e.Addr)
	}
	return b.String() + ": " + e.Op + ": " + e.Reason()
}

// Reason is the error without the host and the operation.
func (e *Error) Reason() string {
	switch {
	case e.Kind == KindExit && e.Stderr != "":
		return fmt.Sprintf("exit status %d: %s", e.ExitCode, e.Stderr)
	case e.Kind == KindExit:
		return fmt.Sprintf("exit status %d", e.ExitCode)
	case e.Err != nil:
		return fmt.Sprintf("%s: %v", e.Kind, e.Err)
	}
	return e.Kind.String()
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the first *Error in err's chain, or zero.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}

// Unreachable reports whether err says that a host could not be talked to at
// all, so that nothing is known about the state it is in. A rejected login
// and a changed host key count: who cannot get in knows as little as who
// cannot get there.
func Unreachable(err error) bool {
	switch KindOf(err) {
	case KindUnreachable, KindAuth, KindHostKey, KindBecome, KindForward, KindLost, KindSession:
		return true
	}
	return false
}

// OutcomeUnknown reports whether a failed Run may nevertheless have done its
// work, wholly or in part.
func OutcomeUnknown(err error) bool {
	switch KindOf(err) {
	case KindLost, KindTimeout, KindCanceled:
		return true
	}
	return false
}

// ExitCode returns the exit status that err reports, or -1 if it reports none.
func ExitCode(err error) int {
	var e *Error
	if errors.As(err, &e) && e.Kind == KindExit {
		return e.ExitCode
	}
	return -1
}

// Ground is what is wrong with a host itself, whatever was wanted of it.
type Ground struct{ Is, Do string }

// grounds are what programs say in the C locale when the ground gives way, in
// lower case, which Go's programs use.
var grounds = []struct {
	says string
	Ground
}{
	{"no space left on device", Ground{"a filesystem of the host is full", "make room on the host (see df -h and df -i), then run the same again: it goes on from here. Files that were there before are whole."}},
	{"disk quota exceeded", Ground{"a disk quota on the host is used up", "raise the quota or make room, then run the same again: it goes on from here. Files that were there before are whole."}},
	{"read-only file system", Ground{"a filesystem of the host is read-only", "see why (findmnt and dmesg on the host: the kernel does that after errors of the disk), make it writable, then run the same again: it goes on from here."}},
	{"input/output error", Ground{"a disk of the host has errors", "see dmesg on the host, and replace the disk or the host."}},
}

// GroundOf recognises in what a program or a log said that it is the host itself
// that something is wrong with.
func GroundOf(said string) (Ground, bool) {
	said = strings.ToLower(said)
	for _, g := range grounds {
		if strings.Contains(said, g.says) {
			return g.Ground, true
		}
	}
	return Ground{}, false
}
