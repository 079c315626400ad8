package acceptance

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
)

// primaries asks servers the whole time which of them take writes.
type primaries struct {
	mu   sync.Mutex
	said map[string]time.Time // when one said last that it does
}

// watchPrimaries begins to ask hosts, which have the account of the tests' writers.
func (s *site) watchPrimaries(t *testing.T, hosts ...string) *primaries {
	t.Helper()
	p := &primaries{said: map[string]time.Time{}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var done sync.WaitGroup
	for _, h := range hosts {
		c := s.writerConfig()
		c.Hosts, c.CA = []string{s.lab.Host(h).Addr}, ""
		done.Go(func() {
			conn := writer.Keep(c)
			defer conn.Close()
			for ctx.Err() == nil {
				asked := time.Now()
				if takesWrites(ctx, conn) {
					p.mu.Lock()
					p.said[h] = asked
					p.mu.Unlock()
				}
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); done.Wait() })
	return p
}

// takesWrites asks one server.
func takesWrites(ctx context.Context, conn *writer.Kept) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var recovery bool
	err := conn.Do(ctx, func(c *pgx.Conn) error { return c.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&recovery) })
	return err == nil && !recovery
}

// one is the only server that has just said that it takes writes, empty if there are none or
// several.
func (p *primaries) one() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := ""
	for h, at := range p.said {
		if time.Since(at) > 300*time.Millisecond {
			continue
		}
		if found != "" {
			return ""
		}
		found = h
	}
	return found
}
