package etcd_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
)

// Where the replacement of the authority is, by what is on the hosts and in etcd,
// and what comes next.
func TestPlanAuthority(t *testing.T) {
	const ca, dir = "/etc/pgha/ca/", "/etc/pgha/etcd/dcs"
	lanes := func(steps string) string {
		var all []string
		for _, h := range []string{"pg1", "pg2", "pg3"} {
			all = append(all, strings.ReplaceAll(steps, "@", "@"+h))
		}
		return "{" + strings.Join(all, " | ") + "}"
	}
	restarts := "etcd.restart@pg1, etcd.restart@pg2, etcd.restart@pg3"
	promote := "etcd.authority.promote@pg1, etcd.authority.promote@pg2, etcd.authority.promote@pg3"
	begin := "etcd.authority.next@pg1, {etcd.authority.copy@pg2 | etcd.authority.copy@pg3}, " + lanes("etcd.mark.restart@, etcd.authority.trust@") + ", " + restarts + ", " + promote + ", etcd.authority.wait"
	move := func(m *fakehost.Machine, from, to string) {
		for _, name := range []string{"/ca.key", "/ca.crt"} {
			m.Files.Put(ca+to+name, *m.Files.Get(ca + from + name))
		}
		m.Files.Remove(ca + from)
	}
	all := func(f *fakefleet.Fleet, do func(m *fakehost.Machine)) {
		for _, m := range f.Machines() {
			do(m)
		}
	}
	trust := func(m *fakehost.Machine, names ...string) {
		var texts [][]byte
		for _, n := range names {
			texts = append(texts, m.Files.Read(ca+n+"/ca.crt"))
		}
		n := *m.Files.Get(dir + "/ca.crt")
		n.Content = pki.Bundle(texts...)
		m.Files.Put(dir+"/ca.crt", n)
	}
	for name, c := range map[string]struct {
		before bool // the first apply has not been made
		other  string
		state  func(f *fakefleet.Fleet)
		node   func(f *fakefleet.Fleet) etcd.ClientTrust // what a node has noted
		member string                                    // of a Patroni that nobody has noted
		expect string
		why    string // what the restart is for
	}{
		"another name":           {before: true, expect: begin, why: "to trust the old and the new authority"},
		"the node has not noted": {expect: "etcd.authority.wait"},
		"the node is of both":    {node: func(f *fakefleet.Fleet) etcd.ClientTrust { return etcd.TrustOf(f.Host(1).Files.Read(dir + "/ca.crt")) }, expect: lanes("etcd.mark.restart@, etcd.certificate@, etcd.certificate@") + ", " + lanes("etcd.authority.trust@") + ", " + restarts + ", " + lanes("etcd.authority.withdraw@"), why: "to trust the new authority alone"},
		"it trusts the new alone": {node: func(f *fakefleet.Fleet) etcd.ClientTrust {
			return etcd.TrustOf(f.Host(1).Files.Read(ca + "etcd-dcs/ca.crt"))
		}, expect: lanes("etcd.mark.restart@, etcd.certificate@, etcd.certificate@") + ", " + lanes("etcd.authority.trust@") + ", " + restarts + ", " + lanes("etcd.authority.withdraw@")},
		"it trusts both, and its certificate is of the old one": {
			node: func(f *fakefleet.Fleet) etcd.ClientTrust {
				return etcd.TrustOf(pki.Bundle(f.Host(1).Files.Read(ca+"old-etcd-dcs/ca.crt"), f.Host(1).Files.Read(ca+"etcd-dcs/ca.crt")))
			},
			expect: lanes("etcd.certificate@, etcd.certificate@") + ", etcd.authority.wait",
		},
		"a Patroni that nobody has noted runs": {
			node:   func(f *fakefleet.Fleet) etcd.ClientTrust { return etcd.TrustOf(f.Host(1).Files.Read(dir + "/ca.crt")) },
			member: "/service/theirs/members/db1", expect: "etcd.authority.wait",
		},
		"yet another name":    {other: "2027", expect: "etcd.authority.wait"},
		"cut off in a moment": {state: func(f *fakefleet.Fleet) { move(f.Host(2), "etcd-dcs", "next-etcd-dcs") }, expect: promote + ", etcd.authority.wait"},
		"on one host so far": {
			state: func(f *fakefleet.Fleet) {
				for _, i := range []int{2, 3} {
					move(f.Host(i), "etcd-dcs", "next-etcd-dcs")
					move(f.Host(i), "old-etcd-dcs", "etcd-dcs")
				}
			},
			expect: promote + ", etcd.authority.wait",
		},
		"made and copied, and nobody trusts it": {
			state: func(f *fakefleet.Fleet) {
				all(f, func(m *fakehost.Machine) {
					move(m, "etcd-dcs", "next-etcd-dcs")
					move(m, "old-etcd-dcs", "etcd-dcs")
					trust(m, "etcd-dcs")
				})
			},
			expect: lanes("etcd.mark.restart@, etcd.authority.trust@") + ", " + restarts + ", " + promote + ", etcd.authority.wait",
		},
		"written, and not restarted": {
			state: func(f *fakefleet.Fleet) {
				all(f, func(m *fakehost.Machine) {
					move(m, "etcd-dcs", "next-etcd-dcs")
					move(m, "old-etcd-dcs", "etcd-dcs")
				})
				remark(f.Host(2), func(m *etcd.Marker) { m.RestartDue = true })
			},
			expect: "etcd.restart@pg2, " + promote + ", etcd.authority.wait", why: "which an earlier apply has left undone",
		},
		"a host has lost both": {
			state:  func(f *fakefleet.Fleet) { f.Host(2).Files.Remove("/etc/pgha/ca") },
			expect: "etcd.authority.copy@pg2, etcd.authority.copy@pg2, etcd.authority.wait",
		},
		"a certificate is lost": {
			state:  func(f *fakefleet.Fleet) { f.Host(2).Files.Remove(dir + "/peer.crt") },
			expect: "etcd.certificate@pg2, etcd.authority.wait",
		},
	} {
		t.Run(name, func(t *testing.T) {
			fleet(t, true, func(t *testing.T, f *fakefleet.Fleet) {
				f.Watch.Off()
				s := f.EtcdSpec()
				client, err := f.Start("noter").Opener(t.Context(), s.Access())
				if err != nil {
					t.Fatal(err)
				}
				if err := client.Put(t.Context(), "/pgha/patroni/service/main/nodes/pg1", "{}"); err != nil {
					t.Fatal(err)
				}
				s.Authority = "2026"
				if !c.before {
					if _, err := f.Start("first").EtcdManager().Apply(t.Context(), s); err != nil {
						t.Fatal(err)
					}
				}
				if c.state != nil {
					f.Do(func() { c.state(f) })
				}
				if client, err = f.Start("noter").Opener(t.Context(), s.Access()); err != nil {
					t.Fatal(err)
				}
				if c.node != nil {
					note := c.node(f)
					if err := client.Put(t.Context(), "/pgha/patroni/service/main/nodes/pg1", fmt.Sprintf(`{"etcd_trusts":%q,"etcd_signed_by":%q}`, note.Trusts, note.SignedBy)); err != nil {
						t.Fatal(err)
					}
				}
				if c.member != "" {
					if err := client.Put(t.Context(), c.member, "{}"); err != nil {
						t.Fatal(err)
					}
				}
				if c.other != "" {
					s.Authority = c.other
				}
				plan, err := f.Start("planner").EtcdManager().Preview(t.Context(), s, "uid")
				if err != nil {
					t.Fatal(err)
				}
				got := plan.String()
				if norm(got) != norm(c.expect) {
					t.Errorf("the plan is\n%s\nwant\n%s", got, c.expect)
				}
				if text := strings.Join(etcd.Describe(plan), "\n"); !strings.Contains(text, "restart etcd.service, "+c.why) && c.why != "" {
					t.Errorf("the restart is not one %s:\n%s", c.why, text)
				}
				f.Watch.Forget()
			})
		})
	}
}

// norm makes plans comparable in which the leader's turn is the last, whoever leads.
func norm(plan string) string {
	for _, h := range []string{"pg1", "pg2", "pg3"} {
		plan = strings.ReplaceAll(plan, "etcd.restart@"+h, "etcd.restart@?")
	}
	return plan
}
