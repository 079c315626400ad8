package fakehost

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// Machine is one host. Its fields are only touched in World.Do.
type Machine struct {
	World   *World
	Name    string
	Address string
	OS      OS

	Files    *Files
	Packages map[string]*Package
	// Repository is what the host's repositories have; Lists is what apt knew
	// of it when its lists were last renewed.
	Repository, Lists map[string][]string
	// Source is of which source package a package was built, if not of one of its own
	// name. Exact is of which package it needs exactly its own version.
	Source, Exact map[string]string
	Units         map[string]*Unit
	Accounts      map[string]int
	Sysctl        map[string]string
	// Refused are the kernel settings that this kernel does not let be set.
	Refused map[string]bool
	// Ports are listeners of which nothing more is known: port to process.
	Ports map[int]string

	Skew         time.Duration
	Synchronized bool
	TimeService  string
	LookupTime   time.Duration
	Names        map[string][]string // addresses by name
	DiskKiB      int64               // free
	ReadOnly     bool

	// Up is false while the machine is off; Cut while nobody can reach it
	// from where the provider runs.
	Up, Cut bool

	listeners map[int]listener
	locks     map[string]*lock
	conns     map[net.Conn]bool
	boots     int
	logged    int // lines in the journal
}

// OS is what a host says about itself.
type OS struct {
	ID, Version, Codename, Pretty string
	Arch, Kernel, Hostname        string
	MachineID, BootID, Init       string
	CPUs                          int
	MemoryKiB, SwapKiB            int64
}

// AddDebian adds a host that runs a release of Debian and has nothing but the
// base system.
func (w *World) AddDebian(name, address, version string) *Machine {
	codename := map[string]string{"12": "bookworm", "13": "trixie"}[version]
	m := &Machine{
		World: w, Name: name, Address: address,
		OS: OS{
			ID: "debian", Version: version, Codename: codename, Pretty: fmt.Sprintf("Debian GNU/Linux %s (%s)", version, codename),
			Arch: "amd64", Kernel: "6.12.57+deb13-amd64", Hostname: name, Init: "systemd", CPUs: 4, MemoryKiB: 8 << 20,
			MachineID: fmt.Sprintf("%032x", Hash(1, "machine", name, address)),
		},
		Packages: map[string]*Package{}, Repository: map[string][]string{}, Lists: map[string][]string{},
		Source: map[string]string{}, Exact: map[string]string{},
		Units: map[string]*Unit{}, Accounts: map[string]int{"root": 0}, Sysctl: map[string]string{}, Refused: map[string]bool{},
		Ports: map[int]string{}, Synchronized: true, TimeService: "systemd-timesyncd", LookupTime: time.Millisecond, DiskKiB: 100 << 20,
		listeners: map[int]listener{}, locks: map[string]*lock{}, conns: map[net.Conn]bool{},
	}
	m.Files = newFiles(m.fileChanged)
	w.Do(func() {
		if w.machines[address] != nil {
			w.TB.Fatalf("two machines at %s", address)
		}
		w.machines[address] = m
		w.order = append(w.order, m)
		for _, dir := range []string{"/etc", "/var/lib", "/run", "/tmp"} {
			m.Files.Put(dir, File{Type: Dir})
		}
		m.Files.Text("/etc/hosts", "127.0.0.1\tlocalhost\n"+address+"\t"+name+"\n")
		m.boot()
	})
	return m
}

// Machines returns all machines in the order in which they were added.
func (w *World) Machines() []*Machine { return slices.Clone(w.order) }

// Machine finds a machine by its address, nil if there is none.
func (w *World) Machine(address string) *Machine { return w.machines[address] }

func (m *Machine) boot() {
	m.Up = true
	m.boots++
	m.OS.BootID = fmt.Sprintf("%016x", Hash(2, "boot", m.Name, m.boots))
	for _, p := range m.Files.Below("/run") {
		if m.Files.Get(p) != nil {
			m.Files.Remove(p)
		}
	}
	for _, u := range m.sortedUnits() {
		if u.Enabled == "enabled" {
			u.start()
		}
	}
}

// PowerOff takes the power away: nothing gets to clean up.
func (m *Machine) PowerOff() {
	m.Up = false
	for _, u := range m.sortedUnits() {
		u.lost()
	}
	m.listeners = map[int]listener{}
	for _, l := range m.locks {
		l.drop()
	}
	m.locks = map[string]*lock{}
	m.dropConnections()
}

// PowerOn boots a machine that is off: what is enabled starts.
func (m *Machine) PowerOn() {
	if !m.Up {
		m.boot()
	}
}

// Reaches reports whether a machine gets through to another one.
func (m *Machine) Reaches(other *Machine) bool {
	if m == other {
		return m.Up
	}
	return m.Up && other != nil && other.Up && !m.World.cut[[2]string{m.Name, other.Name}] && !m.World.cut[[2]string{other.Name, m.Name}]
}

// Partition cuts the network between two machines, or mends it.
func (w *World) Partition(a, b *Machine, cut bool) { w.cut[[2]string{a.Name, b.Name}] = cut }

// fileChanged notes what a changed file means for others.
func (m *Machine) fileChanged(p string) {
	rest, ok := strings.CutPrefix(p, "/etc/systemd/system/")
	if !ok {
		return
	}
	if u := m.Units[rest]; u != nil && u.own {
		u.NeedsReload = string(m.Files.Read(p)) != u.File
	}
	name, _, ok := strings.Cut(rest, ".d/")
	if u := m.Units[name]; ok && u != nil {
		u.NeedsReload = u.dropInText() != u.DropIns
	}
}

// Account makes a system account unless it is there.
func (m *Machine) Account(name string) {
	if _, ok := m.Accounts[name]; !ok {
		m.Accounts[name] = 100 + len(m.Accounts)
	}
}
