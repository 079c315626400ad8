package patroni

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

//go:embed scripts/*.sh
var scripts embed.FS

// Doer has what the steps of a plan need when they run.
type Doer struct {
	Fleet host.Fleet
	Log   *slog.Logger
	// KV is the cluster's etcd; nil when only a host is looked at.
	KV etcd.Client
	// Known is what etcd knew when the plan was made; steps that need
	// something newer read it.
	Known Known
	// Runner says who we are to others who want a lock.
	Runner string
}

func (d *Doer) host(n Node) host.Host { return d.Fleet.Host(n.Target) }

func (d *Doer) step(n Node, id, title string, risk engine.Risk, do func(context.Context) error) engine.Step {
	return engine.Step{ID: id, Host: n.Target.Name, Title: title, Risk: risk, Do: do}
}

func (d *Doer) mark(n Node, m Marker, title string) engine.Step {
	return d.step(n, "patroni.mark", title, engine.Safe, func(ctx context.Context) error {
		return remote.WriteFile(ctx, d.host(n), m.file())
	})
}

func (d *Doer) write(n Node, f remote.File) engine.Step {
	return d.step(n, "patroni.file", "write "+f.Path, engine.Safe, func(ctx context.Context) error {
		return remote.WriteFile(ctx, d.host(n), f)
	})
}

func (d *Doer) install(n Node, pins []remote.Pin) engine.Step {
	var list []string
	for _, p := range pins {
		list = append(list, p.String())
	}
	return d.step(n, "patroni.packages", "install "+strings.Join(list, ", "), engine.Safe, func(ctx context.Context) error {
		return remote.Install(ctx, d.host(n), pins...)
	})
}

func (d *Doer) hold(n Node, packages []string) engine.Step {
	return d.step(n, "patroni.hold", "hold "+strings.Join(packages, ", "), engine.Safe, func(ctx context.Context) error {
		return remote.Hold(ctx, d.host(n), packages...)
	})
}

func (d *Doer) makeDataDir(n Node) engine.Step {
	return d.step(n, "patroni.data", "make "+n.DataDir, engine.Safe, func(ctx context.Context) error {
		return remote.MakeDir(ctx, d.host(n), n.DataDir, account, account, "0700")
	})
}

// issue has one of the hosts that hold the authority sign; the next one if
// that host cannot be reached.
func (d *Doer) issue(n Node, l pki.Leaf, forEtcd bool, why string) engine.Step {
	return d.step(n, "patroni.certificate", "issue "+l.Certificate+" ("+why+")", engine.Safe, func(ctx context.Context) error {
		authority := n.Cluster.authority()
		if forEtcd {
			authority = etcd.Authority(n.Cluster.Etcd.Name)
		}
		var errs []error
		for _, holder := range n.Cluster.holders(d.Fleet) {
			err := authority.Issue(ctx, holder, d.host(n), l)
			if err == nil {
				return nil
			}
			errs = append(errs, err)
			if !host.Unreachable(err) {
				break
			}
		}
		return errors.Join(errs...)
	})
}

func (d *Doer) daemonReload(n Node) engine.Step {
	return d.step(n, "patroni.unit.reload", "make systemd read its unit files again", engine.Safe, func(ctx context.Context) error {
		return remote.DaemonReload(ctx, d.host(n))
	})
}

func (d *Doer) enable(n Node) engine.Step {
	return d.step(n, "patroni.unit.enable", "make "+Unit+" start at boot", engine.Safe, func(ctx context.Context) error {
		return remote.EnableUnit(ctx, d.host(n), Unit)
	})
}

func (d *Doer) reload(n Node) engine.Step {
	return d.step(n, "patroni.reload", "reload Patroni", engine.Reload, func(ctx context.Context) error {
		return remote.ReloadUnit(ctx, d.host(n), Unit)
	})
}

// register notes in etcd how the node's host is reached.
func (d *Doer) register(n Node, r NodeRecord) engine.Step {
	return d.step(n, "patroni.register", "note the node in etcd", engine.Safe, func(ctx context.Context) error {
		return putJSON(ctx, d.KV, n.Cluster.nodeKey(n.Name), r)
	})
}

// putConfig has Patroni check the node's configuration and puts it in place.
func (d *Doer) putConfig(ctx context.Context, n Node, bootstrapping bool) error {
	f := n.config(*d.Known.Secrets, bootstrapping)
	_, err := d.host(n).Run(ctx, host.Cmd{
		Name: "patroni.config", Script: remote.Script(scripts, "scripts/config_put.sh"),
		Args: []string{f.Path, f.Owner, f.Group, f.Mode, f.SHA256()}, Stdin: f.Content,
	})
	if host.ExitCode(err) == 65 {
		var e *host.Error
		errors.As(err, &e)
		return &problem.Error{
			Host: n.Target.Name, Step: "check the configuration with patroni --validate-config",
			Cause: errors.New("Patroni does not accept the configuration"), Log: strings.Split(e.Stderr, "\n"),
			Left: ConfigPath + ", as it was.", Do: "correct what the lines above name.",
		}
	}
	return err
}

// reconfigure writes the configuration of a running node and reloads it.
func (d *Doer) reconfigure(n Node) engine.Step {
	return d.step(n, "patroni.reconfigure", "write "+ConfigPath+" and reload Patroni", engine.Reload, func(ctx context.Context) error {
		if err := d.waitBootstrapped(ctx, n); err != nil {
			return err
		}
		if err := d.putConfig(ctx, n, false); err != nil {
			return err
		}
		if err := remote.ReloadUnit(ctx, d.host(n), Unit); err != nil {
			return err
		}
		if err := d.waitMember(ctx, n); err != nil {
			return err
		}
		return d.waitTags(ctx, n)
	})
}

// waitTags waits until the node shows its tags to the others, which it does in
// its next loop: it is there that they decide who may lead or be cloned.
func (d *Doer) waitTags(ctx context.Context, n Node) error {
	loop := int64(10)
	if v, ok := Int(d.Known.Config["loop_wait"]); ok {
		loop = v
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(2*loop)*time.Second+10*time.Second)
	defer cancel()
	want := shownTags(n.Tags)
	return wait.Until(ctx, d.Log, "the others to see the tags of "+n.Name, 300*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		k, err := n.Cluster.Load(ctx, d.KV)
		if err != nil {
			return false, "", err
		}
		have := k.Members[n.Name].Tags
		return maps.Equal(shownTags(have), want), fmt.Sprintf("they see %v", have), nil
	})
}

// shownTags are the tags in the form in which a member's key shows them:
// Patroni leaves out its own tags where they are false (tags.py).
func shownTags(tags map[string]any) map[string]string {
	shown := map[string]string{}
	for k, v := range tags {
		if v == false {
			switch k {
			case "nofailover", "clonefrom", "noloadbalance", "nosync", "nostream":
				continue
			}
		}
		shown[k] = Text(v)
	}
	return shown
}

// waitBootstrapped lets a node that is initialising the database finish:
// Patroni reads its bootstrap section again at the end of it.
func (d *Doer) waitBootstrapped(ctx context.Context, n Node) error {
	polls := 0
	return wait.Until(ctx, d.Log, "the database to be initialised", 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		v, exists, err := d.KV.Get(ctx, n.Cluster.initializeKey())
		if err != nil {
			return false, "", err
		}
		if polls++; polls%10 == 0 {
			if err := d.crashed(ctx, n); err != nil {
				return false, "", wait.Never(err)
			}
		}
		return !exists || v.Value != "", "a node is at it", nil
	})
}

func (d *Doer) startWithData(n Node) engine.Step {
	return d.step(n, "patroni.start", "start Patroni on the database that is there", engine.Safe, func(ctx context.Context) error {
		if err := d.putConfig(ctx, n, false); err != nil {
			return err
		}
		if err := d.waitTurn(ctx, n); err != nil {
			return err
		}
		if err := remote.StartUnit(ctx, d.host(n), Unit); err != nil {
			return err
		}
		return d.waitMember(ctx, n)
	})
}

// member waits for a node that is starting by itself.
func (d *Doer) member(n Node) engine.Step {
	return d.step(n, "patroni.member", "wait until the node is a running member", engine.Safe, func(ctx context.Context) error {
		if err := d.waitBootstrapped(ctx, n); err != nil {
			return err
		}
		return d.waitMember(ctx, n)
	})
}

// form starts a node without data. Whether it makes the database or clones it
// is decided when its turn comes: all nodes of a new cluster are created side
// by side, and exactly one of them may make it. Patroni's own key in etcd is
// what decides; the claim before it keeps the others from starting, which
// would only make them wait in Patroni's longer intervals.
func (d *Doer) form(n Node) engine.Step {
	return d.step(n, "patroni.form", "initialise the database, or clone the leader's", engine.Safe, func(ctx context.Context) error {
		// Getting the files in place while others are at it costs nothing.
		if err := d.putConfig(ctx, n, false); err != nil {
			return err
		}
		claim, err := d.claim(ctx, n)
		if err != nil {
			return err
		}
		if claim == nil {
			return d.clone(ctx, n)
		}
		defer claim.Release(ctx)
		return d.bootstrap(ctx, n)
	})
}

// claim waits until the cluster is initialised and a leader runs (it returns
// nil), or until this node may initialise it.
func (d *Doer) claim(ctx context.Context, n Node) (etcd.Lock, error) {
	c := n.Cluster
	mayLead := true
	if v, ok := Bool(n.Tags["nofailover"]); ok && v {
		mayLead = false
	}
	var claim etcd.Lock
	err := wait.Until(ctx, d.Log, "a leader to clone, or the right to initialise the database", 200*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		k, err := c.Load(ctx, d.KV)
		if err != nil {
			return false, "", err
		}
		if err := c.Require(k); err != nil {
			return false, "", wait.Never(err)
		}
		if k.Initialize != "" {
			if k.Leader == "" {
				return false, "the cluster has no leader", nil
			}
			leader := k.Members[k.Leader]
			return leader.State == "running", fmt.Sprintf("the leader %s is %s", k.Leader, leader.State), nil
		}
		if k.Initialized {
			return false, "another node is initialising the database", nil
		}
		if !mayLead {
			return false, "this node has the tag nofailover, so another one has to initialise the database", nil
		}
		if k.ConfigRevision == 0 {
			return false, "", wait.Never(&problem.Error{
				Cause: fmt.Errorf("the dynamic configuration of the cluster is not in etcd (%s)", c.configKey()),
				Do:    "apply the pgha_patroni_cluster resource.",
			})
		}
		try, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		l, err := d.KV.Lock(try, c.bootstrapKey(), "node "+n.Name+", "+d.Runner, 30*time.Second)
		var held *etcd.HeldError
		if errors.As(err, &held) {
			return false, "another node is initialising the database: " + held.Holder, nil
		}
		if err != nil {
			return false, "", err
		}
		// Somebody may have finished between the look and the claim.
		if _, exists, err := d.KV.Get(ctx, c.initializeKey()); err != nil || exists {
			l.Release(ctx)
			return false, "", err
		}
		claim = l
		return true, "", nil
	})
	return claim, err
}

// bootstrap makes this node initialise the database. Its file has a bootstrap
// section for just as long as that takes.
func (d *Doer) bootstrap(ctx context.Context, n Node) error {
	h := d.host(n)
	d.Log.InfoContext(ctx, "this node initialises the database", "node", n.Name)
	if err := d.putConfig(ctx, n, true); err != nil {
		return err
	}
	if err := remote.StartUnit(ctx, h, Unit); err != nil {
		return err
	}
	if err := d.waitBootstrap(ctx, n); err != nil {
		return err
	}
	if err := d.putConfig(ctx, n, false); err != nil {
		return err
	}
	return remote.ReloadUnit(ctx, h, Unit)
}

// waitBootstrap waits until the node is the primary of an initialised cluster.
func (d *Doer) waitBootstrap(ctx context.Context, n Node) error {
	polls := 0
	return wait.Until(ctx, d.Log, "the database to be initialised", 250*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		v, _, err := d.KV.Get(ctx, n.Cluster.initializeKey())
		if err != nil {
			return false, "", err
		}
		if v.Value != "" {
			st, err := d.status(ctx, n)
			return err == nil && st.Primary(), "it is becoming the primary", nil
		}
		if polls++; polls%8 == 0 {
			if err := d.bootstrapFailed(ctx, n); err != nil {
				return false, "", wait.Never(err)
			}
		}
		return false, "initdb and the first start are under way", nil
	})
}

// bootstrapFailed looks for the end that Patroni's log puts under a failed
// bootstrap: it moves the data away and would try again for ever.
func (d *Doer) bootstrapFailed(ctx context.Context, n Node) error {
	if err := d.crashed(ctx, n); err != nil {
		return err
	}
	lines, err := remote.Journal(ctx, d.host(n), Unit, 200, "")
	if err != nil {
		return nil
	}
	if err := d.noEtcd(n, lines); err != nil {
		return err
	}
	for _, l := range lines {
		if strings.Contains(l, "removing initialize key after failed attempt to bootstrap") {
			_ = remote.StopUnit(context.WithoutCancel(ctx), d.host(n), Unit, time.Minute)
			return &problem.Error{
				Host: n.Target.Name, Cause: errors.New("the database could not be initialised"), Log: telling(lines),
				Left: "Patroni, stopped; what there was of the database is beside " + n.DataDir + ", with .failed in its name.",
				Do:   "mend what the log names (often a parameter that PostgreSQL does not start with), then apply again.",
			}
		}
	}
	return nil
}

// clone starts Patroni without data while there is a leader.
func (d *Doer) clone(ctx context.Context, n Node) error {
	if err := remote.StartUnit(ctx, d.host(n), Unit); err != nil {
		return err
	}
	return d.waitMember(ctx, n)
}

// waitMember waits until the node is a running member: the primary, or a
// replica that streams.
func (d *Doer) waitMember(ctx context.Context, n Node) error {
	polls := 0
	return wait.Until(ctx, d.Log, "node "+n.Name+" to be a running member", 250*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		if polls++; polls%12 == 0 {
			if err := d.stuck(ctx, n); err != nil {
				return false, "", wait.Never(err)
			}
		}
		st, err := d.status(ctx, n)
		if err != nil {
			return false, "its Patroni does not answer yet", nil
		}
		ok, why := Running(st)
		return ok, why, nil
	})
}

// Running reports whether a node is a member that does its work, and if not,
// what it does instead.
func Running(st NodeStatus) (ok bool, why string) {
	switch {
	case st.State != "running":
		return false, "PostgreSQL is " + st.State
	case st.Primary(), st.Role == "standby_leader":
		return true, ""
	case st.ReplicationState == "streaming":
		return true, ""
	case st.ReplicationState == "" && before(st.Patroni.Version, 3, 0, 4) && st.XLog.Received > 0:
		return true, "" // that version does not say whether it streams
	case st.ReplicationState == "":
		return false, "the replica does not stream yet"
	}
	return false, "the replica is " + st.ReplicationState
}

// before compares a version of Patroni.
func before(version string, major, minor, patch int) bool {
	var a, b, c int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &a, &b, &c); n < 2 {
		return false
	}
	switch {
	case a != major:
		return a < major
	case b != minor:
		return b < minor
	}
	return c < patch
}

// stuck looks for what waiting longer will not mend.
func (d *Doer) stuck(ctx context.Context, n Node) error {
	if err := d.crashed(ctx, n); err != nil {
		return err
	}
	lines, err := remote.Journal(ctx, d.host(n), Unit, 200, "")
	if err != nil {
		return nil
	}
	if err := d.noEtcd(n, lines); err != nil {
		return err
	}
	failed := 0
	for _, l := range lines {
		switch {
		case strings.Contains(l, "system ID mismatch"):
			return &problem.Error{
				Host: n.Target.Name, Cause: errors.New("the data directory belongs to another cluster"), Log: telling(lines),
				Left: "the data in " + n.DataDir + ".", Do: "find out whose data it is before anything else.",
			}
		case strings.Contains(l, "failed to bootstrap from"), strings.Contains(l, "Error creating replica using method"):
			failed++
		}
	}
	if failed >= 3 {
		return &problem.Error{
			Host: n.Target.Name, Cause: fmt.Errorf("cloning has failed %d times", failed), Log: telling(lines),
			Left: "Patroni, which goes on trying.", Do: "mend what the log names (often pg_hba or the network between the nodes), then apply again.",
		}
	}
	return nil
}

// etcdPatience is how often in a row Patroni may say that it waits for etcd; it
// tries every five seconds.
const etcdPatience = 5

// noEtcd looks whether Patroni has been unable to use etcd for a while, although
// we ourselves can.
func (d *Doer) noEtcd(n Node, lines []string) error {
	waiting := 0
	for _, l := range lines {
		switch {
		case strings.Contains(l, "waiting on etcd"), strings.Contains(l, "waiting on DCS"):
			waiting++
		case !strings.Contains(l, "Failed to get list of machines"):
			waiting = 0
		}
	}
	if waiting < etcdPatience {
		return nil
	}
	return &problem.Error{
		Host: n.Target.Name, Cause: errors.New("Patroni cannot use etcd"), Log: telling(lines),
		Left: "Patroni, which goes on trying.", Do: "see what etcd answers it in the lines above; from this host, every member's client port must be open.",
	}
}

// crashed looks whether the unit has given up or dies again and again.
func (d *Doer) crashed(ctx context.Context, n Node) error {
	var p remote.Probe
	p.Unit(Unit)
	f, err := p.Run(ctx, d.host(n))
	if err != nil {
		if host.Unreachable(err) {
			return err
		}
		return nil
	}
	u := f.Unit(Unit)
	cause := ""
	switch {
	case u.Active == "failed":
		cause = fmt.Sprintf("%s has failed (%s)", Unit, u.Result)
	case u.Restarts >= 3:
		cause = fmt.Sprintf("%s ends again and again (%d times so far)", Unit, u.Restarts)
	case u.Active == "inactive":
		cause = Unit + " is not running"
	default:
		return nil
	}
	lines, _ := remote.Journal(ctx, d.host(n), Unit, 60, "")
	return &problem.Error{
		Host: n.Target.Name, Cause: errors.New(cause), Log: telling(lines), Do: "mend what the log names, then apply again.",
	}
}

// telling picks the lines of a log that say what is wrong, or the last ones if
// none does.
func telling(lines []string) []string {
	var picked []string
	for _, l := range lines {
		for _, word := range []string{"FATAL", "CRITICAL", "ERROR", "PANIC", "HINT", "DETAIL", "Exception", "pg_basebackup: error", "mismatch"} {
			if strings.Contains(l, word) {
				picked = append(picked, l)
				break
			}
		}
	}
	if len(picked) == 0 {
		picked = lines
	}
	if len(picked) > 15 {
		picked = picked[len(picked)-15:]
	}
	return picked
}

// api is the REST API of a node.
func (d *Doer) api(n Node) (*API, error) {
	cfg := APIConfig{Port: n.Cluster.APIPort, Authority: d.Known.Authority, User: n.Cluster.Users.API}
	if d.Known.Secrets != nil {
		cfg.Password = d.Known.Secrets.API
	}
	return NewAPI(d.host(n), cfg)
}

func (d *Doer) status(ctx context.Context, n Node) (NodeStatus, error) {
	a, err := d.api(n)
	if err != nil {
		return NodeStatus{}, err
	}
	return a.Status(ctx)
}

func (d *Doer) unhold(n Node) engine.Step {
	var names []string
	for _, p := range n.pinned() {
		names = append(names, p.Name)
	}
	return d.step(n, "patroni.unhold", "let "+strings.Join(names, ", ")+" be upgraded again", engine.Safe, func(ctx context.Context) error {
		return remote.Unhold(ctx, d.host(n), names...)
	})
}

func (d *Doer) purge(n Node) []engine.Step {
	return []engine.Step{
		d.step(n, "patroni.purge.data", "delete the database in "+n.DataDir, engine.Destructive, func(ctx context.Context) error {
			return remote.PurgeTree(ctx, d.host(n), n.DataDir)
		}),
		d.step(n, "patroni.purge.files", "delete the node's configuration, certificates and keys", engine.Destructive, func(ctx context.Context) error {
			h := d.host(n)
			if err := remote.PurgeTree(ctx, h, n.Cluster.Dir()); err != nil {
				return err
			}
			if err := remote.RemoveFiles(ctx, h, ConfigPath, dropInPath, noClusterPath, pgpassPath); err != nil {
				return err
			}
			if err := remote.RemoveEmptyDirs(ctx, h, "/etc/systemd/system/patroni.service.d", "/etc/pgha/patroni"); err != nil {
				return err
			}
			return remote.DaemonReload(ctx, h)
		}),
		d.step(n, "patroni.unmark", "remove the mark that this host is a node", engine.Safe, func(ctx context.Context) error {
			if err := remote.RemoveFiles(ctx, d.host(n), MarkerPath); err != nil {
				return err
			}
			return remote.RemoveEmptyDirs(ctx, d.host(n), "/etc/pgha")
		}),
	}
}
