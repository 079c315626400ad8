package labhost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/lab/internal/debian"
	"github.com/pgha/terraform-provider-pgha/lab/internal/network"
	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
)

// Down removes the lab and every trace of it.
func (l *Lab) Down(ctx context.Context) error {
	l.disconnect()
	return l.place.down(ctx, l.log)
}

// Down removes the lab of the options' name and every trace of it, also one
// that is half made, or whose files were lost: it goes by names, not by what
// the lab remembers. It is no error if there is none. Images stay.
func Down(ctx context.Context, o Options) error {
	o, err := o.complete()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("the lab has to run as root; run it with sudo")
	}
	return place{o.Cache, o.Name}.down(ctx, o.log())
}

func (p place) down(ctx context.Context, log func(string, ...any)) error {
	release, err := p.lock(ctx, log)
	if err != nil {
		return err
	}
	defer release()
	if err := p.remove(ctx); err != nil {
		return fmt.Errorf("unable to remove lab %s: %w", p.name, err)
	}
	if err := os.Remove(p.lockFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	log("removed")
	return nil
}

// remove goes from what uses to what is used: processes, mounts, network,
// control groups, files.
func (p place) remove(ctx context.Context) error {
	defer p.group().AwaitReaped(ctx)
	if err := p.group().Kill(ctx); err != nil {
		return err
	}
	if s, err := p.load(); err == nil {
		for _, h := range s.Hosts {
			forgetMachine(s.Net.Machine(s.number(h.Datacenter), h.Number), p.root(h.Name))
		}
	}
	if err := sys.UnmountBelow(p.dir()); err != nil {
		return err
	}
	if err := network.Down(ctx, p.name); err != nil {
		return err
	}
	if err := p.group().Remove(ctx); err != nil {
		return err
	}
	root.RemoveEmpty()

	unlock, err := lockAll(ctx, p.cache)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.RemoveAll(p.dir()); err != nil {
		return err
	}
	if len(labs(p.cache)) == 0 {
		return restoreLimits(p.cache)
	}
	return nil
}

// DownAll removes every lab, whatever is left of it, and what killed builds
// left. Images stay.
func DownAll(ctx context.Context, o Options) error {
	o, err := o.complete()
	if err != nil {
		return err
	}
	var names []string
	for _, p := range labs(o.Cache) {
		names = append(names, p.name)
	}
	groups, err := root.Children()
	if err != nil {
		return err
	}
	for _, g := range groups {
		if !strings.HasPrefix(g, ".") {
			names = append(names, g)
		}
	}
	names = append(names, network.Labs()...)
	slices.Sort(names)
	var errs []error
	for _, name := range slices.Compact(names) {
		o.Name = name
		errs = append(errs, Down(ctx, o))
	}
	for _, release := range debian.Names() {
		errs = append(errs, debian.CleanUpIfIdle(ctx, o.Cache, release))
	}
	root.RemoveEmpty()
	return errors.Join(errs...)
}

// DownAbandoned removes the ephemeral labs whose process is no more: a test
// that was killed cannot clean up after itself, so the next one does.
func DownAbandoned(ctx context.Context, o Options) error {
	o, err := o.complete()
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range labs(o.Cache) {
		s, err := p.load()
		if err != nil || s.Owner == nil || s.Owner.alive() {
			continue
		}
		o.Name = p.name
		errs = append(errs, Down(ctx, o))
	}
	return errors.Join(errs...)
}

// List returns the names of all labs.
func List(o Options) ([]string, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range labs(o.Cache) {
		names = append(names, p.name)
	}
	return names, nil
}
