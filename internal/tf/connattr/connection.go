// Package connattr holds the objects that resources pass along to each other:
// how to reach a host, an etcd cluster, a Patroni cluster. None of them holds a
// secret.
package connattr

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// Connection says how to reach a host.
type Connection struct {
	Name     types.String `tfsdk:"name"`
	Address  types.String `tfsdk:"address"`
	Port     types.Int64  `tfsdk:"port"`
	User     types.String `tfsdk:"user"`
	HostKey  types.String `tfsdk:"host_key"`
	Bastions types.String `tfsdk:"bastions"`
}

// ConnectionType is the type of a connection object.
var ConnectionType = types.ObjectType{AttrTypes: map[string]attr.Type{
	"name": types.StringType, "address": types.StringType, "port": types.Int64Type,
	"user": types.StringType, "host_key": types.StringType, "bastions": types.StringType,
}}

// Object returns the connection as a value.
func (c Connection) Object(ctx context.Context, diags *diag.Diagnostics) types.Object {
	o, d := types.ObjectValueFrom(ctx, ConnectionType.AttrTypes, c)
	diags.Append(d...)
	return o
}

// Target returns the connection for the layers below.
func (c Connection) Target() host.Target {
	return host.Target{
		Name: c.Name.ValueString(), Address: c.Address.ValueString(), Port: int(c.Port.ValueInt64()),
		User: c.User.ValueString(), HostKey: c.HostKey.ValueString(), Bastions: c.Bastions.ValueString(),
	}
}

// ConnectionOf is the other way round.
func ConnectionOf(t host.Target) Connection {
	c := Connection{
		Name: types.StringValue(t.Name), Address: types.StringValue(t.Address), Port: types.Int64Null(),
		User: optional(t.User), HostKey: optional(t.HostKey), Bastions: optional(t.Bastions),
	}
	if t.Port != 0 {
		c.Port = types.Int64Value(int64(t.Port))
	}
	return c
}

func optional(s string) types.String {
	if s == "" {
		return types.StringNull()
	}
	return types.StringValue(s)
}

// TargetFrom reads a connection object. It returns false while any part of it
// is unknown, or the object is null.
func TargetFrom(ctx context.Context, o types.Object, diags *diag.Diagnostics) (host.Target, bool) {
	if !Known(o) || o.IsNull() {
		return host.Target{}, false
	}
	var c Connection
	diags.Append(o.As(ctx, &c, basetypes.ObjectAsOptions{})...)
	return c.Target(), !diags.HasError()
}

// Known reports whether a value and everything in it is known.
func Known(v attr.Value) bool {
	if v == nil || v.IsUnknown() {
		return false
	}
	if v.IsNull() {
		return true
	}
	switch v := v.(type) {
	case types.Object:
		for _, e := range v.Attributes() {
			if !Known(e) {
				return false
			}
		}
	case types.Map:
		for _, e := range v.Elements() {
			if !Known(e) {
				return false
			}
		}
	case types.List:
		for _, e := range v.Elements() {
			if !Known(e) {
				return false
			}
		}
	case types.Set:
		for _, e := range v.Elements() {
			if !Known(e) {
				return false
			}
		}
	}
	return true
}
