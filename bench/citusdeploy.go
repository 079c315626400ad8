package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// citusDeploy measures the way from six hosts to a Citus formation in one apply of
// modules/citus-cluster: a coordinator and two groups of workers, each a leader and a
// streaming replica, and etcd on three of the hosts. In turns with it, and in a lab of
// six hosts as well, examples/quickstart on the three that have etcd: one cluster of the
// same versions, without Citus.
//
// The hosts have the packages already, but for Citus: those of the lab share one machine's
// processors, and twice as many that install packages take twice as long there, whoever
// has them do it.
func citusDeploy(ctx context.Context, s *suite, runs int) ([]Result, error) {
	type way struct {
		name   string
		deploy func(context.Context, *labhost.Lab) (time.Duration, error)
		took   samples
	}
	six := &way{name: "the formation", deploy: s.deployFormation}
	three := &way{name: "one cluster", deploy: s.deployOne}
	for i := range runs {
		order := []*way{six, three}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, w := range order {
			err := s.onFormationHosts(ctx, labhost.Warm, func(ctx context.Context, lab *labhost.Lab) error {
				took, err := w.deploy(ctx, lab)
				if err != nil {
					return err
				}
				w.took = append(w.took, took.Seconds())
				s.logf("citus_deploy %d/%d: %s took %.1f s", i+1, runs, w.name, took.Seconds())
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	return []Result{
		six.took.result("citus_deploy", "s").to("citus_deploy_one_cluster", 1.5),
		three.took.result("citus_deploy_one_cluster", "s"),
	}, nil
}

// deployFormation applies modules/citus-cluster to a lab's hosts.
func (s *suite) deployFormation(ctx context.Context, lab *labhost.Lab) (time.Duration, error) {
	f, err := s.newFormation(lab)
	if err != nil {
		return 0, err
	}
	return s.complete("formation.out", s.deployment(ctx, f.m), func() (time.Duration, error) { return awaitComplete(ctx, f.complete) })
}

// deployOne applies examples/quickstart to the first host of each group.
func (s *suite) deployOne(ctx context.Context, lab *labhost.Lab) (time.Duration, error) {
	var hosts []string
	for _, group := range formationGroups {
		hosts = append(hosts, group[0])
	}
	v, err := formationVersions(lab)
	if err != nil {
		return 0, err
	}
	m, err := s.quickstartOn(lab, hosts, v.versions)
	if err != nil {
		return 0, err
	}
	return s.complete("one.out", s.deployment(ctx, m), func() (time.Duration, error) {
		return awaitComplete(ctx, func(ctx context.Context) (bool, error) { return streams(ctx, lab, hosts) })
	})
}
