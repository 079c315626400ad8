package patroni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// Citus has two versions on each node: that of its library, which comes with the package,
// and that of the extension in the database, which its SQL objects have and each group's
// primary keeps for its replicas. A server whose library is of another minor version than
// its extension refuses everything distributed (metadata_cache.c, CheckCitusVersion). So
// the extension is updated in the turn of the group's leader, as soon as the leader's role
// is on a node with the new library (adr/0030).

// Extension is what a node's server says of Citus.
type Extension struct {
	Version string // of the extension: "13.2-1"
	Library string // that is loaded: "13.2.2"
}

// CitusMinor is what has to be the same of library and extension: "13.2" of "13.2.2-1",
// and of "13.2-1".
func CitusMinor(version string) string {
	parts := strings.SplitN(debver.Upstream(version), ".", 3)
	if len(parts) < 2 {
		return ""
	}
	minor, _, _ := strings.Cut(parts[1], "-")
	return parts[0] + "." + minor
}

// extensionKey is where the wanted version of the formation's extension is noted, empty
// if nobody wants one.
func (c Cluster) extensionKey() string { return c.shared("extension") }

// extendingKey says that an update of the extension was begun, and to which version,
// until it is finished on all groups.
func (c Cluster) extendingKey() string { return c.shared("extending") }

// extension asks a node.
func (d *Doer) extension(ctx context.Context, n Node) (Extension, error) {
	rows, err := d.query(ctx, n, "citus.extension", n.Cluster.Citus.Database,
		"select extversion, citus_version() from pg_extension where extname = 'citus'")
	if err != nil {
		return Extension{}, err
	}
	if len(rows) != 1 {
		return Extension{}, fmt.Errorf("the database %s of %s has no extension %s", n.Cluster.Citus.Database, n.Name, CitusExtension)
	}
	version, library, _ := strings.Cut(rows[0], "\t")
	// "Citus 13.2.2 on x86_64-pc-linux-gnu, compiled by gcc ..."
	library, _, _ = strings.Cut(strings.TrimPrefix(library, "Citus "), " ")
	return Extension{Version: version, Library: library}, nil
}

// lookAtExtension asks a running node of a Citus group, as far as it answers.
func (d *Doer) lookAtExtension(ctx context.Context, n Node, f *NodeFacts) {
	if n.Cluster.Citus == nil || n.Extensions[CitusExtension] == "" {
		return
	}
	e, err := d.extension(ctx, n)
	if err != nil {
		d.Log.InfoContext(ctx, "the server does not say which version Citus has", "node", n.Name, "error", err)
		return
	}
	f.Extension = &e
}

// askExtension is lookAtExtension before something is done by it. Of a library that comes
// with the same apply the coordinator's cluster is about to say which version the extension
// is to have: it is awaited for a while.
func (d *Doer) askExtension(ctx context.Context, n Node, f *NodeFacts) error {
	d.lookAtExtension(ctx, n, f)
	pin := n.Extensions[CitusExtension]
	if n.Cluster.Citus == nil || pin == "" {
		return nil
	}
	have := f.Facts.Package(n.ExtensionPackage(CitusExtension))
	if !have.Installed || debver.Matches(pin, have.Version) {
		return nil
	}
	if f.Extension == nil {
		return &problem.Error{
			Host: n.Target.Name, Step: "check the way to the wanted version", Cause: fmt.Errorf("Citus %s is wanted and %s is installed, and the server does not say at which version the extension is", pin, have.Version),
			Left: "the node, as it was.", Do: "make sure that PostgreSQL runs there (patronictl list), then apply again.",
		}
	}
	if d.Known.Extension != "" {
		return nil
	}
	exact, ok := debver.Newest(pin, f.Facts.Available(n.ExtensionPackage(CitusExtension)))
	if !ok || CitusMinor(exact) == CitusMinor(f.Extension.Version) {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := wait.Until(bounded, d.Log, "the coordinator's cluster to say to which version the extension goes", time.Second, func(ctx context.Context) (bool, string, error) {
		kv, noted, err := d.KV.Get(ctx, n.Cluster.extensionKey())
		if noted {
			d.Known.Extension = kv.Value
		}
		return noted, "citus.extension_version is not given", err
	})
	if ctx.Err() != nil {
		return err
	}
	return nil // and is refused, if it has not come
}

// citus is the version of Citus that a node has after its turn, empty if it has none.
func (p *nodePlanner) citus(t turn) string {
	pin := p.n.Extensions[CitusExtension]
	if p.n.Cluster.Citus == nil || pin == "" {
		return ""
	}
	name := p.n.ExtensionPackage(CitusExtension)
	for _, e := range t.extensions {
		if e.Name == name {
			return e.Version
		}
	}
	return p.f.Facts.Package(name).Version
}

// extends says to which version the turn brings the extension, and refuses a library that
// the extension cannot do with.
func (p *nodePlanner) extends(t *turn) error {
	have, library := p.f.Extension, p.citus(*t)
	if have == nil || library == "" {
		return nil
	}
	refuse := func(cause, do string) error {
		return &Refusal{Part: partExtensions, Key: CitusExtension, Err: problem.In(p.n.Target.Name, "check the way to the wanted version", &problem.Error{
			Cause: errors.New(cause), Left: "the node, running as it was.", Do: do,
		})}
	}
	at, wanted := CitusMinor(have.Version), p.k.Extension
	switch to := CitusMinor(library); {
	case debver.Compare(to, at) < 0:
		return refuse(fmt.Sprintf("the extension in the database %s is %s already, and Citus %s cannot work with it: once the extension is updated there is no way back", p.n.Cluster.Citus.Database, have.Version, debver.Upstream(library)),
			"stay with "+at+". To go back, restore the whole formation from a backup.")
	case CitusMinor(wanted) == to:
		if wanted != have.Version {
			t.extends = wanted
		}
	case to == at:
	case CitusMinor(wanted) != at && !p.preview:
		if wanted == "" {
			wanted = "not given"
		}
		return refuse(fmt.Sprintf("Citus %s needs the extension at %s, which is %s, and citus.extension_version of the coordinator's pgha_patroni_cluster is %s", debver.Upstream(library), to, have.Version, wanted),
			fmt.Sprintf("set it to the version that belongs to the package (%s-1 for %s), and the extension is updated right when a node with the new library begins to lead; or to %q, to bring the library to all nodes first: then distributed queries fail until it is raised.", to, to, have.Version))
	default: // it is held, or the apply has not noted yet what is wanted
		t.holds = have.Version
		t.why = append(t.why, "the extension is at "+have.Version+": until citus.extension_version raises it, distributed queries fail from when a node with this library leads")
	}
	return nil
}

// extending are the steps of a turn that are about the extension: those before the leader
// hands over, those right after that, and those at the turn's end.
func (p *nodePlanner) extending(t turn) (before, after, end engine.Plan) {
	if t.extends == "" {
		return before, after, end
	}
	n, do := p.n, p.do
	if p.leads() {
		before = before.Then(do.extendable(n, t))
	}
	after = after.Then(do.step(n, "citus.extension", "bring the extension to "+t.extends+", if a node with its library leads now", engine.Reload, func(ctx context.Context) error {
		return do.extend(ctx, n.Cluster, t.extends)
	}))
	end = end.Then(do.step(n, "citus.finish", "bring the extension of all groups to "+t.extends+" whose nodes all have its library, and finish the update after the last one", engine.Reload, func(ctx context.Context) error {
		if leader, err := do.leading(ctx, n.Cluster); err != nil {
			return err
		} else if e, err := do.extension(ctx, leader); err != nil || e.Version != t.extends {
			return err // its turn is to come
		}
		behind, err := do.extendAll(ctx, n.Cluster, t.extends)
		for _, g := range slices.Sorted(maps.Keys(behind)) {
			do.Log.InfoContext(ctx, "the extension of a group is not at its version yet", "group", g, "because", behind[g])
		}
		return err
	}))
	return before, after, end
}

// extendable makes sure, before a leader hands over to a node with another library, that
// all others have it, and that it can bring the extension to its version: distributed
// queries fail until that is done.
func (d *Doer) extendable(n Node, t turn) engine.Step {
	return d.step(n, "citus.ready", "make sure that all other nodes of the group have the library for "+t.extends, engine.Safe, func(ctx context.Context) error {
		for _, name := range without(sortedKeys(d.Known.Nodes), n.Name) {
			r := d.Known.Nodes[name]
			other := Node{Cluster: n.Cluster, Name: name, Target: r.Target}
			e, err := d.extension(ctx, other)
			if err != nil {
				return err
			}
			refuse := func(cause, do string) error {
				return &problem.Error{Cause: errors.New(cause), Left: "the leader, as it was.", Do: do}
			}
			if CitusMinor(e.Library) != CitusMinor(t.extends) {
				return refuse(fmt.Sprintf("%s runs Citus %s, with which the extension cannot be at %s", name, e.Library, t.extends), "bring versions.citus of all nodes of "+n.Cluster.Name()+" to the same version, then apply again.")
			}
			paths, err := d.query(ctx, other, "citus.paths", n.Cluster.Citus.Database,
				fmt.Sprintf("select target from pg_extension_update_paths('citus') where source = %s and path is not null order by 1", quoteLiteral(e.Version)))
			if err != nil {
				return err
			}
			if e.Version != t.extends && !slices.Contains(paths, t.extends) {
				return refuse(fmt.Sprintf("Citus %s on %s does not bring the extension from %s to %s, but to: %s", e.Library, name, e.Version, t.extends, strings.Join(paths, ", ")), "set citus.extension_version of the coordinator's pgha_patroni_cluster to one of these, then apply again.")
			}
		}
		return nil
	})
}

// extend updates the extension of a group, if its primary has the library for it.
func (d *Doer) extend(ctx context.Context, c Cluster, to string) error {
	if d.Known.Standby() != nil {
		return nil // it comes with the data
	}
	n, err := d.leading(ctx, c)
	if err != nil {
		return err
	}
	e, err := d.extension(ctx, n)
	if err != nil || e.Version == to || CitusMinor(e.Library) != CitusMinor(to) {
		return err
	}
	if err := d.KV.Put(ctx, c.extendingKey(), to); err != nil {
		return err
	}
	// One at a time: somebody else may be at it. Whoever waits for a lock keeps others
	// waiting, so nobody waits long.
	update := fmt.Sprintf(`set lock_timeout = '3s';
set citus.enable_ddl_propagation = off;
do $do$ begin
  perform pg_advisory_xact_lock(hashtext('pgha citus extension'));
  if (select extversion from pg_extension where extname = 'citus') <> %[1]s then
    alter extension citus update to %[1]s;
  end if;
  if exists (select from pg_extension where extname = 'citus_columnar') then
    alter extension citus_columnar update;
  end if;
end $do$`, quoteLiteral(to))
	bounded, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	begin := time.Now()
	err = wait.Until(bounded, d.Log, "the extension of "+c.Name()+" to be at "+to, 200*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		if n, err = d.leading(ctx, c); err != nil {
			return false, "", err
		}
		_, err := d.query(ctx, n, "citus.update", c.Citus.Database, update)
		return err == nil, "", err
	})
	if err != nil {
		return &problem.Error{
			Step: "update the extension of " + c.Name(), Cause: fmt.Errorf("ALTER EXTENSION citus UPDATE TO '%s' on %s failed: %w", to, n.Name, err),
			Left: "all data. Distributed queries through this group fail until the extension is at " + to + ".",
			Do:   "see what it says (a transaction that goes on for long may be in its way), then apply again.",
		}
	}
	d.Log.InfoContext(ctx, "the extension was updated", "group", c.Name(), "node", n.Name, "from", e.Version, "to", to, "took", time.Since(begin).Round(time.Millisecond).String())
	return nil
}

// Formation is what all groups of a formation say of the extension.
type Formation struct {
	Groups map[int]*GroupExtension
	// Extending is the version to which an update was begun that is not finished.
	Extending string
}

// GroupExtension is what one group says.
type GroupExtension struct {
	Extension
	Leader string
	// Libraries are those of its nodes, as far as they could be asked, and Silent are the
	// others, each with why.
	Libraries map[string]string
	Silent    map[string]error
}

// behind says why a group's extension cannot be brought to a version now, empty if it can.
func (g GroupExtension) behind(to string) string {
	var why []string
	for _, name := range sortedKeys(g.Silent) {
		why = append(why, fmt.Sprintf("%s could not be asked (%v)", name, g.Silent[name]))
	}
	for _, name := range sortedKeys(g.Libraries) {
		if CitusMinor(g.Libraries[name]) != CitusMinor(to) {
			why = append(why, name+" has Citus "+g.Libraries[name])
		}
	}
	return strings.Join(why, "; ")
}

// numbers are those of the groups: workers', and the coordinator's last.
func (f Formation) numbers() []int {
	list := slices.Sorted(maps.Keys(f.Groups))
	if len(list) > 0 && list[0] == 0 {
		list = append(list[1:], 0)
	}
	return list
}

// Lowest is the lowest version of the extension that a group has.
func (f Formation) Lowest() string {
	lowest := ""
	for _, g := range f.Groups {
		if g.Version != "" && (lowest == "" || debver.Compare(g.Version, lowest) < 0) {
			lowest = g.Version
		}
	}
	return lowest
}

// Highest is the highest version of the extension that a group has.
func (f Formation) Highest() string {
	highest := ""
	for _, g := range f.Groups {
		if debver.Compare(g.Version, highest) > 0 {
			highest = g.Version
		}
	}
	return highest
}

// in is another group of the same formation.
func (c Cluster) in(group int) Cluster {
	if c.Citus.Group != group {
		c.UID = c.otherUID()
	}
	c.Citus = &Citus{Group: group, Database: c.Citus.Database}
	return c
}

// extensions asks all nodes of a formation. A group that has no database yet is left out.
func (d *Doer) extensions(ctx context.Context, c Cluster) (Formation, error) {
	f := Formation{Groups: map[int]*GroupExtension{}}
	groups, err := c.formation(ctx, d.KV)
	if err != nil {
		return f, err
	}
	groups[c.Citus.Group] = Group{} // which it leaves out
	if kv, noted, err := d.KV.Get(ctx, c.extendingKey()); err != nil {
		return f, err
	} else if noted {
		f.Extending = kv.Value
	}
	var mu sync.Mutex
	var lanes sync.WaitGroup
	defer lanes.Wait()
	for number := range groups {
		group := c.in(number)
		k, err := group.Load(ctx, d.KV)
		if err != nil {
			return f, err
		}
		if k.Leader == "" && !hasDatabase(k) {
			continue
		}
		g := &GroupExtension{Leader: k.Leader, Libraries: map[string]string{}, Silent: map[string]error{}}
		f.Groups[number] = g
		for name, r := range k.Nodes {
			lanes.Go(func() {
				e, err := d.extension(ctx, Node{Cluster: group, Name: name, Target: r.Target})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					g.Silent[name] = err
					return
				}
				g.Libraries[name] = e.Library
				if name == g.Leader || g.Version == "" {
					g.Extension = e
				}
			})
		}
	}
	lanes.Wait()
	return f, nil
}

// extendAll updates the extension of all groups whose nodes have the library, workers
// first (Citus documentation, "Upgrading Citus"), and finishes the update when all have
// it. It returns the groups that are behind, each with why.
func (d *Doer) extendAll(ctx context.Context, c Cluster, to string) (behind map[string]string, err error) {
	f, err := d.extensions(ctx, c)
	if err != nil {
		return nil, err
	}
	behind = map[string]string{}
	for _, number := range f.numbers() {
		g := f.Groups[number]
		if g.Version == to {
			continue
		}
		name := c.in(number).Name()
		if why := g.behind(to); why != "" {
			behind[name] = why
			continue
		}
		if debver.Compare(g.Version, to) > 0 {
			behind[name] = "its extension is " + g.Version
			continue
		}
		if err := d.extend(ctx, c.in(number), to); err != nil {
			return behind, err
		}
	}
	// What a run that was cut off after the last update has left is finished, too.
	if _, coordinated := f.Groups[0]; len(behind) > 0 || !coordinated {
		return behind, nil
	}
	extending, noted, err := d.KV.Get(ctx, c.extendingKey())
	if err != nil || !noted {
		return behind, err
	}
	n, err := d.leading(ctx, c.Coordinator())
	if err != nil {
		return behind, err
	}
	if _, err := d.query(ctx, n, "citus.finish", c.Citus.Database, "call citus_finish_citus_upgrade()"); err != nil {
		return behind, &problem.Error{
			Step: "finish the update of Citus", Cause: fmt.Errorf("CALL citus_finish_citus_upgrade() on %s failed: %w", n.Name, err),
			Left: "the extension of all groups at " + to + ".", Do: "see what it says, then apply again.",
		}
	}
	d.Log.InfoContext(ctx, "the update of Citus is finished on all groups", "formation", c.Scope, "version", extending.Value)
	return behind, d.KV.Delete(ctx, c.extendingKey())
}

// noteExtension notes which version the extension is to have, for the nodes' turns. It comes
// first of all that an apply of the coordinator's cluster does: they wait for it.
func (d *Doer) noteExtension(ctx context.Context, c Cluster, to string) error {
	switch {
	case !c.coordinates() || d.Known.Extension == to:
		return nil
	case to == "":
		return d.KV.Delete(ctx, c.extensionKey())
	}
	return d.KV.Put(ctx, c.extensionKey(), to)
}

// applyExtension brings all groups to a version of the extension whose nodes have the
// library already. It returns the groups that are behind, each with why: their nodes' turns
// bring them there.
func (d *Doer) applyExtension(ctx context.Context, c Cluster, to string) (map[string]string, error) {
	if !c.coordinates() || to == "" || d.Known.Standby() != nil { // a standby has it from its primary
		return nil, nil
	}
	return d.extendAll(ctx, c, to)
}

// coordinates reports whether a cluster is a formation's coordinator.
func (c Cluster) coordinates() bool { return c.Citus != nil && c.Citus.Group == 0 }

// ObserveFormation asks all nodes of a formation which version of Citus they have.
func (m *Manager) ObserveFormation(ctx context.Context, c Cluster) (Formation, error) {
	do, err := m.open(ctx, c)
	if err != nil {
		return Formation{}, err
	}
	return do.extensions(ctx, c)
}

// Stages says, for people, what it takes to bring a formation's extension to a version.
func (f Formation) Stages(to string) string {
	var b strings.Builder
	var old, silent []string
	for _, number := range f.numbers() {
		g := f.Groups[number]
		for _, name := range sortedKeys(g.Libraries) {
			if CitusMinor(g.Libraries[name]) != CitusMinor(to) {
				old = append(old, name+" ("+g.Libraries[name]+")")
			}
		}
		silent = append(silent, sortedKeys(g.Silent)...)
	}
	fmt.Fprintf(&b, "1. The library of %s on all nodes, by versions.citus of each pgha_patroni_node: ", CitusMinor(to))
	if len(old) == 0 {
		b.WriteString("all that answer have it.")
	} else {
		fmt.Fprintf(&b, "missing on %s. They have their turns one at a time in each group, the leaders last.", strings.Join(old, ", "))
	}
	if len(silent) > 0 {
		fmt.Fprintf(&b, " Not asked, since they do not answer: %s; their groups wait for them.", strings.Join(silent, ", "))
	}
	b.WriteString("\n2. ALTER EXTENSION citus UPDATE on the primary of each group that is behind, when all its nodes have the library:")
	for _, number := range f.numbers() {
		if g := f.Groups[number]; g.Version != to {
			fmt.Fprintf(&b, "\n   group %d, now led by %s: %s -> %s", number, g.Leader, g.Version, to)
		}
	}
	b.WriteString("\n   In a leader's turn that is right after the switchover: from when the node with the new library leads until then, distributed queries through that group fail.")
	b.WriteString("\n3. CALL citus_finish_citus_upgrade() on the coordinator, after the last group.")
	b.WriteString("\nUntil the second stage versions.citus can be set back. From then on there is no way back but a restore.")
	return b.String()
}

// fitsLibrary refuses a new node whose library is not that of its formation: its own
// group's, or while that has no database, the coordinator's. What cannot be asked now is
// not compared here.
func (d *Doer) fitsLibrary(ctx context.Context, n Node) error {
	pin := n.Extensions[CitusExtension]
	if n.Cluster.Citus == nil || pin == "" || CitusMinor(pin) == "" {
		return nil
	}
	group, k := n.Cluster, d.Known
	if k.Leader == "" && !hasDatabase(k) && n.works() {
		var err error
		group = n.Cluster.Coordinator()
		if k, err = group.Load(ctx, d.KV); err != nil {
			return err
		}
	}
	r, ok := k.Nodes[k.Leader]
	if !ok || k.Leader == n.Name {
		return nil
	}
	e, err := d.extension(ctx, Node{Cluster: group, Name: k.Leader, Target: r.Target})
	if err != nil {
		d.Log.InfoContext(ctx, "the version of Citus is not compared: the leader does not say which one it has", "group", group.Name(), "error", err)
		return nil
	}
	minor := CitusMinor(pin)
	if minor == CitusMinor(e.Library) || minor == CitusMinor(e.Version) {
		return nil
	}
	return &problem.Error{
		Host: n.Target.Name, Step: "compare Citus with that of the formation",
		Cause: fmt.Errorf("versions.citus is %s, and %s has Citus %s with the extension at %s", pin, group.Name(), e.Library, e.Version),
		Left:  "everything on the host.", Do: "give the node the same version of Citus as the others; a formation is upgraded as a whole (citus.extension_version of the coordinator's cluster).",
	}
}
