package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/follow"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// Holders are the virtual addresses of a cluster, and for each the nodes that have it now.
// A warning tells of each host that could not be asked, and of more than one holder.
func (m Manager) Holders(ctx context.Context, c patroni.Cluster) (have map[string][]string, warnings []string, err error) {
	all, err := m.all(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	have = map[string][]string{}
	for _, v := range all {
		a := v.spec.Address.Addr().String()
		looks, away, err := m.reached(ctx, v)
		if err != nil {
			return nil, nil, err
		}
		for _, name := range away {
			warnings = append(warnings, fmt.Sprintf("%s could not be asked whether it has %s", name, a))
		}
		have[a] = append([]string{}, holders(looks)...)
		if len(have[a]) > 1 {
			warnings = append(warnings, fmt.Sprintf("%s is on several nodes at once: %v", a, have[a]))
		}
	}
	return have, warnings, nil
}

// Arrived waits until all virtual addresses of a cluster are where they should be, on one
// node that is the leader, as far as their hosts can be reached.
func (m Manager) Arrived(ctx context.Context, c patroni.Cluster) error {
	all, err := m.all(ctx, c)
	if err != nil {
		return err
	}
	for _, v := range all {
		a := v.spec.Address.Addr()
		bounded, cancel := context.WithTimeoutCause(ctx, settling, fmt.Errorf("%s is not where it should be after %s", a, settling))
		err := wait.Until(bounded, m.Log, v.spec.Name()+" to be on the leader alone", time.Second, func(ctx context.Context) (bool, string, error) {
			k, err := m.Known(ctx, v.spec.Cluster)
			if err != nil {
				return false, "", err
			}
			leader := v.spec.leader(k)
			if _, may := v.note.Nodes[leader]; leader != "" && !may {
				return true, "", nil // a node that came later: the resource is still to be applied
			}
			looks, away, err := m.reached(ctx, v)
			if err != nil || slices.Contains(away, leader) {
				return err == nil, "", err
			}
			wrong := v.spec.wrong(leader, looks)
			return len(wrong) == 0, strings.Join(wrong, "; "), nil
		})
		cancel()
		if err != nil {
			return problem.Fill(err, problem.Error{
				Step: "see that " + a.String() + " has come along", Left: "the node, running as wanted, and all others as they were.",
				Do: "see what the guards say (journalctl -u " + v.spec.agent().Unit() + " on each node), mend it, and apply again.",
			})
		}
	}
	return nil
}

// had is an address that etcd has noted.
type had struct {
	spec Spec
	note *follow.Note
}

// all are the addresses of a cluster that etcd has noted.
func (m Manager) all(ctx context.Context, c patroni.Cluster) (list []had, err error) {
	notes, err := m.Notes(ctx, c, Spec{}.agent().Kind+"/")
	if err != nil {
		return nil, err
	}
	for _, label := range follow.Sorted(notes) {
		a, err := unlabel(label)
		if err != nil {
			continue // of a later release's making
		}
		var v had
		if v.spec, err = m.Find(ctx, c, a); err != nil {
			return nil, err
		}
		if v.note, err = m.Note(ctx, v.spec.agent()); err != nil || v.note == nil {
			return nil, errors.Join(err, fmt.Errorf("what etcd has noted about %s is gone", a))
		}
		list = append(list, v)
	}
	return list, nil
}

// reached looks at an address on all hosts that can be reached, and names the others.
func (m Manager) reached(ctx context.Context, v had) (looks map[string]Look, away []string, err error) {
	var mu sync.Mutex
	looks, err = follow.Everywhere(v.note.Nodes, func(n follow.Node) (Look, error) {
		l, err := v.spec.look(ctx, m.Fleet.Host(n.Target))
		if host.Unreachable(err) {
			mu.Lock()
			defer mu.Unlock()
			away = append(away, n.Name)
			err = nil
		}
		return l, err
	})
	slices.Sort(away)
	return looks, away, err
}

// unlabel is the address that a label is of.
func unlabel(label string) (netip.Addr, error) {
	return netip.ParseAddr(fromLabel.Replace(label))
}
