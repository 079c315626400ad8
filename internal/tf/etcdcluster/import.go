package etcdcluster

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

var _ resource.ResourceWithImportState = &etcdResource{}

// ImportState takes up a cluster that exists: one that was made by this provider,
// or one made by hand. It looks at the hosts and changes nothing there.
func (r *etcdResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	diags := &resp.Diagnostics
	name, members, err := connattr.ParseEtcdID(req.ID)
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
	ctx, cancel := base.WithTimeout(ctx, readTimeout, "import")
	defer cancel()
	manager, done := r.S.EtcdCluster("pgha_etcd_cluster " + name)
	defer done()
	s, err := manager.Discover(ctx, name, members)
	if err != nil {
		r.S.Fail(diags, "Unable to import etcd cluster "+name, err)
		return
	}
	m.take(ctx, s, diags)
	diags.Append(resp.State.Set(ctx, &m)...)
}

// take fills the model with a cluster that was found.
func (m *model) take(ctx context.Context, s etcd.Spec, diags *diag.Diagnostics) {
	members := map[string]memberModel{}
	for name, member := range s.Members {
		mm := memberModel{Host: connattr.ConnectionOf(member.Target).Object(ctx, diags)}
		if member.Address != member.Target.Address {
			mm.Address = types.StringValue(member.Address)
		}
		members[name] = mm
	}
	var d diag.Diagnostics
	m.Members, d = types.MapValueFrom(ctx, m.Members.ElementType(ctx), members)
	diags.Append(d...)
	m.ID, m.Name, m.Version, m.UID = types.StringValue(s.Name), types.StringValue(s.Name), types.StringValue(s.Version), types.StringValue(s.UID)
	m.ClientPort, m.PeerPort = types.Int64Value(int64(s.ClientPort)), types.Int64Value(int64(s.PeerPort))
	m.TLS, m.Auth = types.BoolValue(s.TLS), types.BoolValue(s.Auth)
	m.HeartbeatInterval, m.ElectionTimeout = customtypes.DurationValue(s.Heartbeat), customtypes.DurationValue(s.Election)
	m.Quota, m.Retention = customtypes.SizeValue(s.QuotaBytes), customtypes.DurationValue(s.CompactionRetention)
	if s.SnapshotCount > 0 {
		m.SnapshotCount = types.Int64Value(s.SnapshotCount)
	}
	m.Snapshots, m.Restore = types.ObjectNull(snapshotsType), types.ObjectNull(restoreType)
	if found := s.Snapshots; found != nil {
		sm := snapshotsModel{Schedule: types.StringValue(found.Schedule), Keep: types.Int64Value(int64(found.Keep)), Directory: types.StringValue(found.Directory)}
		if found.Member != "" {
			sm.Member = types.StringValue(found.Member)
		}
		m.Snapshots, d = types.ObjectValueFrom(ctx, snapshotsType, sm)
		diags.Append(d...)
	}
	m.Certificates = certificatesOf(ctx, s.Files, diags)
	m.DeletionProtection, m.OnDestroy = types.BoolValue(true), types.StringValue("keep_data")
	m.Access = connattr.AccessObject(ctx, s.Access(), m.UID, diags)
	m.Drift = base.NoDrift()
}
