package fakehost

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Service is what runs in a unit. Its methods are called as in World.Do, and
// must not wait.
type Service interface {
	// Start is called when systemd has started the unit, which is
	// "activating" then. The service calls Unit.Ready, or Unit.Exit.
	Start(u *Unit)
	// Stop asks the service to end; it calls Unit.Exit when it has.
	Stop(u *Unit)
	// Reload makes it read its configuration again.
	Reload(u *Unit)
	// Lost says that the machine lost power under it.
	Lost(u *Unit)
}

// Unit is a systemd unit.
type Unit struct {
	Machine     *Machine
	Name        string
	Active, Sub string
	Enabled     string // "enabled", "disabled"
	NeedsReload bool
	// DropIns is the text of the drop-ins as systemd last read them.
	DropIns string
	// File is the text of the unit's own file, if it is in /etc/systemd/system,
	// as systemd last read it.
	File     string
	own      bool
	Restarts int
	Result   string
	PID      int
	Service  Service

	journal []line
	starts  int
	started int64 // seconds since 1970
}

// line is a line of a unit's journal. The lines of a machine are numbered.
type line struct {
	number int
	text   string
}

// AddUnit adds a unit with the service in it, which may be nil: it is then
// active as soon as it is started.
func (m *Machine) AddUnit(name string, s Service) *Unit {
	if u := m.Units[name]; u != nil {
		return u
	}
	u := &Unit{Machine: m, Name: name, Active: "inactive", Sub: "dead", Enabled: "disabled", Result: "success", Service: s}
	u.DropIns = u.dropInText()
	m.Units[name] = u
	return u
}

func (m *Machine) sortedUnits() []*Unit {
	var list []*Unit
	for _, name := range slices.Sorted(maps.Keys(m.Units)) {
		list = append(list, m.Units[name])
	}
	return list
}

func (u *Unit) dropInText() string {
	var b strings.Builder
	dir := "/etc/systemd/system/" + u.Name + ".d"
	for _, name := range u.Machine.Files.List(dir) {
		b.Write(u.Machine.Files.Read(dir + "/" + name))
	}
	return b.String()
}

// Running reports whether the unit's process is there.
func (u *Unit) Running() bool { return u.PID != 0 }

// Logf adds a line to the unit's journal.
func (u *Unit) Logf(format string, args ...any) {
	u.Machine.logged++
	u.journal = append(u.journal, line{u.Machine.logged, fmt.Sprintf(format, args...)})
}

func (u *Unit) start() {
	if u.Running() || u.Active == "deactivating" {
		return
	}
	u.Machine.World.pids++
	u.starts++
	u.started = time.Now().Unix()
	u.PID = 1000 + u.Machine.World.pids
	u.Active, u.Sub, u.Result = "activating", "start", "success"
	if u.Service == nil {
		u.Ready()
		return
	}
	u.Service.Start(u)
}

// Ready makes the unit active.
func (u *Unit) Ready() { u.Active, u.Sub = "active", "running" }

// Exit ends the unit's process. With restart systemd starts it again by itself
// after the given time of the world, as often as it takes.
func (u *Unit) Exit(result string, restart int) {
	stopping := u.Active == "deactivating"
	u.PID, u.Result = 0, result
	switch {
	case stopping || result == "success" && restart == 0:
		u.Active, u.Sub, u.Result = "inactive", "dead", "success"
	case restart > 0:
		u.Active, u.Sub = "activating", "auto-restart"
		starts := u.starts
		u.Machine.World.After(seconds(restart), func() {
			if u.Sub == "auto-restart" && u.starts == starts && u.Machine.Up {
				u.Restarts++
				u.start()
			}
		})
	default:
		u.Active, u.Sub = "failed", "failed"
	}
}

// Killed says that the unit's process was ended by SIGKILL. Nobody starts it again.
func (u *Unit) Killed() { u.PID, u.Active, u.Sub, u.Result = 0, "failed", "failed", "signal" }

// Start starts the unit, and does not wait until it is ready.
func (u *Unit) Start() { u.start() }

func (u *Unit) stop() {
	switch {
	case !u.Running():
		u.Active, u.Sub = "inactive", "dead"
	case u.Service == nil:
		u.Active = "deactivating"
		u.Exit("success", 0)
	default:
		u.Active, u.Sub = "deactivating", "stop-sigterm"
		u.Service.Stop(u)
	}
}

// lost is a power cut.
func (u *Unit) lost() {
	if u.Service != nil {
		u.Service.Lost(u)
	}
	u.PID, u.Active, u.Sub, u.Restarts = 0, "inactive", "dead", 0
}
