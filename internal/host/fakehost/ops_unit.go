package fakehost

import (
	"strconv"
)

// unitOp is systemctl.
func unitOp(o *Op) error {
	m, verb := o.Machine, o.Arg(1)
	if verb == "daemon-reload" {
		m.ReadUnitFiles()
		return nil
	}
	for _, name := range o.Cmd.Args[1:] {
		u := m.Units[name]
		if u == nil {
			if verb == "reset-failed" || verb == "drop" {
				continue
			}
			return o.Fail(5, "Failed to %s %s: Unit %s not found.", verb, name, name)
		}
		if err := o.systemctl(verb, u); err != nil {
			return err
		}
	}
	return nil
}

// Tell tells those who watch what is about to be done to a unit.
func (o *Op) Tell(verb string, u *Unit) {
	for _, f := range o.Machine.World.onUnit {
		f(verb, u)
	}
}

func (o *Op) systemctl(verb string, u *Unit) error {
	o.Tell(verb, u)
	switch verb {
	case "enable", "disable":
		u.Enabled = verb + "d"
	case "reset-failed":
		u.Restarts = 0
		if u.Active == "failed" {
			u.Active, u.Sub, u.Result = "inactive", "dead", "success"
		}
	case "start":
		u.start()
		if !o.Wait(func() bool { return u.Active != "activating" }) || u.Active == "failed" {
			return o.Fail(1, "Job for %s failed because the control process exited with error code.", u.Name)
		}
	case "drop":
		u.stop()
		u.Active, u.Sub, u.Result = "inactive", "dead", "success"
	case "start-no-block":
		u.start()
	case "stop":
		u.stop()
		if !o.Wait(func() bool { return u.Active == "inactive" || u.Active == "failed" }) {
			return o.Fail(1, "Job for %s timed out.", u.Name)
		}
	case "restart":
		u.stop()
		if !o.Wait(func() bool { return !u.Running() && u.Active != "deactivating" }) {
			return o.Fail(1, "Job for %s timed out.", u.Name)
		}
		u.start()
		if !o.Wait(func() bool { return u.Active == "active" || u.Active == "failed" }) || u.Active != "active" {
			return o.Fail(1, "Job for %s failed because the control process exited with error code.", u.Name)
		}
	case "reload":
		if u.Active != "active" {
			return o.Fail(1, "%s is not active, cannot reload.", u.Name)
		}
		if u.Service != nil {
			u.Service.Reload(u)
		}
	default:
		o.Machine.World.TB.Errorf("systemctl %s is not modelled", verb)
	}
	return nil
}

// OnUnit has f told of every systemctl verb on a unit, before it acts: tests
// watch there that nothing is stopped that must run.
func (w *World) OnUnit(f func(verb string, u *Unit)) { w.onUnit = append(w.onUnit, f) }

func journal(o *Op) error {
	u := o.Machine.Units[o.Arg(1)]
	if u == nil {
		return nil
	}
	n, _ := strconv.Atoi(o.Arg(2))
	after, _ := strconv.Atoi(o.Arg(3))
	var lines []string
	for _, l := range u.journal {
		if l.number > after {
			lines = append(lines, l.text)
		}
	}
	for _, l := range lines[max(0, len(lines)-n):] {
		o.Printf("%s\n", l)
	}
	return nil
}

// journalEnd is the cursor of the machine's last line: its number.
func journalEnd(o *Op) error {
	if n := o.Machine.logged; n > 0 {
		o.Printf("%d\n", n)
	}
	return nil
}

// recentLog is what a unit has logged: all of it, for there are no times.
func recentLog(o *Op) error {
	if u := o.Machine.Units[o.Arg(1)]; u != nil {
		for _, l := range u.journal {
			o.Printf("%s\n", l.text)
		}
	}
	return nil
}
