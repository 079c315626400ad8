package acceptance

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
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
	old bool // Patroni is too old to say whether a replica streams
}

// settings are the parts of the configuration that tests vary.
type settings struct {
	Provider    string            // inside the provider block
	Host        string            // further attributes of every host
	Addresses   map[string]string // by name: the lab's own by default
	Etcd        string            // further attributes of the etcd cluster
	Cluster     string            // of the Patroni cluster
	Node        string            // of every node
	Nodes       map[string]string // of single nodes' tags and the like, by name: replaces Node
	Protect     bool
	Purge       bool
	Postgres    string
	Patroni     string
	Canary      map[string]pins // of single nodes, by name
	Versions    string          // further attributes of every node's versions
	EtcdVersion string
	EtcdOn      []string // names of hosts; all by default
	Networks    []string // that may connect; samenet and the lab by default
}

// pins are the versions of a node.
type pins struct{ Postgres, Patroni string }

// newSite boots hosts in one datacenter and writes the configuration.
func newSite(t testing.TB, image labhost.Image, s settings, hosts ...string) *site {
	t.Helper()
	cli.Binary(t)
	return newSiteIn(t, labhost.Options{Image: image, Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: hosts}}}, s)
}

// newSiteIn is newSite for a lab of any shape.
func newSiteIn(t testing.TB, o labhost.Options, s settings) *site {
	t.Helper()
	cli.Binary(t)
	lab := labtest.New(t, o)
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
	if c.Addresses != nil {
		hosts = c.Addresses
	}
	for pin, pkg := range map[*string]string{&c.Postgres: s.server(), &c.Patroni: "patroni", &c.EtcdVersion: "etcd-server"} {
		if *pin == "" {
			*pin = s.oldest(pkg)
		}
	}
	s.old = strings.HasPrefix(c.Patroni, "3.0.")
	s.Write("main.tf", render(hosts, c))
}

// server is the package of the release's own PostgreSQL.
func (s *site) server() string {
	return map[string]string{"trixie": "postgresql-17", "bookworm": "postgresql-15"}[s.lab.Release]
}

// oldest is the oldest version of a package that the hosts can install, as a
// pin: what is oldest changes with each update of Debian.
func (s *site) oldest(pkg string) string {
	s.t.Helper()
	versions, err := s.lab.Versions(pkg)
	if err != nil {
		s.t.Fatal(err)
	}
	pin, _, _ := strings.Cut(versions[0], "-")
	return pin
}

// newest is the newest version of a package that the hosts can install, as a pin.
func (s *site) newest(pkg string) string {
	s.t.Helper()
	versions, err := s.lab.Versions(pkg)
	if err != nil {
		s.t.Fatal(err)
	}
	pin, _, _ := strings.Cut(versions[len(versions)-1], "-")
	return pin
}

func render(hosts map[string]string, c settings) string {
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
	etcdOn := "keys(local.hosts)"
	if c.EtcdOn != nil {
		etcdOn = `["` + strings.Join(c.EtcdOn, `", "`) + `"]`
	}
	if c.Networks == nil {
		c.Networks = []string{"samenet", "10.0.0.0/8"}
	}
	p(`resource "pgha_host" "db" {
  for_each  = local.hosts
  name      = each.key
  address   = each.value
  time_sync = "off"
  %s
}
resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = %q
  members = { for name in %s : name => { host = pgha_host.db[name].access } }
  deletion_protection = %t
  on_destroy = %q
  %s
}
resource "pgha_patroni_cluster" "main" {
  scope            = "main"
  etcd             = pgha_etcd_cluster.dcs.access
  allowed_networks = [%s]
  deletion_protection = %t
  on_destroy = %q
  %s
}`, c.Host, c.EtcdVersion, etcdOn, c.Protect, onDestroy, c.Etcd, quotedList(c.Networks), c.Protect, onDestroy, c.Cluster)
	nodes := map[string]string{}
	for name := range hosts {
		nodes[name] = c.Node
		if own, ok := c.Nodes[name]; ok {
			nodes[name] = own
		}
	}
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		v, own := c.Canary[name]
		if !own {
			v = pins{c.Postgres, c.Patroni}
		}
		p(`resource "pgha_patroni_node" %q {
  cluster    = pgha_patroni_cluster.main.membership
  host       = pgha_host.db[%q].access
  name       = %q
  versions   = { postgresql = %q, patroni = %q, %s }
  on_destroy = %q
  %s
}`, name, name, name, v.Postgres, v.Patroni, c.Versions, onDestroy, nodes[name])
	}
	p(`output "ca" { value = pgha_patroni_cluster.main.ca_certificate }`)
	return b.String()
}

// quotedList are the elements of a list in a configuration.
func quotedList(list []string) string {
	var quoted []string
	for _, e := range list {
		quoted = append(quoted, strconv.Quote(e))
	}
	return strings.Join(quoted, ", ")
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
	return s.on(host, "cd /; runuser -u postgres -- /usr/lib/postgresql/*/bin/psql -XAtqc "+quote(statement))
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
	list, err := s.list(s.t.Context(), from)
	if err != nil {
		s.t.Fatalf("the members as %s sees them: %v", from, err)
	}
	m := map[string]member{}
	for _, e := range list {
		m[e.Member] = e
	}
	return m
}

// list is what patronictl list says on a host. Its REST API knows the same and
// takes next to nothing for it, where patronictl has to start as a program; where
// this machine does not get at the API, patronictl is asked.
func (s *site) list(ctx context.Context, from string) ([]member, error) {
	if list, err := s.listed(ctx, from); err == nil {
		return list, nil
	}
	out, err := s.lab.SSH(ctx, from, "patronictl -c /etc/patroni/config.yml list -f json")
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	var list []member
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("patronictl list: %w\n%s", err, out)
	}
	return list, nil
}

// api gets at the REST APIs of all tests' hosts, whose certificates are not what
// is tested with it.
var api = &http.Client{
	Timeout:   5 * time.Second,
	Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}, //nolint:gosec // see above
}

func (s *site) listed(ctx context.Context, from string) ([]member, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(s.lab.Host(from).Addr, "8008")+"/cluster", nil)
	if err != nil {
		return nil, err
	}
	res, err := api.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var got struct {
		Members []struct {
			Name, Host, Role, State string
			Timeline                int
		}
	}
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
		return nil, err
	}
	var list []member
	for _, m := range got.Members {
		words := strings.Split(m.Role, "_")
		for i, w := range words {
			words[i] = strings.ToUpper(w[:1]) + w[1:]
		}
		list = append(list, member{m.Name, m.Host, strings.Join(words, " "), m.State, m.Timeline})
	}
	return list, nil
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
		case <-time.After(time.Second): // what is asked is often a program on a host
		}
	}
}

// healthy waits until all hosts are members on one timeline, one leads and the
// others stream.
func (s *site) healthy(from string, names ...string) {
	s.t.Helper()
	s.eventually("a healthy cluster", 90*time.Second, func(ctx context.Context) (bool, string) {
		list, err := s.list(ctx, from)
		if err != nil {
			return false, err.Error()
		}
		leaders, streaming, timeline := 0, 0, map[int]bool{}
		for _, m := range list {
			timeline[m.TL] = true
			switch {
			case m.Role == "Leader" && m.State == "running":
				leaders++
			case m.State == "streaming", s.old && m.State == "running":
				streaming++
			}
		}
		return leaders == 1 && streaming == len(names)-1 && len(list) == len(names) && len(timeline) == 1, fmt.Sprint(list)
	})
}

// write starts a writer, through an account of its own.
func (s *site) write() *writer.Writer {
	s.t.Helper()
	s.app(s.leader(s.lab.Hosts()[0].Name))
	return writer.Start(s.t, s.writerConfig())
}

// app makes the account of the tests' writers.
func (s *site) app(leader string) {
	s.t.Helper()
	s.sql(leader, "do $$ begin if not exists (select from pg_roles where rolname = 'app') then create role app superuser login password 'app-password'; end if; end $$")
	// A replica that does not have the role yet would refuse the login.
	for name := range s.members(leader) {
		s.eventually("the role on "+name, 30*time.Second, func(context.Context) (bool, string) {
			have := s.sql(name, "select count(*) from pg_roles where rolname = 'app'")
			return have == "1", have
		})
	}
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
