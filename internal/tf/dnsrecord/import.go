package dnsrecord

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/dns"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
)

var _ resource.ResourceWithImportState = &recordResource{}

// ImportState takes up a record that this provider has set up before. The secret stays
// where it is, on the hosts.
func (r *recordResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	diags := &resp.Diagnostics
	text, cluster, _ := strings.Cut(req.ID, "@")
	name, err := dns.Qualify(text)
	var id connattr.ClusterID
	if err == nil {
		id, err = connattr.ParseClusterID(cluster)
	}
	if err != nil {
		diags.AddAttributeError(path.Root("id"), "Invalid import id", fmt.Sprintf("%v.\n%q is to be of the form NAME@SCOPE@ETCD@MEMBER=ADDRESS,... (db.example.org@main@dcs@pg1=10.0.0.1,pg2=10.0.0.2,pg3=10.0.0.3).", err, req.ID))
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
	var s dns.Spec
	if err == nil {
		s, err = r.manager(dns.Spec{Cluster: c, Name: name}).Find(ctx, c, name)
	}
	if err != nil {
		r.S.Fail(diags, "Unable to import DNS record "+req.ID, err)
		return
	}
	m.complete(s)
	m.Cluster = connattr.MembershipObject(ctx, c, types.StringValue(c.UID), access, diags)
	nodes := map[string]string{}
	for _, node := range s.Nodes {
		nodes[node] = c.Name() + "/" + node
	}
	list, d := types.MapValueFrom(ctx, types.StringType, nodes)
	diags.Append(d...)
	m.Nodes = list
	var servers []string
	for _, server := range s.Servers {
		if host, port, err := net.SplitHostPort(server); err == nil && port == "53" {
			server = host
		}
		servers = append(servers, server)
	}
	m.Servers, d = types.ListValueFrom(ctx, types.StringType, servers)
	diags.Append(d...)
	m.Zone, m.Name = types.StringValue(strings.TrimSuffix(s.Zone, ".")), types.StringValue(strings.TrimSuffix(s.Name, "."+s.Zone))
	m.Type, m.TTL, m.Follow = types.StringValue(s.Type), types.Int64Value(s.TTL), types.StringValue(s.Follow)
	m.Generation = types.Int64Value(s.Generation)
	if s.Replication != "" {
		m.Replicated = types.StringValue(s.Replication)
	}
	m.Key, d = types.ObjectValueFrom(ctx, keyTypes, keyModel{Name: types.StringValue(strings.TrimSuffix(s.Key.Name, ".")), Algorithm: types.StringValue(s.Key.Algorithm)})
	diags.Append(d...)
	if len(s.Targets) > 0 {
		m.Targets, d = types.MapValueFrom(ctx, types.ListType{ElemType: types.StringType}, s.Targets)
		diags.Append(d...)
	}
	m.Drift = base.NoDrift()
	diags.Append(resp.State.Set(ctx, &m)...)
}
