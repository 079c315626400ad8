package labhost

import (
	"context"
	"fmt"
	"time"

	"github.com/pgha/terraform-provider-pgha/lab/internal/delay"
)

// Partition cuts hosts off from all other hosts, and datacenters from all
// other datacenters (not their hosts from each other). Connections that are
// open stay so and carry nothing, as when a cable is pulled. This machine
// still reaches them, so that a test can look at what happens there; but not
// a host behind a bastion, which is a host too.
func (l *Lab) Partition(ctx context.Context, targets ...string) error {
	return l.partition(ctx, false, targets)
}

// PartitionFromRunner is Partition, and cuts them off from this machine too.
func (l *Lab) PartitionFromRunner(ctx context.Context, targets ...string) error {
	return l.partition(ctx, true, targets)
}

func (l *Lab) partition(ctx context.Context, fromRunner bool, targets []string) error {
	return l.change(ctx, func(s *state) error {
		if _, err := s.targets(targets); err != nil {
			return err
		}
		if s.Cuts == nil {
			s.Cuts = map[string]cut{}
		}
		for _, t := range targets {
			s.Cuts[t] = cut{FromRunner: fromRunner}
		}
		return s.rules().Apply(ctx, l.Name)
	})
}

// Heal undoes Partition for hosts and datacenters; with none, for all.
func (l *Lab) Heal(ctx context.Context, targets ...string) error {
	return l.change(ctx, func(s *state) error {
		if _, err := s.targets(targets); err != nil {
			return err
		}
		if len(targets) == 0 {
			s.Cuts = nil
		}
		for _, t := range targets {
			delete(s.Cuts, t)
		}
		return s.rules().Apply(ctx, l.Name)
	})
}

// Latency moves a datacenter away from all others: every packet that leaves it
// for another, or enters it from another, takes that much longer, so that a
// round trip takes twice that. With jitter each packet's delay varies by up to
// that much either way; order is kept. Zero moves it back. Between two
// datacenters that were both moved, both delays add up.
func (l *Lab) Latency(ctx context.Context, datacenter string, d, jitter time.Duration) error {
	if d < 0 || jitter < 0 || jitter > d {
		return fmt.Errorf("a delay of %v with a jitter of %v is not possible: neither may be negative, nor the jitter greater than the delay", d, jitter)
	}
	return l.change(ctx, func(s *state) error {
		if s.number(datacenter) == 0 {
			return fmt.Errorf("lab %s has no datacenter %q: it has %v", l.Name, datacenter, s.Datacenters)
		}
		if s.Delays == nil {
			s.Delays = map[string]delay.Setting{}
		}
		s.Delays[datacenter] = delay.Setting{Delay: d, Jitter: jitter}
		if d == 0 {
			delete(s.Delays, datacenter)
		}
		return l.applyNetwork(ctx, s)
	})
}
