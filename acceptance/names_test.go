package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// Five nodes on five members of etcd, all by name: names that only the second
// of two bastions can resolve, with SSH as a user with sudo through both; names
// for etcd's members, in the certificates, and for Patroni. Two of the names
// lead to IPv6.
func TestFiveByName(t *testing.T) {
	turn(t)
	cli.Binary(t)
	all := []string{"pg1", "pg2", "pg3", "pg4", "pg5"}
	lab := labtest.New(t, labhost.Options{
		Image:       labhost.Warm,
		Datacenters: []labhost.Datacenter{{Name: "dc1"}, {Name: "dc2", Hosts: all}},
		Bastions:    []string{"dc1", "dc2"},
	})
	ctx := t.Context()
	named := func(host string) string { return host + ".db.test" }
	addresses, entries, lines := map[string]string{}, "", ""
	for _, h := range all {
		addr := lab.Host(h).Addr
		if h == "pg4" || h == "pg5" {
			addr = lab.Host(h).Addr6
		}
		addresses[h] = named(h)
		entries += fmt.Sprintf("    %q = %q\n", named(h), addr)
		lines += addr + " " + named(h) + "\n"
	}
	base := settings{
		Provider: fmt.Sprintf("ssh {\n    user     = \"admin\"\n    bastions = [{ host = %q }, { host = %q }]\n  }", lab.Host("dc1-bastion").Addr, lab.Host("dc2-bastion").Addr6),
		Host:     "hosts_entries = {\n" + entries + "  }",
		Networks: []string{"samenet"}, Addresses: addresses, Purge: true,
	}
	s := &site{t: t, lab: lab, Dir: cli.New(t, nil, append(lab.Env(), "PGHA_SSH_USER=", "PGHA_SSH_KNOWN_HOSTS_FILE="+aliases(t, lab, named))...)}
	s.on("dc2-bastion", "cat >>/etc/hosts <<'END'\n"+lines+"END")
	s.configure(base)
	s.Apply(ctx)
	s.healthy("pg1", all...)
	s.NoChanges(ctx)

	t.Run("names everywhere", func(t *testing.T) {
		members := s.members("pg1")
		for _, h := range all {
			if members[h].Host != named(h) {
				t.Errorf("Patroni has %s at %s", h, members[h].Host)
			}
		}
		peers := s.etcdctl("pg1", "member list")
		for _, h := range all {
			if !strings.Contains(peers, "https://"+named(h)+":2380") || !strings.Contains(peers, "https://"+named(h)+":2379") {
				t.Errorf("etcd does not have %s by its name:\n%s", h, peers)
			}
		}
		if n := strings.Count(peers, "started"); n != 5 {
			t.Errorf("%d members are started", n)
		}
		for _, at := range []string{"pg1", "pg4"} {
			for _, port := range []string{"2379", "2380", "8008"} {
				s.on("pg2", "openssl s_client -connect "+named(at)+":"+port+" -verify_hostname "+named(at)+" </dev/null 2>/dev/null | openssl x509 -noout -checkhost "+named(at)+" | grep -q 'does match'")
			}
		}
	})

	t.Run("through both bastions", func(t *testing.T) {
		for at, from := range map[string]string{"dc2-bastion": lab.Host("dc1-bastion").Addr6, "pg1": lab.Host("dc2-bastion").Addr, "pg5": lab.Host("dc2-bastion").Addr6} {
			if n := s.on(at, "journalctl -q -u ssh -o cat | grep -c 'Accepted publickey for admin from "+from+" ' || true"); n == "0" {
				t.Errorf("nobody came to %s from %s", at, from)
			}
		}
	})

	t.Run("the leader moves to IPv6, and back by leaving", func(t *testing.T) {
		// Asked of another node, which has to be let in by its address.
		leader := s.lead("pg2", []string{"pg4", "pg5"}, all...)
		s.dropNode(leader)
		s.Apply(ctx)
		s.healthy("pg1", s.others(leader)...)
		s.configure(base)
		s.Apply(ctx)
		s.healthy("pg1", all...)
		s.NoChanges(ctx)
	})

	s.Destroy(ctx)
	for _, h := range all {
		s.on(h, "test ! -e /etc/pgha && ! systemctl is-active -q patroni etcd && ! grep -q db.test /etc/hosts")
	}
}

// aliases is the lab's known_hosts with another name for each host.
func aliases(t testing.TB, lab *labhost.Lab, name func(string) string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(read(t, lab.KnownHostsFile)) {
		hosts, key, _ := strings.Cut(line, " ")
		all := strings.Split(hosts, ",")
		b.WriteString(hosts + "," + name(all[len(all)-1]) + " " + key)
	}
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// etcdctl asks a host's member of etcd, as the provider's own user.
func (s *site) etcdctl(host, command string) string {
	s.t.Helper()
	return s.on(host, `dir=/etc/pgha/etcd/dcs; pass=$(sed 's/.*"pgha":"\([^"]*\)".*/\1/' $dir/credentials.json)
ETCDCTL_API=3 ETCDCTL_USER=pgha:$pass etcdctl --endpoints https://127.0.0.1:2379 --cacert $dir/ca.crt --cert $dir/server.crt --key $dir/server.key `+command)
}

// lead has Patroni move the leader's role to one of the candidates, asked from the
// given host, waits for a healthy cluster, and returns who leads. On a busy machine
// Patroni chooses another member than it was told if that one does not answer
// within two seconds.
func (s *site) lead(from string, candidates []string, names ...string) string {
	s.t.Helper()
	var said string
	for n := range 6 {
		leader := s.leader(from)
		if slices.Contains(candidates, leader) {
			return leader
		}
		said = s.on(from, "patronictl -c /etc/patroni/config.yml switchover --leader "+leader+" --candidate "+candidates[n%len(candidates)]+" --force 2>&1")
		s.healthy(from, names...)
	}
	s.t.Fatalf("%s leads, none of %v; the last switchover said:\n%s", s.leader(from), candidates, said)
	return ""
}
