package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// View is a cluster as it is now.
type View struct {
	Name      string
	ClusterID uint64 // zero if no member answers
	Leader    string // name of the member that leads, empty if there is none
	Members   []MemberView
	Warnings  []string
}

// Roles of a member.
const (
	RoleLeader   = "leader"
	RoleFollower = "follower"
	RoleLearner  = "learner"
)

// MemberView is one member as it is now.
type MemberView struct {
	Name    string
	ID      uint64 // zero if it is not known
	Address string // "HOST:PORT" for clients; empty for one that is not ours to reach
	Peers   []string
	Known   bool // the cluster has it as a member
	Role    string
	Version string
	// Problem is what is wrong with it, empty if it is healthy.
	Problem string
	// Lag is how many entries of the log it has still to apply, compared with the
	// member that is furthest; -1 if it is not known.
	Lag           int64
	DBSize, InUse int64    // bytes; -1 if it is not known
	Quota         int64    // bytes, of the process that runs; zero if it is not known
	Alarms        []string // kinds
	// When the certificates of its server, for its peers, and of the authority
	// that it trusts end; zero if there are none, or if nobody could look.
	Server, Peer, Authority time.Time
	Snapshots               SnapshotsView
	// Error is why its host could not be asked.
	Error string
}

// Healthy reports whether nothing is wrong with the member.
func (m MemberView) Healthy() bool { return m.Problem == "" }

// View asks the cluster what it is now, and each member and its host what only
// they know. A member that does not answer is shown as such; it is an error only
// if nothing at all is known, because no host could be asked.
func (a Access) View(ctx context.Context, fleet host.Fleet, open func(context.Context, Access) (Client, error)) (View, error) {
	names := a.Names()
	found, errs := make([]*hostView, len(names)), make([]error, len(names))
	var wg sync.WaitGroup
	for i, n := range names {
		wg.Go(func() { found[i], errs[i] = a.look(ctx, fleet.Host(a.Members[n].Target), n) })
	}
	var answers []answer
	var known []MemberInfo
	var alarms []Alarm
	var failed error
	wg.Go(func() {
		var c Client
		if c, failed = open(ctx, a); failed == nil {
			answers, known, alarms = a.answers(ctx, c)
		}
	})
	wg.Wait()
	if !slices.ContainsFunc(found, func(h *hostView) bool { return h != nil }) {
		return View{}, &problem.Error{
			Step: "look at the hosts of the etcd cluster " + a.Name, Cause: errors.Join(errs...),
			Do: "make sure that at least one of its members' hosts can be reached: " + strings.Join(names, ", ") + ".",
		}
	}
	v := View{Name: a.Name}
	for i, n := range names {
		mv := MemberView{Name: n, Address: net.JoinHostPort(a.Members[n].Address, strconv.Itoa(a.ClientPort)), Lag: -1, DBSize: -1, InUse: -1}
		if h := found[i]; h != nil {
			mv.Quota, mv.Server, mv.Peer, mv.Authority = h.quota, h.server, h.peer, h.authority
			mv.Version, mv.Snapshots = h.version, h.snapshots
			for _, why := range h.overdue {
				v.Warnings = append(v.Warnings, why+"; "+SomebodyElse)
			}
			if !h.unit.Running() {
				mv.Problem = fmt.Sprintf("%s is %s (%s)", Unit, h.unit.Active, h.unit.Sub)
			}
		}
		if errs[i] != nil {
			mv.Error = errs[i].Error()
		}
		switch {
		case answers == nil:
			mv.Problem = cmp.Or(mv.Problem, "could not be asked: "+failed.Error())
		case answers[i].err != nil:
			mv.Problem = cmp.Or(mv.Problem, "does not answer: "+answers[i].err.Error())
		default:
			mv.take(answers[i].Status)
			v.ClusterID = answers[i].ClusterID
		}
		v.Members = append(v.Members, mv)
	}
	v.place(known)
	v.compare(answers)
	v.alarm(alarms)
	v.warn(len(known) > 0)
	if a.Files == nil {
		v.ending(time.Now())
	}
	return v, nil
}

// hostView is what a member's host says of it.
type hostView struct {
	unit                    remote.Unit
	version                 string
	quota                   int64
	server, peer, authority time.Time
	snapshots               SnapshotsView
	overdue                 []string
}

// look asks a member's host, in one session.
func (a Access) look(ctx context.Context, h host.Host, name string) (*hostView, error) {
	dir := Dir(a.Name)
	server, peer, authority := dir+"/server.crt", dir+"/peer.crt", dir+"/ca.crt"
	var p remote.Probe
	p.Unit(Unit).Process(Unit).Package(serverPackage).Unit(SnapshotTimer).Unit(SnapshotService)
	if a.OwnTLS() {
		p.Content(server).Content(peer).Content(authority)
	}
	f, err := p.Run(ctx, h)
	if err != nil {
		return nil, err
	}
	v := &hostView{unit: f.Unit(Unit), version: debver.Upstream(f.Package(serverPackage).Version)}
	if v.snapshots, err = a.listSnapshots(ctx, h); err != nil {
		return nil, err
	}
	v.snapshots.Scheduled, v.snapshots.Failed = f.Unit(SnapshotTimer).Running(), f.Unit(SnapshotService).Active == "failed"
	running, _, err := runningSettings(ctx, h, f.Process(Unit))
	if err == nil { // else it cannot be told
		v.quota = (&HostFacts{Facts: f, Running: running}).quota()
	}
	if a.TLS && a.Theirs {
		return v, v.theirCertificates(ctx, h, running)
	}
	if a.TLS && a.Files != nil {
		return v, v.broughtCertificates(ctx, h, a.Files.on(name), name)
	}
	if a.TLS {
		v.server, v.peer, v.authority = ends(f.Path(server)), ends(f.Path(peer)), ends(f.Path(authority))
	}
	return v, nil
}

// ends is when a certificate does, zero if there is none that can be read.
func ends(p remote.Path) time.Time {
	c, err := pki.Parse(p.Content)
	if err != nil {
		return time.Time{}
	}
	return c.NotAfter.UTC()
}

// answer is what a member says of itself.
type answer struct {
	Status
	err error
}

// answers asks all members at once, and the cluster for what it knows as a whole.
// Without a quorum that is nothing.
func (a Access) answers(ctx context.Context, c Client) ([]answer, []MemberInfo, []Alarm) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	names := a.Names()
	list := make([]answer, len(names))
	var known []MemberInfo
	var alarms []Alarm
	var wg sync.WaitGroup
	for i, n := range names {
		wg.Go(func() { list[i].Status, list[i].err = c.Status(ctx, a.URL(n)) })
	}
	wg.Go(func() { known, _ = c.Members(ctx) })
	wg.Go(func() { alarms, _ = c.Alarms(ctx) })
	wg.Wait()
	return list, known, alarms
}

// take takes over what a member says of itself.
func (m *MemberView) take(s Status) {
	m.ID, m.Version, m.DBSize, m.InUse = s.MemberID, s.Version, s.DBSize, s.DBInUse
	switch {
	case s.Learner:
		m.Role = RoleLearner
	case s.Leader == s.MemberID:
		m.Role = RoleLeader
	default:
		m.Role = RoleFollower
	}
	if s.Leader == 0 {
		m.Problem = "knows no leader"
	}
}

// place compares the members that there should be with those that the cluster
// knows. Of one that does not answer the cluster knows the id, and whether it
// is a learner.
func (v *View) place(known []MemberInfo) {
	for _, k := range known {
		i := slices.IndexFunc(v.Members, func(m MemberView) bool { return m.ID == k.ID || m.ID == 0 && k.Name != "" && m.Name == k.Name })
		if i < 0 {
			m := MemberView{Name: k.Name, Lag: -1, DBSize: -1, InUse: -1, Problem: "is a member of the cluster, but not one of those that were given"}
			if k.Name == "" {
				m.Problem += ", and has never started"
			}
			v.Members = append(v.Members, m)
			i = len(v.Members) - 1
		}
		m := &v.Members[i]
		m.ID, m.Known, m.Peers = k.ID, true, k.PeerURLs
		switch {
		case k.Learner:
			m.Role = RoleLearner
		case m.Role == "":
			m.Role = RoleFollower
		}
	}
	for i := range v.Members {
		if m := &v.Members[i]; len(known) > 0 && !m.Known {
			m.Problem = cmp.Or(m.Problem, "the cluster does not have it as a member")
		}
	}
}

// compare finds the leader, and how far each member is behind the one that is
// furthest.
func (v *View) compare(answers []answer) {
	var furthest, leader uint64
	for _, a := range answers {
		furthest = max(furthest, a.RaftIndex)
		if a.err == nil && a.Leader != 0 {
			leader = a.Leader
		}
	}
	for i := range v.Members {
		m := &v.Members[i]
		if m.ID != 0 && m.ID == leader {
			v.Leader = m.Name
		}
		if i >= len(answers) || answers[i].err != nil {
			continue
		}
		m.Lag = int64(furthest - min(furthest, answers[i].Applied))
		if m.Lag > laggingBy {
			m.Problem = cmp.Or(m.Problem, fmt.Sprintf("is %d entries behind", m.Lag))
		}
		if answers[i].Leader != 0 && answers[i].Leader != leader {
			m.Problem = cmp.Or(m.Problem, "knows another leader than the others")
		}
	}
}

// alarm tells each member's alarms. An alarm stops writes in the whole cluster,
// but it is one member that has to be looked at.
func (v *View) alarm(alarms []Alarm) {
	for _, a := range alarms {
		i := slices.IndexFunc(v.Members, func(m MemberView) bool { return m.ID == a.Member })
		who := fmt.Sprintf("%x", a.Member)
		if i >= 0 {
			m := &v.Members[i]
			who = m.Name
			m.Alarms = append(m.Alarms, a.Kind)
			m.Problem = cmp.Or(m.Problem, "has raised the alarm "+a.Kind)
		}
		v.Warnings = append(v.Warnings, "the cluster accepts no writes: alarm "+a.Kind+" of "+who)
	}
}

// warn says what is wrong with the whole. Quorum says that the cluster answers
// as such.
func (v *View) warn(quorum bool) {
	voters, well := 0, 0
	for _, m := range v.Members {
		if m.Quota > 0 && m.DBSize > m.Quota/5*4 && len(m.Alarms) == 0 {
			v.Warnings = append(v.Warnings, fmt.Sprintf("the database of %s takes %s of a quota of %s; at the quota the cluster accepts no writes", m.Name, mib(m.DBSize), mib(m.Quota)))
		}
		if m.Snapshots.Failed {
			v.Warnings = append(v.Warnings, "the last attempt to take a snapshot on "+m.Name+" has failed (journalctl -u "+SnapshotService+")")
		}
		if m.Role == RoleLearner {
			continue
		}
		voters++
		if m.Healthy() {
			well++
		}
	}
	switch {
	case !quorum:
		v.Warnings = append(v.Warnings, "the cluster has no quorum: nobody can read or write")
	case well == Quorum(voters) && voters > 2:
		v.Warnings = append(v.Warnings, fmt.Sprintf("%d of %d members are healthy: the loss of one more would stop the cluster", well, voters))
	}
}

// ending tells which certificates end soon, or have ended. The authority is the
// same on all members: it is told of once.
func (v *View) ending(now time.Time) {
	told := map[string]bool{}
	tell := func(what string, end time.Time) {
		if why := pki.Ending(what, end, now, pki.RenewBefore); why != "" && !end.IsZero() && !told[why] {
			told[why] = true
			v.Warnings = append(v.Warnings, why)
		}
	}
	for _, m := range v.Members {
		tell("the certificate of "+m.Name+" for clients", m.Server)
		tell("the certificate of "+m.Name+" for the other members", m.Peer)
		tell("the certificate authority that the members trust", m.Authority)
	}
}

// Table renders the members for people.
func (v View) Table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MEMBER\tADDRESS\tROLE\tVERSION\tDB\tIN USE\tQUOTA\tLAG\tHEALTH")
	dash := func(s string) string { return cmp.Or(s, "-") }
	for _, m := range v.Members {
		lag, health := "-", "healthy"
		if m.Lag >= 0 {
			lag = strconv.FormatInt(m.Lag, 10)
		}
		if !m.Healthy() {
			health = m.Problem
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", dash(m.Name), dash(m.Address), dash(m.Role), dash(m.Version), mib(m.DBSize), mib(m.InUse), mib(m.Quota), lag, health)
	}
	_ = w.Flush()
	return b.String()
}

// mib renders bytes for people.
func mib(n int64) string {
	switch {
	case n <= 0:
		return "-"
	case n < 1<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
