package debian

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseTargets(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     Mirror
	}{
		{"lists are there", `Docker|Docker CE|https://download.example/linux/debian/
Debian|Debian|http://mirror.example/debian/
Debian|Debian|http://mirror.example/debian/
Debian|Debian-Security|http://sec.example/debian-security/
`, Mirror{"http://mirror.example/debian", "http://sec.example/debian-security"}},
		{"before the first update", `||http://mirror.example/debian/
||http://mirror.example/debian-security/
`, Mirror{"http://mirror.example/debian", "http://mirror.example/debian-security"}},
		{"no security updates", "Debian|Debian|http://mirror.example/debian/\n", Mirror{"http://mirror.example/debian", "http://mirror.example/debian-security"}},
	} {
		got, err := parseTargets(c.in)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
	for _, in := range []string{"", "Ubuntu|Ubuntu|http://mirror.example/ubuntu/\n"} {
		if _, err := parseTargets(in); err == nil || !strings.Contains(err.Error(), "--mirror") {
			t.Errorf("%q: %v, want advice", in, err)
		}
	}
}

func TestParseInstalls(t *testing.T) {
	const out = `Reading package lists...
Inst libc6 [2.41-12] (2.41-12+deb13u4 Debian:13.6/stable [amd64]) []
Inst bind9 (1:9.20.26-1~deb13u1 Debian:13.6/stable [amd64])
Conf libc6 (2.41-12+deb13u4 Debian:13.6/stable [amd64])
`
	want := []string{"bind9=1:9.20.26-1~deb13u1", "libc6=2.41-12+deb13u4"}
	if diff := cmp.Diff(want, parseInstalls(out)); diff != "" {
		t.Error(diff)
	}
}

// The order is dpkg's, in which a tilde comes before the end.
func TestParseVersions(t *testing.T) {
	const index = `Package: patroni
Architecture: all
Version: 4.1.5-2

Package: patroni
Version: 4.0.7-3~deb13u1

Package: patroni
Version: 4.0.7-3

Package: libpq5
Version: 17.11-0+deb13u1
`
	want := map[string][]string{"patroni": {"4.0.7-3~deb13u1", "4.0.7-3", "4.1.5-2"}, "libpq5": {"17.11-0+deb13u1"}}
	if diff := cmp.Diff(want, parseVersions(index)); diff != "" {
		t.Error(diff)
	}
}

func TestSources(t *testing.T) {
	r, err := Find("trixie")
	if err != nil {
		t.Fatal(err)
	}
	const want = `deb [signed-by=/keys] http://m/debian trixie main
deb [signed-by=/keys] http://m/debian trixie-updates main
deb [signed-by=/keys] http://m/debian-security trixie-security main
deb [signed-by=/keys] http://m/debian sid main
`
	if diff := cmp.Diff(want, r.sources(Mirror{"http://m/debian", "http://m/debian-security"}, "/keys")); diff != "" {
		t.Error(diff)
	}
	if got := r.preferences(); !strings.Contains(got, "n=sid") || strings.Contains(got, "trixie") {
		t.Errorf("only foreign suites are to be held back:\n%s", got)
	}
	if _, err := Find("buster"); err == nil || !strings.Contains(err.Error(), "bookworm and trixie") {
		t.Errorf("an unknown release: %v", err)
	}
}

// What is built is found again by its inputs, and only by them.
func TestKeys(t *testing.T) {
	r, _ := Find("trixie")
	changed := func(f func(*Release)) Release {
		c := r
		f(&c)
		return c
	}
	other := changed(func(c *Release) { c.Base = append([]string{"nano"}, c.Base...) })
	if r.bareKey() == other.bareKey() || r.poolKey(nil) == other.poolKey(nil) || r.warmKey(nil) == other.warmKey(nil) {
		t.Error("another base gives the same image")
	}
	other = changed(func(c *Release) { c.Pool = append([]string{"nano"}, c.Pool...) })
	if r.bareKey() != other.bareKey() || r.poolKey(nil) == other.poolKey(nil) {
		t.Error("a package in the pool: the pool has to be built anew, the bare image not")
	}
	if r.warmKey([]string{"a=1"}) == r.warmKey([]string{"a=2"}) {
		t.Error("another version gives the same warm image")
	}
	bookworm, _ := Find("bookworm")
	if bookworm.bareKey() == r.bareKey() {
		t.Error("two releases share an image")
	}
	extra := []Extra{{Name: "citus.deb", Sha256: "1", path: "/somewhere"}}
	moved := []Extra{{Name: "citus.deb", Sha256: "1", path: "/elsewhere"}}
	if r.poolKey(extra) == r.poolKey(nil) || r.poolKey(extra) != r.poolKey(moved) {
		t.Error("an extra package counts by what it is, not by where it is")
	}
	if again, _ := Find("trixie"); again.bareKey() != r.bareKey() {
		t.Error("a key is not stable")
	}
}

func TestFindExtras(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"all.deb": "1", "notes.txt": "", "trixie/citus_13.deb": "2", "trixie/citus_14.deb": "3", "bookworm/citus_12.deb": "4",
	} {
		f := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	names := func(folder, release string) string {
		extras, err := FindExtras(folder, release)
		if err != nil {
			t.Fatal(err)
		}
		var n []string
		for _, x := range extras {
			n = append(n, x.Name)
		}
		return strings.Join(n, " ")
	}
	if got := names(dir, "trixie"); got != "all.deb citus_13.deb citus_14.deb" {
		t.Error(got)
	}
	if got := names(dir, "bookworm"); got != "all.deb citus_12.deb" {
		t.Error(got)
	}
	if got := names("", "trixie") + names(filepath.Join(dir, "none"), "trixie"); got != "" {
		t.Error(got)
	}
}

func TestReason(t *testing.T) {
	err := errText(`apt-get -y install x: exit status 100:
Some packages could not be installed. This may mean that
 patroni : Depends: python3-cdiff but it is not installable
E: Unable to correct problems, you have held broken packages.`)
	want := "patroni : Depends: python3-cdiff but it is not installable; E: Unable to correct problems, you have held broken packages."
	if got := reason(err); got != want {
		t.Error(got)
	}
}

type errText string

func (e errText) Error() string { return string(e) }
