package acceptance

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/bind"
	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// dnsSite is a cluster of three nodes, with a primary and a secondary DNS server beside it.
type dnsSite struct {
	*site
	base    settings
	records map[string]string // resources, by name
}

const (
	rightSecret = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
	otherSecret = "YWJjZGVmZ2hpamFiY2RlZmdoaWphYmNkZWZnaGlqMTI="
)

// named sets both servers up.
func (s *dnsSite) named() {
	s.t.Helper()
	z := bind.Zone{
		Name: "pg.test", Primary: "ns1", Secondary: "ns2", Records: []string{"taken A 192.0.2.1"},
		Keys:   []bind.Key{{Name: "pgha", Algorithm: "hmac-sha256", Secret: rightSecret}, {Name: "pgha512", Algorithm: "hmac-sha512", Secret: otherSecret}},
		Policy: []string{"grant pgha name db.pg.test. A AAAA TXT", "grant pgha name taken.pg.test. A AAAA TXT", "grant pgha512 name ro.pg.test. A AAAA TXT"},
	}
	if err := z.Serve(s.t.Context(), s.lab); err != nil {
		s.t.Fatal(err)
	}
}

func (s *dnsSite) configure() {
	s.t.Helper()
	s.site.configure(s.base)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.records)) {
		text.WriteString(s.records[name])
	}
	s.Write("dns.tf", text.String())
}

// record is a pgha_dns_record.
func (s *dnsSite) record(resource, name, key, more string) string {
	return fmt.Sprintf(`resource "pgha_dns_record" %q {
  cluster = pgha_patroni_cluster.main.membership
  nodes   = { %s }
  zone    = "pg.test"
  name    = %q
  servers = [%q, %q]
  key     = { %s }
  %s
}
`, resource, ids("pg1", "pg2", "pg3"), name, s.lab.Host("ns1").Addr, s.lab.Host("ns2").Addr, key, more)
}

func key(name, secret string, version int) string {
	return fmt.Sprintf("name = %q, secret_wo = %q, secret_wo_version = %d", name, secret, version)
}

// lookup asks a server for a name, and returns the nodes that it leads to.
func (s *dnsSite) lookup(ctx context.Context, server, name string) (nodes []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	addresses, err := bind.Resolver(s.lab, server).LookupHost(ctx, name+".")
	for _, a := range addresses {
		for _, h := range s.lab.Hosts() {
			if h.Addr == a {
				nodes = append(nodes, h.Name)
			}
		}
	}
	slices.Sort(nodes)
	return nodes, err
}

// leads waits until a name leads to some nodes at both servers.
func (s *dnsSite) leads(name string, want ...string) {
	s.t.Helper()
	slices.Sort(want)
	for _, server := range []string{"ns1", "ns2"} {
		s.eventually(name+" at "+server, time.Minute, func(ctx context.Context) (bool, string) {
			have, err := s.lookup(ctx, server, name)
			return slices.Equal(have, want), fmt.Sprintf("it leads to %v (%v), not %v", have, err, want)
		})
	}
}

// sampled are the nodes that a name led to, one after the other.
type sampled struct {
	mu      sync.Mutex
	looks   int
	seen    []string
	wrong   time.Time     // since when it leads to another node than the primary
	longest time.Duration // for which it did
}

// sample asks the primary server for db.pg.test every 10 ms, and all nodes' servers which of
// them takes writes.
func (s *dnsSite) sample(t *testing.T, hosts ...string) *sampled {
	w := &sampled{}
	p := s.watchPrimaries(t, hosts...)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			lead := p.one()
			if nodes, err := s.lookup(ctx, "ns1", "db.pg.test"); err == nil {
				w.look(strings.Join(nodes, "+"), lead)
			}
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
		t.Logf("%d looks at where db.pg.test leads to", w.looks)
	})
	return w
}

// look notes where the name leads to, and to whom it should, empty if that is not known.
func (w *sampled) look(now, lead string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	if len(w.seen) == 0 || w.seen[len(w.seen)-1] != now {
		w.seen = append(w.seen, now)
	}
	if lead == "" || now == lead {
		w.wrong = time.Time{}
		return
	}
	if w.wrong.IsZero() {
		w.wrong = time.Now()
	}
	w.longest = max(w.longest, time.Since(w.wrong))
}

// took returns what was seen, and for how long the name led to a node while another one was
// the primary, and forgets all but what was seen last.
func (w *sampled) took() (seen []string, wrong time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen, wrong = w.seen, w.longest
	w.longest = 0
	if len(seen) > 0 {
		w.seen = seen[len(seen)-1:]
	}
	return seen, wrong
}

// followed fails the test if the name led to another node than the primary for longer than
// its TTL and an interval of the updater.
func (w *sampled) followed(t *testing.T) (seen []string, wrong time.Duration) {
	t.Helper()
	seen, wrong = w.took()
	if wrong > 6*time.Second {
		t.Errorf("the name led to another node than the primary for %s: %v", wrong, seen)
	}
	return seen, wrong.Round(time.Millisecond)
}

// A DNS name leads to the leader, and another one to the replicas, whatever happens to
// hosts and servers; nobody who comes late takes it back.
func TestDNS(t *testing.T) {
	turn(t)
	s := &dnsSite{site: newSite(t, labhost.Warm, settings{}, "pg1", "pg2", "pg3", "ns1", "ns2"), records: map[string]string{}}
	ctx := t.Context()
	hosts := []string{"pg1", "pg2", "pg3"}
	s.base = settings{Purge: true, Addresses: map[string]string{}, Cluster: `failure_detection = "fast"` + "\n" + `synchronous_mode = "quorum"` + "\n" +
		`postgresql = { parameters = { wal_retrieve_retry_interval = "500ms" } }`}
	for _, h := range hosts {
		s.base.Addresses[h] = s.lab.Host(h).Addr
	}
	s.named()
	s.records["db"] = s.record("db", "db", key("pgha", rightSecret, 1), "")
	s.records["ro"] = s.record("ro", "ro.pg.test", key("pgha512", otherSecret, 1)+`, algorithm = "hmac-sha512"`, `follow = "replicas"`)
	s.configure()
	s.Apply(ctx)
	s.NoChanges(ctx)
	// follows waits until both names lead where they should, and returns who leads.
	follows := func(from string) string {
		t.Helper()
		lead := s.leader(from)
		s.leads("db.pg.test", lead)
		s.leads("ro.pg.test", slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return h == lead })...)
		return lead
	}
	follows("pg1")
	c := s.write().Config()
	c.Hosts, c.Table, c.CA = []string{"db.pg.test."}, "through_name", "" // the certificate is the node's
	c.Lookup = bind.Resolver(s.lab, "ns1").LookupHost
	through := writer.Start(t, c)
	seen := s.sample(t, hosts...)

	t.Run("switchovers", func(t *testing.T) {
		n := 2
		if exhaustive() {
			n = 20
		}
		for range n {
			seen.took()
			s.written(through)
			through.TakeGap()
			to := s.switchover("pg1")
			if lead := follows("pg1"); lead != to {
				t.Errorf("%s leads, %s was to", lead, to)
			}
			s.written(through)
			went, wrong := seen.followed(t)
			t.Logf("to %s: the name led to another node for %s, the writer's gap was %s, %v", to, wrong, through.TakeGap().Round(time.Millisecond), went)
			s.healthy("pg1", hosts...)
		}
		s.NoChanges(ctx)
	})

	t.Run("the server is down when the leader changes", func(t *testing.T) {
		s.on("ns1", "systemctl stop named")
		to := s.switchover("pg1")
		o := s.Plan(ctx)
		has(t, o, "The primary server")
		s.on("ns1", "systemctl start named")
		if lead := follows("pg1"); lead != to {
			t.Errorf("%s leads, %s was to", lead, to)
		}
	})

	t.Run("the power goes", func(t *testing.T) {
		n := 1
		if exhaustive() {
			n = 10
		}
		for range n {
			dead := follows("pg1")
			alive := s.others(dead)[0]
			seen.took()
			s.written(through)
			through.TakeGap()
			if err := s.lab.Kill(ctx, dead); err != nil {
				t.Fatal(err)
			}
			s.eventually("another leader", time.Minute, func(context.Context) (bool, string) { l := s.leader(alive); return l != "" && l != dead, l })
			s.leads("db.pg.test", s.leader(alive))
			s.written(through)
			went, wrong := seen.followed(t)
			t.Logf("without %s: the name led to another node than the new primary for %s, the writer's gap was %s, %v", dead, wrong, through.TakeGap().Round(time.Millisecond), went)
			if err := s.lab.Start(ctx, dead); err != nil {
				t.Fatal(err)
			}
			s.healthy(alive, hosts...)
			follows(alive)
		}
	})

	t.Run("the leader stands still, and wakes", func(t *testing.T) {
		still := follows("pg1")
		alive := slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return h == still })[0]
		if err := s.lab.Freeze(ctx, still); err != nil {
			t.Fatal(err)
		}
		s.eventually("another leader", time.Minute, func(context.Context) (bool, string) { l := s.leader(alive); return l != "" && l != still, l })
		lead := s.leader(alive)
		s.leads("db.pg.test", lead)
		seen.took()
		if err := s.lab.Thaw(ctx, still); err != nil {
			t.Fatal(err)
		}
		s.healthy(alive, hosts...)
		follows(alive)
		if went, _ := seen.took(); !slices.Equal(went, []string{lead}) {
			t.Errorf("when %s woke, the name went %v; %s leads", still, went, lead)
		}
	})

	t.Run("somebody changes it", func(t *testing.T) {
		lead := follows("pg1")
		s.on("ns1", fmt.Sprintf("printf 'server 127.0.0.1\\nkey hmac-sha256:pgha %s\\nupdate delete db.pg.test. A\\nupdate add db.pg.test. 60 A 192.0.2.9\\nsend\\n' | nsupdate", rightSecret))
		s.leads("db.pg.test", lead)
		s.NoChanges(ctx)
	})

	t.Run("refused", func(t *testing.T) {
		for _, c := range []struct{ name, text, want string }{
			{"taken", s.record("x", "taken", key("pgha", rightSecret, 1), ""), "if nobody needs it, delete it on the server"},
			{"policy", s.record("x", "other", key("pgha", rightSecret, 1), ""), "let the key change the name, in the zone's update-policy: grant pgha name other.pg.test. A AAAA TXT;"},
			{"secret", s.record("x", "taken", key("pgha", otherSecret, 1), ""), "the secret of the key \"pgha\" is another one on the server"},
			{"key", s.record("x", "taken", key("nobody", rightSecret, 1), ""), "the server has no key \"nobody\" of hmac-sha256"},
			{"zone", strings.ReplaceAll(s.record("x", "taken", key("pgha", rightSecret, 1), ""), `"pg.test"`, `"pg.other"`), "the first of servers has to be the primary server of the zone"},
		} {
			s.records["x"] = c.text
			s.configure()
			o := s.TryApply(ctx, "-target", "pgha_dns_record.x")
			if o.Code == 0 {
				t.Errorf("%s: it is applied", c.name)
			}
			has(t, o, c.want)
		}
		if got := s.on("ns1", "dig +short @127.0.0.1 taken.pg.test"); got != "192.0.2.1" {
			t.Errorf("the record of somebody else is %q", got)
		}
		for text, want := range map[string]string{
			s.record("x", "db.other.test.", key("pgha", rightSecret, 1), ""):                          "is not below the zone",
			s.record("x", "db2", key("pgha", "c2hvcnQ=", 1), ""):                                      "at least 16 are needed",
			s.record("x", "db2", key("pgha", rightSecret, 1), "ttl = -1"):                             "ttl",
			s.record("x", "db2", key("pgha", rightSecret, 1), "type = \"CNAME\"\n  follow = \"all\""): "A CNAME follows the leader",
		} {
			s.records["x"] = text
			s.configure()
			o := s.Plan(ctx)
			if o.Code != 1 {
				t.Errorf("it is planned: %s", text)
			}
			has(t, o, want)
		}
		for _, h := range hosts {
			if out := s.on(h, "ls /etc/pgha/dns; ls -d /run/pgha-dns-*"); strings.Contains(out, "taken") || strings.Contains(out, "other") {
				t.Errorf("what was refused is on %s: %s", h, out)
			}
		}
		delete(s.records, "x")
		s.configure()
		s.NoChanges(ctx)
	})

	t.Run("another secret", func(t *testing.T) {
		s.records["db"] = s.record("db", "db", key("pgha", otherSecret, 2), "")
		s.configure()
		has(t, s.TryApply(ctx), "the secret of the key \"pgha\" is another one on the server")
		for _, h := range hosts {
			if s.on(h, "grep -c "+rightSecret+" /etc/pgha/dns/db.pg.test/record.json") != "1" {
				t.Errorf("the secret that works is not on %s any more", h)
			}
		}
		s.records["db"] = s.record("db", "db", key("pgha", rightSecret, 3), "ttl = 7")
		s.configure()
		s.Apply(ctx)
		s.NoChanges(ctx)
		if got := s.on("ns1", "dig +noall +answer @127.0.0.1 db.pg.test A | awk '{print $2}'"); got != "7" {
			t.Errorf("the TTL is %q", got)
		}
		if o := s.Run(ctx, "show", "-json"); strings.Contains(o.Text, rightSecret) {
			t.Error("the secret is in the state")
		}
	})

	t.Run("import", func(t *testing.T) {
		id := "db.pg.test@main@dcs@"
		for i, h := range hosts {
			id += map[bool]string{true: ",", false: ""}[i > 0] + h + "=" + s.lab.Host(h).Addr
		}
		for _, args := range [][]string{{"state", "rm", "pgha_dns_record.db"}, {"import", "pgha_dns_record.db", id}} {
			if o := s.Run(ctx, args...); o.Code != 0 {
				t.Fatalf("%v: %s", args, o.Text)
			}
		}
		s.records["db"] = s.record("db", "db", `name = "pgha"`, "ttl = 7")
		s.configure()
		s.NoChanges(ctx)
	})

	t.Run("HAProxy leads to the primary and to replicas", func(t *testing.T) {
		example, err := filepath.Abs("../examples/haproxy/haproxy.cfg.tftpl")
		if err != nil {
			t.Fatal(err)
		}
		s.Write("haproxy.tf", fmt.Sprintf("output \"haproxy_cfg\" {\n  value = templatefile(%q, { nodes = local.hosts, ca_file = \"/etc/haproxy/pgha-ca.crt\" })\n}\n", example))
		s.Apply(ctx)
		var config, ca string
		s.Outputs(ctx, "haproxy_cfg", &config)
		s.Outputs(ctx, "ca", &ca)
		s.on("ns1", "cat > /etc/haproxy/haproxy.cfg <<'E'\n"+config+"\nE\ncat > /etc/haproxy/pgha-ca.crt <<'E'\n"+ca+"\nE\nhaproxy -c -q -f /etc/haproxy/haproxy.cfg && systemctl restart haproxy")
		s.write().Stop() // for its account
		// to is whose server answers at a port.
		to := func(ctx context.Context, port int) (string, error) {
			c := s.writerConfig()
			c.Hosts, c.Port, c.CA = []string{s.lab.Host("ns1").Addr}, port, ""
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			conn, err := writer.ConnectTo(ctx, c, nil)
			if err != nil {
				return "", err
			}
			defer conn.Close(ctx)
			var name string
			err = conn.QueryRow(ctx, "select current_setting('cluster_name') || ' ' || host(inet_server_addr()) || ' ' || pg_is_in_recovery()").Scan(&name)
			return name, err
		}
		for range 2 {
			lead := s.leader("pg1")
			for port, want := range map[int]string{5000: s.lab.Host(lead).Addr + " false", 5001: " true"} {
				s.eventually(fmt.Sprintf("port %d to lead to %s", port, want), 30*time.Second, func(ctx context.Context) (bool, string) {
					got, err := to(ctx, port)
					return err == nil && strings.HasSuffix(got, want), fmt.Sprint(got, err)
				})
			}
			s.switchover("pg1")
			s.healthy("pg1", hosts...)
		}
		s.Write("haproxy.tf", "")
	})

	through.Check(t)
	t.Run("they are destroyed", func(t *testing.T) {
		s.records = map[string]string{}
		s.configure()
		has(t, s.Plan(ctx), "Destroying this removes the DNS name ", ".pg.test", "Clients that look it up find nobody")
		s.Apply(ctx)
		for _, name := range []string{"db", "ro"} {
			if got := s.on("ns1", "dig +short @127.0.0.1 "+name+".pg.test ANY"); got != "" {
				t.Errorf("%s is left: %s", name, got)
			}
		}
		for _, h := range hosts {
			if out := s.on(h, "ls -d /etc/pgha/dns/db.pg.test /etc/pgha/dns/ro.pg.test /run/pgha-dns-db* /etc/systemd/system/pgha-dns-db* 2>/dev/null; true"); out != "" {
				t.Errorf("on %s is left: %s", h, out)
			}
		}
	})
}
