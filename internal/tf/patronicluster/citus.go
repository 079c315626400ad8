package patronicluster

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

// citusModel is a group's place in a Citus formation. Which version the extension has is
// the coordinator's to say.
type citusModel struct {
	Group     types.Int64  `tfsdk:"group"`
	Database  types.String `tfsdk:"database"`
	Extension types.String `tfsdk:"extension_version"`
}

var (
	citusTypes       = map[string]attr.Type{"group": types.Int64Type, "database": types.StringType, "extension_version": types.StringType}
	extensionVersion = regexp.MustCompile(`^[0-9]+\.[0-9]+-[0-9]+$`)
)

func citusAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: "Makes the cluster a group of a Citus formation: Patroni makes Citus's extension in `database` and keeps the coordinator's list of nodes. The groups of a formation are clusters with the same `scope`, each with another `group`, nodes and configuration of its own; " +
			"passwords, certificate authority and the name of the database are the formation's. Citus is installed by `versions.citus` of each node. `group` and `database` cannot be changed.",
		Attributes: map[string]schema.Attribute{
			"group":    schema.Int64Attribute{Required: true, MarkdownDescription: "Number of the group: 0 is the coordinator's, others are workers'.", Validators: []validator.Int64{int64validator.Between(0, 1<<31-1)}},
			"database": schema.StringAttribute{Required: true, MarkdownDescription: "The one database that is distributed.", Validators: []validator.String{stringvalidator.LengthBetween(1, 63), validate.OneLine()}},
			"extension_version": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Version of the extension in `database` on all groups, such as `13.2-1`; for the coordinator's group (0) only. Without it the extension keeps the version it was made with, and a `versions.citus` of another minor version is refused. " +
					"Raised together with `versions.citus` of the nodes, it has each group's extension updated right after the switchover in its leader's turn, and `citus_finish_citus_upgrade()` called after the last one. It is never lowered again.",
				Validators: []validator.String{stringvalidator.RegexMatches(extensionVersion, "must be the version of the extension, such as 13.2-1, not that of the package")},
			},
		},
	}
}

// citusFrom reads a group's place; nil where there is none. It returns false while it is
// not known. The version of the extension may be unknown.
func citusFrom(ctx context.Context, o types.Object, diags *diag.Diagnostics) (*patroni.Citus, types.String, bool) {
	if o.IsNull() || o.IsUnknown() {
		return nil, types.StringNull(), o.IsNull()
	}
	var c citusModel
	diags.Append(o.As(ctx, &c, basetypes.ObjectAsOptions{})...)
	if c.Group.IsUnknown() || c.Database.IsUnknown() {
		return nil, c.Extension, false
	}
	return &patroni.Citus{Group: int(c.Group.ValueInt64()), Database: c.Database.ValueString()}, c.Extension, true
}

func citusObject(ctx context.Context, c *patroni.Citus, extension types.String, diags *diag.Diagnostics) types.Object {
	if c == nil {
		return types.ObjectNull(citusTypes)
	}
	o, d := types.ObjectValueFrom(ctx, citusTypes, citusModel{types.Int64Value(int64(c.Group)), types.StringValue(c.Database), extension})
	diags.Append(d...)
	return o
}

// extension is the wanted version of Citus's extension, empty for none.
func (m *model) extension(ctx context.Context, diags *diag.Diagnostics) string {
	_, version, _ := citusFrom(ctx, m.Citus, diags)
	return version.ValueString()
}

var extensionPath = path.Root("citus").AtName("extension_version")

// checkCitus refuses a version of the extension that is not the coordinator's to give.
func checkCitus(ctx context.Context, m model, diags *diag.Diagnostics) {
	c, version, known := citusFrom(ctx, m.Citus, diags)
	if known && c != nil && c.Group != 0 && !version.IsNull() {
		diags.AddAttributeError(extensionPath, "The extension's version is the coordinator's",
			fmt.Sprintf("This is group %d, and all groups of a formation have the same version of the extension.\nWhat to do: set it in the pgha_patroni_cluster of group 0, and leave it out here.", c.Group))
	}
}

// planCitus refuses what cannot be changed of a group, and says what another version of
// the extension takes.
func (r *clusterResource) planCitus(ctx context.Context, before, m model, c patroni.Cluster, diags *diag.Diagnostics) {
	was, had, _ := citusFrom(ctx, before.Citus, diags)
	is, wanted, known := citusFrom(ctx, m.Citus, diags)
	if !known {
		return
	}
	if (was == nil) != (is == nil) || was != nil && *was != *is {
		diags.AddAttributeError(path.Root("citus"), "This cannot be changed",
			"Whether a cluster is a group of a Citus formation, which one, and of which database, is fixed once it exists: its keys, its database and the formation's metadata go by it.\nWhat to do: "+newCluster)
		return
	}
	if c.Adopted() && !wanted.IsNull() {
		diags.AddAttributeError(extensionPath, "The extension of an imported formation is not managed",
			"The formation "+c.Scope+" was made by somebody else, and this release does not update its extension.\nWhat to do: leave extension_version out. Another minor version of Citus is brought to such a formation by hand, as Citus's documentation says.")
		return
	}
	to := wanted.ValueString()
	if to == "" || wanted.Equal(had) || diags.HasError() {
		return
	}
	lowered := func(from string) bool {
		if from == "" || debver.Compare(to, from) >= 0 {
			return false
		}
		diags.AddAttributeError(extensionPath, "The extension cannot go back",
			fmt.Sprintf("It is at %s, and %s is wanted. Citus has no way back.\nWhat to do: leave it at %s, or restore the whole formation from a backup.", from, to, from))
		return true
	}
	if lowered(had.ValueString()) || r.S == nil || c.UID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, extensionTimeout)
	defer cancel()
	f, err := r.S.Patroni("pgha_patroni_cluster "+c.Name()).ObserveFormation(ctx, c)
	if err != nil {
		diags.AddAttributeWarning(extensionPath, "Unable to preview the update of Citus", r.S.Redact.Apply(err.Error()))
		return
	}
	if lowered(f.Highest()) || f.Lowest() == to {
		return
	}
	diags.AddAttributeWarning(extensionPath, "Citus's extension of "+c.Scope+" goes to "+to+", in stages", r.S.Redact.Apply(f.Stages(to)))
}

// extensionTimeout bounds what a plan does to be able to warn.
const extensionTimeout = time.Minute

// observeExtension takes up which version the extension really has, where one is wanted:
// the lowest of all groups. It returns what else an apply would do.
func (r *clusterResource) observeExtension(ctx context.Context, m *model, c patroni.Cluster, diags *diag.Diagnostics) (drift []string) {
	citus, wanted, _ := citusFrom(ctx, m.Citus, diags)
	if citus == nil || wanted.ValueString() == "" {
		return nil
	}
	f, err := r.S.Patroni("pgha_patroni_cluster "+c.Name()).ObserveFormation(ctx, c)
	if err != nil {
		r.S.Log.WarnContext(ctx, "unable to ask for the version of Citus's extension", "scope", c.Name(), "error", err)
		return nil
	}
	if lowest := f.Lowest(); lowest != "" {
		m.Citus = citusObject(ctx, citus, types.StringValue(lowest), diags)
		if f.Extending == lowest {
			drift = append(drift, "formation: finish the update of Citus to "+lowest+", which was begun (reload)")
		}
	}
	return drift
}

// behind warns about groups whose extension is not where it should be yet.
func behind(groups map[string]string, to string, diags *diag.Diagnostics) {
	if len(groups) == 0 {
		return
	}
	text := ""
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		text += name + ": " + groups[name] + "\n"
	}
	diags.AddAttributeWarning(extensionPath, "Citus's extension is not at "+to+" on all groups yet",
		text+"It gets there in the turns of these nodes, in this apply if their versions.citus changes in it, too.\nWhat to do: give all nodes a versions.citus of "+patroni.CitusMinor(to)+".")
}
