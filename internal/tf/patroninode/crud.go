package patroninode

import (
	"context"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

func (r *nodeResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var m model
	resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Create(ctx, createTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "create")
	defer cancel()
	if r.apply(host.BootContext(ctx), &m, model{}, "create", &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

// apply makes or changes the node and fills in what is only known then. It
// returns false if it failed: there must be no state then, or Terraform would
// replace a node that may hold data. The mark on the host lets the next create
// go on. Before is the state, of an update.
func (r *nodeResource) apply(ctx context.Context, m *model, before model, verb string, diags *diag.Diagnostics) bool {
	n, ok := m.node(ctx, diags)
	if !ok {
		return false
	}
	n.Reclone = patroni.Announced(before.drift(ctx, diags))
	n.Freed = before.freed(ctx, n, diags)
	if err := r.S.Patroni("pgha_patroni_node "+n.Name).ApplyNode(ctx, n); err != nil {
		r.S.Fail(diags, "Unable to "+verb+" Patroni node "+n.Name, err)
		return false
	}
	if n.Watchdog.Mode == "automatic" {
		r.watchdogTrouble(ctx, n, diags)
	}
	m.ID = types.StringValue(n.Cluster.Name() + "/" + n.Name)
	m.DataDirectory = types.StringValue(n.DataDir)
	m.Drift = base.NoDrift()
	return !diags.HasError()
}

func (r *nodeResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	var m model
	resp.Diagnostics.Append(req.State.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Read(ctx, readTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	n, ok := m.node(ctx, &resp.Diagnostics)
	if !ok {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "read")
	defer cancel()
	o, err := r.S.Patroni("pgha_patroni_node "+n.Name).ObserveNode(ctx, n)
	switch {
	case err != nil && r.S.Unreachable(&resp.Diagnostics, "Patroni node "+n.Name, err):
		return
	case err != nil:
		r.S.Fail(&resp.Diagnostics, "Unable to read Patroni node "+n.Name, err)
		return
	case o.Absent:
		resp.Diagnostics.AddWarning("Node "+n.Name+" is no longer on host "+n.Target.Name,
			"The host answers, has no mark of the node ("+patroni.MarkerPath+") and runs no Patroni: it was rebuilt, or the node was removed by hand. "+
				"The plan creates the node again: data that is there is taken up, and without any it is cloned from the cluster's leader.")
		resp.State.RemoveResource(ctx)
		return
	}
	v := m.versions(ctx, &resp.Diagnostics)
	if o.Postgres != "" && !debver.Matches(v.PostgreSQL.ValueString(), o.Postgres) {
		v.PostgreSQL = types.StringValue(o.Postgres)
	}
	if o.Patroni != "" && !debver.Matches(v.Patroni.ValueString(), o.Patroni) {
		v.Patroni = types.StringValue(o.Patroni)
	}
	v.observe(ctx, o.Extensions, &resp.Diagnostics)
	versions, d := types.ObjectValueFrom(ctx, m.Versions.AttributeTypes(ctx), v)
	resp.Diagnostics.Append(d...)
	m.Versions = versions
	m.Drift = base.DriftValue(ctx, o.Drift, &resp.Diagnostics)
	if m.Watchdog.IsNull() { // imported
		m.Watchdog = types.StringValue("off")
	}
	if m.Margin.IsNull() {
		m.Margin = customtypes.DurationValue(5 * time.Second)
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}

func (r *nodeResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var before, m model
	resp.Diagnostics.Append(req.State.Get(ctx, &before)...)
	resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Update(ctx, updateTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "update")
	defer cancel()
	if r.apply(ctx, &m, before, "update", &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

func (r *nodeResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	var m model
	resp.Diagnostics.Append(req.State.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Delete(ctx, deleteTimeout)
	resp.Diagnostics.Append(diags...)
	n, ok := m.node(ctx, &resp.Diagnostics)
	if resp.Diagnostics.HasError() || !ok {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "delete")
	defer cancel()
	if err := r.S.Patroni("pgha_patroni_node "+n.Name).DestroyNode(ctx, n, m.OnDestroy.ValueString() == base.Purge); err != nil {
		r.S.Fail(&resp.Diagnostics, "Unable to destroy Patroni node "+n.Name, err)
	}
}
