package fakefleet_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// drift is something that was changed on a host behind the provider's back.
type drift struct {
	name   string
	change func(f *fakefleet.Fleet, m *fakehost.Machine)
	// shown is what Observe has to say about it, repaired the steps that put
	// it right.
	shown    string
	repaired []string
}

func edited(path string) func(*fakefleet.Fleet, *fakehost.Machine) {
	return func(_ *fakefleet.Fleet, m *fakehost.Machine) {
		n := *m.Files.Get(path)
		n.Content = append([]byte("# somebody was here\n"), n.Content...)
		m.Files.Put(path, n)
	}
}

func removed(path string) func(*fakefleet.Fleet, *fakehost.Machine) {
	return func(_ *fakefleet.Fleet, m *fakehost.Machine) { m.Files.Remove(path) }
}

func chmodded(path, mode string) func(*fakefleet.Fleet, *fakehost.Machine) {
	return func(_ *fakefleet.Fleet, m *fakehost.Machine) { m.Files.Get(path).Mode = mode }
}

func disabled(unit string) func(*fakefleet.Fleet, *fakehost.Machine) {
	return func(_ *fakefleet.Fleet, m *fakehost.Machine) { m.Units[unit].Enabled = "disabled" }
}

func unheld(name string) func(*fakefleet.Fleet, *fakehost.Machine) {
	return func(_ *fakefleet.Fleet, m *fakehost.Machine) { m.Packages[name].Held = false }
}

// Every kind of drift of a member of etcd is listed when the state is
// refreshed, and repaired by the next apply, with no more than it takes.
func TestEtcdDrift(t *testing.T) {
	const dir, due = "/etc/pgha/etcd/dcs", "etcd.mark.restart@pg2"
	for _, d := range []drift{
		{"settings edited", edited(dir + "/etcd.env"), "write " + dir + "/etcd.env", []string{due, "etcd.file@pg2", "etcd.restart@pg2"}},
		{"settings removed", removed(dir + "/etcd.env"), "write " + dir + "/etcd.env", []string{due, "etcd.file@pg2", "etcd.restart@pg2"}},
		{"settings readable by all", chmodded(dir+"/etcd.env", "644"), "write " + dir + "/etcd.env", []string{due, "etcd.file@pg2", "etcd.restart@pg2"}},
		{
			"drop-in edited", edited("/etc/systemd/system/etcd.service.d/pgha.conf"), "write /etc/systemd/system/etcd.service.d/pgha.conf",
			[]string{due, "etcd.file@pg2", "etcd.unit.reload@pg2", "etcd.restart@pg2"},
		},
		{"unit disabled", disabled("etcd.service"), "start at boot", []string{"etcd.unit.enable@pg2"}},
		{"hold released", unheld("etcd-server"), "hold etcd-server", []string{"etcd.hold@pg2"}},
		{"certificate removed", removed(dir + "/server.crt"), "there is no certificate", []string{"etcd.certificate@pg2"}},
		{"key removed", removed(dir + "/peer.key"), "there is no key", []string{"etcd.certificate@pg2"}},
		{"trusted authority removed", removed(dir + "/ca.crt"), "write " + dir + "/ca.crt", []string{"etcd.authority.trust@pg2"}},
		{"authority removed", removed("/etc/pgha/ca/etcd-dcs"), "copy the certificate authority", []string{"etcd.authority.copy@pg2"}},
		{"credentials removed", removed(dir + "/credentials.json"), "write " + dir + "/credentials.json", []string{"etcd.credentials@pg2"}},
		{"mark removed while nothing else is", func(f *fakefleet.Fleet, m *fakehost.Machine) {
			m.Units["etcd.service"].Active = "inactive"
			removed("/etc/pgha/etcd.json")(f, m)
		}, "does not say whose it is", nil},
	} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
				f.Do(func() { d.change(f, f.Host(2)) })
				if d.name == "certificate removed" {
					defer f.Watch.Forget() // the member cannot show one until it has another
				}
				spec := f.EtcdSpec()
				o, err := f.Start("reader").EtcdManager().Observed(patient(t), spec)
				if err != nil {
					t.Fatal(err)
				}
				if o.Absent || !strings.Contains(strings.Join(o.Drift, "\n"), d.shown) {
					t.Errorf("the drift is not shown: %q", o.Drift)
				}
				if n := len(f.Mutations("reader")); n > 0 {
					t.Errorf("reading changed something: %v", f.Mutations("reader"))
				}
				p := f.Start("repairer")
				_, err = p.EtcdManager().Apply(patient(t), spec)
				if d.repaired == nil {
					wantError(t, err, d.shown)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(d.repaired, p.Steps()); d != "" {
					t.Errorf("steps (-want +got):\n%s", d)
				}
				f.Settle()
				checkComplete(t, f)
				checkNothingLeft(t, f)
			})
		})
	}
}

// The same for a node of Patroni. Nothing here needs a restart of PostgreSQL.
func TestNodeDrift(t *testing.T) {
	const dir = "/etc/pgha/patroni/main"
	const config = "/etc/patroni/config.yml"
	register, reconfigure, mark := "patroni.register@pg2", "patroni.reconfigure@pg2", "patroni.mark@pg2"
	for _, d := range []drift{
		{"configuration edited", edited(config), "write " + config, []string{mark, register, reconfigure, mark}},
		{"configuration removed", removed(config), "write " + config, []string{mark, register, reconfigure, mark}},
		{"configuration readable by all", chmodded(config, "644"), "write " + config, []string{mark, register, reconfigure, mark}},
		{
			"drop-in edited", edited("/etc/systemd/system/patroni.service.d/pgha.conf"), "write /etc/systemd/system/patroni.service.d/pgha.conf",
			[]string{"patroni.file@pg2", "patroni.unit.reload@pg2"},
		},
		{"unit disabled", disabled("patroni.service"), "start at boot", []string{"patroni.unit.enable@pg2"}},
		{"hold released", unheld("postgresql-17"), "hold postgresql-17", []string{"patroni.hold@pg2"}},
		{"certificate removed", removed(dir + "/node.crt"), "there is no certificate", []string{mark, "patroni.certificate@pg2", "patroni.reload@pg2", mark}},
		{"key removed", removed(dir + "/etcd.key"), "there is no key", []string{mark, "patroni.certificate@pg2", "patroni.reload@pg2", mark}},
		{"authority removed", removed(dir + "/etcd-ca.crt"), "etcd-ca.crt", []string{"patroni.file@pg2"}},
		{"createcluster removed", removed("/etc/postgresql-common/createcluster.d/pgha.conf"), "createcluster.d/pgha.conf", []string{"patroni.file@pg2"}},
		{"stopped", func(_ *fakefleet.Fleet, m *fakehost.Machine) {
			m.Units["patroni.service"].Service.Stop(m.Units["patroni.service"])
			m.Units["patroni.service"].Active = "deactivating"
		}, "start Patroni", []string{register, "patroni.start@pg2"}},
	} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
				f.Watch.Off()
				f.Do(func() { d.change(f, f.Host(2)) })
				f.Sleep(2 * time.Second)
				n := f.Node(f.Host(2), uid)
				o, err := f.Start("reader").PatroniManager().ObserveNode(patient(t), n)
				if err != nil {
					t.Fatal(err)
				}
				if o.Absent || !strings.Contains(strings.Join(o.Drift, "\n"), d.shown) {
					t.Errorf("the drift is not shown: %q", o.Drift)
				}
				if n := len(f.Mutations("reader")); n > 0 {
					t.Errorf("reading changed something: %v", f.Mutations("reader"))
				}
				p := f.Start("repairer")
				if err := p.PatroniManager().ApplyNode(patient(t), n); err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(d.repaired, p.Steps()); d != "" {
					t.Errorf("steps (-want +got):\n%s", d)
				}
				f.Settle()
				checkComplete(t, f)
				checkNothingLeft(t, f)
			})
		})
	}
}

// asleep lets much time pass while all hosts are off.
func asleep(f *fakefleet.Fleet, d time.Duration) {
	f.Do(func() {
		for _, m := range f.Machines() {
			m.PowerOff()
		}
	})
	f.Sleep(d)
	f.Do(func() {
		for _, m := range f.Machines() {
			m.PowerOn()
		}
	})
	f.WaitHealthy(len(f.Machines()) - 1)
	f.Settle()
}

// Certificates that are about to expire are renewed in time, and everybody goes
// on with the new ones.
func TestRenewal(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		asleep(f, 380*24*time.Hour)
		o, err := f.Start("reader").EtcdManager().Observed(patient(t), f.EtcdSpec())
		if err != nil || !strings.Contains(strings.Join(o.Drift, "\n"), "the certificate expires on") {
			t.Errorf("the end of the certificates is not shown: %q %v", o.Drift, err)
		}
		if err := f.Start("renewer").Create(patient(t)); err != nil {
			t.Fatal(err)
		}
		f.Settle()
		checkComplete(t, f)
		checkNothingLeft(t, f)
		asleep(f, 40*24*time.Hour)
		if _, err := f.Start("later").PatroniManager().View(patient(t), f.ClusterSpec().Cluster); err != nil {
			t.Errorf("after the first certificates have expired: %v", err)
		}
	})
}
