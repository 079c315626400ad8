package patroni

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// moment is where a host was when waiting for it began. What was said before is
// about an earlier attempt, which may be the very thing that was mended since;
// and a unit that ended now and then in the past year is not in trouble.
type moment struct {
	journal  string
	restarts int
}

// now is the moment before something is done to a unit.
func (d *Doer) now(ctx context.Context, n Node) (moment, error) {
	end, err := remote.JournalEnd(ctx, d.host(n))
	if err != nil {
		return moment{}, err
	}
	var p remote.Probe
	p.Unit(Unit)
	f, err := p.Run(ctx, d.host(n))
	if err != nil {
		return moment{}, err
	}
	return moment{journal: end, restarts: f.Unit(Unit).Restarts}, nil
}

// start starts Patroni and returns the moment before.
func (d *Doer) start(ctx context.Context, n Node) (moment, error) {
	before, err := d.now(ctx, n)
	if err != nil {
		return moment{}, err
	}
	return before, remote.StartUnit(ctx, d.host(n), Unit)
}

// bootstrapFailed looks for the end that Patroni's log puts under a failed
// bootstrap: it moves the data away and would try again for ever.
func (d *Doer) bootstrapFailed(ctx context.Context, n Node, since moment) error {
	if err := d.crashed(ctx, n, since); err != nil {
		return err
	}
	lines, err := remote.Journal(ctx, d.host(n), Unit, 200, since.journal)
	if err != nil {
		return nil
	}
	if err := d.noEtcd(n, lines); err != nil {
		return err
	}
	for _, l := range lines {
		if strings.Contains(l, "removing initialize key after failed attempt to bootstrap") {
			_ = remote.StopUnit(context.WithoutCancel(ctx), d.host(n), Unit, time.Minute)
			left, do := "what there was of the database is beside "+n.DataDir+", with .failed in its name.", "mend what the log names (often a parameter that PostgreSQL does not start with), then apply again."
			if slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "Could not rename data directory") }) {
				// The folder above is root's. What stays would be taken for a database.
				_, err := d.host(n).Run(context.WithoutCancel(ctx), host.Cmd{
					Name: "postgres.aside", Script: remote.Script(scripts, "scripts/data_aside.sh"), Args: []string{n.DataDir},
				})
				if err != nil {
					left = "in " + n.DataDir + " is a database that never became one, and it could not be put aside: " + err.Error()
					do = "mend what the log names (often a parameter that PostgreSQL does not start with), move " + n.DataDir + " away on the host, then apply again."
				}
			}
			return &problem.Error{
				Host: n.Target.Name, Cause: errors.New("the database could not be initialised"), Log: telling(lines),
				Left: "Patroni, stopped; " + left, Do: do,
			}
		}
	}
	return nil
}

// stuck looks for what waiting longer will not mend.
func (d *Doer) stuck(ctx context.Context, n Node, since moment) error {
	if err := d.crashed(ctx, n, since); err != nil {
		return err
	}
	lines, err := remote.Journal(ctx, d.host(n), Unit, 200, since.journal)
	if err != nil {
		return nil
	}
	if err := d.noEtcd(n, lines); err != nil {
		return err
	}
	if inVain(lines) >= 3 {
		return &problem.Error{
			Host: n.Target.Name, Cause: errors.New("PostgreSQL ends while it starts, again and again"), Log: telling(lines),
			Left: "Patroni, which goes on trying, and the data.", Do: "mend what the log names (often a setting that PostgreSQL does not start with), then apply again.",
		}
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

// inVain counts how often PostgreSQL has ended by itself while it started. A FATAL
// alone says nothing: who connects too early gets one, and a replica's receiver ends
// with one when the leader goes.
func inVain(lines []string) int {
	n := 0
	for _, l := range lines {
		if strings.Contains(l, "due to startup process failure") || strings.Contains(l, "FATAL") && strings.Contains(l, "configuration file") && strings.Contains(l, "contains errors") {
			n++
		}
	}
	return n
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
		case strings.Contains(l, "Failed to get list of machines"), strings.Contains(l, "Selected new etcd server"), strings.Contains(l, "Trying to authenticate"):
			// said in between
		default:
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
func (d *Doer) crashed(ctx context.Context, n Node, since moment) error {
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
	again := u.Restarts
	if again >= since.restarts { // else systemd has begun to count anew
		again -= since.restarts
	}
	cause := ""
	switch {
	case u.Active == "failed":
		cause = fmt.Sprintf("%s has failed (%s)", Unit, u.Result)
	case again >= 3:
		cause = fmt.Sprintf("%s ends again and again (%d times so far)", Unit, again)
	case u.Active == "inactive":
		cause = Unit + " is not running"
	default:
		return nil
	}
	lines, _ := remote.Journal(ctx, d.host(n), Unit, 60, since.journal)
	return &problem.Error{
		Host: n.Target.Name, Cause: errors.New(cause), Log: telling(lines), Do: "mend what the log names, then apply again.",
	}
}

// telling picks the lines of a log that say what is wrong, or the last ones if
// none does.
func telling(lines []string) []string {
	var picked []string
	for _, l := range lines {
		for _, word := range []string{"FATAL", "CRITICAL", "ERROR", "PANIC", "HINT", "DETAIL", "Exception", "Error: ", "pg_basebackup: error", "mismatch"} {
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
