package base

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/action"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral"
	"github.com/hashicorp/terraform-plugin-framework/resource"
)

// Resource is embedded by every resource: it takes over the services that the
// provider was configured with.
type Resource struct{ S *Services }

// Configure implements resource.ResourceWithConfigure.
func (r *Resource) Configure(_ context.Context, req resource.ConfigureRequest, resp *resource.ConfigureResponse) {
	r.S = From(req.ProviderData, &resp.Diagnostics)
}

// DataSource is embedded by every data source.
type DataSource struct{ S *Services }

// Configure implements datasource.DataSourceWithConfigure.
func (d *DataSource) Configure(_ context.Context, req datasource.ConfigureRequest, resp *datasource.ConfigureResponse) {
	d.S = From(req.ProviderData, &resp.Diagnostics)
}

// Action is embedded by every action.
type Action struct{ S *Services }

// Configure implements action.ActionWithConfigure.
func (a *Action) Configure(_ context.Context, req action.ConfigureRequest, resp *action.ConfigureResponse) {
	a.S = From(req.ProviderData, &resp.Diagnostics)
}

// Ephemeral is embedded by every ephemeral resource.
type Ephemeral struct{ S *Services }

// Configure implements ephemeral.EphemeralResourceWithConfigure.
func (e *Ephemeral) Configure(_ context.Context, req ephemeral.ConfigureRequest, resp *ephemeral.ConfigureResponse) {
	e.S = From(req.ProviderData, &resp.Diagnostics)
}
