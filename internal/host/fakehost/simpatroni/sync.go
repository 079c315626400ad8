package simpatroni

import "encoding/json"

// syncState is the key /sync: who leads, and which replica commits wait for.
type syncState struct {
	Leader  string `json:"leader"`
	Standby string `json:"sync_standby"`
}

func (n *Node) readSync() (s syncState) {
	_ = json.Unmarshal([]byte(first(n.store.Get(n.key("sync")))), &s)
	return s
}

// synchronous is the replica that commits wait for, empty if there is none.
func (n *Node) synchronous() string { return n.readSync().Standby }

// chooseSync keeps one synchronous replica, with synchronous_mode (Patroni, ha.py,
// process_sync_replication). Of the modes that wait for several or for a quorum
// nothing is modelled.
func (n *Node) chooseSync() {
	if n.dynamic["synchronous_mode"] != true {
		n.store.Delete(n.key("sync"))
		return
	}
	have := n.readSync()
	want := syncState{Leader: n.name()}
	for _, other := range n.sim.servers(n.cfg.Scope) {
		fits := other.receives() && other.pg.timeline == n.pg.timeline && other.m.Reaches(n.m) && other.cfg.Tags["nosync"] != true
		if fits && (want.Standby == "" || other.name() == have.Standby) {
			want.Standby = other.name()
		}
	}
	if want != have {
		n.store.Put(n.key("sync"), render(want), nil)
	}
}
