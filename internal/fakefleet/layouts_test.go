package fakefleet_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// layout is how somebody else lays etcd out on a host.
type layout struct {
	name  string
	bin   string // folder of the program
	data  string
	tls   bool
	unit  string
	files func(m *fakehost.Machine, peers string) map[string]string
	spec  func(s *etcd.Spec) // what the configuration has to say
}

const foreignVersion = "3.5.27"

// autobase keeps the settings in a file of variables, and has a shell start a
// program that is of no package.
var autobase = layout{
	name: "Autobase", bin: "/usr/local/bin", data: "/var/lib/etcd",
	unit: `[Service]
Type=notify
EnvironmentFile=-/etc/etcd/etcd.conf
User=etcd
ExecStart=/bin/bash -c "GOMAXPROCS=$(nproc) /usr/local/bin/etcd"
Restart=on-failure
[Install]
WantedBy=multi-user.target
`,
	files: func(m *fakehost.Machine, peers string) map[string]string {
		return map[string]string{"/etc/etcd/etcd.conf": fmt.Sprintf(`ETCD_NAME="%[1]s"
ETCD_LISTEN_CLIENT_URLS="http://%[2]s:2379,http://127.0.0.1:2379"
ETCD_ADVERTISE_CLIENT_URLS="http://%[2]s:2379"
ETCD_LISTEN_PEER_URLS="http://%[2]s:2380"
ETCD_INITIAL_ADVERTISE_PEER_URLS="http://%[2]s:2380"
ETCD_INITIAL_CLUSTER_TOKEN="theirs"
ETCD_INITIAL_CLUSTER="%[3]s"
ETCD_INITIAL_CLUSTER_STATE="new"
ETCD_DATA_DIR="/var/lib/etcd"
ETCD_ELECTION_TIMEOUT="5000"
ETCD_HEARTBEAT_INTERVAL="1000"
ETCD_INITIAL_ELECTION_TICK_ADVANCE="false"
ETCD_AUTO_COMPACTION_RETENTION="1"
`, m.Name, m.Address, peers)}
	},
	spec: func(s *etcd.Spec) { s.Heartbeat, s.Election = time.Second, 5*time.Second },
}

// pigsty has a configuration file, of which etcd says that nothing else counts. What
// there is in the environment was of no account, and has to stay so.
var pigsty = layout{
	name: "Pigsty", bin: "/usr/bin", data: "/data/etcd",
	unit: `[Service]
Type=notify
WorkingDirectory=/data/etcd
User=etcd
Environment=ETCD_QUOTA_BACKEND_BYTES=17
Environment=ETCD_SNAPSHOT_COUNT=4711
ExecStart=/usr/bin/etcd --config-file /etc/etcd/etcd.conf
Restart=on-failure
[Install]
WantedBy=multi-user.target
`,
	files: func(m *fakehost.Machine, peers string) map[string]string {
		return map[string]string{"/etc/etcd/etcd.conf": fmt.Sprintf(`# theirs
name: %[1]s
data-dir: /data/etcd
initial-cluster-token: "theirs"
initial-cluster-state: "new"
initial-cluster: "%[3]s"
initial-advertise-peer-urls: "http://%[2]s:2380"
listen-peer-urls: "http://%[2]s:2380"
listen-client-urls: "http://%[2]s:2379,http://127.0.0.1:2379"
advertise-client-urls: "http://%[2]s:2379"
election-timeout: 1500
heartbeat-interval: 150
quota-backend-bytes: 8589934592
auto-compaction-mode: periodic
auto-compaction-retention: "24h"
initial-election-tick-advance: no
client-transport-security:
  client-cert-auth: false
peer-transport-security:
`, m.Name, m.Address, peers)}
	},
	spec: func(s *etcd.Spec) {
		s.Heartbeat, s.Election = 150*time.Millisecond, 1500*time.Millisecond
		s.QuotaBytes, s.CompactionRetention = 8<<30, 24*time.Hour
	},
}

var layouts = []layout{autobase, pigsty, secured(autobase), secured(pigsty)}

// laid runs a test on a cluster in somebody else's layout, which runs. The spec is
// what a configuration says that describes it.
func laid(t *testing.T, seed uint64, l layout, test func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec)) {
	t.Helper()
	keysOfTheirs() // before time stands still
	bubble(t, seed, func(t *testing.T, f *fakefleet.Fleet) {
		s := f.EtcdSpec()
		s.Version, s.TLS, s.Auth = foreignVersion, l.tls, false
		scheme := map[bool]string{true: "https://", false: "http://"}[l.tls]
		l.spec(&s)
		f.Do(func() {
			var peers []string
			for _, m := range f.Machines() {
				peers = append(peers, m.Name+"="+scheme+m.Address+":2380")
			}
			for _, m := range f.Machines() {
				f.Etcd.ByHand(m, l.bin, foreignVersion, l.unit, l.files(m, strings.Join(peers, ",")))
				m.Files.Put(l.data, fakehost.File{Type: fakehost.Dir, Owner: "etcd", Group: "etcd", Mode: "700"})
				m.Files.Put(l.data+"/theirs", fakehost.File{Content: []byte("something else of theirs")})
				m.Units["etcd.service"].Elapse()
			}
		})
		f.WaitFor("their cluster", func() bool {
			stores := f.Etcd.Stores()
			return len(stores) == 1 && len(stores[0].Running()) == 3 && stores[0].Leader() != ""
		})
		f.Settle()
		test(t, f, s)
	})
}

func discover(t *testing.T, f *fakefleet.Fleet, process string) (etcd.Spec, error) {
	t.Helper()
	p := f.Start(process)
	found, err := p.EtcdManager().Discover(patient(t), "dcs", f.EtcdSpec().Members)
	if n := p.Mutations(); n > 0 {
		t.Errorf("looking made %d changes", n)
	}
	return found, err
}

// pids are the processes of etcd, by host.
func pids(f *fakefleet.Fleet) map[string]int {
	all := map[string]int{}
	f.Do(func() {
		for _, m := range f.Machines() {
			all[m.Name] = m.Units["etcd.service"].PID
		}
	})
	return all
}

// undrifted checks that a cluster is as the spec says, and that another apply does
// nothing.
func undrifted(t *testing.T, f *fakefleet.Fleet, s etcd.Spec, process string) {
	t.Helper()
	p := f.Start(process)
	o, err := p.EtcdManager().Observed(patient(t), s)
	if err != nil || o.Absent || len(o.Drift) > 0 {
		t.Errorf("observed %+v, %v", o, err)
	}
	for _, name := range s.Names() {
		if o.Versions[name] != foreignVersion {
			t.Errorf("%s is said to run %q", name, o.Versions[name])
		}
	}
}

// ours checks what an apply has left on the hosts: nothing of Debian's packages,
// their program, their data.
func ours(t *testing.T, f *fakefleet.Fleet, l layout) {
	t.Helper()
	f.Do(func() {
		stores := f.Etcd.Stores()
		if len(stores) != 1 || len(stores[0].Running()) != 3 {
			t.Fatalf("%d clusters", len(stores))
		}
		for _, m := range f.Machines() {
			if m.Installed("etcd-server") != "" || m.Installed("etcd-client") != "" || len(m.Held()) > 0 {
				t.Errorf("packages were installed or held on %s", m.Name)
			}
			if len(m.Lists) != len(m.Repository) {
				t.Errorf("the package lists of %s were touched", m.Name)
			}
			if m.Files.Get(l.data+"/member") == nil || m.Files.Get("/var/lib/etcd/dcs") != nil {
				t.Errorf("the data of %s is not where it was", m.Name)
			}
		}
	})
}

// A cluster in another tool's layout is taken up: its own process says what it is,
// nothing is restarted or written, and a configuration that says the same has an
// empty plan. Then a setting is changed, one member at a time, the leader last, and
// nothing is installed for it.
func TestLayouts(t *testing.T) {
	for _, l := range layouts {
		for seed := range uint64(4) {
			t.Run(fmt.Sprint(l.name, seed), func(t *testing.T) {
				t.Parallel()
				laid(t, seed+1, l, func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) {
					before := pids(f)
					found, err := discover(t, f, "importer")
					if err != nil {
						t.Fatal(details(err))
					}
					s.UID = found.UID
					if found.Version != s.Version || found.Heartbeat != s.Heartbeat || found.Election != s.Election || found.QuotaBytes != s.QuotaBytes ||
						found.CompactionRetention != s.CompactionRetention || found.TLS != l.tls || found.Auth || found.ClientPort != 2379 || !found.Adopted() {
						t.Errorf("found %+v", found)
					}
					undrifted(t, f, s, "reader")

					// Marks come with the first apply, and no restart.
					if _, err := f.Start("marker").EtcdManager().Apply(patient(t), s); err != nil {
						t.Fatal(details(err))
					}
					if now := pids(f); !maps.Equal(now, before) {
						t.Errorf("restarted: %v, were %v", now, before)
					}
					undrifted(t, f, s, "second")
					ours(t, f, l)
					if again, err := discover(t, f, "again"); err != nil || again.UID != s.UID || again.Version != s.Version || again.QuotaBytes != s.QuotaBytes {
						t.Errorf("afterwards it is found as %+v, %v", again, err)
					}

					s.QuotaBytes = 4 << 30
					lead := ""
					f.Do(func() { lead = f.Etcd.Stores()[0].Leader() })
					if _, err := f.Start("changer").EtcdManager().Apply(patient(t), s); err != nil {
						t.Fatal(details(err))
					}
					if order := restarts(f, "changer"); len(order) != 3 || order[2] != lead {
						t.Errorf("restarted %v, the leader was %s", order, lead)
					}
					undrifted(t, f, s, "third")
					ours(t, f, l)
					f.Do(func() {
						// What was changed is another, what was not is as it was, and what was of
						// no account still is.
						for variable, want := range map[string]string{
							"ETCD_QUOTA_BACKEND_BYTES": "4294967296", "ETCD_INITIAL_ELECTION_TICK_ADVANCE": "false", "ETCD_DATA_DIR": l.data, "ETCD_SNAPSHOT_COUNT": "", "ETCD_CONFIG_FILE": "",
							"ETCD_HEARTBEAT_INTERVAL": fmt.Sprint(s.Heartbeat.Milliseconds()),
						} {
							for name, got := range f.Etcd.Stores()[0].Settings(variable) {
								if got != want {
									t.Errorf("%s runs with %s=%q", name, variable, got)
								}
							}
						}
					})
					idle := f.Start("idle")
					if _, err := idle.EtcdManager().Apply(patient(t), s); err != nil {
						t.Error(err)
					}
					for _, m := range f.Mutations("idle") {
						t.Errorf("applying again did something: %s", m)
					}
				})
			})
		}
	}
}

// What Debian's packages would have is refused for another program, with the way.
func TestLayoutRefusals(t *testing.T) {
	laid(t, 1, autobase, func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) {
		found, err := discover(t, f, "importer")
		if err != nil {
			t.Fatal(err)
		}
		s.UID = found.UID
		for _, marked := range []string{"before", "after"} {
			other := s
			other.Version = newerEtcd
			p := f.Start("refused " + marked)
			_, err = p.EtcdManager().Preview(patient(t), other, s.UID)
			wantError(t, err, "/usr/local/bin/etcd in version 3.5.27", "only the package can be upgraded")
			if !errors.As(err, new(*etcd.VersionError)) {
				t.Errorf("%T is no refused version", err)
			}
			if _, err = p.EtcdManager().Apply(patient(t), other); !errors.As(err, new(*etcd.VersionError)) {
				t.Errorf("applied: %v", err)
			}
			if restarts(f, p.Name) != nil {
				t.Error("a member was restarted")
			}
			if _, err := f.Start("marks "+marked).EtcdManager().Apply(patient(t), s); err != nil {
				t.Fatal(err)
			}
		}

		snaps := s
		snaps.Snapshots = &etcd.Snapshots{Schedule: "daily", Keep: 3, Directory: "/var/backups/etcd"}
		f.Do(func() { f.Host(2).Files.Remove("/usr/local/bin/etcdctl") })
		_, err = f.Start("no etcdctl").EtcdManager().Preview(patient(t), snaps, s.UID)
		wantError(t, err, "pg2", "etcdctl is not in the path")
		f.Do(func() { f.Host(2).Files.Text("/usr/local/bin/etcdctl", foreignVersion) })
		if _, err := f.Start("snapshots").EtcdManager().Apply(patient(t), snaps); err != nil {
			t.Fatal(details(err))
		}
		if list := snapshots(f); len(list) != 1 {
			t.Errorf("snapshots: %v", list)
		}
		undrifted(t, f, snaps, "with snapshots")
		ours(t, f, autobase)
	})
}

// Somebody puts another version in the place of a program that is of no package, one
// member at a time: that is told, and taken over by the configuration.
func TestLayoutUpgradedByHand(t *testing.T) {
	laid(t, 1, autobase, func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) {
		found, err := discover(t, f, "importer")
		if err != nil {
			t.Fatal(err)
		}
		s.UID = found.UID
		restart := func(m *fakehost.Machine) {
			u := m.Units["etcd.service"]
			f.Do(func() {
				m.Files.Put("/usr/local/bin/etcd", fakehost.File{Mode: "755", Content: []byte(newerEtcd)})
				u.Active = "deactivating"
				u.Service.Stop(u)
			})
			f.WaitFor("etcd to stop", func() bool { return u.Active == "inactive" })
			f.Do(u.Elapse)
			f.WaitFor("etcd to be back", func() bool { return u.Active == "active" })
		}
		restart(f.Host(1))
		o, err := f.Start("midway").EtcdManager().Observed(patient(t), s)
		if err != nil || o.Versions["pg1"] != newerEtcd || len(o.Drift) != 1 || !strings.Contains(o.Drift[0], "version 3.5.30") {
			t.Errorf("observed %+v, %v", o, err)
		}
		restart(f.Host(2))
		restart(f.Host(3))
		s.Version = newerEtcd
		o, err = f.Start("done").EtcdManager().Observed(patient(t), s)
		if err != nil || len(o.Drift) > 0 {
			t.Errorf("observed %+v, %v", o, err)
		}
	})
}

// An import tells what it cannot take up.
func TestLayoutsNotTakenUp(t *testing.T) {
	for says, change := range map[string]func(m *fakehost.Machine, unit *string, files map[string]string){
		"depends on where it was started": func(_ *fakehost.Machine, _ *string, files map[string]string) {
			files["/etc/etcd/etcd.conf"] = strings.Replace(files["/etc/etcd/etcd.conf"], `"/var/lib/etcd"`, `"./data"`, 1)
		},
		"force-new-cluster": func(_ *fakehost.Machine, _ *string, files map[string]string) {
			files["/etc/etcd/etcd.conf"] += "ETCD_FORCE_NEW_CLUSTER=\"true\"\n"
		},
		"only etcd itself says": func(m *fakehost.Machine, unit *string, _ map[string]string) {
			m.Files.Put("/opt/start-etcd", fakehost.File{Mode: "755", Content: []byte(foreignVersion)})
			*unit = strings.Replace(*unit, "/usr/local/bin/etcd", "/opt/start-etcd", 1)
		},
		"differ in heartbeat_interval": func(m *fakehost.Machine, _ *string, files map[string]string) {
			if m.Name == "pg3" {
				files["/etc/etcd/etcd.conf"] = strings.Replace(files["/etc/etcd/etcd.conf"], `"1000"`, `"900"`, 1)
			}
		},
	} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			l := autobase
			l.files = func(m *fakehost.Machine, peers string) map[string]string {
				files := autobase.files(m, peers)
				l.unit = autobase.unit
				change(m, &l.unit, files)
				m.Files.Put("./data", fakehost.File{Type: fakehost.Dir, Owner: "etcd", Group: "etcd", Mode: "700"})
				return files
			}
			bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
				f.Do(func() {
					var peers []string
					for _, m := range f.Machines() {
						peers = append(peers, m.Name+"=http://"+m.Address+":2380")
					}
					for _, m := range f.Machines() {
						files := l.files(m, strings.Join(peers, ","))
						f.Etcd.ByHand(m, l.bin, foreignVersion, l.unit, files)
						m.Files.Put(l.data, fakehost.File{Type: fakehost.Dir, Owner: "etcd", Group: "etcd", Mode: "700"})
						m.Units["etcd.service"].Elapse()
					}
				})
				f.WaitFor("their cluster", func() bool {
					stores := f.Etcd.Stores()
					return len(stores) == 1 && len(stores[0].Running()) == 3 && stores[0].Leader() != ""
				})
				_, err := discover(t, f, "importer")
				wantError(t, err, says)
			})
		})
	}
}

// Killed at any change while a setting is brought to a cluster in another tool's
// layout for the first time, the next run goes on: each member is restarted, and
// nothing else of theirs is touched.
func TestLayoutCrash(t *testing.T) {
	for _, l := range layouts {
		total := 0
		change := func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec, fault fakehost.Fault) (int, error) {
			s.QuotaBytes = 4 << 30
			first := f.Start("first", fault)
			_, err := first.EtcdManager().Apply(patient(t), s)
			return first.Mutations(), err
		}
		laid(t, 2, l, func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) {
			s.UID = adoptedUID(t, f)
			var err error
			if total, err = change(t, f, s, fakehost.CrashBefore(1000)); err != nil || total < 15 {
				t.Fatalf("%d changes, %v", total, err)
			}
		})
		for k := 1; k <= total; k++ {
			for _, after := range []bool{true, false} {
				t.Run(fmt.Sprint(l.name, k, after), func(t *testing.T) {
					fault := fakehost.CrashBefore(k)
					if after {
						fault = fakehost.CrashAfter(k)
					}
					laid(t, 2, l, func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) {
						s.UID = adoptedUID(t, f)
						before := pids(f)
						if _, err := change(t, f, s, fault); err == nil {
							t.Fatal("the run that was killed reports success")
						}
						f.Sleep(time.Minute)
						s.QuotaBytes = 4 << 30
						if _, err := f.Start("second").EtcdManager().Apply(patient(t), s); err != nil {
							t.Fatal(details(err))
						}
						undrifted(t, f, s, "reader")
						ours(t, f, l)
						for name, pid := range pids(f) {
							if pid == before[name] {
								t.Errorf("%s was never restarted", name)
							}
						}
					})
				})
			}
		}
	}
}

func adoptedUID(t *testing.T, f *fakefleet.Fleet) string {
	t.Helper()
	found, err := discover(t, f, "uid")
	if err != nil {
		t.Fatal(err)
	}
	return found.UID
}

// A stopped cluster is not taken for one that is gone. Destroying stops it; purging
// deletes its data, and nothing else in a directory that somebody else has chosen.
func TestLayoutDestroyed(t *testing.T) {
	for _, l := range layouts {
		laid(t, 3, l, func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) {
			s.UID = adoptedUID(t, f)
			f.Watch.Off()
			f.Do(f.Host(1).PowerOff)
			f.Do(f.Host(2).PowerOff)
			o, err := f.Start("half").EtcdManager().Observed(patient(t), s)
			if err != nil || o.Absent || len(o.Unreachable) != 2 || !host.Unreachable(o.Unreachable["pg1"]) {
				t.Errorf("observed %+v, %v", o, err)
			}
			f.Do(f.Host(1).PowerOn)
			f.Do(f.Host(2).PowerOn)
			f.Settle()
			if err := f.Start("keeper").EtcdManager().Destroy(patient(t), s, false); err != nil {
				t.Fatal(details(err))
			}
			f.Do(func() {
				for _, m := range f.Machines() {
					if u := m.Units["etcd.service"]; u.Active != "inactive" || u.Enabled != "disabled" || m.Files.Get(l.data+"/member") == nil {
						t.Errorf("%s: %s %s", m.Name, u.Active, u.Enabled)
					}
				}
			})
			if o, err := f.Start("stopped").EtcdManager().Observed(patient(t), s); err != nil || o.Absent {
				t.Errorf("a cluster that stands still is taken for gone: %+v, %v", o, err)
			}
		})
		laid(t, 4, l, func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) {
			s.UID = adoptedUID(t, f)
			f.Watch.Off()
			if _, err := f.Start("marker").EtcdManager().Apply(patient(t), s); err != nil {
				t.Fatal(err)
			}
			if err := f.Start("purger").EtcdManager().Destroy(patient(t), s, true); err != nil {
				t.Fatal(details(err))
			}
			f.Do(func() {
				for _, m := range f.Machines() {
					if m.Files.Get(l.data+"/member") != nil || m.Files.Get(l.data+"/theirs") == nil {
						t.Errorf("left on %s: %v", m.Name, m.Files.List(l.data))
					}
					if got := m.Files.List("/etc/pgha"); len(got) > 0 {
						t.Errorf("left on %s: %v", m.Name, got)
					}
				}
			})
			for _, c := range f.Mutations("purger") {
				if strings.HasPrefix(c.Name, "apt") || slices.Contains(c.Args, "etcd-server") {
					t.Errorf("packages were touched: %s", c)
				}
			}
		})
	}
}

// Debian's own package can be started with a configuration file as well. It is held
// and upgraded like any other, and its command is replaced when a setting changes.
func TestLayoutOfThePackage(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		s := f.EtcdSpec()
		s.TLS, s.Auth = false, false
		pigsty.spec(&s)
		f.Do(func() {
			var peers []string
			for _, m := range f.Machines() {
				peers = append(peers, m.Name+"=http://"+m.Address+":2380")
			}
			for _, m := range f.Machines() {
				for _, pkg := range []string{"etcd-server", "etcd-client"} {
					m.Packages[pkg] = &fakehost.Package{Version: "3.5.16-4"}
					m.Publish(true, pkg, newerEtcd+"-1")
				}
				f.Etcd.ByHand(m, "/usr/bin", "3.5.16", pigsty.unit, pigsty.files(m, strings.Join(peers, ",")))
				m.Files.Put(pigsty.data, fakehost.File{Type: fakehost.Dir, Owner: "etcd", Group: "etcd", Mode: "700"})
				m.Units["etcd.service"].Elapse()
			}
		})
		f.WaitFor("their cluster", func() bool { stores := f.Etcd.Stores(); return len(stores) == 1 && stores[0].Leader() != "" })
		f.Settle()
		f.Do(func() { f.Etcd.Stores()[0].Put("/witness", "still there", nil) })
		s.UID = adoptedUID(t, f)
		s.QuotaBytes = 1 << 30
		if _, err := f.Start("changer").EtcdManager().Apply(patient(t), s); err != nil {
			t.Fatal(details(err))
		}
		s.Version = newerEtcd
		if _, err := f.Start("upgrader").EtcdManager().Apply(patient(t), s); err != nil {
			t.Fatal(details(err))
		}
		f.Do(func() {
			for name, v := range f.Etcd.Stores()[0].Versions() {
				if v != newerEtcd {
					t.Errorf("%s runs %s", name, v)
				}
			}
			for name, got := range f.Etcd.Stores()[0].Settings("ETCD_QUOTA_BACKEND_BYTES") {
				if got != "1073741824" {
					t.Errorf("%s has a quota of %s", name, got)
				}
			}
			for _, m := range f.Machines() {
				if held := m.Held(); !slices.Equal(held, []string{"etcd-client", "etcd-server"}) {
					t.Errorf("%s holds %v", m.Name, held)
				}
			}
		})
		o, err := f.Start("reader").EtcdManager().Observed(patient(t), s)
		if err != nil || len(o.Drift) > 0 {
			t.Errorf("observed %+v, %v", o, err)
		}
	})
}

// A configuration file that was changed after its member was started says nothing of
// what runs; one with what is not known cannot be carried over.
func TestLayoutFileRefused(t *testing.T) {
	for says, change := range map[string]string{
		"was changed after the member was started": "# only a comment\n",
		"does not know: discovery":                 "discovery: http://example.com\n",
	} {
		laid(t, 1, pigsty, func(t *testing.T, f *fakefleet.Fleet, _ etcd.Spec) {
			f.Do(func() {
				m := f.Host(2)
				m.Files.Text("/etc/etcd/etcd.conf", string(m.Files.Read("/etc/etcd/etcd.conf"))+change)
			})
			_, err := discover(t, f, "importer")
			wantError(t, err, "pg2", says)
			if strings.Contains(err.Error(), "pg1") {
				t.Errorf("other members are blamed: %v", err)
			}
		})
	}
}
