package patronicluster

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

type model struct {
	ID                    types.String     `tfsdk:"id"`
	Scope                 types.String     `tfsdk:"scope"`
	Namespace             types.String     `tfsdk:"namespace"`
	Citus                 types.Object     `tfsdk:"citus"`
	Etcd                  types.Object     `tfsdk:"etcd"`
	FailureDetection      types.String     `tfsdk:"failure_detection"`
	TTL                   customtypes.Text `tfsdk:"ttl"`
	LoopWait              customtypes.Text `tfsdk:"loop_wait"`
	RetryTimeout          customtypes.Text `tfsdk:"retry_timeout"`
	MaximumLagOnFailover  customtypes.Text `tfsdk:"maximum_lag_on_failover"`
	MaximumLagOnSyncnode  customtypes.Text `tfsdk:"maximum_lag_on_syncnode"`
	CheckTimeline         types.Bool       `tfsdk:"check_timeline"`
	MaxTimelinesHistory   types.Int64      `tfsdk:"max_timelines_history"`
	PrimaryStartTimeout   customtypes.Text `tfsdk:"primary_start_timeout"`
	PrimaryStopTimeout    customtypes.Text `tfsdk:"primary_stop_timeout"`
	SynchronousMode       types.String     `tfsdk:"synchronous_mode"`
	SynchronousModeStrict types.Bool       `tfsdk:"synchronous_mode_strict"`
	SynchronousNodeCount  types.Int64      `tfsdk:"synchronous_node_count"`
	FailsafeMode          types.Bool       `tfsdk:"failsafe_mode"`
	MemberSlotsTTL        customtypes.Text `tfsdk:"member_slots_ttl"`
	Pause                 types.Bool       `tfsdk:"pause"`
	Slots                 types.Map        `tfsdk:"slots"`
	IgnoreSlots           types.List       `tfsdk:"ignore_slots"`
	PostgreSQL            types.Object     `tfsdk:"postgresql"`
	AllowedNetworks       types.List       `tfsdk:"allowed_networks"`
	PostgresPort          types.Int64      `tfsdk:"postgresql_port"`
	RestAPIPort           types.Int64      `tfsdk:"rest_api_port"`
	RestAPIAllowlist      types.List       `tfsdk:"rest_api_allowlist"`
	Initdb                types.Object     `tfsdk:"initdb"`
	Credentials           types.Object     `tfsdk:"credentials"`
	TakeOver              types.Object     `tfsdk:"take_over"`
	RecoverFrom           types.Map        `tfsdk:"recover_from"`
	Rollout               types.Object     `tfsdk:"rollout"`
	DeletionProtection    types.Bool       `tfsdk:"deletion_protection"`
	OnDestroy             types.String     `tfsdk:"on_destroy"`
	UID                   types.String     `tfsdk:"uid"`
	Membership            types.Object     `tfsdk:"membership"`
	CACertificate         types.String     `tfsdk:"ca_certificate"`
	Drift                 types.List       `tfsdk:"drift"`
	Timeouts              timeouts.Value   `tfsdk:"timeouts"`

	// pg and accounts are the two blocks above, nil while they are null or
	// unknown: a block that is not known yet cannot be taken apart.
	pg       *postgresModel
	accounts *credentials
}

// source is a plan, a state or a configuration.
type source interface {
	Get(ctx context.Context, target any) diag.Diagnostics
}

// read takes a model out of a plan, a state or a configuration.
func read(ctx context.Context, from source, diags *diag.Diagnostics) model {
	var m model
	diags.Append(from.Get(ctx, &m)...)
	block := func(o types.Object, into any) {
		if !o.IsNull() && !o.IsUnknown() {
			diags.Append(o.As(ctx, into, basetypes.ObjectAsOptions{})...)
		}
	}
	block(m.PostgreSQL, &m.pg)
	block(m.Credentials, &m.accounts)
	return m
}

// known reports whether the two blocks can be taken apart.
func (m *model) known() bool { return !m.PostgreSQL.IsUnknown() && !m.Credentials.IsUnknown() }

var postgresTypes = map[string]attr.Type{
	"parameters": types.MapType{ElemType: types.StringType}, "pg_hba": types.ListType{ElemType: types.StringType},
	"pg_ident": types.ListType{ElemType: types.StringType}, "use_slots": types.BoolType, "use_pg_rewind": types.BoolType,
	"remove_data_directory_on_rewind_failure": types.BoolType, "remove_data_directory_on_diverged_timelines": types.BoolType,
	"callbacks": types.MapType{ElemType: types.StringType}, "create_replica_methods": types.ListType{ElemType: types.StringType},
	"replica_methods": types.MapType{ElemType: types.ObjectType{AttrTypes: methodTypes}},
	"recovery_conf":   types.MapType{ElemType: types.StringType}, "pg_ctl_timeout": customtypes.DurationType,
}

// pack puts pg back where it is saved from.
func (m *model) pack(ctx context.Context, diags *diag.Diagnostics) {
	if m.pg == nil {
		return
	}
	o, d := types.ObjectValueFrom(ctx, postgresTypes, m.pg)
	diags.Append(d...)
	m.PostgreSQL = o
}

type postgresModel struct {
	Parameters            types.Map  `tfsdk:"parameters"`
	HBA                   types.List `tfsdk:"pg_hba"`
	Ident                 types.List `tfsdk:"pg_ident"`
	UseSlots              types.Bool `tfsdk:"use_slots"`
	UsePgRewind           types.Bool `tfsdk:"use_pg_rewind"`
	RemoveOnRewindFailure types.Bool `tfsdk:"remove_data_directory_on_rewind_failure"`
	RemoveOnDiverged      types.Bool `tfsdk:"remove_data_directory_on_diverged_timelines"`

	Callbacks      types.Map        `tfsdk:"callbacks"`
	CreateMethods  types.List       `tfsdk:"create_replica_methods"`
	ReplicaMethods types.Map        `tfsdk:"replica_methods"`
	RecoveryConf   types.Map        `tfsdk:"recovery_conf"`
	PgCtlTimeout   customtypes.Text `tfsdk:"pg_ctl_timeout"`
}

// noPostgres is the block with nothing in it.
func noPostgres() *postgresModel {
	text := types.StringType
	return &postgresModel{
		Parameters: types.MapNull(text), HBA: types.ListNull(text), Ident: types.ListNull(text), Callbacks: types.MapNull(text),
		CreateMethods: types.ListNull(text), ReplicaMethods: types.MapNull(types.ObjectType{AttrTypes: methodTypes}),
		RecoveryConf: types.MapNull(text), PgCtlTimeout: customtypes.DurationNull(),
	}
}

type methodModel struct {
	Command  types.String `tfsdk:"command"`
	KeepData types.Bool   `tfsdk:"keep_data"`
	NoParams types.Bool   `tfsdk:"no_params"`
	NoLeader types.Bool   `tfsdk:"no_leader"`
}

var methodTypes = map[string]attr.Type{
	"command": types.StringType, "keep_data": types.BoolType, "no_params": types.BoolType, "no_leader": types.BoolType,
}

type initdbModel struct {
	Locale        types.String `tfsdk:"locale"`
	Encoding      types.String `tfsdk:"encoding"`
	DataChecksums types.Bool   `tfsdk:"data_checksums"`
}

type takeOverModel struct {
	Node    types.String `tfsdk:"node"`
	Cluster types.String `tfsdk:"cluster"`
}

type credentials struct {
	Rotation    types.Int64   `tfsdk:"rotation"`
	Superuser   *secretModel  `tfsdk:"superuser"`
	Replication *accountModel `tfsdk:"replication"`
	Rewind      *accountModel `tfsdk:"rewind"`
	RestAPI     *accountModel `tfsdk:"rest_api"`
}

// secretModel and accountModel: the password is write-only. It is null in
// every plan and state, and is taken from the configuration alone, into a
// structure that is never saved.
type secretModel struct {
	Password        types.String `tfsdk:"password_wo"`
	PasswordVersion types.Int64  `tfsdk:"password_wo_version"`
}

type accountModel struct {
	Username        types.String `tfsdk:"username"`
	Password        types.String `tfsdk:"password_wo"`
	PasswordVersion types.Int64  `tfsdk:"password_wo_version"`
}

type slotModel struct {
	Type        types.String `tfsdk:"type"`
	Database    types.String `tfsdk:"database"`
	Plugin      types.String `tfsdk:"plugin"`
	ClusterType types.String `tfsdk:"cluster_type"`
}

type ignoreModel struct {
	Name     types.String `tfsdk:"name"`
	Type     types.String `tfsdk:"type"`
	Database types.String `tfsdk:"database"`
	Plugin   types.String `tfsdk:"plugin"`
}

func wholeSeconds(s string) error {
	d, err := time.ParseDuration(s)
	if err == nil && d%time.Second != 0 {
		return fmt.Errorf("%s is not a whole number of seconds", s)
	}
	return nil
}

// Default timeouts.
const (
	createTimeout = 10 * time.Minute
	readTimeout   = 2 * time.Minute
	deleteTimeout = 10 * time.Minute
)

// survivors are the hosts from which the cluster can be taken up again. Those that
// are not known yet have nothing on them.
func (m *model) survivors(ctx context.Context, diags *diag.Diagnostics) map[string]host.Target {
	hosts := map[string]host.Target{}
	for name, v := range m.RecoverFrom.Elements() {
		if o, ok := v.(types.Object); ok {
			if t, known := connattr.TargetFrom(ctx, o, diags); known {
				hosts[name] = t
			}
		}
	}
	return hosts
}
