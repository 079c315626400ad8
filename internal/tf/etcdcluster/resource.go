// Package etcdcluster is the resource pgha_etcd_cluster.
package etcdcluster

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
)

// New returns the resource.
func New() resource.Resource { return &etcdResource{} }

type etcdResource struct{ base.Resource }

var (
	_ resource.ResourceWithConfigure      = &etcdResource{}
	_ resource.ResourceWithModifyPlan     = &etcdResource{}
	_ resource.ResourceWithValidateConfig = &etcdResource{}
)

func (r *etcdResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_etcd_cluster"
}
