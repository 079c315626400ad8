package crossdc

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/crossdc"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

var _ resource.ResourceWithImportState = &crossResource{}

// importID is NAME and after it, for each cluster of each site, SITE=CLUSTER, with spaces
// between them.
type importID struct {
	name     string
	sites    []string
	clusters []connattr.ClusterID
}

func parseImportID(text string) (id importID, err error) {
	fields := strings.Fields(text)
	if len(fields) < 3 {
		return id, fmt.Errorf("%q is not of the form NAME SITE=CLUSTER SITE=CLUSTER ..., each cluster as its pgha_patroni_cluster is imported (main dc1=main@dcs@a1=10.1.0.1 dc2=main@dcs@b1=10.2.0.1)", text)
	}
	id.name = fields[0]
	for _, f := range fields[1:] {
		site, cluster, _ := strings.Cut(f, "=")
		c, err := connattr.ParseClusterID(cluster)
		if err == nil && !crossdc.SiteName.MatchString(site) {
			err = fmt.Errorf("%q is not the name of a site", site)
		}
		if err != nil {
			return id, err
		}
		id.sites, id.clusters = append(id.sites, site), append(id.clusters, c)
	}
	return id, nil
}

// ImportState takes up a replication that this provider has set up before.
func (r *crossResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	diags := &resp.Diagnostics
	id, err := parseImportID(req.ID)
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
	clusters, objects := map[string][]patroni.Cluster{}, map[string][]types.Object{}
	for i, site := range id.sites {
		c, access, _, err := r.S.FindCluster(ctx, id.clusters[i])
		if err != nil {
			r.S.Fail(diags, "Unable to import the replication "+id.name, err)
			return
		}
		clusters[site] = append(clusters[site], c)
		objects[site] = append(objects[site], connattr.MembershipObject(ctx, c, types.StringValue(c.UID), access, diags))
	}
	s, err := r.manager(crossdc.Spec{Name: id.name}).Find(ctx, id.name, clusters)
	if err != nil {
		r.S.Fail(diags, "Unable to import the replication "+id.name, err)
		return
	}
	m.ID, m.Name, m.Primary = types.StringValue(id.name), types.StringValue(id.name), types.StringValue(s.Primary)
	m.Failover = types.StringValue("planned")
	m.Sites = sitesValue(ctx, s, objects, diags)
	m.Limits = types.ObjectNull(limitsType)
	m.Drift = base.NoDrift()
	diags.Append(resp.State.Set(ctx, &m)...)
}

var (
	clusterType = types.ObjectType{AttrTypes: map[string]attr.Type{"cluster": connattr.MembershipType, "hosts": types.ListType{ElemType: types.StringType}}}
	siteType    = types.ObjectType{AttrTypes: map[string]attr.Type{
		"clusters": types.ListType{ElemType: clusterType}, "follow": types.StringType, "recovery_min_apply_delay": customtypes.DurationType,
	}}
	limitsType = map[string]attr.Type{"lag": customtypes.SizeType, "transaction": customtypes.DurationType, "gap": customtypes.DurationType}
)

// sitesValue is a spec's sites as a value, with the clusters' membership objects.
func sitesValue(ctx context.Context, s crossdc.Spec, objects map[string][]types.Object, diags *diag.Diagnostics) types.Map {
	values := map[string]attr.Value{}
	for name, site := range s.Sites {
		var list []attr.Value
		for i, c := range site.Clusters {
			hosts, d := types.ListValueFrom(ctx, types.StringType, c.Hosts)
			diags.Append(d...)
			list = append(list, types.ObjectValueMust(clusterType.AttrTypes, map[string]attr.Value{"cluster": objects[name][i], "hosts": hosts}))
		}
		delay := types.StringNull()
		if site.Delay > 0 {
			delay = types.StringValue(site.Delay.String())
		}
		d, more := customtypes.DurationType.ValueFromString(ctx, delay)
		diags.Append(more...)
		values[name] = types.ObjectValueMust(siteType.AttrTypes, map[string]attr.Value{
			"clusters": types.ListValueMust(clusterType, list), "follow": text(site.Follow), "recovery_min_apply_delay": d,
		})
	}
	return types.MapValueMust(siteType, values)
}
