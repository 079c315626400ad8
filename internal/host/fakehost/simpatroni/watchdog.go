package simpatroni

import "github.com/pgha/terraform-provider-pgha/internal/host/fakehost"

// SoftdogPath is there on hosts whose kernel has the module softdog.
const SoftdogPath = "/usr/lib/modules/6.12/softdog.ko"

// lookWatchdog is watchdog_look.sh.
func (s *Sim) lookWatchdog(o *fakehost.Op) error {
	module := "missing"
	if o.Machine.Files.Get(SoftdogPath) != nil {
		module = "available"
	}
	o.Printf("kernel=6.12\nsoftdog=%s\ncontainer=none\nsystemd=0\n", module)
	return nil
}

// watchdog is watchdog.sh.
func (s *Sim) watchdog(o *fakehost.Op) error {
	device := o.Machine.Files.Get(o.Arg(1))
	switch {
	case device == nil && o.Arg(3) != "" && o.Machine.Files.Get(SoftdogPath) == nil:
		return o.Fail(1, "modprobe: FATAL: Module %s not found in directory /lib/modules/6.12", o.Arg(3))
	case device == nil && o.Arg(3) == "":
		return o.Fail(1, "there is no device %s", o.Arg(1))
	case device == nil && o.Arg(1) != "/dev/watchdog":
		return o.Fail(1, "there is no device %s", o.Arg(1))
	}
	o.Machine.Files.Put(o.Arg(1), fakehost.File{Type: fakehost.Device, Owner: o.Arg(2), Group: o.Arg(2), Mode: "600"})
	return nil
}
