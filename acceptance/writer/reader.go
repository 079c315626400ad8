package writer

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Reader asks the same question the whole time, whose answer is not to change.
type Reader struct {
	conn   *Kept
	query  string
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	answered int
	failed   int // attempts, those to connect included
	wrong    []string
	lastErr  error
}

// Read asks a query, of one row with one text, until Check.
func Read(t testing.TB, c Config, query, want string) *Reader {
	t.Helper()
	reading, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	r := &Reader{conn: &Kept{open: func(ctx context.Context) (*pgx.Conn, error) { return Connect(ctx, c) }}, query: query, cancel: cancel}
	r.done.Go(func() { r.read(reading, want) })
	t.Cleanup(r.stop)
	return r
}

func (r *Reader) read(ctx context.Context, want string) {
	defer r.conn.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(500 * time.Millisecond): // each is a query of all shards
		}
		have, err := r.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		switch {
		case err != nil:
			r.failed++
			r.lastErr = err
		case have != want:
			r.wrong = append(r.wrong, have)
		default:
			r.answered++
		}
		r.mu.Unlock()
	}
}

func (r *Reader) ask(ctx context.Context) (have string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err = r.conn.Do(ctx, func(c *pgx.Conn) error { return c.QueryRow(ctx, r.query).Scan(&have) })
	return have, err
}

func (r *Reader) stop() {
	r.cancel()
	r.done.Wait()
}

// Failed is how many attempts failed so far.
func (r *Reader) Failed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// Check stops the reader and fails the test if an answer was wrong, or there was none.
func (r *Reader) Check(t testing.TB) {
	t.Helper()
	r.stop()
	t.Logf("reader: %d answers, %d attempts failed (last error: %v)", r.answered, r.failed, r.lastErr)
	if len(r.wrong) > 0 || r.answered == 0 {
		t.Errorf("%d of %d answers are wrong, such as %v", len(r.wrong), len(r.wrong)+r.answered, r.wrong)
	}
}
