package patroninode

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/planmod"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

const reloads = " Changing this reloads Patroni, without a restart."

func (r *nodeResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "PostgreSQL and Patroni on one host, as a member of a cluster. The first node of a new cluster makes the database; the others clone it as soon as there is a leader. " +
			"Packages are installed at exact versions and held, and nothing is ever started or restarted by their installation.",
		Attributes: map[string]schema.Attribute{
			"cluster": schema.ObjectAttribute{
				Required: true, AttributeTypes: connattr.MembershipType.AttrTypes,
				MarkdownDescription: "The cluster: `membership` of a `pgha_patroni_cluster`.",
			},
			"host": schema.ObjectAttribute{
				Required: true, AttributeTypes: connattr.ConnectionType.AttrTypes,
				MarkdownDescription: "The host: `access` of a `pgha_host`.",
			},
			"name": schema.StringAttribute{
				Required: true, MarkdownDescription: "The member's name, unique in the cluster in more than case and punctuation: Patroni makes the name of its replication slot from it. It cannot be changed.",
				Validators:    []validator.String{validate.Name()},
				PlanModifiers: []planmodifier.String{planmod.Fixed("remove this node and make another one.")},
			},
			"address": schema.StringAttribute{
				Optional: true, MarkdownDescription: "Where clients and the other nodes reach it, if that is not the host's address.",
				Validators: []validator.String{validate.Address()},
			},
			"versions": schema.SingleNestedAttribute{
				Required: true, MarkdownDescription: "Exact versions, such as `17.11` (the newest package of that version) or `17.11-0+deb13u1` (that package). They are installed exactly, and held.",
				Attributes: map[string]schema.Attribute{
					"postgresql": schema.StringAttribute{Required: true, MarkdownDescription: "Version of PostgreSQL.", Validators: []validator.String{validate.Pin()}},
					"patroni":    schema.StringAttribute{Required: true, MarkdownDescription: "Version of Patroni.", Validators: []validator.String{validate.Pin()}},
				},
			},
			"data_directory": schema.StringAttribute{
				Optional: true, Computed: true,
				MarkdownDescription: "Where the data is; `/var/lib/postgresql/MAJOR/SCOPE` by default. It is not moved in place: to move it, remove the node and make it again; it is then cloned.",
				Validators:          []validator.String{validate.AbsolutePath()},
			},
			"tags": schema.SingleNestedAttribute{
				Optional: true, MarkdownDescription: "What this member may do (Patroni documentation, \"Tags\")." + reloads,
				Attributes: map[string]schema.Attribute{
					"nofailover":        schema.BoolAttribute{Optional: true, MarkdownDescription: "Never let it lead. Conflicts with `failover_priority`."},
					"failover_priority": schema.Int64Attribute{Optional: true, MarkdownDescription: "Who leads next among those equally far; 0 never leads (Patroni 3.2 and later).", Validators: []validator.Int64{int64validator.AtLeast(0)}},
					"clonefrom":         schema.BoolAttribute{Optional: true, MarkdownDescription: "Prefer it as a source for clones, rather than the leader."},
					"noloadbalance":     schema.BoolAttribute{Optional: true, MarkdownDescription: "Answer 503 to `GET /replica`, so that load balancers leave it out."},
					"nosync":            schema.BoolAttribute{Optional: true, MarkdownDescription: "Never let it be a synchronous replica."},
					"replicatefrom":     schema.StringAttribute{Optional: true, MarkdownDescription: "Name of the member to replicate from, instead of the leader (cascading).", Validators: []validator.String{validate.Name()}},
					"custom":            schema.MapAttribute{ElementType: types.StringType, Optional: true, MarkdownDescription: "Further tags of your own."},
				},
			},
			"on_destroy": base.OnDestroyAttribute("What destroying does with the data: `keep_data` (the default) stops and disables Patroni and leaves the data on the host, so that creating the node again takes it up; `purge` deletes it."),
			"id":         schema.StringAttribute{Computed: true, MarkdownDescription: "Scope and name, as `SCOPE/NAME`."},
			"drift":      base.DriftAttribute(),
		},
		Blocks: map[string]schema.Block{
			"timeouts": timeouts.Block(ctx, timeouts.Opts{Create: true, Read: true, Update: true, Delete: true}),
		},
	}
}
