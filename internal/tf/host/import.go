package host

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/prepare"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
)

var _ resource.ResourceWithImportState = &hostResource{}

// ImportState takes up a host, as it was prepared or as nobody has prepared it.
// It looks at the host and changes nothing there.
func (r *hostResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	diags := &resp.Diagnostics
	t, err := connattr.ParseHostID(req.ID)
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
	s, f, err := r.manager(t.Name).Found(ctx, t)
	if err != nil {
		r.S.Fail(diags, "Unable to import host "+t.Name, err)
		return
	}
	m.take(ctx, s, f, diags)
	diags.Append(resp.State.Set(ctx, &m)...)
}

// take fills the model with a host that was found.
func (m *model) take(ctx context.Context, s prepare.Spec, f prepare.Facts, diags *diag.Diagnostics) {
	value := func(v attr.Value, d diag.Diagnostics) attr.Value {
		diags.Append(d...)
		return v
	}
	t := s.Target
	m.ID, m.Name, m.Address = types.StringValue(t.Name), types.StringValue(t.Name), types.StringValue(t.Address)
	m.MachineID = types.StringValue(f.OS().MachineID)
	m.Access = connattr.ConnectionOf(t).Object(ctx, diags)
	m.Drift = base.NoDrift()
	if t.Port != 0 || t.User != "" || t.HostKey != "" || t.Bastions != "" {
		ssh := sshModel{Port: types.Int64Null(), User: types.StringNull(), HostKey: types.StringNull(), Bastions: types.ListNull(types.StringType)}
		if t.Port != 0 {
			ssh.Port = types.Int64Value(int64(t.Port))
		}
		if t.User != "" {
			ssh.User = types.StringValue(t.User)
		}
		if t.HostKey != "" {
			ssh.HostKey = types.StringValue(t.HostKey)
		}
		if t.Bastions != "" {
			list := strings.Split(t.Bastions, ",")
			if t.Bastions == "none" {
				list = []string{}
			}
			ssh.Bastions = value(types.ListValueFrom(ctx, types.StringType, list)).(types.List)
		}
		m.SSH = value(types.ObjectValueFrom(ctx, m.SSH.AttributeTypes(ctx), ssh)).(types.Object)
	}
	// Thresholds are nothing that a host has.
	m.Preflight = defaultPreflight
	m.Sysctl = value(types.MapValueFrom(ctx, types.StringType, s.Sysctl)).(types.Map)
	m.MaxOpenFiles = types.Int64Value(s.NoFile)
	m.TimeSync = types.StringValue("off")
	switch {
	case s.InstallChrony:
		m.TimeSync = types.StringValue("chrony")
	case s.CheckTime:
		m.TimeSync = types.StringValue("check")
	}
	if len(s.Hosts) > 0 {
		m.HostsEntries = value(types.MapValueFrom(ctx, types.StringType, s.Hosts)).(types.Map)
	}
	if a := s.Apt; len(a.Repositories) > 0 || a.Proxy != "" || a.AllowExpired {
		m.Apt = aptValue(ctx, m.Apt, a, value)
	}
}

func aptValue(ctx context.Context, to types.Object, a prepare.Apt, value func(attr.Value, diag.Diagnostics) attr.Value) types.Object {
	kinds := to.AttributeTypes(ctx)
	fields := map[string]attr.Value{
		"proxy": types.StringNull(), "allow_expired_release": types.BoolValue(a.AllowExpired),
		"repositories": types.MapNull(kinds["repositories"].(types.MapType).ElemType),
	}
	if a.Proxy != "" {
		fields["proxy"] = types.StringValue(a.Proxy)
	}
	if len(a.Repositories) > 0 {
		element := kinds["repositories"].(types.MapType).ElemType.(types.ObjectType)
		values := map[string]attr.Value{}
		for _, name := range slices.Sorted(maps.Keys(a.Repositories)) {
			r := a.Repositories[name]
			list := func(s []string) attr.Value {
				if len(s) == 0 {
					return types.ListNull(types.StringType)
				}
				return value(types.ListValueFrom(ctx, types.StringType, s))
			}
			text := func(s string) attr.Value {
				if s == "" {
					return types.StringNull()
				}
				return types.StringValue(s)
			}
			values[name] = value(types.ObjectValue(element.AttrTypes, map[string]attr.Value{
				"uris": list(r.URIs), "suites": list(r.Suites), "components": list(r.Components), "architectures": list(r.Architectures),
				"signing_key": text(r.SigningKey), "signing_key_path": text(r.SigningKeyPath), "trusted": types.BoolValue(r.Trusted),
			}))
		}
		fields["repositories"] = value(types.MapValue(element, values))
	}
	return value(types.ObjectValue(kinds, fields)).(types.Object)
}
