// Package follow keeps a program of ours on each node of a cluster, under systemd, which
// acts while its node leads: what virtual addresses and DNS records have in common. Etcd
// has noted on which hosts it is, and a marker on each host says whose it is.
package follow

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Agent is such a program: one of a kind on each node for each thing that follows.
type Agent struct {
	Cluster patroni.Cluster
	Kind    string // "vip": in the names of files, units and steps
	Label   string // tells it from others of its kind, in names of files and units
	Subject string // the thing that follows, for people
	// Config and Program are the names of its files. Release is how the program is called,
	// with the folder, to let go of what it holds on a host; empty if it holds nothing there.
	Config, Program, Release string
	// Package is Debian's, at the version that the pin says and held, or where that is empty,
	// at any. PackageUnit is a unit that comes with it and is not to run; empty if none does.
	Package, Pin, PackageUnit string
}

// Node is a node's host, as etcd has it noted.
type Node struct {
	Name    string      `json:"name"`
	Address string      `json:"address"`
	Target  host.Target `json:"target"`
}

const root = "/etc/pgha"

func (a Agent) parent() string { return root + "/" + a.Kind }

// Dir is the folder of the agent's files on a host.
func (a Agent) Dir() string { return a.parent() + "/" + a.Label }

// ConfigPath is the agent's configuration, which says as well whose it is.
func (a Agent) ConfigPath() string { return a.Dir() + "/" + a.Config }

// ProgramPath is the agent's program.
func (a Agent) ProgramPath() string { return a.Dir() + "/" + a.Program }

func (a Agent) name() string { return "pgha-" + a.Kind + "-" + a.Label }

// Unit is the agent's.
func (a Agent) Unit() string { return a.name() + ".service" }

func (a Agent) unitPath() string { return "/etc/systemd/system/" + a.Unit() }

// StatusPath is where the agent says what it does.
func (a Agent) StatusPath() string { return "/run/" + a.name() + "/status.json" }

// ScratchDir is for what is tried on a host before anything is set up. Whoever was killed
// while he did may have left it.
func (a Agent) ScratchDir() string { return "/run/" + a.name() + ".try" }

// DropScratch removes it.
func (a Agent) DropScratch(ctx context.Context, h host.Host) error {
	if err := remote.RemoveFiles(ctx, h, a.ScratchDir()+"/"+a.Config, a.ScratchDir()+"/"+a.Program); err != nil {
		return err
	}
	return remote.RemoveEmptyDirs(ctx, h, a.ScratchDir())
}

// noteKey is where etcd has its hosts noted.
func (a Agent) noteKey() string { return a.Kind + "/" + a.Label }

// Owner is what every configuration says of whose it is.
type Owner struct {
	Cluster string `json:"cluster"`
	UID     string `json:"uid"`
}

// Owner is the one of the agent's cluster.
func (a Agent) Owner() Owner { return Owner{a.Cluster.Name(), a.Cluster.UID} }

// Files are what an agent consists of.
type Files struct {
	Config, Program, Unit remote.File
}

// Files makes them of a configuration and a program. More are the lines of the unit's
// section of the service that only this kind has.
func (a Agent) Files(config any, program []byte, description, more string, sensitive bool) Files {
	text, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		panic(err) // strings, numbers and maps of them
	}
	mode := "0644"
	if sensitive {
		mode = "0600"
	}
	return Files{
		Config:  remote.File{Path: a.ConfigPath(), Content: append(text, '\n'), Mode: mode, Sensitive: sensitive},
		Program: remote.File{Path: a.ProgramPath(), Content: program, Mode: "0755"},
		Unit:    remote.File{Path: a.unitPath(), Content: []byte(a.unitFile(description, more))},
	}
}

// digest is what an agent that runs says it has read.
func (f Files) digest() string {
	sum := sha256.New()
	sum.Write(f.Program.Content)
	sum.Write(f.Config.Content)
	return hex.EncodeToString(sum.Sum(nil))
}

func (a Agent) unitFile(description, more string) string {
	return `# Written by the pgha provider; changes are overwritten.
[Unit]
Description=` + description + `
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart=/usr/bin/python3 -I ` + a.ProgramPath() + ` run ` + a.Dir() + `
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=1
TimeoutStartSec=30
TimeoutStopSec=10
KillMode=mixed
OOMScoreAdjust=-900
RuntimeDirectory=` + a.name() + `
RuntimeDirectoryMode=0755
UMask=0022
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
NoNewPrivileges=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
` + more + `
[Install]
WantedBy=multi-user.target
`
}

// PatroniURL is where an agent asks a node's Patroni, and the path of the authority that
// vouches for who answers; empty if that is not known.
func (a Agent) PatroniURL(k patroni.Known, node string) (url, cafile string) {
	scheme := "https"
	switch {
	case !a.Cluster.Adopted():
		cafile = a.Cluster.AuthorityPath()
	case strings.HasPrefix(k.Members[node].APIURL, "http:"):
		scheme = "http"
	}
	return scheme + "://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(a.Cluster.APIPort)), cafile
}

// Facts are what there is of an agent on a host.
type Facts struct {
	*remote.Facts
	Owner *Owner // nil if there is no configuration
	// Digest is of what the agent that runs has read; empty if none does.
	Digest string
}

// Probe looks at a host.
func (a Agent) Probe(ctx context.Context, h host.Host) (f Facts, err error) {
	var p remote.Probe
	p.OS().Package(a.Package).Unit(a.Unit()).Path(remote.GuardPath)
	p.Path(a.Dir()).Secret(a.ConfigPath()).Path(a.ProgramPath()).Path(a.unitPath()).List(a.parent()).Content(a.StatusPath())
	p.Available(a.Package)
	if a.PackageUnit != "" {
		p.Unit(a.PackageUnit)
	}
	if f.Facts, err = p.Run(ctx, h); err != nil {
		return f, err
	}
	if at := f.Path(a.ConfigPath()); at.Type == remote.Regular {
		f.Owner = new(Owner)
		if json.Unmarshal(at.Content, f.Owner) != nil {
			return f, problem.In(h.Name(), "", fmt.Errorf("%s cannot be read", a.ConfigPath()))
		}
	}
	if at := f.Path(a.StatusPath()); at.Type == remote.Regular && f.Unit(a.Unit()).Running() {
		var status struct{ Digest string }
		_ = json.Unmarshal(at.Content, &status) // one that is being written is like none
		f.Digest = status.Digest
	}
	return f, nil
}

// listsAreStale reports whether the host's package lists lack the wanted version.
func (a Agent) listsAreStale(f Facts) bool {
	have := f.Package(a.Package)
	if a.Pin == "" {
		return !have.Installed && len(f.Available(a.Package)) == 0
	}
	_, listed := debver.Newest(a.Pin, f.Available(a.Package))
	return !listed && !debver.Matches(a.Pin, have.Version)
}

// Nodes are the hosts of nodes that are named.
func (a Agent) Nodes(k patroni.Known, names []string) (map[string]Node, error) {
	nodes := map[string]Node{}
	for _, name := range names {
		r, there := k.Nodes[name]
		if !there {
			return nil, &problem.Error{
				Step: "look the nodes up in etcd", Cause: fmt.Errorf("%s is no node of %s; its nodes are %s", name, a.Cluster.Name(), strings.Join(Sorted(k.Nodes), ", ")),
				Left: "everything.", Do: "name the pgha_patroni_node resources of this cluster in nodes: nodes = { for name, node in pgha_patroni_node.db : name => node.id }.",
			}
		}
		nodes[name] = Node{r.Name, r.Address, r.Target}
	}
	return nodes, nil
}

// Everywhere is what f finds out of each node, side by side; errors come in the order of
// the nodes.
func Everywhere[T any](nodes map[string]Node, f func(n Node) (T, error)) (map[string]T, error) {
	names := Sorted(nodes)
	found, errs := make([]T, len(names)), make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { found[i], errs[i] = f(nodes[name]) })
	}
	wg.Wait()
	all := map[string]T{}
	for i, name := range names {
		if errs[i] == nil {
			all[name] = found[i]
		}
	}
	return all, errors.Join(errs...)
}

// Sorted are the keys of a map in their order.
func Sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
