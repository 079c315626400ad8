package provider_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
)

// Snapshots turned on, shown, changed and turned off.
func TestSnapshots(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		on := with(s.etcd(), "snapshots", object{"keep": 3})
		s.must(s.dcs.apply(on))
		s.dcs.unchanged(on)
		lead := ""
		s.f.Do(func() { lead = s.f.Etcd.Stores()[0].Leader() })
		s.f.Sleep(90 * time.Second)
		got := s.status()
		wants(t, got, map[string]string{"snapshot.member": lead, "healthy": "true", "members[0].snapshots.directory": "/var/backups/etcd/dcs", "members[1].snapshots.scheduled": "true", "members[2].snapshots.failed": "false"})
		for path, want := range map[string]string{"snapshot.path": "/var/backups/etcd/dcs/", "snapshot.time": "Z"} {
			if !strings.Contains(plain(got[path]), want) {
				t.Errorf("%s is %s", path, got[path])
			}
		}
		// A name has whole seconds, and the look at the hosts takes some, too.
		if age, err := strconv.Atoi(plain(got["snapshot.age"])); err != nil || age < 90 || age > 95 {
			t.Errorf("the newest is %s seconds old after 90", got["snapshot.age"])
		}
		total := 0
		for i, name := range s.f.Names() {
			if n := plain(got["members["+string(rune('0'+i))+"].snapshots.count"]); (n == "1") != (name == lead) {
				t.Errorf("%s has %s snapshots", name, n)
			} else if n == "1" {
				total++
			}
		}
		if total != 1 {
			t.Errorf("%d hosts have a snapshot", total)
		}

		// One that fails is in the plan as something to be put right.
		s.f.Do(func() {
			for _, m := range s.f.Machines() {
				m.DiskKiB = 1 << 10
				m.Units[etcd.SnapshotService].Elapse()
			}
		})
		wants(t, s.status(), map[string]string{"warnings[0]": "the last attempt to take a snapshot on " + lead + " has failed (journalctl -u pgha-etcd-snapshot.service)"})
		s.must(s.dcs.refresh())
		if d := s.dcs.text(); !strings.Contains(d, "pgha-etcd-snapshot.service has failed") {
			t.Errorf("the drift does not show it: %s", d)
		}
		if text := errorsIn(s.dcs.apply(on)); !strings.Contains(text, "Host: "+lead) || !strings.Contains(text, "filesystem of the host is full") {
			t.Errorf("the apply says: %s", text)
		}
		s.f.Do(func() {
			for _, m := range s.f.Machines() {
				m.DiskKiB = 1 << 20
			}
		})
		named := with(s.etcd(), "snapshots", object{"schedule": "daily", "member": "pg2", "directory": "/srv/etcd"})
		s.must(s.dcs.apply(named))
		s.dcs.unchanged(named)
		wants(t, s.status(), map[string]string{"snapshot.member": "pg2", "members[0].snapshots.scheduled": "false", "members[1].snapshots.directory": "/srv/etcd/dcs"})

		s.must(s.dcs.apply(s.etcd()))
		s.dcs.unchanged(s.etcd())
		wants(t, s.status(), map[string]string{"members[1].snapshots.scheduled": "false"})
	})
}

// What cannot work is refused before any host is asked.
func TestSnapshotsRefused(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		for i, r := range s.hosts {
			s.must(r.apply(s.host(i)))
		}
		for want, snapshots := range map[string]object{
			"is not a schedule that systemd understands":     {"schedule": "every hour"},
			`There is no member "pg9"`:                       {"member": "pg9"},
			"snapshots cannot be in /var/lib/etcd":           {"directory": "/var/lib/etcd/snapshots"},
			"snapshots cannot be in /tmp":                    {"directory": "/tmp/x"},
			"must have only letters, digits":                 {"directory": "/srv/back up"},
			"is not an absolute path":                        {"directory": "backup"},
			"value must be between 1 and 10000":              {"keep": 0},
			"is not a plain path; write it as \"/srv/etcd\"": {"directory": "/srv/etcd/"},
		} {
			if _, _, diags := s.dcs.plan(with(s.etcd(), "snapshots", snapshots)); !strings.Contains(errorsIn(diags), want) {
				t.Errorf("%v: %s", snapshots, errorsIn(diags))
			}
		}
	})
}
