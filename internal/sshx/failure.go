package sshx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// failure is a host.Error on its way: what went wrong, before it is known
// under which name people call the host.
type failure struct {
	kind host.Kind
	err  error
	hint string

	// passing is set if waiting may help: the host may be booting.
	passing bool

	// brief is set if trying again at once may help.
	brief bool

	// connect is set if it is the connection that failed, whatever it was
	// wanted for.
	connect bool

	// absent is the program that is missing, if that is why.
	absent string

	code   int    // with KindExit
	stderr string // last lines, secrets removed
}

func (f *failure) Error() string { return fmt.Sprintf("%s: %v", f.kind, f.err) }

func (f *failure) Unwrap() error { return f.err }

// asFailure makes a failure of any error on the way to a host.
func asFailure(err error) *failure {
	var f *failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return f
	case err == context.Canceled, err == context.DeadlineExceeded:
		// Not by errors.Is: a timeout of the network is one, too.
		return &failure{kind: host.KindCanceled, err: err}
	}
	return &failure{kind: host.KindUnreachable, err: err, passing: true, brief: true}
}

var errClosed = &failure{kind: host.KindUnreachable, err: fmt.Errorf("the fleet is closed: %w", net.ErrClosed)}

// connecting says that it was the connection that failed.
func (f *failure) connecting() *failure {
	g := *f
	g.connect = true
	return &g
}

// within says through which jump host a failure came.
func (f *failure) within(what string) *failure {
	g := *f
	g.err = fmt.Errorf("%s: %w", what, f.err)
	return &g
}

// openFailure tells why a server did not open a forwarded connection.
// x/crypto reports that as an *ssh.OpenChannelError, everything else means that
// the connection itself is gone.
func openFailure(err error, address string) *failure {
	var open *ssh.OpenChannelError
	if !errors.As(err, &open) {
		return asFailure(err)
	}
	switch open.Reason {
	case ssh.Prohibited, ssh.UnknownChannelType:
		return &failure{
			kind: host.KindForward,
			err:  fmt.Errorf("the SSH server does not forward to %s: %s: %s", address, open.Reason, open.Message),
			hint: "In the server's sshd_config, set \"AllowTcpForwarding yes\" (or \"local\"), \"DisableForwarding no\" and a PermitOpen that includes " + address +
				"; see that no Match block and no option in authorized_keys (restrict, no-port-forwarding, permitopen) forbids it; reload sshd.",
		}
	}
	return &failure{
		kind:    host.KindDial,
		err:     fmt.Errorf("%s: %s: %s", address, open.Reason, open.Message),
		passing: true, brief: true,
	}
}

// loginFailure tells why TCP, handshake or authentication failed.
func loginFailure(err error, authenticating bool) *failure {
	f := asFailure(err)
	if f.kind != host.KindUnreachable {
		return f
	}
	var negotiation *ssh.AlgorithmNegotiationError
	switch {
	case errors.As(err, &negotiation):
		f.passing, f.brief = false, false
		f.hint = "The SSH server is too old or too restricted: see Ciphers, MACs, KexAlgorithms and HostKeyAlgorithms in its sshd_config."
	case authenticating && !ofNetwork(err):
		f.kind, f.brief = host.KindAuth, false
		f.hint = "Check the user, that the public key is in the account's authorized_keys, and the server's log (journalctl -u ssh)."
		if strings.Contains(strings.ToLower(err.Error()), "too many auth") {
			f.hint = "The server gave up before the right key was tried: configure the key instead of an agent with many keys."
		}
	}
	return f
}

// ofNetwork tells the end of a connection from an answer. x/crypto has no type
// for what a server says on disconnecting.
func ofNetwork(err error) bool {
	var ne net.Error
	if errors.As(err, &ne) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return true
	}
	text := strings.ToLower(err.Error())
	return strings.Contains(text, "ssh: disconnect") && !strings.Contains(text, "too many auth") && !strings.Contains(text, "no more auth")
}
