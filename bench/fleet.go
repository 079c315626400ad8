package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
)

// fleet is simulated hosts, in a process of their own.
type fleet struct {
	ready
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// newFleet starts a process with so many hosts.
func (s *suite) newFleet(ctx context.Context, hosts int) (*fleet, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(s.dir, "fleet-")
	if err != nil {
		return nil, err
	}
	f := &fleet{cmd: exec.CommandContext(ctx, self, simulateCommand, "-hosts", strconv.Itoa(hosts), "-dir", dir)}
	f.cmd.Stderr = os.Stderr
	if f.in, err = f.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	f.out = json.NewDecoder(out)
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	if err := f.out.Decode(&f.ready); err != nil {
		return nil, errors.Join(fmt.Errorf("the simulated hosts did not come up: %w", err), f.close())
	}
	return f, nil
}

// seen asks what the hosts have seen so far.
func (f *fleet) seen() (seen, error) {
	var s seen
	if _, err := io.WriteString(f.in, "\n"); err != nil {
		return s, err
	}
	return s, f.out.Decode(&s)
}

// env is what the provider has to find in its environment to reach the hosts.
func (f *fleet) env() []string {
	return []string{
		"PGHA_SSH_USER=root", "PGHA_SSH_PORT=" + strconv.Itoa(f.Port),
		"PGHA_SSH_PRIVATE_KEY_FILE=" + f.KeyFile, "PGHA_SSH_KNOWN_HOSTS_FILE=" + f.KnownHosts,
	}
}

// close ends the process, which does so by itself when its input does.
func (f *fleet) close() error {
	_ = f.in.Close()
	return f.cmd.Wait()
}
