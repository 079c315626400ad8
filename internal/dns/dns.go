// Package dns keeps a DNS name on whichever node of a cluster leads, or on its replicas: by
// an updater on each node, of which only the primary's writes (RFC 2136, TSIG), and by a
// mark beside the record that keeps who comes late from overwriting (adr/0032).
package dns

import (
	_ "embed" // for the updater
	"encoding/base64"
	"fmt"
	"net/netip"
	neturl "net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/follow"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

//go:embed updater.py
var program []byte

// Package is Debian's package of the library that the updater needs. Patroni needs it, too.
const Package = "python3-dnspython"

// What a name can follow.
const (
	Leader   = "leader"
	Replicas = "replicas"
	All      = "all"
)

// What a record can be.
const (
	Addresses = "address" // A and AAAA
	CNAME     = "CNAME"
)

// Spec is a name as it should be.
type Spec struct {
	Cluster patroni.Cluster
	Zone    string // fully qualified, with the dot at its end
	Name    string // likewise
	Type    string
	TTL     int64 // seconds
	Follow  string
	// Generation is the first part of what tells an older writer from a newer one; the second
	// is the timeline.
	Generation int64
	// Replication is the name of the replication between sites whose primary the name leads
	// to: clusters of other sites have the same record then. Empty for a cluster's own.
	Replication string
	// Servers are HOST:PORT; the first takes updates, the others are looked at.
	Servers []string
	Key     Key
	// Targets are what the name leads to, by node: for nodes that are not here, their
	// addresses as the cluster has them.
	Targets map[string][]string
	Nodes   []string
}

// Key is a TSIG key (RFC 8945).
type Key struct {
	Name      string `json:"name"`
	Algorithm string `json:"algorithm"` // "hmac-sha256"
	// Secret is base64. Empty is the one that the hosts have.
	Secret string `json:"secret"`
}

// Algorithms are those of TSIG that can be used (RFC 8945, section 6).
var Algorithms = []string{"hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224"}

// Title is what people call it.
func (s Spec) Title() string { return strings.TrimSuffix(s.Name, ".") + " of " + s.Cluster.Name() }

func (s Spec) agent() follow.Agent {
	name := strings.TrimSuffix(s.Name, ".")
	return follow.Agent{
		Cluster: s.Cluster, Kind: "dns", Label: name, Subject: name, Config: "record.json", Program: "updater.py", Package: Package,
	}
}

var labelForm = regexp.MustCompile(`^(_?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)$`)

// Qualify checks a name and returns it fully qualified: in lower case, with a dot at its end.
func Qualify(name string) (string, error) {
	trimmed := strings.TrimSuffix(strings.ToLower(name), ".")
	if len(trimmed) > 253 {
		return "", fmt.Errorf("%q is longer than the 253 characters that a name may have", name)
	}
	for l := range strings.SplitSeq(trimmed, ".") {
		if !labelForm.MatchString(l) {
			return "", fmt.Errorf("%q is no name of DNS: its parts have letters, digits and hyphens, as in db.example.org", name)
		}
	}
	return trimmed + ".", nil
}

// InZone checks that a name lies below a zone, both fully qualified. The apex of a zone has
// records of its own, and is not a name for this.
func InZone(name, zone string) error {
	if !strings.HasSuffix(name, "."+zone) {
		return fmt.Errorf("%s is not below the zone %s: write a name such as db.%s", strings.TrimSuffix(name, "."), strings.TrimSuffix(zone, "."), strings.TrimSuffix(zone, "."))
	}
	return nil
}

// Server checks an address of a server and returns it with its port.
func Server(text string) (string, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a, 53).String(), nil
	}
	if a, err := netip.ParseAddrPort(text); err == nil {
		return a.String(), nil
	}
	return "", fmt.Errorf("%q is no address of a server, such as 10.0.0.53, 10.0.0.53:5353 or [fd00::53]:53: a name would have to be looked up where names are to be changed", text)
}

// CheckSecret refuses what is no secret of a key.
func CheckSecret(secret string) error {
	b, err := base64.StdEncoding.DecodeString(secret)
	if err != nil {
		return fmt.Errorf("it is not base64, as tsig-keygen prints it")
	}
	if len(b) < 16 {
		return fmt.Errorf("it has %d bytes; at least 16 are needed, and 32 are usual (tsig-keygen -a hmac-sha256)", len(b))
	}
	return nil
}

// record is what the updater reads, and the marker of whose record it is.
type record struct {
	Zone       string              `json:"zone"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	TTL        int64               `json:"ttl"`
	Follow     string              `json:"follow"`
	Servers    []string            `json:"servers"`
	Key        Key                 `json:"key"`
	Patroni    string              `json:"patroni"`
	CAFile     string              `json:"cafile"`
	Member     string              `json:"member"`
	Generation int64               `json:"generation"`
	Targets    map[string][]string `json:"targets"`
	// Mark is who the record belongs to, if that is not the owner alone.
	Mark string `json:"mark,omitempty"`
	follow.Owner
}

// targets are what the name leads to, by node.
func (s Spec) targets(nodes map[string]follow.Node) (map[string][]string, error) {
	all := map[string][]string{}
	for _, name := range follow.Sorted(nodes) {
		list, own := s.Targets[name]
		if !own {
			list = []string{nodes[name].Address}
		}
		for _, t := range list {
			_, err := netip.ParseAddr(t)
			if isAddress := err == nil; isAddress != (s.Type == Addresses) {
				return nil, &problem.Error{
					Step: follow.CannotBe, Cause: fmt.Errorf("the node %s is at %s, which is %s", name, t, map[bool]string{true: "an address, and a CNAME leads to a name", false: "a name, and A and AAAA lead to addresses"}[isAddress]),
					Left: "everything.", Do: "give what clients reach it by in targets, as in targets = { " + name + " = [...] }" + map[bool]string{true: ", or leave type out.", false: ", or write type = \"CNAME\"."}[isAddress],
				}
			}
			if s.Type == CNAME {
				if t, err = Qualify(t); err != nil {
					return nil, err
				}
			}
			all[name] = append(all[name], t)
		}
		slices.Sort(all[name])
	}
	return all, nil
}

// files are what a node's host has. A program that waits for a server that does not answer
// is not stuck: systemd gives it a minute.
func (s Spec) files(k patroni.Known, node string, targets map[string][]string) follow.Files {
	a := s.agent()
	url, cafile := a.PatroniURL(k, node)
	r := record{
		Zone: s.Zone, Name: s.Name, Type: s.Type, TTL: s.TTL, Follow: s.Follow, Servers: s.Servers, Key: s.Key, Patroni: url, CAFile: cafile,
		Member: node, Generation: s.Generation, Targets: targets, Owner: a.Owner(),
	}
	if s.Replication != "" {
		r.Mark = "replication/" + neturl.PathEscape(s.Replication)
	}
	return a.Files(r, program, "DNS record "+a.Subject+" on the "+s.Follow+" of "+s.Cluster.Name(), `WatchdogSec=60
CapabilityBoundingSet=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
`, true)
}

// same reports whether a server has what it should.
func (s Spec) same(said Said, want []string) bool {
	have := slices.Clone(said.Values)
	slices.Sort(have)
	return said.Error == "" && said.Authoritative && slices.Equal(have, want) && said.TTL == s.TTL
}

func (s Said) String() string {
	switch {
	case s.Error != "":
		return s.Server + ": " + s.Error
	case !s.Authoritative:
		return s.Server + " is not authoritative for the zone"
	case len(s.Values) == 0:
		return s.Server + " has no such record"
	}
	return s.Server + " has " + strings.Join(s.Values, ", ") + " with a TTL of " + strconv.FormatInt(s.TTL, 10) + " s"
}
