package provider_test

import (
	"strings"
	"testing"
)

// A full etcd cluster is seen in the state after a refresh, and the next apply
// mends it; a quota that the data does not fit into is an error of that attribute,
// when planning.
func TestEtcdSpace(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		quota := func(size string) object { return with(s.etcd(), "quota_backend_bytes", size) }
		s.must(s.dcs.apply(quota("16MiB")))
		s.f.Do(func() { s.f.Etcd.Stores()[0].Fill(16<<20, 15<<20, 3<<20) })
		s.must(s.dcs.refresh())
		if text := s.dcs.text(); !strings.Contains(text, "alarm NOSPACE of pg1, pg2, pg3") {
			t.Errorf("the drift: %s", text)
		}
		wants(t, s.status(), map[string]string{"healthy": "false", "members[0].alarms[0]": "NOSPACE", "members[0].db_size": "16777216", "members[0].quota": "16777216"})
		s.must(s.dcs.apply(quota("16MiB")))
		s.dcs.unchanged(quota("16MiB"))
		wants(t, s.status(), map[string]string{"healthy": "true", "members[0].db_size": "3145728"})

		s.must(s.dcs.apply(quota("1GiB")))
		s.f.Do(func() { s.f.Etcd.Stores()[0].Fill(100<<20, 90<<20, 90<<20) })
		_, _, diags := s.dcs.plan(quota("64MiB"))
		for _, want := range []string{"quota_backend_bytes: The data of etcd cluster dcs does not fit into the quota", "the quota is to be 64.0 MiB, and 90.0 MiB of the database of pg1 are in use", "101.2 MiB or more"} {
			if !strings.Contains(errorsIn(diags), want) {
				t.Errorf("the plan does not say %q: %s", want, errorsIn(diags))
			}
		}
		for text, config := range map[string]object{
			"is less than 16MiB": with(s.etcd(), "defragment_above", "1MiB"),
			"is not a size":      with(s.etcd(), "defragment_above", "50%"),
		} {
			if _, _, diags := s.dcs.plan(config); !strings.Contains(errorsIn(diags), text) {
				t.Errorf("%s: %s", text, errorsIn(diags))
			}
		}
	})
}
