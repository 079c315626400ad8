package sys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// processorHierarchy returns where the hierarchy of processors is mounted if it is a
// separate one, "" otherwise.
func processorHierarchy() (string, error) {
	mounts, err := Mounts()
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		if m.Type == "cgroup" && m.hasOption("cpu") {
			return m.Point, nil
		}
	}
	return "", nil
}

// period is how often a quota is filled up, the kernel's own default. With a shorter one a
// good part of a small quota is lost: each processor keeps a millisecond of it to itself.
const period = 100 * time.Millisecond

// weight, the greatest there is, lets groups with a quota have it before all others: these
// are to wait, not those whose time is limited already.
const (
	separateWeight = "262144"
	unifiedWeight  = "10000"
)

// Quota gives the processes of the group, and of all groups below it, together a share of
// one processor's time, and no more.
func (g Group) Quota(ctx context.Context, share float64) error {
	quota := int64(share * float64(period.Microseconds()))
	if quota < 1000 {
		return fmt.Errorf("the kernel has no quota as small as %g of a processor", share)
	}
	processors, err := processorHierarchy()
	if err != nil {
		return err
	}
	if processors == "" {
		return g.unifiedQuota(quota)
	}
	dir := filepath.Join(processors, string(g))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("create control group: %w", err)
	}
	for above := dir; above != processors; above = filepath.Dir(above) {
		if err := g.set(above, "cpu.shares", separateWeight); err != nil {
			return err
		}
	}
	if err := g.set(dir, "cpu.cfs_period_us", strconv.FormatInt(period.Microseconds(), 10)); err != nil {
		return err
	}
	if err := g.set(dir, "cpu.cfs_quota_us", strconv.FormatInt(quota, 10)); err != nil {
		return err
	}
	return g.join(ctx, filepath.Join(dir, "cgroup.procs"))
}

// join brings all processes of the group into another hierarchy. What one of them starts
// before it is there is found by looking again.
func (g Group) join(ctx context.Context, file string) error {
	for {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		there := map[string]bool{}
		for id := range strings.FieldsSeq(string(text)) {
			there[id] = true
		}
		missing := 0
		for _, id := range g.Processes() {
			if there[strconv.Itoa(id)] {
				continue
			}
			missing++
			err := os.WriteFile(file, []byte(strconv.Itoa(id)), 0)
			if err != nil && !errors.Is(err, syscall.ESRCH) { // it has ended
				return fmt.Errorf("give control group %s a quota: %w", g, err)
			}
		}
		if missing == 0 {
			return nil
		}
		if err := Pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

// unifiedQuota is Quota where there is one hierarchy for everything.
func (g Group) unifiedQuota(quota int64) error {
	dir, _, err := hierarchies()
	if err != nil {
		return err
	}
	for part := range strings.SplitSeq(string(g), "/") {
		if err := g.set(dir, "cgroup.subtree_control", "+cpu"); err != nil {
			return err
		}
		dir = filepath.Join(dir, part)
		if err := g.set(dir, "cpu.weight", unifiedWeight); err != nil {
			return err
		}
	}
	return g.set(dir, "cpu.max", fmt.Sprintf("%d %d", quota, period.Microseconds()))
}

// set writes a setting of the group, or of one above it.
func (g Group) set(dir, file, value string) error {
	if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
		return fmt.Errorf("give control group %s a quota: %w", g, err)
	}
	return nil
}
