package writer

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Kept is a connection that is opened when it is needed, and again after it has failed.
type Kept struct {
	open func(context.Context) (*pgx.Conn, error)
	conn *pgx.Conn
}

// Keep returns a connection to the first of the hosts, whatever it is.
func Keep(c Config) *Kept {
	return &Kept{open: func(ctx context.Context) (*pgx.Conn, error) { return ConnectTo(ctx, c, nil) }}
}

// Do runs f with the connection, which is given up if f fails.
func (k *Kept) Do(ctx context.Context, f func(*pgx.Conn) error) error {
	if k.conn == nil {
		conn, err := k.open(ctx)
		if err != nil {
			return err
		}
		k.conn = conn
	}
	err := f(k.conn)
	if err != nil {
		k.Close()
	}
	return err
}

// Close gives the connection up, if there is one.
func (k *Kept) Close() {
	if k.conn != nil {
		_ = k.conn.Close(context.Background())
		k.conn = nil
	}
}
