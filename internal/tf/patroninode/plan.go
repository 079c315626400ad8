package patroninode

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
)

// ValidateConfig checks what depends on several attributes.
func (r *nodeResource) ValidateConfig(ctx context.Context, req resource.ValidateConfigRequest, resp *resource.ValidateConfigResponse) {
	var m model
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	if resp.Diagnostics.HasError() {
		return
	}
	if !m.Device.IsNull() && m.Watchdog.IsNull() || m.Watchdog.ValueString() == "off" && !m.Device.IsNull() {
		resp.Diagnostics.AddAttributeError(path.Root("watchdog_device"), "Invalid combination", "watchdog_device has no meaning without watchdog = \"automatic\" or \"required\".")
	}
	if v := m.versions(ctx, &resp.Diagnostics); v.PostgreSQL.ValueString() != "" {
		if _, err := postgres.Major(v.PostgreSQL.ValueString()); err != nil {
			resp.Diagnostics.AddAttributeError(path.Root("versions").AtName("postgresql"), "Invalid version", err.Error()+".")
		}
	}
	if m.Tags.IsNull() || !connattr.Known(m.Tags) {
		return
	}
	var t tagsModel
	resp.Diagnostics.Append(m.Tags.As(ctx, &t, basetypes.ObjectAsOptions{})...)
	if t.NoFailover.ValueBool() && !t.FailoverPriority.IsNull() {
		resp.Diagnostics.AddAttributeError(path.Root("tags").AtName("failover_priority"), "Invalid combination",
			"Patroni ignores failover_priority on a member with nofailover = true; leave one of them out.")
	}
	if t.ReplicateFrom.ValueString() != "" && t.ReplicateFrom.Equal(m.Name) {
		resp.Diagnostics.AddAttributeError(path.Root("tags").AtName("replicatefrom"), "Invalid member", "A member cannot replicate from itself.")
	}
	if !t.Custom.IsNull() {
		for name := range t.Custom.Elements() {
			switch name {
			case "nofailover", "failover_priority", "clonefrom", "noloadbalance", "nosync", "replicatefrom", "nostream", "sync_priority":
				resp.Diagnostics.AddAttributeError(path.Root("tags").AtName("custom").AtMapKey(name), "Invalid tag", name+" is one of Patroni's own tags, not a custom one.")
			}
		}
	}
}

// ModifyPlan makes known what can be known, refuses what this release does not
// do, and says what an update or a destroy does to the running node.
func (r *nodeResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	diags := &resp.Diagnostics
	var before, m model
	if !req.State.Raw.IsNull() {
		diags.Append(req.State.Get(ctx, &before)...)
	}
	if req.Plan.Raw.IsNull() {
		r.planDestroy(ctx, before, diags)
		return
	}
	diags.Append(req.Plan.Get(ctx, &m)...)
	if diags.HasError() {
		return
	}
	c, clusterKnown := connattr.ClusterFrom(ctx, m.Cluster, diags)
	if clusterKnown && !m.Name.IsUnknown() {
		m.ID = types.StringValue(c.Name() + "/" + m.Name.ValueString())
	}
	v := m.versions(ctx, diags)
	if m.DataDirectory.IsUnknown() {
		switch {
		case !req.State.Raw.IsNull():
			m.DataDirectory = before.DataDirectory
		case clusterKnown && v.PostgreSQL.ValueString() != "":
			m.DataDirectory = types.StringValue(defaultDataDir(c.Scope, v.PostgreSQL.ValueString()))
		}
	}
	if !req.State.Raw.IsNull() {
		r.refuse(ctx, before, m, diags)
	}
	m.checkWatchdog(ctx, diags)
	if clusterKnown && c.Citus != nil && !m.Versions.IsUnknown() && v.Citus.IsNull() {
		diags.AddAttributeError(path.Root("versions").AtName("citus"), "A node of a Citus group needs Citus",
			"The cluster "+c.Name()+" is a group of a Citus formation, and Patroni loads Citus into PostgreSQL on all its nodes.\nWhat to do: name the version of Citus, from a repository of the host (apt of pgha_host).")
	}
	diags.Append(resp.Plan.Set(ctx, &m)...)
	if req.State.Raw.IsNull() && !diags.HasError() {
		r.fits(ctx, m, diags)
		if clusterKnown && c.TakeOver.Node != "" && c.TakeOver.Node == m.Name.ValueString() {
			r.previewTakeOver(ctx, m, diags)
		}
	}
	if !req.State.Raw.IsNull() && !diags.HasError() && !resp.Plan.Raw.Equal(req.State.Raw) {
		r.preview(ctx, before, m, diags)
		if patroni.Announced(before.drift(ctx, diags)) {
			diags.AddWarning("Applying this replaces the data of replica "+m.Name.ValueString(),
				"The replica cannot recover by itself (see drift). Its data is deleted and cloned from the cluster again; until that is done it can neither take over nor answer queries. If somebody still needs the data, copy it first.")
		}
	}
}

// refuse names the changes that this release does not make, or that nobody
// should make in place.
func (r *nodeResource) refuse(ctx context.Context, before, m model, diags *diag.Diagnostics) {
	if !m.DataDirectory.IsUnknown() && !m.DataDirectory.Equal(before.DataDirectory) {
		diags.AddAttributeError(path.Root("data_directory"), "A data directory is not moved in place",
			fmt.Sprintf("The data is in %s, and %s is wanted. Nothing was touched.\nWhat to do: remove the node and make it again with the new data_directory; it is then cloned there. Or leave it as it is.",
				before.DataDirectory.ValueString(), m.DataDirectory.ValueString()))
	}
	m.checkMajor(ctx, before, diags)
	if c1, ok1 := connattr.ClusterFrom(ctx, before.Cluster, diags); ok1 {
		if c2, ok2 := connattr.ClusterFrom(ctx, m.Cluster, diags); ok2 && (c1.Name() != c2.Name() || c1.Namespace != c2.Namespace) {
			diags.AddAttributeError(path.Root("cluster"), "A node cannot move to another cluster",
				fmt.Sprintf("It belongs to %s and %s is wanted.\nWhat to do: remove this node and make another one.", c1.Name(), c2.Name()))
		}
	}
}

// checkMajor refuses another major version: it is another format of the data.
func (m model) checkMajor(ctx context.Context, before model, diags *diag.Diagnostics) {
	from, err1 := postgres.Major(before.versions(ctx, diags).PostgreSQL.ValueString())
	to, err2 := postgres.Major(m.versions(ctx, diags).PostgreSQL.ValueString())
	if err1 != nil || err2 != nil || from == to {
		return
	}
	diags.AddAttributeError(path.Root("versions").AtName("postgresql"), "A major version is not changed in place",
		fmt.Sprintf("The data is in the format of PostgreSQL %d, and %d is wanted: that is another format, not an upgrade that can be rolled over the nodes. Nothing was touched.\n"+
			"What to do: stay with a version of %d here. The guide \"Upgrading\" has the ways to another major version.", from, to, from))
}

// fitsTimeout bounds what the plan of a new node waits for a host that may not
// be there yet.
const fitsTimeout = 8 * time.Second

// fits refuses a new node that cannot be in one cluster with those there are.
func (r *nodeResource) fits(ctx context.Context, m model, diags *diag.Diagnostics) {
	n, ok := m.node(ctx, diags)
	if !ok || r.S == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, fitsTimeout)
	defer cancel()
	if err := r.S.Patroni("pgha_patroni_node "+n.Name).CheckEtcdFiles(ctx, n); err != nil && errors.As(err, new(*etcd.FilesError)) {
		diags.AddAttributeError(path.Root("host"), "Node "+n.Name+" cannot come to etcd with the files on its host", r.S.Redact.Apply(problem.Details(err)))
	}
	if n.Cluster.UID == "" {
		return
	}
	if err := r.S.Patroni("pgha_patroni_node "+n.Name).FitsNode(ctx, n); err != nil {
		diags.AddAttributeError(path.Root("host"), "Node "+n.Name+" does not fit into the cluster "+n.Cluster.Name(), r.S.Redact.Apply(problem.Details(err)))
	}
}

// previewTimeout bounds what a plan does to be able to warn.
const previewTimeout = 20 * time.Second

// preview lists what an update would do to the running node. It only warns: the
// apply plans anew.
func (r *nodeResource) preview(ctx context.Context, before, m model, diags *diag.Diagnostics) {
	n, ok := m.node(ctx, diags)
	if !ok || r.S == nil {
		return
	}
	n.Freed = before.freed(ctx, n, diags)
	ctx, cancel := context.WithTimeout(ctx, previewTimeout)
	defer cancel()
	plan, err := r.S.Patroni("pgha_patroni_node "+n.Name).PreviewNode(ctx, n, r.S.PlannedRollout(n.Cluster))
	if refused := patroni.Refusals(err); len(refused) > 0 {
		for _, why := range refused {
			at := path.Root("versions").AtName(why.Part)
			switch why.Key {
			case "":
			case citus:
				at = path.Root("versions").AtName(citus)
			default:
				at = at.AtMapKey(why.Key)
			}
			diags.AddAttributeError(at, "Node "+n.Name+" cannot be brought to that version", r.S.Redact.Apply(problem.Details(why.Err)))
		}
		return
	}
	if err != nil {
		diags.AddWarning("Unable to preview the changes to node "+n.Name, r.S.Redact.Apply(err.Error()))
		return
	}
	if lines := plan.Describe(engine.Reload); len(lines) > 0 {
		diags.AddWarning("Applying this affects the running node "+n.Name, strings.Join(lines, "\n"))
	}
	if !m.Watchdog.Equal(before.Watchdog) || !m.Device.Equal(before.Device) || !m.Margin.Equal(before.Margin) {
		diags.AddAttributeWarning(path.Root("watchdog"), "Applying this changes the watchdog of node "+n.Name, watchdogEffect(n.Watchdog))
		r.watchdogTrouble(ctx, n, diags)
	}
}

// watchdogEffect says what Patroni makes of a change when it is reloaded
// (Patroni, watchdog/base.py, reload_config and keepalive; ha.py).
func watchdogEffect(w patroni.Watchdog) string {
	if !w.On() {
		return "Patroni closes the device at its reload, and nothing restarts. A driver that cannot be stopped (nowayout) resets the host after its timeout; softdog can."
	}
	text := "Nothing restarts: if this node leads, Patroni opens the device in its next turn, and from then on the host is reset when Patroni does not come to renew the leader's lock. A replica opens it when it takes over."
	if w.Mode == "required" {
		text += " A node that leads already goes on leading if the device cannot be opened then; it cannot be elected again."
	}
	return text
}

// watchdogTrouble warns about what keeps the node from using its watchdog.
func (r *nodeResource) watchdogTrouble(ctx context.Context, n patroni.Node, diags *diag.Diagnostics) {
	trouble, err := r.S.Patroni("pgha_patroni_node "+n.Name).WatchdogTrouble(ctx, n)
	if err != nil || len(trouble) == 0 {
		return // who cannot be asked has been named
	}
	text := strings.Join(trouble, ".\n") + "."
	if n.Watchdog.Mode == "required" {
		text += "\nThe apply refuses this."
	} else {
		text += "\nPatroni goes on without a watchdog."
	}
	diags.AddAttributeWarning(path.Root("watchdog"), "Node "+n.Name+" cannot use a watchdog", text)
}

// checkWatchdog refuses a watchdog that Patroni would not use.
func (m model) checkWatchdog(ctx context.Context, diags *diag.Diagnostics) {
	c, ok := connattr.ClusterFrom(ctx, m.Cluster, diags)
	if !ok || m.Watchdog.IsUnknown() || m.Margin.IsUnknown() {
		return
	}
	if c.Adopted() && m.Watchdog.ValueString() != "off" {
		diags.AddAttributeError(path.Root("watchdog"), "The watchdog of an imported node is not managed",
			"Its configuration file is somebody else's, and stays as it is.\nWhat to do: set the watchdog section there, and leave this out.")
		return
	}
	w := patroni.Watchdog{Mode: m.Watchdog.ValueString(), SafetyMargin: int64(m.Margin.Duration() / time.Second)}
	if why := w.Check(c.TTL, c.LoopWait); why != "" {
		diags.AddAttributeError(path.Root("watchdog_safety_margin"), "Invalid timing", strings.ToUpper(why[:1])+why[1:]+".")
	}
}

// previewTakeOver says what taking over the database on the host does to it. A
// reason why it cannot be done is an error: nothing has been touched yet.
func (r *nodeResource) previewTakeOver(ctx context.Context, m model, diags *diag.Diagnostics) {
	n, ok := m.node(ctx, diags)
	if !ok || r.S == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, previewTimeout)
	defer cancel()
	lines, err := r.S.Patroni("pgha_patroni_node "+n.Name).PreviewTakeOver(ctx, n)
	switch {
	case err != nil && host.Unreachable(err):
		diags.AddWarning("Unable to look at the database that node "+n.Name+" takes over", r.S.Redact.Apply(err.Error()))
	case err != nil:
		r.S.Fail(diags, "Unable to take over the database on host "+n.Target.Name, err)
	case len(lines) > 0:
		diags.AddWarning("Applying this takes over the database on host "+n.Target.Name, strings.Join(lines, "\n"))
	}
}

func (r *nodeResource) planDestroy(ctx context.Context, before model, diags *diag.Diagnostics) {
	n, ok := before.node(ctx, diags)
	if !ok {
		return
	}
	lines := []string{fmt.Sprintf("PostgreSQL and Patroni on %s are stopped and disabled.", n.Target.Name)}
	if r.S != nil {
		ctx, cancel := context.WithTimeout(ctx, previewTimeout)
		defer cancel()
		if leader, err := r.S.Patroni("pgha_patroni_node "+n.Name).Leader(ctx, n.Cluster); err == nil && leader == n.Name {
			lines = append([]string{fmt.Sprintf("%s is the leader now: if another member is left, the role is switched over to it first.", n.Name)}, lines...)
		}
	}
	if before.OnDestroy.ValueString() == base.Purge {
		lines = append(lines, fmt.Sprintf("The data in %s is deleted (on_destroy is \"purge\"). This cannot be undone.", n.DataDir))
	} else {
		lines = append(lines, fmt.Sprintf("The data in %s stays.", n.DataDir))
	}
	if citus := n.Cluster.Citus; citus != nil && citus.Group > 0 {
		lines = append(lines, fmt.Sprintf("If it is the last node of %s that runs, the group is paused, and removed from the coordinator's metadata. That is refused while it holds shards, "+
			"unless the coordinator's cluster is not protected from deletion: then these are lost.", n.Cluster.Name()))
	}
	diags.AddWarning("Destroying node "+n.Name+" of "+n.Cluster.Name(), strings.Join(lines, "\n"))
}
