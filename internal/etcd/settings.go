package etcd

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// settings are what a running member runs with, by the names of its environment
// variables without "ETCD_". A flag counts before a variable (etcd documentation,
// "Configuration options").
type settings map[string]string

// settingsOf takes them out of a process. It is nil if nothing runs.
func settingsOf(p remote.Process) settings {
	if len(p.Args) == 0 {
		return nil
	}
	s := settings{}
	for name, value := range p.Environ {
		if key, ok := strings.CutPrefix(name, "ETCD_"); ok {
			s[key] = value
		}
	}
	for i := 1; i < len(p.Args); i++ {
		flag, isFlag := strings.CutPrefix(p.Args[i], "-")
		if !isFlag {
			continue
		}
		flag = strings.TrimPrefix(flag, "-")
		name, value, given := strings.Cut(flag, "=")
		if !given {
			value = "true"
			if i+1 < len(p.Args) && !strings.HasPrefix(p.Args[i+1], "-") {
				i++
				value = p.Args[i]
			}
		}
		s[strings.ToUpper(strings.ReplaceAll(name, "-", "_"))] = value
	}
	return s
}

// first is the first of a list of URLs, that of the client port for example.
func (s settings) first(key string) (host string, port int, tls bool, err error) {
	text, _, _ := strings.Cut(s[key], ",")
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.Host == "" {
		return "", 0, false, fmt.Errorf("ETCD_%s is %q, which is no URL", key, s[key])
	}
	name, digits, err := net.SplitHostPort(u.Host)
	if err != nil {
		return "", 0, false, fmt.Errorf("ETCD_%s: %w", key, err)
	}
	port, err = strconv.Atoi(digits)
	return name, port, u.Scheme == "https", err
}

// number reads a number, or etcd's own default where there is none.
func (s settings) number(key string, otherwise int64) (int64, error) {
	text, ok := s[key]
	if !ok || text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("ETCD_%s is %q, which is no number", key, text)
	}
	return n, nil
}

// Defaults of etcd 3.4 and 3.5 (etcd documentation, "Configuration options").
const (
	defaultHeartbeat = 100
	defaultElection  = 1000
	defaultQuota     = 2 << 30
)

// tune reads the settings that a Spec has, with etcd's own defaults for those
// that are not given.
func (s settings) tune(to *Spec) error {
	heartbeat, err := s.number("HEARTBEAT_INTERVAL", defaultHeartbeat)
	if err != nil {
		return err
	}
	election, err := s.number("ELECTION_TIMEOUT", defaultElection)
	if err != nil {
		return err
	}
	if to.QuotaBytes, err = s.number("QUOTA_BACKEND_BYTES", 0); err != nil {
		return err
	}
	if to.QuotaBytes == 0 {
		to.QuotaBytes = defaultQuota
	}
	if to.SnapshotCount, err = s.number("SNAPSHOT_COUNT", 0); err != nil {
		return err
	}
	to.Heartbeat, to.Election = time.Duration(heartbeat)*time.Millisecond, time.Duration(election)*time.Millisecond
	to.CompactionRetention, err = s.retention()
	return err
}

// retention is how long the history is kept, zero for ever. A bare number is of
// hours.
func (s settings) retention() (time.Duration, error) {
	text := s["AUTO_COMPACTION_RETENTION"]
	if mode := s["AUTO_COMPACTION_MODE"]; mode == "revision" && text != "" && text != "0" {
		return 0, fmt.Errorf("ETCD_AUTO_COMPACTION_MODE is %q: only compaction by time can be managed", mode)
	}
	if text == "" {
		return 0, nil
	}
	if hours, err := strconv.Atoi(text); err == nil {
		return time.Duration(hours) * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("ETCD_AUTO_COMPACTION_RETENTION is %q, which is no duration", text)
	}
	return d, nil
}

// same reports whether a member that runs with these settings runs as the spec
// says. What the spec does not speak of counts for nothing.
func (s settings) same(spec Spec) bool {
	var have Spec
	if s.tune(&have) != nil {
		return false
	}
	return have.Heartbeat == spec.Heartbeat && have.Election == spec.Election && have.QuotaBytes == spec.QuotaBytes &&
		have.CompactionRetention == spec.CompactionRetention && have.SnapshotCount == spec.SnapshotCount
}

// overlay renders the environment file of a member that was adopted: as it was
// found, but for what the spec speaks of.
func (s settings) overlay(spec Spec, stage tlsStage) []byte {
	out := settings{}
	for k, v := range s {
		out[k] = v
	}
	if out[configKey] != "" {
		out[configKey] = "" // all that is in it is here
	}
	for key, value := range spec.tuning() {
		out[key] = value
		if _, found := s[key]; value == "" && !found {
			delete(out, key) // else a variable of the unit's own would count again
		}
	}
	spec.secure(out, stage)
	var b strings.Builder
	b.WriteString("# Written by the pgha provider; changes are overwritten.\n")
	for _, key := range sortedKeys(out) {
		fmt.Fprintf(&b, "ETCD_%s=%q\n", key, out[key])
	}
	return []byte(b.String())
}

// tuningKeys are the keys of tuning, in the order in which they are written.
var tuningKeys = []string{
	"HEARTBEAT_INTERVAL", "ELECTION_TIMEOUT", "QUOTA_BACKEND_BYTES", "AUTO_COMPACTION_MODE", "AUTO_COMPACTION_RETENTION", "SNAPSHOT_COUNT",
}

// tuning are the settings that a cluster's members share and that can be
// changed. An empty one is etcd's own default.
func (s Spec) tuning() settings {
	t := settings{
		"HEARTBEAT_INTERVAL": strconv.FormatInt(s.Heartbeat.Milliseconds(), 10), "ELECTION_TIMEOUT": strconv.FormatInt(s.Election.Milliseconds(), 10),
		"QUOTA_BACKEND_BYTES":  strconv.FormatInt(s.QuotaBytes, 10),
		"AUTO_COMPACTION_MODE": "periodic", "AUTO_COMPACTION_RETENTION": s.CompactionRetention.String(), "SNAPSHOT_COUNT": "",
	}
	if s.SnapshotCount > 0 {
		t["SNAPSHOT_COUNT"] = strconv.FormatInt(s.SnapshotCount, 10)
	}
	return t
}

// agree reports the keys in which members that should be alike are not.
func agree(all map[string]Spec) []string {
	var differ []string
	names := sortedKeys(all)
	for _, name := range names[1:] {
		a, b := all[names[0]], all[name]
		for key, equal := range map[string]bool{
			"version": a.Version == b.Version, "client_port": a.ClientPort == b.ClientPort, "peer_port": a.PeerPort == b.PeerPort, "tls": a.TLS == b.TLS, "auth": a.Auth == b.Auth,
			"heartbeat_interval": a.Heartbeat == b.Heartbeat, "election_timeout": a.Election == b.Election, "quota_backend_bytes": a.QuotaBytes == b.QuotaBytes,
			"auto_compaction_retention": a.CompactionRetention == b.CompactionRetention, "snapshot_count": a.SnapshotCount == b.SnapshotCount,
		} {
			if !equal && !slices.Contains(differ, key) {
				differ = append(differ, key)
			}
		}
	}
	slices.Sort(differ)
	return differ
}
