package acceptance

import (
	"fmt"
	"testing"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// What pgha_host does to a host, and that it undoes it; what it finds wrong.
func TestHost(t *testing.T) {
	turn(t)
	cli.Binary(t)
	lab := labtest.New(t, labhost.Options{Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: []string{"h1"}}}})
	h1 := lab.Host("h1")
	s := &site{t: t, lab: lab, Dir: cli.New(t, nil, lab.Env()...)}
	ctx := t.Context()
	config := func(body string) {
		s.Write("main.tf", fmt.Sprintf(`terraform {
  required_providers {
    pgha = { source = "pgha/pgha" }
  }
}
resource "pgha_host" "h1" {
  name    = "h1"
  address = %q
  %s
}
`, h1.Addr, body))
	}
	// The host has no repository of its own: as in an air-gapped site, where
	// all comes from a folder.
	s.on("h1", "mkdir /root/apt && mv /etc/apt/sources.list.d/* /root/apt/ 2>/dev/null; if [ -e /etc/apt/sources.list ]; then mv /etc/apt/sources.list /root/apt/; fi; rm -rf /var/lib/apt/lists/*")
	s.on("h1", "cp -a /etc /root/etc.before")

	t.Run("findings", func(t *testing.T) {
		config(`preflight = { min_memory = "4TiB", min_cpus = 1000, min_disk = "100TiB" }`)
		o := s.TryApply(ctx)
		if o.Code == 0 {
			t.Fatal("a host that is too small was accepted")
		}
		has(t, o, "Unable to create host h1", "h1: found", "of memory; needed: at least 4096 GiB (preflight.min_memory)", "CPUs; needed: at least 1000", "free on", "Left as it is: everything on the host")
		if got := s.on("h1", "diff -r --no-dereference /etc /root/etc.before && echo same"); got != "same" {
			t.Errorf("a refused host was changed:\n%s", got)
		}
		config(`preflight = { min_memory = "4TiB", enforce = "warn" }`)
		has(t, s.Apply(ctx), "Warning: Host h1 is not as it should be", "preflight.min_memory")
		s.NoChanges(ctx)
		s.Destroy(ctx)
	})

	t.Run("a port in use", func(t *testing.T) {
		s.on("h1", "systemd-run -q --unit squatter python3 -c 'import socket,time; s=socket.create_server((\"\",5432)); time.sleep(1000)'; until ss -Htln 'sport = :5432' | grep -q .; do :; done")
		config("")
		has(t, s.TryApply(ctx), "port 5432 in use", "preflight.free_ports")
		s.on("h1", "systemctl stop squatter")
	})

	t.Run("a broken repository", func(t *testing.T) {
		config(`apt = { repositories = { pool = { uris = ["file:/nowhere"], suites = ["./"], trusted = true } } }`)
		o := s.TryApply(ctx)
		if o.Code == 0 {
			t.Fatal("a repository that is not there was accepted")
		}
		has(t, o, "Unable to create host h1", "Step: renew the package lists", "file:/nowhere")
	})

	t.Run("everything, and back", func(t *testing.T) {
		config(`apt = {
    repositories          = { pool = { uris = ["file:/pool/trixie"], suites = ["./"], trusted = true } }
    allow_expired_release = true
  }
  hosts_entries = { "db.example.test" = "10.1.2.3", "other" = "fd00::1" }
  sysctl        = { "net.ipv4.tcp_keepalive_time" = "301" }
  time_sync     = "chrony"`)
		before := s.on("h1", "sysctl -n net.ipv4.tcp_keepalive_time")
		s.Apply(ctx)
		s.NoChanges(ctx)
		s.on("h1", "apt-cache policy patroni | grep -q 'Candidate: 4' && getent hosts db.example.test | grep -q 10.1.2.3 && getent hosts other | grep -q fd00::1")
		s.on("h1", "dpkg -s chrony | grep -q 'ok installed' && test $(sysctl -n net.ipv4.tcp_keepalive_time) = 301")

		// Somebody else's lines in /etc/hosts stay.
		s.on("h1", "echo '10.9.9.9 theirs' >> /etc/hosts")
		config(`apt = { repositories = { pool = { uris = ["file:/pool/trixie"], suites = ["./"], trusted = true } } }
  hosts_entries = { "db.example.test" = "10.1.2.4" }
  time_sync     = "chrony"`)
		s.Apply(ctx)
		s.NoChanges(ctx)
		s.on("h1", "getent hosts theirs | grep -q 10.9.9.9 && getent hosts db.example.test | grep -q 10.1.2.4 && ! grep -q fd00::1 /etc/hosts")
		if got := s.on("h1", "sysctl -n net.ipv4.tcp_keepalive_time"); got != before {
			t.Errorf("a setting that is no longer wanted is %s, was %s", got, before)
		}

		s.Destroy(ctx)
		s.on("h1", "sed -i '/theirs/d' /etc/hosts")
		// What the packages chrony and tzdata leave behind when removed is theirs.
		got := s.on("h1", `diff -r --no-dereference /etc /root/etc.before | grep -vE 'chrony|^Only in /etc: (apparmor.d|dhcp|localtime|timezone|network|NetworkManager|ppp)$' |
			grep -vE '/etc/(passwd|group|shadow|gshadow|subuid|subgid|ld.so.cache)|^[<>0-9-]|^\\' || true`)
		if got != "" {
			t.Errorf("destroying left changes behind:\n%s", got)
		}
		s.on("h1", "test ! -e /etc/pgha && ! dpkg -s chrony 2>/dev/null | grep -q 'ok installed'")
	})
}
