package provider_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost/simpatroni"
)

// The leader's role moves to whom it is asked for, once; or nothing is asked for, and
// it is said why.
func TestSwitchoverAction(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		config := func(candidate string) object {
			o := object{"cluster": s.cluster.get("membership")}
			if candidate != "" {
				o["candidate"] = candidate
			}
			return o
		}
		promotions := func() (n int) {
			s.f.Do(func() { n = len(s.f.Patroni.Promotions) })
			return n
		}
		before := s.f.Primary()
		others := slices.DeleteFunc([]string{"pg1", "pg2", "pg3"}, func(n string) bool { return n == before })
		was := promotions()

		progress, failed := s.core.invoke("pgha_switchover", config(others[1]))
		if failed != "" || s.f.Primary() != others[1] || !strings.Contains(progress, others[1]+" leads, and "+before+" follows") {
			t.Fatalf("%s leads: %s%s", s.f.Primary(), failed, progress)
		}
		if n := promotions() - was; n != 1 {
			t.Errorf("%d promotions", n)
		}
		s.f.Settle()
		// Said again, it is done already.
		if progress, failed := s.core.invoke("pgha_switchover", config(others[1])); failed != "" || !strings.Contains(progress, "leads already") || promotions()-was != 1 {
			t.Errorf("%s%s", failed, progress)
		}
		// Without a candidate somebody else leads.
		if _, failed := s.core.invoke("pgha_switchover", config("")); failed != "" || s.f.Primary() == others[1] {
			t.Errorf("%s leads: %s", s.f.Primary(), failed)
		}
		s.f.Settle()
		was, before = promotions(), s.f.Primary()

		refused := func(candidate string, says ...string) {
			t.Helper()
			_, failed := s.core.invoke("pgha_switchover", config(candidate))
			for _, text := range says {
				if !strings.Contains(failed, text) {
					t.Errorf("it is not refused with %q: %s", text, failed)
				}
			}
			if s.f.Primary() != before || promotions() != was {
				t.Errorf("%s leads, after %d promotions", s.f.Primary(), promotions()-was)
			}
		}
		refused("pg9", `no node "pg9"`, "pg1, pg2, pg3")
		// An answer that is lost is no reason to ask again, and who leads is looked up.
		asked := 0
		outcome := func(o simpatroni.Outcome) {
			s.f.Do(func() {
				s.f.Patroni.Switchover = func(string, string) simpatroni.Outcome { asked++; return o }
			})
		}
		outcome(simpatroni.Outcome{Refuse: "no good candidates have been found"})
		refused("", "no good candidates have been found")
		others = slices.DeleteFunc([]string{"pg1", "pg2", "pg3"}, func(n string) bool { return n == before })
		outcome(simpatroni.Outcome{Silent: true})
		if _, failed := s.core.invoke("pgha_switchover", config(others[0])); failed != "" || s.f.Primary() != others[0] {
			t.Errorf("%s leads: %s", s.f.Primary(), failed)
		}
		s.f.Settle()
		outcome(simpatroni.Outcome{To: before})
		if _, failed := s.core.invoke("pgha_switchover", config(others[1])); !strings.Contains(failed, before+" leads now, and "+others[1]+" was to") || s.f.Primary() != before {
			t.Errorf("%s leads: %s", s.f.Primary(), failed)
		}
		if asked != 3 || promotions()-was != 2 {
			t.Errorf("asked %d times, %d promotions", asked, promotions()-was)
		}
		s.f.Settle()
		was = promotions()
		away := s.f.Machines()[0]
		if away.Name == before {
			away = s.f.Machines()[1]
		}
		s.f.Do(away.PowerOff)
		refused("", away.Name+" is not answering", "run the same again") // etcd shows it as well
		time.Sleep(time.Minute)                                          // its key has run out
		refused("", away.Name+" is down", "run the same again")
	})
}

// changed is a configuration with one thing changed.
func changed(o object, name string, v any) object {
	c := object{name: v}
	for k, old := range o {
		if k != name {
			c[k] = old
		}
	}
	return c
}

// All nodes are restarted, one at a time, the leader last and after it has handed
// over; one alone, if it is named.
func TestRestartAction(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		before := s.f.Primary()
		others := slices.DeleteFunc([]string{"pg1", "pg2", "pg3"}, func(n string) bool { return n == before })
		var started []string
		s.f.OnUnit(func(verb string, u *fakehost.Unit) {
			if verb == "stop" && u.Name == "patroni.service" {
				started = append(started, u.Machine.Name)
				if s.f.Patroni.Node(u.Machine).Primary() {
					t.Errorf("%s is restarted while it leads", u.Machine.Name)
				}
			}
		})
		progress, failed := s.core.invoke("pgha_restart", object{"cluster": s.cluster.get("membership")})
		want := append(slices.Clone(others), before)
		if failed != "" || !slices.Equal(started, want) || !strings.Contains(progress, "restarted: "+strings.Join(want, ", ")) {
			t.Fatalf("%v were restarted, and not %v: %s%s", started, want, failed, progress)
		}
		if s.f.Primary() == before {
			t.Error("the leader has not handed over")
		}
		s.f.WaitHealthy(2)
		s.f.Settle()
		started = nil
		if _, failed := s.core.invoke("pgha_restart", object{"cluster": s.cluster.get("membership"), "node": before}); failed != "" || !slices.Equal(started, []string{before}) {
			t.Errorf("%v were restarted: %s", started, failed)
		}
		s.f.WaitHealthy(2)
		s.f.Settle()
		for i, r := range s.nodes {
			r.unchanged(s.node(i))
		}
	})
}

// A replica is cloned again; the leader is not, nor the last replica that could be
// synchronous.
func TestReinitializeAction(t *testing.T) {
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		lead := s.f.Primary()
		others := slices.DeleteFunc([]string{"pg1", "pg2", "pg3"}, func(n string) bool { return n == lead })
		told := func() (list []string) {
			s.f.Do(func() { list = slices.Clone(s.f.Patroni.Reinitialized) })
			return list
		}
		config := func(node string) object { return object{"cluster": s.cluster.get("membership"), "node": node} }
		progress, failed := s.core.invoke("pgha_reinitialize", config(others[0]))
		if failed != "" || !slices.Equal(told(), others[:1]) || !strings.Contains(progress, others[0]+" streams") {
			t.Fatalf("%v: %s%s", told(), failed, progress)
		}
		s.f.Do(func() {
			if !s.f.Patroni.Healthy("main", 2) {
				t.Errorf("it is over before the replica streams:\n%s", s.f.Patroni.Describe())
			}
		})
		if _, failed := s.core.invoke("pgha_reinitialize", config(lead)); !strings.Contains(failed, lead+" leads: its data is the cluster's") {
			t.Errorf("the leader: %s", failed)
		}
		s.must(s.cluster.apply(changed(s.patroni(), "synchronous_mode", "on")))
		for _, m := range s.f.Machines() {
			if m.Name == others[1] {
				s.f.Do(m.PowerOff)
			}
		}
		s.f.Settle()
		if _, failed := s.core.invoke("pgha_reinitialize", config(others[0])); !strings.Contains(failed, "no replica of main is well that could be synchronous") {
			t.Errorf("the last replica: %s", failed)
		}
		if n := len(told()); n != 1 {
			t.Errorf("%d clones", n)
		}
	})
}
