// Package citus keeps groups of workers in a Citus formation: what the coordinator's
// metadata says of them, which shards they hold, and the moves of shards onto and off
// them. Patroni itself registers the groups; see package patroni for how one leaves.
package citus

import (
	"context"
	"fmt"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// Node is a row of pg_dist_node (Citus documentation, "Worker node table").
type Node struct {
	ID               int    `json:"nodeid"`
	Group            int    `json:"groupid"`
	Host             string `json:"nodename"`
	Port             int    `json:"nodeport"`
	Role             string `json:"noderole"` // primary, secondary
	Active           bool   `json:"isactive"`
	Metadata         bool   `json:"hasmetadata"`
	Synced           bool   `json:"metadatasynced"`
	ShouldHaveShards bool   `json:"shouldhaveshards"`
	Clone            bool   `json:"clone"` // of another node, made by somebody (Citus 13.2 and later)
}

// Ready reports whether a group's primary takes part in queries.
func (n Node) Ready() bool { return n.Active && n.Metadata && n.Synced }

const nodes = `select nodeid, groupid, nodename, nodeport, noderole::text, isactive, hasmetadata, metadatasynced, shouldhaveshards,
 coalesce((to_jsonb(n)->>'nodeisclone')::boolean, false) as clone
from pg_dist_node n order by groupid, noderole, nodename`

// Nodes are all rows of the metadata.
func Nodes(ctx context.Context, b *patroni.Database) ([]Node, error) {
	return patroni.List[Node](ctx, b, "citus.nodes", nodes)
}

// Holding is what a group holds of one table, reference tables left out: those are on
// every group.
type Holding struct {
	Group  int    `json:"groupid"`
	Table  string `json:"table_name"`
	Shards int64  `json:"shards"`
	// Movable: it has a primary key or another replica identity, so that its shards can
	// be moved while it is written to.
	Movable bool `json:"movable"`
	// Parent: it is partitioned, and has rows in its partitions alone.
	Parent bool `json:"parent"`
	// Columnar: its writes cannot be decoded. A server refuses to insert into it while it
	// is published (Citus, columnar_tableam.c, ColumnarCheckLogicalReplication).
	Columnar bool `json:"columnar"`
}

const holdings = `select p.groupid, s.logicalrelid::text as table_name, count(*) as shards,
 bool_or(c.relkind = 'p' or c.relreplident in ('f', 'i') or c.relreplident = 'd' and exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)) as movable,
 bool_or(c.relkind = 'p') as parent, bool_or(coalesce(a.amname = 'columnar', false)) as columnar
from pg_dist_placement p join pg_dist_shard s using (shardid) join pg_dist_partition t using (logicalrelid) join pg_class c on c.oid = s.logicalrelid left join pg_am a on a.oid = c.relam
where t.repmodel <> 't' group by 1, 2 order by 1, 2`

// Holdings are the shards of all groups.
func Holdings(ctx context.Context, b *patroni.Database) ([]Holding, error) {
	return patroni.List[Holding](ctx, b, "citus.holdings", holdings)
}

// moved are the holdings of the tables that a rebalancing would move shards of, with those
// that go along with them.
func (m Moving) moved(ctx context.Context, b *patroni.Database) ([]Holding, error) {
	return patroni.List[Holding](ctx, b, "citus.moved", `select h.* from (`+holdings+`) h where h.table_name in (select t.logicalrelid::text from pg_dist_partition t
 join (select distinct d.logicalrelid, d.colocationid from get_rebalance_table_shards_plan(`+m.planned()+`) p join pg_dist_partition d on d.logicalrelid = p.table_name) m
  on m.logicalrelid = t.logicalrelid or t.colocationid <> 0 and m.colocationid = t.colocationid)`)
}

// Metadata is what the coordinator knows of groups and shards at one moment.
type Metadata struct {
	Nodes   []Node    `json:"nodes"`
	Held    []Holding `json:"held"`
	Version string    `json:"version"` // of the extension
}

// Look reads all of it at once: a session for each question takes longer than the questions.
func Look(ctx context.Context, b *patroni.Database) (Metadata, error) {
	// As jsonb, which is always in one line.
	list, err := patroni.List[Metadata](ctx, b, "citus.metadata", `select (select jsonb_agg(n) from (`+nodes+`) n) as nodes, (select jsonb_agg(h) from (`+holdings+`) h) as held,
 (`+version+`) as version`)
	if err != nil || len(list) != 1 {
		return Metadata{}, err
	}
	return list[0], nil
}

// version is that of the extension, of which a database has one or none.
const version = "select extversion from pg_extension where extname = 'citus'"

// of are the holdings of one group.
func of(all []Holding, group int) (list []Holding, shards int64) {
	for _, h := range all {
		if h.Group == group {
			list = append(list, h)
			shards += h.Shards
		}
	}
	return list, shards
}

// primary is the row of a group's primary.
func primary(all []Node, group int) (Node, bool) {
	for _, n := range all {
		if n.Group == group && n.Role == "primary" {
			return n, true
		}
	}
	return Node{}, false
}

// at names a row in calls of Citus's functions.
func (n Node) at() string { return fmt.Sprintf("%s, %d", patroni.Literal(n.Host), n.Port) }
