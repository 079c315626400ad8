package patronicluster

import (
	"context"
	"regexp"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64default"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/listdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/objectdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
	"github.com/pgha/terraform-provider-pgha/internal/tf/planmod"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

const (
	newCluster = "make a second cluster with another scope, and move the data to it."
	reloads    = " Changing this restarts nothing."
	unmanaged  = " Left alone unless given."
)

var (
	slotName   = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)
	roleName   = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)
	methodName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
)

// reservedMethods are keys of Patroni's postgresql section that a method of the
// same name would overwrite.
var reservedMethods = []string{
	"basebackup", "parameters", "pg_hba", "pg_ident", "callbacks", "create_replica_methods", "recovery_conf", "use_slots", "use_pg_rewind",
	"remove_data_directory_on_rewind_failure", "remove_data_directory_on_diverged_timelines", "pg_ctl_timeout", "authentication", "listen",
	"connect_address", "proxy_address", "data_dir", "bin_dir", "bin_name", "config_dir", "pgpass", "custom_conf", "use_unix_socket",
	"use_unix_socket_repl", "before_stop", "pre_promote", "rewind",
}

func (r *clusterResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	initdbTypes := map[string]attr.Type{"locale": types.StringType, "encoding": types.StringType, "data_checksums": types.BoolType}
	resp.Schema = schema.Schema{
		MarkdownDescription: "A Patroni cluster: what all its nodes share. Its dynamic configuration is put into etcd before the first node is made, and afterwards reconciled through Patroni's REST API: " +
			"only the keys named here are touched, and an apply ends when the nodes run with them. Passwords are made on the first apply and kept in etcd, where only the provider's own user may read them; none is in the state.",
		Attributes: map[string]schema.Attribute{
			"scope": schema.StringAttribute{
				Required: true, MarkdownDescription: "Patroni's name for the cluster, which no other one on the same etcd has, in any namespace. It cannot be changed.",
				Validators: []validator.String{validate.Name()}, PlanModifiers: []planmodifier.String{planmod.Fixed(newCluster)},
			},
			"namespace": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString("/service/"),
				MarkdownDescription: "Prefix of Patroni's keys in etcd; `/service/` by default. It cannot be changed.",
				Validators:          []validator.String{stringvalidator.RegexMatches(regexp.MustCompile(`^/([A-Za-z0-9_-]+/)+$`), "must begin and end with '/', with plain names between")},
				PlanModifiers:       []planmodifier.String{planmod.Fixed(newCluster)},
			},
			"citus": citusAttribute(),
			"etcd": schema.ObjectAttribute{
				Required: true, AttributeTypes: connattr.AccessType.AttrTypes,
				MarkdownDescription: "The etcd cluster that Patroni works with: `access` of a `pgha_etcd_cluster`.",
			},
			"failure_detection": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString("normal"),
				MarkdownDescription: "How soon a lost leader is replaced, as a preset for `ttl`, `loop_wait` and `retry_timeout`: `fast` (20, 5 and 5 s), `normal` (30, 10 and 10 s; the default) or `wide` (60, 10 and 20 s, for networks with jitter)." + reloads,
				Validators:          []validator.String{stringvalidator.OneOf(patroni.PresetNames()...)},
			},
			"ttl":           seconds("How long the leader's lease lasts without being renewed: after that another member takes over. At least `20s`; by `failure_detection` unless given. `loop_wait + 2 * retry_timeout` must not be more." + reloads),
			"loop_wait":     seconds("How often Patroni looks at the cluster. At least `1s`; by `failure_detection` unless given." + reloads),
			"retry_timeout": seconds("How long Patroni retries etcd and PostgreSQL before it gives up; a leader that cannot reach etcd for longer demotes itself. At least `3s`; by `failure_detection` unless given." + reloads),
			"maximum_lag_on_failover": schema.StringAttribute{
				CustomType: customtypes.SizeType, Optional: true,
				MarkdownDescription: "How much WAL a replica may be behind and still take over automatically; Patroni's default is `1MiB`." + unmanaged + reloads,
			},
			"maximum_lag_on_syncnode": schema.StringAttribute{
				CustomType: customtypes.SizeType, Optional: true,
				MarkdownDescription: "How much WAL a synchronous replica may be behind before another one takes its place; by default Patroni does not look at that." + unmanaged + reloads,
			},
			"check_timeline": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(true),
				MarkdownDescription: "Only let a replica take over that is on the cluster's latest timeline; true by default." + reloads,
			},
			"max_timelines_history": schema.Int64Attribute{
				Optional: true, MarkdownDescription: "How many timelines are kept in the history in etcd; 0, Patroni's default, is all." + unmanaged + reloads,
				Validators: []validator.Int64{int64validator.AtLeast(0)},
			},
			"primary_start_timeout": optionalSeconds("How long a crashed primary may take to start again before another member takes over; Patroni's default is `300s`, `0s` fails over at once." + unmanaged + reloads),
			"primary_stop_timeout":  optionalSeconds("How long a primary may take to stop in synchronous mode before it is killed; Patroni's default, `0s`, waits for ever." + unmanaged + reloads),
			"synchronous_mode": schema.StringAttribute{
				Optional: true, MarkdownDescription: "`off`, `on` (commits wait for `synchronous_node_count` chosen replicas) or `quorum` (for as many of any of them; Patroni 4 and later). With `on` or `quorum` no acknowledged commit is lost in an automatic failover, unless a client turned `synchronous_commit` off. Patroni's default is `off`, and that of a Citus group `quorum`." + unmanaged + reloads,
				Validators: []validator.String{stringvalidator.OneOf("off", "on", "quorum")},
			},
			"synchronous_mode_strict": schema.BoolAttribute{
				Optional: true, MarkdownDescription: "Block writes while no replica is synchronous, instead of going on without; false is Patroni's default." + unmanaged + reloads,
			},
			"synchronous_node_count": schema.Int64Attribute{
				Optional: true, MarkdownDescription: "How many replicas a commit waits for; 1 is Patroni's default." + unmanaged + reloads,
				Validators: []validator.Int64{int64validator.AtLeast(1)},
			},
			"failsafe_mode": schema.BoolAttribute{
				Optional: true, MarkdownDescription: "Keep the primary writable while etcd is down, as long as it reaches every other member; false is Patroni's default. It needs `rest_api_allowlist` to have the networks of all nodes: while etcd is down, Patroni lets nobody else in." + unmanaged + reloads,
			},
			"member_slots_ttl": optionalSeconds("How long the replication slot of a member that went away is kept (Patroni 4 and later, whose default is `30m`)." + unmanaged + reloads),
			"pause": schema.BoolAttribute{
				Optional: true, MarkdownDescription: "Maintenance: Patroni neither fails over nor starts PostgreSQL. A cluster that stays paused is not highly available." + unmanaged + reloads,
			},
			"slots": schema.MapNestedAttribute{
				Optional:            true,
				MarkdownDescription: "Permanent replication slots by name; none by default. An inactive one keeps WAL on the primary. Slots that others made in the configuration are left alone." + reloads,
				Validators:          []validator.Map{mapvalidator.KeysAre(stringvalidator.RegexMatches(slotName, "must have only lower-case letters, digits and '_', at most 63"))},
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"type":         schema.StringAttribute{Required: true, MarkdownDescription: "`physical` or `logical`.", Validators: []validator.String{stringvalidator.OneOf("physical", "logical")}},
					"database":     schema.StringAttribute{Optional: true, MarkdownDescription: "Database of a logical slot.", Validators: []validator.String{stringvalidator.LengthBetween(1, 63), validate.OneLine()}},
					"plugin":       schema.StringAttribute{Optional: true, MarkdownDescription: "Output plugin of a logical slot, such as `pgoutput`.", Validators: []validator.String{stringvalidator.LengthBetween(1, 63), validate.OneLine()}},
					"cluster_type": schema.StringAttribute{Optional: true, MarkdownDescription: "Make it only while the cluster is a `primary` or a `standby` (Patroni 4.1 and later, and Debian 13's 4.0.7).", Validators: []validator.String{stringvalidator.OneOf("primary", "standby")}},
				}},
			},
			"ignore_slots": schema.ListNestedAttribute{
				Optional:            true,
				MarkdownDescription: "Slots that Patroni must not drop although it did not make them. A slot is ignored if it matches an entry in everything that the entry names." + reloads,
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"name":     schema.StringAttribute{Optional: true, MarkdownDescription: "Name of the slot.", Validators: []validator.String{validate.OneLine()}},
					"type":     schema.StringAttribute{Optional: true, MarkdownDescription: "`physical` or `logical`.", Validators: []validator.String{stringvalidator.OneOf("physical", "logical")}},
					"database": schema.StringAttribute{Optional: true, MarkdownDescription: "Database of a logical slot.", Validators: []validator.String{validate.OneLine()}},
					"plugin":   schema.StringAttribute{Optional: true, MarkdownDescription: "Output plugin of a logical slot.", Validators: []validator.String{validate.OneLine()}},
				}},
				Validators: []validator.List{listvalidator.SizeAtLeast(1)},
			},
			"postgresql": schema.SingleNestedAttribute{
				Optional:            true,
				MarkdownDescription: "PostgreSQL's configuration, the same on all nodes.",
				Attributes: map[string]schema.Attribute{
					"parameters": schema.MapAttribute{
						ElementType: types.StringType, Optional: true,
						MarkdownDescription: "Parameters of `postgresql.conf`, as text (`\"200\"`, `\"64MB\"`, `\"on\"`). Names and values are checked against PostgreSQL's own ranges and Patroni's rules when planning; parameters that Patroni sets itself are refused. " +
							"Most are taken over by a reload. The plan names those that need a restart: the nodes are restarted for them, one at a time, as `rollout` says. A parameter that is taken out goes back to its default.",
					},
					"pg_hba": schema.ListAttribute{
						ElementType: types.StringType, Optional: true,
						MarkdownDescription: "Lines of `pg_hba.conf`, replacing the ones that `allowed_networks` makes. They must still let each node replicate from the others and from itself, and rewind." + reloads,
						Validators:          []validator.List{listvalidator.SizeAtLeast(1)},
					},
					"pg_ident": schema.ListAttribute{
						ElementType: types.StringType, Optional: true, MarkdownDescription: "Lines of `pg_ident.conf`." + reloads,
						Validators: []validator.List{listvalidator.SizeAtLeast(1), listvalidator.ValueStringsAre(validate.OneLine())},
					},
					"callbacks": schema.MapAttribute{
						ElementType: types.StringType, Optional: true,
						MarkdownDescription: "Commands that Patroni calls as `postgres` with action, role and scope, by event: `on_reload`, `on_restart`, `on_role_change`, `on_start`, `on_stop`. They must be on every host." + reloads,
						Validators: []validator.Map{
							mapvalidator.KeysAre(stringvalidator.OneOf("on_reload", "on_restart", "on_role_change", "on_start", "on_stop")),
							mapvalidator.ValueStringsAre(validate.OneLine(), stringvalidator.LengthAtLeast(1)),
						},
					},
					"create_replica_methods": schema.ListAttribute{
						ElementType: types.StringType, Optional: true,
						MarkdownDescription: "Ways in which replicas are made, in the order in which they are tried: `basebackup`, or names in `replica_methods`. Patroni's default is `basebackup`." + unmanaged + reloads,
						Validators:          []validator.List{listvalidator.SizeAtLeast(1), listvalidator.ValueStringsAre(stringvalidator.RegexMatches(methodName, "must be the name of a method"))},
					},
					"replica_methods": schema.MapNestedAttribute{
						Optional:            true,
						MarkdownDescription: "Ways to make a replica, by name, for `create_replica_methods`: restoring from a backup, for example." + reloads,
						Validators:          []validator.Map{mapvalidator.KeysAre(stringvalidator.RegexMatches(methodName, "must have only lower-case letters, digits and '_'"), stringvalidator.NoneOf(reservedMethods...))},
						NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
							"command":   schema.StringAttribute{Required: true, MarkdownDescription: "Command, run as `postgres`. It is stored in etcd, where Patroni's user can read it: no passwords.", Validators: []validator.String{validate.OneLine(), stringvalidator.LengthAtLeast(1)}},
							"keep_data": schema.BoolAttribute{Optional: true, MarkdownDescription: "Leave what is in the data directory for the command to use; false is Patroni's default."},
							"no_params": schema.BoolAttribute{Optional: true, MarkdownDescription: "Add no arguments of Patroni's to the command; false is Patroni's default."},
							"no_leader": schema.BoolAttribute{Optional: true, MarkdownDescription: "Try it even if no member runs to clone from; false is Patroni's default."},
						}},
					},
					"recovery_conf": schema.MapAttribute{
						ElementType: types.StringType, Optional: true,
						MarkdownDescription: "Settings of replicas, such as `restore_command`. They are stored in etcd, where Patroni's user can read them: no passwords." + reloads,
						Validators: []validator.Map{
							mapvalidator.KeysAre(stringvalidator.OneOf("restore_command", "archive_cleanup_command", "recovery_end_command", "recovery_min_apply_delay")),
							mapvalidator.ValueStringsAre(validate.OneLine(), stringvalidator.LengthAtLeast(1)),
						},
					},
					"pg_ctl_timeout": optionalSeconds("How long Patroni waits for PostgreSQL to start, stop or restart; `60s` is Patroni's default." + unmanaged + reloads),
					"use_slots":      schema.BoolAttribute{Optional: true, MarkdownDescription: "Give each replica a replication slot; true is Patroni's default." + unmanaged + reloads},
					"use_pg_rewind": schema.BoolAttribute{
						Optional: true, MarkdownDescription: "Let a former leader whose data diverged rejoin with `pg_rewind`; true by default." + reloads,
					},
					"remove_data_directory_on_rewind_failure":     schema.BoolAttribute{Optional: true, MarkdownDescription: "Clone a former leader anew when `pg_rewind` fails: what only it had is lost. False is Patroni's default." + unmanaged + reloads},
					"remove_data_directory_on_diverged_timelines": schema.BoolAttribute{Optional: true, MarkdownDescription: "Clone a former leader anew when its timeline diverged: what only it had is lost. False is Patroni's default." + unmanaged + reloads},
				},
			},
			"allowed_networks": schema.ListAttribute{
				ElementType: types.StringType, Optional: true, Computed: true,
				Default:             listdefault.StaticValue(types.ListValueMust(types.StringType, []attr.Value{types.StringValue("samenet")})),
				MarkdownDescription: "Networks from which clients and the other nodes may connect to every database as every user, with a password (scram) and over TLS: `10.0.0.0/16`, or `samenet` for the networks that a node itself is in (the default), or `samehost`. They have to cover all nodes. Not used with `postgresql.pg_hba`. An empty list leaves the `pg_hba.conf` of a cluster that was imported as it is." + reloads,
				Validators:          []validator.List{listvalidator.ValueStringsAre(validate.Network())},
			},
			"postgresql_port": schema.Int64Attribute{
				Optional: true, Computed: true, Default: int64default.StaticInt64(5432), MarkdownDescription: "Port of PostgreSQL; 5432 by default. It cannot be changed.",
				Validators: []validator.Int64{validate.Port()}, PlanModifiers: []planmodifier.Int64{planmod.Fixed(newCluster)},
			},
			"rest_api_port": schema.Int64Attribute{
				Optional: true, Computed: true, Default: int64default.StaticInt64(8008), MarkdownDescription: "Port of Patroni's REST API; 8008 by default. It cannot be changed.",
				Validators: []validator.Int64{validate.Port()}, PlanModifiers: []planmodifier.Int64{planmod.Fixed(newCluster)},
			},
			"rest_api_allowlist": schema.ListAttribute{
				ElementType: types.StringType, Optional: true, Computed: true,
				Default:             listdefault.StaticValue(types.ListValueMust(types.StringType, []attr.Value{})),
				MarkdownDescription: "Addresses and networks, besides the nodes themselves, from which the REST API accepts requests that change something (they need the password as well); none by default. A node is known by the address that Patroni has for it (with a name, by all of that name's): where the nodes' addresses are of both families, give the networks of both, for `patronictl` and `failsafe_mode`. Reading is open to everybody who reaches the port. Changing this reloads the nodes.",
				Validators:          []validator.List{listvalidator.ValueStringsAre(validate.OneLine(), stringvalidator.LengthAtLeast(1))},
			},
			"initdb": schema.SingleNestedAttribute{
				Optional: true, Computed: true,
				MarkdownDescription: "How the database is first made (`initdb`). It cannot be changed afterwards.",
				Default: objectdefault.StaticValue(types.ObjectValueMust(initdbTypes, map[string]attr.Value{
					"locale": types.StringValue("C.UTF-8"), "encoding": types.StringValue("UTF8"), "data_checksums": types.BoolValue(true),
				})),
				PlanModifiers: []planmodifier.Object{planmod.Fixed("dump the data and load it into a new cluster.")},
				Attributes: map[string]schema.Attribute{
					"locale": schema.StringAttribute{
						Optional: true, Computed: true, Default: stringdefault.StaticString("C.UTF-8"),
						MarkdownDescription: "Locale; `C.UTF-8` by default, whose sorting does not change with the system's C library. It must exist on every host.",
						Validators:          []validator.String{stringvalidator.RegexMatches(regexp.MustCompile(`^[A-Za-z0-9_.@-]+$`), "must be the name of a locale")},
					},
					"encoding": schema.StringAttribute{
						Optional: true, Computed: true, Default: stringdefault.StaticString("UTF8"), MarkdownDescription: "Encoding; `UTF8` by default.",
						Validators: []validator.String{stringvalidator.RegexMatches(regexp.MustCompile(`^[A-Za-z0-9_-]+$`), "must be the name of an encoding")},
					},
					"data_checksums": schema.BoolAttribute{
						Optional: true, Computed: true, Default: booldefault.StaticBool(true), MarkdownDescription: "Checksums on data pages; true by default.",
					},
				},
			},
			"take_over": schema.SingleNestedAttribute{
				Optional: true,
				MarkdownDescription: "A PostgreSQL that runs already becomes the cluster's database: Debian's own cluster on the host of one of the nodes. No database is made then, and the other nodes wait for it. " +
					"Applying that node restarts the PostgreSQL once, which its plan announces. It counts until the cluster has a database, and may stay or go afterwards.",
				Attributes: map[string]schema.Attribute{
					"node":    schema.StringAttribute{Required: true, MarkdownDescription: "Name of the `pgha_patroni_node` on that host.", Validators: []validator.String{validate.Name()}},
					"cluster": schema.StringAttribute{Required: true, MarkdownDescription: "Debian's cluster, as `pg_lsclusters` has it: `17/main`.", Validators: []validator.String{stringvalidator.RegexMatches(regexp.MustCompile(`^[1-9][0-9]/[A-Za-z0-9_.-]+$`), "must be VERSION/NAME, such as 17/main")}},
				},
			},
			"credentials": schema.SingleNestedAttribute{
				Optional: true,
				MarkdownDescription: "Names and passwords of the accounts that Patroni works with. Passwords that are not given are made (48 hexadecimal digits). A password that is given is write-only: it is in no state and no plan. All are kept in etcd. " +
					"Changing passwords reloads all nodes and restarts nothing; connections that are open stay open, and the old passwords are refused from then on. See the guide \"Security\".",
				Attributes: map[string]schema.Attribute{
					"rotation": schema.Int64Attribute{
						Optional: true, Validators: []validator.Int64{int64validator.AtLeast(0)},
						MarkdownDescription: "Raise it to have new passwords made, for all accounts whose password is not given and for the cluster's user in etcd; 0 by default. It cannot be lowered.",
					},
					"superuser":   account("the superuser, `postgres`", ""),
					"replication": account("replication", "replicator"),
					"rewind":      account("`pg_rewind`", "rewind_user"),
					"rest_api":    account("requests to the REST API that change something", "patroni"),
				},
			},
			"recover_from": schema.MapAttribute{
				Optional: true, ElementType: connattr.ConnectionType,
				MarkdownDescription: "The hosts of the cluster's nodes by the nodes' names: each `access` of a `pgha_host`. It counts only where etcd does not know the cluster any more, or knows it from a snapshot: then it is taken up again from these nodes, with its passwords, its configuration and its databases, and the node that has all data leads. A new cluster is never made over nodes that are there. It may always be given. See the guide \"Restoring etcd\".",
			},
			"rollout":             rolloutAttribute(),
			"deletion_protection": base.DeletionProtectionAttribute("Refuse to destroy the cluster, and to destroy its last node."),
			"on_destroy":          base.OnDestroyAttribute("What destroying does with the cluster's keys and passwords in etcd and with its certificate authority: `keep_data` (the default) keeps them, so that nodes whose data was kept can be taken up again; `purge` deletes them."),
			"id":                  schema.StringAttribute{Computed: true, MarkdownDescription: "The scope."},
			"uid": schema.StringAttribute{
				Computed: true, MarkdownDescription: "Tells this cluster from another of the same scope; made when it is first created.",
				PlanModifiers: []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
			},
			"drift": base.DriftAttribute(),
			"membership": schema.ObjectAttribute{
				Computed: true, AttributeTypes: connattr.MembershipType.AttrTypes,
				MarkdownDescription: "What nodes have to know about the cluster, to be passed to `pgha_patroni_node`. It holds no secrets.",
			},
			"ca_certificate": schema.StringAttribute{
				Computed: true, MarkdownDescription: "Certificate of the cluster's authority in PEM, for clients (`sslmode=verify-full`, `sslrootcert`).",
				PlanModifiers: []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
			},
		},
		Blocks: map[string]schema.Block{
			"timeouts": base.Timeouts{Create: createTimeout, Read: readTimeout, Update: createTimeout, Delete: deleteTimeout}.Block(ctx),
		},
	}
}

// seconds is a duration that Patroni takes as whole seconds and that always
// has a value.
func seconds(text string) schema.StringAttribute {
	a := optionalSeconds(text)
	a.Computed = true
	return a
}

func optionalSeconds(text string) schema.StringAttribute {
	return schema.StringAttribute{
		CustomType: customtypes.DurationType, Optional: true, MarkdownDescription: text,
		Validators: []validator.String{validate.Text("must be whole seconds", wholeSeconds)},
	}
}

// account is the name and password of one of Patroni's accounts. The
// superuser's name is PostgreSQL's own.
func account(what, name string) schema.SingleNestedAttribute {
	a := map[string]schema.Attribute{
		"password_wo": schema.StringAttribute{
			Optional: true, WriteOnly: true, Sensitive: true,
			MarkdownDescription: "Password, write-only, 8 to 256 printable characters of ASCII. Without it one is made; when it is taken out, a new one.",
			Validators: []validator.String{
				stringvalidator.LengthBetween(8, 256), validate.ASCII(),
				stringvalidator.AlsoRequires(path.MatchRelative().AtParent().AtName("password_wo_version")),
			},
		},
		"password_wo_version": schema.Int64Attribute{
			Optional: true, MarkdownDescription: "Any number; another one makes an apply set the password that `password_wo` has then. A changed `password_wo` alone cannot be noticed, and does nothing.",
			Validators: []validator.Int64{int64validator.AlsoRequires(path.MatchRelative().AtParent().AtName("password_wo"))},
		},
	}
	if name != "" {
		a["username"] = schema.StringAttribute{
			Optional: true, MarkdownDescription: "Name; `" + name + "` by default. It cannot be changed.",
			Validators:    []validator.String{stringvalidator.RegexMatches(roleName, "must have only lower-case letters, digits and '_'"), stringvalidator.NoneOf("postgres")},
			PlanModifiers: []planmodifier.String{planmod.Fixed("keep the name.")},
		}
	}
	return schema.SingleNestedAttribute{
		Optional: true, MarkdownDescription: "Account for " + strings.TrimSpace(what) + ".", Attributes: a,
	}
}
