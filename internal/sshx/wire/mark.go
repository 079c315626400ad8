package wire

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// The marks, which are lines of the nonce and one of these words.
const (
	MarkUp           = "up"           // stderr: the login shell runs our command
	MarkAbsent       = "absent"       // stderr: with the name of a missing program
	MarkUnprivileged = "unprivileged" // stderr: with the user who may not become root
	MarkPassword     = "password:"    // stderr: sudo asks; no line end behind it
	MarkBegin        = "begin"        // both: what follows is the script's
	MarkExit         = "exit"         // stderr: with the script's status
	MarkEnd          = "end"          // stdout: the script's output is complete
	MarkStatus       = "status"       // stderr, in a kept session: with the wrapper's status
	MarkFree         = "free"         // both, in a kept session: nobody can write any more
)

// Go is what the wrapper has to read before it starts the script.
func Go(nonce string) string { return nonce + "\n" }

// Begin is what the wrapper prints, on both outputs, before the script.
func Begin(nonce string) string { return nonce + " " + MarkBegin + "\n" }

// Exit is what the wrapper prints on stderr after the script.
func Exit(nonce string, code int) string {
	return fmt.Sprintf("\n%s %s %d \n", nonce, MarkExit, code)
}

// End is what the wrapper prints on stdout after the script.
func End(nonce string) string { return "\n" + nonce + " " + MarkEnd + "\n" }

// Status is what the keeper prints on stderr after the wrapper.
func Status(nonce string, status int) string {
	return fmt.Sprintf("\n%s %s %d\n", nonce, MarkStatus, status)
}

// Free is what the keeper prints, on both outputs, as the last of a script.
func Free(nonce string) string { return "\n" + nonce + " " + MarkFree + "\n" }

// ParseExit reads the rest of an exit mark: the script's status, and whether
// somebody asked the wrapper to terminate meanwhile.
func ParseExit(rest string) (code int, terminated, ok bool) {
	number, word, _ := strings.Cut(rest, " ")
	code, err := strconv.Atoi(number)
	return code, word == "terminated", err == nil
}

// maxMark bounds the length of a mark, in bytes; what is longer is data.
const maxMark = 256

// Scanner takes a stream apart into data and marks. It keeps back as little as
// it can: only what may become a mark.
type Scanner struct {
	Nonce string

	// Data gets what is not a mark. It must not keep the slice.
	Data func([]byte)

	// Expect says whether a mark can come now. What looks like one and can't,
	// such as sudo's prompt in a list of processes, is data.
	Expect func(word string) bool

	// Mark gets the word of a mark and what stands behind it on the line.
	Mark func(word, rest string)

	// Raw ends the scanning: all that follows is data. Mark may set it.
	Raw bool

	held []byte
}

// Write takes the next part of the stream.
func (s *Scanner) Write(p []byte) {
	if s.Raw {
		s.data(p)
		return
	}
	buf := p
	if len(s.held) > 0 {
		buf = append(s.held, p...)
	}
	rest := s.scan(buf)
	s.held = append(s.held[:0:0], rest...)
}

// Flush hands out what was kept back, at the end of the stream.
func (s *Scanner) Flush() {
	held := s.held
	s.held = nil
	s.data(held)
}

// scan returns what has to wait for more.
func (s *Scanner) scan(buf []byte) []byte {
	for {
		at := bytes.Index(buf, []byte(s.Nonce))
		if at < 0 {
			keep := s.tail(buf)
			s.data(buf[:len(buf)-keep])
			return buf[len(buf)-keep:]
		}
		line := buf[at+len(s.Nonce):]
		text, size := cutMark(line)
		if size == 0 && len(line) < maxMark {
			// The line break before the nonce may be the mark's own.
			from := at
			if from > 0 && buf[from-1] == '\n' {
				from--
			}
			s.data(buf[:from])
			return buf[from:]
		}
		word, rest, _ := strings.Cut(text, " ")
		end, own := at, true
		switch word {
		case MarkExit, MarkEnd, MarkStatus, MarkFree:
			// A line end of their own stands before these.
			own = end > 0 && buf[end-1] == '\n'
			end--
		}
		if !own || !isMark(word) || !s.Expect(word) {
			// The nonce stands in something else, such as the command
			// itself, traced by a login shell.
			s.data(buf[:at+len(s.Nonce)])
			buf = line
			continue
		}
		s.data(buf[:end])
		s.Mark(word, strings.TrimSuffix(rest, " "))
		buf = line[size:]
		if s.Raw {
			s.data(buf)
			return nil
		}
	}
}

func isMark(word string) bool {
	switch word {
	case MarkUp, MarkAbsent, MarkUnprivileged, MarkPassword, MarkBegin, MarkExit, MarkEnd, MarkStatus, MarkFree:
		return true
	}
	return false
}

func (s *Scanner) data(p []byte) {
	if len(p) > 0 {
		s.Data(p)
	}
}

// cutMark returns the text of the mark that follows a nonce and how many bytes
// it takes, zero if it is not complete.
func cutMark(line []byte) (text string, size int) {
	if after, ok := bytes.CutPrefix(line, []byte(" "+MarkPassword)); ok {
		return MarkPassword, len(line) - len(after)
	}
	end := bytes.IndexByte(line, '\n')
	if end < 0 {
		return "", 0
	}
	return strings.TrimPrefix(string(line[:end]), " "), end + 1
}

// tail returns how many bytes at the end of buf may be the start of a mark.
func (s *Scanner) tail(buf []byte) int {
	for n := min(len(buf), len(s.Nonce)); n > 0; n-- {
		if strings.HasPrefix(s.Nonce, string(buf[len(buf)-n:])) {
			if n < len(buf) && buf[len(buf)-n-1] == '\n' {
				n++
			}
			return n
		}
	}
	if len(buf) > 0 && buf[len(buf)-1] == '\n' {
		return 1
	}
	return 0
}
