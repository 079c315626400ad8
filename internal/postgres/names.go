// Package postgres knows what the provider needs to know about PostgreSQL:
// its settings and their ranges, the rules of pg_hba.conf, and how Debian lays
// it out.
package postgres

import (
	"fmt"
	"strconv"
	"strings"
)

// SlotName is the replication slot that Patroni makes for a member (Patroni,
// dcs/__init__.py, slot_name_from_member_name): lower case, "-" and "." become
// "_", other characters their code, at most 63 characters. Two members whose
// names map to one slot would steal it from each other.
func SlotName(member string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(member) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_':
			b.WriteRune(r)
		case r == '-' || r == '.':
			b.WriteByte('_')
		default:
			fmt.Fprintf(&b, "u%04d", r)
		}
	}
	s := b.String()
	if len(s) > 63 {
		s = s[:63]
	}
	return s
}

// Major returns the major version of a version or pin: 17 for "17.11" and
// "17.11-0+deb13u1".
func Major(version string) (int, error) {
	digits := version
	if i := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = version[:i]
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 10 {
		return 0, fmt.Errorf("%q is not a version of PostgreSQL such as 17.11", version)
	}
	return n, nil
}

// ServerVersion renders server_version_num: "17.11" for 170011.
func ServerVersion(num int) string {
	return fmt.Sprintf("%d.%d", num/10000, num%10000)
}

// BinDir is where Debian puts the programs of a major version.
func BinDir(major int) string { return fmt.Sprintf("/usr/lib/postgresql/%d/bin", major) }

// DataDir is where data goes unless told otherwise: where Debian's clusters
// live, under a name that none of Debian's has.
func DataDir(major int, scope string) string {
	return fmt.Sprintf("/var/lib/postgresql/%d/%s", major, scope)
}
