package etcd

import (
	"context"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Lock writes the holder's words under the key, bound to a lease. Waiting is
// by polling: what is waited for lasts seconds to minutes, and a watch through
// a tunnel that dies silently would wait for ever.
func (g *grpcClient) Lock(ctx context.Context, key, holder string, ttl time.Duration) (Lock, error) {
	return g.lock(ctx, key, holder, ttl, true)
}

// TryLock asks once, and takes for that as long as it takes: a host may be far away.
func (g *grpcClient) TryLock(ctx context.Context, key, holder string, ttl time.Duration) (Lock, error) {
	return g.lock(ctx, key, holder, ttl, false)
}

func (g *grpcClient) lock(ctx context.Context, key, holder string, ttl time.Duration, waits bool) (Lock, error) {
	lease, err := g.c.Grant(ctx, int64(ttl.Seconds()))
	if err != nil {
		return nil, g.translate(err)
	}
	l := &leaseLock{c: g.c, key: key, lease: lease.ID, ttl: ttl, lost: make(chan struct{})}
	var held *HeldError
	value := holder
	if id := process(); id != "" {
		value += "\n" + id
	}
	for {
		reqCtx, cancel := bounded(ctx)
		r, err := g.c.Txn(reqCtx).
			If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, value, clientv3.WithLease(lease.ID))).
			Else(clientv3.OpGet(key)).
			Commit()
		cancel()
		if err != nil {
			l.revoke(ctx)
			if held != nil && ctx.Err() != nil {
				return nil, held
			}
			return nil, g.translate(err)
		}
		if r.Succeeded {
			l.revision = r.Header.Revision
			break
		}
		held = &HeldError{Key: key}
		if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			words, id, _ := strings.Cut(string(kvs[0].Value), "\n")
			held.Holder = words
			if gone(id) {
				// Only as it was seen: somebody else may have it by now.
				if err := g.take(ctx, kvs[0]); err != nil {
					l.revoke(ctx)
					return nil, err
				}
				continue
			}
		}
		if !waits {
			l.revoke(ctx)
			return nil, held
		}
		// The lease that waits must not run out while waiting.
		if _, err := g.c.KeepAliveOnce(ctx, lease.ID); err != nil && ctx.Err() == nil {
			return nil, g.translate(err)
		}
		select {
		case <-ctx.Done():
			l.revoke(ctx)
			return nil, held
		case <-time.After(500 * time.Millisecond):
		}
	}
	keep, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.cancel = cancel
	alive, err := g.c.KeepAlive(keep, lease.ID)
	if err != nil {
		cancel()
		l.revoke(ctx)
		return nil, g.translate(err)
	}
	l.done.Go(func() {
		for range alive {
		}
		close(l.lost)
	})
	return l, nil
}

// take frees a lock whose holder is gone.
func (g *grpcClient) take(ctx context.Context, kv *mvccpb.KeyValue) error {
	key := string(kv.Key)
	_, err := g.txn(ctx, clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision), clientv3.OpDelete(key))
	return err
}

type leaseLock struct {
	c        *clientv3.Client
	key      string
	lease    clientv3.LeaseID
	ttl      time.Duration
	revision int64
	lost     chan struct{}
	cancel   context.CancelFunc
	done     sync.WaitGroup
}

func (l *leaseLock) Revision() int64       { return l.revision }
func (l *leaseLock) Lost() <-chan struct{} { return l.lost }

func (l *leaseLock) Release(ctx context.Context) {
	l.cancel()
	l.done.Wait()
	l.revoke(ctx)
}

// revoke gives the lease back, and with it the key. If that fails, both end
// with the lease's time.
func (l *leaseLock) revoke(ctx context.Context) {
	ctx, cancel := bounded(context.WithoutCancel(ctx))
	defer cancel()
	_, _ = l.c.Revoke(ctx, l.lease)
}
