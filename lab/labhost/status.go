package labhost

import (
	"fmt"
	"strings"
)

// Status is what a host is doing.
type Status struct {
	Host
	Release string
	Image   Image
	// State is running, frozen, off, or lost: off, and without a disk, which
	// this machine held in its memory until it was rebooted.
	State string
	// Network says how the host, or its datacenter, is cut off or moved away.
	Network string
}

// Status returns what every host is doing, as the kernel sees it.
func (l *Lab) Status() ([]Status, error) {
	s, err := l.load()
	if err != nil {
		return nil, err
	}
	var all []Status
	for i, h := range s.publicHosts() {
		st := Status{Host: h, Release: s.Release, Image: s.Hosts[i].kind(), State: "off"}
		group, err := l.hostGroup(h.Name).State()
		if err != nil {
			return nil, err
		}
		switch {
		case group.Frozen && group.Populated:
			st.State = "frozen"
		case group.Populated:
			st.State = "running"
		case !l.hasDisk(&s.Hosts[i]):
			st.State = "lost"
		}
		var notes []string
		for _, name := range []string{h.Name, h.Datacenter} {
			if c, ok := s.Cuts[name]; ok && c.FromRunner {
				notes = append(notes, name+" is cut off, from here too")
			} else if ok {
				notes = append(notes, name+" is cut off")
			}
		}
		if d, ok := s.Delays[h.Datacenter]; ok {
			notes = append(notes, fmt.Sprintf("%s is %v away", h.Datacenter, d.Delay))
		}
		st.Network = strings.Join(notes, ", ")
		all = append(all, st)
	}
	return all, nil
}
