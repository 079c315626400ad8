package etcdcluster

import (
	"context"
	"errors"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

func (r *etcdResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var m model
	resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Create(ctx, createTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "create")
	defer cancel()
	if r.apply(host.BootContext(ctx), &m, nil, "create", &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

// apply makes or changes the cluster and fills in what is only known then. It
// returns false if it failed: there must be no state then, or Terraform would
// replace the cluster. The marks on the hosts let the next create go on.
func (r *etcdResource) apply(ctx context.Context, m *model, before map[string]etcd.Member, verb string, diags *diag.Diagnostics) bool {
	name := m.Name.ValueString()
	s, ok := m.spec(ctx, diags)
	if !ok {
		return false
	}
	s.Leaving = leaving(before, s.Members)
	manager, done := r.S.EtcdCluster("pgha_etcd_cluster " + name)
	defer done()
	if s.Heartbeat != 0 && s.Election != 0 {
		warnTiming(ctx, manager, s, diags)
	} else {
		measured := manager.RoundTrip(ctx, s)
		s.Heartbeat, s.Election = etcd.Timing(measured)
		r.S.Log.InfoContext(ctx, "derived etcd's timing from the round trip between members",
			"round_trip", measured.String(), "heartbeat_interval", s.Heartbeat.String(), "election_timeout", s.Election.String())
	}
	uid, err := manager.Apply(ctx, s)
	r.S.ForgetEtcd(s.Access())
	if err != nil {
		r.S.Fail(diags, "Unable to "+verb+" etcd cluster "+name, err)
		return false
	}
	m.ID = m.Name
	m.UID = types.StringValue(uid)
	m.HeartbeatInterval = customtypes.DurationValue(s.Heartbeat)
	m.ElectionTimeout = customtypes.DurationValue(s.Election)
	m.Access = connattr.AccessObject(ctx, s.Access(), m.UID, diags)
	m.Drift = base.NoDrift()
	return !diags.HasError()
}

func (r *etcdResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	var m model
	resp.Diagnostics.Append(req.State.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Read(ctx, readTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	name := m.Name.ValueString()
	ctx, cancel := base.WithTimeout(ctx, timeout, "read")
	defer cancel()
	s, ok := m.spec(ctx, &resp.Diagnostics)
	if !ok {
		return
	}
	o, err := r.S.EtcdReader("pgha_etcd_cluster "+name).Observed(ctx, s)
	if err != nil {
		r.S.Fail(&resp.Diagnostics, "Unable to read etcd cluster "+name, err)
		return
	}
	if o.Absent {
		resp.State.RemoveResource(ctx)
		return
	}
	// Members that cannot be reached: the others say enough to go on, and
	// the state stays as it was. Without any, nothing is known.
	var unreachable []error
	for member, err := range o.Unreachable {
		if !host.Unreachable(err) {
			r.S.Fail(&resp.Diagnostics, "Unable to read member "+member+" of etcd cluster "+name, err)
			return
		}
		unreachable = append(unreachable, err)
	}
	if len(unreachable) > 0 {
		what := "all members of etcd cluster " + name
		if len(unreachable) < len(s.Members) {
			what = "some members of etcd cluster " + name
		}
		r.S.Unreachable(&resp.Diagnostics, what, errors.Join(unreachable...))
		return
	}
	for _, member := range s.Names() {
		if v := o.Versions[member]; v != "" && !debver.Matches(m.Version.ValueString(), v) {
			m.Version = types.StringValue(v)
		}
	}
	warnEnding(name, o.Warnings, &resp.Diagnostics)
	warnOverdue(name, o.Overdue, &resp.Diagnostics)
	m.Drift = base.DriftValue(ctx, o.Drift, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}

func (r *etcdResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var m, before model
	resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...)
	resp.Diagnostics.Append(req.State.Get(ctx, &before)...)
	timeout, diags := m.Timeouts.Update(ctx, createTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "update")
	defer cancel()
	old, ok := before.members(ctx, &resp.Diagnostics)
	if !ok {
		return
	}
	if r.apply(ctx, &m, old, "update", &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

func (r *etcdResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	var m model
	resp.Diagnostics.Append(req.State.Get(ctx, &m)...)
	timeout, diags := m.Timeouts.Delete(ctx, deleteTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	name := m.Name.ValueString()
	if m.DeletionProtection.ValueBool() {
		resp.Diagnostics.AddAttributeError(path.Root("deletion_protection"), "Unable to destroy etcd cluster "+name,
			"It is protected from deletion.\nWhat to do: set deletion_protection = false and apply that first.")
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "delete")
	defer cancel()
	s, ok := m.spec(ctx, &resp.Diagnostics)
	if !ok {
		return
	}
	manager, done := r.S.EtcdCluster("pgha_etcd_cluster " + name)
	defer done()
	err := manager.Destroy(ctx, s, m.OnDestroy.ValueString() == base.Purge)
	r.S.ForgetEtcd(s.Access())
	if err != nil {
		r.S.Fail(&resp.Diagnostics, "Unable to destroy etcd cluster "+name, err)
	}
}
