package postgres

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// HBA is one line of pg_hba.conf (PostgreSQL documentation, "The pg_hba.conf
// File").
type HBA struct {
	Type      string // local, host, hostssl, hostnossl, hostgssenc, hostnogssenc
	Databases []string
	Users     []string
	Address   string // empty for local
	Method    string
	Options   string
}

var hbaTypes = []string{"local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"}

var hbaMethods = []string{
	"trust", "reject", "scram-sha-256", "md5", "password", "gss", "sspi", "ident", "peer", "ldap", "radius", "cert", "pam", "bsd", "oauth",
}

// ParseHBA reads a line.
func ParseHBA(line string) (HBA, error) {
	if strings.ContainsAny(line, "\n\r\x00") {
		return HBA{}, fmt.Errorf("a line of pg_hba must not contain a line break")
	}
	lists, err := hbaFields(line)
	if err != nil {
		return HBA{}, err
	}
	if len(lists) == 0 {
		return HBA{}, fmt.Errorf("a line of pg_hba must not be empty or a comment")
	}
	var f []string
	for _, l := range lists {
		f = append(f, strings.Join(l, ","))
	}
	if strings.HasPrefix(f[0], "include") {
		return HBA{}, fmt.Errorf("%q: included files are not on every node", line)
	}
	if !slices.Contains(hbaTypes, f[0]) {
		return HBA{}, fmt.Errorf("%q begins with %q; it must be one of %s", line, f[0], strings.Join(hbaTypes, ", "))
	}
	h := HBA{Type: f[0]}
	want := 5
	if h.Type == "local" {
		want = 4
	}
	if len(f) < want {
		return HBA{}, fmt.Errorf("%q has %d fields; a %s line has at least %d: type, database, user%s, method",
			line, len(f), h.Type, want, map[bool]string{true: "", false: ", address"}[h.Type == "local"])
	}
	h.Databases, h.Users = lists[1], lists[2]
	rest := f[3:]
	if h.Type != "local" {
		h.Address, rest = rest[0], rest[1:]
		if a, err := netip.ParseAddr(h.Address); err == nil {
			// The old form: address and mask in two fields.
			if len(rest) < 2 {
				return HBA{}, fmt.Errorf("%q: the address %s needs a mask, such as %s/%d", line, a, a, a.BitLen())
			}
			if _, err := netip.ParseAddr(rest[0]); err != nil {
				return HBA{}, fmt.Errorf("%q: the address %s needs a mask, such as %s/%d", line, a, a, a.BitLen())
			}
			h.Address, rest = h.Address+" "+rest[0], rest[1:]
		} else if strings.Contains(h.Address, "/") {
			if _, err := netip.ParsePrefix(h.Address); err != nil {
				return HBA{}, fmt.Errorf("%q: %q is not a network such as 10.0.0.0/24", line, h.Address)
			}
		}
	}
	h.Method, h.Options = rest[0], strings.Join(rest[1:], " ")
	if !slices.Contains(hbaMethods, h.Method) {
		return HBA{}, fmt.Errorf("%q: %q is not a method of authentication; it must be one of %s", line, h.Method, strings.Join(hbaMethods, ", "))
	}
	return h, nil
}

// hbaFields splits a line as PostgreSQL does (hba.c): fields are separated by
// blanks, what is in a field by commas, and neither counts between double quotes.
// The quotes stay, because they take its meaning from a word such as "all".
func hbaFields(line string) ([][]string, error) {
	var fields [][]string
	var word strings.Builder
	quoted, inWord, comma := false, false, false
	end := func() {
		if !inWord {
			return
		}
		if comma && len(fields) > 0 {
			fields[len(fields)-1] = append(fields[len(fields)-1], word.String())
		} else {
			fields = append(fields, []string{word.String()})
		}
		word.Reset()
		inWord, comma = false, false
	}
	for _, c := range line {
		switch {
		case c == '"':
			quoted, inWord = !quoted, true
			word.WriteRune(c)
		case quoted:
			word.WriteRune(c)
		case c == '#':
			end()
			return fields, nil
		case c == ',':
			end()
			comma = true
		case c == ' ' || c == '\t':
			end()
		default:
			inWord = true
			word.WriteRune(c)
		}
	}
	if quoted {
		return nil, fmt.Errorf("%q has a quote that does not end", line)
	}
	end()
	return fields, nil
}

// Admits reports whether the line is the kind that lets a user from other hosts
// into a database (or, for the database "replication", replicate) with a
// password over TLS. Which addresses it is for is not looked at.
func (h HBA) Admits(database, user string) bool {
	if h.Type == "local" || h.Type == "hostnossl" || h.Method == "reject" {
		return false
	}
	db := slices.Contains(h.Databases, database) || slices.Contains(h.Databases, `"`+database+`"`)
	// "all" does not match replication connections.
	if database != "replication" && slices.Contains(h.Databases, "all") {
		db = true
	}
	return db && (slices.Contains(h.Users, "all") || slices.Contains(h.Users, user) || slices.Contains(h.Users, `"`+user+`"`))
}

// Loopback reports whether the line is for connections that a server makes to
// itself, by way of localhost.
func (h HBA) Loopback() bool {
	switch h.Address {
	case "all", "samehost", "samenet", "localhost":
		return true
	}
	if address, mask, ok := strings.Cut(h.Address, " "); ok {
		a, err1 := netip.ParseAddr(address)
		m, err2 := netip.ParseAddr(mask)
		return err1 == nil && err2 == nil && a.Is4() && m.Is4() && a.As4()[0]&m.As4()[0] == 127&m.As4()[0]
	}
	p, err := netip.ParsePrefix(h.Address)
	return err == nil && p.Contains(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
}
