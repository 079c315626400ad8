package simpatroni

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"path"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost/simetcd"
)

// Node is Patroni on one machine, with its PostgreSQL.
type Node struct {
	sim  *Sim
	m    *fakehost.Machine
	unit *fakehost.Unit

	up    bool   // Patroni runs
	runs  string // its version, that of the package when it was started
	run   int    // counts its starts: what was begun in an earlier one is void
	cfg   *config
	cert  *tls.Certificate
	store *simetcd.Store
	lease *simetcd.Lease // of the member's key and, as the leader, of its lock
	busy  bool           // a clone or a bootstrap is under way
	wake  chan struct{}

	known map[string]bool // members when there was a leader last
	acted bool            // PostgreSQL has run since Patroni was started
	slow  bool            // as a replica it receives nothing of what is written

	state   string
	dynamic map[string]any
	revised int64 // revision of the configuration that dynamic is
	pending map[string]string
	seen    map[string]time.Time // when a member with this slot was last there
	retain  map[string]bool      // slots that the last loop kept for absent members
	pg      *server              // nil while PostgreSQL does not run
}

// server is a running PostgreSQL.
type server struct {
	systemID  string
	primary   bool
	streaming bool
	version   int // that of the package when it was started, 170011 for 17.11
	timeline  int64
	lsn       int64
	slots     map[string]bool
	running   map[string]string // parameters
	started   time.Time
}

// control is what the data directory says about itself, kept where PostgreSQL
// keeps it.
type control struct {
	SystemID string
	State    string
	Timeline int64
	LSN      int64
	Slots    map[string]bool
}

const controlFile = "/global/pg_control"

// restartSec is RestartSec of our drop-in.
const restartSec = 5

// Machine is where the node runs.
func (n *Node) Machine() *fakehost.Machine { return n.m }

// Primary reports whether the node accepts writes.
func (n *Node) Primary() bool { return n.pg != nil && n.pg.primary }

// Streaming reports whether the node is a replica that follows the primary.
func (n *Node) Streaming() bool { return n.pg != nil && !n.pg.primary && n.pg.streaming }

// Cloning reports whether the node is copying the leader's database.
func (n *Node) Cloning() bool { return n.busy && n.state == "creating replica" }

// Running reports whether PostgreSQL runs.
func (n *Node) Running() bool { return n.pg != nil }

// Paused reports whether Patroni has heard that the cluster is paused.
func (n *Node) Paused() bool { return n.up && n.dynamic["pause"] == true }

// Slow has a replica stay connected and receive nothing of what is written, or catch
// up.
func (n *Node) Slow(yes bool) {
	n.slow = yes
	if n.up {
		n.poke()
	}
}

// Versions are those that run: PostgreSQL's as a number, 0 if it does not, and
// Patroni's, empty if it does not.
func (n *Node) Versions() (server int, patroni string) {
	if n.pg != nil {
		server = n.pg.version
	}
	if n.up {
		patroni = upstream(n.runs)
	}
	return server, patroni
}

// Up reports whether Patroni runs.
func (n *Node) Up() bool { return n.up }

// Started is when PostgreSQL was, zero if it does not run.
func (n *Node) Started() time.Time {
	if n.pg == nil {
		return time.Time{}
	}
	return n.pg.started
}

// Role is the node's role in Patroni's words, for the version that runs.
func (n *Node) Role() string {
	switch {
	case n.pg == nil:
		return "uninitialized"
	case n.pg.primary && n.version3():
		return "master"
	case n.pg.primary:
		return "primary"
	}
	return "replica"
}

// LSN is how much log the node has, 0 if PostgreSQL does not run.
func (n *Node) LSN() int64 {
	if n.pg == nil {
		return 0
	}
	return n.pg.lsn
}

// SystemID is the identifier of the database in the node's data directory.
func (n *Node) SystemID() string { return n.readControl().SystemID }

// SetParameter makes the server run with a parameter that nobody configured.
func (n *Node) SetParameter(name, value string) { n.pg.running[name] = value }

// Disconnect ends a replica's connection to its leader, as a fault in the network
// would.
func (n *Node) Disconnect() {
	if n.pg != nil {
		n.pg.streaming = false
	}
}

// Slots are the replication slots on the node.
func (n *Node) Slots() map[string]bool {
	if n.pg == nil {
		return nil
	}
	return n.pg.slots
}

func (n *Node) name() string { return n.cfg.Name }
func (n *Node) key(k string) string {
	return "/" + trimSlash(n.cfg.Namespace) + "/" + n.cfg.Scope + "/" + k
}

// version is Patroni's that runs, or would.
func (n *Node) version() string {
	if n.up {
		return n.runs
	}
	return n.m.Installed("patroni")
}
func (n *Node) version3() bool { return n.version() != "" && n.version()[0] == '3' }

func (n *Node) logf(format string, args ...any) { n.unit.Logf(format, args...) }

// Start implements fakehost.Service.
func (n *Node) Start(u *fakehost.Unit) {
	n.unit = u
	text := n.m.Files.ReadAs("postgres", configPath)
	if text == nil {
		u.Exit("success", 0) // the unit's condition does not hold
		return
	}
	cfg, err := parseConfig(text)
	if err == nil {
		if problems := cfg.validate(n.m); len(problems) > 0 {
			err = fmt.Errorf("%v", problems)
		}
	}
	if err == nil {
		n.cert, err = n.loadTLS(cfg)
	}
	if err != nil {
		u.Logf("FATAL: %v", err)
		u.Exit("exit-code", restartSec)
		return
	}
	n.cfg, n.up, n.store, n.busy, n.runs = cfg, true, nil, false, n.m.Installed("patroni")
	n.known, n.acted = nil, false
	n.dynamic, n.revised, n.pending, n.seen, n.retain = map[string]any{}, 0, map[string]string{}, map[string]time.Time{}, map[string]bool{}
	// A server that was left running is taken up as it is.
	n.state = "running"
	if n.pg == nil {
		n.state = "stopped"
	}
	n.run++
	n.wake = make(chan struct{}, 1)
	u.Ready()
	run := n.run
	n.sim.world.Go(func() { n.loop(run) })
}

// Stop implements fakehost.Service. While the cluster is paused PostgreSQL goes
// on running.
func (n *Node) Stop(u *fakehost.Unit) {
	run := n.run
	n.sim.world.After(500*time.Millisecond, func() {
		if u.Active != "deactivating" || n.run != run {
			return
		}
		if n.up {
			if n.dynamic["pause"] != true {
				n.shutdown()
			}
			n.down()
		}
		u.Exit("success", 0)
	})
}

// Reload implements fakehost.Service.
func (n *Node) Reload(u *fakehost.Unit) {
	cfg, err := parseConfig(n.m.Files.ReadAs("postgres", configPath))
	if n.up && n.store == nil {
		return // it waits for etcd, and listens to nothing before it was let in
	}
	if err != nil || !n.up {
		u.Logf("ERROR: failed to reload the configuration: %v", err)
		return
	}
	if cert, err := n.loadTLS(cfg); err == nil {
		n.cert = cert
	}
	// Of how to come to etcd, user and password are read again, and nothing else
	// (Patroni, dcs/etcd.py, reload_config).
	was := n.cfg.Etcd3
	n.cfg = cfg
	n.cfg.Etcd3.Protocol, n.cfg.Etcd3.CACert, n.cfg.Etcd3.Cert, n.cfg.Etcd3.Key = was.Protocol, was.CACert, was.Cert, was.Key
	u.Logf("INFO: Reloading PostgreSQL configuration.")
	n.poke()
}

// Lost implements fakehost.Service: the power is gone.
func (n *Node) Lost(*fakehost.Unit) {
	if n.pg != nil {
		n.saveControl(map[bool]string{true: "in production", false: "in archive recovery"}[n.pg.primary])
		n.pg = nil
	}
	if n.up {
		n.down()
	}
}

// down ends Patroni; what it had in etcd goes when its lease runs out.
func (n *Node) down() {
	n.up, n.state, n.busy = false, "stopped", false
	n.m.Unlisten(portOf(n.cfg.RestAPI.Listen))
	n.run++
	n.poke()
	if n.store == nil || n.lease == nil {
		return
	}
	ttl, _ := number(n.dynamic, "ttl", 30)
	store, lease := n.store, n.lease
	n.lease = nil
	n.sim.world.After(time.Duration(ttl)*time.Second, func() { store.Expire(lease) })
}

// crash ends Patroni by itself; systemd starts it again.
func (n *Node) crash(reason string) {
	n.logf("%s", reason)
	if n.pg != nil {
		n.shutdown()
	}
	n.down()
	n.unit.Exit("exit-code", restartSec)
}

// startServer starts PostgreSQL on the data that is there.
func (n *Node) startServer() {
	c := n.readControl()
	n.pg = &server{systemID: c.SystemID, timeline: c.Timeline, lsn: c.LSN, slots: c.Slots, started: time.Now(), running: n.parameters(), version: n.installedServer()}
	if n.pg.slots == nil {
		n.pg.slots = map[string]bool{}
	}
	n.pending = map[string]string{}
	n.state = "running"
	n.saveControl("in archive recovery")
	n.m.Files.Put(n.dir("/postmaster.pid"), fakehost.File{Owner: "postgres", Group: "postgres", Mode: "600", Content: []byte("4711\n")})
	n.m.Listen(portOf(n.cfg.PostgreSQL.Listen), "postgres", nil)
}

// installedServer is the version of PostgreSQL's package, as a number.
func (n *Node) installedServer() int {
	major, minor := 0, 0
	name := "postgresql-" + path.Base(path.Dir(n.cfg.PostgreSQL.BinDir))
	_, _ = fmt.Sscanf(n.m.Installed(name), "%d.%d", &major, &minor)
	return major*10000 + minor
}

// killed ends Patroni by SIGKILL: PostgreSQL goes on, and what Patroni had in etcd
// stays until its lease runs out.
func (n *Node) killed() {
	if n.up {
		n.down()
	}
}

// shutdown stops PostgreSQL cleanly, and as the leader gives the lock away.
func (n *Node) shutdown() {
	if n.pg == nil {
		return
	}
	primary := n.pg.primary
	if primary {
		// The checkpoint of the shutdown reaches every replica that streams.
		n.pg.lsn += 120
		for _, other := range n.sim.servers(n.cfg.Scope) {
			if other != n && other.receives() && other.m.Reaches(n.m) {
				other.pg.lsn = n.pg.lsn
			}
		}
	} else if l := n.sim.Primary(n.cfg.Scope); l != nil && l.up {
		l.poke() // it waits for a synchronous replica no longer (Patroni, ha.py, while_not_sync_standby)
	}
	n.saveControl(map[bool]string{true: "shut down", false: "shut down in recovery"}[primary])
	lsn := n.pg.lsn
	n.stopServer()
	if n.store != nil && n.lease != nil && n.store.Quorum() {
		n.touch()
		if v, _ := n.store.Get(n.key("leader")); v == n.name() {
			n.writeStatus(lsn)
			n.store.Delete(n.key("leader"))
		}
	}
}

func (n *Node) stopServer() {
	n.pg, n.state = nil, "stopped"
	n.m.Files.Remove(n.dir("/postmaster.pid"))
	n.m.Unlisten(portOf(n.cfg.PostgreSQL.Listen))
}

func (n *Node) dir(p string) string { return n.cfg.PostgreSQL.DataDir + p }

func (n *Node) hasData() bool { return n.m.Files.Get(n.dir(controlFile)) != nil }

func (n *Node) readControl() control {
	var c control
	if n.cfg != nil {
		_ = json.Unmarshal(n.m.Files.Read(n.dir(controlFile)), &c)
	}
	return c
}

// saveControl writes what the data directory knows.
func (n *Node) saveControl(state string) {
	c := control{SystemID: n.pg.systemID, State: state, Timeline: n.pg.timeline, LSN: n.pg.lsn, Slots: n.pg.slots}
	n.m.Files.Put(n.dir(controlFile), fakehost.File{Owner: "postgres", Group: "postgres", Mode: "600", Content: []byte(render(c))})
}

// makeData fills the data directory.
func (n *Node) makeData(c control) {
	n.m.Files.Put(n.dir("/PG_VERSION"), fakehost.File{Owner: "postgres", Group: "postgres", Mode: "600", Content: []byte("17\n")})
	n.m.Files.Put(n.dir(controlFile), fakehost.File{Owner: "postgres", Group: "postgres", Mode: "600", Content: []byte(render(c))})
}

// poke starts the next loop at once.
func (n *Node) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}
