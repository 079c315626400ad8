package etcdcluster

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64default"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"

	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
	"github.com/pgha/terraform-provider-pgha/internal/tf/planmod"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

const newCluster = "make a second cluster under another name, and move to it."

const noWayBack = "Everything in etcd, Patroni's passwords among it, would go over the network in the clear, and be open to whoever reaches the client port. There are no stages for that either: clients that come with https would be shut out.\nWhat to do: leave tls = true."

func (r *etcdResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "An etcd cluster on hosts: up to 7 members at a pinned version, with TLS for clients and peers from a certificate authority of its own and with authentication. " +
			"The authority's key and the passwords stay on the members' hosts; none of them is in the state.",
		Attributes: map[string]schema.Attribute{
			"name": schema.StringAttribute{
				Required: true, MarkdownDescription: "The cluster's name, part of paths on the hosts. It cannot be changed.",
				Validators: []validator.String{validate.Name()}, PlanModifiers: []planmodifier.String{planmod.Fixed(newCluster)},
			},
			"version": schema.StringAttribute{
				Required: true, MarkdownDescription: "Exact version of etcd, such as `3.5.16` (the newest package of that version) or `3.5.16-4` (that package). It is installed exactly, held, and verified as running. Changing it upgrades the members, or takes them back within a minor version: after a snapshot that is verified, one member at a time, the leader last, each only while all others are well; a failure halts it, and the next apply goes on. The plan names the order. One minor version at a time; `3.4` and `3.5` are supported. With `auth`, etcd from 3.5.28 (3.4.42) needs Patroni from 4.1.1 on every node: upgrade Patroni first.",
				Validators: []validator.String{validate.Pin()},
			},
			"members": schema.MapNestedAttribute{
				Required: true, MarkdownDescription: "The members by name: 1, 3, 5 or 7; an even number is possible and warned about, as it survives no more losses than one less. Members are added (as learners that vote once they have caught up), removed and replaced one at a time, each only while the quorum is there and, from three members on, would survive the loss of one more. Of a member that is removed its data, certificates and keys are deleted from its host; snapshots stay. The same name at another address is another host, which takes the member's place.",
				Validators: []validator.Map{mapvalidator.SizeBetween(1, 7), mapvalidator.KeysAre(validate.Name())},
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"host": schema.ObjectAttribute{
						Required: true, AttributeTypes: connattr.ConnectionType.AttrTypes,
						MarkdownDescription: "The member's host: `access` of a `pgha_host`.",
					},
					"address": schema.StringAttribute{
						Optional: true, MarkdownDescription: "IP address or name at which clients and the other members reach it; the host's address by default.",
						Validators: []validator.String{validate.Address()},
					},
				}},
			},
			"client_port": schema.Int64Attribute{
				Optional: true, Computed: true, Default: int64default.StaticInt64(2379), MarkdownDescription: "Port for clients; 2379 by default. It cannot be changed.",
				Validators: []validator.Int64{validate.Port()}, PlanModifiers: []planmodifier.Int64{planmod.Fixed(newCluster)},
			},
			"peer_port": schema.Int64Attribute{
				Optional: true, Computed: true, Default: int64default.StaticInt64(2380), MarkdownDescription: "Port for the other members; 2380 by default. It cannot be changed.",
				Validators: []validator.Int64{validate.Port()}, PlanModifiers: []planmodifier.Int64{planmod.Fixed(newCluster)},
			},
			"tls": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(true),
				MarkdownDescription: "TLS with certificates on both sides, for clients and among members; true by default. It can be turned on, also for a cluster that somebody else made, in stages that let everybody in at each moment: members take https beside http, then they come to each other with https, each stage with a restart of one member at a time, the leader last; Patroni's nodes come with https once they are applied, for which Patroni alone is restarted, and PostgreSQL is not; when all have, the next apply closes http. The plan names for whom it waits. It cannot be turned off again.",
				PlanModifiers:       []planmodifier.Bool{planmod.Onward(noWayBack)},
			},
			"auth": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(true),
				MarkdownDescription: "Users and passwords: one user for the provider, and one for each Patroni cluster that may see its own keys only; true by default. Turning it off takes one apply; whoever reaches the client port (with `tls`: and has a certificate) may then do everything. Turning it on takes two where Patroni nodes have never logged in, so that nobody is shut out: the first one has them log in, which etcd takes no notice of yet; the next one turns it on, and names for whom it waits if some do not log in. Nothing is restarted.",
			},
			"heartbeat_interval": schema.StringAttribute{
				CustomType: customtypes.DurationType, Optional: true, Computed: true,
				MarkdownDescription: "How often the leader tells the others that it lives; at least `10ms`. Goes together with `election_timeout`. Unless given it is one and a half times the longest round trip between members, measured when the cluster is made, and at least `100ms`. Changing this restarts the members, one at a time, the leader last.",
				Validators:          []validator.String{stringvalidator.AlsoRequires(path.MatchRoot("election_timeout"))},
				PlanModifiers:       []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
			},
			"election_timeout": schema.StringAttribute{
				CustomType: customtypes.DurationType, Optional: true, Computed: true,
				MarkdownDescription: "How long a member waits for a heartbeat before it calls an election; at least five heartbeats, at most `50s`, and it should be ten round trips. Unless given it is ten heartbeats, at least `1s`. Changing this restarts the members, one at a time, the leader last.",
				Validators:          []validator.String{stringvalidator.AlsoRequires(path.MatchRoot("heartbeat_interval"))},
				PlanModifiers:       []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
			},
			"quota_backend_bytes": schema.StringAttribute{
				CustomType: customtypes.SizeType, Optional: true, Computed: true, Default: stringdefault.StaticString("2GiB"),
				MarkdownDescription: "Size of etcd's database at which it refuses writes; `2GiB` by default, `16MiB` to `8GiB`. One that is less than what is in use is refused. Changing this restarts the members, one at a time, the leader last.",
				Validators: []validator.String{validate.Text("must be between 16MiB and 8GiB", func(s string) error {
					return checkQuota(s)
				})},
			},
			"defragment_above": schema.StringAttribute{
				CustomType: customtypes.SizeType, Optional: true,
				MarkdownDescription: "How much may be free inside a member's database until an apply defragments it, one member at a time, the leader last; at least `16MiB`, such as `256MiB`. A member does nothing else meanwhile: about a second for 100 MiB, and while it is the leader's turn writes wait. Unless given this is done only where the cluster is full (alarm `NOSPACE`), or where a lower quota needs it. etcd reuses what is free, so there is seldom a need.",
				Validators: []validator.String{validate.Text("must be at least 16MiB", func(s string) error {
					return checkDefragment(s)
				})},
			},
			"auto_compaction_retention": schema.StringAttribute{
				CustomType: customtypes.DurationType, Optional: true, Computed: true, Default: stringdefault.StaticString("1h"),
				MarkdownDescription: "For how long the history of keys is kept; `1h` by default. Patroni rewrites its keys in every loop, so that without compaction the database would grow for ever. Changing this restarts the members, one at a time, the leader last.",
			},
			"snapshot_count": schema.Int64Attribute{
				Optional: true, MarkdownDescription: "Number of committed transactions between two snapshots of the log on disk, 1000 to 10000000; etcd's own default unless given. Changing this restarts the members, one at a time, the leader last.",
				Validators: []validator.Int64{int64validator.Between(1000, 10000000)},
			},
			"snapshots":           snapshotsAttribute(),
			"certificates":        certificatesAttribute(),
			"restore":             restoreAttribute(),
			"deletion_protection": base.DeletionProtectionAttribute("Refuse to destroy the cluster."),
			"on_destroy":          base.OnDestroyAttribute("What destroying does with the data: `keep_data` (the default) stops and disables etcd and leaves data, certificates and credentials on the hosts, so that creating the cluster again takes it up where it was; `purge` deletes them, and the snapshots."),
			"id": schema.StringAttribute{
				Computed: true, MarkdownDescription: "The cluster's name.",
			},
			"uid": schema.StringAttribute{
				Computed: true, MarkdownDescription: "Tells this cluster from another of the same name; made when it is first created.",
				PlanModifiers: []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
			},
			"access": schema.ObjectAttribute{
				Computed: true, AttributeTypes: connattr.AccessType.AttrTypes,
				MarkdownDescription: "How to reach the cluster, to be passed to `pgha_patroni_cluster`. It holds no secrets.",
			},
			"drift": base.DriftAttribute(),
		},
		Blocks: map[string]schema.Block{
			"timeouts": base.Timeouts{Create: createTimeout, Read: readTimeout, Update: createTimeout, Delete: deleteTimeout}.Block(ctx),
		},
	}
}
