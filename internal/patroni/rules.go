package patroni

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/postgres"
)

// Violation is a setting that must not be sent: Patroni answers 200 to
// anything, and its nodes then ignore the whole document.
type Violation struct {
	Path    string
	Problem string
}

// Limits of Patroni's own timing (config.py and global_config.py, 3.2 and
// later): below them it quietly runs with other values than it shows.
const (
	MinTTL          = 20
	MinLoopWait     = 1
	MinRetryTimeout = 3
)

// refused are parameters that cannot be set through the dynamic configuration,
// with the reason.
var refused = map[string]string{
	"listen_addresses":           "Patroni sets it from the node's own address",
	"port":                       "Patroni sets it from postgresql_port of the cluster",
	"cluster_name":               "Patroni sets it to the scope",
	"hot_standby":                "Patroni keeps it on: replicas must answer queries to be watched",
	"data_directory":             "Patroni starts the server with the node's data_directory",
	"config_file":                "Patroni writes the server's configuration files itself",
	"hba_file":                   "Patroni writes it; use pg_hba",
	"ident_file":                 "Patroni writes it; use pg_ident",
	"external_pid_file":          "Patroni follows the server by its own PID file",
	"primary_conninfo":           "Patroni sets it to follow the leader",
	"primary_slot_name":          "Patroni sets it to the member's slot",
	"promote_trigger_file":       "Patroni promotes by itself",
	"trigger_file":               "Patroni promotes by itself",
	"standby_mode":               "Patroni decides who is a standby",
	"recovery_target":            "Patroni sets it where a bootstrap method asks for it",
	"recovery_target_timeline":   "Patroni keeps replicas on the latest timeline",
	"synchronous_standby_names":  "Patroni sets it; use synchronous_mode and synchronous_node_count",
	"ssl":                        "the provider turns TLS on and keeps the certificates on each node",
	"ssl_cert_file":              "the provider keeps the certificate on each node",
	"ssl_key_file":               "the provider keeps the key on each node",
	"ssl_ca_file":                "the provider keeps the authority's certificate on each node",
	"unix_socket_directories":    "the provider sets it on each node, where Debian's clients look",
	"wal_keep_segments":          "PostgreSQL 13 and later call it wal_keep_size",
	"shared_memory_size":         "it only shows what the server computed",
	"recovery_min_apply_delay":   "it belongs to a standby cluster or a node's own configuration",
	"archive_cleanup_command":    "it belongs to a standby cluster or a node's own configuration",
	"recovery_target_action":     "Patroni sets it where a bootstrap method asks for it",
	"recovery_target_inclusive":  "Patroni sets it where a bootstrap method asks for it",
	"recovery_target_lsn":        "Patroni sets it where a bootstrap method asks for it",
	"recovery_target_name":       "Patroni sets it where a bootstrap method asks for it",
	"recovery_target_time":       "Patroni sets it where a bootstrap method asks for it",
	"recovery_target_xid":        "Patroni sets it where a bootstrap method asks for it",
	"allow_in_place_tablespaces": "it is for PostgreSQL's own tests",
}

// controlled are the parameters that Patroni passes on the command line and
// checks by rules of its own (postgresql/config.py, CMDLINE_OPTIONS). A value
// that breaks them is replaced by Patroni's default without a word.
var controlled = map[string]struct {
	min  int64 // in unit
	unit string
	enum []string
}{
	"max_connections":           {min: 25},
	"max_wal_senders":           {min: 3},
	"max_replication_slots":     {min: 4},
	"max_prepared_transactions": {min: 0},
	"max_locks_per_transaction": {min: 32},
	"max_worker_processes":      {min: 2},
	"wal_keep_size":             {min: 16, unit: "MB"},
	"wal_level":                 {enum: []string{"replica", "logical"}},
}

// parameterName is how parameters are spelled, an extension's with its prefix.
var parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*$`)

// CheckParameter says why a PostgreSQL parameter must not be sent, or nothing.
// Major may be 0 if the version is not known.
func CheckParameter(major int, name, value string) string {
	if !parameterName.MatchString(name) {
		return fmt.Sprintf("%q is not the name of a parameter", name)
	}
	lower := strings.ToLower(name)
	if why, ok := refused[lower]; ok {
		return fmt.Sprintf("%s cannot be set here: %s", name, why)
	}
	if c, ok := controlled[lower]; ok {
		if c.enum != nil && !slices.Contains(c.enum, strings.ToLower(value)) {
			return fmt.Sprintf("%s is %q; it must be one of %s", name, value, strings.Join(c.enum, ", "))
		}
		if c.enum == nil && !postgres.AtLeast(lower, value, c.min, c.unit) {
			return fmt.Sprintf("%s is %q; Patroni needs at least %d%s and would quietly use its own default instead", name, value, c.min, c.unit)
		}
	}
	if err := postgres.CheckSetting(major, name, value); err != nil {
		return err.Error()
	}
	return ""
}

// CheckTiming says what is wrong with the three numbers, in seconds, on which
// failure detection rests. From 3.2 on Patroni adjusts them quietly if they do
// not fit; before, it runs with them as they are.
func CheckTiming(ttl, loopWait, retryTimeout int64) []Violation {
	var v []Violation
	add := func(path, format string, args ...any) { v = append(v, Violation{path, fmt.Sprintf(format, args...)}) }
	if ttl < MinTTL {
		add("ttl", "ttl is %d s; it must be at least %d s", ttl, MinTTL)
	}
	if loopWait < MinLoopWait {
		add("loop_wait", "loop_wait is %d s; it must be at least %d s", loopWait, MinLoopWait)
	}
	if retryTimeout < MinRetryTimeout {
		add("retry_timeout", "retry_timeout is %d s; it must be at least %d s", retryTimeout, MinRetryTimeout)
	}
	if len(v) == 0 && loopWait+2*retryTimeout > ttl {
		add("ttl", "loop_wait + 2 * retry_timeout must not be more than ttl: %d + 2 * %d = %d > %d. "+
			"Otherwise a leader that cannot reach etcd keeps its role longer than its lease lasts, or Patroni quietly runs with other values",
			loopWait, retryTimeout, loopWait+2*retryTimeout, ttl)
	}
	return v
}

// Preset is a named choice of timing, in seconds.
type Preset struct{ TTL, LoopWait, RetryTimeout int64 }

// Presets are the values of failure_detection.
var Presets = map[string]Preset{
	"fast":   {TTL: 20, LoopWait: 5, RetryTimeout: 5},
	"normal": {TTL: 30, LoopWait: 10, RetryTimeout: 10},
	"wide":   {TTL: 60, LoopWait: 10, RetryTimeout: 20},
}

// PresetNames lists them.
func PresetNames() []string { return slices.Sorted(maps.Keys(Presets)) }
