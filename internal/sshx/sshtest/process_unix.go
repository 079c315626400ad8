//go:build unix

package sshtest

import (
	"os/exec"
	"syscall"
)

func newSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// kill signals the process group of a command, as sshd does.
func kill(cmd *exec.Cmd, name string) {
	sig := syscall.SIGTERM
	if name == "KILL" {
		sig = syscall.SIGKILL
	}
	syscall.Kill(-cmd.Process.Pid, sig)
}
