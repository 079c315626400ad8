package sshx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/redact"
)

// Config is how a fleet's hosts are reached, where a host.Target does not say
// otherwise. Zero values are the defaults named with the fields.
type Config struct {
	// User is the account to log in as; "root" by default.
	User string

	// Port is the SSH server's; 22 by default.
	Port int

	// Keys are offered first, in this order, then those of the agent.
	Keys []Key

	// UseAgent offers the keys of the SSH agent at AgentSocket, which is
	// $SSH_AUTH_SOCK by default.
	UseAgent    bool
	AgentSocket string

	// Password answers password and keyboard-interactive authentication.
	Password string

	// HostKeys says which host keys are accepted.
	HostKeys HostKeys

	// Become is how commands get root's rights; BecomePassword is what sudo
	// asks for, empty if it asks for nothing.
	Become         Become
	BecomePassword string

	// Bastions is the chain of jump hosts, outermost first.
	Bastions []Jump

	// ConnectTimeout bounds TCP, handshake and authentication together; 10 s
	// by default.
	ConnectTimeout time.Duration

	// BootTimeout is how long a host.BootContext waits for a host; 5 minutes
	// by default.
	BootTimeout time.Duration

	// KeepaliveInterval is how long a connection may be silent before it is
	// asked for a sign of life, 15 s by default; it is dead when KeepaliveMax
	// intervals, 4 by default, bring none.
	KeepaliveInterval time.Duration
	KeepaliveMax      int

	// MaxConnections is how many dials may be under way at once, 10 by
	// default: sshd and firewalls drop floods.
	MaxConnections int

	// MaxSessions is how many scripts may run at once on a connection, 8 by
	// default. sshd's own limit is 10 by default. Half of them, at least one,
	// are open to Start, so that who waits for a lock can't keep its holder
	// from working.
	MaxSessions int

	// Redact gets the secrets of this configuration and is applied to all
	// that may be read by people. Nil is a set of the fleet's own.
	Redact *redact.Set

	// Logger is slog.Default() if nil.
	Logger *slog.Logger

	// Dial opens TCP connections; nil is a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// The following are here for tests.

	// RetryDelay is the first pause between two dials; 500 ms by default.
	RetryDelay time.Duration

	// FailureMemory is how long a host that could not be reached is not
	// tried again outside of a boot context, 5 s by default: a plan reads
	// several resources on one host, and must not wait for each.
	FailureMemory time.Duration

	// SessionWait is how long a server that refuses to open a session is
	// asked again when none of our own will end; 15 s by default.
	SessionWait time.Duration

	// StartTimeout is how long the way from the login shell to the script,
	// sudo included, may take; 60 s by default.
	StartTimeout time.Duration
}

// Key is a private key in PEM form.
type Key struct {
	PEM        []byte
	Passphrase string

	// Certificate is the key's OpenSSH certificate, if any, in the form of
	// the "-cert.pub" file.
	Certificate []byte
}

// HostKeyPolicy says what happens with a host key that is not known.
type HostKeyPolicy string

const (
	// Strict accepts known keys only. It is the default.
	Strict HostKeyPolicy = "strict"

	// AcceptNew also accepts the first key of a host of which no key is
	// known, and writes it to HostKeys.AcceptedFile.
	AcceptNew HostKeyPolicy = "accept_new"

	// Insecure accepts any key, except a revoked one and one that differs
	// from the key pinned for the host. It warns.
	Insecure HostKeyPolicy = "insecure"
)

// HostKeys says which host keys are accepted.
type HostKeys struct {
	Policy HostKeyPolicy

	// Files are known_hosts files. They are never written to. One that does
	// not exist is empty. They are read again when they have changed.
	Files []string

	// Lines are more lines of a known_hosts file.
	Lines []string

	// AcceptedFile is where AcceptNew keeps the keys it accepted. Only
	// AcceptNew reads it.
	AcceptedFile string
}

// Become is a way to get root's rights.
type Become string

const (
	// BecomeAuto is nothing for root, else sudo, else doas. It is the default.
	BecomeAuto Become = "auto"
	// BecomeNone runs everything as the account that logged in.
	BecomeNone Become = "none"
	// BecomeSudo uses sudo.
	BecomeSudo Become = "sudo"
	// BecomeDoas uses doas.
	BecomeDoas Become = "doas"
)

// Jump is a jump host.
type Jump struct {
	Host string
	Port int    // zero is 22
	User string // empty is Config.User

	// HostKey pins the key, as in host.Target.
	HostKey string
}

func (c Config) withDefaults() Config {
	c.User = cmp.Or(c.User, "root")
	c.Port = cmp.Or(c.Port, 22)
	c.AgentSocket = cmp.Or(c.AgentSocket, os.Getenv("SSH_AUTH_SOCK"))
	c.HostKeys.Policy = cmp.Or(c.HostKeys.Policy, Strict)
	c.Become = cmp.Or(c.Become, BecomeAuto)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 10*time.Second)
	c.BootTimeout = cmp.Or(c.BootTimeout, 5*time.Minute)
	c.KeepaliveInterval = cmp.Or(c.KeepaliveInterval, 15*time.Second)
	c.KeepaliveMax = cmp.Or(c.KeepaliveMax, 4)
	c.MaxConnections = cmp.Or(c.MaxConnections, 10)
	c.MaxSessions = cmp.Or(c.MaxSessions, 8)
	c.RetryDelay = cmp.Or(c.RetryDelay, 500*time.Millisecond)
	c.FailureMemory = cmp.Or(c.FailureMemory, 5*time.Second)
	c.SessionWait = cmp.Or(c.SessionWait, 15*time.Second)
	c.StartTimeout = cmp.Or(c.StartTimeout, time.Minute)
	c.Redact = cmp.Or(c.Redact, new(redact.Set))
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	return c
}

func (c Config) check() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	switch c.HostKeys.Policy {
	case Strict, Insecure:
	case AcceptNew:
		if c.HostKeys.AcceptedFile == "" {
			fail("host key policy %q needs a file to keep the accepted keys in", AcceptNew)
		}
		for _, file := range c.HostKeys.Files {
			if file == c.HostKeys.AcceptedFile {
				fail("accepted keys must go to a file of their own, not to %s", file)
			}
		}
	default:
		fail("unknown host key policy %q", c.HostKeys.Policy)
	}

	switch c.Become {
	case BecomeAuto, BecomeNone, BecomeSudo:
	case BecomeDoas:
		if c.BecomePassword != "" {
			fail("doas reads its password from a terminal only: configure it with nopass, or use sudo")
		}
	default:
		fail("unknown way to become root %q", c.Become)
	}

	if c.Port < 0 || c.Port > 65535 {
		fail("%d is not a port", c.Port)
	}
	for name, n := range map[string]int{"MaxConnections": c.MaxConnections, "MaxSessions": c.MaxSessions, "KeepaliveMax": c.KeepaliveMax} {
		if n < 0 {
			fail("%s can't be negative", name)
		}
	}
	return errors.Join(errs...)
}
