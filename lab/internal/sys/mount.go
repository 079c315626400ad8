package sys

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A Mount is one line of the kernel's table of mounts.
type Mount struct {
	Point, Type string
	options     []string
}

func (m Mount) hasOption(o string) bool { return slices.Contains(m.options, o) }

// Mounts returns what is mounted, in the order in which it was.
func Mounts() ([]Mount, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(b)), nil
}

func parseMounts(table string) []Mount {
	var mounts []Mount
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		mounts = append(mounts, Mount{Point: unescape(f[1]), Type: f[2], options: strings.Split(f[3], ",")})
	}
	return mounts
}

// unescape turns the octal escapes of the table (\040 for a space) back.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Mounted reports whether something is mounted at dir.
func Mounted(dir string) bool {
	mounts, _ := Mounts()
	return slices.ContainsFunc(mounts, func(m Mount) bool { return m.Point == dir })
}

// UnmountBelow unmounts everything mounted at dir or below it, the last
// mounted first. Something still in use is detached: it is out of sight at
// once and gone with its last user.
func UnmountBelow(dir string) error {
	mounts, err := Mounts()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if m.Point != dir && !strings.HasPrefix(m.Point, strings.TrimSuffix(dir, "/")+"/") {
			continue
		}
		err := syscall.Unmount(m.Point, 0)
		if errors.Is(err, syscall.EBUSY) {
			err = syscall.Unmount(m.Point, syscall.MNT_DETACH)
		}
		if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("unmount %s: %w", m.Point, err)
		}
	}
	return nil
}

// MountTmpfs mounts an empty file system in memory at dir, which it creates.
// size is as in tmpfs(5): "2G", "512M".
func MountTmpfs(dir, size string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755,size="+size); err != nil {
		return fmt.Errorf("mount a tmpfs of %s at %s: %w", size, dir, err)
	}
	return nil
}

// MountOverlay mounts at dir, which it creates, the tree lower with its
// changes kept below upper. work is scratch space on upper's file system.
func MountOverlay(dir, lower, upper, work string) error {
	for _, d := range []string{dir, upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{lower, upper, work} {
		if strings.ContainsAny(d, `:,\`) {
			return fmt.Errorf("the path %s holds a colon, comma or backslash, which an overlay mount takes apart: use another cache folder", d)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)
	if err := syscall.Mount("overlay", dir, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay of %s at %s: %w", lower, dir, err)
	}
	return nil
}
