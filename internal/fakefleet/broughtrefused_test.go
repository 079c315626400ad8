package fakefleet_test

import (
	"crypto/x509"
	"encoding/json"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// wrongFiles are what can be wrong on a host, and what is said of it.
var wrongFiles = map[string]struct {
	change func(c *corporate, m *fakehost.Machine)
	says   string
}{
	"not there":    {func(_ *corporate, m *fakehost.Machine) { m.Files.Remove(tlsDir + "peer.crt") }, tlsDir + "peer.crt is not there"},
	"no authority": {func(_ *corporate, m *fakehost.Machine) { m.Files.Text(tlsDir+"ca.crt", "") }, tlsDir + "ca.crt has no certificate in it"},
	"a folder": {func(_ *corporate, m *fakehost.Machine) {
		m.Files.Remove(tlsDir + "peer.key")
		m.Files.Put(tlsDir+"peer.key", fakehost.File{Type: fakehost.Dir})
	}, "peer.key is not a file"},
	"unreadable": {func(_ *corporate, m *fakehost.Machine) {
		m.Account("etcd")
		m.Files.Get(tlsDir + "client.key").Group = "root"
	}, tlsDir + "client.key cannot be read by the user etcd"},
	"another key": {func(_ *corporate, m *fakehost.Machine) {
		m.Files.Get(tlsDir + "peer.key").Content = m.Files.Read(tlsDir + "client.key")
	}, tlsDir + "peer.key is not the key of " + tlsDir + "peer.crt"},
	"no key": {func(_ *corporate, m *fakehost.Machine) { m.Files.Get(tlsDir + "peer.key").Content = []byte("x") }, "has no key in it that can be read without a password"},
	"of another host": {func(c *corporate, m *fakehost.Machine) {
		c.put(m, "server-pg2", "etcd", func(t *x509.Certificate) { t.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} })
	}, "is not good for 10.0.0.2, where others reach it"},
	"for no server": {func(c *corporate, m *fakehost.Machine) {
		c.put(m, "server-pg2", "etcd", func(t *x509.Certificate) { t.ExtKeyUsage = t.ExtKeyUsage[1:] })
	}, "server-pg2.crt is not good for a server"},
	"for no client": {func(c *corporate, m *fakehost.Machine) {
		c.put(m, "peer", "etcd", func(t *x509.Certificate) { t.ExtKeyUsage = t.ExtKeyUsage[:1] })
	}, "peer.crt is not good for a client"},
	"another name": {func(c *corporate, m *fakehost.Machine) {
		c.put(m, "peer", "etcd", func(t *x509.Certificate) { t.Subject.CommonName = "x" })
	}, `peer.crt has the common name "x", not "member"`},
	"over": {func(c *corporate, m *fakehost.Machine) {
		c.put(m, "peer", "etcd", func(t *x509.Certificate) { t.NotAfter = time.Now().Add(-time.Minute) })
	}, "peer.crt has expired on "},
	"not yet": {func(c *corporate, m *fakehost.Machine) {
		c.put(m, "peer", "etcd", func(t *x509.Certificate) { t.NotBefore = time.Now().Add(time.Hour) })
	}, "peer.crt is good only from "},
	"a stranger's": {func(c *corporate, m *fakehost.Machine) {
		newCorporate(c.t, c.f, "stranger").put(m, "peer", "etcd", nil)
	}, "peer.crt is not of an authority that is trusted"},
	"trusted here only": {func(c *corporate, m *fakehost.Machine) {
		s := newCorporate(c.t, c.f, "stranger")
		s.put(m, "peer", "etcd", nil)
		m.Files.Text(tlsDir+"ca.crt", string(c.text)+string(s.text))
	}, "does not have the authority of " + tlsDir + "peer.crt on pg2"},
}

// Whatever is wrong with the files of a new cluster is said before anything is started,
// with the host and the file; the plan says it already, and changes nothing.
func TestBroughtRefused(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(wrongFiles)) {
		w := wrongFiles[name]
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
				c := bring(t, f)
				w.change(c, f.Host(2))
				err := f.Start("planner").EtcdManager().CheckFiles(patient(t), f.EtcdSpec())
				wantError(t, err, w.says)
				if name != "trusted here only" {
					wantError(t, err, "host pg2")
				}
				p := f.Start("creator")
				_, err = p.EtcdManager().Apply(patient(t), f.EtcdSpec())
				wantError(t, err, w.says)
				if p.Mutations() != 0 {
					t.Errorf("%d changes were made", p.Mutations())
				}
			})
		})
	}
}

// What only shows when the package has made etcd's account stops the apply before
// anything is started; put right, the next one goes on.
func TestBroughtUnreadable(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		bring(t, f)
		f.Host(2).Files.Get(tlsDir + "server-pg2.key").Group = "root"
		if err := f.Start("planner").EtcdManager().CheckFiles(patient(t), f.EtcdSpec()); err != nil {
			t.Errorf("without an account: %v", err)
		}
		_, err := f.Start("creator").EtcdManager().Apply(patient(t), f.EtcdSpec())
		wantError(t, err, "host pg2", "server-pg2.key cannot be read by the user etcd")
		if f.Host(2).Units["etcd.service"].Running() {
			t.Error("etcd was started on pg2")
		}
		f.Host(2).Files.Get(tlsDir + "server-pg2.key").Group = "etcd"
		if err := f.Start("creator2").Create(patient(t)); err != nil {
			t.Fatal(details(err))
		}
		f.WaitHealthy(2)
	})
}

// With authentication a node's certificate has no common name: etcd would not answer.
// That is said of the node, and before authentication is turned on.
func TestBroughtNamedNode(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		c := bring(t, f)
		c.put(f.Host(2), "patroni", "postgres", func(t *x509.Certificate) { t.ExtKeyUsage = t.ExtKeyUsage[1:] })
		const says = `patroni.crt has the common name "member": with auth, etcd answers nobody`
		wantError(t, f.Start("planner").PatroniManager().CheckEtcdFiles(patient(t), f.Node(f.Host(2), "")), "host pg2", says)
		s := f.EtcdSpec()
		s.Auth = false
		p := f.Start("off")
		if _, err := p.EtcdManager().Apply(patient(t), s); err != nil {
			t.Fatal(details(err))
		}
		client, err := p.Opener(t.Context(), s.Access())
		if err != nil {
			t.Fatal(err)
		}
		note, err := json.Marshal(patroni.NodeRecord{Name: "pg2", Target: fakefleet.Target(f.Host(2))})
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Put(t.Context(), own+"nodes/pg2", string(note)); err != nil {
			t.Fatal(err)
		}
		on := f.Start("on")
		_, err = on.EtcdManager().Apply(patient(t), f.EtcdSpec())
		wantError(t, err, "host pg2", says)
		if on.Mutations() != 0 {
			t.Errorf("%d changes were made", on.Mutations())
		}
		f.Host(2).PowerOff()
		_, err = f.Start("blind").EtcdManager().Apply(patient(t), f.EtcdSpec())
		if err == nil {
			t.Error("authentication was turned on although a node's host cannot be asked")
		}
	})
}

// A cluster keeps the kind of certificates that it was made with.
func TestBroughtKind(t *testing.T) {
	brought(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ *corporate, _ string) {
		s := f.EtcdSpec()
		s.Files, s.PatroniFiles = nil, nil
		_, err := f.Start("own").EtcdManager().Apply(patient(t), s)
		wantError(t, err, "a cluster keeps the kind of certificates")
	})
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		s := f.EtcdSpec()
		bring(t, f)
		brought := f.EtcdSpec()
		p := f.Start("brought")
		_, err := p.EtcdManager().Apply(patient(t), brought)
		wantError(t, err, "a cluster keeps the kind of certificates")
		s.PatroniFiles = brought.PatroniFiles
		_, err = p.EtcdManager().Apply(patient(t), s)
		wantError(t, err, "this provider makes them")
		f.Watch.Forget() // it was asked with files that are not the cluster's
		if p.Mutations() != 0 {
			t.Errorf("%d changes were made", p.Mutations())
		}
	})
}

// An authority goes only when nobody has certificates of it any more: members, and nodes,
// whose hosts are asked for that.
func TestBroughtWithdrawnTooEarly(t *testing.T) {
	brought(t, 1, func(t *testing.T, f *fakefleet.Fleet, c *corporate, uid string) {
		fresh := newCorporate(t, f, "fresh")
		bundle(f, c, fresh)
		if _, err := again(t, f, uid, "both"); err != nil {
			t.Fatal(details(err))
		}
		keep := f.Host(3)
		old := map[string]fakehost.File{}
		for _, p := range []string{"patroni.crt", "patroni.key"} {
			old[p] = *keep.Files.Get(tlsDir + p)
		}
		for _, m := range f.Machines() {
			fresh.leaves(m)
		}
		for p, file := range old {
			keep.Files.Put(tlsDir+p, file)
		}
		bundle(f, fresh)
		keep.Files.Text(tlsDir+"ca.crt", string(fresh.text)+string(c.text)) // so that the node itself has nothing to say
		p := f.Start("early")
		_, err := p.EtcdManager().Apply(patient(t), f.EtcdSpec())
		wantError(t, err, "does not have the authority of "+tlsDir+"patroni.crt on pg3")
		if p.Mutations() != 0 {
			t.Errorf("%d changes were made", p.Mutations())
		}
		fresh.leaves(keep)
		bundle(f, fresh)
		if _, err := again(t, f, uid, "then"); err != nil {
			t.Fatal(details(err))
		}
		f.WaitHealthy(2)
	})
}
