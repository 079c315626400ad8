package fakehost

import (
	"maps"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
)

// Package is a package as dpkg knows it.
type Package struct {
	Version string
	Held    bool
	// Removed: only its configuration is left. Broken: an interrupted dpkg.
	Removed, Broken bool
}

func (p *Package) status() string {
	s := "i"
	if p.Held {
		s = "h"
	}
	switch {
	case p.Removed:
		return s + "c "
	case p.Broken:
		return s + "F "
	}
	return s + "i "
}

// Publish puts versions of a package into a machine's repository, and into the
// lists if they are renewed.
func (m *Machine) Publish(renewed bool, name string, versions ...string) {
	m.Repository[name] = append(m.Repository[name], versions...)
	if renewed {
		m.Lists[name] = slices.Clone(m.Repository[name])
	}
}

// Installed returns the version of a package that is installed, or "".
func (m *Machine) Installed(name string) string {
	if p := m.Packages[name]; p != nil && !p.Removed && !p.Broken {
		return p.Version
	}
	return ""
}

func aptUpdate(o *Op) error {
	m := o.Machine
	m.Lists = map[string][]string{}
	for name, versions := range m.Repository {
		m.Lists[name] = slices.Clone(versions)
	}
	return nil
}

// resolve finds what apt would install for arguments.
func (o *Op) resolve(args []string) ([]wanted, error) {
	m := o.Machine
	var all []wanted
	for _, arg := range args {
		name, version, pinned := strings.Cut(arg, "=")
		have := m.Lists[name]
		switch {
		case len(have) == 0:
			return nil, o.Fail(100, "E: Unable to locate package %s", name)
		case !pinned:
			for _, v := range have {
				if version == "" || debver.Compare(v, version) > 0 {
					version = v
				}
			}
		case !slices.Contains(have, version):
			return nil, o.Fail(100, "E: Version '%s' for '%s' was not found", version, name)
		}
		all = append(all, wanted{name, version})
	}
	// What needs another package in exactly its own version has to come along; it would
	// have to be removed otherwise, which apt-get is told not to do.
	for _, name := range slices.Sorted(maps.Keys(m.Exact)) {
		for _, w := range all {
			if w.name == m.Exact[name] && m.Installed(name) != "" && m.Installed(name) != w.version && !slices.Contains(all, wanted{name, w.version}) {
				return nil, o.Fail(100, " %s : Depends: %s (= %s)\nE: Packages need to be removed but remove is disabled.", name, w.name, m.Installed(name))
			}
		}
	}
	return all, nil
}

type wanted struct{ name, version string }

// aptDownload fetches what aptInstall would install.
func aptDownload(o *Op) error {
	_, err := o.resolve(o.Cmd.Args[1:])
	return err
}

// aptLookup says what the repositories have now, whatever the lists say.
func aptLookup(o *Op) error {
	for _, name := range o.Cmd.Args {
		for _, v := range o.Machine.Repository[name] {
			o.Printf("%s=%s\n", name, v)
		}
	}
	return nil
}

func aptInstall(o *Op) error { return o.Install(o.Cmd.Args[1:]...) }

// Install is apt-get install of packages, with their versions.
func (o *Op) Install(args ...string) error {
	m := o.Machine
	all, err := o.resolve(args)
	if err != nil {
		return err
	}
	for _, w := range all {
		if from := m.Installed(w.name); from != w.version {
			for _, f := range m.World.onVersion {
				f(m, w.name, from, w.version)
			}
		}
		if p := m.Packages[w.name]; p != nil {
			p.Held = p.Held && p.Version == w.version // as apt-get does it
			p.Version, p.Removed, p.Broken = w.version, false, false
		} else {
			m.Packages[w.name] = &Package{Version: w.version}
		}
		m.installed(w.name)
	}
	return nil
}

// installed does what a package's own scripts do. No unit is started: the
// policy-rc.d that is in place meanwhile sees to that.
func (m *Machine) installed(name string) {
	for prefix, f := range m.World.onInstall {
		if strings.HasPrefix(name, prefix) {
			f(m, name)
		}
	}
}

// OnVersion has f told when a package is about to get another version; from is
// empty if it was not installed. Tests watch there that nothing is replaced under
// what runs.
func (w *World) OnVersion(f func(m *Machine, name, from, to string)) {
	w.onVersion = append(w.onVersion, f)
}

// OnInstall has f called when a package whose name begins so was installed.
func (w *World) OnInstall(prefix string, f func(m *Machine, name string)) { w.onInstall[prefix] = f }

func aptHold(o *Op) error {
	for _, name := range o.Cmd.Args[2:] {
		p := o.Machine.Packages[name]
		if p == nil {
			return o.Fail(100, "E: Unable to locate package %s", name)
		}
		p.Held = o.Arg(2) == "hold"
	}
	return nil
}

func aptRemove(o *Op) error {
	for _, name := range o.Cmd.Args[1:] {
		if p := o.Machine.Packages[name]; p != nil {
			p.Removed, p.Held = true, false
		}
	}
	return nil
}

// guardPath is what keeps dpkg from starting services.
const guardPath = "/usr/sbin/policy-rc.d"

func aptUnguard(o *Op) error {
	o.Machine.Files.Remove(guardPath)
	if o.Machine.Files.Get(guardPath+".pgha-saved") != nil {
		o.Machine.Files.Move(guardPath+".pgha-saved", guardPath)
	}
	return nil
}

func sysctlApply(o *Op) error {
	for _, arg := range o.Cmd.Args {
		k, v, _ := strings.Cut(arg, "=")
		if _, known := o.Machine.Sysctl[k]; !known || o.Machine.Refused[k] {
			o.Printf("%s\n", k)
			continue
		}
		o.Machine.Sysctl[k] = v
	}
	return nil
}

// Held lists the held packages.
func (m *Machine) Held() []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(m.Packages)) {
		if m.Packages[name].Held {
			list = append(list, name)
		}
	}
	return list
}
