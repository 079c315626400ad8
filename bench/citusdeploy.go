package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// processorShare is how much of one of this machine's processors a host of citusDeploy has:
// six of them together leave what Terraform and the provider need on two processors.
const processorShare = 0.2

// citusDeploy measures the way from six hosts to a Citus formation in one apply of
// modules/citus-cluster: a coordinator and two groups of workers, each a leader and a
// streaming replica, and etcd on three of the hosts. In turns with it, and in a lab of
// six hosts as well, examples/quickstart on the three that have etcd: one cluster of the
// same versions, without Citus.
//
// The hosts have all packages already, that of Citus, too. And each has a fixed share of
// a processor, a small one, in both ways alike. Without that, twice as many hosts share
// the same two processors, and take about twice as long whoever has them do it. So the
// ratio says how much groups wait for each other, and what Citus adds: as with hosts that
// are machines of their own. It says nothing about how fast six hosts are on one machine, and
// the seconds are those of slow hosts, not to be compared with other benchmarks'.
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
				if err := s.equip(ctx, lab); err != nil {
					return err
				}
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

// equip installs what the image of the hosts lacks, and slows them down then.
func (s *suite) equip(ctx context.Context, lab *labhost.Lab) error {
	have, err := lab.Versions(citusPackage)
	if err != nil {
		return err
	}
	install := "apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends install " + citusPackage + "=" + have[0]
	for _, host := range names(lab) {
		if _, err := lab.SSH(ctx, host, install); err != nil {
			return fmt.Errorf("installing Citus on %s: %w", host, err)
		}
	}
	return lab.Quota(ctx, processorShare, names(lab)...)
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
