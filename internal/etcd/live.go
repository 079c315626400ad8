package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// gateTimeout is how long a change waits for the members that it needs.
const gateTimeout = time.Minute

// live asks the cluster for its members, and each of them how it is.
func (d *Doer) live(ctx context.Context, s Spec) (Live, error) {
	c, err := d.client(ctx, s)
	if err != nil {
		return nil, err
	}
	members, err := c.Members(ctx)
	if err != nil {
		return nil, err
	}
	list := make(Live, len(members))
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i, m := range members {
		list[i].MemberInfo = m
		s.peersAs(&list[i])
		wg.Go(func() {
			m := &list[i]
			if m.Name == "" || len(m.ClientURLs) == 0 {
				m.Problem = "has never started"
				return
			}
			st, err := c.Status(ctx, s.clientURL(m.MemberInfo))
			switch {
			case err != nil:
				m.Problem = "does not answer: " + err.Error()
			case st.Leader == 0:
				m.Problem = "knows no leader"
			}
			m.Leader, m.Version = st.Leader == m.ID && m.ID != 0, st.Version
		})
	}
	wg.Wait()
	return list, nil
}

// clientURL is where we reach a member: as it was configured, else as it says
// itself.
func (s Spec) clientURL(m MemberInfo) string {
	for _, one := range s.reach().Members {
		if slices.Contains(m.PeerURLs, s.url(one.Address, s.PeerPort)) {
			return s.url(one.Address, s.ClientPort)
		}
	}
	return m.ClientURLs[0]
}

// gate waits until the cluster can bear a change, and says why not if that does
// not come to be.
func (d *Doer) gate(ctx context.Context, s Spec, c change) (live Live, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, gateTimeout, fmt.Errorf("the members were not healthy within %s", gateTimeout))
	defer cancel()
	err = wait.Until(ctx, d.Log, "enough members of the etcd cluster "+s.Name+" to be healthy", 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		live, err = d.live(ctx, s)
		if err != nil {
			return false, "", err
		}
		n, h := live.votes()
		_, _, err = c.counts(live, n, h)
		return err == nil, "", err
	})
	return live, err
}

// patiently asks the cluster for something that may be asked twice: again if the
// member that was asked is on its way out, or if etcd says that its members have
// not been connected for long enough since the last change of them.
func (d *Doer) patiently(ctx context.Context, s Spec, ask func(ctx context.Context, c Client) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, gateTimeout, fmt.Errorf("it did not within %s", gateTimeout))
	defer cancel()
	return wait.Until(ctx, d.Log, "the etcd cluster "+s.Name+" to take a request", 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		c, err := d.client(ctx, s)
		if err == nil {
			err = ask(ctx, c)
		}
		if err != nil && !errors.Is(err, ErrUnsettled) && !errors.Is(err, ErrUnreachable) && !errors.Is(err, context.DeadlineExceeded) {
			err = wait.Never(err)
		}
		return err == nil, "", err
	})
}

// waitCaughtUp waits until a learner has what the leader has committed.
func (d *Doer) waitCaughtUp(ctx context.Context, s Spec, c change) error {
	restarts := map[string]int{}
	looked := time.Now()
	own := s.with([]string{c.name})
	return wait.Until(ctx, d.Log, c.name+" to catch up with the etcd cluster "+s.Name, 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		behind, err := d.behind(ctx, s, c)
		if err == nil && behind == "" {
			return true, "", nil
		}
		if time.Since(looked) >= lookAgain {
			looked = time.Now()
			if err := d.crashed(ctx, own, restarts); err != nil {
				return false, "", wait.Never(err)
			}
		}
		return false, behind, err
	})
}

// behind says what a learner lacks, empty if nothing.
func (d *Doer) behind(ctx context.Context, s Spec, c change) (string, error) {
	live, err := d.live(ctx, s)
	if err != nil {
		return "", err
	}
	m := live.at(c.url)
	switch {
	case m == nil:
		return "", wait.Never(fmt.Errorf("%s is not a member any more: somebody has removed it", c.name))
	case m.Problem != "":
		return m.called() + " " + m.Problem, nil
	}
	client, err := d.client(ctx, s)
	if err != nil {
		return "", err
	}
	own, err := client.Status(ctx, s.clientURL(m.MemberInfo))
	if err != nil {
		return "", err
	}
	for _, l := range live {
		if !l.Leader {
			continue
		}
		lead, err := client.Status(ctx, s.clientURL(l.MemberInfo))
		if err != nil {
			return "", err
		}
		if lead.RaftIndex > own.Applied+laggingBy {
			return fmt.Sprintf("it is %d entries behind the leader", lead.RaftIndex-own.Applied), nil
		}
		return "", nil
	}
	return "the cluster has no leader", nil
}

// waitPromoted promotes a learner, at the leader, as often as it takes.
func (d *Doer) waitPromoted(ctx context.Context, s Spec, c change) error {
	return wait.Until(ctx, d.Log, c.name+" to be promoted", 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		live, err := d.live(ctx, s)
		if err != nil {
			return false, "", err
		}
		m := live.at(c.url)
		switch {
		case m == nil:
			return false, "", wait.Never(fmt.Errorf("%s is not a member any more: somebody has removed it", c.name))
		case !m.Learner:
			return true, "", nil
		}
		client, err := d.leader(ctx, s, live)
		if err != nil {
			return false, "", err
		}
		if err := client.Promote(ctx, m.ID); err != nil {
			return false, "", err
		}
		return false, "to be seen as promoted", nil
	})
}

// leader opens a client that talks to the leader and to no other member.
func (d *Doer) leader(ctx context.Context, s Spec, live Live) (Client, error) {
	for _, l := range live {
		if !l.Leader {
			continue
		}
		a := s.reach()
		a.Auth = d.logsIn(s)
		for n, m := range a.Members {
			if slices.Contains(l.PeerURLs, s.url(m.Address, s.PeerPort)) || slices.Contains(l.ClientURLs, s.url(m.Address, s.ClientPort)) {
				a.Members, a.Passive = map[string]Member{n: m}, nil
				return d.open(ctx, a)
			}
		}
		return nil, fmt.Errorf("it is not known how to reach the leader %s at %s", l.called(), strings.Join(l.PeerURLs, ", "))
	}
	return nil, errors.New("the cluster has no leader")
}

// handOver has the leader give its role to the first member that may have it, and
// waits until that leads.
func (d *Doer) handOver(ctx context.Context, s Spec, live Live, may func(LiveMember) bool) error {
	var to *LiveMember
	for i, m := range live {
		if !m.Learner && !m.Leader && m.Problem == "" && may(m) {
			to = &live[i]
			break
		}
	}
	if to == nil {
		return nil // it is alone: whoever is left will elect one
	}
	c, err := d.leader(ctx, s, live)
	if err != nil {
		return problem.In("", "reach the leader", err)
	}
	d.Log.InfoContext(ctx, "moving the leader's role", "to", to.called())
	if err := c.MoveLeader(ctx, to.ID); err != nil {
		return problem.In("", "move the leader's role to "+to.called(), err)
	}
	return wait.Until(ctx, d.Log, to.called()+" to lead the etcd cluster "+s.Name, 200*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		now, err := d.live(ctx, s)
		if err != nil {
			if host.Unreachable(err) {
				return false, "", wait.Never(err)
			}
			return false, "", err
		}
		for _, m := range now {
			if m.Leader && m.ID == to.ID {
				return true, "", nil
			}
			if m.Leader {
				return false, m.called() + " leads", nil
			}
		}
		return false, "there is no leader", nil
	})
}
