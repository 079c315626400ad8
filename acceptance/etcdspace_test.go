package acceptance

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// An etcd cluster that is filled by history, and then by data, while a Patroni
// cluster is on it and rows are written: the plan says what is wrong, an apply
// mends it or says with numbers why it cannot, and nobody who writes rows notices.
func TestEtcdFull(t *testing.T) {
	turn(t)
	base := settings{
		Etcd:    `quota_backend_bytes = "16MiB"`,
		Cluster: "failsafe_mode = true\n  rest_api_allowlist = [\"10.0.0.0/8\"]", Purge: true,
	}
	s := newSite(t, labhost.Warm, base, "pg1", "pg2", "pg3")
	ctx := t.Context()
	all := []string{"pg1", "pg2", "pg3"}
	s.Apply(ctx)
	s.healthy("pg1", all...)
	w := s.write()
	k := sweeper(s, w, "etcd.defragment", "etcd.restart", "etcd.compact", "etcd.disarm")

	t.Run("a version that shuts Patroni out", func(t *testing.T) {
		c := base
		c.EtcdVersion = s.newest("etcd-server")
		s.configure(c)
		o := s.Plan(ctx)
		if o.Code != 1 {
			t.Errorf("it is planned: exit status %d", o.Code)
		}
		has(t, o, "etcd cluster dcs cannot be brought to version "+c.EtcdVersion, "main/pg1 runs 4.0.7", "bring Patroni to 4.1.1 or later on all of these nodes")
		s.configure(base)
	})

	// put writes values of so many bytes under keys of the provider's own prefix, the
	// same one again and again or one after the other, until etcd refuses.
	put := func(key string, bytes, count int) string {
		t.Helper()
		return s.on("pg1", `dir=/etc/pgha/etcd/dcs; export ETCDCTL_API=3 ETCDCTL_USER="pgha:$(sed 's/.*"pgha":"\([^"]*\)".*/\1/' $dir/credentials.json)"
export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379 ETCDCTL_CACERT=$dir/ca.crt ETCDCTL_CERT=$dir/server.crt ETCDCTL_KEY=$dir/server.key
n=0; while [ $n -lt `+strconv.Itoa(count)+` ]; do n=$((n + 1)); head -c `+strconv.Itoa(bytes)+` /dev/zero | tr '\0' x | etcdctl put "/pgha/test/`+key+`" >/tmp/said 2>&1 || break; done; cat /tmp/said; echo "after $n"`)
	}
	fill := func(key string, bytes int) {
		t.Helper()
		out := put(key, bytes, 99)
		if !strings.Contains(out, "database space exceeded") {
			t.Fatalf("etcd is not full: %s", out)
		}
		t.Logf("full of %s: %s", key, out[strings.LastIndex(out, "after"):])
	}
	noAlarm := func() {
		t.Helper()
		if out := s.etcdctl("pg1", "alarm list"); out != "" {
			t.Errorf("alarms: %s", out)
		}
	}
	sizes := func() string { return s.etcdctl("pg1", "endpoint status --cluster -w table") }

	t.Run("of history", func(t *testing.T) {
		fill("same", 700000)
		// Longer than ttl: whatever Patroni does without writes to etcd, it has done.
		s.eventually("Patroni to go on for longer than its ttl", time.Minute, func() func(context.Context) (bool, string) {
			end := time.Now().Add(40 * time.Second)
			return func(context.Context) (bool, string) { return time.Now().After(end), "" }
		}())
		t.Logf("Patroni while etcd is full:\n%s\n%s", s.on("pg1", "patronictl -c /etc/patroni/config.yml list"), s.on(s.leader("pg1"), "journalctl -o cat -u patroni | tail -n 12"))
		t.Logf("%d of the writes have failed", w.Failed())
		st := s.etcdStatus(ctx)
		if st.Healthy || len(st.Warnings) == 0 || !strings.Contains(st.Warnings[0], "accepts no writes: alarm NOSPACE of ") {
			t.Errorf("the data source: %+v", st.Warnings)
		}
		has(t, s.Plan(ctx), "the cluster accepts no writes: alarm NOSPACE of", "affects running members of etcd cluster dcs", "defragment pg1, pg2, pg3, one at a time, the leader last", "disarm the alarm NOSPACE")
		begin := time.Now()
		k.few("in etcd.defragment", "etcd.defragment", "etcd.disarm")
		k.sweep(t, "apply", alone(true)...)
		t.Logf("mended in %s\n%s", time.Since(begin).Round(time.Millisecond), sizes())
		k.went(t, "in etcd.defragment", "etcd.defragment", "etcd.disarm")
		noAlarm()
		s.Write("status.tf", "")
		s.Apply(ctx)
		s.NoChanges(ctx)
		s.healthy("pg1", all...)
	})

	t.Run("of data", func(t *testing.T) {
		// The alarm comes before all of the database is in use. Until it is, the rest
		// is given back, and filled with smaller values.
		for n, bytes := range []int{700000, 100000, 100000, 50000, 50000, 50000} {
			if n > 0 {
				for _, name := range all { // each by itself: a login at one may not have come to the others yet
					s.etcdctl(name, "defrag")
				}
				s.etcdctl("pg1", "alarm disarm")
			}
			fill(fmt.Sprintf("%d/$n", n), bytes)
			used, err := strconv.Atoi(s.etcdctl("pg1", `endpoint status -w json | sed 's/.*"dbSizeInUse":\([0-9]*\).*/\1/'`))
			t.Logf("%d bytes are in use", used)
			if err != nil || used > 15<<20 {
				break
			}
		}
		o := s.TryApply(ctx)
		if o.Code == 0 {
			t.Error("the apply succeeds although all of it is in use")
		}
		has(t, o, "Unable to update etcd cluster dcs", "the quota is to be 16.0 MiB, and", "set quota_backend_bytes to", "The alarm is still raised")
		_, said, _ := strings.Cut(o.Text, "Error:")
		t.Logf("%s", said)

		// A member that does not start: nothing is done to the others.
		follower := s.etcdFollower()
		s.on(follower, "chmod 600 /etc/pgha/etcd/dcs/server.key; systemctl kill -s KILL etcd")
		raised := base
		raised.Etcd = `quota_backend_bytes = "64MiB"`
		s.configure(raised)
		o = s.TryApply(ctx)
		if o.Code == 0 {
			t.Error("the apply succeeds although a member does not start")
		}
		has(t, o, follower, "permission denied")
		s.on(follower, "chmod 640 /etc/pgha/etcd/dcs/server.key; systemctl reset-failed etcd; systemctl restart etcd")

		has(t, s.Plan(ctx), "restart etcd.service, for its settings")
		k.few("in etcd.restart", "etcd.restart")
		k.sweep(t, "apply", alone(false)...)
		s.Apply(ctx)
		k.went(t, "in etcd.restart", "etcd.restart")
		noAlarm()
		s.NoChanges(ctx)
		s.healthy("pg1", all...)

		// And back: it does not fit.
		s.configure(base)
		o = s.Plan(ctx)
		if o.Code != 1 {
			t.Errorf("a quota that the data does not fit into is planned: exit status %d", o.Code)
		}
		has(t, o, "The data of etcd cluster dcs does not fit into the quota", "the quota is to be 16.0 MiB, and", "MiB of the database of")
	})

	t.Run("what is wasted", func(t *testing.T) {
		put("bulk$n", 700000, 30)
		s.etcdctl("pg1", "del --prefix /pgha/test/")
		wasteful := base
		wasteful.Etcd = `quota_backend_bytes = "64MiB"` + "\n  defragment_above = \"16MiB\""
		s.compact()
		s.configure(wasteful)
		s.eventually("the members to have dropped the keys", 30*time.Second, func(ctx context.Context) (bool, string) {
			o := s.Plan(ctx)
			return strings.Contains(o.Text, "defragment pg1, pg2, pg3"), o.Text
		})
		before := sizes()
		k.few("in etcd.defragment", "etcd.defragment")
		k.sweep(t, "apply", alone(false)...)
		s.Apply(ctx)
		t.Logf("before:\n%s\nafter:\n%s", before, sizes())
		s.NoChanges(ctx)
		// Now the smaller quota is fine.
		s.configure(base)
		s.Apply(ctx)
		s.NoChanges(ctx)
		noAlarm()
		s.healthy("pg1", all...)
	})

	if n := w.Failed(); n > 0 {
		t.Errorf("%d writes failed", n)
	}
	w.Check(t)
	s.Destroy(ctx)
}

// etcdLeads reports whether a host's member of etcd leads.
func (s *site) etcdLeads(host string) bool {
	s.t.Helper()
	return s.etcdctl(host, `endpoint status -w json | sed 's/.*"member_id":\([0-9]*\).*"leader":\([0-9]*\).*/\1 \2/' | awk '{ print ($1 == $2) ? "leads" : "follows" }'`) == "leads"
}

// etcdFollower is a host whose member of etcd does not lead.
func (s *site) etcdFollower() string {
	s.t.Helper()
	for _, h := range s.lab.Hosts() {
		if !s.etcdLeads(h.Name) {
			return h.Name
		}
	}
	s.t.Fatal("no member of etcd follows")
	return ""
}

// compact drops etcd's history up to now, as an operator does.
func (s *site) compact() {
	s.t.Helper()
	out := s.etcdctl("pg1", `endpoint status -w json | sed 's/.*"revision":\([0-9]*\).*/\1/'`)
	s.etcdctl("pg1", fmt.Sprintf("compact --physical %s", out))
}
