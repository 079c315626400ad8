package patroni

import (
	"fmt"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
)

// hazards are what other packages of extensions leave to do (PostgreSQL documentation,
// "ALTER EXTENSION"). It is pure.
func (t *turn) hazards() []string {
	var list []string
	if t.extends != "" {
		list = append(list, "Citus: the extension goes to "+t.extends+" right after the switchover to a node with the new library; from that until it is done, distributed queries through the group fail. There is no way back from it but a restore.")
	}
	for _, pin := range t.extensions {
		if (t.extends != "" || t.holds != "") && strings.HasSuffix(pin.Name, "-"+CitusExtension) {
			continue
		}
		list = append(list, fmt.Sprintf("%s %s: once all nodes have it, see in each database of which version the extension is there (pg_extension), and bring it to the new one on the leader (ALTER EXTENSION ... UPDATE). No apply does that, and there may be no way back from it.", pin.Name, debver.Upstream(pin.Version)))
	}
	return list
}

// patroniHazards are what another version of Patroni changes for those around it
// (Patroni documentation, "Release notes"). It is pure.
func patroniHazards(from, to string) []string {
	var list []string
	add := func(version, text string) { list = append(list, "Patroni "+version+": "+text) }
	crosses := func(major, minor, patch int) bool {
		return before(from, major, minor, patch) && !before(to, major, minor, patch)
	}
	if crosses(4, 0, 0) {
		add("4.0.0", "the role is called primary, not master, in the REST API, in etcd and for callbacks, and the metric patroni_master is gone: look at load balancers, callbacks and monitoring first.")
	}
	if crosses(4, 1, 0) {
		add("4.1.0", "GET /readiness of a replica says yes only while it streams and is not too far behind (maximum_lag_on_failover, or ?lag=): load balancers that ask it take lagging replicas out.")
	}
	if crosses(4, 1, 1) {
		add("4.1.1", "the REST API has a pool of threads (restapi.thread_pool_size, 5 by default), of which a switchover or a restart takes one for as long as it lasts. From here on etcd 3.4.42, 3.5.28 and 3.6.9 can be used with authentication.")
	}
	if newer(from, to) {
		add(from, fmt.Sprintf("going back to %s brings back what was mended since; settings and tags that only the newer one knows have no effect any more.", to))
		if before(to, 4, 1, 1) && !before(from, 4, 1, 1) {
			add("4.1.1", fmt.Sprintf("%s cannot log in to etcd from 3.4.42, 3.5.28 and 3.6.9 on: with authentication, etcd has to stay below.", to))
		}
	}
	return list
}

// newer reports whether a version of Patroni comes after another one.
func newer(version, than string) bool {
	var a, b, c int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &a, &b, &c); n < 2 {
		return false
	}
	return before(than, a, b, c)
}
