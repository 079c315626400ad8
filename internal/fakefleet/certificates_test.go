package fakefleet_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
)

const etcdDir = "/etc/pgha/etcd/dcs"

// age gives the members' certificates other ends, so many days from now.
func age(f *fakefleet.Fleet, days int) {
	f.Do(func() {
		for _, m := range f.Machines() {
			for _, leaf := range []string{"/server.crt", "/peer.crt"} {
				m.Reissue("/etc/pgha/ca/etcd-dcs", etcdDir+leaf, time.Now().AddDate(0, 0, days-pki.LeafDays), time.Now().AddDate(0, 0, days))
			}
		}
	})
}

// running are the processes of etcd and Patroni, by host.
func running(f *fakefleet.Fleet) map[string]int {
	list := map[string]int{}
	f.Do(func() {
		for _, m := range f.Machines() {
			for _, unit := range []string{"etcd.service", "patroni.service"} {
				list[m.Name+" "+unit] = m.Units[unit].PID
			}
		}
	})
	return list
}

// Certificates that end soon are shown, each with its end, and renewed without a
// restart, as early as it is wanted. Members and clients that connect anew get
// through before, meanwhile and after.
func TestEtcdRenewal(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		age(f, 40)
		s := f.EtcdSpec()
		o, err := f.Start("reader").EtcdManager().Observed(patient(t), s)
		if err != nil || len(o.Drift) > 0 || len(o.Warnings) > 0 {
			t.Errorf("40 days before: %v %v %v", o.Drift, o.Warnings, err)
		}
		s.RenewBefore = 60 * 24 * time.Hour
		o, err = f.Start("reader").EtcdManager().Observed(patient(t), s)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range f.Machines() {
			for _, leaf := range []string{"/server.crt", "/peer.crt"} {
				line := fmt.Sprintf("%s: issue %s%s (the certificate expires on %s, in 39 days)", m.Name, etcdDir, leaf, time.Now().UTC().AddDate(0, 0, 40).Format(time.DateOnly))
				if !slices.ContainsFunc(o.Drift, func(d string) bool { return strings.HasPrefix(d, line) }) {
					t.Errorf("the drift does not say %q:\n%s", line, strings.Join(o.Drift, "\n"))
				}
			}
		}
		before := running(f)
		p := f.Start("renewer")
		if _, err := p.EtcdManager().Apply(patient(t), s); err != nil {
			t.Fatal(err)
		}
		for _, step := range p.Steps() {
			if !strings.HasPrefix(step, "etcd.certificate@") {
				t.Errorf("a step besides: %s", step)
			}
		}
		f.Do(f.Etcd.Disconnect)
		f.Settle()
		if after := running(f); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("restarted: %v, before %v", after, before)
		}
		o, err = f.Start("reader").EtcdManager().Observed(patient(t), s)
		if err != nil || len(o.Drift) > 0 {
			t.Errorf("afterwards: %v %v", o.Drift, err)
		}
	})
}

// When all certificates have ended, and connections as well, nobody gets through
// any more. An apply makes new ones, which the running members take.
func TestEtcdExpired(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		before := running(f)
		age(f, -1)
		f.Do(f.Etcd.Disconnect)
		f.Settle()
		f.Do(func() {
			if f.Etcd.Stores()[0].Quorum() {
				t.Error("members with certificates that have ended connect to each other")
			}
		})
		s := f.EtcdSpec()
		o, err := f.Start("reader").EtcdManager().Observed(patient(t), s)
		if err != nil || len(o.Drift) < 6 || !strings.Contains(o.Drift[0], "the certificate expired on") {
			t.Errorf("what is shown: %v %v", o.Drift, err)
		}
		p := f.Start("healer")
		if _, err := p.EtcdManager().Apply(patient(t), s); err != nil {
			t.Fatalf("%v\n%s", err, p.Output())
		}
		if after := running(f); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("restarted: %v, before %v", after, before)
		}
		f.WaitHealthy(2)
		o, err = f.Start("reader").EtcdManager().Observed(patient(t), s)
		if err != nil || len(o.Drift) > 0 {
			t.Errorf("afterwards: %v %v", o.Drift, err)
		}
		if len(f.Etcd.Refused) == 0 {
			t.Error("nobody was refused: this shows nothing")
		}
		f.Watch.Forget()
	})
}

// An authority that ends is told of, with as much time as is wanted.
func TestEtcdAuthorityEnds(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		s := f.EtcdSpec()
		for _, c := range []struct {
			later time.Duration
			want  string
		}{
			{(pki.AuthorityDays - 31) * 24 * time.Hour, ""},
			{(pki.AuthorityDays - 29) * 24 * time.Hour, "the certificate authority of the etcd cluster dcs expires on"},
			{(pki.AuthorityDays + 1) * 24 * time.Hour, "the certificate authority of the etcd cluster dcs expired on"},
		} {
			m := f.Start("reader").EtcdManager()
			now := time.Now().Add(c.later)
			m.Now = func() time.Time { return now }
			o, err := m.Observed(patient(t), s)
			if got := strings.Join(o.Warnings, "\n"); err != nil || (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%v: %q %v, want %q", c.later, got, err, c.want)
			}
		}
	})
}
