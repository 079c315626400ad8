package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

const patronictl = "patronictl -c /etc/patroni/config.yml "

// leaderOf is which of the hosts, which have a cluster, leads it.
func leaderOf(ctx context.Context, lab *labhost.Lab, hosts []string) (string, error) {
	for _, h := range hosts {
		out, err := sql(ctx, lab, h, "select not pg_is_in_recovery()")
		if err == nil && strings.TrimSpace(out) == "t" {
			return h, nil
		}
	}
	return "", errors.New("there is no leader")
}

// again is how long a switchover is asked for again that Patroni has refused.
const again = time.Minute

// switchover asks Patroni for one in the cluster that the hosts have, and for nothing
// else, waits until all stream again, and returns how long nothing was written. Which
// cluster that is Patroni may have to be told, with a flag.
func switchover(ctx context.Context, lab *labhost.Lab, w *writer.Writer, hosts []string, flag string) (time.Duration, error) {
	leader, err := leaderOf(ctx, lab, hosts)
	if err != nil {
		return 0, err
	}
	candidate := ""
	for _, h := range hosts {
		if h != leader {
			candidate = h
		}
	}
	said := ""
	for begin := time.Now(); !strings.Contains(said, "Successfully"); {
		if time.Since(begin) > again {
			return 0, fmt.Errorf("%s is not made the leader: %s: %w", candidate, said, err)
		}
		// A candidate that has only just come up, or is not yet known to have all that
		// the leader has, is refused.
		w.TakeGap()
		if said, err = lab.SSH(ctx, leader, patronictl+"switchover --force "+flag+" --candidate "+candidate); ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	for ok := false; !ok; {
		if ok, err = streams(ctx, lab, hosts); err != nil {
			ok = false // the former leader is on its way up
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	if err := written(ctx, w); err != nil {
		return 0, err
	}
	gap := w.TakeGap()
	if now, err := leaderOf(ctx, lab, hosts); err != nil {
		return 0, err
	} else if now != candidate {
		return 0, fmt.Errorf("%s leads, and not %s: %s", now, candidate, said)
	}
	return gap, nil
}

// written waits until more rows are: a gap is known when the row that ends it is there.
func written(ctx context.Context, w *writer.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for before := w.Acked(); w.Acked() < before+10; {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("no rows are written any more: %w", ctx.Err())
		}
	}
	return nil
}
