package prepare

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Found reads back what was prepared on a host: from the files that the marker
// names, so it is what an apply would have to be told to change nothing. A host
// that was never prepared has nothing of ours. It changes nothing.
func (m *Manager) Found(ctx context.Context, t host.Target) (Spec, Facts, error) {
	h := m.Fleet.Host(t)
	s := Spec{Target: t, Sysctl: map[string]string{}, Hosts: map[string]string{}, Apt: Apt{Repositories: map[string]Repository{}}}
	f, err := Probe(ctx, h, s)
	if err != nil || f.Marker == nil {
		return s, f, err
	}
	if f.Marker.Name != t.Name {
		return s, f, fmt.Errorf("this host was prepared under the name %q, not %q", f.Marker.Name, t.Name)
	}
	var p remote.Probe
	for _, file := range f.Marker.Files {
		p.Secret(file)
	}
	files, err := p.Run(ctx, h)
	if err != nil {
		return s, f, err
	}
	for _, file := range f.Marker.Files {
		s.read(file, string(files.Path(file).Content))
	}
	s.InstallChrony = f.Marker.ChronyInstalled
	s.CheckTime = f.Marker.CheckTime
	if f.Marker.HostsEntries {
		s.Hosts = ourHosts(string(f.Path(hostsPath).Content))
	}
	return s, f, nil
}

// read takes what one of our files says.
func (s *Spec) read(file, text string) {
	fields := func(separator string) map[string]string {
		all := map[string]string{}
		for line := range strings.Lines(text) {
			if k, v, ok := strings.Cut(line, separator); ok && !strings.HasPrefix(line, "#") {
				all[strings.TrimSpace(k)] = strings.TrimSpace(v)
			}
		}
		return all
	}
	switch {
	case file == sysctlPath:
		s.Sysctl = fields("=")
	case file == limitsPath:
		words := strings.Fields(text[strings.LastIndexByte(strings.TrimSpace(text), ' ')+1:])
		if len(words) > 0 {
			s.NoFile, _ = strconv.ParseInt(words[0], 10, 64)
		}
	case file == aptConfPath:
		s.Apt.AllowExpired = strings.Contains(text, "Check-Valid-Until")
		if _, rest, ok := strings.Cut(text, "Acquire::http::Proxy "); ok {
			line, _, _ := strings.Cut(rest, ";")
			s.Apt.Proxy, _ = strconv.Unquote(line)
		}
	case strings.HasPrefix(file, sourcesPath("")[:len(sourcesPath(""))-len(".sources")]):
		name := strings.TrimSuffix(strings.TrimPrefix(path.Base(file), "pgha-"), ".sources")
		r, all := s.Apt.Repositories[name], fields(":")
		r.URIs, r.Suites = strings.Fields(all["URIs"]), strings.Fields(all["Suites"])
		r.Components, r.Architectures = strings.Fields(all["Components"]), strings.Fields(all["Architectures"])
		r.Trusted = all["Trusted"] == "yes"
		if key := all["Signed-By"]; key != keyPath(name) {
			r.SigningKeyPath = key
		}
		s.Apt.Repositories[name] = r
	case strings.HasPrefix(file, "/etc/apt/keyrings/pgha-"):
		name := strings.TrimSuffix(strings.TrimPrefix(path.Base(file), "pgha-"), ".asc")
		r := s.Apt.Repositories[name]
		r.SigningKey = text
		s.Apt.Repositories[name] = r
	}
}

// ourHosts are the entries between our marks in /etc/hosts, address by name.
func ourHosts(text string) map[string]string {
	entries := map[string]string{}
	_, rest, ok := strings.Cut(text, hostsBegin+"\n")
	ours, _, closed := strings.Cut(rest, hostsEnd)
	if !ok || !closed {
		return entries
	}
	for line := range strings.Lines(ours) {
		if address, name, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			entries[name] = address
		}
	}
	return entries
}

// empty reports whether nothing on the host is to be changed.
func (s Spec) empty() bool { return len(s.files()) == 0 && len(s.Hosts) == 0 && !s.InstallChrony }
