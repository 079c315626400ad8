package delay

import "syscall"

const sysSetns = syscall.SYS_SETNS
