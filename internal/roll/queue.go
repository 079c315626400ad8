package roll

import (
	"context"
	"sync"
	"time"
)

// Queues lets operations on one cluster take turns within this process, in the
// best order rather than the one in which they came: Terraform starts them all
// within milliseconds and at random. It is a courtesy to the cluster, not a
// lock: other processes are kept out by LockHosts or a lease in etcd.
type Queues struct {
	// Settle is how long the first comer waits for others before a turn is
	// given. Nobody ever waits for others that have not come: with
	// -parallelism=1 they never will.
	Settle time.Duration

	mu     sync.Mutex
	queues map[string]*queue
}

type queue struct {
	waiting []*entrant
	busy    bool // a turn is taken, or being given
}

type entrant struct {
	id   string
	rank func(context.Context) int
	turn chan struct{}
}

// DefaultSettle is long enough for all operations that Terraform starts
// together.
const DefaultSettle = 250 * time.Millisecond

// Enter waits for a turn on the cluster key. Rank is asked anew before each
// turn, with the context of whoever gives it; the lowest goes first. Leave
// gives the turn on.
func (q *Queues) Enter(ctx context.Context, key, id string, rank func(context.Context) int) (leave func(), err error) {
	e := &entrant{id: id, rank: rank, turn: make(chan struct{})}
	q.mu.Lock()
	if q.queues == nil {
		q.queues = map[string]*queue{}
	}
	c := q.queues[key]
	if c == nil {
		c = &queue{}
		q.queues[key] = c
	}
	c.waiting = append(c.waiting, e)
	begin := !c.busy
	c.busy = true
	q.mu.Unlock()

	if begin {
		go func() {
			timer := time.NewTimer(q.settle())
			defer timer.Stop()
			<-timer.C
			q.next(context.WithoutCancel(ctx), key, c)
		}()
	}
	select {
	case <-e.turn:
	case <-ctx.Done():
		if !q.withdraw(c, e) {
			// The turn came at the same moment: give it on.
			go q.next(context.WithoutCancel(ctx), key, c)
		}
		return nil, context.Cause(ctx)
	}
	var once sync.Once
	return func() { once.Do(func() { q.next(context.WithoutCancel(ctx), key, c) }) }, nil
}

func (q *Queues) settle() time.Duration {
	if q.Settle == 0 {
		return DefaultSettle
	}
	return q.Settle
}

// withdraw takes an entrant out and reports whether it was still waiting.
func (q *Queues) withdraw(c *queue, e *entrant) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, w := range c.waiting {
		if w == e {
			c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// next gives the turn to the waiting entrant with the lowest rank. Ranks are
// asked outside the lock: they may look at the cluster.
func (q *Queues) next(ctx context.Context, key string, c *queue) {
	for {
		q.mu.Lock()
		candidates := append([]*entrant(nil), c.waiting...)
		if len(candidates) == 0 {
			c.busy = false
			if q.queues[key] == c {
				delete(q.queues, key)
			}
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()

		best, bestRank := candidates[0], 0
		if len(candidates) > 1 {
			bestRank = candidates[0].rank(ctx)
			for _, e := range candidates[1:] {
				if r := e.rank(ctx); r < bestRank {
					best, bestRank = e, r
				}
			}
		}
		if q.withdraw(c, best) {
			close(best.turn)
			return
		}
	}
}
