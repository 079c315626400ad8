package fakehost

import (
	"strings"
)

// unitDir is where an administrator's unit files are.
const unitDir = "/etc/systemd/system"

// OnUnitFile says what runs in units of a name whose files are written to
// /etc/systemd/system. Others are active as soon as they are started.
func (w *World) OnUnitFile(name string, service func(*Machine) Service) {
	w.unitServices[name] = service
}

// ReadUnitFiles is systemctl daemon-reload, done by somebody else.
func (m *Machine) ReadUnitFiles() {
	m.readUnitFiles()
	for _, u := range m.Units {
		u.DropIns, u.NeedsReload = u.dropInText(), false
	}
}

// readUnitFiles is what systemd does with them when it is told to: units come,
// change, and go if they do not run.
func (m *Machine) readUnitFiles() {
	for _, name := range m.Files.List(unitDir) {
		text := m.Files.Read(unitDir + "/" + name)
		if text == nil {
			continue
		}
		u := m.Units[name]
		if u == nil {
			var s Service
			if make := m.World.unitServices[name]; make != nil {
				s = make(m)
			}
			u = m.AddUnit(name, s)
		}
		u.File, u.own = string(text), true
		if !strings.Contains(u.File, "[Install]") {
			u.Enabled = "static"
		}
	}
	for name, u := range m.Units {
		if u.own && m.Files.Read(unitDir+"/"+name) == nil && !u.Running() {
			delete(m.Units, name)
		}
	}
}

// Elapse starts a unit as a timer does.
func (u *Unit) Elapse() { u.start() }

// Halt stops the unit, as a person would on its host.
func (u *Unit) Halt() { u.stop() }
