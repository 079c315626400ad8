package labhost

import (
	"context"

	"github.com/pgha/terraform-provider-pgha/lab/internal/network"
	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
)

// Lose takes away what a reboot of this machine takes away: everything but
// files on disk.
func (l *Lab) Lose(ctx context.Context) error {
	if err := l.group().Kill(ctx); err != nil {
		return err
	}
	if err := sys.UnmountBelow(l.dir()); err != nil {
		return err
	}
	if err := network.Down(ctx, l.Name); err != nil {
		return err
	}
	return l.group().Remove(ctx)
}

// Group returns the path of the lab's control group below a hierarchy's root.
func (l *Lab) Group() string { return string(l.group()) }
