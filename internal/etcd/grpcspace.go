package etcd

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func (g *grpcClient) Alarms(ctx context.Context) ([]Alarm, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := g.c.AlarmList(ctx)
	if err != nil {
		return nil, g.translate(err)
	}
	var list []Alarm
	for _, a := range r.Alarms {
		if a.Alarm != etcdserverpb.AlarmType_NONE {
			list = append(list, Alarm{Member: a.MemberID, Kind: a.Alarm.String()})
		}
	}
	return list, nil
}

func (g *grpcClient) Disarm(ctx context.Context, a Alarm) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := g.c.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: a.Member, Alarm: etcdserverpb.AlarmType(etcdserverpb.AlarmType_value[a.Kind])})
	return g.translate(err)
}

// longRequest bounds what goes through a member's whole database, of 8 GiB at
// most.
const longRequest = 10 * time.Minute

func (g *grpcClient) Compact(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, longRequest)
	defer cancel()
	r, err := g.c.Get(ctx, "/pgha/", clientv3.WithCountOnly()) // for the revision
	if err != nil {
		return g.translate(err)
	}
	_, err = g.c.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical())
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil // somebody else has just done it
	}
	return g.translate(err)
}

// Defragment logs in to that member. The token of another login may not have come to
// it yet, or may have ended there, as each member forgets those that it has not seen
// for 5 min; and unlike with other requests, the client does not get a new one then,
// since members refuse this one with an error without a code (etcd 3.4 to 3.6,
// server/etcdserver/api/v3rpc/maintenance.go).
func (g *grpcClient) Defragment(ctx context.Context, endpoint string) error {
	ctx, cancel := context.WithTimeout(ctx, longRequest)
	defer cancel()
	config := g.config
	config.Endpoints = []string{g.as(endpoint)}
	c, err := clientv3.New(config)
	if err != nil {
		return g.translate(err)
	}
	defer func() { _ = c.Close() }()
	_, err = c.Defragment(ctx, config.Endpoints[0])
	return g.translate(err)
}
