//go:build unix

package sshtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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

// killAll kills all processes of a command's session, also those that are in
// groups of their own, as timeout(1) is. Where there is no /proc it kills one group.
func killAll(cmd *exec.Cmd) {
	kill(cmd, "KILL")
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// Behind the name, which may hold anything: state, parent, group, session.
		var state string
		var parent, group, session int
		_, err = fmt.Sscan(string(text[strings.LastIndexByte(string(text), ')')+1:]), &state, &parent, &group, &session)
		if pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && session == cmd.Process.Pid && pid > 0 {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
