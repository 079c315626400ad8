package fakefleet_test

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/vip"
)

// guards model what guards of a virtual address do: a guard that runs has the address while
// its node is the primary.
type guards struct {
	*fakefleet.Fleet
	address string
	strange []string        // other machines that answer
	stuck   map[string]bool // hosts that have the address and do not let it go by themselves
}

const (
	vipUnit = "pgha-vip-10.0.0.100.service"
	vipDir  = "/etc/pgha/vip/10.0.0.100"
)

// withGuards runs a test on a complete cluster whose hosts can have an address.
func withGuards(t *testing.T, seed uint64, do func(t *testing.T, g *guards, s vip.Spec)) {
	t.Helper()
	created(t, seed, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		g := &guards{Fleet: f, address: "10.0.0.100", stuck: map[string]bool{}}
		f.Do(func() { g.model() })
		do(t, g, vip.Spec{Cluster: f.Node(f.Host(1), uid).Cluster, Address: netip.MustParsePrefix("10.0.0.100/24"), Nodes: []string{"pg1", "pg2", "pg3"}, Version: "3.0.0"})
	})
}

func (g *guards) model() {
	for _, m := range g.Machines() {
		m.Publish(true, vip.Package, "3.0.0-2", "5.0.0-1")
		m.Publish(true, "vip-manager", "1.0.2-9")
		m.Listen(5432, "postgres", func(conn net.Conn, _ *fakehost.Process) { g.serve(m, conn) })
	}
	g.OnInstall(vip.Package, func(m *fakehost.Machine, _ string) {
		if m.Units["vip-manager.service"] == nil {
			m.AddUnit("vip-manager.service", nil).Enabled = "enabled"
		}
	})
	g.Virtual(g.address, func() *fakehost.Machine {
		for _, m := range g.Machines() {
			if g.has(m) {
				return m
			}
		}
		return nil
	})
	read := func(m *fakehost.Machine) {
		sum := sha256.Sum256(append(m.Files.Read(vipDir+"/guard.py"), m.Files.Read(vipDir+"/vip.json")...))
		g.runs(m, hex.EncodeToString(sum[:]))
	}
	g.OnUnit(func(verb string, u *fakehost.Unit) {
		if u.Name == vipUnit && (verb == "start-no-block" && !u.Running() || verb == "reload") {
			read(u.Machine)
		}
	})
	g.Handle("vip.look", false, func(o *fakehost.Op) error {
		m := o.Machine
		if o.Arg(1) != g.address {
			o.Printf(`{"interface": "eth0", "prefix": 24, "mac": "02:00:00:00:00:0%s", "address": %q}`+"\n", m.Name[2:], m.Address)
			return nil
		}
		o.Printf(`{"interface": "eth0", "prefix": 24, "mac": "02:00:00:00:00:0%s", "address": %q}`+"\n", m.Name[2:], m.Address)
		if g.has(m) {
			o.Printf(`{"local": "eth0", "prefix": 24, "lease": %t}`+"\n", !g.stuck[m.Name])
		}
		for _, other := range g.Machines() {
			if other != m && g.has(other) {
				o.Printf(`{"answer": "02:00:00:00:00:0%s"}`+"\n", other.Name[2:])
			}
		}
		for _, mac := range g.strange {
			o.Printf(`{"answer": %q}`+"\n", mac)
		}
		if u := m.Units[vipUnit]; u != nil && u.Running() {
			o.Printf(`{"status": {"holding": %t, "primary": %[1]t, "because": "the node is no primary"}}`+"\n", g.has(m))
		}
		return nil
	})
	g.Handle("vip.remove", true, func(o *fakehost.Op) error { delete(g.stuck, o.Machine.Name); return nil })
}

// runs has a guard say what it has read.
func (g *guards) runs(m *fakehost.Machine, digest string) {
	m.Files.Text("/run/pgha-vip-10.0.0.100/status.json", fmt.Sprintf(`{"digest": %q}`, digest))
}

func (g *guards) has(m *fakehost.Machine) bool {
	u, n := m.Units[vipUnit], g.Patroni.Node(m)
	return g.stuck[m.Name] || m.Up && u != nil && u.Running() && n != nil && n.Primary()
}

// serve is a node's PostgreSQL, up to its certificate.
func (g *guards) serve(m *fakehost.Machine, conn net.Conn) {
	if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil {
		return
	}
	var cert tls.Certificate
	var err error
	g.Do(func() {
		cert, err = tls.X509KeyPair(m.Files.Read("/etc/pgha/patroni/main/node.crt"), m.Files.Read("/etc/pgha/patroni/main/node.key"))
	})
	if err != nil {
		return
	}
	_, _ = conn.Write([]byte("S"))
	_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}).Handshake()
}

func vipManager(p *fakefleet.Process) vip.Manager { return vip.New(p.PatroniManager()) }

// onPrimary checks that the primary alone has the address.
func (g *guards) onPrimary(t *testing.T) {
	t.Helper()
	var have []string
	g.Do(func() {
		for _, m := range g.Machines() {
			if g.has(m) {
				have = append(have, m.Name)
			}
		}
	})
	if len(have) != 1 || have[0] != g.Primary() {
		t.Errorf("%s has the address, %s leads", have, g.Primary())
	}
}

// settled checks that an address is on the primary alone, and that another run does nothing
// but look and note.
func (g *guards) settled(t *testing.T, s vip.Spec) {
	t.Helper()
	g.onPrimary(t)
	p := g.Start("again")
	if err := vipManager(p).Apply(patient(t), s); err != nil {
		t.Errorf("applying again: %s", details(err))
	}
	for _, step := range p.Steps() {
		if !strings.Contains(step, "vip.note") && !strings.Contains(step, "vip.verify") {
			t.Errorf("applying again had the step %s", step)
		}
	}
	o, err := vipManager(g.Start("reader")).Observe(patient(t), s)
	if err != nil || o.Absent || len(o.Drift) > 0 {
		t.Errorf("read: %+v, %v", o, err)
	}
}

// nothing checks that a host has nothing of an address any more.
func (g *guards) nothing(t *testing.T, machines ...*fakehost.Machine) {
	t.Helper()
	g.Do(func() {
		for _, m := range machines {
			for _, p := range m.Files.Paths() {
				if strings.Contains(p, "vip") && !strings.HasPrefix(p, "/run/") {
					t.Errorf("%s is left on %s", p, m.Name)
				}
			}
			if g.has(m) {
				t.Errorf("%s has the address", m.Name)
			}
			if p := m.Packages[vip.Package]; p != nil && p.Held {
				t.Errorf("the package is held on %s", m.Name)
			}
		}
	})
}

// An address is set up, read, given another version and other nodes, and destroyed, and
// whoever is killed anywhere is followed by one who gets there.
func TestVIP(t *testing.T) {
	withGuards(t, 1, func(t *testing.T, g *guards, s vip.Spec) {
		m := vipManager(g.Start("first"))
		if o, err := m.Observe(patient(t), s); err != nil || !o.Absent {
			t.Errorf("before: %+v, %v", o, err)
		}
		if err := m.Apply(patient(t), s); err != nil {
			t.Fatal(details(err))
		}
		g.settled(t, s)

		newer := s
		newer.Version = "5.0.0"
		if err := m.Apply(patient(t), newer); err != nil {
			t.Fatal(details(err))
		}
		g.settled(t, newer)
		g.Do(func() {
			for _, host := range g.Machines() {
				if v := host.Installed(vip.Package); v != "5.0.0-1" {
					t.Errorf("%s has vip-manager %s", host.Name, v)
				}
			}
		})

		// The node that leads stays.
		fewer := newer
		var out *fakehost.Machine
		fewer.Nodes = nil
		for _, host := range g.Machines() {
			if out == nil && host.Name != g.Primary() {
				out = host
				continue
			}
			fewer.Nodes = append(fewer.Nodes, host.Name)
		}
		if err := m.Apply(patient(t), fewer); err != nil {
			t.Fatal(details(err))
		}
		g.settled(t, fewer)
		g.nothing(t, out)

		if have, warnings, err := m.Holders(patient(t), s.Cluster); err != nil || len(warnings) > 0 || fmt.Sprint(have) != "map[10.0.0.100:["+g.Primary()+"]]" {
			t.Errorf("the holders are %v, %v, %v", have, warnings, err)
		}
		found, err := m.Find(patient(t), s.Cluster, s.Address.Addr())
		if err != nil || fmt.Sprint(found.Nodes) != fmt.Sprint(fewer.Nodes) || found.Version != "5.0.0" || found.Address != s.Address {
			t.Errorf("found %+v, %v", found, err)
		}
		if err := m.Destroy(patient(t), fewer); err != nil {
			t.Fatal(details(err))
		}
		g.nothing(t, g.Machines()...)
		if o, err := m.Observe(patient(t), fewer); err != nil || !o.Absent {
			t.Errorf("afterwards: %+v, %v", o, err)
		}
		if left := g.Keys(own + "journal/"); len(left) > 0 {
			t.Errorf("etcd has %v", left)
		}
	})
}

// Of two addresses that go at once, the one that is last lets go of the package, and of two
// of which one stays, none does.
func TestVIPsLeave(t *testing.T) {
	withGuards(t, 9, func(t *testing.T, g *guards, s vip.Spec) {
		other := s
		other.Address = netip.MustParsePrefix("10.0.0.101/24")
		other.StandbyLeader = true // nobody has it, so that nothing is to be said about it here
		held := func() (list []string) {
			g.Do(func() {
				for _, m := range g.Machines() {
					if p := m.Packages[vip.Package]; p != nil && p.Held {
						list = append(list, m.Name)
					}
				}
			})
			return list
		}
		for _, spec := range []vip.Spec{s, other} {
			if err := vipManager(g.Start("first")).Apply(patient(t), spec); err != nil {
				t.Fatal(details(err))
			}
		}
		if err := vipManager(g.Start("one")).Destroy(patient(t), other); err != nil {
			t.Fatal(details(err))
		}
		if len(held()) != 3 {
			t.Errorf("held on %v although an address is left", held())
		}
		if err := vipManager(g.Start("again")).Apply(patient(t), other); err != nil {
			t.Fatal(details(err))
		}
		errs := make(chan error)
		for _, spec := range []vip.Spec{s, other} {
			p := g.Start("both " + spec.Address.String())
			go func() { errs <- vipManager(p).Destroy(patient(t), spec) }()
		}
		for range 2 {
			if err := <-errs; err != nil {
				t.Error(details(err))
			}
		}
		if len(held()) > 0 {
			t.Errorf("still held on %v", held())
		}
		g.nothing(t, g.Machines()...)
	})
}

func TestVIPCrashAndResume(t *testing.T) {
	const seed = 2
	for name, c := range map[string]struct {
		before, do func(m vip.Manager, t *testing.T, s vip.Spec) error
		gone       bool
	}{
		"create": {do: func(m vip.Manager, t *testing.T, s vip.Spec) error { return m.Apply(patient(t), s) }},
		"upgrade": {
			before: func(m vip.Manager, t *testing.T, s vip.Spec) error { return m.Apply(patient(t), s) },
			do: func(m vip.Manager, t *testing.T, s vip.Spec) error {
				s.Version = "5.0.0"
				return m.Apply(patient(t), s)
			},
		},
		"destroy": {
			before: func(m vip.Manager, t *testing.T, s vip.Spec) error { return m.Apply(patient(t), s) },
			do:     func(m vip.Manager, t *testing.T, s vip.Spec) error { return m.Destroy(patient(t), s) }, gone: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			run := func(t *testing.T, fault ...fakehost.Fault) (n int) {
				withGuards(t, seed, func(t *testing.T, g *guards, s vip.Spec) {
					if c.before != nil {
						if err := c.before(vipManager(g.Start("before")), t, s); err != nil {
							t.Fatal(details(err))
						}
					}
					first := g.Start("first", fault...)
					err := c.do(vipManager(first), t, s)
					n = first.Mutations()
					if len(fault) == 0 {
						if err != nil {
							t.Fatal(details(err))
						}
						return
					}
					if err == nil || !first.Crashed() {
						t.Fatalf("it was not killed: %v", err)
					}
					if err := c.do(vipManager(g.Start("second")), t, s); err != nil {
						t.Fatalf("the second run: %s", details(err))
					}
					if c.gone {
						g.nothing(t, g.Machines()...)
						return
					}
					if name == "upgrade" {
						s.Version = "5.0.0"
					}
					g.settled(t, s)
				})
				return n
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

// What cannot be is refused before anything is done.
func TestVIPRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(g *guards, s *vip.Spec)
		want   string
	}{
		"a stranger answers":     {func(g *guards, _ *vip.Spec) { g.strange = []string{"02:aa:00:00:00:01"} }, "another machine answers for 10.0.0.100: 02:aa:00:00:00:01"},
		"somebody put it there":  {func(g *guards, _ *vip.Spec) { g.stuck["pg2"] = true }, "eth0 has 10.0.0.100 already, and not from this provider"},
		"another prefix":         {func(_ *guards, s *vip.Spec) { s.Address = netip.MustParsePrefix("10.0.0.100/16") }, "has a prefix of 24 bits, not 16"},
		"a node's own":           {func(_ *guards, s *vip.Spec) { s.Address = netip.MustParsePrefix("10.0.0.2/24") }, "10.0.0.2 is the host's own address"},
		"no such node":           {func(_ *guards, s *vip.Spec) { s.Nodes = append(s.Nodes, "pg9") }, "pg9 is no node of main; its nodes are pg1, pg2, pg3"},
		"no such version":        {func(_ *guards, s *vip.Spec) { s.Version = "9.9" }, "no repository of this host has vip-manager2 in version 9.9; there are: 3.0.0-2, 5.0.0-1"},
		"somebody's vip-manager": {func(g *guards, _ *vip.Spec) { g.Do(func() { g.Host(1).AddUnit("vip-manager.service", nil).Start() }) }, "vip-manager.service runs there"},
		"of another cluster's": {func(g *guards, _ *vip.Spec) {
			g.Do(func() { g.Host(3).Files.Text(vipDir+"/vip.json", `{"cluster": "other", "uid": "x"}`) })
		}, "10.0.0.100 is of another cluster, other, on this host"},
		"the cluster is not there":  {func(_ *guards, s *vip.Spec) { s.Cluster.Scope = "absent" }, "etcd knows nothing of the cluster"},
		"the cluster is a new one":  {func(_ *guards, s *vip.Spec) { s.Cluster.UID = "another" }, "etcd dcs knows another Patroni cluster"},
		"a host cannot be reached ": {func(g *guards, _ *vip.Spec) { g.Do(func() { g.Host(2).PowerOff() }) }, "pg2"},
	} {
		t.Run(name, func(t *testing.T) {
			withGuards(t, 3, func(t *testing.T, g *guards, s vip.Spec) {
				c.change(g, &s)
				p := g.Start("refused")
				wantError(t, vipManager(p).Apply(patient(t), s), c.want)
				for _, call := range g.Mutations("refused") {
					if text := fmt.Sprint(call); !strings.Contains(text, "apt.update") {
						t.Errorf("it did something: %s", text)
					}
				}
			})
		})
	}
}

// What is wrong with an address is in the drift, and an apply mends it.
func TestVIPDrift(t *testing.T) {
	for name, c := range map[string]struct {
		change func(g *guards, leader, other *fakehost.Machine)
		want   string
	}{
		"the guard is stopped": {func(_ *guards, l, _ *fakehost.Machine) { l.Units[vipUnit].Killed() }, "start " + vipUnit},
		"a file was changed":   {func(_ *guards, _, o *fakehost.Machine) { o.Files.Text(vipDir+"/guard.py", "no") }, "write " + vipDir + "/guard.py"},
		"not started at boot":  {func(_ *guards, _, o *fakehost.Machine) { o.Units[vipUnit].Enabled = "disabled" }, "enable " + vipUnit},
		"not held":             {func(_ *guards, _, o *fakehost.Machine) { o.Packages[vip.Package].Held = false }, "hold " + vip.Package},
		"an older guard runs":  {func(g *guards, _, o *fakehost.Machine) { g.runs(o, "older") }, "reload " + vipUnit + ", which keeps 10.0.0.100 meanwhile"},
	} {
		t.Run(name, func(t *testing.T) {
			withGuards(t, 4, func(t *testing.T, g *guards, s vip.Spec) {
				if err := vipManager(g.Start("first")).Apply(patient(t), s); err != nil {
					t.Fatal(details(err))
				}
				lead, other := leader(t, g.Fleet), replicas(g.Fleet)[0]
				g.Do(func() { c.change(g, lead, other) })
				o, err := vipManager(g.Start("reader")).Observe(patient(t), s)
				if err != nil || !strings.Contains(strings.Join(o.Drift, "\n"), c.want) {
					t.Errorf("drift %q, %v", o.Drift, err)
				}
				if err := vipManager(g.Start("second")).Apply(patient(t), s); err != nil {
					t.Fatal(details(err))
				}
				g.settled(t, s)
			})
		})
	}
}

// A turn ends when the address has come along with the leader: where it does not, no other
// node has its turn.
func TestVIPRolls(t *testing.T) {
	rolling(t, 3, 5, func(t *testing.T, r *roll) {
		g := &guards{Fleet: r.Fleet, address: "10.0.0.100", stuck: map[string]bool{}}
		g.Do(func() { g.model() })
		s := vip.Spec{Cluster: r.node(r.Host(1), oldPins).Cluster, Address: netip.MustParsePrefix("10.0.0.100/24"), Nodes: r.Names(), Version: "3.0.0"}
		if err := vipManager(g.Start("addresser")).Apply(patient(t), s); err != nil {
			t.Fatal(details(err))
		}
		r.must("roller", newPostgres, 3)
		r.check(newPostgres)
		g.onPrimary(t)

		// The guards of all but the leader do not run: whoever leads next is without it.
		led := r.Primary()
		g.Do(func() {
			for _, m := range g.Machines() {
				if m.Name != led {
					m.Units[vipUnit].Killed()
				}
			}
		})
		errs := r.apply(patient(t), r.Start("halted"), oldPins, 1)
		n := 0
		for _, err := range errs {
			if text := details(err); strings.Contains(text, "no node has 10.0.0.100, though") && strings.Contains(text, "journalctl -u "+vipUnit) {
				n++
			}
		}
		if n == 0 {
			t.Errorf("nobody has missed the address: %v", errs)
		}
		g.Do(func() {
			for _, m := range g.Machines() {
				m.Units[vipUnit].Start()
			}
		})
		r.must("mended", oldPins, 3)
		r.check(oldPins)
		g.onPrimary(t)
	})
}
