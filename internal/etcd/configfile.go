package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// A member with a configuration file takes its settings from there and from nowhere
// else: whatever flags and variables say is ignored (etcd documentation,
// "Configuration file"). So such a file cannot be overlaid. When a setting has to
// change, all that is in it moves into the environment, and the command that names it
// is replaced.

// configKey is the setting that names the file.
const configKey = "CONFIG_FILE"

// kind is how a value in the file differs from that of the variable.
type kind int

const (
	plain    kind = iota // as it is
	boolean              // the file takes YAML's words, a variable true and false
	duration             // nanoseconds in the file, "1s" in a variable
	list                 // joined with commas in a variable
)

// fileKeys are the keys of the file in etcd 3.4 and 3.5 for which there is a variable
// of the same name. Others are refused: what cannot be carried over would be lost.
var fileKeys = map[kind][]string{
	plain: {
		"name", "data-dir", "wal-dir", "snapshot-count", "max-snapshots", "max-wals", "heartbeat-interval", "election-timeout", "backend-batch-limit",
		"backend-bbolt-freelist-type", "experimental-backend-bbolt-freelist-type", "quota-backend-bytes", "max-txn-ops", "max-request-bytes", "max-concurrent-streams",
		"listen-peer-urls", "listen-client-urls", "listen-client-http-urls", "initial-advertise-peer-urls", "advertise-client-urls", "listen-metrics-urls", "metrics",
		"self-signed-cert-validity", "tls-min-version", "tls-max-version", "initial-cluster", "initial-cluster-state", "initial-cluster-token",
		"auto-compaction-mode", "auto-compaction-retention", "cors", "host-whitelist", "auth-token", "auth-token-ttl", "bcrypt-cost",
		"logger", "log-level", "log-rotation-config-json", "log-package-levels", "v2-deprecation",
		"experimental-compaction-batch-limit", "experimental-bootstrap-defrag-threshold-megabytes",
		"experimental-distributed-tracing-address", "experimental-distributed-tracing-service-name",
	},
	boolean: {
		"initial-election-tick-advance", "strict-reconfig-check", "enable-v2", "pre-vote", "enable-pprof", "enable-grpc-gateway", "enable-log-rotation", "debug", "unsafe-no-fsync",
		"force-new-cluster", "experimental-initial-corrupt-check", "experimental-compact-hash-check-enabled", "experimental-enable-lease-checkpoint",
		"experimental-enable-lease-checkpoint-persist", "experimental-memory-mlock", "experimental-txn-mode-write-with-shared-buffer",
		"experimental-stop-grpc-service-on-defrag", "experimental-enable-distributed-tracing",
	},
	duration: {
		"backend-batch-interval", "grpc-keepalive-min-time", "grpc-keepalive-interval", "grpc-keepalive-timeout", "experimental-corrupt-check-time",
		"experimental-compact-hash-check-time", "experimental-compaction-sleep-interval", "experimental-watch-progress-notify-interval",
		"experimental-warning-apply-duration", "experimental-warning-unary-request-duration", "experimental-downgrade-check-time",
	},
	list: {"log-outputs", "cipher-suites"},
}

// sectionKeys are those of the file's two sections, and the prefix that the
// variables have.
var (
	sections    = map[string]string{"client-transport-security": "", "peer-transport-security": "peer-"}
	sectionKeys = map[kind][]string{
		plain:   {"cert-file", "key-file", "client-cert-file", "client-key-file", "trusted-ca-file"},
		boolean: {"client-cert-auth", "auto-tls"},
	}
)

// parseConfig reads a configuration file into the settings that say the same.
func parseConfig(text []byte) (settings, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	s := settings{}
	if len(doc.Content) == 0 {
		return s, nil
	}
	var unknown []string
	err := pairs(doc.Content[0], func(key string, value *yaml.Node) error {
		prefix, section := sections[key]
		if !section {
			return s.read(key, key, value, fileKeys, &unknown)
		}
		return pairs(value, func(k string, v *yaml.Node) error { return s.read(key+"."+k, prefix+k, v, sectionKeys, &unknown) })
	})
	if err != nil {
		return nil, err
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return nil, fmt.Errorf("it has what this release does not know: %s", strings.Join(unknown, ", "))
	}
	return s, nil
}

// pairs goes through a mapping, in its order. An empty one may be left out.
func pairs(n *yaml.Node, f func(key string, value *yaml.Node) error) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: it is no mapping of keys to values", n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if err := f(n.Content[i].Value, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// read takes one value over. At is where it is in the file, name the flag of the same
// meaning.
func (s settings) read(at, name string, v *yaml.Node, known map[kind][]string, unknown *[]string) error {
	if v.Kind == yaml.AliasNode {
		v = v.Alias
	}
	key := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	bad := func(what string) error {
		return fmt.Errorf("line %d: %s is %q, which is %s", v.Line, at, v.Value, what)
	}
	own := at[strings.LastIndexByte(at, '.')+1:]
	for k, names := range known {
		if !slices.Contains(names, own) {
			continue
		}
		if k == list && v.Kind == yaml.SequenceNode {
			var all []string
			if err := v.Decode(&all); err != nil {
				return fmt.Errorf("line %d: %s: %w", v.Line, at, err)
			}
			s[key] = strings.Join(all, ",")
			return nil
		}
		if v.Kind != yaml.ScalarNode {
			return fmt.Errorf("line %d: %s is no single value", v.Line, at)
		}
		if v.Tag == "!!null" {
			return nil
		}
		switch k {
		case boolean:
			value, ok := truth[strings.ToLower(v.Value)]
			if !ok {
				return bad("neither true nor false")
			}
			s[key] = strconv.FormatBool(value)
		case duration:
			n, err := strconv.ParseInt(v.Value, 10, 64)
			if err != nil {
				return bad("no number of nanoseconds")
			}
			s[key] = time.Duration(n).String()
		default:
			s[key] = v.Value
		}
		return nil
	}
	*unknown = append(*unknown, at)
	return nil
}

// truth are the words that etcd's own reader, which is of YAML 1.1, takes for true
// and false.
var truth = map[string]bool{"true": true, "yes": true, "on": true, "y": true, "false": false, "no": false, "off": false, "n": false}

// runningSettings are what a member runs with, nil if none does: those of its process,
// or of the configuration file that it was started with. Stale says that the file
// was changed since.
func runningSettings(ctx context.Context, h host.Host, p remote.Process) (s settings, stale bool, err error) {
	s = settingsOf(p)
	file := s[configKey]
	if file == "" {
		return s, false, nil
	}
	fail := func(err error, do string) (settings, bool, error) {
		return nil, false, &problem.Error{Step: "read etcd's configuration file " + file, Cause: err, Do: do}
	}
	// There may be something secret in it.
	var probe remote.Probe
	facts, err := probe.Secret(file).Run(ctx, h)
	if err != nil {
		return nil, false, err
	}
	found := facts.Path(file)
	if len(found.Content) == 0 {
		return fail(errors.New("it is not there (any more), or empty, and nobody else knows what the member runs with"), "put it back as it was.")
	}
	in, err := parseConfig(found.Content)
	if err != nil {
		return fail(err, "take that out, one member at a time, or move the settings into the environment.")
	}
	// Without the file, variables would count that it made of no account.
	for key := range s {
		if _, ok := in[key]; !ok {
			in[key] = ""
		}
	}
	in[configKey] = file
	return in, p.Started > 0 && found.Modified > p.Started, nil
}
