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
	cfg    Config
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
	r := &Reader{cfg: c, query: query, cancel: cancel}
	r.done.Go(func() { r.read(reading, want) })
	t.Cleanup(r.stop)
	return r
}

func (r *Reader) read(ctx context.Context, want string) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.Background())
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(500 * time.Millisecond): // each is a query of all shards
		}
		have, err := r.ask(ctx, &conn)
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

func (r *Reader) ask(ctx context.Context, conn **pgx.Conn) (have string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if *conn == nil {
		c, err := Connect(ctx, r.cfg)
		if err != nil {
			return "", err
		}
		*conn = c
	}
	if err = (*conn).QueryRow(ctx, r.query).Scan(&have); err != nil {
		_ = (*conn).Close(context.Background())
		*conn = nil
	}
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
