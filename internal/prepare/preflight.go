package prepare

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Finding is something about a host that is not as it needs to be.
type Finding struct {
	Host  string
	Found string
	Need  string
	// Soft findings are warnings whatever is enforced.
	Soft bool
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: found %s; needed: %s", f.Host, f.Found, f.Need)
}

// supported are the systems that the provider is tested on.
var supported = map[string][]string{"debian": {"12", "13"}}

// Check compares a host with the thresholds. It is pure.
func (s Spec) Check(f *remote.Facts) []Finding {
	if s.Preflight.Enforce == EnforceOff {
		return nil
	}
	var list []Finding
	add := func(soft bool, found, need string, args ...any) {
		list = append(list, Finding{Host: s.Target.Name, Found: found, Need: fmt.Sprintf(need, args...), Soft: soft})
	}
	p, os := s.Preflight, f.OS()
	if !slices.Contains(supported[os.ID], os.Version) {
		add(false, strings.TrimSpace(os.Pretty+" ("+os.ID+" "+os.Version+")"), "Debian 12 or 13")
	}
	if os.Init != "systemd" {
		add(false, fmt.Sprintf("%q as process 1", os.Init), "systemd")
	}
	if int64(os.CPUs) < p.CPUs {
		add(false, fmt.Sprintf("%d CPUs", os.CPUs), "at least %d (preflight.min_cpus)", p.CPUs)
	}
	if os.Memory < p.Memory {
		add(false, size(os.Memory)+" of memory", "at least %s (preflight.min_memory)", size(p.Memory))
	}
	if d := f.Disk(p.DiskPath); d.Free < p.Disk {
		add(false, fmt.Sprintf("%s free on %s", size(d.Free), d.Mount), "at least %s for %s (preflight.min_disk)", size(p.Disk), p.DiskPath)
	} else if !d.Writable {
		add(false, d.At+" read-only", "a filesystem that can be written to")
	}
	if skew := f.Skew(); skew.Abs() > p.MaxClockSkew {
		add(false, fmt.Sprintf("a clock %s %s this machine's", skew.Abs().Round(time.Millisecond), map[bool]string{true: "ahead of", false: "behind"}[skew > 0]),
			"at most %s apart (preflight.max_clock_skew)", p.MaxClockSkew)
	}
	if s.CheckTime && !s.InstallChrony && f.TimeService() == "" && !f.Synchronized() {
		add(true, "nothing that keeps the clock right", "a time service; time_sync = \"chrony\" installs one")
	}
	if took := f.Lookup(s.Target.Address); took > p.MaxLookup {
		add(false, fmt.Sprintf("a look-up of the host's own address that took %s", took.Round(time.Millisecond)),
			"at most %s (preflight.max_lookup): Patroni looks it up at every start. Mend /etc/resolv.conf, or add the address to /etc/hosts (hosts_entries)", p.MaxLookup)
	}
	if f.Path(MarkerPath).Type == remote.Missing {
		told := ""
		for _, port := range p.Ports {
			if l := f.Port(int(port)); len(l) > 0 {
				more := whose(f, int(port), l)
				if more == told { // etcd has two ports
					more = ""
				} else if more != "" {
					told = more
				}
				add(false, fmt.Sprintf("port %d in use: %s", port, strings.Join(l, ", ")), "it to be free (preflight.free_ports)%s", more)
			}
		}
	}
	return list
}

// whose says more about who listens on a port, where it is what Debian's packages
// start by themselves when they are installed.
func whose(f *remote.Facts, port int, listeners []string) string {
	by := strings.Join(listeners, " ")
	if strings.Contains(by, `"postgres"`) {
		for _, c := range f.DebianClusters() {
			if c.Running && c.Port == port {
				return ". It is " + c.Describe() + ": " + c.Removal()
			}
		}
	}
	if strings.Contains(by, `"etcd"`) {
		return ". Debian's package starts an etcd of its own when it is installed: if nothing needs this one, systemctl disable --now etcd. Its data is not touched, nor is it ever joined"
	}
	return ""
}

func size(bytes int64) string {
	switch {
	case bytes >= 10<<30:
		return fmt.Sprintf("%d GiB", bytes>>30)
	case bytes >= 10<<20:
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d KiB", bytes>>10)
}
