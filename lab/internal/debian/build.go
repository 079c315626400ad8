package debian

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
)

// Builder builds a release's images and pool, and keeps them.
type Builder struct {
	Cache   string // the folder to keep them in
	Release Release
	Mirror  string // see FindMirror
	Extras  []Extra
	// InUse reports whether a running lab needs something built earlier.
	InUse func(path string) bool
	Log   func(format string, args ...any)
}

// Built says where things are.
type Built struct {
	Bare string // an image: a folder with a root file system
	Warm string // another; empty unless it was asked for
	Pool string // a folder of packages, as apt reads it
}

// Ensure returns what is needed for hosts, which it builds unless something
// built from the same inputs is there already. Several processes may call it
// at once: one builds, the others wait for it.
func (b Builder) Ensure(ctx context.Context, warm bool) (Built, error) {
	built, ok := b.find(warm)
	if ok {
		return built, nil
	}
	release, err := sys.Lock(ctx, lockFile(b.Cache, b.Release.Name), func(holder string) {
		b.Log("waiting for %s, which is building images of %s", holder, b.Release.Name)
	})
	if err != nil {
		return built, err
	}
	defer release()
	if built, ok = b.find(warm); ok {
		return built, nil
	}
	built, err = b.build(ctx, warm)
	if err != nil {
		return built, fmt.Errorf("unable to build the images of %s (the whole log is %s): %w", b.Release.Name, b.logFile(), err)
	}
	b.prune(built)
	return built, nil
}

func (b Builder) folder() string  { return filepath.Join(b.Cache, b.Release.Name) }
func (b Builder) logFile() string { return filepath.Join(b.folder(), "build.log") }
func (b Builder) scratch() string { return filepath.Join(b.Cache, "tmp", b.Release.Name) }

// Group is the control group that a release's builds run in. Its name cannot
// be that of a lab.
func Group(release string) sys.Group { return sys.Group("pgha-lab/.build-" + release) }

func (b Builder) path(kind, key string) string {
	return filepath.Join(b.folder(), kind+"-"+key)
}

// find returns what is there already, and whether that is all.
func (b Builder) find(warm bool) (Built, bool) {
	built := Built{
		Bare: b.path("bare", b.Release.bareKey()),
		Pool: b.path("pool", b.Release.poolKey(b.Extras)),
	}
	ok := touch(built.Bare) && touch(built.Pool)
	if warm && ok {
		packages, err := warmPackages(built.Pool)
		if err != nil {
			return built, false
		}
		built.Warm = b.path("warm", b.Release.warmKey(packages))
		ok = touch(built.Warm)
	}
	return built, ok
}

// touch reports whether a folder exists, and notes that it was asked for.
func touch(path string) bool {
	now := time.Now()
	return os.Chtimes(path, now, now) == nil
}

// build makes what find did not find.
func (b Builder) build(ctx context.Context, warm bool) (built Built, err error) {
	start := time.Now()
	if err := os.MkdirAll(b.folder(), 0o755); err != nil {
		return built, err
	}
	log, err := os.Create(b.logFile())
	if err != nil {
		return built, err
	}
	defer log.Close()
	// Also what an earlier build left that was killed.
	if err := CleanUp(ctx, b.Cache, b.Release.Name); err != nil {
		return built, err
	}
	defer func() {
		if e := CleanUp(context.WithoutCancel(ctx), b.Cache, b.Release.Name); err == nil {
			err = e
		}
	}()
	if err := b.makeScratch(); err != nil {
		return built, err
	}
	mirror, err := FindMirror(ctx, b.Mirror)
	if err != nil {
		return built, err
	}
	w := work{Builder: b, mirror: mirror, log: log, proxies: proxies(ctx)}

	built, _ = b.find(false)
	g, gctx := errgroup.WithContext(ctx)
	if !touch(built.Bare) {
		g.Go(func() error { return w.timed("the bare image", func() error { return w.bare(gctx, built.Bare) }) })
	}
	needPool := !touch(built.Pool)
	if needPool {
		// Downloading the lists of packages needs no image yet.
		g.Go(func() error { return w.aptLists(gctx) })
	}
	if err := g.Wait(); err != nil {
		return built, err
	}
	if needPool {
		if err := w.timed("the pool of packages", func() error { return w.pool(ctx, built) }); err != nil {
			return built, err
		}
	}
	if warm {
		packages, err := warmPackages(built.Pool)
		if err != nil {
			return built, err
		}
		built.Warm = b.path("warm", b.Release.warmKey(packages))
		if !touch(built.Warm) {
			if err := w.timed("the warm image", func() error { return w.warm(ctx, built, packages) }); err != nil {
				return built, err
			}
		}
	}
	b.Log("images of %s are ready after %.1f s", b.Release.Name, time.Since(start).Seconds())
	return built, nil
}

// makeScratch makes the folder to build in, in memory where there is enough
// of it: dpkg waits for the disk at every step, and needlessly here.
func (b Builder) makeScratch() error {
	const enough = 6 << 20 // KiB
	if available() < enough {
		return os.MkdirAll(b.scratch(), 0o755)
	}
	return sys.MountTmpfs(b.scratch(), "4G")
}

// available returns how much memory this machine has to spare, in KiB.
func available() (kib int) {
	text, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(text)) {
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return kib
		}
	}
	return 0
}

// CleanUp removes what a build leaves when it is done, or was killed. Only
// the holder of the build's lock may call it.
func CleanUp(ctx context.Context, cache, release string) error {
	if err := Group(release).Kill(ctx); err != nil {
		return err
	}
	if err := Group(release).Remove(ctx); err != nil {
		return err
	}
	scratch := filepath.Join(cache, "tmp", release)
	if err := sys.UnmountBelow(scratch); err != nil {
		return err
	}
	if err := os.RemoveAll(scratch); err != nil {
		return err
	}
	halves, _ := filepath.Glob(filepath.Join(cache, release, "*"+unfinished))
	for _, h := range halves {
		if err := os.RemoveAll(h); err != nil {
			return err
		}
	}
	return nil
}

// unfinished marks what is not built to its end.
const unfinished = ".unfinished"

// keep is how long something that no longer matches any inputs is kept:
// switching between two branches should not build everything each time.
const keep = 24 * time.Hour

// prune removes what was built from other inputs, and not used for a while.
func (b Builder) prune(built Built) {
	entries, _ := os.ReadDir(b.folder())
	for _, e := range entries {
		path := filepath.Join(b.folder(), e.Name())
		if !e.IsDir() || slices.Contains([]string{built.Bare, built.Warm, built.Pool}, path) || b.InUse(path) {
			continue
		}
		if st, err := os.Stat(path); err != nil || time.Since(st.ModTime()) < keep {
			continue
		}
		b.Log("removing %s, which is no longer used", path)
		// Renamed first: half a folder must not look like a whole one.
		if err := os.Rename(path, path+unfinished); err == nil {
			_ = os.RemoveAll(path + unfinished)
		}
	}
}

// CleanUpIfIdle is CleanUp, unless a build is running.
func CleanUpIfIdle(ctx context.Context, cache, release string) error {
	now, cancel := context.WithCancel(ctx)
	cancel() // the lock is taken at once or not at all
	unlock, err := sys.Lock(now, lockFile(cache, release), nil)
	if err != nil {
		return nil
	}
	defer unlock()
	return CleanUp(ctx, cache, release)
}

// Forget removes what was built of a release, so that it is built anew, with
// the versions that the mirror has by then. It refuses if a lab uses any of it.
func Forget(ctx context.Context, cache, release string, inUse func(path string) bool) error {
	unlock, err := sys.Lock(ctx, lockFile(cache, release), nil)
	if err != nil {
		return err
	}
	defer unlock()
	entries, _ := os.ReadDir(filepath.Join(cache, release))
	for _, e := range entries {
		path := filepath.Join(cache, release, e.Name())
		if inUse(path) {
			return fmt.Errorf("a lab uses %s: remove the lab first (lab down)", path)
		}
	}
	return os.RemoveAll(filepath.Join(cache, release))
}

func lockFile(cache, release string) string {
	return filepath.Join(cache, "locks", "build-"+release)
}
