package provider_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// An even number of members is warned of by the configuration alone. Members that
// cannot come or go as things are, are an error of that attribute, when planning; and
// while the cluster has no quorum, the plan says what comes later, and the apply
// touches no member.
func TestMembersPlanned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fakefleet.New(t, fakefleet.Config{Config: fakehost.Config{Seed: 1}, Hosts: 5})
		dcs := provided(t, f, "terraform", nil).resource("pgha_etcd_cluster")
		on := func(names string) object {
			members := object{}
			for _, m := range f.Machines() {
				if strings.Contains(names, m.Name) {
					members[m.Name] = object{"host": object{"name": m.Name, "address": m.Address}}
				}
			}
			return object{"name": "dcs", "version": fakefleet.EtcdVersion, "members": members, "timeouts": object{"update": "2m"}}
		}
		warnings := func(names string) string {
			return told(dcs.validate(value(dcs.typ, on(names))), tfprotov6.DiagnosticSeverityWarning)
		}
		for names, says := range map[string]string{
			"pg1": "", "pg1 pg2 pg3": "",
			"pg1 pg2":         "members: An even number of members\n2 members survive the loss of no more members than 1 do",
			"pg1 pg2 pg3 pg4": "members: An even number of members\n4 members survive the loss of no more members than 3 do",
		} {
			if got := warnings(names); !strings.HasPrefix(got, says) || says == "" && got != "" {
				t.Errorf("%s is warned of with %q, want %q", names, got, says)
			}
		}
		must := func(diags []*tfprotov6.Diagnostic) {
			t.Helper()
			dcs.core.must(diags)
		}
		must(dcs.apply(on("pg1 pg2 pg3")))
		f.Settle()
		alone := func(n int, yes bool) {
			f.Do(func() {
				for i, m := range f.Machines() {
					if i != n-1 {
						f.Partition(f.Host(n), m, yes)
					}
				}
				f.Etcd.Refresh()
			})
			f.Settle()
		}
		f.Watch.Off()

		alone(2, true)
		for names, says := range map[string]string{
			"pg1 pg2 pg3 pg4 pg5": "adding pg4 takes the cluster from 3 voting members, of which 2 are healthy and 2 must agree, to 4, of which 3 are healthy and 3 must agree",
			"pg1 pg2":             "removing pg3 takes the cluster from 3 voting members, of which 2 are healthy and 2 must agree, to 2, of which 1 are healthy and 2 must agree",
		} {
			_, _, diags := dcs.plan(on(names))
			if got := errorsIn(diags); !strings.Contains(got, "members: The members of etcd cluster dcs cannot be changed like this") || !strings.Contains(got, says) {
				t.Errorf("%s is planned, or refused with %q, want %q", names, got, says)
			}
		}

		alone(3, true)
		_, _, diags := dcs.plan(on("pg1 pg4 pg5"))
		if got := told(diags, tfprotov6.DiagnosticSeverityWarning); !strings.Contains(got, "wait until the cluster answers, then, one member at a time: add pg4; add pg5; remove pg2") {
			t.Errorf("without a quorum the plan says %q", got)
		}
		if got := errorsIn(dcs.apply(on("pg1 pg4 pg5"))); !strings.Contains(got, "Unable to update etcd cluster dcs") {
			t.Errorf("without a quorum the apply says %q", got)
		}
		f.Do(func() {
			if st := f.Etcd.Stores(); len(st) != 1 || st[0].Size() != 3 {
				t.Errorf("%d clusters, the first of %d members", len(st), st[0].Size())
			}
		})
		alone(2, false)
		alone(3, false)
		must(dcs.apply(on("pg1 pg4 pg5")))
		f.Do(func() {
			if st := f.Etcd.Stores(); len(st) != 1 || strings.Join(st[0].Running(), " ") != "pg1 pg4 pg5" {
				t.Errorf("%d clusters, of the first of which %v run", len(st), st[0].Running())
			}
		})
	})
}
