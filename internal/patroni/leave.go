package patroni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// stopTimeout is how long stopping waits for PostgreSQL's last checkpoint. It
// is that of the unit.
const stopTimeout = 15*time.Minute + 30*time.Second

// handOver moves the leader's role away from the node before it goes.
func (d *Doer) handOver(n Node) engine.Step {
	return d.step(n, "patroni.handover", "switch over to another member if this one is the leader", engine.Switchover, func(ctx context.Context) error {
		a, err := d.api(ctx, n)
		if err != nil {
			return err
		}
		view, err := a.Cluster(ctx)
		if err != nil {
			// A node whose API does not answer cannot be asked to hand
			// over, but it must not be stopped while it may be the leader.
			if leader, exists, kvErr := d.KV.Get(ctx, n.Cluster.leaderKey()); kvErr == nil && (!exists || leader.Value != n.Name) {
				return nil
			}
			return err
		}
		if view.Pause {
			return &problem.Error{
				Cause: fmt.Errorf("the cluster %s is paused: PostgreSQL would go on running without Patroni", n.Cluster.Name()),
				Left:  "the node, running.", Do: "resume the cluster (patronictl -c " + ConfigPath + " resume), then apply again.",
			}
		}
		if err := d.strict(n, view); err != nil {
			return err
		}
		leader, ok := view.Leader()
		if !ok || leader.Name != n.Name {
			return nil
		}
		candidate, others := candidate(view)
		for name := range d.Known.Nodes {
			// A node that has been down for longer than its key in etcd
			// lasts is still one that the cluster is left without.
			if _, listed := view.Member(name); !listed && name != n.Name {
				others++
			}
		}
		switch {
		case candidate != "":
			if err := d.moveLead(ctx, n, candidate); err != nil {
				return err
			}
			return d.settled(ctx, n)
		case others == 0:
			return nil // the last one: there is nobody to hand over to
		case d.Known.Record != nil && !d.Known.Record.DeletionProtection && !n.works():
			d.Log.WarnContext(ctx, "no other member can take over; stopping the leader all the same, since the cluster is not protected from deletion", "node", n.Name)
			return nil
		}
		return &problem.Error{
			Cause: fmt.Errorf("%s is the leader, and none of the %d other members can take over", n.Name, others),
			Left:  "the node, running.", Do: "make another member healthy (patronictl -c " + ConfigPath + " list shows what is wrong), then apply again.",
		}
	})
}

// strict refuses to take away a member without which synchronous_mode_strict
// would block every write.
func (d *Doer) strict(n Node, view ClusterView) error {
	on, _ := Bool(d.Known.Config["synchronous_mode_strict"])
	mode := d.Known.Config["synchronous_mode"]
	if off, known := Bool(mode); !on || mode == nil || known && !off || d.Known.Record == nil || !d.Known.Record.DeletionProtection {
		return nil
	}
	need := int64(1)
	if v, ok := Int(d.Known.Config["synchronous_node_count"]); ok {
		need = v
	}
	left := int64(-1) // one of those that are left leads
	for _, m := range view.Members {
		if nosync, _ := Bool(m.Tags["nosync"]); m.Name != n.Name && m.Healthy() && (!nosync || m.Leader()) {
			left++
		}
	}
	if left >= need {
		return nil
	}
	return &problem.Error{
		Cause: fmt.Errorf("without %s there are %d replicas that can be synchronous, and synchronous_mode_strict needs %d: every write would wait for ever", n.Name, max(left, 0), need),
		Left:  "the node, running.", Do: "add a node or make another one healthy first, or turn synchronous_mode_strict off.",
	}
}

// candidate picks the member that can best take over: healthy, allowed to
// lead, synchronous before asynchronous, the least behind. It is empty if
// there is none; others is how many members there are besides the leader.
func candidate(view ClusterView) (name string, others int) {
	type grade struct {
		role int
		lag  int64
	}
	var best grade
	for _, m := range view.Members {
		if m.Leader() {
			continue
		}
		others++
		if !allowedToLead(m.Tags) {
			continue
		}
		lag, known := m.LagBytes()
		if !m.Healthy() || !known {
			continue
		}
		g := grade{lag: lag}
		if !m.Synchronous() {
			g.role = 1
		}
		if name == "" || g.role < best.role || g.role == best.role && g.lag < best.lag {
			name, best = m.Name, g
		}
	}
	return name, others
}

// allowedToLead reports whether a member's tags let it lead. A priority of zero
// is another word for nofailover, which wins where both are given (Patroni,
// tags.py).
func allowedToLead(tags map[string]any) bool {
	if no, ok := Bool(tags["nofailover"]); ok {
		return !no
	}
	priority, ok := Int(tags["failover_priority"])
	return !ok || priority > 0
}

// settled waits until a former leader is a replica. Stopped while it is still
// being turned into one, old versions of Patroni (3.0) start PostgreSQL after
// all and leave it running.
func (d *Doer) settled(ctx context.Context, n Node) error {
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := wait.Until(bounded, d.Log, "the former leader to be a replica", 250*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		st, err := d.status(ctx, n)
		if err != nil {
			return false, "its Patroni does not answer", nil
		}
		return st.State == "running" && !st.Primary(), "PostgreSQL is " + st.State + " as " + st.Role, nil
	})
	if err != nil && ctx.Err() == nil {
		d.Log.WarnContext(ctx, "the former leader does not come back as a replica; stopping it all the same", "node", n.Name, "error", err)
		return nil
	}
	return err
}

// running returns what listens on the node's port while there is a postmaster.
func (d *Doer) running(ctx context.Context, n Node) ([]string, error) {
	var p remote.Probe
	p.Unit(Unit).Port(n.Cluster.PostgresPort).Path(n.DataDir + "/postmaster.pid")
	f, err := p.Run(ctx, d.host(n))
	if err != nil || !f.Path(n.DataDir+"/postmaster.pid").Exists() {
		return nil, err
	}
	return f.Port(n.Cluster.PostgresPort), nil
}

func (d *Doer) stop(n Node) engine.Step {
	return d.step(n, "patroni.stop", "stop and disable Patroni, and PostgreSQL with it", engine.Destructive, func(ctx context.Context) error {
		h := d.host(n)
		if err := remote.DisableUnit(ctx, h, Unit); err != nil {
			return err
		}
		if err := remote.StopUnit(ctx, h, Unit, stopTimeout); err != nil {
			return err
		}
		left, err := d.running(ctx, n)
		if err != nil || len(left) == 0 {
			return err
		}
		// Patroni was killed, or had lost sight of it: nobody is in charge.
		_, err = h.Run(ctx, host.Cmd{
			Name: "postgres.stop", User: account, Script: remote.Script(scripts, "scripts/stop.sh"), Timeout: stopTimeout,
			Args: []string{postgres.BinDir(n.major()), n.DataDir, strconv.Itoa(int(stopTimeout / time.Second))},
		})
		if left, probeErr := d.running(ctx, n); probeErr != nil || len(left) > 0 {
			return &problem.Error{
				Cause: errors.Join(fmt.Errorf("PostgreSQL is still running after Patroni was stopped: %s", strings.Join(left, ", ")), err, probeErr),
				Left:  "the database and its data.", Do: "find out why on the host, stop PostgreSQL by hand (pg_ctl stop -m fast), then apply again.",
			}
		}
		return nil
	})
}

// forget removes what the cluster knows of the node: its keys in etcd, and on
// the other members the replication slot that would keep WAL for it.
func (d *Doer) forget(n Node) engine.Step {
	return d.step(n, "patroni.forget", "remove the member's keys from etcd and its replication slot", engine.Safe, func(ctx context.Context) error {
		if err := d.KV.Delete(ctx, n.Cluster.memberKey(n.Name)); err != nil {
			return err
		}
		if err := d.dropSlot(ctx, n); err != nil {
			return err
		}
		return d.KV.Delete(ctx, n.Cluster.nodeKey(n.Name))
	})
}

// slotsJournal is where the value of member_slots_ttl is kept while it is
// changed for a moment, so that a run that was cut off can put it back.
func (c Cluster) slotsJournal() string { return c.own("journal/member_slots_ttl") }

// dropSlot makes the leader drop the slot of a member that has left. Patroni 4
// keeps it for member_slots_ttl (30 minutes), for members that come back, and
// would make it again if we dropped it ourselves. So the setting is zero for
// a loop or two, but only while no other member is away: its slot would be
// dropped, too.
func (d *Doer) dropSlot(ctx context.Context, n Node) error {
	c := n.Cluster
	k, err := c.Load(ctx, d.KV)
	if err != nil {
		return err
	}
	leader, ok := k.Nodes[k.Leader]
	if k.Leader == "" || !ok || k.Leader == n.Name {
		return nil // nobody has slots for it, or nobody whom we can ask
	}
	slot := postgres.SlotName(n.Name)
	lead := Node{Cluster: c, Name: leader.Name, Target: leader.Target}
	exists := func(ctx context.Context) (bool, error) { return d.slotExists(ctx, lead, slot) }
	if there, err := exists(ctx); err != nil || !there {
		return err
	}
	a, err := d.api(ctx, lead)
	if err != nil {
		return err
	}
	view, err := a.Cluster(ctx)
	if err != nil {
		return err
	}
	present := map[string]bool{slot: true}
	for _, m := range view.Members {
		if !m.Healthy() {
			d.keepSlot(ctx, slot, m.Name+" is "+m.State)
			return nil
		}
		present[postgres.SlotName(m.Name)] = true
	}
	for _, s := range k.Status.RetainSlots {
		if !present[s] {
			d.keepSlot(ctx, slot, "the slot "+s+" is kept for a member that is away")
			return nil
		}
	}
	before, had := k.Config["member_slots_ttl"]
	if !had {
		before = nil
	}
	if err := putJSON(ctx, d.KV, c.slotsJournal(), before); err != nil {
		return err
	}
	// Patroni forgets the slot in the loop that the first change causes, and
	// drops it in the one that putting the value back causes.
	patchErr := a.PatchConfig(ctx, Document{"member_slots_ttl": 0})
	if patchErr == nil || errors.Is(patchErr, ErrUnknown) {
		waitCtx, cancel := context.WithTimeout(ctx, 45*time.Second)
		patchErr = wait.Until(waitCtx, d.Log, "the leader to forget the slot "+slot, 200*time.Millisecond, func(ctx context.Context) (bool, string, error) {
			k, err := c.Load(ctx, d.KV)
			return err == nil && !slices.Contains(k.Status.RetainSlots, slot), "the leader still keeps it", err
		})
		cancel()
	}
	if err := d.RestoreJournal(context.WithoutCancel(ctx), c, a); err != nil {
		return errors.Join(patchErr, err)
	}
	if patchErr == nil {
		waitCtx, cancel := context.WithTimeout(ctx, 45*time.Second)
		patchErr = wait.Until(waitCtx, d.Log, "the slot "+slot+" to be dropped", 200*time.Millisecond, func(ctx context.Context) (bool, string, error) {
			there, err := exists(ctx)
			return err == nil && !there, "the leader still has it", err
		})
		cancel()
	}
	if patchErr != nil {
		if ctx.Err() != nil {
			return patchErr
		}
		d.keepSlot(ctx, slot, patchErr.Error())
	}
	return nil
}

func (d *Doer) keepSlot(ctx context.Context, slot, why string) {
	d.Log.WarnContext(ctx, "the slot of the removed member is left to Patroni, which drops it after member_slots_ttl", "slot", slot, "because", why)
}

// putBack makes good what a run that was cut off left changed. It needs the
// cluster's lock: without it the change may be somebody's who is at work.
func (d *Doer) putBack(ctx context.Context, c Cluster) error {
	if err := d.endPause(ctx, c); err != nil {
		return err
	}
	leader, ok := d.Known.Nodes[d.Known.Leader]
	if !ok {
		return nil // nobody has the setting in use, or nobody whom we can ask
	}
	if _, exists, err := d.KV.Get(ctx, c.slotsJournal()); err != nil || !exists {
		return err
	}
	a, err := d.api(ctx, Node{Cluster: c, Name: leader.Name, Target: leader.Target})
	if err != nil {
		return err
	}
	return d.RestoreJournal(ctx, c, a)
}

// RestoreJournal puts back what an operation that was cut off had changed for
// a moment.
func (d *Doer) RestoreJournal(ctx context.Context, c Cluster, a *API) error {
	kv, exists, err := d.KV.Get(ctx, c.slotsJournal())
	if err != nil || !exists {
		return err
	}
	var before any
	if err := json.Unmarshal([]byte(kv.Value), &before); err != nil {
		return err
	}
	live, err := a.Config(ctx)
	if err != nil {
		return err
	}
	if v, ok := Int(live["member_slots_ttl"]); ok && v == 0 && Text(before) != "0" {
		if err := a.PatchConfig(ctx, Document{"member_slots_ttl": before}); err != nil {
			return err
		}
	}
	return d.KV.Delete(ctx, c.slotsJournal())
}

// slotExists asks the leader's server.
func (d *Doer) slotExists(ctx context.Context, leader Node, slot string) (bool, error) {
	rows, err := d.query(ctx, leader, "slots", "postgres", "select slot_name from pg_replication_slots where not temporary")
	if err != nil {
		return false, err
	}
	for _, r := range rows {
		if r == slot {
			return true, nil
		}
	}
	return false, nil
}
