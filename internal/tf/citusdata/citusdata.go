// Package citusdata is the data source pgha_citus.
package citusdata

import (
	"context"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/datasource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/citus"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
)

// New returns the data source.
func New() datasource.DataSource { return &citusData{} }

type citusData struct{ base.DataSource }

// readTimeout is the default.
const readTimeout = 5 * time.Minute

var _ datasource.DataSourceWithConfigure = &citusData{}

type model struct {
	Cluster   types.Object   `tfsdk:"cluster"`
	Version   types.String   `tfsdk:"extension_version"`
	Nodes     []nodeModel    `tfsdk:"nodes"`
	Groups    []groupModel   `tfsdk:"groups"`
	Tables    []tableModel   `tfsdk:"tables"`
	Jobs      []jobModel     `tfsdk:"jobs"`
	Leftovers types.Int64    `tfsdk:"orphaned_resources"`
	Table     types.String   `tfsdk:"table"`
	Warnings  []string       `tfsdk:"warnings"`
	Timeouts  timeouts.Value `tfsdk:"timeouts"`
}

type nodeModel struct {
	Group            int64  `tfsdk:"group"`
	Host             string `tfsdk:"host"`
	Port             int64  `tfsdk:"port"`
	Role             string `tfsdk:"role"`
	Active           bool   `tfsdk:"active"`
	Synced           bool   `tfsdk:"metadata_synced"`
	ShouldHaveShards bool   `tfsdk:"should_have_shards"`
}

type groupModel struct {
	Group  int64 `tfsdk:"group"`
	Shards int64 `tfsdk:"shards"`
	Bytes  int64 `tfsdk:"bytes"`
}

type tableModel struct {
	Name       string `tfsdk:"name"`
	Type       string `tfsdk:"type"`
	Column     string `tfsdk:"distribution_column"`
	Colocation int64  `tfsdk:"colocation_id"`
	Shards     int64  `tfsdk:"shards"`
	Bytes      int64  `tfsdk:"bytes"`
}

type jobModel struct {
	ID    int64  `tfsdk:"id"`
	State string `tfsdk:"state"`
	Done  int64  `tfsdk:"moves_done"`
	Total int64  `tfsdk:"moves"`
}

func (d *citusData) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_citus"
}

func (d *citusData) Schema(ctx context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	text := func(s string) schema.Attribute { return schema.StringAttribute{Computed: true, MarkdownDescription: s} }
	number := func(s string) schema.Attribute { return schema.Int64Attribute{Computed: true, MarkdownDescription: s} }
	flag := func(s string) schema.Attribute { return schema.BoolAttribute{Computed: true, MarkdownDescription: s} }
	list := func(s string, attributes map[string]schema.Attribute) schema.Attribute {
		return schema.ListNestedAttribute{Computed: true, MarkdownDescription: s, NestedObject: schema.NestedAttributeObject{Attributes: attributes}}
	}
	resp.Schema = schema.Schema{
		MarkdownDescription: "A Citus formation as it is now: its groups and the shards on them, tables, and jobs that move shards. These facts change by themselves, with every failover, and are therefore in no resource.",
		Attributes: map[string]schema.Attribute{
			"cluster":           schema.ObjectAttribute{Required: true, AttributeTypes: connattr.MembershipType.AttrTypes, MarkdownDescription: "Any group of the formation: `membership` of a `pgha_patroni_cluster` with `citus`."},
			"extension_version": text("Version of the extension, such as `13.2-1`."),
			"nodes": list("The nodes that the coordinator knows, by group, the primary first.", map[string]schema.Attribute{
				"group": number("Number of the group."), "host": text("Address."), "port": number("Port."), "role": text("`primary` or `secondary`."),
				"active": flag("Whether it takes part in queries."), "metadata_synced": flag("Whether it has the metadata."), "should_have_shards": flag("Whether it is to have shards."),
			}),
			"groups": list("The groups.", map[string]schema.Attribute{
				"group": number("Number of the group."), "shards": number("Shards that it holds, those of reference tables left out."), "bytes": number("Size of these shards, in bytes."),
			}),
			"tables": list("The tables that Citus manages.", map[string]schema.Attribute{
				"name": text("Name."), "type": text("`distributed`, `reference`, `schema` or `local`."), "distribution_column": text("Column by which it is distributed."),
				"colocation_id": number("Tables with the same one have their shards together."), "shards": number("Number of shards."), "bytes": number("Size of all shards, in bytes."),
			}),
			"jobs": list("Jobs that move shards and are not over.", map[string]schema.Attribute{
				"id": number("Number of the job."), "state": text("State, such as `running`."), "moves_done": number("Moves that are done."), "moves": number("All moves."),
			}),
			"orphaned_resources": number("What moves have left behind and Citus is to remove: shards, slots, publications. It does so by itself; a number that stays calls for `citus_cleanup_orphaned_resources()`."),
			"table":              text("The nodes as a table, for people."),
			"warnings":           schema.ListAttribute{ElementType: types.StringType, Computed: true, MarkdownDescription: "What is wrong with the whole, such as a group without a primary."},
		},
		Blocks: map[string]schema.Block{"timeouts": timeouts.BlockWithOpts(ctx, timeouts.Opts{ReadDescription: base.ReadTimeoutText(readTimeout)})},
	}
}

func (d *citusData) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	var m model
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	c, ok := connattr.ClusterFrom(ctx, m.Cluster, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	switch {
	case !ok:
		resp.Diagnostics.AddError("Unable to read the Citus formation", "How to reach it is not known.")
		return
	case c.Citus == nil:
		resp.Diagnostics.AddAttributeError(path.Root("cluster"), "Not a Citus formation", "The cluster "+c.Name()+" is no group of one.\nWhat to do: name a pgha_patroni_cluster with citus.")
		return
	}
	timeout, diags := m.Timeouts.Read(ctx, readTimeout)
	resp.Diagnostics.Append(diags...)
	ctx, cancel := base.WithTimeout(ctx, timeout, "read")
	defer cancel()
	v, err := citus.Manager{Manager: d.S.Patroni("pgha_citus " + c.Scope)}.View(ctx, c)
	if err != nil {
		d.S.Fail(&resp.Diagnostics, "Unable to read the Citus formation "+c.Scope, err)
		return
	}
	m.fill(v)
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}

func (m *model) fill(v citus.View) {
	m.Version, m.Leftovers, m.Table = types.StringValue(v.Version), types.Int64Value(v.Leftovers), types.StringValue(v.Text())
	m.Warnings, m.Nodes, m.Groups, m.Tables, m.Jobs = append([]string{}, v.Warnings...), []nodeModel{}, []groupModel{}, []tableModel{}, []jobModel{}
	for _, n := range v.Nodes {
		m.Nodes = append(m.Nodes, nodeModel{int64(n.Group), n.Host, int64(n.Port), n.Role, n.Active, n.Synced, n.ShouldHaveShards})
	}
	for _, g := range v.Groups {
		m.Groups = append(m.Groups, groupModel{int64(g.Group), g.Shards, g.Bytes})
	}
	for _, t := range v.Tables {
		m.Tables = append(m.Tables, tableModel{t.Name, t.Kind, t.Column, int64(t.ColocationID), t.Shards, t.Bytes})
	}
	for _, j := range v.Jobs {
		m.Jobs = append(m.Jobs, jobModel{j.ID, j.State, j.Done, j.Total})
	}
}
