package etcdcluster

import (
	"context"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

type restoreModel struct {
	From types.String `tfsdk:"from"`
	ID   types.String `tfsdk:"id"`
}

var restoreType = map[string]attr.Type{"from": types.StringType, "id": types.StringType}

func restoreAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: "Build the cluster anew after its data or its quorum was lost for good. It is done once: the marks on the hosts say so afterwards, and the attribute may stay. " +
			"While etcd runs on so many members that they may have a quorum, it is refused. All members' hosts have to answer. Patroni's clusters come back by themselves from a snapshot, and by `recover_from` of `pgha_patroni_cluster` from nothing. See the guide \"Restoring etcd\".",
		Attributes: map[string]schema.Attribute{
			"from": schema.StringAttribute{
				Required:            true,
				MarkdownDescription: "A snapshot on a member's host, as `MEMBER:/PATH` (`pgha_etcd_status` lists them), or `nothing`: a cluster with nothing in it but its own users.",
				Validators: []validator.String{validate.Text("must be MEMBER:/PATH or nothing", func(s string) error {
					_, err := etcd.ParseRestore(s, "")
					return err
				})},
			},
			"id": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "Any text, such as a date. Another one asks for another restore from the same place.",
				Validators:          []validator.String{validate.Text("must be a word", checkRestoreID)},
			},
		},
	}
}

func checkRestoreID(s string) error {
	if s == "" || strings.ContainsAny(s, " \t\n") {
		return errRestoreID
	}
	return nil
}

type restoreError string

func (e restoreError) Error() string { return string(e) }

const errRestoreID = restoreError("it is empty or has spaces in it")

// restore reads the attribute. It returns false while anything in it is unknown.
func (m model) restore(ctx context.Context, diags *diag.Diagnostics) (*etcd.Restore, bool) {
	if !connattr.Known(m.Restore) {
		return nil, false
	}
	if m.Restore.IsNull() {
		return nil, true
	}
	var r restoreModel
	diags.Append(m.Restore.As(ctx, &r, basetypes.ObjectAsOptions{})...)
	parsed, err := etcd.ParseRestore(r.From.ValueString(), r.ID.ValueString())
	if err != nil {
		diags.AddAttributeError(path.Root("restore").AtName("from"), "Invalid snapshot", err.Error())
		return nil, false
	}
	return &parsed, !diags.HasError()
}

// previewRestore says what a restore would do, and reports whether one is due. What
// would be refused is refused now.
func (r *etcdResource) previewRestore(ctx context.Context, s etcd.Spec, diags *diag.Diagnostics) bool {
	if r.S == nil || s.Restore == nil {
		return false
	}
	lines, err := r.S.EtcdReader("pgha_etcd_cluster "+s.Name).PreviewRestore(ctx, s)
	switch {
	case err == nil && lines == nil:
		return false
	case err == nil:
		diags.AddWarning("Applying this builds the etcd cluster "+s.Name+" anew", strings.Join(lines, "\n"))
	case host.Unreachable(err):
		diags.AddAttributeError(path.Root("restore"), "The etcd cluster "+s.Name+" cannot be restored now",
			r.S.Redact.Apply(problem.Details(err))+"\nAll members' hosts have to answer: an old member that comes back later must not find anybody to speak to. Replace one that is gone for good by another host in members.")
	default:
		diags.AddAttributeError(path.Root("restore"), "The etcd cluster "+s.Name+" cannot be restored like this", r.S.Redact.Apply(problem.Details(err)))
	}
	return true
}
