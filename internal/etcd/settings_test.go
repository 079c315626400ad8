package etcd

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// A flag counts before a variable, etcd's own defaults where neither is given,
// and what is written keeps all the rest.
func TestSettings(t *testing.T) {
	p := remote.Process{
		Args: []string{"/usr/bin/etcd", "--heartbeat-interval=200", "-election-timeout", "2000", "--pre-vote"},
		Environ: map[string]string{
			"ETCD_NAME": "pg1", "ETCD_HEARTBEAT_INTERVAL": "100", "ETCD_DATA_DIR": "/srv/etcd", "PATH": "/bin", "ETCD_AUTO_COMPACTION_RETENTION": "2",
			"ETCD_ADVERTISE_CLIENT_URLS": "http://[fd00::1]:2479,http://10.0.0.1:2479",
		},
	}
	s := settingsOf(p)
	var spec Spec
	if err := s.tune(&spec); err != nil {
		t.Fatal(err)
	}
	want := Spec{Heartbeat: 200 * time.Millisecond, Election: 2 * time.Second, QuotaBytes: 2 << 30, CompactionRetention: 2 * time.Hour}
	if d := cmp.Diff(want, spec); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if host, port, tls, err := s.first("ADVERTISE_CLIENT_URLS"); host != "fd00::1" || port != 2479 || tls || err != nil {
		t.Errorf("%s %d %v %v", host, port, tls, err)
	}
	if !s.same(spec) {
		t.Error("a member that runs as it should is taken for another")
	}
	spec.QuotaBytes = 1 << 30
	if s.same(spec) {
		t.Error("another quota is no difference")
	}
	text := string(s.overlay(spec, tlsOff))
	for _, line := range []string{`ETCD_DATA_DIR="/srv/etcd"`, `ETCD_QUOTA_BACKEND_BYTES="1073741824"`, `ETCD_PRE_VOTE="true"`, `ETCD_AUTO_COMPACTION_RETENTION="2h0m0s"`} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("%s is missing:\n%s", line, text)
		}
	}
	if strings.Contains(text, "PATH") || strings.Contains(text, "SNAPSHOT_COUNT") {
		t.Errorf("it has what does not belong there:\n%s", text)
	}
	for key, value := range map[string]string{"HEARTBEAT_INTERVAL": "x", "AUTO_COMPACTION_RETENTION": "long", "QUOTA_BACKEND_BYTES": "2G"} {
		bad := settings{key: value}
		if err := bad.tune(&Spec{}); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s=%s: %v", key, value, err)
		}
	}
	if err := (settings{"AUTO_COMPACTION_MODE": "revision", "AUTO_COMPACTION_RETENTION": "1000"}).tune(&Spec{}); err == nil {
		t.Error("compaction by revision was taken for one by time")
	}
	if settingsOf(remote.Process{}) != nil {
		t.Error("nothing runs, and there are settings")
	}
}
