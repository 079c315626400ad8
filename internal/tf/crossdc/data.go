package crossdc

import (
	"context"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/datasource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/crossdc"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
)

// NewData returns the data source.
func NewData() datasource.DataSource { return &crossData{} }

type crossData struct{ base.DataSource }

var _ datasource.DataSourceWithConfigure = &crossData{}

const dataTimeout = 2 * time.Minute

type dataModel struct {
	Name       types.String        `tfsdk:"name"`
	Sites      types.Map           `tfsdk:"sites"`
	Primary    types.String        `tfsdk:"primary"`
	Generation types.Int64         `tfsdk:"generation"`
	SplitBrain types.Bool          `tfsdk:"split_brain"`
	Clusters   []clusterStatus     `tfsdk:"clusters"`
	Roles      map[string]string   `tfsdk:"roles"`
	Blocked    map[string][]string `tfsdk:"blocked"`
	Table      types.String        `tfsdk:"table"`
	Warnings   []string            `tfsdk:"warnings"`
	Timeouts   timeouts.Value      `tfsdk:"timeouts"`
}

type clusterStatus struct {
	Site     types.String `tfsdk:"site"`
	Cluster  types.String `tfsdk:"cluster"`
	Leader   types.String `tfsdk:"leader"`
	Writable types.Bool   `tfsdk:"writable"`
	Streams  types.Bool   `tfsdk:"streaming"`
	Timeline types.Int64  `tfsdk:"timeline"`
	LSN      types.String `tfsdk:"lsn"`
	Lag      types.Int64  `tfsdk:"lag"`
}

func (d *crossData) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_cross_dc_replication"
}

func (d *crossData) Schema(ctx context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	text := func(s string) schema.Attribute { return schema.StringAttribute{Computed: true, MarkdownDescription: s} }
	number := func(s string) schema.Attribute { return schema.Int64Attribute{Computed: true, MarkdownDescription: s} }
	flag := func(s string) schema.Attribute { return schema.BoolAttribute{Computed: true, MarkdownDescription: s} }
	list := types.ListType{ElemType: types.StringType}
	resp.Schema = schema.Schema{
		MarkdownDescription: "A replication between datacenters as it is now: which site takes writes, how far the others are behind, and whether the primary could move to them. These facts change by themselves, and are therefore in no resource.",
		Attributes: map[string]schema.Attribute{
			"name": schema.StringAttribute{Required: true, MarkdownDescription: "`name` of the `pgha_cross_dc_replication`."},
			"sites": schema.MapAttribute{
				Required: true, ElementType: siteType,
				MarkdownDescription: "`sites` of the `pgha_cross_dc_replication`.",
			},
			"primary":     text("The site that is the primary; null if none is, or several are."),
			"generation":  number("How often the primary has moved, from 1."),
			"split_brain": flag("Whether several sites take writes, or are configured to."),
			"clusters": schema.ListNestedAttribute{
				Computed: true, MarkdownDescription: "The sites' clusters.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"site": text("Its site."), "cluster": text("Its name: the scope, and of a Citus formation the group."),
					"leader":   text("The node that leads and answers; null if none does."),
					"writable": flag("Whether that takes writes."), "streaming": flag("Whether that gets WAL from another site as it is made."),
					"timeline": number("Its timeline; null if not known."),
					"lsn":      text("How far it has written, or as a standby applied."),
					"lag":      number("Bytes that it is behind the primary; null if not known."),
				}},
			},
			"roles":    schema.MapAttribute{Computed: true, ElementType: types.StringType, MarkdownDescription: "What each site is: `primary`, `standby`, `moving`, `lost` (given up, and not taken in again) or `unreachable`."},
			"blocked":  schema.MapAttribute{Computed: true, ElementType: list, MarkdownDescription: "For each site that is not the primary, what speaks against a planned move of the primary there now; empty if nothing does."},
			"table":    text("The same as a table, for people."),
			"warnings": schema.ListAttribute{Computed: true, ElementType: types.StringType, MarkdownDescription: "What is wrong with the whole."},
		},
		Blocks: map[string]schema.Block{"timeouts": timeouts.BlockWithOpts(ctx, timeouts.Opts{ReadDescription: base.ReadTimeoutText(dataTimeout)})},
	}
}

func (d *crossData) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	var m dataModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	if resp.Diagnostics.HasError() {
		return
	}
	s := crossdc.Spec{Name: m.Name.ValueString(), Limits: crossdc.DefaultLimits}
	var ok bool
	if s.Sites, ok = sites(ctx, m.Sites, &resp.Diagnostics); !ok {
		resp.Diagnostics.AddError("Unable to read the replication "+s.Name, "How to reach its sites is not known.")
		return
	}
	timeout, diags := m.Timeouts.Read(ctx, dataTimeout)
	resp.Diagnostics.Append(diags...)
	ctx, cancel := base.WithTimeout(ctx, timeout, "read")
	defer cancel()
	st, err := (crossdc.Manager{Manager: d.S.Patroni("pgha_cross_dc_replication " + s.Name)}).Status(ctx, s)
	if err != nil {
		d.S.Fail(&resp.Diagnostics, "Unable to read the replication "+s.Name, err)
		return
	}
	m.fill(st)
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}

func (m *dataModel) fill(st crossdc.Status) {
	m.Primary, m.Generation, m.SplitBrain = text(st.Primary), types.Int64Value(st.Generation), types.BoolValue(st.SplitBrain)
	m.Table, m.Warnings = types.StringValue(st.Table()), append([]string{}, st.Warnings...)
	m.Roles, m.Blocked, m.Clusters = map[string]string{}, map[string][]string{}, []clusterStatus{}
	for _, name := range st.Names() {
		m.Roles[name] = st.Sites[name].Role
		if blocked, there := st.Blocked[name]; there {
			m.Blocked[name] = append([]string{}, blocked...)
		}
		for _, c := range st.Sites[name].Clusters {
			out := clusterStatus{
				Site: types.StringValue(name), Cluster: types.StringValue(c.Name), Leader: text(c.Leader), Writable: types.BoolValue(c.Writable),
				Streams: types.BoolValue(c.Streams), LSN: types.StringValue(c.At()),
			}
			if c.Timeline > 0 {
				out.Timeline = types.Int64Value(c.Timeline)
			}
			if c.Lag >= 0 {
				out.Lag = types.Int64Value(c.Lag)
			}
			m.Clusters = append(m.Clusters, out)
		}
	}
}

func text(s string) types.String {
	if s == "" {
		return types.StringNull()
	}
	return types.StringValue(s)
}
