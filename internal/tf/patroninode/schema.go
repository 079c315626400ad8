package patroninode

import (
	"context"
	"regexp"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
	"github.com/pgha/terraform-provider-pgha/internal/tf/planmod"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

const reloads = " Changing this reloads Patroni, without a restart."

// watchdogDevice is what the kernel calls watchdogs.
var watchdogDevice = regexp.MustCompile(`^/dev/watchdog[0-9]*$`)

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
				Optional: true, MarkdownDescription: "IP address or name at which clients and the other nodes reach it; the host's address by default. PostgreSQL listens on all addresses of the host, IPv4 and IPv6; the REST API on all of IPv4, or where this is an IPv6 address or a name that leads only to one, on all of both. Changing this issues a new certificate and reloads Patroni.",
				Validators: []validator.String{validate.Address()},
			},
			"versions": schema.SingleNestedAttribute{
				Required: true, MarkdownDescription: "Exact versions, such as `17.11` (the newest package of that version) or `17.11-0+deb13u1` (that package). They are installed exactly, held, and verified as running. Changing them brings the node to another minor version of PostgreSQL, or version of Patroni, or back, when its turn comes: see `rollout` of the `pgha_patroni_cluster`, and the guide \"Upgrading\".",
				Attributes: map[string]schema.Attribute{
					"postgresql": schema.StringAttribute{Required: true, MarkdownDescription: "Version of PostgreSQL. All nodes of a cluster have the same major version, which is not changed in place. Another minor version restarts PostgreSQL; a leader hands over first.", Validators: []validator.String{validate.Pin()}},
					"patroni":    schema.StringAttribute{Required: true, MarkdownDescription: "Version of Patroni. Another one restarts Patroni, while PostgreSQL goes on running: the leader's in a pause of the cluster, or with a `watchdog` after a switchover.", Validators: []validator.String{validate.Pin()}},
					"citus": schema.StringAttribute{
						Optional: true, MarkdownDescription: "Version of Citus: of the package `postgresql-17-citus`, or that of another major version. Debian does not have it: add a repository that does to the host (`apt.repositories`). It is one of `extensions`, which see.",
						Validators: []validator.String{validate.Pin()},
					},
					"extensions": schema.MapAttribute{
						ElementType: types.StringType, Optional: true,
						MarkdownDescription: "Versions of packages of extensions, by name: `{ pgvector = \"0.8.0\" }` is the package `postgresql-17-pgvector`, or that of another major version. A name that has `postgresql` in it is a package's own, such as `timescaledb-2-postgresql-17`. " +
							"An extension that is new on the node is installed while everything runs. Another version of one restarts PostgreSQL, as another minor version does, since a server and its sessions keep the libraries that they have loaded; the new ones are tried in a scratch server before. One that is no longer named stays installed and is no longer held. " +
							"What an extension has made in databases is left to `CREATE EXTENSION` and `ALTER EXTENSION ... UPDATE`.",
						Validators: []validator.Map{mapvalidator.KeysAre(validate.Extension()), mapvalidator.ValueStringsAre(validate.Pin())},
					},
				},
			},
			"data_directory": schema.StringAttribute{
				Optional: true, Computed: true,
				MarkdownDescription: "Folder of the data; `/var/lib/postgresql/MAJOR/SCOPE` by default. It cannot be changed in place: to move it, remove the node and make it again; it is then cloned.",
				Validators:          []validator.String{validate.DataDir()},
			},
			"tags": schema.SingleNestedAttribute{
				Optional: true, MarkdownDescription: "What this member may do (Patroni documentation, \"Tags\")." + reloads,
				Attributes: map[string]schema.Attribute{
					"nofailover":        schema.BoolAttribute{Optional: true, MarkdownDescription: "Never let it lead; false by default. Conflicts with `failover_priority`."},
					"failover_priority": schema.Int64Attribute{Optional: true, MarkdownDescription: "Who leads next among replicas that have received equally much: the highest number first, 1 by default; 0 never leads (Patroni 3.2 and later).", Validators: []validator.Int64{int64validator.AtLeast(0)}},
					"clonefrom":         schema.BoolAttribute{Optional: true, MarkdownDescription: "Prefer it as a source for clones, rather than the leader; false by default."},
					"noloadbalance":     schema.BoolAttribute{Optional: true, MarkdownDescription: "Answer 503 to `GET /replica`, so that load balancers leave it out; false by default."},
					"nosync":            schema.BoolAttribute{Optional: true, MarkdownDescription: "Never let it be a synchronous replica; false by default."},
					"replicatefrom":     schema.StringAttribute{Optional: true, MarkdownDescription: "Name of the member to replicate from, instead of the leader (cascading).", Validators: []validator.String{validate.Name()}},
					"custom":            schema.MapAttribute{ElementType: types.StringType, Optional: true, MarkdownDescription: "Tags of your own, by name."},
				},
			},
			"watchdog": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString("off"),
				MarkdownDescription: "Let the kernel reset the host when Patroni, as the leader, does not come to renew its lock in time: `off` (the default), `automatic` (use a watchdog if there is one) or `required` (never lead without one). " +
					"The provider loads `softdog` and gives the device to `postgres`, now and at boot; it refuses `required`, and warns about `automatic`, where there is no device to be had, or systemd or another process uses it. A reset takes everything on the host with it, a member of etcd included." + reloads,
				Validators: []validator.String{stringvalidator.OneOf("off", "automatic", "required")},
			},
			"watchdog_device": schema.StringAttribute{
				Optional: true, MarkdownDescription: "A watchdog that the host has by itself, such as `/dev/watchdog1`; nothing is loaded then. Without it, `softdog` is loaded and `/dev/watchdog` is used." + reloads,
				Validators: []validator.String{stringvalidator.RegexMatches(watchdogDevice, "must be /dev/watchdog or /dev/watchdog with a number")},
			},
			"watchdog_safety_margin": schema.StringAttribute{
				CustomType: customtypes.DurationType, Optional: true, Computed: true, Default: stringdefault.StaticString("5s"),
				MarkdownDescription: "How long before the leader's lock runs out the host is reset; `5s` by default. The cluster's `ttl` without it must not be shorter than its `loop_wait`." + reloads,
				Validators:          []validator.String{validate.Text("must be whole seconds", wholeSeconds)},
			},
			"on_destroy": base.OnDestroyAttribute("What destroying does with the data: `keep_data` (the default) stops and disables Patroni and leaves the data on the host, so that creating the node again takes it up; `purge` deletes it."),
			"id":         schema.StringAttribute{Computed: true, MarkdownDescription: "Scope and name, as `SCOPE/NAME`."},
			"drift":      base.DriftAttribute(),
		},
		Blocks: map[string]schema.Block{
			"timeouts": base.Timeouts{Create: createTimeout, Read: readTimeout, Update: updateTimeout, Delete: deleteTimeout}.Block(ctx),
		},
	}
}
