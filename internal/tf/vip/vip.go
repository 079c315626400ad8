// Package vip is the resource pgha_vip.
package vip

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/follow"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/vip"
)

// New returns the resource.
func New() resource.Resource { return &vipResource{} }

type vipResource struct{ base.Resource }

var (
	_ resource.ResourceWithConfigure      = &vipResource{}
	_ resource.ResourceWithModifyPlan     = &vipResource{}
	_ resource.ResourceWithValidateConfig = &vipResource{}
)

var defaults = base.Timeouts{Create: 30 * time.Minute, Read: 2 * time.Minute, Update: 30 * time.Minute, Delete: 10 * time.Minute}

type model struct {
	ID        types.String   `tfsdk:"id"`
	Cluster   types.Object   `tfsdk:"cluster"`
	Nodes     types.Map      `tfsdk:"nodes"`
	Address   types.String   `tfsdk:"address"`
	Interface types.String   `tfsdk:"interface"`
	Follow    types.String   `tfsdk:"follow"`
	Version   types.String   `tfsdk:"version"`
	Host      types.String   `tfsdk:"host"`
	Drift     types.List     `tfsdk:"drift"`
	Timeouts  timeouts.Value `tfsdk:"timeouts"`
}

func (r *vipResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_vip"
}

const standbyLeader = "standby_leader"

func (r *vipResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "A virtual IP address that follows the leader of a cluster, by vip-manager under a guard on each node. The address has a lifetime of 4 seconds in the kernel, which the guard renews while the local Patroni says that it leads: " +
			"a host that is cut off, killed or stands still loses it by itself, and nobody takes it while somebody answers for it. For an address that no subnet of all nodes has, use a DNS record instead.",
		Attributes: map[string]schema.Attribute{
			"id": schema.StringAttribute{Computed: true, MarkdownDescription: "Scope and address, such as `main/10.77.1.100`.", PlanModifiers: []planmodifier.String{stringplanmodifier.UseStateForUnknown()}},
			"cluster": schema.ObjectAttribute{
				Required: true, AttributeTypes: connattr.MembershipType.AttrTypes,
				MarkdownDescription: "The cluster: `membership` of a `pgha_patroni_cluster`. Of a Citus formation, that of any group.",
			},
			"nodes": schema.MapAttribute{
				Required: true, ElementType: types.StringType,
				MarkdownDescription: "The nodes that may have the address, by their names: the ids of their `pgha_patroni_node` resources. A node that leads and is not among them leaves nobody with the address.",
				Validators:          []validator.Map{mapvalidator.SizeAtLeast(1)},
			},
			"address": schema.StringAttribute{
				Required:            true,
				MarkdownDescription: "The address with the length of its subnet's prefix, such as `10.77.1.100/24` or `fd00:77::100/64`. Another one replaces the resource.",
				PlanModifiers:       []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"interface": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "The interface that gets the address, such as `eth0`; unless given, on each node the one whose subnet the address lies in. Another one replaces the resource.",
				Validators:          []validator.String{stringvalidator.LengthBetween(1, 15)},
				PlanModifiers:       []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"follow": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString("leader"),
				MarkdownDescription: "`leader` (the default) is the primary, which takes writes. `standby_leader` is the leader of a standby cluster: as long as it is one, only that has the address.",
				Validators:          []validator.String{stringvalidator.OneOf("leader", standbyLeader)},
			},
			"version": schema.StringAttribute{
				Required: true,
				MarkdownDescription: "The version of vip-manager (package `vip-manager2`), such as `3.0.0`, or of its package, such as `3.0.0-2`. It is installed and held on all nodes; one host has one version for all its addresses. Another version is installed while the address stays where it is. " +
					"At least " + vip.Oldest + ": older ones know neither Patroni's REST API nor etcd's present one.",
			},
			"host":  schema.StringAttribute{Computed: true, MarkdownDescription: "The address alone, for connection strings."},
			"drift": base.DriftAttribute(),
		},
		Blocks: map[string]schema.Block{"timeouts": defaults.Block(ctx)},
	}
}

// ValidateConfig refuses what no host could do.
func (r *vipResource) ValidateConfig(ctx context.Context, req resource.ValidateConfigRequest, resp *resource.ValidateConfigResponse) {
	var m model
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	if resp.Diagnostics.HasError() {
		return
	}
	if text := m.Address; !text.IsUnknown() && !text.IsNull() {
		p, err := netip.ParsePrefix(text.ValueString())
		if err == nil {
			err = vip.CheckAddress(p)
		} else {
			err = errors.New("it is an address and the length of its subnet's prefix, such as 10.77.1.100/24")
		}
		if err != nil {
			resp.Diagnostics.AddAttributeError(path.Root("address"), "Invalid virtual address", text.ValueString()+": "+err.Error()+".")
		}
	}
	if text := m.Version; !text.IsUnknown() && !text.IsNull() {
		if err := vip.CheckVersion(text.ValueString()); err != nil {
			resp.Diagnostics.AddAttributeError(path.Root("version"), "Version of vip-manager that cannot be used", err.Error()+".")
		}
	}
}

// spec is the address that the model describes. It returns false while that is not known.
func (m model) spec(ctx context.Context, diags *diag.Diagnostics) (vip.Spec, bool) {
	c, ok := connattr.ClusterFrom(ctx, m.Cluster, diags)
	if !ok || m.Nodes.IsUnknown() || m.Address.IsUnknown() || m.Interface.IsUnknown() || m.Follow.IsUnknown() || m.Version.IsUnknown() {
		return vip.Spec{}, false
	}
	address, err := netip.ParsePrefix(m.Address.ValueString())
	if err != nil {
		diags.AddAttributeError(path.Root("address"), "Invalid virtual address", err.Error()+".")
		return vip.Spec{}, false
	}
	s := vip.Spec{
		Cluster: c, Address: address, Interface: m.Interface.ValueString(),
		StandbyLeader: m.Follow.ValueString() == standbyLeader, Version: m.Version.ValueString(),
	}
	for name := range m.Nodes.Elements() {
		s.Nodes = append(s.Nodes, name)
	}
	return s, true
}

// complete fills in what follows from the rest.
func (m *model) complete(s vip.Spec) {
	m.ID = types.StringValue(s.Cluster.Name() + "/" + s.Address.Addr().String())
	m.Host = types.StringValue(s.Address.Addr().String())
}

func (r *vipResource) manager(s vip.Spec) vip.Manager {
	return vip.New(r.S.Patroni("pgha_vip " + s.Name()))
}

// ModifyPlan makes known what can be, and refuses an address that the hosts cannot have.
func (r *vipResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	diags := &resp.Diagnostics
	var before, m model
	if req.Plan.Raw.IsNull() {
		if diags.Append(req.State.Get(ctx, &before)...); !diags.HasError() {
			diags.AddWarning("Destroying this takes the virtual address "+before.Host.ValueString()+" off all nodes",
				"Connections to it end, and clients that use it find nobody. Have them use another address first. The cluster goes on, and can be reached at its nodes' own addresses.")
		}
		return
	}
	if !req.State.Raw.IsNull() {
		diags.Append(req.State.Get(ctx, &before)...)
	}
	diags.Append(req.Plan.Get(ctx, &m)...)
	c, known := connattr.ClusterFrom(ctx, m.Cluster, diags)
	if diags.HasError() {
		return
	}
	if old, ok := connattr.ClusterFrom(ctx, before.Cluster, diags); ok && known && old.Prefix() != c.Prefix() {
		resp.RequiresReplace = append(resp.RequiresReplace, path.Root("cluster"))
	}
	if p, err := netip.ParsePrefix(m.Address.ValueString()); err == nil {
		m.Host = types.StringValue(p.Addr().String())
		if known {
			m.complete(vip.Spec{Cluster: c, Address: p})
		}
	}
	diags.Append(resp.Plan.Set(ctx, &m)...)
	if s, ok := m.spec(ctx, diags); ok && s.Cluster.UID != "" && r.S != nil && !req.Plan.Raw.Equal(req.State.Raw) {
		r.check(ctx, s, diags)
	}
}

// check asks the nodes' hosts whether they can have the address. Nodes that are only to
// come cannot be asked; then an apply finds out.
func (r *vipResource) check(ctx context.Context, s vip.Spec, diags *diag.Diagnostics) {
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := r.manager(s).Check(bounded, s)
	var refused *problem.Error
	switch {
	case errors.As(err, &refused) && refused.Step == follow.CannotBe:
		diags.AddAttributeError(path.Root("address"), "The virtual address "+s.Address.Addr().String()+" cannot be used", r.S.Redact.Apply(problem.Details(err)))
	case err != nil:
		r.S.Log.InfoContext(ctx, "whether the hosts can have the virtual address could not be found out", "address", s.Name(), "error", err)
	}
}

func (r *vipResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var m model
	resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Create(ctx, defaults.Create)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "create")
	defer cancel()
	if r.apply(ctx, &m, "create", &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

func (r *vipResource) apply(ctx context.Context, m *model, verb string, diags *diag.Diagnostics) bool {
	s, ok := m.spec(ctx, diags)
	if !ok {
		return false
	}
	if err := r.manager(s).Apply(ctx, s); err != nil {
		r.S.Fail(diags, "Unable to "+verb+" virtual address "+s.Name(), err)
		return false
	}
	m.complete(s)
	m.Drift = base.NoDrift()
	return !diags.HasError()
}

func (r *vipResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	var m model
	resp.Diagnostics.Append(req.State.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Read(ctx, defaults.Read)
	resp.Diagnostics.Append(diags...)
	s, ok := m.spec(ctx, &resp.Diagnostics)
	if resp.Diagnostics.HasError() || !ok {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "read")
	defer cancel()
	o, err := r.manager(s).Observe(ctx, s)
	switch {
	case err != nil && r.S.Unreachable(&resp.Diagnostics, "virtual address "+s.Name(), err):
		return
	case err != nil:
		r.S.Fail(&resp.Diagnostics, "Unable to read virtual address "+s.Name(), err)
		return
	case o.Absent:
		resp.State.RemoveResource(ctx)
		return
	}
	m.Drift = base.DriftValue(ctx, o.Drift, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}

func (r *vipResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var m model
	resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Update(ctx, defaults.Update)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "update")
	defer cancel()
	if r.apply(ctx, &m, "update", &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

func (r *vipResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	var m model
	resp.Diagnostics.Append(req.State.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Delete(ctx, defaults.Delete)
	resp.Diagnostics.Append(diags...)
	s, ok := m.spec(ctx, &resp.Diagnostics)
	if resp.Diagnostics.HasError() || !ok {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "delete")
	defer cancel()
	if err := r.manager(s).Destroy(ctx, s); err != nil && !errors.Is(err, patroni.ErrNoCluster) {
		r.S.Fail(&resp.Diagnostics, "Unable to destroy virtual address "+s.Name(), err)
	}
}
