package etcd_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
)

// How far turning TLS on is, by what is on the hosts and in etcd, and what comes next.
func TestPlanTLS(t *testing.T) {
	each := func(step string, hosts ...string) string {
		var list []string
		for _, h := range hosts {
			list = append(list, step+"@"+h)
		}
		return strings.Join(list, " ")
	}
	scheme := "/etc/pgha/etcd/dcs/scheme"
	for name, c := range map[string]struct {
		applies int  // that were made before
		noted   bool // the node comes with https
		member  string
		state   func(f *fakefleet.Fleet)
		expect  string
	}{
		// pg1 leads, and hands over to pg2, and that to pg1.
		"nothing is done": {expect: each("etcd.tls.begin", "pg1", "pg2", "pg3") + " etcd.tls.open@pg2 etcd.tls.open@pg3 etcd.tls.open@pg1 " +
			each("etcd.tls.promote", "pg1", "pg2", "pg3") + " etcd.tls.peers@pg1 etcd.tls.peers@pg3 etcd.tls.peers@pg2 etcd.tls.wait@"},
		"it was begun on two hosts": {
			state: func(f *fakefleet.Fleet) {
				f.Host(1).Files.Text(scheme, "http\n")
				f.Host(3).Files.Text(scheme, "http\n")
			},
			expect: "etcd.tls.begin@pg2 etcd.tls.open@pg2 etcd.tls.open@pg3 etcd.tls.open@pg1 " +
				each("etcd.tls.promote", "pg1", "pg2", "pg3") + " etcd.tls.peers@pg1 etcd.tls.peers@pg3 etcd.tls.peers@pg2 etcd.tls.wait@",
		},
		"the node has not been applied":        {applies: 1, expect: "etcd.tls.wait@"},
		"a Patroni that nobody has noted runs": {applies: 1, noted: true, member: "/service/theirs/members/db1", expect: "etcd.tls.wait@"},
		"one host still says http": {
			applies: 1, state: func(f *fakefleet.Fleet) { f.Host(3).Files.Text(scheme, "http\n") }, expect: "etcd.tls.promote@pg3 etcd.tls.wait@",
		},
		"written, and not restarted": {
			applies: 1, state: func(f *fakefleet.Fleet) { remark(f.Host(3), func(m *etcd.Marker) { m.RestartDue = true }) }, expect: "etcd.restart@pg3 etcd.tls.wait@",
		},
		"the node comes with https": {applies: 1, noted: true, expect: "etcd.tls.closed@pg2 etcd.tls.closed@pg3 etcd.tls.closed@pg1"},
		"it is done":                {applies: 2, noted: true, expect: ""},
	} {
		t.Run(name, func(t *testing.T) {
			fleet(t, false, func(t *testing.T, f *fakefleet.Fleet) {
				f.Watch.Off()
				s := f.EtcdSpec()
				s.TLS, s.Auth = false, false
				apply := func(s etcd.Spec) {
					t.Helper()
					if _, err := f.Start("apply").EtcdManager().Apply(t.Context(), s); err != nil {
						t.Fatal(err)
					}
				}
				note := func(noted bool) {
					text := "{}"
					if noted {
						trust := etcd.TrustOf(f.Host(1).Files.Read("/etc/pgha/ca/etcd-dcs/ca.crt"))
						text = fmt.Sprintf(`{"etcd_trusts":%q,"etcd_signed_by":%q}`, trust.Trusts, trust.SignedBy)
					}
					f.Do(func() { f.Etcd.Stores()[0].Put("/pgha/patroni/service/main/nodes/pg1", text, nil) })
				}
				apply(s)
				note(false)
				s.TLS = true
				for range c.applies {
					apply(s)
					note(c.noted)
				}
				f.Do(func() {
					f.Etcd.Stores()[0].MoveLeader("pg1")
					if c.state != nil {
						c.state(f)
					}
					if c.member != "" {
						f.Etcd.Stores()[0].Put(c.member, "{}", nil)
					}
				})
				plan, err := f.Start("planner").EtcdManager().Preview(t.Context(), s, "uid")
				if err != nil {
					t.Fatal(err)
				}
				var steps []string
				for _, step := range plan.Steps() {
					if strings.HasPrefix(step.ID, "etcd.tls.") || strings.HasPrefix(step.ID, "etcd.restart") {
						steps = append(steps, step.ID+"@"+step.Host)
					}
				}
				if got := strings.Join(steps, " "); got != c.expect {
					t.Errorf("planned %s\nwant    %s", got, c.expect)
				}
			})
		})
	}
}
