package acceptance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// corporate is somebody else's authority, and who puts its certificates on hosts.
type corporate struct {
	s           *site
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	text        string
}

const corporateDir = "/etc/ssl/corp"

func newCorporate(s *site, name string) *corporate {
	c := &corporate{s: s}
	c.certificate = &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0)}
	c.text, c.key = c.sign(c.certificate, nil)
	return c
}

func (c *corporate) sign(template *x509.Certificate, by *ecdsa.PrivateKey) (string, *ecdsa.PrivateKey) {
	c.s.t.Helper()
	must := func(err error) {
		if err != nil {
			c.s.t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	if by == nil {
		by = key
	}
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	must(err)
	der, err := x509.CreateCertificate(rand.Reader, template, c.certificate, &key.PublicKey, by)
	must(err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), key
}

// pair puts a certificate and its key on a host, as an agent does: each file at once.
func (c *corporate) pair(host, name, group string, begin, end time.Time, cn, address string, uses ...x509.ExtKeyUsage) {
	c.s.t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{Organization: []string{"corporate"}, CommonName: cn}, NotBefore: begin, NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: uses}
	if address != "" {
		template.IPAddresses = []net.IP{net.ParseIP(address)}
	}
	text, key := c.sign(template, c.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.s.t.Fatal(err)
	}
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	c.s.on(host, fmt.Sprintf(`set -e; umask 077; install -d -m 755 %[1]s; cd %[1]s
printf %%s '%[4]s' >%[2]s.crt.new; chmod 644 %[2]s.crt.new
printf %%s '%[5]s' >%[2]s.key.new; chgrp %[3]s %[2]s.key.new; chmod 640 %[2]s.key.new
mv %[2]s.key.new %[2]s.key; mv %[2]s.crt.new %[2]s.crt`, corporateDir, name, group, text, private))
}

// member puts all that a member and a node on a host need there: a server's certificate
// is good for servers only, as many authorities want it.
func (c *corporate) member(host string) {
	c.server(host, time.Now().AddDate(0, 0, 90))
	now := time.Now().Add(-time.Hour)
	end := time.Now().AddDate(0, 0, 90)
	c.pair(host, "peer", "etcd", now, end, "dcs-peer", c.s.lab.Host(host).Addr, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
	c.pair(host, "client", "etcd", now, end, "client of "+host, "", x509.ExtKeyUsageClientAuth)
	c.node(host)
}

func (c *corporate) server(host string, end time.Time) {
	c.pair(host, "server-"+host, "etcd", end.AddDate(0, 0, -91), end, host+".example.test", c.s.lab.Host(host).Addr, x509.ExtKeyUsageServerAuth)
}

func (c *corporate) node(host string) {
	c.pair(host, "patroni", "postgres", time.Now().Add(-time.Hour), time.Now().AddDate(0, 0, 90), "", "", x509.ExtKeyUsageClientAuth)
}

// trusted has all hosts trust some authorities.
func (s *site) trusted(of ...*corporate) {
	s.t.Helper()
	text := ""
	for _, c := range of {
		text += c.text
	}
	for _, h := range s.lab.Hosts() {
		s.on(h.Name, fmt.Sprintf("install -d -m 755 %[1]s; printf %%s '%[2]s' >%[1]s/ca.new && mv %[1]s/ca.new %[1]s/ca.crt", corporateDir, text))
	}
}

// corporateFiles are all files of somebody else's, and which they are.
func (s *site) corporateFiles() string {
	var b strings.Builder
	for _, h := range s.lab.Hosts() {
		fmt.Fprintln(&b, h.Name, s.on(h.Name, "cd "+corporateDir+"; stat -c '%n %U %G %a %Y' *; sha256sum *"))
	}
	return b.String()
}

// shows checks that etcd shows to who connects now what is in its files.
func (s *site) shows(host string) {
	s.t.Helper()
	for port, leaf := range map[string]string{"2379": "server-" + host, "2380": "peer"} {
		shown := s.on(host, fmt.Sprintf("cd %s; openssl s_client -connect %s:%s -CAfile ca.crt -cert peer.crt -key peer.key </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256", corporateDir, s.lab.Host(host).Addr, port))
		if file := s.on(host, "openssl x509 -noout -fingerprint -sha256 -in "+corporateDir+"/"+leaf+".crt"); shown != file {
			s.t.Errorf("%s shows %q on port %s, and has %q", host, shown, port, file)
		}
	}
}

// etcd and Patroni run with certificates that somebody else makes, while rows are
// written: leaves are renewed with nobody noticing, and an authority is replaced by
// restarts of one member at a time, also when the apply is killed in between. What is
// wrong is said with host and file, before anything is touched.
func TestEtcdBroughtCertificates(t *testing.T) {
	turn(t)
	cli.Binary(t)
	ctx := t.Context()
	file := func(name string) string {
		return fmt.Sprintf("certificate = \"%[1]s/%[2]s.crt\", key = \"%[1]s/%[2]s.key\"", corporateDir, name)
	}
	base := settings{Purge: true, Etcd: fmt.Sprintf(`snapshots = { schedule = "daily", keep = 2 }
  certificates = {
    files = {
      server  = { %[1]s }
      peer    = { %[2]s, common_name = "dcs-peer" }
      client  = { %[3]s }
      trusted = "%[5]s/ca.crt"
    }
    patroni_files = { %[4]s, trusted = "%[5]s/ca.crt" }
  }`, file("server-{name}"), file("peer"), file("client"), file("patroni"), corporateDir)}
	all := []string{"pg1", "pg2", "pg3"}
	u := &upgrading{site: newSiteIn(t, labhost.Options{Image: labhost.Warm, Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: all}}}, base), base: base, all: all}
	version := u.oldest("etcd-server")
	first, second := newCorporate(u.site, "first authority"), newCorporate(u.site, "second authority")
	for _, h := range all {
		u.on(h, "for a in etcd postgres; do id -u $a >/dev/null 2>&1 || useradd --system --user-group --no-create-home --shell /usr/sbin/nologin $a; done")
		first.member(h)
	}
	u.trusted(first)

	// Wrong files are refused by the plan, before anything is there.
	u.on("pg2", "cp "+corporateDir+"/client.key "+corporateDir+"/peer.key; chgrp root "+corporateDir+"/client.key; chmod 600 "+corporateDir+"/client.key")
	second.server("pg3", time.Now().AddDate(0, 0, 90))
	o := u.Run(ctx, "plan", "-no-color", "-input=false")
	if o.Code == 0 {
		t.Errorf("the plan has no error:\n%s", o.Text)
	}
	has(t, o, "etcd cluster dcs cannot run with these files", "Host: pg2", corporateDir+"/peer.key is not the key of "+corporateDir+"/peer.crt", corporateDir+"/client.key cannot be read by the user etcd",
		"Host: pg3", corporateDir+"/server-pg3.crt is not of an authority that is trusted", "What to do:")
	for _, h := range all[1:] {
		first.member(h)
	}

	mine := u.corporateFiles()
	u.Apply(ctx)
	u.healthy("pg1", all...)
	u.NoChanges(ctx)
	for _, h := range all {
		u.on(h, "test ! -e /etc/pgha/ca/etcd-dcs; ! ls /etc/pgha/etcd/dcs/*.crt /etc/pgha/etcd/dcs/*.key /etc/pgha/patroni/main/etcd* 2>/dev/null")
		u.shows(h)
	}
	if st := u.statusOnce(ctx); !st.Healthy || len(st.Warnings) > 0 || st.Snapshot == nil || st.Snapshot.Member != st.Leader || st.Members[0].ServerExpires == "" || st.Members[0].CAExpires == "" {
		t.Errorf("the status: %+v", st)
	}
	if got := u.corporateFiles(); got != mine {
		t.Errorf("files of somebody else's were changed:\n%s\nwere\n%s", got, mine)
	}
	u.w, u.nodes = u.write(), u.processes()
	processes := u.etcdProcesses()

	t.Run("leaves are renewed", func(t *testing.T) {
		for _, h := range all {
			first.member(h)
			u.shows(h)
		}
		u.disconnect()
		u.check(t, version)
		if now := u.etcdProcesses(); now != processes {
			t.Errorf("etcd was restarted: %s, before %s", now, processes)
		}
	})

	rolled := func(t *testing.T) {
		t.Helper()
		now := strings.Fields(u.etcdProcesses())
		for i, pid := range strings.Fields(processes) {
			if now[i] == pid {
				t.Errorf("etcd on %s was not restarted", all[i])
			}
		}
		processes = u.etcdProcesses()
		u.disconnect()
		u.check(t, version)
	}
	const restart = "restart etcd.service, which then trusts the authorities that are in its file by now"
	t.Run("another authority is trusted, too", func(t *testing.T) {
		u.trusted(first, second)
		has(t, u.Plan(ctx), "pg1: "+restart, "pg2: "+restart, "pg3: "+restart, "it leads, and hands that over first")
		u.cutIn("etcd.restart")
		u.Apply(ctx)
		rolled(t)
	})
	t.Run("the first one is trusted no more", func(t *testing.T) {
		for _, h := range all {
			second.server(h, time.Now().AddDate(0, 0, 90))
			second.member(h)
		}
		first.node("pg3") // forgotten
		u.NoChanges(ctx)
		u.trusted(second)
		u.on("pg3", fmt.Sprintf("printf %%s '%s' >>%s/ca.crt", first.text, corporateDir))
		has(t, u.Plan(ctx), "does not have the authority of "+corporateDir+"/patroni.crt on pg3")
		o := u.TryApply(ctx)
		if o.Code == 0 || u.etcdProcesses() != processes {
			t.Errorf("although a node would be shut out:\n%s", o.Text)
		}
		second.node("pg3")
		u.trusted(second)
		has(t, u.Plan(ctx), "pg1: "+restart, "pg3: "+restart)
		u.Apply(ctx)
		rolled(t)
	})
	t.Run("a leaf ends", func(t *testing.T) {
		second.server("pg2", time.Now().Add(2*24*time.Hour))
		o := u.Run(ctx, "plan", "-no-color", "-input=false", "-detailed-exitcode")
		if o.Code != 0 {
			t.Errorf("the plan's exit status is %d:\n%s", o.Code, o.Text)
		}
		has(t, o, "Certificates of etcd cluster dcs end soon", corporateDir+"/server-pg2.crt on pg2 expires on", "an apply does not")
		second.server("pg2", time.Now().Add(-time.Minute))
		has(t, u.Plan(ctx), "host pg2: check the certificates that somebody else makes: "+corporateDir+"/server-pg2.crt has expired on", "Applying this will fail")
		st := u.etcdStatus(ctx)
		if text := strings.Join(st.Warnings, "\n"); !strings.Contains(text, corporateDir+"/server-pg2.crt on pg2 has expired on") {
			t.Errorf("the status warns: %s", text)
		}
		u.Write("status.tf", "")
		second.server("pg2", time.Now().AddDate(0, 0, 90))
		u.Apply(ctx, "-refresh=false")
		u.disconnect()
		u.check(t, version)
		if now := u.etcdProcesses(); now != processes {
			t.Errorf("etcd was restarted: %s, before %s", now, processes)
		}
	})
	if gap := u.w.LongestGap(); gap > 0 {
		t.Logf("%d rows, the longest time without one was %s", u.w.Acked(), gap)
	}
	u.w.Check(t)
	mine = u.corporateFiles()
	u.Destroy(ctx)
	for _, h := range all {
		u.on(h, "test ! -e /etc/pgha && ! systemctl is-active -q patroni etcd")
	}
	if got := u.corporateFiles(); got != mine {
		t.Errorf("files of somebody else's were changed:\n%s\nwere\n%s", got, mine)
	}
}
