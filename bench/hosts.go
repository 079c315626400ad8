package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

//go:embed inspect.sh
var inspectScript string

// onHosts brings up three new hosts in a lab of their own, and removes them
// afterwards, whatever happens meanwhile.
func (s *suite) onHosts(ctx context.Context, image labhost.Image, use func(context.Context, *labhost.Lab) error) error {
	return s.onNamed(ctx, image, []string{"pg1", "pg2", "pg3"}, use)
}

// onNamed is onHosts for hosts of these names.
func (s *suite) onNamed(ctx context.Context, image labhost.Image, hosts []string, use func(context.Context, *labhost.Lab) error) error {
	return s.onDatacenters(ctx, image, []labhost.Datacenter{{Name: "dc1", Hosts: hosts}}, use)
}

// onDatacenters is onHosts for hosts in several datacenters.
func (s *suite) onDatacenters(ctx context.Context, image labhost.Image, datacenters []labhost.Datacenter, use func(context.Context, *labhost.Lab) error) (err error) {
	o := labhost.Options{
		Name: fmt.Sprintf("bench-%d", os.Getpid()), Image: image, Ephemeral: true,
		// Far from what labs choose by themselves: one of another user, with
		// another cache, that starts in the same moment could choose the same.
		Net:         fmt.Sprintf("10.%d", 200+os.Getpid()%50),
		Datacenters: datacenters,
	}
	// A run that was killed could not remove its own.
	if err := labhost.DownAbandoned(ctx, o); err != nil {
		s.logf("an abandoned lab could not be removed: %v", err)
	}
	defer func() {
		down, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, labhost.Down(down, o))
	}()
	lab, err := labhost.Up(ctx, o)
	if err != nil {
		return err
	}
	return use(ctx, lab)
}

// versions are what is installed: the oldest that the hosts can get, as
// examples/quickstart has them.
type versions struct {
	Etcd       string `json:"etcd"`
	Patroni    string `json:"patroni"`
	PostgreSQL string `json:"postgresql"`
}

func versionsOf(lab *labhost.Lab) (versions, error) {
	var v versions
	for name, to := range map[string]*string{"etcd-server": &v.Etcd, "patroni": &v.Patroni, "postgresql-17": &v.PostgreSQL} {
		have, err := lab.Versions(name)
		if err != nil {
			return v, err
		}
		if len(have) == 0 {
			return v, fmt.Errorf("the lab has no package %s", name)
		}
		*to = debver.Upstream(have[0])
	}
	return v, nil
}

// network is the one that all hosts of a lab are in.
func network(lab *labhost.Lab) string { return octets(lab) + ".0.0/16" }

// octets are the first two of all of a lab's addresses.
func octets(lab *labhost.Lab) string {
	parts := strings.Split(lab.RunnerAddr, ".")
	return parts[0] + "." + parts[1]
}

// names are those of all of a lab's hosts.
func names(lab *labhost.Lab) []string {
	var list []string
	for _, h := range lab.Hosts() {
		list = append(list, h.Name)
	}
	return list
}

// sql asks the server on a host.
func sql(ctx context.Context, lab *labhost.Lab, host, query string) (string, error) {
	return sqlIn(ctx, lab, host, "postgres", query)
}

// sqlIn asks it in a database.
func sqlIn(ctx context.Context, lab *labhost.Lab, host, database, query string) (string, error) {
	return lab.SSH(ctx, host, "cd / && runuser -u postgres -- psql -XAtqd "+database+" -c '"+strings.ReplaceAll(query, "'", `'\''`)+"'")
}

// streams reports whether exactly one of the hosts has a primary, and that all
// others stream from it, by what the servers themselves say.
func streams(ctx context.Context, lab *labhost.Lab, hosts []string) (bool, error) {
	const query = `select case when pg_is_in_recovery() then -1 else
		(select count(*) from pg_stat_replication where state = 'streaming' and application_name <> 'pg_basebackup') end`
	primaries := 0
	for _, h := range hosts {
		out, err := sql(ctx, lab, h, query)
		switch {
		case err != nil:
			return false, err
		case out == "-1":
		case out != fmt.Sprint(len(hosts)-1):
			return false, nil
		default:
			primaries++
		}
	}
	return primaries == 1, nil
}

// awaitStreaming returns how long after the call the cluster of all hosts was
// complete: zero if it was when first looked at.
func awaitStreaming(ctx context.Context, lab *labhost.Lab) (time.Duration, error) {
	return awaitComplete(ctx, func(ctx context.Context) (bool, error) { return streams(ctx, lab, names(lab)) })
}

// awaitComplete is awaitStreaming for what else there is to wait for.
func awaitComplete(ctx context.Context, complete func(context.Context) (bool, error)) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	begin := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for first := true; ; first = false {
		ok, err := complete(ctx)
		switch {
		case err != nil:
			return 0, err
		case ok && first:
			return 0, nil
		case ok:
			return time.Since(begin), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("the cluster is not complete: %w", ctx.Err())
		}
	}
}

// inspect describes what was built on the hosts, without what differs from one
// lab to the next.
func inspect(ctx context.Context, lab *labhost.Lab) (string, error) {
	var b strings.Builder
	for _, h := range lab.Hosts() {
		out, err := lab.SSH(ctx, h.Name, inspectScript)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "== %s\n%s\n", h.Name, out)
	}
	return strings.ReplaceAll(b.String(), octets(lab)+".", "NET."), nil
}
