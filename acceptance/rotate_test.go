package acceptance

import (
	"context"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// Passwords of a running cluster are changed, with a writer running: made ones,
// brought ones, and back; with applies that are killed after every step, and with
// a host that is off meanwhile. Nothing restarts and nobody else leads, the old
// passwords are refused, whoever has to connect again is let in, and no password
// is seen where it does not belong.
func TestRotation(t *testing.T) {
	turn(t)
	s := newSite(t, labhost.Warm, rotation(""), "pg1", "pg2", "pg3")
	rotationLife(t, s, true)
}

// rotation is a configuration with the given credentials. PostgreSQL logs every
// statement, so that one with a password in it would be seen.
func rotation(credentials string) settings {
	c := settings{Cluster: `synchronous_mode = "on"
  postgresql = { parameters = { log_statement = "all", log_min_duration_statement = "0" } }`}
	if credentials != "" {
		c.Cluster += "\n  credentials = { " + credentials + " }"
	}
	return c
}

func rotationLife(t *testing.T, s *site, long bool) {
	ctx := t.Context()
	all := []string{"pg1", "pg2", "pg3"}
	trace, progress := filepath.Join(t.TempDir(), "trace.log"), filepath.Join(t.TempDir(), "progress")
	s.Write("variables.tf", "variable \"brought\" {\n  type      = string\n  sensitive = true\n  ephemeral = true\n  default = null\n}\n")
	s.Apply(ctx)
	s.healthy("pg1", all...)
	s.sample(all...)
	s.Setenv("TF_LOG=TRACE", "TF_LOG_PATH="+trace, "PGHA_PROGRESS_FILE="+progress)
	w := s.write()
	started, leader := s.started(), s.leader("pg1")
	seen := map[string]string{}
	places := map[string]string{}

	// rotate applies credentials and checks what came of it.
	rotate := func(t *testing.T, credentials string, changes ...string) {
		t.Helper()
		before := s.passwords("pg1")
		s.configure(rotation(credentials))
		o := s.Run(ctx, "plan", "-no-color", "-out", "plan.bin")
		if o.Code != 0 {
			t.Fatal(o.Text)
		}
		has(t, o, append(changes, "Applying this changes passwords of main", "nothing restarts")...)
		places["the plan "+credentials] = o.Text + read(t, filepath.Join(s.Path, "plan.bin"))
		o = s.Run(ctx, "apply", "-no-color", "plan.bin")
		if o.Code != 0 {
			t.Fatal(o.Text)
		}
		places["the output "+credentials] = o.Text
		s.rotated(t, before, len(changes))
		s.NoChanges(ctx)
		for _, list := range []map[string]string{before, s.passwords("pg1")} {
			for what, password := range list {
				seen[what+" "+password[:6]] = password
			}
		}
	}

	t.Run("made", func(t *testing.T) {
		rotate(t, `rotation = 1`, "the superuser postgres: a new one is made", "replication (replicator): a new one is made", "pg_rewind (rewind_user): a new one is made",
			"Patroni's REST API (patroni): a new one is made", "the cluster's user in etcd: a new one is made")
	})
	t.Run("brought", func(t *testing.T) {
		s.Setenv("TF_VAR_brought=brought:in \\ 'once'")
		rotate(t, `rotation = 1, replication = { password_wo = var.brought, password_wo_version = 1 }, rest_api = { password_wo = var.brought, password_wo_version = 7 }`,
			"replication (replicator): the one in credentials.replication.password_wo", "Patroni's REST API (patroni): the one in credentials.rest_api.password_wo")
		if got := s.passwords("pg2")["replication"]; got != "brought:in \\ 'once'" {
			t.Errorf("the password for replication is %q", got)
		}
		seen["the brought one"] = "brought:in"
		s.Setenv("TF_VAR_brought=brought in twice")
		rotate(t, `rotation = 1, replication = { password_wo = var.brought, password_wo_version = 2 }, rest_api = { password_wo = var.brought, password_wo_version = 7 }`,
			"replication (replicator): the one in credentials.replication.password_wo")
		seen["the second brought one"] = "brought in twice"
	})
	t.Run("made again", func(t *testing.T) {
		rotate(t, `rotation = 1`, "replication (replicator): a new one is made", "Patroni's REST API (patroni): a new one is made")
		s.configure(rotation(`rotation = 0`))
		has(t, s.Plan(ctx), "passwords that were replaced do not come back")
	})

	if long {
		t.Run("killed after every step", func(t *testing.T) {
			before := s.passwords("pg1")
			s.configure(rotation(`rotation = 2`))
			k := &killer{site: s, t: t, seen: map[string]bool{}}
			k.until(ctx, "apply")
			k.went(t, "cluster.secrets.note", "cluster.secrets.etcd_user", "cluster.secrets.write", "cluster.secrets.roles", "cluster.secrets.reload", "cluster.secrets.mark", "cluster.secrets.etcd_drop")
			s.rotated(t, before, 5)
			s.NoChanges(ctx)
		})
	}

	if got := s.leader("pg1"); got != leader {
		t.Errorf("%s leads, %s led", got, leader)
	}
	if got := s.started(); !slices.Equal(got, started) {
		t.Errorf("a server was restarted: %v, before %v", got, started)
	}
	if n := w.Failed(); n > 0 {
		t.Errorf("%d writes failed", n)
	}
	t.Logf("longest gap between two rows: %s", w.LongestGap())
	w.Check(t)

	t.Run("secrets", func(t *testing.T) {
		places["the state"], places["the trace log"], places["the progress file"] = read(t, filepath.Join(s.Path, "terraform.tfstate")), read(t, trace), read(t, progress)
		for _, h := range all {
			places["the process list of "+h] = s.sampled(h)
			places["the journal of "+h] = s.on(h, "journalctl --no-pager -o cat")
		}
		if !strings.Contains(places["the journal of "+leader], "insert into written") {
			t.Error("PostgreSQL does not log its statements")
		}
		for place, text := range places {
			for what, secret := range seen {
				if strings.Contains(text, secret) {
					t.Errorf("%s has %s", place, what)
				}
			}
			if strings.Contains(text, "SCRAM-SHA-256$") || strings.Contains(strings.ToLower(text), "alter role") && strings.HasPrefix(place, "the journal") {
				t.Errorf("%s has a statement that sets a password", place)
			}
		}
		for _, h := range all {
			for path, mode := range map[string]string{
				"/etc/patroni/config.yml": "640:root:postgres", "/var/lib/postgresql/pgpass.patroni": "600:postgres:postgres", "/etc/pgha/patroni.json": "600:root:root",
			} {
				if got := s.on(h, "test ! -e "+path+" || stat -c %a:%U:%G "+path); got != mode && (got != "" || path == "/etc/patroni/config.yml") {
					t.Errorf("%s on %s is %s, not %s", path, h, got, mode)
				}
			}
			if got := s.on(h, "find /etc/patroni /etc/pgha /var/lib/postgresql -maxdepth 2 -name '.pgha.*' -o -maxdepth 2 -name '*.log'"); got != "" {
				t.Errorf("left on %s: %s", h, got)
			}
		}
	})
	if !long {
		return
	}

	t.Run("a host that is off meanwhile", func(t *testing.T) {
		down := s.others(leader)[0]
		before := s.passwords(leader)
		if err := s.lab.Kill(ctx, down); err != nil {
			t.Fatal(err)
		}
		changed := rotation(`rotation = 3`)
		changed.Provider = `on_unreachable = "keep"`
		s.configure(changed)
		s.eventually("the member's key to run out", 90*time.Second, func(context.Context) (bool, string) {
			_, there := s.members(leader)[down]
			return !there, "it is still there"
		})
		has(t, s.Apply(ctx), down+" still has the old passwords")
		if err := s.lab.Start(ctx, down); err != nil {
			t.Fatal(err)
		}
		s.configure(rotation(`rotation = 3`))
		s.eventually("the plan to say what the node lacks", 2*time.Minute, func(ctx context.Context) (bool, string) {
			o := s.Plan(ctx)
			return o.Code == 2 && o.Contains(down+": "), o.Text
		})
		s.Apply(ctx)
		s.healthy(leader, all...)
		s.rotated(t, before, 5)
		s.NoChanges(ctx)
	})

	t.Run("rewind with the new password", func(t *testing.T) { s.rewinds(t) })
}

// passwords are those in a node's file, by account.
func (s *site) passwords(host string) map[string]string {
	s.t.Helper()
	text := s.on(host, `python3 - <<'END'
import yaml
c = yaml.safe_load(open('/etc/patroni/config.yml'))
for k, v in c['postgresql']['authentication'].items(): print(k + '=' + v['password'])
print('rest_api=' + c['restapi']['authentication']['password'])
print('etcd=' + c['etcd3']['password'])
print('etcd_user=' + c['etcd3']['username'])
END`)
	list := map[string]string{}
	for line := range strings.Lines(text) {
		name, password, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		list[name] = password
	}
	if len(list) != 6 {
		s.t.Fatalf("passwords in the file: %d", len(list))
	}
	delete(list, "etcd_user")
	return list
}

// rotated checks that so many passwords are others now, everywhere; that the old
// ones are refused and the new ones not; and that replicas that have to connect
// again are let in.
func (s *site) rotated(t *testing.T, before map[string]string, changed int) {
	t.Helper()
	hosts := s.lab.Hosts()
	now := s.passwords(hosts[0].Name)
	var others []string
	for account := range before {
		if before[account] != now[account] {
			others = append(others, account)
		}
	}
	if len(others) != changed {
		t.Errorf("other passwords for %v, want %d", others, changed)
	}
	for _, h := range hosts {
		if got := s.passwords(h.Name); fmt.Sprint(got) != fmt.Sprint(now) {
			t.Errorf("%s has other passwords than %s", h.Name, hosts[0].Name)
		}
		for account, user := range map[string]string{"superuser": "postgres", "replication": "replicator", "rewind": "rewind_user"} {
			if s.logsIn(h.Addr, user, before[account]) != (before[account] == now[account]) {
				t.Errorf("%s: the old password of %s is let in: %v", h.Name, user, before[account] != now[account])
			}
			if !s.logsIn(h.Addr, user, now[account]) {
				t.Errorf("%s: the password of %s is refused", h.Name, user)
			}
		}
		rest := func(password string) string {
			// Encoded, since the command line that this makes is sampled as well.
			return s.on(h.Name, `python3 - <<'END'
import urllib.request, ssl, base64
r = urllib.request.Request('https://localhost:8008/config', data=b'{"nothing":null}', method='PATCH')
r.add_header('Authorization', 'Basic `+base64.StdEncoding.EncodeToString([]byte("patroni:"+password))+`')
try:
    print(urllib.request.urlopen(r, context=ssl._create_unverified_context()).status)
except urllib.error.HTTPError as e:
    print(e.code)
END`)
		}
		if got := rest(before["rest_api"]); got != "401" && before["rest_api"] != now["rest_api"] {
			t.Errorf("%s: the REST API answers the old password with %s", h.Name, got)
		}
		if got := rest(now["rest_api"]); got != "200" {
			t.Errorf("%s: the REST API answers the new password with %s", h.Name, got)
		}
	}
	if before["etcd"] != now["etcd"] {
		users := s.on(hosts[0].Name, `. /etc/default/etcd; ETCDCTL_API=3 ETCDCTL_USER="pgha:$(python3 -c 'import json; print(json.load(open("/etc/pgha/etcd/dcs/credentials.json"))["pgha"])')" etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/pgha/etcd/dcs/ca.crt --cert /etc/pgha/etcd/dcs/server.crt --key /etc/pgha/etcd/dcs/server.key user list`)
		if n := len(regexp.MustCompile(`(?m)^patroni\.main`).FindAllString(users, -1)); n != 1 {
			t.Errorf("users of etcd: %s", users)
		}
	}
	leader := s.leader(hosts[0].Name)
	for _, h := range s.others(leader) {
		s.on(h, "pkill -f 'postgres: .*walreceiver'")
	}
	s.healthy(leader, "pg1", "pg2", "pg3")
	for _, h := range s.others(leader) {
		s.eventually("the replica "+h+" to stream again", 30*time.Second, func(context.Context) (bool, string) {
			got := s.sql(h, "select count(*) from pg_stat_wal_receiver where status = 'streaming'")
			return got == "1", got
		})
	}
}

// logsIn reports whether a password lets a user in over the network.
func (s *site) logsIn(addr, user, password string) bool {
	s.t.Helper()
	c := s.writerConfig()
	c.Hosts, c.User, c.Password = []string{addr}, user, password
	parameters := map[string]string{}
	if user == "replicator" {
		parameters["replication"] = "true"
	}
	conn, err := writer.ConnectTo(s.t.Context(), c, parameters)
	if err == nil {
		_ = conn.Close(s.t.Context())
		return true
	}
	if !strings.Contains(err.Error(), "password authentication failed") {
		s.t.Errorf("%s at %s: %v", user, addr, err)
	}
	return false
}

// sample has hosts keep the command lines of all processes, several times a
// second, from now on.
func (s *site) sample(hosts ...string) {
	s.t.Helper()
	for _, h := range hosts {
		s.on(h, `cat > /run/sample.sh <<'END'
while :; do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' ' ' >> /run/cmdlines; sleep 0.02; done
END
systemd-run -q --unit sample sh /run/sample.sh`)
	}
}

// sampled ends that and returns what was seen.
func (s *site) sampled(host string) string {
	s.t.Helper()
	s.on(host, "systemctl stop sample")
	lines := s.on(host, "cat /run/cmdlines")
	if !strings.Contains(lines, "psql") && !strings.Contains(lines, "patroni") {
		s.t.Errorf("no command was sampled on %s", host)
	}
	return lines
}

// rewinds makes the leader write what nobody else has, ends it, and sees it come
// back by pg_rewind, which logs in with a password.
func (s *site) rewinds(t *testing.T) {
	ctx := t.Context()
	changed := rotation(`rotation = 3`)
	changed.Cluster = strings.Replace(changed.Cluster, `synchronous_mode = "on"`, `synchronous_mode = "off"`, 1)
	s.configure(changed)
	s.Apply(ctx)
	old := s.leader("pg1")
	for _, h := range s.others(old) {
		s.on(h, "pkill -STOP -f 'postgres: .*walreceiver'")
	}
	// Less than maximum_lag_on_failover: with more, nobody may take over.
	s.sql(old, "create table only_here as select generate_series(1, 1000)")
	s.on(old, "systemctl kill -s KILL --kill-whom=all patroni; systemctl stop patroni; while pgrep -x postgres; do sleep 0.1; done >/dev/null")
	for _, h := range s.others(old) {
		s.on(h, "pkill -CONT -f 'postgres: .*walreceiver' || true")
	}
	kept := s.others(old)
	s.eventually("another leader", 90*time.Second, func(context.Context) (bool, string) {
		l := s.leader(kept[0])
		return l != "" && l != old, "the leader is " + l
	})
	s.on(old, "systemctl start patroni")
	s.healthy(kept[0], "pg1", "pg2", "pg3")
	if got := s.on(old, "journalctl -u patroni --no-pager -o cat --since -3min | grep -c 'running pg_rewind' || true"); got == "0" {
		t.Error("nothing was rewound: the test shows nothing")
	}
	if got := s.sql(old, "select count(*) from pg_class where relname = 'only_here'"); got != "0" {
		t.Error("what only the old leader had is still there")
	}
	s.configure(rotation(`rotation = 3`))
	s.Apply(ctx)
	s.NoChanges(ctx)
}
