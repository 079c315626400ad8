package etcd

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// A configuration file says the same as the variables that are made of it, in the
// words that these take.
func TestParseConfig(t *testing.T) {
	got, err := parseConfig([]byte(`
name: 'pg1'
data-dir: /data/etcd   # a comment
enable-v2: yes
pre-vote: false
quota-backend-bytes: 8589934592
backend-batch-interval: 100000000
grpc-keepalive-interval: 7200000000000
log-outputs: [stderr, /var/log/etcd.log]
auto-compaction-retention: "24h"
cors:
client-transport-security:
  cert-file: /etc/etcd/server.crt
  client-cert-auth: on
peer-transport-security:
  trusted-ca-file: /etc/etcd/ca.crt
  auto-tls: false
`))
	if err != nil {
		t.Fatal(err)
	}
	want := settings{
		"NAME": "pg1", "DATA_DIR": "/data/etcd", "ENABLE_V2": "true", "PRE_VOTE": "false", "QUOTA_BACKEND_BYTES": "8589934592", "BACKEND_BATCH_INTERVAL": "100ms",
		"GRPC_KEEPALIVE_INTERVAL": "2h0m0s", "LOG_OUTPUTS": "stderr,/var/log/etcd.log", "AUTO_COMPACTION_RETENTION": "24h",
		"CERT_FILE": "/etc/etcd/server.crt", "CLIENT_CERT_AUTH": "true", "PEER_TRUSTED_CA_FILE": "/etc/etcd/ca.crt", "PEER_AUTO_TLS": "false",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for text, says := range map[string]string{
		"name: a\ndiscovery: x\nzz: 1":                  "does not know: discovery, zz",
		"client-transport-security: {allowed-cn: x}":    "does not know: client-transport-security.allowed-cn",
		"<<: {name: a}":                                 "does not know: <<",
		"pre-vote: maybe":                               "neither true nor false",
		"backend-batch-interval: 100ms":                 "no number of nanoseconds",
		"name: [a, b]":                                  "no single value",
		"- name":                                        "no mapping",
		"client-transport-security: yes":                "no mapping",
		"name: \"a":                                     "yaml",
		"socket-options: {reuse-port: true}\nname: pg1": "does not know: socket-options",
	} {
		if _, err := parseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if s, err := parseConfig([]byte("# nothing\n")); err != nil || len(s) > 0 {
		t.Errorf("an empty file: %v %v", s, err)
	}
}

// How a process was started decides whether it is of Debian's package, and whether
// the environment is enough to change its settings.
func TestLaunch(t *testing.T) {
	for name, c := range map[string]struct {
		p        remote.Process
		packaged bool
		want     *Launch
	}{
		"Debian's": {remote.Process{Args: []string{"/usr/bin/etcd"}, Program: "/usr/bin/etcd"}, true, nil},
		"Debian's, with arguments": {
			remote.Process{Args: []string{"/usr/bin/etcd", "--name", "a"}, Program: "/usr/bin/etcd", Environ: map[string]string{"DAEMON_ARGS": "--name  a"}}, true, nil,
		},
		"flags in the unit": {
			remote.Process{Args: []string{"/usr/bin/etcd", "--name", "a"}, Program: "/usr/bin/etcd", Environ: map[string]string{"DAEMON_ARGS": "--name b"}}, true,
			&Launch{Program: "/usr/bin/etcd", Command: true},
		},
		"another program":        {remote.Process{Args: []string{"etcd"}, Program: "/usr/local/bin/etcd"}, true, &Launch{Program: "/usr/local/bin/etcd", Foreign: true}},
		"at the package's place": {remote.Process{Args: []string{"/usr/bin/etcd"}, Program: "/usr/bin/etcd"}, false, &Launch{Program: "/usr/bin/etcd", Foreign: true}},
		"nothing is said of it":  {remote.Process{Args: []string{"/usr/bin/etcd"}}, true, nil},
		"nothing runs":           {remote.Process{}, true, nil},
		"a configuration file":   {remote.Process{Args: []string{"/opt/etcd", "--config-file=/x"}}, false, &Launch{Program: "/opt/etcd", Foreign: true, Command: true}},
	} {
		if d := cmp.Diff(c.want, launchOf(c.p, c.packaged)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// What is written instead of a configuration file has all that was in it, and takes
// back what it made of no account.
func TestOverlayOfFile(t *testing.T) {
	s := settings{"NAME": "pg1", "DATA_DIR": "/data/etcd", "LOG_OUTPUTS": "stderr", configKey: "/etc/etcd/etcd.conf", "ENABLE_V2": "", "SNAPSHOT_COUNT": ""}
	var spec Spec
	if err := s.tune(&spec); err != nil {
		t.Fatal(err)
	}
	spec.SnapshotCount = 0
	text := string(s.overlay(spec, tlsOff))
	for _, line := range []string{`ETCD_NAME="pg1"`, `ETCD_LOG_OUTPUTS="stderr"`, `ETCD_CONFIG_FILE=""`, `ETCD_ENABLE_V2=""`, `ETCD_SNAPSHOT_COUNT=""`} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("%s is missing:\n%s", line, text)
		}
	}
	l := Launch{Program: "/usr/bin/etcd", Command: true}
	if got := spec.dropIn(); !strings.HasSuffix(string(append(got, l.command()...)), "\nExecStart=\nExecStart=/usr/bin/etcd\n") {
		t.Errorf("the command is not replaced:\n%s", got)
	}
}
