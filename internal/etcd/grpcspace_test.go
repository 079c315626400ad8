package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// forgetful is a member that knows only the tokens that it gave out itself, as one
// does that is behind, or that was not asked for anything for 5 min.
type forgetful struct {
	etcdserverpb.UnimplementedAuthServer
	etcdserverpb.UnimplementedMaintenanceServer
	name         string
	defragmented atomic.Int64
}

func (f *forgetful) Authenticate(context.Context, *etcdserverpb.AuthenticateRequest) (*etcdserverpb.AuthenticateResponse, error) {
	return &etcdserverpb.AuthenticateResponse{Header: &etcdserverpb.ResponseHeader{}, Token: f.name}, nil
}

func (f *forgetful) Defragment(ctx context.Context, _ *etcdserverpb.DefragmentRequest) (*etcdserverpb.DefragmentResponse, error) {
	if md, _ := metadata.FromIncomingContext(ctx); !slices.Equal(md.Get("token"), []string{f.name}) {
		return nil, errors.New("auth: invalid auth token") // as etcd does: without a code
	}
	f.defragmented.Add(1)
	return &etcdserverpb.DefragmentResponse{Header: &etcdserverpb.ResponseHeader{}}, nil
}

func TestDefragmentLogsInToTheMember(t *testing.T) {
	t.Parallel()
	cfg := DialConfig{User: "pgha", Password: "x"}
	var members []*forgetful
	for n := range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		m, s := &forgetful{name: fmt.Sprintf("member %d", n)}, grpc.NewServer()
		etcdserverpb.RegisterAuthServer(s, m)
		etcdserverpb.RegisterMaintenanceServer(s, m)
		t.Cleanup(s.Stop)
		go func() { _ = s.Serve(l) }()
		members = append(members, m)
		cfg.Endpoints = append(cfg.Endpoints, Endpoint{URL: "http://" + l.Addr().String(), Host: direct{}, Addr: l.Addr().String()})
	}
	c, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for n, m := range members {
		if err := c.Defragment(t.Context(), cfg.Endpoints[n].URL); err != nil || m.defragmented.Load() != 1 {
			t.Errorf("%s: defragmented %d times: %v", m.name, m.defragmented.Load(), err)
		}
	}
}
