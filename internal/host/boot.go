package host

import "context"

type bootKey struct{}

// BootContext returns a context under which a connection to a host waits for
// the host to come up: through refused connections, rejected logins and
// cloud-init, as long as the fleet's boot timeout. Creating a resource and
// rebooting a host do that. Without it an absent host is reported after one
// connect timeout, so that it does not hang a plan.
func BootContext(ctx context.Context) context.Context {
	return context.WithValue(ctx, bootKey{}, true)
}

// Booting reports whether ctx comes from BootContext.
func Booting(ctx context.Context) bool {
	boot, _ := ctx.Value(bootKey{}).(bool)
	return boot
}
