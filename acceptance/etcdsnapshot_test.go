package acceptance

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// Snapshots of etcd on Debian 13, whose etcdutl verifies them.
func TestEtcdSnapshots(t *testing.T) {
	turn(t)
	etcdSnapshots(t, "trixie", "etcdutl")
}

// The same with etcd 3.4, where there is only etcdctl.
func TestEtcdSnapshotsBookworm(t *testing.T) {
	turn(t)
	etcdSnapshots(t, "bookworm", "etcdctl")
}

// etcdOnly writes a configuration with an etcd cluster on all hosts and nothing
// else.
func (s *site) etcdOnly(more string) {
	s.t.Helper()
	var members strings.Builder
	for _, h := range s.lab.Hosts() {
		fmt.Fprintf(&members, "    %s = { host = { name = %q, address = %q, port = null, user = null, host_key = null, bastions = null } }\n", h.Name, h.Name, h.Addr)
	}
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
  deletion_protection = false
  on_destroy          = "purge"
  %s
}
`, s.oldest("etcd-server"), members.String(), more))
}

func etcdSnapshots(t *testing.T, release, tool string) {
	cli.Binary(t)
	lab := labtest.New(t, labhost.Options{Image: labhost.Warm, Release: release, Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: []string{"e1", "e2", "e3"}}}})
	ctx := t.Context()
	s := &site{t: t, lab: lab, Dir: cli.New(t, nil, append(lab.Env(), "PGHA_SSH_CONNECT_TIMEOUT=3s")...)}
	on := func(schedule, dir string) string {
		return fmt.Sprintf("snapshots = { schedule = %q, keep = 2, directory = %q }", schedule, dir)
	}

	s.etcdOnly(on("*:*:0/5", "/srv/etcd"))
	s.Apply(ctx)
	s.NoChanges(ctx)
	st := s.etcdStatus(ctx)
	if st.Snapshot == nil || st.Snapshot.Member != st.Leader || st.Snapshot.Age > 60 {
		t.Fatalf("the leader %s has taken no snapshot: %+v", st.Leader, st.Snapshot)
	}
	list := func(host string) []string {
		return strings.Fields(s.on(host, "ls -A /srv/etcd/dcs | grep -v '^.lock$' || true"))
	}
	s.eventually("three turns of the timer", 60*time.Second, func(context.Context) (bool, string) {
		n := s.on(st.Leader, "journalctl -o cat -u pgha-etcd-snapshot | grep -c ^path= || true")
		return n != "0" && n != "1" && n != "2" && n != "3", n
	})
	if files := list(st.Leader); len(files) != 2 {
		t.Errorf("snapshots on %s: %v", st.Leader, files)
	}
	for _, h := range lab.Hosts() {
		if h.Name != st.Leader && len(list(h.Name)) > 0 {
			t.Errorf("%s does not lead and has %v", h.Name, list(h.Name))
		}
		s.on(h.Name, "systemctl is-active -q pgha-etcd-snapshot.timer && ! systemctl is-failed -q pgha-etcd-snapshot.service")
		// Nobody else may look into them, and what is logged tells no password.
		if mode := s.on(h.Name, "stat -c '%a %U' /srv/etcd/dcs"); mode != "700 etcd" {
			t.Errorf("the folder is %s", mode)
		}
		s.on(h.Name, `pass=$(sed 's/.*"pgha":"\([^"]*\)".*/\1/' /etc/pgha/etcd/dcs/credentials.json); [ "$pass" ] && ! journalctl -u pgha-etcd-snapshot | grep -q "$pass" && ! grep -q "$pass" /etc/systemd/system/pgha-etcd-snapshot.* /etc/pgha/etcd/dcs/snapshot.sh`)
	}
	t.Logf("%s", s.on(st.Leader, "systemd-analyze security --no-pager pgha-etcd-snapshot.service | tail -n 1; journalctl -o cat -u pgha-etcd-snapshot | tail -n 12"))

	// What is in one is what is in etcd: it is restored elsewhere, and has the keys.
	s.etcdctl(st.Leader, "put /pgha/test/key value >/dev/null")
	s.on(st.Leader, "systemctl start pgha-etcd-snapshot.service")
	s.on(st.Leader, `set -e; newest=$(ls /srv/etcd/dcs/*.db | tail -n 1); rm -rf /tmp/restored; ETCDCTL_API=3 `+tool+` snapshot restore "$newest" --data-dir /tmp/restored >/dev/null 2>&1
test -d /tmp/restored/member; grep -q /pgha/test/key /tmp/restored/member/snap/db; rm -rf /tmp/restored`)

	// The same script, as an apply runs it: as root, on a host that follows.
	follower := "e1"
	if st.Leader == follower {
		follower = "e2"
	}
	out := s.on(follower, "install -d -o etcd -g etcd -m 700 /var/backups/etcd/dcs && sh /etc/pgha/etcd/dcs/snapshot.sh /var/backups/etcd/dcs 0 "+follower+" always https://"+lab.Host(follower).Addr+":2379 /etc/pgha/etcd/dcs /etc/pgha/etcd/dcs/credentials.json 2>/dev/null")
	if !strings.Contains(out, "path=/var/backups/etcd/dcs/") || !strings.Contains(out, "revision=") {
		t.Errorf("a snapshot by hand: %s", out)
	}
	if owners := s.on(follower, "stat -c '%a %U' /var/backups/etcd/dcs/*.db"); owners != "600 etcd" {
		t.Errorf("it is %s", owners)
	}

	// No room: the unit fails, the data source and the plan say so, an apply fails
	// with the cause; etcd itself goes on.
	s.etcdOnly(on("Mon 05:00", "/srv/etcd")) // the timer stays out of what follows
	s.Apply(ctx)
	s.on(st.Leader, "mount -t tmpfs -o size=60m,uid=$(id -u etcd),mode=0700 none /srv/etcd/dcs && ! systemctl start pgha-etcd-snapshot.service 2>/dev/null")
	if full := s.etcdStatus(ctx); len(full.Warnings) != 1 || !strings.Contains(full.Warnings[0], "the last attempt to take a snapshot on "+st.Leader+" has failed") || !full.Healthy {
		t.Errorf("with a full disk: %+v", full)
	}
	has(t, s.Plan(ctx), "pgha-etcd-snapshot.service has failed")
	o := s.TryApply(ctx)
	if o.Code == 0 {
		t.Error("the apply succeeds although no snapshot can be taken")
	}
	has(t, o, "Host: "+st.Leader, "a filesystem of the host is full", "MiB free of the")
	t.Logf("with a full disk:\n%s", o.Text)
	s.on(st.Leader, "umount /srv/etcd/dcs")
	s.Write("status.tf", "")
	s.Apply(ctx)
	s.NoChanges(ctx)
	s.etcdOnly(on("*:*:0/5", "/srv/etcd"))
	s.Apply(ctx)

	// The leader's host loses its power: who leads then goes on.
	if err := lab.Kill(ctx, st.Leader); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	s.eventually("a snapshot on another host", 60*time.Second, func(ctx context.Context) (bool, string) {
		now := s.etcdStatus(ctx)
		return now.Snapshot != nil && now.Snapshot.Member == now.Leader && now.Leader != st.Leader && now.Snapshot.Age < 30, now.Table
	})
	t.Logf("%s after the leader's host lost its power there is a snapshot on another one", time.Since(begin).Round(time.Second))
	if err := lab.Start(ctx, st.Leader); err != nil {
		t.Fatal(err)
	}
	s.eventually("all members to be healthy", 60*time.Second, func(ctx context.Context) (bool, string) {
		now := s.etcdStatus(ctx)
		return now.Healthy, now.Table
	})

	// Turned off they stay, without anything that takes more.
	s.Write("status.tf", "")
	s.etcdOnly("")
	s.Apply(ctx)
	s.NoChanges(ctx)
	for _, h := range lab.Hosts() {
		s.on(h.Name, "! ls /etc/systemd/system/pgha-* /etc/systemd/system/*/pgha-* /etc/pgha/etcd/dcs/snapshot.sh 2>/dev/null && ! systemctl list-units --all | grep pgha-etcd-snapshot")
	}
	if files := list(st.Leader); len(files) == 0 {
		t.Error("turning them off has removed them")
	}
	// Destroyed, they go with the data.
	s.etcdOnly(on("hourly", "/srv/etcd"))
	s.Apply(ctx)
	o = s.Run(ctx, "plan", "-destroy", "-no-color")
	has(t, o, "the credentials and the snapshots are deleted")
	s.Destroy(ctx)
	for _, h := range lab.Hosts() {
		s.on(h.Name, "test ! -e /etc/pgha && test ! -e /srv/etcd/dcs && test ! -e /var/backups/etcd && ! ls /etc/systemd/system/pgha-* /etc/systemd/system/*/pgha-* 2>/dev/null && ! systemctl is-active -q pgha-etcd-snapshot.timer")
	}
}
