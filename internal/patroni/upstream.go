package patroni

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// upstream logs in from a node's host to servers of another cluster, as the node's
// PostgreSQL would: the same account, password, certificate and way through the network. It
// returns the system identifier of the first of the hosts that answers (PostgreSQL's
// streaming replication protocol, IDENTIFY_SYSTEM).
func (d *Doer) upstream(ctx context.Context, n Node, hosts string, port int) (systemID string, err error) {
	res, err := d.host(n).Run(ctx, host.Cmd{
		Name: "postgres.upstream", User: account, Script: remote.Script(scripts, "scripts/upstream.sh"), Timeout: 30 * time.Second,
		Args:  []string{postgres.BinDir(n.major()), hosts, strconv.Itoa(port), n.Cluster.Users.Replication, n.Cluster.AuthorityPath()},
		Stdin: []byte(d.Known.Secrets.Replication + "\n"),
	})
	if err != nil {
		return "", err
	}
	systemID, _, _ = strings.Cut(strings.TrimSpace(string(res.Stdout)), "|")
	if systemID == "" {
		return "", fmt.Errorf("what the servers at %s say of themselves cannot be read: %q", hosts, res.Stdout)
	}
	return systemID, nil
}

// Reaches logs in from a node's host to servers of another cluster, as a standby does, and
// refuses those that have another database.
func (l *Live) Reaches(ctx context.Context, name string, hosts []string, port int) error {
	n, err := l.node(name)
	if err != nil {
		return err
	}
	n.Postgres = strconv.Itoa(l.do.Known.Nodes[name].Major)
	id, err := l.do.upstream(ctx, n, strings.Join(hosts, ","), port)
	if own := l.do.Known.Initialize; err == nil && own != "" && id != own {
		err = fmt.Errorf("the servers at %s have another database (system identifier %s, not %s)", strings.Join(hosts, ","), id, own)
	}
	return err
}

// upstreamPatience is for how long the first node of a standby cluster waits for the
// servers that it is to clone: they may be made by the same apply.
const upstreamPatience = 15 * time.Minute

// waitUpstream waits until the servers let the node in that a standby cluster follows.
// Patroni would give up at its first try, and put aside what it has.
func (d *Doer) waitUpstream(ctx context.Context, n Node, standby map[string]any) error {
	hosts := Text(standby["host"])
	if hosts == "" || n.Cluster.Adopted() {
		return nil
	}
	port := n.Cluster.PostgresPort
	if p, ok := Int(standby["port"]); ok {
		port = int(p)
	}
	bounded, cancel := context.WithTimeout(ctx, upstreamPatience)
	defer cancel()
	err := wait.Until(bounded, d.Log, "the servers at "+hosts+" to let "+n.Name+" clone them", time.Second, func(ctx context.Context) (bool, string, error) {
		_, err := d.upstream(ctx, n, hosts, port)
		var run *host.Error
		if errors.As(err, &run) {
			return false, run.Stderr, nil
		}
		return err == nil, "", err
	})
	if err != nil {
		return &problem.Error{
			Host: n.Target.Name, Step: "clone the primary site", Cause: err, Left: "this node, without data.",
			Do: "make sure that the other site's primary runs, that this host reaches it, and that its allowed_networks cover this host; then apply again.",
		}
	}
	return nil
}
