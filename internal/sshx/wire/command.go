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

// Comments are for the reader of the files; every command would carry them.
var launcher, wrapper = stripped(launcherFile), stripped(wrapperFile)

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
	if c.User != "" && !userName.MatchString(c.User) {
		return "", fmt.Errorf("%q is not a valid account name", c.User)
	}
	words := []string{
		"exec", "/bin/sh", "-c", launcher, c.Nonce,
		c.Become, c.User, strconv.Itoa(c.Seconds), wrapper,
		c.mode(), c.Op, c.Script,
	}
	words = append(words, c.Args...)
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
	if len(words) < 12 || !slices.Equal(words[:4], []string{"exec", "/bin/sh", "-c", launcher}) || words[8] != wrapper {
		return Command{}, errors.New("this is not a command of ours")
	}
	seconds, err := strconv.Atoi(words[7])
	if err != nil {
		return Command{}, err
	}
	c := Command{
		Nonce: words[4], Become: words[5], User: words[6], Seconds: seconds,
		Stream: words[9] == "stream", Op: words[10], Script: words[11],
	}
	if len(words) > 12 {
		c.Args = words[12:]
	}
	return c, nil
}
