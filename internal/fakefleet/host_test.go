package fakefleet_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/prepare"
)

// hostSpec changes everything that can be changed on a host.
func hostSpec(m *fakehost.Machine) prepare.Spec {
	return prepare.Spec{
		Target:    fakefleet.Target(m),
		Preflight: prepare.Preflight{Enforce: prepare.EnforceError, CPUs: 1, DiskPath: "/var/lib", MaxClockSkew: time.Second, MaxLookup: time.Second, Ports: []int64{5432}},
		Apt: prepare.Apt{Manage: true, Proxy: "http://proxy.example.test:3128", Repositories: map[string]prepare.Repository{
			"pgdg": {URIs: []string{"https://apt.example.test"}, Suites: []string{"trixie-pgdg"}, Components: []string{"main"}, SigningKey: "a key"},
		}},
		Sysctl: map[string]string{"vm.swappiness": "1", "vm.dirty_bytes": "1073741824"}, NoFile: 65536,
		InstallChrony: true, CheckTime: true, Hosts: map[string]string{"db.example.test": "10.0.0.9"},
	}
}

// bare makes the fleet's first host one that nothing keeps the time of, with
// package lists that are older than the repository.
func bare(f *fakefleet.Fleet) *fakehost.Machine {
	m := f.Host(1)
	f.Do(func() {
		m.TimeService, m.Synchronized = "", false
		m.Publish(false, "new-package", "1")
	})
	return m
}

// looks is all of a host that a person would look at.
func looks(f *fakefleet.Fleet, m *fakehost.Machine) map[string]string {
	state := map[string]string{}
	f.Do(func() {
		for _, p := range m.Files.Paths() {
			if n := m.Files.Get(p); n.Type != fakehost.Dir && !strings.HasPrefix(p, "/run/") {
				state[p] = fmt.Sprint(n.Type, " ", n.Owner, " ", n.Mode, " ", string(n.Content))
			}
		}
		for k, v := range m.Sysctl {
			state["sysctl "+k] = v
		}
		state["lists"] = fmt.Sprint(m.Lists["new-package"])
		state["chrony"] = m.Installed("chrony")
		if u := m.Units["chrony.service"]; u != nil {
			state["chrony.service"] = u.Enabled + " " + u.Active
		}
	})
	return state
}

// A host is prepared once; the second run does nothing, and destroying brings
// it back to what it was.
func TestPrepareAndBack(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		m := bare(f)
		before := looks(f, m)
		if _, err := f.Start("first").HostManager().Apply(patient(t), hostSpec(m)); err != nil {
			t.Fatal(err)
		}
		second := f.Start("second")
		if _, err := second.HostManager().Apply(patient(t), hostSpec(m)); err != nil {
			t.Fatal(err)
		}
		if steps := second.Steps(); len(steps) > 0 {
			t.Errorf("applying again had steps: %v", steps)
		}
		if err := f.Start("third").HostManager().Destroy(patient(t), hostSpec(m)); err != nil {
			t.Fatal(err)
		}
		after := looks(f, m)
		for _, m := range []map[string]string{before, after} {
			delete(m, "lists") // renewed lists stay
		}
		if d := cmp.Diff(before, after); d != "" {
			t.Errorf("the host is not as it was (-before +after):\n%s", d)
		}
	})
}

// Whenever the provider is killed while it prepares a host, a second run makes
// it what an undisturbed one makes it, and destroying brings it back.
func TestCrashDuringPrepare(t *testing.T) {
	var want, pristine map[string]string
	total := 0
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		m := bare(f)
		pristine = looks(f, m)
		p := f.Start("first")
		if _, err := p.HostManager().Apply(patient(t), hostSpec(m)); err != nil {
			t.Fatal(err)
		}
		want, total = looks(f, m), p.Mutations()
	})
	delete(pristine, "lists")
	for k := 1; k <= total; k++ {
		for name, fault := range map[string]fakehost.Fault{"before": fakehost.CrashBefore(k), "after": fakehost.CrashAfter(k)} {
			t.Run(fmt.Sprintf("%s change %d", name, k), func(t *testing.T) {
				bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
					m := bare(f)
					if _, err := f.Start("first", fault).HostManager().Apply(patient(t), hostSpec(m)); err == nil {
						t.Fatal("the run that was killed reports success")
					}
					f.Sleep(time.Minute)
					if _, err := f.Start("second").HostManager().Apply(patient(t), hostSpec(m)); err != nil {
						t.Fatal(err)
					}
					if d := cmp.Diff(want, looks(f, m)); d != "" {
						t.Errorf("(-undisturbed +resumed):\n%s", d)
					}
				})
				bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
					m := bare(f)
					_, _ = f.Start("first", fault).HostManager().Apply(patient(t), hostSpec(m))
					f.Sleep(time.Minute)
					if err := f.Start("destroyer").HostManager().Destroy(patient(t), hostSpec(m)); err != nil {
						t.Fatal(err)
					}
					after := looks(f, m)
					delete(after, "lists")
					if d := cmp.Diff(pristine, after); d != "" {
						t.Errorf("destroyed (-before +after):\n%s", d)
					}
				})
			})
		}
	}
}

// What was changed on a prepared host by hand is shown, and put right.
func TestPrepareDrift(t *testing.T) {
	for _, d := range []drift{
		{"repository edited", edited("/etc/apt/sources.list.d/pgha-pgdg.sources"), "pgha-pgdg.sources", nil},
		{"key removed", removed("/etc/apt/keyrings/pgha-pgdg.asc"), "pgha-pgdg.asc", nil},
		{"kernel settings edited", edited("/etc/sysctl.d/90-pgha.conf"), "set kernel settings", nil},
		{"limits readable by root only", chmodded("/etc/security/limits.d/90-pgha.conf", "600"), "90-pgha.conf", nil},
		{"names lost", func(_ *fakefleet.Fleet, m *fakehost.Machine) { m.Files.Text("/etc/hosts", "127.0.0.1\tlocalhost\n") }, "/etc/hosts", nil},
	} {
		t.Run(d.name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
				m := bare(f)
				if _, err := f.Start("first").HostManager().Apply(patient(t), hostSpec(m)); err != nil {
					t.Fatal(err)
				}
				f.Do(func() { d.change(f, m) })
				o, err := f.Start("reader").HostManager().Observed(patient(t), hostSpec(m))
				if err != nil || o.Absent || !strings.Contains(strings.Join(o.Drift, "\n"), d.shown) {
					t.Errorf("the drift is not shown: %q, %v", o.Drift, err)
				}
				if n := len(f.Mutations("reader")); n > 0 {
					t.Errorf("reading changed something: %v", f.Mutations("reader"))
				}
				if _, err := f.Start("repairer").HostManager().Apply(patient(t), hostSpec(m)); err != nil {
					t.Fatal(err)
				}
				if o, err := f.Start("again").HostManager().Observed(patient(t), hostSpec(m)); err != nil || len(o.Drift) > 0 {
					t.Errorf("drift is left: %q, %v", o.Drift, err)
				}
			})
		})
	}
}

// What is changed in the configuration is changed on the host, and what is taken
// out of it is undone there: no more and no less than the first run would do.
func TestPrepareChange(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		m := bare(f)
		if _, err := f.Start("first").HostManager().Apply(patient(t), hostSpec(m)); err != nil {
			t.Fatal(err)
		}
		s := hostSpec(m)
		s.Sysctl = map[string]string{"vm.swappiness": "10"}
		s.Apt.Repositories, s.Apt.Proxy, s.NoFile = nil, "", 0
		s.Hosts = map[string]string{"other.example.test": "10.0.0.8"}
		if _, err := f.Start("changer").HostManager().Apply(patient(t), s); err != nil {
			t.Fatal(err)
		}
		f.Do(func() {
			want := map[string]string{"vm.swappiness": "10", "vm.dirty_bytes": "0", "vm.dirty_background_bytes": "0"}
			if d := cmp.Diff(want, maps.Clone(m.Sysctl)); d != "" {
				t.Errorf("kernel settings (-want +got):\n%s", d)
			}
			for _, p := range []string{"/etc/apt/sources.list.d/pgha-pgdg.sources", "/etc/apt/keyrings/pgha-pgdg.asc", "/etc/apt/apt.conf.d/90pgha", "/etc/security/limits.d/90-pgha.conf"} {
				if m.Files.Get(p) != nil {
					t.Errorf("%s is left", p)
				}
			}
			if text := string(m.Files.Read("/etc/hosts")); strings.Contains(text, "db.example.test") || !strings.Contains(text, "10.0.0.8\tother.example.test") || !strings.Contains(text, "localhost") {
				t.Errorf("/etc/hosts:\n%s", text)
			}
		})
	})
}

// A host that does not meet the thresholds is left alone, and every finding is
// named.
func TestPrepareFindings(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		m := bare(f)
		f.Do(func() {
			m.OS.CPUs, m.Skew, m.LookupTime, m.Ports[5432] = 1, time.Minute, 10*time.Second, "postgres"
		})
		s := hostSpec(m)
		s.Preflight.CPUs = 2
		p := f.Start("first")
		_, err := p.HostManager().Apply(patient(t), s)
		wantError(t, err, "min_cpus", "max_clock_skew", "max_lookup", "free_ports")
		if p.Mutations() > 0 {
			t.Errorf("changes were made: %v", f.Mutations("first"))
		}
		s.Preflight.Enforce = prepare.EnforceWarn
		a, err := f.Start("second").HostManager().Apply(patient(t), s)
		if err != nil || len(a.Warnings) != 4 {
			t.Errorf("warnings %q, %v", a.Warnings, err)
		}
	})
}

// A host is not put back to what it was while another apply prepares it.
func TestPrepareLocksHost(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		m := bare(f)
		slow := f.Start("alice", fakehost.FailCall(fakehost.Named("apt.install", ""), -1, fakehost.Verdict{Slow: 10 * time.Minute}))
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := slow.HostManager().Apply(patient(t), hostSpec(m)); err != nil {
				t.Errorf("alice: %v", err)
			}
		})
		f.Sleep(30 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := f.Start("bob").HostManager().Destroy(ctx, hostSpec(m))
		wantError(t, err, "another apply is at work", "alice")
		if changes := f.Mutations("bob"); len(changes) > 0 {
			t.Errorf("bob changed something: %v", changes)
		}
		wg.Wait()
	})
}

// An unreachable host is unreachable, never gone: no manager calls anything
// absent that it could not ask, and destroying it fails.
func TestUnreachableIsNotAbsent(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		m := f.Host(2)
		s := hostSpec(m)
		s.Preflight.Ports = nil // PostgreSQL has its port by now
		if _, err := f.Start("preparer").HostManager().Apply(patient(t), s); err != nil {
			t.Fatal(err)
		}
		f.Do(func() { m.Cut = true })
		p := f.Start("reader")
		if o, err := p.HostManager().Observed(patient(t), hostSpec(m)); !host.Unreachable(err) || o.Absent {
			t.Errorf("host: %+v, %v", o.Absent, err)
		}
		if o, err := p.PatroniManager().ObserveNode(patient(t), f.Node(m, uid)); !host.Unreachable(err) || o.Absent {
			t.Errorf("node: %+v, %v", o.Absent, err)
		}
		o, err := p.EtcdManager().Observed(patient(t), f.EtcdSpec())
		if err != nil || o.Absent || o.Unreachable["pg2"] == nil {
			t.Errorf("etcd: %+v, %v", o, err)
		}
		if o, err := p.PatroniManager().ObserveCluster(patient(t), f.ClusterSpec().Cluster, nil); err != nil || o.Absent {
			t.Errorf("cluster: %v, %v", o.Absent, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		for name, err := range map[string]error{
			"host": p.HostManager().Destroy(ctx, hostSpec(m)),
			"node": p.PatroniManager().DestroyNode(ctx, f.Node(m, uid), false),
		} {
			if !host.Unreachable(err) {
				t.Errorf("destroying the %s: %v", name, err)
			}
		}
		if n := p.Mutations(); n > 0 {
			for _, c := range f.Mutations("reader") {
				if c.Kind != "etcd" { // the cluster's lock
					t.Errorf("something was changed: %s", c)
				}
			}
		}

		// With nobody there at all nothing is known.
		for _, m := range f.Machines() {
			f.Do(func() { m.Cut = true })
		}
		if o, err := p.PatroniManager().ObserveCluster(ctx, f.ClusterSpec().Cluster, nil); err == nil || o.Absent || errors.Is(err, context.Canceled) {
			t.Errorf("cluster: %v, %v", o.Absent, err)
		}
		if o, err := p.EtcdManager().Observed(ctx, f.EtcdSpec()); o.Absent {
			t.Errorf("etcd: %+v, %v", o, err)
		}
	})
}
