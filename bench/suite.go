package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// benchmark is something to measure.
type benchmark struct {
	name  string
	about string
	runs  int // how often, by default
	// measure may report several results: what it is compared with, what else
	// it saw.
	measure func(ctx context.Context, s *suite, runs int) ([]Result, error)
}

// benchmarks is everything there is. The first result of each has its name.
var benchmarks = []benchmark{
	{"deploy_3_nodes", "bare hosts to a leader and two streaming replicas, and the same by bench/yardstick.sh", 3, deploy},
	{"plan_noop_3_nodes", "a plan without changes for such a cluster, and its SSH sessions", 10, planNoop},
	{"etcd_upgrade_3", "the turns of a rolling upgrade of three members of etcd, the members' own restarts, and the longest stall of writes meanwhile", 3, etcdUpgrade},
	{"upgrade_write_gap", "three nodes to another minor version of PostgreSQL: the longest gap in a client's writes, switchovers, failed transactions, time in all, and the gap of a bare switchover", 10, nodeUpgrade},
	{"citus_deploy", "hosts with the packages to a Citus formation of a coordinator and two groups of workers, two hosts each, and to a cluster of three", 3, citusDeploy},
	{"citus_rebalance", "shards moved onto a group of workers by an apply, and by hand with the same functions of Citus", 3, citusRebalance},
	{"citus_gap_worker", "the longest gap in the writes of a client of the coordinator at a switchover of a group of workers, and of the coordinator", 10, citusGaps},
	{"gap_vip_planned_fast", "the longest gaps in the writes of clients that find the primary by a virtual address, a DNS record, or a connection string with all nodes, at switchovers and when its host loses its power, for each failure_detection", 10, gaps},
	{"site_switchover_gap", "planned moves of the primary between two datacenters: the longest gap in a client's writes, and the time in all", 10, siteSwitchover},
	{"refresh_10", "a refresh of 10 simulated hosts, and the provider's memory", 10, refresh(10)},
	{"refresh_100", "the same of 100", 5, refresh(100)},
	{"refresh_1000", "the same of 1000", 5, refresh(1000)},
}

// suite is one run of this program.
type suite struct {
	dir      string // scratch
	cli      string // Terraform or OpenTofu
	provider string // the provider, built from this tree
	logs     string // folder for what deployments printed, "" for none
	start    time.Time
	skipped  []string // what could not be measured here, and why
}

// newSuite finds the CLI and builds the provider.
func newSuite(ctx context.Context, logs string) (*suite, error) {
	if _, err := os.Stat(filepath.Join("bench", "yardstick.sh")); err != nil {
		return nil, errors.New("run it in the root of the source tree (make bench)")
	}
	s := &suite{start: time.Now(), logs: logs}
	for _, name := range []string{os.Getenv("CLI"), "terraform", "tofu"} {
		if path, err := exec.LookPath(name); err == nil && name != "" {
			s.cli = path
			break
		}
	}
	if s.cli == "" {
		return nil, errors.New("neither terraform nor tofu is installed")
	}
	var err error
	if logs != "" {
		if s.logs, err = filepath.Abs(logs); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(s.logs, 0o755); err != nil {
			return nil, err
		}
	}
	if s.dir, err = os.MkdirTemp("", "pgha-bench-"); err != nil {
		return nil, err
	}
	s.provider = filepath.Join(s.dir, "bin", "terraform-provider-pgha")
	build := exec.CommandContext(ctx, "go", "build", "-o", s.provider, ".")
	if out, err := build.CombinedOutput(); err != nil {
		s.close()
		return nil, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return s, nil
}

func (s *suite) close() { _ = os.RemoveAll(s.dir) }

// logf tells the person who waits what is going on.
func (s *suite) logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%7.1f s  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

// measure runs benchmarks one after the other. When one fails, the results of
// those before it are returned with the error.
func (s *suite) measure(ctx context.Context, chosen []benchmark, runs int) ([]Result, error) {
	s.logf("%d CPUs, load %s", runtime.NumCPU(), load())
	var all []Result
	for _, b := range chosen {
		n := b.runs
		if runs > 0 {
			n = runs
		}
		results, err := b.measure(ctx, s, n)
		if errors.Is(err, errSkip) {
			s.skipped = append(s.skipped, fmt.Sprintf("SKIPPED: %s: %v", b.name, err))
			s.logf("%s", s.skipped[len(s.skipped)-1])
			continue
		}
		if err != nil {
			return relate(all), fmt.Errorf("%s: %w", b.name, err)
		}
		all = append(all, results...)
	}
	s.logf("load %s", load())
	return relate(all), nil
}

// errSkip: something cannot be measured with what the lab has. All else is.
var errSkip = errors.New("not measured")

// load is this machine's load average: numbers from a busy machine say little.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}
