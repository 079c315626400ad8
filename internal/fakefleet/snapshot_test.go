package fakefleet_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// byName is the host of a name.
func byName(f *fakefleet.Fleet, name string) *fakehost.Machine {
	for _, m := range f.Machines() {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// etcdLeader is the host of the member of etcd that leads.
func etcdLeader(f *fakefleet.Fleet) *fakehost.Machine {
	lead := ""
	f.Do(func() { lead = f.Etcd.Stores()[0].Leader() })
	return byName(f, lead)
}

// A snapshot that an apply needs comes from the leader's host; where that has no
// room, from another; and where nobody can take one, the error names each host
// with its cause.
func TestTakeSnapshot(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		lead := etcdLeader(f)
		do := f.Start("upgrader").EtcdManager().Doer
		defer do.Close()
		at, err := do.TakeSnapshot(patient(t), f.EtcdSpec(), "before an upgrade")
		if err != nil {
			t.Fatal(err)
		}
		host, path, _ := strings.Cut(at, ":")
		if host != lead.Name || !strings.HasPrefix(path, "/var/backups/etcd/dcs/") {
			t.Errorf("the snapshot is %s; %s leads", at, lead.Name)
		}
		f.Do(func() {
			if dir := lead.Files.Get("/var/backups/etcd/dcs"); dir == nil || dir.Mode != "700" || dir.Owner != "etcd" {
				t.Errorf("the folder of snapshots: %+v", dir)
			}
			if file := lead.Files.Get(path); file == nil || file.Mode != "600" {
				t.Errorf("the snapshot: %+v", file)
			}
			lead.DiskKiB = 10 << 10
		})
		if at, err = do.TakeSnapshot(patient(t), f.EtcdSpec(), "before an upgrade"); err != nil || strings.HasPrefix(at, lead.Name+":") {
			t.Errorf("with the leader's disk full: %s, %v", at, err)
		}
		f.Do(func() {
			for _, m := range f.Machines() {
				m.DiskKiB = 10 << 10
			}
		})
		_, err = do.TakeSnapshot(patient(t), f.EtcdSpec(), "before an upgrade")
		wantError(t, err, "pg1", "pg2", "pg3", "take a snapshot", "No space left on device")
	})
}

// snapshotSpec is the fleet's etcd cluster with regular snapshots.
func snapshotSpec(f *fakefleet.Fleet) etcd.Spec {
	s := f.EtcdSpec()
	s.Snapshots = &etcd.Snapshots{Schedule: "hourly", Keep: 2, Directory: "/srv/backup"}
	return s
}

// snapshotsOn are the snapshots on a host.
func snapshotsOn(f *fakefleet.Fleet, m *fakehost.Machine) (list []string) {
	f.Do(func() { list = m.Files.List("/srv/backup/dcs") })
	return list
}

func applyEtcd(t *testing.T, f *fakefleet.Fleet, name string, s etcd.Spec) *fakefleet.Process {
	t.Helper()
	p := f.Start(name)
	if _, err := p.EtcdManager().Apply(patient(t), s); err != nil {
		t.Fatal(err)
	}
	return p
}

func etcdDrift(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) string {
	t.Helper()
	o, err := f.Start("reader").EtcdManager().Observed(patient(t), s)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(o.Drift, "\n")
}

// elapse lets the timers of all hosts go off.
func elapse(f *fakefleet.Fleet) {
	f.Sleep(time.Hour)
	f.Do(func() {
		for _, m := range f.Machines() {
			if u := m.Units[etcd.SnapshotTimer]; m.Up && u != nil && u.Running() {
				m.Units[etcd.SnapshotService].Elapse()
			}
		}
	})
}

// Turned on, snapshots are taken by whoever leads, at once and then by the timer,
// and as many are kept as there should be. Turned off, the units go and the
// snapshots stay.
func TestSnapshots(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		s := snapshotSpec(f)
		if d := etcdDrift(t, f, s); !strings.Contains(d, "pg2: start pgha-etcd-snapshot.timer, also at boot (safe)") {
			t.Errorf("before: %s", d)
		}
		applyEtcd(t, f, "on", s)
		first := etcdLeader(f)
		for _, m := range f.Machines() {
			if n := len(snapshotsOn(f, m)); (n == 1) != (m == first) {
				t.Errorf("%d snapshots on %s; %s leads", n, m.Name, first.Name)
			}
		}
		if p := applyEtcd(t, f, "again", s); p.Mutations() > 0 {
			t.Errorf("applying again did something: %v", p.Steps())
		}
		for range 3 {
			elapse(f)
		}
		if n := len(snapshotsOn(f, first)); n != 2 {
			t.Errorf("%d snapshots are kept", n)
		}
		// Another leader, another host.
		f.Do(func() {
			for _, m := range f.Machines() {
				if m != first {
					f.Etcd.Stores()[0].MoveLeader(m.Name)
				}
			}
		})
		elapse(f)
		second := etcdLeader(f)
		if n := len(snapshotsOn(f, second)); n != 1 || second == first {
			t.Errorf("%d snapshots on the new leader %s", n, second.Name)
		}
		// One that fails is seen, by systemd and by us.
		f.Do(func() { second.DiskKiB = 1 << 10 })
		elapse(f)
		if d := etcdDrift(t, f, s); !strings.Contains(d, second.Name+": take a snapshot, if this member leads: pgha-etcd-snapshot.service has failed") {
			t.Errorf("with a full disk: %s", d)
		}
		_, err := f.Start("full").EtcdManager().Apply(patient(t), s)
		wantError(t, err, second.Name, "take a snapshot", "pgha-etcd-snapshot.service failed")
		if text := details(err); !strings.Contains(text, "No space left on device") {
			t.Errorf("the log is not quoted: %s", text)
		}
		f.Do(func() { second.DiskKiB = 1 << 20 })
		applyEtcd(t, f, "room", s)
		// What somebody changes by hand is put back.
		f.Do(func() {
			first.Files.Text("/etc/systemd/system/pgha-etcd-snapshot.timer", "[Timer]\nOnCalendar=yearly\n")
			second.Units[etcd.SnapshotTimer].Enabled = "disabled"
		})
		if d := etcdDrift(t, f, s); !strings.Contains(d, first.Name+": write /etc/systemd/system/pgha-etcd-snapshot.timer") || !strings.Contains(d, second.Name+": start pgha-etcd-snapshot.timer") {
			t.Errorf("changed by hand: %s", d)
		}
		s.Snapshots.Member = first.Name
		applyEtcd(t, f, "named", s)
		before := len(snapshotsOn(f, second))
		elapse(f)
		f.Do(func() {
			for _, m := range f.Machines() {
				if on := m.Units[etcd.SnapshotTimer] != nil; on != (m == first) {
					t.Errorf("%s takes snapshots: %v", m.Name, on)
				}
			}
		})
		if n := len(snapshotsOn(f, second)); n != before {
			t.Errorf("a host that is not named has %d snapshots instead of %d", n, before)
		}

		s.Snapshots = nil
		applyEtcd(t, f, "off", s)
		f.Do(func() {
			for _, m := range f.Machines() {
				for _, p := range m.Files.Paths() {
					if strings.Contains(p, "snapshot") {
						t.Errorf("%s is left on %s", p, m.Name)
					}
				}
			}
		})
		if len(snapshotsOn(f, first)) == 0 || etcdDrift(t, f, s) != "" {
			t.Errorf("turned off: %v, drift %q", snapshotsOn(f, first), etcdDrift(t, f, s))
		}
	})
}

// Killed anywhere while snapshots are turned on, moved or turned off, the next
// apply ends it.
func TestSnapshotsCrash(t *testing.T) {
	crashes(t, "on", func(f *fakefleet.Fleet) (etcd.Spec, etcd.Spec) { return f.EtcdSpec(), snapshotSpec(f) })
	crashes(t, "off", func(f *fakefleet.Fleet) (etcd.Spec, etcd.Spec) { return snapshotSpec(f), f.EtcdSpec() })
	crashes(t, "moved", func(f *fakefleet.Fleet) (etcd.Spec, etcd.Spec) {
		to := snapshotSpec(f)
		to.Snapshots = &etcd.Snapshots{Schedule: "daily", Keep: 7, Directory: "/srv/other", Member: "pg2"}
		return snapshotSpec(f), to
	})
}

// crashes kills an apply that changes an etcd cluster before and after each of
// its changes. The next one leaves nothing to do. Between is what happens before.
func crashes(t *testing.T, name string, change func(f *fakefleet.Fleet) (from, to etcd.Spec), between ...func(f *fakefleet.Fleet)) {
	t.Helper()
	total := 0
	run := func(t *testing.T, fault ...fakehost.Fault) {
		bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
			from, to := change(f)
			applyEtcd(t, f, "creator", from)
			for _, b := range between {
				b(f)
			}
			p := f.Start("first", fault...)
			_, err := p.EtcdManager().Apply(patient(t), to)
			if total == 0 {
				total = p.Mutations()
			} else if err == nil || !p.Crashed() {
				t.Fatalf("the run was not killed: %v", err)
			}
			f.Sleep(time.Minute)
			applyEtcd(t, f, "second", to)
			if d := etcdDrift(t, f, to); d != "" {
				t.Errorf("drift: %s", d)
			}
			if p := applyEtcd(t, f, "third", to); p.Mutations() > 0 {
				t.Errorf("applying again had steps: %v", p.Steps())
			}
		})
	}
	t.Run(name, func(t *testing.T) { run(t) })
	step := 1
	if testing.Short() {
		step = 4
	}
	for k := 1; k <= total; k += step {
		t.Run(fmt.Sprintf("%s before change %d", name, k), func(t *testing.T) { t.Parallel(); run(t, fakehost.CrashBefore(k)) })
		t.Run(fmt.Sprintf("%s after change %d", name, k), func(t *testing.T) { t.Parallel(); run(t, fakehost.CrashAfter(k)) })
	}
}

// Destroying takes the units away. The snapshots go with the data, if that is to
// be purged.
func TestSnapshotsDestroyed(t *testing.T) {
	for _, purge := range []bool{false, true} {
		bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
			s := snapshotSpec(f)
			applyEtcd(t, f, "creator", s)
			lead := etcdLeader(f)
			f.Watch.Off()
			if err := f.Start("destroyer").EtcdManager().Destroy(patient(t), s, purge); err != nil {
				t.Fatal(err)
			}
			for _, m := range f.Machines() {
				f.Do(func() {
					for _, p := range m.Files.Paths() {
						if strings.Contains(p, "pgha-etcd-snapshot") {
							t.Errorf("purge %v: %s is left on %s", purge, p, m.Name)
						}
					}
					if m.Units[etcd.SnapshotTimer] != nil {
						t.Errorf("purge %v: the timer runs on %s", purge, m.Name)
					}
				})
			}
			if n := len(snapshotsOn(f, lead)); (n == 0) != purge {
				t.Errorf("purge %v: %d snapshots are left", purge, n)
			}
		})
	}
}

// Imported, a cluster takes snapshots as it did.
func TestSnapshotsDiscovered(t *testing.T) {
	for member := range strings.FieldsSeq("- pg2") {
		created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
			s := snapshotSpec(f)
			if member != "-" {
				s.Snapshots.Member = member
			}
			applyEtcd(t, f, "on", s)
			found, err := f.Start("importer").EtcdManager().Discover(patient(t), "dcs", s.Members)
			if err != nil || found.Snapshots == nil || *found.Snapshots != *s.Snapshots {
				t.Errorf("%+v, %v; want %+v", found.Snapshots, err, s.Snapshots)
			}
			found.Members = s.Members
			if d := etcdDrift(t, f, found); d != "" {
				t.Errorf("drift after the import: %s", d)
			}
			s.Snapshots = nil
			applyEtcd(t, f, "off", s)
			if found, err = f.Start("importer").EtcdManager().Discover(patient(t), "dcs", s.Members); err != nil || found.Snapshots != nil {
				t.Errorf("%+v, %v; want none", found.Snapshots, err)
			}
		})
	}
}
