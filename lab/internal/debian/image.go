package debian

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
)

// work is one build.
type work struct {
	Builder
	mirror  Mirror
	proxies []string
	log     *os.File
}

// timed tells people what takes its time.
func (w work) timed(what string, do func() error) error {
	start := time.Now()
	w.Log("building %s of %s", what, w.Release.Name)
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	w.Log("built %s of %s in %.1f s", what, w.Release.Name, time.Since(start).Seconds())
	return nil
}

func (w work) run(ctx context.Context, args ...string) (string, error) {
	return w.runIn(ctx, nil, args...)
}

func (w work) runIn(ctx context.Context, env []string, args ...string) (string, error) {
	fmt.Fprintf(w.log, "\n+ %s\n", strings.Join(args, " "))
	cmd := sys.Command{Args: args, Env: append(env, "DEBIAN_FRONTEND=noninteractive"), Log: w.log, Group: Group(w.Release.Name)}
	return cmd.Run(ctx)
}

// bare builds the bare image.
func (w work) bare(ctx context.Context, image string) error {
	root := filepath.Join(w.scratch(), "bare")
	args := []string{
		"mmdebstrap", "--mode=root", "--format=directory", "--variant=apt",
		"--include=" + strings.Join(w.Release.Base, ","),
		// The lists of a point release may be past the date they carry.
		`--aptopt=Acquire::Check-Valid-Until "false"`,
		`--aptopt=Acquire::Languages "none"`,
		"--dpkgopt=force-unsafe-io",
	}
	for _, p := range w.proxies {
		args = append(args, "--aptopt="+p)
	}
	args = append(args, w.Release.Name, root, w.mirror.Main)
	if _, err := w.run(ctx, args...); err != nil {
		return hint(err)
	}
	if err := w.inside(ctx, root, "", bareScript, w.Release.Name); err != nil {
		return err
	}
	return w.store(ctx, root, image)
}

// warm builds the warm image from the bare one and the pool.
func (w work) warm(ctx context.Context, built Built, packages []string) error {
	root := filepath.Join(w.scratch(), "warm")
	if _, err := w.run(ctx, "cp", "-a", built.Bare, root); err != nil {
		return err
	}
	if err := w.inside(ctx, root, built.Pool, warmScript, packages...); err != nil {
		return err
	}
	return w.store(ctx, root, built.Warm)
}

// inside runs a shell script in an image, with no network. Whatever it starts
// ends with it.
func (w work) inside(ctx context.Context, root, pool, script string, scriptArgs ...string) error {
	args := []string{
		"systemd-nspawn", "-q", "--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off", "--link-journal=no",
		"--private-network", "--as-pid2", "--pipe", "-M", "pgha-lab-build-" + w.Release.Name, "-D", root,
	}
	if pool != "" {
		args = append(args, "--bind-ro="+pool+":/pool/"+w.Release.Name)
	}
	args = append(args, "/bin/sh", "-c", script, "sh")
	_, err := w.run(ctx, append(args, scriptArgs...)...)
	return err
}

// store moves a finished image from the scratch folder to its place. It is on
// the disk before it has its name: an image under its name is a whole one,
// even after a crash of this machine.
func (w work) store(ctx context.Context, root, image string) error {
	half := image + unfinished
	if _, err := w.run(ctx, "cp", "-a", root, half); err != nil {
		return err
	}
	if _, err := w.run(ctx, "sync", "-f", half); err != nil {
		return err
	}
	return os.Rename(half, image)
}

// hint adds what to do to errors of apt that are hard to read.
func hint(err error) error {
	if err == nil {
		return nil
	}
	switch text := err.Error(); {
	case strings.Contains(text, "NO_PUBKEY"):
		return fmt.Errorf("%w\nThis machine's Debian keys are too old: install a newer debian-archive-keyring", err)
	case strings.Contains(text, "Could not resolve"), strings.Contains(text, "Could not connect"), strings.Contains(text, "Connection failed"):
		return fmt.Errorf("%w\nThe Debian mirror cannot be reached: give another with --mirror", err)
	}
	return err
}
