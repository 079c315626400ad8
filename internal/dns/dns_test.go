package dns

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/follow"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

func TestNames(t *testing.T) {
	for text, want := range map[string]string{
		"db.Example.org": "db.example.org.", "db.example.org.": "db.example.org.", "_x.example.org": "_x.example.org.", "a": "a.",
		"": "", ".": "", "a..b": "", "-a.b": "", "a b": "", "a_b": "", strings.Repeat("a", 64) + ".b": "", strings.Repeat("a.", 128) + "b": "",
	} {
		got, err := Qualify(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, c := range []struct {
		name, zone string
		in         bool
	}{
		{"db.pg.test.", "pg.test.", true}, {"a.b.pg.test.", "pg.test.", true}, {"pg.test.", "pg.test.", false}, {"dbpg.test.", "pg.test.", false}, {"db.other.", "pg.test.", false},
	} {
		if err := InZone(c.name, c.zone); (err == nil) != c.in {
			t.Errorf("%s in %s: %v", c.name, c.zone, err)
		}
	}
}

func TestServer(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.53": "10.0.0.53:53", "10.0.0.53:5353": "10.0.0.53:5353", "fd00::53": "[fd00::53]:53", "[fd00::53]:5353": "[fd00::53]:5353", "ns1.example.org": "", "": "",
	} {
		got, err := Server(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
		if want != "" {
			if _, err := netip.ParseAddrPort(got); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestCheckSecret(t *testing.T) {
	for text, want := range map[string]string{"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=": "", "c2hvcnQ=": "at least 16", "no!": "not base64"} {
		err := CheckSecret(text)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), text)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTargets(t *testing.T) {
	nodes := map[string]follow.Node{"pg1": {Name: "pg1", Address: "10.0.0.1"}, "pg2": {Name: "pg2", Address: "pg2.example.org"}}
	for name, c := range map[string]struct {
		s    Spec
		want string // in the error
	}{
		"a name for addresses":           {Spec{Type: Addresses}, "the node pg2 is at pg2.example.org, which is a name"},
		"an address for a CNAME":         {Spec{Type: CNAME}, "the node pg1 is at 10.0.0.1, which is an address"},
		"addresses of both families":     {Spec{Type: Addresses, Targets: map[string][]string{"pg2": {"10.0.0.2", "fd00::2"}}}, ""},
		"names, one of them in capitals": {Spec{Type: CNAME, Targets: map[string][]string{"pg1": {"PG1.example.org"}}}, ""},
	} {
		got, err := c.s.targets(nodes)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	got, _ := Spec{Type: CNAME, Targets: map[string][]string{"pg1": {"PG1.example.org"}}}.targets(nodes)
	if got["pg1"][0] != "pg1.example.org." {
		t.Errorf("a target is %q", got["pg1"])
	}
}

// Each way in which a server refuses says what to change.
func TestExplain(t *testing.T) {
	s := Spec{Zone: "pg.test.", Name: "db.pg.test.", Type: Addresses, Key: Key{Name: "pgha", Algorithm: "hmac-sha256"}}
	for want, o := range map[string]Outcome{
		"no key \"pgha\" of hmac-sha256":                          {Outcome: "refused", Rcode: "NOTAUTH", TSIG: "BADKEY"},
		"correct key.secret_wo":                                   {Outcome: "refused", Rcode: "NOTAUTH", TSIG: "BADSIG"},
		"set the clock":                                           {Outcome: "refused", Rcode: "NOTAUTH", TSIG: "BADTIME"},
		"grant pgha name db.pg.test. A AAAA TXT;":                 {Outcome: "refused", Rcode: "REFUSED"},
		"the primary server of the zone pg.test":                  {Outcome: "refused", Rcode: "NOTAUTH"},
		"does not know the zone pg.test":                          {Outcome: "refused", Rcode: "NXDOMAIN"},
		"if nobody needs it, delete it on the server":             {Outcome: "foreign"},
		"make sure that the server runs and that the nodes":       {Outcome: "unreachable"},
		"raise generation to more than the first number of epoch": {Outcome: "newer"},
		"see the server's own log":                                {Outcome: "refused", Rcode: "SERVFAIL"},
	} {
		if got := problem.Details(s.explain(follow.Node{}, o)); !strings.Contains(got, want) {
			t.Errorf("%+v: %s", o, got)
		}
	}
	s.Type = CNAME
	if got := problem.Details(s.explain(follow.Node{}, Outcome{Outcome: "refused", Rcode: "REFUSED"})); !strings.Contains(got, "grant pgha name db.pg.test. CNAME; grant pgha name _pgha.db.pg.test. TXT;") {
		t.Error(got)
	}
	for _, o := range []string{"written", "unchanged", "not primary"} {
		if err := s.explain(follow.Node{}, Outcome{Outcome: o}); err != nil {
			t.Errorf("%s: %v", o, err)
		}
	}
}
