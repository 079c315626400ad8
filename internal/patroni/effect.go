package patroni

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/postgres"
)

// Effect is what changing a setting does to running servers.
type Effect int

const (
	// ByReload: Patroni reads it in its next loop; PostgreSQL reloads.
	ByReload Effect = iota
	// ByRestart: PostgreSQL takes it over when it next starts.
	ByRestart
)

// EffectOf says what changing a path does.
func EffectOf(path string) Effect {
	if name, ok := IsParameter(path); ok && postgres.NeedsRestart(name) {
		return ByRestart
	}
	return ByReload
}

// DescribeChanges renders the changes of a patch for people, those with the
// same effect together.
func DescribeChanges(live Document, wanted Settings, changed []string) (reload, restart []string) {
	flat := live.Flatten()
	for _, path := range changed {
		from, to := "(not set)", "(not set)"
		if v, ok := flat[path]; ok {
			from = Text(v)
		}
		if v, ok := wanted[path]; ok {
			to = Text(v)
		}
		line := fmt.Sprintf("%s: %s -> %s", strings.ReplaceAll(path, "/", "."), from, to)
		if EffectOf(path) == ByRestart {
			restart = append(restart, line)
		} else {
			reload = append(reload, line)
		}
	}
	return reload, restart
}

// needsOrder are the parameters that a standby must not have lower than its
// primary (PostgreSQL documentation, "Administrator's Overview" of hot
// standby).
var needsOrder = []string{
	"max_connections", "max_prepared_transactions", "max_locks_per_transaction", "max_wal_senders", "max_worker_processes",
}

// StandbyFirst reports whether a parameter has to be raised on the standbys
// before the primary, and lowered the other way round.
func StandbyFirst(name string) bool { return slices.Contains(needsOrder, strings.ToLower(name)) }
