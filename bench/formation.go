package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// formationGroups are the hosts of a Citus formation: the coordinator's, and those of
// two groups of workers. The first of each has a member of etcd.
var formationGroups = [][]string{{"c1", "c2"}, {"a1", "a2"}, {"b1", "b2"}}

// The database that is distributed, and how Citus has to be pinned.
const (
	distributed  = "shop"
	citusPackage = "postgresql-17-citus"
)

// formation is a Citus formation on a lab's hosts.
type formation struct {
	lab *labhost.Lab
	m   *module
}

// onFormationHosts brings up the hosts of a formation. Where Citus is not among the
// lab's packages, nothing is measured.
func (s *suite) onFormationHosts(ctx context.Context, image labhost.Image, use func(context.Context, *labhost.Lab) error) error {
	return s.onNamed(ctx, image, slices.Concat(formationGroups...), func(ctx context.Context, lab *labhost.Lab) error {
		have, err := lab.Versions(citusPackage)
		if err != nil {
			return err
		}
		if len(have) == 0 {
			return fmt.Errorf("%w: Citus is in no registry, and %s is not in lab/extra-debs (lab/README.md)", errSkip, citusPackage)
		}
		return use(ctx, lab)
	})
}

// newFormation is modules/citus-cluster for a lab's hosts, not yet applied.
func (s *suite) newFormation(lab *labhost.Lab) (*formation, error) {
	v, err := formationVersions(lab)
	if err != nil {
		return nil, err
	}
	m, err := s.newModule(lab.Env()...)
	if err != nil {
		return nil, err
	}
	if err := m.copyFrom("modules/citus-cluster"); err != nil {
		return nil, err
	}
	address := func(host string) string { return lab.Host(host).Addr }
	if err := m.writeJSON("lab.auto.tfvars.json", formationVars(v, network(lab), address)); err != nil {
		return nil, err
	}
	return &formation{lab: lab, m: m}, m.write("lab_override.tf", hostOverride)
}

// citusVersions are what is installed in a formation.
type citusVersions struct {
	versions
	Citus string `json:"citus"`
}

// formationVersions are those of everywhere, and of Citus the oldest.
func formationVersions(lab *labhost.Lab) (v citusVersions, err error) {
	if v.versions, err = versionsOf(lab); err != nil {
		return v, err
	}
	citus, err := lab.Versions(citusPackage)
	if err != nil {
		return v, err
	}
	v.Citus = debver.Upstream(citus[0])
	return v, nil
}

// formationVars are the variables of modules/citus-cluster.
func formationVars(v citusVersions, network string, address func(host string) string) map[string]any {
	groups := map[string]map[string]string{}
	for g, hosts := range formationGroups {
		group := map[string]string{}
		for _, h := range hosts {
			group[h] = address(h)
		}
		groups[strconv.Itoa(g)] = group
	}
	return map[string]any{
		"groups": groups, "database": distributed, "allowed_networks": []string{network}, "versions": v,
	}
}

// apply applies the module, and waits until the formation is complete.
func (f *formation) apply(ctx context.Context) error {
	if _, _, err := f.m.run(ctx, apply...); err != nil {
		return err
	}
	_, err := awaitComplete(ctx, f.complete)
	return err
}

// complete reports whether each group has a primary from which its replica streams, and
// the coordinator knows the primaries and has brought its metadata to them. That it also
// knows the replicas is left to Patroni's next loops: nobody reads from them unless told.
func (f *formation) complete(ctx context.Context) (bool, error) {
	for _, hosts := range formationGroups {
		if ok, err := streams(ctx, f.lab, hosts); err != nil || !ok {
			return false, err
		}
	}
	const query = "select count(*) from pg_dist_node where noderole = 'primary' and isactive and metadatasynced"
	out, err := f.sql(ctx, 0, query)
	return out == strconv.Itoa(len(formationGroups)), err
}

// sql asks the primary of a group, in the distributed database. Each statement is a
// transaction of its own.
func (f *formation) sql(ctx context.Context, group int, statements ...string) (string, error) {
	leader, err := leaderOf(ctx, f.lab, formationGroups[group])
	if err != nil {
		return "", fmt.Errorf("group %d: %w", group, err)
	}
	out := ""
	for _, s := range statements {
		if out, err = sqlIn(ctx, f.lab, leader, distributed, s); err != nil {
			return out, err
		}
	}
	return strings.TrimSpace(out), nil
}

// held is how many shards a group holds.
func (f *formation) held(ctx context.Context, group int) (int, error) {
	out, err := f.sql(ctx, 0, fmt.Sprintf("select count(*) from pg_dist_placement where groupid = %d", group))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(out)
}

// quiet leaves no work behind that would fall into what is measured next: what moves
// have left is removed, and what is in memory written.
func (f *formation) quiet(ctx context.Context) error {
	if _, err := f.sql(ctx, 0, "call citus_cleanup_orphaned_resources()"); err != nil {
		return err
	}
	for g := range formationGroups {
		if _, err := f.sql(ctx, g, "checkpoint"); err != nil {
			return err
		}
	}
	_, err := awaitComplete(ctx, f.complete)
	return err
}

// moves is what the last job of Citus's that moved shards has done.
type moves struct {
	done int
	took time.Duration // by the coordinator's own clock
}

// lastMoves asks the coordinator for them. They are over if the state is "finished".
func (f *formation) lastMoves(ctx context.Context) (state string, m moves, err error) {
	out, err := f.sql(ctx, 0, `select j.state, coalesce(extract(epoch from j.finished_at - j.started_at), 0), (select count(*) from pg_dist_background_task t where t.job_id = j.job_id and t.status = 'done')
from pg_dist_background_job j where j.job_type = 'rebalance' order by j.job_id desc limit 1`)
	if err != nil {
		return "", m, err
	}
	return parseMoves(out)
}

// parseMoves reads what lastMoves was told.
func parseMoves(line string) (state string, m moves, err error) {
	fields := strings.Split(line, "|")
	if len(fields) != 3 {
		return "", m, fmt.Errorf("no job of Citus's: %q", line)
	}
	seconds, err := strconv.ParseFloat(fields[1], 64)
	if err != nil {
		return "", m, err
	}
	m.took = time.Duration(seconds * float64(time.Second))
	m.done, err = strconv.Atoi(fields[2])
	return fields[0], m, err
}
