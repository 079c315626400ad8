package simpatroni

import "net/http"

// reinitialize is POST /reinitialize: it answers at once, and the data is gone at once
// (Patroni, ha.py, reinitialize and _do_reinitialize).
func (n *Node) reinitialize() answer {
	leader, led := n.store.Get(n.key("leader"))
	switch {
	case !led:
		return plain(http.StatusServiceUnavailable, "Cluster has no leader, can not reinitialize")
	case leader == n.name():
		return plain(http.StatusServiceUnavailable, "I am the leader, can not reinitialize")
	case n.busy:
		return plain(http.StatusServiceUnavailable, "already in progress")
	}
	n.sim.Reinitialized = append(n.sim.Reinitialized, n.m.Name)
	n.logf("INFO: Removing data directory: %s", n.dir(""))
	if n.pg != nil {
		n.shutdown()
	}
	n.m.Files.Remove(n.dir(controlFile))
	n.m.Files.Remove(n.dir("/PG_VERSION"))
	n.poke()
	return plain(http.StatusOK, "reinitialize started")
}
