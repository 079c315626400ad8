package fakefleet_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
)

// State in, steps out: nothing is issued, and a process that was started with other
// authorities is restarted only once the cluster has been asked whom that would shut out.
func TestBroughtPlan(t *testing.T) {
	lanes := func(steps string) string {
		var all []string
		for _, h := range []string{"pg1", "pg2", "pg3"} {
			all = append(all, strings.ReplaceAll(steps, "@", "@"+h))
		}
		return "{" + strings.Join(all, " | ") + "}"
	}
	for name, c := range map[string]struct {
		fresh  bool
		asked  int // how many restarts are shown once the cluster has been asked
		state  func(t *testing.T, f *fakefleet.Fleet, c *corporate)
		expect string
	}{
		"fresh hosts": {fresh: true, expect: lanes("etcd.mark@, etcd.packages@, etcd.hold@") + ", " +
			lanes("etcd.credentials@, etcd.data@, etcd.file@, etcd.file@, etcd.file@, etcd.unit.reload@, etcd.unit.enable@") +
			", " + lanes("etcd.start@") + ", etcd.healthy, etcd.auth, " + lanes("etcd.mark.complete@")},
		"complete": {},
		"leaves renewed": {state: func(_ *testing.T, f *fakefleet.Fleet, c *corporate) {
			for _, m := range f.Machines() {
				c.leaves(m)
			}
		}},
		"the same authorities in another order, with a comment": {state: func(t *testing.T, f *fakefleet.Fleet, c *corporate) {
			f.Host(2).Files.Text(tlsDir+"ca.crt", "# ours\n"+string(c.text)+"# again\n"+string(c.text))
		}},
		"another authority, and the cluster was not asked": {asked: 3, state: func(t *testing.T, f *fakefleet.Fleet, c *corporate) { bundle(f, c, newCorporate(t, f, "fresh")) }},
		"another authority, and one stands still": {
			state: func(t *testing.T, f *fakefleet.Fleet, c *corporate) {
				bundle(f, c, newCorporate(t, f, "fresh"))
				u := f.Host(2).Units["etcd.service"]
				u.PID, u.Active = 0, "inactive"
			},
			expect: "etcd.start@pg2, etcd.healthy, etcd.mark.complete@pg2", asked: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, f *fakefleet.Fleet) {
				own := bring(t, f)
				s := f.EtcdSpec()
				if !c.fresh {
					if _, err := f.Start("creator").EtcdManager().Apply(patient(t), s); err != nil {
						t.Fatal(details(err))
					}
					f.Settle()
				}
				f.Watch.Off()
				if c.state != nil {
					c.state(t, f, own)
				}
				p := f.Start("planner")
				plan, err := etcd.Plan(s, etcd.Probe(t.Context(), p, s), "uid", time.Now(), p.EtcdManager().Doer)
				if err != nil {
					t.Fatal(details(err))
				}
				if got := plan.String(); got != c.expect {
					t.Errorf("the plan is\n%s\nwant\n%s", got, c.expect)
				}
				o, err := p.EtcdManager().Observed(patient(t), s)
				if got := strings.Join(o.Drift, "\n"); err != nil || !c.fresh && strings.Count(got, ": restart etcd.service, which then trusts") != c.asked {
					t.Errorf("what is shown: %v\n%s", err, got)
				}
			})
		})
	}
}
