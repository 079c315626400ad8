package labhost

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// change runs f on the lab's state, alone, and saves what it left.
func (l *Lab) change(ctx context.Context, f func(s *state) error) error {
	release, err := l.lock(ctx, l.log)
	if err != nil {
		return err
	}
	defer release()
	s, err := l.load()
	if err != nil {
		return err
	}
	if err := f(s); err != nil {
		return err
	}
	return l.save(s)
}

// Kill cuts the power of hosts, each given by its name, or all at once by that
// of a datacenter: every process ends at once and nothing is written any more.
// The disks stay. (What a process wrote and did not fsync stays too: the
// kernel that holds it is this machine's, and lives on.)
func (l *Lab) Kill(ctx context.Context, targets ...string) error {
	return l.change(ctx, func(s *state) error {
		hosts, err := s.targets(targets)
		if err != nil {
			return err
		}
		// At once: the last host of a datacenter must not see the first one go.
		var g errgroup.Group
		for _, h := range hosts {
			g.Go(func() error { return l.powerOff(ctx, s, h) })
		}
		if err := g.Wait(); err != nil {
			return fmt.Errorf("unable to cut the power of %v: %w", targets, err)
		}
		return nil
	})
}

// Start powers hosts on, with the disks they have, and returns when they
// answer to SSH. It does not wait for what they start themselves, which may
// have to wait for other hosts. Hosts that are running are left as they are.
func (l *Lab) Start(ctx context.Context, targets ...string) error {
	var await []string
	err := l.change(ctx, func(s *state) error {
		hosts, err := s.targets(targets)
		if err != nil {
			return err
		}
		if err := l.applyNetwork(ctx, s); err != nil {
			return err
		}
		for _, h := range hosts {
			if l.running(h.Name) {
				continue
			}
			if !l.hasDisk(h) {
				return fmt.Errorf("host %s has no disk any more (it was in this machine's memory): lab rebuild %s gives it a new one", h.Name, h.Name)
			}
			if err := l.powerOff(ctx, s, h); err != nil { // what it left
				return err
			}
			if err := l.boot(s, h); err != nil {
				return err
			}
			if s.reachable(h) {
				await = append(await, h.Name)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("unable to start %v: %w", targets, err)
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, h := range await {
		g.Go(func() error { return l.awaitSSH(gctx, h) })
	}
	return g.Wait()
}

// Rebuild replaces hosts by new ones of the same names and addresses: with
// empty disks, new machine ids and new host keys, which the lab's known_hosts
// file has when it returns.
func (l *Lab) Rebuild(ctx context.Context, targets ...string) error {
	var await []string
	err := l.change(ctx, func(s *state) error {
		hosts, err := s.targets(targets)
		if err != nil {
			return err
		}
		o, err := Options{Name: l.Name, Cache: l.cache}.complete()
		if err != nil {
			return err
		}
		images, err := l.images(ctx, o, s, l.log)
		if err != nil {
			return err
		}
		labKey, err := l.labKey()
		if err != nil {
			return err
		}
		if err := l.applyNetwork(ctx, s); err != nil {
			return err
		}
		for _, h := range hosts {
			if err := l.powerOff(ctx, s, h); err != nil {
				return err
			}
			// If this is cut off, the host counts as one without a disk.
			h.HostKey = ""
		}
		if err := l.save(s); err != nil {
			return err
		}
		if err := l.newDisks(s, hosts, images, labKey); err != nil {
			return err
		}
		if err := l.save(s); err != nil {
			return err
		}
		if err := l.writeSSHFiles(s); err != nil {
			return err
		}
		for _, h := range hosts {
			if err := l.boot(s, h); err != nil {
				return err
			}
			if s.reachable(h) {
				await = append(await, h.Name)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("unable to rebuild %v: %w", targets, err)
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, h := range await {
		g.Go(func() error { return l.awaitBoot(gctx, h) })
	}
	return g.Wait()
}

// Freeze stops every process of hosts where it stands, as a machine that hangs
// does: the network is up and nobody answers.
func (l *Lab) Freeze(ctx context.Context, targets ...string) error {
	return l.freeze(ctx, true, targets)
}

// Thaw lets frozen hosts go on, which do not know that they were stopped.
func (l *Lab) Thaw(ctx context.Context, targets ...string) error {
	return l.freeze(ctx, false, targets)
}

func (l *Lab) freeze(ctx context.Context, frozen bool, targets []string) error {
	return l.change(ctx, func(s *state) error {
		hosts, err := s.targets(targets)
		if err != nil {
			return err
		}
		for _, h := range hosts {
			if !l.running(h.Name) {
				return fmt.Errorf("unable to freeze or thaw host %s: it is not running (lab start %s)", h.Name, h.Name)
			}
			if err := l.hostGroup(h.Name).Freeze(ctx, frozen); err != nil {
				return err
			}
		}
		return nil
	})
}
