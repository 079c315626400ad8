package main

import (
	"context"
	"errors"
	"fmt"
)

// fleetModule is a pgha_host for each of the addresses, as main.tf.json. Each has
// a block of its own: with a single one and for_each, what Terraform itself takes
// grows with the square of their number.
func fleetModule(addresses []string) map[string]any {
	hosts := map[string]any{}
	for i, ip := range addresses {
		name := fmt.Sprintf("host%d", i+1)
		hosts[name] = map[string]string{"name": name, "address": ip}
	}
	return map[string]any{
		"terraform": map[string]any{"required_providers": map[string]any{"pgha": map[string]string{"source": "pgha/pgha"}}},
		"resource":  map[string]any{"pgha_host": hosts},
	}
}

// refresh measures "terraform plan -refresh-only" of so many pgha_host, each on a
// simulated host, and the most memory that the provider took for it.
//
// The real CLI runs, as for users: it starts the provider, asks for ten hosts
// at a time, and its own time counts. The simulated hosts are in another process
// and what the CLI takes is not the provider's, so the memory measured is that
// of the provider alone. The state comes from an apply, which is not measured.
func refresh(hosts int) func(context.Context, *suite, int) ([]Result, error) {
	return func(ctx context.Context, s *suite, runs int) (_ []Result, err error) {
		name := fmt.Sprintf("refresh_%d", hosts)
		f, err := s.newFleet(ctx, hosts)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, f.close()) }()
		m, err := s.newModule(f.env()...)
		if err != nil {
			return nil, err
		}
		if err := m.writeJSON("main.tf.json", fleetModule(f.Addresses)); err != nil {
			return nil, err
		}
		took, _, err := m.run(ctx, apply...)
		if err != nil {
			return nil, err
		}
		s.logf("%s: the hosts were prepared in %.1f s", name, took.Seconds())

		var times, memory samples
		for i := range runs {
			before, err := f.seen()
			if err != nil {
				return nil, err
			}
			peak := watchPeak(ctx, s.provider)
			took, err := m.plan(ctx, "-refresh-only")
			rss, peakErr := peak()
			after, seenErr := f.seen()
			if err := errors.Join(err, peakErr, seenErr); err != nil {
				return nil, err
			}
			// Otherwise it would be something else that was measured.
			connections, sessions := after.Connections-before.Connections, after.Sessions-before.Sessions
			if connections != hosts || sessions != hosts {
				return nil, fmt.Errorf("refreshing %d hosts took %d connections and %d sessions, not one of each per host", hosts, connections, sessions)
			}
			times, memory = append(times, took.Seconds()), append(memory, float64(rss)/1e6)
			s.logf("%s %d/%d: %.2f s, %.1f MB", name, i+1, runs, took.Seconds(), float64(rss)/1e6)
		}
		return grown(hosts, times.result(name, "s"), memory.most(name+"_rss", "MB")), nil
	}
}

// grown compares with the fleet of a tenth of the size: neither time nor memory
// may have grown more than tenfold.
func grown(hosts int, took, rss Result) []Result {
	if hosts > 10 {
		smaller := fmt.Sprintf("refresh_%d", hosts/10)
		took, rss = took.to(smaller, 10), rss.to(smaller+"_rss", 10)
	}
	if hosts == 1000 {
		rss = rss.atMost(150)
	}
	return []Result{took, rss}
}
