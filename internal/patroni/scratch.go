package patroni

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// scratchTimeout bounds what takes some seconds on an idle host.
const scratchTimeout = 5 * time.Minute

// scratch has the server of the packages that are to be installed load the libraries
// that are in use on the node: one of an extension that was built against another
// minor version may not fit it, and would be noticed only when the node, or the first
// session that needs it, does not start any more.
func (d *Doer) scratch(n Node, t turn) engine.Step {
	title := "load the libraries that are in use into PostgreSQL " + t.wantPostgres + ", in a scratch server"
	if len(t.extensions) > 0 {
		title = "load the new libraries of extensions, and the others that are in use, into PostgreSQL " + t.wantPostgres + ", in a scratch server"
	}
	return d.step(n, "patroni.scratch", title, engine.Safe, func(ctx context.Context) error {
		args := []string{strconv.Itoa(n.major()), strconv.Itoa(n.Cluster.PostgresPort), socketDir}
		for _, pin := range t.pins {
			if pin.Name != patroniPackage {
				args = append(args, pin.String())
			}
		}
		_, err := d.host(n).Run(ctx, host.Cmd{Name: "postgres.scratch", Script: remote.Script(scripts, "scripts/psql.sh", "scripts/scratch.sh"), Args: args, Timeout: scratchTimeout})
		var e *host.Error
		errors.As(err, &e)
		switch host.ExitCode(err) {
		case 65:
		case 66:
			d.Log.WarnContext(ctx, "unable to try the libraries beforehand", "host", n.Target.Name, "because", strings.TrimSpace(e.Stderr))
			return nil
		default:
			return err
		}
		return &problem.Error{
			Cause: fmt.Errorf("libraries that are in use do not load into PostgreSQL %s", t.wantPostgres), Log: strings.Split(strings.TrimSpace(e.Stderr), "\n"),
			Left: "the node, running as it was: the packages are not installed.",
			Do:   "pin a build of the extension that fits (versions.extensions), or stay with the version; then apply again.",
		}
	})
}
