package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
)

// ValidateConfig checks what depends on several attributes.
func (r *etcdResource) ValidateConfig(ctx context.Context, req resource.ValidateConfigRequest, resp *resource.ValidateConfigResponse) {
	var m model
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	if resp.Diagnostics.HasError() {
		return
	}
	if !m.Members.IsUnknown() && !m.Members.IsNull() {
		if n := len(m.Members.Elements()); n > 0 && n%2 == 0 {
			resp.Diagnostics.AddAttributeWarning(path.Root("members"), "An even number of members",
				fmt.Sprintf("%d members survive the loss of no more members than %d do, and are %d to fail. Better are 1 (for trying things out), 3, 5 or 7.", n, n-1, n))
		}
	}
	if h, e := m.HeartbeatInterval, m.ElectionTimeout; !h.IsNull() && !h.IsUnknown() && !e.IsNull() && !e.IsUnknown() {
		if err := etcd.CheckTiming(h.Duration(), e.Duration()); err != nil {
			resp.Diagnostics.AddAttributeError(path.Root("election_timeout"), "Invalid timing", err.Error())
		}
	}
	if v := m.Version; !v.IsNull() && !v.IsUnknown() {
		if err := etcd.CheckVersion(v.ValueString()); err != nil {
			resp.Diagnostics.AddAttributeError(path.Root("version"), "Unsupported version of etcd", err.Error())
		}
	}
	if !m.ClientPort.IsUnknown() && !m.PeerPort.IsUnknown() && !m.ClientPort.IsNull() && m.ClientPort.Equal(m.PeerPort) {
		resp.Diagnostics.AddAttributeError(path.Root("peer_port"), "Invalid port", "client_port and peer_port must differ.")
	}
	m.checkSnapshots(ctx, &resp.Diagnostics)
	m.checkCertificates(ctx, &resp.Diagnostics)
	if members, ok := m.members(ctx, &resp.Diagnostics); ok {
		duplicates(members, &resp.Diagnostics)
	}
}

// duplicates refuses two members on one host or address.
func duplicates(members map[string]etcd.Member, diags *diag.Diagnostics) {
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		address := members[name].Address
		if a, err := netip.ParseAddr(address); err == nil {
			address = a.String() // however it was written
		}
		if other, ok := seen[address]; ok {
			diags.AddAttributeError(path.Root("members").AtMapKey(name), "Two members at one address",
				fmt.Sprintf("The members %q and %q both have the address %s; each needs a host of its own.", other, name, address))
		}
		seen[address] = name
	}
}

// ModifyPlan makes known what can be known, refuses what cannot be done, and says
// what an update or a destroy will do to running members.
func (r *etcdResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	diags := &resp.Diagnostics
	var before, m model
	if !req.State.Raw.IsNull() {
		diags.Append(req.State.Get(ctx, &before)...)
	}
	if req.Plan.Raw.IsNull() {
		r.planDestroy(before, diags)
		return
	}
	diags.Append(req.Plan.Get(ctx, &m)...)
	if diags.HasError() {
		return
	}
	if !m.Name.IsUnknown() {
		m.ID = m.Name
	}
	s, known := m.spec(ctx, diags)
	changed, restored := false, false
	if !req.State.Raw.IsNull() && known && !m.Restore.Equal(before.Restore) {
		if old, ok := before.members(ctx, diags); ok {
			s.Leaving = leaving(old, s.Members)
		}
		restored = r.previewRestore(ctx, s, diags)
		if s.Restore != nil {
			// A new cluster's; of one, too, that an apply has made before it was cut off.
			m.UID = types.StringUnknown()
		}
	}
	if known && !m.ClientPort.IsUnknown() {
		m.Access = connattr.AccessObject(ctx, s.Access(), m.UID, diags)
	} else {
		m.Access = types.ObjectUnknown(connattr.AccessType.AttrTypes)
	}
	if known {
		duplicates(s.Members, diags)
		if req.State.Raw.IsNull() {
			r.checkFilesThere(ctx, s, diags)
		}
	}
	if !req.State.Raw.IsNull() {
		checkKind(ctx, before, m, diags)
	}
	if !req.State.Raw.IsNull() && known {
		if old, ok := before.members(ctx, diags); ok {
			s.Leaving = leaving(old, s.Members)
			changed = len(s.Leaving) > 0 || len(old) != len(s.Members)
		}
	}
	diags.Append(resp.Plan.Set(ctx, &m)...)
	if !req.State.Raw.IsNull() && known && !restored && !diags.HasError() && !resp.Plan.Raw.Equal(req.State.Raw) {
		r.preview(ctx, s, asked{quota: !before.Quota.Equal(m.Quota), members: changed, files: !before.Certificates.Equal(m.Certificates), version: !before.Version.Equal(m.Version), auth: !before.Auth.Equal(m.Auth), tls: !before.TLS.Equal(m.TLS), timing: !before.HeartbeatInterval.Equal(m.HeartbeatInterval) || !before.ElectionTimeout.Equal(m.ElectionTimeout)}, m.UID.ValueString(), diags)
	}
}

func (r *etcdResource) planDestroy(before model, diags *diag.Diagnostics) {
	name := before.Name.ValueString()
	if before.DeletionProtection.ValueBool() {
		diags.AddAttributeError(path.Root("deletion_protection"), "Unable to destroy etcd cluster "+name,
			"It is protected from deletion.\nWhat to do: set deletion_protection = false and apply that first.")
		return
	}
	if before.OnDestroy.ValueString() == base.Purge {
		diags.AddWarning("The data of the etcd cluster "+name+" will be deleted",
			"on_destroy is \"purge\": on every member's host the data, the certificate authority, the certificates, the credentials and the snapshots are deleted. Copy a snapshot elsewhere first if you may need one. This cannot be undone.")
	}
}

// asked is what a plan asks for that may not be had.
type asked struct{ quota, members, version, timing, auth, tls, files bool }

// preview asks the hosts and lists what an update would do to running members.
// It only warns: what it says may have changed by the time of the apply, which
// plans anew. What of the things that are asked for cannot be had is an error: a
// quota that the data does not fit into, changes of the members that would cost the
// quorum, a version that there is no way to.
func (r *etcdResource) preview(ctx context.Context, s etcd.Spec, asked asked, uid string, diags *diag.Diagnostics) {
	if r.S == nil {
		return
	}
	manager := r.S.EtcdReader("pgha_etcd_cluster " + s.Name)
	plan, err := manager.Preview(ctx, s, uid)
	switch {
	case err == nil:
	case asked.quota && errors.As(err, new(*etcd.QuotaError)):
		diags.AddAttributeError(path.Root("quota_backend_bytes"), "The data of etcd cluster "+s.Name+" does not fit into the quota", r.S.Redact.Apply(problem.Details(err)))
		return
	case asked.files && errors.As(err, new(*etcd.FilesError)):
		diags.AddAttributeError(filesPath, "etcd cluster "+s.Name+" cannot run with these files", r.S.Redact.Apply(problem.Details(err)))
		return
	case host.Unreachable(err):
		diags.AddWarning("Unable to preview the changes to etcd cluster "+s.Name, r.S.Redact.Apply(err.Error()))
		return
	case asked.version && errors.As(err, new(*etcd.VersionError)):
		diags.AddAttributeError(path.Root("version"), "etcd cluster "+s.Name+" cannot be brought to version "+s.Version, r.S.Redact.Apply(problem.Details(err)))
		return
	case asked.tls:
		diags.AddAttributeError(path.Root("tls"), "TLS of etcd cluster "+s.Name+" cannot be turned on now", r.S.Redact.Apply(problem.Details(err)))
		return
	case asked.auth:
		diags.AddAttributeError(path.Root("auth"), "Authentication of etcd cluster "+s.Name+" cannot be changed now", r.S.Redact.Apply(problem.Details(err)))
		return
	case asked.members:
		diags.AddAttributeError(path.Root("members"), "The members of etcd cluster "+s.Name+" cannot be changed like this", r.S.Redact.Apply(problem.Details(err)))
		return
	default:
		// Not an error: Terraform plans an update even before a destroy, which
		// must remain possible.
		diags.AddWarning("Applying this will fail: the changes to etcd cluster "+s.Name+" cannot be made", r.S.Redact.Apply(problem.Details(err)))
		return
	}
	if (asked.timing || asked.members) && s.Heartbeat != 0 && s.Election != 0 {
		warnTiming(ctx, manager, s, diags)
	}
	if lines := etcd.Describe(plan); len(lines) > 0 {
		diags.AddWarning("Applying this affects running members of etcd cluster "+s.Name, strings.Join(lines, "\n"))
	}
}

// warnTiming measures how far the members are apart, and says so if that is too far
// for the election timeout.
func warnTiming(ctx context.Context, manager *etcd.Manager, s etcd.Spec, diags *diag.Diagnostics) {
	if text := etcd.ShortElection(s.Election, manager.RoundTrip(ctx, s)); text != "" {
		diags.AddAttributeWarning(path.Root("election_timeout"), "The election timeout of etcd cluster "+s.Name+" is short for its members' distance", text)
	}
}
