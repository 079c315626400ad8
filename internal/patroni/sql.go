package patroni

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// statementTimeout bounds one statement. What takes longer is to be a job of the server.
const statementTimeout = 5 * time.Minute

// query asks a node's server over its local socket, as the operating system's
// own user: no password is needed, and it works whatever pg_hba says about
// networks. It returns the rows, with a tab between columns. Name is for the log.
func (d *Doer) query(ctx context.Context, n Node, name, database, statement string) ([]string, error) {
	return d.queryWithin(ctx, n, name, database, statement, statementTimeout)
}

func (d *Doer) queryWithin(ctx context.Context, n Node, name, database, statement string, bound time.Duration) ([]string, error) {
	res, err := d.host(n).Run(ctx, host.Cmd{
		Name: "postgres." + name, User: account, Script: remote.Script(scripts, "scripts/psql.sh", "scripts/query.sh"), Timeout: bound,
		Args: []string{strconv.Itoa(n.Cluster.PostgresPort), socketDir, database}, Stdin: []byte(statement + ";\n"),
	})
	if err != nil {
		return nil, err
	}
	var rows []string
	for line := range strings.Lines(string(res.Stdout)) {
		rows = append(rows, strings.TrimSuffix(line, "\n"))
	}
	return rows, nil
}

// ServerSetting is what a running server says about a parameter.
type ServerSetting struct {
	Value          string
	PendingRestart bool
	Source         string // "configuration file", "command line", ...
}

// is reports whether the server runs with a value. Of archive_command it does not say
// which one it has while archive_mode is off.
func (s ServerSetting) is(name, want string) bool {
	if slices.Contains(ofSockets, strings.ToLower(name)) {
		return s.Source == "configuration file" || postgres.SameSetting(name, s.Value, want)
	}
	return postgres.SameSetting(name, s.Value, want) || strings.EqualFold(name, "archive_command") && s.Value == "(disabled)"
}

// ofSockets are parameters of which a server says what the asking session's socket has: over
// a local one, as here, nothing (PostgreSQL, pqcomm.c, pq_gettcpusertimeout and the like).
var ofSockets = []string{"tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout"}

// serverSettings asks a node's server about parameters.
func (d *Doer) serverSettings(ctx context.Context, n Node, names []string) (map[string]ServerSetting, error) {
	res, err := d.host(n).Run(ctx, host.Cmd{
		Name: "postgres.settings", User: account, Script: remote.Script(scripts, "scripts/psql.sh", "scripts/settings.sh"),
		Args: append([]string{strconv.Itoa(n.Cluster.PostgresPort), socketDir}, names...),
	})
	if err != nil {
		return nil, err
	}
	settings := map[string]ServerSetting{}
	for line := range strings.Lines(string(res.Stdout)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if n := len(f); n >= 4 { // the value may have tabs
			settings[strings.ToLower(f[0])] = ServerSetting{Value: strings.Join(f[1:n-2], "\t"), PendingRestart: f[n-2] == "t", Source: f[n-1]}
		}
	}
	return settings, nil
}
