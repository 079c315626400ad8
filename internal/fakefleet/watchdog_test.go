package fakefleet_test

import (
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost/simpatroni"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

const watchdogFiles = "/etc/modules-load.d/pgha-watchdog.conf /etc/udev/rules.d/61-pgha-watchdog.rules"

// A watchdog that is required is loaded, given to Patroni and kept so; where there
// is none to be had, nothing begins. Turned off, what was written for it is gone.
func TestWatchdog(t *testing.T) {
	created(t, 1, func(t *testing.T, f *fakefleet.Fleet, uid string) {
		m := f.Host(1)
		n := f.Node(m, uid)
		apply := func(name string, w patroni.Watchdog) error {
			n.Watchdog = w
			return f.Start(name).PatroniManager().ApplyNode(patient(t), n)
		}
		drift := func(want ...string) {
			t.Helper()
			o, err := f.Start("reader").PatroniManager().ObserveNode(patient(t), n)
			if err != nil || len(o.Drift) != len(want) {
				t.Fatalf("drift %q, error %v, want %q", o.Drift, err, want)
			}
			for i := range want {
				if !strings.Contains(o.Drift[i], want[i]) {
					t.Errorf("drift %q, want %q", o.Drift, want)
				}
			}
		}
		there := func(want bool) {
			t.Helper()
			f.Do(func() {
				for p := range strings.SplitSeq(watchdogFiles, " ") {
					if (m.Files.Get(p) != nil) != want {
						t.Errorf("%s is there: %v", p, !want)
					}
				}
			})
		}
		required := patroni.Watchdog{Mode: "required", SafetyMargin: 5}

		err := apply("refused", required)
		wantError(t, err, "there is no /dev/watchdog on this host, and its kernel 6.12 has no module softdog")
		if sent := f.Mutations("refused"); len(sent) > 0 {
			t.Errorf("something was done: %v", sent)
		}
		err = apply("refused device", patroni.Watchdog{Mode: "required", Device: "/dev/watchdog1"})
		wantError(t, err, "there is no /dev/watchdog1")

		if err := apply("automatic", patroni.Watchdog{Mode: "automatic", SafetyMargin: 5}); err != nil {
			t.Fatal(err)
		}
		there(true)
		drift()

		f.Do(func() { m.Files.Put(simpatroni.SoftdogPath, fakehost.File{}) })
		if err := apply("required", required); err != nil {
			t.Fatal(err)
		}
		f.Do(func() {
			if d := m.Files.Get("/dev/watchdog"); d == nil || d.Owner != "postgres" {
				t.Errorf("the device: %+v", d)
			}
			if text := string(m.Files.Read("/etc/patroni/config.yml")); !strings.Contains(text, "mode: required\n    device: /dev/watchdog\n    safety_margin: 5\n") {
				t.Errorf("the file:\n%s", text)
			}
		})
		drift()
		f.Do(func() {
			m.Files.Put("/dev/watchdog", fakehost.File{Type: fakehost.Device, Owner: "root", Mode: "600"})
		})
		drift("load the kernel's softdog and give /dev/watchdog to postgres")
		if err := apply("again", required); err != nil {
			t.Fatal(err)
		}
		drift()

		if err := apply("off", patroni.Watchdog{Mode: "off", SafetyMargin: 5}); err != nil {
			t.Fatal(err)
		}
		there(false)
		drift()
		if err := apply("required again", required); err != nil {
			t.Fatal(err)
		}
		f.Watch.Off()
		if err := f.Start("destroyer").PatroniManager().DestroyNode(patient(t), n, false); err != nil {
			t.Fatal(err)
		}
		there(false)
	})
}
