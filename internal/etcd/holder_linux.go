package etcd

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// A lock's value is who holds it, in words, and on a second line this process,
// for another one on the same machine: where it sees that the holder is gone,
// it need not wait until the lease has run out. (That of the host's own locks
// goes with the connection; etcd does not know that one.)

// process identifies this process on this machine, or is empty where that is
// not known: the boot, the namespace that process ids are of, the id, and when
// the process was started, since ids are used again.
func process() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	space, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	pid := os.Getpid()
	start := started(pid)
	if start == "" {
		return ""
	}
	return fmt.Sprintf("%s %s %d %s", strings.TrimSpace(string(boot)), space, pid, start)
}

// started is when a process was started, in ticks since the boot, and empty if
// that cannot be read. See proc_pid_stat(5): the second field, a name in
// parentheses, may have anything in it.
func started(pid int) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	f := strings.Fields(string(text[max(0, strings.LastIndexByte(string(text), ')')):]))
	if len(f) < 21 {
		return ""
	}
	return f[20]
}

// gone reports whether a process is certainly no more. Of one on another
// machine or in another namespace that is never certain.
func gone(id string) bool {
	theirs, ours := strings.Fields(id), strings.Fields(process())
	if len(theirs) != 4 || len(ours) != 4 || theirs[0] != ours[0] || theirs[1] != ours[1] {
		return false
	}
	pid, err := strconv.Atoi(theirs[2])
	if err != nil || pid < 1 {
		return false
	}
	if err := syscall.Kill(pid, 0); err == syscall.ESRCH {
		return true
	}
	start := started(pid)
	return start != "" && start != theirs[3]
}
