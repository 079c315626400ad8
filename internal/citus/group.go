package citus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// Spec is a group of workers as it should be.
type Spec struct {
	Group  patroni.Cluster
	Shards bool // it is to have shards; with false those that it has are left where they are
	Drain  bool // it is to have none: they are moved off
	OnJoin bool // shards are moved onto it when it joins, or is to have some again
	Count  bool // rows are counted before and after a drain
	Moving Moving
}

// wantsShards is shouldhaveshards.
func (s Spec) wantsShards() bool { return s.Shards && !s.Drain }

func (s Spec) number() int { return s.Group.Citus.Group }

// Manager brings groups to what their specs say.
type Manager struct {
	*patroni.Manager
}

// Observed is what the formation says of a group.
type Observed struct {
	Absent bool // it is not in the metadata
	Shards bool // shouldhaveshards
	Held   int64
	// Stale are rows of hosts that are no nodes of the group.
	Stale []Node
}

// open reaches the coordinator's database.
func (m Manager) open(ctx context.Context, c patroni.Cluster) (*patroni.Database, error) {
	return m.Database(ctx, c.Coordinator(), c.Citus.Database)
}

// Observe looks at a group.
func (m Manager) Observe(ctx context.Context, s Spec) (Observed, error) {
	b, err := m.open(ctx, s.Group)
	if err != nil {
		return Observed{}, err
	}
	md, err := Look(ctx, b)
	if err != nil {
		return Observed{}, err
	}
	return m.observed(ctx, md, s)
}

// observed is what the metadata say of a group.
func (m Manager) observed(ctx context.Context, md Metadata, s Spec) (o Observed, err error) {
	p, there := primary(md.Nodes, s.number())
	if o.Absent = !there; o.Absent {
		return o, nil
	}
	o.Shards = p.ShouldHaveShards
	_, o.Held = of(md.Held, s.number())
	if s.Group.Adopted() {
		return o, nil // of a node that is down there may be no note that it is one
	}
	known, err := m.Addresses(ctx, s.Group)
	if err != nil {
		return o, err
	}
	for _, n := range md.Nodes {
		listed := false
		for _, address := range known {
			listed = listed || address == n.Host
		}
		if n.Group == s.number() && n.Role != "primary" && !n.Clone && !listed {
			o.Stale = append(o.Stale, n)
		}
	}
	return o, nil
}

// Apply brings a group to what the spec says. What a run that was cut off has begun is
// gone on with.
func (m Manager) Apply(ctx context.Context, s Spec) error {
	b, err := m.open(ctx, s.Group)
	if err != nil {
		return err
	}
	md, err := m.joined(ctx, b, s)
	if err != nil {
		return err
	}
	o, err := m.observed(ctx, md, s)
	if err != nil {
		return err
	}
	notes, err := m.Notes(ctx, s.Group, "")
	if err != nil {
		return err
	}
	_, begun := notes[rebalancing]
	_, counted := notes[rowsBefore]
	if s.Drain && o.Held > 0 {
		// Before anything is changed: what cannot be drained stays as it is.
		if err := m.canLeave(ctx, b, s, true); err != nil {
			return err
		}
	}
	joins := s.OnJoin && s.wantsShards() && (begun || o.Held == 0 || !o.Shards)
	var plan engine.Plan
	name := s.Group.Name()
	step := func(id, title string, risk engine.Risk, do func(context.Context) error) {
		plan = plan.Then(engine.Step{ID: id, Title: title, Risk: risk, Do: do})
	}
	if len(o.Stale) > 0 {
		step("citus.stale", "remove rows of hosts that are no nodes of "+name+" from the metadata", engine.Safe, func(ctx context.Context) error {
			for _, n := range o.Stale {
				if _, err := b.Rows(ctx, "citus.remove", "select citus_remove_node("+n.at()+")"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if joins && !begun {
		step("citus.note", "note that shards are to be moved onto "+name, engine.Safe, func(ctx context.Context) error {
			return m.Note(ctx, s.Group, rebalancing, "begun")
		})
	}
	if o.Shards != s.wantsShards() {
		step("citus.property", fmt.Sprintf("set shouldhaveshards of %s to %t", name, s.wantsShards()), engine.Safe, func(ctx context.Context) error {
			return setShards(ctx, b, s.number(), s.wantsShards())
		})
	}
	switch {
	case s.Drain && (o.Held > 0 || counted):
		step("citus.drain", fmt.Sprintf("move %d shards off %s", o.Held, name), engine.Reload, func(ctx context.Context) error {
			ctx, done, err := m.Alone(ctx, s.Group, "rebalance", "draining "+name)
			if err != nil {
				return err
			}
			defer done()
			return m.drain(ctx, b, s)
		})
	case joins:
		step("citus.rebalance", "move shards onto "+name, engine.Reload, func(ctx context.Context) error {
			return m.rebalance(ctx, b, s)
		})
	}
	if counted && !s.Drain {
		step("citus.rows.forget", "forget how many rows there were before a drain of "+name+" that was given up", engine.Safe, func(ctx context.Context) error {
			return m.Note(ctx, s.Group, rowsBefore, "")
		})
	}
	if begun || joins {
		step("citus.note.done", "forget that shards are to be moved onto "+name, engine.Safe, func(ctx context.Context) error {
			return m.Note(ctx, s.Group, rebalancing, "")
		})
	}
	return engine.Run(ctx, plan, m.Manager.Observe)
}

// rebalancing is the note that shards are to be moved onto a group: whoever is cut off
// after the first of them has come leaves the rest to the next run.
const rebalancing = "rebalance"

// joined waits until the group takes part: Patroni has registered its primary, and Citus
// has brought the metadata to it. It returns what it has seen last.
func (m Manager) joined(ctx context.Context, b *patroni.Database, s Spec) (md Metadata, err error) {
	begin := time.Now()
	err = wait.Until(ctx, m.Log, "the group "+s.Group.Name()+" to be in the formation's metadata", time.Second, func(ctx context.Context) (bool, string, error) {
		var err error
		if md, err = Look(ctx, b); err != nil {
			return false, "", err
		}
		p, there := primary(md.Nodes, s.number())
		switch {
		case !there && time.Since(begin) > patience:
			// Patroni goes by what it has read of the metadata, and does not see that a
			// group has gone that comes back with the same primary.
			return false, "Patroni has not registered it", m.register(ctx, b, s)
		case !there:
			return false, "Patroni has not registered it yet", nil
		case !p.Ready():
			return false, fmt.Sprintf("%s is active: %t, has metadata: %t, synced: %t", p.Host, p.Active, p.Metadata, p.Synced), nil
		}
		differ, err := m.differs(ctx, md, s)
		return differ == "" && err == nil, differ, err
	})
	if err != nil {
		return md, problem.Fill(err, problem.Error{
			Step: "wait for the group to join", Left: "the formation, as it is.",
			Do: "make sure that a node of the group leads (patronictl list), and that the coordinator reaches it: its Patroni logs what it does with pg_dist_node.",
		})
	}
	return md, nil
}

// differs says that the group's extension is of another version than the coordinator's: that
// is so for a moment while both are upgraded, and otherwise a mistake.
func (m Manager) differs(ctx context.Context, md Metadata, s Spec) (string, error) {
	own, err := m.Database(ctx, s.Group, s.Group.Citus.Database)
	if err != nil {
		return "", err
	}
	here, err := own.Rows(ctx, "citus.version", version)
	if err != nil || len(here) != 1 || md.Version == "" || here[0] == md.Version {
		return "", err
	}
	return fmt.Sprintf("its extension is %s, and the coordinator's %s: all groups need versions.citus of the same minor version", here[0], md.Version), nil
}

// patience is how long Patroni takes to register a group: two of its loops, by default.
const patience = 45 * time.Second

// register does what Patroni does with a group that has a leader.
func (m Manager) register(ctx context.Context, b *patroni.Database, s Spec) error {
	name, err := m.Leader(ctx, s.Group)
	if err != nil {
		return err
	}
	addresses, err := m.Addresses(ctx, s.Group)
	leader := addresses[name]
	if err != nil || leader == "" {
		return err
	}
	_, err = b.Rows(ctx, "citus.add", fmt.Sprintf("select citus_add_node(%s, %d, %d, 'primary', 'default')", patroni.Literal(leader), s.Group.PostgresPort, s.number()))
	return err
}

func setShards(ctx context.Context, b *patroni.Database, group int, on bool) error {
	rows, err := b.Rows(ctx, "citus.property", fmt.Sprintf("select citus_set_node_property(nodename, nodeport, 'shouldhaveshards', %t) from pg_dist_node where groupid = %d and noderole = 'primary'", on, group))
	if err == nil && len(rows) == 0 {
		err = fmt.Errorf("group %d is not in the metadata", group)
	}
	return err
}

// rebalance moves shards to where the strategy wants them. One job at a time is all that
// Citus does: one that is under way is followed, and then it is looked again.
func (m Manager) rebalance(ctx context.Context, b *patroni.Database, s Spec) error {
	ctx, done, err := m.Alone(ctx, s.Group, "rebalance", "rebalancing for "+s.Group.Name())
	if err != nil {
		return err
	}
	defer done()
	if err := rest(ctx, m.Log, b); err != nil {
		return err
	}
	moved, err := s.Moving.moved(ctx, b)
	if err != nil {
		return err
	}
	if err := s.Moving.movable(moved); err != nil {
		return err
	}
	return run(ctx, m.Log, b, s.Moving, false, "shards to be moved onto "+s.Group.Name())
}

// run begins a job and follows it, unless there is nothing to move.
func run(ctx context.Context, log *slog.Logger, b *patroni.Database, mv Moving, drain bool, what string) error {
	id, err := mv.begin(ctx, b, drain)
	if err != nil || id == 0 {
		return err
	}
	return follow(ctx, log, b, id, what)
}

// CannotMove is the step in which shards are refused that cannot be moved.
const CannotMove = "make sure that the shards can be moved"

// movable refuses to move what cannot be moved in the wanted way.
func (m Moving) movable(held []Holding) error {
	if m.Mode != "auto" {
		return nil
	}
	var bare, columnar []string
	for _, h := range held {
		switch {
		case h.Columnar:
			columnar = append(columnar, h.Table)
		case !h.Movable:
			bare = append(bare, h.Table)
		}
	}
	var causes, ways []string
	if len(bare) > 0 {
		causes = append(causes, list(bare)+": no primary key and no replica identity, so that shards cannot be moved while it is written to")
		ways = append(ways, "give each table that has no primary key one, or a replica identity (alter table ... replica identity full), or say how to move them all the same: shard_transfer_mode = \"block_writes\", or \"force_logical\", with which updates and deletes of these tables fail meanwhile")
	}
	if len(columnar) > 0 {
		causes = append(causes, list(columnar)+": columnar, so that rows cannot be inserted while shards are moved by logical replication")
		ways = append(ways, "for columnar tables, set shard_transfer_mode = \"block_writes\", with which inserts wait, or \"force_logical\", with which they fail meanwhile")
	}
	if len(causes) == 0 {
		return nil
	}
	return &problem.Error{Step: CannotMove, Cause: errors.New(strings.Join(causes, "; ")), Left: "all shards, where they are.", Do: strings.Join(ways, "; ") + "."}
}

// list are names for people.
func list(names []string) string {
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}

// drain moves all shards off a group, and makes sure that none is left, and no row is
// missing. Nobody else moves any meanwhile.
func (m Manager) drain(ctx context.Context, b *patroni.Database, s Spec) error {
	if err := rest(ctx, m.Log, b); err != nil {
		return err
	}
	notes, err := m.Notes(ctx, s.Group, "")
	if err != nil {
		return err
	}
	before, err := notedRows(notes)
	if err != nil {
		return err
	}
	for range 3 {
		held, err := Holdings(ctx, b)
		if err != nil {
			return err
		}
		mine, shards := of(held, s.number())
		if shards == 0 {
			break
		}
		if err := s.Moving.movable(mine); err != nil {
			return err
		}
		if s.Count && before == nil {
			if before, err = m.noteRows(ctx, b, s); err != nil {
				return problem.Fill(err, problem.Error{
					Step: "count the rows before shards are moved off " + s.Group.Name(), Left: "all shards, where they are.",
					Do: "see to what it says, then apply again; or do without (verify_rows = false, applied first).",
				})
			}
		}
		if err := run(ctx, m.Log, b, s.Moving, true, "shards to be moved off "+s.Group.Name()); err != nil {
			return err
		}
	}
	held, err := Holdings(ctx, b)
	if err != nil {
		return err
	}
	if mine, shards := of(held, s.number()); shards > 0 {
		return &problem.Error{
			Step: "move shards off " + s.Group.Name(), Cause: fmt.Errorf("%d shards are still there, of %s", shards, mine[0].Table),
			Left: "the group, with these shards.", Do: "see what keeps Citus from moving them (select * from citus_rebalance_status()), then apply again.",
		}
	}
	switch {
	case before == nil:
		return nil
	case !s.Count: // not any more
		return m.Note(ctx, s.Group, rowsBefore, "")
	}
	return m.compareRows(ctx, b, s, before)
}

// errLast: there is no other group for the shards of the last one.
var errLast = errors.New("no other group may have shards")

// canLeave refuses to move shards off a group that cannot be moved, or for which there is
// no other group. Stays: the group is not to go afterwards.
func (m Manager) canLeave(ctx context.Context, b *patroni.Database, s Spec, stays bool) error {
	md, err := Look(ctx, b)
	if err != nil {
		return err
	}
	mine, shards := of(md.Held, s.number())
	if shards == 0 {
		return nil
	}
	if err := s.Moving.movable(mine); err != nil {
		return err
	}
	if slices.ContainsFunc(md.Nodes, func(n Node) bool { return n.Group != s.number() && n.Role == "primary" && n.ShouldHaveShards }) {
		return nil
	}
	if !stays {
		protected, err := m.Protected(ctx, s.Group.Coordinator())
		if err != nil {
			return err
		}
		if !protected {
			return errWhole
		}
	}
	return &problem.Error{
		Step: CannotMove, Cause: fmt.Errorf("it holds %d shards, and %w", shards, errLast), Left: "the group, with its shards.",
		Do: "add another group of workers first, or let an existing one have shards (should_have_shards). If the whole formation is to go with its data, set deletion_protection = false on its coordinator's pgha_patroni_cluster, and apply that.",
	}
}

// errWhole: there is no other group, and the whole formation may go.
var errWhole = errors.New("the whole formation is to go")

// Leave drains a group that is to go. A refused or failed drain leaves it as it was. Of
// several groups that go at once, one goes after the other.
func (m Manager) Leave(ctx context.Context, s Spec) error {
	b, err := m.open(ctx, s.Group)
	if errors.Is(err, patroni.ErrNoCluster) {
		return nil // nothing is left of the formation
	}
	if err != nil {
		return err
	}
	all, err := Nodes(ctx, b)
	if errors.Is(err, patroni.ErrNoPrimary) {
		if protected, perr := m.Protected(ctx, s.Group.Coordinator()); perr == nil && !protected {
			m.Log.WarnContext(ctx, "the group is not drained: its coordinator has no primary, and the formation is not protected from deletion", "group", s.Group.Name())
			return nil
		}
	}
	if err != nil {
		return err
	}
	p, there := primary(all, s.number())
	if !there {
		return nil
	}
	if err := m.canLeave(ctx, b, s, false); err != nil && !errors.Is(err, errWhole) {
		return err
	}
	back := func() {
		if !p.ShouldHaveShards {
			return
		}
		if err := setShards(ctx, b, s.number(), true); err != nil {
			m.Log.WarnContext(ctx, "the group could not be given back that it may have shards", "group", s.Group.Name(), "because", err.Error())
		}
	}
	plan := engine.Sequence(
		// Of several groups that go at once, none gets the shards of another.
		engine.Step{ID: "citus.property", Title: "set shouldhaveshards of " + s.Group.Name() + " to false", Risk: engine.Safe, Do: func(ctx context.Context) error {
			return setShards(ctx, b, s.number(), false)
		}},
		engine.Step{ID: "citus.drain", Title: "move all shards off " + s.Group.Name(), Risk: engine.Reload, Do: func(ctx context.Context) error {
			ctx, done, err := m.Alone(ctx, s.Group, "rebalance", "draining "+s.Group.Name())
			if err != nil {
				return err
			}
			defer done()
			if err = m.canLeave(ctx, b, s, false); err == nil {
				if err = m.drain(ctx, b, s); err != nil {
					// Of groups that go at once, another may have begun to since.
					if now := m.canLeave(ctx, b, s, false); now != nil {
						err = now
					}
				}
			}
			if errors.Is(err, errWhole) {
				m.Log.WarnContext(ctx, "the group goes with its shards: no other one may have any, and the formation is not protected from deletion", "group", s.Group.Name())
				return nil
			}
			if err != nil && ctx.Err() == nil {
				back()
			}
			return err
		}},
	)
	return engine.Run(ctx, plan, m.Manager.Observe)
}
