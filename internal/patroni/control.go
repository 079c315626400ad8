package patroni

import (
	"context"
	"encoding/json"
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

// Control is what pg_controldata says about a data directory.
type Control struct {
	SystemID string
	State    string // "shut down", "shut down in recovery", "in production", ...
	Timeline int64
	// Checkpoint is the location of the latest checkpoint, MinRecovery the
	// least location to which a standby has replayed. Both in bytes.
	Checkpoint, MinRecovery int64
}

// parseControl reads pg_controldata's output.
func parseControl(text string) Control {
	var c Control
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Database system identifier":
			c.SystemID = value
		case "Database cluster state":
			c.State = value
		case "Latest checkpoint location":
			c.Checkpoint = lsn(value)
		case "Minimum recovery ending location":
			c.MinRecovery = lsn(value)
		case "Latest checkpoint's TimeLineID":
			c.Timeline, _ = strconv.ParseInt(value, 10, 64)
		}
	}
	return c
}

// lsn reads a location such as "0/5082820" as a number of bytes, 0 if it is
// none.
func lsn(text string) int64 {
	high, low, ok := strings.Cut(text, "/")
	h, err1 := strconv.ParseInt(high, 16, 64)
	l, err2 := strconv.ParseInt(low, 16, 64)
	if !ok || err1 != nil || err2 != nil {
		return 0
	}
	return h<<32 | l
}

// formatLSN is the other way round.
func formatLSN(n int64) string { return fmt.Sprintf("%X/%X", n>>32, n&0xffffffff) }

// control reads the data directory of a node whose server does not run.
func (d *Doer) control(ctx context.Context, n Node) (Control, error) {
	res, err := d.host(n).Run(ctx, host.Cmd{
		Name: "postgres.control", User: account, Script: remote.Script(scripts, "scripts/control.sh"),
		Args: []string{postgres.BinDir(n.major()), n.DataDir},
	})
	if err != nil {
		return Control{}, err
	}
	return parseControl(string(res.Stdout)), nil
}

// MayLead says whether a stopped node may be started while nobody leads, and if
// not, why. Patroni itself lets any node take over that is not further behind
// than maximum_lag_on_failover: after a shutdown of the whole cluster, the
// first one to come back would throw away what only the last leader has. So
// only a node that has everything starts first; the others wait for it.
func (k Known) MayLead(c Control) (bool, string) {
	if k.Initialize != "" && c.SystemID != k.Initialize {
		return false, fmt.Sprintf("its data belongs to another cluster (system identifier %s, not %s)", c.SystemID, k.Initialize)
	}
	if tl := k.timeline(); c.Timeline < tl {
		return false, fmt.Sprintf("it is on timeline %d, and the cluster was on %d", c.Timeline, tl)
	}
	switch c.State {
	case "shut down":
		if c.Checkpoint < k.Status.Optime {
			return false, fmt.Sprintf("it was shut down at %s, and the last leader reached %s", formatLSN(c.Checkpoint), formatLSN(k.Status.Optime))
		}
		return true, ""
	case "in production":
		return true, "" // the primary at the time of a crash
	}
	if has := max(c.Checkpoint, c.MinRecovery); has < k.Status.Optime || k.Status.Optime == 0 {
		return false, fmt.Sprintf("it has replayed up to %s, and the last leader reached %s", formatLSN(has), formatLSN(k.Status.Optime))
	}
	return true, ""
}

// timeline is the cluster's latest timeline by Patroni's history, 0 if there is
// none yet.
func (k Known) timeline() int64 {
	if len(k.History) == 0 {
		return 0
	}
	last := k.History[len(k.History)-1]
	if len(last) == 0 {
		return 0
	}
	var tl int64
	_ = json.Unmarshal(last[0], &tl)
	return tl + 1
}

// leaderPatience is how long a node that must not lead waits for one that may.
const leaderPatience = 5 * time.Minute

// waitTurn waits until a node with data may start: there is a leader, or the
// node has everything that the last leader had.
func (d *Doer) waitTurn(ctx context.Context, n Node) error {
	k, err := n.Cluster.Load(ctx, d.KV)
	if err != nil {
		return err
	}
	if k.Leader != "" {
		return nil
	}
	c, err := d.control(ctx, n)
	if err != nil {
		return err
	}
	why := ""
	bounded, cancel := context.WithTimeout(ctx, leaderPatience)
	defer cancel()
	err = wait.Until(bounded, d.Log, "a node to lead that has all data", 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		k, err := n.Cluster.Load(ctx, d.KV)
		if err != nil {
			return false, "", err
		}
		if k.Leader != "" {
			return true, "", nil
		}
		var ok bool
		ok, why = k.MayLead(c)
		return ok, why, nil
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	return &problem.Error{
		Host: n.Target.Name, Cause: errors.Join(fmt.Errorf("the cluster has no leader, and %s must not become it: %s", n.Name, why), err),
		Left: "this node and its data, stopped.",
		Do: "start the node that led last. If its data is lost for good, accept the loss by starting Patroni here by hand (systemctl start " +
			Unit + "), then apply again.",
	}
}
