package fakefleet_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// config is the dynamic configuration in etcd.
func config(t *testing.T, f *fakefleet.Fleet) patroni.Settings {
	t.Helper()
	d, err := patroni.ParseDocument([]byte(f.Value("/service/main/config")))
	if err != nil {
		t.Fatal(err)
	}
	return d.Flatten()
}

// byHand changes the dynamic configuration as somebody else would.
func byHand(t *testing.T, f *fakefleet.Fleet, change func(doc map[string]any)) {
	t.Helper()
	f.Do(func() {
		st := f.Etcd.Stores()[0]
		text, _ := st.Get("/service/main/config")
		var doc map[string]any
		if err := json.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatal(err)
		}
		change(doc)
		b, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		st.Put("/service/main/config", string(b), nil)
	})
	f.Settle()
}

// A changed parameter is sent once, what is not ours is left alone, and the
// apply ends when every node runs with it: for a parameter that needs it, nodes are
// restarted one at a time, the leader last and after a switchover.
func TestChangeConfig(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		byHand(t, f, func(doc map[string]any) {
			doc["pause"] = false
			doc["slots"] = map[string]any{"somebodys": map[string]any{"type": "physical"}}
		})
		s := f.ClusterSpec()
		owned := s.Wanted.Paths()
		s.Wanted[patroni.Parameter("work_mem")] = "64MB"
		s.Wanted[patroni.Parameter("max_connections")] = "300"
		delete(s.Wanted, "retry_timeout")
		s.Owned = owned
		p := f.Start("changer")
		applied, err := p.PatroniManager().ApplyCluster(patient(t), s)
		if err != nil {
			t.Fatal(err)
		}
		if len(applied.Pending) > 0 {
			t.Errorf("waiting for a restart: %v", applied.Pending)
		}
		live := config(t, f)
		for path, want := range map[string]any{
			patroni.Parameter("work_mem"): "64MB", patroni.Parameter("max_connections"): "300", "pause": false,
			"slots/somebodys": map[string]any{"type": "physical"}, "retry_timeout": nil,
		} {
			if have, ok := live[path]; ok != (want != nil) || ok && !patroni.Same(path, have, want) {
				t.Errorf("%s is %v, want %v", path, have, want)
			}
		}
		var sent []string
		for _, c := range f.Mutations("changer") {
			if c.Kind != "etcd" {
				sent = append(sent, c.Name)
			}
		}
		if d := cmp.Diff([]string{"PATCH /config", "POST /restart", "POST /restart", "POST /switchover"}, sent); d != "" {
			t.Errorf("requests (-want +got):\n%s", d)
		}
	})
}

// Somebody else's change in between, and an answer that is lost, lead to
// another look and not to a lost change.
func TestConfigRace(t *testing.T) {
	patch := func(c fakehost.Call) bool { return c.Name == "PATCH /config" }
	for name, c := range map[string]struct {
		fault  fakehost.Fault
		before func(f *fakefleet.Fleet)
		sent   int
	}{
		"conflict": {before: func(f *fakefleet.Fleet) {
			f.Do(func() { f.Patroni.BeforePatch = func(doc map[string]any) { doc["maximum_lag_on_failover"] = 4711 } })
		}, sent: 2},
		"answer lost, change made":     {fault: fakehost.FailCall(patch, 1, fakehost.Verdict{Err: errors.New("lost"), After: true}), sent: 1},
		"answer lost, change not made": {fault: fakehost.FailCall(patch, 1, fakehost.Verdict{Err: errors.New("lost")}), sent: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
				if c.before != nil {
					c.before(f)
				}
				p := f.Start("changer")
				if c.fault != nil {
					p.Inject(c.fault)
				}
				s := f.ClusterSpec()
				s.Owned = s.Wanted.Paths()
				s.Wanted[patroni.Parameter("work_mem")] = "64MB"
				if _, err := p.PatroniManager().ApplyCluster(patient(t), s); err != nil {
					t.Fatal(err)
				}
				live := config(t, f)
				if live[patroni.Parameter("work_mem")] != "64MB" {
					t.Errorf("the change is lost: %v", live)
				}
				if c.before != nil && patroni.Text(live["maximum_lag_on_failover"]) != "4711" {
					t.Errorf("somebody else's change is lost: %v", live)
				}
				sent := slices.DeleteFunc(f.Mutations("changer"), func(c fakehost.Call) bool { return !patch(c) })
				if len(sent) != c.sent {
					t.Errorf("%d requests, want %d", len(sent), c.sent)
				}
			})
		})
	}
}

// Patroni answers 200 to a configuration that its nodes then ignore as a whole.
// The apply notices, and quotes what the node says about it.
func TestConfigIgnored(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		byHand(t, f, func(doc map[string]any) { doc["maximum_lag_on_failover"] = "a lot" })
		s := f.ClusterSpec()
		s.Owned = s.Wanted.Paths()
		s.Wanted[patroni.Parameter("work_mem")] = "64MB"
		_, err := f.Start("changer").PatroniManager().ApplyCluster(patient(t), s)
		wantError(t, err, "work_mem", "make sure that the node runs with the configuration")
		if detail := details(err); !strings.Contains(detail, "ValueError") {
			t.Errorf("the node's log is not quoted:\n%s", detail)
		}
	})
}

// A node that cannot be reached does not keep a change from the others; it is
// named.
func TestConfigUnverified(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		m := replicas(f)[0]
		f.Do(func() { m.Cut = true })
		s := f.ClusterSpec()
		s.Owned = s.Wanted.Paths()
		s.Wanted[patroni.Parameter("work_mem")] = "64MB"
		applied, err := f.Start("changer").PatroniManager().ApplyCluster(patient(t), s)
		if err != nil {
			t.Fatal(err)
		}
		if applied.Unverified[m.Name] == nil || len(applied.Unverified) != 1 {
			t.Errorf("not verified: %v", applied.Unverified)
		}
	})
}

// While nobody runs there is nobody to ask: the key is changed directly, with
// what somebody else put there left alone.
func TestConfigWithoutNodes(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		p := f.Start("changer")
		if _, err := p.EtcdManager().Apply(patient(t), f.EtcdSpec()); err != nil {
			t.Fatal(err)
		}
		s := f.ClusterSpec()
		if _, err := p.PatroniManager().ApplyCluster(patient(t), s); err != nil {
			t.Fatal(err)
		}
		byHand(t, f, func(doc map[string]any) { doc["failsafe_mode"] = true })
		s.Owned = s.Wanted.Paths()
		s.Wanted["ttl"] = int64(40)
		if _, err := p.PatroniManager().ApplyCluster(patient(t), s); err != nil {
			t.Fatal(err)
		}
		if live := config(t, f); patroni.Text(live["ttl"]) != "40" || live["failsafe_mode"] != true {
			t.Errorf("configuration %v", live)
		}
	})
}

// A cluster of the same scope that was made by somebody else is not touched.
func TestForeignCluster(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
		p := f.Start("creator")
		if _, err := p.EtcdManager().Apply(patient(t), f.EtcdSpec()); err != nil {
			t.Fatal(err)
		}
		f.Do(func() { f.Etcd.Stores()[0].Put("/service/main/initialize", "7012345678901234567", nil) })
		_, err := p.PatroniManager().ApplyCluster(patient(t), f.ClusterSpec())
		wantError(t, err, "was not made by this provider")
		if keys := f.Keys("/pgha/"); len(keys) > 0 {
			t.Errorf("keys were made: %v", keys)
		}
	})
}
