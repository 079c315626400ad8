package acceptance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// etcdProcesses are the processes of etcd, by host.
func (s *site) etcdProcesses() string {
	s.t.Helper()
	var b strings.Builder
	for _, h := range s.lab.Hosts() {
		b.WriteString(s.on(h.Name, "systemctl show -p MainPID --value etcd") + " ")
	}
	return b.String()
}

// age gives all members' certificates another validity, signed by the cluster's own
// authority, as if so much time had passed.
func (s *site) age(begin, end string) {
	s.t.Helper()
	for _, h := range s.lab.Hosts() {
		s.on(h.Name, `set -e; cd /etc/pgha/etcd/dcs; ca=/etc/pgha/ca/etcd-dcs
for leaf in server peer; do
	openssl x509 -x509toreq -in $leaf.crt -signkey $leaf.key -copy_extensions copyall -out /run/aged.csr
	openssl x509 -req -in /run/aged.csr -CA $ca/ca.crt -CAkey $ca/ca.key -copy_extensions copyall -out /run/aged.crt \
		-not_before "$(date -u -d '`+begin+`' +%Y%m%d%H%M%SZ)" -not_after "$(date -u -d '`+end+`' +%Y%m%d%H%M%SZ)" 2>/dev/null
	cat /run/aged.crt > $leaf.crt
done
rm /run/aged.*`)
	}
}

// shown is the fingerprint of the certificate that a port of a host shows to who
// connects to it now, and of the one on its disk.
func (s *site) shown(host, port, leaf string) (shown, file string) {
	s.t.Helper()
	dir := "/etc/pgha/etcd/dcs/"
	shown = s.on(host, fmt.Sprintf("openssl s_client -connect %s:%s -CAfile %sca.crt -cert %s%s.crt -key %s%s.key </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256", s.lab.Host(host).Addr, port, dir, dir, leaf, dir, leaf))
	return shown, s.on(host, "openssl x509 -noout -fingerprint -sha256 -in "+dir+leaf+".crt")
}

// statusOnce is etcdStatus, without an output that would change by itself later.
func (s *site) statusOnce(ctx context.Context) etcdStatus {
	s.t.Helper()
	st := s.etcdStatus(ctx)
	s.Write("status.tf", "")
	s.Apply(ctx, "-refresh=false")
	return st
}

// disconnect ends all connections to etcd, of members and clients.
func (s *site) disconnect() {
	s.t.Helper()
	ended := ""
	for _, h := range s.lab.Hosts() {
		ended += s.on(h.Name, "ss -KH state established 'dport = 2379 or dport = 2380 or sport = 2379 or sport = 2380' 2>/dev/null")
	}
	if !strings.Contains(ended, ":2380") || !strings.Contains(ended, ":2379") {
		s.t.Errorf("which connections were ended: %s", ended)
	}
}

// Certificates of etcd are renewed, and its authority is replaced, while a Patroni
// cluster is on it and rows are written: no write fails, etcd is restarted only to
// trust another authority, and Patroni not at all. Certificates that have all ended
// are renewed by the apply, too.
func TestEtcdCertificates(t *testing.T) {
	turn(t)
	cli.Binary(t)
	base := settings{Purge: true}
	u := newUpgrading(t, labhost.Options{}, base)
	ctx := t.Context()
	version := u.oldest("etcd-server")
	k := sweeper(u.site, u.w, "etcd.authority.next", "etcd.authority.copy", "etcd.authority.trust", "etcd.restart", "etcd.authority.promote", "etcd.certificate", "etcd.authority.withdraw")
	certificates := func(text string) {
		base.Etcd = "certificates = { " + text + " }"
		u.configure(base)
	}

	t.Run("leaves end soon", func(t *testing.T) {
		before := u.etcdProcesses()
		u.age("-357 days", "+40 days")
		u.NoChanges(ctx)
		certificates(`renew_before = "1200h"`)
		has(t, u.Plan(ctx), "pg1: issue /etc/pgha/etcd/dcs/server.crt (the certificate expires on", "pg3: issue /etc/pgha/etcd/dcs/peer.crt (the certificate expires on", "in 39 days")
		k.sweep(t, "apply", alone(false)...)
		u.Apply(ctx)
		k.went(t, "in etcd.certificate", "etcd.certificate")
		if after := u.etcdProcesses(); after != before {
			t.Errorf("etcd was restarted: %s, before %s", after, before)
		}
		for _, h := range u.all {
			for port, leaf := range map[string]string{"2379": "server", "2380": "peer"} {
				if shown, file := u.shown(h, port, leaf); shown != file || shown == "" {
					t.Errorf("%s shows %q on port %s, and has %q", h, shown, port, file)
				}
			}
		}
		// Everybody connects anew, with the new ones.
		u.disconnect()
		u.check(t, version)
		if after := u.etcdProcesses(); after != before {
			t.Errorf("etcd was restarted: %s, before %s", after, before)
		}
		st := u.statusOnce(ctx)
		for _, m := range st.Members {
			end, err := time.Parse(time.RFC3339, m.ServerExpires)
			if days := time.Until(end).Hours() / 24; err != nil || days < 395 {
				t.Errorf("the status of %s says that its certificate ends on %s: %v", m.Name, m.ServerExpires, err)
			}
		}
		if len(st.Warnings) > 0 || !st.Healthy {
			t.Errorf("the status warns: %v", st.Warnings)
		}
	})

	t.Run("authority", func(t *testing.T) {
		old := u.on("pg1", "cat /etc/pgha/ca/etcd-dcs/ca.crt")
		certificates(`authority = "2026"`)
		o := u.Plan(ctx)
		has(t, o, "make the certificate authority that replaces", "pg2: restart etcd.service", "have the new authority sign", "wait until pg1 of main, pg2 of main, pg3 of main trust")
		_, plan, _ := strings.Cut(o.Text, "Warning: Applying this")
		t.Logf("the plan:\n%s", plan)
		failed, lost := k.after, false
		k.after = func(at string) {
			if failed(at); at == "in etcd.restart" && !lost {
				lost = true
				u.loses(t, "etcd.restart")
			}
		}
		applies := 0
		var kinds []string
		for ; applies < 5; applies++ {
			o := u.Plan(ctx)
			if o.Code == 0 {
				break
			}
			_, drift, _ := strings.Cut(o.Text, "drift")
			t.Logf("before apply %d:\n%.1500s", applies+1, drift)
			k.sweep(t, "apply", alone(applies > 0)...) // later ones begin with what a refresh shows
			kinds = append(kinds, k.kinds()...)
			u.disconnect()
			if applies == 0 { // here nodes get other certificates
				k.inside = append(k.inside, "patroni.certificate")
				k.sweep(t, "apply")
				kinds = append(kinds, k.kinds()...)
			} else {
				u.Apply(ctx)
			}
			u.disconnect()
			u.healthy("pg1", u.all...)
			if n := u.w.Failed(); n > 0 {
				t.Fatalf("%d writes failed by apply %d", n, applies+1)
			}
		}
		for _, step := range []string{"etcd.authority.next", "etcd.authority.copy", "etcd.mark.restart", "etcd.authority.trust", "in etcd.restart", "etcd.restart", "etcd.authority.promote", "patroni.certificate", "etcd.certificate", "etcd.authority.withdraw"} {
			if !slices.Contains(kinds, step) {
				t.Errorf("no run was killed at %s: %v", step, kinds)
			}
		}
		t.Logf("%d applies, without those that were killed", applies)
		fresh := u.on("pg1", "cat /etc/pgha/ca/etcd-dcs/ca.crt")
		if got := u.on("pg1", "openssl x509 -noout -subject -in /etc/pgha/ca/etcd-dcs/ca.crt"); fresh == old || !strings.HasSuffix(got, "etcd-dcs.2026") {
			t.Errorf("the authority is %s", got)
		}
		for _, h := range u.all {
			if got := u.on(h, "ls /etc/pgha/ca"); got != "etcd-dcs\npatroni-main" {
				t.Errorf("the authorities on %s: %s", h, got)
			}
			for _, path := range []string{"/etc/pgha/ca/etcd-dcs/ca.crt", "/etc/pgha/etcd/dcs/ca.crt", "/etc/pgha/patroni/main/etcd-ca.crt"} {
				if got := u.on(h, "cat "+path); got != fresh {
					t.Errorf("%s on %s is not the new authority's certificate alone", path, h)
				}
			}
			u.on(h, "cd /etc/pgha; openssl verify -CAfile etcd/dcs/ca.crt etcd/dcs/server.crt etcd/dcs/peer.crt patroni/main/etcd.crt")
		}
		u.disconnect()
		u.check(t, version)
		if st := u.statusOnce(ctx); !st.Healthy || len(st.Warnings) > 0 {
			t.Errorf("the status: %+v", st)
		}
	})
	if gap := u.w.LongestGap(); gap > 0 {
		t.Logf("%d rows, the longest time without one was %s", u.w.Acked(), gap)
	}
	u.w.Check(t)

	t.Run("leaves have ended", func(t *testing.T) {
		// With a writer that may fail: Patroni demotes its leader without etcd.
		c := u.writerConfig()
		c.Table = "later"
		w := writer.Start(t, c)
		u.age("-400 days", "-1 day")
		u.disconnect()
		for _, h := range u.all {
			u.eventually("etcd on "+h+" to refuse everybody", time.Minute, func(ctx context.Context) (bool, string) {
				out, err := u.lab.SSH(ctx, h, "cd /etc/pgha/etcd/dcs; ETCDCTL_API=3 etcdctl --dial-timeout 3s --command-timeout 3s --endpoints https://"+u.lab.Host(h).Addr+":2379 --cacert ca.crt --cert server.crt --key server.key endpoint health 2>&1")
				return err != nil, out
			})
		}
		before := u.etcdProcesses()
		o := u.Plan(ctx)
		if o.Code != 1 {
			t.Errorf("the plan's exit status is %d", o.Code)
		}
		has(t, o, "server.crt expired on", "terraform apply -target=pgha_etcd_cluster.NAME")
		u.Apply(ctx, "-target=pgha_etcd_cluster.dcs")
		if after := u.etcdProcesses(); after != before {
			t.Errorf("etcd was restarted: %s, before %s", after, before)
		}
		u.healthy("pg1", u.all...)
		u.Apply(ctx)
		u.NoChanges(ctx)
		t.Logf("%d writes failed meanwhile, the longest time without one was %s", w.Failed(), w.LongestGap())
		w.Check(t)
	})
	u.Destroy(ctx)
	for _, h := range u.all {
		u.on(h, "test ! -e /etc/pgha && ! systemctl is-active -q patroni etcd")
	}
}
