package fakefleet_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// ways in which a cluster can be when etcd comes back with nothing in it.
var ways = map[string]func(t *testing.T, f *fakefleet.Fleet){
	// The primary has gone on.
	"failsafe": func(t *testing.T, f *fakefleet.Fleet) {
		failsafe(t, f)
		lose(f, true, f.Machines()...)
		for range 10 {
			f.Sleep(3 * time.Second)
			if !write(f, 500) {
				t.Error("the primary does not take writes in failsafe mode")
			}
		}
	},
	// It has become read-only. Only it has the last rows.
	"demoted": func(t *testing.T, f *fakefleet.Fleet) {
		lead := leader(t, f)
		f.Do(func() {
			for _, m := range f.Machines() {
				if m != lead {
					f.Patroni.Node(m).Disconnect()
				}
				m.Units["etcd.service"].Halt()
			}
			f.Patroni.Write(fakefleet.Scope, 5000)
		})
		lose(f, true, f.Machines()...)
		f.Sleep(time.Minute)
	},
	// All hosts have lost their power. Only the primary has the last rows.
	"power": func(t *testing.T, f *fakefleet.Fleet) {
		lead := leader(t, f)
		f.Watch.Off()
		f.Do(func() {
			for _, m := range f.Machines() {
				if m != lead {
					f.Patroni.Node(m).Disconnect()
				}
			}
			f.Patroni.Write(fakefleet.Scope, 5000)
			for _, m := range f.Machines() {
				m.PowerOff()
			}
		})
		f.Sleep(time.Minute)
		f.Do(func() {
			for _, m := range f.Machines() {
				m.PowerOn()
			}
		})
		lose(f, true, f.Machines()...)
		f.Sleep(20 * time.Second)
	},
}

// recoverSpec is the cluster with its nodes named.
func recoverSpec(f *fakefleet.Fleet, uid string) patroni.ClusterSpec {
	s := f.ClusterSpec()
	s.Cluster.UID = uid
	s.RecoverFrom = map[string]host.Target{}
	for _, m := range f.Machines() {
		s.RecoverFrom[m.Name] = fakefleet.Target(m)
	}
	return s
}

// recovered applies everything as the guide says.
func recoverAll(t *testing.T, f *fakefleet.Fleet, p *fakefleet.Process, uid string) error {
	t.Helper()
	if _, err := p.EtcdManager().Apply(patient(t), restoreSpec(f, &etcd.Restore{})); err != nil {
		return err
	}
	s := recoverSpec(f, uid)
	if v := f.Value("/service/main/config"); v != "" {
		s.Wanted = nil
	}
	s.Wanted = f.ClusterSpec().Wanted
	a, err := p.PatroniManager().ApplyCluster(patient(t), s)
	if err != nil {
		return err
	}
	return p.ApplyNodes(patient(t), a.UID, f.Machines()...)
}

// etcd is lost, and there is no snapshot. The cluster is taken up from its nodes, as
// the one it was: with its uid, its passwords and all rows.
func TestRecover(t *testing.T) {
	for name, way := range ways {
		for seed := range uint64(3) {
			t.Run(fmt.Sprint(name, seed), func(t *testing.T) {
				created(t, seed, func(t *testing.T, f *fakefleet.Fleet, uid string) {
					secrets := f.Value(own + "secrets")
					lead := leader(t, f)
					way(t, f)
					if _, err := f.Start("etcd").EtcdManager().Apply(patient(t), restoreSpec(f, &etcd.Restore{})); err != nil {
						t.Fatal(err)
					}
					f.Settle()
					if keys := f.Keys("/service/"); len(keys) > 0 {
						t.Errorf("Patroni is in etcd before it was let in: %v", keys)
					}
					p := f.Start("unnamed")
					_, err := p.PatroniManager().ApplyCluster(patient(t), f.ClusterSpec())
					wantError(t, err, "knows nothing of the Patroni cluster", "it did once")
					_, err = p.PatroniManager().ApplyCluster(patient(t), func() patroni.ClusterSpec { s := recoverSpec(f, ""); s.RecoverFrom = nil; return s }())
					wantError(t, err, "knows nothing of the Patroni cluster")
					q := f.Start("recoverer")
					if err := recoverAll(t, f, q, ""); err != nil {
						t.Fatalf("%v\n%s", err, q.Output())
					}
					checkRestored(t, f)
					if f.Primary() != lead.Name {
						t.Errorf("%s leads, and %s had the newest data", f.Primary(), lead.Name)
					}
					if now := f.Value(own + "secrets"); now != secrets {
						t.Error("the passwords are others")
					}
					if got := f.Value(own + "restored"); got != "" {
						t.Errorf("it is noted as unfinished: %s", got)
					}
					again := f.Start("again")
					if err := recoverAll(t, f, again, uid); err != nil || again.Mutations() > 0 {
						t.Errorf("applied again: %v, %v", err, again.Steps())
					}
				})
			})
		}
	}
}

// Killed before or after each change, the next apply ends it.
func TestRecoverCrash(t *testing.T) {
	for name, way := range ways {
		total := 0
		run := func(t *testing.T, fault ...fakehost.Fault) {
			created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
				secrets, lead := f.Value(own+"secrets"), leader(t, f)
				way(t, f)
				p := f.Start("first", fault...)
				err := recoverAll(t, f, p, uid)
				if total == 0 {
					total = p.Mutations()
				} else if err == nil || !p.Crashed() {
					t.Fatalf("the run was not killed: %v", err)
				}
				f.Sleep(time.Minute)
				if err := recoverAll(t, f, f.Start("second"), uid); err != nil {
					t.Fatal(err)
				}
				checkRestored(t, f)
				if f.Primary() != lead.Name || f.Value(own+"secrets") != secrets {
					t.Errorf("%s leads, and %s had the newest data", f.Primary(), lead.Name)
				}
				third := f.Start("third")
				if err := recoverAll(t, f, third, uid); err != nil || third.Mutations() > 0 {
					t.Errorf("applied again: %v, %v", err, third.Steps())
				}
			})
		}
		t.Run(name, func(t *testing.T) { run(t) })
		step := stride(8, 5)
		for k := 1; k <= total; k += step {
			t.Run(fmt.Sprintf("%s before change %d", name, k), func(t *testing.T) { t.Parallel(); run(t, fakehost.CrashBefore(k)) })
			t.Run(fmt.Sprintf("%s after change %d", name, k), func(t *testing.T) { t.Parallel(); run(t, fakehost.CrashAfter(k)) })
		}
	}
}

// A snapshot that is older than a change of the passwords: the nodes' are right.
func TestRestoreOldPasswords(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		failsafe(t, f)
		r := snapshotNow(t, f)
		s := recoverSpec(f, uid)
		s.Wanted["failsafe_mode"] = true
		one := patroni.Made(1)
		s.Origin = patroni.Origin{Superuser: one, Replication: one, Rewind: one, API: one, Etcd: one}
		if _, err := f.Start("rotate").PatroniManager().ApplyCluster(patient(t), s); err != nil {
			t.Fatal(err)
		}
		secrets := f.Value(own + "secrets")
		lose(f, true, f.Machines()...)
		applyEtcd(t, f, "restorer", restoreSpec(f, r))
		if f.Value(own+"secrets") == secrets {
			t.Fatal("the snapshot has the new passwords")
		}
		err := f.Start("early").ApplyNodes(patient(t), uid, f.Host(1))
		wantError(t, err, "has not been compared with its nodes yet")
		o, err := f.Start("reader").PatroniManager().ObserveCluster(patient(t), s.Cluster, nil)
		if err != nil || len(o.Drift) != 1 {
			t.Errorf("drift: %v, %v", o.Drift, err)
		}
		p := f.Start("cluster")
		if _, err := p.PatroniManager().ApplyCluster(patient(t), s); err != nil {
			t.Fatalf("%v\n%s", err, p.Output())
		}
		if now := f.Value(own + "secrets"); now != secrets {
			t.Error("the passwords are others")
		}
		checkRestored(t, f)
		if err := f.Start("nodes").ApplyNodes(patient(t), uid, f.Machines()...); err != nil {
			t.Fatal(err)
		}
		f.WaitHealthy(2)
	})
}
