package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// A cluster on hosts that have no IPv4 address, with a writer that reaches it
// by IPv6, from the first contact to the last: it is made, changed, repaired,
// hands over, loses etcd for a while, and goes.
func TestIPv6Only(t *testing.T) {
	turn(t)
	cli.Binary(t)
	base := settings{
		Purge:    true,
		Cluster:  `postgresql = { parameters = { work_mem = "8MB" } }`,
		Networks: []string{"samenet", "fd77::/16"},
	}
	s := newSiteIn(t, labhost.Options{
		Image: labhost.Warm, IPv6Only: true, Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: []string{"pg1", "pg2", "pg3"}}},
	}, base)
	ctx := t.Context()
	all := []string{"pg1", "pg2", "pg3"}
	for _, h := range all {
		if v4 := s.on(h, "ip -4 -o address show scope global"); v4 != "" {
			t.Fatalf("%s has an IPv4 address: %s", h, v4)
		}
	}
	s.Apply(ctx)
	s.healthy("pg1", all...)
	s.NoChanges(ctx)
	w := s.write()

	t.Run("who is where", func(t *testing.T) {
		members := s.members("pg1")
		for _, h := range all {
			if at := s.lab.Host(h).Addr; !strings.Contains(at, ":") || !strings.Contains(members[h].Host, at) {
				t.Errorf("%s is at %q for Patroni, and at %s", h, members[h].Host, at)
			}
		}
		if n := s.sql(s.leader("pg1"), "select count(*) from pg_stat_replication where family(client_addr) = 6 and state = 'streaming'"); n != "2" {
			t.Errorf("%s replicas stream by IPv6", n)
		}
	})

	t.Run("a changed parameter and a broken file", func(t *testing.T) {
		base.Cluster = strings.Replace(base.Cluster, "8MB", "16MB", 1)
		base.Node = `tags = { custom = { place = "here" } }`
		s.configure(base)
		s.on("pg2", "echo '# by hand' >>/etc/patroni/config.yml")
		s.Apply(ctx)
		for _, h := range all {
			if got := s.sql(h, "show work_mem"); got != "16MB" {
				t.Errorf("work_mem on %s is %s", h, got)
			}
		}
		s.NoChanges(ctx)
	})

	t.Run("the leader leaves and comes back", func(t *testing.T) {
		leader := s.leader("pg1")
		kept := s.others(leader)
		s.dropNode(leader)
		s.Apply(ctx)
		s.healthy(kept[0], kept...)
		s.configure(base)
		s.Apply(ctx)
		s.healthy(kept[0], all...)
	})

	t.Run("etcd goes, and the primary stays", func(t *testing.T) {
		base.Cluster += "\n  failsafe_mode = true\n  rest_api_allowlist = [\"fd77::/16\"]"
		s.configure(base)
		s.Apply(ctx)
		leader := s.leader("pg1")
		const asks = `python3 -c 'import ssl, urllib.request as u; print(u.urlopen("https://localhost:8008/patroni", context=ssl._create_unverified_context()).read().decode())'`
		for _, h := range all {
			s.on(h, "systemctl stop etcd")
		}
		// Longer than the leader's key would have lived, in Patroni's own words.
		s.eventually("a primary that has not seen etcd for 40 s", 2*time.Minute, func(ctx context.Context) (bool, string) {
			out, err := s.lab.SSH(ctx, leader, asks)
			var st struct {
				Role     string
				Failsafe bool  `json:"failsafe_mode_is_active"`
				Seen     int64 `json:"dcs_last_seen"`
			}
			if err != nil || json.Unmarshal([]byte(out), &st) != nil {
				return false, fmt.Sprint(out, err)
			}
			if st.Role != "primary" && st.Role != "master" {
				t.Fatalf("the leader is no longer the primary: %s", out)
			}
			return st.Failsafe && time.Since(time.Unix(st.Seen, 0)) > 40*time.Second, out
		})
		s.sql(leader, "create table while_etcd_was_down ()")
		for _, h := range all {
			s.on(h, "systemctl start --no-block etcd")
		}
		s.eventually("the same leader", time.Minute, func(context.Context) (bool, string) {
			out, err := s.lab.SSH(ctx, leader, asks)
			return err == nil && !strings.Contains(out, "failsafe_mode_is_active"), out
		})
		s.healthy("pg1", all...)
		if now := s.leader("pg1"); now != leader {
			t.Errorf("%s leads, not %s", now, leader)
		}
		s.NoChanges(ctx)
	})

	t.Run("connection strings", func(t *testing.T) {
		var addresses []string
		for _, h := range all {
			addresses = append(addresses, s.lab.Host(h).Addr)
		}
		s.Write("strings.tf", fmt.Sprintf(`output "conninfo" { value = provider::pgha::conninfo(["%s"], "postgres", "read-write", "sslmode=verify-full", "sslrootcert=/etc/pgha/patroni/main/ca.crt", "user=app") }
output "jdbc" { value = provider::pgha::jdbc_url(["%s"], "postgres", "read-write") }
`, strings.Join(addresses, `", "`), strings.Join(addresses, `", "`)))
		s.Apply(ctx)
		s.NoChanges(ctx)
		var conninfo, jdbc string
		s.Outputs(ctx, "conninfo", &conninfo)
		s.Outputs(ctx, "jdbc", &jdbc)
		// From a host, as a client with the certificate of the authority would.
		got := s.on("pg1", "cd /; PGPASSWORD=app-password psql -XAtqc "+quote("select family(inet_server_addr()), pg_is_in_recovery()")+" "+quote(conninfo))
		if got != "6|f" {
			t.Errorf("%q leads to %q", conninfo, got)
		}
		if want := "//[" + strings.Join(addresses, "]:5432,[") + "]:5432/postgres?"; !strings.Contains(jdbc, want) {
			t.Errorf("%s does not have %s", jdbc, want)
		}
	})

	w.Check(t)
	s.Destroy(ctx)
	for _, h := range all {
		s.on(h, "test ! -e /etc/pgha && ! systemctl is-active -q patroni etcd")
	}
}
