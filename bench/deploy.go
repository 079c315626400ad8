package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// deploy measures the way from bare hosts to a leader and two streaming
// replicas: examples/quickstart, applied, and the yardstick, in turns and each
// on hosts of its own that have nothing but Debian. Both have to leave the same
// behind, or the comparison would be worth nothing.
func deploy(ctx context.Context, s *suite, runs int) ([]Result, error) {
	type way struct {
		name   string
		deploy func(context.Context, *labhost.Lab) (time.Duration, error)
		took   samples
		left   string
	}
	provider := &way{name: "the provider", deploy: s.deployWithProvider}
	shell := &way{name: "the shell script", deploy: s.deployWithShell}
	for i := range runs {
		order := []*way{provider, shell}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, w := range order {
			err := s.onHosts(ctx, labhost.Bare, func(ctx context.Context, lab *labhost.Lab) error {
				took, err := w.deploy(ctx, lab)
				if err != nil {
					return err
				}
				w.took = append(w.took, took.Seconds())
				s.logf("deploy_3_nodes %d/%d: %s took %.1f s", i+1, runs, w.name, took.Seconds())
				w.left, err = inspect(ctx, lab)
				return err
			})
			if err != nil {
				return nil, fmt.Errorf("with %s: %w", w.name, err)
			}
		}
		if diff := cmp.Diff(provider.left, shell.left); diff != "" {
			return nil, fmt.Errorf("the provider (-) and the shell script (+) have not built the same:\n%s", diff)
		}
	}
	return []Result{
		provider.took.result("deploy_3_nodes", "s").to("deploy_3_nodes_shell", 1.1),
		shell.took.result("deploy_3_nodes_shell", "s"),
	}, nil
}

// deployWithProvider applies examples/quickstart to a lab's hosts.
func (s *suite) deployWithProvider(ctx context.Context, lab *labhost.Lab) (time.Duration, error) {
	m, err := s.quickstart(lab)
	if err != nil {
		return 0, err
	}
	return s.complete("provider.out", s.deployment(ctx, m), func() (time.Duration, error) { return awaitStreaming(ctx, lab) })
}

// deployment is the apply of a module. Its progress file is kept, if anything is.
func (s *suite) deployment(ctx context.Context, m *module) *exec.Cmd {
	cmd := m.command(ctx, apply...)
	if s.logs != "" {
		cmd.Env = append(cmd.Env, "PGHA_PROGRESS_FILE="+s.logFile("provider.progress"))
	}
	return cmd
}

// quickstart is examples/quickstart for a lab's hosts.
func (s *suite) quickstart(lab *labhost.Lab) (*module, error) {
	v, err := versionsOf(lab)
	if err != nil {
		return nil, err
	}
	return s.quickstartOn(lab, names(lab), v)
}

// quickstartOn is quickstart for some of the hosts, and these versions.
func (s *suite) quickstartOn(lab *labhost.Lab, on []string, v versions) (*module, error) {
	m, err := s.newModule(lab.Env()...)
	if err != nil {
		return nil, err
	}
	if err := m.copyFrom("examples/quickstart"); err != nil {
		return nil, err
	}
	hosts := map[string]string{}
	for _, name := range on {
		hosts[name] = lab.Host(name).Addr
	}
	err = m.writeJSON("lab.auto.tfvars.json", map[string]any{"hosts": hosts, "allowed_networks": []string{network(lab)}, "versions": v})
	if err != nil {
		return nil, err
	}
	return m, m.write("lab_override.tf", hostOverride)
}

// hostOverride: the lab's hosts have the clock of this machine, and none has to keep it.
const hostOverride = "resource \"pgha_host\" \"db\" {\n  time_sync = \"off\"\n}\n"

// deployWithShell runs bench/yardstick.sh on a lab's hosts.
func (s *suite) deployWithShell(ctx context.Context, lab *labhost.Lab) (time.Duration, error) {
	v, err := versionsOf(lab)
	if err != nil {
		return 0, err
	}
	var hosts []string
	for _, h := range lab.Hosts() {
		hosts = append(hosts, h.Name+"="+h.Addr)
	}
	cmd := exec.CommandContext(ctx, "bench/yardstick.sh")
	cmd.Env = append(os.Environ(),
		"SSH_CONFIG="+lab.SSHConfigFile, "HOSTS="+strings.Join(hosts, " "), "NETWORK="+network(lab),
		"ETCD_VERSION="+v.Etcd, "PATRONI_VERSION="+v.Patroni, "POSTGRES_VERSION="+v.PostgreSQL)
	return s.complete("shell.out", cmd, func() (time.Duration, error) { return awaitStreaming(ctx, lab) })
}

// complete is the time until the cluster is complete: that of the command, and
// what the cluster took afterwards if the command ended too early.
func (s *suite) complete(log string, cmd *exec.Cmd, await func() (time.Duration, error)) (time.Duration, error) {
	took, out, err := timed(cmd)
	if s.logs != "" {
		err = errors.Join(err, os.WriteFile(s.logFile(log), []byte(out), 0o600))
	}
	if err != nil {
		return 0, err
	}
	late, err := await()
	return took + late, err
}

// logFile is a path for something to be kept of a deployment.
func (s *suite) logFile(name string) string {
	return filepath.Join(s.logs, fmt.Sprintf("deploy-%s-%s", time.Now().Format("150405"), name))
}
