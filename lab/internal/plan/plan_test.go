package plan

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseNet(t *testing.T) {
	for in, problem := range map[string]string{
		"10.77":      "",
		"172.16":     "",
		"172.31":     "",
		"172.32":     "not a range the lab can use",
		"192.168":    "not a range the lab can use", // its names would be too long
		"8.8":        "not a range the lab can use",
		"10":         "not an address range",
		"10.077":     "not an address range",
		"10.256":     "not an address range",
		"10.77.1":    "not an address range",
		"10.77.0.0/": "not an address range",
	} {
		n, err := ParseNet(in)
		switch {
		case problem == "" && (err != nil || n.String() != in):
			t.Errorf("ParseNet(%q) = %v, %v", in, n, err)
		case problem != "" && (err == nil || !strings.Contains(err.Error(), problem)):
			t.Errorf("ParseNet(%q): error %v, want one with %q", in, err, problem)
		}
	}
}

func TestAddresses(t *testing.T) {
	n := Net{10, 77}
	for _, c := range []struct {
		what   string
		got    Pair
		v4, v6 string
	}{
		{"runner", n.Runner(), "10.77.0.1", "fd77:10:77::1"},
		{"router", n.Router(), "10.77.0.2", "fd77:10:77::2"},
		{"gateway", n.Gateway(2), "10.77.2.1", "fd77:10:77:2::1"},
		{"bastion", n.Host(2, BastionNumber), "10.77.2.10", "fd77:10:77:2::10"},
		{"first host", n.Host(1, FirstHost), "10.77.1.11", "fd77:10:77:1::11"},
	} {
		if want := (Pair{netip.MustParseAddr(c.v4), netip.MustParseAddr(c.v6)}); c.got != want {
			t.Errorf("%s: %v, want %v", c.what, c.got, want)
		}
	}
	if got := n.Prefix4().String(); got != "10.77.0.0/16" {
		t.Error(got)
	}
	if got := n.Prefix6().String(); got != "fd77:10:77::/48" {
		t.Error(got)
	}
	if got := n.Subnet6(3).String(); got != "fd77:10:77:3::/64" {
		t.Error(got)
	}
	if vip, err := n.VIP(1, 1); err != nil || vip.V4.String() != "10.77.1.101" {
		t.Error(vip, err)
	}
	if _, err := n.VIP(1, 100); err == nil {
		t.Error("a virtual address outside its range was given out")
	}
}

// The kernel takes 15 characters, and nspawn hashes a longer name, after
// which no rule would match the port.
func TestInterfaceNamesFit(t *testing.T) {
	for _, name := range []string{
		Net{10, 255}.Port(maxDatacenters, LastHost),
		Net{172, 31}.Port(maxDatacenters, LastHost),
		Uplink("demo"), Uplink("ten-letter"), Uplink("a-name-longer-than-any-interface"),
		Bridge(maxDatacenters),
	} {
		if len(name) > 15 {
			t.Errorf("%q has %d characters", name, len(name))
		}
	}
	if Uplink("a-name-longer-than-that") == Uplink("a-name-longer-than-this") {
		t.Error("two labs share the name of their link")
	}
}

func TestFreeSkipsWhatIsTaken(t *testing.T) {
	got, err := Free(func(n Net) bool { return n.B <= 80 })
	if err != nil || got != (Net{10, 81}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := Free(func(Net) bool { return true }); err == nil {
		t.Error("a range was given out though none is free")
	}
}

func TestParseDatacenters(t *testing.T) {
	got, err := ParseDatacenters([]string{"dc1=pg1,pg2", "dc2=pg3", "dc3="})
	if err != nil {
		t.Fatal(err)
	}
	want := []Datacenter{{"dc1", []string{"pg1", "pg2"}}, {"dc2", []string{"pg3"}}, {Name: "dc3"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for arg, problem := range map[string]string{
		"pg1":                  "is not a datacenter",
		"dc1=pg1,pg1":          "needs one of its own",
		"dc1=dc1":              "needs one of its own",
		"dc1=pg1,":             "not a name for a host",
		"DC=pg1":               "not a name for a datacenter",
		"dc1=pg_1":             "not a name for a host",
		"dc1=pg1 dc2=pg1":      "needs one of its own",
		"dc1=pg1 dc1=pg2":      "needs one of its own",
		"dc1=../../etc/passwd": "not a name for a host",
	} {
		_, err := ParseDatacenters(strings.Fields(arg))
		if err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%q: error %v, want one with %q", arg, err, problem)
		}
	}
}

// An address is in known_hosts, in configuration files and in etcd's member
// list: it must not move because somebody reordered the arguments.
func TestLayoutKeepsPlaces(t *testing.T) {
	first, err := Layout{}.Add([]Datacenter{{"dc1", []string{"pg1", "pg2"}}, {"dc2", []string{"pg3"}}}, []string{"dc2"})
	if err != nil {
		t.Fatal(err)
	}
	second, err := first.Add([]Datacenter{{"dc3", []string{"w1"}}, {"dc2", []string{"pg4", "pg3"}}, {"dc1", []string{"pg2"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Layout{
		Datacenters: []string{"dc1", "dc2", "dc3"},
		Hosts: []Place{
			{"pg1", "dc1", 11}, {"pg2", "dc1", 12}, {"pg3", "dc2", 11}, {"dc2-bastion", "dc2", 10},
			{"w1", "dc3", 11}, {"pg4", "dc2", 12},
		},
	}
	if diff := cmp.Diff(want, second); diff != "" {
		t.Error(diff)
	}
	if len(first.Hosts) != 4 {
		t.Error("Add changed the layout it was called on")
	}
	for what, f := range map[string]func() (Layout, error){
		"a host in another datacenter": func() (Layout, error) {
			return second.Add([]Datacenter{{"dc3", []string{"pg1"}}}, nil)
		},
		"a bastion without a datacenter": func() (Layout, error) { return second.Add(nil, []string{"dc9"}) },
		"a host named like an earlier datacenter": func() (Layout, error) {
			return second.Add([]Datacenter{{"dc4", []string{"dc1"}}}, nil)
		},
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
