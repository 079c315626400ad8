package patroniactions

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/action"
	"github.com/hashicorp/terraform-plugin-framework/action/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
)

// NewReinitialize returns the action pgha_reinitialize.
func NewReinitialize() action.Action { return &reinitialize{} }

type reinitialize struct{ base.Action }

var _ action.ActionWithConfigure = &reinitialize{}

type reinitializeModel struct {
	Cluster types.Object `tfsdk:"cluster"`
	Node    types.String `tfsdk:"node"`
}

func (a *reinitialize) Metadata(_ context.Context, req action.MetadataRequest, resp *action.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_reinitialize"
}

func (a *reinitialize) Schema(_ context.Context, _ action.SchemaRequest, resp *action.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Deletes a replica's data and has it cloned from the cluster again; until that is done it can neither take over nor answer queries. It is refused for the leader, while there is none, and with `synchronous_mode` where no other replica is well that could be synchronous. " +
			"It is over when the replica streams. Replicas that cannot recover by themselves need no action: the plan shows them, and applying it clones them again." + needs14,
		Attributes: map[string]schema.Attribute{
			"cluster": clusterAttribute(),
			"node":    schema.StringAttribute{Required: true, MarkdownDescription: "Name of the replica."},
		},
	}
}

func (a *reinitialize) Invoke(ctx context.Context, req action.InvokeRequest, resp *action.InvokeResponse) {
	var m reinitializeModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	c, ok := cluster(ctx, m.Cluster, &resp.Diagnostics)
	if !ok {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, reinitializeTimeout, "reinitialize")
	defer cancel()
	patroni, tell := manager(a.S, "pgha_reinitialize "+m.Node.ValueString(), resp)
	if err := patroni.Reinitialize(ctx, c, m.Node.ValueString(), tell); err != nil {
		a.S.Fail(&resp.Diagnostics, "Unable to clone node "+m.Node.ValueString()+" again", err)
		return
	}
	tell(m.Node.ValueString() + " streams")
}
