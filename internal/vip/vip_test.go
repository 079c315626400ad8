package vip

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestCheckAddress(t *testing.T) {
	for text, want := range map[string]string{
		"10.77.1.100/24":   "",
		"10.77.1.100/31":   "",
		"fd00:77::100/64":  "",
		"10.77.1.0/24":     "is the address of the subnet itself",
		"10.77.1.255/24":   "is the broadcast address of 10.77.1.0/24",
		"10.77.1.127/25":   "is the broadcast address of 10.77.1.0/25",
		"10.77.1.100/32":   "/32 is the length of no subnet",
		"fd00::1/128":      "/128 is the length of no subnet",
		"127.0.0.5/8":      "is not an address that clients could use",
		"fe80::5/64":       "is not an address that clients could use",
		"224.0.0.5/8":      "is not an address that clients could use",
		"::ffff:1.2.3.4/8": "is not written as an address and a prefix length",
	} {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, bits, _ := strings.Cut(text, "/")
			p = netip.PrefixFrom(netip.MustParseAddr(a), int(bits[0]-'0'))
		}
		err = CheckAddress(p)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	for version, want := range map[string]string{
		"3.0.0": "", "3.0.0-2": "", "5.0.0": "", "5.0.0-1": "",
		"1.0.2":   "knows only version 2 of etcd's API",
		"1.0.2-9": "knows only version 2 of etcd's API",
		"2.8.0":   "was not tried",
		"latest":  "is no version of vip-manager",
		"":        "is no version of vip-manager",
	} {
		err := CheckVersion(version)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", version, err, want)
		}
	}
}

// Whatever is wrong with who has the address is named.
func TestWrong(t *testing.T) {
	s := Spec{Address: netip.MustParsePrefix("10.0.0.100/24")}
	at := func(mac string, here bool, answers ...string) Look {
		l := Look{Subnet: Subnet{Interface: "eth0", MAC: mac}, Answers: answers, Status: Status{Because: "Patroni answers 503"}}
		if here {
			l.Here = []Local{{"eth0", 24, true}}
		}
		return l
	}
	unleased := at("a", true)
	unleased.Here[0].Lease = false
	quiet := at("a", false)
	quiet.Status = Status{}
	for name, c := range map[string]struct {
		leader string
		looks  map[string]Look
		want   []string
	}{
		"as it should be":  {"pg1", map[string]Look{"pg1": at("a", true), "pg2": at("b", false, "a")}, nil},
		"nobody is to":     {"", map[string]Look{"pg1": at("a", false), "pg2": at("b", false)}, nil},
		"nobody":           {"pg1", map[string]Look{"pg1": at("a", false), "pg2": at("b", false)}, []string{"no node has 10.0.0.100, though pg1 leads: Patroni answers 503"}},
		"without a guard":  {"pg1", map[string]Look{"pg1": quiet}, []string{"no node has 10.0.0.100, though pg1 leads: its guard does not run"}},
		"the wrong one":    {"pg1", map[string]Look{"pg1": at("a", false, "b"), "pg2": at("b", true)}, []string{"10.0.0.100 is on pg2, while pg1 leads"}},
		"without a leader": {"", map[string]Look{"pg1": at("a", true)}, []string{"10.0.0.100 is on pg1, and no primary leads the cluster"}},
		"none of ours":     {"pg9", map[string]Look{"pg1": at("a", false)}, []string{"pg9 leads, and is not among the nodes that may have 10.0.0.100"}},
		"two":              {"pg1", map[string]Look{"pg1": at("a", true, "b"), "pg2": at("b", true, "a")}, []string{"10.0.0.100 is on pg1 and pg2 at once"}},
		"by hand":          {"pg1", map[string]Look{"pg1": unleased}, []string{"10.0.0.100 is on eth0 of pg1 without a lifetime: its guard did not put it there"}},
		"a stranger":       {"pg1", map[string]Look{"pg1": at("a", true, "c"), "pg2": at("b", false, "a", "c")}, []string{"another machine answers for 10.0.0.100: c"}},
	} {
		if got := s.wrong(c.leader, c.looks); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
