package fakefleet_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
)

// corporate is an authority of somebody else's, who puts certificates on hosts.
type corporate struct {
	t           *testing.T
	f           *fakefleet.Fleet
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	text        []byte
}

func newCorporate(t *testing.T, f *fakefleet.Fleet, name string) *corporate {
	c := &corporate{t: t, f: f}
	c.certificate = &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0)}
	c.text, c.key = c.sign(c.certificate, nil)
	return c
}

func (c *corporate) sign(template *x509.Certificate, key *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
	c.t.Helper()
	must := func(err error) {
		if err != nil {
			c.t.Fatal(err)
		}
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	if key == nil {
		key = own
	}
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	must(err)
	der, err := x509.CreateCertificate(rand.Reader, template, c.certificate, &own.PublicKey, key)
	must(err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), own
}

const tlsDir = "/etc/ssl/corp/"

// put puts a pair on a host, for an account.
func (c *corporate) put(m *fakehost.Machine, name, account string, change func(*x509.Certificate)) {
	c.t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "member"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 90), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.ParseIP(m.Address)},
	}
	if change != nil {
		change(template)
	}
	text, key := c.sign(template, c.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	c.f.Do(func() {
		// Further on is the public part, which is in the certificate as well.
		c.f.Learn(strings.Split(string(private), "\n")[1])
		m.Files.Text(tlsDir+name+".crt", string(text))
		m.Files.Put(tlsDir+name+".key", fakehost.File{Content: private, Mode: "640", Group: account})
	})
}

// leaves puts all certificates on a host.
func (c *corporate) leaves(m *fakehost.Machine) {
	c.put(m, "server-"+m.Name, "etcd", func(t *x509.Certificate) { t.ExtKeyUsage = t.ExtKeyUsage[:1] })
	c.put(m, "peer", "etcd", nil)
	c.put(m, "client", "etcd", func(t *x509.Certificate) { t.ExtKeyUsage, t.IPAddresses = t.ExtKeyUsage[1:], nil })
	c.put(m, "patroni", "postgres", func(t *x509.Certificate) {
		t.ExtKeyUsage, t.IPAddresses, t.Subject = t.ExtKeyUsage[1:], nil, pkix.Name{Organization: []string{"node"}}
	})
}

// bundle has everybody trust some authorities.
func bundle(f *fakefleet.Fleet, of ...*corporate) {
	var text []byte
	for _, c := range of {
		text = append(text, c.text...)
	}
	f.Do(func() {
		for _, m := range f.Machines() {
			m.Files.Text(tlsDir+"ca.crt", string(text))
		}
	})
}

// bring has a fleet's cluster get its certificates from somebody else.
func bring(t *testing.T, f *fakefleet.Fleet) *corporate {
	t.Helper()
	pair := func(name string) pki.Pair {
		return pki.Pair{Certificate: tlsDir + name + ".crt", Key: tlsDir + name + ".key"}
	}
	f.Files = &etcd.Files{Server: pair("server-{name}"), Peer: pair("peer"), Client: pair("client"), PeerName: "member", Trusted: tlsDir + "ca.crt"}
	f.PatroniFiles = &etcd.PatroniFiles{Pair: pair("patroni"), Trusted: tlsDir + "ca.crt"}
	c := newCorporate(t, f, "corporate")
	for _, m := range f.Machines() {
		c.leaves(m)
	}
	bundle(f, c)
	return c
}

// brought runs a test on a complete cluster with certificates of somebody else's. Each
// connection is made anew.
func brought(t *testing.T, seed uint64, test func(t *testing.T, f *fakefleet.Fleet, c *corporate, uid string)) {
	t.Helper()
	bubble(t, seed, func(t *testing.T, f *fakefleet.Fleet) {
		c := bring(t, f)
		p := f.Start("creator")
		if err := p.Create(patient(t)); err != nil {
			t.Fatalf("%v\n%s", details(err), p.Output())
		}
		f.WaitHealthy(2)
		f.Settle()
		f.Do(func() { f.Etcd.Fickle = true })
		test(t, f, c, uid(t, f))
	})
}

// pendingOf is what is shown of etcd, and of all nodes.
func pendingOf(t *testing.T, f *fakefleet.Fleet, uid string) []string {
	t.Helper()
	p := f.Start("reader")
	o, err := p.EtcdManager().Observed(patient(t), f.EtcdSpec())
	if err != nil {
		t.Fatal(details(err))
	}
	list := o.Drift
	for _, m := range f.Machines() {
		n, err := p.PatroniManager().ObserveNode(patient(t), f.Node(m, uid))
		if err != nil {
			t.Fatal(details(err))
		}
		list = append(list, n.Drift...)
	}
	return list
}

// again applies all and returns which steps were made.
func again(t *testing.T, f *fakefleet.Fleet, uid, by string, faults ...fakehost.Fault) ([]string, error) {
	t.Helper()
	p := f.Start(by, faults...)
	if _, err := p.EtcdManager().Apply(patient(t), f.EtcdSpec()); err != nil {
		return p.Steps(), err
	}
	return p.Steps(), p.ApplyNodes(patient(t), uid, f.Machines()...)
}

// replace replaces the authority, as whoever has it does, and applies when the plan says
// so. Each applies all, and is given which round it is.
func replace(t *testing.T, f *fakefleet.Fleet, old, fresh *corporate, apply func(round int)) {
	bundle(f, old, fresh)
	apply(0)
	for _, m := range f.Machines() {
		fresh.leaves(m)
	}
	f.Settle()
	bundle(f, fresh)
	apply(1)
	f.Settle()
	f.WaitHealthy(2)
}

// A cluster with certificates of somebody else's, and a Patroni cluster on it: nothing
// is issued, renewed leaves are nobody's business, and another authority is trusted
// by restarts of one member at a time. Nobody is refused at any time, and Patroni is
// not restarted.
func TestBrought(t *testing.T) {
	brought(t, 1, func(t *testing.T, f *fakefleet.Fleet, c *corporate, uid string) {
		f.Do(func() {
			for _, m := range f.Machines() {
				for _, p := range []string{"/etc/pgha/ca/etcd-dcs", etcdDir + "/ca.crt", etcdDir + "/server.crt", "/etc/pgha/patroni/main/etcd.crt", "/etc/pgha/patroni/main/etcd-ca.crt"} {
					if m.Files.Get(p) != nil {
						t.Errorf("%s is on %s", p, m.Name)
					}
				}
			}
		})
		theirs := func() (all []string) {
			f.Do(func() {
				for _, m := range f.Machines() {
					for _, p := range m.Files.Below(tlsDir) {
						all = append(all, m.Name, p, m.Files.Get(p).Owner, m.Files.Get(p).Mode, string(m.Files.Read(p)))
					}
				}
			})
			return all
		}
		files := theirs()
		before := running(f)
		if got := pendingOf(t, f, uid); len(got) > 0 {
			t.Errorf("drift of a new cluster: %v", got)
		}
		if steps, err := again(t, f, uid, "second"); err != nil || len(steps) > 0 {
			t.Errorf("applied again: %v %v", steps, err)
		}
		if !slices.Equal(files, theirs()) {
			t.Error("files of somebody else's were changed")
		}
		for _, m := range f.Machines() {
			c.leaves(m)
		}
		f.Settle()
		if got := pendingOf(t, f, uid); len(got) > 0 {
			t.Errorf("drift after leaves were renewed: %v", got)
		}
		fresh := newCorporate(t, f, "fresh")
		replace(t, f, c, fresh, func(round int) {
			shown := strings.Join(pendingOf(t, f, uid), "\n")
			if n := strings.Count(shown, "restart etcd.service, which then trusts the authorities that are in its file by now"); n != 3 {
				t.Errorf("round %d shows:\n%s", round, shown)
			}
			steps, err := again(t, f, uid, fmt.Sprint("round", round))
			if err != nil {
				t.Fatal(details(err))
			}
			if n := len(restarts(f, fmt.Sprint("round", round))); n != 3 {
				t.Errorf("round %d restarted %d members: %v", round, n, steps)
			}
			if got := pendingOf(t, f, uid); len(got) > 0 {
				t.Errorf("drift after round %d: %v", round, got)
			}
		})
		for name, pid := range running(f) {
			if strings.HasSuffix(name, "patroni.service") && before[name] != pid {
				t.Errorf("%s was restarted", name)
			}
		}
		files = theirs()
		p := f.Start("destroyer")
		f.Watch.Off()
		s := f.ClusterSpec()
		s.DeletionProtection = false
		if _, err := p.PatroniManager().ApplyCluster(patient(t), s); err != nil {
			t.Fatal(details(err))
		}
		if err := p.DestroyNodes(patient(t), uid, true, f.Machines()...); err != nil {
			t.Fatal(details(err))
		}
		if err := p.EtcdManager().Destroy(patient(t), f.EtcdSpec(), true); err != nil {
			t.Fatal(details(err))
		}
		if !slices.Equal(files, theirs()) {
			t.Error("files of somebody else's were changed")
		}
	})
}

// Killed at any change while an authority is being replaced, the next apply goes on, and
// nobody is refused.
func TestBroughtCrash(t *testing.T) {
	total := 0
	run := func(t *testing.T, kill int) {
		brought(t, 1, func(t *testing.T, f *fakefleet.Fleet, c *corporate, uid string) {
			fresh := newCorporate(t, f, "fresh")
			replace(t, f, c, fresh, func(round int) {
				name := fmt.Sprint("round", round)
				if kill == 0 {
					p := f.Start(name)
					if _, err := p.EtcdManager().Apply(patient(t), f.EtcdSpec()); err != nil {
						t.Fatal(details(err))
					}
					total = p.Mutations()
				} else {
					if _, err := again(t, f, uid, name+"killed", fakehost.CrashAfter(kill)); err == nil {
						t.Log("was not killed")
					}
					if _, err := again(t, f, uid, name); err != nil {
						t.Fatal(details(err))
					}
				}
				if got := pendingOf(t, f, uid); len(got) > 0 {
					t.Errorf("drift after %s, killed at %d: %v", name, kill, got)
				}
			})
			if _, err := again(t, f, uid, "after"); err != nil {
				t.Fatal(details(err))
			}
		})
	}
	t.Run("whole", func(t *testing.T) { run(t, 0) })
	t.Logf("%d changes", total)
	for kill := 1; kill <= total; kill += stride(5, 2) {
		t.Run(fmt.Sprint("killed at ", kill), func(t *testing.T) {
			t.Parallel()
			run(t, kill)
		})
	}
}

// A leaf that somebody forgot to renew is told of, and shown when it has ended; an apply
// does not touch anything then. One that is renewed is none of anybody's business.
func TestBroughtEnds(t *testing.T) {
	brought(t, 1, func(t *testing.T, f *fakefleet.Fleet, c *corporate, uid string) {
		observe := func(later time.Duration) etcd.Observed {
			m := f.Start("reader").EtcdManager()
			now := time.Now().Add(later)
			m.Now = func() time.Time { return now }
			o, err := m.Observed(patient(t), f.EtcdSpec())
			if err != nil {
				t.Fatal(details(err))
			}
			return o
		}
		const day = 24 * time.Hour
		if o := observe(84 * day); len(o.Overdue) > 0 || len(o.Drift) > 0 {
			t.Errorf("six days before the end: %v %v", o.Overdue, o.Drift)
		}
		o := observe(87 * day)
		if text := strings.Join(o.Overdue, "\n"); len(o.Overdue) != 9 || !strings.Contains(text, tlsDir+"server-pg1.crt on pg1 expires on") || len(o.Drift) > 0 {
			t.Errorf("three days before the end: %v %v", o.Overdue, o.Drift)
		}
		before := running(f)
		c.put(f.Host(2), "server-pg2", "etcd", func(t *x509.Certificate) {
			t.NotBefore, t.NotAfter = time.Now().AddDate(0, 0, -90), time.Now().Add(-time.Hour)
		})
		o = observe(0)
		if text := strings.Join(o.Drift, "\n"); !strings.Contains(text, "host pg2: check the certificates that somebody else makes: "+tlsDir+"server-pg2.crt has expired on") {
			t.Errorf("the drift: %v", o.Drift)
		}
		p := f.Start("applier")
		_, err := p.EtcdManager().Apply(patient(t), f.EtcdSpec())
		wantError(t, err, "server-pg2.crt has expired on")
		if p.Mutations() != 0 || fmt.Sprint(running(f)) != fmt.Sprint(before) {
			t.Errorf("%d changes were made", p.Mutations())
		}
		c.leaves(f.Host(2))
		if got := pendingOf(t, f, uid); len(got) > 0 {
			t.Errorf("drift after it was renewed: %v", got)
		}
		f.Watch.Forget() // who connected meanwhile was refused
	})
}

// A member is replaced, snapshots are taken, and the data is put back when all is lost,
// with the same files.
func TestBroughtLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fakefleet.New(t, fakefleet.Config{Config: fakehost.Config{Seed: 1}, Hosts: 4})
		c := bring(t, f)
		s := f.EtcdSpec()
		s.Snapshots = &etcd.Snapshots{Schedule: "daily", Keep: 3, Directory: "/var/backups/etcd"}
		apply := func(by string) {
			t.Helper()
			p := f.Start(by)
			if _, err := p.EtcdManager().Apply(patient(t), s); err != nil {
				t.Fatalf("%s\n%s", details(err), p.Output())
			}
			f.Settle()
			o, err := f.Start("reader").EtcdManager().Observed(patient(t), s)
			if err != nil || len(o.Drift) > 0 {
				t.Errorf("after %s: %v %v", by, o.Drift, err)
			}
		}
		apply("creator")
		f.Do(func() { f.Etcd.Fickle = true })
		service := string(f.Host(1).Files.Read("/etc/systemd/system/pgha-etcd-snapshot.service"))
		if !strings.Contains(service, `"`+tlsDir+"ca.crt:"+tlsDir+"client.crt:"+tlsDir+`client.key"`) {
			t.Errorf("snapshots are taken with other files:\n%s", service)
		}
		client, err := f.Start("writer").Opener(t.Context(), s.Access())
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Put(t.Context(), "/witness", "still there"); err != nil {
			t.Fatal(err)
		}
		at, err := f.Start("snapshot").EtcdManager().Doer.TakeSnapshot(patient(t), s, "for a test")
		if err != nil {
			t.Fatal(details(err))
		}
		s.Leaving = map[string]etcd.Member{"pg2": s.Members["pg2"]}
		s.Members = maps.Clone(s.Members)
		delete(s.Members, "pg2")
		s.Members["pg4"] = etcd.Member{Address: f.Host(4).Address, Target: fakefleet.Target(f.Host(4))}
		f.Host(4).Files.Remove(tlsDir + "peer.key")
		p := f.Start("early")
		_, err = p.EtcdManager().Apply(patient(t), s)
		wantError(t, err, "host pg4", "peer.key is not there")
		c.leaves(f.Host(4))
		apply("replacer")
		if f.Host(2).Files.Get(tlsDir+"peer.key") == nil || f.Host(2).Files.Get("/etc/pgha/etcd/dcs") != nil {
			t.Error("the host that was left has lost what is somebody else's, or kept what is ours")
		}
		s.Leaving = nil
		fresh := newCorporate(t, f, "fresh")
		bundle(f, c, fresh)
		apply("trusting")
		client, err = f.Start("asker").Opener(t.Context(), s.Access())
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Put(t.Context(), "/witness", "later"); err != nil {
			t.Fatal(err)
		}
		lose(f, true, f.Host(1), f.Host(3), f.Host(4))
		r, err := etcd.ParseRestore(at, "")
		if err != nil {
			t.Fatal(err)
		}
		if r.Member == "pg2" {
			t.Fatal("the snapshot has left with its member: take another seed")
		}
		s.Restore = &r
		apply("restorer")
		if got := f.Value("/witness"); got != "still there" {
			t.Errorf("the key is %q", got)
		}
	})
}

// Patroni runs on an etcd that somebody else made, with certificates of somebody else's.
func TestBroughtPatroniOnTheirs(t *testing.T) {
	laid(t, 1, secured(autobase), func(t *testing.T, f *fakefleet.Fleet, s etcd.Spec) {
		s.UID = adoptedUID(t, f)
		if _, err := f.Start("changer").EtcdManager().Apply(patient(t), s); err != nil {
			t.Fatal(details(err))
		}
		s.PatroniFiles = &etcd.PatroniFiles{Pair: pki.Pair{Certificate: tlsDir + "patroni.crt", Key: tlsDir + "patroni.key"}, Trusted: tlsDir + "ca.crt"}
		undrifted(t, f, s, "reader")
		if err := s.Access().ForPatroni(t.Context(), f.Start("asker")); err != nil {
			t.Fatal(details(err))
		}
		k := keysOfTheirs()
		f.Do(func() {
			for _, m := range f.Machines() {
				m.Files.Text(tlsDir+"ca.crt", k.authority)
				m.Files.Text(tlsDir+"patroni.crt", k.certificate)
				m.Files.Put(tlsDir+"patroni.key", fakehost.File{Content: []byte(k.key), Mode: "640", Group: "postgres"})
			}
		})
		c := f.ClusterSpec()
		c.Cluster.Etcd = s.Access()
		p := f.Start("creator")
		applied, err := p.PatroniManager().ApplyCluster(patient(t), c)
		if err != nil {
			t.Fatal(details(err))
		}
		node := func(m *fakehost.Machine) patroni.Node {
			n := f.Node(m, applied.UID)
			n.Cluster.Etcd = s.Access()
			return n
		}
		if err := p.Each(f.Machines(), func(m *fakehost.Machine) error { return p.PatroniManager().ApplyNode(patient(t), node(m)) }); err != nil {
			t.Fatalf("%s\n%s", details(err), p.Output())
		}
		f.WaitHealthy(2)
		o, err := f.Start("observer").PatroniManager().ObserveNode(patient(t), node(f.Host(2)))
		if err != nil || len(o.Drift) > 0 {
			t.Errorf("drift: %v %v", o.Drift, err)
		}
		f.Host(2).Files.Get(tlsDir + "patroni.key").Group = "root"
		o, err = f.Start("observer2").PatroniManager().ObserveNode(patient(t), node(f.Host(2)))
		if err != nil || !strings.Contains(strings.Join(o.Drift, "\n"), "patroni.key cannot be read by the user postgres") {
			t.Errorf("drift: %v %v", o.Drift, err)
		}
	})
}
