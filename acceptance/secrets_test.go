package acceptance

import (
	"archive/zip"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// On bare hosts: nothing that the cluster keeps secret is in the state, the plan
// file, the most verbose log, the progress file or any process list, and what
// is installed is exactly what was asked for.
func TestBareAndSecrets(t *testing.T) {
	turn(t)
	trace := filepath.Join(t.TempDir(), "trace.log")
	progress := filepath.Join(t.TempDir(), "progress.jsonl")
	s := newSite(t, labhost.Bare, settings{
		Provider: `progress_file = "` + progress + `"`,
		Cluster:  `credentials = { rewind = { password_wo = var.brought, password_wo_version = 1 } }`,
		Purge:    true,
	}, "pg1", "pg2", "pg3")
	const brought = "brought-in-password-1"
	s.Write("variables.tf", "variable \"brought\" {\n  type      = string\n  sensitive = true\n  ephemeral = true\n}\n")
	s.Provider("hashicorp/sql", "acceptance/sqlprovider") // what a provider "sql" is without required_providers
	s.Write("other.tf", anotherProvider)
	s.Setenv("TF_VAR_brought="+brought, "TF_LOG=TRACE", "TF_LOG_PATH="+trace)
	ctx := t.Context()

	s.sample("pg1", "pg2", "pg3")

	if o := s.Run(ctx, "plan", "-no-color", "-out", "plan.bin"); o.Code != 0 {
		t.Fatal(o.Text)
	}
	if o := s.Run(ctx, "apply", "-no-color", "plan.bin"); o.Code != 0 {
		t.Fatal(o.Text)
	}
	s.healthy("pg1", "pg1", "pg2", "pg3")
	s.NoChanges(ctx)
	// The other provider was opened the cluster in the very apply that made it.
	var answer string
	if s.Outputs(ctx, "answer", &answer); answer != "postgres on pg1" {
		t.Errorf("the other provider found %q", answer)
	}

	secrets := map[string]string{"the brought password": brought}
	passwords := regexp.MustCompile(`password: (\S+)`)
	for _, m := range passwords.FindAllStringSubmatch(s.on("pg1", "cat /etc/patroni/config.yml"), -1) {
		secrets["a password in config.yml"+m[1][:4]] = m[1]
	}
	for i, m := range regexp.MustCompile(`"[a-z]+":"([^"]+)"`).FindAllStringSubmatch(s.on("pg1", "cat /etc/pgha/etcd/dcs/credentials.json"), -1) {
		secrets["a password in credentials.json"+string(rune('0'+i))] = m[1]
	}
	if len(secrets) < 7 {
		t.Fatalf("only %d secrets were found: the test does not look where it should", len(secrets))
	}
	for _, key := range []string{"/etc/pgha/ca/etcd-dcs/ca.key", "/etc/pgha/ca/patroni-main/ca.key", "/etc/pgha/patroni/main/node.key", "/etc/pgha/etcd/dcs/peer.key"} {
		pem := s.on("pg1", "cat "+key)
		secrets[key] = strings.Split(pem, "\n")[1]
	}

	places := map[string]string{"the state": read(t, filepath.Join(s.Path, "terraform.tfstate")), "the trace log": read(t, trace), "the progress file": read(t, progress)}
	archive, err := zip.OpenReader(filepath.Join(s.Path, "plan.bin"))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	for _, f := range archive.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		places["the plan file, "+f.Name] = string(b)
	}
	for _, h := range []string{"pg1", "pg2", "pg3"} {
		lines := s.sampled(h) + s.on(h, "journalctl --no-pager -o cat")
		if !strings.Contains(lines, "apt-get") {
			t.Errorf("no command of ours was sampled on %s", h)
		}
		places["the process list and the journal of "+h] = lines
	}
	for place, text := range places {
		for what, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %s", place, what)
			}
		}
	}
	if !strings.Contains(places["the progress file"], `"step":"patroni.form"`) {
		t.Error("the progress file does not tell of the steps")
	}

	for _, h := range []string{"pg1", "pg2", "pg3"} {
		got := s.on(h, "dpkg-query -W -f '${db:Status-Abbrev}${Package} ${Version}\n' etcd-server etcd-client postgresql-17 postgresql-client-17 patroni")
		for _, pkg := range []string{"etcd-server", "etcd-client", "postgresql-17", "postgresql-client-17", "patroni"} {
			want := "hi " + pkg + " " + s.oldest(pkg)
			if !strings.Contains(got, want) {
				t.Errorf("on %s %q is missing:\n%s", h, want, got)
			}
		}
		s.on(h, "test ! -e /usr/sbin/policy-rc.d && test ! -e /etc/postgresql/17 && test ! -e /var/lib/etcd/default")
		for path, mode := range map[string]string{
			"/etc/pgha/ca/etcd-dcs": "700:root:root", "/etc/pgha/ca/etcd-dcs/ca.key": "600:root:root", "/etc/pgha/ca/patroni-main/ca.key": "600:root:root",
			"/etc/pgha/etcd/dcs/credentials.json": "600:root:root", "/etc/pgha/etcd/dcs/peer.key": "640:root:etcd", "/etc/pgha/etcd/dcs/server.key": "640:root:etcd",
			"/etc/pgha/patroni/main/node.key": "640:root:postgres", "/etc/pgha/patroni/main/etcd.key": "640:root:postgres",
			"/etc/patroni/config.yml": "640:root:postgres", "/var/lib/postgresql/17/main": "700:postgres:postgres",
		} {
			if got := s.on(h, "stat -c %a:%U:%G "+path); got != mode {
				t.Errorf("%s on %s is %s, not %s", path, h, got, mode)
			}
		}
	}
	s.Destroy(ctx)
}

// anotherProvider is configured with what pgha_credentials opens.
const anotherProvider = `ephemeral "pgha_credentials" "main" { cluster = pgha_patroni_cluster.main.membership }
provider "sql" {
  host     = local.hosts["pg1"]
  user     = ephemeral.pgha_credentials.main.superuser.username
  password = ephemeral.pgha_credentials.main.superuser.password
  ca       = pgha_patroni_cluster.main.ca_certificate
}
data "sql_query" "who" {
  statement  = "select current_user || ' on pg1' where inet_server_addr() is not null"
  depends_on = [pgha_patroni_node.pg1, pgha_patroni_node.pg2, pgha_patroni_node.pg3]
}
output "answer" { value = data.sql_query.who.value }
`

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
