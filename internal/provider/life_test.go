package provider_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
)

// site is a whole configuration on fake hosts: hosts, etcd, a cluster, its
// nodes.
type site struct {
	*core
	f       *fakefleet.Fleet
	hosts   []*resource
	dcs     *resource
	cluster *resource
	nodes   []*resource
}

// onFleet runs a test with a provider on three fake hosts.
func onFleet(t *testing.T, config object, test func(t *testing.T, s *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := fakefleet.New(t, fakefleet.Config{Config: fakehost.Config{Seed: 1}})
		s := &site{f: f, core: provided(t, f, "terraform", config)}
		for range f.Machines() {
			s.hosts, s.nodes = append(s.hosts, s.resource("pgha_host")), append(s.nodes, s.resource("pgha_patroni_node"))
		}
		s.dcs, s.cluster = s.resource("pgha_etcd_cluster"), s.resource("pgha_patroni_cluster")
		test(t, s)
	})
}

// provided is a run of the provider on a fleet.
func provided(t *testing.T, f *fakefleet.Fleet, name string, config object) *core {
	t.Helper()
	p := f.Start(name)
	return newCore(t, func(s *base.Services) {
		s.Fleet, s.OpenEtcd, s.Redact, s.Log = p, p.Opener, p.Redact, p.Log
	}, config)
}

func (s *site) host(i int) object {
	m := s.f.Machines()[i]
	return object{"name": m.Name, "address": m.Address}
}

func (s *site) etcd() object {
	members := object{}
	for i, m := range s.f.Machines() {
		members[m.Name] = object{"host": s.hosts[i].get("access")}
	}
	return object{"name": "dcs", "version": fakefleet.EtcdVersion, "members": members}
}

func (s *site) patroni() object { return object{"scope": "main", "etcd": s.dcs.get("access")} }

func (s *site) node(i int) object {
	return object{
		"cluster": s.cluster.get("membership"), "host": s.hosts[i].get("access"), "name": s.f.Machines()[i].Name,
		"versions": object{"postgresql": fakefleet.PostgresVersion, "patroni": fakefleet.PatroniVersion},
	}
}

// create applies everything, one after the other.
func (s *site) create() {
	s.t.Helper()
	for i, r := range s.hosts {
		s.must(r.apply(s.host(i)))
	}
	s.must(s.dcs.apply(s.etcd()))
	s.must(s.cluster.apply(s.patroni()))
	for i, r := range s.nodes {
		s.must(r.apply(s.node(i)))
	}
	s.f.WaitHealthy(2)
	s.f.Settle()
}

func (s *site) all() []*resource {
	return append(append([]*resource{s.dcs, s.cluster}, s.hosts...), s.nodes...)
}

// unchanged checks that there is nothing to do anywhere.
func (s *site) unchanged() {
	s.t.Helper()
	for i := range s.hosts {
		s.hosts[i].unchanged(s.host(i))
		s.nodes[i].unchanged(s.node(i))
	}
	s.dcs.unchanged(s.etcd())
	s.cluster.unchanged(s.patroni())
}

// with is a configuration with something changed in it.
func with(config object, name string, v any) object {
	out := object{}
	for k, e := range config {
		out[k] = e
	}
	out[name] = v
	return out
}

// Applied, planned again, changed, drifted and destroyed: each plan after an
// apply is empty, no secret is in the state, and what was asked for is there.
func TestLife(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		s.unchanged()
		for _, r := range s.all() {
			if leaks := s.f.Leaks(r.text()); len(leaks) > 0 {
				t.Errorf("secrets are in the state of %s: %v", r.name, leaks)
			}
		}
		if len(s.f.Secrets()) < 5 {
			t.Errorf("only %d secrets are known, so that none can be found", len(s.f.Secrets()))
		}

		// A changed parameter: the plan says what it does, and then there is
		// nothing left to do.
		changed := with(s.patroni(), "postgresql", object{"parameters": object{"work_mem": "8MB", "max_connections": "150"}})
		_, _, diags := s.cluster.plan(changed)
		warned := told(diags, tfprotov6.DiagnosticSeverityWarning)
		for _, part := range []string{"reloads all nodes of main", "work_mem: (not set) -> 8MB", "restarts PostgreSQL on all nodes of main", "max_connections: (not set) -> 150"} {
			if !strings.Contains(warned, part) {
				t.Errorf("the plan does not say %q:\n%s", part, warned)
			}
		}
		s.must(s.cluster.apply(changed))
		s.cluster.unchanged(changed)

		// Drift is shown, planned away and repaired.
		s.f.Do(func() { s.f.Host(2).Units["patroni.service"].Enabled = "disabled" })
		s.must(s.nodes[1].refresh())
		if d := s.nodes[1].text(); !strings.Contains(d, "start at boot") {
			t.Errorf("the drift is not in the state:\n%s", d)
		}
		planned, _, diags := s.nodes[1].plan(s.node(1))
		s.must(diags)
		if d := differences(t, s.nodes[1].state, planned); len(d) == 0 || !strings.HasPrefix(d[0], "drift") {
			t.Errorf("the plan for the drifted node: %q", d)
		}
		s.must(s.nodes[1].apply(s.node(1)))
		s.nodes[1].unchanged(s.node(1))

		// Protection first, then everything goes, the other way round.
		for _, r := range []*resource{s.cluster, s.dcs} {
			if got := errorsIn(r.apply(nil)); !strings.HasPrefix(got, "deletion_protection: Unable to destroy") || r.state.IsNull() {
				t.Errorf("destroying a protected %s: %s", r.name, got)
			}
		}
		s.must(s.cluster.apply(with(changed, "deletion_protection", false)))
		s.must(s.dcs.apply(with(s.etcd(), "deletion_protection", false)))
		s.f.Watch.Off()
		for i := range s.nodes {
			s.must(s.nodes[i].apply(nil))
		}
		for _, r := range []*resource{s.cluster, s.dcs, s.hosts[0], s.hosts[1], s.hosts[2]} {
			s.must(r.apply(nil))
			if !r.state.IsNull() {
				t.Errorf("%s is still in the state", r.name)
			}
		}
	})
}

// A create that fails leaves no state: Terraform would replace what is in it,
// and with that delete a database. The next one takes it up.
func TestFailedCreateLeavesNoState(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		cut := func(i int, yes bool) { s.f.Do(func() { s.f.Machines()[i].Cut = yes }) }
		fails := func(r *resource, config object, says string) {
			t.Helper()
			if got := errorsIn(r.apply(config)); !strings.Contains(got, says) || !strings.Contains(got, "pg2") {
				t.Errorf("%s: the error is %q, want %q", r.name, got, says)
			}
			if !r.state.IsNull() {
				t.Errorf("%s: there is a state:\n%s", r.name, r.text())
			}
		}
		cut(1, true)
		fails(s.hosts[1], s.host(1), "Unable to create host pg2")
		cut(1, false)
		for i, r := range s.hosts {
			s.must(r.apply(s.host(i)))
		}
		cut(1, true)
		fails(s.dcs, s.etcd(), "Unable to create etcd cluster dcs")
		cut(1, false)
		s.must(s.dcs.apply(s.etcd()))
		s.must(s.cluster.apply(s.patroni()))
		cut(1, true)
		fails(s.nodes[1], s.node(1), "Unable to create Patroni node pg2")
		cut(1, false)
		for i, r := range s.nodes {
			s.must(r.apply(s.node(i)))
		}
		s.f.WaitHealthy(2)
		s.f.Settle()
		s.unchanged()
	})
}

// While a host cannot be reached a refresh keeps the state as it was: with an
// error, or with a warning for who says so. Nothing is ever planned to be made
// again.
func TestUnreachableKeepsState(t *testing.T) {
	for mode, severity := range map[string]tfprotov6.DiagnosticSeverity{"error": tfprotov6.DiagnosticSeverityError, "keep": tfprotov6.DiagnosticSeverityWarning} {
		t.Run(mode, func(t *testing.T) {
			onFleet(t, nil, func(t *testing.T, s *site) {
				s.create()
				// Another process, which has no connections yet.
				planner := provided(t, s.f, "planner", object{"on_unreachable": mode})
				for _, m := range s.f.Machines() {
					s.f.Do(func() { m.Cut = true })
				}
				for _, r := range s.all() {
					r.core = planner
					before := r.state
					diags := r.refresh()
					if got := told(diags, severity); !strings.Contains(got, "Unable to read") {
						t.Errorf("%s: it says %s%s", r.name, errorsIn(diags), told(diags, tfprotov6.DiagnosticSeverityWarning))
					}
					if d := differences(t, before, r.state); len(d) > 0 || r.state.IsNull() {
						t.Errorf("%s: the state changed: %q", r.name, d)
					}
				}
			})
		})
	}
}

// A resource whose traces are gone from a host that answers is gone from the
// state, and is made again.
func TestGoneIsPlannedAnew(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.must(s.hosts[0].apply(s.host(0)))
		s.f.Do(func() { s.f.Host(1).Files.Remove("/etc/pgha") })
		s.must(s.hosts[0].refresh())
		if !s.hosts[0].state.IsNull() {
			t.Errorf("it is still there:\n%s", s.hosts[0].text())
		}
		s.must(s.hosts[0].apply(s.host(0)))
		s.hosts[0].unchanged(s.host(0))
	})
}

// What cannot be changed in place is refused when it is planned, at the
// attribute, and is not replaced either: that would put data at risk.
func TestFixedAttributes(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		for _, c := range []struct {
			r      *resource
			config object
			at     string
		}{
			{s.dcs, with(s.etcd(), "name", "other"), "name"},
			{s.dcs, with(s.etcd(), "client_port", 2399), "client_port"},
			{s.dcs, with(s.etcd(), "peer_port", 2398), "peer_port"},
			{s.dcs, with(s.etcd(), "tls", false), "tls"},
			{s.dcs, with(s.etcd(), "version", "3.4.35"), "version"},
			{s.cluster, with(s.patroni(), "scope", "other"), "scope"},
			{s.cluster, with(s.patroni(), "namespace", "/db/"), "namespace"},
			{s.cluster, with(s.patroni(), "postgresql_port", 5433), "postgresql_port"},
			{s.cluster, with(s.patroni(), "rest_api_port", 8009), "rest_api_port"},
			{s.cluster, with(s.patroni(), "initdb", object{"encoding": "LATIN1"}), "initdb"},
			{s.nodes[0], with(s.node(0), "name", "other"), "name"},
			{s.nodes[0], with(s.node(0), "data_directory", "/srv/pg/main"), "data_directory"},
			{s.nodes[0], with(s.node(0), "versions", object{"postgresql": "18.1", "patroni": fakefleet.PatroniVersion}), "versions.postgresql"},
			{s.nodes[0], with(s.node(0), "versions", object{"postgresql": "17.99", "patroni": fakefleet.PatroniVersion}), "versions.postgresql"},
			{s.nodes[0], with(s.node(0), "versions", object{"postgresql": fakefleet.PostgresVersion, "patroni": "9.9.9"}), "versions.patroni"},
		} {
			_, _, diags := c.r.plan(c.config)
			got := errorsIn(diags)
			if !strings.HasPrefix(got, c.at+": ") {
				t.Errorf("%s: the error is %q, want one at %s", c.r.name, got, c.at)
			}
			if !strings.Contains(got, "What to do: ") {
				t.Errorf("%s, %s: the error does not say what to do: %s", c.r.name, c.at, got)
			}
		}
	})
}

// A watchdog that Patroni would not use is refused when it is planned, also when it
// is the cluster's timing that changes.
func TestWatchdogTiming(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		of := func(margin string) object {
			return with(with(s.node(0), "watchdog", "required"), "watchdog_safety_margin", margin)
		}
		_, _, diags := s.nodes[0].plan(of("21s"))
		if got := errorsIn(diags); !strings.HasPrefix(got, "watchdog_safety_margin: ") || !strings.Contains(got, "20 seconds at most") {
			t.Errorf("the error is %q", got)
		}
		_, _, diags = s.nodes[0].plan(of("20s"))
		s.must(diags)
		for _, text := range []string{"Applying this changes the watchdog of node pg1", "Nothing restarts", "its kernel 6.12 has no module softdog", "The apply refuses this"} {
			if got := told(diags, tfprotov6.DiagnosticSeverityWarning); !strings.Contains(got, text) {
				t.Errorf("the plan does not say %q: %s", text, got)
			}
		}
		if got := errorsIn(s.nodes[0].apply(of("20s"))); !strings.Contains(got, "this node could never lead") {
			t.Errorf("the apply says %q", got)
		}
		automatic := with(s.node(0), "watchdog", "automatic")
		diags = s.nodes[0].apply(automatic)
		s.must(diags)
		if got := told(diags, tfprotov6.DiagnosticSeverityWarning); !strings.Contains(got, "Patroni goes on without a watchdog") {
			t.Errorf("the apply does not warn: %s", got)
		}
		s.nodes[0].unchanged(automatic)
	})
}

// Passwords are changed by a number. The plan says which, and what that does;
// one that was replaced does not come back.
func TestRotation(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		s.f.Settle()
		const mine = "a password of my own"
		s.f.World.Secret(mine)
		of := func(c object) object { return with(s.patroni(), "credentials", c) }
		change := func(c object, says ...string) {
			t.Helper()
			_, _, diags := s.cluster.plan(of(c))
			s.must(diags)
			for _, text := range append(says, "Applying this changes passwords of main", "nothing restarts") {
				if !strings.Contains(told(diags, tfprotov6.DiagnosticSeverityWarning), text) {
					t.Errorf("the plan does not say %q: %s", text, told(diags, tfprotov6.DiagnosticSeverityWarning))
				}
			}
			s.must(s.cluster.apply(of(c)))
			s.cluster.unchanged(of(c))
			for i, n := range s.nodes {
				n.unchanged(s.node(i))
			}
			if strings.Contains(s.cluster.text(), mine) {
				t.Errorf("the password is in the state:\n%s", s.cluster.text())
			}
		}
		change(object{"rotation": 1}, "the superuser postgres: a new one is made", "the cluster's user in etcd: a new one is made")
		change(object{"rotation": 1, "rewind": object{"password_wo": mine, "password_wo_version": 1}}, "pg_rewind (rewind_user): the one in credentials.rewind.password_wo")
		change(object{"rotation": 2, "rewind": object{"password_wo": mine, "password_wo_version": 1}}, "replication (replicator): a new one is made")
		change(object{"rotation": 2}, "pg_rewind (rewind_user): a new one is made")
		for name, c := range map[string]object{"lower": {"rotation": 1}, "none": {}} {
			_, _, diags := s.cluster.plan(of(c))
			if got := errorsIn(diags); !strings.HasPrefix(got, "credentials.rotation: ") || !strings.Contains(got, "set it to 2") {
				t.Errorf("%s: %q", name, got)
			}
		}
	})
}

// Nothing is contacted, and nothing refused, while addresses or the provider's
// own block are not known yet.
func TestUnknownWhilePlanning(t *testing.T) {
	c := newCore(t, nil, object{"on_unreachable": unknown{}, "progress_file": unknown{}, "ssh": object{
		"user": unknown{}, "port": unknown{}, "private_key": unknown{}, "known_hosts": unknown{}, "bastions": unknown{}, "boot_timeout": unknown{},
		"host_key_policy": unknown{}, "become": unknown{}, "agent": unknown{},
	}})
	for name, config := range map[string]object{
		"pgha_host": {"name": "h", "address": unknown{}, "ssh": unknown{}, "preflight": unknown{}, "apt": unknown{}, "sysctl": unknown{}, "hosts_entries": unknown{}},
		"pgha_etcd_cluster": {
			"name": "dcs", "version": unknown{}, "members": object{"a": object{"host": unknown{}}, "b": object{"host": unknown{}, "address": unknown{}}, "c": object{"host": unknown{}}},
			"client_port": unknown{}, "heartbeat_interval": unknown{}, "election_timeout": unknown{}, "quota_backend_bytes": unknown{},
		},
		"pgha_patroni_cluster": {
			"scope": unknown{}, "etcd": unknown{}, "failure_detection": unknown{}, "ttl": unknown{}, "slots": unknown{}, "postgresql": unknown{},
			"allowed_networks": unknown{}, "initdb": unknown{}, "credentials": unknown{}, "synchronous_mode": unknown{},
		},
		"pgha_patroni_node": {"cluster": unknown{}, "host": unknown{}, "name": unknown{}, "versions": unknown{}, "tags": unknown{}, "data_directory": unknown{}, "watchdog": unknown{}, "watchdog_device": unknown{}, "watchdog_safety_margin": unknown{}},
	} {
		planned, _, diags := c.resource(name).plan(config)
		if got := errorsIn(diags); got != "" {
			t.Errorf("%s: %s", name, got)
			continue
		}
		for path, v := range leaves(t, planned) {
			if path == "id" && v.IsKnown() && v.IsNull() {
				t.Errorf("%s: %s is planned to be nothing", name, path)
			}
		}
	}
	// All members unknown, and parts within known blocks.
	for name, config := range map[string]object{
		"pgha_etcd_cluster":    {"name": "dcs", "version": "3.5.16", "members": unknown{}},
		"pgha_patroni_cluster": {"scope": "main", "etcd": unknown{}, "postgresql": object{"parameters": object{"work_mem": unknown{}}, "pg_hba": []any{unknown{}}}},
		"pgha_patroni_node":    {"cluster": unknown{}, "host": unknown{}, "name": "a", "versions": object{"postgresql": unknown{}, "patroni": "4.0.7"}, "tags": object{"custom": unknown{}}},
	} {
		if _, _, diags := c.resource(name).plan(config); errorsIn(diags) != "" {
			t.Errorf("%s: %s", name, errorsIn(diags))
		}
	}
}

// Passwords can be had, by who may log in to the hosts, and only ephemerally.
func TestCredentials(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		const mine = "a password of my own"
		s.f.World.Secret(mine)
		for i, r := range s.hosts {
			s.must(r.apply(s.host(i)))
		}
		s.must(s.dcs.apply(s.etcd()))
		config := with(s.patroni(), "credentials", object{"superuser": object{"password_wo": mine, "password_wo_version": 1}})
		s.must(s.cluster.apply(config))
		s.cluster.unchanged(config)
		if strings.Contains(s.cluster.text(), mine) {
			t.Errorf("the password is in the state:\n%s", s.cluster.text())
		}
		typ := s.schemas.EphemeralResourceSchemas["pgha_credentials"].ValueType()
		resp, err := s.server.OpenEphemeralResource(t.Context(), &tfprotov6.OpenEphemeralResourceRequest{
			TypeName: "pgha_credentials", Config: s.dynamic(typ, value(typ, object{"cluster": s.cluster.get("membership")})),
		})
		if err != nil {
			t.Fatal(err)
		}
		s.must(resp.Diagnostics)
		got := leaves(t, s.static(typ, resp.Result))
		if plain(got["superuser.password"]) != mine || plain(got["superuser.username"]) != "postgres" {
			t.Errorf("superuser: %v", got)
		}
		for _, account := range []string{"replication", "rewind", "rest_api"} {
			if len(plain(got[account+".password"])) < 32 {
				t.Errorf("%s: %v", account, got[account+".password"])
			}
		}
	})
}
