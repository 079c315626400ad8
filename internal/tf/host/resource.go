// Package host is the resource pgha_host.
package host

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/pgha/terraform-provider-pgha/internal/prepare"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
)

// New returns the resource.
func New() resource.Resource { return &hostResource{} }

type hostResource struct{ base.Resource }

var (
	_ resource.ResourceWithConfigure  = &hostResource{}
	_ resource.ResourceWithModifyPlan = &hostResource{}
)

func (r *hostResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_host"
}

func (r *hostResource) manager(name string) *prepare.Manager {
	return &prepare.Manager{Fleet: r.S.Fleet, Log: r.S.Log, Observe: r.S.Observer("pgha_host " + name), Runner: r.S.Runner}
}
