package postgres

import (
	"strings"
	"testing"
	"time"
)

func TestCheckSetting(t *testing.T) {
	for _, c := range []struct {
		major       int
		name, value string
		wrong       string // part of the error; empty: it is right
	}{
		{17, "work_mem", "64MB", ""},
		{17, "work_mem", "64 MB", ""},
		{17, "work_mem", "65536", ""},
		{17, "work_mem", "1kB", "between 64"},
		{17, "work_mem", "64mb", "one of B, kB, MB, GB, TB"},
		{17, "work_mem", "lots", "must be a number"},
		{17, "max_connections", "200", ""},
		{17, "max_connections", "200MB", "without a unit"},
		{17, "max_connections", "0", "between 1 and 262143"},
		{17, "Max_Connections", "200", ""},
		{17, "checkpoint_completion_target", "0.9", ""},
		{17, "checkpoint_completion_target", "9", "between 0 and 1"},
		{17, "log_min_duration_statement", "-1", ""},
		{17, "log_min_duration_statement", "5s", ""},
		{17, "autovacuum", "on", ""},
		{17, "autovacuum", "maybe", "on or off"},
		{17, "wal_level", "logical", ""},
		{17, "wal_level", "all", "one of minimal, replica, logical"},
		{17, "synchronous_commit", "remote_apply", ""},
		{17, "synchronous_commit", "true", ""},
		{17, "log_line_prefix", "%m [%p] ", ""},
		{17, "log_line_prefix", "a\nb", "line breaks"},
		{17, "shared_bufers", "1GB", "PostgreSQL 17 has no parameter"},
		{17, "pg_stat_statements.max", "5000", ""},
		{17, "server_version", "17", "cannot be set"},
		{15, "io_method", "worker", "PostgreSQL 15 has no parameter"},
		{18, "io_method", "worker", ""},
		{0, "io_method", "worker", ""},
		{0, "nonsense", "1", "PostgreSQL has no parameter"},
		{16, "nonsense", "1", ""}, // no description of 16: the server decides
	} {
		err := CheckSetting(c.major, c.name, c.value)
		switch {
		case c.wrong == "" && err != nil:
			t.Errorf("%d %s = %q: %v", c.major, c.name, c.value, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%d %s = %q: got %v, want an error with %q", c.major, c.name, c.value, err, c.wrong)
		}
	}
}

func TestSameSetting(t *testing.T) {
	for _, c := range []struct {
		name, a, b string
		want       bool
	}{
		{"shared_buffers", "1GB", "131072", true},
		{"shared_buffers", "1GB", "1024MB", true},
		{"shared_buffers", "1GB", "1GB ", true},
		{"shared_buffers", "1GB", "2GB", false},
		{"autovacuum", "true", "on", true},
		{"autovacuum", "True", "on", true},
		{"autovacuum", "on", "off", false},
		{"statement_timeout", "1min", "60s", true},
		{"statement_timeout", "1min", "60000", true},
		{"log_line_prefix", "a", "A", false},
		{"unknown.x", "1", "1.0", false},
		{"wal_level", "REPLICA", "replica", true},
	} {
		if got := SameSetting(c.name, c.a, c.b); got != c.want {
			t.Errorf("%s: %q and %q: %v", c.name, c.a, c.b, got)
		}
	}
}

func TestSettingTime(t *testing.T) {
	for value, want := range map[string]time.Duration{"400": 400 * time.Millisecond, "5s": 5 * time.Second, "1min": time.Minute, "0": 0} {
		if got, ok := SettingTime("wal_sender_timeout", value); !ok || got != want {
			t.Errorf("%s is %s, %t; want %s", value, got, ok, want)
		}
	}
	for name, value := range map[string]string{"wal_sender_timeout": "soon", "work_mem": "4MB", "no_such": "1s"} {
		if got, ok := SettingTime(name, value); ok {
			t.Errorf("%s = %s is %s", name, value, got)
		}
	}
}

func TestNeedsRestart(t *testing.T) {
	for name, want := range map[string]bool{
		"shared_buffers": true, "max_connections": true, "work_mem": false, "archive_command": false, "my.thing": false,
	} {
		if got := NeedsRestart(name); got != want {
			t.Errorf("NeedsRestart(%q) = %v", name, got)
		}
	}
}
