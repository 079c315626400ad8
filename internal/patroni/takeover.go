package patroni

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// TakeOver names a database that runs already and that becomes the cluster's:
// Debian's own cluster on the host of a node. No other node makes a database.
type TakeOver struct {
	Node   string `json:"node"`
	Debian string `json:"cluster"` // "17/main"
}

// takesOver reports whether a node's database is to be the one that runs on its
// host already.
func (n Node) takesOver() bool {
	return n.Cluster.TakeOver.Node != "" && n.Cluster.TakeOver.Node == n.Name
}

// Standalone is a cluster of Debian's own.
type Standalone struct {
	Online   bool
	Port     int
	DataDir  string
	SystemID string
	Standby  bool
	Version  int // server_version_num
	Replicas int // that stream from it
	// Now are the parameters that Patroni controls, as they are.
	Now map[string]string
	// Set is what its configuration files say.
	Set map[string]string
	HBA []string // the lines of pg_hba.conf that say something
}

// standalone looks at the cluster of Debian's that a node takes over. It is nil
// if there is none.
func (d *Doer) standalone(ctx context.Context, n Node) (*Standalone, error) {
	major, name, _ := strings.Cut(n.Cluster.TakeOver.Debian, "/")
	res, err := d.host(n).Run(ctx, host.Cmd{
		Name: "postgres.takeover", User: account, Script: remote.Script(scripts, "scripts/psql.sh", "scripts/takeover_look.sh"), Args: []string{major, name}, Sensitive: true,
	})
	if err != nil {
		return nil, err
	}
	return parseStandalone(string(res.Stdout))
}

func parseStandalone(text string) (*Standalone, error) {
	s := &Standalone{Now: map[string]string{}, Set: map[string]string{}}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		kind, name, listed := strings.Cut(key, ".")
		plain := value
		if listed || key == "hba" {
			b, err := base64.StdEncoding.DecodeString(value)
			if err != nil {
				return nil, fmt.Errorf("unexpected answer about the database that is to be taken over: %w", err)
			}
			plain = string(b)
		}
		switch {
		case kind == "now" && listed:
			s.Now[name] = plain
		case kind == "set" && listed:
			s.Set[name] = plain
		case key == "port":
			s.Port, _ = strconv.Atoi(value)
		case key == "status":
			s.Online = strings.HasPrefix(value, "online")
		case key == "data":
			s.DataDir = value
		case key == "system":
			s.SystemID = value
		case key == "standby":
			s.Standby = value == "true"
		case key == "version":
			s.Version, _ = strconv.Atoi(value)
		case key == "replicas":
			s.Replicas, _ = strconv.Atoi(value)
		case key == "hba":
			for l := range strings.Lines(plain) {
				if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
					s.HBA = append(s.HBA, strings.Join(strings.Fields(l), " "))
				}
			}
		}
	}
	if s.DataDir == "" {
		return nil, nil
	}
	return s, nil
}

// elsewhere are settings that say where a Debian cluster is, or what Patroni says
// itself: they are not taken along.
var elsewhere = []string{
	"data_directory", "hba_file", "ident_file", "config_file", "external_pid_file", "listen_addresses", "port", "unix_socket_directories", "cluster_name",
	"ssl", "ssl_cert_file", "ssl_key_file", "ssl_ca_file", "primary_conninfo", "primary_slot_name", "synchronous_standby_names", "hot_standby",
	"max_connections", "max_worker_processes", "max_prepared_transactions", "max_locks_per_transaction", "max_wal_senders", "max_replication_slots",
	"wal_level", "wal_log_hints", "track_commit_timestamp", "wal_keep_size", "recovery_target", "recovery_target_timeline",
}

// conf is the file with the database's settings in its own directory, where
// replicas find it, too.
func (s *Standalone) conf(dir string) remote.File {
	var b strings.Builder
	b.WriteString("# Written by the pgha provider: the settings that this database had as a cluster of Debian's own.\n")
	for _, name := range sortedKeys(s.Set) {
		if !slices.Contains(elsewhere, name) {
			fmt.Fprintf(&b, "%s = '%s'\n", name, strings.NewReplacer(`\`, `\\`, `'`, `''`, "\n", `\n`).Replace(s.Set[name]))
		}
	}
	return remote.File{Path: dir + "/postgresql.conf", Content: []byte(b.String()), Owner: account, Group: account, Mode: "0600"}
}

// walLevels in rising order.
var walLevels = []string{"minimal", "replica", "hot_standby", "logical"}

// lowered lists the parameters that Patroni controls and that the database would
// have less of than now, as lines of a configuration that keeps them.
func (s *Standalone) lowered(config Document) []string {
	defaults := map[string]string{
		"max_connections": "100", "max_worker_processes": "8", "max_prepared_transactions": "0", "max_locks_per_transaction": "64", "max_wal_senders": "10",
		"max_replication_slots": "10", "wal_level": "replica",
	}
	flat := config.Flatten()
	var lines []string
	for _, name := range sortedKeys(defaults) {
		have, want := s.Now[name], defaults[name]
		if v, ok := flat[Parameter(name)]; ok {
			want = Text(v)
		}
		less := false
		if name == "wal_level" {
			less = slices.Index(walLevels, want) < slices.Index(walLevels, have)
		} else {
			h, ok1 := Int(have)
			w, ok2 := Int(want)
			less = ok1 && ok2 && w < h
		}
		if less {
			lines = append(lines, fmt.Sprintf("%s = %q", name, have))
		}
	}
	return lines
}

// checkTakeOver says why a database cannot be taken over.
func (p *nodePlanner) checkTakeOver() error {
	n, s := p.n, p.f.Standalone
	refuse := func(cause, do string) error {
		return &problem.Error{Host: n.Target.Name, Step: "look at the database that is to be taken over", Cause: errors.New(cause), Left: "the database, as it was.", Do: do}
	}
	name := n.Cluster.TakeOver.Debian
	switch {
	case s == nil:
		return refuse("there is no cluster "+name+" on this host", "see pg_lsclusters on the host, and correct take_over.")
	case s.DataDir != n.DataDir:
		return refuse(fmt.Sprintf("the data of %s is in %s, and the node's data_directory is %s", name, s.DataDir, n.DataDir), fmt.Sprintf("set data_directory = %q on the node.", s.DataDir))
	case !s.Online && p.f.Marker == nil:
		return refuse(name+" does not run, and only a running database says what it runs with", "start it (pg_ctlcluster "+strings.ReplaceAll(name, "/", " ")+" start), then apply again.")
	case !s.Online:
		return nil // an apply that was cut off has stopped it
	case s.Standby:
		return refuse(name+" is a standby", "take its primary over, and make it a node: it is then cloned.")
	case s.Port != n.Cluster.PostgresPort:
		return refuse(fmt.Sprintf("%s listens on port %d, and the cluster's postgresql_port is %d", name, s.Port, n.Cluster.PostgresPort), fmt.Sprintf("set postgresql_port = %d on the cluster.", s.Port))
	}
	if have := p.f.Facts.Package(n.serverPackage()).Version; !debver.Matches(n.Postgres, have) {
		return refuse(fmt.Sprintf("%s is installed in version %s, and version %s is wanted", n.serverPackage(), have, n.Postgres), fmt.Sprintf("pin versions.postgresql = %q.", debver.Upstream(have)))
	}
	for _, pin := range n.extensions() {
		if have := p.f.Facts.Package(pin.Name); have.Installed && !debver.Matches(pin.Version, have.Version) {
			return refuse(fmt.Sprintf("%s is installed in version %s, and version %s is wanted", pin.Name, have.Version, pin.Version), fmt.Sprintf("pin it to %q.", debver.Upstream(have.Version)))
		}
	}
	if p.k != nil {
		if lines := s.lowered(p.k.Config); len(lines) > 0 {
			return refuse("the cluster's configuration gives it less than it has", "put into postgresql.parameters of the cluster: "+strings.Join(lines, ", ")+".")
		}
	}
	return nil
}

// takeOver are the steps from Debian's unit to Patroni's.
func (p *nodePlanner) takeOver() engine.Plan {
	n, s, do := p.n, p.f.Standalone, p.do
	name := n.Cluster.TakeOver.Debian
	return engine.Sequence(
		do.step(n, "patroni.takeover.prepare", "write "+s.conf(n.DataDir).Path+" with the settings of "+name+", and make Patroni's accounts", engine.Safe, func(ctx context.Context) error {
			return do.prepareTakeOver(ctx, n, s)
		}),
		do.step(n, "patroni.takeover.stop", "stop Debian's cluster "+name+", which Patroni then starts: PostgreSQL restarts once", engine.Restart, func(ctx context.Context) error {
			if _, err := do.query(ctx, n, "checkpoint", "postgres", "checkpoint"); err != nil {
				do.Log.InfoContext(ctx, "no checkpoint before the stop", "node", n.Name, "error", err)
			}
			major, cluster, _ := strings.Cut(name, "/")
			_, err := do.host(n).Run(ctx, host.Cmd{
				Name: "postgres.takeover.stop", Script: remote.Script(scripts, "scripts/takeover_stop.sh"), Args: []string{major, cluster}, Timeout: stopTimeout,
			})
			return err
		}),
		do.startWithData(n),
	)
}

// How long the other nodes wait for the one that takes its database over: until
// it has begun (the one that is refused never does), and until it is done.
const (
	takeOverBegins = time.Minute
	takeOverTakes  = stopTimeout + 5*time.Minute
)

// takeOverLate says that waiting for the database any longer is in vain.
func takeOverLate(c Cluster, k Known, waited time.Duration) error {
	_, begun := k.Nodes[c.TakeOver.Node]
	if waited < takeOverBegins || begun && waited < takeOverTakes {
		return nil
	}
	return wait.Never(&problem.Error{
		Cause: fmt.Errorf("the database of node %s is to be taken over first, and that has not happened in %s", c.TakeOver.Node, waited.Round(time.Second)),
		Left:  "this node, stopped and without data.", Do: "see why node " + c.TakeOver.Node + " was not applied, mend that, then apply again.",
	})
}

// prepareTakeOver makes what Patroni finds where it has made the database itself:
// a configuration file in the data directory, and its accounts.
func (d *Doer) prepareTakeOver(ctx context.Context, n Node, s *Standalone) error {
	conf := s.conf(n.DataDir)
	var p remote.Probe
	p.Path(conf.Path).Path(n.DataDir + "/pg_ident.conf").Content("/etc/postgresql/" + n.Cluster.TakeOver.Debian + "/pg_ident.conf")
	f, err := p.Run(ctx, d.host(n))
	if err != nil {
		return err
	}
	if !conf.Same(f.Path(conf.Path)) {
		if err := remote.WriteFile(ctx, d.host(n), conf); err != nil {
			return err
		}
	}
	if ident := n.DataDir + "/pg_ident.conf"; !f.Path(ident).Exists() {
		content := f.Path("/etc/postgresql/" + n.Cluster.TakeOver.Debian + "/pg_ident.conf").Content
		if err := remote.WriteFile(ctx, d.host(n), remote.File{Path: ident, Content: content, Owner: account, Group: account, Mode: "0600"}); err != nil {
			return err
		}
	}
	return d.makeAccounts(ctx, n)
}

// makeAccounts makes the accounts that Patroni makes in a database of its own
// (Patroni, postgresql/bootstrap.py, post_bootstrap), with the cluster's passwords.
func (d *Doer) makeAccounts(ctx context.Context, n Node) error {
	u, s := n.Cluster.Users, d.Known.Secrets
	verifier := func(password string) string {
		if made, ok := postgres.ScramVerifier(password); ok {
			return quoteLiteral(made)
		}
		return quoteLiteral(password)
	}
	var b strings.Builder
	b.WriteString("set password_encryption = 'scram-sha-256';\nset synchronous_commit = local;\nbegin;\n")
	for _, a := range []struct{ name, options, password string }{{u.Replication, "login replication", s.Replication}, {u.Rewind, "login", s.Rewind}} {
		fmt.Fprintf(&b, "do $do$ begin if not exists (select from pg_roles where rolname = %s) then create role %s; end if; end $do$;\n", quoteLiteral(a.name), quoteIdentifier(a.name))
		fmt.Fprintf(&b, "alter role %s with %s password %s;\n", quoteIdentifier(a.name), a.options, verifier(a.password))
	}
	fmt.Fprintf(&b, "alter role %s with password %s;\n", quoteIdentifier(u.Superuser), verifier(s.Superuser))
	for _, f := range []string{"pg_ls_dir(text, boolean, boolean)", "pg_stat_file(text, boolean)", "pg_read_binary_file(text)", "pg_read_binary_file(text, bigint, bigint, boolean)"} {
		fmt.Fprintf(&b, "grant execute on function pg_catalog.%s to %s;\n", f, quoteIdentifier(u.Rewind))
	}
	b.WriteString("commit;\n")
	_, err := d.roles(ctx, n, b.String())
	return err
}

// PreviewTakeOver says what taking over a database does to it, for the plan of a
// node that does not exist yet. It needs neither etcd nor secrets.
func (m *Manager) PreviewTakeOver(ctx context.Context, n Node) ([]string, error) {
	d := &Doer{Fleet: m.Fleet, Log: m.Log, Redact: m.Redact}
	f, err := ProbeNode(ctx, m.Fleet.Host(n.Target), n)
	if err != nil {
		return nil, err
	}
	if f.Marker != nil {
		return nil, nil // it was begun: the steps that are left are those of any node
	}
	if f.Standalone, err = d.standalone(ctx, n); err != nil {
		return nil, err
	}
	p := nodePlanner{n: n, f: f, do: d}
	if err := p.checkTakeOver(); err != nil {
		return nil, err
	}
	s := f.Standalone
	lines := []string{fmt.Sprintf("%s: PostgreSQL restarts once: Debian's cluster %s is stopped, and Patroni starts the same database in %s.", n.Target.Name, n.Cluster.TakeOver.Debian, s.DataDir)}
	if keep := s.lowered(Document{}); len(keep) > 0 {
		lines = append(lines, "It has more than Patroni's defaults of some parameters. The apply is refused unless postgresql.parameters of the cluster has at least: "+strings.Join(keep, ", ")+".")
	}
	lines = append(lines, fmt.Sprintf("The accounts %s and %s are made if they are not there, and their passwords and that of %s become the cluster's.", n.Cluster.Users.Replication, n.Cluster.Users.Rewind, n.Cluster.Users.Superuser))
	lines = append(lines, "pg_hba.conf becomes the cluster's (allowed_networks, or postgresql.pg_hba). It has now:")
	for _, l := range s.HBA {
		lines = append(lines, "  "+l)
	}
	if s.Replicas > 0 {
		lines = append(lines, fmt.Sprintf("%d standbys stream from it now. They are cut off unless they can log in as before and their slots are in slots of the cluster.", s.Replicas))
	}
	return lines, nil
}
