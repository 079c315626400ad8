package fakehost

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// Op is one script at work on a machine.
type Op struct {
	Machine *Machine
	Cmd     host.Cmd
	Process *Process
	Out     bytes.Buffer
	Err     bytes.Buffer

	ctx context.Context
}

// operation is what the model does for a host.Cmd.Name.
type operation struct {
	mutates bool
	// reads reports, of an operation that mutates, that this call does not.
	reads func(host.Cmd) bool
	run   func(*Op) error
}

// Handle models an operation. Run is called as in World.Do; what it writes to Op.Out
// is the script's output, and Op.Fail is how it fails.
func (w *World) Handle(name string, mutates bool, run func(*Op) error) {
	w.ops[name] = operation{mutates: mutates, reads: func(host.Cmd) bool { return false }, run: run}
}

// HandleUnless models an operation that changes something, except where reads
// says that a call does not.
func (w *World) HandleUnless(name string, reads func(host.Cmd) bool, run func(*Op) error) {
	w.ops[name] = operation{mutates: true, reads: reads, run: run}
}

// Handles reports whether an operation is modelled.
func (w *World) Handles(name string) bool {
	_, ok := w.ops[name]
	return ok
}

type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Fail ends the script with a status and a line on standard error.
func (o *Op) Fail(code int, format string, args ...any) error {
	_, _ = fmt.Fprintf(&o.Err, format+"\n", args...)
	return exitError(code)
}

// Printf writes to standard output.
func (o *Op) Printf(format string, args ...any) { _, _ = fmt.Fprintf(&o.Out, format, args...) }

// Arg is the n-th parameter, from 1 as in the script, empty if there is none.
func (o *Op) Arg(n int) string {
	if n > len(o.Cmd.Args) {
		return ""
	}
	return o.Cmd.Args[n-1]
}

// Need fails the test unless there are exactly so many parameters.
func (o *Op) Need(n int) bool {
	if len(o.Cmd.Args) != n {
		o.Machine.World.TB.Errorf("%s has %d arguments, not %d: %q", o.Cmd.Name, len(o.Cmd.Args), n, o.Cmd.Args)
		return false
	}
	return true
}

// Wait lets the world go on until cond holds, for at most what the command may
// take. It reports false if that was not long enough, or the caller gave up.
func (o *Op) Wait(cond func() bool) bool {
	w := o.Machine.World
	limit := o.Cmd.Timeout
	if limit == 0 {
		limit = host.DefaultTimeout
	}
	const poll = 50 * time.Millisecond
	for waited := time.Duration(0); !cond(); waited += poll {
		if waited > limit || o.ctx.Err() != nil || !o.Machine.Up {
			return false
		}
		w.mu.Unlock()
		ok := w.Sleep(poll)
		w.mu.Lock()
		if !ok {
			return false
		}
	}
	return true
}

func trimmed(s string) string { return strings.TrimSpace(s) }

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// handleAll models the operations of packages remote and pki.
func (w *World) handleAll() {
	w.Handle("probe", false, probe)
	w.Handle("file.write", true, fileWrite)
	w.Handle("file.remove", true, fileRemove)
	w.Handle("dir.make", true, dirMake)
	w.Handle("dir.remove", true, dirRemove)
	w.Handle("tree.purge", true, treePurge)
	w.Handle("apt.update", true, aptUpdate)
	w.Handle("apt.install", true, aptInstall)
	w.Handle("apt.lookup", false, aptLookup)
	w.Handle("apt.hold", true, aptHold)
	w.Handle("apt.remove", true, aptRemove)
	w.Handle("apt.unguard", true, aptUnguard)
	w.Handle("unit", true, unitOp)
	w.Handle("journal", false, journal)
	w.Handle("journal.end", false, journalEnd)
	w.Handle("postgres.log", false, recentLog)
	w.Handle("sysctl.apply", true, sysctlApply)
	w.Handle("ca.create", true, caCreate)
	w.Handle("ca.receive", true, caReceive)
	w.Handle("ca.export", false, caExport)
	w.Handle("ca.import", true, caImport)
	w.Handle("ca.promote", true, caPromote)
	w.Handle("ca.sign", false, caSign)
	w.Handle("leaf.request", true, leafRequest)
	w.Handle("etcd.session", false, etcdSession)
	// Locks are held by Start; Run knows the name only so that a mistake is
	// told apart from what nobody modelled.
	w.Handle("flock.hold", false, func(o *Op) error {
		o.Machine.World.TB.Errorf("flock.hold has to be started, not run")
		return exitError(64)
	})
}
