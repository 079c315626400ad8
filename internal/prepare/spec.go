// Package prepare makes a host ready for a database: package repositories,
// kernel settings, limits, time, names; and checks beforehand whether it can be
// one. Everything it changes it can undo.
package prepare

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Spec is a host as it should be.
type Spec struct {
	Target    host.Target
	Preflight Preflight
	Apt       Apt
	Sysctl    map[string]string
	// NoFile is the limit of open files for database users; 0 leaves it.
	NoFile int64
	// InstallChrony has chrony installed where nothing keeps the time.
	InstallChrony bool
	// CheckTime reports a clock that nothing keeps.
	CheckTime bool
	// Hosts are names to know, with their addresses.
	Hosts map[string]string
}

// Preflight are the thresholds of the checks before anything is changed.
type Preflight struct {
	Enforce      Enforce
	CPUs         int64
	Memory       int64 // bytes
	Disk         int64 // bytes free
	DiskPath     string
	MaxClockSkew time.Duration
	MaxLookup    time.Duration
	Ports        []int64 // must be free on a host that is new to us
}

// Enforce says what a finding leads to.
type Enforce string

// What a finding can lead to.
const (
	EnforceError Enforce = "error"
	EnforceWarn  Enforce = "warn"
	EnforceOff   Enforce = "off"
)

// Apt is how the host gets its packages.
type Apt struct {
	Repositories map[string]Repository
	Proxy        string
	// AllowExpired accepts Release files past their date.
	AllowExpired bool
	// Manage is false if nothing about apt was asked for.
	Manage bool
}

// Repository is a package repository in deb822 form (man sources.list).
type Repository struct {
	URIs, Suites, Components, Architectures []string
	// SigningKey is the armoured key itself; SigningKeyPath is a keyring on
	// the host. With neither, Debian's own keyrings count.
	SigningKey, SigningKeyPath string
	// Trusted skips the check of signatures.
	Trusted bool
}

// MarkerPath is the file that says what was changed on a host.
const MarkerPath = "/etc/pgha/host.json"

const (
	aptConfPath = "/etc/apt/apt.conf.d/90pgha"
	sysctlPath  = "/etc/sysctl.d/90-pgha.conf"
	limitsPath  = "/etc/security/limits.d/90-pgha.conf"
	hostsPath   = "/etc/hosts"
	header      = "# Written by the pgha provider; changes are overwritten.\n"
)

func sourcesPath(name string) string { return "/etc/apt/sources.list.d/pgha-" + name + ".sources" }
func keyPath(name string) string     { return "/etc/apt/keyrings/pgha-" + name + ".asc" }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// files renders all files but /etc/hosts.
func (s Spec) files() []remote.File {
	var files []remote.File
	for _, name := range sortedKeys(s.Apt.Repositories) {
		r := s.Apt.Repositories[name]
		if r.SigningKey != "" {
			files = append(files, remote.File{Path: keyPath(name), Content: []byte(strings.TrimSpace(r.SigningKey) + "\n")})
		}
		files = append(files, remote.File{Path: sourcesPath(name), Content: []byte(r.render(name))})
	}
	if conf := s.Apt.conf(); conf != "" {
		file := remote.File{Path: aptConfPath, Content: []byte(conf)}
		if strings.Contains(s.Apt.Proxy, "@") {
			file.Mode = "0640" // it has a password
		}
		files = append(files, file)
	}
	if len(s.Sysctl) > 0 {
		var b strings.Builder
		b.WriteString(header)
		for _, k := range sortedKeys(s.Sysctl) {
			fmt.Fprintf(&b, "%s = %s\n", k, s.Sysctl[k])
		}
		files = append(files, remote.File{Path: sysctlPath, Content: []byte(b.String())})
	}
	if s.NoFile > 0 {
		var b strings.Builder
		b.WriteString(header)
		for _, user := range []string{"postgres", "etcd"} {
			fmt.Fprintf(&b, "%s soft nofile %d\n%s hard nofile %d\n", user, s.NoFile, user, s.NoFile)
		}
		files = append(files, remote.File{Path: limitsPath, Content: []byte(b.String())})
	}
	return files
}

func (r Repository) render(name string) string {
	var b strings.Builder
	b.WriteString(header)
	field := func(key string, values ...string) {
		if len(values) > 0 {
			fmt.Fprintf(&b, "%s: %s\n", key, strings.Join(values, " "))
		}
	}
	field("Types", "deb")
	field("URIs", r.URIs...)
	field("Suites", r.Suites...)
	field("Components", r.Components...)
	field("Architectures", r.Architectures...)
	switch {
	case r.SigningKey != "":
		field("Signed-By", keyPath(name))
	case r.SigningKeyPath != "":
		field("Signed-By", r.SigningKeyPath)
	}
	if r.Trusted {
		field("Trusted", "yes")
	}
	return b.String()
}

func (a Apt) conf() string {
	var b strings.Builder
	if a.Proxy != "" {
		fmt.Fprintf(&b, "Acquire::http::Proxy %q;\nAcquire::https::Proxy %q;\n", a.Proxy, a.Proxy)
	}
	if a.AllowExpired {
		b.WriteString("Acquire::Check-Valid-Until \"false\";\n")
	}
	if b.Len() == 0 {
		return ""
	}
	return "// Written by the pgha provider; changes are overwritten.\n" + b.String()
}

const (
	hostsBegin = "# begin pgha: written by the pgha provider, changes between the marks are overwritten"
	hostsEnd   = "# end pgha"
)

// hostsFile puts our entries between two marks into what there is. A mark without
// the other one is only a line: what follows it may be somebody else's.
func hostsFile(have []byte, entries map[string]string) []byte {
	var out []string
	begin := -1 // where our part begins in out
	for line := range strings.Lines(string(have)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == hostsBegin:
			begin = len(out)
		case line == hostsEnd && begin >= 0:
			out, begin = out[:begin], -1
		case line == hostsEnd:
		default:
			out = append(out, line)
		}
	}
	if len(entries) > 0 {
		out = append(out, hostsBegin)
		for _, name := range sortedKeys(entries) {
			out = append(out, entries[name]+"\t"+name)
		}
		out = append(out, hostsEnd)
	}
	return []byte(strings.Join(out, "\n") + "\n")
}
