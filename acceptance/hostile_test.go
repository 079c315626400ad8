package acceptance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// hcl is a text as it is written in a configuration.
func hcl(text string) string {
	text = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "${", "$${", "%{", "%%{").Replace(text)
	return `"` + text + `"`
}

func hclMap(m map[string]string) string {
	var b strings.Builder
	b.WriteString("{\n")
	for _, k := range slices.Sorted(maps.Keys(m)) {
		b.WriteString("  " + hcl(k) + " = " + hcl(m[k]) + "\n")
	}
	return b.String() + "}"
}

func hclList(l []string) string {
	var q []string
	for _, e := range l {
		q = append(q, hcl(e))
	}
	return "[" + strings.Join(q, ", ") + "]"
}

// Every text that is legal arrives as it was written, whatever it would mean to a
// shell, to YAML, to SQL or to Terraform on the way: read back from PostgreSQL, from
// Patroni and from what it calls. Names are as long as they may be. What cannot be
// carried is refused before anything is contacted (TestRefused).
func TestHostileValues(t *testing.T) {
	turn(t)
	cli.Binary(t)
	const (
		hostile = `it's a "test"; $(touch /tmp/pwned) ` + "`touch /tmp/pwned`" + ` ${HOME} %{x} \n\\ üñ€😀 & | > < * ? # !`
		dir     = `/srv/it's a data (dir) & more; #1 *? {ü€😀} %p ~`
		db      = `it's a $(db) ü \`
	)
	long := func(first, filler string) string { return (first + strings.Repeat(filler, 63))[:62] + "9" }
	etcdName, scope := long("E", "tcd.A_b-"), long("S", "cope-B_a.")
	names := []string{long("N", "ode.a_B-"), long("M", "ember-")}
	lab := labtest.New(t, labhost.Options{Image: labhost.Warm, Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: []string{"pg1", "pg2"}}}})
	s := &site{t: t, lab: lab, Dir: cli.New(t, nil, lab.Env()...)}
	ctx := t.Context()

	parameters := map[string]string{
		"log_line_prefix": "%m [%p] " + hostile, "archive_command": "false " + hostile, "search_path": `"$user", "odd "" $(x) 'schema' ü", public`,
		"hostile.own": "  " + hostile + " \ttab and a backslash at the end  \\", "archive_mode": "on", "wal_level": "logical", "max_connections": "50", "work_mem": "8 MB",
	}
	passwords := map[string]string{
		"superuser": hostile[:strings.Index(hostile, " ü")], "replication": "", "rewind": `  '"$(x)\  `, "rest_api": `:a:@/?#[]!$&'()*+,;= %41 \"`,
	}
	for c := ' '; c <= '~'; c++ {
		passwords["replication"] += string(c)
	}
	tags := map[string]string{"note": hostile, "two lines": "a\nb: c\n", "yes": "no", `odd "key"': $(x) ü`: "0x10", "empty": ""}
	hba := []string{
		"local all all peer", "hostssl replication replicator samenet scram-sha-256", "hostssl replication replicator samehost scram-sha-256",
		`hostssl "` + db + `" "some user's $(x) ü" 10.0.0.0/8 scram-sha-256`, "hostssl all all samenet scram-sha-256", "hostssl all all 10.0.0.0/8 scram-sha-256",
	}
	ident := []string{`odd "some user's $(x) ü \" postgres`, `odd /^(.*)@exämple\.test$ \1`}
	restore := "false " + strings.ReplaceAll(hostile, "%", "%%") + " %f %p"
	// Patroni splits commands as a POSIX shell does, and calls no shell.
	callback := `/usr/local/bin/note 'it'"'"'s' "a \"test\"" '$(touch /tmp/pwned)' 'üñ€😀' "\\"`

	credentials := ""
	for account, password := range passwords {
		credentials += fmt.Sprintf("%s = { password_wo = var.%s, password_wo_version = 1 }\n", account, account)
		s.Write("variable_"+account+".tf", fmt.Sprintf("variable %q {\n  type      = string\n  ephemeral = true\n}\n", account))
		s.Setenv("TF_VAR_" + account + "=" + password)
	}
	config := func(slots string) {
		var b strings.Builder
		b.WriteString("terraform {\n  required_providers {\n    pgha = { source = \"pgha/pgha\" }\n  }\n}\nprovider \"pgha\" {}\n")
		for i, name := range names {
			fmt.Fprintf(&b, `resource "pgha_host" "h%d" {
  name          = %s
  address       = %q
  time_sync     = "off"
  preflight     = { disk_path = %s }
}
resource "pgha_patroni_node" "n%d" {
  cluster        = pgha_patroni_cluster.c.membership
  host           = pgha_host.h%d.access
  name           = %s
  versions       = { postgresql = %q, patroni = %q }
  data_directory = %s
  tags           = { custom = %s }
  on_destroy     = "purge"
}
`, i, hcl(name), lab.Hosts()[i].Addr, hcl(dir), i, i, hcl(name), s.oldest(s.server()), s.oldest("patroni"), hcl(dir), hclMap(tags))
		}
		fmt.Fprintf(&b, `resource "pgha_etcd_cluster" "e" {
  name                = %s
  version             = %q
  members             = { %s = { host = pgha_host.h0.access } }
  deletion_protection = false
  on_destroy          = "purge"
}
resource "pgha_patroni_cluster" "c" {
  scope               = %s
  namespace           = "/a-_B/9/"
  etcd                = pgha_etcd_cluster.e.access
  deletion_protection = false
  on_destroy          = "purge"
  postgresql = {
    parameters             = %s
    pg_hba                 = %s
    pg_ident               = %s
    callbacks              = { on_reload = %s, on_start = %s }
    recovery_conf          = { restore_command = %s }
    create_replica_methods = ["odd", "basebackup"]
    replica_methods        = { odd = { command = %s, no_params = true } }
  }
  ignore_slots = [{ name = %s, database = %s }]
  %s
  credentials = { %s }
}
output "ca" { value = pgha_patroni_cluster.c.ca_certificate }
`, hcl(etcdName), s.oldest("etcd-server"), hcl(names[0]), hcl(scope), hclMap(parameters), hclList(hba), hclList(ident), hcl(callback), hcl(callback),
			hcl(restore), hcl("/bin/false "+callback), hcl(hostile), hcl(db), slots, credentials)
		s.Write("main.tf", b.String())
	}
	for _, h := range []string{"pg1", "pg2"} {
		s.on(h, `printf '#!/bin/sh\nprintf "[%%s]" "$@" >>/tmp/args\necho >>/tmp/args\n' >/usr/local/bin/note && chmod +x /usr/local/bin/note`)
	}
	config("")
	s.Apply(ctx)
	s.healthy("pg1", "pg1", "pg2")
	s.NoChanges(ctx)
	leader := "pg1"
	if s.sql("pg1", "select pg_is_in_recovery()") == "t" {
		leader = "pg2"
	}
	replica := s.others(leader)[0]
	s.sql(leader, `create database "`+db+`"`)
	config("slots = { odd = { type = \"logical\", database = " + hcl(db) + ", plugin = \"pgoutput\" } }")
	s.Apply(ctx)
	s.NoChanges(ctx)
	// Patroni stops a replica for a moment to copy the slot to it.
	s.eventually("the slot on the replica", time.Minute, func(ctx context.Context) (bool, string) {
		out, err := s.lab.SSH(ctx, replica, "cd /; runuser -u postgres -- psql -XAtqc "+quote("select count(*) from pg_replication_slots where slot_name = 'odd'"))
		return err == nil && strings.TrimSpace(out) == "1", fmt.Sprint(out, err)
	})

	for name, want := range parameters {
		for _, h := range []string{"pg1", "pg2"} {
			if name == "work_mem" {
				want = "8MB"
			}
			// Not through on, which takes the blanks away.
			got := s.sql(h, `select '<' || current_setting('`+name+`') || '>'`)
			if got != "<"+want+">" {
				t.Errorf("%s on %s is\n%s, not\n<%s>", name, h, got, want)
			}
		}
	}
	for _, h := range []string{"pg1", "pg2"} {
		if got := s.sql(h, "show data_directory"); got != dir {
			t.Errorf("the data directory on %s is %s, not %s", h, got, dir)
		}
		if got := s.sql(h, "show cluster_name"); got != scope {
			t.Errorf("the cluster's name is %s, not %s", got, scope)
		}
		if got := s.sql(h, `select database[1] || '|' || user_name[1] from pg_hba_file_rules where user_name[1] like 'some%'`); got != db+"|some user's $(x) ü" {
			t.Errorf("pg_hba on %s has %s", h, got)
		}
		if got := s.sql(h, `select string_agg(map_name || '|' || sys_name || '|' || pg_username, E'\n' order by line_number) from pg_ident_file_mappings where error is null`); got != "odd|some user's $(x) ü \\|postgres\nodd|/^(.*)@exämple\\.test$|\\1" {
			t.Errorf("pg_ident on %s has %s", h, got)
		}
		args := s.on(h, "cat /tmp/args")
		for line := range strings.Lines(args) {
			if !strings.HasPrefix(line, `[it's][a "test"][$(touch /tmp/pwned)][üñ€😀][\][on_`) {
				t.Errorf("a callback on %s was called with %s", h, line)
			}
		}
		if got := s.on(h, "ls /tmp/pwned 2>/dev/null || echo no"); got != "no" {
			t.Errorf("something was executed on %s", h)
		}
	}
	if got := s.sql(replica, "show restore_command"); got != restore {
		t.Errorf("restore_command is %s, not %s", got, restore)
	}
	if got := s.sql(leader, "select database || '|' || plugin from pg_replication_slots where slot_name = 'odd'"); got != db+"|pgoutput" {
		t.Errorf("the slot is %s", got)
	}

	// What Patroni itself says, over its REST API, and what it was given.
	var ca string
	s.Outputs(ctx, "ca", &ca)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	get := func(path string, into any) {
		t.Helper()
		r, err := client.Get("https://" + lab.Host("pg2").Addr + ":8008" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if err := json.NewDecoder(r.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	var dynamic struct {
		PostgreSQL struct {
			Parameters map[string]string
			Odd        struct{ Command string }
		}
		Ignore []map[string]string `json:"ignore_slots"`
	}
	get("/config", &dynamic)
	if d := cmp.Diff(parameters, dynamic.PostgreSQL.Parameters); d != "" || dynamic.PostgreSQL.Odd.Command != "/bin/false "+callback || dynamic.Ignore[0]["name"] != hostile || dynamic.Ignore[0]["database"] != db {
		t.Errorf("the dynamic configuration has\n%+v\nparameters (-want +got):\n%s", dynamic, d)
	}
	var view struct {
		Scope   string
		Members []struct {
			Name string
			Tags map[string]any
		}
	}
	get("/cluster", &view)
	if len(view.Members) != 2 || view.Scope != scope {
		t.Errorf("the cluster is %+v", view)
	}
	for _, m := range view.Members {
		if !slices.Contains(names, m.Name) {
			t.Errorf("there is a member %s", m.Name)
		}
		for k, v := range tags {
			if m.Tags[k] != v {
				t.Errorf("the tag %q of %s is %#v, not %q", k, m.Name, m.Tags[k], v)
			}
		}
	}
	var file struct {
		RestAPI    struct{ Authentication map[string]string }
		PostgreSQL struct {
			Authentication map[string]map[string]string
		}
	}
	if err := json.Unmarshal([]byte(s.on("pg1", `python3 -c 'import json, yaml; print(json.dumps(yaml.safe_load(open("/etc/patroni/config.yml"))))'`)), &file); err != nil {
		t.Fatal(err)
	}
	if got := file.RestAPI.Authentication["password"]; got != passwords["rest_api"] {
		t.Errorf("the password of the REST API is %q", got)
	}
	s.on("pg1", "patronictl -c /etc/patroni/config.yml reload --force "+quote(scope)+" | grep -q 'Reload request received'")
	for account, user := range map[string]string{"superuser": "postgres", "replication": "replicator", "rewind": "rewind_user"} {
		if got := file.PostgreSQL.Authentication[account]["password"]; got != passwords[account] {
			t.Errorf("the password of %s is %q", account, got)
		}
		c, err := writer.Connect(ctx, writer.Config{Hosts: []string{lab.Host("pg1").Addr, lab.Host("pg2").Addr}, User: user, Password: passwords[account], CA: ca})
		if err != nil {
			t.Errorf("%s cannot log in with its password: %v", user, err)
			continue
		}
		_ = c.Close(ctx)
	}
	s.Destroy(ctx)
	for _, h := range []string{"pg1", "pg2"} {
		s.on(h, "test ! -e "+quote(dir)+" && test ! -e /etc/pgha")
	}
}
