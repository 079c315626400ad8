// Package sshtest is an SSH server in the process of the test, with the faults
// that real ones have: late keys, changed host keys, handshakes that stall,
// connections that go silent, limits on sessions, forbidden forwarding, login
// shells that print noise. It runs commands with the real /bin/sh, or hands them
// to a function that plays a host.
package sshtest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/internal/sshx/wire"
)

// Config says how a server behaves. What has to change while it runs has a
// method of Server instead.
type Config struct {
	// HostKeys are the server's; by default one Ed25519 key, made anew.
	HostKeys []ssh.Signer

	// AuthorizedKeys may log in; by default every key. Password may, too,
	// unless it is empty. User is who may; by default anybody.
	AuthorizedKeys []ssh.PublicKey
	Password       string
	User           string

	// Questions are asked by keyboard-interactive authentication, and
	// Password is the answer to all of them.
	Questions []string

	// Play answers the commands of sshx. It gets the script's name and
	// arguments, and returns its exit status. If it is nil, Shell is used.
	Play func(ctx context.Context, c Call) int

	// Shell makes the process that is the login shell for a command line.
	// By default it is "/bin/sh -c line", in Env.
	Shell func(line string) *exec.Cmd
	Env   []string

	// Noise is printed on both outputs before each command.
	Noise string

	// MaxSessions is how many sessions a connection may have; 0 is any, less
	// is none.
	MaxSessions int

	// NoForwarding forbids direct-tcpip; Dial serves it, by default over the
	// real network.
	NoForwarding bool
	Dial         func(ctx context.Context, network, address string) (net.Conn, error)
}

// Call is one command, for Config.Play.
type Call struct {
	wire.Command
	Login  string // who logged in
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// Server is a running server.
type Server struct {
	cfg      Config
	listener net.Listener
	ctx      context.Context
	stop     context.CancelFunc
	wg       sync.WaitGroup

	mu       sync.Mutex
	changed  chan struct{}
	hostKeys []ssh.Signer
	reject   bool
	stall    bool
	frozen   chan struct{} // not nil while frozen
	conns    map[*serverConn]struct{}
	procs    map[*exec.Cmd]struct{}
	stats    Stats
}

// Stats counts what a server has seen.
type Stats struct {
	Accepted    int // TCP connections
	Open        int // TCP connections now
	Dialing     int // not logged in yet
	DialingPeak int
	Logins      int // successful
	Rejected    int // keys and passwords
	Sessions    int // opened
	Scripts     int // started in them, if they are played
	InSession   int // open now
	SessionPeak int // most on one connection at once
	Refused     int // sessions over the limit
	Commands    []string
	Signals     []string
	Forwards    []string // addresses
	Keepalives  int
	HostKeyAlgo string // of the last login
	LastUser    string
}

// NewHostKey returns an Ed25519 host key.
func NewHostKey() ssh.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		panic(err)
	}
	return signer
}

// Listen starts a server on a free port of the loopback interface.
func Listen(cfg Config) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return Serve(l, cfg), nil
}

// Serve starts a server on l, which it will close.
func Serve(l net.Listener, cfg Config) *Server {
	s := newServer(cfg)
	s.listener = l
	s.wg.Go(s.accept)
	return s
}

func newServer(cfg Config) *Server {
	if cfg.HostKeys == nil {
		cfg.HostKeys = []ssh.Signer{NewHostKey()}
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	s := &Server{
		cfg: cfg, hostKeys: cfg.HostKeys,
		changed: make(chan struct{}),
		conns:   make(map[*serverConn]struct{}),
		procs:   make(map[*exec.Cmd]struct{}),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// HostKey is the first host key.
func (s *Server) HostKey() ssh.PublicKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hostKeys[0].PublicKey()
}

// SetHostKeys changes the host keys for connections to come.
func (s *Server) SetHostKeys(keys ...ssh.Signer) { s.set(func() { s.hostKeys = keys }) }

// RejectLogins makes every login fail, as before the keys have arrived.
func (s *Server) RejectLogins(on bool) { s.set(func() { s.reject = on }) }

// Stall makes new connections get no answer.
func (s *Server) Stall(on bool) { s.set(func() { s.stall = on }) }

// Freeze makes the server take in nothing more on any connection, as if the
// network were gone without a word.
func (s *Server) Freeze(on bool) {
	s.set(func() {
		switch {
		case on && s.frozen == nil:
			s.frozen = make(chan struct{})
		case !on && s.frozen != nil:
			close(s.frozen)
			s.frozen = nil
		}
	})
}

// Drop ends all connections.
func (s *Server) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Conn.Close()
	}
}

// Close ends everything and waits for it.
func (s *Server) Close() {
	s.set(s.stop)
	s.listener.Close()
	s.Freeze(false)
	s.Drop()
	s.killProcesses()
	s.wg.Wait()
}

// Stats returns what the server has seen so far.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Commands = append([]string(nil), st.Commands...)
	st.Signals = append([]string(nil), st.Signals...)
	st.Forwards = append([]string(nil), st.Forwards...)
	return st
}

// Await waits until ok is true of what the server has seen.
func (s *Server) Await(ctx context.Context, ok func(Stats) bool) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if ok(s.Stats()) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.take(c)
	}
}

// take serves a new connection, in the background.
func (s *Server) take(c net.Conn) {
	sc := &serverConn{Conn: c, server: s, ended: make(chan struct{})}
	stall, closed := false, false
	s.set(func() {
		if closed = s.ctx.Err() != nil; closed {
			return
		}
		s.conns[sc] = struct{}{}
		s.stats.Accepted++
		s.stats.Open++
		s.stats.Dialing++
		s.stats.DialingPeak = max(s.stats.DialingPeak, s.stats.Dialing)
		stall = s.stall
		s.wg.Go(func() {
			defer s.set(func() {
				delete(s.conns, sc)
				s.stats.Open--
			})
			defer sc.Close()
			if stall {
				sc.wait()
				s.set(func() { s.stats.Dialing-- })
				return
			}
			s.serve(sc)
		})
	})
	if closed {
		c.Close()
	}
}

// serverConn is a connection that can freeze.
type serverConn struct {
	net.Conn
	server *Server
	once   sync.Once
	ended  chan struct{}
}

func (c *serverConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.server.mu.Lock()
	frozen := c.server.frozen
	c.server.mu.Unlock()
	if frozen != nil && err == nil {
		select {
		case <-frozen:
		case <-c.ended:
			return 0, net.ErrClosed
		}
	}
	return n, err
}

func (c *serverConn) Close() error {
	c.once.Do(func() { close(c.ended) })
	return c.Conn.Close()
}

// wait takes in what comes until the connection ends.
func (c *serverConn) wait() { io.Copy(io.Discard, c.Conn) }

func (s *Server) serve(c *serverConn) {
	cfg := &ssh.ServerConfig{
		MaxAuthTries: 100,
		PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			return nil, s.admit(meta, s.authorized(key))
		},
	}
	if s.cfg.Password != "" {
		cfg.PasswordCallback = func(meta ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			return nil, s.admit(meta, string(password) == s.cfg.Password)
		}
	}
	if s.cfg.Questions != nil {
		cfg.KeyboardInteractiveCallback = func(meta ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			answers, err := ask("", "", s.cfg.Questions, make([]bool, len(s.cfg.Questions)))
			if err != nil {
				return nil, err
			}
			for _, a := range answers {
				if a != s.cfg.Password {
					return nil, s.admit(meta, false)
				}
			}
			return nil, s.admit(meta, true)
		}
		cfg.PasswordCallback = nil
	}
	s.mu.Lock()
	for _, key := range s.hostKeys {
		cfg.AddHostKey(key)
	}
	s.mu.Unlock()
	// A client that never finishes must not keep Close waiting.
	stop := context.AfterFunc(s.ctx, func() { c.Close() })
	defer stop()
	conn, chans, reqs, err := ssh.NewServerConn(c, cfg)
	s.set(func() {
		s.stats.Dialing--
		if err == nil {
			s.stats.Logins++
			s.stats.LastUser = conn.User()
			if a, ok := conn.Conn.(ssh.AlgorithmsConnMetadata); ok {
				s.stats.HostKeyAlgo = a.Algorithms().HostKey
			}
		}
	})
	if err != nil {
		return
	}
	defer conn.Close()
	open := 0 // sessions, guarded by s.mu
	for {
		select {
		case r, ok := <-reqs:
			if !ok {
				return
			}
			if r.Type == "keepalive@openssh.com" {
				s.set(func() { s.stats.Keepalives++ })
			}
			if r.WantReply {
				r.Reply(false, nil)
			}
		case ch, ok := <-chans:
			if !ok {
				return
			}
			s.channel(conn, ch, &open)
		}
	}
}

func (s *Server) channel(conn *ssh.ServerConn, ch ssh.NewChannel, open *int) {
	switch ch.ChannelType() {
	case "session":
		refuse := false
		s.set(func() {
			refuse = s.cfg.MaxSessions < 0 || s.cfg.MaxSessions > 0 && *open >= s.cfg.MaxSessions
			if refuse {
				s.stats.Refused++
				return
			}
			*open++
			s.stats.Sessions++
			s.stats.InSession++
			s.stats.SessionPeak = max(s.stats.SessionPeak, *open)
		})
		if refuse {
			ch.Reject(ssh.ConnectionFailed, "open failed")
			return
		}
		// sshd counts a session until its process has ended.
		ended := sync.OnceFunc(func() {
			s.set(func() {
				*open--
				s.stats.InSession--
			})
		})
		s.wg.Go(func() {
			defer ended()
			s.session(conn, ch, ended)
		})
	case "direct-tcpip":
		s.wg.Go(func() { s.forward(ch) })
	default:
		ch.Reject(ssh.UnknownChannelType, "")
	}
}

func (s *Server) authorized(key ssh.PublicKey) bool {
	if s.cfg.AuthorizedKeys == nil {
		return true
	}
	for _, k := range s.cfg.AuthorizedKeys {
		if string(k.Marshal()) == string(key.Marshal()) {
			return true
		}
	}
	return false
}

func (s *Server) admit(meta ssh.ConnMetadata, ok bool) error {
	var err error
	s.set(func() {
		if !ok || s.reject || s.cfg.User != "" && s.cfg.User != meta.User() {
			s.stats.Rejected++
			err = errors.New("rejected")
		}
	})
	return err
}

func (s *Server) forward(ch ssh.NewChannel) {
	var m struct {
		Host       string
		Port       uint32
		Originator string
		FromPort   uint32
	}
	if err := ssh.Unmarshal(ch.ExtraData(), &m); err != nil {
		ch.Reject(ssh.ConnectionFailed, "bad request")
		return
	}
	address := net.JoinHostPort(m.Host, itoa(m.Port))
	s.set(func() { s.stats.Forwards = append(s.stats.Forwards, address) })
	if s.cfg.NoForwarding {
		ch.Reject(ssh.Prohibited, "open failed")
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	to, err := s.cfg.Dial(ctx, "tcp", address)
	if err != nil {
		ch.Reject(ssh.ConnectionFailed, "Connection refused")
		return
	}
	defer to.Close()
	from, reqs, err := ch.Accept()
	if err != nil {
		return
	}
	defer from.Close()
	go ssh.DiscardRequests(reqs)
	stop := context.AfterFunc(s.ctx, func() { to.Close() })
	defer stop()
	back := make(chan struct{})
	go func() {
		defer close(back)
		io.Copy(from, to)
		from.CloseWrite()
		to.Close()
	}()
	io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	} else {
		to.Close()
	}
	<-back
}
