// Package redact keeps secrets out of text that people will read: logs, errors
// and what a host printed.
package redact

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Mask is what a secret is replaced by.
const Mask = "[redacted]"

// minLength is the length, in bytes, below which a secret is ignored: masking
// every "abc" would hide the text and, worse, show where the secret is in it.
const minLength = 6

// Set is a set of secrets. The zero value is empty and ready; so is a nil *Set,
// to which nothing can be added. All methods are safe for concurrent use.
type Set struct {
	mu      sync.Mutex
	secrets map[string]bool

	// replacer is nil after Add until the next Apply builds it, so that
	// adding a thousand secrets does not build a thousand replacers.
	replacer atomic.Pointer[strings.Replacer]
}

// Add makes Apply mask secret and its usual encodings. Secrets shorter than six
// bytes are ignored.
func (s *Set) Add(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, form := range []string{secret, strings.TrimSpace(secret)} {
		if len(form) < minLength || s.secrets[form] {
			continue
		}
		if s.secrets == nil {
			s.secrets = make(map[string]bool)
		}
		s.secrets[form] = true
		s.replacer.Store(nil)
	}
}

// Apply returns text with every secret masked.
func (s *Set) Apply(text string) string {
	if s == nil || text == "" {
		return text
	}
	return s.current().Replace(text)
}

// Bytes is Apply for bytes. The result may be text itself.
func (s *Set) Bytes(text []byte) []byte {
	if s == nil || len(text) == 0 {
		return text
	}
	masked := s.Apply(string(text))
	if len(masked) == len(text) && masked == string(text) {
		return text
	}
	return []byte(masked)
}

func (s *Set) current() *strings.Replacer {
	if r := s.replacer.Load(); r != nil {
		return r
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.replacer.Load(); r != nil {
		return r
	}
	forms := make(map[string]bool)
	for secret := range s.secrets {
		addForms(forms, secret)
	}
	all := make([]string, 0, len(forms))
	for form := range forms {
		all = append(all, form)
	}
	// The longest first: at any place of the text the replacer takes the
	// first that fits, and a secret may begin with another one.
	slices.SortFunc(all, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
	})
	pairs := make([]string, 0, 2*len(all))
	for _, form := range all {
		pairs = append(pairs, form, Mask)
	}
	r := strings.NewReplacer(pairs...)
	s.replacer.Store(r)
	return r
}

// addForms adds the ways in which secret may appear in a text.
func addForms(forms map[string]bool, secret string) {
	add := func(form string) {
		if len(form) >= minLength {
			forms[form] = true
		}
	}
	add(secret)
	add(url.QueryEscape(secret))
	add(url.PathEscape(secret))
	add(userinfo(secret))
	for _, html := range []bool{false, true} {
		add(jsonEscape(secret, html))
	}
	for _, form := range base64Forms(secret) {
		add(form)
	}
	// A key printed with its lines indented or cut off is still a key.
	if strings.Contains(secret, "\n") {
		for line := range strings.Lines(secret) {
			line = strings.TrimSpace(line)
			if len(line) >= 16 && !strings.HasPrefix(line, "-----") {
				add(line)
			}
		}
	}
}

// userinfo escapes like the password of a URL does.
func userinfo(secret string) string {
	_, escaped, _ := strings.Cut(url.UserPassword("", secret).String(), ":")
	return escaped
}

func jsonEscape(secret string, html bool) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(html)
	if err := enc.Encode(secret); err != nil {
		return ""
	}
	coded := strings.TrimSuffix(b.String(), "\n")
	return coded[1 : len(coded)-1]
}

// base64Forms returns the encodings of secret by itself, and what is the same
// of them wherever the secret stands in a longer text that is encoded: the
// password in an "Authorization: Basic" header is behind a user name.
func base64Forms(secret string) []string {
	var forms []string
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		forms = append(forms, enc.EncodeToString([]byte(secret)))
		for before := range 3 {
			text := append(make([]byte, before), secret...)
			coded := enc.EncodeToString(text)
			first := (before*8 + 5) / 6     // sixtets that hold bits of what is before
			last := len(text) * 8 / 6       // and, beyond, of what is behind
			const least = minLength/3*4 + 2 // shorter ones could be anything
			if last-first >= least {
				forms = append(forms, coded[first:last])
			}
		}
	}
	return forms
}
