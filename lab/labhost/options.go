// Package labhost runs real Debian hosts on this one machine: containers with
// systemd, each with an address, a disk and an SSH server of its own, in
// datacenters that can be cut off from each other or moved apart.
//
// It needs root, on Linux. Package labtest is the shorter way for tests.
package labhost

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"github.com/pgha/terraform-provider-pgha/lab/internal/plan"
)

// Datacenter is a name and the names of its hosts, in the order of their
// addresses.
type Datacenter = plan.Datacenter

// ParseDatacenters reads arguments of the form dc1=pg1,pg2,pg3.
func ParseDatacenters(args ...string) ([]Datacenter, error) { return plan.ParseDatacenters(args) }

// Image is what a host's disk looks like when it is new.
type Image string

const (
	// Bare is a fresh Debian with an SSH server.
	Bare Image = "bare"
	// Warm is the same with the packages of a database host installed, none of
	// them started, enabled or configured. A test that is not about installing
	// packages saves most of its time with it.
	Warm Image = "warm"
)

// Options say which lab to bring up. The zero value of a field means the
// default or, for a lab that is there already, what it has.
type Options struct {
	Name        string // default: demo
	Release     string // of Debian: trixie (the default) or bookworm
	Image       Image  // default: Bare
	Datacenters []Datacenter
	// Bastions are the datacenters that this machine enters only through a
	// host named <datacenter>-bastion, which the lab adds.
	Bastions []string
	// Net is the first two octets of the lab's addresses. Default: 10.77 for
	// the lab named demo, the next free range for another.
	Net string
	// DiskSize is how much a host can write, as in tmpfs(5). Default: 2G. It
	// is memory of this machine, taken as it is used.
	DiskSize string
	// IPv6Only gives the hosts no IPv4 address: this machine and they reach
	// each other by IPv6 alone.
	IPv6Only bool
	// Mirror is the address of a Debian mirror. Default: that of this
	// machine's own apt configuration.
	Mirror string
	// ExtraDebs is a folder of packages to add to the pool. Default:
	// lab/extra-debs of the source tree that the working directory is in.
	ExtraDebs string
	// Cache is the folder for images and labs. Default: pgha-lab in the user's
	// cache folder.
	Cache string
	// Ephemeral says that the lab is of no use after this process; see
	// DownAbandoned.
	Ephemeral bool
	// Progress receives a line about whatever takes time. Default: none.
	Progress io.Writer
}

// DefaultName is the name of a lab that was given none.
const DefaultName = "demo"

const (
	defaultNet      = "10.77"
	defaultDiskSize = "2G"
)

var diskSize = regexp.MustCompile(`^[1-9][0-9]*[kmgKMG]?$`)

// complete checks the options and fills in what does not depend on a lab's
// state.
func (o Options) complete() (Options, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if err := plan.ValidName("lab", o.Name); err != nil {
		return o, err
	}
	if o.Image != "" && o.Image != Bare && o.Image != Warm {
		return o, fmt.Errorf("there is no image %q: the lab has bare and warm", o.Image)
	}
	if o.DiskSize != "" && !diskSize.MatchString(o.DiskSize) {
		return o, fmt.Errorf("%q is not the size of a disk: write a number and k, M or G, such as 2G", o.DiskSize)
	}
	if err := plan.Validate(o.Datacenters); err != nil {
		return o, err
	}
	if o.Cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return o, fmt.Errorf("the lab needs a folder for its images: %w", err)
		}
		o.Cache = filepath.Join(dir, "pgha-lab")
	}
	if o.ExtraDebs == "" {
		o.ExtraDebs = findExtraDebs()
	}
	return o, nil
}

// log returns the function that reports progress.
func (o Options) log() func(format string, args ...any) {
	if o.Progress == nil {
		return func(string, ...any) {}
	}
	return func(format string, args ...any) {
		fmt.Fprintf(o.Progress, "lab "+o.Name+": "+format+"\n", args...)
	}
}

// findExtraDebs looks for the folder of extra packages in the source tree that
// the working directory is in. It returns "" if there is none.
func findExtraDebs() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			extra := filepath.Join(dir, "lab", "extra-debs")
			if st, err := os.Stat(extra); err == nil && st.IsDir() {
				return extra
			}
			return ""
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}
