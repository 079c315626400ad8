package labhost

import (
	"fmt"
	"slices"

	"github.com/pgha/terraform-provider-pgha/lab/internal/debian"
	"github.com/pgha/terraform-provider-pgha/lab/internal/plan"
)

// Lab is a lab that was brought up. Its methods may be called from several
// goroutines, and from several processes, at once.
type Lab struct {
	Name    string
	Release string // of Debian, by its name
	// Dir is the folder of everything that belongs to the lab.
	Dir string
	// KeyFile is the private key that opens every host, as root and as admin
	// (who may use sudo without a password).
	KeyFile string
	// KnownHostsFile lists the hosts' keys, by address and by name.
	KnownHostsFile string
	// SSHConfigFile makes "ssh -F" know the hosts by name.
	SSHConfigFile string
	// RunnerAddr and RunnerAddr6 are this machine's addresses, as the hosts
	// see it.
	RunnerAddr, RunnerAddr6 string

	place
	net   plan.Net
	dcs   []string
	hosts []Host
	pool  string
	log   func(format string, args ...any)
	idle  idle
}

// Host is one host of a lab.
type Host struct {
	Name       string
	Datacenter string
	Addr       string // IPv4; in a lab without it, IPv6
	Addr6      string // IPv6
	// Bastion says that the host is its datacenter's bastion.
	Bastion bool
	// Via is the name of the bastion that leads to the host, if one has to be
	// used.
	Via string
}

// Open returns a lab that was brought up earlier, perhaps by another process.
// Only Name, Cache and Progress of the options are looked at.
func Open(o Options) (*Lab, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	p := place{o.Cache, o.Name}
	s, err := p.load()
	if err != nil {
		return nil, err
	}
	return newLab(p, s, o.log()), nil
}

func newLab(p place, s *state, log func(string, ...any)) *Lab {
	run := s.Net.Runner()
	l := &Lab{
		Name: p.name, Release: s.Release, Dir: p.dir(),
		KeyFile: p.keyFile(), KnownHostsFile: p.knownHostsFile(), SSHConfigFile: p.sshConfigFile(),
		RunnerAddr: run.V4.String(), RunnerAddr6: run.V6.String(),
		place: p, net: s.Net, dcs: s.Datacenters, hosts: s.publicHosts(), log: log,
	}
	for _, h := range s.Hosts {
		l.pool = h.Pool
	}
	return l
}

// publicHosts returns the hosts as users of the lab see them.
func (s *state) publicHosts() []Host {
	var hosts []Host
	for i := range s.Hosts {
		h := &s.Hosts[i]
		a := s.Net.Host(s.number(h.Datacenter), h.Number)
		p := Host{
			Name: h.Name, Datacenter: h.Datacenter, Addr: a.V4.String(), Addr6: a.V6.String(),
			Bastion: h.Number == plan.BastionNumber,
		}
		if s.IPv6Only {
			p.Addr = p.Addr6
		}
		if via := s.via(h); via != nil {
			p.Via = via.Name
		}
		hosts = append(hosts, p)
	}
	return hosts
}

// Hosts returns all hosts, in the order in which they were given.
func (l *Lab) Hosts() []Host { return slices.Clone(l.hosts) }

// Host returns the host of a name. It panics if there is none: names are
// written in the test that asks.
func (l *Lab) Host(name string) Host {
	h, err := l.find(name)
	if err != nil {
		panic(err)
	}
	return h
}

func (l *Lab) find(name string) (Host, error) {
	for _, h := range l.hosts {
		if h.Name == name {
			return h, nil
		}
	}
	return Host{}, fmt.Errorf("lab %s has no host %q", l.Name, name)
}

// VIP returns the i-th address (from 1, to 99) of a datacenter that is set
// aside for virtual addresses: no host ever has it.
func (l *Lab) VIP(datacenter string, i int) (addr, addr6 string) {
	n := slices.Index(l.dcs, datacenter) + 1
	if n == 0 {
		panic(fmt.Sprintf("lab %s has no datacenter %q", l.Name, datacenter))
	}
	a, err := l.net.VIP(n, i)
	if err != nil {
		panic(err)
	}
	return a.V4.String(), a.V6.String()
}

// Versions returns the versions of a package that apt in the hosts can
// install, the oldest first. A test of an upgrade skips when there is only one.
func (l *Lab) Versions(pkg string) ([]string, error) {
	all, err := debian.Versions(l.pool)
	if err != nil {
		return nil, err
	}
	return all[pkg], nil
}

// Pool returns all packages that apt in the hosts can install, each with its
// versions, the oldest first.
func (l *Lab) Pool() (map[string][]string, error) { return debian.Versions(l.pool) }

// Env returns what a Terraform provider has to find in its environment, as
// NAME=value, to reach the hosts.
func (l *Lab) Env() []string {
	return []string{
		"PGHA_SSH_USER=root",
		"PGHA_SSH_PRIVATE_KEY_FILE=" + l.KeyFile,
		"PGHA_SSH_KNOWN_HOSTS_FILE=" + l.KnownHostsFile,
	}
}
