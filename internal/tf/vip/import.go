package vip

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/vip"
)

var _ resource.ResourceWithImportState = &vipResource{}

// ImportState takes up an address that this provider has set up before.
func (r *vipResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	diags := &resp.Diagnostics
	text, cluster, _ := strings.Cut(req.ID, "@")
	address, err := netip.ParseAddr(text)
	if err != nil {
		err = fmt.Errorf("%q is not of the form ADDRESS@SCOPE@ETCD@MEMBER=ADDRESS,... (10.0.0.100@main@dcs@pg1=10.0.0.1,pg2=10.0.0.2,pg3=10.0.0.3)", req.ID)
	}
	var id connattr.ClusterID
	if err == nil {
		id, err = connattr.ParseClusterID(cluster)
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
	c, access, _, err := r.S.FindCluster(ctx, id)
	var s vip.Spec
	if err == nil {
		s, err = r.manager(vip.Spec{Cluster: c, Address: netip.PrefixFrom(address, address.BitLen())}).Find(ctx, c, address)
	}
	if err != nil {
		r.S.Fail(diags, "Unable to import virtual address "+req.ID, err)
		return
	}
	m.complete(s)
	m.Cluster = connattr.MembershipObject(ctx, c, types.StringValue(c.UID), access, diags)
	nodes := map[string]string{}
	for _, name := range s.Nodes {
		nodes[name] = c.Name() + "/" + name
	}
	list, d := types.MapValueFrom(ctx, types.StringType, nodes)
	diags.Append(d...)
	m.Nodes, m.Address, m.Version, m.Follow = list, types.StringValue(s.Address.String()), types.StringValue(s.Version), types.StringValue("leader")
	if s.StandbyLeader {
		m.Follow = types.StringValue(standbyLeader)
	}
	if s.Interface != "" {
		m.Interface = types.StringValue(s.Interface)
	}
	m.Drift = base.NoDrift()
	diags.Append(resp.State.Set(ctx, &m)...)
}
