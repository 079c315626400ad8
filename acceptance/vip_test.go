package acceptance

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// vipSite is a cluster of three nodes with virtual addresses.
type vipSite struct {
	*site
	base settings
	vips map[string]string // resources, by name
}

// vip is a pgha_vip.
func vip(name, address, nodes, more string) string {
	return fmt.Sprintf(`resource "pgha_vip" %q {
  cluster = pgha_patroni_cluster.main.membership
  nodes   = { %s }
  address = %q
  %s
}
`, name, nodes, address, more)
}

// ids names nodes as a pgha_vip does.
func ids(names ...string) string {
	var list []string
	for _, n := range names {
		list = append(list, fmt.Sprintf("%s = pgha_patroni_node.%s.id", n, n))
	}
	return strings.Join(list, ", ")
}

func (s *vipSite) configure() {
	s.t.Helper()
	s.site.configure(s.base)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.vips)) {
		text.WriteString(s.vips[name])
	}
	s.Write("vip.tf", text.String())
}

// switchover moves the leader's role and returns who has it. With a synchronous mode it is
// one that Patroni lets take over.
func (s *site) switchover(from string) string {
	s.t.Helper()
	leader := s.leader(from)
	to := leader
	s.eventually("a switchover from "+leader, 2*time.Minute, func(ctx context.Context) (bool, string) {
		candidate := ""
		for name, m := range s.members(leader) {
			if strings.HasSuffix(m.Role, "Standby") || candidate == "" && m.Role == "Replica" && m.State == "streaming" {
				candidate = name
			}
		}
		// Who can is known a moment later than who is: it is tried again.
		_, _ = s.lab.SSH(ctx, leader, "patronictl -c /etc/patroni/config.yml switchover --force --leader "+leader+" --candidate "+candidate)
		to = s.leader(leader)
		return to != "" && to != leader, to
	})
	return to
}

// onLeader waits until the leader alone has the address, and returns its name.
func (s *site) onLeader(w *holders, from string) string {
	s.t.Helper()
	name := ""
	s.eventually("the leader to have the address", time.Minute, func(ctx context.Context) (bool, string) {
		list, err := s.list(ctx, from)
		if err != nil {
			return false, err.Error()
		}
		for _, m := range list {
			if m.Role == "Leader" {
				name = m.Member
			}
		}
		have := w.holder()
		return name != "" && have == name, fmt.Sprintf("%q leads, %q has it", name, have)
	})
	return name
}

// throughTunnel asks twice who the primary is, and in between waits for somebody.
const throughTunnel = `ephemeral "pgha_credentials" "main" { cluster = pgha_patroni_cluster.main.membership }
ephemeral "pgha_tunnel" "main" { cluster = pgha_patroni_cluster.main.membership }
provider "sql" {
  host     = ephemeral.pgha_tunnel.main.host
  port     = ephemeral.pgha_tunnel.main.port
  user     = ephemeral.pgha_credentials.main.superuser.username
  password = ephemeral.pgha_credentials.main.superuser.password
  ca       = pgha_patroni_cluster.main.ca_certificate
}
resource "terraform_data" "before" {}
data "sql_query" "first" {
  statement  = "select host(inet_server_addr()) where not pg_is_in_recovery()"
  depends_on = [terraform_data.before]
}
resource "terraform_data" "meanwhile" {
  input = data.sql_query.first.value
  provisioner "local-exec" { command = "touch %s.asked; until [ -e %s ]; do sleep 0.2; done" }
}
data "sql_query" "second" {
  statement  = "select host(inet_server_addr()) where not pg_is_in_recovery()"
  depends_on = [terraform_data.meanwhile]
}
output "first" { value = data.sql_query.first.value }
output "second" { value = data.sql_query.second.value }
`

// stayed fails the test if the address was not where it was, unless Patroni did not answer
// for so long that it had to go: on a busy machine that happens.
func (s *site) stayed(t *testing.T, w *holders) {
	t.Helper()
	moves, none := w.took()
	if len(moves) == 0 && none == 0 {
		return
	}
	for _, h := range s.lab.Hosts() {
		if out, _ := s.lab.SSH(t.Context(), h.Name, "journalctl -o cat --since -10min | grep -F ' is not here: Patroni does not answer' | tail -1"); out != "" {
			t.Logf("%s: %s", h.Name, out)
			return
		}
	}
	t.Errorf("the address went for %s: %v", none, moves)
}

// A virtual address is on the leader, on nobody else, and never on two hosts at once:
// looked at every 10 ms, whatever happens to the hosts.
func TestVIP(t *testing.T) {
	turn(t)
	s := &vipSite{site: newSite(t, labhost.Warm, settings{}, "pg1", "pg2", "pg3"), vips: map[string]string{}}
	ctx := t.Context()
	s.base = settings{Purge: true, Cluster: `failure_detection = "fast"` + "\n" + `synchronous_mode = "quorum"` + "\n" +
		// A replica that is promoted while it has just lost its upstream finishes that wait first.
		`postgresql = { parameters = { wal_retrieve_retry_interval = "500ms" } }`}
	addr, addr6 := s.lab.VIP("dc1", 1)
	second, _ := s.lab.VIP("dc1", 2)
	old, new := s.oldest("vip-manager2"), s.newest("vip-manager2")
	all := ids("pg1", "pg2", "pg3")
	version := func(v string) string { return fmt.Sprintf("version = %q", v) }
	s.vips["main"] = vip("main", addr+"/24", all, version(old))
	s.configure()
	s.Apply(ctx)
	s.NoChanges(ctx)
	w := s.watchHolders(t, addr)
	s.onLeader(w, "pg1")

	c := s.write().Config()
	c.Hosts, c.Table, c.CA = []string{addr}, "through_vip", "" // the certificate is the node's
	through := writer.Start(t, c)

	must := func(args ...string) {
		t.Helper()
		if o := s.Run(ctx, args...); o.Code != 0 {
			t.Fatalf("%v: %s", args, o.Text)
		}
	}

	t.Run("refused", func(t *testing.T) {
		for text, want := range map[string]string{
			vip("x", "10.99.1.1/24", all, version(old)):               "none of its interfaces has a subnet that 10.99.1.1 lies in",
			vip("x", second+"/16", all, version(old)):                 "has a prefix of",
			vip("x", second+"/24", all, version("1.0.2")):             "knows only version 2 of etcd's API",
			vip("x", s.lab.Host("pg2").Addr+"/24", all, version(old)): "is the host's own address",
			vip("x", second, all, version(old)):                       "it is an address and the length of its subnet's prefix",
		} {
			s.vips["x"] = text
			s.configure()
			o := s.Plan(ctx)
			if o.Code != 1 {
				t.Errorf("it is planned: %s\n%s", text, o.Text)
			}
			has(t, o, want)
		}
		delete(s.vips, "x")
		s.configure()
	})

	t.Run("switchovers", func(t *testing.T) {
		n := 3
		if exhaustive() {
			n = 20
		}
		for range n {
			w.took()
			through.TakeGap()
			to := s.switchover("pg1")
			if on := s.onLeader(w, "pg1"); on != to {
				t.Errorf("%s leads, %s was to", on, to)
			}
			s.written(through)
			moves, none := w.took()
			t.Logf("to %s: nobody had the address for %s, the writer's gap was %s, %v", to, none.Round(time.Millisecond), through.TakeGap().Round(time.Millisecond), moves)
			s.healthy("pg1", "pg1", "pg2", "pg3")
		}
	})

	t.Run("vip-manager and the guard are killed", func(t *testing.T) {
		leader := s.onLeader(w, "pg1")
		unit := "pgha-vip-" + addr + ".service"
		w.took()
		for range 3 {
			pid := s.on(leader, "pgrep -x vip-manager")
			s.on(leader, "kill -9 "+pid)
			s.eventually("vip-manager to be back", 30*time.Second, func(ctx context.Context) (bool, string) {
				out, err := s.lab.SSH(ctx, leader, "pgrep -x vip-manager")
				return err == nil && strings.TrimSpace(out) != pid, out
			})
		}
		s.stayed(t, w)
		s.on(leader, "systemctl kill -s KILL --kill-whom=main "+unit)
		s.eventually("the guard to be back", 30*time.Second, func(ctx context.Context) (bool, string) {
			out, err := s.lab.SSH(ctx, leader, "systemctl is-active "+unit)
			return err == nil, out
		})
		s.onLeader(w, "pg1")
		_, none := w.took()
		t.Logf("the guard was killed: nobody had the address for %s", none.Round(time.Millisecond))
	})

	t.Run("the address is removed, and put where it does not belong", func(t *testing.T) {
		leader := s.onLeader(w, "pg1")
		nic := s.on(leader, "ip -o addr show to "+addr+" | awk '{print $2}'")
		s.on(leader, fmt.Sprintf("ip addr del %s/24 dev %s", addr, nic))
		s.onLeader(w, "pg1")
		s.NoChanges(ctx)
	})

	t.Run("the guard is stopped", func(t *testing.T) {
		leader := s.onLeader(w, "pg1")
		unit := "pgha-vip-" + addr + ".service"
		s.on(leader, "systemctl stop "+unit)
		if h := w.holder(); h != "" {
			t.Errorf("%s has the address after the guard was stopped", h)
		}
		o := s.Plan(ctx)
		has(t, o, "start "+unit, "no node has "+addr+", though "+leader+" leads")
		s.Apply(ctx)
		s.onLeader(w, "pg1")
		s.NoChanges(ctx)
	})

	t.Run("another version", func(t *testing.T) {
		if old == new {
			t.Skip("SKIPPED: the lab has one version of vip-manager only")
		}
		s.written(through)
		w.took()
		failed := through.Failed()
		s.vips["main"] = vip("main", addr+"/24", all, version(new))
		s.configure()
		has(t, s.Plan(ctx), "version")
		s.Apply(ctx)
		s.NoChanges(ctx)
		s.stayed(t, w)
		t.Logf("%d writes failed", through.Failed()-failed)
		leader := s.onLeader(w, "pg1")
		s.eventually("the new vip-manager to run", 30*time.Second, func(ctx context.Context) (bool, string) {
			out, err := s.lab.SSH(ctx, leader, "ls -l /proc/$(pgrep -x vip-manager)/exe && vip-manager --version")
			return err == nil && !strings.Contains(out, "deleted") && strings.Contains(out, new), out
		})
		s.switchover("pg1")
		s.onLeader(w, "pg1")
	})

	t.Run("nodes are upgraded", func(t *testing.T) {
		from, to := s.oldest(s.server()), s.newest(s.server())
		if from == to {
			t.Skip("SKIPPED: the lab has one version of PostgreSQL only")
		}
		s.written(through)
		w.took()
		through.TakeGap()
		s.base.Postgres = to
		s.configure()
		s.Apply(ctx)
		s.onLeader(w, "pg1")
		s.written(through)
		moves, none := w.took()
		t.Logf("to PostgreSQL %s: %v, nobody had the address for %s, the writer's gap was %s", to, moves, none.Round(time.Millisecond), through.TakeGap().Round(time.Millisecond))
		if len(moves) != 1 {
			t.Errorf("the address moved %v", moves)
		}
		s.NoChanges(ctx)
		s.healthy("pg1", "pg1", "pg2", "pg3")
	})

	t.Run("the power goes", func(t *testing.T) {
		n := 1
		if exhaustive() {
			n = 10
		}
		for range n {
			s.healthy("pg1", "pg1", "pg2", "pg3")
			dead := s.onLeader(w, "pg1")
			alive := s.others(dead)[0]
			s.written(through)
			w.took()
			through.TakeGap()
			w.drop(dead)
			if err := s.lab.Kill(ctx, dead); err != nil {
				t.Fatal(err)
			}
			s.eventually("another leader", time.Minute, func(context.Context) (bool, string) { l := s.leader(alive); return l != "" && l != dead, l })
			s.onLeader(w, alive)
			s.written(through)
			_, none := w.took()
			t.Logf("without %s: nobody had the address for %s, the writer's gap was %s", dead, none.Round(time.Millisecond), through.TakeGap().Round(time.Millisecond))
			if err := s.lab.Start(ctx, dead); err != nil {
				t.Fatal(err)
			}
			w.add(s.site, dead)
			s.healthy(alive, "pg1", "pg2", "pg3")
		}
	})

	t.Run("the leader stands still, and wakes", func(t *testing.T) {
		still := s.onLeader(w, "pg1")
		alive := s.others(still)[0]
		w.took()
		if err := s.lab.Freeze(ctx, still); err != nil {
			t.Fatal(err)
		}
		s.eventually("another leader", time.Minute, func(context.Context) (bool, string) { l := s.leader(alive); return l != "" && l != still, l })
		lead := s.onLeader(w, alive)
		w.took()
		if err := s.lab.Thaw(ctx, still); err != nil {
			t.Fatal(err)
		}
		s.healthy(alive, "pg1", "pg2", "pg3")
		s.stayed(t, w)
		if h := w.holder(); h != lead {
			t.Errorf("when %s woke, the address went to %q; %s leads", still, h, lead)
		}
	})

	t.Run("etcd is lost, and back", func(t *testing.T) {
		for _, h := range []string{"pg1", "pg2", "pg3"} {
			s.on(h, "systemctl stop etcd")
		}
		s.eventually("the address to be nowhere", time.Minute, func(context.Context) (bool, string) { h := w.holder(); return h == "", h })
		for _, h := range []string{"pg1", "pg2", "pg3"} {
			s.on(h, "systemctl start --no-block etcd")
		}
		s.onLeader(w, "pg1")
		s.healthy("pg1", "pg1", "pg2", "pg3")
		s.written(through)
	})

	t.Run("a second one, of IPv6, for a standby leader", func(t *testing.T) {
		s.vips["six"] = vip("six", addr6+"/64", all, version(new))
		s.vips["standby"] = vip("standby", second+"/24", ids("pg1", "pg2"), version(new)+"\n  follow = \"standby_leader\"")
		s.configure()
		s.Apply(ctx)
		s.NoChanges(ctx)
		six, none := s.watchHolders(t, addr6), s.watchHolders(t, second)
		s.onLeader(six, "pg1")
		s.switchover("pg1")
		s.onLeader(six, "pg1")
		s.onLeader(w, "pg1")
		if h := none.holder(); h != "" {
			t.Errorf("%s has the address of a standby leader", h)
		}
	})

	t.Run("a stranger has the address", func(t *testing.T) {
		third, _ := s.lab.VIP("dc1", 3)
		nic := s.on("pg3", "ip -o addr show to "+s.lab.Host("pg3").Addr+" | awk '{print $2}'")
		s.on("pg3", fmt.Sprintf("ip addr add %s/24 dev %s", third, nic))
		s.vips["third"] = vip("third", third+"/24", ids("pg1", "pg2"), version(new))
		s.configure()
		o := s.Plan(ctx)
		if o.Code != 1 {
			t.Errorf("it is planned:\n%s", o.Text)
		}
		has(t, o, "another machine answers for "+third)
		s.on("pg3", fmt.Sprintf("ip addr del %s/24 dev %s", third, nic))
		delete(s.vips, "third")
		s.configure()
	})

	t.Run("a node leaves, and comes", func(t *testing.T) {
		leader := s.onLeader(w, "pg1")
		if leader == "pg3" {
			s.switchover("pg1")
			s.onLeader(w, "pg1")
		}
		w.took()
		s.vips["main"] = vip("main", addr+"/24", ids("pg1", "pg2"), version(new))
		s.configure()
		s.Apply(ctx)
		s.NoChanges(ctx)
		if out := s.on("pg3", "ls /etc/pgha/vip; systemctl is-enabled pgha-vip-"+addr+".service 2>&1 || true"); strings.Contains(out, addr) && !strings.Contains(out, "not-found") {
			t.Errorf("pg3 has it still: %s", out)
		}
		s.vips["main"] = vip("main", addr+"/24", all, version(new))
		s.configure()
		s.Apply(ctx)
		s.NoChanges(ctx)
		s.stayed(t, w)
	})

	t.Run("import", func(t *testing.T) {
		must("state", "rm", "pgha_vip.main")
		id := addr + "@main@dcs@"
		for i, h := range []string{"pg1", "pg2", "pg3"} {
			id += map[bool]string{true: ",", false: ""}[i > 0] + h + "=" + s.lab.Host(h).Addr
		}
		must("import", "pgha_vip.main", id)
		s.NoChanges(ctx)
	})

	t.Run("a tunnel leads to the primary, also in the middle of an apply", func(t *testing.T) {
		go1 := filepath.Join(t.TempDir(), "go")
		s.Provider("hashicorp/sql", "acceptance/sqlprovider")
		s.Write("tunnel.tf", fmt.Sprintf(throughTunnel, go1, go1))
		before := s.onLeader(w, "pg1")
		r := s.begin(ctx, "apply")
		s.eventually("the apply to have asked once", 3*time.Minute, func(context.Context) (bool, string) {
			_, err := os.Stat(go1 + ".asked")
			return err == nil, "it has not"
		})
		after := s.switchover("pg1")
		s.onLeader(w, "pg1")
		if err := os.WriteFile(go1, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if code, text := r.end(); code != 0 {
			t.Fatalf("the apply ended with %d:\n%s", code, text)
		}
		var first, second string
		s.Outputs(ctx, "first", &first)
		s.Outputs(ctx, "second", &second)
		if first != s.lab.Host(before).Addr || second != s.lab.Host(after).Addr {
			t.Errorf("the tunnel led to %s and then to %s; %s led before and %s after", first, second, before, after)
		}
		s.Write("tunnel.tf", "")
		s.Apply(ctx)
	})

	t.Run("it is destroyed", func(t *testing.T) {
		s.vips = map[string]string{}
		s.configure()
		has(t, s.Plan(ctx), "Destroying this takes the virtual address "+w.address.String()+" off all nodes")
		s.Apply(ctx)
		if h := w.holder(); h != "" {
			t.Errorf("%s has the address still", h)
		}
		for _, h := range []string{"pg1", "pg2", "pg3"} {
			if out := s.on(h, "ls -d /etc/pgha/vip /run/pgha-vip* /etc/systemd/system/pgha-vip* 2>/dev/null; pgrep -x vip-manager; pgrep -f '[g]uard.py'; apt-mark showhold | grep vip; true"); out != "" {
				t.Errorf("on %s is left: %s", h, out)
			}
		}
	})
	through.CheckAt(t, s.writerConfig().Hosts)
}

// written waits until a writer gets rows through.
func (s *site) written(w *writer.Writer) {
	s.t.Helper()
	n := w.Acked()
	s.eventually("rows to be written", time.Minute, func(context.Context) (bool, string) { return w.Acked() > n+2, fmt.Sprint(w.Acked(), " rows") })
}
