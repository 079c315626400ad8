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
)

// Space is what a client can ask and do about the space that a cluster's
// database takes.
type Space interface {
	// Alarms lists the alarms that are raised, as the cluster knows them.
	Alarms(ctx context.Context) ([]Alarm, error)
	// Disarm takes an alarm back; one that is not raised is fine.
	Disarm(ctx context.Context, a Alarm) error
	// Compact drops the history of all keys up to now.
	Compact(ctx context.Context) error
	// Defragment has one member, by the URL of its client port, write its
	// database anew, without the room that is free in it. The member does nothing
	// else meanwhile.
	Defragment(ctx context.Context, endpoint string) error
}

// Kinds of alarms. etcd refuses writes while one of them is raised.
const (
	NoSpace = "NOSPACE" // the database has reached its quota
	Corrupt = "CORRUPT" // a member's data differs from the others'
)

// Alarm is an alarm with the member that it is about.
type Alarm struct {
	Member uint64
	Kind   string
}

// SpaceFacts is what the cluster itself says of its space.
type SpaceFacts struct {
	// Members are those that answered, by name.
	Members map[string]Status
	Alarms  []Alarm
}

// has reports whether an alarm of a kind is raised.
func (f *SpaceFacts) has(kind string) bool {
	return f != nil && slices.ContainsFunc(f.Alarms, func(a Alarm) bool { return a.Kind == kind })
}

// of names the member that an alarm is about.
func (f *SpaceFacts) of(a Alarm) string {
	for _, n := range sortedKeys(f.Members) {
		if f.Members[n].MemberID == a.Member {
			return n
		}
	}
	return fmt.Sprintf("the member %x", a.Member)
}

// most is the most that is in use on any member, in bytes, and on which.
func (f *SpaceFacts) most() (name string, bytes int64) {
	for _, n := range sortedKeys(f.Members) {
		if u := f.Members[n].DBInUse; u > bytes {
			name, bytes = n, u
		}
	}
	return name, bytes
}

// spacePatience is how long a look at the space waits for an answer. Without one
// a plan says nothing of it.
const spacePatience = 15 * time.Second

// space adds to the facts what the cluster says of its space, if it was ever
// complete and enough of it runs to answer.
func (m *Manager) space(ctx context.Context, s Spec, f *Facts) {
	var running []string
	formed := false
	for n, h := range f.Hosts {
		if h.Facts.Unit(Unit).Running() {
			running = append(running, n)
		}
		formed = formed || h.Recognised || h.Marker != nil && h.Marker.Bootstrapped
	}
	if !formed || len(running) < Quorum(len(s.Members)) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, spacePatience)
	defer cancel()
	found, err := m.Doer.space(ctx, s, running)
	if err != nil {
		m.Doer.Log.WarnContext(ctx, "the etcd cluster does not say how much space it takes", "cluster", s.Name, "error", err)
		return
	}
	f.Space = found
}

// space asks members for the space that they take. One that does not run, which may
// only be about to join, would be waited for in vain.
func (d *Doer) space(ctx context.Context, s Spec, running []string) (*SpaceFacts, error) {
	c, err := d.client(ctx, s)
	if err != nil {
		return nil, err
	}
	f := &SpaceFacts{Members: map[string]Status{}}
	if f.Alarms, err = c.Alarms(ctx); err != nil {
		return nil, err
	}
	for _, h := range Health(ctx, c, s.with(running), requestTimeout) {
		if h.Err == nil {
			f.Members[h.Member] = h.Status
		}
	}
	return f, nil
}

// QuotaError is a quota that what is stored does not fit into.
type QuotaError struct {
	Member       string
	Quota, InUse int64
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("the quota is to be %s, and %s of the database of %s are in use: etcd would accept no writes any more, or not for long", mib(e.Quota), mib(e.InUse), e.Member)
}

// room is what a quota has to have for so much that is in use: an eighth more.
func room(inUse int64) int64 { return inUse + inUse/8 }

// quota is that of the member that runs on a host, zero if none does.
func (h *HostFacts) quota() int64 {
	var running Spec
	s := h.Running
	if s == nil {
		s = settingsOf(h.Facts.Process(Unit))
	}
	if s != nil && s.tune(&running) == nil {
		return running.QuotaBytes
	}
	return 0
}

// checkQuota refuses a lower quota that the data does not fit into. While the
// cluster is full, its history may be all that fills it: that is found out by
// compacting.
func (p *planner) checkQuota() error {
	lower := false
	for _, h := range p.f.Hosts {
		lower = lower || h.quota() > p.s.QuotaBytes
	}
	if p.f.Space == nil || p.f.Space.has(NoSpace) || !lower {
		return nil
	}
	name, inUse := p.f.Space.most()
	if room(inUse) <= p.s.QuotaBytes {
		return nil
	}
	return &problem.Error{
		Step: "check the quota", Cause: &QuotaError{Member: name, Quota: p.s.QuotaBytes, InUse: inUse}, Left: "the etcd cluster, with the quota that it has.",
		Do: fmt.Sprintf("set quota_backend_bytes to %s or more (that is an eighth more than is in use), or remove keys first: they count until their history is dropped, after auto_compaction_retention.", mib(room(inUse))),
	}
}

// wasted is what is free inside a member's database, in bytes.
func wasted(s Status) int64 { return s.DBSize - s.DBInUse }

// makeSpace is what gives back space: where the cluster is full, where a quota is
// to come that what is stored fits into only without what is wasted, and where
// more is wasted than the cluster's settings allow.
func (p *planner) makeSpace() engine.Plan {
	f := p.f.Space
	if f == nil {
		return engine.Plan{}
	}
	if f.has(NoSpace) {
		var who []string
		for _, a := range f.Alarms {
			if a.Kind == NoSpace {
				who = append(who, f.of(a))
			}
		}
		slices.Sort(who)
		why := "the cluster accepts no writes: alarm NOSPACE of " + strings.Join(who, ", ")
		return engine.Sequence(p.do.compact(p.well(), why), p.do.defragment(p.well(), p.stay, why))
	}
	var names []string
	why := ""
	for _, n := range p.stay {
		st, answers := f.Members[n]
		switch free := wasted(st); {
		case !answers:
		case st.DBSize >= p.s.QuotaBytes && free >= worthwhile:
			why = "the quota is to be " + mib(p.s.QuotaBytes) + ", and the database of " + n + " takes " + mib(st.DBSize) + ", of which " + mib(free) + " are free"
			names = append(names, n)
		case p.s.DefragmentAbove > 0 && free >= p.s.DefragmentAbove:
			why = "in the database of " + n + " " + mib(free) + " of " + mib(st.DBSize) + " are free"
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return engine.Plan{}
	}
	return engine.Sequence(p.do.defragment(p.well(), names, why))
}

// endAlarms is what comes when there should be space again.
func (p *planner) endAlarms() engine.Plan {
	var plan engine.Plan
	if p.f.Space.has(NoSpace) {
		plan = plan.Then(p.do.disarm(p.well()))
	}
	if p.f.Space.has(Corrupt) {
		plan = plan.Then(p.do.corrupt(p.well()))
	}
	return plan
}

func (d *Doer) compact(s Spec, why string) engine.Step {
	return d.step(s, "", "etcd.compact", "drop the history of all keys ("+why+")", engine.Safe, func(ctx context.Context) error {
		c, err := d.client(ctx, s)
		if err != nil {
			return err
		}
		return c.Compact(ctx)
	})
}

// disarm takes the alarms back once every member has space. The cluster would
// raise them again at the next write otherwise.
func (d *Doer) disarm(s Spec) engine.Step {
	return d.step(s, "", "etcd.disarm", "accept writes again (disarm the alarm NOSPACE)", engine.Safe, func(ctx context.Context) error {
		f, err := d.space(ctx, s, s.Names())
		if err != nil {
			return err
		}
		if name, inUse := f.most(); room(inUse) > s.QuotaBytes {
			return &problem.Error{
				Cause: &QuotaError{Member: name, Quota: s.QuotaBytes, InUse: inUse},
				Left:  "the data, all of it. The alarm is still raised: etcd answers, and refuses writes. Patroni's leader keeps its lock, but no other member could take it over.",
				Do: fmt.Sprintf("find out what fills it (etcdctl get --prefix --keys-only /) and remove what nobody needs, or set quota_backend_bytes to %s or more; then apply again.",
					mib(room(inUse))),
			}
		}
		c, err := d.client(ctx, s)
		if err != nil {
			return err
		}
		for _, a := range f.Alarms {
			if a.Kind == NoSpace {
				if err := c.Disarm(ctx, a); err != nil {
					return err
				}
			}
		}
		return d.waitHealthy(ctx, s)
	})
}

// corrupt ends an apply with what only a person can mend.
func (d *Doer) corrupt(s Spec) engine.Step {
	return d.step(s, "", "etcd.corrupt", "make sure that no member's data differs (alarm CORRUPT)", engine.Safe, func(ctx context.Context) error {
		f, err := d.space(ctx, s, s.Names())
		if err != nil {
			return err
		}
		var errs []error
		for _, a := range f.Alarms {
			if a.Kind == Corrupt {
				errs = append(errs, corruption(f.of(a)))
			}
		}
		return errors.Join(errs...)
	})
}

// alarmError is an alarm that is raised. It does not go by waiting.
type alarmError struct{ text string }

func (e *alarmError) Error() string { return e.text }

// alarming explains the alarms that a member tells of: those of the whole cluster.
func alarming(member string, st Status) error {
	said := strings.Join(st.Errors, ", ")
	switch {
	case strings.Contains(said, Corrupt):
		return corruption("")
	case strings.Contains(said, NoSpace):
		return &problem.Error{
			Step: "look at the members", Cause: &alarmError{fmt.Sprintf("etcd has raised the alarm NOSPACE: a database has reached its quota (that of %s takes %s, of which %s are in use), and the cluster accepts no writes",
				member, mib(st.DBSize), mib(st.DBInUse))},
			Left: "the members, running; and their data.",
			Do:   "apply again: the plan then drops the history of keys, defragments one member after the other, and takes the alarm back if there is space. If all of it is in use, raise quota_backend_bytes.",
		}
	}
	return &problem.Error{Host: member, Step: "look at the members", Cause: &alarmError{said}, Left: "the members, running; and their data."}
}

// outOfSpace explains a write that was refused.
func outOfSpace(err error) error {
	return &problem.Error{
		Cause: fmt.Errorf("etcd is out of space (alarm NOSPACE) and accepts no writes: %w", err), Left: "what is in etcd.",
		Do: "apply the pgha_etcd_cluster resource: its plan makes space, or says how much is missing. Then run the same again.",
	}
}

// corruption explains the alarm CORRUPT.
func corruption(member string) error {
	return &problem.Error{
		Host: member, Step: "compare the members' data", Cause: &alarmError{"etcd has raised the alarm CORRUPT: a member's data differs from the others', and the cluster accepts no writes"},
		Left: "the members, running; and their data.",
		Do: "take a snapshot of each member (etcdctl snapshot save), and find out which one has other data than the rest (etcdctl alarm list, etcdctl endpoint hashkv --cluster). " +
			"Then replace that one: remove it, delete its data, add it again; and take the alarm back (etcdctl alarm disarm).",
	}
}
