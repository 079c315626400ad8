// Package planmod holds plan modifiers.
package planmod

import (
	"context"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
)

// Fixed refuses to plan a change of an attribute once the resource exists. It
// is for what cannot be changed in place where replacing the resource, which is
// what Terraform would do otherwise, would put data at risk. Do says what the
// user can do instead.
func Fixed(do string) FixedAttribute { return FixedAttribute{do} }

// FixedAttribute is what Fixed returns.
type FixedAttribute struct{ do string }

var (
	_ planmodifier.String = FixedAttribute{}
	_ planmodifier.Int64  = FixedAttribute{}
	_ planmodifier.Bool   = FixedAttribute{}
	_ planmodifier.Object = FixedAttribute{}
)

// Description implements planmodifier.Describer.
func (f FixedAttribute) Description(context.Context) string {
	return "Cannot be changed once the resource exists."
}

// MarkdownDescription implements planmodifier.Describer.
func (f FixedAttribute) MarkdownDescription(ctx context.Context) string { return f.Description(ctx) }

func (f FixedAttribute) check(at path.Path, creating bool, state, plan attr.Value, diags *diag.Diagnostics) {
	if creating || plan.IsUnknown() || state.IsNull() || state.Equal(plan) {
		return
	}
	diags.AddAttributeError(at, "This cannot be changed",
		fmt.Sprintf("It is %s now, and %s is wanted. It is fixed once the resource exists; replacing the resource would put data at risk, so that is not planned either.\nWhat to do: %s", state, plan, f.do))
}

// PlanModifyString implements planmodifier.String.
func (f FixedAttribute) PlanModifyString(_ context.Context, req planmodifier.StringRequest, resp *planmodifier.StringResponse) {
	f.check(req.Path, req.State.Raw.IsNull() || req.Plan.Raw.IsNull(), req.StateValue, req.PlanValue, &resp.Diagnostics)
}

// PlanModifyInt64 implements planmodifier.Int64.
func (f FixedAttribute) PlanModifyInt64(_ context.Context, req planmodifier.Int64Request, resp *planmodifier.Int64Response) {
	f.check(req.Path, req.State.Raw.IsNull() || req.Plan.Raw.IsNull(), req.StateValue, req.PlanValue, &resp.Diagnostics)
}

// PlanModifyBool implements planmodifier.Bool.
func (f FixedAttribute) PlanModifyBool(_ context.Context, req planmodifier.BoolRequest, resp *planmodifier.BoolResponse) {
	f.check(req.Path, req.State.Raw.IsNull() || req.Plan.Raw.IsNull(), req.StateValue, req.PlanValue, &resp.Diagnostics)
}

// PlanModifyObject implements planmodifier.Object.
func (f FixedAttribute) PlanModifyObject(_ context.Context, req planmodifier.ObjectRequest, resp *planmodifier.ObjectResponse) {
	f.check(req.Path, req.State.Raw.IsNull() || req.Plan.Raw.IsNull(), req.StateValue, req.PlanValue, &resp.Diagnostics)
}
