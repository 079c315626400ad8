package simpatroni

import (
	"net/http"
	"time"
)

// restart is POST /restart: PostgreSQL is stopped and started where it is, and a
// leader keeps its lock meanwhile.
func (n *Node) restart() (answer, bool) {
	w := n.sim.world
	var refused answer
	primary := false
	w.Do(func() {
		switch {
		case n.pg == nil:
			refused = plain(http.StatusServiceUnavailable, "postgres is still starting")
		case n.busy:
			refused = plain(http.StatusServiceUnavailable, "restart already in progress")
		default:
			primary = n.pg.primary
			n.saveControl(map[bool]string{true: "shut down", false: "shut down in recovery"}[primary])
			n.stopServer()
			n.busy = true
		}
	})
	if refused.code != 0 {
		return refused, true
	}
	if !w.Sleep(time.Second) {
		return answer{}, false
	}
	w.Do(func() {
		n.busy = false
		if !n.up || !n.hasData() {
			return
		}
		n.startServer()
		n.pg.primary = primary
		if n.lease != nil {
			n.touch()
		}
		n.poke()
	})
	return plain(http.StatusOK, "restarted successfully"), true
}
