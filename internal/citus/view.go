package citus

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// View is a formation as it is now.
type View struct {
	Version   string // of the extension
	Nodes     []Node
	Groups    []GroupView
	Tables    []Table
	Jobs      []Job
	Leftovers int64 // what moves have left behind, and Citus is to remove (pg_dist_cleanup)
	// Warnings say what is wrong with the whole.
	Warnings []string
}

// GroupView is a group in short.
type GroupView struct {
	Group  int
	Shards int64 // reference tables left out
	Bytes  int64
}

// Table is a row of citus_tables.
type Table struct {
	Name         string `json:"table_name"`
	Kind         string `json:"citus_table_type"` // distributed, reference, schema, local
	Column       string `json:"distribution_column"`
	ColocationID int    `json:"colocation_id"`
	Bytes        int64  `json:"bytes"`
	Shards       int64  `json:"shard_count"`
}

// tables is what the coordinator itself knows of them: it works with any worker down,
// unlike Citus's own view, which has their sizes.
const tables = `select t.logicalrelid::text as table_name,
 case when t.repmodel = 't' then 'reference' when exists (select from pg_dist_schema d where d.colocationid = t.colocationid) then 'schema'
  when t.partmethod = 'n' and t.colocationid = 0 then 'local' else 'distributed' end as citus_table_type,
 coalesce(column_to_column_name(t.logicalrelid, t.partkey), '') as distribution_column, t.colocationid as colocation_id,
 (select count(*) from pg_dist_shard s where s.logicalrelid = t.logicalrelid) as shard_count
from pg_dist_partition t order by 1`

// sizes asks all workers for the sizes of their shards, and returns them by group,
// reference tables left out. Where one does not answer that is a warning.
func (v *View) sizes(ctx context.Context, b *patroni.Database) map[int]int64 {
	rows, err := patroni.List[struct {
		Group int    `json:"groupid"`
		Table string `json:"table_name"`
		Kind  string `json:"citus_table_type"`
		Bytes *int64 `json:"bytes"`
	}](ctx, b, "citus.size", `select n.groupid, s.table_name::text, s.citus_table_type, sum(s.shard_size)::bigint as bytes
from citus_shards s join pg_dist_node n using (nodename, nodeport) where n.noderole = 'primary' group by 1, 2, 3`)
	if err != nil {
		v.Warnings = append(v.Warnings, "the sizes of shards could not be read: "+err.Error())
	}
	groups := map[int]int64{}
	for _, r := range rows {
		if r.Bytes == nil {
			v.Warnings = append(v.Warnings, fmt.Sprintf("the sizes of shards of %s on group %d could not be read", r.Table, r.Group))
			continue
		}
		for i := range v.Tables {
			if v.Tables[i].Name == r.Table {
				v.Tables[i].Bytes += *r.Bytes
			}
		}
		if r.Kind != "reference" {
			groups[r.Group] += *r.Bytes
		}
	}
	return groups
}

// View looks at a formation. The sizes are what every worker says of its tables.
func (m Manager) View(ctx context.Context, c patroni.Cluster) (v View, err error) {
	b, err := m.open(ctx, c)
	if err != nil {
		return v, err
	}
	if v.Nodes, err = Nodes(ctx, b); err != nil {
		return v, err
	}
	if v.Jobs, err = Jobs(ctx, b); err != nil {
		return v, err
	}
	if v.Tables, err = patroni.List[Table](ctx, b, "citus.tables", tables); err != nil {
		return v, err
	}
	held, err := Holdings(ctx, b)
	if err != nil {
		return v, err
	}
	bytes := v.sizes(ctx, b)
	facts, err := patroni.List[struct {
		Version   string `json:"version"`
		Leftovers int64  `json:"leftovers"`
	}](ctx, b, "citus.facts", "select extversion as version, (select count(*) from pg_dist_cleanup) as leftovers from pg_extension where extname = 'citus'")
	if err != nil {
		return v, err
	}
	if len(facts) == 1 {
		v.Version, v.Leftovers = facts[0].Version, facts[0].Leftovers
	}
	for _, n := range v.Nodes {
		if n.Role != "primary" {
			continue
		}
		g := GroupView{Group: n.Group}
		_, g.Shards = of(held, n.Group)
		g.Bytes = bytes[n.Group]
		v.Groups = append(v.Groups, g)
		if !n.Ready() {
			v.Warnings = append(v.Warnings, fmt.Sprintf("the primary of group %d, %s, does not take part in queries: active %t, has metadata %t, synced %t", n.Group, n.Host, n.Active, n.Metadata, n.Synced))
		}
	}
	for _, n := range v.Nodes {
		if _, there := primary(v.Nodes, n.Group); !there {
			v.Warnings = append(v.Warnings, fmt.Sprintf("group %d has no primary", n.Group))
		}
	}
	return v, nil
}

// Text is the formation as a table, for people.
func (v View) Text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "GROUP\tNODE\tROLE\tMETADATA\tSHARDS\tSIZE")
	for _, n := range v.Nodes {
		shards, bytes := "", ""
		for _, g := range v.Groups {
			if g.Group == n.Group && n.Role == "primary" {
				shards, bytes = fmt.Sprint(g.Shards), size(g.Bytes)
			}
		}
		synced := "synced"
		if n.Role == "primary" && !n.Ready() {
			synced = "not synced"
		} else if n.Role != "primary" {
			synced = ""
		}
		_, _ = fmt.Fprintf(w, "%d\t%s:%d\t%s\t%s\t%s\t%s\n", n.Group, n.Host, n.Port, n.Role, synced, shards, bytes)
	}
	_ = w.Flush()
	return b.String()
}
