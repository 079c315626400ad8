package sshx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// cloudInitScript waits for cloud-init where it runs at all. It needs no rights,
// which matters because cloud-init may be what gives them.
const cloudInitScript = `
[ -d /run/cloud-init ] && command -v cloud-init >/dev/null 2>&1 || exit 0
cloud-init status --wait >/dev/null 2>&1
code=$?
cloud-init status --long 2>&1
exit "$code"
`

// awaitCloudInit waits, once per host, until cloud-init is done with it: the
// package manager is locked before, and users and keys are missing. How it ended
// is cloud-init's own affair and only logged.
func (l *link) awaitCloudInit(ctx context.Context, name string, c *conn) error {
	if l.isBooted() {
		return nil
	}
	l.setReason(&failure{
		kind: host.KindUnreachable,
		err:  errors.New("cloud-init has not finished; \"cloud-init status --long\" on the host tells why"),
	})
	start := time.Now()
	// Somebody should know why nothing happens, but only if it takes long.
	noisy := time.AfterFunc(5*time.Second, func() {
		l.fleet.log.InfoContext(ctx, "waiting for cloud-init to finish", "host", name, "addr", l.hop.addr())
	})
	defer noisy.Stop()
	res, f := c.run(ctx, host.Cmd{
		Name: "cloud-init.wait", Script: cloudInitScript, User: host.LoginUser, Timeout: l.fleet.cfg.BootTimeout,
	})
	switch {
	case f == nil:
		// Nothing to report.
	case f.kind == host.KindExit:
		l.fleet.log.WarnContext(ctx, "cloud-init ended with an error on the host", "host", name,
			"status", strings.Join(strings.Fields(l.fleet.cfg.Redact.Apply(string(res.Stdout))), " "))
	case f.kind == host.KindTimeout, f.kind == host.KindLost:
		// It may have rebooted the host, or restarted sshd.
		return &failure{kind: host.KindUnreachable, err: fmt.Errorf("waiting for cloud-init: %w", f.err), passing: true}
	default:
		return f
	}
	l.mu.Lock()
	l.booted = true
	l.mu.Unlock()
	l.fleet.log.DebugContext(ctx, "cloud-init is done or absent", "host", name, "took", time.Since(start))
	return nil
}
