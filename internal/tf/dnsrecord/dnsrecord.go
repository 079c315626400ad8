// Package dnsrecord is the resource pgha_dns_record.
package dnsrecord

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64default"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/dns"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

// New returns the resource.
func New() resource.Resource { return &recordResource{} }

type recordResource struct{ base.Resource }

var (
	_ resource.ResourceWithConfigure      = &recordResource{}
	_ resource.ResourceWithModifyPlan     = &recordResource{}
	_ resource.ResourceWithValidateConfig = &recordResource{}
)

var defaults = base.Timeouts{Create: 30 * time.Minute, Read: 2 * time.Minute, Update: 30 * time.Minute, Delete: 10 * time.Minute}

type model struct {
	ID         types.String   `tfsdk:"id"`
	Cluster    types.Object   `tfsdk:"cluster"`
	Nodes      types.Map      `tfsdk:"nodes"`
	Zone       types.String   `tfsdk:"zone"`
	Name       types.String   `tfsdk:"name"`
	Type       types.String   `tfsdk:"type"`
	TTL        types.Int64    `tfsdk:"ttl"`
	Follow     types.String   `tfsdk:"follow"`
	Generation types.Int64    `tfsdk:"generation"`
	Replicated types.String   `tfsdk:"replication"`
	Servers    types.List     `tfsdk:"servers"`
	Key        types.Object   `tfsdk:"key"`
	Targets    types.Map      `tfsdk:"targets"`
	FQDN       types.String   `tfsdk:"fqdn"`
	Drift      types.List     `tfsdk:"drift"`
	Timeouts   timeouts.Value `tfsdk:"timeouts"`
}

type keyModel struct {
	Name      types.String `tfsdk:"name"`
	Algorithm types.String `tfsdk:"algorithm"`
	Secret    types.String `tfsdk:"secret_wo"`
	Version   types.Int64  `tfsdk:"secret_wo_version"`
}

var keyTypes = map[string]attr.Type{"name": types.StringType, "algorithm": types.StringType, "secret_wo": types.StringType, "secret_wo_version": types.Int64Type}

func (r *recordResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_dns_record"
}

func fqdn(what string) validator.String {
	return validate.Text("must be "+what, func(s string) error { _, err := dns.Qualify(s); return err })
}

func (r *recordResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "A DNS name that follows the leader of a cluster, or its replicas, by dynamic updates (RFC 2136, TSIG), where no virtual address works. On each node runs an updater; only the one on the primary writes, each time on condition that the record is as it was read, " +
			"and a mark beside the record keeps an older primary from overwriting a newer one.",
		Attributes: map[string]schema.Attribute{
			"id": schema.StringAttribute{Computed: true, MarkdownDescription: "Scope and name, such as `main/db.pg.example.org`.", PlanModifiers: []planmodifier.String{stringplanmodifier.UseStateForUnknown()}},
			"cluster": schema.ObjectAttribute{
				Required: true, AttributeTypes: connattr.MembershipType.AttrTypes,
				MarkdownDescription: "The cluster: `membership` of a `pgha_patroni_cluster`. Of a Citus formation, that of any group.",
			},
			"nodes": schema.MapAttribute{
				Required: true, ElementType: types.StringType,
				MarkdownDescription: "The nodes that the name may lead to, by their names: the ids of their `pgha_patroni_node` resources.",
				Validators:          []validator.Map{mapvalidator.SizeAtLeast(1)},
			},
			"zone": schema.StringAttribute{
				Required: true, MarkdownDescription: "The zone, such as `pg.example.org`. Another one replaces the resource.",
				Validators: []validator.String{fqdn("a zone")}, PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"name": schema.StringAttribute{
				Required: true, MarkdownDescription: "The name in the zone, such as `db` or `db.pg.example.org`. Another one replaces the resource. A record that is there already and was not made here is refused, never overwritten.",
				Validators: []validator.String{fqdn("a name")}, PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"type": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(dns.Addresses),
				MarkdownDescription: "`address` (the default) is A and AAAA records, of whatever addresses the nodes have. `CNAME` leads to the name of the leader. Another one replaces the resource.",
				Validators:          []validator.String{stringvalidator.OneOf(dns.Addresses, dns.CNAME)}, PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"ttl": schema.Int64Attribute{
				Optional: true, Computed: true, Default: int64default.StaticInt64(5),
				MarkdownDescription: "For how many seconds resolvers keep the answer; 5 by default. After a failover clients go to the old leader for up to that long.",
				Validators:          []validator.Int64{int64validator.Between(0, 86400)},
			},
			"follow": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(dns.Leader),
				MarkdownDescription: "`leader` (the default), `replicas` (all that run and do not have the tag `noloadbalance`; the leader where there is none), or `all`.",
				Validators:          []validator.String{stringvalidator.OneOf(dns.Leader, dns.Replicas, dns.All)},
			},
			"generation": schema.Int64Attribute{
				Optional: true, Computed: true, Default: int64default.StaticInt64(1),
				MarkdownDescription: "Raise it when the cluster's timeline has gone back, by a restore, a new database or another major version: a record of a higher timeline of the same generation is never overwritten. 1 by default.",
				Validators:          []validator.Int64{int64validator.AtLeast(1)},
			},
			"replication": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "`id` of a `pgha_cross_dc_replication`: the name then leads to the primary of whichever site is the primary, and the clusters of all sites have a record of the same name, each its own resource with this attribute and with `generation` of the replication. Another one replaces the resource.",
				Validators:          []validator.String{stringvalidator.LengthBetween(1, 60), validate.OneLine()}, PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"servers": schema.ListAttribute{
				Required: true, ElementType: types.StringType,
				MarkdownDescription: "The zone's servers, each by its address, `10.0.0.53` or `10.0.0.53:5353`. The first is the primary one, which takes updates from the nodes by UDP and TCP; of the others it is looked whether they follow.",
				Validators: []validator.List{listvalidator.SizeBetween(1, 16), listvalidator.UniqueValues(), listvalidator.ValueStringsAre(
					validate.Text("must be the address of a server", func(s string) error { _, err := dns.Server(s); return err }),
				)},
			},
			"key": schema.SingleNestedAttribute{
				Required: true, MarkdownDescription: "The TSIG key with which the nodes come to the server. On the hosts it is in a file that only root can read.",
				Attributes: map[string]schema.Attribute{
					"name": schema.StringAttribute{Required: true, MarkdownDescription: "Its name on the server.", Validators: []validator.String{fqdn("a name of a key")}},
					"algorithm": schema.StringAttribute{
						Optional: true, Computed: true, Default: stringdefault.StaticString(dns.Algorithms[0]),
						MarkdownDescription: "`hmac-sha256` (the default), `hmac-sha384`, `hmac-sha512` or `hmac-sha224`.", Validators: []validator.String{stringvalidator.OneOf(dns.Algorithms...)},
					},
					"secret_wo": schema.StringAttribute{
						Optional: true, WriteOnly: true, Sensitive: true, MarkdownDescription: "Its secret in base64, as `tsig-keygen` prints it; write-only. It can be left out once the hosts have it.",
						Validators: []validator.String{
							validate.Text("must be a secret in base64", dns.CheckSecret), stringvalidator.AlsoRequires(path.MatchRelative().AtParent().AtName("secret_wo_version")),
						},
					},
					"secret_wo_version": schema.Int64Attribute{Optional: true, MarkdownDescription: "Any number; another one makes an apply give the hosts the secret that `secret_wo` has then. A changed `secret_wo` alone cannot be noticed, and does nothing."},
				},
			},
			"targets": schema.MapAttribute{
				Optional: true, ElementType: types.ListType{ElemType: types.StringType},
				MarkdownDescription: "What clients reach a node by, by its name: addresses, or with `CNAME` one name. By default the `address` of each node.",
				Validators:          []validator.Map{mapvalidator.ValueListsAre(listvalidator.SizeBetween(1, 8), listvalidator.UniqueValues())},
			},
			"fqdn":  schema.StringAttribute{Computed: true, MarkdownDescription: "The whole name, for connection strings."},
			"drift": base.DriftAttribute(),
		},
		Blocks: map[string]schema.Block{"timeouts": defaults.Block(ctx)},
	}
}

// ValidateConfig refuses what no server would take.
func (r *recordResource) ValidateConfig(ctx context.Context, req resource.ValidateConfigRequest, resp *resource.ValidateConfigResponse) {
	var m model
	diags := &resp.Diagnostics
	diags.Append(req.Config.Get(ctx, &m)...)
	if diags.HasError() {
		return
	}
	if connattr.Known(m.Zone) && connattr.Known(m.Name) {
		_, err1 := dns.Qualify(m.Zone.ValueString())
		_, err2 := dns.Qualify(m.Name.ValueString())
		if _, _, err := m.names(); err != nil && err1 == nil && err2 == nil { // else it is said at the attribute
			diags.AddAttributeError(path.Root("name"), "Name outside of the zone", err.Error()+".")
		}
	}
	if m.Type.ValueString() == dns.CNAME {
		if f := m.Follow; !f.IsUnknown() && !f.IsNull() && f.ValueString() != dns.Leader {
			diags.AddAttributeError(path.Root("follow"), "A CNAME follows the leader", "A name can have one CNAME record and nothing else, so it cannot lead to several nodes.\nWhat to do: leave type out, or write follow = \"leader\".")
		}
		for name, v := range m.Targets.Elements() {
			if list, ok := v.(types.List); ok && len(list.Elements()) > 1 {
				diags.AddAttributeError(path.Root("targets").AtMapKey(name), "A CNAME has one target", "A name can have one CNAME record: give one name.")
			}
		}
	}
	for name := range m.Targets.Elements() {
		if _, there := m.Nodes.Elements()[name]; connattr.Known(m.Nodes) && !there {
			diags.AddAttributeError(path.Root("targets").AtMapKey(name), "No such node", name+" is not in nodes.")
		}
	}
}

// names are the zone's and the record's, fully qualified.
func (m model) names() (zone, name string, err error) {
	if zone, err = dns.Qualify(m.Zone.ValueString()); err != nil {
		return "", "", err
	}
	if name, err = dns.Qualify(m.Name.ValueString()); err != nil {
		return "", "", err
	}
	if name != zone && !strings.HasSuffix(name, "."+zone) && !strings.HasSuffix(m.Name.ValueString(), ".") {
		name += zone // it is written as in a file of the zone
	}
	return zone, name, dns.InZone(name, zone)
}

// spec is the record that the model describes. It returns false while that is not known.
func (m model) spec(ctx context.Context, diags *diag.Diagnostics) (dns.Spec, bool) {
	c, ok := connattr.ClusterFrom(ctx, m.Cluster, diags)
	for _, v := range []attr.Value{m.Nodes, m.Zone, m.Name, m.Type, m.TTL, m.Follow, m.Generation, m.Replicated, m.Servers, m.Key, m.Targets} {
		ok = ok && connattr.Known(v)
	}
	if !ok {
		return dns.Spec{}, false
	}
	s := dns.Spec{Cluster: c, Type: m.Type.ValueString(), TTL: m.TTL.ValueInt64(), Follow: m.Follow.ValueString(), Generation: m.Generation.ValueInt64(), Replication: m.Replicated.ValueString()}
	var err error
	if s.Zone, s.Name, err = m.names(); err != nil {
		diags.AddAttributeError(path.Root("name"), "Name outside of the zone", err.Error()+".")
	}
	for _, v := range m.Servers.Elements() {
		server, err := dns.Server(v.(types.String).ValueString())
		if err != nil {
			diags.AddAttributeError(path.Root("servers"), "Invalid server", err.Error()+".")
		}
		s.Servers = append(s.Servers, server)
	}
	var k keyModel
	diags.Append(m.Key.As(ctx, &k, basetypes.ObjectAsOptions{})...)
	s.Key = dns.Key{Name: k.Name.ValueString(), Algorithm: k.Algorithm.ValueString()}
	diags.Append(m.Targets.ElementsAs(ctx, &s.Targets, false)...)
	for name := range m.Nodes.Elements() {
		s.Nodes = append(s.Nodes, name)
	}
	return s, !diags.HasError()
}

func (m *model) complete(s dns.Spec) {
	m.FQDN = types.StringValue(strings.TrimSuffix(s.Name, "."))
	m.ID = types.StringValue(s.Cluster.Name() + "/" + m.FQDN.ValueString())
}

func (r *recordResource) manager(s dns.Spec) dns.Manager {
	return dns.New(r.S.Patroni("pgha_dns_record " + s.Title()))
}

// ModifyPlan makes known what can be.
func (r *recordResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	diags := &resp.Diagnostics
	var before, m model
	if req.Plan.Raw.IsNull() {
		if diags.Append(req.State.Get(ctx, &before)...); !diags.HasError() {
			diags.AddWarning("Destroying this removes the DNS name "+before.FQDN.ValueString(),
				fmt.Sprintf("It is removed if it is still as this provider has written it. Clients that look it up find nobody, %d seconds later at the latest where resolvers keep to the record's ttl; connections that there are go on.", before.TTL.ValueInt64()))
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
	if connattr.Known(m.Zone) && connattr.Known(m.Name) {
		if _, name, err := m.names(); err == nil {
			m.FQDN = types.StringValue(strings.TrimSuffix(name, "."))
			if known {
				m.complete(dns.Spec{Cluster: c, Name: name})
			}
		}
	}
	diags.Append(resp.Plan.Set(ctx, &m)...)
}

// secret is what the configuration has, which is in no plan.
func secret(ctx context.Context, config interface {
	GetAttribute(context.Context, path.Path, any) diag.Diagnostics
}, diags *diag.Diagnostics) string {
	var text types.String
	diags.Append(config.GetAttribute(ctx, path.Root("key").AtName("secret_wo"), &text)...)
	return text.ValueString()
}

func (r *recordResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var m model
	resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Create(ctx, defaults.Create)
	resp.Diagnostics.Append(diags...)
	key := secret(ctx, req.Config, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "create")
	defer cancel()
	if r.apply(ctx, &m, key, "create", &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

func (r *recordResource) apply(ctx context.Context, m *model, key, verb string, diags *diag.Diagnostics) bool {
	s, ok := m.spec(ctx, diags)
	if !ok {
		return false
	}
	s.Key.Secret = key
	warnings, err := r.manager(s).Apply(ctx, s)
	for _, w := range warnings {
		diags.AddWarning("DNS record "+s.Title()+" is not everywhere yet", w)
	}
	if err != nil {
		r.S.Fail(diags, "Unable to "+verb+" DNS record "+s.Title(), err)
		return false
	}
	m.complete(s)
	m.Drift = base.NoDrift()
	return !diags.HasError()
}

func (r *recordResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
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
	for _, w := range o.Warnings {
		resp.Diagnostics.AddWarning("DNS record "+s.Title(), w)
	}
	switch {
	case err != nil && r.S.Unreachable(&resp.Diagnostics, "DNS record "+s.Title(), err):
		return
	case err != nil:
		r.S.Fail(&resp.Diagnostics, "Unable to read DNS record "+s.Title(), err)
		return
	case o.Absent:
		resp.State.RemoveResource(ctx)
		return
	}
	m.Drift = base.DriftValue(ctx, o.Drift, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}

func (r *recordResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var before, m model
	resp.Diagnostics.Append(req.State.Get(ctx, &before)...)
	resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Update(ctx, defaults.Update)
	resp.Diagnostics.Append(diags...)
	key := secret(ctx, req.Config, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	var was, is keyModel
	resp.Diagnostics.Append(before.Key.As(ctx, &was, basetypes.ObjectAsOptions{})...)
	resp.Diagnostics.Append(m.Key.As(ctx, &is, basetypes.ObjectAsOptions{})...)
	if was.Version.Equal(is.Version) {
		key = "" // the hosts have it
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "update")
	defer cancel()
	if r.apply(ctx, &m, key, "update", &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

func (r *recordResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
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
		r.S.Fail(&resp.Diagnostics, "Unable to destroy DNS record "+s.Title(), err)
	}
}
