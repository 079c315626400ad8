package connattr

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
)

// Access says how to reach an etcd cluster.
type Access struct {
	Name       types.String            `tfsdk:"name"`
	UID        types.String            `tfsdk:"uid"`
	TLS        types.Bool              `tfsdk:"tls"`
	Auth       types.Bool              `tfsdk:"auth"`
	ClientPort types.Int64             `tfsdk:"client_port"`
	Members    map[string]AccessMember `tfsdk:"members"`
}

// AccessMember is a member of it.
type AccessMember struct {
	Address types.String `tfsdk:"address"`
	Host    types.Object `tfsdk:"host"`
}

// AccessMemberType is the type of a member in an access object.
var AccessMemberType = types.ObjectType{AttrTypes: map[string]attr.Type{
	"address": types.StringType, "host": ConnectionType,
}}

// AccessType is the type of an access object.
var AccessType = types.ObjectType{AttrTypes: map[string]attr.Type{
	"name": types.StringType, "uid": types.StringType, "tls": types.BoolType, "auth": types.BoolType,
	"client_port": types.Int64Type, "members": types.MapType{ElemType: AccessMemberType},
}}

// AccessObject returns an etcd cluster's access as a value. The uid is unknown
// until the cluster exists: that keeps whatever needs the cluster itself from
// being tried while there is only a plan of it.
func AccessObject(ctx context.Context, a etcd.Access, uid types.String, diags *diag.Diagnostics) types.Object {
	v := Access{
		Name: types.StringValue(a.Name), UID: uid, TLS: types.BoolValue(a.TLS), Auth: types.BoolValue(a.Auth),
		ClientPort: types.Int64Value(int64(a.ClientPort)), Members: map[string]AccessMember{},
	}
	for name, m := range a.Members {
		v.Members[name] = AccessMember{
			Address: types.StringValue(m.Address), Host: ConnectionOf(m.Target).Object(ctx, diags),
		}
	}
	o, d := types.ObjectValueFrom(ctx, AccessType.AttrTypes, v)
	diags.Append(d...)
	return o
}

// AccessFrom reads an access object. It returns false while it is not known;
// the uid may be unknown.
func AccessFrom(ctx context.Context, o types.Object, diags *diag.Diagnostics) (etcd.Access, bool) {
	if o.IsNull() || o.IsUnknown() || !Known(o.Attributes()["members"]) || !Known(o.Attributes()["name"]) {
		return etcd.Access{}, false
	}
	var v Access
	diags.Append(o.As(ctx, &v, basetypes.ObjectAsOptions{})...)
	a := etcd.Access{
		Name: v.Name.ValueString(), TLS: v.TLS.ValueBool(), Auth: v.Auth.ValueBool(),
		ClientPort: int(v.ClientPort.ValueInt64()), Members: map[string]etcd.Member{},
	}
	for name, m := range v.Members {
		t, ok := TargetFrom(ctx, m.Host, diags)
		if !ok {
			return etcd.Access{}, false
		}
		a.Members[name] = etcd.Member{Address: m.Address.ValueString(), Target: t}
	}
	return a, !diags.HasError()
}
