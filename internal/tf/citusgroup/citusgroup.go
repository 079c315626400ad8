// Package citusgroup is the resource pgha_citus_worker_group.
package citusgroup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework-validators/float64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/citus"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

// New returns the resource.
func New() resource.Resource { return &groupResource{} }

type groupResource struct{ base.Resource }

var (
	_ resource.ResourceWithConfigure  = &groupResource{}
	_ resource.ResourceWithModifyPlan = &groupResource{}
)

// What moves shards takes as long as there is data.
var defaults = base.Timeouts{Create: 24 * time.Hour, Read: 2 * time.Minute, Update: 24 * time.Hour, Delete: 24 * time.Hour}

type model struct {
	ID               types.String   `tfsdk:"id"`
	Cluster          types.Object   `tfsdk:"cluster"`
	Nodes            types.List     `tfsdk:"nodes"`
	CoordinatorNodes types.List     `tfsdk:"coordinator_nodes"`
	ShouldHaveShards types.Bool     `tfsdk:"should_have_shards"`
	Drain            types.Bool     `tfsdk:"drain"`
	Rebalance        types.String   `tfsdk:"rebalance"`
	Strategy         types.String   `tfsdk:"rebalance_strategy"`
	Threshold        types.Float64  `tfsdk:"rebalance_threshold"`
	Mode             types.String   `tfsdk:"shard_transfer_mode"`
	VerifyRows       types.Bool     `tfsdk:"verify_rows"`
	Drift            types.List     `tfsdk:"drift"`
	Timeouts         timeouts.Value `tfsdk:"timeouts"`
}

func (r *groupResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_citus_worker_group"
}

func (r *groupResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "A group of workers in a Citus formation: its place in the coordinator's metadata, and the shards on it. Patroni registers the group and keeps its nodes; this resource waits until it takes part, moves shards onto it, " +
			"and when it is destroyed moves all of them off again before its nodes can go.",
		Attributes: map[string]schema.Attribute{
			"id": schema.StringAttribute{Computed: true, MarkdownDescription: "Scope and number of the group, such as `main/1`.", PlanModifiers: []planmodifier.String{stringplanmodifier.UseStateForUnknown()}},
			"cluster": schema.ObjectAttribute{
				Required: true, AttributeTypes: connattr.MembershipType.AttrTypes,
				MarkdownDescription: "The group: `membership` of a `pgha_patroni_cluster` with `citus`, of another group than 0.",
			},
			"nodes": schema.ListAttribute{
				Required: true, ElementType: types.StringType,
				MarkdownDescription: "The ids of the group's `pgha_patroni_node` resources: it is created after they are, and they are destroyed after it was drained.",
				Validators:          []validator.List{listvalidator.SizeAtLeast(1)},
			},
			"coordinator_nodes": schema.ListAttribute{
				Required: true, ElementType: types.StringType,
				MarkdownDescription: "The ids of the coordinator's `pgha_patroni_node` resources, which it needs to be created and to be drained: they are destroyed after it.",
				Validators:          []validator.List{listvalidator.SizeAtLeast(1)},
			},
			"should_have_shards": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(true),
				MarkdownDescription: "Whether new tables and rebalancing put shards onto it (`shouldhaveshards`); true by default. With false those that it has stay, until somebody rebalances or another group is drained: Citus moves them then, too.",
			},
			"drain": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(false),
				MarkdownDescription: "Move all shards off it, and keep them off, without destroying it: for a group that is to be repaired, for example. False by default. Back to false it may have shards again, and gets them as `rebalance` says.",
			},
			"rebalance": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString("manual"),
				MarkdownDescription: "`on_join` moves shards onto the group once it takes part, in a background job of Citus's that an apply follows: one that is cut off goes on by itself, and the next apply follows it. `manual`, the default, leaves that to somebody else: Citus moves nothing by itself.",
				Validators:          []validator.String{stringvalidator.OneOf("on_join", "manual")},
			},
			"rebalance_strategy": schema.StringAttribute{
				Optional: true, MarkdownDescription: "Citus's strategy of rebalancing, such as `by_shard_count` or `by_disk_size`; Citus's own default unless given.",
				Validators: []validator.String{stringvalidator.LengthBetween(1, 63), validate.OneLine()},
			},
			"rebalance_threshold": schema.Float64Attribute{
				Optional: true, MarkdownDescription: "How much more or less than the average a group may have, as a part of it, before shards are moved: `0.1` is a tenth. The strategy's own unless given; with it the coordinator gets a strategy `pgha_<strategy>_<threshold>` of its own, since Citus takes a threshold from the strategy alone.",
				Validators: []validator.Float64{float64validator.Between(0, 1)},
			},
			"shard_transfer_mode": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString("auto"),
				MarkdownDescription: "How shards are moved: `auto` (the default) while they are written to, which needs a primary key or a replica identity in each table, and no columnar one; `force_logical` also without, but updates and deletes of such tables fail meanwhile, and inserts into columnar ones; `block_writes` blocks all writes to a shard while it is moved.",
				Validators:          []validator.String{stringvalidator.OneOf("auto", "force_logical", "block_writes")},
			},
			"verify_rows": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(true),
				MarkdownDescription: "Whether the rows of all tables with shards on the group are counted before it is drained and after, when it is destroyed as well; true by default. Fewer rows afterwards, while no server has counted a delete, end the apply before any node goes. " +
					"It reads these tables twice, in all groups side by side and one shard at a time in each; false spares that where they are too large.",
			},
			"drift": base.DriftAttribute(),
		},
		Blocks: map[string]schema.Block{"timeouts": defaults.Block(ctx)},
	}
}

// spec is the group that the model describes. It returns false while that is not known.
func (m model) spec(ctx context.Context, diags *diag.Diagnostics) (citus.Spec, bool) {
	c, ok := connattr.ClusterFrom(ctx, m.Cluster, diags)
	if !ok || c.Citus == nil || m.ShouldHaveShards.IsUnknown() || m.Drain.IsUnknown() || m.Rebalance.IsUnknown() || m.Strategy.IsUnknown() || m.Threshold.IsUnknown() || m.Mode.IsUnknown() || m.VerifyRows.IsUnknown() {
		return citus.Spec{}, false
	}
	return citus.Spec{
		Group: c, Shards: m.ShouldHaveShards.ValueBool(), Drain: m.Drain.ValueBool(), OnJoin: m.Rebalance.ValueString() == "on_join",
		Count:  m.VerifyRows.IsNull() || m.VerifyRows.ValueBool(), // null in a state of before there was one
		Moving: citus.Moving{Strategy: m.Strategy.ValueString(), Threshold: m.Threshold.ValueFloat64Pointer(), Mode: m.Mode.ValueString()},
	}, true
}

func (r *groupResource) manager(s citus.Spec) citus.Manager {
	return citus.Manager{Manager: r.S.Patroni("pgha_citus_worker_group " + s.Group.Name())}
}

// ModifyPlan refuses what is no group of workers, and says what a change does to shards.
func (r *groupResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	diags := &resp.Diagnostics
	var before, m model
	if !req.State.Raw.IsNull() {
		diags.Append(req.State.Get(ctx, &before)...)
	}
	if req.Plan.Raw.IsNull() {
		r.planDestroy(ctx, before, diags)
		return
	}
	diags.Append(req.Plan.Get(ctx, &m)...)
	c, ok := connattr.ClusterFrom(ctx, m.Cluster, diags)
	if !ok || diags.HasError() {
		return
	}
	if c.Citus == nil || c.Citus.Group == 0 {
		diags.AddAttributeError(path.Root("cluster"), "Not a group of workers",
			"The cluster "+c.Name()+" is "+map[bool]string{true: "no group of a Citus formation", false: "the coordinator"}[c.Citus == nil]+".\nWhat to do: name a pgha_patroni_cluster with citus = { group = 1, ... } or a higher number.")
		return
	}
	if old, ok := connattr.ClusterFrom(ctx, before.Cluster, diags); ok && old.Prefix() != c.Prefix() {
		resp.RequiresReplace = append(resp.RequiresReplace, path.Root("cluster"))
	}
	m.ID = types.StringValue(c.Name())
	diags.Append(resp.Plan.Set(ctx, &m)...)
	switch s, ok := m.spec(ctx, diags); {
	case !ok:
	case s.Drain && !before.Drain.ValueBool() && !req.State.Raw.IsNull():
		r.preview(ctx, s, "Applying this moves all shards off the group "+c.Name(), diags)
	case !req.Plan.Raw.Equal(req.State.Raw):
		r.previewJoin(ctx, s, diags)
	}
}

// previewJoin says how much is moved onto the group. Of a formation that cannot be asked,
// since it is only to come, nothing is said.
func (r *groupResource) previewJoin(ctx context.Context, s citus.Spec, diags *diag.Diagnostics) {
	if r.S == nil {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, previewTimeout)
	defer cancel()
	j, err := r.manager(s).PreviewJoin(bounded, s)
	var refused *problem.Error
	if errors.As(err, &refused) && refused.Step == citus.CannotMove {
		diags.AddError("Shards cannot be moved onto the group "+s.Group.Name(), r.S.Redact.Apply(problem.Details(err)))
		return
	}
	if err != nil {
		r.S.Log.InfoContext(ctx, "what is moved onto the group could not be found out", "group", s.Group.Name(), "error", err)
		return
	}
	if j.Shards > 0 {
		diags.AddWarning("Applying this moves shards onto the group "+s.Group.Name(), j.String())
	}
}

func (r *groupResource) planDestroy(ctx context.Context, before model, diags *diag.Diagnostics) {
	if s, ok := before.spec(ctx, diags); ok {
		r.preview(ctx, s, "Destroying the group "+s.Group.Name()+" moves all its shards to other groups", diags)
	}
}

// previewTimeout bounds what a plan does to be able to warn.
const previewTimeout = time.Minute

// preview says what has to be moved, and refuses what cannot be.
func (r *groupResource) preview(ctx context.Context, s citus.Spec, title string, diags *diag.Diagnostics) {
	if r.S == nil {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, previewTimeout)
	defer cancel()
	p, err := r.manager(s).Preview(bounded, s)
	var refused *problem.Error
	switch {
	case errors.As(err, &refused) && refused.Step == citus.CannotMove:
		diags.AddError("The group "+s.Group.Name()+" cannot be drained", r.S.Redact.Apply(problem.Details(err)))
	case err != nil:
		diags.AddWarning(title, "What that is could not be found out: "+r.S.Redact.Apply(problem.Details(err)))
	case p.Lost:
		diags.AddWarning("The group "+s.Group.Name()+" goes with its shards", p.String())
	case p.Shards > 0:
		diags.AddWarning(title, p.String())
	}
}

func (r *groupResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var m model
	resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Create(ctx, defaults.Create)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "create")
	defer cancel()
	if r.apply(ctx, &m, "create", &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

func (r *groupResource) apply(ctx context.Context, m *model, verb string, diags *diag.Diagnostics) bool {
	s, ok := m.spec(ctx, diags)
	if !ok || s.Group.Citus.Group == 0 {
		diags.AddAttributeError(path.Root("cluster"), "Not a group of workers", "It has to be a pgha_patroni_cluster with citus, of another group than 0.")
		return false
	}
	if err := r.manager(s).Apply(ctx, s); err != nil {
		r.S.Fail(diags, "Unable to "+verb+" Citus worker group "+s.Group.Name(), err)
		return false
	}
	m.ID, m.Drift = types.StringValue(s.Group.Name()), base.NoDrift()
	return !diags.HasError()
}

func (r *groupResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	var m model
	resp.Diagnostics.Append(req.State.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Read(ctx, defaults.Read)
	resp.Diagnostics.Append(diags...)
	s, ok := m.spec(ctx, &resp.Diagnostics)
	if resp.Diagnostics.HasError() || !ok {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "read")
	defer cancel()
	o, err := r.manager(s).Observe(ctx, s)
	switch {
	case errors.Is(err, patroni.ErrNoPrimary):
		resp.Diagnostics.AddWarning("Citus worker group "+s.Group.Name()+" could not be looked at",
			r.S.Redact.Apply(problem.Details(err))+"\nIts state is what was last known.")
		return
	case err != nil && r.S.Unreachable(&resp.Diagnostics, "Citus worker group "+s.Group.Name(), err):
		return
	case errors.Is(err, patroni.ErrNoCluster), err == nil && o.Absent:
		resp.State.RemoveResource(ctx)
		return
	case err != nil:
		r.S.Fail(&resp.Diagnostics, "Unable to read Citus worker group "+s.Group.Name(), err)
		return
	}
	// What somebody else has changed shows as the attribute that says so.
	switch wanted := s.Shards && !s.Drain; {
	case s.Drain && (o.Shards || o.Held > 0):
		m.Drain = types.BoolValue(false)
	case !s.Drain && o.Shards != wanted:
		m.ShouldHaveShards = types.BoolValue(o.Shards)
	}
	var drift []string
	for _, n := range o.Stale {
		drift = append(drift, fmt.Sprintf("remove %s:%d from the metadata: it is no node of the group", n.Host, n.Port))
	}
	m.Drift = base.DriftValue(ctx, drift, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}

func (r *groupResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var m model
	resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Update(ctx, defaults.Update)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "update")
	defer cancel()
	if r.apply(ctx, &m, "update", &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

func (r *groupResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	var m model
	resp.Diagnostics.Append(req.State.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Delete(ctx, defaults.Delete)
	resp.Diagnostics.Append(diags...)
	s, ok := m.spec(ctx, &resp.Diagnostics)
	if resp.Diagnostics.HasError() || !ok {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "delete")
	defer cancel()
	if err := r.manager(s).Leave(ctx, s); err != nil {
		r.S.Fail(&resp.Diagnostics, "Unable to destroy Citus worker group "+s.Group.Name(), err)
	}
}
