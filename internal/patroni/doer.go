package patroni

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/redact"
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
	// Redact gets the passwords that are found in files.
	Redact *redact.Set
	// Arrived is the Manager's.
	Arrived func(ctx context.Context, c Cluster) error

	// locked: the cluster's lock is held for all that is done.
	locked bool

	mu    sync.Mutex
	files map[string]*ForeignConfig // of nodes of adopted clusters
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

// named lists packages for a title.
func named(pins []remote.Pin) string {
	var list []string
	for _, p := range pins {
		list = append(list, p.String())
	}
	return strings.Join(list, ", ")
}

func (d *Doer) install(n Node, pins []remote.Pin) engine.Step {
	return d.step(n, "patroni.packages", "install "+named(pins), engine.Safe, func(ctx context.Context) error {
		return remote.Apt{Host: d.host(n), Log: d.Log}.Install(ctx, pins...)
	})
}

func (d *Doer) hold(n Node, packages []string) engine.Step {
	return d.step(n, "patroni.hold", "hold "+strings.Join(packages, ", "), engine.Safe, func(ctx context.Context) error {
		return remote.Apt{Host: d.host(n), Log: d.Log}.Hold(ctx, packages...)
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
		if err := d.noteSystemID(ctx, n.Cluster); err != nil {
			return err
		}
		return putJSON(ctx, d.KV, n.Cluster.nodeKey(n.Name), r)
	})
}

// putConfig has Patroni check the node's configuration and puts it in place.
func (d *Doer) putConfig(ctx context.Context, n Node, bootstrapping bool) error {
	if n.Cluster.Adopted() {
		return d.putForeign(ctx, n)
	}
	return d.putConfigFile(ctx, n, n.config(*d.Known.Secrets, bootstrapping))
}

func (d *Doer) putConfigFile(ctx context.Context, n Node, f remote.File) error {
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
		since, err := d.now(ctx, n)
		if err != nil {
			return err
		}
		if err := remote.ReloadUnit(ctx, d.host(n), Unit); err != nil {
			return err
		}
		if err := d.waitMember(ctx, n, since, nil); err != nil {
			return err
		}
		return d.waitTags(ctx, n)
	})
}

// unlock writes the configuration of a node whose Patroni waits for etcd, and
// starts it again: it runs nothing yet that could be disturbed.
func (d *Doer) unlock(n Node) engine.Step {
	return d.step(n, "patroni.unlock", "write "+ConfigPath+" and start Patroni again, which waits for etcd", engine.Safe, func(ctx context.Context) error {
		if err := d.putConfig(ctx, n, false); err != nil {
			return err
		}
		since, err := d.now(ctx, n)
		if err != nil {
			return err
		}
		if err := remote.RestartUnit(ctx, d.host(n), Unit, stopTimeout); err != nil {
			return err
		}
		return d.waitMember(ctx, n, since, nil)
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
	since, err := d.now(ctx, n)
	if err != nil {
		return err
	}
	polls := 0
	return wait.Until(ctx, d.Log, "the database to be initialised", 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		v, exists, err := d.KV.Get(ctx, n.Cluster.initializeKey())
		if err != nil {
			return false, "", err
		}
		if polls++; polls%10 == 0 {
			if err := d.crashed(ctx, n, since); err != nil {
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
		log, err := d.start(ctx, n)
		if err != nil {
			return err
		}
		return d.waitMember(ctx, n, log, nil)
	})
}

// member waits for a node that is starting by itself.
func (d *Doer) member(n Node) engine.Step {
	return d.step(n, "patroni.member", "wait until the node is a running member", engine.Safe, func(ctx context.Context) error {
		if err := d.waitBootstrapped(ctx, n); err != nil {
			return err
		}
		since, err := d.now(ctx, n)
		if err != nil {
			return err
		}
		return d.waitMember(ctx, n, since, nil)
	})
}

// waitMember waits until the node is a running member: the primary, or a
// replica that streams. It gives up on trouble that was logged since, and on
// what hopeless finds, if there is such a thing.
func (d *Doer) waitMember(ctx context.Context, n Node, since moment, hopeless func(context.Context) error) error {
	polls := 0
	return wait.Until(ctx, d.Log, "node "+n.Name+" to be a running member", 250*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		if polls++; polls%12 == 0 {
			if err := d.stuck(ctx, n, since); err != nil {
				return false, "", wait.Never(err)
			}
			if hopeless != nil {
				if err := hopeless(ctx); err != nil {
					return false, "", wait.Never(err)
				}
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
	}
	return Streams(st)
}

// Streams reports whether a node that follows, a standby leader as well, gets WAL as it is
// made, and if not, what it does instead.
func Streams(st NodeStatus) (ok bool, why string) {
	switch {
	case st.ReplicationState == "streaming":
		return true, ""
	case st.ReplicationState == "" && before(st.Patroni.Version, 3, 0, 4) && st.XLog.Received > 0:
		return true, "" // that version does not say whether it streams
	case st.ReplicationState == "":
		return false, "it does not stream yet"
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

// api is the REST API of a node.
func (d *Doer) api(ctx context.Context, n Node) (*API, error) {
	if n.Cluster.Adopted() {
		return d.foreignAPI(ctx, n)
	}
	cfg := APIConfig{Port: n.Cluster.APIPort, Authority: d.Known.Authority, User: n.Cluster.Users.API}
	if d.Known.Secrets != nil {
		cfg.Password = d.Known.Secrets.API
	}
	if d.Known.Next != nil {
		cfg.Other = d.Known.Next.API
	}
	return NewAPI(d.host(n), cfg)
}

func (d *Doer) status(ctx context.Context, n Node) (NodeStatus, error) {
	a, err := d.api(ctx, n)
	if err != nil {
		return NodeStatus{}, err
	}
	return a.Status(ctx)
}

func (d *Doer) unhold(n Node, names []string) engine.Step {
	return d.step(n, "patroni.unhold", "let "+strings.Join(names, ", ")+" be upgraded again", engine.Safe, func(ctx context.Context) error {
		return remote.Apt{Host: d.host(n), Log: d.Log}.Unhold(ctx, names...)
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
			if err := remote.RemoveFiles(ctx, h, ConfigPath, dropInPath, fencePath, noClusterPath, pgpassPath); err != nil {
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
