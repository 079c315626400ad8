package labhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgha/terraform-provider-pgha/lab/internal/debian"
	"github.com/pgha/terraform-provider-pgha/lab/internal/network"
	"github.com/pgha/terraform-provider-pgha/lab/internal/plan"
)

// Up brings up a lab and returns when every host that it started, or that a
// killed one before had started, answers to SSH and has booted. What is there already is left as it is: hosts that are
// running keep running, hosts that are off are powered on with their disks,
// hosts and datacenters that are new are added.
//
// Whenever it fails or is killed, Down removes what it had made by then.
func Up(ctx context.Context, o Options) (*Lab, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	log, start := o.log(), time.Now()
	if err := debian.Require(ctx, log); err != nil {
		return nil, err
	}
	p := place{o.Cache, o.Name}
	release, err := p.lock(ctx, log)
	if err != nil {
		return nil, err
	}
	s, started, fresh, err := p.up(ctx, o, log)
	release()
	if err != nil {
		return nil, fmt.Errorf("unable to bring up lab %s (lab down --name %s removes what is there): %w", o.Name, o.Name, err)
	}

	l := newLab(p, s, log)
	g, gctx := errgroup.WithContext(ctx)
	for _, h := range s.Hosts {
		host := h.Name
		if _, err := os.Stat(l.answered(host)); err == nil {
			continue
		}
		await := l.awaitSSH
		// What a host that had been in use starts may have to wait for
		// others, or fail; that is no fault of the lab.
		if fresh[host] {
			await = l.awaitBoot
		}
		if s.reachable(s.host(host)) {
			g.Go(func() error { return await(gctx, host) })
		}
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("unable to bring up lab %s (lab down --name %s removes it): %w", o.Name, o.Name, err)
	}
	log("%d hosts are up, %d of them started now, in %.1f s", len(s.Hosts), len(started), time.Since(start).Seconds())
	return l, nil
}

// up does everything but wait. It returns the hosts that it started, and
// which of them have a new disk.
func (p place) up(ctx context.Context, o Options, log func(string, ...any)) (s *state, started []string, fresh map[string]bool, err error) {
	fail := func(err error) (*state, []string, map[string]bool, error) { return nil, nil, nil, err }
	if s, err = p.want(ctx, o); err != nil {
		return fail(err)
	}
	images, err := p.images(ctx, o, s, log)
	if err != nil {
		return fail(err)
	}
	labKey, err := p.labKey()
	if err != nil {
		return fail(err)
	}
	if err := p.applyNetwork(ctx, s); err != nil {
		return fail(err)
	}

	fresh = map[string]bool{}
	var empty []*hostState
	for i := range s.Hosts {
		h := &s.Hosts[i]
		if p.running(h.Name) {
			continue
		}
		started = append(started, h.Name)
		if p.hasDisk(h) {
			continue
		}
		if h.HostKey != "" {
			log("the disk of host %s is gone (it was in this machine's memory): making a new one", h.Name)
		}
		fresh[h.Name] = true
		empty = append(empty, h)
	}
	if err := p.newDisks(s, empty, images, labKey); err != nil {
		return fail(err)
	}
	if err := p.save(s); err != nil {
		return fail(err)
	}
	if err := p.writeSSHFiles(s); err != nil {
		return fail(err)
	}
	if len(started) > 0 {
		log("booting %d hosts", len(started))
	}
	for _, name := range started {
		// What a killed host left is in the way of the next.
		if err := p.powerOff(ctx, s, s.host(name)); err != nil {
			return fail(err)
		}
		if err := p.boot(s, s.host(name)); err != nil {
			return fail(err)
		}
	}
	return s, started, fresh, nil
}

// want returns the lab's state with what the options add to it, saved before
// anything of it exists: a lab that is half made can then be found and removed.
func (p place) want(ctx context.Context, o Options) (*state, error) {
	unlock, err := lockAll(ctx, p.cache)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := p.load()
	switch {
	case errors.Is(err, ErrNoLab):
		if len(o.Datacenters) == 0 {
			return nil, errors.New("a new lab needs at least one datacenter with a host, such as dc1=pg1,pg2,pg3")
		}
		s = &state{Name: p.name, Release: debian.Default, Image: Bare, DiskSize: defaultDiskSize, IPv6Only: o.IPv6Only}
		if o.Ephemeral {
			s.Owner = self()
		}
		if s.Net, err = chooseNet(p, o); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case o.Release != "" && o.Release != s.Release:
		return nil, fmt.Errorf("its hosts run %s, not %s: remove it first", s.Release, o.Release)
	case o.IPv6Only && !s.IPv6Only:
		return nil, errors.New("its hosts have IPv4 addresses: remove it first")
	case o.Net != "" && o.Net != s.Net.String():
		return nil, fmt.Errorf("its addresses are in %s, not in %s: remove it first", s.Net, o.Net)
	}
	if o.Release != "" {
		s.Release = o.Release
	}
	if o.Image != "" {
		s.Image = o.Image
	}
	if o.DiskSize != "" {
		s.DiskSize = o.DiskSize
	}
	if _, err := debian.Find(s.Release); err != nil {
		return nil, err
	}
	layout, err := s.layout().Add(o.Datacenters, o.Bastions)
	if err != nil {
		return nil, err
	}
	s.Datacenters = layout.Datacenters
	for _, h := range layout.Hosts[len(s.Hosts):] {
		s.Hosts = append(s.Hosts, hostState{Place: h})
	}
	return s, p.save(s)
}

// chooseNet returns the address range of a new lab.
func chooseNet(p place, o Options) (plan.Net, error) {
	used := map[plan.Net]string{}
	for _, other := range labs(p.cache) {
		if s, err := other.load(); err == nil && other != p {
			used[s.Net] = "lab " + s.Name
		}
	}
	taken := func(n plan.Net) (by string, ok bool) {
		if by, ok = used[n]; ok {
			return by, true
		}
		return network.Conflict(n, p.name)
	}
	if o.Net == "" && o.Name != DefaultName {
		return plan.Free(func(n plan.Net) bool { _, ok := taken(n); return ok })
	}
	if o.Net == "" {
		o.Net = defaultNet
	}
	n, err := plan.ParseNet(o.Net)
	if err != nil {
		return n, err
	}
	if by, ok := taken(n); ok {
		return n, fmt.Errorf("the address range %s is taken by %s: give another (--net 10.99)", n, by)
	}
	return n, nil
}

// images returns what new disks are made of.
func (p place) images(ctx context.Context, o Options, s *state, log func(string, ...any)) (debian.Built, error) {
	release, err := debian.Find(s.Release)
	if err != nil {
		return debian.Built{}, err
	}
	extras, err := debian.FindExtras(o.ExtraDebs, s.Release)
	if err != nil {
		return debian.Built{}, err
	}
	b := debian.Builder{
		Cache: p.cache, Release: release, Mirror: o.Mirror, Extras: extras, Log: log,
		InUse: func(path string) bool { return inUse(p.cache, path) },
	}
	return b.Ensure(ctx, s.Image == Warm)
}

// inUse reports whether a lab has a disk that needs an image or a pool.
func inUse(cache, path string) bool {
	for _, p := range labs(cache) {
		s, err := p.load()
		if err != nil {
			continue
		}
		for _, h := range s.Hosts {
			if h.Image == path || h.Pool == path {
				return true
			}
		}
	}
	return false
}

// applyNetwork makes the network what the state says it is.
func (p place) applyNetwork(ctx context.Context, s *state) error {
	if err := raiseLimits(ctx, p.cache); err != nil {
		return err
	}
	n := network.Network{Lab: p.name, Net: s.Net, Datacenters: len(s.Datacenters)}
	if err := n.Up(ctx); err != nil {
		return fmt.Errorf("make the lab's network: %w", err)
	}
	if err := s.rules().Apply(ctx, p.name); err != nil {
		return err
	}
	d := network.Distance{Network: n, Folder: p.dir(), Group: p.delayGroup()}
	for _, dc := range s.Datacenters {
		d.Settings = append(d.Settings, s.Delays[dc])
	}
	return d.Apply(ctx)
}

// Build builds the images of a release, and its pool of packages, without
// bringing up a lab. With again it does so even if they are there.
func Build(ctx context.Context, o Options, again bool) error {
	o, err := o.complete()
	if err != nil {
		return err
	}
	s := &state{Release: debian.Default, Image: Bare}
	if o.Release != "" {
		s.Release = o.Release
	}
	if o.Image != "" {
		s.Image = o.Image
	}
	if _, err := debian.Find(s.Release); err != nil {
		return err
	}
	log := func(format string, args ...any) {
		if o.Progress != nil {
			fmt.Fprintf(o.Progress, "lab: "+format+"\n", args...)
		}
	}
	if err := debian.Require(ctx, log); err != nil {
		return err
	}
	p := place{o.Cache, o.Name}
	if again {
		if err := debian.Forget(ctx, o.Cache, s.Release, func(path string) bool { return inUse(o.Cache, path) }); err != nil {
			return err
		}
	}
	_, err = p.images(ctx, o, s, log)
	return err
}
