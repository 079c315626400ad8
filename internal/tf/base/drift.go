package base

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// DriftAttribute is the attribute in which Read reports what differs on the
// hosts, as the steps that an apply would take. It is always planned to be
// empty, so whatever Read found shows in the plan as something that goes away.
func DriftAttribute() schema.Attribute {
	return schema.ListAttribute{
		ElementType: types.StringType,
		Computed:    true,
		MarkdownDescription: "What differs from what was applied, as found when the state was last refreshed: one line for each step that an apply would take to " +
			"put it right, with the host and the risk. Empty when nothing differs.",
		PlanModifiers: []planmodifier.List{noDrift{}},
	}
}

type noDrift struct{}

func (noDrift) Description(context.Context) string         { return "Always planned to be empty." }
func (noDrift) MarkdownDescription(context.Context) string { return "Always planned to be empty." }

func (noDrift) PlanModifyList(_ context.Context, req planmodifier.ListRequest, resp *planmodifier.ListResponse) {
	if req.Plan.Raw.IsNull() {
		return
	}
	resp.PlanValue = NoDrift()
}

// NoDrift is an empty list.
func NoDrift() types.List { return types.ListValueMust(types.StringType, []attr.Value{}) }

// DriftValue returns what was found as a value.
func DriftValue(ctx context.Context, lines []string, diags *diag.Diagnostics) types.List {
	if len(lines) == 0 {
		return NoDrift()
	}
	v, d := types.ListValueFrom(ctx, types.StringType, lines)
	diags.Append(d...)
	return v
}
