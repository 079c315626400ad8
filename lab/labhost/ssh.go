package labhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// Dial connects to a host as root, through its bastion if it has one, and
// checks the host's key. Ending ctx afterwards does not end the connection.
func (l *Lab) Dial(ctx context.Context, host string) (*ssh.Client, error) {
	h, err := l.find(host)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addr := net.JoinHostPort(h.Addr, "22")
	if h.Via == "" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		return l.handshake(ctx, conn, addr)
	}
	bastion, err := l.Dial(ctx, h.Via)
	if err != nil {
		return nil, fmt.Errorf("the bastion of %s: %w", host, err)
	}
	conn, err := bastion.DialContext(ctx, "tcp", addr)
	if err != nil {
		bastion.Close()
		return nil, fmt.Errorf("%s through %s: %w", host, h.Via, err)
	}
	return l.handshake(ctx, through{conn, bastion}, addr)
}

// dialTimeout is for one attempt, on a machine that has other things to do. It
// does not slow down a wait for a host that boots: as long as that has no
// network, the lab's router says within a third of a second that it is not
// there.
const dialTimeout = 10 * time.Second

// through is a connection that ends the one it leads through.
type through struct {
	net.Conn
	bastion *ssh.Client
}

func (t through) Close() error {
	err := t.Conn.Close()
	t.bastion.Close()
	return err
}

// handshake makes an SSH connection of a network connection, which it closes
// if it fails.
func (l *Lab) handshake(ctx context.Context, conn net.Conn, addr string) (*ssh.Client, error) {
	// x/crypto knows no context, and a connection through another no deadline.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	fail := func(err error) (*ssh.Client, error) {
		conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		return nil, err
	}
	text, err := os.ReadFile(l.KeyFile)
	if err != nil {
		return fail(err)
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return fail(err)
	}
	known, err := knownhosts.New(l.KnownHostsFile)
	if err != nil {
		return fail(err)
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User:              "root",
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback:   known,
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
	})
	if err != nil {
		return fail(err)
	}
	return ssh.NewClient(c, chans, reqs), nil
}

// idle are connections that SSH has made and nobody uses, by host.
type idle struct {
	mu      sync.Mutex
	clients map[string][]*ssh.Client
}

// mostIdle is how many of them are kept for a host.
const mostIdle = 2

// connect returns a connection to a host that was used before, if there is one that
// still leads there, or else a new one: to log in takes a host a dozen processes.
func (l *Lab) connect(ctx context.Context, host string) (*ssh.Client, error) {
	for {
		l.idle.mu.Lock()
		all := l.idle.clients[host]
		if len(all) == 0 {
			l.idle.mu.Unlock()
			return l.Dial(ctx, host)
		}
		client := all[len(all)-1]
		l.idle.clients[host] = all[:len(all)-1]
		l.idle.mu.Unlock()
		// A host that has lost its power does not say so.
		timer := time.AfterFunc(aliveTimeout, func() { client.Close() })
		_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
		if timer.Stop() && err == nil {
			return client, nil
		}
		client.Close()
	}
}

// aliveTimeout is how long a host may take to answer over a connection that is there.
const aliveTimeout = 2 * time.Second

// keep gives a connection back that is as it was.
func (l *Lab) keep(host string, client *ssh.Client) {
	l.idle.mu.Lock()
	defer l.idle.mu.Unlock()
	if len(l.idle.clients[host]) >= mostIdle {
		client.Close()
		return
	}
	if l.idle.clients == nil {
		l.idle.clients = map[string][]*ssh.Client{}
	}
	l.idle.clients[host] = append(l.idle.clients[host], client)
}

// disconnect closes the connections that nobody uses.
func (l *Lab) disconnect() {
	l.idle.mu.Lock()
	defer l.idle.mu.Unlock()
	for _, clients := range l.idle.clients {
		for _, c := range clients {
			c.Close()
		}
	}
	l.idle.clients = nil
}

// SSH runs a command on a host, as root, and returns its standard output
// without the last line end. As with ssh(1), the words are joined with spaces
// and given to the host's shell. When ctx ends, the connection does, and the
// error is ctx's; the command may go on. The error of a command that failed
// holds what it wrote to standard error; errors.As finds an *ssh.ExitError.
func (l *Lab) SSH(ctx context.Context, host string, command ...string) (string, error) {
	client, err := l.connect(ctx, host)
	if err != nil {
		return "", fmt.Errorf("connect to host %s: %w", host, err)
	}
	stop := context.AfterFunc(ctx, func() { client.Close() })
	var out, said bytes.Buffer
	err = execute(client, strings.Join(command, " "), &out, &said)
	var exit *ssh.ExitError
	if stop() && (err == nil || errors.As(err, &exit)) {
		l.keep(host, client)
	} else {
		client.Close()
	}
	text := strings.TrimSuffix(out.String(), "\n")
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return text, fmt.Errorf("on host %s: %s: %w: %s", host, strings.Join(command, " "), err, strings.TrimSpace(said.String()))
	}
	return text, nil
}

// execute runs a command over a connection.
func execute(client *ssh.Client, command string, stdout, stderr io.Writer) error {
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()
	session.Stdout, session.Stderr = stdout, stderr
	return session.Run(command)
}
