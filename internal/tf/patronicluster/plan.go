package patronicluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

// ValidateConfig checks parameters, pg_hba, slots and timing: Patroni itself
// answers 200 to anything, and its nodes then ignore the whole document.
func (r *clusterResource) ValidateConfig(ctx context.Context, req resource.ValidateConfigRequest, resp *resource.ValidateConfigResponse) {
	diags := &resp.Diagnostics
	m := read(ctx, req.Config, diags)
	if diags.HasError() {
		return
	}
	_, preset := patroni.Presets[m.FailureDetection.ValueString()]
	if (preset || m.FailureDetection.IsNull()) && !m.TTL.IsUnknown() && !m.LoopWait.IsUnknown() && !m.RetryTimeout.IsUnknown() {
		c := m
		c.preset(m)
		for _, v := range patroni.CheckTiming(int64(c.TTL.Duration()/time.Second), int64(c.LoopWait.Duration()/time.Second), int64(c.RetryTimeout.Duration()/time.Second)) {
			diags.AddAttributeError(path.Root(v.Path), "Invalid timing", v.Problem)
		}
	}
	if m.SynchronousModeStrict.ValueBool() && m.SynchronousMode.ValueString() == "off" {
		diags.AddAttributeError(path.Root("synchronous_mode_strict"), "Invalid combination", "synchronous_mode_strict has no meaning with synchronous_mode = \"off\".")
	}
	if !m.PostgresPort.IsUnknown() && !m.RestAPIPort.IsUnknown() && !m.PostgresPort.IsNull() && m.PostgresPort.Equal(m.RestAPIPort) {
		diags.AddAttributeError(path.Root("rest_api_port"), "Invalid port", "postgresql_port and rest_api_port must differ.")
	}
	if m.FailsafeMode.ValueBool() && !m.RestAPIAllowlist.IsUnknown() && len(m.RestAPIAllowlist.Elements()) == 0 {
		diags.AddAttributeError(path.Root("rest_api_allowlist"), "failsafe_mode needs an allowlist",
			"While etcd is down, the leader asks every member's REST API whether it may go on, and Patroni then lets in only addresses that are in the list, not the members by themselves: "+
				"without one, failsafe_mode = true would not keep the primary writable. Give the networks of all nodes.")
	}
	checkSlots(ctx, m, diags)
	checkCitus(ctx, m, diags)
	m.rollout(ctx, diags)
	p := m.pg
	if p == nil {
		return
	}
	if !p.Parameters.IsUnknown() {
		seen := map[string]string{}
		elements := p.Parameters.Elements()
		for _, name := range slices.Sorted(maps.Keys(elements)) {
			at := path.Root("postgresql").AtName("parameters").AtMapKey(name)
			if other, ok := seen[strings.ToLower(name)]; ok {
				diags.AddAttributeError(at, "Invalid parameter", fmt.Sprintf("%q and %q are the same parameter.", other, name))
			}
			seen[strings.ToLower(name)] = name
			v, ok := elements[name].(types.String)
			if !ok || v.IsUnknown() {
				continue
			}
			if v.IsNull() {
				diags.AddAttributeError(at, "Invalid parameter", name+" has no value; leave it out to have PostgreSQL's default.")
				continue
			}
			if why := patroni.CheckParameter(0, name, v.ValueString()); why != "" {
				diags.AddAttributeError(at, "Invalid parameter", why+".")
			}
		}
	}
	checkMethods(ctx, p, diags)
	for name, v := range p.RecoveryConf.Elements() {
		if s, ok := v.(types.String); ok && !s.IsUnknown() {
			if err := postgres.CheckCommand(name, s.ValueString()); err != nil {
				diags.AddAttributeError(path.Root("postgresql").AtName("recovery_conf").AtMapKey(name), "Invalid command", err.Error()+".")
			}
		}
	}
	if connattr.Known(p.HBA) && !p.HBA.IsNull() {
		at := path.Root("postgresql").AtName("pg_hba")
		citus, _, _ := citusFrom(ctx, m.Citus, diags)
		errs, warnings := checkHBA(stringList(ctx, p.HBA, diags), m.users(), citus)
		for _, e := range errs {
			diags.AddAttributeError(at, "Invalid pg_hba", e+".")
		}
		for _, w := range warnings {
			diags.AddAttributeWarning(at, "Check pg_hba", w)
		}
	}
}

// checkMethods refuses methods that are tried and not described.
func checkMethods(ctx context.Context, p *postgresModel, diags *diag.Diagnostics) {
	if p.CreateMethods.IsNull() || !connattr.Known(p.CreateMethods) || p.ReplicaMethods.IsUnknown() {
		return
	}
	described := p.ReplicaMethods.Elements()
	for i, name := range stringList(ctx, p.CreateMethods, diags) {
		if _, ok := described[name]; !ok && name != "basebackup" {
			diags.AddAttributeError(path.Root("postgresql").AtName("create_replica_methods").AtListIndex(i), "Unknown method",
				name+" is neither basebackup nor described in replica_methods.")
		}
	}
}

func checkSlots(ctx context.Context, m model, diags *diag.Diagnostics) {
	if m.Slots.IsNull() || !connattr.Known(m.Slots) {
		return
	}
	slots := map[string]slotModel{}
	diags.Append(m.Slots.ElementsAs(ctx, &slots, false)...)
	for name, s := range slots {
		at := path.Root("slots").AtMapKey(name)
		logical := s.Type.ValueString() == "logical"
		switch {
		case logical && (s.Database.IsNull() || s.Plugin.IsNull()):
			diags.AddAttributeError(at, "Invalid slot", "A logical slot needs database and plugin.")
		case !logical && (!s.Database.IsNull() || !s.Plugin.IsNull()):
			diags.AddAttributeError(at, "Invalid slot", "A physical slot has neither database nor plugin.")
		}
	}
}

// preset fills in the timing that the configuration leaves to the preset.
func (m *model) preset(config model) {
	name := config.FailureDetection.ValueString()
	if name == "" {
		name = "normal"
	}
	p := patroni.Presets[name]
	fill := func(to *customtypes.Text, from customtypes.Text, seconds int64) {
		if from.IsNull() {
			*to = customtypes.DurationValue(time.Duration(seconds) * time.Second)
		}
	}
	fill(&m.TTL, config.TTL, p.TTL)
	fill(&m.LoopWait, config.LoopWait, p.LoopWait)
	fill(&m.RetryTimeout, config.RetryTimeout, p.RetryTimeout)
}

// cluster is the cluster that the model describes. It returns false while that
// is not known; the uid may be unknown.
func (m *model) cluster(ctx context.Context, diags *diag.Diagnostics) (patroni.Cluster, bool) {
	access, ok := connattr.AccessFrom(ctx, m.Etcd, diags)
	citus, _, known := citusFrom(ctx, m.Citus, diags)
	if !ok || !known || m.Scope.IsUnknown() || m.Namespace.IsUnknown() || m.PostgresPort.IsUnknown() || m.RestAPIPort.IsUnknown() ||
		m.TTL.IsUnknown() || m.LoopWait.IsUnknown() || !connattr.Known(m.Initdb) || !connattr.Known(m.TakeOver) || !connattr.Known(m.RestAPIAllowlist) || !m.known() {
		return patroni.Cluster{}, false
	}
	var i initdbModel
	diags.Append(m.Initdb.As(ctx, &i, basetypes.ObjectAsOptions{})...)
	var t takeOverModel
	if !m.TakeOver.IsNull() {
		diags.Append(m.TakeOver.As(ctx, &t, basetypes.ObjectAsOptions{})...)
	}
	return patroni.Cluster{
		TakeOver: patroni.TakeOver{Node: t.Node.ValueString(), Debian: t.Cluster.ValueString()}, Citus: citus,
		Scope: m.Scope.ValueString(), Namespace: m.Namespace.ValueString(), UID: m.UID.ValueString(), Etcd: access,
		PostgresPort: int(m.PostgresPort.ValueInt64()), APIPort: int(m.RestAPIPort.ValueInt64()), Users: m.users(),
		APIAllowlist: stringList(ctx, m.RestAPIAllowlist, diags),
		TTL:          int64(m.TTL.Duration() / time.Second), LoopWait: int64(m.LoopWait.Duration() / time.Second),
		Initdb: patroni.Initdb{Locale: i.Locale.ValueString(), Encoding: i.Encoding.ValueString(), DataChecksums: i.DataChecksums.ValueBool()},
	}, !diags.HasError()
}

// ModifyPlan makes known what can be known and says what changing the
// configuration does to running servers.
func (r *clusterResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	diags := &resp.Diagnostics
	var before model
	if !req.State.Raw.IsNull() {
		before = read(ctx, req.State, diags)
	}
	if req.Plan.Raw.IsNull() {
		planDestroy(before, diags)
		return
	}
	config, m := read(ctx, req.Config, diags), read(ctx, req.Plan, diags)
	if diags.HasError() {
		return
	}
	if citus, _, known := citusFrom(ctx, m.Citus, diags); known && !m.Scope.IsUnknown() {
		m.ID = types.StringValue(patroni.Cluster{Scope: m.Scope.ValueString(), Citus: citus}.Name())
	}
	if !config.FailureDetection.IsUnknown() {
		m.preset(config)
	}
	m.Membership = types.ObjectUnknown(connattr.MembershipType.AttrTypes)
	c, ok := m.cluster(ctx, diags)
	if ok {
		m.Membership = connattr.MembershipObject(ctx, c, m.UID, m.Etcd, diags)
		if r.S != nil && r.S.PlanCluster(c, !req.State.Raw.IsNull()) {
			at := path.Root("scope")
			if c.Citus != nil {
				at = path.Root("citus").AtName("group")
			}
			diags.AddAttributeError(at, "Two resources are the same cluster",
				"Another pgha_patroni_cluster of this configuration is "+c.Name()+" on etcd "+c.Etcd.Name+", too.\nWhat to do: give each group of a Citus formation a number of its own, and each other cluster its own scope.")
		}
		if r.S != nil && connattr.Known(m.Rollout) {
			r.S.PlanRollout(c, m.rollout(ctx, diags))
		}
	}
	if req.State.Raw.IsNull() && !m.AllowedNetworks.IsUnknown() && len(m.AllowedNetworks.Elements()) == 0 && m.known() && !m.explicitHBA() {
		diags.AddAttributeError(path.Root("allowed_networks"), "Invalid networks",
			"A new cluster needs at least one network, or postgresql.pg_hba: without either, no node could clone or follow another. An empty list is for a cluster that was imported.")
	}
	if !req.State.Raw.IsNull() {
		passwords(before, m, c, diags)
		r.planCitus(ctx, before, m, c, diags)
	}
	diags.Append(resp.Plan.Set(ctx, &m)...)
	if !req.State.Raw.IsNull() && !diags.HasError() && m.settled() {
		effects(ctx, before, m, diags)
	}
}

// settled reports whether all that the dynamic configuration is made of is
// known.
func (m *model) settled() bool {
	return m.known() && connattr.Known(m.Slots) && connattr.Known(m.IgnoreSlots) && connattr.Known(m.AllowedNetworks) &&
		(m.pg == nil || connattr.Known(m.pg.Parameters) && connattr.Known(m.pg.HBA) && connattr.Known(m.pg.Ident) &&
			connattr.Known(m.pg.Callbacks) && connattr.Known(m.pg.CreateMethods) && connattr.Known(m.pg.ReplicaMethods) && connattr.Known(m.pg.RecoveryConf))
}

// effects warns about what the changed configuration does, by comparing what
// is planned with what was found.
func effects(ctx context.Context, before, m model, diags *diag.Diagnostics) {
	old, wanted := before.wanted(ctx, diags), m.wanted(ctx, diags)
	_, changed := patroni.Patch(old.Document(), wanted, old.Paths())
	if len(changed) == 0 {
		return
	}
	reload, restart := patroni.DescribeChanges(old.Document(), wanted, changed)
	scope := m.ID.ValueString()
	if len(reload) > 0 {
		diags.AddWarning("Applying this reloads all nodes of "+scope, "Taken over by a reload, without a restart:\n  "+strings.Join(reload, "\n  "))
	}
	if len(restart) > 0 {
		order := "the replicas first, the leader last and only after a switchover to one of them."
		if name := lowers(old, wanted, changed); name != "" {
			order = fmt.Sprintf("the leader first, where it is, since replicas cannot have %s lower than their leader: writes wait for its restart.", name)
		}
		if r := m.rollout(ctx, diags); r != nil {
			if r.Manual {
				order = strings.TrimSuffix(order, ".") + ". With rollout.switchover = \"manual\" the leader is left as it is, and the apply says so."
			}
			if r.Window != nil {
				order += fmt.Sprintf(" Outside the window (%s) nothing is restarted, and the apply says so.", r.Window)
			}
		}
		diags.AddWarning("Applying this restarts PostgreSQL on all nodes of "+scope,
			"It takes these over only when it starts:\n  "+strings.Join(restart, "\n  ")+
				"\nThe nodes are restarted one at a time, as rollout says: "+order+" If the first replica does not start with them, the configuration is put back.")
	}
	if v, ok := wanted["pause"]; ok && v == true && old["pause"] != true {
		diags.AddWarning("Applying this pauses "+scope, "While a cluster is paused, nothing fails over and a crashed PostgreSQL stays down.")
	}
}

// lowers names a parameter that becomes lower and that replicas must not have lower
// than their leader.
func lowers(old, wanted patroni.Settings, changed []string) string {
	for _, at := range changed {
		name, ok := patroni.IsParameter(at)
		from, known1 := patroni.Int(old[at])
		to, known2 := patroni.Int(wanted[at])
		_, stays := wanted[at]
		if ok && patroni.StandbyFirst(name) && known1 && (!stays || known2 && to < from) {
			return name
		}
	}
	return ""
}

func planDestroy(before model, diags *diag.Diagnostics) {
	scope := before.ID.ValueString()
	if before.DeletionProtection.ValueBool() {
		diags.AddAttributeError(path.Root("deletion_protection"), "Unable to destroy Patroni cluster "+scope,
			"It is protected from deletion.\nWhat to do: set deletion_protection = false and apply that first.")
		return
	}
	if before.OnDestroy.ValueString() == base.Purge {
		diags.AddWarning("The keys and passwords of the Patroni cluster "+scope+" will be deleted",
			"on_destroy is \"purge\": its keys and passwords in etcd and its certificate authority are deleted. Nodes whose data was kept can then not be taken up again. This cannot be undone.")
	}
}
