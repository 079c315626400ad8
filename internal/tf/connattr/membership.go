package connattr

import (
	"context"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// Membership is what a node has to know about its cluster.
type Membership struct {
	Scope            types.String   `tfsdk:"scope"`
	Namespace        types.String   `tfsdk:"namespace"`
	UID              types.String   `tfsdk:"uid"`
	Etcd             types.Object   `tfsdk:"etcd"`
	PostgresPort     types.Int64    `tfsdk:"postgresql_port"`
	RestAPIPort      types.Int64    `tfsdk:"rest_api_port"`
	RestAPIAllowlist []types.String `tfsdk:"rest_api_allowlist"`
	Users            types.Object   `tfsdk:"users"`
	Initdb           types.Object   `tfsdk:"initdb"`
	TTL              types.Int64    `tfsdk:"ttl"`
	LoopWait         types.Int64    `tfsdk:"loop_wait"`
	TakeOver         types.String   `tfsdk:"take_over"` // "NODE:17/main"
	Citus            types.Object   `tfsdk:"citus"`
}

// Citus is a group's place in a Citus formation.
type Citus struct {
	Group    types.Int64  `tfsdk:"group"`
	Database types.String `tfsdk:"database"`
}

// CitusType is the type of a Citus object.
var CitusType = types.ObjectType{AttrTypes: map[string]attr.Type{"group": types.Int64Type, "database": types.StringType}}

// CitusObject is a group's place as a value, null for nil.
func CitusObject(ctx context.Context, c *patroni.Citus, diags *diag.Diagnostics) types.Object {
	if c == nil {
		return types.ObjectNull(CitusType.AttrTypes)
	}
	o, d := types.ObjectValueFrom(ctx, CitusType.AttrTypes, Citus{types.Int64Value(int64(c.Group)), types.StringValue(c.Database)})
	diags.Append(d...)
	return o
}

// CitusFrom reads a Citus object; nil where there is none. It returns false while it is
// not known.
func CitusFrom(ctx context.Context, o types.Object, diags *diag.Diagnostics) (*patroni.Citus, bool) {
	if o.IsNull() || !Known(o) {
		return nil, o.IsNull()
	}
	var c Citus
	diags.Append(o.As(ctx, &c, basetypes.ObjectAsOptions{})...)
	return &patroni.Citus{Group: int(c.Group.ValueInt64()), Database: c.Database.ValueString()}, true
}

type users struct {
	Superuser   types.String `tfsdk:"superuser"`
	Replication types.String `tfsdk:"replication"`
	Rewind      types.String `tfsdk:"rewind"`
	RestAPI     types.String `tfsdk:"rest_api"`
}

type initdb struct {
	Locale        types.String `tfsdk:"locale"`
	Encoding      types.String `tfsdk:"encoding"`
	DataChecksums types.Bool   `tfsdk:"data_checksums"`
}

var usersType = types.ObjectType{AttrTypes: map[string]attr.Type{
	"superuser": types.StringType, "replication": types.StringType, "rewind": types.StringType, "rest_api": types.StringType,
}}

var initdbType = types.ObjectType{AttrTypes: map[string]attr.Type{
	"locale": types.StringType, "encoding": types.StringType, "data_checksums": types.BoolType,
}}

// MembershipType is the type of a membership object.
var MembershipType = types.ObjectType{AttrTypes: map[string]attr.Type{
	"scope": types.StringType, "namespace": types.StringType, "uid": types.StringType, "etcd": AccessType,
	"postgresql_port": types.Int64Type, "rest_api_port": types.Int64Type,
	"rest_api_allowlist": types.ListType{ElemType: types.StringType}, "users": usersType, "initdb": initdbType, "ttl": types.Int64Type, "loop_wait": types.Int64Type,
	"take_over": types.StringType, "citus": CitusType,
}}

// MembershipObject returns a cluster as a value. The uid is unknown until the
// cluster exists.
func MembershipObject(ctx context.Context, c patroni.Cluster, uid types.String, access types.Object, diags *diag.Diagnostics) types.Object {
	m := Membership{
		Scope: types.StringValue(c.Scope), Namespace: types.StringValue(c.Namespace), UID: uid, Etcd: access,
		PostgresPort: types.Int64Value(int64(c.PostgresPort)), RestAPIPort: types.Int64Value(int64(c.APIPort)),
		RestAPIAllowlist: []types.String{}, TTL: types.Int64Value(c.TTL), LoopWait: types.Int64Value(c.LoopWait),
	}
	for _, a := range c.APIAllowlist {
		m.RestAPIAllowlist = append(m.RestAPIAllowlist, types.StringValue(a))
	}
	if c.TakeOver.Node != "" {
		m.TakeOver = types.StringValue(c.TakeOver.Node + ":" + c.TakeOver.Debian)
	}
	m.Citus = CitusObject(ctx, c.Citus, diags)
	var d diag.Diagnostics
	m.Users, d = types.ObjectValueFrom(ctx, usersType.AttrTypes, users{
		Superuser: types.StringValue(c.Users.Superuser), Replication: types.StringValue(c.Users.Replication),
		Rewind: types.StringValue(c.Users.Rewind), RestAPI: types.StringValue(c.Users.API),
	})
	diags.Append(d...)
	m.Initdb, d = types.ObjectValueFrom(ctx, initdbType.AttrTypes, initdb{
		Locale: types.StringValue(c.Initdb.Locale), Encoding: types.StringValue(c.Initdb.Encoding),
		DataChecksums: types.BoolValue(c.Initdb.DataChecksums),
	})
	diags.Append(d...)
	o, d := types.ObjectValueFrom(ctx, MembershipType.AttrTypes, m)
	diags.Append(d...)
	return o
}

// ClusterFrom reads a membership object. It returns false while it is not
// known; the uids in it may be unknown.
func ClusterFrom(ctx context.Context, o types.Object, diags *diag.Diagnostics) (patroni.Cluster, bool) {
	if o.IsNull() || o.IsUnknown() {
		return patroni.Cluster{}, false
	}
	for name, v := range o.Attributes() {
		if name != "uid" && name != "etcd" && !Known(v) {
			return patroni.Cluster{}, false
		}
	}
	var m Membership
	diags.Append(o.As(ctx, &m, basetypes.ObjectAsOptions{})...)
	if diags.HasError() {
		return patroni.Cluster{}, false
	}
	access, ok := AccessFrom(ctx, m.Etcd, diags)
	if !ok {
		return patroni.Cluster{}, false
	}
	var u users
	var i initdb
	diags.Append(m.Users.As(ctx, &u, basetypes.ObjectAsOptions{})...)
	diags.Append(m.Initdb.As(ctx, &i, basetypes.ObjectAsOptions{})...)
	c := patroni.Cluster{
		Scope: m.Scope.ValueString(), Namespace: m.Namespace.ValueString(), UID: m.UID.ValueString(), Etcd: access,
		PostgresPort: int(m.PostgresPort.ValueInt64()), APIPort: int(m.RestAPIPort.ValueInt64()),
		TTL: m.TTL.ValueInt64(), LoopWait: m.LoopWait.ValueInt64(),
		Users: patroni.Users{
			Superuser: u.Superuser.ValueString(), Replication: u.Replication.ValueString(),
			Rewind: u.Rewind.ValueString(), API: u.RestAPI.ValueString(),
		},
		Initdb: patroni.Initdb{
			Locale: i.Locale.ValueString(), Encoding: i.Encoding.ValueString(), DataChecksums: i.DataChecksums.ValueBool(),
		},
	}
	c.Citus, _ = CitusFrom(ctx, m.Citus, diags)
	c.TakeOver.Node, c.TakeOver.Debian, _ = strings.Cut(m.TakeOver.ValueString(), ":")
	for _, a := range m.RestAPIAllowlist {
		c.APIAllowlist = append(c.APIAllowlist, a.ValueString())
	}
	return c, !diags.HasError()
}
