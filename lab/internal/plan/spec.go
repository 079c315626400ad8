package plan

import (
	"fmt"
	"hash/fnv"
	"regexp"
	"strings"
)

// Datacenter is a name and its hosts, in order.
type Datacenter struct {
	Name  string
	Hosts []string
}

// name is what a datacenter or a host may be called: one label of a host
// name, short enough for a table.
var name = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$`)

// ValidName explains what is wrong with a name; kind says what it names.
func ValidName(kind, s string) error {
	if !name.MatchString(s) {
		return fmt.Errorf("%q is not a name for a %s: use up to 32 lower-case letters, digits and hyphens, beginning with a letter", s, kind)
	}
	return nil
}

// ParseDatacenters reads arguments of the form dc1=pg1,pg2,pg3.
func ParseDatacenters(args []string) ([]Datacenter, error) {
	var dcs []Datacenter
	for _, arg := range args {
		dc, hosts, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not a datacenter: write name=host,host,..., such as dc1=pg1,pg2,pg3", arg)
		}
		d := Datacenter{Name: dc}
		if hosts != "" {
			d.Hosts = strings.Split(hosts, ",")
		}
		dcs = append(dcs, d)
	}
	return dcs, Validate(dcs)
}

// Validate checks names and that no two things share one: commands such as
// partition take a host or a datacenter.
func Validate(dcs []Datacenter) error {
	seen := map[string]string{}
	take := func(kind, s string) error {
		if err := ValidName(kind, s); err != nil {
			return err
		}
		if other, ok := seen[s]; ok {
			return fmt.Errorf("%q is the name of a %s and of a %s: every host and datacenter needs one of its own", s, other, kind)
		}
		seen[s] = kind
		return nil
	}
	for _, dc := range dcs {
		if err := take("datacenter", dc.Name); err != nil {
			return err
		}
	}
	for _, dc := range dcs {
		for _, h := range dc.Hosts {
			if err := take("host", h); err != nil {
				return err
			}
		}
	}
	if len(dcs) > maxDatacenters {
		return fmt.Errorf("%d datacenters are too many: a lab has at most %d", len(dcs), maxDatacenters)
	}
	return nil
}

// Layout is which number every datacenter and host of a lab has. Numbers,
// once given, never change: addresses are made of them.
type Layout struct {
	Datacenters []string // the first is number 1
	Hosts       []Place
}

// Place is a host's place in a lab.
type Place struct {
	Name       string
	Datacenter string
	Number     int // the last octet of its address
}

// BastionName is the name of a datacenter's bastion host.
func BastionName(dc string) string { return dc + "-bastion" }

// DatacenterNumber returns a datacenter's number, or 0 if there is none of
// that name.
func (l Layout) DatacenterNumber(dc string) int {
	for i, d := range l.Datacenters {
		if d == dc {
			return i + 1
		}
	}
	return 0
}

// Add returns the layout with the datacenters, hosts and bastions that it
// doesn't have yet. What it has keeps its place, whatever the order of the
// arguments; a host that is already in another datacenter is an error.
func (l Layout) Add(dcs []Datacenter, bastions []string) (Layout, error) {
	out := Layout{append([]string(nil), l.Datacenters...), append([]Place(nil), l.Hosts...)}
	if err := Validate(dcs); err != nil {
		return l, err
	}
	for _, dc := range dcs {
		if out.DatacenterNumber(dc.Name) == 0 {
			out.Datacenters = append(out.Datacenters, dc.Name)
		}
		for _, h := range dc.Hosts {
			if err := out.add(h, dc.Name, 0); err != nil {
				return l, err
			}
		}
	}
	for _, dc := range bastions {
		if out.DatacenterNumber(dc) == 0 {
			return l, fmt.Errorf("no datacenter is named %q, so it cannot have a bastion", dc)
		}
		if err := out.add(BastionName(dc), dc, BastionNumber); err != nil {
			return l, err
		}
	}
	// Names given now may clash with ones given earlier.
	all := make([]Datacenter, 0, len(out.Datacenters))
	for _, dc := range out.Datacenters {
		d := Datacenter{Name: dc}
		for _, h := range out.Hosts {
			if h.Datacenter == dc && h.Number != BastionNumber {
				d.Hosts = append(d.Hosts, h.Name)
			}
		}
		all = append(all, d)
	}
	return out, Validate(all)
}

// add gives a host the number, or with 0 the next one of its datacenter.
func (l *Layout) add(name, dc string, number int) error {
	next := FirstHost
	for _, h := range l.Hosts {
		if h.Name == name {
			if h.Datacenter != dc || (number != 0 && h.Number != number) {
				return fmt.Errorf("the host %q is already in datacenter %s, at another address: rename one, or remove the lab first (lab down)", name, h.Datacenter)
			}
			return nil
		}
		if h.Datacenter == dc && h.Number >= next {
			next = h.Number + 1
		}
	}
	if number == 0 {
		number = next
	}
	if number > LastHost {
		return fmt.Errorf("datacenter %s is full: it has room for %d hosts", dc, LastHost-FirstHost+1)
	}
	l.Hosts = append(l.Hosts, Place{name, dc, number})
	return nil
}

// Namespace is the name of a lab's network namespace.
func Namespace(lab string) string { return "pgha-" + lab }

// Uplink is the name of this machine's end of the link to a lab. It is made
// of the lab's name alone, so that a lab whose state was lost can be removed.
func Uplink(lab string) string {
	const room = 15 - len("pgha-")
	if len(lab) <= room {
		return "pgha-" + lab
	}
	h := fnv.New32a()
	h.Write([]byte(lab))
	return fmt.Sprintf("pgha-%s-%04x", lab[:room-5], h.Sum32()&0xffff)
}
