package remote_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/shellhost"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// What systemctl is told.
func TestUnits(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*testing.T, *shellhost.Host) error
		want []string
	}{
		"reload units": {func(t *testing.T, h *shellhost.Host) error { return remote.DaemonReload(t.Context(), h) }, []string{"systemctl [daemon-reload]"}},
		"enable": {func(t *testing.T, h *shellhost.Host) error {
			return remote.EnableUnit(t.Context(), h, "a.service", "b.timer")
		}, []string{"systemctl [enable] [--no-ask-password] [--] [a.service] [b.timer]"}},
		"disable": {func(t *testing.T, h *shellhost.Host) error { return remote.DisableUnit(t.Context(), h, "-x.mount") }, []string{"systemctl [disable] [--no-ask-password] [--] [-x.mount]"}},
		"start": {func(t *testing.T, h *shellhost.Host) error { return remote.StartUnit(t.Context(), h, "a.service") }, []string{
			"systemctl [reset-failed] [--] [a.service]", "systemctl [start] [--no-block] [--] [a.service]",
		}},
		"run": {func(t *testing.T, h *shellhost.Host) error {
			return remote.RunUnit(t.Context(), h, "a.service", time.Minute)
		}, []string{"systemctl [reset-failed] [--] [a.service]", "systemctl [start] [--no-ask-password] [--] [a.service]"}},
		"stop": {func(t *testing.T, h *shellhost.Host) error {
			return remote.StopUnit(t.Context(), h, "a.service", time.Minute)
		}, []string{"systemctl [stop] [--no-ask-password] [--] [a.service]"}},
		"restart": {func(t *testing.T, h *shellhost.Host) error {
			return remote.RestartUnit(t.Context(), h, "a.service", time.Minute)
		}, []string{"systemctl [restart] [--no-ask-password] [--] [a.service]"}},
		"reload": {func(t *testing.T, h *shellhost.Host) error { return remote.ReloadUnit(t.Context(), h, "a.service") }, []string{"systemctl [reload] [--no-ask-password] [--] [a.service]"}},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, h *shellhost.Host) {
				if err := c.do(t, h); err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(c.want, h.Calls()); d != "" {
					t.Errorf("calls (-want +got):\n%s", d)
				}
				// Whatever goes wrong is said in systemctl's own words. That
				// there was no failure to reset is no failure.
				h.Program("systemctl", `echo "Unit not found." >&2; exit 5`)
				if err := c.do(t, h); host.ExitCode(err) != 5 || !strings.Contains(err.Error(), "Unit not found.") {
					t.Errorf("the error is %v", err)
				}
			})
		})
	}
}

// Only enabling leaves SysV links alone: a package's scripts start what these say is started,
// also if systemd says that it is disabled.
func TestSysV(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		h.Program("systemctl", `case $1 in enable) test "${SYSTEMCTL_SKIP_SYSV:-}" = 1 ;; *) test -z "${SYSTEMCTL_SKIP_SYSV:-}" ;; esac`)
		if err := remote.EnableUnit(t.Context(), h, "a.service"); err != nil {
			t.Error(err)
		}
		if err := remote.DisableUnit(t.Context(), h, "a.service"); err != nil {
			t.Error(err)
		}
	})
}

// A unit's last lines; after a mark only the last of those that came after it,
// where journalctl itself would give the first ones.
func TestJournal(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		h.Program("journalctl", `case "$*" in
*--show-cursor*) echo "-- cursor: a line that looks like one"; echo "-- cursor: s=1;i=2;t=3" ;;
*--after-cursor=s=1*) for i in 1 2 3 4 5; do echo "new $i"; done ;;
*empty*) ;;
*) echo "old 1"; echo; echo "old 3" ;;
esac`)
		end, err := remote.JournalEnd(t.Context(), h)
		if err != nil || end != "s=1;i=2;t=3" {
			t.Errorf("the end is %q, %v", end, err)
		}
		for _, c := range []struct {
			unit, after string
			want        []string
			call        string
		}{
			{"a.service", "", []string{"old 1", "", "old 3"}, "journalctl [-q] [--no-pager] [-o] [cat] [-u] [a.service] [-n] [2]"},
			{"a.service", end, []string{"new 4", "new 5"}, "journalctl [-q] [--no-pager] [-o] [cat] [-u] [a.service] [--after-cursor=s=1;i=2;t=3]"},
			{"empty.service", "", nil, "journalctl [-q] [--no-pager] [-o] [cat] [-u] [empty.service] [-n] [2]"},
		} {
			got, err := remote.Journal(t.Context(), h, c.unit, 2, c.after)
			if d := cmp.Diff(c.want, got); d != "" || err != nil {
				t.Errorf("%s after %q: %v (-want +got):\n%s", c.unit, c.after, err, d)
			}
			if calls := h.Calls(); calls[len(calls)-1] != c.call {
				t.Errorf("called %s", calls[len(calls)-1])
			}
		}
		// On a host that never logged anything.
		h.Program("journalctl", "exit 0")
		if end, err := remote.JournalEnd(t.Context(), h); err != nil || end != "" {
			t.Errorf("the end is %q, %v", end, err)
		}
	})
}

// Settings that a kernel or a container does not let be set are named; the
// others are set.
func TestApplySysctl(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		h.Program("sysctl", `case $4 in vm.*) exit 0 ;; *) echo "permission denied" >&2; exit 1 ;; esac`)
		refused, err := remote.ApplySysctl(t.Context(), h, map[string]string{"vm.swappiness": "1", "net.core.rmem_max": "1 2 3", "kernel.sem": "$(id)"})
		if d := cmp.Diff([]string{"kernel.sem", "net.core.rmem_max"}, refused); d != "" || err != nil {
			t.Errorf("refused: %v (-want +got):\n%s", err, d)
		}
		if d := cmp.Diff([]string{
			"sysctl [-q] [-w] [--] [kernel.sem=$(id)]", "sysctl [-q] [-w] [--] [net.core.rmem_max=1 2 3]", "sysctl [-q] [-w] [--] [vm.swappiness=1]",
		}, h.Calls()); d != "" {
			t.Errorf("calls (-want +got):\n%s", d)
		}
	})
}

// Units that are dropped are stopped if they run, and what systemd remembers of
// them is forgotten; those that it does not know are fine.
func TestDropUnits(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		h.Program("systemctl", `case "$*" in
*ActiveState*a.timer) echo active ;;
*ActiveState*) echo inactive ;;
reset-failed*) echo "Unit not loaded." >&2; exit 1 ;;
esac`)
		if err := remote.DropUnits(t.Context(), h, "a.timer", "b.service"); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"systemctl [show] [--no-pager] [-p] [ActiveState] [--value] [--] [a.timer]", "systemctl [stop] [--no-ask-password] [--] [a.timer]", "systemctl [reset-failed] [--] [a.timer]",
			"systemctl [show] [--no-pager] [-p] [ActiveState] [--value] [--] [b.service]", "systemctl [reset-failed] [--] [b.service]",
		}
		if d := cmp.Diff(want, h.Calls()); d != "" {
			t.Errorf("calls (-want +got):\n%s", d)
		}
	})
}
