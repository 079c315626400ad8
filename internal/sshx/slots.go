package sshx

import (
	"context"
	"sync"
	"time"
)

// slots counts the sessions on a connection.
//
// sshd's MaxSessions may be lower than our limit, and it is not announced: it is
// learned when the server refuses a session, and who wants one more then waits as
// for a limit of our own.
type slots struct {
	wait  time.Duration // how long to wait where no end is in sight
	yield func() bool   // ends a session that is only kept, if there is one

	mu      sync.Mutex
	waiting int // who wait for a place
	limit   int
	used    int
	long    int // those of used that end only when their owner ends them
	open    int // those of used that the server has granted
	peak    int // the most it has granted at once
	changed chan struct{}
}

func (s *slots) init(limit int, wait time.Duration, yield func() bool) {
	s.limit, s.wait, s.yield = limit, wait, yield
	s.changed = make(chan struct{})
}

// errNoSlot is the end of waiting for a session that has no end in sight.
type errNoSlot struct{}

func (errNoSlot) Error() string {
	return "all sessions that the server allows on a connection are taken by long-running ones"
}

// acquire takes a place, as soon as there is one. Long ones get at most half of
// the places, or those who wait for a lock could keep out the one who holds it.
func (s *slots) acquire(ctx context.Context, long bool) error {
	var timer *time.Timer
	var hopeless <-chan time.Time
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	for {
		s.mu.Lock()
		if s.used < s.limit && (!long || s.long < max(1, s.limit/2)) {
			s.used++
			if long {
				s.long++
			}
			s.mu.Unlock()
			return nil
		}
		// Scripts end by their time limit; what holds a lock may not.
		stuck := !long && s.long >= s.used
		changed := s.changed
		full := s.used >= s.limit
		s.waiting++
		s.mu.Unlock()
		if full {
			s.yield()
		}
		switch {
		case stuck && timer == nil:
			timer = time.NewTimer(s.wait)
			hopeless = timer.C
		case !stuck && timer != nil:
			timer.Stop()
			timer, hopeless = nil, nil
		}
		var err error
		select {
		case <-changed:
		case <-hopeless:
			err = errNoSlot{}
		case <-ctx.Done():
			err = ctx.Err()
		}
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// crowded reports whether somebody waits for a place while all are taken.
func (s *slots) crowded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting > 0 && s.used >= s.limit
}

// granted notes that the server has opened a session.
func (s *slots) granted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	s.peak = max(s.peak, s.open)
}

// release gives a place back, after the session that was granted for it.
func (s *slots) release(long bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	s.giveBack(long)
}

// refused gives a place back for which the server granted no session. As many
// as are in use then, or were granted at once before, are the limit from now on.
// It reports whether there is hope, which is in scripts of ours that will end.
func (s *slots) refused(long bool) (hope bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.giveBack(long)
	if n := max(s.used, s.peak); n > 0 {
		s.limit = min(s.limit, n)
	}
	return s.used > s.long
}

// forget gives a place back that was not used.
func (s *slots) forget(long bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.giveBack(long)
}

func (s *slots) giveBack(long bool) {
	s.used--
	if long {
		s.long--
	}
	s.wake()
}

func (s *slots) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}
