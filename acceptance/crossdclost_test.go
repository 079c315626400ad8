package acceptance

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
)

// lostSite loses the datacenter that takes writes, gives it up, and takes it in again.
func (s *crossSite) lostSite(t *testing.T) {
	ctx := t.Context()
	hosts := s.etcd["dc1"]
	w := s.writes()
	s.eventually("rows that are lost, or not", time.Minute, func(context.Context) (bool, string) { return w.Acked() >= 100, fmt.Sprint(w.Acked()) })
	if err := s.lab.Kill(ctx, hosts...); err != nil {
		t.Fatal(err)
	}
	o := s.TryApply(ctx, s.only("dc2")...)
	if o.Code == 0 {
		t.Fatal("a planned move went on without the primary's datacenter")
	}
	has(t, o, "set failover = \"forced\"")
	s.more = `failover = "forced"`
	s.configure()
	o = s.TryApply(ctx, s.only("dc2")...)
	if o.Code == 0 {
		t.Fatal("a datacenter was given up without anybody having accepted that")
	}
	has(t, o, "what site dc1 has and site dc2 does not is lost by this", "its last commit is")
	s.runbook("refused", o, "Error: Unable to update")
	_, token, found := strings.Cut(o.Text, "accept_data_loss = \"")
	token, _, _ = strings.Cut(token, "\"")
	if !found || !strings.HasPrefix(token, "dc1@") {
		t.Fatalf("the refusal does not say what to accept:\n%s", o.Text)
	}
	s.more = `failover = "forced"
  accept_data_loss = "` + token + `"`
	s.primary = "dc2"
	s.configure()
	plan := s.Plan(ctx)
	has(t, plan, "Applying this gives site dc1 up", "A node that cannot be reached may go on taking writes")
	s.runbook("forced", plan, "Warning: Applying this gives")
	s.killedAt(ctx, "crossdc.note", s.only("dc2")...)
	has(t, s.Plan(ctx), "A forced move of the primary to site dc2 was cut off")
	s.unlocked(ctx)
	var addresses []string
	for _, h := range s.nodes["dc2"] {
		addresses = append(addresses, s.lab.Host(h).Addr)
	}
	lost, acked := w.Lost(t)
	t.Logf("%d of %d acknowledged rows were lost with dc1", lost, acked)
	if lost > 150 { // three seconds of them: the sites are 30 ms apart
		t.Errorf("%d rows of %d are lost", lost, acked)
	}
	if got := s.sql(s.leaderOf("dc2"), "select pg_is_in_recovery()"); got != "f" {
		t.Fatal("dc2 does not take writes")
	}
	c := w.Config()
	c.Hosts, c.Table = addresses, "afterwards"
	after := writer.Start(t, c)
	s.more = ""
	s.configure()
	// It comes back as it was: as a primary, since nobody could tell it.
	if err := s.lab.Start(ctx, hosts...); err != nil {
		t.Fatal(err)
	}
	s.leaderOf("dc1")
	s.eventually("dc1 to take writes again", 2*time.Minute, func(ctx context.Context) (bool, string) {
		out, _ := s.lab.SSH(ctx, s.leaderOf("dc1"), "cd /; runuser -u postgres -- psql -XAtqc 'select pg_is_in_recovery()'")
		return strings.TrimSpace(out) == "f", out
	})
	// More than maximum_lag_on_failover: whoever clones dc2 is far behind what etcd knows.
	s.sql(s.leaderOf("dc1"), "select count(pg_logical_emit_message(false, 'fork', repeat('x', 1000000))) from generate_series(1, 20)")
	plan = s.Plan(ctx)
	has(t, plan, "SPLIT BRAIN in the replication main", "site dc1 is back, which was given up", "diverged at")
	s.runbook("returned", plan, "Terraform will perform")
	r := s.begin(ctx, "apply", s.only("dc2")...)
	r.await(t, "crossdc.rewind") // in the middle of being cloned
	r.kill(syscall.SIGKILL)
	_, _ = r.end()
	s.unlocked(ctx)
	s.is(t, "dc2")
	s.NoChanges(ctx)
	s.moves(t, "dc1")
	s.is(t, "dc1")
	after.CheckAt(t, append(addresses, s.lab.Host("a1").Addr, s.lab.Host("a2").Addr, s.lab.Host("a3").Addr))
}
