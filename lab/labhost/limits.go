package labhost

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
)

// limits are settings of this machine that are too low for a lab. A host needs
// about eight inotify instances, and all hosts share root's 128: the
// seventeenth would fail to boot, saying "Too many open files".
var limits = map[string]int{
	"fs/inotify/max_user_instances": 4096,
	"fs/inotify/max_user_watches":   1 << 20,
}

func limitsFile(cache string) string { return filepath.Join(cache, "limits.json") }

// raiseLimits raises what is too low, and notes what it was.
func raiseLimits(ctx context.Context, cache string) error {
	unlock, err := lockAll(ctx, cache)
	if err != nil {
		return err
	}
	defer unlock()
	was := readLimits(cache)
	for name, want := range limits {
		file := "/proc/sys/" + name
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		have, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		if have >= want {
			continue
		}
		was[name] = have
		b, err := json.Marshal(was)
		if err != nil {
			return err
		}
		if err := sys.WriteFile(limitsFile(cache), b, 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(strconv.Itoa(want)), 0); err != nil {
			return fmt.Errorf("raise %s: %w", file, err)
		}
	}
	return nil
}

func readLimits(cache string) map[string]int {
	was := map[string]int{}
	if b, err := os.ReadFile(limitsFile(cache)); err == nil {
		_ = json.Unmarshal(b, &was)
	}
	return was
}

// restoreLimits puts back what raiseLimits found, once the last lab is gone.
// Call it with lockAll held.
func restoreLimits(cache string) error {
	for name, value := range readLimits(cache) {
		if _, ours := limits[name]; !ours {
			continue
		}
		if err := os.WriteFile("/proc/sys/"+name, []byte(strconv.Itoa(value)), 0); err != nil {
			return err
		}
	}
	if err := os.Remove(limitsFile(cache)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
