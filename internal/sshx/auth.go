package sshx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// parseKeys makes signers of private keys. Its errors tell which key is wrong
// by its place, nothing of its content.
func parseKeys(keys []Key) ([]ssh.Signer, error) {
	var signers []ssh.Signer
	var errs []error
	for i, k := range keys {
		signer, err := parseKey(k)
		if err != nil {
			errs = append(errs, fmt.Errorf("private key %d: %w", i+1, err))
			continue
		}
		signers = append(signers, signer)
	}
	return signers, errors.Join(errs...)
}

func parseKey(k Key) (ssh.Signer, error) {
	signer, err := ssh.ParsePrivateKey(k.PEM)
	var missing *ssh.PassphraseMissingError
	if errors.As(err, &missing) {
		if k.Passphrase == "" {
			return nil, errors.New("it is encrypted and no passphrase is given")
		}
		signer, err = ssh.ParsePrivateKeyWithPassphrase(k.PEM, []byte(k.Passphrase))
	}
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(k.Certificate)) == 0 {
		return signer, nil
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(k.Certificate)
	if err != nil {
		return nil, fmt.Errorf("its certificate: %w", err)
	}
	cert, ok := public.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("its certificate is only a public key")
	}
	return ssh.NewCertSigner(cert, signer)
}

// login is what one handshake authenticates with.
type login struct {
	fleet *Fleet
	agent net.Conn

	// offered are the keys the server was shown, for the error.
	offered []string

	// unanswered is what the server asked besides a password.
	unanswered string

	// agentErr is why the agent's keys were not among them.
	agentErr error
}

// newLogin connects to the agent, if it is used: once per handshake, since the
// connection can then end with the handshake, and an agent that waits for its
// user stops nobody else.
func (f *Fleet) newLogin(ctx context.Context) *login {
	l := &login{fleet: f}
	if !f.cfg.UseAgent {
		return l
	}
	if f.cfg.AgentSocket == "" {
		l.agentErr = errors.New("SSH_AUTH_SOCK is not set")
		return l
	}
	l.agent, l.agentErr = new(net.Dialer).DialContext(ctx, "unix", f.cfg.AgentSocket)
	return l
}

func (l *login) close() {
	if l.agent != nil {
		l.agent.Close()
	}
}

// interrupt ends a question to the agent that is under way.
func (l *login) interrupt() {
	if l.agent != nil {
		_ = l.agent.SetDeadline(time.Unix(1, 0))
	}
}

// methods returns what is tried, in this order. All keys are one method:
// x/crypto tries each method once.
func (l *login) methods() []ssh.AuthMethod {
	var all []ssh.AuthMethod
	if len(l.fleet.signers) > 0 || l.agent != nil {
		all = append(all, ssh.PublicKeysCallback(l.signers))
	}
	if password := l.fleet.cfg.Password; password != "" {
		all = append(all,
			ssh.Password(password),
			ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
				answers := make([]string, len(questions))
				for i := range questions {
					// What is echoed is not a password: a one-time
					// code, or a question that we can't answer.
					if echos[i] || len(questions) > 1 {
						l.unanswered = questions[i]
						return nil, errors.New("nobody is here to answer")
					}
					answers[i] = password
				}
				return answers, nil
			}))
	}
	return all
}

func (l *login) signers() ([]ssh.Signer, error) {
	signers := append([]ssh.Signer(nil), l.fleet.signers...)
	if l.agent != nil {
		others, err := agent.NewClient(l.agent).Signers()
		if err != nil {
			l.agentErr = err
		}
		signers = append(signers, others...)
	}
	for _, s := range signers {
		l.offered = append(l.offered, describe(s.PublicKey()))
	}
	return signers, nil
}

// nothing returns a failure if there is nothing to log in with.
func (l *login) nothing() *failure {
	if len(l.methods()) > 0 {
		return nil
	}
	f := &failure{
		kind: host.KindAuth,
		err:  errors.New("there is nothing to log in with"),
		hint: "Configure a private key, an agent or a password.",
	}
	if l.agentErr != nil {
		f.err = fmt.Errorf("there is nothing to log in with: the SSH agent can't be used: %w", l.agentErr)
	}
	return f
}

// stage is what the login was at, for who ran out of time.
func (l *login) stage() string {
	if l.agentErr != nil {
		return "authentication, with the SSH agent"
	}
	return "authentication"
}

// explain adds to a rejected login what was tried.
func (l *login) explain(f *failure, user string) *failure {
	if f.kind != host.KindAuth {
		return f
	}
	tried := append([]string(nil), l.offered...)
	if l.fleet.cfg.Password != "" {
		tried = append(tried, "a password")
	}
	text := fmt.Sprintf("as user %s", user)
	if len(tried) > 0 {
		text += " with " + strings.Join(tried, ", ")
	}
	if l.agentErr != nil {
		text += fmt.Sprintf(" (the SSH agent can't be used: %v)", l.agentErr)
	}
	if l.unanswered != "" {
		f.passing = false
		text += fmt.Sprintf(" (the server asks %q, and nobody is here to answer)", l.unanswered)
	}
	return f.within(text)
}
