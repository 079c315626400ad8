package prepare

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What was rendered is read back: importing a host that was prepared leaves
// nothing to change.
func TestReadBack(t *testing.T) {
	want := Spec{
		Sysctl: map[string]string{"vm.swappiness": "1", "kernel.sched_rt_runtime_us": "-1"}, NoFile: 65536,
		Hosts: map[string]string{"a.example": "10.0.0.1", "b": "fd00::1"},
		Apt: Apt{
			Proxy: "http://user:p@proxy:3128", AllowExpired: true,
			Repositories: map[string]Repository{
				"one":  {URIs: []string{"https://a/debian", "https://b/debian"}, Suites: []string{"trixie"}, Components: []string{"main"}, SigningKey: "-----BEGIN PGP PUBLIC KEY BLOCK-----\nx\n"},
				"flat": {URIs: []string{"file:/srv/x"}, Suites: []string{"./"}, Architectures: []string{"amd64"}, Trusted: true},
				"ring": {URIs: []string{"https://c"}, Suites: []string{"s"}, Components: []string{"main"}, SigningKeyPath: "/usr/share/keyrings/c.gpg"},
			},
		},
	}
	got := Spec{Sysctl: map[string]string{}, Apt: Apt{Repositories: map[string]Repository{}}}
	for _, f := range want.files() {
		got.read(f.Path, string(f.Content))
	}
	got.Hosts = ourHosts(string(hostsFile([]byte("127.0.0.1\tlocalhost\n"), want.Hosts)))
	// What an empty list is read back as makes no difference to the files.
	if d := cmp.Diff(want.files(), got.files()); d != "" {
		t.Errorf("files (-want +got):\n%s", d)
	}
	if d := cmp.Diff(want.Hosts, got.Hosts); d != "" {
		t.Errorf("hosts (-want +got):\n%s", d)
	}
	if d := cmp.Diff(want.Sysctl, got.Sysctl); d != "" || got.NoFile != want.NoFile || got.Apt.Proxy != want.Apt.Proxy {
		t.Errorf("%+v", got)
	}
}
