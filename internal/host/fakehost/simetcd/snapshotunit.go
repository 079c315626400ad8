package simetcd

import (
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// snapshotUnit is the service that takes snapshots: what its file says is run.
type snapshotUnit struct {
	sim     *Sim
	machine *fakehost.Machine
}

// Start implements fakehost.Service.
func (s *snapshotUnit) Start(u *fakehost.Unit) {
	settings := map[string]string{}
	for line := range strings.Lines(u.File) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			settings[key] = value
		}
	}
	_, credentials, _ := strings.Cut(settings["LoadCredential"], ":")
	var args []string
	words := strings.Fields(settings["ExecStart"])
	for _, w := range words[2:] {
		arg, err := strconv.Unquote(w)
		if err != nil {
			s.sim.world.TB.Errorf("ExecStart has the word %s", w)
		}
		args = append(args, strings.ReplaceAll(arg, "${CREDENTIALS_DIRECTORY}/credentials", credentials))
	}
	o := &fakehost.Op{Machine: s.machine, Cmd: host.Cmd{Name: "etcd.snapshot", Args: args}}
	err := o.Fail(1, "cannot open %s", words[1])
	switch {
	case s.machine.Files.ReadAs("etcd", words[1]) == nil:
	case settings["User"] != "etcd" || settings["ReadWritePaths"] != args[0]:
		err = o.Fail(1, "Read-only file system")
	default:
		o.Err.Reset()
		err = s.sim.snapshot(o)
	}
	u.Logf("%s%s", o.Out.String(), o.Err.String())
	if err != nil {
		u.Exit("exit-code", 0)
		return
	}
	u.Exit("success", 0)
}

// Stop implements fakehost.Service.
func (s *snapshotUnit) Stop(u *fakehost.Unit) { u.Exit("success", 0) }

// Reload implements fakehost.Service.
func (s *snapshotUnit) Reload(*fakehost.Unit) {}

// Lost implements fakehost.Service.
func (s *snapshotUnit) Lost(*fakehost.Unit) {}
