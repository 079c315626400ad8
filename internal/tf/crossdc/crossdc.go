// Package crossdc is the resource pgha_cross_dc_replication.
package crossdc

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/crossdc"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
)

// New returns the resource.
func New() resource.Resource { return &crossResource{} }

type crossResource struct{ base.Resource }

var (
	_ resource.ResourceWithConfigure      = &crossResource{}
	_ resource.ResourceWithModifyPlan     = &crossResource{}
	_ resource.ResourceWithValidateConfig = &crossResource{}
)

// A site that is cloned again takes as long as it has data.
var defaults = base.Timeouts{Create: time.Hour, Read: 2 * time.Minute, Update: 6 * time.Hour, Delete: 10 * time.Minute}

type model struct {
	ID         types.String   `tfsdk:"id"`
	Name       types.String   `tfsdk:"name"`
	Primary    types.String   `tfsdk:"primary"`
	Sites      types.Map      `tfsdk:"sites"`
	Limits     types.Object   `tfsdk:"limits"`
	Failover   types.String   `tfsdk:"failover"`
	AcceptLoss types.String   `tfsdk:"accept_data_loss"`
	Generation types.Int64    `tfsdk:"generation"`
	Rotation   types.Int64    `tfsdk:"credentials_rotation"`
	Drift      types.List     `tfsdk:"drift"`
	Timeouts   timeouts.Value `tfsdk:"timeouts"`
}

func (r *crossResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_cross_dc_replication"
}

func (r *crossResource) manager(s crossdc.Spec) crossdc.Manager {
	return crossdc.Manager{Manager: r.S.Patroni("pgha_cross_dc_replication " + s.Name)}
}

// ValidateConfig refuses sites that do not go together.
func (r *crossResource) ValidateConfig(ctx context.Context, req resource.ValidateConfigRequest, resp *resource.ValidateConfigResponse) {
	var m model
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	if resp.Diagnostics.HasError() {
		return
	}
	if names := m.Sites.Elements(); !m.Sites.IsUnknown() && !m.Primary.IsUnknown() && names[m.Primary.ValueString()] == nil {
		resp.Diagnostics.AddAttributeError(path.Root("primary"), "No such site", m.Primary.ValueString()+" is none of the sites: "+strings.Join(slices.Sorted(maps.Keys(names)), ", ")+".")
		return
	}
	if s, ok := m.spec(ctx, &resp.Diagnostics); ok {
		if err := s.Check(); err != nil {
			resp.Diagnostics.AddAttributeError(path.Root("sites"), "Sites that do not go together", err.Error()+".")
		}
	}
	if m.AcceptLoss.ValueString() != "" && !m.Failover.IsUnknown() && m.Failover.ValueString() != forced {
		resp.Diagnostics.AddAttributeError(path.Root("accept_data_loss"), "Nothing is lost by a planned move",
			"accept_data_loss is for failover = \"forced\".\nWhat to do: remove it, or set failover.")
	}
}

// previewTimeout bounds what a plan does to be able to warn.
const previewTimeout = time.Minute

// ModifyPlan says what an apply does, and what speaks against it.
func (r *crossResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	diags := &resp.Diagnostics
	if req.Plan.Raw.IsNull() {
		diags.AddWarning("Destroying a pgha_cross_dc_replication leaves its sites as they are",
			"Sites that follow go on following: none of them takes writes because of this. Slots and settings for sites without nodes are removed.")
		return
	}
	var before, m model
	if !req.State.Raw.IsNull() {
		diags.Append(req.State.Get(ctx, &before)...)
	}
	diags.Append(req.Plan.Get(ctx, &m)...)
	if diags.HasError() {
		return
	}
	m.ID = m.Name
	exists := !req.State.Raw.IsNull()
	if exists && m.Primary.Equal(before.Primary) {
		m.Generation = before.Generation
	} else {
		m.Generation = types.Int64Unknown()
	}
	diags.Append(resp.Plan.Set(ctx, &m)...)
	if exists && m.Failover.ValueString() == forced && before.Failover.ValueString() == forced && m.Primary.Equal(before.Primary) {
		diags.AddWarning("failover is still \"forced\"", "The primary is where it should be. Set failover back to \"planned\", and remove accept_data_loss, so that the next move of the primary is a planned one.")
	}
	s, ok := m.spec(ctx, diags)
	if !ok || diags.HasError() || r.S == nil || exists && resp.Plan.Raw.Equal(req.State.Raw) {
		return
	}
	if err := s.Check(); err != nil {
		diags.AddAttributeError(path.Root("sites"), "Sites that do not go together", err.Error()+".")
		return
	}
	for _, site := range s.Sites {
		for _, c := range site.Clusters {
			if c.Cluster.UID == "" {
				return // it is only to come
			}
		}
	}
	r.preview(ctx, s, exists, diags)
}

func (r *crossResource) preview(ctx context.Context, s crossdc.Spec, exists bool, diags *diag.Diagnostics) {
	bounded, cancel := context.WithTimeout(ctx, previewTimeout)
	defer cancel()
	p, err := r.manager(s).Preview(bounded, s)
	if err != nil {
		diags.AddWarning("What applying the replication "+s.Name+" does could not be found out", r.S.Redact.Apply(problem.Details(err)))
		return
	}
	if len(p.Warnings) > 0 { // one: Terraform shows the first of several with one title
		diags.AddWarning("Check the settings of the sites of "+s.Name, r.S.Redact.Apply("- "+strings.Join(p.Warnings, ".\n- "))+".")
	}
	if len(p.Steps) > 0 && exists {
		diags.AddWarning("Applying this changes the replication "+s.Name, "- "+strings.Join(p.Steps, "\n- "))
	}
	if p.Title != "" {
		diags.AddWarning(p.Title, r.S.Redact.Apply(p.Text))
	}
	if len(p.Against) > 0 {
		diags.AddWarning("What speaks against it now", "An apply is refused, and changes nothing, while it is so:\n- "+r.S.Redact.Apply(strings.Join(p.Against, "\n- ")))
	}
}

func (r *crossResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
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

func (r *crossResource) apply(ctx context.Context, m *model, verb string, diags *diag.Diagnostics) bool {
	s, ok := m.spec(ctx, diags)
	if !ok {
		return false
	}
	a, err := r.manager(s).Apply(ctx, s)
	if err != nil {
		r.S.Fail(diags, "Unable to "+verb+" the replication "+s.Name, err)
		return false
	}
	for site, err := range a.Waits {
		diags.AddWarning("Site "+site+" was left as it is", "It cannot be reached: "+r.S.Redact.Apply(problem.Details(err)))
	}
	m.ID, m.Generation, m.Drift = m.Name, types.Int64Value(a.Generation), base.NoDrift()
	return !diags.HasError()
}

func (r *crossResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
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
	case errors.Is(err, patroni.ErrNoCluster):
		resp.State.RemoveResource(ctx)
		return
	case err != nil && r.S.Unreachable(&resp.Diagnostics, "replication "+s.Name, err):
		return
	case err != nil:
		r.S.Fail(&resp.Diagnostics, "Unable to read the replication "+s.Name, err)
		return
	case o.Absent:
		resp.State.RemoveResource(ctx)
		return
	}
	for _, alarm := range o.Alarms {
		resp.Diagnostics.AddWarning("SPLIT BRAIN in the replication "+s.Name, r.S.Redact.Apply(alarm))
	}
	for site, err := range o.Silent {
		resp.Diagnostics.AddWarning("Site "+site+" cannot be reached", r.S.Redact.Apply(problem.Details(err))+"\nWhat is said about it is what was last known.")
	}
	if o.Primary != "" {
		m.Primary = types.StringValue(o.Primary)
	}
	m.Generation = types.Int64Value(o.Generation)
	m.Drift = base.DriftValue(ctx, o.Drift, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}

func (r *crossResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
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

func (r *crossResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
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
	if err := r.manager(s).Destroy(ctx, s); err != nil && !errors.Is(err, patroni.ErrNoCluster) {
		r.S.Fail(&resp.Diagnostics, "Unable to destroy the replication "+s.Name, err)
	}
}
