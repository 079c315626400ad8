// Package clusterdata is the data source pgha_cluster.
package clusterdata

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/datasource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/vip"
)

// New returns the data source.
func New() datasource.DataSource { return &clusterData{} }

type clusterData struct{ base.DataSource }

// readTimeout is the default.
const readTimeout = 2 * time.Minute

var _ datasource.DataSourceWithConfigure = &clusterData{}

type model struct {
	Cluster       types.Object        `tfsdk:"cluster"`
	Leader        types.String        `tfsdk:"leader"`
	SystemID      types.String        `tfsdk:"system_identifier"`
	Paused        types.Bool          `tfsdk:"paused"`
	Members       []memberModel       `tfsdk:"members"`
	Table         types.String        `tfsdk:"table"`
	Configuration types.String        `tfsdk:"configuration"`
	Unmanaged     []string            `tfsdk:"unmanaged_configuration"`
	Virtual       map[string][]string `tfsdk:"virtual_addresses"`
	Warnings      []string            `tfsdk:"warnings"`
	Timeouts      timeouts.Value      `tfsdk:"timeouts"`
}

type memberModel struct {
	Name           types.String      `tfsdk:"name"`
	Host           types.String      `tfsdk:"host"`
	Port           types.Int64       `tfsdk:"port"`
	Role           types.String      `tfsdk:"role"`
	State          types.String      `tfsdk:"state"`
	Timeline       types.Int64       `tfsdk:"timeline"`
	Lag            types.Int64       `tfsdk:"lag"`
	Postgres       types.String      `tfsdk:"postgresql_version"`
	Patroni        types.String      `tfsdk:"patroni_version"`
	PendingRestart types.Bool        `tfsdk:"pending_restart"`
	Tags           map[string]string `tfsdk:"tags"`
	Error          types.String      `tfsdk:"error"`
}

func (d *clusterData) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_cluster"
}

func (d *clusterData) Schema(ctx context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	text := func(s string) schema.Attribute { return schema.StringAttribute{Computed: true, MarkdownDescription: s} }
	number := func(s string) schema.Attribute { return schema.Int64Attribute{Computed: true, MarkdownDescription: s} }
	resp.Schema = schema.Schema{
		MarkdownDescription: "A Patroni cluster as it is now: who leads, who follows and how far behind. These facts change by themselves, with every failover, and are therefore in no resource. " +
			"Outputs made of them change as well.",
		Attributes: map[string]schema.Attribute{
			"cluster":           schema.ObjectAttribute{Required: true, AttributeTypes: connattr.MembershipType.AttrTypes, MarkdownDescription: "The cluster: `membership` of a `pgha_patroni_cluster`."},
			"leader":            text("Name of the member that leads; null if none does."),
			"system_identifier": text("PostgreSQL's system identifier."),
			"paused":            schema.BoolAttribute{Computed: true, MarkdownDescription: "Whether the cluster is paused."},
			"members": schema.ListNestedAttribute{
				Computed: true, MarkdownDescription: "The members, in the order in which Patroni lists them; nodes that are not members at the moment come last.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"name":               text("Name."),
					"host":               text("Address of PostgreSQL."),
					"port":               number("Port of PostgreSQL."),
					"role":               text("`leader`, `standby_leader`, `sync_standby`, `quorum_standby` or `replica`; null if it is not a member."),
					"state":              text("State, such as `running` or `streaming`; `unreachable` if its host does not answer and it is not a member."),
					"timeline":           number("Timeline."),
					"lag":                number("Bytes behind the leader, as of its last loop; null if not known."),
					"postgresql_version": text("Version of PostgreSQL that runs; null if it does not answer."),
					"patroni_version":    text("Version of Patroni."),
					"pending_restart":    schema.BoolAttribute{Computed: true, MarkdownDescription: "Whether PostgreSQL has to be restarted to take over its configuration."},
					"tags":               schema.MapAttribute{ElementType: types.StringType, Computed: true, MarkdownDescription: "Its tags."},
					"error":              text("Why it could not be asked itself; null if it could."),
				}},
			},
			"table":                   text("The members as a table, for people."),
			"configuration":           text("Patroni's dynamic configuration in JSON, keys that others made included."),
			"unmanaged_configuration": schema.ListAttribute{ElementType: types.StringType, Computed: true, MarkdownDescription: "Keys in it that are not managed by the `pgha_patroni_cluster` resource, such as `slots.theirs`: made by somebody else, and left alone."},
			"virtual_addresses":       schema.MapAttribute{ElementType: types.ListType{ElemType: types.StringType}, Computed: true, MarkdownDescription: "The addresses of the cluster's `pgha_vip` resources, and for each the names of the nodes that have it: one, if all is well."},
			"warnings":                schema.ListAttribute{ElementType: types.StringType, Computed: true, MarkdownDescription: "What is wrong with the whole, such as a missing leader or two primaries."},
		},
		Blocks: map[string]schema.Block{"timeouts": timeouts.BlockWithOpts(ctx, timeouts.Opts{ReadDescription: base.ReadTimeoutText(readTimeout)})},
	}
}

func (d *clusterData) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	var m model
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	c, ok := connattr.ClusterFrom(ctx, m.Cluster, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	if !ok {
		resp.Diagnostics.AddError("Unable to read cluster", "How to reach it is not known.")
		return
	}
	timeout, diags := m.Timeouts.Read(ctx, readTimeout)
	resp.Diagnostics.Append(diags...)
	ctx, cancel := base.WithTimeout(ctx, timeout, "read")
	defer cancel()
	manager := d.S.Patroni("pgha_cluster " + c.Name())
	v, err := manager.View(ctx, c)
	if err != nil {
		d.S.Fail(&resp.Diagnostics, "Unable to read cluster "+c.Name(), err)
		return
	}
	var warnings []string
	if m.Virtual, warnings, err = vip.New(manager).Holders(ctx, c); err != nil {
		d.S.Fail(&resp.Diagnostics, "Unable to read who has the virtual addresses of cluster "+c.Name(), err)
		return
	}
	v.Warnings = append(v.Warnings, warnings...)
	m.fill(v)
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}

func (m *model) fill(v patroni.View) {
	m.Leader, m.SystemID = text(v.Leader), text(v.SystemID)
	m.Paused = types.BoolValue(v.Paused)
	m.Table = types.StringValue(v.Table())
	m.Configuration = types.StringValue(string(v.Config.JSON()))
	m.Warnings = append([]string{}, v.Warnings...)
	m.Unmanaged = []string{}
	for _, path := range v.Unmanaged {
		m.Unmanaged = append(m.Unmanaged, strings.ReplaceAll(path, "/", "."))
	}
	m.Members = []memberModel{}
	for _, mv := range v.Members {
		mm := memberModel{
			Name: text(mv.Name), Host: text(mv.Host), Port: types.Int64Value(int64(mv.Port)), Role: text(mv.Role), State: text(mv.State),
			Timeline: types.Int64Value(mv.Timeline), Lag: types.Int64Null(), Postgres: text(mv.Postgres), Patroni: text(mv.Patroni),
			PendingRestart: types.BoolValue(mv.PendingRestart), Tags: map[string]string{}, Error: text(mv.Error),
		}
		if mv.Lag >= 0 {
			mm.Lag = types.Int64Value(mv.Lag)
		}
		for k, t := range mv.Tags {
			mm.Tags[k] = fmt.Sprint(t)
		}
		m.Members = append(m.Members, mm)
	}
}

func text(s string) types.String {
	if s == "" {
		return types.StringNull()
	}
	return types.StringValue(s)
}
