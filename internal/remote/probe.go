package remote

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// Probe is a list of questions about a host that are asked in one session and
// change nothing. The zero value asks nothing.
type Probe struct {
	questions []string
	index     map[string]int
	sensitive bool
}

// ask adds a question once; asking the same twice costs nothing.
func (p *Probe) ask(question string) *Probe {
	if strings.ContainsAny(question, "\n\x00") {
		panic(fmt.Sprintf("remote: a question of several lines: %q", question))
	}
	if p.index == nil {
		p.index = map[string]int{}
	}
	if _, ok := p.index[question]; !ok {
		p.questions = append(p.questions, question)
		p.index[question] = len(p.questions)
	}
	return p
}

// OS asks for the system, its memory and its identity.
func (p *Probe) OS() *Probe { return p.ask("os -") }

// Clock asks for the time.
func (p *Probe) Clock() *Probe { return p.ask("clock -") }

// TimeService asks which time service is active.
func (p *Probe) TimeService() *Probe { return p.ask("time_service -") }

// Synchronized asks whether the clock is kept. It starts a service on the host.
func (p *Probe) Synchronized() *Probe { return p.ask("synchronized -") }

// Disk asks for the space where a path is or would be.
func (p *Probe) Disk(path string) *Probe { return p.ask("disk " + path) }

// Path asks what is at a path: kind, owner, mode, and a file's sha256.
func (p *Probe) Path(path string) *Probe { return p.ask("path " + path) }

// Content asks for Path and a file's content, up to 1 MiB.
func (p *Probe) Content(path string) *Probe { return p.ask("content " + path) }

// Secret is Content for a file whose content must not be logged. It keeps the
// whole probe's output out of logs.
func (p *Probe) Secret(path string) *Probe {
	p.sensitive = true
	return p.ask("content " + path)
}

// List asks for the names in a directory, at most 1000.
func (p *Probe) List(path string) *Probe { return p.ask("list " + path) }

// Package asks for a package's installed version and whether it is held.
func (p *Probe) Package(names ...string) *Probe {
	for _, name := range names {
		p.ask("package " + name)
	}
	return p
}

// Available asks which versions of a package the repositories have, as of the
// last renewal of the lists.
func (p *Probe) Available(names ...string) *Probe {
	for _, name := range names {
		p.ask("available " + name)
	}
	return p
}

// Source asks which installed packages were built from a source package, with
// their versions: they belong together.
func (p *Probe) Source(name string) *Probe { return p.ask("source " + name) }

// Unit asks for the state of a systemd unit.
func (p *Probe) Unit(name string) *Probe { return p.ask("unit " + name) }

// Process asks for the program, the arguments and the environment of a unit's main
// process: what it really runs with, wherever that was written. It may hold
// secrets, which keeps the whole probe's output out of logs.
func (p *Probe) Process(unit string) *Probe {
	p.sensitive = true
	return p.ask("process " + unit)
}

// Port asks who listens on a TCP port.
func (p *Probe) Port(port int) *Probe { return p.ask("port " + strconv.Itoa(port)) }

// Addresses asks for the host's own global addresses.
func (p *Probe) Addresses() *Probe { return p.ask("addresses -") }

// Lookup asks how long a name or reverse lookup takes.
func (p *Probe) Lookup(name string) *Probe { return p.ask("lookup " + name) }

// Resolve asks which addresses a name has, as the host's programs see it.
func (p *Probe) Resolve(name string) *Probe { return p.ask("resolve " + name) }

// DebianClusters asks for the PostgreSQL clusters that Debian's own tools look
// after.
func (p *Probe) DebianClusters() *Probe { return p.ask("debian -") }

// Account asks whether a user exists.
func (p *Probe) Account(name string) *Probe { return p.ask("account " + name) }

// Sysctl asks for a kernel setting.
func (p *Probe) Sysctl(key string) *Probe { return p.ask("sysctl " + key) }

// Tool asks whether a program is in the path.
func (p *Probe) Tool(name string) *Probe { return p.ask("tool " + name) }

// Run asks the questions.
func (p *Probe) Run(ctx context.Context, h host.Host) (*Facts, error) {
	begin := time.Now()
	res, err := h.Run(ctx, host.Cmd{
		Name:      "probe",
		Script:    script("probe.sh"),
		Stdin:     []byte(strings.Join(p.questions, "\n") + "\n"),
		Sensitive: p.sensitive,
		MaxOutput: 16 << 20,
	})
	if err != nil {
		return nil, err
	}
	if res.Truncated {
		return nil, fmt.Errorf("host %s: the probe's output was cut off", h.Name())
	}
	f := &Facts{index: p.index, values: map[string][]string{}, asked: begin, answered: time.Now()}
	for line := range strings.Lines(string(res.Stdout)) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok {
			continue
		}
		if key == "0.contents" {
			if f.contents, err = unpack(value); err != nil {
				return nil, fmt.Errorf("host %s: the files of the probe: %w", h.Name(), err)
			}
			continue
		}
		f.values[key] = append(f.values[key], value)
	}
	return f, nil
}

// unpack returns the files of an archive by their paths.
func unpack(text string) (map[string][]byte, error) {
	files := map[string][]byte{}
	r := tar.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(text)))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
}

// Facts are the answers to a Probe. Asking it for what was not probed panics:
// that is a mistake in the program, and an empty answer would be taken for
// "not there".
type Facts struct {
	index           map[string]int
	values          map[string][]string
	contents        map[string][]byte
	asked, answered time.Time
}

func (f *Facts) all(question, field string) []string {
	n, ok := f.index[question]
	if !ok {
		panic(fmt.Sprintf("remote: %q was not probed", question))
	}
	return f.values[strconv.Itoa(n)+"."+field]
}

func (f *Facts) get(question, field string) string {
	if all := f.all(question, field); len(all) > 0 {
		return all[0]
	}
	return ""
}

func (f *Facts) num(question, field string) int64 {
	n, _ := strconv.ParseInt(f.get(question, field), 10, 64)
	return n
}

// OS is a host's system.
type OS struct {
	ID         string // "debian"
	Version    string // "13"
	Codename   string // "trixie"
	Pretty     string
	Arch       string // dpkg's name
	Kernel     string
	Hostname   string
	MachineID  string
	BootID     string
	Init       string // name of process 1
	CPUs       int
	Memory     int64 // bytes
	Swap       int64 // bytes
	Hugepages  int
	MemoryFree int64 // bytes, "available"
}

// OS returns the answer to Probe.OS.
func (f *Facts) OS() OS {
	q := "os -"
	return OS{
		ID: f.get(q, "ID"), Version: f.get(q, "VERSION_ID"), Codename: f.get(q, "VERSION_CODENAME"),
		Pretty: f.get(q, "PRETTY_NAME"), Arch: f.get(q, "arch"), Kernel: f.get(q, "kernel"),
		Hostname: f.get(q, "hostname"), MachineID: f.get(q, "machine_id"), BootID: f.get(q, "boot_id"),
		Init: f.get(q, "init"), CPUs: int(f.num(q, "cpus")),
		Memory: f.num(q, "memory_kib") << 10, MemoryFree: f.num(q, "memory_available_kib") << 10,
		Swap: f.num(q, "swap_kib") << 10, Hugepages: int(f.num(q, "hugepages")),
	}
}

// Skew returns how far the host's clock is from the runner's, as far as the duration of the
// session can tell: a host whose time lies between the beginning and the end of the session
// has none. It is of Probe.Clock.
func (f *Facts) Skew() time.Duration {
	now := time.Unix(0, f.num("clock -", "now"))
	switch {
	case now.Before(f.asked):
		return now.Sub(f.asked)
	case now.After(f.answered):
		return now.Sub(f.answered)
	}
	return 0
}

// TimeService returns the active time service, empty if there is none.
func (f *Facts) TimeService() string { return f.get("time_service -", "service") }

// Synchronized reports whether the kernel's clock is kept by somebody.
func (f *Facts) Synchronized() bool { return f.get("synchronized -", "synchronized") == "yes" }

// Disk is the filesystem that holds a path.
type Disk struct {
	Size, Free int64  // bytes
	At         string // the path itself, or the nearest parent that exists
	Mount      string
	Filesystem string
	Writable   bool
}

// TooSmall says why nothing of the given size, in bytes, can be put there, or
// nothing.
func (d Disk) TooSmall(least int64) string {
	switch {
	case !d.Writable:
		return d.At + " is read-only (" + d.Mount + ")"
	case d.Free < least:
		return fmt.Sprintf("%s has only %d MiB free of the %d MiB that are needed at least", d.Mount, d.Free>>20, least>>20)
	}
	return ""
}

// Disk returns the answer to Probe.Disk.
func (f *Facts) Disk(path string) Disk {
	q := "disk " + path
	return Disk{
		Size: f.num(q, "size_kib") << 10, Free: f.num(q, "free_kib") << 10, At: f.get(q, "at"),
		Mount: f.get(q, "mount"), Filesystem: f.get(q, "filesystem"), Writable: f.get(q, "writable") == "yes",
	}
}

// PathType is what is at a path.
type PathType string

// What can be at a path.
const (
	Missing PathType = "missing"
	Regular PathType = "file"
	Dir     PathType = "dir"
	Link    PathType = "link"
	Other   PathType = "other"
)

// Path is what is at a path.
type Path struct {
	Type         PathType
	Mode         string // octal, such as "640"
	Owner, Group string
	SHA256       string // of a file
	Size         int64  // of a file, bytes
	Modified     int64  // of a file: when its content changed, in seconds since 1970
	Target       string // of a link
	Empty        bool   // of a directory
	Content      []byte // of a file, where asked for
}

// Exists reports whether there is anything at the path.
func (p Path) Exists() bool { return p.Type != Missing }

// Path returns the answer to Probe.Path, Content or Secret.
func (f *Facts) Path(path string) Path {
	q := "content " + path
	if _, ok := f.index[q]; !ok {
		q = "path " + path
	}
	p := Path{
		Type: PathType(f.get(q, "type")), Mode: f.get(q, "mode"), Owner: f.get(q, "owner"), Group: f.get(q, "group"),
		SHA256: f.get(q, "sha256"), Size: f.num(q, "size"), Modified: f.num(q, "modified"), Target: f.get(q, "target"), Empty: f.get(q, "empty") == "yes",
	}
	if p.Type == Regular && p.Mode == "" {
		return Path{Type: Missing} // it came or went while the questions were answered
	}
	if strings.HasPrefix(q, "content ") {
		p.Content = f.contents[path]
	}
	return p
}

// List returns the answer to Probe.List.
func (f *Facts) List(path string) []string {
	b, err := base64.StdEncoding.DecodeString(f.get("list "+path, "entries"))
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// Package is the state of a package.
type Package struct {
	Name      string
	Version   string // installed version, empty if it is not installed
	Held      bool
	Installed bool // unpacked and configured
	Broken    bool // neither installed nor absent: an interrupted dpkg
}

// Package returns the answer to Probe.Package.
func (f *Facts) Package(name string) Package {
	q := "package " + name
	status := f.get(q, "status")
	p := Package{Name: name}
	if len(status) < 2 {
		return p
	}
	p.Held = status[0] == 'h'
	switch status[1] {
	case 'i':
		p.Installed = true
		p.Version = f.get(q, "version")
	case 'n', 'c':
		// not installed, or only its configuration is left
	default:
		p.Broken = true
		p.Version = f.get(q, "version")
	}
	return p
}

// Available returns the answer to Probe.Available.
func (f *Facts) Available(name string) []string { return f.all("available "+name, "version") }

// Offer replaces the answer to Probe.Available by versions that were looked up
// elsewhere.
func (f *Facts) Offer(name string, versions []string) {
	n, ok := f.index["available "+name]
	if !ok {
		panic(fmt.Sprintf("remote: %q was not probed", "available "+name))
	}
	f.values[strconv.Itoa(n)+".version"] = versions
}

// Source returns the answer to Probe.Source: versions by the packages' names.
func (f *Facts) Source(name string) map[string]string {
	versions := map[string]string{}
	for _, line := range f.all("source "+name, "package") {
		if p, v, ok := strings.Cut(line, "="); ok {
			versions[p] = v
		}
	}
	return versions
}

// Unit is the state of a systemd unit.
type Unit struct {
	Name         string
	Loaded       bool   // a unit file exists
	Active       string // "active", "inactive", "activating", "failed", ...
	Sub          string
	Enabled      string // "enabled", "disabled", "masked", ...
	NeedsReload  bool   // its files changed since systemd read them
	MainPID      int
	Restarts     int
	Result       string // "success", or why it ended
	Fragment     string // its file
	InvocationID string
}

// Running reports whether the unit is active.
func (u Unit) Running() bool { return u.Active == "active" || u.Active == "reloading" }

// Unit returns the answer to Probe.Unit.
func (f *Facts) Unit(name string) Unit {
	q := "unit " + name
	return Unit{
		Name: name, Loaded: f.get(q, "LoadState") == "loaded", Active: f.get(q, "ActiveState"),
		Sub: f.get(q, "SubState"), Enabled: f.get(q, "UnitFileState"),
		NeedsReload: f.get(q, "NeedDaemonReload") == "yes", MainPID: int(f.num(q, "MainPID")),
		Restarts: int(f.num(q, "NRestarts")), Result: f.get(q, "Result"), Fragment: f.get(q, "FragmentPath"),
		InvocationID: f.get(q, "InvocationID"),
	}
}

// Process is what a unit's main process runs with.
type Process struct {
	Args    []string
	Environ map[string]string
	// Program is the path of the file that runs, also where it was replaced since.
	Program string
	Account string // the user that it runs as
	Started int64  // in seconds since 1970
}

// Process returns the answer to Probe.Process, nothing if the unit does not run.
func (f *Facts) Process(unit string) Process {
	q := "process " + unit
	split := func(field string) []string {
		b, err := base64.StdEncoding.DecodeString(f.get(q, field))
		if err != nil || len(b) == 0 {
			return nil
		}
		return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	}
	p := Process{Args: split("arguments"), Environ: map[string]string{}, Program: strings.TrimSuffix(f.get(q, "program"), " (deleted)"), Account: f.get(q, "account"), Started: f.num(q, "started")}
	for _, e := range split("environment") {
		if k, v, ok := strings.Cut(e, "="); ok {
			p.Environ[k] = v
		}
	}
	return p
}

// Port returns the answer to Probe.Port: "ADDRESS:PORT users:((...))" for each
// listener.
func (f *Facts) Port(port int) []string { return f.all("port "+strconv.Itoa(port), "listen") }

// Addresses returns the answer to Probe.Addresses: "INTERFACE ADDRESS/PREFIX".
func (f *Facts) Addresses() []string { return f.all("addresses -", "address") }

// Lookup returns the answer to Probe.Lookup.
func (f *Facts) Lookup(name string) time.Duration {
	return time.Duration(f.num("lookup "+name, "ms")) * time.Millisecond
}

// Resolve returns the answer to Probe.Resolve, none if the name is not known.
func (f *Facts) Resolve(name string) []string { return f.all("resolve "+name, "address") }

// DebianCluster is a PostgreSQL cluster that Debian's own tools look after
// (pg_lsclusters).
type DebianCluster struct {
	Version, Name string
	Port          int
	Running       bool
	// Used: somebody made a table or a database in it. That it is false is no
	// proof: there may be roles, functions and settings.
	Used    bool
	DataDir string
}

// String is how Debian's tools name the cluster.
func (c DebianCluster) String() string { return c.Version + "/" + c.Name }

// Describe says for people what it is like.
func (c DebianCluster) Describe() string {
	state := map[bool]string{true: "running", false: "stopped"}[c.Running]
	holds := map[bool]string{true: "somebody has made databases or tables in it", false: "no database or table of anybody's is in it"}[c.Used]
	return fmt.Sprintf("Debian's own PostgreSQL cluster %s (%s, port %d, data in %s; %s)", c, state, c.Port, c.DataDir, holds)
}

// Removal says how a person gets rid of it, which nothing here ever does.
func (c DebianCluster) Removal() string {
	command := "pg_dropcluster --stop " + c.Version + " " + c.Name
	if c.Used {
		return "an apply never removes it. Save what is needed of its data; then remove it on the host: " + command
	}
	return "an apply never removes it. If nothing needs it, remove it on the host: " + command
}

// DebianClusters returns the answer to Probe.DebianClusters.
func (f *Facts) DebianClusters() []DebianCluster {
	var list []DebianCluster
	for _, line := range f.all("debian -", "cluster") {
		part := strings.SplitN(line, "|", 6)
		if len(part) < 6 {
			continue
		}
		port, _ := strconv.Atoi(part[2])
		list = append(list, DebianCluster{
			Version: part[0], Name: part[1], Port: port, Running: part[3] == "yes", Used: part[4] == "yes", DataDir: part[5],
		})
	}
	return list
}

// Account returns the answer to Probe.Account.
func (f *Facts) Account(name string) bool { return f.get("account "+name, "uid") != "" }

// Sysctl returns the answer to Probe.Sysctl, empty if the kernel has no such
// setting.
func (f *Facts) Sysctl(key string) string {
	return strings.Join(strings.Fields(f.get("sysctl "+key, "value")), " ")
}

// Tool returns the answer to Probe.Tool.
func (f *Facts) Tool(name string) bool { return f.get("tool "+name, "path") != "" }
