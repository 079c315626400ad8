package fakefleet_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// emptied runs a test on a cluster whose nodes were destroyed and their data kept.
func emptied(t *testing.T, f func(t *testing.T, fleet *fakefleet.Fleet, c patroni.Cluster)) {
	t.Helper()
	created(t, 1, func(t *testing.T, fleet *fakefleet.Fleet, uid string) {
		p, s := fleet.Start("destroyer"), fleet.ClusterSpec()
		s.Cluster.UID, s.DeletionProtection = uid, false
		if _, err := p.PatroniManager().ApplyCluster(patient(t), s); err != nil {
			t.Fatal(err)
		}
		if err := p.DestroyNodes(patient(t), uid, false, fleet.Machines()...); err != nil {
			t.Fatal(err)
		}
		fleet.Watch.Off()
		f(t, fleet, s.Cluster)
	})
}

// Terraform saves what a refresh found only with the next change. Wherever a destroy
// that keeps the data is killed, and killed again once etcd is stopped, the next one
// sees that the cluster has gone, although its data is there and etcd is not.
func TestDestroyKilledTwice(t *testing.T) {
	total := 0
	emptied(t, func(t *testing.T, f *fakefleet.Fleet, c patroni.Cluster) {
		p := f.Start("counting")
		if err := p.PatroniManager().DestroyCluster(patient(t), c, false); err != nil {
			t.Fatal(err)
		}
		total = p.Mutations()
	})
	for k := 1; k <= total; k++ {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			t.Parallel()
			emptied(t, func(t *testing.T, f *fakefleet.Fleet, c patroni.Cluster) {
				// After the last change there may be nothing left to fail.
				if err := f.Start("killed", fakehost.CrashAfter(k)).PatroniManager().DestroyCluster(patient(t), c, false); err == nil && k < total {
					t.Fatal("the run that was killed reports success")
				}
				f.Sleep(time.Minute)
				second := f.Start("second")
				o, err := second.PatroniManager().ObserveCluster(patient(t), c, nil)
				if err != nil {
					t.Fatal(err)
				}
				if !o.Absent {
					if err := second.PatroniManager().DestroyCluster(patient(t), c, false); err != nil {
						t.Fatal(err)
					}
				}
				if err := second.EtcdManager().Destroy(patient(t), f.EtcdSpec(), false); err != nil {
					t.Fatal(err)
				}

				third := f.Start("third").PatroniManager()
				if o, err := third.ObserveCluster(patient(t), c, nil); err != nil || !o.Absent {
					t.Errorf("a cluster that was released: %+v %v", o, err)
				}
				if err := third.DestroyCluster(patient(t), c, false); err != nil {
					t.Error(err)
				}
				if n := len(f.Mutations("third")); n > 0 {
					t.Errorf("looking at it made %d changes", n)
				}
				// Its keys are still there, in an etcd that does not run.
				if err := third.DestroyCluster(patient(t), c, true); err == nil {
					t.Error("it is said to be purged, and its keys and data are there")
				}
				other := c
				other.UID = "another"
				if o, err := third.ObserveCluster(patient(t), other, nil); err == nil || o.Absent {
					t.Errorf("a cluster is taken for another one that was released: %+v", o)
				}
				m := f.Machines()[0]
				f.Do(func() { m.Files.Remove("/etc/pgha/ca/patroni-main/released") })
				if o, err := third.ObserveCluster(patient(t), c, nil); err == nil || o.Absent {
					t.Errorf("it is taken for released, and one host does not say so: %+v", o)
				}
			})
		})
	}
}

// A released cluster that was taken up again is not released: when its etcd is down,
// or stopped and disabled by somebody, nothing says that it has gone. Nor does
// anything on the way there.
func TestTakenUpIsNotReleased(t *testing.T) {
	stopEtcd := func(f *fakefleet.Fleet) {
		for _, m := range f.Machines() {
			f.Do(func() {
				m.PowerOff()
				m.Units["etcd.service"].Enabled = "disabled"
				m.PowerOn()
			})
		}
	}
	for k := range 4 {
		t.Run(fmt.Sprint("killed after ", k), func(t *testing.T) {
			t.Parallel()
			emptied(t, func(t *testing.T, f *fakefleet.Fleet, c patroni.Cluster) {
				if err := f.Start("releasing").PatroniManager().DestroyCluster(patient(t), c, false); err != nil {
					t.Fatal(err)
				}
				s := f.ClusterSpec()
				s.DeletionProtection = false
				if k > 0 {
					if _, err := f.Start("killed", fakehost.CrashAfter(k)).PatroniManager().ApplyCluster(patient(t), s); err == nil {
						t.Fatal("the run that was killed reports success")
					}
					f.Sleep(time.Minute)
				}
				p := f.Start("again")
				if _, err := p.PatroniManager().ApplyCluster(patient(t), s); err != nil {
					t.Log(p.Output())
					t.Fatal(err)
				}
				if o, err := p.PatroniManager().ObserveCluster(patient(t), c, nil); err != nil || o.Absent || len(o.Drift) > 0 {
					t.Errorf("a cluster that was taken up again: %+v %v", o, err)
				}
				stopEtcd(f)
				if o, err := f.Start("blind").PatroniManager().ObserveCluster(patient(t), c, nil); err == nil || o.Absent {
					t.Errorf("it is taken for one that has gone: %+v", o)
				}
			})
		})
	}
}
