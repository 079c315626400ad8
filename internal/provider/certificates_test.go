package provider_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
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
