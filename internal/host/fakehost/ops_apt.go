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

func aptLookup(o *Op) error {
	for _, name := range o.Cmd.Args {
		for _, v := range o.Machine.Repository[name] {
			o.Printf("%s=%s\n", name, v)
		}
	}
	return nil
}

func aptInstall(o *Op) error {
	m := o.Machine
	type wanted struct{ name, version string }
	var all []wanted
	for _, arg := range o.Cmd.Args[1:] {
		name, version, pinned := strings.Cut(arg, "=")
		have := m.Lists[name]
		switch {
		case len(have) == 0:
			return o.Fail(100, "E: Unable to locate package %s", name)
		case !pinned:
			for _, v := range have {
				if version == "" || debver.Compare(v, version) > 0 {
					version = v
				}
			}
		case !slices.Contains(have, version):
			return o.Fail(100, "E: Version '%s' for '%s' was not found", version, name)
		}
		all = append(all, wanted{name, version})
	}
	for _, w := range all {
		if p := m.Packages[w.name]; p != nil {
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
