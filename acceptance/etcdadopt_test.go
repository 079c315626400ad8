package acceptance

import (
	"context"
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
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// etcdLayout is how another tool lays etcd out on hosts, without its package.
type etcdLayout struct {
	bin, data string
	unit      string // its path, and then what is in it
	text      string
	config    string // of /etc/etcd/etcd.conf, with the host's name, its address, and all members
	settings  string // what the configuration says that describes it
	differs   string // a setting that is to change, and what it becomes
	becomes   string
	restarts  string // what the members run with then
	quota     int64  // bytes, as it was
	tls       bool   // with certificates of their own
}

// secured is the layout with certificates, of an authority of their own, which are
// good for servers and clients alike.
func (l etcdLayout) secured() etcdLayout {
	l.tls = true
	l.config = strings.ReplaceAll(l.config, "http://", "https://")
	if strings.Contains(l.config, "ETCD_NAME") {
		for _, kind := range []string{"", "PEER_"} {
			l.config += "ETCD_" + kind + "CERT_FILE=/etc/etcd/tls/server.crt\nETCD_" + kind + "KEY_FILE=/etc/etcd/tls/server.key\nETCD_" + kind + "TRUSTED_CA_FILE=/etc/etcd/tls/ca.crt\n"
		}
		return l
	}
	for _, kind := range []string{"client", "peer"} {
		l.config += kind + "-transport-security:\n  cert-file: /etc/etcd/tls/server.crt\n  key-file: /etc/etcd/tls/server.key\n  trusted-ca-file: /etc/etcd/tls/ca.crt\n"
	}
	return l
}

// certificates makes an authority and one certificate for all hosts, in PEM.
func (l etcdLayout) certificates(s *site) (authority, certificate, key string) {
	s.t.Helper()
	must := func(err error) {
		if err != nil {
			s.t.Fatal(err)
		}
	}
	sign := func(c, parent *x509.Certificate, signer *ecdsa.PrivateKey) (string, *ecdsa.PrivateKey) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		if signer == nil {
			signer = k
		}
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(20, 0, 0)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &k.PublicKey, signer)
		must(err)
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), k
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "their authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	authority, caKey := sign(ca, ca, nil)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "etcd"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	for _, h := range s.lab.Hosts() {
		leaf.IPAddresses = append(leaf.IPAddresses, net.ParseIP(h.Addr))
	}
	certificate, leafKey := sign(leaf, ca, caKey)
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	must(err)
	return authority, certificate, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// etcdctl is the command with what it needs to log in, on a member's host.
func (l etcdLayout) etcdctl() string {
	if !l.tls {
		return "ETCDCTL_API=3 etcdctl "
	}
	return "ETCDCTL_API=3 etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/etcd/tls/ca.crt --cert /etc/etcd/tls/server.crt --key /etc/etcd/tls/server.key "
}

// Autobase has a file of variables, and a shell start a program of its own.
var autobaseLayout = etcdLayout{
	bin: "/usr/local/bin", data: "/var/lib/etcd", unit: "/etc/systemd/system/etcd.service",
	text: `[Unit]
Description=Etcd Server
After=network-online.target
Wants=network-online.target
[Service]
Type=notify
WorkingDirectory=/var/lib/etcd
EnvironmentFile=-/etc/etcd/etcd.conf
User=etcd
ExecStart=/bin/bash -c "GOMAXPROCS=$(nproc) /usr/local/bin/etcd"
Restart=on-failure
LimitNOFILE=65536
[Install]
WantedBy=multi-user.target
`,
	config: `ETCD_NAME="%[1]s"
ETCD_LISTEN_CLIENT_URLS="http://%[2]s:2379,http://127.0.0.1:2379"
ETCD_ADVERTISE_CLIENT_URLS="http://%[2]s:2379"
ETCD_LISTEN_PEER_URLS="http://%[2]s:2380"
ETCD_INITIAL_ADVERTISE_PEER_URLS="http://%[2]s:2380"
ETCD_INITIAL_CLUSTER_TOKEN="theirs"
ETCD_INITIAL_CLUSTER="%[3]s"
ETCD_INITIAL_CLUSTER_STATE="new"
ETCD_DATA_DIR="/var/lib/etcd"
ETCD_ELECTION_TIMEOUT="5000"
ETCD_HEARTBEAT_INTERVAL="1000"
ETCD_INITIAL_ELECTION_TICK_ADVANCE="false"
ETCD_AUTO_COMPACTION_RETENTION="1"
`,
	settings: `heartbeat_interval = "1s"
  election_timeout = "5s"
  auto_compaction_retention = "1h"`,
	differs: `auto_compaction_retention = "1h"`, becomes: `auto_compaction_retention = "2h"`,
	restarts: "ETCD_AUTO_COMPACTION_RETENTION=2h0m0s", quota: 2 << 30,
}

// Pigsty has a configuration file, beside which nothing counts.
var pigstyLayout = etcdLayout{
	bin: "/usr/bin", data: "/data/etcd", unit: "/usr/lib/systemd/system/etcd.service",
	text: `[Unit]
Description=Etcd Server
After=network-online.target
Wants=network-online.target
[Service]
Type=notify
WorkingDirectory=/data/etcd
User=etcd
Environment=ETCD_SNAPSHOT_COUNT=4711
ExecStart=/usr/bin/etcd --config-file /etc/etcd/etcd.conf
Restart=on-failure
LimitNOFILE=65536
OOMScoreAdjust=-1000
[Install]
WantedBy=multi-user.target
`,
	config: `# theirs
name: %[1]s
data-dir: /data/etcd
initial-cluster-token: "theirs"
initial-cluster-state: "new"
initial-cluster: "%[3]s"
initial-advertise-peer-urls: "http://%[2]s:2380"
listen-peer-urls: "http://%[2]s:2380"
listen-client-urls: "http://%[2]s:2379,http://127.0.0.1:2379"
advertise-client-urls: "http://%[2]s:2379"
election-timeout: 1000
heartbeat-interval: 100
quota-backend-bytes: 8589934592
auto-compaction-mode: periodic
auto-compaction-retention: "24h"
grpc-keepalive-interval: 3600000000000
enable-pprof: yes
`,
	settings: `heartbeat_interval = "100ms"
  election_timeout = "1s"
  quota_backend_bytes = "8GiB"
  auto_compaction_retention = "24h"`,
	differs: `quota_backend_bytes = "8GiB"`, becomes: `quota_backend_bytes = "4GiB"`,
	restarts: "ETCD_QUOTA_BACKEND_BYTES=4294967296", quota: 8 << 30,
}

// Clusters in the layouts of Autobase and Pigsty, whose etcd is of no package, are
// imported as they run: the plan is empty, and nothing is restarted, written or
// installed. Then a setting is changed in a rolling way, snapshots are taken, and
// etcd is given back.
func TestEtcdAdoptLayouts(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]etcdLayout{
		"Autobase": autobaseLayout, "Pigsty": pigstyLayout, "AutobaseTLS": autobaseLayout.secured(), "PigstyTLS": pigstyLayout.secured(),
	} {
		t.Run(name, func(t *testing.T) {
			turn(t)
			etcdAdopt(t, l)
		})
	}
}

// lay makes a cluster in a layout, from the files of Debian's packages, which are not
// installed.
func (l etcdLayout) lay(s *site, version string) {
	s.t.Helper()
	var members []string
	for _, h := range s.lab.Hosts() {
		members = append(members, fmt.Sprintf("%s=%s://%s:2380", h.Name, map[bool]string{true: "https", false: "http"}[l.tls], h.Addr))
	}
	authority, certificate, key := l.certificates(s)
	for _, h := range s.lab.Hosts() {
		s.on(h.Name, fmt.Sprintf(`set -e
mkdir -p /tmp/etcd && cd /tmp/etcd
for pkg in etcd-server etcd-client; do
	deb=$(ls /pool/*/"$pkg"_%[1]s-*.deb /pool/"$pkg"_%[1]s-*.deb 2>/dev/null | head -n 1)
	dpkg-deb -x "$deb" .
done
install -m 755 usr/bin/etcd usr/bin/etcdctl %[2]s/
cd / && rm -rf /tmp/etcd
useradd --system --user-group --home-dir %[3]s --shell /usr/sbin/nologin etcd
install -d -o etcd -g etcd -m 700 %[3]s
install -d -o etcd -g etcd -m 750 /etc/etcd
cat >%[4]s <<'END'
%[5]sEND
cat >/etc/etcd/etcd.conf <<'END'
%[6]sEND
if %[7]t; then
	install -d -o root -g root -m 755 /etc/etcd/tls
	printf %%s '%[8]s' >/etc/etcd/tls/ca.crt
	printf %%s '%[9]s' >/etc/etcd/tls/server.crt
	printf %%s '%[10]s' >/etc/etcd/tls/server.key
	chown etcd:etcd /etc/etcd/tls/*
	chmod 600 /etc/etcd/tls/server.key
fi
systemctl daemon-reload
systemctl -q enable etcd 2>&1
systemctl start --no-block etcd`, version, l.bin, l.data, l.unit, l.text, fmt.Sprintf(l.config, h.Name, h.Addr, strings.Join(members, ",")), l.tls, authority, certificate, key))
	}
	for _, h := range s.lab.Hosts() {
		s.eventually("etcd on "+h.Name, time.Minute, func(ctx context.Context) (bool, string) {
			out, err := s.lab.SSH(ctx, h.Name, l.etcdctl()+"endpoint health 2>&1")
			return err == nil, fmt.Sprint(out, err)
		})
	}
}

// traces is what importing must not change on a host.
func (l etcdLayout) traces(s *site) string {
	var b strings.Builder
	for _, h := range s.lab.Hosts() {
		fmt.Fprintln(&b, h.Name, s.on(h.Name, `find /etc /usr/lib/systemd /usr/local /var/lib/dpkg/status /var/lib/apt/lists -type f -printf '%p %T@ %m %u %g\n' | sort | sha256sum
systemctl show -p MainPID -p InvocationID --value etcd; apt-mark showhold`))
	}
	return b.String()
}

func etcdAdopt(t *testing.T, l etcdLayout) {
	cli.Binary(t)
	lab := labtest.New(t, labhost.Options{Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: []string{"e1", "e2", "e3"}}}})
	ctx := t.Context()
	s := &site{t: t, lab: lab, Dir: cli.New(t, nil, lab.Env()...)}
	version := s.oldest("etcd-server")
	l.lay(s, version)
	s.on("e1", l.etcdctl()+"put /witness 'still there'")

	var id, members []string
	for _, h := range lab.Hosts() {
		id = append(id, h.Name+"="+h.Addr)
		members = append(members, fmt.Sprintf("    %s = { host = { name = %q, address = %q, port = null, user = null, host_key = null, bastions = null } }\n", h.Name, h.Name, h.Addr))
	}
	configure := func(version, settings string, protect bool) {
		s.Write("main.tf", fmt.Sprintf(`terraform {
  required_providers {
    pgha = { source = "pgha/pgha" }
  }
}
resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = %q
  members = {
%s  }
  tls  = %t
  auth = false
  deletion_protection = %t
  %s
}
`, version, strings.Join(members, ""), l.tls, protect, settings))
	}
	status := func() etcdStatus {
		st := s.etcdStatus(ctx)
		s.Write("status.tf", "")
		s.Apply(ctx, "-refresh=false")
		return st
	}
	configure(version, l.settings, true)
	s.Write("import.tf", fmt.Sprintf("import {\n  to = pgha_etcd_cluster.dcs\n  id = \"dcs@%s\"\n}\n", strings.Join(id, ",")))
	before := l.traces(s)
	has(t, s.Plan(ctx), "1 to import, 0 to add, 0 to change, 0 to destroy")
	s.Apply(ctx)
	s.NoChanges(ctx)
	if after := l.traces(s); after != before {
		t.Fatalf("importing changed the hosts:\n%s\nwas\n%s", after, before)
	}
	if keys := s.on("e1", l.etcdctl()+"get --prefix --keys-only / | grep . || true"); keys != "/witness" {
		t.Errorf("importing wrote into etcd:\n%s", keys)
	}
	for _, m := range status().Members {
		if m.Version != version || !m.Healthy || m.Quota != l.quota || (m.ServerExpires != "") != l.tls || (m.CAExpires != "") != l.tls {
			t.Errorf("status: %+v", m)
		}
	}

	// Another version cannot be had, and the plan says which way there is.
	newer := s.newest("etcd-server")
	configure(newer, l.settings, true)
	o := s.Run(ctx, "plan", "-no-color", "-input=false")
	if o.Code == 0 {
		t.Errorf("the plan of another version has no error:\n%s", o.Text)
	}
	has(t, o, "cannot be brought to version "+newer, l.bin+"/etcd in version "+version, "only the package can be upgraded")

	changed := strings.Replace(l.settings, l.differs, l.becomes, 1)
	configure(version, changed, true)
	has(t, s.Plan(ctx), strings.Fields(l.differs)[0], "restart etcd.service, for its settings, while all others are well", "0 to add, 1 to change, 0 to destroy")
	s.Apply(ctx)
	s.NoChanges(ctx)
	for _, h := range lab.Hosts() {
		s.on(h.Name, fmt.Sprintf(`set -e
tr '\0' '\n' </proc/$(systemctl show -p MainPID --value etcd)/environ | grep -qx %[1]s
test "$(readlink /proc/$(systemctl show -p MainPID --value etcd)/exe)" = %[2]s/etcd
test -d %[3]s/member
test ! -e /var/lib/etcd/dcs
test ! -e /etc/pgha/ca
! grep -rls 'PRIVATE KEY' /etc/pgha
! dpkg-query -W -f '${db:Status-Status}' etcd-server 2>/dev/null | grep -q installed
test -z "$(apt-mark showhold)"`, l.restarts, l.bin, l.data))
		// What etcd itself says it runs with: what was not changed is as it was.
		said := s.on(h.Name, "journalctl -o cat -u etcd _PID=$(systemctl show -p MainPID --value etcd) | grep '\"msg\":\"starting an etcd server\"'")
		for _, part := range []string{`"name":"` + h.Name + `"`, `"data-dir":"` + l.data + `"`} {
			if !strings.Contains(said, part) {
				t.Errorf("etcd on %s does not say %s:\n%s", h.Name, part, said)
			}
		}
		if strings.Contains(said, `"snapshot-count":4711`) {
			t.Errorf("a variable counts on %s that was of no account:\n%s", h.Name, said)
		}
	}

	changed += "\n  " + `snapshots = { schedule = "daily", keep = 2 }`
	configure(version, changed, true)
	s.Apply(ctx)
	s.NoChanges(ctx)
	if st := status(); st.Snapshot == nil || st.Snapshot.Member != st.Leader {
		t.Errorf("the leader %s has taken no snapshot: %+v", st.Leader, st.Snapshot)
	}

	if l.tls {
		// Patroni would need certificates that nobody here can make.
		s.Write("patroni.tf", `resource "pgha_patroni_cluster" "main" {
  scope            = "main"
  etcd             = pgha_etcd_cluster.dcs.access
  allowed_networks = ["samenet"]
}
`)
		o := s.TryApply(ctx)
		if o.Code == 0 {
			t.Errorf("a Patroni cluster was made on it:\n%s", o.Text)
		}
		has(t, o, "the certificates of the etcd cluster dcs are made by somebody else")
		s.Write("patroni.tf", "")
		if o.Contains("PRIVATE KEY") {
			t.Error("a key is in the output")
		}
	}

	// Somebody edits the old file: it is of no account any more. A host that boots
	// starts with what was applied.
	s.on("e2", "echo '# edited' >>/etc/etcd/etcd.conf")
	s.on("e2", "systemctl restart etcd")
	s.NoChanges(ctx)

	configure(version, changed, false)
	s.Apply(ctx)
	s.Write("import.tf", "")
	if o := s.Run(ctx, "destroy", "-no-color", "-input=false", "-auto-approve"); o.Code != 0 {
		t.Fatalf("destroying failed:\n%s", o.Text)
	}
	for _, h := range lab.Hosts() {
		s.on(h.Name, fmt.Sprintf("! systemctl is-active -q etcd && ! systemctl is-enabled -q etcd && test -d %s/member", l.data))
	}
	for _, h := range lab.Hosts() {
		s.on(h.Name, "systemctl -q enable etcd 2>&1; systemctl start --no-block etcd")
	}
	s.eventually("etcd with what was in it", time.Minute, func(ctx context.Context) (bool, string) {
		out, err := lab.SSH(ctx, "e1", l.etcdctl()+"get --print-value-only /witness")
		return err == nil && strings.TrimSpace(out) == "still there", fmt.Sprint(out, err)
	})
}
