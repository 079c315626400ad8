package sshx

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/wire"
)

const (
	// stragglers is how long after the login shell's end its output may go on
	// without ending. Only a session that failed gets that far.
	stragglers = 3 * time.Second

	// tailSize is how much of the end of stderr is kept for the error, in
	// bytes, where stderr itself is over its limit.
	tailSize = 8 << 10

	// noiseSize is how much is kept of what is printed before the script
	// starts, in bytes.
	noiseSize = 4 << 10
)

// session is one script on its way: what came through its shell's channel so far.
//
// Up to four goroutines serve it, and none of them is the caller's: x/crypto's
// calls end only with the channel, and a canceled caller must not wait for that.
type session struct {
	conn     *conn
	shell    *shell
	cmd      wire.Command
	password string         // for sudo
	stream   *io.PipeWriter // gets the output; nil for a script that is run

	begun chan struct{} // closed when the script may be told to go
	asked chan struct{} // sudo asks for the password
	over  chan struct{} // closed when all is known

	mu       sync.Mutex
	stdout   capture
	stderr   capture
	noise    [2]capture // what came before the script, on stdout and stderr
	up       bool       // the login shell has started the launcher
	absent   string     // a program that is missing
	noRights string     // the user who may not become root
	wrong    bool       // sudo asks again
	// questionLine is the line of the noise that was taken for a question.
	questionLine int
	started      bool // begun is closed
	gone         bool // told to go
	givenUp      bool // never to be told
	refused      bool // the server did not accept the command
	exited       bool // the script has ended, with:
	code         int
	term         bool // the wrapper was asked to terminate
	complete     bool // stdout is
	status       int  // of the login shell, -1 if not known
	signal       string
	ended        bool // the login shell has
	closed       bool // the channel
	eof          [2]bool
	overDone     bool
	straggle     *time.Timer
	leaving      *time.Timer // until the channel is closed though nothing has ended

	// The following is for a script in a session that is kept.
	judged   bool        // the keeper has told the wrapper's status
	fed      bool        // all of its input was sent
	freed    [2]bool     // nobody is left who could write to stdout and stderr
	stray    bool        // something came after that
	retained bool        // the script has ended well, and the session is to be put back
	settled  bool        // it was put back, or dropped
	waiting  *time.Timer // until it is dropped because it does not get free
}

func (c *conn) newSession(sh *shell, cmd wire.Command, maxOutput int) *session {
	s := &session{
		conn: c, shell: sh, cmd: cmd, status: -1,
		begun: make(chan struct{}),
		asked: make(chan struct{}, 1),
		over:  make(chan struct{}),
	}
	s.stdout.max, s.stderr.max, s.stderr.tailMax = maxOutput, maxOutput, tailSize
	for i := range s.noise {
		s.noise[i].max, s.noise[i].tailMax = noiseSize, noiseSize
	}
	return s
}

// serve starts the goroutines of the session, in a new shell: line is the command
// that opens it.
func (s *session) serve(reqs <-chan *ssh.Request, line string) error {
	s.shell.turn(s)
	if err := s.conn.fleet.start(func() { s.shell.talk(reqs, line) }); err != nil {
		s.shell.free()
		return err
	}
	return s.listen()
}

// resume starts the goroutines of the session, in a shell that was kept.
func (s *session) resume(request string) error {
	s.up = true // and what else was to be said of the way there
	if !s.shell.turn(s) {
		return &failure{kind: host.KindUnreachable, err: errors.New("the session has ended"), passing: true}
	}
	err := s.conn.fleet.start(func() {
		// It blocks while the connection is stuck, so it is not for the caller.
		// What it fails with is seen by who reads.
		_, _ = io.WriteString(s.shell.ch, request)
	})
	return errors.Join(err, s.listen())
}

func (s *session) listen() error {
	return errors.Join(
		s.conn.fleet.start(func() { s.read(0, s.shell.ch) }),
		s.conn.fleet.start(func() { s.read(1, s.shell.ch.Stderr()) }),
	)
}

// update changes the session and sees whether all is known.
func (s *session) update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	// Terminated scripts are those whose time was up, or whose host goes
	// down. Which of them, the status of the whole will tell.
	finished := s.exited && !s.term && (s.complete || s.stream != nil)
	// The output of a stream may wait for its reader for ever.
	read := s.eof[1] && (s.eof[0] || s.stream != nil && s.started)
	// In a session that is kept it is not the login shell that ends.
	failed := s.judged && (!s.started || s.freed == [2]bool{true, true})
	if (finished || failed || s.closed && read) && !s.overDone {
		s.finishLocked()
	}
	s.settleLocked()
}

func (s *session) finishLocked() {
	s.overDone = true
	if s.straggle != nil {
		s.straggle.Stop()
	}
	close(s.over)
}

// shellEnded notes the end of the login shell, which may not be that of its
// output.
func (s *session) shellEnded(note func()) {
	s.update(func() {
		if !s.judged {
			note()
		}
		s.ended = true
		if s.leaving != nil {
			s.shell.closeSoon()
		}
		if s.straggle == nil && !s.overDone {
			s.straggle = time.AfterFunc(stragglers, func() {
				s.update(func() {
					s.closed, s.eof = true, [2]bool{true, true}
				})
			})
		}
	})
}

// buffers are for reading, which is done in small pieces mostly.
var buffers = sync.Pool{New: func() any { return new([4 << 10]byte) }}

// read takes in stdout (0) or stderr (1).
func (s *session) read(which int, from io.Reader) {
	scan := wire.Scanner{Nonce: s.cmd.Nonce}
	begun, freed := false, false
	scan.Data = func(p []byte) {
		if which == 0 && begun && s.stream != nil {
			_, _ = s.stream.Write(p) // not under the lock: it waits for a reader
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case s.freed[which]:
			s.stray = true
		case !begun:
			s.noise[which].write(p)
			if which == 1 && s.looksLikeQuestion() {
				s.ask()
			}
		case which == 0 && !s.complete:
			s.stdout.write(p)
		case which == 1 && !s.exited:
			s.stderr.write(p)
		}
	}
	scan.Expect = func(word string) bool {
		switch word {
		case wire.MarkBegin:
			return !begun
		case wire.MarkEnd:
			return begun && which == 0
		case wire.MarkExit:
			return begun && which == 1
		case wire.MarkStatus:
			return s.cmd.Keep && which == 1
		case wire.MarkFree:
			return s.cmd.Keep
		}
		return !begun && which == 1
	}
	scan.Mark = func(word, rest string) {
		if word == wire.MarkBegin {
			begun = true
			scan.Raw = which == 0 && s.stream != nil
		}
		if word == wire.MarkFree {
			// What follows belongs to the next script, or to nobody.
			scan.Raw, freed = true, true
		}
		s.update(func() { s.note(which, word, rest) })
	}
	buf := buffers.Get().(*[4 << 10]byte)
	defer buffers.Put(buf)
	for !freed {
		n, err := from.Read(buf[:])
		scan.Write(buf[:n])
		if err != nil {
			break
		}
	}
	scan.Flush()
	if which == 0 && s.stream != nil {
		s.stream.Close()
	}
	s.update(func() { s.eof[which] = true })
}

// note takes in what the launcher or the wrapper tells.
func (s *session) note(which int, word, rest string) {
	switch word {
	case wire.MarkUp:
		s.up = true
	case wire.MarkAbsent:
		s.absent = rest
	case wire.MarkUnprivileged:
		s.noRights = rest
	case wire.MarkPassword:
		s.ask()
	case wire.MarkBegin:
		if which == 0 && !s.started {
			s.started = true
			close(s.begun)
		}
	case wire.MarkExit:
		if code, term, ok := wire.ParseExit(rest); ok {
			s.exited, s.code, s.term = true, code, term
		}
	case wire.MarkEnd:
		s.complete = true
	case wire.MarkStatus:
		if code, err := strconv.Atoi(rest); err == nil {
			s.status, s.judged = code, true
		}
	case wire.MarkFree:
		s.freed[which] = true
	}
}

// ask notes that sudo wants a password. The mutex is held.
func (s *session) ask() {
	select {
	case s.asked <- struct{}{}:
	default:
	}
}

// looksLikeQuestion finds the questions of PAM modules, which do not always use
// the prompt that sudo was given. The mutex is held.
func (s *session) looksLikeQuestion() bool {
	if s.password == "" || !s.up {
		return false
	}
	text := strings.ToLower(string(s.noise[1].last()))
	last := strings.TrimRight(text[strings.LastIndexByte(text, '\n')+1:], " ")
	if !strings.HasSuffix(last, ":") || !strings.Contains(last, "password") && !strings.Contains(last, "passphrase") {
		return false
	}
	// Once per line: the blank behind the colon may come by itself.
	lines := strings.Count(text, "\n") + 1
	again := lines == s.questionLine
	s.questionLine = lines
	return !again
}

// feed answers sudo, tells the script to go and gives it its input. Errors of
// writing are not reported: a script may end without reading.
func (s *session) feed(stdin []byte, thenClose bool) {
	answered := false
	for waiting := true; waiting; {
		select {
		case <-s.begun:
			waiting = false
		case <-s.over:
			return
		case <-s.asked:
			if s.password == "" || answered {
				// There is no better answer: end of input makes sudo end.
				s.update(func() { s.wrong = answered })
				s.shell.ch.CloseWrite()
				return
			}
			answered = true
			if _, err := io.WriteString(s.shell.ch, s.password+"\n"); err != nil {
				return
			}
		}
	}
	s.mu.Lock()
	s.gone = !s.givenUp
	tell := s.gone
	s.mu.Unlock()
	if !tell {
		return
	}
	if _, err := io.WriteString(s.shell.ch, wire.Go(s.cmd.Nonce)); err != nil {
		return
	}
	if len(stdin) > 0 {
		if _, err := s.shell.ch.Write(stdin); err != nil {
			return
		}
	}
	if thenClose {
		s.shell.ch.CloseWrite()
	}
	s.update(func() { s.fed = true })
}

// end gives the session back after its script has ended as f says: to those who
// come next, if it is to be kept and nothing is wrong with it.
func (s *session) end(f *failure) {
	if !s.cmd.Keep {
		s.abandon()
		return
	}
	if f != nil && f.kind != host.KindExit {
		// Whatever it is that is wrong, it would be so for the next script.
		s.mu.Lock()
		s.settled = true
		s.mu.Unlock()
		s.abandon()
		s.conn.kept.drop()
		return
	}
	s.conn.kept.clearing()
	s.update(func() { s.retained = true })
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.settled {
		// Somebody holds an output, or the script did not want its input, and
		// much of it is still on the way.
		s.waiting = time.AfterFunc(stragglers, func() { s.update(func() { s.stray = true }) })
	}
}

// settleLocked puts a session back as soon as nothing of its script is left in it,
// or drops it when that is not to be. The mutex is held.
func (s *session) settleLocked() {
	free := s.fed && s.freed == [2]bool{true, true}
	if s.settled || !s.retained || !free && !s.stray && !s.ended && !s.closed {
		return
	}
	s.settled = true
	if s.waiting != nil {
		s.waiting.Stop()
	}
	if free && !s.stray && !s.ended && !s.closed {
		s.conn.kept.put(s.shell)
		return
	}
	s.conn.kept.drop()
	s.shell.dismiss()
}

// abandon ends the session. A script that may be running is asked to terminate,
// which OpenSSH passes on only to scripts that run as the user who logged in, and
// not if that is root; the others end by their time limit, or when they notice
// that nobody reads their output.
func (s *session) abandon() {
	s.mu.Lock()
	over, gone := s.overDone, s.gone
	s.givenUp = true
	s.mu.Unlock()
	if over {
		s.leave()
		return
	}
	// In the background: writing may block on a connection that is stuck. If
	// the fleet is closed, so is the channel.
	_ = s.conn.fleet.start(func() {
		if gone {
			s.shell.ch.SendRequest("signal", false, ssh.Marshal(&struct{ Signal string }{"TERM"}))
		}
		s.shell.ch.Close()
	})
}

// leave closes the channel as soon as the server has seen the script's end: it
// counts sessions by their processes, and one that is closed before takes a
// place that we believe to be free. It does not wait for long, since a daemon may
// hold the output, or a script not heed the end of its input.
func (s *session) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.leaving != nil || s.closed && !s.ended:
	case s.ended:
		s.shell.closeSoon()
	default:
		if s.cmd.Keep {
			// Or it would wait for the next script.
			_ = s.conn.fleet.start(func() { s.shell.ch.CloseWrite() })
		}
		s.leaving = time.AfterFunc(stragglers, func() { s.shell.ch.Close() })
	}
}

// awaitStart waits for the script to start or for its failure to, at most as long
// as that may take.
func (s *session) awaitStart(ctx context.Context, limit time.Duration) error {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-s.begun:
		return nil
	case <-s.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return errSlowStart
	}
}

var errSlowStart = errors.New("slow start")

// capture keeps the beginning of what is written, and of the rest the end.
type capture struct {
	max, tailMax int
	head, tail   []byte
	dropped      bool
}

func (c *capture) write(p []byte) {
	if room := c.max - len(c.head); room > 0 {
		n := min(room, len(p))
		c.head = append(c.head, p[:n]...)
		p = p[n:]
	}
	if len(p) == 0 {
		return
	}
	c.dropped = true
	c.tail = append(c.tail, p...)
	if len(c.tail) > 2*c.tailMax {
		c.tail = append(c.tail[:0], c.tail[len(c.tail)-c.tailMax:]...)
	}
}

// last returns the end of what was written, about tailMax bytes.
func (c *capture) last() []byte {
	if !c.dropped {
		return c.head
	}
	if len(c.tail) >= c.tailMax {
		return c.tail[len(c.tail)-c.tailMax:]
	}
	return append(c.head[max(0, len(c.head)-c.tailMax):len(c.head):len(c.head)], c.tail...)
}
