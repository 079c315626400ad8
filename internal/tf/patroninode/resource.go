// Package patroninode is the resource pgha_patroni_node.
package patroninode

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
)

// New returns the resource.
func New() resource.Resource { return &nodeResource{} }

type nodeResource struct{ base.Resource }

var (
	_ resource.ResourceWithConfigure      = &nodeResource{}
	_ resource.ResourceWithModifyPlan     = &nodeResource{}
	_ resource.ResourceWithValidateConfig = &nodeResource{}
)

func (r *nodeResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_patroni_node"
}
