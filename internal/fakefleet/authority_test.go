package fakefleet_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
)

// replacing is the etcd cluster with another authority.
func replacing(f *fakefleet.Fleet) etcd.Spec {
	s := f.EtcdSpec()
	s.Authority = "2026"
	return s
}

// applies are those of a whole configuration, in which the name of the authority is
// another one. A node is applied where a refresh has shown something, and until it
// has heard of that name.
type applies struct {
	f     *fakefleet.Fleet
	uid   string
	mu    sync.Mutex
	heard map[string]bool
}

// pending is what refreshing shows, of etcd and of each node.
func (a *applies) pending(t *testing.T) (dcs []string, nodes map[string][]string) {
	t.Helper()
	p := a.f.Start("reader")
	o, err := p.EtcdManager().Observed(patient(t), replacing(a.f))
	if err != nil {
		t.Fatal(err)
	}
	nodes = map[string][]string{}
	for _, m := range a.f.Machines() {
		n, err := p.PatroniManager().ObserveNode(patient(t), a.f.Node(m, a.uid))
		if err != nil {
			t.Fatal(err)
		}
		if len(n.Drift) > 0 {
			nodes[m.Name] = n.Drift
		}
	}
	return o.Drift, nodes
}

// shown is all of that in lines.
func (a *applies) shown(t *testing.T) []string {
	t.Helper()
	all, nodes := a.pending(t)
	for _, name := range a.f.Names() {
		all = append(all, nodes[name]...)
	}
	return all
}

// round is one apply, by a process.
func (a *applies) round(t *testing.T, p *fakefleet.Process) error {
	t.Helper()
	_, nodes := a.pending(t)
	ctx := patient(t)
	if _, err := p.EtcdManager().Apply(ctx, replacing(a.f)); err != nil {
		return err
	}
	var due []*fakehost.Machine
	for _, m := range a.f.Machines() {
		if len(nodes[m.Name]) > 0 || !a.heard[m.Name] {
			due = append(due, m)
		}
	}
	return p.Each(due, func(m *fakehost.Machine) error {
		err := p.PatroniManager().ApplyNode(ctx, a.f.Node(m, a.uid))
		a.mu.Lock()
		defer a.mu.Unlock()
		a.heard[m.Name] = a.heard[m.Name] || err == nil
		return err
	})
}

// checkReplaced checks that the new authority is the only one that is left, on all
// hosts, and has signed everything.
func checkReplaced(t *testing.T, f *fakefleet.Fleet, old []byte) {
	t.Helper()
	f.Do(func() {
		first := f.Host(1).Files.Read("/etc/pgha/ca/etcd-dcs/ca.crt")
		if c, err := pki.Parse(first); err != nil || c.Subject.CommonName != "etcd-dcs.2026" || bytes.Equal(first, old) {
			t.Fatalf("the authority: %v %v", c, err)
		}
		for _, m := range f.Machines() {
			for _, path := range []string{"/etc/pgha/ca/etcd-dcs/ca.crt", etcdDir + "/ca.crt", "/etc/pgha/patroni/main/etcd-ca.crt"} {
				if got := m.Files.Read(path); !bytes.Equal(got, first) {
					t.Errorf("%s on %s has %d certificates, not the new one alone", path, m.Name, len(pki.ParseAll(got)))
				}
			}
			for _, path := range []string{etcdDir + "/server.crt", etcdDir + "/peer.crt", "/etc/pgha/patroni/main/etcd.crt"} {
				if c, err := pki.Parse(m.Files.Read(path)); err != nil || pki.Signer(c, first) == nil {
					t.Errorf("%s on %s is not of the new authority", path, m.Name)
				}
			}
			for _, gone := range []string{"next-etcd-dcs", "old-etcd-dcs"} {
				if m.Files.Get("/etc/pgha/ca/"+gone) != nil {
					t.Errorf("%s is left on %s", gone, m.Name)
				}
			}
		}
	})
}

// The authority of a running cluster is replaced by as many applies as it takes
// for everybody to trust the new one first. Each connection is made anew all the
// time, and none is refused: the watch sees to that. Members are restarted twice,
// one at a time; Patroni is not.
func TestAuthorityReplaced(t *testing.T) {
	seeds := uint64(4)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			created(t, seed+1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
				f.Do(func() { f.Etcd.Fickle = true })
				old := f.Host(1).Files.Read("/etc/pgha/ca/etcd-dcs/ca.crt")
				before := running(f)
				a := &applies{f: f, uid: uid, heard: map[string]bool{}}
				var log []string
				for i, want := range []struct {
					shows    []string
					restarts int
				}{
					{[]string{"make the certificate authority that replaces", "restart etcd.service, to trust the old and the new authority, while all others are well", "have the new authority sign", "wait until pg1 of main, pg2 of main, pg3 of main trust"}, 3},
					{[]string{"server.crt (it is of the authority that is being replaced)", "with the new authority alone", "restart etcd.service, to trust the new authority alone, while all others are well", "delete the old authority with its key"}, 3},
					{[]string{"write /etc/pgha/patroni/main/etcd-ca.crt"}, 0},
				} {
					shown := strings.Join(a.shown(t), "\n")
					for _, line := range want.shows {
						if !strings.Contains(shown, line) {
							t.Errorf("before apply %d it is not shown that it will %q:\n%s", i+1, line, shown)
						}
					}
					p := f.Start(fmt.Sprint("round", i))
					if err := a.round(t, p); err != nil {
						t.Fatalf("apply %d: %v\n%s", i+1, err, p.Output())
					}
					if n := len(restarts(f, fmt.Sprint("round", i))); n != want.restarts {
						t.Errorf("apply %d restarted %d members, want %d", i+1, n, want.restarts)
					}
					log = append(log, p.Steps()...)
					f.Settle()
				}
				checkReplaced(t, f, old)
				if left := a.shown(t); len(left) > 0 {
					t.Errorf("left to do: %v", left)
				}
				after := running(f)
				for name, pid := range before {
					if strings.HasSuffix(name, "patroni.service") && after[name] != pid {
						t.Errorf("%s was restarted", name)
					}
				}
				f.WaitHealthy(2)
				// A plain apply, and one with another name, which has been there before.
				p := f.Start("again")
				if err := a.round(t, p); err != nil || len(p.Steps()) > 0 {
					t.Errorf("applied again: %v, %v", err, p.Steps())
				}
				if t.Failed() {
					t.Log(strings.Join(log, "\n"))
				}
			})
		})
	}
}

// Whenever it is killed, on the way from one authority to the other, everybody is
// let in all the time, and applying again gets there.
func TestAuthorityReplacedCrash(t *testing.T) {
	changes := []int{}
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		a := &applies{f: f, uid: uid, heard: map[string]bool{}}
		for i := range 3 {
			p := f.Start(fmt.Sprint("round", i))
			if err := a.round(t, p); err != nil {
				t.Fatal(err)
			}
			changes = append(changes, p.Mutations())
		}
	})
	t.Logf("changes of the three applies: %v", changes)
	step := stride(9, 2)
	for i, total := range changes {
		for k := 1; k <= total; k += step {
			for _, after := range []bool{true, false} {
				if testing.Short() && !after {
					continue
				}
				t.Run(fmt.Sprintf("apply %d, change %d, after %v", i+1, k, after), func(t *testing.T) {
					t.Parallel()
					created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
						f.Do(func() { f.Etcd.Fickle = true })
						old := f.Host(1).Files.Read("/etc/pgha/ca/etcd-dcs/ca.crt")
						a := &applies{f: f, uid: uid, heard: map[string]bool{}}
						for n := range i {
							if err := a.round(t, f.Start(fmt.Sprint("before", n))); err != nil {
								t.Fatal(err)
							}
						}
						fault := fakehost.CrashBefore(k)
						if after {
							fault = fakehost.CrashAfter(k)
						}
						p := f.Start("killed", fault)
						if err := a.round(t, p); err == nil || !p.Crashed() {
							t.Fatalf("it was not killed: %v", err)
						}
						f.Settle()
						for n := 0; len(a.shown(t)) > 0; n++ {
							if n > 4 {
								t.Fatalf("there is no end to it: %v", a.shown(t))
							}
							p := f.Start(fmt.Sprint("after", n))
							if err := a.round(t, p); err != nil {
								t.Fatalf("apply %d after it: %v\n%s", n+1, err, p.Output())
							}
							f.Settle()
						}
						checkReplaced(t, f, old)
						f.WaitHealthy(2)
					})
				})
			}
		}
	}
}

// Nothing goes on while a node has not heard of the new authority, and the plan
// names it.
func TestAuthorityWaits(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		f.Do(func() { f.Etcd.Fickle = true })
		s := replacing(f)
		for range 3 {
			p := f.Start("cluster")
			if _, err := p.EtcdManager().Apply(patient(t), s); err != nil {
				t.Fatal(err)
			}
			if err := p.ApplyNodes(patient(t), uid, f.Host(1), f.Host(2)); err != nil {
				t.Fatal(err)
			}
			f.Settle()
		}
		o, err := f.Start("reader").EtcdManager().Observed(patient(t), s)
		if err != nil || len(o.Drift) != 1 || !strings.Contains(o.Drift[0], "wait until pg3 of main trust the new authority") {
			t.Errorf("it shows %v %v", o.Drift, err)
		}
		for _, m := range f.Machines() {
			if c, _ := pki.Parse(m.Files.Read(etcdDir + "/server.crt")); pki.Signer(c, m.Files.Read("/etc/pgha/ca/old-etcd-dcs/ca.crt")) == nil {
				t.Errorf("%s has a certificate that pg3's Patroni does not trust", m.Name)
			}
		}
	})
}

// A cluster that is made with a name has it from the beginning.
func TestAuthorityNamed(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		if _, err := f.Start("creator").EtcdManager().Apply(patient(t), replacing(f)); err != nil {
			t.Fatal(err)
		}
		o, err := f.Start("reader").EtcdManager().Observed(patient(t), replacing(f))
		if err != nil || len(o.Drift) > 0 {
			t.Errorf("left to do: %v %v", o.Drift, err)
		}
		if c, err := pki.Parse(f.Host(1).Files.Read("/etc/pgha/ca/etcd-dcs/ca.crt")); err != nil || c.Subject.CommonName != "etcd-dcs.2026" {
			t.Errorf("the authority: %v %v", c, err)
		}
	})
}

// Without nodes there is nobody to wait for.
func TestAuthorityReplacedAlone(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		if _, err := f.Start("creator").EtcdManager().Apply(patient(t), f.EtcdSpec()); err != nil {
			t.Fatal(err)
		}
		f.Do(func() { f.Etcd.Fickle = true })
		old := f.Host(1).Files.Read("/etc/pgha/ca/etcd-dcs/ca.crt")
		p := f.Start("changer")
		if _, err := p.EtcdManager().Apply(patient(t), replacing(f)); err != nil {
			t.Fatalf("%v\n%s", err, p.Output())
		}
		f.Do(func() {
			for _, m := range f.Machines() {
				got := m.Files.Read(etcdDir + "/ca.crt")
				if c, err := pki.Parse(got); err != nil || c.Subject.CommonName != "etcd-dcs.2026" || len(pki.ParseAll(got)) != 1 || bytes.Contains(got, old) {
					t.Errorf("%s trusts %d authorities", m.Name, len(pki.ParseAll(got)))
				}
			}
		})
		o, err := f.Start("reader").EtcdManager().Observed(patient(t), replacing(f))
		if err != nil || len(o.Drift) > 0 {
			t.Errorf("left to do: %v %v", o.Drift, err)
		}
	})
}

// Members that join and leave while it is under way have all that they need, at
// whichever stage.
func TestAuthorityAndMembers(t *testing.T) {
	for stage := range 3 {
		t.Run(fmt.Sprint(stage), func(t *testing.T) {
			t.Parallel()
			prepared(t, transition{from: "pg1 pg2 pg3"}, 1, func(t *testing.T, f *fakefleet.Fleet) {
				f.Do(func() { f.Etcd.Fickle = true })
				of := func(s etcd.Spec) etcd.Spec { s.Authority = "2026"; return s }
				// A node that has to be waited for.
				client, err := f.Start("noter").Opener(t.Context(), members(f, "pg1 pg2 pg3").Access())
				if err != nil {
					t.Fatal(err)
				}
				const node = "/pgha/patroni/service/main/nodes/x"
				if err := client.Put(t.Context(), node, "{}"); err != nil {
					t.Fatal(err)
				}
				var fault []fakehost.Fault
				if stage == 0 { // right after the next authority was made and copied once
					fault = append(fault, fakehost.CrashAfter(3))
				}
				p := f.Start("first", fault...)
				if _, err := p.EtcdManager().Apply(patient(t), of(members(f, "pg1 pg2 pg3"))); (err != nil) != (stage == 0) {
					t.Fatalf("%v\n%s", err, p.Output())
				}
				noted := func() {
					trust := etcd.TrustOf(f.Host(1).Files.Read(etcdDir + "/ca.crt"))
					if err := client.Put(t.Context(), node, fmt.Sprintf(`{"etcd_trusts":%q,"etcd_signed_by":%q}`, trust.Trusts, pki.Fingerprint(f.Host(1).Files.Read("/etc/pgha/ca/etcd-dcs/ca.crt")))); err != nil {
						t.Fatal(err)
					}
				}
				if stage == 2 {
					noted()
				}
				f.Settle()
				if _, err := f.Start("second").EtcdManager().Apply(patient(t), of(moving(f, "pg1 pg2 pg3", "pg1 pg4 pg5"))); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					if _, err := f.Start("third").EtcdManager().Apply(patient(t), of(members(f, "pg1 pg4 pg5"))); err != nil {
						t.Fatal(err)
					}
					if client, err = f.Start("noter").Opener(t.Context(), members(f, "pg1 pg4 pg5").Access()); err != nil {
						t.Fatal(err)
					}
					noted()
				}
				o, err := f.Start("reader").EtcdManager().Observed(patient(t), of(members(f, "pg1 pg4 pg5")))
				if err != nil || len(o.Drift) > 0 {
					t.Errorf("left to do: %v %v", o.Drift, err)
				}
				f.Do(func() {
					first := f.Host(1).Files.Read("/etc/pgha/ca/etcd-dcs/ca.crt")
					for _, i := range []int{1, 4, 5} {
						if got := f.Host(i).Files.Read(etcdDir + "/ca.crt"); !bytes.Equal(got, first) {
							t.Errorf("pg%d trusts %d authorities", i, len(pki.ParseAll(got)))
						}
					}
					for _, i := range []int{2, 3} {
						if left := f.Host(i).Files.Paths(); slices.ContainsFunc(left, func(p string) bool { return strings.Contains(p, "etcd-dcs") && !strings.HasPrefix(p, "/run/") }) {
							t.Errorf("left on pg%d: %v", i, left)
						}
					}
				})
			})
		})
	}
}

// An authority that has ended lets nobody in who connects anew. Replacing it is all
// that helps, and an apply does it at once.
func TestAuthorityEnded(t *testing.T) {
	crashes := []int{0}
	for k := 1; k <= 24; k += stride(7, 2) {
		crashes = append(crashes, k)
	}
	for _, crash := range crashes {
		t.Run(fmt.Sprint(crash), func(t *testing.T) {
			t.Parallel()
			created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
				f.Do(func() {
					for _, m := range f.Machines() {
						m.Reissue("/etc/pgha/ca/etcd-dcs", "/etc/pgha/ca/etcd-dcs/ca.crt", time.Now().AddDate(-10, 0, 0), time.Now().AddDate(0, 0, -1))
						for _, path := range []string{etcdDir + "/ca.crt", "/etc/pgha/patroni/main/etcd-ca.crt"} {
							n := *m.Files.Get(path)
							n.Content = f.Host(1).Files.Read("/etc/pgha/ca/etcd-dcs/ca.crt")
							m.Files.Put(path, n)
						}
						m.Files.Put("/etc/pgha/ca/etcd-dcs/ca.crt", *f.Host(1).Files.Get("/etc/pgha/ca/etcd-dcs/ca.crt"))
						f.Etcd.Reload(m)
					}
					f.Etcd.Disconnect()
				})
				f.Settle()
				f.Do(func() {
					if f.Etcd.Stores()[0].Quorum() {
						t.Fatal("there is a quorum: this shows nothing")
					}
				})
				s := replacing(f)
				if crash > 0 {
					p := f.Start("killed", fakehost.CrashAfter(crash))
					_, _ = p.EtcdManager().Apply(patient(t), s)
					if !p.Crashed() {
						t.Fatal("it was not killed")
					}
					f.Settle()
				}
				a := &applies{f: f, uid: uid, heard: map[string]bool{}}
				f.Watch.Off() // there is no quorum that a restart could cost
				for n := 0; n == 0 || len(a.shown(t)) > 0; n++ {
					if n > 5 {
						t.Fatalf("there is no end to it: %v", a.shown(t))
					}
					p := f.Start(fmt.Sprint("healer", n))
					if err := a.round(t, p); err != nil {
						t.Fatalf("%v\n%s", err, p.Output())
					}
				}
				f.WaitHealthy(2)
				checkReplaced(t, f, nil)
				f.Watch.Forget()
			})
		})
	}
}
