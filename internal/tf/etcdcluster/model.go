package etcdcluster

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

type model struct {
	ID                 types.String     `tfsdk:"id"`
	Name               types.String     `tfsdk:"name"`
	Version            types.String     `tfsdk:"version"`
	Members            types.Map        `tfsdk:"members"`
	ClientPort         types.Int64      `tfsdk:"client_port"`
	PeerPort           types.Int64      `tfsdk:"peer_port"`
	TLS                types.Bool       `tfsdk:"tls"`
	Auth               types.Bool       `tfsdk:"auth"`
	HeartbeatInterval  customtypes.Text `tfsdk:"heartbeat_interval"`
	ElectionTimeout    customtypes.Text `tfsdk:"election_timeout"`
	Quota              customtypes.Text `tfsdk:"quota_backend_bytes"`
	DefragmentAbove    customtypes.Text `tfsdk:"defragment_above"`
	Retention          customtypes.Text `tfsdk:"auto_compaction_retention"`
	SnapshotCount      types.Int64      `tfsdk:"snapshot_count"`
	Snapshots          types.Object     `tfsdk:"snapshots"`
	Certificates       types.Object     `tfsdk:"certificates"`
	Restore            types.Object     `tfsdk:"restore"`
	DeletionProtection types.Bool       `tfsdk:"deletion_protection"`
	OnDestroy          types.String     `tfsdk:"on_destroy"`
	UID                types.String     `tfsdk:"uid"`
	Access             types.Object     `tfsdk:"access"`
	Drift              types.List       `tfsdk:"drift"`
	Timeouts           timeouts.Value   `tfsdk:"timeouts"`
}

type memberModel struct {
	Host    types.Object `tfsdk:"host"`
	Address types.String `tfsdk:"address"`
}

// members reads the members. It returns false while any of them is unknown.
func (m model) members(ctx context.Context, diags *diag.Diagnostics) (map[string]etcd.Member, bool) {
	if m.Members.IsNull() || !connattr.Known(m.Members) {
		return nil, false
	}
	models := map[string]memberModel{}
	diags.Append(m.Members.ElementsAs(ctx, &models, false)...)
	members := map[string]etcd.Member{}
	for name, mm := range models {
		t, ok := connattr.TargetFrom(ctx, mm.Host, diags)
		if !ok {
			return nil, false
		}
		address := mm.Address.ValueString()
		if address == "" {
			address = t.Address
		}
		members[name] = etcd.Member{Address: address, Target: t}
	}
	return members, true
}

// leaving are the members that there were before and are not wanted any more, or
// are wanted at another address.
func leaving(before, now map[string]etcd.Member) map[string]etcd.Member {
	gone := map[string]etcd.Member{}
	for name, m := range before {
		if other, ok := now[name]; !ok || other.Address != m.Address {
			gone[name] = m
		}
	}
	return gone
}

// spec reads the whole model, which must be known except for the timing.
func (m model) spec(ctx context.Context, diags *diag.Diagnostics) (etcd.Spec, bool) {
	members, ok := m.members(ctx, diags)
	snapshots, known := m.snapshots(ctx, diags)
	restore, asked := m.restore(ctx, diags)
	s := etcd.Spec{
		Name: m.Name.ValueString(), UID: m.UID.ValueString(), Version: m.Version.ValueString(), Members: members,
		ClientPort: int(m.ClientPort.ValueInt64()), PeerPort: int(m.PeerPort.ValueInt64()),
		TLS: m.TLS.ValueBool(), Auth: m.Auth.ValueBool(),
		Heartbeat: m.HeartbeatInterval.Duration(), Election: m.ElectionTimeout.Duration(),
		QuotaBytes: m.Quota.Bytes(), CompactionRetention: m.Retention.Duration(), SnapshotCount: m.SnapshotCount.ValueInt64(),
		DefragmentAbove: m.DefragmentAbove.Bytes(), Snapshots: snapshots, Restore: restore,
	}
	known = m.certificates(ctx, &s, diags) && known
	return s, ok && known && asked && !diags.HasError()
}

func checkQuota(s string) error {
	v, diags := customtypes.SizeType.ValueFromString(context.Background(), types.StringValue(s))
	if t, ok := v.(customtypes.Text); ok && !diags.HasError() {
		if n := t.Bytes(); n != 0 && (n < 16<<20 || n > 8<<30) {
			return fmt.Errorf("%s is not between 16MiB and 8GiB, the range that etcd supports", s)
		}
	}
	return nil
}

func checkDefragment(s string) error {
	v, diags := customtypes.SizeType.ValueFromString(context.Background(), types.StringValue(s))
	if t, ok := v.(customtypes.Text); ok && !diags.HasError() && t.Bytes() < 16<<20 {
		return fmt.Errorf("%s is less than 16MiB; etcd's database always has some room free in it, which it uses again", s)
	}
	return nil
}

// Default timeouts.
const (
	createTimeout = 30 * time.Minute
	readTimeout   = 2 * time.Minute
	deleteTimeout = 15 * time.Minute
)
