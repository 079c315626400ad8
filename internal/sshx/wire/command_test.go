package wire

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLineAndParse(t *testing.T) {
	tests := []Command{
		{Nonce: NewNonce(), Become: BecomeAuto, User: "root", Seconds: 120, Op: "file.write", Script: "cat > \"$1\"\n", Args: []string{"/etc/it's"}},
		{Nonce: NewNonce(), Become: BecomeNone, Seconds: 0, Stream: true, Op: "lock", Script: "exec cat"},
		{Nonce: NewNonce(), Become: BecomeSudo, User: "postgres", Seconds: 1, Op: "script", Script: "", Args: awkward},
	}
	for _, want := range tests {
		t.Run(want.Op, func(t *testing.T) {
			line, err := want.Line()
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse(line)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestLineRefuses(t *testing.T) {
	tests := []struct {
		name string
		cmd  Command
		want string
	}{
		{"a zero byte", Command{Op: "x", Args: []string{"a\x00b"}}, "zero byte"},
		{"more than an argument can hold", Command{Op: "x", Script: strings.Repeat("x", MaxLine)}, "pass data in the input"},
		{"a user that is a script", Command{Op: "x", User: "x;id"}, "account name"},
		{"a user that is an option", Command{Op: "x", User: "-l"}, "account name"},
		{"a user that is expanded", Command{Op: "x", User: "$(id)"}, "account name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.cmd.Line()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, line := range []string{"", "ls", "'", `a\`, "exec /bin/sh -c 'echo hi' a b c d e f g h i"} {
		if _, err := Parse(line); err == nil {
			t.Errorf("%q was taken for one of our commands", line)
		}
	}
}

// TestStripped pins that what is taken out of the shell files are whole lines
// of comment and indentation only.
func TestStripped(t *testing.T) {
	got := stripped("# comment\na\n\t# comment\n\tb # kept\n\t\tc\n")
	if diff := cmp.Diff("a\nb # kept\nc\n", got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestRequest pins that requests in one stream are told apart from each other and
// from the input of the scripts.
func TestRequest(t *testing.T) {
	opener := NewNonce()
	wants := []Command{
		{Keep: true, Nonce: NewNonce(), User: "root", Seconds: 120, Input: 5, Op: "file.write", Script: "cat > \"$1\"\n", Args: []string{"/etc/it's"}},
		{Keep: true, Nonce: NewNonce(), User: "postgres", Seconds: 1, Op: "script", Script: "", Args: awkward},
	}
	var stream strings.Builder
	for _, c := range wants {
		text, err := c.Request(opener)
		if err != nil {
			t.Fatal(err)
		}
		stream.WriteString(text + strings.Repeat("x", c.Input))

		// The first one is in the command that opens the session.
		c.Become = BecomeSudo
		line, err := c.Line()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(line)
		if diff := cmp.Diff(c, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	}
	r := strings.NewReader(stream.String())
	for _, want := range wants {
		got, err := ReadRequest(r, opener)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		if _, err := io.CopyN(io.Discard, r, int64(want.Input)); err != nil {
			t.Error(err)
		}
	}
	if _, err := ReadRequest(r, opener); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}
	if _, err := ReadRequest(strings.NewReader(stream.String()), NewNonce()); err == nil {
		t.Error("took a request from somebody else")
	}
	if _, err := (Command{User: "$(id)"}).Request(opener); err == nil {
		t.Error("took a user that is expanded")
	}
}
