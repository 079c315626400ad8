package fakefleet_test

import (
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// Hosts of two releases of Debian never come into one cluster, not even when all
// of its nodes are made at the same moment and none is there yet. The node that
// is refused has nothing done to its host; the one that is not goes on.
func TestMixedReleases(t *testing.T) {
	for seed := range uint64(8) {
		bubble(t, seed+1, func(t *testing.T, f *fakefleet.Fleet) {
			f.Do(func() { f.Host(3).OS.Codename = "bookworm" })
			err := f.Start("mixed").Create(patient(t))
			wantError(t, err, "their C libraries sort text differently")
			f.Do(func() {
				codenames := map[string]bool{}
				for _, m := range f.Machines() {
					if n := f.Patroni.Node(m); n != nil && n.SystemID() != "" {
						codenames[m.OS.Codename] = true
						continue
					}
					if m.Packages["patroni"] != nil || m.Files.Get(patroni.MarkerPath) != nil {
						t.Errorf("something was done to %s", m.Name)
					}
				}
				if len(codenames) > 1 {
					t.Errorf("there are databases on %v", codenames)
				}
				f.Host(3).OS.Codename = "trixie"
			})
			if f.Primary() == "pg3" {
				return
			}
			if err := f.Start("mended").Create(patient(t)); err != nil {
				t.Fatal(err)
			}
			checkComplete(t, f)
			checkNothingLeft(t, f)
		})
	}
}

// A scope is used once on an etcd cluster, whatever the namespace: its user in
// etcd and its authority have the scope's name.
func TestOneScopeOnEtcd(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, _ string) {
		s := f.ClusterSpec()
		s.Cluster.Namespace = "/other/"
		_, err := f.Start("other").PatroniManager().ApplyCluster(t.Context(), s)
		wantError(t, err, `has a cluster "main" already, in another namespace (/service/main/)`)
		if v := f.Value("/pgha/patroni/other/main/record"); v != "" {
			t.Errorf("it was noted all the same: %s", v)
		}
		s.Cluster.Scope = "main2"
		if _, err := f.Start("another").PatroniManager().ApplyCluster(t.Context(), s); err != nil {
			t.Error(err)
		}
	})
}
