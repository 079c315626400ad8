// Package patronicluster is the resource pgha_patroni_cluster.
package patronicluster

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
)

// New returns the resource.
func New() resource.Resource { return &clusterResource{} }

type clusterResource struct{ base.Resource }

var (
	_ resource.ResourceWithConfigure      = &clusterResource{}
	_ resource.ResourceWithModifyPlan     = &clusterResource{}
	_ resource.ResourceWithValidateConfig = &clusterResource{}
)

func (r *clusterResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_patroni_cluster"
}
