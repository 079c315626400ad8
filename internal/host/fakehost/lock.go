package fakehost

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// lock is a flock that a script holds.
type lock struct {
	holder string
	drop   func()
}

// Start implements host.Host, for the one script that runs beside others: the
// one that holds a lock for as long as it is fed.
func (v *view) Start(ctx context.Context, cmd host.Cmd) (host.Process, error) {
	w := v.p.World
	if _, ok := w.check(cmd); !ok || cmd.Name != "flock.hold" {
		w.TB.Errorf("%s cannot be started, only run", cmd.Name)
		return nil, v.fail(cmd.Name, host.KindExit, errors.New("not modelled"))
	}
	proc := &holding{v: v, cmd: cmd, lines: make(chan struct{}, 8), eof: make(chan struct{}), gone: make(chan struct{}), ended: make(chan struct{}), text: make(chan string, 1)}
	err := v.p.Do(ctx, Call{Kind: "host", Host: v.target.Name, Name: cmd.Name, Args: cmd.Args}, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		m, err := v.machine(cmd.Name)
		if err != nil {
			return err
		}
		proc.m = m
		w.work.Go(proc.run)
		return nil
	})
	if err != nil {
		return nil, v.translate(cmd.Name, err)
	}
	return proc, nil
}

// holding is flock_hold.sh at work.
type holding struct {
	v       *view
	cmd     host.Cmd
	m       *Machine
	lines   chan struct{} // a heartbeat each
	eof     chan struct{}
	eofOnce sync.Once
	gone    chan struct{} // the machine lost power
	ended   chan struct{}
	text    chan string
	rest    string
	err     error
}

func (h *holding) run() {
	defer close(h.ended)
	path, holder := h.cmd.Args[0], h.cmd.Args[1]
	settle, _ := strconv.Atoi(h.cmd.Args[2])
	beat, _ := strconv.Atoi(h.cmd.Args[3])
	mine := &lock{holder: holder, drop: sync.OnceFunc(func() { close(h.gone) })}
	w := h.m.World
	for waited := time.Duration(0); ; waited += 50 * time.Millisecond {
		held := ""
		w.Do(func() {
			if l := h.m.locks[path]; l != nil {
				held = l.holder
			} else {
				h.m.locks[path] = mine
			}
		})
		if held == "" {
			break
		}
		if waited >= seconds(settle) {
			h.err = h.exit(75)
			h.say("busy " + held)
			return
		}
		if !w.Sleep(50 * time.Millisecond) {
			return
		}
	}
	defer w.Do(func() {
		if h.m.locks[path] == mine {
			delete(h.m.locks, path)
		}
	})
	h.say("locked")
	timer := time.NewTimer(seconds(beat))
	defer timer.Stop()
	for {
		select {
		case <-h.lines:
			timer.Reset(seconds(beat))
		case <-timer.C:
			return
		case <-h.eof:
			return
		case <-h.gone:
			h.err = h.v.fail(h.cmd.Name, host.KindLost, errors.New("connection reset by peer"))
			return
		case <-w.closed:
			return
		}
	}
}

func (h *holding) exit(code int) error {
	e := h.v.fail(h.cmd.Name, host.KindExit, nil)
	e.ExitCode = code
	return e
}

// say prints the one line that the script has to say.
func (h *holding) say(line string) { h.text <- line + "\n" }

// Read is the script's standard output.
func (h *holding) Read(b []byte) (int, error) {
	if h.rest == "" {
		select {
		case h.rest = <-h.text:
		case <-h.ended:
			select {
			case h.rest = <-h.text:
			default:
				return 0, io.EOF
			}
		}
	}
	n := copy(b, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}

func (h *holding) Stdin() io.WriteCloser { return (*holdingInput)(h) }
func (h *holding) Stdout() io.Reader     { return h }

func (h *holding) Wait() error {
	select {
	case <-h.ended:
		return h.err
	case <-h.v.p.dead:
		return h.v.fail(h.cmd.Name, host.KindLost, ErrCrashed)
	}
}

func (h *holding) Close() error {
	return h.Stdin().Close()
}

// holdingInput is the script's standard input. A process that crashed sends
// nothing any more, not even the end of file.
type holdingInput holding

func (h *holdingInput) Write(b []byte) (int, error) {
	reachable := false
	h.v.p.World.Do(func() { reachable = h.v.p.Reaches(h.v.target.Address) })
	if h.v.p.Crashed() || !reachable {
		return 0, h.v.fail(h.cmd.Name, host.KindLost, errors.New("broken pipe"))
	}
	select {
	case <-h.ended:
		return 0, h.v.fail(h.cmd.Name, host.KindLost, io.ErrClosedPipe)
	default:
	}
	for range strings.Count(string(b), "\n") {
		select {
		case h.lines <- struct{}{}:
		default:
		}
	}
	return len(b), nil
}

func (h *holdingInput) Close() error {
	reachable := false
	h.v.p.World.Do(func() { reachable = h.v.p.Reaches(h.v.target.Address) })
	if !h.v.p.Crashed() && reachable {
		h.eofOnce.Do(func() { close(h.eof) })
	}
	return nil
}

// Locked says who holds a lock on a machine, empty if nobody does.
func (m *Machine) Locked(path string) string {
	if l := m.locks[path]; l != nil {
		return l.holder
	}
	return ""
}
