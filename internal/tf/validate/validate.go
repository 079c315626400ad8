// Package validate holds the checks of attributes that can be made before
// anything is contacted.
package validate

import (
	"context"
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
	return Text("must be an IP address or a host name", func(s string) error {
		if a, err := netip.ParseAddr(s); err == nil {
			if a.IsUnspecified() || a.IsMulticast() {
				return fmt.Errorf("%q is not the address of a host", s)
			}
			return nil
		}
		if len(s) > 253 || !hostName.MatchString(s) || strings.Trim(s, "0123456789.") == "" {
			return fmt.Errorf("%q is neither an IP address nor a host name (no port, no user, no brackets)", s)
		}
		return nil
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

var version = regexp.MustCompile(`^([0-9]+:)?[0-9][A-Za-z0-9.+~]*(-[A-Za-z0-9.+~]+)?$`)

// Pin accepts exact versions.
func Pin() validator.String {
	return Text("must be an exact version", func(s string) error {
		if !version.MatchString(s) || !strings.Contains(s, ".") {
			return fmt.Errorf("%q is not an exact version such as 3.5.16, or a full package version such as 3.5.16-4", s)
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
