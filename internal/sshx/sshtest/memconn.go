package sshtest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// memBuffer is how much one direction of a connection holds, in bytes: enough
// that both sides of an SSH handshake can speak first, which net.Pipe forbids.
const memBuffer = 64 << 10

// memPipe returns the two ends of a connection in memory. It has deadlines and
// a buffer, and works under testing/synctest.
func memPipe(a, b net.Addr) (*memConn, *memConn) {
	there, back := newStream(), newStream()
	return &memConn{in: back, out: there, local: a, remote: b}, &memConn{in: there, out: back, local: b, remote: a}
}

type memConn struct {
	in, out       *stream
	local, remote net.Addr
}

func (c *memConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memConn) Write(p []byte) (int, error) { return c.out.write(p) }
func (c *memConn) LocalAddr() net.Addr         { return c.local }
func (c *memConn) RemoteAddr() net.Addr        { return c.remote }

func (c *memConn) Close() error {
	c.in.close(true)
	c.out.close(false)
	return nil
}

func (c *memConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.in.readBy.set(c.in, t)
	return nil
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.out.writeBy.set(c.out, t)
	return nil
}

// stream is one direction.
type stream struct {
	mu       sync.Mutex
	changed  sync.Cond
	buf      []byte
	finished bool // by the writer: what is there can still be read
	dropped  bool // by the reader
	readBy   deadline
	writeBy  deadline
}

func newStream() *stream {
	s := new(stream)
	s.changed.L = &s.mu
	return s
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.dropped:
			return 0, net.ErrClosed
		case s.readBy.passed:
			return 0, os.ErrDeadlineExceeded
		case len(s.buf) > 0:
			n := copy(p, s.buf)
			s.buf = s.buf[n:]
			if len(s.buf) == 0 {
				s.buf = nil // an idle connection holds no memory
			}
			s.changed.Broadcast()
			return n, nil
		case s.finished:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

func (s *stream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.finished:
			return n, net.ErrClosed
		case s.dropped:
			return n, io.ErrClosedPipe
		case s.writeBy.passed:
			return n, os.ErrDeadlineExceeded
		case len(p) == 0:
			return n, nil
		}
		if room := memBuffer - len(s.buf); room > 0 {
			k := min(room, len(p))
			s.buf = append(s.buf, p[:k]...)
			n, p = n+k, p[k:]
			s.changed.Broadcast()
			continue
		}
		s.changed.Wait()
	}
}

func (s *stream) close(byReader bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if byReader {
		s.dropped, s.buf = true, nil
	} else {
		s.finished = true
	}
	s.readBy.stop()
	s.writeBy.stop()
	s.changed.Broadcast()
}

// deadline is guarded by its stream's mutex.
type deadline struct {
	passed bool
	timer  *time.Timer
	epoch  int
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.epoch++
}

func (d *deadline) set(s *stream, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.stop()
	d.passed = false
	if !t.IsZero() {
		left := time.Until(t)
		if left <= 0 {
			d.passed = true
		} else {
			epoch := d.epoch
			d.timer = time.AfterFunc(left, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				if d.epoch == epoch {
					d.passed = true
					s.changed.Broadcast()
				}
			})
		}
	}
	s.changed.Broadcast()
}
