package patronicluster

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

var _ resource.ResourceWithImportState = &clusterResource{}

// ImportState takes up a cluster that exists: one that was made by this provider,
// or one made by hand. It looks at etcd and a node and changes nothing there.
func (r *clusterResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	diags := &resp.Diagnostics
	id, err := connattr.ParseClusterID(req.ID)
	if err != nil {
		diags.AddAttributeError(path.Root("id"), "Invalid import id", err.Error()+".")
		return
	}
	// A state that has nothing yet cannot be read.
	diags.Append(resp.State.SetAttribute(ctx, path.Root("id"), req.ID)...)
	m := read(ctx, resp.State, diags)
	if diags.HasError() || r.S == nil {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, readTimeout, "import")
	defer cancel()
	c, access, k, err := r.S.FindCluster(ctx, id)
	if err != nil {
		r.S.Fail(diags, "Unable to import Patroni cluster "+id.Scope, err)
		return
	}
	m.take(ctx, c, access, k, diags)
	diags.Append(resp.State.Set(ctx, &m)...)
}

// take fills the model with a cluster that was found.
func (m *model) take(ctx context.Context, c patroni.Cluster, access types.Object, k patroni.Known, diags *diag.Diagnostics) {
	m.ID, m.Scope, m.Namespace, m.Etcd = types.StringValue(c.Name()), types.StringValue(c.Scope), types.StringValue(c.Namespace), access
	m.Citus = citusObject(ctx, c.Citus, types.StringNull(), diags)
	m.UID, m.CACertificate = types.StringValue(c.UID), types.StringValue(string(k.Authority))
	m.PostgresPort, m.RestAPIPort = types.Int64Value(int64(c.PostgresPort)), types.Int64Value(int64(c.APIPort))
	m.DeletionProtection, m.OnDestroy = types.BoolValue(true), types.StringValue("keep_data")
	if k.Record != nil {
		m.DeletionProtection = types.BoolValue(k.Record.DeletionProtection)
	}
	list, d := types.ListValueFrom(ctx, types.StringType, append([]string{}, c.APIAllowlist...))
	diags.Append(d...)
	m.RestAPIAllowlist = list
	m.Initdb, d = types.ObjectValueFrom(ctx, m.Initdb.AttributeTypes(ctx), initdbModel{
		Locale: types.StringValue(c.Initdb.Locale), Encoding: types.StringValue(c.Initdb.Encoding), DataChecksums: types.BoolValue(c.Initdb.DataChecksums),
	})
	diags.Append(d...)
	if c.TakeOver.Node != "" {
		m.TakeOver, d = types.ObjectValueFrom(ctx, m.TakeOver.AttributeTypes(ctx), takeOverModel{Node: types.StringValue(c.TakeOver.Node), Cluster: types.StringValue(c.TakeOver.Debian)})
		diags.Append(d...)
	}
	m.takeAccounts(ctx, c.Users, k.Secrets, diags)
	m.takeSettings(ctx, k.Config.Flatten(), diags)
	switch {
	case c.Citus == nil:
	case m.SynchronousMode.ValueString() == groupsSynchronousMode:
		m.SynchronousMode = types.StringNull()
	case m.SynchronousMode.IsNull():
		m.SynchronousMode = types.StringValue("off") // null means another one in a group
	}
	m.Membership = connattr.MembershipObject(ctx, c, m.UID, m.Etcd, diags)
}

// takeAccounts notes the names of accounts that are not the usual ones.
func (m *model) takeAccounts(ctx context.Context, have patroni.Users, secrets *patroni.Secrets, diags *diag.Diagnostics) {
	usual := (&model{}).users()
	account := func(have, usual string) *accountModel {
		if have == usual {
			return nil
		}
		return &accountModel{Username: types.StringValue(have), Password: types.StringNull(), PasswordVersion: types.Int64Null()}
	}
	a := credentials{
		Replication: account(have.Replication, usual.Replication), Rewind: account(have.Rewind, usual.Rewind), RestAPI: account(have.API, usual.API),
	}
	if secrets != nil {
		a.takeOrigin(secrets.Origin)
	}
	if a == (credentials{}) {
		return
	}
	m.accounts = &a
	o, d := types.ObjectValueFrom(ctx, m.Credentials.AttributeTypes(ctx), a)
	diags.Append(d...)
	m.Credentials = o
}

// takeOrigin notes the numbers for which passwords were made or brought.
func (c *credentials) takeOrigin(o patroni.Origin) {
	number := func(origin, kind string) types.Int64 {
		text, ok := strings.CutPrefix(origin, kind+":")
		n, err := strconv.ParseInt(text, 10, 64)
		if !ok || err != nil {
			return types.Int64Null()
		}
		return types.Int64Value(n)
	}
	if n := number(o.Etcd, "made"); n.ValueInt64() > 0 {
		c.Rotation = n
	}
	if n := number(o.Superuser, "brought"); !n.IsNull() {
		c.Superuser = &secretModel{PasswordVersion: n}
	}
	for _, a := range []struct {
		to     **accountModel
		origin string
	}{{&c.Replication, o.Replication}, {&c.Rewind, o.Rewind}, {&c.RestAPI, o.API}} {
		n := number(a.origin, "brought")
		if n.IsNull() {
			continue
		}
		if *a.to == nil {
			*a.to = &accountModel{}
		}
		(*a.to).PasswordVersion = n
	}
}

// takeSettings takes the whole dynamic configuration over, as far as there are
// attributes for it. The rest stays somebody else's.
func (m *model) takeSettings(ctx context.Context, live patroni.Settings, diags *diag.Diagnostics) {
	m.pg = noPostgres()
	seconds := func(path string, otherwise int64) customtypes.Text {
		if n, ok := patroni.Int(live[path]); ok {
			otherwise = n
		}
		return customtypes.DurationValue(time.Duration(otherwise) * time.Second)
	}
	// These always have a value; Patroni's own defaults count where there is none.
	m.TTL, m.LoopWait, m.RetryTimeout = seconds("ttl", 30), seconds("loop_wait", 10), seconds("retry_timeout", 10)
	m.CheckTimeline = types.BoolValue(false)
	for _, b := range bindings {
		if v, there := live[b.path]; there {
			b.set(m, v)
		}
	}
	m.FailureDetection = types.StringValue("normal")
	for _, name := range patroni.PresetNames() {
		p := patroni.Presets[name]
		if m.TTL.Duration() == time.Duration(p.TTL)*time.Second && m.LoopWait.Duration() == time.Duration(p.LoopWait)*time.Second && m.RetryTimeout.Duration() == time.Duration(p.RetryTimeout)*time.Second {
			m.FailureDetection = types.StringValue(name)
		}
	}
	if rewind, _ := patroni.Bool(live[rewindPath]); !rewind {
		m.pg.UsePgRewind = types.BoolValue(false)
	}
	m.takeHBA(ctx, live, diags)
	if v, there := live[identPath]; there {
		m.pg.Ident = listOf(v)
	}
	if v, there := live[createPath]; there {
		m.pg.CreateMethods = listOf(v)
	}
	if v, there := live[callbacksPath]; there {
		m.pg.Callbacks = mapOf(v)
	}
	if v, there := live[recoveryPath]; there {
		m.pg.RecoveryConf = mapOf(v)
	}
	parameters, methods, slots := map[string]attr.Value{}, map[string]attr.Value{}, map[string]attr.Value{}
	for _, p := range slices.Sorted(maps.Keys(live)) {
		if name, ok := patroni.IsParameter(p); ok {
			if text := patroni.Text(live[p]); patroni.CheckParameter(0, name, text) == "" {
				parameters[name] = types.StringValue(text)
			}
		}
		if name, ok := strings.CutPrefix(p, slotsPath); ok {
			slots[name] = objectOf(slotTypes, live[p], diags)
		}
		if name, ok := strings.CutPrefix(p, methodPath); ok && !slices.Contains(reservedMethods, name) {
			if fields, ok := live[p].(map[string]any); ok && fields["command"] != nil {
				methods[name] = methodOf(fields, diags)
			}
		}
	}
	if len(parameters) > 0 {
		m.pg.Parameters = types.MapValueMust(types.StringType, parameters)
	}
	if len(methods) > 0 {
		m.pg.ReplicaMethods = types.MapValueMust(types.ObjectType{AttrTypes: methodTypes}, methods)
	}
	if len(slots) > 0 {
		m.Slots = types.MapValueMust(types.ObjectType{AttrTypes: slotTypes}, slots)
	}
	if raw, ok := live[ignorePath].([]any); ok && len(raw) > 0 {
		values := []attr.Value{}
		for _, r := range raw {
			values = append(values, objectOf(ignoreTypes, r, diags))
		}
		m.IgnoreSlots = types.ListValueMust(types.ObjectType{AttrTypes: ignoreTypes}, values)
	}
	m.pack(ctx, diags)
	if m.PostgreSQL.Equal(emptyPostgres(ctx, diags)) {
		m.pg = nil
		m.PostgreSQL = types.ObjectNull(postgresTypes)
	}
}

func emptyPostgres(ctx context.Context, diags *diag.Diagnostics) types.Object {
	o, d := types.ObjectValueFrom(ctx, postgresTypes, noPostgres())
	diags.Append(d...)
	return o
}

// takeHBA tells a pg_hba that allowed_networks makes from one of the user's own.
// A cluster whose dynamic configuration has none keeps the one in its files.
func (m *model) takeHBA(ctx context.Context, live patroni.Settings, diags *diag.Diagnostics) {
	networks := []string{}
	defer func() {
		list, d := types.ListValueFrom(ctx, types.StringType, networks)
		diags.Append(d...)
		m.AllowedNetworks = list
	}()
	raw, there := live[hbaPath]
	if !there {
		return
	}
	var lines []string
	for _, v := range listOf(raw).Elements() {
		lines = append(lines, v.(types.String).ValueString())
	}
	for _, l := range lines {
		if words := strings.Fields(l); len(words) > 3 && words[0] == "hostssl" && words[1] == "all" && words[2] == "all" {
			networks = append(networks, words[3])
		}
	}
	if slices.Equal(m.hbaFor(networks), lines) {
		return
	}
	networks = []string{"samenet"} // the default, which does not count then
	m.pg.HBA = listOf(raw)
}
