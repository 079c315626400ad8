package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

const (
	// worthwhile is what has to be free in a database for defragmenting it to
	// be worth anything, in bytes.
	worthwhile = 1 << 20
	// steadyTimeout is how long a member is waited for before the next is
	// defragmented.
	steadyTimeout = 2 * time.Minute
)

// defragment gives back what is free inside the members' databases, one member at
// a time, the leader last. A member that writes its database anew does nothing
// else; so all others have to be well before, and none may be catching up, which
// has corrupted data (fixed in etcd 3.4.38 and 3.5.23).
func (d *Doer) defragment(s Spec, names []string, why string) engine.Step {
	title := "defragment " + strings.Join(names, ", ") + ", one at a time, the leader last, after it has handed over; each does nothing else meanwhile (" + why + ")"
	return d.step(s, "", "etcd.defragment", title, engine.Restart, func(ctx context.Context) error {
		for left := names; len(left) > 0; {
			if err := d.steadySoon(ctx, s); err != nil {
				return problem.In("", "wait for all members before the next is defragmented", err)
			}
			next, err := d.notLeader(ctx, s, left)
			if err != nil {
				return err
			}
			if err := d.stepDown(ctx, s, next); err != nil {
				return err
			}
			if err := d.defragmentOne(ctx, s, next); err != nil {
				return problem.Fill(err, problem.Error{
					Host: next, Step: "defragment its database", Left: "its data, and the other members.",
				})
			}
			left = without(left, next)
		}
		return d.steadySoon(ctx, s)
	})
}

// stepDown has a member hand over the leader's role, if it has it.
func (d *Doer) stepDown(ctx context.Context, s Spec, name string) error {
	live, err := d.live(ctx, s)
	if err != nil {
		return err
	}
	for _, m := range live {
		if m.Leader && slices.Contains(m.ClientURLs, s.ClientURL(name)) {
			return d.handOver(ctx, s, live, func(o LiveMember) bool { return o.ID != m.ID })
		}
	}
	return nil
}

// Defragment gives back what is free in the databases of a cluster's members: of
// those where it is at least so much, in bytes. It returns what it did, a line each.
func (m *Manager) Defragment(ctx context.Context, a Access, above int64) (report []string, err error) {
	s := Spec{Name: a.Name, UID: a.uid(), TLS: a.TLS, Auth: a.Auth, ClientPort: a.ClientPort, Members: a.Members}
	ctx, unlock, err := m.lock(ctx, s)
	if err != nil {
		return nil, err
	}
	defer unlock()
	before, err := m.Doer.space(ctx, s, s.Names())
	if err != nil {
		return nil, problem.In("", "ask the members how much space they take", err)
	}
	above = max(above, worthwhile)
	var names []string
	for _, n := range s.Names() {
		st, answers := before.Members[n]
		switch {
		case !answers:
			return nil, &problem.Error{
				Host: n, Step: "look at its database", Cause: errors.New("the member does not answer, and while one is away no other is taken out of service"),
				Left: "the databases.", Do: "bring it back (systemctl status " + Unit + "), then run the same again.",
			}
		case wasted(st) >= above:
			names = append(names, n)
		default:
			report = append(report, fmt.Sprintf("%s: left alone, %s of %s are free", n, mib(wasted(st)), mib(st.DBSize)))
		}
	}
	if len(names) == 0 {
		return report, nil
	}
	err = engine.Run(ctx, engine.Sequence(m.Doer.defragment(s, names, mib(above)+" or more are free")), m.Observe)
	after, asked := m.Doer.space(ctx, s, s.Names())
	for _, n := range names {
		if asked == nil {
			report = append(report, fmt.Sprintf("%s: %s before, %s now", n, mib(before.Members[n].DBSize), mib(after.Members[n].DBSize)))
		}
	}
	return report, err
}

// steadySoon is waitSteady where nothing has to be started before: a member that
// is away is not waited for as long as an apply may take.
func (d *Doer) steadySoon(ctx context.Context, s Spec) error {
	ctx, cancel := context.WithTimeoutCause(ctx, steadyTimeout, fmt.Errorf("not all members were well within %s", steadyTimeout))
	defer cancel()
	return d.waitSteady(ctx, s)
}

func (d *Doer) defragmentOne(ctx context.Context, s Spec, name string) error {
	c, err := d.client(ctx, s)
	if err != nil {
		return err
	}
	before, err := d.compacted(ctx, s, name)
	if err != nil {
		return err
	}
	if wasted(before) < worthwhile {
		return nil
	}
	// The new database is written beside the old one.
	var p remote.Probe
	p.Disk(s.DataDir())
	facts, err := p.Run(ctx, d.host(s, name))
	if err != nil {
		return err
	}
	if why := facts.Disk(s.DataDir()).TooSmall(before.DBInUse + leastDisk/4); why != "" {
		return &problem.Error{Cause: errors.New(why + ", where its database is to be written anew"), Do: "make room there, then apply again."}
	}
	begin := time.Now()
	if err := c.Defragment(ctx, s.ClientURL(name)); err != nil {
		return err
	}
	after, err := c.Status(ctx, s.ClientURL(name))
	if err != nil {
		return err
	}
	d.Log.InfoContext(ctx, "defragmented a member's database", "host", name, "before", before.DBSize, "after", after.DBSize, "took", time.Since(begin).Round(time.Millisecond).String())
	return nil
}

// compacted waits until a member has done what a compaction left it to do: it
// drops the history a piece at a time, after it has said that it is done.
func (d *Doer) compacted(ctx context.Context, s Spec, name string) (Status, error) {
	c, err := d.client(ctx, s)
	if err != nil {
		return Status{}, err
	}
	var st Status
	last, same := int64(-1), 0
	err = wait.Until(ctx, d.Log, name+" to have dropped the history of its keys", 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		var err error
		if st, err = c.Status(ctx, s.ClientURL(name)); err != nil {
			return false, "", err
		}
		same++
		if last < 0 || st.DBInUse < last {
			same = 0
		}
		last = st.DBInUse
		return same >= 3, fmt.Sprintf("%s are in use", mib(st.DBInUse)), nil
	})
	return st, err
}

// waitSteady waits until a member can be taken out of service for a moment. An
// alarm NOSPACE is no reason to wait: that is what is being mended, or it has
// nothing to do with it.
func (d *Doer) waitSteady(ctx context.Context, s Spec) error { return d.waitFor(ctx, s, unsteady) }

// unsteady says which member keeps another one from being taken out of service:
// one that does not answer, that does not follow the same leader, or that is
// catching up.
func unsteady(list []MemberHealth) (string, error) {
	var furthest uint64
	for _, h := range list {
		furthest = max(furthest, h.Status.RaftIndex)
	}
	for _, h := range list {
		switch st := h.Status; {
		case h.Err != nil:
			return h.Member + ": " + h.Problem, nil
		case st.Leader == 0:
			return h.Member + ": knows no leader", nil
		case st.Leader != list[0].Status.Leader:
			return h.Member + ": knows another leader than " + list[0].Member, nil
		case furthest > st.Applied+laggingBy:
			return fmt.Sprintf("%s: is %d entries behind", h.Member, furthest-st.Applied), nil
		}
		for _, e := range h.Status.Errors {
			if !strings.Contains(e, NoSpace) {
				return "", alarming(h.Member, h.Status)
			}
		}
	}
	return "", nil
}
