package patroninode

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

var _ resource.ResourceWithImportState = &nodeResource{}

// ImportState takes up a node that exists: one that was made by this provider, or
// one made by hand. It looks at it and changes nothing there.
func (r *nodeResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	diags := &resp.Diagnostics
	name, at, id, err := connattr.ParseNodeID(req.ID)
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
	c, access, k, err := r.S.FindCluster(ctx, id.With(name, at))
	if err != nil {
		r.S.Fail(diags, "Unable to import Patroni node "+name, err)
		return
	}
	n, err := r.S.Patroni("pgha_patroni_node "+name).Find(ctx, c, k, name, at)
	if err != nil {
		r.S.Fail(diags, "Unable to import Patroni node "+name, err)
		return
	}
	m.take(ctx, n, access, diags)
	diags.Append(resp.State.Set(ctx, &m)...)
}

// take fills the model with a node that was found.
func (m *model) take(ctx context.Context, n patroni.Node, access types.Object, diags *diag.Diagnostics) {
	m.ID, m.Name = types.StringValue(n.Cluster.Name()+"/"+n.Name), types.StringValue(n.Name)
	m.Cluster = connattr.MembershipObject(ctx, n.Cluster, types.StringValue(n.Cluster.UID), access, diags)
	m.Host = connattr.ConnectionOf(n.Target).Object(ctx, diags)
	if n.Address != n.Target.Address {
		m.Address = types.StringValue(n.Address)
	}
	pins := versionsModel{PostgreSQL: types.StringValue(n.Postgres), Patroni: types.StringValue(n.Patroni), Extensions: types.MapNull(types.StringType)}
	if version := n.Extensions[citus]; version != "" {
		pins.Citus = types.StringValue(version)
	}
	v, d := types.ObjectValueFrom(ctx, m.Versions.AttributeTypes(ctx), pins)
	diags.Append(d...)
	m.Versions = v
	m.DataDirectory = types.StringValue(n.DataDir)
	m.OnDestroy = types.StringValue("keep_data")
	m.Drift = base.NoDrift()
	m.Watchdog, m.Margin = types.StringValue("off"), customtypes.DurationValue(5*time.Second)
	if n.Watchdog.On() {
		m.Watchdog, m.Margin = types.StringValue(n.Watchdog.Mode), customtypes.DurationValue(time.Duration(n.Watchdog.SafetyMargin)*time.Second)
		if n.Watchdog.Device != "" {
			m.Device = types.StringValue(n.Watchdog.Device)
		}
	}
	if len(n.Tags) == 0 {
		return
	}
	t := tagsModel{Custom: types.MapNull(types.StringType)}
	custom := map[string]attr.Value{}
	for _, name := range slices.Sorted(maps.Keys(n.Tags)) {
		text := patroni.Text(n.Tags[name])
		flag, _ := patroni.Bool(n.Tags[name])
		switch name {
		case "nofailover":
			t.NoFailover = types.BoolValue(flag)
		case "clonefrom":
			t.CloneFrom = types.BoolValue(flag)
		case "noloadbalance":
			t.NoLoadBalance = types.BoolValue(flag)
		case "nosync":
			t.NoSync = types.BoolValue(flag)
		case "failover_priority":
			priority, _ := patroni.Int(n.Tags[name])
			t.FailoverPriority = types.Int64Value(priority)
		case "replicatefrom":
			t.ReplicateFrom = types.StringValue(text)
		default:
			custom[name] = types.StringValue(text)
		}
	}
	if len(custom) > 0 {
		t.Custom = types.MapValueMust(types.StringType, custom)
	}
	m.Tags, d = types.ObjectValueFrom(ctx, m.Tags.AttributeTypes(ctx), t)
	diags.Append(d...)
}
