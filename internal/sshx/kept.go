package sshx

import (
	"context"
	"slices"
	"sync"
	"time"
)

// How long a script waits for the kept session that another one has: from the
// other one's start, since to open one more takes about as long, and costs a login
// shell and sudo; and from its end, when it only has to be cleared away.
const (
	keptWait  = 200 * time.Millisecond
	clearWait = time.Second
)

// kept is a connection's one session that is used again. Who takes it has it to
// himself, and either puts it back or drops it.
type kept struct {
	all *idlers

	// crowded says that somebody waits for a place that an idle session takes.
	crowded func() bool

	mu      sync.Mutex
	taken   bool      // somebody has it, or is about to open it
	until   time.Time // until when it is worth waiting for
	idle    *shell
	changed chan struct{} // closed when it is free again; nil if nobody waits
}

// take returns the kept session. If there is none, but the caller shall open it,
// mine is set and the session nil. If another script has it for too long, or ctx
// ends, mine is not set.
func (k *kept) take(ctx context.Context) (sh *shell, mine bool) {
	for {
		k.mu.Lock()
		if !k.taken {
			sh, k.idle, k.taken, k.until = k.idle, nil, true, time.Now().Add(keptWait)
			k.mu.Unlock()
			return sh, true
		}
		left := time.Until(k.until)
		if k.changed == nil {
			k.changed = make(chan struct{})
		}
		changed := k.changed
		k.mu.Unlock()
		if left <= 0 {
			return nil, false
		}
		t := time.NewTimer(left)
		select {
		case <-changed:
			t.Stop()
		case <-t.C: // perhaps until has changed
		case <-ctx.Done():
			t.Stop()
			return nil, false
		}
	}
}

// clearing notes that the script of who has the session has ended.
func (k *kept) clearing() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.until = time.Now().Add(clearWait)
}

// put gives back a session that can be used again.
func (k *kept) put(sh *shell) {
	if k.crowded() {
		sh.dismiss()
		sh = nil
	}
	k.mu.Lock()
	// That it has ended is told to k before or after this, but not meanwhile.
	idle := sh != nil && sh.turn(nil)
	if idle {
		k.idle = sh
	}
	k.freeLocked()
	k.mu.Unlock()
	if idle {
		k.all.add(k)
	}
}

// drop gives back the right to open one, if the session can't be used again.
func (k *kept) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.freeLocked()
}

func (k *kept) freeLocked() {
	k.taken = false
	if k.changed != nil {
		close(k.changed)
		k.changed = nil
	}
}

// lost notes that a session has ended while nobody used it.
func (k *kept) lost(sh *shell) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.idle == sh {
		k.idle = nil
	}
}

// yield ends the session if nobody uses it, so that its place is free for
// another one. It reports whether it did.
func (k *kept) yield() bool {
	k.mu.Lock()
	sh := k.idle
	k.idle = nil
	k.mu.Unlock()
	if sh == nil {
		return false
	}
	sh.dismiss()
	return true
}

// maxIdle is how many sessions of all connections are kept while nobody uses them.
// A cluster has fewer hosts, and of a thousand hosts each is asked once, one after
// the other: to keep theirs would only take memory, here and there.
const maxIdle = 64

// idlers are those whose session was put back last, the latest at the end.
type idlers struct {
	mu   sync.Mutex
	last []*kept
}

// add notes that a session was put back, and ends the one that has not been used
// for longest, if there are too many. One that is in use meanwhile goes on: it
// comes again when it is put back.
func (i *idlers) add(k *kept) {
	i.mu.Lock()
	if at := slices.Index(i.last, k); at >= 0 {
		i.last = slices.Delete(i.last, at, at+1)
	}
	i.last = append(i.last, k)
	var oldest *kept
	if len(i.last) > maxIdle {
		oldest = i.last[0]
		i.last = slices.Delete(i.last, 0, 1)
	}
	i.mu.Unlock()
	if oldest != nil {
		oldest.yield()
	}
}
