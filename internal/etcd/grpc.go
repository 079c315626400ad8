package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// Endpoint is a member as a client reaches it.
type Endpoint struct {
	URL  string
	Host host.Host // the connection is made from this host
	Addr string    // host:port of the URL
}

// DialConfig says how to reach a cluster.
type DialConfig struct {
	Endpoints []Endpoint
	TLS       *tls.Config // nil without TLS
	Authority []byte      // certificate of the authority, PEM
	User      string      // empty without authentication
	Password  string
}

// requestTimeout bounds one request. It is longer than an election, so that a
// request that meets one is answered rather than failed.
const requestTimeout = 10 * time.Second

// Dial returns a client. It does not connect: the first request does. Each
// member is reached from its own host, through SSH.
func Dial(cfg DialConfig) (Client, error) {
	hosts := map[string]host.Host{}
	var urls []string
	for _, e := range cfg.Endpoints {
		hosts[e.Addr] = e.Host
		urls = append(urls, e.URL)
	}
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		address = strings.TrimPrefix(address, "passthrough:///")
		h, ok := hosts[address]
		if !ok {
			return nil, fmt.Errorf("no member of the cluster is at %s", address)
		}
		return h.Dial(ctx, "tcp", address)
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints:   urls,
		TLS:         cfg.TLS,
		Username:    cfg.User,
		Password:    cfg.Password,
		DialTimeout: requestTimeout,
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(dial), grpc.WithNoProxy()},
		// Serialised through SSH, a lost member shows as silence.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
	})
	if err != nil {
		return nil, translate(err)
	}
	return &grpcClient{c: c, authority: cfg.Authority}, nil
}

type grpcClient struct {
	c         *clientv3.Client
	authority []byte
}

// translate gives etcd's errors a type and words that users can act on.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrInvalidAuthToken),
		errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("%w: %w", ErrAuth, err)
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("etcd is out of space (alarm NOSPACE): %w", err)
	}
	return err
}

func (g *grpcClient) Close() error      { return g.c.Close() }
func (g *grpcClient) Authority() []byte { return g.authority }

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, requestTimeout)
}

func keyValue(kv *mvccpb.KeyValue) KeyValue {
	return KeyValue{
		Key: string(kv.Key), Value: string(kv.Value),
		Revision: kv.ModRevision, Created: kv.CreateRevision, Lease: kv.Lease,
	}
}

func (g *grpcClient) Get(ctx context.Context, key string) (KeyValue, bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := g.c.Get(ctx, key)
	if err != nil {
		return KeyValue{}, false, translate(err)
	}
	if len(r.Kvs) == 0 {
		return KeyValue{}, false, nil
	}
	return keyValue(r.Kvs[0]), true, nil
}

func (g *grpcClient) List(ctx context.Context, prefix string) ([]KeyValue, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := g.c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
	if err != nil {
		return nil, translate(err)
	}
	list := make([]KeyValue, len(r.Kvs))
	for i, kv := range r.Kvs {
		list[i] = keyValue(kv)
	}
	return list, nil
}

func (g *grpcClient) Put(ctx context.Context, key, value string) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := g.c.Put(ctx, key, value)
	return translate(err)
}

func (g *grpcClient) txn(ctx context.Context, cmp clientv3.Cmp, op clientv3.Op) (bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := g.c.Txn(ctx).If(cmp).Then(op).Commit()
	if err != nil {
		return false, translate(err)
	}
	return r.Succeeded, nil
}

func (g *grpcClient) Create(ctx context.Context, key, value string) (bool, error) {
	return g.txn(ctx, clientv3.Compare(clientv3.CreateRevision(key), "=", 0), clientv3.OpPut(key, value))
}

func (g *grpcClient) Swap(ctx context.Context, key, value string, revision int64) (bool, error) {
	return g.txn(ctx, clientv3.Compare(clientv3.ModRevision(key), "=", revision), clientv3.OpPut(key, value))
}

func (g *grpcClient) Delete(ctx context.Context, key string) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := g.c.Delete(ctx, key)
	return translate(err)
}

func (g *grpcClient) DeletePrefix(ctx context.Context, prefix string) error {
	if len(prefix) < 3 || !strings.HasSuffix(prefix, "/") {
		return fmt.Errorf("refusing to delete all keys that begin with %q", prefix)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := g.c.Delete(ctx, prefix, clientv3.WithPrefix())
	return translate(err)
}

func (g *grpcClient) Status(ctx context.Context, endpoint string) (Status, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := g.c.Status(ctx, endpoint)
	if err != nil {
		return Status{}, translate(err)
	}
	return Status{
		MemberID: r.Header.MemberId, ClusterID: r.Header.ClusterId, Leader: r.Leader, Version: r.Version,
		DBSize: r.DbSize, DBInUse: r.DbSizeInUse, RaftIndex: r.RaftIndex, Applied: r.RaftAppliedIndex,
		Learner: r.IsLearner, Errors: r.Errors,
	}, nil
}

func (g *grpcClient) Members(ctx context.Context) ([]MemberInfo, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := g.c.MemberList(ctx)
	if err != nil {
		return nil, translate(err)
	}
	var list []MemberInfo
	for _, m := range r.Members {
		list = append(list, MemberInfo{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner})
	}
	return list, nil
}

// EnableAuth does each step unless it is done, so that a run cut off between
// two of them is continued. Once authentication is on, only the status can be
// asked for; that it is on is enough.
func (g *grpcClient) EnableAuth(ctx context.Context, c Credentials) error {
	ctx, cancel := context.WithTimeout(ctx, 4*requestTimeout)
	defer cancel()
	status, err := g.c.AuthStatus(ctx)
	if err != nil && !errors.Is(err, rpctypes.ErrUserEmpty) && !errors.Is(err, rpctypes.ErrPermissionDenied) {
		return translate(err)
	}
	if err != nil || status.Enabled {
		return nil
	}
	if _, err := g.c.RoleAdd(ctx, "root"); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
		return translate(err)
	}
	for user, password := range map[string]string{"root": c.Root, ProviderUser: c.Provider} {
		if err := g.user(ctx, user, password, "root"); err != nil {
			return err
		}
	}
	_, err = g.c.AuthEnable(ctx)
	return translate(err)
}

// user makes a user with a password and one role, or sets the password of the
// one there is.
func (g *grpcClient) user(ctx context.Context, user, password, role string) error {
	_, err := g.c.UserAdd(ctx, user, password)
	if errors.Is(err, rpctypes.ErrUserAlreadyExist) {
		_, err = g.c.UserChangePassword(ctx, user, password)
	}
	if err != nil {
		return translate(err)
	}
	_, err = g.c.UserGrantRole(ctx, user, role)
	return translate(err)
}

func (g *grpcClient) GrantUser(ctx context.Context, user, password string, prefixes ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 4*requestTimeout)
	defer cancel()
	if _, err := g.c.RoleAdd(ctx, user); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
		return translate(err)
	}
	for _, p := range prefixes {
		_, err := g.c.RoleGrantPermission(ctx, user, p, clientv3.GetPrefixRangeEnd(p), clientv3.PermissionType(clientv3.PermReadWrite))
		if err != nil {
			return translate(err)
		}
	}
	return g.user(ctx, user, password, user)
}

func (g *grpcClient) DropUser(ctx context.Context, user string) error {
	ctx, cancel := context.WithTimeout(ctx, 4*requestTimeout)
	defer cancel()
	if _, err := g.c.UserDelete(ctx, user); err != nil && !errors.Is(err, rpctypes.ErrUserNotFound) {
		return translate(err)
	}
	if _, err := g.c.RoleDelete(ctx, user); err != nil && !errors.Is(err, rpctypes.ErrRoleNotFound) {
		return translate(err)
	}
	return nil
}

// Lock writes the holder's words under the key, bound to a lease. Waiting is
// by polling: what is waited for lasts seconds to minutes, and a watch through
// a tunnel that dies silently would wait for ever.
func (g *grpcClient) Lock(ctx context.Context, key, holder string, ttl time.Duration) (Lock, error) {
	lease, err := g.c.Grant(ctx, int64(ttl.Seconds()))
	if err != nil {
		return nil, translate(err)
	}
	l := &leaseLock{c: g.c, key: key, lease: lease.ID, ttl: ttl, lost: make(chan struct{})}
	for {
		reqCtx, cancel := bounded(ctx)
		r, err := g.c.Txn(reqCtx).
			If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, holder, clientv3.WithLease(lease.ID))).
			Else(clientv3.OpGet(key)).
			Commit()
		cancel()
		if err != nil {
			l.revoke(ctx)
			return nil, translate(err)
		}
		if r.Succeeded {
			l.revision = r.Header.Revision
			break
		}
		held := &HeldError{Key: key}
		if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			held.Holder = string(kvs[0].Value)
		}
		// The lease that waits must not run out while waiting.
		if _, err := g.c.KeepAliveOnce(ctx, lease.ID); err != nil && ctx.Err() == nil {
			return nil, translate(err)
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
		return nil, translate(err)
	}
	l.done.Go(func() {
		for range alive {
		}
		close(l.lost)
	})
	return l, nil
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
