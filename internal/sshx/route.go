package sshx

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// hop is one SSH server on the way to a host, the host itself being the last.
type hop struct {
	user    string
	host    string // without brackets, in lower case
	port    int
	hostKey string
}

// addr is what is dialled. JoinHostPort brackets IPv6 addresses, with or
// without a zone.
func (h hop) addr() string { return net.JoinHostPort(h.host, strconv.Itoa(h.port)) }

// route returns the hops to a target, outermost first.
func (c *Config) route(t host.Target) ([]hop, error) {
	var hops []hop
	switch t.Bastions {
	case "none":
	case "":
		for _, j := range c.Bastions {
			h, err := newHop(cmp.Or(j.User, c.User), j.Host, cmp.Or(j.Port, 22), j.HostKey)
			if err != nil {
				return nil, fmt.Errorf("bastion %q: %w", j.Host, err)
			}
			hops = append(hops, h)
		}
	default:
		for text := range strings.SplitSeq(t.Bastions, ",") {
			j, err := ParseJump(text)
			if err == nil && j == (Jump{Host: "none"}) {
				err = errors.New("\"none\" stands for a direct connection and can't be one of several bastions")
			}
			if err != nil {
				return nil, err
			}
			h, err := newHop(cmp.Or(j.User, c.User), j.Host, cmp.Or(j.Port, 22), "")
			if err != nil {
				return nil, fmt.Errorf("bastion %q: %w", text, err)
			}
			hops = append(hops, h)
		}
	}
	h, err := newHop(cmp.Or(t.User, c.User), t.Address, cmp.Or(t.Port, c.Port), t.HostKey)
	if err != nil {
		return nil, err
	}
	return append(hops, h), nil
}

func newHop(user, address string, port int, hostKey string) (hop, error) {
	name := address
	if inner, ok := strings.CutPrefix(name, "["); ok {
		name = strings.TrimSuffix(inner, "]")
	}
	switch {
	case name == "":
		return hop{}, fmt.Errorf("the address is empty")
	case strings.ContainsAny(name, " \t\r\n,@[]/\x00"):
		return hop{}, fmt.Errorf("%q is neither an IP address nor a host name", address)
	case strings.Contains(name, ":") && net.ParseIP(strings.SplitN(name, "%", 2)[0]) == nil:
		return hop{}, fmt.Errorf("%q is neither an IP address nor a host name (a port has a field of its own)", address)
	case port < 1 || port > 65535:
		return hop{}, fmt.Errorf("%d is not a port", port)
	case user == "":
		return hop{}, fmt.Errorf("no user to log in as")
	}
	// Names are compared without regard to case, here and in known_hosts; a
	// zone is the name of an interface and stays as it is.
	if !strings.Contains(name, "%") {
		name = strings.ToLower(name)
	}
	if a, err := netip.ParseAddr(name); err == nil {
		name = a.String() // as it is in known_hosts, however it was written
	}
	return hop{user: user, host: name, port: port, hostKey: strings.TrimSpace(hostKey)}, nil
}

// ParseJump reads a jump host of the form "[user@]host[:port]". An IPv6 address
// with a port stands in brackets.
func ParseJump(text string) (Jump, error) {
	text = strings.TrimSpace(text)
	var j Jump
	rest := text
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		j.User, rest = rest[:i], rest[i+1:]
		if j.User == "" {
			return Jump{}, fmt.Errorf("bastion %q: the user is empty", text)
		}
	}
	j.Host = rest
	bracketed := strings.HasPrefix(rest, "[")
	if !bracketed && strings.Count(rest, ":") != 1 || bracketed && strings.HasSuffix(rest, "]") {
		j.Host = strings.Trim(rest, "[]")
	} else {
		name, port, err := net.SplitHostPort(rest)
		if err != nil {
			return Jump{}, fmt.Errorf("bastion %q: %w", text, err)
		}
		j.Host = name
		if j.Port, err = strconv.Atoi(port); err != nil || j.Port < 1 || j.Port > 65535 {
			return Jump{}, fmt.Errorf("bastion %q: %q is not a port", text, port)
		}
	}
	if j.Host == "" {
		return Jump{}, fmt.Errorf("bastion %q: the host is empty", text)
	}
	return j, nil
}
