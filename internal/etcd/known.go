package etcd

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// Patroni takes the list of etcd's members from etcd itself, every ten times its
// ttl and whenever a request fails at one member and succeeds at another; hosts
// in its configuration file only count when it starts (patroni/dcs/etcd.py, 3.0 to
// 4.1). When all members that a Patroni knows of leave within that time it is
// left without etcd, for good, and its leader demotes itself.
const (
	refreshTTLs = 10
	// defaultTTL is Patroni's own.
	defaultTTL = 30 * time.Second
)

// sinceKey is where it is noted in etcd when a member began to vote, in seconds
// since 1970. The members that the cluster began with have no such note.
func sinceKey(s Spec, peer string) string { return "/pgha/etcd/" + s.Name + "/since/" + peer }

// began notes that a member has begun to vote, if that is not noted yet. The note comes
// before the one that it is being added goes: a member without either was there from the
// beginning.
func (d *Doer) began(ctx context.Context, s Spec, peer string) error {
	return d.patiently(ctx, s, func(ctx context.Context, client Client) error {
		_, err := client.Create(ctx, sinceKey(s, peer), strconv.FormatInt(time.Now().Unix(), 10))
		return err
	})
}

// waitKnown waits until a member that stays has been there for so long that every
// Patroni on the cluster knows it.
func (d *Doer) waitKnown(ctx context.Context, s Spec, c change) error {
	return wait.Until(ctx, d.Log, "every Patroni to know a member of the etcd cluster "+s.Name+" that stays", 2*time.Second, func(ctx context.Context) (bool, string, error) {
		client, err := d.client(ctx, s)
		if err != nil {
			return false, "", err
		}
		ttl, err := longestTTL(ctx, client)
		if err != nil || ttl == 0 {
			return err == nil, "", err
		}
		members, err := client.Members(ctx)
		if err != nil {
			return false, "", err
		}
		left := refreshTTLs * ttl
		for _, m := range members {
			if m.Learner || m.ID == c.id || !s.stays(m) {
				continue
			}
			kv, found, err := client.Get(ctx, sinceKey(s, m.PeerURLs[0]))
			if err != nil {
				return false, "", err
			}
			since, err := strconv.ParseInt(kv.Value, 10, 64)
			if !found || err != nil {
				return true, "", nil
			}
			left = min(left, refreshTTLs*ttl-time.Since(time.Unix(since, 0)))
		}
		return left <= 0, "those that stay are new; Patroni looks for new members every " + (refreshTTLs * ttl).String() + " (ten times its ttl)", nil
	})
}

// stays reports whether a member is one of those that are wanted.
func (s Spec) stays(m MemberInfo) bool {
	return slices.ContainsFunc(s.Names(), func(n string) bool { return slices.Contains(m.PeerURLs, s.PeerURL(n)) })
}

// longestTTL is the longest ttl of the Patroni clusters that keep their keys here,
// zero if there are none.
func longestTTL(ctx context.Context, c Client) (time.Duration, error) {
	keys, err := c.List(ctx, "/")
	if err != nil {
		return 0, err
	}
	var longest time.Duration
	for _, kv := range keys {
		var config struct {
			TTL int64 `json:"ttl"`
		}
		if strings.HasPrefix(kv.Key, "/pgha/") || !strings.HasSuffix(kv.Key, "/config") || json.Unmarshal([]byte(kv.Value), &config) != nil {
			continue
		}
		ttl := defaultTTL
		if config.TTL > 0 {
			ttl = time.Duration(config.TTL) * time.Second
		}
		longest = max(longest, ttl)
	}
	return longest, nil
}
