package planmod

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
)

// Onward refuses to plan a change of an attribute from true to false, for what can be
// turned on in place and not off again. Why says why not, and what the user can do
// instead.
func Onward(why string) planmodifier.Bool { return onward{why} }

type onward struct{ why string }

// Description implements planmodifier.Describer.
func (o onward) Description(context.Context) string { return "Can be turned on, and not off again." }

// MarkdownDescription implements planmodifier.Describer.
func (o onward) MarkdownDescription(ctx context.Context) string { return o.Description(ctx) }

// PlanModifyBool implements planmodifier.Bool.
func (o onward) PlanModifyBool(_ context.Context, req planmodifier.BoolRequest, resp *planmodifier.BoolResponse) {
	if req.State.Raw.IsNull() || req.Plan.Raw.IsNull() || req.PlanValue.IsUnknown() || !req.StateValue.ValueBool() || req.PlanValue.ValueBool() {
		return
	}
	resp.Diagnostics.AddAttributeError(req.Path, "This cannot be turned off", o.why)
}
