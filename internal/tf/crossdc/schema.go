package crossdc

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/crossdc"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

type siteModel struct {
	Clusters types.List       `tfsdk:"clusters"`
	Follow   types.String     `tfsdk:"follow"`
	Delay    customtypes.Text `tfsdk:"recovery_min_apply_delay"`
}

type clusterModel struct {
	Cluster types.Object `tfsdk:"cluster"`
	Hosts   types.List   `tfsdk:"hosts"`
}

type limitsModel struct {
	Lag         customtypes.Text `tfsdk:"lag"`
	Transaction customtypes.Text `tfsdk:"transaction"`
	Gap         customtypes.Text `tfsdk:"gap"`
}

const forced = "forced"

func (r *crossResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Replication between datacenters: which site takes writes, and whom the others follow. Each site has one Patroni cluster, or all groups of a Citus formation, on an etcd of its own. " +
			"Changing `primary` moves the primary to another site as one step that loses nothing: the old site is stopped cleanly, the new one waits until it has everything, and only then takes writes. " +
			"It is created after the clusters and before the nodes of the sites that follow, which clone the primary site's (`depends_on`).",
		Attributes: map[string]schema.Attribute{
			"id": schema.StringAttribute{Computed: true, MarkdownDescription: "The name.", PlanModifiers: []planmodifier.String{stringplanmodifier.UseStateForUnknown()}},
			"name": schema.StringAttribute{
				Required: true, MarkdownDescription: "A name for the replication, noted in the etcd of each site: a cluster is in one replication only. Another one replaces the resource.",
				Validators:    []validator.String{stringvalidator.LengthBetween(1, 60), validate.OneLine()},
				PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"primary": schema.StringAttribute{
				Required: true,
				MarkdownDescription: "The site that takes writes, one of `sites`. Another one moves the primary there; the plan says what that does, how far the sites are apart, and what speaks against it. " +
					"It is read from the sites: where somebody else has moved the primary, a plan shows that.",
			},
			"sites": schema.MapNestedAttribute{
				Required: true, MarkdownDescription: "The sites, by name: at most 40 small letters, digits, `_` and `-`, a letter first. The replication slot for a site has its name (`pgha_site_NAME`, with `_` for `-`).",
				Validators: []validator.Map{mapvalidator.SizeAtLeast(2), mapvalidator.KeysAre(stringvalidator.RegexMatches(crossdc.SiteName, "the name of a site has at most 40 small letters, digits, _ and -, and begins with a letter"))},
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"clusters": schema.ListNestedAttribute{
						Required: true, MarkdownDescription: "The site's Patroni cluster; of a Citus formation all of its groups, in the order of their numbers, and the same in each site.",
						Validators: []validator.List{listvalidator.SizeAtLeast(1)},
						NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
							"cluster": schema.ObjectAttribute{
								Required: true, AttributeTypes: connattr.MembershipType.AttrTypes,
								MarkdownDescription: "`membership` of a `pgha_patroni_cluster`. Its `allowed_networks` have to cover the nodes of all other sites.",
							},
							"hosts": schema.ListAttribute{
								Required: true, ElementType: types.StringType,
								MarkdownDescription: "Addresses at which the other sites reach its PostgreSQL: those of all its nodes, of which the one is used that takes writes; or a single one that follows the leader.",
								Validators:          []validator.List{listvalidator.SizeAtLeast(1), listvalidator.UniqueValues(), listvalidator.ValueStringsAre(validate.OneLine(), stringvalidator.LengthBetween(1, 253))},
							},
						}},
					},
					"follow": schema.StringAttribute{
						Optional:            true,
						MarkdownDescription: "Another site that it follows while it is not the primary; by default the primary. From a site that is itself a standby it gets WAL without a slot, unless `hosts` of that one is a single address that follows its leader (a `pgha_vip` with `follow = \"standby_leader\"`): then `wal_keep_size` is what it may miss.",
					},
					"recovery_min_apply_delay": schema.StringAttribute{
						CustomType: customtypes.DurationType, Optional: true,
						MarkdownDescription: "How long it waits before it applies what it has received, such as `1h`: time to notice a mistake. When the primary moves to it, it applies everything first.",
					},
				}},
			},
			"limits": schema.SingleNestedAttribute{
				Optional: true, MarkdownDescription: "What a planned move may cost. What is beyond them refuses it.",
				Attributes: map[string]schema.Attribute{
					"lag":         schema.StringAttribute{CustomType: customtypes.SizeType, Optional: true, MarkdownDescription: "How much WAL the new site may be behind when the move begins; `16MiB` by default."},
					"transaction": schema.StringAttribute{CustomType: customtypes.DurationType, Optional: true, MarkdownDescription: "How old a transaction may be that the move would end; `5m` by default."},
					"gap":         schema.StringAttribute{CustomType: customtypes.DurationType, Optional: true, MarkdownDescription: "For how long the old site waits, without taking writes, for the new one to have everything, before it takes writes again; `1m` by default."},
				},
			},
			"failover": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString("planned"),
				MarkdownDescription: "`planned` (the default) moves the primary with both sites well. `forced` moves it without the site that has it, which is lost, or cannot wait: refused while both are well, and without `accept_data_loss`. Set it back afterwards. Reading the lost site's other resources has to go on without it: `on_unreachable = \"keep\"` in the provider block.",
				Validators:          []validator.String{stringvalidator.OneOf("planned", forced)},
			},
			"accept_data_loss": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "For `failover = \"forced\"`: what the refusal names, after it has said what is lost. It counts for one move: each move asks for another one.",
			},
			"credentials_rotation": schema.Int64Attribute{
				Optional: true,
				MarkdownDescription: "Raise it together with `credentials.rotation` of the clusters: the other sites then take the primary site's new passwords in the same apply. Without it the next plan shows that they lack them. " +
					"Until they have them a standby goes on streaming, and could not connect again.",
			},
			"generation": schema.Int64Attribute{Computed: true, MarkdownDescription: "How often the primary has moved, from 1. For `generation` of a `pgha_dns_record`."},
			"drift":      base.DriftAttribute(),
		},
		Blocks: map[string]schema.Block{"timeouts": defaults.Block(ctx)},
	}
}

// spec is the replication that the model describes. It returns false while that is not known.
func (m model) spec(ctx context.Context, diags *diag.Diagnostics) (crossdc.Spec, bool) {
	for _, v := range []attr.Value{m.Name, m.Primary, m.Limits, m.Failover, m.AcceptLoss} {
		if !connattr.Known(v) {
			return crossdc.Spec{}, false
		}
	}
	s := crossdc.Spec{
		Name: m.Name.ValueString(), Primary: m.Primary.ValueString(), Limits: crossdc.DefaultLimits,
		Forced: m.Failover.ValueString() == forced, AcceptLoss: m.AcceptLoss.ValueString(),
	}
	if !m.Limits.IsNull() {
		var l limitsModel
		diags.Append(m.Limits.As(ctx, &l, basetypes.ObjectAsOptions{})...)
		if !l.Lag.IsNull() {
			s.Limits.Lag = l.Lag.Bytes()
		}
		if !l.Transaction.IsNull() {
			s.Limits.Transaction = l.Transaction.Duration()
		}
		if !l.Gap.IsNull() {
			s.Limits.Gap = l.Gap.Duration()
		}
	}
	var ok bool
	s.Sites, ok = sites(ctx, m.Sites, diags)
	return s, ok && !diags.HasError()
}

// sites are those of a map. It returns false while they are not known.
func sites(ctx context.Context, from types.Map, diags *diag.Diagnostics) (map[string]crossdc.Site, bool) {
	all := map[string]crossdc.Site{}
	for name, v := range from.Elements() {
		o, ok := v.(types.Object)
		if !ok || o.IsUnknown() {
			return nil, false
		}
		var from siteModel
		diags.Append(o.As(ctx, &from, basetypes.ObjectAsOptions{})...)
		if diags.HasError() || from.Follow.IsUnknown() || from.Delay.IsUnknown() || from.Clusters.IsUnknown() {
			return nil, false
		}
		site := crossdc.Site{Follow: from.Follow.ValueString()}
		if !from.Delay.IsNull() {
			site.Delay = from.Delay.Duration()
		}
		for _, e := range from.Clusters.Elements() {
			c, ok := e.(types.Object)
			if !ok || c.IsUnknown() {
				return nil, false
			}
			var cm clusterModel
			diags.Append(c.As(ctx, &cm, basetypes.ObjectAsOptions{})...)
			cluster, ok := connattr.ClusterFrom(ctx, cm.Cluster, diags)
			if !ok || !connattr.Known(cm.Hosts) || diags.HasError() {
				return nil, false
			}
			member := crossdc.Member{Cluster: cluster}
			diags.Append(cm.Hosts.ElementsAs(ctx, &member.Hosts, false)...)
			site.Clusters = append(site.Clusters, member)
		}
		all[name] = site
	}
	return all, !from.IsUnknown()
}
