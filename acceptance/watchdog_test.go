package acceptance

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// The lab's hosts have no watchdog: they are containers, and the kernel below may
// have no softdog. So this shows what is refused and said, what is written, and
// that Patroni takes it; not that a host is reset.
func TestWatchdog(t *testing.T) {
	turn(t)
	replica := func(attributes string) settings {
		return settings{EtcdOn: []string{"pg1"}, Nodes: map[string]string{"pg2": attributes}}
	}
	s := newSite(t, labhost.Warm, replica(""), "pg1", "pg2")
	ctx := t.Context()
	s.Apply(ctx)
	s.healthy("pg1", "pg1", "pg2")
	// Only a Patroni that has led looks into the device; one that never did takes what it
	// may write to for one that works (Patroni 4.0.7, watchdog/base.py).
	if s.leader("pg1") == "pg1" {
		s.lead("pg1", []string{"pg2"}, "pg1", "pg2")
	}
	s.lead("pg1", []string{"pg1"}, "pg1", "pg2")
	started := s.started()
	file := func() string { return s.on("pg2", "cat /etc/patroni/config.yml") }
	untouched := file()
	refused := func(why string) {
		t.Helper()
		s.configure(replica(`watchdog = "required"`))
		has(t, s.Plan(ctx), "Node pg2 cannot use a watchdog", why, "The apply refuses this")
		o := s.TryApply(ctx)
		if o.Code == 0 {
			t.Fatal("it was not refused")
		}
		has(t, o, why, "this node could never lead")
		if file() != untouched {
			t.Error("the file was changed")
		}
		s.on("pg2", "test ! -e /etc/udev/rules.d/61-pgha-watchdog.rules")
	}

	refused("there is no /dev/watchdog on this host")
	s.on("pg2", "touch /dev/watchdog && systemd-run -q --unit holder sh -c 'exec sleep infinity </dev/watchdog'")
	refused("/dev/watchdog is not a device")
	refused("/dev/watchdog is open in another process: sleep")
	s.on("pg2", "systemctl stop holder; rm /dev/watchdog")

	s.configure(replica(`watchdog = "required"
  watchdog_safety_margin = "21s"`))
	o := s.Plan(ctx)
	if o.Code != 1 {
		t.Error("a margin that leaves no time was planned")
	}
	has(t, o, "The safety margin may be 20 seconds at most", "watchdog_safety_margin")

	s.configure(replica(`watchdog = "automatic"`))
	has(t, s.Plan(ctx), "Applying this changes the watchdog of node pg2", "Nothing restarts", "Patroni goes on without a watchdog")
	has(t, s.Apply(ctx), "Node pg2 cannot use a watchdog")
	s.NoChanges(ctx)
	if !strings.Contains(file(), "mode: automatic") {
		t.Error("Patroni was not told")
	}

	// A node of the device's number belongs to root at first, as udev makes it. What
	// is behind it is missing, which nobody can know without opening it.
	s.on("pg2", "mknod -m 600 /dev/watchdog c 10 130")
	s.configure(replica(`watchdog = "required"`))
	s.Apply(ctx)
	if got := s.on("pg2", "stat -c '%U %a' /dev/watchdog"); got != "postgres 600" {
		t.Errorf("the device is %s", got)
	}
	for path, want := range map[string]string{"/etc/modules-load.d/pgha-watchdog.conf": "softdog", "/etc/udev/rules.d/61-pgha-watchdog.rules": `KERNEL=="watchdog", OWNER="postgres"`} {
		if got := s.on("pg2", "cat "+path); !strings.Contains(got, want) {
			t.Errorf("%s: %s", path, got)
		}
	}
	// Patroni finds out when it next looks at it.
	s.eventually("the plan to say that the device is of no use", 2*time.Minute, func(ctx context.Context) (bool, string) {
		o := s.Plan(ctx)
		return o.Contains("Patroni cannot use /dev/watchdog, so that the node cannot lead"), o.Text
	})
	s.on("pg2", "chown root /dev/watchdog")
	has(t, s.Plan(ctx), "give /dev/watchdog to postgres")
	s.Apply(ctx)
	s.healthy("pg1", "pg1", "pg2")

	s.configure(replica(""))
	s.Apply(ctx)
	s.NoChanges(ctx)
	s.on("pg2", "test ! -e /etc/udev/rules.d/61-pgha-watchdog.rules && test ! -e /etc/modules-load.d/pgha-watchdog.conf")
	if file() != untouched {
		t.Errorf("the file is another one:\n%s", file())
	}
	if got := s.started(); strings.Join(got, " ") != strings.Join(started, " ") {
		t.Errorf("a server was restarted: %v, before %v", got, started)
	}
}
