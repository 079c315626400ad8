//go:build !unix

package sshtest

import (
	"os/exec"
	"syscall"
)

func newSession() *syscall.SysProcAttr { return nil }

func kill(cmd *exec.Cmd, _ string) { cmd.Process.Kill() }

func killAll(cmd *exec.Cmd) { kill(cmd, "KILL") }
