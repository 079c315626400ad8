package redact

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestApply(t *testing.T) {
	const secret = `s3cr&t"p\ss/w?rd+`
	std := base64.StdEncoding
	js, _ := json.Marshal(secret)
	tests := []struct {
		name, text, want string
	}{
		{"nothing to hide", "plain", "plain"},
		{"as it is", "PGPASSWORD=" + secret + " psql", "PGPASSWORD=[redacted] psql"},
		{"twice", secret + secret, "[redacted][redacted]"},
		{"query", "?p=" + url.QueryEscape(secret), "?p=[redacted]"},
		{"path", "/" + url.PathEscape(secret) + "/", "/[redacted]/"},
		{"user info", url.UserPassword("u", secret).String() + "@h", "u:[redacted]@h"},
		{"JSON", `{"p":` + string(js) + `}`, `{"p":"[redacted]"}`},
		{"JSON without HTML escapes", `{"p":"s3cr&t\"p\\ss/w?rd+"}`, `{"p":"[redacted]"}`},
		{"base64", std.EncodeToString([]byte(secret)), "[redacted]="},
		{"short secrets are ignored", "abc abcde", "abc abcde"},
		{"the longer of two secrets", "longsecret-and-more", "[redacted]"},
		{"the shorter of two secrets", "longsecret", "[redacted]"},
		{"trimmed", "from-a-file", "[redacted]"},
		{"a line of a key", "> MIIBVQIBADANBgkqhkiG9w0BAQEFAASCAT8wggE7AgEAAkEA", "> [redacted]"},
		{"a line of every key", "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----"},
	}
	var s Set
	for _, add := range []string{
		"longsecret", "longsecret-and-more", secret, "abc", "abcde", "from-a-file\n",
		"-----BEGIN PRIVATE KEY-----\nMIIBVQIBADANBgkqhkiG9w0BAQEFAASCAT8wggE7AgEAAkEA\n-----END PRIVATE KEY-----\n",
	} {
		s.Add(add)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, s.Apply(tt.text)); diff != "" {
				t.Errorf("Apply (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, string(s.Bytes([]byte(tt.text)))); diff != "" {
				t.Errorf("Bytes (-want +got):\n%s", diff)
			}
		})
	}
}

// TestBasicAuth pins that a password is masked in an Authorization header,
// where it is encoded together with a user name of any length.
func TestBasicAuth(t *testing.T) {
	const password = "correct horse battery"
	var s Set
	s.Add(password)
	for n := range 7 {
		user := strings.Repeat("u", n)
		for _, behind := range []string{"", "x", "xy"} {
			coded := base64.StdEncoding.EncodeToString([]byte(user + ":" + password + behind))
			got := s.Apply("Basic " + coded)
			if !strings.Contains(got, Mask) {
				t.Fatalf("user of %d letters: %q is not masked", n, got)
			}
			// What is left must not tell more than the bytes around it do.
			left := len(strings.Replace(got, Mask, "", 1)) - len("Basic ")
			if left > len(user)*4/3+len(behind)*4/3+8 {
				t.Errorf("user of %d letters: too much is left of %q: %q", n, coded, got)
			}
		}
	}
}

func TestNilSet(t *testing.T) {
	var s *Set
	if got := s.Apply("text"); got != "text" {
		t.Errorf("Apply = %q", got)
	}
	if got := string(s.Bytes([]byte("text"))); got != "text" {
		t.Errorf("Bytes = %q", got)
	}
}

func TestBytesOfCleanTextIsTheSame(t *testing.T) {
	var s Set
	s.Add("secret-value")
	text := []byte("clean")
	if got := s.Bytes(text); &got[0] != &text[0] {
		t.Error("clean text was copied")
	}
}

func TestConcurrent(t *testing.T) {
	var s Set
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				secret := fmt.Sprintf("secret-%d-%d!", i, j)
				s.Add(secret)
				if got := s.Apply(secret); got != Mask {
					t.Errorf("%q was not masked: %q", secret, got)
					return
				}
			}
		})
	}
	wg.Wait()
}
