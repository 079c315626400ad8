package acceptance

import (
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// What is changed behind the provider's back, with a writer running.
func TestDrift(t *testing.T) {
	turn(t)
	s := newSite(t, labhost.Warm, settings{Purge: true, Cluster: `synchronous_mode = "on"
  postgresql = { parameters = { work_mem = "16MB" } }`}, "pg1", "pg2", "pg3")
	s.Apply(t.Context())
	s.healthy("pg1", "pg1", "pg2", "pg3")
	w := s.write()
	s.drift(t)
	t.Run("what others made is left alone", func(t *testing.T) { s.foreign(t) })
	w.Check(t)
}

// change is one that somebody makes by hand.
type change struct {
	name   string
	host   string
	break_ string
	shown  []string // what a plan says of it
	whole  string   // a command that says whether it is repaired
}

// drift makes changes by hand, several at a time, each of which a plan has to show
// and an apply to repair.
func (s *site) drift(t *testing.T) {
	ctx := t.Context()
	replicas := s.others(s.leader("pg1"))
	one, other := replicas[0], replicas[1]
	for _, round := range []struct {
		name    string
		changes []change
	}{
		{"what Patroni goes by", []change{
			{
				"a DCS key", "pg1", "patronictl -c /etc/patroni/config.yml edit-config --force -s ttl=45 -p work_mem=1MB >/dev/null",
				[]string{`ttl = "45s" -> "30s"`, `"work_mem" = "1MB" -> "16MB"`},
				"patronictl -c /etc/patroni/config.yml show-config | grep -q 'ttl: 30' && cd / && test $(runuser -u postgres -- psql -XAtqc 'show work_mem') = 16MB",
			},
			{
				"a removed DCS key", "pg1", "patronictl -c /etc/patroni/config.yml edit-config --force -s check_timeline=null >/dev/null",
				[]string{"check_timeline", "true"},
				"patronictl -c /etc/patroni/config.yml show-config | grep -q 'check_timeline: true'",
			},
			{
				"Patroni's file", one, "sed -i 's/checkpoint: fast/checkpoint: spread/' /etc/patroni/config.yml",
				[]string{"drift", "write /etc/patroni/config.yml and reload Patroni (reload)"},
				"grep -q 'checkpoint: fast' /etc/patroni/config.yml && test $(stat -c %a:%U:%G /etc/patroni/config.yml) = 640:root:postgres",
			},
			{
				"the mode of Patroni's file", other, "chmod 644 /etc/patroni/config.yml",
				[]string{"drift", "write /etc/patroni/config.yml"},
				"test $(stat -c %a:%U:%G /etc/patroni/config.yml) = 640:root:postgres",
			},
			{
				"a unit's addition", one, "rm /etc/systemd/system/patroni.service.d/pgha.conf",
				[]string{"drift", "write /etc/systemd/system/patroni.service.d/pgha.conf"},
				"systemctl show -p TimeoutStopUSec patroni | grep -q 15min && ! systemctl show -p NeedDaemonReload patroni | grep -q yes",
			},
		}},
		{"what the host has", []change{
			{
				"a stopped Patroni", one, "systemctl disable --now patroni 2>/dev/null",
				[]string{"drift", "start Patroni on the database that is there", "make patroni.service start at boot"},
				"systemctl is-active -q patroni && systemctl is-enabled -q patroni",
			},
			{
				"a guard that a killed run left behind", one, "printf '#!/bin/sh\\n# pgha: keeps dpkg from starting or restarting services while packages are installed\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d",
				[]string{"drift", "/usr/sbin/policy-rc.d"},
				"test ! -e /usr/sbin/policy-rc.d",
			},
			{
				"a certificate", other, "rm /etc/pgha/patroni/main/node.crt",
				[]string{"drift", "issue /etc/pgha/patroni/main/node.crt (there is no certificate)"},
				"openssl verify -CAfile /etc/pgha/patroni/main/ca.crt /etc/pgha/patroni/main/node.crt >/dev/null",
			},
			{
				"the host's settings", other, "rm /etc/sysctl.d/90-pgha.conf; echo x >> /etc/security/limits.d/90-pgha.conf",
				[]string{"drift", "write /etc/sysctl.d/90-pgha.conf", "write /etc/security/limits.d/90-pgha.conf"},
				"test -s /etc/sysctl.d/90-pgha.conf && ! grep -q x$ /etc/security/limits.d/90-pgha.conf",
			},
		}},
		{"what etcd goes by", []change{
			{
				"etcd's settings", one, "sed -i 's/^ETCD_HEARTBEAT_INTERVAL=.*/ETCD_HEARTBEAT_INTERVAL=\"150\"/' /etc/pgha/etcd/dcs/etcd.env",
				[]string{"drift", "restart etcd.service, for its settings, while all others are well"},
				"grep -q 'ETCD_HEARTBEAT_INTERVAL=\"100\"' /etc/pgha/etcd/dcs/etcd.env && systemctl is-active -q etcd",
			},
			{
				"packages no longer held", other, "apt-mark unhold patroni etcd-server >/dev/null",
				[]string{"drift", "hold patroni", "hold etcd-server"},
				"apt-mark showhold | grep -qx patroni && apt-mark showhold | grep -qx etcd-server",
			},
			{
				"a removed package", other, "dpkg --remove --force-depends etcd-client >/dev/null 2>&1",
				[]string{"drift", "install etcd-client=" + s.oldest("etcd-client")},
				"dpkg -s etcd-client | grep -q 'Status: hold ok installed' && etcdctl version | grep -qF " + s.oldest("etcd-client"),
			},
		}},
		{"what runs", []change{
			{
				"a stopped etcd", one, "systemctl stop etcd",
				[]string{"drift", one + ": start etcd.service"},
				"systemctl is-active -q etcd",
			},
		}},
	} {
		ok := t.Run(round.name, func(t *testing.T) {
			for _, c := range round.changes {
				s.on(c.host, c.break_)
			}
			o := s.Plan(ctx)
			if o.Code != 2 {
				t.Fatalf("the plan shows nothing:\n%s", o.Text)
			}
			if strings.Contains(o.Text, "must be replaced") || strings.Contains(o.Text, "will be destroyed") {
				t.Fatalf("the plan destroys something:\n%s", o.Text)
			}
			for _, c := range round.changes {
				t.Run(c.name, func(t *testing.T) { has(t, o, c.shown...) })
			}
			s.Apply(ctx)
			for _, c := range round.changes {
				t.Run(c.name+", repaired", func(t *testing.T) {
					if out, err := s.lab.SSH(ctx, c.host, c.whole); err != nil {
						t.Errorf("it is not: %v\n%s", err, out)
					}
				})
			}
			s.NoChanges(ctx)
			s.healthy("pg1", "pg1", "pg2", "pg3")
		})
		if !ok {
			return
		}
	}
}

// foreign: keys and slots that others made in the dynamic configuration are
// left alone by applies that change ours.
func (s *site) foreign(t *testing.T) {
	ctx := t.Context()
	s.on("pg1", "patronictl -c /etc/patroni/config.yml edit-config --force -s failsafe_mode=true -s slots.theirs.type=physical -p log_min_duration_statement=5s >/dev/null")
	s.NoChanges(ctx)
	s.on("pg1", "patronictl -c /etc/patroni/config.yml edit-config --force -s ttl=45 >/dev/null")
	s.Apply(ctx)
	got := s.on("pg1", "patronictl -c /etc/patroni/config.yml show-config")
	for _, want := range []string{"failsafe_mode: true", "theirs:", "log_min_duration_statement: 5s", "ttl: 30"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is gone:\n%s", want, got)
		}
	}
	s.on("pg1", "patronictl -c /etc/patroni/config.yml edit-config --force -s failsafe_mode=null -s slots=null -p log_min_duration_statement=null >/dev/null")
}
