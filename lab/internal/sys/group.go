package sys

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Group is a control group, by its path below the root of every hierarchy,
// such as pgha-lab/demo/pg1.
//
// A host's processes are in one, which makes ending all of them a single
// write that no fork can outrun. It has to exist in the hierarchy of systemd
// too, where that is a separate one: nspawn otherwise leaves every host in
// its caller's group, and several systemds that share a /system.slice remove
// each other's units. And in that of memory, so that what a host uses is not
// charged to the command that happened to start it.
type Group string

// hierarchies returns where the unified hierarchy is mounted, and the
// separate ones of systemd and of memory, where there are such.
func hierarchies() (unified string, others []string, err error) {
	mounts, err := Mounts()
	if err != nil {
		return "", nil, err
	}
	for _, m := range mounts {
		switch {
		case m.Type == "cgroup2" && unified == "":
			unified = m.Point
		case m.Type == "cgroup" && (m.hasOption("name=systemd") || m.hasOption("memory")):
			others = append(others, m.Point)
		}
	}
	if unified == "" {
		return "", nil, errors.New("no cgroup2 file system is mounted on this machine; the lab needs it to end a host's processes together (mount -t cgroup2 none /sys/fs/cgroup/unified)")
	}
	return unified, others, nil
}

// everywhere is all hierarchies that a group may be in: the one of processors, too, if that is
// a separate one and somebody has given the group a quota.
func everywhere() ([]string, error) {
	unified, others, err := hierarchies()
	if err != nil {
		return nil, err
	}
	all := append([]string{unified}, others...)
	processors, err := processorHierarchy()
	if err != nil {
		return nil, err
	}
	if processors != "" && !slices.Contains(all, processors) {
		all = append(all, processors)
	}
	return all, nil
}

// Create makes the group in every hierarchy it has to be in. It may exist.
func (g Group) Create() error {
	unified, others, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range append([]string{unified}, others...) {
		dir := filepath.Join(root, string(g))
		err := os.MkdirAll(dir, 0o755)
		if errors.Is(err, fs.ErrNotExist) {
			// Another lab's end removed the empty parent just then.
			err = os.MkdirAll(dir, 0o755)
		}
		if err != nil {
			return fmt.Errorf("create control group: %w", err)
		}
	}
	if _, err := os.Stat(filepath.Join(unified, string(g), "cgroup.kill")); err != nil {
		return errors.New("this kernel is older than 5.14 and cannot kill a control group (no cgroup.kill); the lab needs a newer one")
	}
	return nil
}

// ProcsFiles returns the files a process writes its id to, to join the group.
func (g Group) ProcsFiles() ([]string, error) {
	unified, others, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var files []string
	for _, root := range append([]string{unified}, others...) {
		files = append(files, filepath.Join(root, string(g), "cgroup.procs"))
	}
	return files, nil
}

// Open makes the group and returns its folder in the unified hierarchy, which
// a process can be started in.
func (g Group) Open() (*os.File, error) {
	if err := g.Create(); err != nil {
		return nil, err
	}
	unified, _, err := hierarchies()
	if err != nil {
		return nil, err
	}
	return os.Open(filepath.Join(unified, string(g)))
}

// Children returns the names of the groups directly below g, in any hierarchy.
func (g Group) Children() ([]string, error) {
	roots, err := everywhere()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, root := range roots {
		entries, err := os.ReadDir(filepath.Join(root, string(g)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() && !slices.Contains(names, e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	return names, nil
}

// State says what a group's processes are doing.
type State struct{ Populated, Frozen bool }

// State returns the group's state; that of a group which does not exist is
// the zero value.
func (g Group) State() (State, error) {
	unified, _, err := hierarchies()
	if err != nil {
		return State{}, err
	}
	b, err := os.ReadFile(filepath.Join(unified, string(g), "cgroup.events"))
	if err != nil {
		if gone(err) {
			return State{}, nil
		}
		return State{}, err
	}
	var s State
	for line := range strings.Lines(string(b)) {
		switch strings.TrimSpace(line) {
		case "populated 1":
			s.Populated = true
		case "frozen 1":
			s.Frozen = true
		}
	}
	return s, nil
}

// Processes returns the processes of the group and of all groups below it.
func (g Group) Processes() []int {
	unified, _, err := hierarchies()
	if err != nil {
		return nil
	}
	var pids []int
	_ = filepath.WalkDir(filepath.Join(unified, string(g)), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		b, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// Signal sends a signal to every process of the group.
func (g Group) Signal(sig syscall.Signal) {
	for _, pid := range g.Processes() {
		_ = syscall.Kill(pid, sig)
	}
}

// Kill ends every process of the group and of all groups below it, as a power
// cut does, and returns when the last of them is dead. There need be none.
func (g Group) Kill(ctx context.Context) error {
	unified, _, err := hierarchies()
	if err != nil {
		return err
	}
	err = os.WriteFile(filepath.Join(unified, string(g), "cgroup.kill"), []byte("1"), 0)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill control group %s: %w", g, err)
	}
	for {
		s, err := g.State()
		if err != nil {
			return err
		}
		if !s.Populated {
			break
		}
		if err := Pause(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("waiting for the processes of control group %s to die: %w", g, err)
		}
	}
	return nil
}

// AwaitReaped returns when no process that died in the group is a zombie any
// more, even if the group is gone. A zombie holds neither memory nor mounts,
// but whoever counts processes sees it; its parent (this process, or init)
// reaps it at leisure, and init may take seconds. It gives up after five.
func (g Group) AwaitReaped(ctx context.Context) {
	deadline := time.Now().Add(5 * time.Second)
	for g.hasZombie() && time.Now().Before(deadline) {
		if Pause(ctx, 20*time.Millisecond) != nil {
			return
		}
	}
}

func (g Group) hasZombie() bool {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		b, err := os.ReadFile(file)
		// The name, in parentheses, may hold anything, parentheses too.
		if err != nil || !strings.HasPrefix(string(b)[max(0, strings.LastIndexByte(string(b), ')')):], ") Z") {
			continue
		}
		group, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cgroup"))
		if strings.Contains(string(group), ":/"+string(g)+"/") {
			return true
		}
	}
	return false
}

// Freeze stops every process of the group where it stands, or lets them go
// on, and returns when that is so.
func (g Group) Freeze(ctx context.Context, frozen bool) error {
	unified, _, err := hierarchies()
	if err != nil {
		return err
	}
	value := "0"
	if frozen {
		value = "1"
	}
	if err := os.WriteFile(filepath.Join(unified, string(g), "cgroup.freeze"), []byte(value), 0); err != nil {
		return fmt.Errorf("freeze control group %s: %w", g, err)
	}
	for {
		s, err := g.State()
		if err != nil || s.Frozen == frozen {
			return err
		}
		if err := Pause(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("waiting for control group %s to freeze or thaw: %w", g, err)
		}
	}
}

// Remove deletes the group and all groups below it from every hierarchy. No
// process may be left in them.
func (g Group) Remove(ctx context.Context) error {
	roots, err := everywhere()
	if err != nil {
		return err
	}
	for _, root := range roots {
		var dirs []string
		_ = filepath.WalkDir(filepath.Join(root, string(g)), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs) // children first
		for _, dir := range dirs {
			if err := rmdir(ctx, dir); err != nil {
				return fmt.Errorf("remove control group: %w", err)
			}
		}
	}
	return nil
}

// RemoveEmpty deletes the group from the hierarchies where it has neither
// processes nor groups below it.
func (g Group) RemoveEmpty() {
	roots, err := everywhere()
	if err != nil {
		return
	}
	for _, root := range roots {
		_ = syscall.Rmdir(filepath.Join(root, string(g))) // the kernel refuses if there are
	}
}

// rmdir removes an empty group. The kernel says "busy" for a moment after the
// last process has died.
func rmdir(ctx context.Context, dir string) error {
	deadline := time.Now().Add(3 * time.Second)
	for {
		err := syscall.Rmdir(dir)
		if err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		if err := Pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

// gone reports whether err says that a group does not exist (any more).
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV)
}
