package sshx

import (
	"context"
	"sync"
)

// shared merges concurrent calls of one function into one that all wait for.
// It differs from singleflight in that a caller whose context ends stops
// waiting without harm to the others, and that the work is canceled only when
// nobody waits for it any more.
type shared[T any] struct {
	mu  sync.Mutex
	cur *work[T]
}

type work[T any] struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiting int
	val     T
	err     error
}

// do returns what fn returns, run under start, which is a go statement that may
// refuse. The context fn gets has ctx's values but ends on its own terms.
func (s *shared[T]) do(ctx context.Context, start func(func()) error, fn func(context.Context) (T, error)) (T, error) {
	s.mu.Lock()
	w := s.cur
	if w == nil {
		workCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		w = &work[T]{done: make(chan struct{}), cancel: cancel}
		err := start(func() {
			defer cancel()
			w.val, w.err = fn(workCtx)
			s.forget(w)
			close(w.done)
		})
		if err != nil {
			s.mu.Unlock()
			cancel()
			var none T
			return none, err
		}
		s.cur = w
	}
	w.waiting++
	s.mu.Unlock()

	select {
	case <-w.done:
		return w.val, w.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	w.waiting--
	if w.waiting == 0 {
		// Who comes next starts anew instead of joining what is ending.
		if s.cur == w {
			s.cur = nil
		}
		w.cancel()
	}
	s.mu.Unlock()
	var none T
	return none, ctx.Err()
}

func (s *shared[T]) forget(w *work[T]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur == w {
		s.cur = nil
	}
}
