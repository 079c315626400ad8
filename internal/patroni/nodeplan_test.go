package patroni_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// state is what a plan is made from: one node, what was found on its host and
// in etcd.
type state struct {
	f     *fakefleet.Fleet
	m     *fakehost.Machine
	n     patroni.Node
	known patroni.Known
}

// withState runs a test on three hosts: with a complete cluster, or with only
// what there is before the first node.
func withState(t *testing.T, complete bool, test func(t *testing.T, s *state)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := fakefleet.New(t, fakefleet.Config{Config: fakehost.Config{Seed: 1}})
		f.Watch.Off()
		p := f.Start("creator")
		if _, err := p.EtcdManager().Apply(t.Context(), f.EtcdSpec()); err != nil {
			t.Fatal(err)
		}
		a, err := p.PatroniManager().ApplyCluster(t.Context(), f.ClusterSpec())
		if err != nil {
			t.Fatal(err)
		}
		if complete {
			// The first one leads, whatever the order in which requests are answered.
			for _, machines := range [][]*fakehost.Machine{f.Machines()[:1], f.Machines()} {
				if err := p.ApplyNodes(t.Context(), a.UID, machines...); err != nil {
					t.Fatal(err)
				}
			}
			f.WaitHealthy(2)
			f.Settle()
		}
		s := &state{f: f, m: f.Host(2), n: f.Node(f.Host(2), a.UID)}
		s.known, err = s.n.Cluster.Load(t.Context(), s.kv(t, p))
		if err != nil {
			t.Fatal(err)
		}
		test(t, s)
	})
}

func (s *state) kv(t *testing.T, p *fakefleet.Process) etcd.Client {
	t.Helper()
	kv, err := p.Opener(t.Context(), s.n.Cluster.Etcd)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

// planned plans for the state. With observed it does so as Read does, without
// etcd and its secrets.
func (s *state) planned(t *testing.T, observed bool, later time.Duration) (string, error) {
	t.Helper()
	p := s.f.Start("planner")
	facts, err := patroni.ProbeNode(t.Context(), p.Host(s.n.Target), s.n)
	if err != nil {
		t.Fatal(err)
	}
	do := &patroni.Doer{Fleet: p, Log: p.Log}
	known, authority := &s.known, s.kv(t, p).Authority()
	if observed {
		known, authority = nil, nil
	}
	plan, err := patroni.NodePlan(s.n, facts, known, authority, time.Now().Add(later), do)
	return strings.ReplaceAll(strings.ReplaceAll(plan.String(), "@pg2", ""), "patroni.", ""), err
}

// cameWithHTTP has etcd know the node as one that has no certificate.
func (s *state) cameWithHTTP() {
	r := s.known.Nodes[s.n.Name]
	r.ClientTrust = etcd.ClientTrust{}
	s.known.Nodes[s.n.Name] = r
}

// extension has the node pin pgvector's 0.8.0, of which a version may be installed.
func (s *state) extension(installed string, published ...string) {
	s.n.Extensions = map[string]string{"pgvector": "0.8.0"}
	s.m.Publish(true, "postgresql-17-pgvector", published...)
	if installed != "" {
		s.m.Packages["postgresql-17-pgvector"] = &fakehost.Package{Version: installed}
	}
}

func remark(m *fakehost.Machine, change func(*patroni.Marker)) {
	var mark patroni.Marker
	_ = json.Unmarshal(m.Files.Read(patroni.MarkerPath), &mark)
	change(&mark)
	b, _ := json.Marshal(mark)
	m.Files.Text(patroni.MarkerPath, string(b))
}

// State in, steps out.
func TestNodePlan(t *testing.T) {
	stop := func(s *state) {
		u := s.m.Units[patroni.Unit]
		u.PID, u.Active = 0, "inactive"
	}
	for name, c := range map[string]struct {
		fresh    bool
		observed bool
		state    func(s *state)
		later    time.Duration
		want     string
	}{
		"a fresh host": {
			fresh: true,
			want: "mark, file, packages, hold, file, file, certificate, certificate, data, file, unit.reload, unit.enable, " +
				"register, form, mark",
		},
		"a complete node":                  {want: ""},
		"a complete node, as Read sees it": {observed: true, want: ""},
		"stopped, with its data":           {state: stop, want: "register, start"},
		"stopped, without data": {
			state: func(s *state) { stop(s); s.m.Files.Remove(s.n.DataDir + "/global") }, want: "register, form",
		},
		// Read does not know whether there should be data: it says that
		// the node does not run.
		"stopped, without data, as Read sees it": {
			observed: true, state: func(s *state) { stop(s); s.m.Files.Remove(s.n.DataDir + "/global") }, want: "register, start",
		},
		"other tags":            {state: func(s *state) { s.n.Tags = map[string]any{"nosync": true} }, want: "mark, register, reconfigure, mark"},
		"a new address":         {state: func(s *state) { s.n.Address = "pg2.example.test" }, want: "mark, certificate, reload, register, reconfigure, mark"},
		"not noted as complete": {state: func(s *state) { remark(s.m, func(m *patroni.Marker) { m.Joined = false }) }, want: "register, member, mark"},
		"released, data kept": {
			state: func(s *state) { stop(s); remark(s.m, func(m *patroni.Marker) { m.Released = true }) }, want: "mark, register, start, mark",
		},
		"certificates end soon":    {later: (397 - 29) * 24 * time.Hour, want: "mark, certificate, certificate, reload, mark"},
		"the edited configuration": {state: func(s *state) { s.m.Files.Text(patroni.ConfigPath, "x") }, want: "mark, register, reconfigure, mark"},
		"it came with http, and etcd takes https": {
			state: func(s *state) {
				s.m.Files.Text(patroni.ConfigPath, "etcd3: {protocol: http}")
				s.cameWithHTTP()
			},
			want: "mark, register, reconfigure, process, register, mark",
		},
		"it came with http, killed before Patroni was restarted": {
			state: func(s *state) {
				remark(s.m, func(m *patroni.Marker) { m.ReloadDue = true })
				s.cameWithHTTP()
			},
			want: "register, reconfigure, process, register, mark",
		},
		"it came with http, killed after Patroni was restarted": {
			state: func(s *state) { remark(s.m, func(m *patroni.Marker) { m.ReloadDue = true }) }, want: "register, reconfigure, mark",
		},
		"changed, and killed before the reload": {
			state: func(s *state) { remark(s.m, func(m *patroni.Marker) { m.ReloadDue = true }) }, want: "register, reconfigure, mark",
		},
		"changed, and killed before the reload, as Read sees it": {
			observed: true, state: func(s *state) { remark(s.m, func(m *patroni.Marker) { m.ReloadDue = true }) }, want: "register, reconfigure",
		},
		"changed, killed before the reload, and stopped": {
			state: func(s *state) { stop(s); remark(s.m, func(m *patroni.Marker) { m.ReloadDue = true }) }, want: "register, start, mark",
		},
		"the edited configuration, as Read sees it": {
			observed: true, state: func(s *state) { s.m.Files.Text(patroni.ConfigPath, "x") }, want: "register, reconfigure",
		},
		"not held": {state: func(s *state) { s.m.Packages["patroni"].Held = false }, want: "hold"},
		"another version": {
			state: func(s *state) { s.n.Postgres = "17.12" }, want: "stage, scratch, gate, mark, restart, verify, mark, hold",
		},
		"another version of Patroni": {
			state: func(s *state) { s.n.Patroni = "4.1.5" }, want: "stage, gate, mark, restart, verify, mark, hold",
		},
		"another version of the leader": {
			state: func(s *state) { s.n.Postgres, s.known.Leader = "17.12", "pg2" },
			want:  "stage, scratch, gate, switchover, mark, restart, verify, mark, hold",
		},
		"another version of the leader's Patroni": {
			state: func(s *state) { s.n.Patroni, s.known.Leader = "4.1.5", "pg2" },
			want:  "stage, gate, pause, mark, restart, verify, resume, mark, hold",
		},
		"another version, and other tags": {
			state: func(s *state) { s.n.Postgres, s.n.Tags = "17.12", map[string]any{"nosync": true} },
			want:  "stage, scratch, gate, mark, restart, verify, mark, hold, mark, register, reconfigure, mark",
		},
		"another version of one that is stopped": {
			state: func(s *state) { stop(s); s.n.Postgres = "17.12" }, want: "packages, hold, register, start",
		},
		"a new extension": {
			state: func(s *state) { s.extension("", "0.8.0-1") }, want: "packages, hold",
		},
		"a new extension, and another version": {
			state: func(s *state) { s.n.Postgres = "17.12"; s.extension("", "0.8.0-1") }, want: "stage, scratch, gate, mark, restart, verify, mark, hold",
		},
		"another version of an extension": {
			state: func(s *state) { s.extension("0.7.0-1", "0.8.0-1") }, want: "stage, scratch, gate, mark, restart, verify, mark, hold",
		},
		"another version of an extension, of one that is stopped": {
			state: func(s *state) { stop(s); s.extension("0.7.0-1", "0.8.0-1") }, want: "packages, hold, register, start",
		},
		"the version that an extension has": {
			state: func(s *state) { s.extension("0.8.0-1", "0.8.0-1", "0.8.0-2") }, want: "hold",
		},
		"an extension that is not pinned any more": {
			state: func(s *state) {
				s.m.Packages["postgresql-17-pgvector"] = &fakehost.Package{Version: "0.8.0-1", Held: true}
				s.n.Freed = []string{"postgresql-17-pgvector"}
			},
			want: "unhold",
		},
		"killed before the restart": {
			state: func(s *state) { remark(s.m, func(m *patroni.Marker) { m.RestartDue = "postgresql" }) }, want: "gate, mark, restart, verify, mark",
		},
		"killed before the restart, as Read sees it": {
			observed: true, state: func(s *state) { remark(s.m, func(m *patroni.Marker) { m.RestartDue = "patroni" }) }, want: "gate, mark, restart, verify, mark",
		},
		// Not complete yet: nothing runs that a change of version could hurt.
		"half installed, in another version": {
			fresh: true, state: func(s *state) {
				s.m.Packages["patroni"] = &fakehost.Package{Version: "4.1.5-2"}
			},
			want: "mark, file, packages, hold, file, file, certificate, certificate, data, file, unit.reload, unit.enable, register, form, mark",
		},
	} {
		t.Run(name, func(t *testing.T) {
			withState(t, !c.fresh, func(t *testing.T, s *state) {
				if c.state != nil {
					s.f.Do(func() { c.state(s) })
				}
				got, err := s.planned(t, c.observed, c.later)
				if err != nil {
					t.Fatal(err)
				}
				if got != c.want {
					t.Errorf("the plan is\n%s\nwant\n%s", got, c.want)
				}
			})
		})
	}
}

// What is not ours is left alone, and the error says what it is and what to do.
func TestNodePlanRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		fresh bool
		state func(s *state)
		says  []string
	}{
		"another cluster's host": {
			state: func(s *state) { remark(s.m, func(m *patroni.Marker) { m.Scope, m.Node = "other", "db.one" }) },
			says:  []string{"host pg2", `the cluster "other"`, "in the configuration that made it"},
		},
		"another namespace": {
			state: func(s *state) { remark(s.m, func(m *patroni.Marker) { m.Namespace = "/db/" }) }, says: []string{"host pg2", "belongs to the cluster"},
		},
		"another node's host": {
			state: func(s *state) { remark(s.m, func(m *patroni.Marker) { m.Node = "pg9" }) }, says: []string{`the node "pg9" of the cluster, not "pg2"`},
		},
		"another data directory": {
			state: func(s *state) { s.n.DataDir = "/srv/pg" }, says: []string{"data is in /var/lib/postgresql/17/main, and /srv/pg is wanted"},
		},
		"somebody's Patroni runs": {
			state: func(s *state) { s.m.Files.Remove(patroni.MarkerPath) }, says: []string{"a Patroni that is not ours is running"},
		},
		"somebody's data": {
			fresh: true, state: func(s *state) { s.m.Files.Put(s.n.DataDir+"/PG_VERSION", fakehost.File{}) }, says: []string{"is not empty", "does not say whose it is"},
		},
		"a file where the data should be": {
			fresh: true, state: func(s *state) { s.m.Files.Text(s.n.DataDir, "x") }, says: []string{"is not a directory"},
		},
		"Debian's own cluster": {
			fresh: true, state: func(s *state) { s.m.Files.Put("/etc/postgresql/17/main/postgresql.conf", fakehost.File{}) },
			says: []string{"Debian's own PostgreSQL cluster 17/main", "an apply never removes it", "pg_dropcluster --stop 17 main"},
		},
		"Debian's own cluster of another version on the port": {
			fresh: true, state: func(s *state) { s.m.Files.Put("/etc/postgresql/15/main/postgresql.conf", fakehost.File{}) },
			says: []string{"Debian's own PostgreSQL cluster 15/main", "port 5432"},
		},
		"a disk that is too small": {
			fresh: true, state: func(s *state) { s.m.DiskKiB = 100 << 10 }, says: []string{"/ has only 100 MiB free of the 256 MiB", "where /var/lib/postgresql/17/main is to be"},
		},
		"a read-only disk": {
			fresh: true, state: func(s *state) { s.m.ReadOnly = true }, says: []string{"read-only", "where /var/lib/postgresql/17/main is to be"},
		},
		"a port in use": {
			fresh: true, state: func(s *state) { s.m.Ports[8008] = "haproxy" }, says: []string{"port 8008 (rest_api_port) is in use", "haproxy"},
		},
		"a name that differs in punctuation only": {
			fresh: true, state: func(s *state) { s.known.Nodes["PG-2"] = patroni.NodeRecord{}; s.n.Name = "pg.2" },
			says: []string{`the nodes "pg.2" and "PG-2" would share the replication slot`},
		},
		"a name that runs elsewhere": {
			fresh: true, state: func(s *state) {
				s.known.Nodes["pg2"] = patroni.NodeRecord{MachineID: "another", Address: "10.0.0.9"}
				s.known.Members["pg2"] = patroni.Member{}
			},
			says: []string{`a running node "pg2" on another machine, at 10.0.0.9`},
		},
		"another major version": {
			fresh: true, state: func(s *state) { s.known.Nodes["pg1"] = patroni.NodeRecord{Major: 16} }, says: []string{"PostgreSQL 17 is wanted here", `node "pg1" has 16`},
		},
		"another release of Debian": {
			fresh: true, state: func(s *state) { s.known.Nodes["pg1"] = patroni.NodeRecord{Major: 17, Codename: "bookworm"} },
			says: []string{`Debian "trixie"`, `node "pg1" runs "bookworm"`, "corrupt"},
		},
		"a version for a running node that no repository has": {
			state: func(s *state) { s.n.Postgres = "17.99" }, says: []string{"postgresql-17", "17.99", "17.12-0+deb13u1"},
		},
		"a version that no repository has": {
			fresh: true, state: func(s *state) { s.n.Patroni = "9.9.9" }, says: []string{"patroni", "9.9.9", "4.1.5"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			withState(t, !c.fresh, func(t *testing.T, s *state) {
				s.f.Do(func() { c.state(s) })
				plan, err := s.planned(t, false, 0)
				if err == nil {
					t.Fatalf("there is a plan: %s", plan)
				}
				all := err.Error() + "\n" + problem.Details(err)
				for _, part := range c.says {
					if !strings.Contains(all, part) {
						t.Errorf("the error does not say %q:\n%s", part, all)
					}
				}
			})
		})
	}
}

// Destroying keeps the data unless it is told not to.
func TestNodeDestroyPlan(t *testing.T) {
	for name, c := range map[string]struct {
		state func(s *state)
		purge bool
		want  string
	}{
		"keep":              {want: "handover, stop, forget, unhold, mark"},
		"purge":             {purge: true, want: "handover, stop, forget, unhold, purge.data, purge.files, unmark"},
		"stopped already":   {state: func(s *state) { u := s.m.Units[patroni.Unit]; u.PID, u.Active = 0, "inactive" }, want: "stop, forget, unhold, mark"},
		"nothing installed": {state: func(s *state) { delete(s.m.Units, patroni.Unit) }, want: "forget, unhold, mark"},
	} {
		t.Run(name, func(t *testing.T) {
			withState(t, true, func(t *testing.T, s *state) {
				if c.state != nil {
					s.f.Do(func() { c.state(s) })
				}
				p := s.f.Start("planner")
				facts, err := patroni.ProbeNode(t.Context(), p.Host(s.n.Target), s.n)
				if err != nil {
					t.Fatal(err)
				}
				plan := patroni.NodeDestroyPlan(s.n, facts, c.purge, &patroni.Doer{Fleet: p, Log: p.Log}).String()
				if got := strings.ReplaceAll(strings.ReplaceAll(plan, "@pg2", ""), "patroni.", ""); got != c.want {
					t.Errorf("the plan is\n%s\nwant\n%s", got, c.want)
				}
			})
		})
	}
}
