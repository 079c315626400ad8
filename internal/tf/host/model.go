package host

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/prepare"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

type model struct {
	ID           types.String   `tfsdk:"id"`
	Name         types.String   `tfsdk:"name"`
	Address      types.String   `tfsdk:"address"`
	SSH          types.Object   `tfsdk:"ssh"`
	Preflight    types.Object   `tfsdk:"preflight"`
	Apt          types.Object   `tfsdk:"apt"`
	Sysctl       types.Map      `tfsdk:"sysctl"`
	MaxOpenFiles types.Int64    `tfsdk:"max_open_files"`
	TimeSync     types.String   `tfsdk:"time_sync"`
	HostsEntries types.Map      `tfsdk:"hosts_entries"`
	Access       types.Object   `tfsdk:"access"`
	MachineID    types.String   `tfsdk:"machine_id"`
	Drift        types.List     `tfsdk:"drift"`
	Timeouts     timeouts.Value `tfsdk:"timeouts"`
}

type sshModel struct {
	Port     types.Int64  `tfsdk:"port"`
	User     types.String `tfsdk:"user"`
	HostKey  types.String `tfsdk:"host_key"`
	Bastions types.List   `tfsdk:"bastions"`
}

type preflightModel struct {
	Enforce      types.String     `tfsdk:"enforce"`
	MinCPUs      types.Int64      `tfsdk:"min_cpus"`
	MinMemory    customtypes.Text `tfsdk:"min_memory"`
	MinDisk      customtypes.Text `tfsdk:"min_disk"`
	DiskPath     types.String     `tfsdk:"disk_path"`
	MaxClockSkew customtypes.Text `tfsdk:"max_clock_skew"`
	MaxLookup    customtypes.Text `tfsdk:"max_lookup"`
	FreePorts    types.List       `tfsdk:"free_ports"`
}

type aptModel struct {
	Repositories types.Map    `tfsdk:"repositories"`
	Proxy        types.String `tfsdk:"proxy"`
	AllowExpired types.Bool   `tfsdk:"allow_expired_release"`
}

type repositoryModel struct {
	URIs           []string     `tfsdk:"uris"`
	Suites         []string     `tfsdk:"suites"`
	Components     []string     `tfsdk:"components"`
	Architectures  []string     `tfsdk:"architectures"`
	SigningKey     types.String `tfsdk:"signing_key"`
	SigningKeyPath types.String `tfsdk:"signing_key_path"`
	Trusted        types.Bool   `tfsdk:"trusted"`
}

// target is how the host is reached. It returns false while that is not known.
func (m model) target(ctx context.Context, diags *diag.Diagnostics) (host.Target, bool) {
	if m.Name.IsUnknown() || m.Address.IsUnknown() {
		return host.Target{}, false
	}
	t := host.Target{Name: m.Name.ValueString(), Address: m.Address.ValueString()}
	if m.SSH.IsUnknown() {
		return t, false
	}
	if !m.SSH.IsNull() {
		var s sshModel
		diags.Append(m.SSH.As(ctx, &s, basetypes.ObjectAsOptions{})...)
		if s.Port.IsUnknown() || s.User.IsUnknown() || s.HostKey.IsUnknown() || !connattr.Known(s.Bastions) {
			return t, false
		}
		t.Port, t.User, t.HostKey = int(s.Port.ValueInt64()), s.User.ValueString(), s.HostKey.ValueString()
		if !s.Bastions.IsNull() {
			var list []string
			diags.Append(s.Bastions.ElementsAs(ctx, &list, false)...)
			if t.Bastions = strings.Join(list, ","); t.Bastions == "" {
				t.Bastions = "none"
			}
		}
	}
	return t, true
}

func (m model) spec(ctx context.Context, diags *diag.Diagnostics) prepare.Spec {
	t, _ := m.target(ctx, diags)
	s := prepare.Spec{
		Target: t, Sysctl: map[string]string{}, Hosts: map[string]string{}, NoFile: m.MaxOpenFiles.ValueInt64(),
		InstallChrony: m.TimeSync.ValueString() == "chrony", CheckTime: m.TimeSync.ValueString() == "check",
	}
	if !m.Sysctl.IsNull() {
		diags.Append(m.Sysctl.ElementsAs(ctx, &s.Sysctl, false)...)
	}
	if !m.HostsEntries.IsNull() {
		diags.Append(m.HostsEntries.ElementsAs(ctx, &s.Hosts, false)...)
	}
	if !m.Preflight.IsNull() {
		var p preflightModel
		diags.Append(m.Preflight.As(ctx, &p, basetypes.ObjectAsOptions{})...)
		s.Preflight = prepare.Preflight{
			Enforce: prepare.Enforce(p.Enforce.ValueString()), CPUs: p.MinCPUs.ValueInt64(), Memory: p.MinMemory.Bytes(), Disk: p.MinDisk.Bytes(),
			DiskPath: p.DiskPath.ValueString(), MaxClockSkew: p.MaxClockSkew.Duration(), MaxLookup: p.MaxLookup.Duration(),
		}
		diags.Append(p.FreePorts.ElementsAs(ctx, &s.Preflight.Ports, false)...)
	}
	if !m.Apt.IsNull() {
		var a aptModel
		diags.Append(m.Apt.As(ctx, &a, basetypes.ObjectAsOptions{UnhandledNullAsEmpty: true})...)
		s.Apt = prepare.Apt{Proxy: a.Proxy.ValueString(), AllowExpired: a.AllowExpired.ValueBool(), Repositories: map[string]prepare.Repository{}}
		if !a.Repositories.IsNull() {
			repositories := map[string]repositoryModel{}
			diags.Append(a.Repositories.ElementsAs(ctx, &repositories, false)...)
			for name, r := range repositories {
				s.Apt.Repositories[name] = prepare.Repository{
					URIs: r.URIs, Suites: r.Suites, Components: r.Components, Architectures: r.Architectures,
					SigningKey: r.SigningKey.ValueString(), SigningKeyPath: r.SigningKeyPath.ValueString(), Trusted: r.Trusted.ValueBool(),
				}
			}
		}
	}
	return s
}

// Default timeouts.
const (
	createTimeout = 20 * time.Minute
	readTimeout   = 2 * time.Minute
	deleteTimeout = 10 * time.Minute
)
