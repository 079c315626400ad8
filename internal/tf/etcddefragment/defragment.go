// Package etcddefragment is the action pgha_etcd_defragment.
package etcddefragment

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/action"
	"github.com/hashicorp/terraform-plugin-framework/action/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

// New returns the action.
func New() action.Action { return &defragment{} }

type defragment struct{ base.Action }

var _ action.ActionWithConfigure = &defragment{}

// timeout bounds one invocation: a database of 8 GiB, the largest that etcd
// supports, takes about a minute and a half on each member.
const timeout = 30 * time.Minute

type model struct {
	Etcd  types.Object     `tfsdk:"etcd"`
	Above customtypes.Text `tfsdk:"above"`
}

func (d *defragment) Metadata(_ context.Context, req action.MetadataRequest, resp *action.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_etcd_defragment"
}

func (d *defragment) Schema(_ context.Context, _ action.SchemaRequest, resp *action.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Gives back what is free inside the databases of an etcd cluster's members: one member at a time, the leader last and after it has handed over, each only while all others are well and none is catching up. A member does nothing else meanwhile: about a second for 100 MiB. " +
			"Members in whose databases nothing is free are left alone. etcd reuses what is free, so there is seldom a need; `defragment_above` of `pgha_etcd_cluster` has every apply look after it. Actions need Terraform 1.14.",
		Attributes: map[string]schema.Attribute{
			"etcd": schema.ObjectAttribute{Required: true, AttributeTypes: connattr.AccessType.AttrTypes, MarkdownDescription: "The cluster: `access` of a `pgha_etcd_cluster`."},
			"above": schema.StringAttribute{
				CustomType: customtypes.SizeType, Optional: true,
				MarkdownDescription: "How much has to be free in a member's database for it to be defragmented, such as `64MiB`; `1MiB` by default, and at least.",
				Validators: []validator.String{validate.Text("must be at least 1MiB", func(s string) error {
					v, diags := customtypes.SizeType.ValueFromString(context.Background(), types.StringValue(s))
					if t, ok := v.(customtypes.Text); ok && !diags.HasError() && t.Bytes() < 1<<20 {
						return fmt.Errorf("%s is less than 1MiB, which no defragmentation is worth", s)
					}
					return nil
				})},
			},
		},
	}
}

func (d *defragment) Invoke(ctx context.Context, req action.InvokeRequest, resp *action.InvokeResponse) {
	var m model
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	if resp.Diagnostics.HasError() {
		return
	}
	access, ok := connattr.AccessFrom(ctx, m.Etcd, &resp.Diagnostics)
	if !ok {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "defragment")
	defer cancel()
	manager, done := d.S.EtcdCluster("pgha_etcd_defragment " + access.Name)
	defer done()
	report, err := manager.Defragment(ctx, access, m.Above.Bytes())
	for _, line := range report {
		resp.SendProgress(action.InvokeProgressEvent{Message: line})
	}
	if err != nil {
		d.S.Fail(&resp.Diagnostics, "Unable to defragment etcd cluster "+access.Name, err)
	}
}
