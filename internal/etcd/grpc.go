package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// Endpoint is a member as a client reaches it.
type Endpoint struct {
	URL  string
	Host host.Host // the connection is made from this host
	Addr string    // host:port of the URL
	// Passive: it is only asked for its status.
	Passive bool
}

// DialConfig says how to reach a cluster.
type DialConfig struct {
	Endpoints []Endpoint
	TLS       *tls.Config // nil without TLS
	Authority []byte      // certificate of the authority, PEM
	Theirs    bool        // which somebody else made
	User      string      // empty without authentication
	Password  string
}

// requestTimeout bounds one request. It is longer than an election, so that a
// request that meets one is answered rather than failed.
const requestTimeout = 10 * time.Second

// Dial returns a client. It connects only to log in; else the first request
// does. Each member is reached from its own host, through SSH. The context
// bounds the login only.
func Dial(ctx context.Context, cfg DialConfig) (Client, error) {
	hosts := map[string]host.Host{}
	var urls []string
	r := &reach{failed: map[string]error{}}
	for _, e := range cfg.Endpoints {
		hosts[e.Addr] = e.Host
		if e.Passive {
			continue
		}
		urls = append(urls, e.URL)
		r.addresses = append(r.addresses, e.Addr)
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	login := context.AfterFunc(ctx, end)
	var loggedIn atomic.Bool
	loggedIn.Store(cfg.User == "")
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		address = strings.TrimPrefix(address, "passthrough:///")
		h, ok := hosts[address]
		if !ok {
			return nil, fmt.Errorf("no member of the cluster is at %s", address)
		}
		c, err := h.Dial(ctx, "tcp", address)
		if r.note(address, err); err != nil {
			if r.all(func(err error) bool { return host.KindOf(err) == host.KindForward }) {
				end() // trying again, which gRPC would do until time is up, is in vain
			}
			return nil, err
		}
		return &dialed{c, address}, nil
	}
	options := []grpc.DialOption{grpc.WithContextDialer(dial), grpc.WithNoProxy()}
	if cfg.TLS != nil {
		options = append(options, grpc.WithTransportCredentials(&handshakes{credentials.NewTLS(cfg.TLS), func(address string, err error) {
			if errors.Is(err, context.Canceled) {
				return // gRPC itself gave it up
			}
			// Once logged in, a client is kept: the members may get other certificates.
			if r.note(address, err); !loggedIn.Load() && r.all(distrusted) {
				end()
			}
		}}))
	}
	config := clientv3.Config{
		Context:     life,
		Endpoints:   urls,
		TLS:         cfg.TLS,
		Username:    cfg.User,
		Password:    cfg.Password,
		DialTimeout: requestTimeout,
		Logger:      zap.NewNop(),
		DialOptions: options,
		// Serialised through SSH, a lost member shows as silence.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
	}
	c, err := clientv3.New(config)
	if err != nil {
		end()
		return nil, r.translate(err)
	}
	login()
	loggedIn.Store(true)
	return &grpcClient{reach: r, c: c, config: config, end: end, authority: cfg.Authority, login: cfg.User, password: cfg.Password, tls: cfg.TLS != nil}, nil
}

// reach is what came of connecting to the members. gRPC keeps that to itself:
// all that it says in the end is that time was up.
type reach struct {
	addresses []string
	mu        sync.Mutex
	failed    map[string]error // by address, of the last attempt
}

func (r *reach) note(address string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.failed, address)
		return
	}
	// A dial that gRPC itself gave up says nothing, and must not hide what the
	// one before it said.
	if _, known := r.failed[address]; !known || host.KindOf(err) != host.KindCanceled {
		r.failed[address] = err
	}
}

// why joins what kept us from the members that could not be reached.
func (r *reach) why() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, a := range r.addresses {
		errs = append(errs, r.failed[a])
	}
	return errors.Join(errs...)
}

// all reports whether what was tried last has failed in such a way with each member.
func (r *reach) all(failed func(error) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.addresses {
		if !failed(r.failed[a]) {
			return false
		}
	}
	return len(r.addresses) > 0
}

type grpcClient struct {
	*reach
	c         *clientv3.Client
	config    clientv3.Config // of c
	end       context.CancelFunc
	authority []byte
	// what it logs in with
	login, password string
	tls             bool
}

// as is an endpoint with the scheme with which the client comes. While TLS is turned
// on that may be another one than that of the cluster's URLs.
func (g *grpcClient) as(endpoint string) string {
	if g.tls {
		return withScheme(endpoint, schemeHTTPS)
	}
	return withScheme(endpoint, schemeHTTP)
}

// translate gives etcd's errors a type and words that users can act on.
func (r *reach) translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrInvalidAuthToken),
		errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("%w: %w", ErrAuth, err)
	case strings.Contains(err.Error(), "raft: stopped"):
		// A member that has just been removed says so; it has no error of its own.
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case errors.Is(err, rpctypes.ErrUnhealthy):
		return fmt.Errorf("%w: %w", ErrUnsettled, err)
	case errors.Is(err, rpctypes.ErrNoSpace):
		return outOfSpace(err)
	}
	code := status.Code(err)
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) && code != codes.Unavailable && code != codes.DeadlineExceeded {
		return err
	}
	switch why := r.why(); {
	case why != nil:
		return fmt.Errorf("%w: %w", ErrUnreachable, why)
	case code == codes.Unavailable:
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case errors.Is(err, context.Canceled):
		return err
	}
	return fmt.Errorf("etcd does not answer in time: it takes connections, but perhaps it has no quorum: %w", err)
}

func (g *grpcClient) Close() error {
	err := g.c.Close()
	g.end()
	return err
}

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
		return KeyValue{}, false, g.translate(err)
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
		return nil, g.translate(err)
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
	return g.translate(err)
}

func (g *grpcClient) txn(ctx context.Context, cmp clientv3.Cmp, op clientv3.Op) (bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := g.c.Txn(ctx).If(cmp).Then(op).Commit()
	if err != nil {
		return false, g.translate(err)
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
	return g.translate(err)
}

func (g *grpcClient) DeletePrefix(ctx context.Context, prefix string) error {
	if len(prefix) < 3 || !strings.HasSuffix(prefix, "/") {
		return fmt.Errorf("refusing to delete all keys that begin with %q", prefix)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := g.c.Delete(ctx, prefix, clientv3.WithPrefix())
	return g.translate(err)
}

func (g *grpcClient) Status(ctx context.Context, endpoint string) (Status, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := g.c.Status(ctx, g.as(endpoint))
	if err != nil {
		return Status{}, g.translate(err)
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
		return nil, g.translate(err)
	}
	var list []MemberInfo
	for _, m := range r.Members {
		list = append(list, MemberInfo{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner})
	}
	return list, nil
}

func (g *grpcClient) AddLearner(ctx context.Context, peerURL string) (uint64, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := g.c.MemberAddAsLearner(ctx, []string{peerURL})
	if err == nil {
		return r.Member.ID, nil
	}
	if !errors.Is(err, rpctypes.ErrPeerURLExist) {
		return 0, g.translate(err)
	}
	list, err := g.Members(ctx)
	if err != nil {
		return 0, err
	}
	for _, m := range list {
		if slices.Contains(m.PeerURLs, peerURL) {
			return m.ID, nil
		}
	}
	return 0, fmt.Errorf("etcd says that it has a member at %s, and does not list it", peerURL)
}

func (g *grpcClient) Promote(ctx context.Context, id uint64) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	switch _, err := g.c.MemberPromote(ctx, id); {
	case errors.Is(err, rpctypes.ErrMemberNotLearner):
		return nil
	case errors.Is(err, rpctypes.ErrMemberLearnerNotReady):
		return ErrNotReady
	default:
		return g.translate(err)
	}
}

func (g *grpcClient) UpdateMember(ctx context.Context, id uint64, peerURLs []string) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := g.c.MemberUpdate(ctx, id, peerURLs)
	return g.translate(err)
}

func (g *grpcClient) RemoveMember(ctx context.Context, id uint64) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if _, err := g.c.MemberRemove(ctx, id); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return g.translate(err)
	}
	return nil
}

func (g *grpcClient) MoveLeader(ctx context.Context, id uint64) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := g.c.MoveLeader(ctx, id)
	return g.translate(err)
}
