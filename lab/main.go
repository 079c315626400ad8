// The lab runs real Debian hosts on this one machine, for the demo and the
// acceptance tests:
//
//	go run ./lab up dc1=pg1,pg2,pg3 dc2=pg4,pg5,pg6
//
// See README.md. What it does is in package labhost; here are the words for it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// The first signal ends what is being done, and leaves what "lab down" can
	// remove; the second ends this process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	var exit exitCode
	switch {
	case errors.As(err, &exit):
		os.Exit(int(exit))
	case err != nil:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

// exitCode ends the command with a status, without a word.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// run runs one command.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		usage(stdout)
		return nil
	}
	for _, c := range commands {
		if c.name == args[0] {
			in, err := c.parse(args[1:], stdout, stderr)
			if err != nil {
				return fmt.Errorf("%w\nusage: lab %s %s", err, c.name, c.args)
			}
			return c.run(ctx, in)
		}
	}
	return fmt.Errorf("there is no command %q; lab help lists them", args[0])
}

func usage(w io.Writer) {
	fmt.Fprint(w, "Real Debian hosts on this one machine. All commands take --name LAB (default: demo).\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  lab %s %s\n        %s\n", c.name, c.args, c.help)
	}
	fmt.Fprint(w, "\nWhere a HOST is asked for, the name of a datacenter stands for all of its hosts.\n")
}
