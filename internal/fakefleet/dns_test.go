package fakefleet_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/dns"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// nameserver models a DNS server, and the updaters that write to it: one that runs on the
// primary's host writes what its file says.
type nameserver struct {
	*fakefleet.Fleet
	secret string
	values map[string][]string // by name
	marks  map[string]string
	ttl    map[string]int64
	down   bool
}

const (
	dnsUnit   = "pgha-dns-db.pg.test.service"
	dnsDir    = "/etc/pgha/dns/db.pg.test"
	dnsSecret = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
)

// withNameserver runs a test on a complete cluster with a server.
func withNameserver(t *testing.T, seed uint64, do func(t *testing.T, n *nameserver, s dns.Spec)) {
	t.Helper()
	created(t, seed, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		n := &nameserver{Fleet: f, secret: dnsSecret, values: map[string][]string{}, marks: map[string]string{}, ttl: map[string]int64{}}
		f.Do(func() { n.model(t) })
		do(t, n, dns.Spec{
			Cluster: f.Node(f.Host(1), uid).Cluster, Zone: "pg.test.", Name: "db.pg.test.", Type: dns.Addresses, TTL: 5, Generation: 1, Follow: dns.Leader,
			Servers: []string{"10.0.0.53:53", "10.0.0.54:53"}, Key: dns.Key{Name: "pgha", Algorithm: "hmac-sha256", Secret: dnsSecret}, Nodes: []string{"pg1", "pg2", "pg3"},
		})
	})
}

// wanted is an updater's file.
type wanted struct {
	Name    string              `json:"name"`
	TTL     int64               `json:"ttl"`
	Servers []string            `json:"servers"`
	Key     dns.Key             `json:"key"`
	UID     string              `json:"uid"`
	Member  string              `json:"member"`
	Targets map[string][]string `json:"targets"`
}

func (n *nameserver) model(t *testing.T) {
	for _, m := range n.Machines() {
		m.Packages[dns.Package] = &fakehost.Package{Version: "2.7.0-1"}
		m.Publish(true, dns.Package, "2.7.0-1")
	}
	n.OnUnit(func(verb string, u *fakehost.Unit) {
		if u.Name == dnsUnit && (verb == "start-no-block" && !u.Running() || verb == "reload") {
			sum := sha256.Sum256(append(u.Machine.Files.Read(dnsDir+"/updater.py"), u.Machine.Files.Read(dnsDir+"/record.json")...))
			u.Machine.Files.Text("/run/pgha-dns-db.pg.test/status.json", fmt.Sprintf(`{"digest": %q}`, hex.EncodeToString(sum[:])))
		}
	})
	// reads is the file that a call of the updater goes by.
	reads := func(o *fakehost.Op) (w wanted) {
		if err := json.Unmarshal(o.Machine.Files.Read(path.Join(o.Arg(3), "record.json")), &w); err != nil {
			t.Errorf("%s without a file in %s: %v", o.Cmd.Name, o.Arg(3), err)
		}
		return w
	}
	says := func(o *fakehost.Op, outcome, tsig string, w wanted) {
		text, _ := json.Marshal(dns.Outcome{Outcome: outcome, Rcode: map[bool]string{true: "NOTAUTH"}[tsig != ""], TSIG: tsig, Values: n.values[w.Name], Mark: n.marks[w.Name], Server: w.Servers[0]})
		o.Printf("%s\n", text)
	}
	// may says why a host cannot write, with the outcome that it has.
	may := func(o *fakehost.Op, w wanted) bool {
		switch {
		case n.down:
			says(o, "unreachable", "", w)
		case w.Key.Secret != n.secret:
			says(o, "refused", "BADSIG", w)
		case len(n.values[w.Name]) > 0 && !strings.HasPrefix(n.marks[w.Name], "pgha uid="+w.UID+" "):
			says(o, "foreign", "", w)
		default:
			return true
		}
		return false
	}
	n.Handle("dns.once", true, func(o *fakehost.Op) error {
		w := reads(o)
		if node := n.Patroni.Node(o.Machine); node == nil || !node.Primary() {
			says(o, "not primary", "", w)
		} else if may(o, w) {
			n.values[w.Name], n.ttl[w.Name], n.marks[w.Name] = w.Targets[w.Member], w.TTL, "pgha uid="+w.UID+" epoch=1.1.1 node="+w.Member
			says(o, "written", "", w)
		}
		return nil
	})
	n.Handle("dns.look", false, func(o *fakehost.Op) error {
		w := reads(o)
		for _, server := range w.Servers {
			said := dns.Said{Server: server, Rcode: "NOERROR", Authoritative: true, Values: n.values[w.Name], TTL: n.ttl[w.Name], Mark: n.marks[w.Name]}
			if n.down {
				said = dns.Said{Server: server, Error: "it does not answer"}
			}
			text, _ := json.Marshal(said)
			o.Printf("%s\n", text)
		}
		return nil
	})
	n.Handle("dns.remove", true, func(o *fakehost.Op) error {
		w := reads(o)
		for _, m := range n.Machines() {
			if u := m.Units[dnsUnit]; u != nil && u.Running() {
				t.Errorf("the record is removed while an updater runs on %s", m.Name)
			}
		}
		if may(o, w) {
			outcome := map[bool]string{true: "removed", false: "absent"}[len(n.values[w.Name]) > 0]
			delete(n.values, w.Name)
			says(o, outcome, "", w)
		}
		return nil
	})
}

func recordManager(p *fakefleet.Process) dns.Manager { return dns.New(p.PatroniManager()) }

// settled checks that the name leads to the primary, that all updaters run, and that another
// run writes nothing on the hosts.
func (n *nameserver) settled(t *testing.T, s dns.Spec) {
	t.Helper()
	n.Do(func() {
		for _, m := range n.Machines() {
			if node := n.Patroni.Node(m); node != nil && node.Primary() && !slices.Equal(n.values[s.Name], []string{m.Address}) {
				t.Errorf("%s leads, the name leads to %v", m.Address, n.values[s.Name])
			}
			file := m.Files.Get(dnsDir + "/record.json")
			if u := m.Units[dnsUnit]; u == nil || !u.Running() || u.Enabled != "enabled" || file == nil || file.Mode != "600" {
				t.Errorf("on %s: %+v, %+v", m.Name, u, file)
			}
			for _, p := range m.Files.Paths() {
				if strings.Contains(p, ".try") {
					t.Errorf("%s is left on %s", p, m.Name)
				}
			}
		}
	})
	p := n.Start("again")
	if _, err := recordManager(p).Apply(patient(t), s); err != nil {
		t.Errorf("applying again: %s", details(err))
	}
	for _, step := range p.Steps() {
		if !strings.Contains(step, "dns.note") && !strings.Contains(step, "dns.verify") {
			t.Errorf("applying again had the step %s", step)
		}
	}
	s.Key.Secret = "" // no read has it
	o, err := recordManager(n.Start("reader")).Observe(patient(t), s)
	if err != nil || o.Absent || len(o.Drift)+len(o.Warnings) > 0 {
		t.Errorf("read: %+v, %v", o, err)
	}
}

// nothing checks that hosts and server have nothing of the record any more.
func (n *nameserver) nothing(t *testing.T) {
	t.Helper()
	n.Do(func() {
		for _, m := range n.Machines() {
			for _, p := range m.Files.Paths() {
				if strings.Contains(p, "dns") && (!strings.HasPrefix(p, "/run/") || strings.Contains(p, ".try/")) {
					t.Errorf("%s is left on %s", p, m.Name)
				}
			}
		}
		if len(n.values["db.pg.test."]) > 0 {
			t.Error("the record is left on the server")
		}
	})
	if left := n.Keys(own + "journal/"); len(left) > 0 {
		t.Errorf("etcd has %v", left)
	}
}

// Whoever is killed while a record is made, changed or removed is followed by one who gets
// there.
func TestDNSCrashAndResume(t *testing.T) {
	apply := func(m dns.Manager, t *testing.T, s dns.Spec) error { _, err := m.Apply(patient(t), s); return err }
	for name, c := range map[string]struct {
		before, do func(m dns.Manager, t *testing.T, s dns.Spec) error
		change     func(s *dns.Spec)
		gone       bool
	}{
		"create":  {do: apply},
		"change":  {before: apply, do: apply, change: func(s *dns.Spec) { s.TTL = 7 }},
		"destroy": {before: apply, do: func(m dns.Manager, t *testing.T, s dns.Spec) error { return m.Destroy(patient(t), s) }, gone: true},
	} {
		t.Run(name, func(t *testing.T) {
			run := func(t *testing.T, fault ...fakehost.Fault) (total int) {
				withNameserver(t, 5, func(t *testing.T, n *nameserver, s dns.Spec) {
					if c.before != nil {
						if err := c.before(recordManager(n.Start("before")), t, s); err != nil {
							t.Fatal(details(err))
						}
					}
					if c.change != nil {
						c.change(&s)
					}
					first := n.Start("first", fault...)
					err := c.do(recordManager(first), t, s)
					total = first.Mutations()
					if len(fault) > 0 {
						if err == nil || !first.Crashed() {
							t.Fatalf("it was not killed: %v", err)
						}
						err = c.do(recordManager(n.Start("second")), t, s)
					}
					switch {
					case err != nil:
						t.Fatal(details(err))
					case c.gone:
						n.nothing(t)
					default:
						n.settled(t, s)
					}
				})
				return total
			}
			total := run(t)
			for k := 1; k <= total; k += stride(4, 1) {
				t.Run(fmt.Sprint("after change ", k), func(t *testing.T) {
					t.Parallel()
					run(t, fakehost.CrashAfter(k))
				})
			}
		})
	}
}

// advises checks what an error tells people.
func advises(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(details(err), want) {
		t.Errorf("the error does not say %q: %v", want, err)
	}
}

// What the server refuses is refused before anything is on a host or in etcd, and what is
// there and works stays.
func TestDNSRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(n *nameserver, s *dns.Spec)
		want   string
	}{
		"another secret":    {func(n *nameserver, _ *dns.Spec) { n.secret = "other" }, "correct key.secret_wo"},
		"somebody's record": {func(n *nameserver, s *dns.Spec) { n.values[s.Name] = []string{"192.0.2.1"} }, "delete it on the server"},
		"no server":         {func(n *nameserver, _ *dns.Spec) { n.down = true }, "make sure that the server runs"},
		"no secret":         {func(_ *nameserver, s *dns.Spec) { s.Key.Secret = "" }, "give it in key.secret_wo"},
		"a target":          {func(_ *nameserver, s *dns.Spec) { s.Type = dns.CNAME }, "a CNAME leads to a name"},
	} {
		t.Run(name, func(t *testing.T) {
			withNameserver(t, 6, func(t *testing.T, n *nameserver, s dns.Spec) {
				n.Do(func() { c.change(n, &s) })
				_, err := recordManager(n.Start("refused")).Apply(patient(t), s)
				advises(t, err, c.want)
				n.Do(func() {
					for _, m := range n.Machines() {
						for _, p := range m.Files.Paths() {
							if strings.Contains(p, "dns") {
								t.Errorf("%s is on %s", p, m.Name)
							}
						}
					}
				})
				if left := n.Keys(own + "journal/"); len(left) > 0 {
					t.Errorf("etcd has %v", left)
				}
			})
		})
	}
	t.Run("a change", func(t *testing.T) {
		withNameserver(t, 7, func(t *testing.T, n *nameserver, s dns.Spec) {
			if _, err := recordManager(n.Start("first")).Apply(patient(t), s); err != nil {
				t.Fatal(details(err))
			}
			wrong := s
			wrong.Key.Secret, wrong.TTL = "YWJjZGVmZ2hpamFiY2RlZmdoaWphYmNkZWZnaGlqMTI=", 9
			_, err := recordManager(n.Start("wrong")).Apply(patient(t), wrong)
			advises(t, err, "correct key.secret_wo")
			n.settled(t, s)
		})
	})
	t.Run("a destroy without a server", func(t *testing.T) {
		withNameserver(t, 8, func(t *testing.T, n *nameserver, s dns.Spec) {
			if _, err := recordManager(n.Start("first")).Apply(patient(t), s); err != nil {
				t.Fatal(details(err))
			}
			n.Do(func() { n.down = true })
			advises(t, recordManager(n.Start("destroyer")).Destroy(patient(t), s), "make sure that the server runs")
			n.Do(func() { n.down = false })
			if err := recordManager(n.Start("again")).Destroy(patient(t), s); err != nil {
				t.Fatal(details(err))
			}
			n.nothing(t)
		})
	})
}
