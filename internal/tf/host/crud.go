package host

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
)

// ModifyPlan makes access known at plan time wherever its parts are, so
// that a change of something else about the host does not ripple to all that
// use it.
func (r *hostResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	if req.Plan.Raw.IsNull() {
		return
	}
	var m model
	resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...)
	if resp.Diagnostics.HasError() {
		return
	}
	if !m.Name.IsUnknown() {
		m.ID = m.Name
	}
	if !req.State.Raw.IsNull() {
		var before model
		resp.Diagnostics.Append(req.State.Get(ctx, &before)...)
		if !before.Address.Equal(m.Address) {
			m.MachineID = types.StringUnknown() // another address can be another machine
		}
	}
	if t, ok := m.target(ctx, &resp.Diagnostics); ok {
		m.Access = connattr.ConnectionOf(t).Object(ctx, &resp.Diagnostics)
	}
	resp.Diagnostics.Append(resp.Plan.Set(ctx, &m)...)
}

func (r *hostResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var m model
	resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Create(ctx, createTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "create")
	defer cancel()
	if r.apply(host.BootContext(ctx), &m, "create", &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

// apply prepares the host and fills in what is only known afterwards. It
// returns false if it failed; there must be no state then, or Terraform would
// take the host for broken and replace it.
func (r *hostResource) apply(ctx context.Context, m *model, verb string, diags *diag.Diagnostics) bool {
	s := m.spec(ctx, diags)
	if diags.HasError() {
		return false
	}
	a, err := r.manager(m.Name.ValueString()).Apply(ctx, s)
	for _, w := range a.Warnings {
		diags.AddWarning("Host "+m.Name.ValueString()+" is not as it should be", w)
	}
	if err != nil {
		r.S.Fail(diags, "Unable to "+verb+" host "+m.Name.ValueString(), err)
		return false
	}
	m.ID = m.Name
	m.MachineID = types.StringValue(a.Facts.OS().MachineID)
	m.Access = connattr.ConnectionOf(s.Target).Object(ctx, diags)
	m.Drift = base.NoDrift()
	return !diags.HasError()
}

func (r *hostResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	var m model
	resp.Diagnostics.Append(req.State.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Read(ctx, readTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "read")
	defer cancel()
	o, err := r.manager(m.Name.ValueString()).Observed(ctx, m.spec(ctx, &resp.Diagnostics))
	switch {
	case err != nil && r.S.Unreachable(&resp.Diagnostics, "host "+m.Name.ValueString(), err):
		return
	case err != nil:
		r.S.Fail(&resp.Diagnostics, "Unable to read host "+m.Name.ValueString(), err)
		return
	case o.Absent || m.MachineID.ValueString() != "" && m.MachineID.ValueString() != o.Facts.OS().MachineID && o.Facts.Marker == nil:
		if id := o.Facts.OS().MachineID; m.MachineID.ValueString() != "" && m.MachineID.ValueString() != id {
			resp.Diagnostics.AddWarning("Host "+m.Name.ValueString()+" is another machine",
				"At "+m.Address.ValueString()+" there is a machine with the id "+id+"; the one that was prepared had "+m.MachineID.ValueString()+". "+
					"It was reinstalled or replaced: what was on it is gone, and the plan prepares it anew.")
		}
		resp.State.RemoveResource(ctx)
		return
	}
	m.MachineID = types.StringValue(o.Facts.OS().MachineID)
	m.Drift = base.DriftValue(ctx, o.Drift, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}

func (r *hostResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var m model
	resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Update(ctx, createTimeout)
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

func (r *hostResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	var m model
	resp.Diagnostics.Append(req.State.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Delete(ctx, deleteTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "delete")
	defer cancel()
	if err := r.manager(m.Name.ValueString()).Destroy(ctx, m.spec(ctx, &resp.Diagnostics)); err != nil {
		r.S.Fail(&resp.Diagnostics, "Unable to delete host "+m.Name.ValueString(), err)
	}
}
