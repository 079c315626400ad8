package patroniactions

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/action"
	"github.com/hashicorp/terraform-plugin-framework/action/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
)

// NewSwitchover returns the action pgha_switchover.
func NewSwitchover() action.Action { return &switchover{} }

type switchover struct{ base.Action }

var _ action.ActionWithConfigure = &switchover{}

type switchoverModel struct {
	Cluster   types.Object `tfsdk:"cluster"`
	Candidate types.String `tfsdk:"candidate"`
}

func (a *switchover) Metadata(_ context.Context, req action.MetadataRequest, resp *action.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_switchover"
}

func (a *switchover) Schema(_ context.Context, _ action.SchemaRequest, resp *action.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Moves the leader's role of a Patroni cluster to another member. It is refused, with the reason, while the cluster is paused, has no leader, or a member is not well or too far behind (`rollout.max_lag`), and where nobody may take over. " +
			"It is asked for once, and over when the new leader runs and the former one streams from it: for a second or two in between nobody can write." + needs14,
		Attributes: map[string]schema.Attribute{
			"cluster":   clusterAttribute(),
			"candidate": schema.StringAttribute{Optional: true, MarkdownDescription: "Name of the node that is to lead; by default the best one: a synchronous replica, then the one that is the least behind. If it leads already, nothing is done."},
		},
	}
}

func (a *switchover) Invoke(ctx context.Context, req action.InvokeRequest, resp *action.InvokeResponse) {
	var m switchoverModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	c, ok := cluster(ctx, m.Cluster, &resp.Diagnostics)
	if !ok {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, switchoverTimeout, "switchover")
	defer cancel()
	patroni, tell := manager(a.S, "pgha_switchover "+c.Name(), resp)
	from, leads, err := patroni.Switchover(ctx, c, m.Candidate.ValueString())
	switch {
	case err != nil:
		a.S.Fail(&resp.Diagnostics, "Unable to switch over in cluster "+c.Name(), err)
	case from == leads:
		tell(leads + " leads already")
	default:
		tell(leads + " leads, and " + from + " follows")
	}
}
