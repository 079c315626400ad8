// Package patroniactions are the actions on running Patroni clusters: pgha_switchover,
// pgha_restart and pgha_reinitialize.
package patroniactions

import (
	"context"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/action"
	"github.com/hashicorp/terraform-plugin-framework/action/schema"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
)

// Timeouts bound one invocation. A clone takes as long as the data is large.
const (
	switchoverTimeout   = 10 * time.Minute
	restartTimeout      = 2 * time.Hour
	reinitializeTimeout = 12 * time.Hour
)

// needs14 ends every action's description.
const needs14 = " Actions need Terraform 1.14."

func clusterAttribute() schema.Attribute {
	return schema.ObjectAttribute{Required: true, AttributeTypes: connattr.MembershipType.AttrTypes, MarkdownDescription: "The cluster: `membership` of a `pgha_patroni_cluster`."}
}

// cluster is the one that is given; all of an action's values are known when it runs.
func cluster(ctx context.Context, o types.Object, diags *diag.Diagnostics) (patroni.Cluster, bool) {
	c, ok := connattr.ClusterFrom(ctx, o, diags)
	if !ok && !diags.HasError() {
		diags.AddError("Unable to reach the cluster", "How to reach it is not known.")
	}
	return c, ok && !diags.HasError()
}

// manager returns one whose steps are told to whoever watches the action.
func manager(s *base.Services, resource string, resp *action.InvokeResponse) (m *patroni.Manager, tell func(string)) {
	tell = func(text string) { resp.SendProgress(action.InvokeProgressEvent{Message: s.Redact.Apply(text)}) }
	m = s.Patroni(resource)
	observe := m.Observe
	m.Observe = func(ctx context.Context, e engine.Event) {
		observe(ctx, e)
		if e.State == engine.Started {
			tell(e.Step.Host + ": " + e.Step.Title)
		}
	}
	return m, tell
}
