package patronicluster

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

// binding ties an attribute to a path of the dynamic configuration. An
// attribute that is null is not ours: it is neither sent nor read.
type binding struct {
	path string
	// get returns the wanted value, or nil.
	get func(*model) any
	// set takes the live value over; nil is a path that is not there.
	set func(*model, any)
}

func seconds64(path string, field func(*model) *customtypes.Text) binding {
	return binding{path,
		func(m *model) any {
			if f := field(m); f != nil && !f.IsNull() && !f.IsUnknown() {
				return int64(f.Duration() / time.Second)
			}
			return nil
		},
		func(m *model, live any) {
			*field(m) = customtypes.DurationNull()
			if n, ok := patroni.Int(live); ok && live != nil {
				*field(m) = customtypes.DurationValue(time.Duration(n) * time.Second)
			}
		}}
}

func bytes64(path string, field func(*model) *customtypes.Text) binding {
	return binding{path,
		func(m *model) any {
			if f := field(m); !f.IsNull() && !f.IsUnknown() {
				return f.Bytes()
			}
			return nil
		},
		func(m *model, live any) {
			*field(m) = customtypes.SizeNull()
			if n, ok := patroni.Int(live); ok && live != nil {
				*field(m) = customtypes.SizeValue(n)
			}
		}}
}

func number(path string, field func(*model) *types.Int64) binding {
	return binding{path,
		func(m *model) any {
			if f := field(m); !f.IsNull() && !f.IsUnknown() {
				return f.ValueInt64()
			}
			return nil
		},
		func(m *model, live any) {
			*field(m) = types.Int64Null()
			if n, ok := patroni.Int(live); ok && live != nil {
				*field(m) = types.Int64Value(n)
			}
		}}
}

func boolean(path string, field func(*model) *types.Bool) binding {
	return binding{path,
		func(m *model) any {
			if f := field(m); f != nil && !f.IsNull() && !f.IsUnknown() {
				return f.ValueBool()
			}
			return nil
		},
		func(m *model, live any) {
			f := field(m)
			if f == nil {
				return
			}
			*f = types.BoolNull()
			if v, ok := patroni.Bool(live); ok && live != nil {
				*f = types.BoolValue(v)
			}
		}}
}

// inPostgres gives access to a field of the nested block, nil without it.
func inPostgres(field func(*postgresModel) *types.Bool) func(*model) *types.Bool {
	return func(m *model) *types.Bool {
		if m.pg == nil {
			return nil
		}
		return field(m.pg)
	}
}

// bindings are the attributes with one value.
var bindings = []binding{
	seconds64("ttl", func(m *model) *customtypes.Text { return &m.TTL }),
	seconds64("loop_wait", func(m *model) *customtypes.Text { return &m.LoopWait }),
	seconds64("retry_timeout", func(m *model) *customtypes.Text { return &m.RetryTimeout }),
	bytes64("maximum_lag_on_failover", func(m *model) *customtypes.Text { return &m.MaximumLagOnFailover }),
	bytes64("maximum_lag_on_syncnode", func(m *model) *customtypes.Text { return &m.MaximumLagOnSyncnode }),
	boolean("check_timeline", func(m *model) *types.Bool { return &m.CheckTimeline }),
	number("max_timelines_history", func(m *model) *types.Int64 { return &m.MaxTimelinesHistory }),
	seconds64("primary_start_timeout", func(m *model) *customtypes.Text { return &m.PrimaryStartTimeout }),
	seconds64("primary_stop_timeout", func(m *model) *customtypes.Text { return &m.PrimaryStopTimeout }),
	synchronousMode,
	boolean("synchronous_mode_strict", func(m *model) *types.Bool { return &m.SynchronousModeStrict }),
	number("synchronous_node_count", func(m *model) *types.Int64 { return &m.SynchronousNodeCount }),
	boolean("failsafe_mode", func(m *model) *types.Bool { return &m.FailsafeMode }),
	seconds64("member_slots_ttl", func(m *model) *customtypes.Text { return &m.MemberSlotsTTL }),
	boolean("pause", func(m *model) *types.Bool { return &m.Pause }),
	seconds64("postgresql/pg_ctl_timeout", func(m *model) *customtypes.Text {
		if m.pg == nil {
			return nil
		}
		return &m.pg.PgCtlTimeout
	}),
	boolean("postgresql/use_slots", inPostgres(func(p *postgresModel) *types.Bool { return &p.UseSlots })),
	boolean("postgresql/remove_data_directory_on_rewind_failure", inPostgres(func(p *postgresModel) *types.Bool { return &p.RemoveOnRewindFailure })),
	boolean("postgresql/remove_data_directory_on_diverged_timelines", inPostgres(func(p *postgresModel) *types.Bool { return &p.RemoveOnDiverged })),
}

var synchronousMode = binding{"synchronous_mode",
	func(m *model) any {
		switch m.SynchronousMode.ValueString() {
		case "on":
			return true
		case "off":
			return false
		case "quorum":
			return "quorum"
		}
		return nil
	},
	func(m *model, live any) {
		m.SynchronousMode = types.StringNull()
		if !m.Citus.IsNull() {
			m.SynchronousMode = types.StringValue("off") // null is groupsSynchronousMode
		}
		if v, ok := patroni.Bool(live); ok && live != nil {
			m.SynchronousMode = types.StringValue(map[bool]string{true: "on", false: "off"}[v])
		} else if live != nil {
			m.SynchronousMode = types.StringValue(patroni.Text(live))
		}
	}}

// groupsSynchronousMode is what a group of a Citus formation has unless it is given:
// Patroni's own default for one.
const groupsSynchronousMode = "quorum"

const (
	hbaPath    = "postgresql/pg_hba"
	identPath  = "postgresql/pg_ident"
	ignorePath = "ignore_slots"
	rewindPath = "postgresql/use_pg_rewind"

	callbacksPath = "postgresql/callbacks"
	createPath    = "postgresql/create_replica_methods"
	recoveryPath  = "postgresql/recovery_conf"
	methodPath    = "postgresql/"
	slotsPath     = "slots/"
)

// wanted is the dynamic configuration that the model asks for. Everything in it
// is owned.
func (m *model) wanted(ctx context.Context, diags *diag.Diagnostics) patroni.Settings {
	s := patroni.Settings{rewindPath: true}
	if !m.Citus.IsNull() {
		s[synchronousMode.path] = groupsSynchronousMode
	}
	for _, b := range bindings {
		if v := b.get(m); v != nil {
			s[b.path] = v
		}
	}
	if p := m.pg; p != nil {
		if !p.UsePgRewind.IsNull() {
			s[rewindPath] = p.UsePgRewind.ValueBool()
		}
		parameters := map[string]string{}
		if !p.Parameters.IsNull() {
			diags.Append(p.Parameters.ElementsAs(ctx, &parameters, false)...)
		}
		for name, value := range parameters {
			s[patroni.Parameter(name)] = value
		}
		if !p.Ident.IsNull() {
			s[identPath] = stringList(ctx, p.Ident, diags)
		}
		if !p.CreateMethods.IsNull() {
			s[createPath] = stringList(ctx, p.CreateMethods, diags)
		}
		for path, field := range map[string]types.Map{callbacksPath: p.Callbacks, recoveryPath: p.RecoveryConf} {
			if !field.IsNull() {
				values := map[string]string{}
				diags.Append(field.ElementsAs(ctx, &values, false)...)
				s[path] = values
			}
		}
		if !p.ReplicaMethods.IsNull() {
			methods := map[string]methodModel{}
			diags.Append(p.ReplicaMethods.ElementsAs(ctx, &methods, false)...)
			for name, method := range methods {
				s[methodPath+name] = method.setting()
			}
		}
	}
	if lines := m.hba(ctx, diags); len(lines) > 0 {
		s[hbaPath] = lines
	}
	if !m.Slots.IsNull() {
		slots := map[string]slotModel{}
		diags.Append(m.Slots.ElementsAs(ctx, &slots, false)...)
		for name, slot := range slots {
			s[slotsPath+name] = compact(map[string]types.String{
				"type": slot.Type, "database": slot.Database, "plugin": slot.Plugin, "cluster_type": slot.ClusterType,
			})
		}
	}
	if !m.IgnoreSlots.IsNull() {
		var ignored []ignoreModel
		diags.Append(m.IgnoreSlots.ElementsAs(ctx, &ignored, false)...)
		list := []any{}
		for _, i := range ignored {
			list = append(list, compact(map[string]types.String{"name": i.Name, "type": i.Type, "database": i.Database, "plugin": i.Plugin}))
		}
		s[ignorePath] = list
	}
	return s
}

func (m methodModel) setting() map[string]any {
	out := map[string]any{"command": m.Command.ValueString()}
	for name, v := range map[string]types.Bool{"keep_data": m.KeepData, "no_params": m.NoParams, "no_leader": m.NoLeader} {
		if !v.IsNull() {
			out[name] = v.ValueBool()
		}
	}
	return out
}

func compact(fields map[string]types.String) map[string]any {
	out := map[string]any{}
	for k, v := range fields {
		if !v.IsNull() {
			out[k] = v.ValueString()
		}
	}
	return out
}

func stringList(ctx context.Context, l types.List, diags *diag.Diagnostics) []string {
	var list []string
	diags.Append(l.ElementsAs(ctx, &list, false)...)
	return list
}

// explicitHBA reports whether the user wrote pg_hba.
func (m *model) explicitHBA() bool { return m.pg != nil && !m.pg.HBA.IsNull() }

// hba is pg_hba as the user wrote it, or made from the allowed networks. Without
// any network it is nobody's business here.
func (m *model) hba(ctx context.Context, diags *diag.Diagnostics) []string {
	if m.explicitHBA() {
		return stringList(ctx, m.pg.HBA, diags)
	}
	return m.hbaFor(stringList(ctx, m.AllowedNetworks, diags))
}

func (m *model) hbaFor(networks []string) []string {
	if len(networks) == 0 {
		return nil
	}
	lines := []string{
		"local all all peer",
		// Patroni asks its own server for timeline and position through a
		// replication connection to localhost. Without that no replica is
		// ever healthy enough to take over.
		"hostssl replication " + m.users().Replication + " samehost scram-sha-256",
	}
	for _, network := range networks {
		lines = append(lines,
			"hostssl replication "+m.users().Replication+" "+network+" scram-sha-256",
			"hostssl all all "+network+" scram-sha-256")
	}
	if !m.Citus.IsNull() {
		// Citus comes to its own server by "localhost" (citus.local_hostname), as when it
		// copies reference tables before shards are moved.
		lines = append(lines, "hostssl all "+m.users().Superuser+" samehost scram-sha-256")
	}
	return lines
}

// observe takes the live configuration over, as far as it is ours.
func (m *model) observe(ctx context.Context, live patroni.Settings, diags *diag.Diagnostics) {
	wanted := m.wanted(ctx, diags)
	block := func() *postgresModel {
		if m.pg == nil {
			m.pg = noPostgres()
		}
		return m.pg
	}
	for _, b := range bindings {
		if want, ours := wanted[b.path]; ours && differs(live, b.path, want) {
			b.set(m, live[b.path])
		}
	}
	if differs(live, rewindPath, wanted[rewindPath]) {
		v, _ := patroni.Bool(live[rewindPath])
		block().UsePgRewind = types.BoolValue(v)
	}
	if want, ours := wanted[hbaPath]; ours && !patroni.Same(hbaPath, live[hbaPath], want) {
		block().HBA = listOf(live[hbaPath])
	}
	if _, ours := wanted[identPath]; ours && !patroni.Same(identPath, live[identPath], wanted[identPath]) {
		block().Ident = listOf(live[identPath])
	}
	if m.pg != nil && !m.pg.Parameters.IsNull() {
		values := map[string]attr.Value{}
		for name, v := range m.pg.Parameters.Elements() {
			path := patroni.Parameter(name)
			have, there := live[path]
			switch {
			case !there:
				// Removed by somebody: not in the state, so the plan puts it back.
			case patroni.Same(path, have, wanted[path]):
				values[name] = v
			default:
				values[name] = types.StringValue(patroni.Text(have))
			}
		}
		m.pg.Parameters = types.MapValueMust(types.StringType, values)
	}
	m.observeMethods(live, wanted, diags)
	m.observeSlots(ctx, live, wanted, diags)
	m.pack(ctx, diags)
}

// differs reports whether a live setting is another one than the wanted one.
// Where there is none, Patroni's default counts.
func differs(live patroni.Settings, path string, want any) bool {
	have, there := live[path]
	if !there && patroni.IsDefault(path, want) {
		return false
	}
	return !patroni.Same(path, have, want)
}

// observeMethods takes over what is in the postgresql section as a whole.
func (m *model) observeMethods(live, wanted patroni.Settings, diags *diag.Diagnostics) {
	if m.pg == nil {
		return
	}
	differs := func(path string) bool {
		want, ours := wanted[path]
		return ours && !patroni.Same(path, live[path], want)
	}
	if differs(createPath) {
		m.pg.CreateMethods = listOf(live[createPath])
	}
	if differs(callbacksPath) {
		m.pg.Callbacks = mapOf(live[callbacksPath])
	}
	if differs(recoveryPath) {
		m.pg.RecoveryConf = mapOf(live[recoveryPath])
	}
	if m.pg.ReplicaMethods.IsNull() {
		return
	}
	values := map[string]attr.Value{}
	for name, v := range m.pg.ReplicaMethods.Elements() {
		path := methodPath + name
		switch have, there := live[path].(map[string]any); {
		case !there:
		case !differs(path):
			values[name] = v
		default:
			values[name] = methodOf(have, diags)
		}
	}
	m.pg.ReplicaMethods = types.MapValueMust(types.ObjectType{AttrTypes: methodTypes}, values)
}

func methodOf(have map[string]any, diags *diag.Diagnostics) attr.Value {
	fields := map[string]attr.Value{"command": types.StringValue(patroni.Text(have["command"]))}
	for _, flag := range []string{"keep_data", "no_params", "no_leader"} {
		fields[flag] = types.BoolNull()
		if b, ok := patroni.Bool(have[flag]); ok && have[flag] != nil {
			fields[flag] = types.BoolValue(b)
		}
	}
	o, d := types.ObjectValue(methodTypes, fields)
	diags.Append(d...)
	return o
}

func mapOf(live any) types.Map {
	raw, ok := live.(map[string]any)
	if !ok {
		return types.MapNull(types.StringType)
	}
	values := map[string]attr.Value{}
	for k, v := range raw {
		values[k] = types.StringValue(patroni.Text(v))
	}
	return types.MapValueMust(types.StringType, values)
}

func listOf(live any) types.List {
	raw, ok := live.([]any)
	if !ok {
		return types.ListNull(types.StringType)
	}
	var values []attr.Value
	for _, v := range raw {
		values = append(values, types.StringValue(patroni.Text(v)))
	}
	return types.ListValueMust(types.StringType, values)
}

var (
	slotTypes   = map[string]attr.Type{"type": types.StringType, "database": types.StringType, "plugin": types.StringType, "cluster_type": types.StringType}
	ignoreTypes = map[string]attr.Type{"name": types.StringType, "type": types.StringType, "database": types.StringType, "plugin": types.StringType}
)

// objectOf is an object of texts, null where there is none.
func objectOf(of map[string]attr.Type, raw any, diags *diag.Diagnostics) attr.Value {
	fields, _ := raw.(map[string]any)
	values := map[string]attr.Value{}
	for k := range of {
		values[k] = types.StringNull()
		if v, ok := fields[k]; ok {
			values[k] = types.StringValue(patroni.Text(v))
		}
	}
	o, d := types.ObjectValue(of, values)
	diags.Append(d...)
	return o
}

func (m *model) observeSlots(_ context.Context, live, wanted patroni.Settings, diags *diag.Diagnostics) {
	if !m.Slots.IsNull() {
		values := map[string]attr.Value{}
		for name, v := range m.Slots.Elements() {
			path := slotsPath + name
			switch have, there := live[path]; {
			case !there:
			case patroni.Same(path, have, wanted[path]):
				values[name] = v
			default:
				values[name] = objectOf(slotTypes, have, diags)
			}
		}
		m.Slots = types.MapValueMust(types.ObjectType{AttrTypes: slotTypes}, values)
	}
	if !m.IgnoreSlots.IsNull() && !patroni.Same(ignorePath, live[ignorePath], wanted[ignorePath]) {
		raw, _ := live[ignorePath].([]any)
		values := []attr.Value{}
		for _, r := range raw {
			values = append(values, objectOf(ignoreTypes, r, diags))
		}
		m.IgnoreSlots = types.ListValueMust(types.ObjectType{AttrTypes: ignoreTypes}, values)
	}
}

// users are the accounts' names.
func (m *model) users() patroni.Users {
	u := patroni.Users{Superuser: "postgres", Replication: "replicator", Rewind: "rewind_user", API: "patroni"}
	name := func(a *accountModel, to *string) {
		if a != nil && a.Username.ValueString() != "" {
			*to = a.Username.ValueString()
		}
	}
	if c := m.accounts; c != nil {
		name(c.Replication, &u.Replication)
		name(c.Rewind, &u.Rewind)
		name(c.RestAPI, &u.API)
	}
	return u
}

// brought are the passwords that the configuration brings. They are kept apart
// from every model that is saved.
func brought(config model) patroni.Secrets {
	var s patroni.Secrets
	c := config.accounts
	if c == nil {
		return s
	}
	if c.Superuser != nil {
		s.Superuser = c.Superuser.Password.ValueString()
	}
	for _, a := range []struct {
		from *accountModel
		to   *string
	}{{c.Replication, &s.Replication}, {c.Rewind, &s.Rewind}, {c.RestAPI, &s.API}} {
		if a.from != nil {
			*a.to = a.from.Password.ValueString()
		}
	}
	return s
}

// checkHBA says what is wrong with a user's pg_hba: lines that cannot be read,
// and whom it keeps out although a failover or a clone needs them.
func checkHBA(lines []string, u patroni.Users, citus *patroni.Citus) (errs, warnings []string) {
	var parsed []postgres.HBA
	for _, l := range lines {
		h, err := postgres.ParseHBA(l)
		if err != nil {
			errs = append(errs, err.Error())
			continue
		}
		parsed = append(parsed, h)
		if h.Method == "trust" {
			warnings = append(warnings, "\""+l+"\" lets anybody in without a password.")
		}
		if h.Address == "0.0.0.0/0" || h.Address == "::/0" || h.Address == "all" {
			warnings = append(warnings, "\""+l+"\" is for the whole internet.")
		}
	}
	if len(errs) > 0 {
		return errs, warnings
	}
	admits := func(database, user string) bool {
		for _, h := range parsed {
			if h.Admits(database, user) {
				return true
			}
		}
		return false
	}
	if !admits("replication", u.Replication) {
		errs = append(errs, "no line lets the user "+u.Replication+" replicate from the other nodes (hostssl replication "+u.Replication+" NETWORK scram-sha-256)")
	}
	if !slices.ContainsFunc(parsed, func(h postgres.HBA) bool { return h.Admits("replication", u.Replication) && h.Loopback() }) {
		errs = append(errs, "no line lets the user "+u.Replication+" replicate from the node itself, which Patroni needs before a failover (hostssl replication "+u.Replication+" samehost scram-sha-256)")
	}
	if citus != nil && !slices.ContainsFunc(parsed, func(h postgres.HBA) bool { return h.Admits(citus.Database, u.Superuser) && h.Loopback() }) {
		warnings = append(warnings, "No line lets the user "+u.Superuser+" into the database "+citus.Database+" from the node itself, as Citus comes there: shards cannot be moved off or onto a group at times (hostssl all "+u.Superuser+" samehost scram-sha-256).")
	}
	if !admits("postgres", u.Rewind) {
		errs = append(errs, "no line lets the user "+u.Rewind+" into the database postgres from the other nodes, which pg_rewind needs (hostssl postgres "+u.Rewind+" NETWORK scram-sha-256)")
	}
	local := false
	for _, h := range parsed {
		if h.Type == "local" && h.Method == "peer" && (contains(h.Users, "all") || contains(h.Users, u.Superuser)) && (contains(h.Databases, "all") || contains(h.Databases, "postgres")) {
			local = true
		}
	}
	if !local {
		errs = append(errs, "no line lets the operating system's user postgres in locally, as Patroni itself comes (local all postgres peer)")
	}
	return errs, warnings
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if strings.Trim(e, `"`) == s {
			return true
		}
	}
	return false
}
