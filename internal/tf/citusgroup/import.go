package citusgroup

import (
	"context"
	"maps"
	"slices"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
)

var _ resource.ResourceWithImportState = &groupResource{}

// ImportState takes up a group that takes part in a formation. Its nodes are those that
// etcd has noted, or of one that somebody else made, its members.
func (r *groupResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	diags := &resp.Diagnostics
	id, err := connattr.ParseClusterID(req.ID)
	if err == nil && (id.Group == nil || *id.Group == 0) {
		diags.AddAttributeError(path.Root("id"), "Invalid import id", req.ID+" names no group of workers: its number follows the scope, as in main:1@dcs@pg1=10.0.0.1.")
		return
	}
	if err != nil {
		diags.AddAttributeError(path.Root("id"), "Invalid import id", err.Error()+".")
		return
	}
	// A state that has nothing yet cannot be read.
	diags.Append(resp.State.SetAttribute(ctx, path.Root("id"), req.ID)...)
	var m model
	diags.Append(resp.State.Get(ctx, &m)...)
	if diags.HasError() || r.S == nil {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, defaults.Read, "import")
	defer cancel()
	c, access, k, err := r.S.FindCluster(ctx, id)
	if err != nil {
		r.S.Fail(diags, "Unable to import Citus worker group "+req.ID, err)
		return
	}
	m.ID, m.Cluster = types.StringValue(c.Name()), connattr.MembershipObject(ctx, c, types.StringValue(c.UID), access, diags)
	m.Nodes = ids(ctx, c, slices.Sorted(maps.Keys(k.Nodes)), diags)
	coordinators, err := r.S.Patroni("pgha_citus_worker_group "+c.Name()).Addresses(ctx, c.Coordinator())
	if err != nil {
		r.S.Fail(diags, "Unable to import Citus worker group "+req.ID, err)
		return
	}
	m.CoordinatorNodes = ids(ctx, c.Coordinator(), slices.Sorted(maps.Keys(coordinators)), diags)
	m.ShouldHaveShards, m.Drain, m.Rebalance, m.Mode = types.BoolValue(true), types.BoolValue(false), types.StringValue("manual"), types.StringValue("auto")
	m.VerifyRows = types.BoolValue(true)
	m.Drift = base.NoDrift()
	diags.Append(resp.State.Set(ctx, &m)...)
}

// ids are those of a cluster's nodes.
func ids(ctx context.Context, c patroni.Cluster, names []string, diags *diag.Diagnostics) types.List {
	list := []string{}
	for _, name := range names {
		list = append(list, c.Name()+"/"+name)
	}
	v, d := types.ListValueFrom(ctx, types.StringType, list)
	diags.Append(d...)
	return v
}
