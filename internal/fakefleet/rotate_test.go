package fakefleet_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// rotated is the cluster with other passwords everywhere.
func rotated(f *fakefleet.Fleet, n int64) patroni.ClusterSpec {
	s := f.ClusterSpec()
	s.Owned = s.Wanted.Paths()
	made := patroni.Made(n)
	s.Origin = patroni.Origin{Superuser: made, Replication: made, Rewind: made, API: made, Etcd: made}
	return s
}

// passwords are those in etcd, by account.
func passwords(t *testing.T, f *fakefleet.Fleet) map[string]string {
	t.Helper()
	var stored map[string]any
	if err := json.Unmarshal([]byte(f.Value(own+"secrets")), &stored); err != nil {
		t.Fatal(err)
	}
	if stored["next"] != nil {
		t.Error("the change of passwords is not finished")
	}
	list := map[string]string{}
	for _, account := range []string{"superuser", "replication", "rewind", "restapi", "etcd"} {
		list[account] = stored[account].(string)
	}
	return list
}

// checkRotated checks that all nodes have the passwords in etcd, and that those
// from before are nowhere any more.
func checkRotated(t *testing.T, f *fakefleet.Fleet, uid string, before map[string]string) {
	t.Helper()
	now := passwords(t, f)
	for account := range before {
		if before[account] == now[account] {
			t.Errorf("the password for %s is the old one", account)
		}
	}
	for _, m := range f.Machines() {
		f.Do(func() {
			for _, p := range []string{"/etc/patroni/config.yml", "/var/lib/postgresql/pgpass.patroni"} {
				text := string(m.Files.Read(p))
				for account, password := range before {
					if strings.Contains(text, password) {
						t.Errorf("%s on %s has the old password for %s", p, m.Name, account)
					}
				}
				if strings.HasPrefix(p, "/etc") {
					for account, password := range now {
						if !strings.Contains(text, password) {
							t.Errorf("%s on %s lacks the password for %s", p, m.Name, account)
						}
					}
				}
			}
			// Whoever has to connect again is let in.
			f.Patroni.Node(m).Disconnect()
		})
	}
	f.Settle()
	f.WaitHealthy(len(f.Machines()) - 1)
	for _, m := range f.Machines() {
		o, err := f.Start("reader").PatroniManager().ObserveNode(patient(t), f.Node(m, uid))
		if err != nil || len(o.Drift) > 0 {
			t.Errorf("%s after the change: %v %v", m.Name, o.Drift, err)
		}
	}
	again := f.Start("again")
	if err := again.ApplyNodes(patient(t), uid, f.Machines()...); err != nil {
		t.Fatal(err)
	}
	if steps := again.Steps(); len(steps) > 0 {
		t.Errorf("applying the nodes had steps: %v", steps)
	}
}

// Passwords that were made are replaced by others, in every place, and nobody
// stops, restarts or changes roles for it.
func TestRotate(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		leads, promotions := f.Primary(), len(f.Patroni.Promotions)
		for n := int64(1); n <= 3; n++ {
			before := passwords(t, f)
			p := f.Start(fmt.Sprint("rotate", n))
			s := rotated(f, n)
			if _, err := p.PatroniManager().ApplyCluster(patient(t), s); err != nil {
				t.Log(p.Output())
				t.Fatal(err)
			}
			checkRotated(t, f, uid, before)
			again := f.Start(fmt.Sprint("again", n))
			if _, err := again.PatroniManager().ApplyCluster(patient(t), s); err != nil {
				t.Fatal(err)
			}
			if len(f.Mutations(again.Name)) > 0 {
				t.Errorf("the same number again did something: %v", f.Mutations(again.Name))
			}
		}
		if f.Primary() != leads || len(f.Patroni.Promotions) != promotions {
			t.Error("another node leads")
		}
	})
}

// A password that is brought is taken, replaced, and replaced by one that is made
// again; the others stay.
func TestRotateBrought(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		first := passwords(t, f)
		apply := func(name, origin, password string) map[string]string {
			s := rotated(f, 0)
			s.Origin.Replication, s.Bring.Replication = origin, password
			p := f.Start(name)
			p.Redact.Add(password)
			if _, err := p.PatroniManager().ApplyCluster(patient(t), s); err != nil {
				t.Fatal(err)
			}
			now := passwords(t, f)
			want := map[string]string{}
			for k, v := range first {
				want[k] = v
			}
			if want["replication"] = now["replication"]; password != "" {
				want["replication"] = password
			}
			if d := cmp.Diff(want, now); d != "" {
				t.Errorf("%s (-want +got):\n%s", name, d)
			}
			checkRotated(t, f, uid, nil)
			return now
		}
		apply("brought", patroni.Brought(1), "from-a-vault:with\\signs")
		apply("brought again", patroni.Brought(2), "another-from-a-vault")
		if now := apply("made again", patroni.Made(0), ""); now["replication"] == "another-from-a-vault" || now["replication"] == first["replication"] {
			t.Error("no new one was made")
		}
	})
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		s := rotated(f, 0)
		s.Origin.Rewind = patroni.Brought(1)
		_, err := f.Start("forgetful").PatroniManager().ApplyCluster(patient(t), s)
		wantError(t, err, "credentials.rewind has a password_wo_version and no password_wo")
	})
}

// Whenever the provider is killed while it changes passwords, the next apply
// finishes that: the passwords are those that were noted first.
func TestRotateCrash(t *testing.T) {
	const seed = 1
	total := 0
	created(t, seed, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		p := f.Start("undisturbed")
		if _, err := p.PatroniManager().ApplyCluster(patient(t), rotated(f, 1)); err != nil {
			t.Fatal(err)
		}
		total = p.Mutations()
	})
	if total < 15 {
		t.Fatalf("only %d changes", total)
	}
	for k := 1; k <= total; k++ {
		for _, after := range []bool{true, false} {
			if testing.Short() && (k%3 != 0 || !after) {
				continue
			}
			t.Run(fmt.Sprintf("%s change %d", map[bool]string{true: "after", false: "before"}[after], k), func(t *testing.T) {
				t.Parallel()
				fault := fakehost.CrashBefore(k)
				if after {
					fault = fakehost.CrashAfter(k)
				}
				created(t, seed, func(t *testing.T, f *fakefleet.Fleet, uid string) {
					before := passwords(t, f)
					p := f.Start("killed", fault)
					if _, err := p.PatroniManager().ApplyCluster(patient(t), rotated(f, 1)); err == nil || !p.Crashed() {
						t.Fatal("the run was not killed")
					}
					f.Settle()
					f.WaitHealthy(2)
					pending := strings.Contains(f.Value(own+"secrets"), `"next"`)
					o, err := f.Start("reader").PatroniManager().ObserveCluster(patient(t), f.ClusterSpec().Cluster, nil)
					if err != nil || pending != (len(o.Drift) > 0) {
						t.Errorf("pending %v, drift %v, error %v", pending, o.Drift, err)
					}
					if pending {
						err := f.Start("node").ApplyNodes(patient(t), uid, f.Host(1))
						wantError(t, err, "was begun and is not finished")
					}
					if _, err := f.Start("next").PatroniManager().ApplyCluster(patient(t), rotated(f, 1)); err != nil {
						t.Fatal(err)
					}
					checkRotated(t, f, uid, before)
				})
			})
		}
	}
}

// Another change that is wanted after one that was cut off comes after it.
func TestRotateOtherwise(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		before := passwords(t, f)
		p := f.Start("killed", fakehost.CrashAfter(4))
		if _, err := p.PatroniManager().ApplyCluster(patient(t), rotated(f, 1)); err == nil {
			t.Fatal("the run was not killed")
		}
		f.Settle()
		second := f.Start("second")
		if _, err := second.PatroniManager().ApplyCluster(patient(t), rotated(f, 0)); err != nil {
			t.Fatal(err)
		}
		done := 0
		for _, s := range second.Steps() {
			if s == "cluster.secrets.done@" {
				done++
			}
		}
		if done != 2 {
			t.Errorf("finished %d times: %v", done, second.Steps())
		}
		checkRotated(t, f, uid, before)
	})
}

// A node that is down does not keep the others from new passwords. It gets them
// when it is applied, and shows that until then.
func TestRotateNodeDown(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		before := passwords(t, f)
		m := replicas(f)[0]
		f.Do(func() { m.PowerOff() })
		f.Settle()
		applied, err := f.Start("changer").PatroniManager().ApplyCluster(patient(t), rotated(f, 1))
		if err != nil {
			t.Fatal(err)
		}
		if applied.Late[m.Name] == nil || len(applied.Late) != 1 {
			t.Errorf("late: %v", applied.Late)
		}
		f.Do(func() { m.PowerOn() })
		f.Settle()
		o, err := f.Start("reader").PatroniManager().ObserveNode(patient(t), f.Node(m, uid))
		if err != nil || len(o.Drift) == 0 {
			t.Errorf("drift %v, error %v", o.Drift, err)
		}
		mender := f.Start("mender")
		if err := mender.ApplyNodes(patient(t), uid, m); err != nil {
			t.Fatal(err)
		}
		// Its Patroni waits for etcd, which does not let it in, and would not
		// notice another file.
		if !slices.Contains(mender.Steps(), "patroni.unlock@"+m.Name) {
			t.Errorf("steps: %v", mender.Steps())
		}
		checkRotated(t, f, uid, before)
	})
}

// What could only be half done is refused before anything has changed.
func TestRotateRefused(t *testing.T) {
	for name, c := range map[string]struct {
		before func(t *testing.T, f *fakefleet.Fleet)
		want   string
	}{
		"a node that runs cannot be reached": {func(_ *testing.T, f *fakefleet.Fleet) { m := replicas(f)[0]; f.Do(func() { m.Cut = true }) }, "runs, and its host cannot be reached"},
		"the leader cannot be reached":       {func(t *testing.T, f *fakefleet.Fleet) { m := leader(t, f); f.Do(func() { m.Cut = true }) }, "runs, and its host cannot be reached"},
		"a member that is not managed": {func(_ *testing.T, f *fakefleet.Fleet) {
			name := replicas(f)[0].Name
			f.Do(func() { f.Etcd.Stores()[0].Delete(own + "nodes/" + name) })
		}, "is not managed here"},
	} {
		t.Run(name, func(t *testing.T) {
			created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
				c.before(t, f)
				before := f.Value(own + "secrets")
				_, err := f.Start("changer").PatroniManager().ApplyCluster(patient(t), rotated(f, 1))
				wantError(t, err, c.want)
				if f.Value(own+"secrets") != before {
					t.Error("the passwords in etcd changed")
				}
				if sent := slices.DeleteFunc(f.Mutations("changer"), func(c fakehost.Call) bool { return c.Name == "etcd.unlock" }); len(sent) > 0 {
					t.Errorf("something was done: %v", sent)
				}
			})
		})
	}
}
