package acceptance

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// Nodes leave, the leader among them, and come back, while rows are written;
// and who is not allowed to change anything is not.
func TestNodesLeave(t *testing.T) {
	turn(t)
	base := settings{Cluster: `synchronous_mode = "on"`}
	s := newSite(t, labhost.Warm, base, "pg1", "pg2", "pg3")
	s.Write("connect.tf", `output "conninfo" {
  value = provider::pgha::conninfo(values(local.hosts), "postgres", "read-write", "user=app", "sslmode=verify-full")
}
`)
	ctx := t.Context()
	s.Apply(ctx)
	s.healthy("pg1", "pg1", "pg2", "pg3")
	w := s.write()

	t.Run("conninfo finds the leader", func(t *testing.T) { s.conninfo(t) })
	t.Run("strangers", func(t *testing.T) { s.strangers(t) })

	leader := s.leader("pg1")
	kept := s.others(leader)
	t.Run("the leader leaves", func(t *testing.T) {
		s.configure(base)
		s.dropNode(leader)
		plan := s.Plan(ctx)
		has(t, plan, leader+" is the leader now", "switched over to it first", "The data in /var/lib/postgresql/17/main stays", "0 to add, 0 to change, 1 to destroy")
		s.Apply(ctx)
		s.healthy(kept[0], kept...)
		if gap := w.LongestGap(); gap > 5*time.Second {
			t.Errorf("nothing could be written for %s", gap)
		}
		slots := s.sql(s.leader(kept[0]), "select string_agg(slot_name, ',') from pg_replication_slots")
		if strings.Contains(slots, leader) {
			t.Errorf("the slot of the removed member is still there: %s", slots)
		}
		if got := s.on(kept[0], "patronictl -c /etc/patroni/config.yml show-config"); strings.Contains(got, "member_slots_ttl") {
			t.Errorf("a setting that was changed for a moment is still there:\n%s", got)
		}
		s.on(leader, "! systemctl is-active -q patroni && ! pgrep -x postgres && test -e /var/lib/postgresql/17/main/PG_VERSION")
		s.NoChanges(ctx)
	})

	t.Run("and comes back", func(t *testing.T) {
		s.configure(base)
		s.Apply(ctx)
		s.healthy(kept[0], "pg1", "pg2", "pg3")
		s.NoChanges(ctx)
	})

	t.Run("the last one stays", func(t *testing.T) {
		protected := base
		protected.Protect = true
		s.configure(protected)
		s.Apply(ctx)
		for _, h := range []string{"pg1", "pg2", "pg3"} {
			s.dropNode(h)
		}
		o := s.TryApply(ctx)
		if o.Code == 0 {
			t.Error("the last node of a protected cluster was destroyed")
		}
		has(t, o, "is the last node of the cluster main, and the cluster is protected from deletion")
		s.configure(protected)
		s.Apply(ctx)
		s.healthy("pg1", "pg1", "pg2", "pg3")
		s.configure(base)
		s.Apply(ctx)
	})
	w.Check(t)
}

// dropNode takes a node out of the configuration as it was last written.
func (s *site) dropNode(name string) {
	s.t.Helper()
	text := read(s.t, s.Path+"/main.tf")
	from := strings.Index(text, `resource "pgha_patroni_node" "`+name+`"`)
	if from < 0 {
		s.t.Fatalf("there is no node %s in the configuration", name)
	}
	to := from + strings.Index(text[from:], "\n}\n") + 3
	s.Write("main.tf", text[:from]+text[to:])
}

// conninfo connects with what the function returns, checking the certificate.
func (s *site) conninfo(t *testing.T) {
	var text, ca string
	s.Outputs(t.Context(), "conninfo", &text)
	s.Outputs(t.Context(), "ca", &ca)
	s.Write("ca.pem", ca)
	conn, err := pgx.Connect(t.Context(), text+" password=app-password sslrootcert="+s.Path+"/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var standby bool
	var address string
	if err := conn.QueryRow(t.Context(), "select pg_is_in_recovery(), host(inet_server_addr())").Scan(&standby, &address); err != nil {
		t.Fatal(err)
	}
	if leader := s.lab.Host(s.leader("pg1")).Addr; standby || address != leader {
		t.Errorf("connected to %s (standby: %v), the leader is %s", address, standby, leader)
	}
}

// strangers cannot change the configuration, log in without a password or TLS,
// read etcd, or join it.
func (s *site) strangers(t *testing.T) {
	pg1 := s.lab.Host("pg1").Addr
	for what, c := range map[string]struct{ command, want string }{
		"the REST API without a password":         {`curl -sk -o /dev/null -w '%{http_code}' -X PATCH -d '{"ttl":20}' https://` + pg1 + `:8008/config`, "401"},
		"the REST API with a wrong password":      {`curl -sk -o /dev/null -w '%{http_code}' -u patroni:wrong -X PATCH -d '{"ttl":20}' https://` + pg1 + `:8008/config`, "401"},
		"the REST API in the clear":               {`curl -s -o /dev/null -w '%{http_code}' http://` + pg1 + `:8008/patroni || true`, "000"},
		"etcd without a certificate":              {`curl -sk -o /dev/null -w '%{http_code}' https://` + pg1 + `:2379/version || true`, "000"},
		"etcd's keys with a node's certificate":   {`curl -s -o /dev/null -w '%{http_code}' --cacert /etc/pgha/patroni/main/etcd-ca.crt --cert /etc/pgha/patroni/main/etcd.crt --key /etc/pgha/patroni/main/etcd.key -X POST -d '{"key":"L3BnaGE="}' https://` + pg1 + `:2379/v3/kv/range`, "400"},
		"the peer port with a node's certificate": {`curl -s -o /dev/null -w '%{http_code}' --cacert /etc/pgha/patroni/main/etcd-ca.crt --cert /etc/pgha/patroni/main/etcd.crt --key /etc/pgha/patroni/main/etcd.key https://` + pg1 + `:2380/members || true`, "000"},
		"the provider's keys as Patroni's user": {`. /dev/stdin <<'END'
user=$(sed -n '/^etcd3:/,/^[a-z]/s/ *username: //p' /etc/patroni/config.yml); pass=$(sed -n '/^etcd3:/,/^[a-z]/s/ *password: //p' /etc/patroni/config.yml)
END
ETCDCTL_API=3 ETCDCTL_USER=$user:$pass etcdctl --endpoints https://` + pg1 + `:2379 --cacert /etc/pgha/patroni/main/etcd-ca.crt --cert /etc/pgha/patroni/main/etcd.crt --key /etc/pgha/patroni/main/etcd.key get --prefix /pgha/ 2>&1 | grep -o 'permission denied' | head -n 1`, "permission denied"},
		"PostgreSQL without TLS":      {`PGPASSWORD=app-password psql -XAtc 'select 1' 'host=` + pg1 + ` user=app dbname=postgres sslmode=disable' 2>&1 | grep -o 'no pg_hba.conf entry' || true`, "no pg_hba.conf entry"},
		"PostgreSQL without password": {`psql -wXAtc 'select 1' 'host=` + pg1 + ` user=app dbname=postgres' 2>&1 | grep -o 'no password supplied' || true`, "no password supplied"},
	} {
		if got := s.on("pg2", "command -v curl >/dev/null || apt-get -qq install -y curl >/dev/null 2>&1; "+c.command); got != c.want {
			t.Errorf("%s: %q, expected %q", what, got, c.want)
		}
	}
}
