package provider_test

import (
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
)

// An apply that was cut off has built etcd anew, and the state still has the cluster
// from before: the plan of the next one does not promise that it stays that one.
func TestRestoreCutOff(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		before := plain(s.dcs.get("uid"))
		s.f.Watch.Off()
		for _, m := range s.f.Machines() {
			s.f.Do(func() { m.Units["etcd.service"].Halt() })
		}
		s.f.Sleep(2 * time.Second)
		s.f.Do(func() {
			for _, m := range s.f.Machines() {
				for _, p := range m.Files.Below("/var/lib/etcd/dcs") {
					m.Files.Remove(p)
				}
			}
		})
		spec := s.f.EtcdSpec()
		spec.Restore = &etcd.Restore{}
		if _, err := s.f.Start("cut off").EtcdManager().Apply(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		config := with(s.etcd(), "restore", object{"from": etcd.FromNothing})
		planned, _, diags := s.dcs.plan(config)
		s.must(diags)
		attributes := map[string]tftypes.Value{}
		if err := planned.As(&attributes); err != nil {
			t.Fatal(err)
		}
		if attributes["uid"].IsKnown() {
			t.Errorf("the plan promises the uid %v", attributes["uid"])
		}
		s.must(s.dcs.apply(config))
		if now := plain(s.dcs.get("uid")); now == before {
			t.Errorf("the uid is still %v", now)
		}
		s.dcs.unchanged(config)
	})
}
