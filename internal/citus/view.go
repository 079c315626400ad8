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
	if v.Tables, err = patroni.List[Table](ctx, b, "citus.tables", `select t.table_name::text, t.citus_table_type, t.distribution_column, t.colocation_id, t.shard_count,
coalesce((select sum(s.shard_size) from citus_shards s where s.table_name = t.table_name and (s.nodename, s.nodeport) in (select nodename, nodeport from pg_dist_node where noderole = 'primary')), 0)::bigint as bytes
from citus_tables t order by 1`); err != nil {
		return v, err
	}
	held, err := Holdings(ctx, b)
	if err != nil {
		return v, err
	}
	bytes, err := patroni.List[struct {
		Group int   `json:"groupid"`
		Bytes int64 `json:"bytes"`
	}](ctx, b, "citus.size", `select n.groupid, sum(s.shard_size)::bigint as bytes from citus_shards s join pg_dist_node n using (nodename, nodeport)
where n.noderole = 'primary' and s.citus_table_type <> 'reference' group by 1`)
	if err != nil {
		return v, err
	}
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
		for _, s := range bytes {
			if s.Group == n.Group {
				g.Bytes = s.Bytes
			}
		}
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
