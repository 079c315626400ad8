package labhost

import (
	"context"
	"fmt"
)

// Quota gives each of the hosts, each given by its name, or all of a datacenter by its, no
// more time than a share of one of this machine's processors, as long as it is on. So how
// fast a host is does not depend on how many others there are, if this machine has enough
// for all.
func (l *Lab) Quota(ctx context.Context, share float64, targets ...string) error {
	return l.change(ctx, func(s *state) error {
		hosts, err := s.targets(targets)
		if err != nil {
			return err
		}
		for _, h := range hosts {
			if !l.running(h.Name) {
				return fmt.Errorf("unable to give host %s a quota: it is not running (lab start %s)", h.Name, h.Name)
			}
			if err := l.hostGroup(h.Name).Quota(ctx, share); err != nil {
				return err
			}
		}
		return nil
	})
}
