// Package validate holds the checks of attributes that can be made before
// anything is contacted.
package validate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
)

// Name accepts the names of hosts, members, nodes and clusters: they become
// file names, certificate names and parts of keys.
func Name() validator.String {
	return stringvalidator.All(
		stringvalidator.LengthBetween(1, 63),
		stringvalidator.RegexMatches(regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`),
			"must begin and end with a letter or a digit and have only letters, digits, '.', '_' and '-' between"),
	)
}

// Port accepts TCP ports.
func Port() validator.Int64 { return int64validator.Between(1, 65535) }

// text is a check of a string.
type text struct {
	what  string
	check func(string) error
}

func (t text) Description(context.Context) string         { return t.what }
func (t text) MarkdownDescription(context.Context) string { return t.what }

func (t text) ValidateString(_ context.Context, req validator.StringRequest, resp *validator.StringResponse) {
	if req.ConfigValue.IsNull() || req.ConfigValue.IsUnknown() {
		return
	}
	if err := t.check(req.ConfigValue.ValueString()); err != nil {
		resp.Diagnostics.AddAttributeError(req.Path, "Invalid value", err.Error())
	}
}

// Text makes a validator of a function.
func Text(what string, check func(string) error) validator.String { return text{what, check} }

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?$`)

// Address accepts IP addresses and host names.
func Address() validator.String {
	return Text("must be an IP address or a host name", checkAddress)
}

func checkAddress(s string) error {
	if a, err := netip.ParseAddr(s); err == nil {
		return checkIP(s, a)
	}
	if len(s) > 253 || !hostName.MatchString(s) || strings.Trim(s, "0123456789.") == "" {
		return fmt.Errorf("%q is neither an IP address nor a host name (no port, no user, no brackets)", s)
	}
	return nil
}

// IP accepts IP addresses of hosts.
func IP() validator.String {
	return Text("must be an IP address", func(s string) error {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("%q is not an IP address", s)
		}
		return checkIP(s, a)
	})
}

// checkIP refuses addresses that lead to no host, or not to the same one from
// everywhere.
func checkIP(s string, a netip.Addr) error {
	switch {
	case a.IsUnspecified() || a.IsMulticast():
		return fmt.Errorf("%q is not the address of a host", s)
	case a.Zone() != "":
		return fmt.Errorf("%q has a zone: %s is the name of an interface on one host, and means nothing to the others; use an address that is not link-local", s, a.Zone())
	case a.Is4In6():
		return fmt.Errorf("%q is an IPv4 address within an IPv6 one; write it as %s", s, a.Unmap())
	}
	return nil
}

// JumpHost accepts what Address does, and addresses that only the machine that
// runs Terraform has to reach.
func JumpHost() validator.String {
	return Text("must be an IP address or a host name", func(s string) error {
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() != "" {
			return nil
		}
		return checkAddress(s)
	})
}

// Network accepts networks in CIDR form and the words that pg_hba knows.
func Network() validator.String {
	return Text("must be a network such as 10.0.0.0/24, or samenet or samehost", func(s string) error {
		if s == "samenet" || s == "samehost" {
			return nil
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("%q is not a network such as 10.0.0.0/24 (nor samenet or samehost)", s)
		}
		if p != p.Masked() {
			return fmt.Errorf("%q has bits set beyond its mask; the network is %s", s, p.Masked())
		}
		return nil
	})
}

// AbsolutePath accepts plain absolute paths below a second-level directory.
func AbsolutePath() validator.String {
	return Text("must be an absolute path", func(s string) error {
		switch {
		case !strings.HasPrefix(s, "/"):
			return fmt.Errorf("%q is not an absolute path", s)
		case path.Clean(s) != s:
			return fmt.Errorf("%q is not a plain path; write it as %q", s, path.Clean(s))
		case strings.Count(s, "/") < 2:
			return fmt.Errorf("%q is too close to the root", s)
		case strings.ContainsAny(s, "\n\r\x00"):
			return fmt.Errorf("%q has line breaks", s)
		}
		return nil
	})
}

// DataDir accepts what AbsolutePath does and pg_ctl can be given, which makes the
// database: it puts the path between double quotes into a line for a shell.
func DataDir() validator.String {
	return stringvalidator.All(AbsolutePath(), Text("must have no characters that mean something to a shell between double quotes", func(s string) error {
		if i := strings.IndexFunc(s, func(r rune) bool { return strings.ContainsRune("\"$`\\", r) || r < ' ' || r == 0x7f }); i >= 0 {
			return fmt.Errorf("%q has %q in it, which pg_ctl cannot be given in a path: it hands it to a shell", s, s[i:i+1])
		}
		return nil
	}))
}

var version = regexp.MustCompile(`^([0-9]+:)?[0-9][A-Za-z0-9.+~]*(-[A-Za-z0-9.+~]+)?$`)

// Pin accepts exact versions.
func Pin() validator.String {
	return Text("must be an exact version", func(s string) error {
		if !version.MatchString(s) || !strings.Contains(s, ".") || strings.HasSuffix(strings.ToLower(s), ".x") {
			return fmt.Errorf("%q is not an exact version such as 3.5.16, or a full package version such as 3.5.16-4", s)
		}
		return nil
	})
}

var extension = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*$`)

// Extension accepts names of extensions, as Debian's packages have them.
func Extension() validator.String {
	return Text("must be the name of an extension's package, such as pgvector or postgis-3", func(s string) error {
		if s == "citus" {
			return errors.New("Citus has an attribute of its own beside this one: citus")
		}
		if !extension.MatchString(s) {
			return fmt.Errorf("%q is not the name of an extension's package, such as pgvector or postgis-3: it has lowercase letters, digits, + - and dots", s)
		}
		return nil
	})
}

// OneLine accepts text without line breaks.
func OneLine() validator.String {
	return Text("must be one line", func(s string) error {
		if strings.ContainsAny(s, "\n\r\x00") {
			return fmt.Errorf("the value must not have line breaks")
		}
		return nil
	})
}

// ASCII accepts text of printable ASCII, for the passwords of Patroni's accounts.
// Patroni 4 fails while it makes the database, or does not even start, with other
// characters in them: what it calls puts them into Latin 1.
func ASCII() validator.String {
	return Text("must be printable ASCII", func(s string) error {
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("the value must have only letters, digits, blanks and punctuation of ASCII: Patroni cannot use others in passwords")
		}
		return nil
	})
}
