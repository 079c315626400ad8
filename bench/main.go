// Command bench measures what users wait for and what it costs: a cluster from
// bare hosts, a plan without changes, the refresh of a large fleet. It prints a
// table and writes the results to bench/latest.json.
//
//	go run ./bench [-run REGEX] [-n RUNS] [-o FILE] [-logs FOLDER] [-list]
//
// It runs the real Terraform (or OpenTofu) with the provider built from this
// tree, against the lab's hosts and against simulated ones, so it needs what the
// lab needs: root on Linux. A number is worth as much as the machine was quiet;
// ratios, whose two sides were measured in turns, are worth more.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
)

// latest is where the results of a whole run go.
const latest = "bench/latest.json"

func main() {
	if len(os.Args) > 1 && os.Args[1] == simulateCommand {
		if err := simulate(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "simulated hosts:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	pattern := flag.String("run", "", "measure only what matches this regular expression")
	runs := flag.Int("n", 0, "how often to measure each; by default as often as each needs")
	list := flag.Bool("list", false, "list what can be measured")
	logs := flag.String("logs", "", "folder in which to keep what deployments printed, and the provider's progress file")
	out := flag.String("o", "", "file for the results; "+latest+" by default, if everything is measured")
	flag.Parse()
	match, err := regexp.Compile(*pattern)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	var chosen []benchmark
	for _, b := range benchmarks {
		if match.MatchString(b.name) {
			chosen = append(chosen, b)
		}
	}
	if *list {
		for _, b := range chosen {
			fmt.Printf("%-20s %s\n", b.name, b.about)
		}
		return nil
	}
	if len(chosen) == 0 {
		return fmt.Errorf("nothing is called %q; -list shows what there is", *pattern)
	}
	// The file is of one run on one machine: what only some were measured in
	// must not look like it.
	if *out == "" && len(chosen) == len(benchmarks) {
		*out = latest
	}

	s, err := newSuite(ctx, *logs)
	if err != nil {
		return err
	}
	defer s.close()
	results, err := s.measure(ctx, chosen, *runs)
	if len(results) > 0 {
		fmt.Print(table(results))
	}
	for _, line := range s.skipped {
		fmt.Println(line)
	}
	if err != nil || *out == "" {
		return err
	}
	return writeJSON(*out, results)
}
