package patroninode

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

type model struct {
	ID            types.String     `tfsdk:"id"`
	Cluster       types.Object     `tfsdk:"cluster"`
	Host          types.Object     `tfsdk:"host"`
	Name          types.String     `tfsdk:"name"`
	Address       types.String     `tfsdk:"address"`
	Versions      types.Object     `tfsdk:"versions"`
	DataDirectory types.String     `tfsdk:"data_directory"`
	Tags          types.Object     `tfsdk:"tags"`
	Watchdog      types.String     `tfsdk:"watchdog"`
	Device        types.String     `tfsdk:"watchdog_device"`
	Margin        customtypes.Text `tfsdk:"watchdog_safety_margin"`
	OnDestroy     types.String     `tfsdk:"on_destroy"`
	Drift         types.List       `tfsdk:"drift"`
	Timeouts      timeouts.Value   `tfsdk:"timeouts"`
}

type versionsModel struct {
	PostgreSQL types.String `tfsdk:"postgresql"`
	Patroni    types.String `tfsdk:"patroni"`
	Citus      types.String `tfsdk:"citus"`
	Extensions types.Map    `tfsdk:"extensions"`
}

type tagsModel struct {
	NoFailover       types.Bool   `tfsdk:"nofailover"`
	FailoverPriority types.Int64  `tfsdk:"failover_priority"`
	CloneFrom        types.Bool   `tfsdk:"clonefrom"`
	NoLoadBalance    types.Bool   `tfsdk:"noloadbalance"`
	NoSync           types.Bool   `tfsdk:"nosync"`
	ReplicateFrom    types.String `tfsdk:"replicatefrom"`
	Custom           types.Map    `tfsdk:"custom"`
}

// versions are the pins. They are empty while unknown.
func (m model) versions(ctx context.Context, diags *diag.Diagnostics) versionsModel {
	var v versionsModel
	if !m.Versions.IsNull() && !m.Versions.IsUnknown() {
		diags.Append(m.Versions.As(ctx, &v, basetypes.ObjectAsOptions{})...)
	}
	return v
}

// known reports whether no pin is unknown.
func (v versionsModel) known() bool {
	return v.PostgreSQL.ValueString() != "" && v.Patroni.ValueString() != "" && !v.Citus.IsUnknown() && connattr.Known(v.Extensions)
}

// citus is the extension that has an attribute of its own.
const citus = patroni.CitusExtension

// extensions are the pins of extensions, by name, as far as they are known.
func (v versionsModel) extensions(ctx context.Context, diags *diag.Diagnostics) map[string]string {
	pins := map[string]string{}
	if !v.Extensions.IsNull() && connattr.Known(v.Extensions) {
		diags.Append(v.Extensions.ElementsAs(ctx, &pins, false)...)
	}
	if s := v.Citus.ValueString(); s != "" {
		pins[citus] = s
	}
	return pins
}

// observe has the pins of extensions say what is installed, where that is another version.
func (v *versionsModel) observe(ctx context.Context, installed map[string]string, diags *diag.Diagnostics) {
	pins := v.extensions(ctx, diags)
	for name, version := range installed {
		if !debver.Matches(pins[name], version) {
			pins[name] = version
		}
	}
	if s, ok := pins[citus]; ok {
		v.Citus = types.StringValue(s)
		delete(pins, citus)
	}
	if !v.Extensions.IsNull() {
		m, d := types.MapValueFrom(ctx, types.StringType, pins)
		diags.Append(d...)
		v.Extensions = m
	}
}

// freed are the packages of extensions that a node that is to be does not pin any more.
func (m model) freed(ctx context.Context, n patroni.Node, diags *diag.Diagnostics) []string {
	var list []string
	for name := range m.versions(ctx, diags).extensions(ctx, diags) {
		if _, still := n.Extensions[name]; !still {
			list = append(list, n.ExtensionPackage(name))
		}
	}
	slices.Sort(list)
	return list
}

// tags renders the tags for Patroni's file.
func (m model) tags(ctx context.Context, diags *diag.Diagnostics) map[string]any {
	if m.Tags.IsNull() || m.Tags.IsUnknown() {
		return nil
	}
	var t tagsModel
	diags.Append(m.Tags.As(ctx, &t, basetypes.ObjectAsOptions{})...)
	out := map[string]any{}
	if !t.Custom.IsNull() {
		custom := map[string]string{}
		diags.Append(t.Custom.ElementsAs(ctx, &custom, false)...)
		for k, v := range custom {
			out[k] = v
		}
	}
	for name, v := range map[string]types.Bool{
		"nofailover": t.NoFailover, "clonefrom": t.CloneFrom, "noloadbalance": t.NoLoadBalance, "nosync": t.NoSync,
	} {
		if !v.IsNull() {
			out[name] = v.ValueBool()
		}
	}
	if !t.FailoverPriority.IsNull() {
		out["failover_priority"] = t.FailoverPriority.ValueInt64()
	}
	if !t.ReplicateFrom.IsNull() {
		out["replicatefrom"] = t.ReplicateFrom.ValueString()
	}
	return out
}

// node reads the whole model. It returns false while a part is unknown that is
// needed to talk to the host.
func (m model) node(ctx context.Context, diags *diag.Diagnostics) (patroni.Node, bool) {
	c, ok := connattr.ClusterFrom(ctx, m.Cluster, diags)
	if !ok {
		return patroni.Node{}, false
	}
	t, ok := connattr.TargetFrom(ctx, m.Host, diags)
	v := m.versions(ctx, diags)
	if !ok || !v.known() || m.Address.IsUnknown() || m.Watchdog.IsUnknown() || m.Device.IsUnknown() || m.Margin.IsUnknown() || !connattr.Known(m.Tags) {
		return patroni.Node{}, false
	}
	n := patroni.Node{
		Cluster: c, Name: m.Name.ValueString(), Address: t.Address, Target: t, Tags: m.tags(ctx, diags),
		Postgres: v.PostgreSQL.ValueString(), Patroni: v.Patroni.ValueString(), DataDir: m.DataDirectory.ValueString(),
		Extensions: v.extensions(ctx, diags),
		Watchdog:   patroni.Watchdog{Mode: m.Watchdog.ValueString(), Device: m.Device.ValueString(), SafetyMargin: int64(m.Margin.Duration() / time.Second)},
	}
	if a := m.Address.ValueString(); a != "" {
		n.Address = a
	}
	if n.DataDir == "" {
		n.DataDir = defaultDataDir(c.Scope, n.Postgres)
	}
	return n, !diags.HasError()
}

// drift is what the last refresh found.
func (m model) drift(ctx context.Context, diags *diag.Diagnostics) []string {
	var lines []string
	if !m.Drift.IsNull() && !m.Drift.IsUnknown() {
		diags.Append(m.Drift.ElementsAs(ctx, &lines, false)...)
	}
	return lines
}

func wholeSeconds(s string) error {
	d, err := time.ParseDuration(s)
	if err == nil && (d < 0 || d%time.Second != 0) {
		return fmt.Errorf("%s is not a whole number of seconds", s)
	}
	return nil
}

func defaultDataDir(scope, version string) string {
	major, err := postgres.Major(version)
	if err != nil {
		return ""
	}
	return postgres.DataDir(major, scope)
}

// Default timeouts: cloning takes as long as the data is large.
const (
	createTimeout = 2 * time.Hour
	updateTimeout = time.Hour
	readTimeout   = 2 * time.Minute
	deleteTimeout = 30 * time.Minute
)
