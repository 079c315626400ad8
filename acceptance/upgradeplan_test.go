package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/provider/invoke"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// invoke runs an action on the lab's hosts. It returns what was told on the way, and
// the errors.
func (s *site) invoke(name string, config map[string]any) (progress, failed string) {
	s.t.Helper()
	var membership any
	s.Outputs(s.t.Context(), "membership", &membership)
	config["cluster"] = membership
	begin := time.Now()
	ssh := map[string]any{"user": "root", "private_key_file": s.lab.KeyFile, "known_hosts_file": s.lab.KnownHostsFile}
	if err := invoke.Action(s.t.Context(), map[string]any{"ssh": ssh}, name, config, func(line string) { progress += line + "\n" }); err != nil {
		failed = err.Error()
	}
	s.t.Logf("%s took %s:\n%s%s", name, time.Since(begin).Round(100*time.Millisecond), progress, failed)
	return progress, failed
}

// What pgha_upgrade_plan says of a cluster is what the apply then does: the same nodes
// in the same order, as many switchovers, the same one leading. Then the actions, on
// the real Patroni.
func TestUpgradePlan(t *testing.T) {
	turn(t)
	all := []string{"pg1", "pg2", "pg3"}
	file := filepath.Join(t.TempDir(), "progress")
	base := settings{Purge: true, Provider: fmt.Sprintf("progress_file = %q", file)}
	s := newSite(t, labhost.Warm, base, all...)
	ctx := t.Context()
	s.Apply(ctx)
	s.healthy("pg1", all...)
	u := &staged{site: s, base: base, all: all}
	before := s.leader("pg1")
	to := s.newest("postgresql-17")
	s.Write("plan.tf", fmt.Sprintf(`
data "pgha_upgrade_plan" "main" {
  cluster  = pgha_patroni_cluster.main.membership
  versions = { postgresql = %q }
}
output "plan" { value = data.pgha_upgrade_plan.main.json }
output "ready" { value = data.pgha_upgrade_plan.main.ready }
output "table" { value = data.pgha_upgrade_plan.main.table }
output "membership" { value = pgha_patroni_cluster.main.membership }
`, to))
	s.Apply(ctx)
	var text, table string
	var ready bool
	s.Outputs(ctx, "plan", &text)
	s.Outputs(ctx, "table", &table)
	s.Outputs(ctx, "ready", &ready)
	t.Logf("%s", table)
	var plan struct {
		Leader      string
		NextLeader  string `json:"next_leader"`
		Switchovers int
		WriteGaps   int `json:"write_gaps"`
		Problems    []string
		Turns       []struct{ Node string }
		Steps       []struct{ ID, Host string }
	}
	if err := json.Unmarshal([]byte(text), &plan); err != nil {
		t.Fatal(err)
	}
	if !ready || len(plan.Problems) > 0 || plan.Leader != before || plan.Switchovers != 1 || plan.WriteGaps != 1 || len(plan.Turns) != 3 {
		t.Fatalf("ready %t: %+v", ready, plan)
	}

	// inTurn leaves out what is done on all hosts at once before the first turn.
	inTurn := func(step string) bool { return step != "patroni.stage" && step != "patroni.scratch" }
	// steps are those that were really begun since, in turns.
	seen := 0
	steps := func(resource string) (list []string) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b[seen:]) {
			var l struct{ Resource, Step, Host, State string }
			if err := json.Unmarshal(line, &l); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(l.Resource, resource) && l.State == "started" && inTurn(l.Step) {
				list = append(list, l.Step+"@"+l.Host)
			}
		}
		seen = len(b)
		return list
	}
	steps("")
	switched := u.switchovers()
	base.Postgres = to
	s.Write("plan.tf", "output \"membership\" { value = pgha_patroni_cluster.main.membership }\n")
	s.configure(base)
	s.Apply(ctx)
	var want []string
	for _, step := range plan.Steps {
		if inTurn(step.ID) {
			want = append(want, step.ID+"@"+step.Host)
		}
	}
	if did := steps("pgha_patroni_node"); !slices.Equal(did, want) {
		t.Errorf("the apply did\n%v,\nand the plan was\n%v", did, want)
	}
	if n := u.switchovers() - switched; n != plan.Switchovers || s.leader("pg1") != plan.NextLeader {
		t.Errorf("%d switchovers, and %s leads; the plan says %d and %s", n, s.leader("pg1"), plan.Switchovers, plan.NextLeader)
	}
	s.healthy("pg1", all...)

	lead := s.leader("pg1")
	replicas := s.others(lead)
	if _, failed := s.invoke("pgha_switchover", map[string]any{"candidate": replicas[1]}); failed != "" || s.leader("pg1") != replicas[1] {
		t.Errorf("%s leads, and not %s", s.leader("pg1"), replicas[1])
	}
	if m := s.members("pg1")[lead]; m.State != "streaming" {
		t.Errorf("the switchover is over while %s is %s", lead, m.State)
	}
	if _, failed := s.invoke("pgha_reinitialize", map[string]any{"node": replicas[1]}); !strings.Contains(failed, replicas[1]+" leads") {
		t.Errorf("the leader is not refused: %s", failed)
	}
	s.on(lead, "touch /var/lib/postgresql/17/main/not-cloned")
	if _, failed := s.invoke("pgha_reinitialize", map[string]any{"node": lead}); failed != "" {
		t.Error("the replica was not cloned again")
	}
	if m := s.members("pg1")[lead]; m.State != "streaming" {
		t.Errorf("the clone is over while %s is %s", lead, m.State)
	}
	if out := s.on(lead, "ls /var/lib/postgresql/17/main"); strings.Contains(out, "not-cloned") {
		t.Errorf("the data of %s is the old one: %s", lead, out)
	}
	started := map[string]string{}
	for _, h := range all {
		started[h] = s.sql(h, "select pg_postmaster_start_time()")
	}
	lead = s.leader("pg1")
	progress, failed := s.invoke("pgha_restart", map[string]any{})
	if want := "restarted: " + strings.Join(append(s.others(lead), lead), ", "); failed != "" || !strings.Contains(progress, want) {
		t.Errorf("not %s", want)
	}
	for _, h := range all {
		if s.sql(h, "select pg_postmaster_start_time()") == started[h] {
			t.Errorf("%s was not restarted", h)
		}
	}
	if s.leader("pg1") == lead {
		t.Errorf("%s leads still", lead)
	}
	s.healthy("pg1", all...)
	s.NoChanges(ctx)
}
