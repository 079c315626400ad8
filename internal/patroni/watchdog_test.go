package patroni

import (
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

func TestWatchdogTiming(t *testing.T) {
	for name, c := range map[string]struct {
		w         Watchdog
		ttl, loop int64
		want      string
	}{
		"defaults":      {Watchdog{Mode: "required", SafetyMargin: 5}, 30, 10, ""},
		"just":          {Watchdog{Mode: "required", SafetyMargin: 20}, 30, 10, ""},
		"too much":      {Watchdog{Mode: "required", SafetyMargin: 21}, 30, 10, "20 seconds at most"},
		"automatic":     {Watchdog{Mode: "automatic", SafetyMargin: 30}, 30, 10, "20 seconds at most"},
		"off":           {Watchdog{Mode: "off", SafetyMargin: 60}, 30, 10, ""},
		"not mentioned": {Watchdog{SafetyMargin: 60}, 30, 10, ""},
	} {
		if got := c.w.Check(c.ttl, c.loop); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// What a host says in, what keeps Patroni from using the watchdog out.
func TestWatchdogTrouble(t *testing.T) {
	device, none := remote.Path{Type: remote.Other}, remote.Path{Type: remote.Missing}
	for name, c := range map[string]struct {
		w      Watchdog
		device remote.Path
		facts  map[string]string
		want   string
	}{
		"softdog can be loaded":  {Watchdog{}, none, map[string]string{"softdog": "available", "container": "none", "systemd": "0"}, ""},
		"the device is there":    {Watchdog{}, device, map[string]string{"softdog": "missing", "systemd": "infinity"}, ""},
		"no module":              {Watchdog{}, none, map[string]string{"softdog": "missing", "container": "none", "kernel": "6.12"}, "its kernel 6.12 has no module softdog"},
		"a container":            {Watchdog{}, none, map[string]string{"softdog": "missing", "container": "systemd-nspawn"}, "it is a container (systemd-nspawn)"},
		"no such device":         {Watchdog{Device: "/dev/watchdog3"}, none, map[string]string{"softdog": "available"}, "there is no /dev/watchdog3"},
		"not a device":           {Watchdog{}, remote.Path{Type: remote.Regular}, nil, "is not a device"},
		"systemd feeds it":       {Watchdog{}, device, map[string]string{"systemd": "30s"}, "RuntimeWatchdogSec=30s"},
		"another process has it": {Watchdog{}, device, map[string]string{"held": "watchdogd (pid 7)"}, "open in another process: watchdogd (pid 7)"},
	} {
		if got := strings.Join(c.w.trouble(c.device, c.facts), "; "); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
