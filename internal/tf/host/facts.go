package host

import (
	"context"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/datasource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

// NewFacts returns the data source pgha_host_facts.
func NewFacts() datasource.DataSource { return &factsData{} }

type factsData struct{ base.DataSource }

var _ datasource.DataSourceWithConfigure = &factsData{}

type factsModel struct {
	Host         types.Object     `tfsdk:"host"`
	OS           types.String     `tfsdk:"os"`
	Release      types.String     `tfsdk:"release"`
	Codename     types.String     `tfsdk:"codename"`
	Architecture types.String     `tfsdk:"architecture"`
	Kernel       types.String     `tfsdk:"kernel"`
	Hostname     types.String     `tfsdk:"hostname"`
	MachineID    types.String     `tfsdk:"machine_id"`
	CPUs         types.Int64      `tfsdk:"cpus"`
	Memory       customtypes.Text `tfsdk:"memory"`
	DiskFree     customtypes.Text `tfsdk:"disk_free"`
	Addresses    []string         `tfsdk:"addresses"`
	ClockSkew    types.String     `tfsdk:"clock_skew"`
	TimeService  types.String     `tfsdk:"time_service"`
	Packages     map[string]pkg   `tfsdk:"packages"`
	Timeouts     timeouts.Value   `tfsdk:"timeouts"`
}

type pkg struct {
	Version types.String `tfsdk:"version"`
	Held    types.Bool   `tfsdk:"held"`
}

// packagesOfInterest are those whose versions matter to a cluster.
var packagesOfInterest = []string{
	"etcd-server", "etcd-client", "patroni", "python3-etcd", "postgresql-15", "postgresql-16", "postgresql-17", "postgresql-18", "vip-manager2", "chrony",
}

func (d *factsData) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_host_facts"
}

func (d *factsData) Schema(ctx context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	text := func(s string) schema.Attribute { return schema.StringAttribute{Computed: true, MarkdownDescription: s} }
	resp.Schema = schema.Schema{
		MarkdownDescription: "What a host is and has, asked in one session that changes nothing.",
		Attributes: map[string]schema.Attribute{
			"host":         schema.ObjectAttribute{Required: true, AttributeTypes: connattr.ConnectionType.AttrTypes, MarkdownDescription: "The host: `access` of a `pgha_host`."},
			"os":           text("Operating system, such as `debian`."),
			"release":      text("Its release, such as `13`."),
			"codename":     text("The release's name, such as `trixie`."),
			"architecture": text("Architecture, such as `amd64`."),
			"kernel":       text("Version of the kernel."),
			"hostname":     text("The name that the host has for itself."),
			"machine_id":   text("`/etc/machine-id`."),
			"cpus":         schema.Int64Attribute{Computed: true, MarkdownDescription: "Number of CPUs."},
			"memory":       schema.StringAttribute{Computed: true, CustomType: customtypes.SizeType, MarkdownDescription: "Memory, with its unit."},
			"disk_free":    schema.StringAttribute{Computed: true, CustomType: customtypes.SizeType, MarkdownDescription: "Free space at `/var/lib`, with its unit."},
			"addresses":    schema.ListAttribute{ElementType: types.StringType, Computed: true, MarkdownDescription: "Its addresses, each with interface and prefix (`eth0 10.0.0.1/24`)."},
			"clock_skew":   text("How far its clock is ahead of that of the machine that runs Terraform, as a duration; negative if it is behind."),
			"time_service": text("What keeps its clock right; null if nothing does."),
			"packages": schema.MapNestedAttribute{
				Computed: true, MarkdownDescription: "Installed packages that matter to a cluster (etcd, Patroni, PostgreSQL 15 to 18, vip-manager, chrony), by name.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"version": text("Installed version."),
					"held":    schema.BoolAttribute{Computed: true, MarkdownDescription: "Whether it is held at that version."},
				}},
			},
		},
		Blocks: map[string]schema.Block{"timeouts": timeouts.BlockWithOpts(ctx, timeouts.Opts{ReadDescription: base.ReadTimeoutText(readTimeout)})},
	}
}

func (d *factsData) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	var m factsModel
	var object types.Object
	resp.Diagnostics.Append(req.Config.GetAttribute(ctx, path.Root("host"), &object)...)
	var limits timeouts.Value
	resp.Diagnostics.Append(req.Config.GetAttribute(ctx, path.Root("timeouts"), &limits)...)
	timeout, diags := limits.Read(ctx, readTimeout)
	resp.Diagnostics.Append(diags...)
	ctx, cancel := base.WithTimeout(ctx, timeout, "read")
	defer cancel()
	t, ok := connattr.TargetFrom(ctx, object, &resp.Diagnostics)
	if resp.Diagnostics.HasError() || !ok {
		return
	}
	var p remote.Probe
	p.OS().Clock().TimeService().Disk("/var/lib").Addresses().Package(packagesOfInterest...)
	f, err := p.Run(ctx, d.S.Fleet.Host(t))
	if err != nil {
		d.S.Fail(&resp.Diagnostics, "Unable to read the facts of host "+t.Name, err)
		return
	}
	os := f.OS()
	m = factsModel{
		Host: object, OS: types.StringValue(os.ID), Release: types.StringValue(os.Version), Codename: types.StringValue(os.Codename),
		Architecture: types.StringValue(os.Arch), Kernel: types.StringValue(os.Kernel), Hostname: types.StringValue(os.Hostname),
		MachineID: types.StringValue(os.MachineID), CPUs: types.Int64Value(int64(os.CPUs)), Memory: customtypes.SizeValue(os.Memory),
		DiskFree: customtypes.SizeValue(f.Disk("/var/lib").Free), Addresses: append([]string{}, f.Addresses()...),
		ClockSkew: types.StringValue(f.Skew().String()), TimeService: types.StringNull(), Packages: map[string]pkg{}, Timeouts: limits,
	}
	if service := f.TimeService(); service != "" {
		m.TimeService = types.StringValue(service)
	}
	for _, name := range packagesOfInterest {
		if have := f.Package(name); have.Installed {
			m.Packages[name] = pkg{Version: types.StringValue(strings.TrimSpace(have.Version)), Held: types.BoolValue(have.Held)}
		}
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}
