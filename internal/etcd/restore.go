package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Restore asks for the cluster's data to be put back: a new cluster is built on
// the members' hosts from a snapshot, or with nothing in it. It is done once:
// the marks on the hosts say so afterwards.
type Restore struct {
	// Member and Path say where the snapshot is, on which member's host; both are
	// empty for none.
	Member, Path string
	// ID tells one restore from another one of the same snapshot.
	ID string
}

// FromNothing is what is written in the place of a snapshot where there is none.
const FromNothing = "nothing"

// ParseRestore reads "MEMBER:PATH", as TakeSnapshot returns it and
// pgha_etcd_status lists it, or "nothing".
func ParseRestore(from, id string) (Restore, error) {
	if from == FromNothing {
		return Restore{ID: id}, nil
	}
	member, path, ok := strings.Cut(from, ":")
	if !ok || member == "" || !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "\n\x00") {
		return Restore{}, fmt.Errorf("%q is neither MEMBER:/PATH, a snapshot on a member's host, nor %q", from, FromNothing)
	}
	return Restore{Member: member, Path: path, ID: id}, nil
}

// From is what ParseRestore reads.
func (r Restore) From() string {
	if r.Path == "" {
		return FromNothing
	}
	return r.Member + ":" + r.Path
}

// key is what the marks say once it is done.
func (r Restore) key() string { return strings.TrimSpace(r.From() + " " + r.ID) }

// Restoring is the part of a mark that says that a restore is under way: all
// members begin anew from one and the same file, or none does.
type Restoring struct {
	Key string `json:"key"`
	// UID is that of the new cluster, until all is done beside the old one.
	UID string `json:"uid"`
	// SHA256 is the digest of the file from which the members begin.
	SHA256 string `json:"sha256"`
}

// SnapshotInfo is what was found out about a snapshot.
type SnapshotInfo struct {
	Size           int64
	SHA256         string
	Revision, Keys int64  // zero where the host lacks etcd's tools
	Version        string // of the cluster that it is of, such as "3.5.0"; may be empty
}

// RestoreFacts is what is found for a restore beside the usual facts.
type RestoreFacts struct {
	Snapshot SnapshotInfo
	// Files are the digests of the files from which members begin, by member;
	// Begun are those whose data is the new cluster's already, with its uid.
	Files, Begun map[string]string
}

func (s Spec) restorePath() string  { return Dir(s.Name) + "/restore.db" }
func (s Spec) scratchDir() string   { return "/var/lib/etcd/" + s.Name + ".scratch" }
func (s Spec) restoredMark() string { return s.DataDir() + "/member/pgha-restored" }

// RestoreDue reports whether a restore is asked for and has not been done.
func RestoreDue(s Spec, f Facts) bool {
	if s.Restore == nil || !f.formed() && f.restoring() == nil {
		return false
	}
	for _, h := range f.Hosts {
		if h.Marker != nil && h.Marker.Restored == s.Restore.key() && h.Marker.Restoring == nil {
			// One that is done is enough unless others are still at it.
			return f.restoring() != nil
		}
	}
	return true
}

// restoring is what the marks say of a restore that was begun, nil if none was.
func (f Facts) restoring() *Restoring {
	for _, n := range sortedKeys(f.Hosts) {
		if m := f.Hosts[n].Marker; m != nil && m.Restoring != nil {
			return m.Restoring
		}
	}
	return nil
}

// restorePlanner plans a restore.
type restorePlanner struct {
	planner
	r      RestoreFacts
	begun  *Restoring // by an earlier run
	next   string     // uid of the new cluster
	source string     // whose host makes the file
	file   *Restoring // from which all begin; the step that makes it fills it in
}

// RestorePlan is the way to a new cluster with a snapshot's data, or with none.
// It is pure. The order:
//
//   - what a member needs anyway: packages, authority, certificates, settings;
//   - out of everybody's sight the snapshot is made fit: whatever was bound to
//     leases and what Patroni said of itself goes, and Patroni is to pause;
//   - that one file goes to all hosts, and the marks say so;
//   - every member is stopped, then its data is put aside and the new one in place;
//   - they start together. The marks say that it is done, and Patroni may resume.
//
// Cut off anywhere, the next one goes on with the same file.
func RestorePlan(s Spec, f Facts, r RestoreFacts, newUID string, now time.Time, do *Doer) (engine.Plan, error) {
	if err := restorable(s, f); err != nil {
		return engine.Plan{}, err
	}
	p := restorePlanner{planner: planner{s: s, f: f, uid: f.oldUID(), now: now, do: do}, r: r, begun: f.restoring(), next: newUID, source: s.Restore.Member}
	p.stay = s.Names()
	if p.source == "" {
		p.source = s.Names()[0]
	}
	var err error
	if p.credentials, err = p.findCredentials(); err != nil {
		return engine.Plan{}, err
	}
	if err := p.checkFiles(); err != nil {
		return engine.Plan{}, err
	}
	if p.begun != nil && !p.startOver() {
		p.next, p.file = p.begun.UID, p.begun
	}
	if p.file == nil {
		if err := p.checkSnapshot(); err != nil {
			return engine.Plan{}, err
		}
	}
	return p.restorePlan()
}

// startOver reports whether what an earlier run has prepared is gone, and nobody
// has begun from it.
func (p *restorePlanner) startOver() bool {
	return !slices.Contains(slices.Collect(valuesOf(p.r.Files)), p.begun.SHA256) && !slices.Contains(slices.Collect(valuesOf(p.r.Begun)), p.begun.UID)
}

// oldUID is that of the cluster whose data was lost.
func (f Facts) oldUID() string {
	for _, n := range sortedKeys(f.Hosts) {
		if m := f.Hosts[n].Marker; m != nil && m.Restoring == nil && m.Restored == "" {
			return m.UID
		}
	}
	for _, n := range sortedKeys(f.Hosts) {
		if m := f.Hosts[n].Marker; m != nil && m.Restoring != nil {
			return m.UID
		}
	}
	return f.uid()
}

// restorable says why nothing may be restored over what there is. What is asked of
// the units alone holds, whatever etcd would say or be too slow to say: while so
// many members run that they may have a quorum, the cluster is not lost.
func restorable(s Spec, f Facts) error {
	const step = "make sure that the cluster is lost"
	refuse := func(host string, cause error, do string) error {
		return &problem.Error{Host: host, Step: step, Cause: cause, Left: "everything.", Do: do}
	}
	if s.Adopted() {
		return refuse("", errors.New("this cluster was made by somebody else, and this release restores only clusters that it has made"),
			"restore it by hand (etcdutl snapshot restore on every member's host).")
	}
	if s.Restore.Member != "" {
		if _, ok := s.Members[s.Restore.Member]; !ok {
			return refuse("", fmt.Errorf("the snapshot is to be on the host of %q, which is no member: the members are %s", s.Restore.Member, strings.Join(s.Names(), ", ")),
				"copy it to a member's host and name that one.")
		}
	}
	uids := map[string]bool{}
	var errs []error
	for _, n := range s.Names() {
		h := f.Hosts[n]
		m, unit := h.Marker, h.Facts.Unit(Unit)
		switch {
		case m == nil && atWork(unit):
			errs = append(errs, refuse(n, errors.New("an etcd that is not ours is running on this host"), "stop and disable it if nothing needs it (systemctl disable --now etcd)."))
		case m == nil && h.Data.Exists():
			errs = append(errs, refuse(n, fmt.Errorf("%s holds the data of an etcd member, but %s does not say whose it is", s.DataDir(), MarkerPath), "move it away if nothing needs it."))
		case m == nil:
		case m.Cluster != s.Name:
			errs = append(errs, refuse(n, fmt.Errorf("this host's etcd belongs to the cluster %q", m.Cluster), "list only the hosts of one cluster."))
		case m.Purging:
			errs = append(errs, refuse(n, errors.New("deleting this cluster was begun and cut off"), "destroy it again, which finishes that."))
		case m.Restoring != nil && m.Restoring.Key != s.Restore.key():
			errs = append(errs, refuse(n, fmt.Errorf("another restore was begun and cut off: %s", m.Restoring.Key), "finish that one first: set restore to it."))
		default:
			uids[m.UID] = true
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if b := f.restoring(); b != nil {
		// It was found to be lost before. What runs now may be the new one's.
		delete(uids, b.UID)
		if len(uids) > 1 {
			return refuse("", fmt.Errorf("the hosts belong to %d different clusters that are all named %q", len(uids), s.Name), "list only the hosts of one of them.")
		}
		return nil
	}
	if len(uids) > 1 {
		return refuse("", fmt.Errorf("the hosts belong to %d different clusters that are all named %q", len(uids), s.Name), "list only the hosts of one of them.")
	}
	return lost(s, f, step)
}

// lost makes sure that no majority of the old cluster can be at work: neither on
// the hosts that answered, nor together with those that are to leave and did not.
func lost(s Spec, f Facts, step string) error {
	running := f.running()
	marked, away := 0, 0
	for _, h := range f.Hosts {
		if h.Marker != nil {
			marked++
		}
	}
	for n := range s.Leaving {
		switch h := f.Leaving[n]; {
		case h == nil:
			away++
		case atWork(h.Facts.Unit(Unit)):
			running = append(running, n+" at "+s.Leaving[n].Address)
		}
	}
	total := oldSize(len(s.Members), marked, len(s.Leaving))
	if !mayServe(len(running), away, total) {
		return nil
	}
	cause := fmt.Errorf("etcd runs on %s: %d of %d members, which may have a quorum and the data. Restoring would throw away all that they know since the snapshot", strings.Join(running, ", "), len(running), total)
	do := "if it serves, remove restore from the configuration. If it does not, or if it is to be thrown away, stop it on these hosts first (systemctl stop etcd), then apply again."
	if away > 0 {
		cause = fmt.Errorf("etcd runs on %d of %d members' hosts, and %d that are to leave cannot be reached: together they may have a quorum", len(running), total, away)
		do = "bring those hosts back, or make sure that they stay off and take them out of the state one at a time."
	}
	return &problem.Error{Step: step, Cause: cause, Left: "everything.", Do: do}
}

// oldSize is how many members the old cluster had: as many as are wanted, unless some
// are exchanged. Then hosts that have no mark may be new ones, and count for nothing.
func oldSize(wanted, marked, leaving int) int {
	if leaving == 0 {
		return wanted
	}
	return marked + leaving
}

// mayServe reports whether members that run and members of which nothing is known
// may have a quorum together.
func mayServe(running, away, total int) bool { return running+away >= Quorum(total) }

// running are the members whose etcd runs, or is about to: after a power cut it
// waits for the others before it says that it is up.
func (f Facts) running() []string {
	var names []string
	for _, n := range sortedKeys(f.Hosts) {
		if atWork(f.Hosts[n].Facts.Unit(Unit)) {
			names = append(names, n)
		}
	}
	return names
}

func atWork(u remote.Unit) bool {
	return u.Active != "" && u.Active != "inactive" && u.Active != "failed"
}

// checkSnapshot refuses a snapshot that these members' etcd cannot take.
func (p *restorePlanner) checkSnapshot() error {
	if p.s.Restore.Path == "" {
		return nil
	}
	if p.s.Auth && p.credentials == nil {
		return &problem.Error{
			Step: "find the credentials of the snapshot", Cause: fmt.Errorf("%s is on none of the hosts, and the users' passwords are in the snapshot as digests only", p.s.credentialsPath()),
			Left: "everything.", Do: "copy the file from a backup of any member's host. Without it, restore from = \"" + FromNothing + "\".",
		}
	}
	v := p.r.Snapshot.Version
	if v == "" {
		return nil
	}
	for _, n := range p.s.Names() {
		have := cmp.Or(debver.Upstream(p.f.Hosts[n].Facts.Package(serverPackage).Version), p.s.Version)
		if debver.Compare(minor(v), minor(have)) > 0 {
			return &problem.Error{
				Host: n, Step: "look at the snapshot", Cause: fmt.Errorf("%s is of etcd %s, and this member is %s: etcd does not read what a newer one wrote", p.s.Restore.From(), minor(v), have),
				Left: "everything.", Do: "install etcd " + minor(v) + " on all members first, or choose a snapshot of an older one.",
			}
		}
	}
	return nil
}

// minor is a version up to the minor one, such as "3.5".
func minor(version string) string {
	parts := strings.SplitN(debver.Upstream(version), ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

func (p *restorePlanner) restorePlan() (engine.Plan, error) {
	names := p.s.Names()
	var prepare, configure []engine.Plan
	var errs []error
	for _, n := range names {
		if p.begun != nil && p.r.Begun[n] == p.next && p.f.Hosts[n].Facts.Unit(Unit).Running() {
			continue // it runs already with what it needs now
		}
		a, err := p.prepare(n)
		errs = append(errs, problem.In(n, "", err))
		b, err := p.configure(n)
		errs = append(errs, problem.In(n, "", err))
		prepare, configure = append(prepare, a), append(configure, b)
	}
	if err := errors.Join(errs...); err != nil {
		return engine.Plan{}, err
	}
	plan := engine.Plan{}.ThenParallel(prepare...).ThenPlan(p.authority()).ThenPlan(p.keep()).ThenParallel(configure...)
	if p.file == nil {
		p.file = new(Restoring)
		plan = plan.Then(p.fit())
	}
	if p.begun != nil && p.begun.SHA256 == p.file.SHA256 {
		for _, n := range names {
			if p.r.Files[n] == p.file.SHA256 {
				p.source = n
			}
		}
	}
	var copies, marks, stops, begins, starts, clean, done []engine.Plan
	for _, n := range names {
		h := p.f.Hosts[n]
		begun := p.begun != nil && p.r.Begun[n] == p.next
		finished := h.Marker != nil && h.Marker.UID == p.next && h.Marker.Restored == p.s.Restore.key()
		if !begun && n != p.source && (p.file.SHA256 == "" || p.r.Files[n] != p.file.SHA256) {
			copies = append(copies, engine.Sequence(p.copy(n)))
		}
		if !finished && (p.begun == nil || h.Marker == nil || h.Marker.Restoring == nil || *h.Marker.Restoring != *p.begun || p.file != p.begun) {
			marks = append(marks, engine.Sequence(p.markRestoring(n)))
		}
		if !begun {
			stops = append(stops, engine.Sequence(p.stop(n, p.s.Members[n])))
			begins = append(begins, engine.Sequence(p.begin(n)))
		}
		if !begun || h.Facts.Unit(Unit).Active != "active" {
			starts = append(starts, engine.Sequence(p.startRestored(n)))
		}
		if !finished {
			done = append(done, engine.Sequence(p.markRestored(n)))
		}
		clean = append(clean, engine.Sequence(p.clean(n)))
	}
	for _, n := range sortedKeys(p.f.Leaving) {
		if u := p.f.Leaving[n].Facts.Unit(Unit); u.Active != "inactive" || u.Enabled == "enabled" {
			stops = append(stops, engine.Sequence(p.stop(n, p.s.Leaving[n])))
		}
	}
	plan = plan.ThenParallel(marks...).ThenParallel(copies...).ThenParallel(stops...).ThenParallel(begins...).ThenParallel(starts...)
	whole := p.s
	whole.Leaving = nil
	plan = plan.Then(p.do.healthy(whole, false))
	if p.s.Auth {
		plan = plan.Then(p.refuseOld())
	}
	return plan.Then(p.do.resume(whole)).ThenParallel(clean...).ThenParallel(done...), nil
}

// DescribeRestore says what a restore does, for people.
func DescribeRestore(s Spec, r RestoreFacts) []string {
	what := "A new etcd cluster is made on " + strings.Join(s.Names(), ", ")
	var lines []string
	if s.Restore.Path == "" {
		lines = append(lines, what+", with nothing in it. What was in etcd is lost: every Patroni cluster has to be registered anew from its nodes (recover_from of its pgha_patroni_cluster). No database is touched.")
	} else {
		i := r.Snapshot
		about := fmt.Sprintf("%d bytes, sha256 %s", i.Size, cmp.Or(i.SHA256, "unknown"))
		if i.Keys > 0 {
			about += fmt.Sprintf(", revision %d, %d keys", i.Revision, i.Keys)
		}
		if taken, member, ok := snapshotTaken(s.Restore.Path); ok {
			about += ", taken " + taken + " from " + member
		}
		lines = append(lines, what+" from the snapshot "+s.Restore.From()+" ("+about+"). What was written to etcd since is lost there: settings and passwords of Patroni clusters. No database is touched.")
	}
	return append(lines,
		"etcd is stopped on all of these hosts. The data of the old members is kept there, as "+s.DataDir()+"/before-..., and never starts again.",
		"Patroni is told to pause, and resumes when a node leads; if none does, when all nodes have come back, so that none leads that lacks what another one has.")
}

// snapshotTaken reads when and from which member a snapshot was taken from its
// name.
func snapshotTaken(path string) (when, member string, ok bool) {
	name := path[strings.LastIndexByte(path, '/')+1:]
	stamp, member, ok := strings.Cut(strings.TrimSuffix(name, ".db"), "-")
	if !ok || len(stamp) != len(snapshotTime) {
		return "", "", false
	}
	return stamp, member, true
}

// lookRestore finds out what a restore has to know. It changes nothing.
func (d *Doer) lookRestore(ctx context.Context, s Spec, f Facts) (RestoreFacts, error) {
	r := RestoreFacts{Files: map[string]string{}, Begun: map[string]string{}}
	begun := f.restoring()
	for _, n := range s.Names() {
		if begun == nil {
			break
		}
		var p remote.Probe
		p.Path(s.restorePath()).Content(s.restoredMark())
		facts, err := p.Run(ctx, d.host(s, n))
		if err != nil {
			return r, err
		}
		r.Files[n], r.Begun[n] = facts.Path(s.restorePath()).SHA256, string(facts.Path(s.restoredMark()).Content)
	}
	if _, member := s.Members[s.Restore.Member]; !member || s.Restore.Path == "" || begun != nil && slices.Contains(slices.Collect(valuesOf(r.Files)), begun.SHA256) {
		return r, nil
	}
	var err error
	r.Snapshot, err = d.lookSnapshot(ctx, s)
	return r, problem.Fill(err, problem.Error{
		Host: s.Restore.Member, Step: "look at the snapshot", Left: "everything.", Do: "name a snapshot that is there: pgha_etcd_status lists them, and so does ls -l " + s.snapshotDir() + " on the hosts.",
	})
}

// restore does what is due, and looks again. Members that leave have left with the
// old cluster.
func (m *Manager) restore(ctx context.Context, s *Spec, f Facts) (Facts, error) {
	m.Doer.all()
	plan, _, err := m.restorePlan(ctx, *s, f)
	if err != nil {
		return f, err
	}
	if err := engine.Run(ctx, plan, m.Observe); err != nil {
		return f, err
	}
	m.Doer.Close()
	s.Leaving = nil
	return m.probeWithLists(ctx, *s)
}

func (m *Manager) restorePlan(ctx context.Context, s Spec, f Facts) (engine.Plan, RestoreFacts, error) {
	// What can be refused by the units alone is, before a snapshot is looked at.
	if err := restorable(s, f); err != nil {
		return engine.Plan{}, RestoreFacts{}, err
	}
	r, err := m.Doer.lookRestore(ctx, s, f)
	if err != nil {
		return engine.Plan{}, r, err
	}
	plan, err := RestorePlan(s, f, r, NewUID(), m.Now(), m.Doer)
	return plan, r, err
}

// PreviewRestore says what a restore that is due would do, nothing if none is.
func (m *Manager) PreviewRestore(ctx context.Context, s Spec) ([]string, error) {
	f := Probe(ctx, m.Doer.Fleet, s)
	if err := f.Err(); err != nil || !RestoreDue(s, f) {
		return nil, err
	}
	_, r, err := m.restorePlan(ctx, s, f)
	if err != nil {
		return nil, err
	}
	return DescribeRestore(s, r), nil
}

// restored is what a member's mark says of the last restore. A cluster that is made
// anew has nothing to be restored later.
func (p *planner) restored(name string) string {
	switch m := p.f.Hosts[name].Marker; {
	case m != nil && m.Restored != "":
		return m.Restored
	case !p.formed() && p.s.Restore != nil:
		return p.s.Restore.key()
	}
	for _, n := range p.s.Names() {
		if m := p.f.Hosts[n].Marker; m != nil && m.Restored != "" {
			return m.Restored // a member that joins a cluster that was restored
		}
	}
	return ""
}
