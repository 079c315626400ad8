// Package upgradeplan is the data source pgha_upgrade_plan.
package upgradeplan

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/datasource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

// New returns the data source.
func New() datasource.DataSource { return &upgradePlan{} }

type upgradePlan struct{ base.DataSource }

// readTimeout is the default.
const readTimeout = 2 * time.Minute

var (
	_ datasource.DataSourceWithConfigure      = &upgradePlan{}
	_ datasource.DataSourceWithValidateConfig = &upgradePlan{}
)

type model struct {
	Cluster     types.Object             `tfsdk:"cluster"`
	Versions    *versionsModel           `tfsdk:"versions"`
	Nodes       map[string]versionsModel `tfsdk:"nodes"`
	Ready       types.Bool               `tfsdk:"ready"`
	Turns       []turnModel              `tfsdk:"turns"`
	Steps       []stepModel              `tfsdk:"steps"`
	Switchovers types.Int64              `tfsdk:"switchovers"`
	WriteGaps   types.Int64              `tfsdk:"write_gaps"`
	NextLeader  types.String             `tfsdk:"next_leader"`
	Problems    []string                 `tfsdk:"problems"`
	Hazards     []string                 `tfsdk:"hazards"`
	JSON        types.String             `tfsdk:"json"`
	Table       types.String             `tfsdk:"table"`
	Timeouts    timeouts.Value           `tfsdk:"timeouts"`
}

type versionsModel struct {
	PostgreSQL types.String            `tfsdk:"postgresql"`
	Patroni    types.String            `tfsdk:"patroni"`
	Citus      types.String            `tfsdk:"citus"`
	Extensions map[string]types.String `tfsdk:"extensions"`
}

type turnModel struct {
	Order       types.Int64  `tfsdk:"order"`
	Node        types.String `tfsdk:"node"`
	Host        types.String `tfsdk:"host"`
	Leads       types.Bool   `tfsdk:"leads"`
	Reason      types.String `tfsdk:"reason"`
	HandsOverTo types.String `tfsdk:"hands_over_to"`
}

type stepModel struct {
	Order types.Int64  `tfsdk:"order"`
	Node  types.String `tfsdk:"node"`
	Host  types.String `tfsdk:"host"`
	ID    types.String `tfsdk:"id"`
	Title types.String `tfsdk:"title"`
	Risk  types.String `tfsdk:"risk"`
}

func (d *upgradePlan) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_upgrade_plan"
}

func (d *upgradePlan) Schema(ctx context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	text := func(s string) schema.Attribute { return schema.StringAttribute{Computed: true, MarkdownDescription: s} }
	number := func(s string) schema.Attribute { return schema.Int64Attribute{Computed: true, MarkdownDescription: s} }
	boolean := func(s string) schema.Attribute { return schema.BoolAttribute{Computed: true, MarkdownDescription: s} }
	texts := func(s string) schema.Attribute {
		return schema.ListAttribute{ElementType: types.StringType, Computed: true, MarkdownDescription: s}
	}
	pins := map[string]schema.Attribute{
		"postgresql": schema.StringAttribute{Optional: true, MarkdownDescription: "Version of PostgreSQL, as `versions` of a `pgha_patroni_node` takes it; the one that is there if it is left out."},
		"patroni":    schema.StringAttribute{Optional: true, MarkdownDescription: "Version of Patroni, likewise."},
		"citus":      schema.StringAttribute{Optional: true, MarkdownDescription: "Version of Citus, likewise.", Validators: []validator.String{validate.Pin()}},
		"extensions": schema.MapAttribute{
			ElementType: types.StringType, Optional: true, MarkdownDescription: "Versions of packages of extensions by name, likewise; those of which nothing is said here are left as they are.",
			Validators: []validator.Map{mapvalidator.KeysAre(validate.Extension()), mapvalidator.ValueStringsAre(validate.Pin())},
		},
	}
	resp.Schema = schema.Schema{
		MarkdownDescription: "What it takes to bring a cluster's nodes to other versions of PostgreSQL and Patroni, before anybody changes them: whose turn comes when and why, each step with its risk, how often nobody can write, what would keep an apply from going through, and what the release notes ask for besides. " +
			"It is made by the planner that the apply itself goes by, from the cluster as it is at this moment; nothing is changed. A host that cannot be reached is named in `problems`.",
		Attributes: map[string]schema.Attribute{
			"cluster":  schema.ObjectAttribute{Required: true, AttributeTypes: connattr.MembershipType.AttrTypes, MarkdownDescription: "The cluster: `membership` of a `pgha_patroni_cluster`. Its nodes are those that it has been told of."},
			"versions": schema.SingleNestedAttribute{Optional: true, Attributes: pins, MarkdownDescription: "The versions that all nodes are to have."},
			"nodes": schema.MapNestedAttribute{
				Optional: true, NestedObject: schema.NestedAttributeObject{Attributes: pins}, MarkdownDescription: "Other versions for single nodes, by name.",
			},
			"ready": boolean("Whether an apply that begins now would go through, as far as can be said: there are no `problems`."),
			"turns": schema.ListNestedAttribute{
				Computed: true, MarkdownDescription: "The nodes that are taken out of service, in order: one at a time, those that are not well first, replicas before synchronous ones, the leader last.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"order": number("From 1."), "node": text("Name of the node."), "host": text("Name of its host."), "leads": boolean("Whether it leads now."),
					"reason":        text("What changes, such as `PostgreSQL 17.11-0+deb13u1 -> 17.12-0+deb13u1`."),
					"hands_over_to": text("Who leads from then on, where the role is moved; null otherwise."),
				}},
			},
			"steps": schema.ListNestedAttribute{
				Computed: true, MarkdownDescription: "All that is done, in order. Packages are fetched on all hosts side by side before the first turn.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"order": number("From 1."), "node": text("Name of the node."), "host": text("Name of its host."),
					"id":    text("What kind of step it is, as in the progress file: `patroni.restart`."),
					"title": text("What is done, for people."),
					"risk":  text("`safe`, `reload`, `restart`, `switchover` or `destructive`."),
				}},
			},
			"switchovers": number("How often the leader's role moves."),
			"write_gaps":  number("How often nobody can write for a moment: at a switchover, or while a leader is restarted where it is (`rollout.allow_downtime`)."),
			"next_leader": text("Who leads when all is done; null if nobody leads now."),
			"problems":    texts("Why an apply that begins now would not go through: a pause, a version that there is not, nobody who can take over, a maintenance window that is closed, hosts that cannot be reached."),
			"hazards":     texts("What the versions on the way ask for that no apply does, from their release notes: indexes to be rebuilt, settings to be changed. Versions that are newer than this release of the provider are named as such."),
			"json":        text("All of it in JSON, for programs."),
			"table":       text("All of it as text, for people."),
		},
		Blocks: map[string]schema.Block{"timeouts": timeouts.BlockWithOpts(ctx, timeouts.Opts{ReadDescription: base.ReadTimeoutText(readTimeout)})},
	}
}

// ValidateConfig refuses what is no version of PostgreSQL.
func (d *upgradePlan) ValidateConfig(ctx context.Context, req datasource.ValidateConfigRequest, resp *datasource.ValidateConfigResponse) {
	var versions types.Object
	var nodes types.Map
	resp.Diagnostics.Append(req.Config.GetAttribute(ctx, path.Root("versions"), &versions)...)
	resp.Diagnostics.Append(req.Config.GetAttribute(ctx, path.Root("nodes"), &nodes)...)
	check := func(at path.Path, o types.Object) {
		v, ok := o.Attributes()["postgresql"].(types.String)
		if !ok || v.ValueString() == "" {
			return
		}
		if _, err := postgres.Major(v.ValueString()); err != nil {
			resp.Diagnostics.AddAttributeError(at.AtName("postgresql"), "Invalid version", err.Error()+".")
		}
	}
	check(path.Root("versions"), versions)
	for name, v := range nodes.Elements() {
		if o, ok := v.(types.Object); ok {
			check(path.Root("nodes").AtMapKey(name), o)
		}
	}
}

func (d *upgradePlan) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	var m model
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	c, ok := connattr.ClusterFrom(ctx, m.Cluster, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	if !ok {
		resp.Diagnostics.AddError("Unable to plan the upgrade", "How to reach the cluster is not known.")
		return
	}
	timeout, diags := m.Timeouts.Read(ctx, readTimeout)
	resp.Diagnostics.Append(diags...)
	ctx, cancel := base.WithTimeout(ctx, timeout, "read")
	defer cancel()
	p, err := d.S.Patroni("pgha_upgrade_plan "+c.Name()).PlanUpgrade(ctx, c, m.want)
	if err != nil {
		d.S.Fail(&resp.Diagnostics, "Unable to plan the upgrade of cluster "+c.Name(), err)
		return
	}
	m.strangers(&p)
	resp.Diagnostics.Append(m.fill(p)...)
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}

// want is what a node is to run.
func (m *model) want(node string) patroni.Versions {
	v := patroni.Versions{Extensions: map[string]string{}}
	take := func(from versionsModel) {
		if s := from.PostgreSQL.ValueString(); s != "" {
			v.Postgres = s
		}
		if s := from.Patroni.ValueString(); s != "" {
			v.Patroni = s
		}
		if s := from.Citus.ValueString(); s != "" {
			v.Extensions[patroni.CitusExtension] = s
		}
		for name, version := range from.Extensions {
			v.Extensions[name] = version.ValueString()
		}
	}
	if m.Versions != nil {
		take(*m.Versions)
	}
	take(m.Nodes[node])
	return v
}

// strangers names nodes that were given versions and that the cluster does not have.
func (m *model) strangers(p *patroni.UpgradePlan) {
	for _, name := range slices.Sorted(maps.Keys(m.Nodes)) {
		if !slices.Contains(p.Nodes, name) {
			p.Problems = append(p.Problems, fmt.Sprintf("nodes: the cluster %s has no node %q", p.Scope, name))
		}
	}
}
