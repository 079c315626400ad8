package wire

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var awkward = []string{
	"", " ", "plain", "two words", "it's", `"double"`, `back\slash`, `\\`, `\'`, `'\''`, "a\nb", "\n", "\t",
	"$HOME", "$(id)", "`id`", "!!", "a!b", "*", "?", "[a]", "~", "~root", "#no comment", "a;b", "a&b", "a|b",
	"-n", "--", "=", "%s", `\n`, `\0101`, "\x01\x7f", "caf\u00e9", "\xff\xfe", "{a,b}", "(x)", "<in", ">out", "\r\n",
	strings.Repeat("'", 50),
}

// TestQuoteInShells hands awkward words to every shell that is here. Its printf
// is /usr/bin's, since that of some shells reads its arguments in its own way.
func TestQuoteInShells(t *testing.T) {
	for _, shell := range []string{"sh", "dash", "bash", "zsh", "ksh", "busybox", "fish", "tcsh"} {
		t.Run(shell, func(t *testing.T) {
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Skip("not installed")
			}
			var words []string
			line := "env printf '%s,'"
			for _, w := range awkward {
				if shell == "fish" && strings.Contains(w, "\xff") {
					continue // it keeps what is not UTF-8 in a form of its own
				}
				if shell == "tcsh" && (strings.Contains(w, "\n") || strings.Contains(w, "\xff")) {
					continue // no quoting in csh holds a line end
				}
				words = append(words, w)
				line += " " + Quote(w)
			}
			args := []string{"-c", line}
			if shell == "busybox" {
				args = append([]string{"sh"}, args...)
			}
			out, err := exec.Command(path, args...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if diff := cmp.Diff(strings.Join(words, ",")+",", string(out)); diff != "" {
				t.Errorf("(-sent +received):\n%s", diff)
			}
		})
	}
}

func FuzzQuote(f *testing.F) {
	for _, w := range awkward {
		f.Add(w)
	}
	sh, err := exec.LookPath("sh")
	if err != nil {
		f.Skip("no sh")
	}
	f.Fuzz(func(t *testing.T, word string) {
		if strings.ContainsRune(word, 0) {
			t.Skip("can't be an argument")
		}
		words, err := split(Quote(word) + " " + Quote(word))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{word, word}, words); diff != "" {
			t.Fatalf("split (-want +got):\n%s", diff)
		}
		if len(word) > 100_000 {
			t.Skip("too long for the system")
		}
		out, err := exec.Command(sh, "-c", "printf %s "+Quote(word)).Output()
		if err != nil {
			t.Fatal(err)
		}
		if string(out) != word {
			t.Fatalf("sent %q, the shell read %q", word, out)
		}
	})
}
