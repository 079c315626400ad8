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
	halts  map[string]error
}

// Halt ends the turns on a cluster in this process: whoever comes later is to leave
// everything as it is, and asks Halted.
func (q *Queues) Halt(key string, why error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.halts == nil {
		q.halts = map[string]error{}
	}
	if q.halts[key] == nil {
		q.halts[key] = why
	}
}

// Halted says why no more turns are to be taken, or nothing.
func (q *Queues) Halted(key string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.halts[key]
}

type queue struct {
	waiting []*entrant
	busy    bool // a turn is taken, or being given
	coming  int  // how many have said that they come, and have not
	parked  bool // a turn is to be given when all of them have
}

type entrant struct {
	id   string
	rank func(context.Context) int
	turn chan struct{}
}

// DefaultSettle is long enough for all operations that Terraform starts
// together.
const DefaultSettle = 250 * time.Millisecond

// get returns the queue of a cluster. It needs the mutex.
func (q *Queues) get(key string) *queue {
	if q.queues == nil {
		q.queues = map[string]*queue{}
	}
	c := q.queues[key]
	if c == nil {
		c = &queue{}
		q.queues[key] = c
	}
	return c
}

// Comer is somebody who will want a turn as soon as what has to be done before is
// done. Turns are given when all comers have entered, or have thought better of it:
// else the first one to be ready would have its turn, whatever its rank.
type Comer struct {
	q    *Queues
	key  string
	once sync.Once
}

// Come says that somebody will want a turn. They must be at work by now, and wait
// for nobody else's turn before they enter or give up.
func (q *Queues) Come(key string) *Comer {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.get(key).coming++
	return &Comer{q: q, key: key}
}

// GiveUp is for who does not enter. After Enter it does nothing.
func (o *Comer) GiveUp() { o.arrive() }

// arrive takes it off those who are awaited.
func (o *Comer) arrive() {
	o.once.Do(func() {
		o.q.mu.Lock()
		c := o.q.get(o.key)
		c.coming--
		resume := c.parked && c.coming == 0
		if resume {
			c.parked = false
		}
		if c.coming == 0 && !c.busy && len(c.waiting) == 0 {
			delete(o.q.queues, o.key)
		}
		o.q.mu.Unlock()
		if resume {
			go o.q.next(context.Background(), o.key, c)
		}
	})
}

// Enter is Queues.Enter.
func (o *Comer) Enter(ctx context.Context, id string, rank func(context.Context) int) (leave func(), err error) {
	return o.q.enter(ctx, o.key, id, rank, o.arrive)
}

// Enter waits for a turn on the cluster key. Rank is asked anew before each
// turn, with the context of whoever gives it; the lowest goes first, and of equals
// the one whose id comes first, so that a plan can say who. Leave gives the turn on.
func (q *Queues) Enter(ctx context.Context, key, id string, rank func(context.Context) int) (leave func(), err error) {
	return q.enter(ctx, key, id, rank, func() {})
}

func (q *Queues) enter(ctx context.Context, key, id string, rank func(context.Context) int, entered func()) (leave func(), err error) {
	e := &entrant{id: id, rank: rank, turn: make(chan struct{})}
	q.mu.Lock()
	c := q.get(key)
	c.waiting = append(c.waiting, e)
	begin := !c.busy
	c.busy = true
	q.mu.Unlock()
	entered()

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

// Awaited reports whether somebody waits for a turn on the cluster key, while somebody
// else has one.
func (q *Queues) Awaited(key string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.queues[key]
	return c != nil && len(c.waiting) > 0
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
		if c.coming > 0 {
			c.parked = true
			q.mu.Unlock()
			return
		}
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
				if r := e.rank(ctx); r < bestRank || r == bestRank && e.id < best.id {
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
