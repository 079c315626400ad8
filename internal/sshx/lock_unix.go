//go:build unix

package sshx

import (
	"os"
	"syscall"
)

// lockFile locks f between processes until it is closed.
func lockFile(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			return err
		}
	}
}
