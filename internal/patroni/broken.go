package patroni

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// beyondRepair are the lines with which PostgreSQL says that a replica's data
// will never again follow the leader, whatever is waited for (PostgreSQL's
// source: xlogrecovery.c, walsender.c, controldata_utils.c, relmapper.c). What
// a wrong parameter or a full disk makes it say is not among them: a new clone
// would not mend that.
var beyondRepair = []*regexp.Regexp{
	// The leader no longer has what it lacks: its slot was lost.
	regexp.MustCompile(`requested WAL segment \w+ has already been removed`),
	regexp.MustCompile(`can no longer (get changes from|access) replication slot`),
	// It has what the leader never had.
	regexp.MustCompile(`requested (starting point|timeline) .* is not (in|a child of) this server's history`),
	regexp.MustCompile(`new timeline \d+ forked off current database system timeline`),
	regexp.MustCompile(`highest timeline \d+ of the primary is behind recovery timeline`),
	// What it has is damaged.
	regexp.MustCompile(`could not (locate|find) a (valid|required) checkpoint record`),
	regexp.MustCompile(`could not locate required checkpoint record`),
	regexp.MustCompile(`WAL contains references to invalid pages`),
	regexp.MustCompile(`control file (contains invalid|appears to be corrupt)|incorrect checksum in control file`),
	regexp.MustCompile(`could not (open|read) (control )?file "(global/|base/|pg_xact/|PG_VERSION)[^"]*": (No such file|read \d+ of \d+)`),
	regexp.MustCompile(`relation mapping file .* contains (invalid data|incorrect checksum)`),
}

// damage returns the newest line that says that a replica is beyond repair.
func damage(lines []string) string {
	for i := len(lines) - 1; i >= 0; i-- {
		for _, r := range beyondRepair {
			if r.MatchString(lines[i]) {
				return strings.TrimSpace(lines[i])
			}
		}
	}
	return ""
}

// recentLines is how far back a log is asked: Patroni and the WAL receiver try
// again every few seconds, so what is still wrong is said again and again.
const recentLines = 90 * time.Second

// broken says why a running node's replica cannot recover by itself, or nothing.
// A leader is never broken in this sense, nor a replica that has nobody to
// clone from.
func (d *Doer) broken(ctx context.Context, n Node, st NodeStatus) (string, error) {
	if ok, _ := Running(st); ok || st.Primary() || strings.HasPrefix(st.State, "creating replica") {
		return "", nil
	}
	a, err := d.api(ctx, n)
	if err != nil {
		return "", err
	}
	view, err := a.Cluster(ctx)
	if err != nil {
		return "", err
	}
	leader, ok := view.Leader()
	if !ok || leader.Name == n.Name || !leader.Serves() {
		return "", nil
	}
	res, err := d.host(n).Run(ctx, host.Cmd{
		Name: "postgres.log", Script: remote.Script(scripts, "scripts/log_recent.sh"),
		Args: []string{Unit, n.DataDir, strconv.Itoa(int(recentLines / time.Second)), "300"},
	})
	if err != nil {
		return "", err
	}
	return damage(strings.Split(string(res.Stdout), "\n")), nil
}

// reinitialiseTitle begins the title of the step that replaces a replica's data.
const reinitialiseTitle = "delete the replica's data and clone it again"

// Announced reports whether one of the lines of drift is that a replica will be
// cloned again. Only what a plan has shown is done.
func Announced(drift []string) bool {
	for _, l := range drift {
		if strings.Contains(l, reinitialiseTitle) {
			return true
		}
	}
	return false
}

// unannounced is what an apply says that finds a broken replica of which the
// plan knew nothing.
func unannounced(n Node, why string) error {
	return &problem.Error{
		Host: n.Target.Name, Step: "look at the replica", Cause: fmt.Errorf("the replica cannot recover by itself (%s), and the plan did not say that its data would be replaced", why),
		Left: "the replica and its data, as they are.", Do: "plan again: the plan then shows it, and applying that plan clones the replica anew.",
	}
}

// reinitialise has Patroni throw away a replica's data and clone it again. The
// request is sent once; what came of it the node itself is asked.
func (d *Doer) reinitialise(n Node, why string) engine.Step {
	return d.step(n, "patroni.reinitialise", reinitialiseTitle+", because it cannot recover by itself: "+why, engine.Destructive, func(ctx context.Context) error {
		a, err := d.api(ctx, n)
		if err != nil {
			return err
		}
		since, err := d.now(ctx, n)
		if err != nil {
			return err
		}
		// It may have recovered, been cloned, or become the leader meanwhile.
		st, err := a.Status(ctx)
		if err != nil {
			return err
		}
		still, err := d.broken(ctx, n, st)
		if err != nil {
			return err
		}
		if still != "" {
			if err := d.cloneAgain(ctx, n, st); err != nil {
				return err
			}
		}
		return d.waitMember(ctx, n, since, nil)
	})
}

// cloneAgain asks for the clone once, and returns when it has begun. Before is what
// the node said of itself.
func (d *Doer) cloneAgain(ctx context.Context, n Node, before NodeStatus) error {
	a, err := d.api(ctx, n)
	if err != nil {
		return err
	}
	err = a.do(ctx, quick, http.MethodPost, "/reinitialize", map[string]any{"force": true}, nil)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return err
	}
	return d.waitCloning(ctx, n, before)
}

// waitCloning waits until a node does something else than before.
func (d *Doer) waitCloning(ctx context.Context, n Node, before NodeStatus) error {
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := wait.Until(bounded, d.Log, "Patroni to begin the clone", 200*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		st, err := d.status(ctx, n)
		if err != nil {
			return false, "its Patroni does not answer", nil
		}
		// A small database may have been cloned since it was asked last.
		return st.State != before.State || st.ReplicationState != before.ReplicationState || st.PostmasterStart != before.PostmasterStart, "PostgreSQL is " + st.State, nil
	})
	if err != nil && ctx.Err() == nil {
		return &problem.Error{
			Host: n.Target.Name, Cause: fmt.Errorf("Patroni was told to clone the replica again and has not begun to: %w", err),
			Left: "the replica as it was.", Do: "see Patroni's log on the host, then apply again.",
		}
	}
	return err
}
