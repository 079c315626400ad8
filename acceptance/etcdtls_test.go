package acceptance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// answers asks a URL from a host, as somebody without a certificate who trusts everybody.
func (s *site) answers(host, url string) (string, bool) {
	s.t.Helper()
	out := s.on(host, fmt.Sprintf(`python3 -c 'import ssl, sys, urllib.request as r
try:
    print("answer:", r.urlopen(sys.argv[1], timeout=5, context=ssl._create_unverified_context()).read().decode())
except OSError as e:
    print("refused:", e)' %s`, url))
	return out, strings.HasPrefix(out, "answer:")
}

// A cluster that somebody made by hand, etcd in the clear and without users, gets TLS
// and authentication under a writer that notices nothing: in stages of which the plan
// tells, wherever the apply is killed. PostgreSQL is never restarted.
func TestEtcdTLSOn(t *testing.T) {
	turn(t)
	base := adopted()
	base.Patroni = "4.1.5"
	s := newSite(t, labhost.Warm, base, "pg1", "pg2", "pg3")
	ctx := t.Context()
	all := []string{"pg1", "pg2", "pg3"}
	for _, h := range all {
		s.on(h, "DEBIAN_FRONTEND=noninteractive apt-get install -qy patroni=4.1.5-* >/dev/null 2>&1")
	}
	s.byHand(handMade)
	s.importBlocks()
	has(t, s.Plan(ctx), "8 to import, 0 to add, 0 to change, 0 to destroy")
	s.Apply(ctx)

	s.sql(s.leader("pg1"), "create role app superuser login password 'app-password'")
	cfg := writer.Config{User: "app", Password: "app-password"}
	for _, h := range s.lab.Hosts() {
		cfg.Hosts = append(cfg.Hosts, h.Addr)
		s.eventually("the role on "+h.Name, 30*time.Second, func(context.Context) (bool, string) {
			return s.sql(h.Name, "select count(*) from pg_roles where rolname = 'app'") == "1", ""
		})
	}
	w := writer.Start(t, cfg)
	started, leader := s.started(), s.leader("pg1")

	secure := base
	secure.Etcd = strings.NewReplacer("tls  = false", "tls  = true", "auth = false", "auth = true").Replace(base.Etcd)
	s.configure(secure)
	o := s.Plan(ctx)
	has(t, o, "restart etcd.service so that it takes https beside http, while all others are well",
		"it leads, and hands that over first", "restart etcd.service so that the other members come to it with https",
		"these do not come with https yet: pg1 of main, pg2 of main, pg3 of main", "closes http, with another restart of one member at a time",
		"leave authentication off until the next apply: these do not log in yet: pg1 of main, pg2 of main, pg3 of main",
		"restart Patroni alone, so that it comes to etcd with https; PostgreSQL runs on")
	s.cutIn("etcd.tls.open")
	s.cutIn("etcd.tls.peers")
	s.cutIn("patroni.process")
	s.Apply(ctx)
	for _, h := range s.lab.Hosts() {
		s.on(h.Name, "grep -q 'protocol: https' /etc/patroni/config.yml && grep -q '# Written by Alice' /etc/patroni/config.yml && grep -q '# all three' /etc/patroni/config.yml")
		if out, ok := s.answers(h.Name, "http://"+h.Addr+":2379/version"); !ok {
			t.Errorf("http is closed on %s, while it may be needed: %s", h.Name, out)
		}
	}
	if got := s.on("pg1", "patronictl -c /etc/patroni/config.yml show-config"); strings.Contains(got, "pause") {
		t.Errorf("the cluster is still paused:\n%s", got)
	}
	has(t, s.Plan(ctx), "restart etcd.service so that it takes https alone, from who has a certificate", "turn authentication on: every Patroni node logs in")
	s.cutIn("etcd.tls.closed")
	s.Apply(ctx)
	s.NoChanges(ctx)
	s.healthy("pg1", all...)

	for _, h := range s.lab.Hosts() {
		for _, url := range []string{"http://" + h.Addr + ":2379", "http://127.0.0.1:2379", "http://" + h.Addr + ":2380", "https://" + h.Addr + ":2379", "https://" + h.Addr + ":2380"} {
			if out, ok := s.answers(h.Name, url+"/version"); ok {
				t.Errorf("%s answers who has no certificate: %s", url, out)
			}
		}
	}
	dir := "/etc/pgha/etcd/dcs/"
	ctl := "ETCDCTL_API=3 etcdctl --endpoints https://127.0.0.1:2379 --cacert " + dir + "ca.crt --cert " + dir + "server.crt --key " + dir + "server.key "
	if out := s.on("pg1", ctl+"member list"); strings.Contains(out, "http://") || strings.Count(out, "https://") != 6 {
		t.Errorf("the members: %s", out)
	}
	if out, err := s.lab.SSH(ctx, "pg1", ctl+"get /service/main/leader 2>&1"); err == nil || !strings.Contains(fmt.Sprint(out, err), "permission denied") {
		t.Errorf("who has no password is let in: %s %v", out, err)
	}
	if now := s.started(); !slices.Equal(now, started) {
		t.Errorf("PostgreSQL was restarted: %s, was %s", now, started)
	}
	if now := s.leader("pg1"); now != leader {
		t.Errorf("%s leads, and %s did", now, leader)
	}
	if n := w.Failed(); n > 0 {
		t.Errorf("%d writes failed", n)
	}
	w.Check(t)

	s.configure(base)
	back := s.Run(ctx, "plan", "-no-color", "-input=false")
	if back.Code == 0 {
		t.Errorf("turning TLS off is planned:\n%s", back.Text)
	}
	has(t, back, "This cannot be turned off", "clients that come with https would be shut out")
}
