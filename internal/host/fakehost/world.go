// Package fakehost is a fleet of Debian hosts in memory, for tests. A World
// holds the hosts and what has been done to them; a Process is one run of the
// provider and implements host.Fleet. Operations are dispatched on
// host.Cmd.Name and act on a model of the host: files with owner and mode,
// packages, units, kernel settings, ports, locks.
//
// It is strict: an operation that nobody modelled, a script without text and a
// secret among the arguments fail the test.
package fakehost

import (
	"fmt"
	"hash/fnv"
	"sync"
	"testing"
	"time"
)

// Config says how a world's time runs.
type Config struct {
	// Pace is by how much the world's own durations (a loop of Patroni, the
	// start of a server) are multiplied. Zero is one, for tests under
	// testing/synctest; tests in real time give a small fraction.
	Pace float64

	// Seed decides how long each call takes and so in which order those that
	// run side by side come. Zero lets every call take no time at all.
	Seed uint64

	// Distance is how much longer each request and each answer takes.
	Distance time.Duration
}

// World is a set of machines and everything that is done to them.
type World struct {
	TB  testing.TB
	cfg Config

	// mu guards all that is modelled, the state of simulated services
	// included: they are told with it held.
	mu           sync.Mutex
	machines     map[string]*Machine // by address
	virtual      map[string]func() *Machine
	order        []*Machine
	ops          map[string]operation
	calls        []Call
	secrets      []string
	known        map[string]bool // of secrets
	cut          map[[2]string]bool
	distance     Distance
	onUnit       []func(string, *Unit)
	onVersion    []func(m *Machine, name, from, to string)
	onInstall    map[string]func(*Machine, string)
	unitServices map[string]func(*Machine) Service
	pids         int
	began        time.Time

	closed chan struct{}
	once   sync.Once
	work   sync.WaitGroup
}

// New returns an empty world, which ends with the test: no goroutine of it is
// left, and no secret is among the arguments that it recorded.
func New(tb testing.TB, cfg Config) *World {
	if cfg.Pace == 0 {
		cfg.Pace = 1
	}
	w := &World{
		TB: tb, cfg: cfg, machines: map[string]*Machine{}, virtual: map[string]func() *Machine{}, ops: map[string]operation{}, cut: map[[2]string]bool{},
		known: map[string]bool{}, onInstall: map[string]func(*Machine, string){}, unitServices: map[string]func(*Machine) Service{}, closed: make(chan struct{}), began: time.Now(),
	}
	w.handleAll()
	tb.Cleanup(func() {
		w.Close()
		w.checkArguments()
	})
	return w
}

// Close ends everything that runs in the world.
func (w *World) Close() {
	w.once.Do(func() { close(w.closed) })
	w.Do(func() {
		for _, m := range w.order {
			m.dropConnections()
		}
	})
	w.work.Wait()
}

// Do runs f while nothing else in the world happens. What is exported of
// machines, files and units may only be touched in it.
func (w *World) Do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// Go runs f beside everything else until the world ends.
func (w *World) Go(f func()) { w.work.Go(f) }

// Sleep lets some of the world's time pass. It returns false if the world ended
// meanwhile.
func (w *World) Sleep(d time.Duration) bool {
	t := time.NewTimer(w.Real(d))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.closed:
		return false
	}
}

// Real is how long a duration of the world takes.
func (w *World) Real(d time.Duration) time.Duration {
	return time.Duration(float64(d) * w.cfg.Pace)
}

// Closed is closed when the world ends.
func (w *World) Closed() <-chan struct{} { return w.closed }

// After runs f, as Do does, when some time has passed.
func (w *World) After(d time.Duration, f func()) {
	w.work.Go(func() {
		if w.Sleep(d) {
			w.Do(f)
		}
	})
}

// WaitFor waits until cond, asked as in Do, holds. It fails the test after an
// hour of the world's time, or a minute of the test's own.
func (w *World) WaitFor(what string, cond func() bool) {
	w.TB.Helper()
	for end := time.Now().Add(max(w.Real(time.Hour), time.Minute)); time.Now().Before(end); {
		ok := false
		w.Do(func() { ok = cond() })
		if ok {
			return
		}
		time.Sleep(max(w.Real(20*time.Millisecond), time.Millisecond))
	}
	w.TB.Fatalf("gave up waiting for %s", what)
}

// latency is how long a call takes. It depends on what is asked and when, and
// on nothing else: the same seed gives the same order every time, also where
// several calls are made at the same moment.
func (w *World) latency(c Call, stage string) time.Duration {
	if w.cfg.Seed == 0 {
		return w.cfg.Distance
	}
	since := time.Since(w.began)
	return time.Duration(Hash(w.cfg.Seed, stage, c.Process, c.Kind, c.Host, c.Name, c.Args[:min(1, len(c.Args))], since)%uint64(30*time.Millisecond)) + time.Microsecond + w.cfg.Distance
}

// Seed is the configured one.
func (w *World) Seed() uint64 { return w.cfg.Seed }

// Hash mixes a seed with names and numbers: a random number that does not
// depend on who asked first.
func Hash(seed uint64, parts ...any) uint64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d %v", seed, parts)
	sum := h.Sum64()
	return (sum ^ sum>>31) * 0x9e3779b97f4a7c15 >> 8
}
