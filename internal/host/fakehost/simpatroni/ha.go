package simpatroni

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
)

func trimSlash(s string) string { return strings.Trim(s, "/") }

// How long things take, in the world's time.
const (
	initdbTime  = 2 * time.Second
	cloneTime   = 3 * time.Second
	promoteTime = 400 * time.Millisecond
	etcdRetry   = 5 * time.Second
)

// loop is Patroni's main loop (Patroni, ha.py, run_cycle).
func (n *Node) loop(run int) {
	w := n.sim.world
	// Not all start their loops in step.
	if !w.Sleep(time.Duration(fakehost.Hash(w.Seed(), "phase", n.m.Name, run)%200) * time.Millisecond) {
		return
	}
	for {
		var next time.Duration
		var wake chan struct{}
		alive := false
		w.Do(func() {
			if alive = n.run == run; alive {
				next = n.cycle()
				alive = n.run == run
				wake = n.wake
			}
		})
		if !alive {
			return
		}
		t := time.NewTimer(w.Real(next))
		select {
		case <-t.C:
		case <-wake:
			t.Stop()
			// What woke it has to reach it first.
			if !w.Sleep(time.Duration(5+fakehost.Hash(w.Seed(), "wake", n.m.Name, run)%20) * time.Millisecond) {
				return
			}
		case <-w.Closed():
			t.Stop()
			return
		}
	}
}

// cycle is one turn of the loop. It returns how long to wait for the next one.
func (n *Node) cycle() time.Duration {
	if n.store == nil {
		if err := n.checkEtcd(n.cfg); err != nil {
			n.logf("ERROR: Failed to get list of machines from etcd: %v", err)
			n.logf("INFO: waiting on etcd")
			return etcdRetry
		}
		n.store.Watch(n.m.Name, n.watch)
		n.listen()
	}
	was := n.store
	if err := n.checkLogin(n.cfg); err != nil {
		n.logf("ERROR: Error communicating with DCS: %v", err)
		if n.Primary() && n.failsafe() {
			n.logf("INFO: continue to run as a leader because failsafe mode is enabled and all members are accessible")
			return etcdRetry
		}
		if n.Primary() {
			n.logf("INFO: demoting self because DCS is not accessible and I was a leader")
			n.demote()
		}
		return etcdRetry
	}
	if n.store != was {
		// Another cluster with the same addresses: nothing of what we held is there.
		n.lease, n.revised = nil, 0
		n.store.Watch(n.m.Name, n.watch)
	}
	n.takeOver()
	if n.lease == nil {
		n.lease = n.store.NewLease()
	}
	wait, err := number(n.dynamic, "loop_wait", 10)
	if err != nil {
		wait = 10
	}
	if !n.busy {
		n.act()
	}
	if n.up {
		n.touch()
	}
	return time.Duration(wait) * time.Second
}

// failsafe reports whether the primary may go on without etcd: it is told to, and all
// members that it knows answer (Patroni, ha.py, check_failsafe_topology).
func (n *Node) failsafe() bool {
	if n.dynamic["failsafe_mode"] != true || n.dynamic["pause"] == true {
		return false
	}
	for name := range n.known {
		if other := n.peer(name); name != n.name() && (other == nil || other.store == nil || !n.m.Reaches(other.m) || other.Primary()) {
			return false
		}
	}
	return true
}

// remember keeps in mind who was a member when there was a leader last, as long as
// Patroni runs (Patroni, ha.py, load_cluster_from_dcs).
func (n *Node) remember(led bool) {
	if !led && len(n.known) > 0 {
		return
	}
	n.known = map[string]bool{}
	for _, k := range n.store.Keys(n.key("members/")) {
		n.known[strings.TrimPrefix(k, n.key("members/"))] = true
	}
}

// watch starts the next loop when a key changes that it goes by, or, with no
// key, when etcd is back.
func (n *Node) watch(key string) {
	if !n.up {
		return
	}
	switch key {
	case "", n.key("leader"), n.key("config"), n.key("initialize"):
		n.poke()
	}
}

// act decides what to do next.
func (n *Node) act() {
	initialize, initialized := n.store.Get(n.key("initialize"))
	leader, led := n.store.Get(n.key("leader"))
	n.remember(led)
	paused := n.dynamic["pause"] == true
	if led && leader == n.name() && n.pg != nil {
		// What etcd lacks, the leader makes again (Patroni, ha.py, _run_cycle).
		if initialize == "" {
			initialize, initialized = n.pg.systemID, true
			n.store.Put(n.key("initialize"), initialize, nil)
		}
		if n.store.Revision(n.key("config")) == 0 {
			n.store.Put(n.key("config"), render(n.dynamic), nil)
		}
	}
	if !initialized && !led && !paused && n.hasData() && !n.acted {
		if n.pg != nil && !n.pg.primary {
			n.logf("ERROR: No initialize key in DCS and PostgreSQL is running as replica, aborting start")
			n.down()
			n.unit.Exit("exit-code", restartSec)
			return
		}
		n.store.Put(n.key("initialize"), n.readControl().SystemID, nil)
		initialize = n.readControl().SystemID
	}
	n.acted = n.acted || n.pg != nil
	switch {
	case n.pg == nil && !n.hasData():
		n.obtain(initialize, initialized, leader, led)
	case initialize != "" && n.readControl().SystemID != initialize:
		n.crash(fmt.Sprintf("CRITICAL: system ID mismatch, node %s belongs to a different cluster: %s != %s", n.name(), n.readControl().SystemID, initialize))
	case n.pg == nil && paused:
		n.logf("INFO: PAUSE: postgres is not running")
	case n.pg == nil:
		n.logf("INFO: starting as a secondary")
		n.startServer()
		n.follow(leader)
		n.poke()
	case led && leader == n.name():
		n.lead()
	case led:
		if n.pg.primary {
			n.logf("INFO: demoting self because I do not have the lock and I was a leader")
			n.demote()
		}
		n.follow(leader)
	case paused && !n.pg.primary:
		n.logf("INFO: PAUSE: no action")
	case n.mayLead():
		n.store.Put(n.key("leader"), n.name(), n.lease)
		n.promote()
	default:
		n.pg.streaming = false
		n.logf("INFO: following a different leader because i am not the healthiest node")
	}
}

// obtain gets a node without data some: from the leader, or, if the file has a
// bootstrap section and nobody else is at it, by making it.
func (n *Node) obtain(initialize string, initialized bool, leader string, led bool) {
	switch {
	case initialized && led && initialize != "":
		source := n.peer(leader)
		if source == nil || !source.Primary() || !n.m.Reaches(source.m) {
			n.logf("INFO: waiting for leader to bootstrap")
			return
		}
		n.busy, n.state = true, "creating replica"
		n.logf("INFO: trying to bootstrap from leader '%s'", leader)
		says := n.sim.CloneFails
		n.later(cmp.Or(n.sim.CloneTime, cloneTime), func() {
			if says != "" || !source.Primary() || !n.m.Reaches(source.m) {
				n.logf("%s", says)
				n.logf("ERROR: Error creating replica using method basebackup: pg_basebackup exited with code=1")
				n.state = "stopped"
				return
			}
			n.makeData(control{SystemID: source.pg.systemID, State: "in archive recovery", Timeline: source.pg.timeline, LSN: source.pg.lsn})
			n.logf("INFO: bootstrapped from leader '%s'", leader)
			n.startServer()
			n.follow(leader)
		})
	case initialized:
		n.logf("INFO: waiting for leader to bootstrap")
	case n.cfg.Bootstrap == nil || forbidden(n.cfg.Tags):
		n.logf("INFO: waiting for initialize key")
	default:
		n.store.Put(n.key("initialize"), "", n.lease)
		n.busy, n.state = true, "initializing new cluster"
		n.logf("INFO: trying to bootstrap a new cluster")
		n.later(initdbTime, n.initialise)
	}
}

// initialise makes the database.
func (n *Node) initialise() {
	n.sim.Initdbs = append(n.sim.Initdbs, n.m.Name)
	if lines := n.sim.BootstrapFails; len(lines) > 0 {
		for _, l := range lines {
			n.logf("%s", l)
		}
		n.logf("INFO: removing initialize key after failed attempt to bootstrap the cluster")
		n.store.Delete(n.key("initialize"))
		n.m.Files.Put(n.dir(".failed/PG_VERSION"), fakehost.File{Owner: "postgres", Content: []byte("17\n")})
		n.crash("patroni.exceptions.PatroniFatalException: Failed to bootstrap cluster")
		return
	}
	id := fmt.Sprint(7_000_000_000_000_000_000 + fakehost.Hash(7, n.m.Name, len(n.sim.Initdbs))%1_000_000_000_000_000)
	n.makeData(control{SystemID: id, State: "in production", Timeline: 1, LSN: 0x3000060})
	roles := map[string]string{}
	for _, a := range n.cfg.PostgreSQL.Authentication {
		roles[a.Username], _ = postgres.ScramVerifier(a.Password)
	}
	n.sim.passwords[n.cfg.Scope] = roles
	n.sim.logins[n.cfg.Scope] = "password=" + n.cfg.PostgreSQL.Authentication["superuser"].Password
	n.startServer()
	n.pg.primary = true
	n.store.Put(n.key("initialize"), id, nil)
	if _, exists := n.store.Get(n.key("config")); !exists {
		n.store.Put(n.key("config"), render(n.cfg.Bootstrap.DCS), nil)
	}
	n.store.Put(n.key("leader"), n.name(), n.lease)
	n.sim.acked[n.cfg.Scope] = n.pg.lsn
	n.logf("INFO: initialized a new cluster")
}

// later finishes something in the background, unless Patroni was stopped
// meanwhile.
func (n *Node) later(d time.Duration, f func()) {
	run := n.run
	n.sim.world.After(d, func() {
		if n.run != run {
			return
		}
		n.busy = false
		f()
		if n.up {
			n.poke()
		}
	})
}

// peer is the running node of a name in the same cluster.
func (n *Node) peer(name string) *Node {
	for _, other := range n.sim.members(n.cfg.Scope) {
		if other.name() == name {
			return other
		}
	}
	return nil
}

// follow streams from the leader, after pg_rewind where the histories differ.
func (n *Node) follow(leader string) {
	l := n.serving(leader)
	if n.pg.primary || l == nil || l == n || !l.Primary() || !n.m.Reaches(l.m) {
		n.pg.streaming = false
		return
	}
	if !n.pg.streaming && !n.connects() {
		n.logf("FATAL:  could not connect to the primary server: FATAL:  password authentication failed for user")
		return
	}
	if n.pg.lsn > l.pg.lsn {
		n.logf("INFO: running pg_rewind from %s", leader)
	}
	n.pg.timeline, n.pg.streaming = l.pg.timeline, true
	if !n.slow || n.pg.lsn > l.pg.lsn {
		n.pg.lsn = l.pg.lsn
	}
}

// receives reports whether what the primary writes reaches the node.
func (n *Node) receives() bool { return n.Streaming() && !n.slow }

// serving is the node of a name whose PostgreSQL runs, with or without its Patroni.
func (n *Node) serving(name string) *Node {
	for _, other := range n.sim.servers(n.cfg.Scope) {
		if other.name() == name {
			return other
		}
	}
	return nil
}

// connects reports whether the leader lets the node in as a replica. A connection
// that there is already outlives a change of the password.
func (n *Node) connects() bool {
	a := n.cfg.PostgreSQL.Authentication["replication"]
	n.m.Files.Put(n.cfg.PostgreSQL.PGPass, fakehost.File{
		Owner: "postgres", Group: "postgres", Mode: "600", Content: []byte("10.0.0.1:5432:*:" + a.Username + ":" + a.Password + "\n"),
	})
	return postgres.ScramMatches(a.Password, n.sim.passwords[n.cfg.Scope][a.Username])
}

// demote makes a primary read-only.
func (n *Node) demote() {
	n.pg.primary, n.pg.streaming = false, false
	n.saveControl("in archive recovery")
}

// mayLead is the leader race (Patroni, ha.py, is_healthiest_node).
func (n *Node) mayLead() bool {
	if n.pg.primary {
		return true
	}
	if next := n.sim.moving[n.cfg.Scope]; forbidden(n.cfg.Tags) || next != "" && next != n.name() {
		return false
	}
	if sync := n.readSync(); n.dynamic["synchronous_mode"] == true && sync.Leader != "" && sync.Leader != n.name() && sync.Standby != n.name() {
		n.logf("INFO: following a different leader because I am not in the synchronous standbys")
		return false
	}
	limit, _ := number(n.dynamic, "maximum_lag_on_failover", 1<<20)
	var status struct{ Optime int64 }
	if v, ok := n.store.Get(n.key("status")); ok {
		_ = json.Unmarshal([]byte(v), &status)
	}
	if n.pg.lsn+limit < status.Optime {
		n.logf("INFO: My wal position exceeds maximum replication lag")
		return false
	}
	for _, other := range n.sim.members(n.cfg.Scope) {
		if _, there := n.store.Get(n.key("members/" + other.name())); !there && !n.known[other.name()] {
			continue // it does not know of that one
		}
		if other != n && other.Primary() && n.m.Reaches(other.m) {
			n.logf("WARNING: Primary (%s) is still alive", other.name())
			return false
		}
		if other != n && other.pg != nil && !forbidden(other.cfg.Tags) && n.m.Reaches(other.m) && other.pg.lsn > n.pg.lsn {
			n.logf("INFO: Wal position of %s is ahead of my wal position", other.name())
			return false
		}
	}
	return true
}

func forbidden(tags map[string]any) bool {
	return tags["nofailover"] == true || fmt.Sprint(tags["failover_priority"]) == "0"
}

// promote makes a replica the primary, on a timeline of its own.
func (n *Node) promote() {
	if n.pg.primary {
		return
	}
	scope := n.cfg.Scope
	if acked := n.sim.acked[scope]; n.pg.lsn < acked {
		n.sim.Lost = append(n.sim.Lost, fmt.Sprintf("%s was promoted %d bytes behind what was acknowledged", n.m.Name, acked-n.pg.lsn))
	}
	n.logf("INFO: promoted self to leader by acquiring session lock")
	n.sim.Promotions = append(n.sim.Promotions, n.m.Name)
	var history [][]any
	if v, ok := n.store.Get(n.key("history")); ok {
		_ = json.Unmarshal([]byte(v), &history)
	}
	history = append(history, []any{n.pg.timeline, n.pg.lsn, "no recovery target specified"})
	n.store.Put(n.key("history"), render(history), nil)
	n.pg.primary, n.pg.streaming = true, false
	n.pg.timeline++
	n.pg.lsn += 160
	n.sim.acked[scope] = n.pg.lsn
	n.saveControl("in production")
	if n.dynamic["synchronous_mode"] == true {
		// Nobody is, before somebody follows (Patroni, ha.py, process_sync_replication).
		n.store.Put(n.key("sync"), render(syncState{Leader: n.name()}), nil)
		n.poke()
	}
	n.lead()
}

// lead is a leader's loop.
func (n *Node) lead() {
	if !n.pg.primary {
		n.promote()
		return
	}
	if key := n.key("leader"); n.store.Lease(key) != n.lease {
		n.logf("WARNING: I am the leader but not owner of the lease")
		n.store.Put(key, n.name(), n.lease)
	}
	n.slots()
	n.chooseSync()
	n.writeStatus(n.pg.lsn)
	n.logf("INFO: no action. I am (%s), the leader with the lock", n.name())
}

// slots keeps a slot for every other member, and for members that went away
// for as long as member_slots_ttl says. One that is not kept any more is
// dropped in the loop after that.
func (n *Node) slots() {
	now := time.Now()
	wanted := map[string]bool{}
	for _, k := range n.store.Keys(n.key("members/")) {
		if name := strings.TrimPrefix(k, n.key("members/")); name != n.name() {
			wanted[postgres.SlotName(name)] = true
			n.seen[postgres.SlotName(name)] = now
		}
	}
	if permanent, ok := n.dynamic["slots"].(map[string]any); ok {
		for name := range permanent {
			wanted[name] = true
		}
	}
	ttl, _ := number(n.dynamic, "member_slots_ttl", 1800)
	if n.version3() {
		ttl = 0
	}
	retain := map[string]bool{}
	for slot, last := range n.seen {
		switch {
		case wanted[slot]:
			retain[slot] = true
		case now.Sub(last) < n.sim.world.Real(time.Duration(ttl)*time.Second):
			retain[slot] = true
		default:
			delete(n.seen, slot)
		}
	}
	for slot := range n.pg.slots {
		if !wanted[slot] && !retain[slot] && !n.retain[slot] {
			delete(n.pg.slots, slot)
		}
	}
	for slot := range wanted {
		n.pg.slots[slot] = true
	}
	n.retain = retain
}

func (n *Node) writeStatus(lsn int64) {
	status := map[string]any{"optime": lsn}
	if !n.version3() {
		retained := []string{}
		for slot := range n.retain {
			retained = append(retained, slot)
		}
		slices.Sort(retained)
		status["retain_slots"] = retained
	}
	if text := render(status); text != first(n.store.Get(n.key("status"))) {
		n.store.Put(n.key("status"), text, nil)
	}
}

func first(v string, _ bool) string { return v }

// touch renews the member's key.
func (n *Node) touch() {
	m := map[string]any{
		"conn_url": "postgres://" + n.cfg.PostgreSQL.ConnectAddress + "/postgres", "api_url": "https://" + n.cfg.RestAPI.ConnectAddress + "/patroni",
		"state": n.state, "role": n.Role(), "version": upstream(n.version()),
	}
	if n.Paused() {
		m["pause"] = true
	}
	if len(n.cfg.Tags) > 0 {
		tags := map[string]any{}
		for k, v := range n.cfg.Tags {
			if v != false {
				tags[k] = v
			}
		}
		m["tags"] = tags
	}
	if n.pg != nil {
		m["xlog_location"], m["timeline"] = n.pg.lsn, n.pg.timeline
		if n.pg.streaming && !n.version3() {
			m["replication_state"] = "streaming"
		}
		if len(n.pending) > 0 {
			m["pending_restart"] = true
		}
	}
	key := n.key("members/" + n.name())
	if text := render(m); text != first(n.store.Get(key)) || n.store.Lease(key) != n.lease {
		n.store.Put(key, text, n.lease)
	}
}

func upstream(version string) string {
	v, _, _ := strings.Cut(version, "-")
	return v
}

// takeOver applies the dynamic configuration if it has changed. A document
// that cannot be read as a whole is ignored as a whole.
func (n *Node) takeOver() {
	key := n.key("config")
	revision := n.store.Revision(key)
	if revision == 0 || revision == n.revised && n.saved() {
		return
	}
	doc := parseDocument(first(n.store.Get(key)))
	for _, k := range []string{"ttl", "loop_wait", "retry_timeout", "maximum_lag_on_failover", "member_slots_ttl"} {
		if _, err := number(doc, k, 0); err != nil {
			n.logf("ERROR: Exception when setting dynamic_configuration: %v", err)
			return
		}
	}
	if pg, ok := doc["postgresql"].(map[string]any); ok {
		if p, there := pg["parameters"]; there {
			if _, ok := p.(map[string]any); !ok {
				n.logf("ERROR: Exception when setting dynamic_configuration: AttributeError: 'str' object has no attribute 'items'")
				return
			}
		}
	}
	n.dynamic, n.revised = doc, revision
	n.saveDynamic()
	n.applyParameters()
}

const dynamicFile = "/patroni.dynamic.json"

func (n *Node) saved() bool { return !n.hasData() || n.m.Files.Get(n.dir(dynamicFile)) != nil }

func (n *Node) saveDynamic() {
	if n.hasData() {
		n.m.Files.Put(n.dir(dynamicFile), fakehost.File{Owner: "postgres", Group: "postgres", Mode: "600", Content: []byte(render(n.dynamic))})
	}
}

// applyParameters reloads what can be reloaded, and notes what waits for a
// restart.
func (n *Node) applyParameters() {
	if n.pg == nil {
		return
	}
	n.pending = map[string]string{}
	wanted := n.parameters()
	for name := range n.pg.running {
		if _, still := wanted[name]; !still && !postgres.NeedsRestart(name) {
			delete(n.pg.running, name)
		}
	}
	for name, value := range wanted {
		switch {
		case n.pg.running[name] == value:
		case postgres.NeedsRestart(name):
			n.pending[name] = value
		default:
			n.pg.running[name] = value
		}
	}
}
