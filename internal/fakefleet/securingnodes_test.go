package fakefleet_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// turningOn are applies of a whole configuration that was without TLS and
// authentication, and is to have both.
type turningOn struct {
	f   *fakefleet.Fleet
	uid string
	mu  sync.Mutex
	// heard are the nodes whose state has been told of the new way to etcd.
	heard map[string]bool
}

// plainly runs a test on a complete cluster without either.
func plainly(t *testing.T, seed uint64, test func(t *testing.T, a *turningOn)) {
	t.Helper()
	bubble(t, seed, func(t *testing.T, f *fakefleet.Fleet) {
		s, c := f.EtcdSpec(), f.ClusterSpec()
		s.TLS, s.Auth = false, false
		c.Cluster.Etcd = s.Access()
		p := f.Start("creator")
		if _, err := p.EtcdManager().Apply(patient(t), s); err != nil {
			t.Fatal(err)
		}
		made, err := p.PatroniManager().ApplyCluster(patient(t), c)
		if err != nil {
			t.Fatal(err)
		}
		err = p.Each(f.Machines(), func(m *fakehost.Machine) error {
			n := f.Node(m, made.UID)
			n.Cluster.Etcd, n.Patroni = s.Access(), "4.1.5"
			return p.PatroniManager().ApplyNode(patient(t), n)
		})
		if err != nil {
			t.Fatal(err)
		}
		f.WaitHealthy(2)
		f.Settle()
		test(t, &turningOn{f: f, uid: made.UID, heard: map[string]bool{}})
	})
}

// round is one apply by a process: of etcd, of the Patroni cluster, and then of the
// nodes that have not been applied since.
func (a *turningOn) round(t *testing.T, p *fakefleet.Process) error {
	t.Helper()
	if _, err := p.EtcdManager().Apply(patient(t), a.f.EtcdSpec()); err != nil {
		return err
	}
	if _, err := p.PatroniManager().ApplyCluster(patient(t), a.f.ClusterSpec()); err != nil {
		return err
	}
	var due []*fakehost.Machine
	for _, m := range a.f.Machines() {
		if !a.heard[m.Name] {
			due = append(due, m)
		}
	}
	return p.Each(due, func(m *fakehost.Machine) error {
		n := a.f.Node(m, a.uid)
		n.Patroni = "4.1.5"
		err := p.PatroniManager().ApplyNode(patient(t), n)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.heard[m.Name] = err == nil
		return err
	})
}

// postmasters is when PostgreSQL was started on each host, and who is the primary.
func (a *turningOn) postmasters() string {
	var b strings.Builder
	a.f.Do(func() {
		for _, m := range a.f.Machines() {
			n := a.f.Patroni.Node(m)
			fmt.Fprintln(&b, m.Name, n.Started().Format(time.RFC3339Nano), n.Primary())
		}
	})
	return b.String()
}

// done checks that everything is as it is to be, and that nobody noticed.
func (a *turningOn) done(t *testing.T, before string) {
	t.Helper()
	f := a.f
	f.Settle()
	f.WaitHealthy(2)
	isSecure(t, f, f.EtcdSpec())
	if now := a.postmasters(); now != before {
		t.Errorf("PostgreSQL now:\n%sbefore:\n%s", now, before)
	}
	f.Do(func() {
		for _, m := range f.Machines() {
			if f.Patroni.Node(m).Paused() {
				t.Errorf("Patroni on %s is paused", m.Name)
			}
		}
	})
	if keys := f.Keys(own + "journal/pause"); len(keys) > 0 {
		t.Errorf("left in etcd: %v", keys)
	}
	if _, on := f.Etcd.Stores()[0].Users(); !on {
		t.Error("authentication is off")
	}
}

// TLS and authentication come to a whole cluster in two applies. Every connection is
// made anew all the time, and none is refused; Patroni restarts, PostgreSQL does not.
func TestTLSAndLoginsTurnedOn(t *testing.T) {
	plainly(t, 1, func(t *testing.T, a *turningOn) {
		a.f.Do(func() { a.f.Etcd.Fickle = true })
		before := a.postmasters()
		for i := range 2 {
			p := a.f.Start(fmt.Sprintf("apply %d", i+1))
			if err := a.round(t, p); err != nil {
				t.Fatal(err)
			}
			if got := strings.Count(strings.Join(p.Steps(), " "), "patroni.process@"); got != 3*(1-i) {
				t.Errorf("apply %d restarted Patroni %d times: %v", i+1, got, p.Steps())
			}
			a.f.Settle()
		}
		a.done(t, before)
	})
}

// Wherever the first apply is killed, while nodes come to etcd with https too, the next
// ones go on, and end a pause that it has left.
func TestTLSAndLoginsTurnedOnKilled(t *testing.T) {
	total, nodes := 0, 0
	plainly(t, 1, func(t *testing.T, a *turningOn) {
		p := a.f.Start("counter")
		if _, err := p.EtcdManager().Apply(patient(t), a.f.EtcdSpec()); err != nil {
			t.Fatal(err)
		}
		nodes = p.Mutations()
		if err := a.round(t, p); err != nil {
			t.Fatal(err)
		}
		total = p.Mutations()
	})
	if total < nodes+30 {
		t.Fatalf("%d changes, %d of them to etcd", total, nodes)
	}
	for k := nodes; k <= total; k += stride(9, 3) {
		for name, fault := range map[string]fakehost.Fault{"before": fakehost.CrashBefore(k), "after": fakehost.CrashAfter(k)} {
			t.Run(fmt.Sprint(name, " ", k), func(t *testing.T) {
				t.Parallel()
				plainly(t, 1, func(t *testing.T, a *turningOn) {
					before := a.postmasters()
					if err := a.round(t, a.f.Start("killed", fault)); err == nil {
						t.Skip("it was done before") // another order of the nodes
					}
					a.f.Sleep(time.Minute) // its locks run out
					for i := range 2 {
						if err := a.round(t, a.f.Start(fmt.Sprintf("apply %d", i+1))); err != nil {
							t.Fatal(err)
						}
						a.f.Settle()
					}
					a.done(t, before)
				})
			})
		}
	}
}
