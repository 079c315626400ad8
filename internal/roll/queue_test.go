package roll

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// All that come together are served by rank, one at a time, and the rank is
// asked anew before each turn: the leader may have changed.
func TestQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Queues
		var mu sync.Mutex
		var order []string
		leader := "a"
		var wg sync.WaitGroup
		inside := 0
		for _, id := range []string{"a", "b", "c"} {
			wg.Go(func() {
				leave, err := q.Enter(t.Context(), "main", id, func(context.Context) int {
					mu.Lock()
					defer mu.Unlock()
					if id == leader {
						return 10
					}
					return int(id[0] - 'a')
				})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				inside++
				if inside != 1 {
					t.Errorf("%d at a time", inside)
				}
				order = append(order, id)
				leader = "c" // a failover while b has its turn
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				inside--
				mu.Unlock()
				leave()
			})
		}
		wg.Wait()
		if want := []string{"b", "a", "c"}; !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
		if len(q.queues) != 0 {
			t.Error("the queue was not cleaned up")
		}
	})
}

// One that gives up does not block the others, and clusters do not wait for
// each other.
func TestQueueCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Queues
		rank := func(context.Context) int { return 0 }
		leave, err := q.Enter(t.Context(), "main", "a", rank)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := q.Enter(ctx, "main", "b", rank); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		other, err := q.Enter(t.Context(), "other", "x", rank)
		if err != nil {
			t.Fatal(err)
		}
		other()
		leave()
		leave() // a second time does nothing
		again, err := q.Enter(t.Context(), "main", "c", rank)
		if err != nil {
			t.Fatal(err)
		}
		again()
		synctest.Wait()
	})
}

// Who has said that they come is waited for, so that the best one has the first turn;
// who gives up is not.
func TestQueueComers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Queues
		var mu sync.Mutex
		var order []string
		var wg sync.WaitGroup
		for rank, c := range []struct {
			id    string
			after time.Duration
		}{{"slow", 10 * time.Second}, {"quick", 0}, {"gives up", 20 * time.Second}, {"middle", time.Second}} {
			comer := q.Come("main")
			wg.Go(func() {
				time.Sleep(c.after)
				if c.id == "gives up" {
					comer.GiveUp()
					return
				}
				leave, err := comer.Enter(t.Context(), c.id, func(context.Context) int { return rank })
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, c.id)
				mu.Unlock()
				leave()
			})
		}
		wg.Wait()
		if want := []string{"slow", "quick", "middle"}; !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
		if len(q.queues) != 0 {
			t.Error("the queue was not cleaned up")
		}
	})
}

// A halt is for one cluster, and keeps its first reason.
func TestQueueHalt(t *testing.T) {
	var q Queues
	if q.Halted("main") != nil {
		t.Error("halted from the beginning")
	}
	first := errors.New("first")
	q.Halt("main", first)
	q.Halt("main", errors.New("second"))
	if err := q.Halted("main"); !errors.Is(err, first) {
		t.Errorf("halted for %v", err)
	}
	if err := q.Halted("other"); err != nil {
		t.Errorf("another cluster is halted for %v", err)
	}
}

// Of equals, the first one by its id has the first turn, in whatever order they come.
func TestQueueEquals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Queues
		var mu sync.Mutex
		var order []string
		var wg sync.WaitGroup
		for _, id := range []string{"c", "a", "leader", "b"} {
			wg.Go(func() {
				rank := 0
				if id == "leader" {
					rank = 1
				}
				leave, err := q.Enter(t.Context(), "main", id, func(context.Context) int { return rank })
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, id)
				mu.Unlock()
				leave()
			})
			synctest.Wait() // it has entered before the next one comes
		}
		wg.Wait()
		if want := []string{"a", "b", "c", "leader"}; !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
	})
}
