// Package debver compares Debian package versions and matches them against
// the pins that users write.
package debver

import "strings"

// Compare orders two versions as dpkg does (Debian Policy, section 5.6.12):
// -1 if a is older than b, 0 if they are equal, 1 if a is newer.
func Compare(a, b string) int {
	ae, au, ar := split(a)
	be, bu, br := split(b)
	if c := comparePart(ae, be); c != 0 {
		return c
	}
	if c := comparePart(au, bu); c != 0 {
		return c
	}
	return comparePart(ar, br)
}

// split cuts a version into epoch, upstream version and revision. The epoch
// ends at the first colon, the revision begins after the last hyphen.
func split(v string) (epoch, upstream, revision string) {
	v = strings.TrimSpace(v)
	if e, rest, ok := strings.Cut(v, ":"); ok {
		epoch, v = e, rest
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

// comparePart compares alternating stretches of non-digits (by the policy's
// order: tilde, end, letters, the rest) and digits (by value).
func comparePart(a, b string) int {
	for a != "" || b != "" {
		for (a != "" && !digit(a[0])) || (b != "" && !digit(b[0])) {
			if c := order(a) - order(b); c != 0 {
				return sign(c)
			}
			a, b = tail(a), tail(b)
		}
		var na, nb string
		na, a = number(a)
		nb, b = number(b)
		if c := len(na) - len(nb); c != 0 {
			return sign(c)
		}
		if c := strings.Compare(na, nb); c != 0 {
			return c
		}
	}
	return 0
}

// order is the weight of the first character of s in a non-digit stretch. A
// digit weighs as much as the end: both end the stretch.
func order(s string) int {
	switch {
	case s == "" || digit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case s[0] >= 'A' && s[0] <= 'Z', s[0] >= 'a' && s[0] <= 'z':
		return int(s[0])
	}
	return int(s[0]) + 256
}

// tail drops the first character unless a stretch of digits begins there.
func tail(s string) string {
	if s == "" || digit(s[0]) {
		return s
	}
	return s[1:]
}

// number takes the leading digits off s, without leading zeros.
func number(s string) (digits, rest string) {
	i := 0
	for i < len(s) && digit(s[i]) {
		i++
	}
	return strings.TrimLeft(s[:i], "0"), s[i:]
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// Upstream returns the upstream part of a version: "17.11" for
// "17.11-0+deb13u1", without what packagers append to it after "+".
func Upstream(v string) string {
	_, u, _ := split(v)
	if i := strings.IndexByte(u, '+'); i >= 0 {
		u = u[:i]
	}
	return u
}

// Matches reports whether a package version satisfies a pin. A pin with a
// revision or an epoch is taken literally; any other pin names an upstream
// version and accepts every package revision of it.
func Matches(pin, version string) bool {
	if pin == version {
		return true
	}
	if strings.ContainsAny(pin, "-:+~") {
		return false
	}
	return Upstream(version) == pin
}

// Newest returns the newest of the available versions that satisfies a pin,
// and false if there is none.
func Newest(pin string, available []string) (string, bool) {
	var best string
	for _, v := range available {
		if Matches(pin, v) && (best == "" || Compare(v, best) > 0) {
			best = v
		}
	}
	return best, best != ""
}
