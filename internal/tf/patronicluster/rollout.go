package patronicluster

import (
	"context"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

type rolloutModel struct {
	MaxLag        customtypes.Text `tfsdk:"max_lag"`
	Soak          customtypes.Text `tfsdk:"soak"`
	Patience      customtypes.Text `tfsdk:"patience"`
	Switchover    types.String     `tfsdk:"switchover"`
	AllowDowntime types.Bool       `tfsdk:"allow_downtime"`
	Window        types.Object     `tfsdk:"window"`
}

type windowModel struct {
	Days types.List   `tfsdk:"days"`
	From types.String `tfsdk:"from"`
	To   types.String `tfsdk:"to"`
	Zone types.String `tfsdk:"time_zone"`
}

func rolloutAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: "How changes that take a node out of service (other versions, parameters that need a restart) go over the cluster: one node at a time, the leader last and only after a switchover to a replica. " +
			"Before each turn all other members have to be well, and the first turn that fails ends the roll; the next apply goes on with it. Changing this restarts nothing.",
		Attributes: map[string]schema.Attribute{
			"max_lag": schema.StringAttribute{
				CustomType: customtypes.SizeType, Optional: true,
				MarkdownDescription: "How much WAL a replica may be behind when another node has its turn, and the node itself when its turn is over; `16MiB` by default. Patroni knows where the leader is once in `loop_wait`.",
			},
			"soak": schema.StringAttribute{
				CustomType: customtypes.DurationType, Optional: true,
				MarkdownDescription: "How long a node has to stay well before the next one's turn; `0s` by default.",
			},
			"patience": schema.StringAttribute{
				CustomType: customtypes.DurationType, Optional: true,
				MarkdownDescription: "How long a turn waits for the other members to be well until it gives up; `2m` by default.",
			},
			"switchover": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "`auto` (the default) moves the leader's role when it is the leader's turn. `manual` upgrades all but the leader, and then stops and says so: set it to `auto`, or switch over by hand, and apply again.",
				Validators:          []validator.String{stringvalidator.OneOf("auto", "manual")},
			},
			"allow_downtime": schema.BoolAttribute{
				Optional:            true,
				MarkdownDescription: "Restart a node even if no other member could take over meanwhile, and the leader where it is; false by default. For clusters of one or two nodes.",
			},
			"window": schema.SingleNestedAttribute{
				Optional:            true,
				MarkdownDescription: "When turns may begin. Outside of it an apply fetches what is needed to the hosts, and stops with a message. A turn that has begun is finished.",
				Attributes: map[string]schema.Attribute{
					"days":      schema.ListAttribute{ElementType: types.StringType, Optional: true, MarkdownDescription: "Days of the week on which it begins, such as `Sat`; every day unless given."},
					"from":      schema.StringAttribute{Required: true, MarkdownDescription: "When it begins, such as `22:00`.", Validators: []validator.String{validate.OneLine()}},
					"to":        schema.StringAttribute{Required: true, MarkdownDescription: "When it ends; before `from`, it is on the next day.", Validators: []validator.String{validate.OneLine()}},
					"time_zone": schema.StringAttribute{Required: true, MarkdownDescription: "Time zone of both, such as `Europe/Berlin` or `UTC`.", Validators: []validator.String{validate.OneLine()}},
				},
			},
		},
	}
}

// rollout reads the policy; nil while it is not given, or not known yet.
func (m *model) rollout(ctx context.Context, diags *diag.Diagnostics) *patroni.Rollout {
	if m.Rollout.IsNull() || !connattr.Known(m.Rollout) {
		return nil
	}
	var from rolloutModel
	diags.Append(m.Rollout.As(ctx, &from, basetypes.ObjectAsOptions{})...)
	r := patroni.DefaultRollout()
	if !from.MaxLag.IsNull() {
		r.MaxLag = from.MaxLag.Bytes()
	}
	if !from.Patience.IsNull() {
		r.Patience = from.Patience.Duration()
	}
	if !from.Soak.IsNull() {
		r.Soak = from.Soak.Duration()
	}
	r.Manual, r.AllowDowntime = from.Switchover.ValueString() == "manual", from.AllowDowntime.ValueBool()
	at := path.Root("rollout")
	for _, d := range []struct {
		name     string
		d, least time.Duration
	}{{"patience", r.Patience, time.Second}, {"soak", r.Soak, 0}} {
		if d.d < d.least {
			diags.AddAttributeError(at.AtName(d.name), "Invalid duration", "It must be at least "+d.least.String()+".")
		}
	}
	if r.MaxLag < 1 {
		diags.AddAttributeError(at.AtName("max_lag"), "Invalid size", "It must be more than nothing: a leader that is written to is always a little ahead.")
	}
	if from.Window.IsNull() {
		return &r
	}
	var w windowModel
	diags.Append(from.Window.As(ctx, &w, basetypes.ObjectAsOptions{})...)
	var days []string
	if !w.Days.IsNull() {
		diags.Append(w.Days.ElementsAs(ctx, &days, false)...)
	}
	window, err := patroni.ParseWindow(days, w.From.ValueString(), w.To.ValueString(), w.Zone.ValueString())
	if err != nil {
		diags.AddAttributeError(at.AtName("window"), "Invalid window", err.Error()+".")
		return nil
	}
	r.Window = &window
	return &r
}
