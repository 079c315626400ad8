package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

var commands = []command{
	{
		name: "up", least: 0, most: -1, run: up,
		args: "[--release trixie|bookworm] [--image bare|warm] [--bastion DC] [--net 10.77] [--ipv6-only] [--disk 2G] [--mirror URL] [DC=HOST,HOST,... ...]",
		help: "Brings up hosts, or what is missing of them. The first time it builds images, which takes a minute.",
		flags: func(f *flag.FlagSet, in *input) {
			buildFlags(f, in)
			f.Var(list{&in.options.Bastions}, "bastion", "")
			f.StringVar(&in.options.Net, "net", "", "")
			f.StringVar(&in.options.DiskSize, "disk", "", "")
			f.BoolVar(&in.options.IPv6Only, "ipv6-only", false, "")
		},
	},
	{
		name: "down", run: down, args: "[--all]",
		help:  "Removes the lab, or with --all every lab, and every trace of it but the images.",
		flags: func(f *flag.FlagSet, in *input) { f.BoolVar(&in.all, "all", false, "") },
	},
	{
		name: "status", run: status, args: "[--all]",
		help:  "Lists the hosts, where they are and what they do.",
		flags: func(f *flag.FlagSet, in *input) { f.BoolVar(&in.all, "all", false, "") },
	},
	{
		name: "ssh", least: 1, most: -1, verbatim: true, run: ssh, args: "HOST [COMMAND...]",
		help: "Opens a shell on a host, as root, or runs a command there.",
	},
	{
		name: "kill", least: 1, most: -1, args: "HOST...",
		help: "Cuts the power: every process ends at once. The disk stays.",
		run:  onLab(func(ctx context.Context, l *labhost.Lab, in *input) error { return l.Kill(ctx, in.args...) }),
	},
	{
		name: "start", least: 1, most: -1, args: "HOST...",
		help: "Powers a host on, with the disk it has.",
		run:  onLab(func(ctx context.Context, l *labhost.Lab, in *input) error { return l.Start(ctx, in.args...) }),
	},
	{
		name: "rebuild", least: 1, most: -1, args: "HOST...",
		help: "Replaces a host by a new one of the same name and address, with an empty disk and a new host key.",
		run:  onLab(func(ctx context.Context, l *labhost.Lab, in *input) error { return l.Rebuild(ctx, in.args...) }),
	},
	{
		name: "freeze", least: 1, most: -1, args: "HOST...",
		help: "Stops every process of a host where it stands.",
		run:  onLab(func(ctx context.Context, l *labhost.Lab, in *input) error { return l.Freeze(ctx, in.args...) }),
	},
	{
		name: "thaw", least: 1, most: -1, args: "HOST...",
		help: "Lets a frozen host go on.",
		run:  onLab(func(ctx context.Context, l *labhost.Lab, in *input) error { return l.Thaw(ctx, in.args...) }),
	},
	{
		name: "partition", least: 1, most: -1, args: "[--from-runner] HOST|DC...",
		help:  "Cuts a host off from all others, or a datacenter from all others; with --from-runner, from this machine too.",
		flags: func(f *flag.FlagSet, in *input) { f.BoolVar(&in.fromRunner, "from-runner", false, "") },
		run: onLab(func(ctx context.Context, l *labhost.Lab, in *input) error {
			if in.fromRunner {
				return l.PartitionFromRunner(ctx, in.args...)
			}
			return l.Partition(ctx, in.args...)
		}),
	},
	{
		name: "heal", most: -1, args: "[HOST|DC...]",
		help: "Undoes partition; without a name, all of it.",
		run:  onLab(func(ctx context.Context, l *labhost.Lab, in *input) error { return l.Heal(ctx, in.args...) }),
	},
	{
		name: "latency", least: 2, most: 3, run: onLab(latency), args: "DC DELAY [JITTER]",
		help: "Delays every packet between a datacenter and the others, each way, by as much (30ms); 0 ends it.",
	},
	{
		name: "env", run: onLab(env),
		help: "Prints, for a shell to read, what a Terraform provider needs to reach the hosts.",
	},
	{
		name: "ssh-config", run: onLab(sshConfig),
		help: "Prints a configuration for ssh -F.",
	},
	{
		name: "pool", most: -1, run: onLab(pool), args: "[PACKAGE...]",
		help: "Lists the packages that apt in the hosts can install, with their versions.",
	},
	{
		name: "build", run: build, args: "[--release trixie|bookworm] [--image bare|warm] [--mirror URL] [--again]",
		help: "Builds images and the pool of packages, without bringing up a lab; --again also if they are there.",
		flags: func(f *flag.FlagSet, in *input) {
			buildFlags(f, in)
			f.BoolVar(&in.again, "again", false, "")
		},
	},
}

// onLab makes a command of something that is done to a lab.
func onLab(do func(context.Context, *labhost.Lab, *input) error) func(context.Context, *input) error {
	return func(ctx context.Context, in *input) error {
		l, err := labhost.Open(in.options)
		if err != nil {
			return err
		}
		return do(ctx, l, in)
	}
}

func up(ctx context.Context, in *input) error {
	var err error
	if in.options.Datacenters, err = labhost.ParseDatacenters(in.args...); err != nil {
		return err
	}
	l, err := labhost.Up(ctx, in.options)
	if err != nil {
		return err
	}
	return printStatus(in, l)
}

func down(ctx context.Context, in *input) error {
	if in.all {
		return labhost.DownAll(ctx, in.options)
	}
	return labhost.Down(ctx, in.options)
}

func status(_ context.Context, in *input) error {
	names := []string{in.options.Name}
	if in.all {
		var err error
		if names, err = labhost.List(in.options); err != nil {
			return err
		}
	}
	var labs []*labhost.Lab
	for _, name := range names {
		in.options.Name = name
		l, err := labhost.Open(in.options)
		if err != nil {
			return err
		}
		labs = append(labs, l)
	}
	return printStatus(in, labs...)
}

func printStatus(in *input, labs ...*labhost.Lab) error {
	w := tabwriter.NewWriter(in.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LAB\tHOST\tDATACENTER\tADDRESS\tIPV6\tRELEASE\tIMAGE\tSTATE\tNETWORK")
	for _, l := range labs {
		hosts, err := l.Status()
		if err != nil {
			return err
		}
		for _, h := range hosts {
			network := h.Network
			if h.Via != "" {
				network = strings.TrimPrefix(network+", through "+h.Via, ", ")
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
				l.Name, h.Name, h.Datacenter, h.Addr, h.Addr6, h.Release, h.Image, h.State, network)
		}
	}
	return w.Flush()
}

// ssh leaves the terminal to OpenSSH, which knows how to treat one.
func ssh(ctx context.Context, in *input) error {
	l, err := labhost.Open(in.options)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "ssh", append([]string{"-F", l.SSHConfigFile}, in.args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, in.stdout, in.stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exitCode(exit.ExitCode())
	}
	return err
}

func latency(ctx context.Context, l *labhost.Lab, in *input) error {
	var d [2]time.Duration
	for i, arg := range in.args[1:] {
		var err error
		if d[i], err = time.ParseDuration(arg); err != nil {
			return fmt.Errorf("%q is not a duration: write a number and its unit, such as 30ms", arg)
		}
	}
	return l.Latency(ctx, in.args[0], d[0], d[1])
}

func env(_ context.Context, l *labhost.Lab, in *input) error {
	for _, e := range l.Env() {
		name, value, _ := strings.Cut(e, "=")
		fmt.Fprintf(in.stdout, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	return nil
}

func sshConfig(_ context.Context, l *labhost.Lab, in *input) error {
	b, err := os.ReadFile(l.SSHConfigFile)
	if err != nil {
		return err
	}
	_, err = in.stdout.Write(b)
	return err
}

func pool(_ context.Context, l *labhost.Lab, in *input) error {
	all, err := l.Pool()
	if err != nil {
		return err
	}
	names := in.args
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(all))
	}
	for _, name := range names {
		fmt.Fprintf(in.stdout, "%s: %s\n", name, strings.Join(all[name], ", "))
	}
	return nil
}

func build(ctx context.Context, in *input) error {
	return labhost.Build(ctx, in.options, in.again)
}
