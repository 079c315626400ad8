package prepare

import (
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/golden"
	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// Everything that can be written on a host, and nothing where nothing is asked
// for.
func TestFiles(t *testing.T) {
	s := Spec{
		Target: host.Target{Name: "pg1"},
		Apt: Apt{
			Manage: true, Proxy: "http://user:pass@proxy.example.test:3128/", AllowExpired: true,
			Repositories: map[string]Repository{
				"pgdg": {
					URIs: []string{"https://apt.example.test/pub", "https://mirror.example.test/pub"}, Suites: []string{"trixie-pgdg"},
					Components: []string{"main", "17"}, Architectures: []string{"amd64", "arm64"},
					SigningKey: "\n-----BEGIN PGP PUBLIC KEY BLOCK-----\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n\n",
				},
				"keyring": {URIs: []string{"http://deb.example.test"}, Suites: []string{"trixie"}, Components: []string{"main"}, SigningKeyPath: "/usr/share/keyrings/x.gpg"},
				"pool":    {URIs: []string{"file:/pool/trixie"}, Suites: []string{"./"}, Trusted: true},
			},
		},
		Sysctl: map[string]string{"vm.swappiness": "1", "net.ipv4.tcp_keepalive_time": "300", "vm.overcommit_memory": "2"},
		NoFile: 65536,
	}
	golden.Files(t, "files", s.files()...)
	if files := (Spec{Target: s.Target}).files(); len(files) != 0 {
		t.Errorf("without anything to do these files are written: %v", files)
	}
}

func TestMarker(t *testing.T) {
	golden.Files(t, "marker", Marker{
		Name: "pg1", MachineID: "f00", Files: []string{sysctlPath}, SysctlBefore: map[string]string{"vm.swappiness": "60"},
		ChronyInstalled: true, HostsEntries: true, Pending: []string{"lists"},
	}.file())
}

// /etc/hosts is somebody else's file, in which a part is ours.
func TestHostsFile(t *testing.T) {
	ours := hostsBegin + "\n10.0.0.9\tdb\n" + hostsEnd + "\n"
	entries := map[string]string{"db": "10.0.0.9"}
	for name, c := range map[string]struct {
		have    string
		entries map[string]string
		want    string
	}{
		"added":                 {"127.0.0.1 localhost\n", entries, "127.0.0.1 localhost\n" + ours},
		"added to nothing":      {"", entries, ours},
		"no line break":         {"127.0.0.1 localhost", entries, "127.0.0.1 localhost\n" + ours},
		"the same":              {"a\n" + ours, entries, "a\n" + ours},
		"changed":               {"a\n" + hostsBegin + "\n10.0.0.8\tdb\n" + hostsEnd + "\nb\n", entries, "a\nb\n" + ours},
		"taken out":             {"a\n" + ours + "b\n", nil, "a\nb\n"},
		"sorted":                {"", map[string]string{"b": "2.2.2.2", "a": "fd00::1"}, hostsBegin + "\nfd00::1\ta\n2.2.2.2\tb\n" + hostsEnd + "\n"},
		"a mark without an end": {"a\n" + hostsBegin + "\nsomebody's\n", entries, "a\nsomebody's\n" + ours},
		"an end without a mark": {"a\n" + hostsEnd + "\nb\n", entries, "a\nb\n" + ours},
		"two marks, one end":    {hostsBegin + "\na\n" + hostsBegin + "\n10.0.0.8\tdb\n" + hostsEnd + "\n", entries, "a\n" + ours},
	} {
		t.Run(name, func(t *testing.T) {
			got := string(hostsFile([]byte(c.have), c.entries))
			if got != c.want {
				t.Errorf("the file is\n%s\nwant\n%s", got, c.want)
			}
			if again := string(hostsFile([]byte(got), c.entries)); again != got {
				t.Errorf("done again it is\n%s\nand was\n%s", again, got)
			}
		})
	}
}
