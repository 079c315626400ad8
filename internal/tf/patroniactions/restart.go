package patroniactions

import (
	"context"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/action"
	"github.com/hashicorp/terraform-plugin-framework/action/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
)

// NewRestart returns the action pgha_restart.
func NewRestart() action.Action { return &restart{} }

type restart struct{ base.Action }

var _ action.ActionWithConfigure = &restart{}

type restartModel struct {
	Cluster types.Object `tfsdk:"cluster"`
	Node    types.String `tfsdk:"node"`
}

func (a *restart) Metadata(_ context.Context, req action.MetadataRequest, resp *action.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_restart"
}

func (a *restart) Schema(_ context.Context, _ action.SchemaRequest, resp *action.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Restarts Patroni and PostgreSQL on one node of a cluster, or on all of them one at a time, the leader last. It goes as an upgrade does, by the `rollout` of the `pgha_patroni_cluster`: each turn waits until all other members are well, " +
			"a leader hands over before it, and it is over when the node streams again; the first one that fails is the last one. Settings that wait for a restart take effect." + needs14,
		Attributes: map[string]schema.Attribute{
			"cluster": clusterAttribute(),
			"node":    schema.StringAttribute{Optional: true, MarkdownDescription: "Name of the node; all nodes by default."},
		},
	}
}

func (a *restart) Invoke(ctx context.Context, req action.InvokeRequest, resp *action.InvokeResponse) {
	var m restartModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	c, ok := cluster(ctx, m.Cluster, &resp.Diagnostics)
	if !ok {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, restartTimeout, "restart")
	defer cancel()
	patroni, tell := manager(a.S, "pgha_restart "+c.Name(), resp)
	done, err := patroni.RestartNodes(ctx, c, m.Node.ValueString())
	if len(done) > 0 {
		tell("restarted: " + strings.Join(done, ", "))
	}
	if err != nil {
		a.S.Fail(&resp.Diagnostics, "Unable to restart nodes of cluster "+c.Name(), err)
	}
}
