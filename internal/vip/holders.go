package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/pgha/terraform-provider-pgha/internal/follow"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// Holders are the virtual addresses of a cluster, and for each the nodes that have it now.
// A warning tells of each host that could not be asked, and of more than one holder.
func (m Manager) Holders(ctx context.Context, c patroni.Cluster) (have map[string][]string, warnings []string, err error) {
	all, err := m.Notes(ctx, c, Spec{}.agent().Kind+"/")
	if err != nil {
		return nil, nil, err
	}
	have = map[string][]string{}
	for _, label := range follow.Sorted(all) {
		a, err := unlabel(label)
		if err != nil {
			continue // of a later release's making
		}
		s, err := m.Find(ctx, c, a)
		if err != nil {
			return nil, nil, err
		}
		n, err := m.Note(ctx, s.agent())
		if err != nil || n == nil {
			return nil, nil, errors.Join(err, fmt.Errorf("what etcd has noted about %s is gone", a))
		}
		var mu sync.Mutex
		looks, err := follow.Everywhere(n.Nodes, func(n follow.Node) (Look, error) {
			l, err := s.look(ctx, m.Fleet.Host(n.Target))
			if host.Unreachable(err) {
				mu.Lock()
				defer mu.Unlock()
				warnings = append(warnings, fmt.Sprintf("%s could not be asked whether it has %s", n.Name, a))
				err = nil
			}
			return l, err
		})
		if err != nil {
			return nil, nil, err
		}
		have[a.String()] = append([]string{}, holders(looks)...)
		if len(have[a.String()]) > 1 {
			warnings = append(warnings, fmt.Sprintf("%s is on several nodes at once: %v", a, have[a.String()]))
		}
	}
	return have, warnings, nil
}

// unlabel is the address that a label is of.
func unlabel(label string) (netip.Addr, error) {
	return netip.ParseAddr(fromLabel.Replace(label))
}
