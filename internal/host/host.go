// Package host says what the provider asks of a Linux host and nothing about
// how that host is reached. The SSH implementation is in package sshx, the
// one for tests in package fakehost.
package host

import (
	"context"
	"io"
	"net"
	"time"
)

// Host is one Linux machine. All methods are safe for concurrent use.
type Host interface {
	// Name is what people call the host. It appears in errors and logs.
	Name() string

	// Addr is the address the host is reached at, without a port.
	Addr() string

	// Run runs one script to its end. An error is always an *Error: either
	// the script could not be run or waited for, or (KindExit) it ended
	// with a status other than zero. The Result is filled as far as known
	// in both cases.
	Run(ctx context.Context, cmd Cmd) (Result, error)

	// Start runs a script and leaves its input and output to the caller.
	// Locks use it: a script that holds a lock for as long as it is fed.
	// The context bounds the start only; Close ends the process.
	Start(ctx context.Context, cmd Cmd) (Process, error)

	// Dial opens a connection from the host to an address that the host
	// can reach, without a port of its own being opened anywhere.
	Dial(ctx context.Context, network, address string) (net.Conn, error)
}

// Cmd is a script for a host's /bin/sh.
//
// Script is constant text: data reaches it through Args and Stdin, never by
// being put into it. Args are visible in the host's process list, so secrets
// travel in Stdin.
type Cmd struct {
	// Name is the stable name of the operation, such as "file.write". It
	// appears in logs and errors, and fakes dispatch on it.
	Name string

	// Script is POSIX shell. Its parameters are Args, as "$1", "$2", ...
	Script string
	Args   []string

	// Stdin is what the script reads; nil is an empty input.
	Stdin []byte

	// User is the account the script runs as; empty is root. LoginUser is
	// the account of the connection itself.
	User string

	// Timeout bounds the script on the host's own clock, so that it ends
	// even when the connection is gone. Zero is DefaultTimeout.
	Timeout time.Duration

	// Sensitive keeps the output out of logs and errors.
	Sensitive bool

	// MaxOutput caps each of stdout and stderr, in bytes. Zero is
	// DefaultMaxOutput. What is over it is dropped and Truncated is set.
	MaxOutput int
}

// LoginUser as Cmd.User runs the script without becoming another user.
const LoginUser = "\x00login"

// DefaultTimeout is how long a script may run when its Cmd does not say.
const DefaultTimeout = 2 * time.Minute

// DefaultMaxOutput is how much of a script's output is kept, in bytes.
const DefaultMaxOutput = 4 << 20

// Result is what a script left behind.
type Result struct {
	Stdout    []byte
	Stderr    []byte
	ExitCode  int
	Truncated bool
	Took      time.Duration
}

// Process is a running script.
type Process interface {
	// Stdin is the script's standard input; closing it sends end of file.
	Stdin() io.WriteCloser

	// Stdout is the script's standard output, without anything that a
	// login shell printed before it.
	Stdout() io.Reader

	// Wait returns when the script has ended, with an *Error like Run's.
	Wait() error

	// Close closes the input and the channel. It does not wait for the
	// script, which must end by itself when its input does.
	Close() error
}

// Fleet gives access to hosts. Implementations connect lazily: Host returns
// at once and the first use dials.
type Fleet interface {
	Host(t Target) Host
	Close() error
}

// Target says where a host is and how it differs from the fleet's defaults.
// It holds no secrets and is comparable, so that equal targets can share one
// connection.
type Target struct {
	// Name is for people; it takes no part in how the host is reached.
	Name string

	// Address is an IP address or a name, without a port.
	Address string

	// Port is the port of the SSH server; zero is the fleet's default.
	Port int

	// User is the account to log in as; empty is the fleet's default.
	User string

	// HostKey pins the host's key: an authorized_keys line or a SHA256
	// fingerprint; empty is the fleet's policy.
	HostKey string

	// Bastions is a comma-separated chain of jump hosts, each
	// "[user@]host[:port]", outermost first; empty is the fleet's default,
	// "none" is a direct connection.
	Bastions string
}
