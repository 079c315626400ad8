package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// site is a lab with a root module for it.
type site struct {
	t   testing.TB
	lab *labhost.Lab
	*cli.Dir
}

// settings are the parts of the configuration that tests vary.
type settings struct {
	Provider string            // inside the provider block
	Etcd     string            // further attributes of the etcd cluster
	Cluster  string            // of the Patroni cluster
	Node     string            // of every node
	Nodes    map[string]string // of single nodes' tags and the like, by name: replaces Node
	Protect  bool
	Purge    bool
	Postgres string
	Patroni  string
}

// newSite boots hosts in one datacenter and writes the configuration.
func newSite(t testing.TB, image labhost.Image, s settings, hosts ...string) *site {
	t.Helper()
	cli.Binary(t)
	lab := labtest.New(t, labhost.Options{Image: image, Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: hosts}}})
	st := &site{t: t, lab: lab, Dir: cli.New(t, nil, lab.Env()...)}
	st.configure(s)
	return st
}

// configure writes the configuration anew.
func (s *site) configure(c settings) {
	s.t.Helper()
	hosts := map[string]string{}
	for _, h := range s.lab.Hosts() {
		if !h.Bastion {
			hosts[h.Name] = h.Addr
		}
	}
	s.Write("main.tf", render(hosts, c))
}

func render(hosts map[string]string, c settings) string {
	if c.Postgres == "" {
		c.Postgres = "17.11"
	}
	if c.Patroni == "" {
		c.Patroni = "4.0.7"
	}
	onDestroy := "keep_data"
	if c.Purge {
		onDestroy = "purge"
	}
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("terraform {\n  required_providers {\n    pgha = { source = \"pgha/pgha\" }\n  }\n}")
	p("provider \"pgha\" {\n%s\n}", c.Provider)
	p("locals {\n  hosts = {")
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		p("    %s = %q", name, hosts[name])
	}
	p("  }\n}")
	p(`resource "pgha_host" "db" {
  for_each  = local.hosts
  name      = each.key
  address   = each.value
  time_sync = "off"
}
resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = "3.5.16"
  members = { for name, host in pgha_host.db : name => { host = host.access } }
  deletion_protection = %t
  on_destroy = %q
  %s
}
resource "pgha_patroni_cluster" "main" {
  scope            = "main"
  etcd             = pgha_etcd_cluster.dcs.access
  allowed_networks = ["samenet", "10.0.0.0/8"]
  deletion_protection = %t
  on_destroy = %q
  %s
}`, c.Protect, onDestroy, c.Etcd, c.Protect, onDestroy, c.Cluster)
	nodes := map[string]string{}
	for name := range hosts {
		nodes[name] = c.Node
		if own, ok := c.Nodes[name]; ok {
			nodes[name] = own
		}
	}
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		p(`resource "pgha_patroni_node" %q {
  cluster    = pgha_patroni_cluster.main.membership
  host       = pgha_host.db[%q].access
  name       = %q
  versions   = { postgresql = %q, patroni = %q }
  on_destroy = %q
  %s
}`, name, name, name, c.Postgres, c.Patroni, onDestroy, nodes[name])
	}
	p(`output "ca" { value = pgha_patroni_cluster.main.ca_certificate }`)
	return b.String()
}

// on runs a command on a host and fails the test if it fails.
func (s *site) on(host, command string) string {
	s.t.Helper()
	out, err := s.lab.SSH(s.t.Context(), host, command)
	if err != nil {
		s.t.Fatalf("on %s: %s: %v", host, command, err)
	}
	return strings.TrimSpace(out)
}

// sql asks a host's server, as a person logged in there would.
func (s *site) sql(host, statement string) string {
	s.t.Helper()
	return s.on(host, "cd /; runuser -u postgres -- psql -XAtqc "+quote(statement))
}

func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// member is a line of patronictl list.
type member struct {
	Member, Host, Role, State string
	TL                        int
}

// members asks Patroni itself, from the given host.
func (s *site) members(from string) map[string]member {
	s.t.Helper()
	var list []member
	text := s.on(from, "patronictl -c /etc/patroni/config.yml list -f json")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		s.t.Fatalf("patronictl list: %v\n%s", err, text)
	}
	m := map[string]member{}
	for _, e := range list {
		m[e.Member] = e
	}
	return m
}

// leader is the name of the member that leads, asked from the given host.
func (s *site) leader(from string) string {
	s.t.Helper()
	for name, m := range s.members(from) {
		if m.Role == "Leader" {
			return name
		}
	}
	return ""
}

// others are all hosts but one, in order.
func (s *site) others(name string) []string {
	var list []string
	for _, h := range s.lab.Hosts() {
		if h.Name != name && !h.Bastion {
			list = append(list, h.Name)
		}
	}
	return list
}

// eventually waits for a condition, which reports what it still misses.
func (s *site) eventually(what string, limit time.Duration, check func(context.Context) (bool, string)) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	last := ""
	for {
		ok, why := check(ctx)
		if ok {
			return
		}
		last = why
		select {
		case <-ctx.Done():
			s.t.Fatalf("waited %s for %s: %s", limit, what, last)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// healthy waits until all hosts are members on one timeline, one leads and the
// others stream.
func (s *site) healthy(from string, names ...string) {
	s.t.Helper()
	s.eventually("a healthy cluster", 90*time.Second, func(ctx context.Context) (bool, string) {
		out, err := s.lab.SSH(ctx, from, "patronictl -c /etc/patroni/config.yml list -f json")
		var list []member
		if err != nil || json.Unmarshal([]byte(out), &list) != nil {
			return false, fmt.Sprint(out, err)
		}
		leaders, streaming, timeline := 0, 0, map[int]bool{}
		for _, m := range list {
			timeline[m.TL] = true
			switch {
			case m.Role == "Leader" && m.State == "running":
				leaders++
			case m.State == "streaming":
				streaming++
			}
		}
		return leaders == 1 && streaming == len(names)-1 && len(list) == len(names) && len(timeline) == 1, out
	})
}

// write starts a writer, through an account of its own.
func (s *site) write() *writer.Writer {
	s.t.Helper()
	first := s.lab.Hosts()[0].Name
	leader := s.leader(first)
	s.sql(leader, "do $$ begin if not exists (select from pg_roles where rolname = 'app') then create role app superuser login password 'app-password'; end if; end $$")
	return writer.Start(s.t, s.writerConfig())
}

func (s *site) writerConfig() writer.Config {
	var ca string
	s.Outputs(s.t.Context(), "ca", &ca)
	c := writer.Config{User: "app", Password: "app-password", CA: ca}
	for _, h := range s.lab.Hosts() {
		if !h.Bastion {
			c.Hosts = append(c.Hosts, h.Addr)
		}
	}
	return c
}

// has fails the test unless an output has all the texts.
func has(t testing.TB, o cli.Output, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !o.Contains(text) {
			t.Errorf("the output does not say %q:\n%s", text, o.Text)
		}
	}
}
