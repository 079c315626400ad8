package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// input is a command's flags and arguments.
type input struct {
	options        labhost.Options
	args           []string
	all            bool
	fromRunner     bool
	again          bool
	stdout, stderr io.Writer
}

// command is one word of the command line.
type command struct {
	name, args, help string
	// flags defines the flags the command has besides --name.
	flags func(f *flag.FlagSet, in *input)
	// least and most limit the number of arguments; most < 0 sets no limit.
	least, most int
	// verbatim leaves everything behind the first argument alone: it is a
	// command for a host, with flags of its own.
	verbatim bool
	run      func(ctx context.Context, in *input) error
}

// parse reads a command's flags and arguments, which may come in any order.
func (c command) parse(args []string, stdout, stderr io.Writer) (*input, error) {
	in := &input{stdout: stdout, stderr: stderr}
	in.options.Progress = stderr
	f := flag.NewFlagSet(c.name, flag.ContinueOnError)
	f.SetOutput(io.Discard) // errors are returned
	f.StringVar(&in.options.Name, "name", labhost.DefaultName, "")
	if c.flags != nil {
		c.flags(f, in)
	}
	for {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		args = f.Args()
		if len(args) == 0 {
			break
		}
		in.args, args = append(in.args, args[0]), args[1:]
		if c.verbatim {
			in.args = append(in.args, args...)
			break
		}
	}
	if n := len(in.args); n < c.least || (c.most >= 0 && n > c.most) {
		return nil, fmt.Errorf("lab %s: %d arguments are too %s", c.name, n, map[bool]string{true: "few", false: "many"}[n < c.least])
	}
	return in, nil
}

// list is a flag that may be given several times, or once with commas.
type list struct{ to *[]string }

func (l list) String() string { return "" }

func (l list) Set(s string) error {
	*l.to = append(*l.to, strings.Split(s, ",")...)
	return nil
}

// buildFlags are the flags about images.
func buildFlags(f *flag.FlagSet, in *input) {
	f.StringVar(&in.options.Release, "release", "", "")
	f.StringVar((*string)(&in.options.Image), "image", "", "")
	f.StringVar(&in.options.Mirror, "mirror", "", "")
	f.StringVar(&in.options.ExtraDebs, "extra-debs", "", "")
}
