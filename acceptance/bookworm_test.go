package acceptance

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// Debian 12 with the versions it came with: PostgreSQL 15, Patroni 3.0.2 and
// etcd 3.4, whose REST API, validator and member keys say less than later ones.
func TestBookworm(t *testing.T) {
	turn(t)
	base := settings{Cluster: `synchronous_mode = "on"
  postgresql = { parameters = { work_mem = "8MB" } }`}
	s := newSiteIn(t, labhost.Options{
		Release: "bookworm", Image: labhost.Warm, Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: []string{"pg1", "pg2", "pg3"}}},
	}, base)
	ctx := t.Context()
	all := []string{"pg1", "pg2", "pg3"}
	s.Apply(ctx)
	s.healthy("pg1", all...)
	s.NoChanges(ctx)
	w := s.write()

	t.Run("what etcd and Patroni cannot do", func(t *testing.T) {
		c := base
		c.EtcdVersion = s.newest("etcd-server")
		for _, refused := range []struct {
			settings
			says []string
		}{
			{c, []string{"cannot be brought to version", "members of 3.4 and 3.5 do not understand each other's log", "the order that works"}},
			{settings{Cluster: base.Cluster, Etcd: "auth = false"}, []string{"Authentication of etcd cluster dcs cannot be changed now", "main/pg1 runs 3.0.2"}},
		} {
			s.configure(refused.settings)
			o := s.Plan(ctx)
			if o.Code != 1 {
				t.Errorf("it is planned: exit status %d", o.Code)
			}
			has(t, o, refused.says...)
		}
		s.configure(base)
	})

	t.Run("a changed parameter", func(t *testing.T) {
		changed := base
		changed.Cluster = `synchronous_mode = "on"
  postgresql = { parameters = { work_mem = "16MB" } }`
		s.configure(changed)
		has(t, s.Plan(ctx), "reload")
		s.Apply(ctx)
		for _, h := range all {
			if got := s.sql(h, "show work_mem"); got != "16MB" {
				t.Errorf("work_mem on %s is %s", h, got)
			}
		}
		s.NoChanges(ctx)
		base = changed
	})

	t.Run("drift", func(t *testing.T) {
		s.on("pg2", "echo '# by hand' >>/etc/patroni/config.yml")
		s.on("pg3", "systemctl stop patroni")
		has(t, s.Plan(ctx), "/etc/patroni/config.yml", "pg3: start Patroni")
		s.Apply(ctx)
		s.healthy("pg1", all...)
		s.NoChanges(ctx)
	})

	t.Run("a host with another release", func(t *testing.T) {
		newer := labtest.New(t, labhost.Options{
			Name: fmt.Sprintf("t%d-newer", os.Getpid()), Release: "trixie", Image: labhost.Warm, Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: []string{"pg4"}}},
		})
		// One key opens the hosts of both labs, and one file knows them.
		key := read(t, s.lab.Dir+"/id_ed25519")
		signer, err := ssh.ParsePrivateKey([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newer.SSH(ctx, "pg4", "echo "+quote(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))))+" >>/root/.ssh/authorized_keys"); err != nil {
			t.Fatal(err)
		}
		s.Write("known_hosts", read(t, s.lab.KnownHostsFile)+read(t, newer.KnownHostsFile))
		mixed := base
		mixed.Addresses = map[string]string{"pg4": newer.Host("pg4").Addr}
		for _, h := range all {
			mixed.Addresses[h] = s.lab.Host(h).Addr
		}
		mixed.EtcdOn = all
		s.configure(mixed)
		s.Setenv("PGHA_SSH_KNOWN_HOSTS_FILE=" + s.Path + "/known_hosts")
		before, err := newer.SSH(ctx, "pg4", "dpkg -l | sha256sum; find /etc -newer /etc/machine-id -type f | sort")
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range []cli.Output{s.Plan(ctx), s.TryApply(ctx)} {
			if o.Code != 1 {
				t.Errorf("it ended with %d:\n%s", o.Code, o.Text)
			}
			has(t, o, "Node pg4 does not fit into the cluster main", `this host runs Debian "trixie" and node "pg1" runs "bookworm"`, "sort text differently", "use one release of Debian for all nodes of a cluster")
		}
		if after, err := newer.SSH(ctx, "pg4", "dpkg -l | sha256sum; find /etc -newer /etc/machine-id -type f | sort"); err != nil || after != before {
			t.Errorf("the host was changed (%v):\n%s\nbefore:\n%s", err, after, before)
		}
		s.configure(base)
		s.NoChanges(ctx)
	})

	t.Run("passwords", func(t *testing.T) {
		before, started, failed := s.passwords("pg1"), s.started(), w.Failed()
		changed := base
		changed.Cluster += "\n  credentials = { rotation = 1 }"
		s.configure(changed)
		has(t, s.Plan(ctx), "Applying this changes passwords of main")
		s.Apply(ctx)
		s.rotated(t, before, 5)
		s.NoChanges(ctx)
		if got := s.started(); !slices.Equal(got, started) {
			t.Errorf("a server was restarted: %v, before %v", got, started)
		}
		if n := w.Failed() - failed; n > 0 {
			t.Errorf("%d writes failed", n)
		}
		t.Logf("longest gap between two rows: %s", w.LongestGap())
		base = changed
	})

	t.Run("the leader leaves and comes back", func(t *testing.T) {
		leader := s.leader("pg1")
		kept := s.others(leader)
		s.dropNode(leader)
		s.Apply(ctx)
		s.healthy(kept[0], kept...)
		if gap := w.LongestGap(); gap > 10*time.Second {
			t.Errorf("nothing could be written for %s", gap)
		}
		s.configure(base)
		s.Apply(ctx)
		s.healthy(kept[0], all...)
		s.NoChanges(ctx)
	})

	w.Check(t)
	base.Purge = true
	s.configure(base)
	s.Apply(ctx)
	s.Destroy(ctx)
}
