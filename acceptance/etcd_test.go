package acceptance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// Five members in two datacenters: the timing follows the distance.
func TestEtcdAcrossDatacenters(t *testing.T) {
	turn(t)
	cli.Binary(t)
	lab := labtest.New(t, labhost.Options{Image: labhost.Warm, Datacenters: []labhost.Datacenter{
		{Name: "dc1", Hosts: []string{"e1", "e2", "e3"}}, {Name: "dc2", Hosts: []string{"e4", "e5"}},
	}})
	ctx := t.Context()
	if err := lab.Latency(ctx, "dc2", 60*time.Millisecond, 0); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, lab: lab, Dir: cli.New(t, nil, lab.Env()...)}
	var members strings.Builder
	for _, h := range lab.Hosts() {
		fmt.Fprintf(&members, "    %s = { host = { name = %q, address = %q, port = null, user = null, host_key = null, bastions = null } }\n", h.Name, h.Name, h.Addr)
	}
	configure := func(more string) {
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
output "timing" {
  value = [pgha_etcd_cluster.dcs.heartbeat_interval, pgha_etcd_cluster.dcs.election_timeout]
}
`, s.oldest("etcd-server"), members.String(), more))
	}
	configure("")
	s.Apply(ctx)
	s.NoChanges(ctx)
	var timing []string
	s.Outputs(ctx, "timing", &timing)
	heartbeat, err1 := time.ParseDuration(timing[0])
	election, err2 := time.ParseDuration(timing[1])
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	// A round trip is 120 ms: a heartbeat of about one and a half, and an
	// election timeout of at least ten.
	if heartbeat < 120*time.Millisecond || heartbeat > 400*time.Millisecond || election < 1200*time.Millisecond {
		t.Errorf("heartbeat %s and election timeout %s for a round trip of 120ms", heartbeat, election)
	}
	for _, h := range lab.Hosts() {
		s.on(h.Name, fmt.Sprintf("grep -q 'ETCD_ELECTION_TIMEOUT=\"%d\"' /etc/pgha/etcd/dcs/etcd.env && systemctl is-active -q etcd", election.Milliseconds()))
	}
	list := s.on("e1", `. /dev/stdin <<'END'
pass=$(sed 's/.*"pgha":"\([^"]*\)".*/\1/' /etc/pgha/etcd/dcs/credentials.json)
END
ETCDCTL_USER=pgha:$pass etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/pgha/etcd/dcs/ca.crt --cert /etc/pgha/etcd/dcs/server.crt --key /etc/pgha/etcd/dcs/server.key member list`)
	if got := strings.Count(list, "started"); got != 5 {
		t.Errorf("%d of 5 members are started:\n%s", got, list)
	}
	s.checkEtcdStatus(ctx)
	configure(`heartbeat_interval = "100ms"` + "\n  " + `election_timeout = "1s"`)
	has(t, s.Plan(ctx), "The election timeout of etcd cluster dcs is short for its members' distance", "less than ten round trips", "restart etcd.service, for its settings, while all others are well; it leads, and hands that over first")
	configure("")
	s.Destroy(ctx)
	for _, h := range lab.Hosts() {
		s.on(h.Name, "test ! -e /etc/pgha && test ! -e /var/lib/etcd/dcs && ! systemctl is-active -q etcd")
	}
}
