package acceptance

import (
	"context"
	"slices"
	"testing"
	"time"
)

// powerCut takes the power from the leader's host: another member takes over by
// itself, a plan says that the host is unreachable and removes nothing, and
// when the host is back it rejoins and the plan is empty.
func (s *site) powerCut(t *testing.T, base settings) {
	ctx := t.Context()
	before := s.Resources(ctx)
	dead := s.leader("pg1")
	alive := s.others(dead)
	if err := s.lab.Kill(ctx, dead); err != nil {
		t.Fatal(err)
	}
	s.eventually("another leader", 60*time.Second, func(ctx context.Context) (bool, string) {
		l := s.leader(alive[0])
		return l != "" && l != dead, "the leader is " + l
	})

	begin := time.Now()
	o := s.Plan(ctx)
	if o.Code != 1 {
		t.Errorf("a plan with a dead host ended with %d:\n%s", o.Code, o.Text)
	}
	has(t, o, "Unable to read host "+dead, "unreachable, which does not mean gone")
	if took := time.Since(begin); took > 60*time.Second {
		t.Errorf("the plan took %s", took)
	}
	if after := s.Resources(ctx); !slices.Equal(after, before) {
		t.Errorf("something was removed from the state: %v, before %v", after, before)
	}

	keep := base
	keep.Provider = `on_unreachable = "keep"`
	s.configure(keep)
	o = s.Plan(ctx)
	if o.Code != 0 {
		t.Errorf("with on_unreachable = keep the plan is not empty (%d):\n%s", o.Code, o.Text)
	}
	has(t, o, "Warning: Unable to read host "+dead)
	s.configure(base)

	if err := s.lab.Start(ctx, dead); err != nil {
		t.Fatal(err)
	}
	s.healthy(alive[0], "pg1", "pg2", "pg3")
	s.eventually("etcd to be up on "+dead, 90*time.Second, func(ctx context.Context) (bool, string) {
		out, err := s.lab.SSH(ctx, dead, "systemctl is-active etcd")
		return err == nil, out
	})
	s.NoChanges(ctx)
}
