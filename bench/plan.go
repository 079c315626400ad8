package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// planNoop measures a plan without changes for the cluster of
// examples/quickstart, beside the least that any tool can do that looks at three
// hosts: ssh HOST true, on all of them at once.
func planNoop(ctx context.Context, s *suite, runs int) ([]Result, error) {
	var plans, trues, connections, sessions samples
	err := s.onHosts(ctx, labhost.Warm, func(ctx context.Context, lab *labhost.Lab) error {
		m, err := s.quickstart(lab)
		if err != nil {
			return err
		}
		s.logf("plan_noop_3_nodes: building the cluster")
		if _, _, err := m.run(ctx, apply...); err != nil {
			return err
		}
		// In turns, so that both see the same machine.
		for i := range runs {
			plan, err := m.plan(ctx)
			if err != nil {
				return err
			}
			nothing, err := sshTrue(ctx, lab)
			if err != nil {
				return err
			}
			plans, trues = append(plans, plan.Seconds()), append(trues, nothing.Seconds())
			s.logf("plan_noop_3_nodes %d/%d: %.2f s, ssh HOST true %.2f s", i+1, runs, plan.Seconds(), nothing.Seconds())
		}
		counts, err := countSessions(ctx, lab, func() error {
			_, err := m.plan(ctx)
			return err
		})
		for _, c := range counts {
			s.logf("plan_noop_3_nodes: %s saw %d connections, %d sessions, %d tunnels", c.host, c.connections, c.sessions, c.tunnels)
			connections, sessions = append(connections, float64(c.connections)), append(sessions, float64(c.sessions))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return []Result{
		plans.result("plan_noop_3_nodes", "s").to("ssh_true_3_nodes", 0).atMost(3),
		trues.result("ssh_true_3_nodes", "s"),
		// Of these, a sample is a host, not a run: one plan is as the next.
		connections.most("plan_noop_connections_per_host", "connections").atMost(1),
		sessions.most("plan_noop_sessions_per_host", "sessions").atMost(1),
	}, nil
}

// sshTrue runs a command that does nothing on all hosts at once, each over a
// connection of its own.
func sshTrue(ctx context.Context, lab *labhost.Lab) (time.Duration, error) {
	begin := time.Now()
	var g errgroup.Group
	for _, h := range lab.Hosts() {
		g.Go(func() error {
			_, _, err := timed(exec.CommandContext(ctx, "ssh", "-F", lab.SSHConfigFile, "-o", "BatchMode=yes", h.Name, "true"))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, fmt.Errorf("ssh HOST true: %w", err)
	}
	return time.Since(begin), nil
}
