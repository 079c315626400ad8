package fakefleet_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// quit stops Patroni on a host by hand, as systemctl does.
func quit(f *fakefleet.Fleet, m *fakehost.Machine) {
	f.Do(func() {
		u := m.Units["patroni.service"]
		u.Enabled, u.Active = "disabled", "deactivating"
		u.Service.Stop(u)
	})
	f.WaitFor("Patroni on "+m.Name+" to end", func() bool { return m.Units["patroni.service"].Active == "inactive" })
}

// After a shutdown of the whole cluster, node by node and with writes between,
// only the node that has everything may lead, in whatever order the nodes are
// started: Patroni itself lets any take over that is not further behind than
// maximum_lag_on_failover, and the rest would be thrown away.
func TestLastLeaderLeads(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			created(t, seed+1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
				f.Watch.Off()
				random := rand.New(rand.NewPCG(seed, 1))
				order := random.Perm(3)
				last := ""
				for i, n := range order {
					f.Do(func() { f.Patroni.Write("main", 1000) })
					if i == 2 {
						last = f.Primary()
					}
					quit(f, f.Machines()[n])
					if i < 2 {
						f.WaitFor("a primary", func() bool { return f.Patroni.Primary("main") != nil })
					}
				}
				f.Settle()
				startInOrder(t, f, uid, random.Perm(3))
				if f.Primary() != last {
					t.Errorf("%s leads, %s did last", f.Primary(), last)
				}
				checkComplete(t, f)
			})
		})
	}
}

// The same after a power cut that hits one host after the other.
func TestLastLeaderLeadsAfterPowerCut(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			created(t, seed+1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
				f.Watch.Off()
				random := rand.New(rand.NewPCG(seed, 2))
				for _, m := range f.Machines() {
					f.Do(func() { m.Units["patroni.service"].Enabled = "disabled" })
				}
				// One that is gone before the last writes, and then the rest.
				first := random.IntN(3)
				f.Do(f.Machines()[first].PowerOff)
				f.WaitFor("a primary", func() bool { return f.Patroni.Primary("main") != nil })
				f.Do(func() { f.Patroni.Write("main", 2000) })
				f.Settle()
				for _, m := range f.Machines() {
					f.Do(m.PowerOff)
				}
				f.Settle()
				for _, m := range f.Machines() {
					f.Do(m.PowerOn)
				}
				f.Settle()
				startInOrder(t, f, uid, random.Perm(3))
				if f.Primary() == f.Machines()[first].Name {
					t.Errorf("%s leads, which was away for the last writes", f.Primary())
				}
				checkComplete(t, f)
			})
		})
	}
}

// startInOrder applies the nodes, each a while after the one before, without
// waiting for it.
func startInOrder(t *testing.T, f *fakefleet.Fleet, uid string, order []int) {
	t.Helper()
	p := f.Start("starter")
	var wg sync.WaitGroup
	for i, n := range order {
		wg.Go(func() {
			f.Sleep(time.Duration(i) * 20 * time.Second)
			if err := p.PatroniManager().ApplyNode(patient(t), f.Node(f.Machines()[n], uid)); err != nil {
				t.Errorf("%s: %v", f.Machines()[n].Name, err)
			}
		})
	}
	wg.Wait()
	f.WaitHealthy(2)
	f.Settle()
}

// A node that must not lead gives up in the end, and says which one has to
// come first and how to accept the loss if that one is gone.
func TestStaleNodeGivesUp(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		f.Watch.Off()
		stale, other, last := replicas(f)[0], replicas(f)[1], leader(t, f)
		quit(f, stale)
		f.Do(func() { f.Patroni.Write("main", 4000) })
		f.Settle()
		quit(f, other)
		quit(f, last)
		f.Settle()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
		defer cancel()
		begin := time.Now()
		err := f.Start("starter").PatroniManager().ApplyNode(ctx, f.Node(stale, uid))
		wantError(t, err, "the cluster has no leader", "and the last leader reached")
		if took := time.Since(begin); took > 10*time.Minute {
			t.Errorf("it took %s to say so", took)
		}
		f.Do(func() {
			if u := stale.Units["patroni.service"]; u.Active != "inactive" {
				t.Errorf("Patroni is %s", u.Active)
			}
		})
	})
}
