package patroni

import (
	"context"
	"slices"
	"strings"
)

// ObservedCluster is what Read found.
type ObservedCluster struct {
	Absent             bool
	UID                string
	Authority          []byte
	DeletionProtection bool
	// Live is the dynamic configuration taken apart; Foreign are the paths
	// in it that are not ours.
	Live    Settings
	Foreign []string
	// Drift is what an apply would do besides, a line each.
	Drift []string
}

// ObserveCluster asks etcd.
func (m *Manager) ObserveCluster(ctx context.Context, c Cluster, owned []string) (ObservedCluster, error) {
	do, err := m.open(ctx, c)
	if err != nil {
		if gone := m.gone(ctx, c); gone != stays {
			return ObservedCluster{Absent: true}, nil
		}
		return ObservedCluster{}, err
	}
	k := do.Known
	if c.Adopted() && k.Record == nil {
		if err := c.present(k); err != nil {
			return ObservedCluster{}, err
		}
		k.Record = &Record{UID: c.UID, DeletionProtection: true}
	}
	if k.Record == nil || k.Record.Released && m.releaseNoted(ctx, c, k.Record.UID) {
		return ObservedCluster{Absent: true}, nil
	}
	o := ObservedCluster{
		UID: k.Record.UID, Authority: k.Authority, DeletionProtection: k.Record.DeletionProtection,
		Live: k.Config.Flatten(), Foreign: Foreign(k.Config, owned),
	}
	if k.Record.Released {
		o.Drift = append(o.Drift, "cluster: take it up again: its removal was begun, and not finished (safe)")
	}
	if k.Restored != "" {
		o.Drift = append(o.Drift, "cluster: compare what etcd knows from "+k.Restored+" with the nodes, and let Patroni resume (reload)")
	}
	unsettled, err := do.unsettled(ctx, c)
	if err != nil {
		return o, err
	}
	for _, name := range sortedKeys(unsettled) {
		owned = append(slices.Clone(owned), Parameter(name))
	}
	for _, name := range sortedKeys(k.Members) {
		if why := k.Members[name].waitsFor(owned); why != "" {
			o.Drift = append(o.Drift, name+": restart PostgreSQL for "+why+howRestarted(k, name))
		}
	}
	if do.pausedByUs(ctx, c) {
		o.Drift = append(o.Drift, "cluster: resume it: the run that has paused it was cut off (reload)")
	}
	if k.Next != nil {
		o.Drift = append(o.Drift, "cluster: finish the change of passwords that was begun (reload)")
	}
	return o, nil
}

// waitsFor says for which of our parameters a member waits for a restart, empty if for
// none: what others have changed (ALTER SYSTEM) is theirs.
func (m Member) waitsFor(owned []string) string {
	if !m.PendingRestart {
		return ""
	}
	var names []string
	for _, path := range owned {
		name, ok := IsParameter(path)
		if _, waits := m.PendingReason[name]; ok && (waits || len(m.PendingReason) == 0 && EffectOf(path) == ByRestart) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// howRestarted says what the restart of a member for parameters does to service.
func howRestarted(k Known, name string) string {
	if name != k.Leader {
		return " (restart)"
	}
	flat := k.Config.Flatten()
	for parameter, reason := range k.Members[name].PendingReason {
		change, _ := reason.(map[string]any)
		runs, known1 := Int(change["old_value"])
		wanted, known2 := Int(change["new_value"])
		if _, given := flat[Parameter(parameter)]; StandbyFirst(parameter) && (!given || known1 && known2 && wanted < runs) {
			return ", on the leader where it is (restart)"
		}
	}
	return ", on the leader after a switchover to a replica (switchover)"
}

// Leader is the name of the member that holds the leader's lock, empty if none
// does.
func (m *Manager) Leader(ctx context.Context, c Cluster) (string, error) {
	kv, err := m.Etcd(ctx, c.Etcd)
	if err != nil {
		return "", err
	}
	v, _, err := kv.Get(ctx, c.leaderKey())
	return v.Value, err
}
