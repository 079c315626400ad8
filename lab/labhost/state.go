package labhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/lab/internal/delay"
	"github.com/pgha/terraform-provider-pgha/lab/internal/network"
	"github.com/pgha/terraform-provider-pgha/lab/internal/plan"
	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
)

// state is what a lab shall be like. It is in a file, and never says what is
// running: that is asked of the kernel, which cannot be wrong about it.
type state struct {
	Name        string
	Net         plan.Net
	Release     string
	Image       Image
	DiskSize    string
	IPv6Only    bool     `json:",omitempty"`
	Datacenters []string // the first is number 1
	Hosts       []hostState
	Cuts        map[string]cut           // by host or datacenter
	Delays      map[string]delay.Setting // by datacenter
	Owner       *owner                   `json:",omitempty"` // of an ephemeral lab
}

type hostState struct {
	plan.Place
	// HostKey is the public part, as in known_hosts. Without one the host's
	// disk is not finished, and is made anew.
	HostKey string
	// Image and Pool are the folders the disk was made with. It is of no use
	// with others.
	Image, Pool string
}

type cut struct{ FromRunner bool }

// owner is a process, told apart from a later one with the same id.
type owner struct {
	PID   int
	Start string
}

func self() *owner { return &owner{os.Getpid(), startTime(os.Getpid())} }

func (o owner) alive() bool { return startTime(o.PID) == o.Start }

// startTime returns when a process was started, in ticks since this machine
// was, or "" if there is none.
func startTime(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	// proc(5): the 22nd field. The second, a name in parentheses, may hold
	// spaces.
	f := strings.Fields(string(b[max(0, strings.LastIndexByte(string(b), ')')):]))
	if len(f) < 21 {
		return ""
	}
	return f[20]
}

func (s *state) host(name string) *hostState {
	for i := range s.Hosts {
		if s.Hosts[i].Name == name {
			return &s.Hosts[i]
		}
	}
	return nil
}

func (s *state) layout() plan.Layout {
	l := plan.Layout{Datacenters: s.Datacenters}
	for _, h := range s.Hosts {
		l.Hosts = append(l.Hosts, h.Place)
	}
	return l
}

func (s *state) number(dc string) int { return s.layout().DatacenterNumber(dc) }

// targets returns the hosts that names stand for: a host for itself, a
// datacenter for all of its hosts.
func (s *state) targets(names []string) ([]*hostState, error) {
	var hosts []*hostState
	for _, name := range names {
		if h := s.host(name); h != nil {
			hosts = append(hosts, h)
			continue
		}
		if s.number(name) == 0 {
			return nil, s.unknown(name)
		}
		for i := range s.Hosts {
			if s.Hosts[i].Datacenter == name {
				hosts = append(hosts, &s.Hosts[i])
			}
		}
	}
	return hosts, nil
}

func (s *state) unknown(name string) error {
	var hosts []string
	for _, h := range s.Hosts {
		hosts = append(hosts, h.Name)
	}
	return fmt.Errorf("lab %s has no host or datacenter %q: it has %s in %s",
		s.Name, name, strings.Join(hosts, ", "), strings.Join(s.Datacenters, ", "))
}

// rules returns the firewall that belongs to the state.
func (s *state) rules() network.Rules {
	r := network.Rules{Net: s.Net, Datacenters: len(s.Datacenters)}
	for name, c := range s.Cuts {
		if h := s.host(name); h != nil {
			r.CutHosts = append(r.CutHosts, network.HostCut{Datacenter: s.number(h.Datacenter), Number: h.Number, FromRunner: c.FromRunner})
		} else {
			r.CutDatacenters = append(r.CutDatacenters, network.DatacenterCut{Number: s.number(name), FromRunner: c.FromRunner})
		}
	}
	for _, h := range s.Hosts {
		if h.Number == plan.BastionNumber {
			r.Bastions = append(r.Bastions, s.number(h.Datacenter))
		}
	}
	return r
}

// reachable reports whether a host's cuts leave it open to this machine.
func (s *state) reachable(h *hostState) bool {
	if s.Cuts[h.Name].FromRunner || s.Cuts[h.Datacenter].FromRunner {
		return false
	}
	// Behind a bastion, this machine comes from another host.
	if via := s.via(h); via != nil {
		_, cutHost := s.Cuts[h.Name]
		_, cutVia := s.Cuts[via.Name]
		return !cutHost && !cutVia
	}
	return true
}

// via returns the bastion that leads to a host, or nil.
func (s *state) via(h *hostState) *hostState {
	b := s.host(plan.BastionName(h.Datacenter))
	if b == nil || b.Number != plan.BastionNumber || b.Name == h.Name {
		return nil
	}
	return b
}

// kind returns the kind of image a host's disk was made with.
func (h hostState) kind() Image {
	kind, _, _ := strings.Cut(filepath.Base(h.Image), "-")
	return Image(kind)
}

// place is where a lab keeps its files.
type place struct {
	cache, name string
}

func (p place) dir() string                  { return filepath.Join(p.cache, "labs", p.name) }
func (p place) stateFile() string            { return filepath.Join(p.dir(), "lab.json") }
func (p place) host(name string) string      { return filepath.Join(p.dir(), "hosts", name) }
func (p place) lockFile() string             { return filepath.Join(p.cache, "locks", "lab-"+p.name) }
func (p place) keyFile() string              { return filepath.Join(p.dir(), "id_ed25519") }
func (p place) knownHostsFile() string       { return filepath.Join(p.dir(), "known_hosts") }
func (p place) sshConfigFile() string        { return filepath.Join(p.dir(), "ssh_config") }
func (p place) group() sys.Group             { return root + "/" + sys.Group(p.name) }
func (p place) hostGroup(h string) sys.Group { return p.group() + "/" + sys.Group(h) }

// delayGroup's name cannot be that of a host.
func (p place) delayGroup() sys.Group { return p.group() + "/.delay" }

// root is the control group of all labs.
const root sys.Group = "pgha-lab"

// ErrNoLab is what is wrong when there is no lab of a name.
var ErrNoLab = errors.New("there is no such lab")

func (p place) load() (*state, error) {
	b, err := os.ReadFile(p.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s (bring one up with: lab up --name %s dc1=pg1,pg2,pg3)", ErrNoLab, p.name, p.name)
	}
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("the state of lab %s cannot be read; remove the lab with: lab down --name %s: %w", p.name, p.name, err)
	}
	return &s, nil
}

func (p place) save(s *state) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.dir(), 0o755); err != nil {
		return err
	}
	return sys.WriteFile(p.stateFile(), append(b, '\n'), 0o644)
}

// lock keeps other commands off the lab until release is called.
func (p place) lock(ctx context.Context, log func(string, ...any)) (release func(), err error) {
	return sys.Lock(ctx, p.lockFile(), func(holder string) {
		log("waiting for another command on this lab: %s", holder)
	})
}

// lockAll keeps other labs from choosing an address range, and from counting
// labs, until release is called.
func lockAll(ctx context.Context, cache string) (release func(), err error) {
	return sys.Lock(ctx, filepath.Join(cache, "locks", "labs"), nil)
}

// labs returns the places of all labs that have files.
func labs(cache string) []place {
	entries, _ := os.ReadDir(filepath.Join(cache, "labs"))
	var places []place
	for _, e := range entries {
		if e.IsDir() {
			places = append(places, place{cache, e.Name()})
		}
	}
	return places
}
