package fakefleet_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// Whenever the provider is killed while it changes a running cluster, all of it
// runs with what was changed after the next run, and does not only have it in
// its files.
func TestCrashWhileChanging(t *testing.T) {
	change := func(t *testing.T, f *fakefleet.Fleet, p *fakefleet.Process, uid string) error {
		s := f.EtcdSpec()
		s.QuotaBytes = 4 << 30
		if _, err := p.EtcdManager().Apply(patient(t), s); err != nil {
			return err
		}
		return p.Each(f.Machines(), func(m *fakehost.Machine) error {
			n := f.Node(m, uid)
			n.Tags = map[string]any{"place": "here"}
			return p.PatroniManager().ApplyNode(patient(t), n)
		})
	}
	total := 0
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		p := f.Start("changer")
		if err := change(t, f, p, uid); err != nil {
			t.Fatal(err)
		}
		total = p.Mutations()
	})
	step := 1
	if testing.Short() {
		step = 7
	}
	for k := 1; k <= total; k += step {
		t.Run(fmt.Sprintf("after change %d", k), func(t *testing.T) {
			t.Parallel()
			created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
				first := f.Start("first", fakehost.CrashAfter(k))
				_ = change(t, f, first, uid)
				if !first.Crashed() {
					t.Fatal("the run was not killed")
				}
				if err := change(t, f, f.Start("second"), uid); err != nil {
					t.Fatal(err)
				}
				both := append(restarts(f, "first"), restarts(f, "second")...)
				for _, m := range f.Machines() {
					if !slices.Contains(both, m.Name) {
						t.Errorf("etcd on %s was never restarted", m.Name)
					}
				}
				kv, err := f.Start("reader").Opener(t.Context(), f.EtcdSpec().Access())
				if err != nil {
					t.Fatal(err)
				}
				k, err := f.ClusterSpec().Cluster.Load(t.Context(), kv)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range f.Machines() {
					if place := patroni.Text(k.Members[m.Name].Tags["place"]); place != "here" {
						t.Errorf("Patroni on %s shows %q", m.Name, place)
					}
				}
			})
		})
	}
}
