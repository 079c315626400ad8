package connattr

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// Access says how to reach an etcd cluster. A member is one line of text, see
// formatMember: plans show these objects, and a nested object for each member
// in each of them would bury what changes.
type Access struct {
	Name       types.String            `tfsdk:"name"`
	UID        types.String            `tfsdk:"uid"`
	TLS        types.Bool              `tfsdk:"tls"`
	Auth       types.Bool              `tfsdk:"auth"`
	ClientPort types.Int64             `tfsdk:"client_port"`
	Members    map[string]types.String `tfsdk:"members"`
	Authority  types.String            `tfsdk:"authority"`
	// Files are paths that somebody else has certificates at, by what they are.
	Files map[string]types.String `tfsdk:"files"`
}

// AccessType is the type of an access object.
var AccessType = types.ObjectType{AttrTypes: map[string]attr.Type{
	"name": types.StringType, "uid": types.StringType, "tls": types.BoolType, "auth": types.BoolType,
	"client_port": types.Int64Type, "members": types.MapType{ElemType: types.StringType}, "authority": types.StringType,
	"files": types.MapType{ElemType: types.StringType},
}}

// formatMember writes a member as its address, followed by what is needed to
// log in to its host where that is not the same: "10.0.0.1" or
// "10.0.0.1?ssh=192.0.2.1&port=2222&user=admin". The host's name is left out
// where it is the member's.
func formatMember(name string, m etcd.Member) string {
	q := url.Values{}
	set := func(key, value, usual string) {
		if value != usual {
			q.Set(key, value)
		}
	}
	t := m.Target
	set("host", t.Name, name)
	set("ssh", t.Address, m.Address)
	set("user", t.User, "")
	set("host_key", t.HostKey, "")
	set("bastions", t.Bastions, "")
	if t.Port != 0 {
		q.Set("port", strconv.Itoa(t.Port))
	}
	if len(q) == 0 {
		return m.Address
	}
	return m.Address + "?" + q.Encode()
}

// parseMember reads what formatMember wrote.
func parseMember(name, text string) (etcd.Member, error) {
	address, query, _ := strings.Cut(text, "?")
	q, err := url.ParseQuery(query)
	if err != nil || address == "" {
		return etcd.Member{}, fmt.Errorf("%q is not a member of an access object", text)
	}
	get := func(key, usual string) string {
		if q.Has(key) {
			return q.Get(key)
		}
		return usual
	}
	m := etcd.Member{Address: address, Target: host.Target{
		Name: get("host", name), Address: get("ssh", address), User: get("user", ""), HostKey: get("host_key", ""), Bastions: get("bastions", ""),
	}}
	if p := q.Get("port"); p != "" {
		if m.Target.Port, err = strconv.Atoi(p); err != nil {
			return etcd.Member{}, fmt.Errorf("%q is not a member of an access object", text)
		}
	}
	return m, nil
}

// AccessObject returns an etcd cluster's access as a value. The uid is unknown
// until the cluster exists: that keeps whatever needs the cluster itself from
// being tried while there is only a plan of it.
func AccessObject(ctx context.Context, a etcd.Access, uid types.String, diags *diag.Diagnostics) types.Object {
	v := Access{
		Name: types.StringValue(a.Name), UID: uid, TLS: types.BoolValue(a.TLS), Auth: types.BoolValue(a.Auth),
		ClientPort: types.Int64Value(int64(a.ClientPort)), Members: map[string]types.String{},
	}
	if a.Authority != "" {
		v.Authority = types.StringValue(a.Authority)
	}
	for name, p := range a.FileNames() {
		if v.Files == nil {
			v.Files = map[string]types.String{}
		}
		v.Files[name] = types.StringValue(p)
	}
	for name, m := range a.Members {
		v.Members[name] = types.StringValue(formatMember(name, m))
	}
	o, d := types.ObjectValueFrom(ctx, AccessType.AttrTypes, v)
	diags.Append(d...)
	return o
}

// AccessFrom reads an access object. It returns false while it is not known;
// the uid may be unknown.
func AccessFrom(ctx context.Context, o types.Object, diags *diag.Diagnostics) (etcd.Access, bool) {
	if o.IsNull() || o.IsUnknown() {
		return etcd.Access{}, false
	}
	for name, v := range o.Attributes() {
		if name != "uid" && !Known(v) {
			return etcd.Access{}, false
		}
	}
	var v Access
	diags.Append(o.As(ctx, &v, basetypes.ObjectAsOptions{})...)
	a := etcd.Access{
		Name: v.Name.ValueString(), TLS: v.TLS.ValueBool(), Auth: v.Auth.ValueBool(),
		ClientPort: int(v.ClientPort.ValueInt64()), Members: map[string]etcd.Member{}, Authority: v.Authority.ValueString(),
		Theirs: v.TLS.ValueBool() && etcd.AdoptedUID(v.UID.ValueString()),
	}
	files := map[string]string{}
	for name, p := range v.Files {
		files[name] = p.ValueString()
	}
	a = a.WithFileNames(files)
	for name, text := range v.Members {
		m, err := parseMember(name, text.ValueString())
		if err != nil {
			diags.AddError("Invalid access object", err.Error()+".")
			return etcd.Access{}, false
		}
		a.Members[name] = m
	}
	return a, !diags.HasError()
}
