package wire

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const nonce = "0123456789abcdef0123456789abcdef"

func scan(pieces ...string) []string {
	var got []string
	var data strings.Builder
	flush := func() {
		if data.Len() > 0 {
			got = append(got, fmt.Sprintf("data %q", data.String()))
			data.Reset()
		}
	}
	begun := false
	s := Scanner{Nonce: nonce}
	s.Expect = func(word string) bool {
		return begun == (word == MarkEnd || word == MarkExit || word == MarkStatus || word == MarkFree)
	}
	s.Data = func(p []byte) { data.Write(p) }
	s.Mark = func(word, rest string) {
		flush()
		begun = begun || word == MarkBegin
		got = append(got, strings.TrimSpace("mark "+word+" "+rest))
	}
	for _, p := range pieces {
		s.Write([]byte(p))
	}
	s.Flush()
	flush()
	return got
}

func TestScanner(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", nil},
		{"no marks", "a\nb\n", []string{`data "a\nb\n"`}},
		{"a script's output", "Welcome!\n" + Begin(nonce) + "out\nput" + End(nonce), []string{
			`data "Welcome!\n"`, "mark begin", `data "out\nput"`, "mark end",
		}},
		{"noise without a line end", "Welcome!" + Begin(nonce), []string{`data "Welcome!"`, "mark begin"}},
		{"the script's last line end stays", Begin(nonce) + "x\n" + End(nonce), []string{"mark begin", `data "x\n"`, "mark end"}},
		{"no output", Begin(nonce) + End(nonce), []string{"mark begin", "mark end"}},
		{"an exit status", Begin(nonce) + "oops\n" + Exit(nonce, 3), []string{"mark begin", `data "oops\n"`, "mark exit 3"}},
		{"a kept session", Begin(nonce) + "oops" + Exit(nonce, 3) + Status(nonce, 3) + Free(nonce), []string{
			"mark begin", `data "oops"`, "mark exit 3", "mark status 3", "mark free",
		}},
		{"its marks within a line", Begin(nonce) + "x" + nonce + " free\ny" + nonce + " status 0\n" + Free(nonce), []string{
			"mark begin", `data "x` + nonce + ` free\ny` + nonce + ` status 0\n"`, "mark free",
		}},
		{"a prompt in a list of processes", Begin(nonce) + "sudo -p " + nonce + " password: x" + End(nonce), []string{
			"mark begin", `data "sudo -p ` + nonce + ` password: x"`, "mark end",
		}},
		{"an end that is not on a line of its own", Begin(nonce) + "x" + nonce + " end\n" + End(nonce), []string{
			"mark begin", `data "x` + nonce + ` end\n"`, "mark end",
		}},
		{"an end before the beginning", "\n" + nonce + " end\n", []string{`data "\n` + nonce + ` end\n"`}},
		{"a question of sudo", "We trust you\n" + nonce + " password:", []string{`data "We trust you\n"`, "mark password:"}},
		{"a question, answered wrongly", nonce + " password:Sorry\n" + nonce + " password:", []string{
			"mark password:", `data "Sorry\n"`, "mark password:",
		}},
		{"the command traced by a shell", "+ sh -c " + nonce + " root 120\n" + Begin(nonce), []string{
			`data "+ sh -c ` + nonce + ` root 120\n"`, "mark begin",
		}},
		{"half a nonce", nonce[:20] + "\n", []string{`data "` + nonce[:20] + `\n"`}},
		{"a mark cut off", nonce + " exit", []string{`data "` + nonce + ` exit"`}},
		{"a nonce with much behind it", nonce + " begin" + strings.Repeat("x", 300), []string{
			`data "` + nonce + ` begin` + strings.Repeat("x", 300) + `"`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, scan(tt.text)); diff != "" {
				t.Errorf("in one piece (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, scan(strings.Split(tt.text, "")...)); diff != "" {
				t.Errorf("byte by byte (-want +got):\n%s", diff)
			}
			for i := range tt.text {
				if diff := cmp.Diff(tt.want, scan(tt.text[:i], tt.text[i:])); diff != "" {
					t.Errorf("cut at %d (-want +got):\n%s", i, diff)
				}
			}
		})
	}
}

// TestScannerHoldsNothingBack pins that a line is handed out when it is there: a
// script that holds a lock prints one line and then nothing for minutes.
func TestScannerHoldsNothingBack(t *testing.T) {
	var got string
	s := Scanner{Nonce: nonce}
	s.Data = func(p []byte) { got += string(p) }
	s.Expect = func(string) bool { return true }
	s.Mark = func(string, string) { s.Raw = true }
	s.Write([]byte("noise\n" + Begin(nonce) + "locked\n"))
	if got != "noise\nlocked\n" {
		t.Errorf("got %q", got)
	}
	s.Write([]byte(End(nonce)))
	if want := "noise\nlocked\n" + End(nonce); got != want {
		t.Errorf("raw: got %q, want %q", got, want)
	}
}

// FuzzScanner checks that output is unchanged however it arrives.
func FuzzScanner(f *testing.F) {
	f.Add("output\n", uint8(1))
	f.Add(nonce, uint8(7))
	f.Add("\n"+nonce[:31], uint8(3))
	f.Fuzz(func(t *testing.T, output string, size uint8) {
		if strings.Contains(output, nonce) {
			t.Skip("nobody knows the nonce")
		}
		text := Begin(nonce) + output + End(nonce)
		var pieces []string
		step := int(size) + 1
		for i := 0; i < len(text); i += step {
			pieces = append(pieces, text[i:min(i+step, len(text))])
		}
		want := []string{"mark begin", fmt.Sprintf("data %q", output), "mark end"}
		if output == "" {
			want = []string{"mark begin", "mark end"}
		}
		if diff := cmp.Diff(want, scan(pieces...)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestParseExit(t *testing.T) {
	type result struct {
		Code     int
		Term, OK bool
	}
	tests := map[string]result{
		"0":              {0, false, true},
		"137":            {137, false, true},
		"143 terminated": {143, true, true},
		"":               {0, false, false},
		"x":              {0, false, false},
	}
	for rest, want := range tests {
		var got result
		got.Code, got.Term, got.OK = ParseExit(rest)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", rest, diff)
		}
	}
}
