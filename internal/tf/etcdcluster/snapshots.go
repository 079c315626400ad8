package etcdcluster

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64default"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

type snapshotsModel struct {
	Schedule  types.String `tfsdk:"schedule"`
	Keep      types.Int64  `tfsdk:"keep"`
	Directory types.String `tfsdk:"directory"`
	Member    types.String `tfsdk:"member"`
}

var snapshotsType = map[string]attr.Type{"schedule": types.StringType, "keep": types.Int64Type, "directory": types.StringType, "member": types.StringType}

func snapshotsAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: "Take snapshots of the cluster's data by a systemd timer on the members' hosts, each verified before it gets its name; none unless given. What is in etcd is in them, the passwords of Patroni clusters included: only root and etcd's account can read them. " +
			"They stay when this is removed or the member leaves; `on_destroy = \"purge\"` deletes them. Not to be confused with `snapshot_count`. See the data source `pgha_etcd_status` for their age.",
		Attributes: map[string]schema.Attribute{
			"schedule": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString("hourly"),
				MarkdownDescription: "When, as systemd's `OnCalendar` says it: `hourly` (the default), `*-*-* 00/6:00`, `Mon..Fri 22:30`. In the hosts' time unless it ends with a zone.",
				Validators:          []validator.String{validate.Text("must be a schedule in the form of systemd's OnCalendar", etcd.CheckSchedule)},
			},
			"keep": schema.Int64Attribute{
				Optional: true, Computed: true, Default: int64default.StaticInt64(24),
				MarkdownDescription: "How many of its own snapshots each host keeps; 24 by default. An older one goes only when a newer one is there.",
				Validators:          []validator.Int64{int64validator.Between(1, 10000)},
			},
			"directory": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(etcd.SnapshotDirectory),
				MarkdownDescription: "Where they are, in a folder named after the cluster: `/var/backups/etcd` by default. A place that all hosts share, such as NFS, is fine. Snapshots are not moved when this is changed.",
				Validators:          []validator.String{validate.AbsolutePath(), validate.Text("must be a place for snapshots", checkSnapshotDirectory)},
			},
			"member": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "Name of the member whose host takes them. Unless given it is the one that leads at the time, so that snapshots go on when a host is lost, and are spread over the hosts as the leader changes.",
				Validators:          []validator.String{validate.Name()},
			},
		},
	}
}

// plainPath are paths that need no quoting in units.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9/._-]+$`)

// checkSnapshotDirectory refuses places that do not last, that the service
// cannot see, or that are etcd's own.
func checkSnapshotDirectory(s string) error {
	for _, dir := range []string{"/dev", "/etc", "/home", "/proc", "/root", "/run", "/sys", "/tmp", "/usr", "/var/lib/etcd", "/var/run", "/var/tmp"} {
		if s == dir || strings.HasPrefix(s, dir+"/") {
			return fmt.Errorf("snapshots cannot be in %s; choose a place such as %s", dir, etcd.SnapshotDirectory)
		}
	}
	if !plainPath.MatchString(s) {
		return fmt.Errorf("%q must have only letters, digits, '.', '_', '-' and '/'", s)
	}
	return nil
}

// snapshots reads the attribute. It returns false while anything in it is
// unknown.
func (m model) snapshots(ctx context.Context, diags *diag.Diagnostics) (*etcd.Snapshots, bool) {
	if !connattr.Known(m.Snapshots) {
		return nil, false
	}
	if m.Snapshots.IsNull() {
		return nil, true
	}
	var s snapshotsModel
	diags.Append(m.Snapshots.As(ctx, &s, basetypes.ObjectAsOptions{})...)
	return &etcd.Snapshots{
		Schedule: s.Schedule.ValueString(), Keep: int(s.Keep.ValueInt64()), Directory: s.Directory.ValueString(), Member: s.Member.ValueString(),
	}, !diags.HasError()
}

// checkSnapshots refuses a member that there is none of.
func (m model) checkSnapshots(ctx context.Context, diags *diag.Diagnostics) {
	s, ok := m.snapshots(ctx, diags)
	if !ok || s == nil || s.Member == "" || m.Members.IsNull() || m.Members.IsUnknown() {
		return
	}
	if _, there := m.Members.Elements()[s.Member]; !there {
		diags.AddAttributeError(path.Root("snapshots").AtName("member"), "No such member",
			fmt.Sprintf("There is no member %q; the members are the keys of members.", s.Member))
	}
}
