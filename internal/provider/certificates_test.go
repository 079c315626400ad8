package provider_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"

	"github.com/pgha/terraform-provider-pgha/internal/pki"
)

// Certificates that end are in the drift, as early as it is wanted, and so is the
// authority in a warning; the apply renews the first.
func TestCertificatesEnd(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		for i, r := range s.hosts {
			s.must(r.apply(s.host(i)))
		}
		s.must(s.dcs.apply(s.etcd()))
		s.dcs.unchanged(s.etcd())
		s.f.Do(func() {
			m := s.f.Host(2)
			m.Reissue("/etc/pgha/ca/etcd-dcs", "/etc/pgha/etcd/dcs/server.crt", time.Now().Add(-time.Hour), time.Now().AddDate(0, 0, 45))
		})
		s.dcs.unchanged(s.etcd())
		early := with(s.etcd(), "certificates", object{"renew_before": "1200h"})
		_, _, diags := s.dcs.plan(early)
		if text := told(diags, tfprotov6.DiagnosticSeverityWarning); !strings.Contains(text, "pg2: issue /etc/pgha/etcd/dcs/server.crt (the certificate expires on") {
			t.Errorf("the plan says %q", text)
		}
		s.must(s.dcs.apply(early))
		s.dcs.unchanged(early)
		if _, _, diags := s.dcs.plan(with(with(s.etcd(), "tls", false), "certificates", object{})); !strings.Contains(errorsIn(diags), "No certificates without TLS") {
			t.Errorf("without TLS: %s", errorsIn(diags))
		}
	})
}

// Another name of the authority reaches everybody in the apply that begins with it:
// the plan of each node has it. The rest comes with what refreshing shows.
func TestAuthorityReplaced(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		s.unchanged()
		s.f.Do(func() { s.f.Etcd.Fickle = true })
		named := with(s.etcd(), "certificates", object{"authority": "2026"})
		_, _, diags := s.dcs.plan(named)
		for _, line := range []string{"make the certificate authority that replaces", "restart etcd.service", "have the new authority sign", "wait until pg1 of main, pg2 of main, pg3 of main"} {
			if text := told(diags, tfprotov6.DiagnosticSeverityWarning); !strings.Contains(text, line) {
				t.Errorf("the plan does not say %q: %s", line, text)
			}
		}
		s.must(s.dcs.apply(named))
		s.must(s.cluster.apply(s.patroni()))
		for i, r := range s.nodes {
			planned, _, diags := r.plan(s.node(i))
			s.must(diags)
			if d := differences(t, r.state, planned); !slices.ContainsFunc(d, func(line string) bool { return strings.Contains(line, "authority") }) {
				t.Errorf("the plan of node %d does not have the name: %v", i, d)
			}
			s.must(r.apply(s.node(i)))
		}
		for range 3 {
			s.must(s.dcs.refresh())
			s.must(s.dcs.apply(named))
			for i, r := range s.nodes {
				s.must(r.refresh())
				s.must(r.apply(s.node(i)))
			}
		}
		s.dcs.unchanged(named)
		for i, r := range s.nodes {
			r.unchanged(s.node(i))
		}
		s.f.Do(func() {
			for _, m := range s.f.Machines() {
				c, err := pki.Parse(m.Files.Read("/etc/pgha/patroni/main/etcd-ca.crt"))
				if err != nil || c.Subject.CommonName != "etcd-dcs.2026" || len(pki.ParseAll(m.Files.Read("/etc/pgha/etcd/dcs/ca.crt"))) != 1 {
					t.Errorf("on %s: %v %v", m.Name, c, err)
				}
			}
		})
	})
}
