package citus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Preview is what a drain has to move.
type Preview struct {
	Shards int64
	Bytes  int64
	Tables []Holding
	Others []Other // the groups that they go to
	// Lost: there is no other group, and the formation is not protected from deletion.
	Lost bool
}

// String is the preview for people.
func (p Preview) String() string {
	var b strings.Builder
	if p.Lost {
		fmt.Fprintf(&b, "No other group may have shards, and the formation is not protected from deletion: the group goes with its %d shards, and they are lost when its last node goes:", p.Shards)
		for _, t := range p.Tables {
			fmt.Fprintf(&b, "\n  %s: %d", t.Table, t.Shards)
		}
		return b.String()
	}
	fmt.Fprintf(&b, "%d shards with %s are moved, in a background job of Citus's, while they are read and written:", p.Shards, size(p.Bytes))
	for _, t := range p.Tables {
		fmt.Fprintf(&b, "\n  %s: %d", t.Table, t.Shards)
	}
	b.WriteString("\nThey go to:")
	for _, o := range p.Others {
		fmt.Fprintf(&b, "\n  %s", o)
	}
	return b.String()
}

// Other is a group that gets shards of one that is drained.
type Other struct {
	Group int
	Host  string // its primary's
	// Free is what the fullest of its nodes has left for data, in bytes, negative if none
	// of them could be asked, and Silent are those that could not.
	Free   int64
	Silent []string
}

func (o Other) String() string {
	text := fmt.Sprintf("group %d (%s)", o.Group, o.Host)
	if o.Free >= 0 {
		text += ", where the fullest node has " + size(o.Free) + " free"
	}
	if len(o.Silent) > 0 {
		text += "; not asked for its room, since it does not answer: " + strings.Join(o.Silent, ", ")
	}
	return text
}

// room refuses to move so many bytes where there is no room for them: each group gets
// a part, and all its nodes hold the same.
func room(others []Other, bytes int64) error {
	var free int64
	for _, o := range others {
		if o.Free < 0 {
			return nil // who knows
		}
		free += o.Free
	}
	if free >= bytes {
		return nil
	}
	var list []string
	for _, o := range others {
		list = append(list, o.String())
	}
	return &problem.Error{
		Step: CannotMove, Cause: fmt.Errorf("its shards have %s, and the others together have room for %s: %s", size(bytes), size(free), strings.Join(list, "; ")),
		Left: "all shards, where they are.", Do: "make room there, or add another group of workers first.",
	}
}

func size(bytes int64) string {
	if bytes < 10<<20 {
		return fmt.Sprintf("%d KiB", bytes>>10)
	}
	return fmt.Sprintf("%d MiB", bytes>>20)
}

// Preview looks at what a drain would move, and refuses what cannot be moved.
func (m Manager) Preview(ctx context.Context, s Spec) (p Preview, err error) {
	b, err := m.open(ctx, s.Group)
	if err != nil {
		return p, err
	}
	md, err := Look(ctx, b)
	if err != nil {
		return p, err
	}
	mine, there := primary(md.Nodes, s.number())
	if !there {
		return p, nil
	}
	if p.Tables, p.Shards = of(md.Held, s.number()); p.Shards == 0 {
		return p, nil
	}
	if err := m.canLeave(ctx, b, s, s.Drain); errors.Is(err, errWhole) {
		p.Lost = true
		return p, nil
	} else if err != nil {
		return Preview{}, err
	}
	for _, n := range md.Nodes {
		if n.Group != s.number() && n.Role == "primary" && n.ShouldHaveShards {
			o := Other{Group: n.Group, Host: n.Host}
			if o.Free, o.Silent, err = m.Free(ctx, s.Group, n.Group); err != nil {
				return p, err
			}
			p.Others = append(p.Others, o)
		}
	}
	if _, p.Bytes, err = amount(ctx, b, "citus.size", fmt.Sprintf("citus_shards where (nodename, nodeport) = (%s) and citus_table_type <> 'reference'", mine.at())); err == nil {
		err = room(p.Others, p.Bytes)
	}
	return p, err
}

// amount counts shards and their bytes in what SQL has after "from".
func amount(ctx context.Context, b *patroni.Database, name, from string) (shards, bytes int64, err error) {
	sum, err := patroni.List[struct {
		Shards int64 `json:"shards"`
		Bytes  int64 `json:"bytes"`
	}](ctx, b, name, "select count(*) as shards, coalesce(sum(shard_size), 0)::bigint as bytes from "+from)
	if err != nil || len(sum) != 1 {
		return 0, 0, err
	}
	return sum[0].Shards, sum[0].Bytes, nil
}

// Joining is what a rebalancing moves onto a group that joins, or is to have shards again.
type Joining struct {
	Shards, AllShards int64
	Bytes, AllBytes   int64
	// Planned: it is what Citus itself plans. Otherwise the group is not in the metadata yet,
	// or has no shards by decree, and it is a group's even share.
	Planned bool
}

// String is the preview for people.
func (j Joining) String() string {
	text := fmt.Sprintf("%d of %d shards, with %s of %s,", j.Shards, j.AllShards, size(j.Bytes), size(j.AllBytes))
	if j.Planned {
		text += " are moved, as Citus plans now"
	} else {
		text = "About " + text + " are moved, an even share: what Citus plans is known when the group has joined"
	}
	return text + ". A background job of Citus's does that, while they are read and written; the apply follows it. Other groups may get some, too."
}

// PreviewJoin says what a rebalancing would move onto the group, zero shards if Apply would
// not begin one, and refuses what cannot be moved, as far as Citus plans already what
// that is.
func (m Manager) PreviewJoin(ctx context.Context, s Spec) (j Joining, err error) {
	if !s.OnJoin || !s.wantsShards() {
		return j, nil
	}
	b, err := m.open(ctx, s.Group)
	if err != nil {
		return j, err
	}
	md, err := Look(ctx, b)
	if err != nil {
		return j, err
	}
	mine, there := primary(md.Nodes, s.number())
	_, mineHeld := of(md.Held, s.number())
	begun := false
	if there {
		if begun, err = m.Noted(ctx, s.Group, rebalancing); err != nil {
			return j, err
		}
	}
	if there && mineHeld > 0 && mine.ShouldHaveShards && !begun {
		return j, nil
	}
	if j.AllShards, j.AllBytes, err = amount(ctx, b, "citus.all", "citus_shards where citus_table_type <> 'reference'"); err != nil {
		return j, err
	}
	if there && mine.ShouldHaveShards {
		j.Planned = true
		moved, err := s.Moving.moved(ctx, b)
		if err != nil {
			return j, err
		}
		if err := s.Moving.movable(moved); err != nil {
			return j, err
		}
		j.Shards, j.Bytes, err = amount(ctx, b, "citus.plan", fmt.Sprintf("get_rebalance_table_shards_plan(%s) where (targetname, targetport) = (%s)", s.Moving.planned(), mine.at()))
		return j, err
	}
	groups := int64(1)
	for _, n := range md.Nodes {
		if n.Group != s.number() && n.Role == "primary" && n.ShouldHaveShards {
			groups++
		}
	}
	j.Shards, j.Bytes = j.AllShards/groups, j.AllBytes/groups
	return j, nil
}
