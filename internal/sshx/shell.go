package sshx

import (
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// shell is a session's channel and what the server tells of the login shell
// behind it. Most are for one script. One per connection is kept for more, one
// after the other: it knows whose turn it is.
type shell struct {
	conn   *conn
	ch     ssh.Channel
	free   func() // gives the session's place back; once
	opener string // the nonce that requests to a kept one begin with

	mu     sync.Mutex
	cur    *session
	ended  bool // the login shell has, or the channel: there is nobody to ask
	closer *time.Timer
}

func (c *conn) newShell(ch ssh.Channel, opener string, free func()) *shell {
	return &shell{conn: c, ch: ch, opener: opener, free: sync.OnceFunc(free)}
}

// turn makes s the script that the shell is for, nil if there is none now. It
// reports whether the shell can still be used.
func (sh *shell) turn(s *session) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.cur = s
	return !sh.ended
}

func (sh *shell) current() *session {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.cur
}

// talk asks for the command to be run and listens to what the server says of it.
func (sh *shell) talk(reqs <-chan *ssh.Request, line string) {
	defer sh.free()
	ok, err := sh.ch.SendRequest("exec", true, ssh.Marshal(&struct{ Command string }{line}))
	if s := sh.current(); err == nil && !ok && s != nil {
		s.update(func() { s.refused = true })
	}
	if err != nil || !ok {
		sh.ch.Close()
	}
	for r := range reqs {
		switch r.Type {
		case "exit-status":
			var m struct{ Status uint32 }
			if ssh.Unmarshal(r.Payload, &m) == nil {
				sh.over(func(s *session) { s.status = int(m.Status) })
			}
		case "exit-signal":
			var m struct {
				Signal  string
				Core    bool
				Message string
				Lang    string
			}
			if ssh.Unmarshal(r.Payload, &m) == nil {
				sh.over(func(s *session) { s.signal = m.Signal })
			}
		}
		if r.WantReply {
			r.Reply(false, nil)
		}
	}
	s := sh.end()
	if s != nil {
		s.update(func() {
			s.closed = true
			if s.leaving != nil {
				s.leaving.Stop()
			}
		})
	}
}

// end notes that the shell is of no use any more, and returns whose it was.
func (sh *shell) end() *session {
	sh.mu.Lock()
	sh.ended = true
	s, closer := sh.cur, sh.closer
	sh.mu.Unlock()
	if closer != nil {
		closer.Stop()
	}
	sh.conn.kept.lost(sh)
	return s
}

// over notes the end of the login shell. sshd keeps the channel open as long as
// anybody holds the output, such as a daemon that a script left behind.
func (sh *shell) over(note func(*session)) {
	sh.free()
	if s := sh.end(); s != nil {
		s.shellEnded(func() { note(s) })
		return
	}
	sh.closeSoon()
}

// dismiss ends a shell that was kept. The end of its input is enough for it, and
// so the server's count of sessions is right when the channel is closed.
func (sh *shell) dismiss() {
	sh.mu.Lock()
	ended := sh.ended
	if !ended && sh.closer == nil {
		sh.closer = time.AfterFunc(stragglers, func() { sh.ch.Close() })
	}
	sh.mu.Unlock()
	if ended {
		sh.closeSoon()
		return
	}
	_ = sh.conn.fleet.start(func() { sh.ch.CloseWrite() })
}

// closeSoon closes the channel in the background, where it may block.
func (sh *shell) closeSoon() {
	_ = sh.conn.fleet.start(func() { sh.ch.Close() })
}
