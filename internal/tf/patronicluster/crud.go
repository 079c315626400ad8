package patronicluster

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
)

func (r *clusterResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	m, config := read(ctx, req.Plan, &resp.Diagnostics), read(ctx, req.Config, &resp.Diagnostics)
	timeout, diags := m.Timeouts.Create(ctx, createTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "create")
	defer cancel()
	if r.apply(ctx, &m, nil, brought(config), "create", &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

func (r *clusterResource) apply(ctx context.Context, m *model, owned []string, bring patroni.Secrets, verb string, diags *diag.Diagnostics) bool {
	c, ok := m.cluster(ctx, diags)
	wanted := m.wanted(ctx, diags)
	if !ok || diags.HasError() {
		return false
	}
	scope := c.Name()
	r.S.MakeCluster(c)
	for _, s := range []string{bring.Superuser, bring.Replication, bring.Rewind, bring.API} {
		if s != "" {
			r.S.Redact.Add(s)
		}
	}
	a, err := r.S.Patroni("pgha_patroni_cluster "+scope).ApplyCluster(ctx, patroni.ClusterSpec{
		Cluster: c, Wanted: wanted, Owned: owned, DeletionProtection: m.DeletionProtection.ValueBool(), Bring: bring,
		Origin: m.origin(), Extension: m.extension(ctx, diags), RecoverFrom: m.survivors(ctx, diags), Rollout: m.rollout(ctx, diags),
	})
	if err != nil {
		r.S.Fail(diags, "Unable to "+verb+" Patroni cluster "+scope, err)
		return false
	}
	for _, member := range slices.Sorted(maps.Keys(a.Pending)) {
		diags.AddWarning("PostgreSQL on "+member+" has to be restarted for the changed configuration",
			a.Pending[member]+"\nWhat to do: apply again when it may be restarted. Until then it runs with what it was started with.")
	}
	for _, member := range slices.Sorted(maps.Keys(a.Unverified)) {
		diags.AddWarning("It could not be verified that "+member+" took the configuration over", r.S.Redact.Apply(a.Unverified[member].Error()))
	}
	for _, node := range slices.Sorted(maps.Keys(a.Late)) {
		diags.AddWarning(node+" still has the old passwords", r.S.Redact.Apply("Its Patroni was not running and its host could not be reached: "+a.Late[node].Error())+
			"\nThe old passwords are refused now, so that it cannot join the cluster when it comes back.\nWhat to do: bring the host back and apply again; its pgha_patroni_node then shows what is to be done.")
	}
	behind(a.Behind, m.extension(ctx, diags), diags)
	c.UID = a.UID
	m.Drift = base.NoDrift()
	m.ID, m.UID, m.CACertificate = types.StringValue(scope), types.StringValue(a.UID), types.StringValue(string(a.Authority))
	m.Membership = connattr.MembershipObject(ctx, c, m.UID, m.Etcd, diags)
	return !diags.HasError()
}

func (r *clusterResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	m := read(ctx, req.State, &resp.Diagnostics)
	timeout, diags := m.Timeouts.Read(ctx, readTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	scope := m.ID.ValueString()
	ctx, cancel := base.WithTimeout(ctx, timeout, "read")
	defer cancel()
	c, ok := m.cluster(ctx, &resp.Diagnostics)
	if !ok {
		return
	}
	owned := m.wanted(ctx, &resp.Diagnostics).Paths()
	o, err := r.S.Patroni("pgha_patroni_cluster "+scope).ObserveCluster(ctx, c, owned)
	switch {
	case err != nil && r.S.Unreachable(&resp.Diagnostics, "Patroni cluster "+scope, err):
		return
	case err != nil:
		r.S.Fail(&resp.Diagnostics, "Unable to read Patroni cluster "+scope, err)
		return
	case o.Absent:
		resp.State.RemoveResource(ctx)
		return
	}
	if len(o.Foreign) > 0 {
		r.S.Log.InfoContext(ctx, "the dynamic configuration has keys that are not managed here; they are left alone", "scope", scope, "keys", strings.Join(o.Foreign, ", "))
	}
	m.observe(ctx, o.Live, &resp.Diagnostics)
	m.DeletionProtection = types.BoolValue(o.DeletionProtection)
	if len(o.Authority) > 0 {
		m.CACertificate = types.StringValue(string(o.Authority))
	}
	o.Drift = append(o.Drift, r.observeExtension(ctx, &m, c, &resp.Diagnostics)...)
	m.Drift = base.DriftValue(ctx, o.Drift, &resp.Diagnostics)
	m.UID = types.StringValue(o.UID)
	c.UID = o.UID
	m.Membership = connattr.MembershipObject(ctx, c, m.UID, m.Etcd, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}

func (r *clusterResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	m, before, config := read(ctx, req.Plan, &resp.Diagnostics), read(ctx, req.State, &resp.Diagnostics), read(ctx, req.Config, &resp.Diagnostics)
	timeout, diags := m.Timeouts.Update(ctx, createTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "update")
	defer cancel()
	owned := before.wanted(ctx, &resp.Diagnostics).Paths()
	if r.apply(ctx, &m, owned, brought(config), "update", &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

func (r *clusterResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	m := read(ctx, req.State, &resp.Diagnostics)
	timeout, diags := m.Timeouts.Delete(ctx, deleteTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	scope := m.ID.ValueString()
	if m.DeletionProtection.ValueBool() {
		resp.Diagnostics.AddAttributeError(path.Root("deletion_protection"), "Unable to destroy Patroni cluster "+scope,
			"It is protected from deletion.\nWhat to do: set deletion_protection = false and apply that first.")
		return
	}
	ctx, cancel := base.WithTimeout(ctx, timeout, "delete")
	defer cancel()
	c, ok := m.cluster(ctx, &resp.Diagnostics)
	if !ok {
		return
	}
	if err := r.S.Patroni("pgha_patroni_cluster "+scope).DestroyCluster(ctx, c, m.OnDestroy.ValueString() == base.Purge); err != nil {
		r.S.Fail(&resp.Diagnostics, "Unable to destroy Patroni cluster "+scope, err)
	}
}
