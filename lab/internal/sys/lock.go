package sys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Lock takes an exclusive lock on a file, which it creates if need be, and
// returns the function that releases it. The lock belongs to the open file:
// the kernel releases it when this process dies, however it dies. When it has
// to wait, it calls waiting once, with the name of the holder. The holder may
// remove the file.
func Lock(ctx context.Context, path string, waiting func(holder string)) (release func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	for told := false; ; {
		f, err := tryLock(path)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if f != nil {
			// Who holds it, for whoever has to wait.
			_ = f.Truncate(0)
			_, _ = f.WriteAt(fmt.Appendf(nil, "process %d (%s)\n", os.Getpid(), filepath.Base(os.Args[0])), 0)
			return func() { f.Close() }, nil
		}
		if !told && waiting != nil {
			told = true
			b, _ := os.ReadFile(path)
			waiting(strings.TrimSpace(string(b)))
		}
		if err := Pause(ctx, 50*time.Millisecond); err != nil {
			return nil, fmt.Errorf("waiting for the lock %s: %w", path, err)
		}
	}
}

// tryLock returns the locked file, or nil if somebody else holds the lock.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
			return nil, nil
		}
		return nil, err
	}
	// If the last holder removed the file after it was opened here, the next
	// one locks another file of the same name.
	mine, err := f.Stat()
	if err == nil {
		if there, err := os.Stat(path); err == nil && os.SameFile(mine, there) {
			return f, nil
		}
	}
	f.Close()
	return nil, err
}

// Pause waits for d between two looks at something that cannot announce
// itself, or until ctx ends, whose cause it then returns.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
