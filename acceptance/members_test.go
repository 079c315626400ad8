package acceptance

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// An etcd cluster grows from one to three and five members, shrinks, has a dead
// member replaced on another host, and moves off the hosts that it began on. A
// Patroni cluster on it notices nothing: no write fails, nothing is restarted.
func TestEtcdMembers(t *testing.T) {
	turn(t)
	cli.Binary(t)
	all := []string{"h1", "h2", "h3", "h4", "h5"}
	lab := labtest.New(t, labhost.Options{Image: labhost.Warm, Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: all}}})
	s := &site{t: t, lab: lab, Dir: cli.New(t, nil, lab.Env()...)}
	ctx := t.Context()
	postgres, patroni, version := s.oldest(s.server()), s.oldest("patroni"), s.oldest("etcd-server")

	provider := ""
	// write writes the configuration with the used hosts and the given members:
	// "h4=h5" is the member h4 on the host h5.
	used := []string{"h1", "h2"}
	write := func(to *cli.Dir, members, etcd string) {
		var hosts, list []string
		for _, h := range used {
			hosts = append(hosts, fmt.Sprintf("%s = %q", h, lab.Host(h).Addr))
		}
		for _, m := range strings.Fields(members) {
			name, on, other := strings.Cut(m, "=")
			if !other {
				on = name
			}
			list = append(list, fmt.Sprintf("%s = { host = pgha_host.db[%q].access }", name, on))
		}
		to.Write("main.tf", fmt.Sprintf(`terraform {
  required_providers {
    pgha = { source = "pgha/pgha" }
  }
}
provider "pgha" {
  %s
}
resource "pgha_host" "db" {
  for_each  = { %s }
  name      = each.key
  address   = each.value
  time_sync = "off"
}
resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = %q
  members = {
    %s
  }
  deletion_protection = false
  on_destroy          = "purge"
  %s
}
resource "pgha_patroni_cluster" "main" {
  scope               = "main"
  etcd                = pgha_etcd_cluster.dcs.access
  allowed_networks    = ["samenet", "10.0.0.0/8"]
  failure_detection   = "fast"
  deletion_protection = false
  on_destroy          = "purge"
}
resource "pgha_patroni_node" "db" {
  for_each   = toset(["h1", "h2"])
  cluster    = pgha_patroni_cluster.main.membership
  host       = pgha_host.db[each.key].access
  name       = each.key
  versions   = { postgresql = %q, patroni = %q }
  on_destroy = "purge"
}
output "ca" { value = pgha_patroni_cluster.main.ca_certificate }
`, provider, strings.Join(hosts, ", "), version, strings.Join(list, "\n    "), etcd, postgres, patroni))
	}
	configure := func(members string) { write(s.Dir, members, "") }

	configure("h1")
	s.Apply(ctx)
	s.healthy("h1", "h1", "h2")
	s.sql(s.leader("h1"), "create role app superuser login password 'app-password'")
	var ca string
	s.Outputs(ctx, "ca", &ca)
	processes := func() string {
		return s.on("h1", "systemctl show -p MainPID patroni") + s.on("h2", "systemctl show -p MainPID patroni")
	}
	before := processes()
	w := writer.Start(t, writer.Config{Hosts: []string{lab.Host("h1").Addr, lab.Host("h2").Addr}, User: "app", Password: "app-password", CA: ca})

	dead := map[string]bool{}
	// check looks at etcd's own list, at Patroni's, and for what was left behind.
	check := func(members string) {
		t.Helper()
		hosts := map[string]string{}
		for _, m := range strings.Fields(members) {
			name, on, other := strings.Cut(m, "=")
			if !other {
				on = name
			}
			hosts[on] = name
		}
		for host, name := range hosts {
			if ca := s.on(host, "ls /etc/pgha/ca"); ca != "etcd-dcs\npatroni-main" {
				t.Errorf("the authorities on %s: %s", host, ca)
			}
			list := s.etcdctl(host, "member list")
			want := fmt.Sprintf("started, %s, https://%s:2380, https://%s:2379, false", name, lab.Host(host).Addr, lab.Host(host).Addr)
			if strings.Count(list, "\n") != len(hosts)-1 || !strings.Contains(list, want) {
				t.Errorf("the members, as %s has them:\n%s\nwant %d, among them %s", host, list, len(hosts), want)
			}
			for _, node := range []string{"h1", "h2"} {
				if c := s.on(node, "sed -n '/^etcd3:/,/^[a-z]/p' /etc/patroni/config.yml"); !strings.Contains(c, lab.Host(host).Addr+":2379") {
					t.Errorf("Patroni on %s does not know the member on %s:\n%s", node, host, c)
				}
			}
		}
		for _, h := range all {
			if _, member := hosts[h]; !member && !dead[h] {
				s.on(h, "! systemctl is-active -q etcd && test ! -e /etc/pgha/etcd.json -a ! -e /etc/pgha/etcd/dcs -a ! -e /etc/pgha/ca -a ! -e /var/lib/etcd/dcs")
			}
		}
		s.healthy("h1", "h1", "h2")
		if now := processes(); now != before {
			t.Errorf("Patroni was restarted: %s, before %s", now, before)
		}
		if n := w.Failed(); n > 0 {
			t.Fatalf("%d writes failed so far", n)
		}
		s.NoChanges(ctx)
	}
	k := sweeper(s, w, "etcd.member.add", "etcd.member.start", "etcd.member.promote", "etcd.member.remove", "etcd.purge")
	// twice applies from two folders at once: the second one waits, or says for whom.
	twice := func(t *testing.T, members string) {
		t.Helper()
		first := s.begin(ctx, "apply")
		first.await(t, "etcd.member.add")
		other := &site{t: t, lab: lab, Dir: cli.New(t, nil, lab.Env()...)}
		write(other.Dir, members, "timeouts { create = \"20s\" }")
		if o := other.TryApply(ctx, "-target=pgha_etcd_cluster.dcs"); o.Code != 0 {
			has(t, o, "another apply is at work: etcd cluster dcs")
		}
		first.wait(t)
	}
	move := func(what, members string, killed bool, says ...string) {
		t.Helper()
		if !t.Run(what, func(t *testing.T) {
			configure(members)
			if len(says) > 0 {
				has(t, s.Plan(ctx), says...)
			}
			switch {
			case what == "one to three":
				twice(t, members)
			case killed || exhaustive():
				k.only = nil
				if dead["h4"] {
					// Each run waits for the dead host several times over.
					k.few("in etcd.member.remove", "etcd.member.remove", "etcd.member.add", "etcd.member.lost")
				}
				k.sweep(t, "apply", alone(false)...)
				s.Apply(ctx)
			default:
				s.Apply(ctx)
			}
			check(members)
		}) {
			t.FailNow()
		}
	}

	used = all[:3] // a host and its member are added by one apply
	move("one to three", "h1 h2 h3", false, "h2: add it to the etcd cluster as a learner", "h3: let it vote once it has caught up")
	used = all
	move("three to five", "h1 h2 h3 h4 h5", true)
	move("five to three", "h1 h2 h4", true, "remove the member h3", "remove the member h5")
	if err := lab.Kill(ctx, "h4"); err != nil {
		t.Fatal(err)
	}
	// Each apply waits for it again.
	dead["h4"], provider = true, `on_unreachable = "keep"`+"\n  ssh {\n    connect_timeout = \"3s\"\n  }"
	move("a dead member is replaced", "h1 h2 h4=h5", true, "remove the member h4, which is not healthy")
	// It comes back with what it had, and finds that it is no member any more.
	if err := lab.Start(ctx, "h4"); err != nil {
		t.Fatal(err)
	}
	dead["h4"], provider = false, ""
	stray := "h4"
	s.eventually("etcd on "+stray+" to find that it is no member", time.Minute, func(ctx context.Context) (bool, string) {
		log, err := lab.SSH(ctx, stray, "journalctl -b -u etcd -o cat | grep -c 'has been permanently removed\\|removed the member\\|the member has been' || true")
		return err == nil && strings.TrimSpace(log) != "0", log
	})
	s.on(stray, "systemctl disable --now etcd && rm -rf /etc/pgha /var/lib/etcd/dcs")
	move("two hosts are left", "h3 h4=h5 h1", false, "h3: add it to the etcd cluster as a learner", "remove the member h2")
	// Patroni looks for new members every ten times its ttl; those that it knows
	// must not all leave before.
	used = all[:3] // and removed by one
	move("three to one", "h3", false)
	// It is there: nobody is left without etcd.
	s.lead("h1", []string{"h1"}, "h1", "h2")
	s.lead("h1", []string{"h2"}, "h1", "h2")

	w.Check(t)
	if gap := w.LongestGap(); gap > 0 {
		t.Logf("%d rows, the longest time without one was %s", w.Acked(), gap)
	}
	s.Destroy(ctx)
	for _, h := range all {
		s.on(h, "test ! -e /etc/pgha && ! systemctl is-active -q patroni etcd")
	}
}
