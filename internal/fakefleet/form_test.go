package fakefleet_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
)

// A bootstrap that PostgreSQL does not survive ends with what it logged, with
// Patroni stopped, so that it does not try for ever. Once mended it succeeds:
// what was logged before is not held against it.
func TestBootstrapFails(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		f.Do(func() {
			f.Patroni.BootstrapFails = []string{`2026-11-22 FATAL:  could not map anonymous shared memory: Cannot allocate memory`}
		})
		begin := time.Now()
		err := f.Start("first").Create(patient(t))
		wantError(t, err, "could not be initialised")
		if detail := details(err); !strings.Contains(detail, "Cannot allocate memory") {
			t.Errorf("PostgreSQL's log is not quoted:\n%s", detail)
		}
		if took := time.Since(begin); took > 3*time.Minute {
			t.Errorf("it took %s to say so", took)
		}
		f.Do(func() {
			for _, m := range f.Machines() {
				if u := m.Units["patroni.service"]; u.Active != "inactive" {
					t.Errorf("Patroni on %s is %s", m.Name, u.Active)
				}
			}
			f.Patroni.BootstrapFails, f.Patroni.Initdbs = nil, nil
		})
		f.Sleep(time.Minute)
		if err := f.Start("second").Create(patient(t)); err != nil {
			t.Fatal(err)
		}
		checkComplete(t, f)
		checkNothingLeft(t, f)
	})
}

// When the only node with the database goes while the others clone it, they say
// so after a while; when it is back, the next run completes them.
func TestCloneLosesLeader(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		var lost string
		var wg sync.WaitGroup
		wg.Go(func() {
			f.WaitFor("a clone to be under way", func() bool {
				for _, m := range f.Machines() {
					if n := f.Patroni.Node(m); n != nil && n.Cloning() {
						lost = f.Patroni.Primary(fakefleet.Scope).Machine().Name
						f.Patroni.Primary(fakefleet.Scope).Machine().PowerOff()
						return true
					}
				}
				return false
			})
		})
		begin := time.Now()
		err := f.Start("first").Create(patient(t))
		wg.Wait()
		wantError(t, err, "nobody has led the cluster")
		if took := time.Since(begin); took > 15*time.Minute {
			t.Errorf("it took %s to say so", took)
		}
		for _, m := range f.Machines() {
			if m.Name == lost {
				f.Do(m.PowerOn)
			}
		}
		f.Sleep(time.Minute)
		if err := f.Start("second").Create(patient(t)); err != nil {
			t.Fatal(err)
		}
		checkComplete(t, f)
		checkNothingLeft(t, f)
	})
}

// Cloning that fails again and again ends the wait with the node's log. After
// it was mended the next run waits for the clone, and does not take the old
// lines for new ones.
func TestCloneFails(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		f.Do(func() {
			f.Patroni.CloneFails = "pg_basebackup: error: FATAL:  no pg_hba.conf entry for replication connection"
		})
		err := f.Start("first").Create(patient(t))
		wantError(t, err, "cloning has failed 3 times")
		if detail := details(err); !strings.Contains(detail, "no pg_hba.conf entry") {
			t.Errorf("the log is not quoted:\n%s", detail)
		}
		f.Do(func() { f.Patroni.CloneFails, f.Patroni.CloneTime = "", 30*time.Second })
		if err := f.Start("second").Create(patient(t)); err != nil {
			t.Fatal(err)
		}
		checkComplete(t, f)
		checkNothingLeft(t, f)
	})
}

// A node that must never lead does not make the database either, by whichever
// tag that is said: Patroni would wait for another one to do it, for ever.
func TestForbiddenNodeDoesNotBootstrap(t *testing.T) {
	for name, tags := range map[string]map[string]any{
		"nofailover": {"nofailover": true}, "priority zero": {"failover_priority": int64(0)},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
				p := f.Start("creator")
				if _, err := p.EtcdManager().Apply(patient(t), f.EtcdSpec()); err != nil {
					t.Fatal(err)
				}
				applied, err := p.PatroniManager().ApplyCluster(patient(t), f.ClusterSpec())
				if err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				for i, m := range f.Machines() {
					n := f.Node(m, applied.UID)
					if i < 2 {
						n.Tags = tags
					}
					wg.Go(func() {
						// The one that may lead comes last.
						f.Sleep(time.Duration(i) * time.Minute)
						if err := p.PatroniManager().ApplyNode(patient(t), n); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				checkComplete(t, f)
				if f.Primary() != "pg3" {
					t.Errorf("%s leads", f.Primary())
				}
			})
		})
	}
}
