package prepare_test

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/prepare"
)

// one runs a test with a host.
func one(t *testing.T, test func(t *testing.T, f *fakefleet.Fleet, m *fakehost.Machine)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := fakefleet.New(t, fakefleet.Config{Hosts: 1})
		test(t, f, f.Host(1))
	})
}

func spec(m *fakehost.Machine) prepare.Spec {
	return prepare.Spec{Target: fakefleet.Target(m), Preflight: prepare.Preflight{
		Enforce: prepare.EnforceError, CPUs: 2, Memory: 2 << 30, Disk: 10 << 30, DiskPath: "/var/lib/postgresql",
		MaxClockSkew: time.Second, MaxLookup: 2 * time.Second, Ports: []int64{5432, 8008},
	}}
}

// State in, steps out. Before is what was applied earlier, if anything was.
func TestPlan(t *testing.T) {
	pool := prepare.Apt{Manage: true, Repositories: map[string]prepare.Repository{"pool": {URIs: []string{"file:/pool"}, Suites: []string{"./"}}}}
	swap := map[string]string{"vm.swappiness": "1"}
	for name, c := range map[string]struct {
		before, wanted func(*prepare.Spec)
		state          func(*fakehost.Machine)
		want           string
	}{
		"nothing is asked for": {want: "host.mark@pg1"},
		"a repository":         {wanted: func(s *prepare.Spec) { s.Apt = pool }, want: "host.mark@pg1, host.file@pg1, host.lists@pg1, host.mark.rest@pg1"},
		"kernel settings":      {wanted: func(s *prepare.Spec) { s.Sysctl = swap }, want: "host.mark@pg1, host.file@pg1, host.sysctl@pg1, host.mark.rest@pg1"},
		"limits":               {wanted: func(s *prepare.Spec) { s.NoFile = 1 << 16 }, want: "host.mark@pg1, host.file@pg1"},
		"names":                {wanted: func(s *prepare.Spec) { s.Hosts = map[string]string{"db": "10.9.9.9"} }, want: "host.mark@pg1, host.hosts@pg1"},
		"a time service, and there is one": {
			wanted: func(s *prepare.Spec) { s.InstallChrony = true }, want: "host.mark@pg1",
		},
		"a time service, and there is none": {
			wanted: func(s *prepare.Spec) { s.InstallChrony = true }, state: func(m *fakehost.Machine) { m.TimeService = "" },
			want: "host.mark@pg1, host.chrony@pg1, host.chrony.start@pg1, host.mark.rest@pg1",
		},
		"a guard that was left behind": {
			state: func(m *fakehost.Machine) {
				m.Files.Text("/usr/sbin/policy-rc.d", "#!/bin/sh\n# pgha: keeps dpkg from starting or restarting services while packages are installed\nexit 101\n")
			},
			want: "host.mark@pg1, host.guard@pg1",
		},
		"all is there": {
			before: func(s *prepare.Spec) { s.Apt, s.Sysctl, s.NoFile = pool, swap, 1<<16 },
			wanted: func(s *prepare.Spec) { s.Apt, s.Sysctl, s.NoFile = pool, swap, 1<<16 }, want: "",
		},
		"the repository goes": {
			before: func(s *prepare.Spec) { s.Apt, s.NoFile = pool, 1<<16 },
			wanted: func(s *prepare.Spec) { s.NoFile = 1 << 16 }, want: "host.mark@pg1, host.file.remove@pg1, host.lists@pg1, host.mark.rest@pg1",
		},
		"the kernel settings go": {
			before: func(s *prepare.Spec) { s.Sysctl = swap }, want: "host.file.remove@pg1, host.sysctl@pg1, host.mark.rest@pg1",
		},
		"the names go": {
			before: func(s *prepare.Spec) { s.Hosts = map[string]string{"db": "10.9.9.9"} }, want: "host.hosts@pg1, host.mark.rest@pg1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			one(t, func(t *testing.T, f *fakefleet.Fleet, m *fakehost.Machine) {
				if c.before != nil {
					s := spec(m)
					c.before(&s)
					if _, err := f.Start("before").HostManager().Apply(t.Context(), s); err != nil {
						t.Fatal(err)
					}
				}
				if c.state != nil {
					f.Do(func() { c.state(m) })
				}
				s := spec(m)
				if c.wanted != nil {
					c.wanted(&s)
				}
				h := f.Start("planner").Host(s.Target)
				facts, err := prepare.Probe(t.Context(), h, s)
				if err != nil {
					t.Fatal(err)
				}
				if got := prepare.Plan(s, facts, h, slog.New(slog.DiscardHandler)).String(); got != c.want {
					t.Errorf("the plan is\n%s\nwant\n%s", got, c.want)
				}
			})
		})
	}
}

// Each threshold, one at a time: what is found and what is needed.
func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		state func(*fakehost.Machine)
		spec  func(*prepare.Spec)
		says  []string // nothing: no finding
		soft  bool
	}{
		"a good host":      {},
		"another system":   {state: func(m *fakehost.Machine) { m.OS.ID, m.OS.Pretty = "ubuntu", "Ubuntu 24.04" }, says: []string{"Ubuntu 24.04", "Debian 12 or 13"}},
		"an old system":    {state: func(m *fakehost.Machine) { m.OS.Version = "11" }, says: []string{"debian 11", "Debian 12 or 13"}},
		"no systemd":       {state: func(m *fakehost.Machine) { m.OS.Init = "runit" }, says: []string{`"runit" as process 1`, "systemd"}},
		"few CPUs":         {state: func(m *fakehost.Machine) { m.OS.CPUs = 1 }, says: []string{"1 CPUs", "at least 2 (preflight.min_cpus)"}},
		"little memory":    {state: func(m *fakehost.Machine) { m.OS.MemoryKiB = 1 << 20 }, says: []string{"1024 MiB of memory", "at least 2048 MiB (preflight.min_memory)"}},
		"a full disk":      {state: func(m *fakehost.Machine) { m.DiskKiB = 5 << 20 }, says: []string{"5120 MiB free on /", "at least 10 GiB for /var/lib/postgresql (preflight.min_disk)"}},
		"a read-only disk": {state: func(m *fakehost.Machine) { m.ReadOnly = true }, says: []string{"/var/lib read-only"}},
		"a clock ahead":    {state: func(m *fakehost.Machine) { m.Skew = 90 * time.Second }, says: []string{"1m30s ahead", "at most 1s apart (preflight.max_clock_skew)"}},
		"a clock behind":   {state: func(m *fakehost.Machine) { m.Skew = -2 * time.Second }, says: []string{"2s behind"}},
		"a slow resolver":  {state: func(m *fakehost.Machine) { m.LookupTime = 10 * time.Second }, says: []string{"took 10s", "preflight.max_lookup", "hosts_entries"}},
		"a port in use":    {state: func(m *fakehost.Machine) { m.Ports[8008] = "haproxy" }, says: []string{"port 8008 in use", "haproxy", "preflight.free_ports"}},
		"Debian's etcd":    {spec: func(s *prepare.Spec) { s.Preflight.Ports = []int64{2379} }, state: func(m *fakehost.Machine) { m.Ports[2379] = "etcd" }, says: []string{"port 2379 in use", "systemctl disable --now etcd"}},
		"nobody keeps the time": {
			state: func(m *fakehost.Machine) { m.TimeService, m.Synchronized = "", false }, spec: func(s *prepare.Spec) { s.CheckTime = true },
			says: []string{"nothing that keeps the clock right"}, soft: true,
		},
		"a hypervisor keeps the time": {
			state: func(m *fakehost.Machine) { m.TimeService = "" }, spec: func(s *prepare.Spec) { s.CheckTime = true },
		},
		"all is wrong, and nobody cares": {
			state: func(m *fakehost.Machine) { m.OS.ID, m.OS.CPUs, m.DiskKiB = "arch", 0, 0 },
			spec:  func(s *prepare.Spec) { s.Preflight.Enforce = prepare.EnforceOff },
		},
	} {
		t.Run(name, func(t *testing.T) {
			one(t, func(t *testing.T, f *fakefleet.Fleet, m *fakehost.Machine) {
				s := spec(m)
				if c.spec != nil {
					c.spec(&s)
				}
				if c.state != nil {
					f.Do(func() { c.state(m) })
				}
				facts, err := prepare.Probe(t.Context(), f.Start("reader").Host(s.Target), s)
				if err != nil {
					t.Fatal(err)
				}
				found := s.Check(facts.Facts)
				if len(c.says) == 0 {
					if len(found) > 0 {
						t.Errorf("findings: %v", found)
					}
					return
				}
				if len(found) != 1 || found[0].Soft != c.soft || found[0].Host != "pg1" {
					t.Fatalf("findings: %+v", found)
				}
				for _, part := range c.says {
					if text := found[0].String(); !strings.Contains(text, part) {
						t.Errorf("the finding does not say %q: %s", part, text)
					}
				}
			})
		})
	}
}

// The ports of a host that is ours already are its own.
func TestPortsOfOurHost(t *testing.T) {
	one(t, func(t *testing.T, f *fakefleet.Fleet, m *fakehost.Machine) {
		if _, err := f.Start("before").HostManager().Apply(t.Context(), spec(m)); err != nil {
			t.Fatal(err)
		}
		f.Do(func() { m.Ports[5432] = "postgres" })
		a, err := f.Start("again").HostManager().Apply(t.Context(), spec(m))
		if err != nil || len(a.Warnings) > 0 {
			t.Errorf("%v, %q", err, a.Warnings)
		}
	})
}
