// Package writer writes rows to a cluster the whole time and knows which were
// acknowledged, so that a test can count afterwards whether one was lost.
package writer

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Config says where to write.
type Config struct {
	Hosts    []string // addresses; the one that takes writes is found
	Port     int
	User     string
	Password string
	Database string // "postgres" unless given
	CA       string // PEM; without it TLS is used where there is any, and nothing verified
	// Lookup finds the addresses of hosts that are names; this machine's own way unless given.
	Lookup func(ctx context.Context, host string) ([]string, error)
	// Every is the pause between two rows.
	Every time.Duration
	// Table is made if it is not there.
	Table string
}

// Connect connects to the member that takes writes.
func Connect(ctx context.Context, c Config) (*pgx.Conn, error) {
	cfg, err := config(c, "read-write")
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, cfg)
}

func config(c Config, session string) (*pgx.ConnConfig, error) {
	port := c.Port
	if port == 0 {
		port = 5432
	}
	mode := "require"
	if c.CA == "" {
		mode = "prefer"
	}
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d user=%s dbname=%s target_session_attrs=%s connect_timeout=3 sslmode=%s",
		strings.Join(c.Hosts, ","), port, c.User, cmp.Or(c.Database, "postgres"), session, mode))
	if err != nil {
		return nil, err
	}
	if c.CA != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(c.CA)) {
			return nil, fmt.Errorf("the cluster's certificate cannot be read")
		}
		verify := func(host string) *tls.Config {
			return &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS12}
		}
		cfg.TLSConfig = verify(cfg.Host)
		for _, f := range cfg.Fallbacks {
			f.TLSConfig = verify(f.Host)
		}
	}
	cfg.Password = c.Password
	if c.Lookup != nil {
		cfg.LookupFunc = c.Lookup
	}
	cfg.DialFunc = (&net.Dialer{Timeout: 2 * time.Second}).DialContext
	return cfg, nil
}

// Writer is a running writer.
type Writer struct {
	cfg    Config
	cancel context.CancelFunc
	done   sync.WaitGroup
	failed atomic.Int64 // attempts, those to connect included
	broken atomic.Int64 // rows that were on their way when the connection broke

	mu      sync.Mutex
	acked   []int64
	longest time.Duration
	last    time.Time
	lastErr error
}

// Start makes the table and writes until Stop.
func Start(t testing.TB, c Config) *Writer {
	t.Helper()
	w, err := Begin(t.Context(), c)
	if err != nil {
		t.Fatalf("the writer cannot begin: %v", err)
	}
	t.Cleanup(w.Stop)
	return w
}

// Begin is Start without a test.
func Begin(ctx context.Context, c Config) (*Writer, error) {
	if c.Table == "" {
		c.Table = "written"
	}
	if c.Every == 0 {
		c.Every = 20 * time.Millisecond
	}
	conn, err := Connect(ctx, c)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "create table if not exists "+c.Table+" (id bigint primary key, at timestamptz not null default now())"); err != nil {
		return nil, err
	}
	writing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w := &Writer{cfg: c, cancel: cancel, last: time.Now()}
	w.done.Go(func() { w.write(writing, &Kept{open: w.connect, conn: conn}) })
	return w, nil
}

// connect finds the member that takes writes, wherever that is by now.
func (w *Writer) connect(ctx context.Context) (*pgx.Conn, error) { return Connect(ctx, w.cfg) }

func (w *Writer) write(ctx context.Context, conn *Kept) {
	defer conn.Close()
	tick := time.NewTicker(w.cfg.Every)
	defer tick.Stop()
	id := time.Now().UnixNano()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		id++
		err := w.row(ctx, conn, id)
		if ctx.Err() != nil {
			return
		}
		w.mu.Lock()
		now := time.Now()
		if err != nil {
			w.failed.Add(1)
			w.lastErr = err
		} else {
			w.acked = append(w.acked, id)
			w.longest = max(w.longest, now.Sub(w.last))
			w.last = now
		}
		w.mu.Unlock()
	}
}

func (w *Writer) row(ctx context.Context, conn *Kept, id int64) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return conn.Do(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, "insert into "+w.cfg.Table+" (id) values ($1)", id)
		if err != nil && ctx.Err() == nil {
			w.broken.Add(1)
		}
		return err
	})
}

// Config is where it writes.
func (w *Writer) Config() Config { return w.cfg }

// CheckAt is Check for rows that are counted at other hosts than they were written to.
func (w *Writer) CheckAt(t testing.TB, hosts []string) {
	t.Helper()
	w.Stop()
	w.cfg.Hosts = hosts
	w.Check(t)
}

// Stop stops writing.
func (w *Writer) Stop() {
	w.cancel()
	w.done.Wait()
}

// Acked is how many rows were acknowledged so far.
func (w *Writer) Acked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// Failed is how many attempts failed so far.
func (w *Writer) Failed() int { return int(w.failed.Load()) }

// Broken is how many rows were on their way when the connection broke: what a client
// sees as a failed transaction. That it cannot connect for a while is LongestGap.
func (w *Writer) Broken() int { return int(w.broken.Load()) }

// TakeGap is LongestGap since it was last asked for.
func (w *Writer) TakeGap() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	gap := w.longest
	w.longest = 0
	return gap
}

// LongestGap is the longest time between two acknowledged rows.
func (w *Writer) LongestGap() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.longest
}

// Check stops the writer and fails the test if an acknowledged row is missing.
func (w *Writer) Check(t testing.TB) {
	t.Helper()
	lost, acked := w.Lost(t)
	w.mu.Lock()
	defer w.mu.Unlock()
	t.Logf("writer: %d rows acknowledged, %d attempts failed, longest gap %s (last error: %v)", acked, w.failed.Load(), w.longest.Round(time.Millisecond), w.lastErr)
	if lost > 0 || acked == 0 {
		t.Errorf("%d of %d acknowledged rows are lost", lost, acked)
	}
}

// Lost is Missing for tests.
func (w *Writer) Lost(t testing.TB) (lost, acked int) {
	t.Helper()
	lost, acked, err := w.Missing(t.Context())
	if err != nil {
		t.Fatalf("cannot count rows: %v", err)
	}
	return lost, acked
}

// Missing stops the writer and counts the acknowledged rows, and those of them that are
// missing.
func (w *Writer) Missing(ctx context.Context) (lost, acked int, err error) {
	w.Stop()
	conn, err := Connect(ctx, w.cfg)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "select id from "+w.cfg.Table)
	if err != nil {
		return 0, 0, err
	}
	there := map[int64]bool{}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return 0, 0, err
	}
	for _, id := range ids {
		there[id] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range w.acked {
		if !there[id] {
			lost++
		}
	}
	return lost, len(w.acked), nil
}

// ConnectTo connects to the first of the hosts whatever it is, with parameters
// such as replication=database.
func ConnectTo(ctx context.Context, c Config, parameters map[string]string) (*pgx.Conn, error) {
	cfg, err := config(c, "any")
	if err != nil {
		return nil, err
	}
	for k, v := range parameters {
		cfg.RuntimeParams[k] = v
	}
	return pgx.ConnectConfig(ctx, cfg)
}
