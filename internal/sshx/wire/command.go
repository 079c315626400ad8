// Package wire is the language between sshx and a host's shell: the command
// line that runs a script, and the marks by which its output is told from what
// login shells, sudo and the time limit print around it.
//
// Both sides of it are here, so that simulated hosts (package sshtest) speak
// exactly what real ones do.
package wire

import (
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// How a command becomes root; the words that the launcher understands.
const (
	BecomeNone         = "none"
	BecomeAuto         = "auto"
	BecomeAutoPassword = "auto-password"
	BecomeSudo         = "sudo"
	BecomeSudoPassword = "sudo-password"
	BecomeDoas         = "doas"
)

// MaxLine is the longest command line, in bytes, that is sent. Linux takes no
// single argument over 128 KiB, and the line is one argument of a login shell.
const MaxLine = 128<<10 - 1<<10

//go:embed launcher.sh
var launcherFile string

//go:embed wrapper.sh
var wrapperFile string

//go:embed keeper.sh
var keeperFile string

//go:embed keeper.pl
var keeperProgramFile string

// Comments are for the reader of the files; every command would carry them.
var (
	launcher, wrapper     = stripped(launcherFile), stripped(wrapperFile)
	keeper, keeperProgram = stripped(keeperFile), stripped(keeperProgramFile)
)

// KeeperNeeds is the program without which no session can be kept.
const KeeperNeeds = "perl"

func stripped(script string) string {
	var b strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimLeft(line, "\t")
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// Command is a script to run and how.
type Command struct {
	// Nonce is the random word in every mark of this run; see NewNonce.
	Nonce string

	// Become is one of the Become constants.
	Become string

	// User is the account the script runs as; empty is the one logged in.
	User string

	// Seconds is the time limit; zero is none.
	Seconds int

	// Stream leaves out the mark at the end of the output, so that a reader
	// can take everything after the first mark as it comes.
	Stream bool

	// Keep makes the session one that takes more scripts when this one has
	// ended; see Request. It is root's, whatever User is, and can't be one of
	// those that Stream.
	Keep bool

	// Input is how many bytes the script gets to read, if Keep is set: its
	// input is not the session's then, which goes on.
	Input int

	// Op is the script's "$0": the name by which a shell's messages call it.
	Op     string
	Script string
	Args   []string
}

// NewNonce returns a word that nobody can have printed before.
func NewNonce() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// UserName is what account names look like. The wrapper expands "~name", so
// nothing else may pass.
var userName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?$`)

// Line returns the command line, for the login shell of the host.
func (c Command) Line() (string, error) {
	words := []string{"exec", "/bin/sh", "-c", launcher, c.Nonce, c.Become}
	if c.Keep {
		// No limit for the keeper: each script has one.
		words = append(words, "root", "0", keeper, keeperProgram, wrapper)
		words = append(words, c.request()...)
	} else {
		words = append(words, c.User, strconv.Itoa(c.Seconds), wrapper, c.mode(), c.Op, c.Script)
		words = append(words, c.Args...)
	}
	return c.join(words)
}

// Request returns what a session that was kept has to read to run this script.
// Opener is the nonce of the command that the session was opened with.
func (c Command) Request(opener string) (string, error) {
	text, err := c.join(c.request())
	return fmt.Sprintf("%s %d\n%s", opener, len(text), text), err
}

func (c Command) request() []string {
	size := strconv.Itoa(len(Go(c.Nonce)) + c.Input)
	return append([]string{c.Nonce, size, c.User, strconv.Itoa(c.Seconds), c.Op, c.Script}, c.Args...)
}

// join makes a text of words that a shell takes apart again.
func (c Command) join(words []string) (string, error) {
	if c.User != "" && !userName.MatchString(c.User) {
		return "", fmt.Errorf("%q is not a valid account name", c.User)
	}
	var b strings.Builder
	for i, word := range words {
		if strings.ContainsRune(word, 0) {
			return "", errors.New("an argument of a command can't contain a zero byte")
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(Quote(word))
	}
	if b.Len() > MaxLine {
		return "", fmt.Errorf("the script and its arguments take %d bytes, over the limit of %d: pass data in the input", b.Len(), MaxLine)
	}
	return b.String(), nil
}

func (c Command) mode() string {
	if c.Stream {
		return "stream"
	}
	return "run"
}

// Parse undoes Line.
func Parse(line string) (Command, error) {
	words, err := split(line)
	if err != nil {
		return Command{}, err
	}
	if len(words) < 12 || !slices.Equal(words[:4], []string{"exec", "/bin/sh", "-c", launcher}) {
		return Command{}, errNotOurs
	}
	switch words[8] {
	case wrapper:
		seconds, err := strconv.Atoi(words[7])
		return Command{
			Nonce: words[4], Become: words[5], User: words[6], Seconds: seconds,
			Stream: words[9] == "stream", Op: words[10], Script: words[11], Args: rest(words, 12),
		}, err
	case keeper: // and what it becomes
		c, err := parseRequest(words[11:])
		c.Become = words[5]
		return c, err
	}
	return Command{}, errNotOurs
}

var errNotOurs = errors.New("this is not a command of ours")

func parseRequest(words []string) (Command, error) {
	if len(words) < 6 {
		return Command{}, errNotOurs
	}
	size, err := strconv.Atoi(words[1])
	if err != nil {
		return Command{}, err
	}
	seconds, err := strconv.Atoi(words[3])
	return Command{
		Keep: true, Nonce: words[0], Input: size - len(Go(words[0])), User: words[2], Seconds: seconds,
		Op: words[4], Script: words[5], Args: rest(words, 6),
	}, err
}

// rest is what follows the first n words; nil if nothing does.
func rest(words []string, n int) []string {
	if len(words) <= n {
		return nil
	}
	return words[n:]
}

// ReadRequest undoes Request, reading not a byte more. It returns io.EOF if there
// is none to come.
func ReadRequest(r io.Reader, opener string) (Command, error) {
	var head []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(r, b); err != nil {
			return Command{}, err
		}
		if b[0] == '\n' {
			break
		}
		head = append(head, b[0])
	}
	size, ours := strings.CutPrefix(string(head), opener+" ")
	n, err := strconv.Atoi(size)
	if !ours || err != nil {
		return Command{}, errNotOurs
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return Command{}, err
	}
	words, err := split(string(text))
	if err != nil {
		return Command{}, err
	}
	return parseRequest(words)
}
