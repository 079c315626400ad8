package remote_test

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/host/shellhost"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

func probe(t *testing.T, h *shellhost.Host, p *remote.Probe) *remote.Facts {
	t.Helper()
	f, err := p.Run(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// What a write leaves is what a probe finds, under any name.
func TestProbeFiles(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		content := "a\x00b=c\nd\n\n"
		var p remote.Probe
		for _, name := range hostile {
			write(t, h.Path("/files/"+name), content)
			p.Content(h.Path("/files/" + name))
		}
		write(t, h.Path("/large"), strings.Repeat("x", 1<<20+1))
		for to, link := range map[string]string{"/files/plain": "/link", "/nowhere": "/dangling"} {
			if err := os.Symlink(h.Path(to), h.Path(link)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(h.Path("/empty"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(h.Path("/files/plain"), 0o600); err != nil {
			t.Fatal(err)
		}
		p.Content(h.Path("/large")).Path(h.Path("/link")).Path(h.Path("/dangling")).Path(h.Path("/empty")).Path(h.Path("/files")).
			Path(h.Path("/nowhere")).Path("/dev/null").List(h.Path("/files")).List(h.Path("/empty")).List(h.Path("/nowhere"))
		f := probe(t, h, &p)
		for _, name := range hostile {
			got := f.Path(h.Path("/files/" + name))
			if got.Type != remote.Regular || string(got.Content) != content || got.SHA256 != (remote.File{Content: []byte(content)}).SHA256() || got.Size != int64(len(content)) {
				t.Errorf("%q: %+v", name, got)
			}
		}
		if got := f.Path(h.Path("/files/plain")); got.Mode != "600" || got.Owner == "" || got.Group == "" {
			t.Errorf("a file: %+v", got)
		}
		if got := f.Path(h.Path("/large")); len(got.Content) > 0 || got.Size != 1<<20+1 || got.SHA256 == "" {
			t.Errorf("a large file has %d bytes of content, %+v", len(got.Content), got.Size)
		}
		for path, want := range map[string]remote.PathType{
			"/link": remote.Link, "/dangling": remote.Link, "/empty": remote.Dir, "/files": remote.Dir, "/nowhere": remote.Missing,
		} {
			got := f.Path(h.Path(path))
			if got.Type != want || got.Exists() != (want != remote.Missing) || got.Empty != (path == "/empty") {
				t.Errorf("%s: %+v", path, got)
			}
		}
		if got := f.Path("/dev/null"); got.Type != remote.Other || got.Mode != "666" || got.Owner == "" || got.Group == "" {
			t.Errorf("a device: %+v", got)
		}
		if got := f.Path(h.Path("/link")).Target; got != h.Path("/files/plain") {
			t.Errorf("the link leads to %q", got)
		}
		if d := cmp.Diff(entries(t, h.Path("/files")), f.List(h.Path("/files")), cmp.Transformer("sort", sorted)); d != "" {
			t.Errorf("list (-want +got):\n%s", d)
		}
		if len(f.List(h.Path("/empty")))+len(f.List(h.Path("/nowhere"))) != 0 {
			t.Error("nothing is listed as something")
		}
		unharmed(t, h)
		if calls := h.Calls(); len(calls) > 0 {
			t.Errorf("asking called %q", calls)
		}
	})
}

func sorted(list []string) map[string]bool {
	m := map[string]bool{}
	for _, e := range list {
		m[e] = true
	}
	return m
}

// What this machine says about itself, as any Linux host would.
func TestProbeSystem(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	each(t, func(t *testing.T, h *shellhost.Host) {
		h.Program("ss", `echo 'LISTEN 0 4096 127.0.0.1:`+fmt.Sprint(port)+` 0.0.0.0:* users:(("test",pid=7,fd=3))'
echo 'LISTEN 0 128 [::]:1`+fmt.Sprint(port)+` [::]:* users:(("other",pid=8,fd=3))'`)
		h.Program("getent", `if [ "$1$3" = ahostspg1.test ]; then printf '10.0.0.1  STREAM pg1.test\n10.0.0.1  DGRAM\nfd00::1  STREAM\n'; else exit 2; fi`)
		h.Program("sysctl", `case $3 in vm.swappiness) echo 60 ;; net.ipv4.tcp_rmem) printf '4096\t131072\t6291456\n' ;; *) exit 1 ;; esac`)
		h.Program("dpkg", "echo amd64")
		h.Program("systemctl", `[ "$3" = ntpsec ]`)
		h.Program("timedatectl", "echo yes")
		var p remote.Probe
		f := probe(t, h, p.OS().Clock().TimeService().Synchronized().Disk(h.Path("/not/there/yet")).Port(port).Port(1).Account("root").Account("nobody like this").
			Sysctl("vm.swappiness").Sysctl("net.ipv4.tcp_rmem").Sysctl("no.such").Tool("sh").Tool("no-such-tool").Lookup("127.0.0.1").Addresses().
			Resolve("pg1.test").Resolve("nowhere.test"))
		if os := f.OS(); os.ID == "" || os.Kernel == "" || os.Hostname == "" || os.CPUs < 1 || os.Memory < 1<<20 || os.Arch == "" {
			t.Errorf("system %+v", os)
		}
		if skew := f.Skew(); skew != 0 {
			t.Errorf("this machine's clock differs from its own by %s", skew)
		}
		if service, kept := f.TimeService(), f.Synchronized(); service != "ntpsec" || !kept {
			t.Errorf("the clock is kept by %q: %t", service, kept)
		}
		if d := f.Disk(h.Path("/not/there/yet")); d.At != h.Root || d.Size <= 0 || d.Free < 0 || d.Mount == "" || !d.Writable {
			t.Errorf("disk %+v", d)
		}
		if got := f.Port(port); len(got) != 1 || got[0] != fmt.Sprintf(`127.0.0.1:%d users:(("test",pid=7,fd=3))`, port) {
			t.Errorf("port %q", got)
		}
		if got := f.Port(1); len(got) != 0 {
			t.Errorf("port 1: %q", got)
		}
		if !f.Account("root") || f.Account("nobody like this") || !f.Tool("sh") || f.Tool("no-such-tool") {
			t.Error("accounts or tools are wrong")
		}
		if d := cmp.Diff([]string{"10.0.0.1", "fd00::1"}, f.Resolve("pg1.test")); d != "" || len(f.Resolve("nowhere.test")) > 0 {
			t.Errorf("addresses of a name (-want +got):\n%s", d)
		}
		for key, want := range map[string]string{"vm.swappiness": "60", "net.ipv4.tcp_rmem": "4096 131072 6291456", "no.such": ""} {
			if got := f.Sysctl(key); got != want {
				t.Errorf("%s is %q, want %q", key, got, want)
			}
		}
	})
}

// Debian's own clusters, of which none is touched: whether anybody has made
// something in them shows in the numbers of the files.
func TestProbeDebianClusters(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		write(t, h.Path("/etc/postgresql/17/main/postgresql.conf"), "#data_directory = 'x'\ndata_directory = '"+h.Path("/srv/a b")+"'\t# use data in another directory\nport = 5433 # (change requires restart)\n")
		write(t, h.Path("/srv/a b/postmaster.pid"), "1\n")
		write(t, h.Path("/srv/a b/base/1/16383_fsm"), "")
		write(t, h.Path("/srv/a b/base/5/1249"), "")
		write(t, h.Path("/etc/postgresql/15/$(touch pwned)/postgresql.conf"), "")
		write(t, h.Path("/var/lib/postgresql/15/$(touch pwned)/base/5/16384.1"), "")
		write(t, h.Path("/etc/postgresql/16/none/other"), "")
		var p remote.Probe
		want := []remote.DebianCluster{
			{Version: "15", Name: "$(touch pwned)", Port: 5432, Used: true, DataDir: h.Path("/var/lib/postgresql/15/$(touch pwned)")},
			{Version: "17", Name: "main", Port: 5433, Running: true, DataDir: h.Path("/srv/a b")},
		}
		if d := cmp.Diff(want, probe(t, h, p.DebianClusters()).DebianClusters()); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		unharmed(t, h)
	})
}

// What dpkg, apt and systemd say, in their own words.
func TestProbePackagesAndUnits(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		h.Program("dpkg-query", `printf '%s\n' 'half|iF |half|7' 'held|hi |of|5' 'installed|ii |of|1:2.3-4~deb13u1' 'of|ii |installed|1' 'removed|rc |of|6'`)
		h.Program("apt-cache", `printf ' patronictl | 9 | http://deb.example.test sid/main amd64 Packages\n   patroni | 4.1.5-2 | http://deb.example.test sid/main amd64 Packages\n   patroni | 4.0.7-3~deb13u1 | http://deb.example.test trixie/main amd64 Packages\n'`)
		h.Program("systemctl", `printf 'Result=exit-code\nNRestarts=4\nMainPID=0\nExecMainStartTimestamp=Sun 2026-11-22 21:00:00 UTC\nLoadState=loaded\nActiveState=activating\nSubState=auto-restart\nFragmentPath=/usr/lib/systemd/system/x.service\nUnitFileState=enabled\nNeedDaemonReload=yes\nInvocationID=\n'`)
		var p remote.Probe
		f := probe(t, h, p.Package("installed", "held", "removed", "half", "never", "install").Source("of").Source("none").Available("patroni", "nothing").Unit("x.service"))
		for name, want := range map[string]remote.Package{
			"installed": {Version: "1:2.3-4~deb13u1", Installed: true}, "held": {Version: "5", Installed: true, Held: true},
			"removed": {}, "half": {Version: "7", Broken: true}, "never": {}, "install": {},
		} {
			want.Name = name
			if d := cmp.Diff(want, f.Package(name)); d != "" {
				t.Errorf("%s (-want +got):\n%s", name, d)
			}
		}
		if d := cmp.Diff([]string{"4.1.5-2", "4.0.7-3~deb13u1"}, f.Available("patroni")); d != "" || len(f.Available("nothing")) > 0 {
			t.Errorf("versions (-want +got):\n%s", d)
		}
		if d := cmp.Diff(map[string]string{"held": "5", "installed": "1:2.3-4~deb13u1"}, f.Source("of")); d != "" || len(f.Source("none")) > 0 {
			t.Errorf("packages of a source (-want +got):\n%s", d)
		}
		want := remote.Unit{
			Name: "x.service", Loaded: true, Active: "activating", Sub: "auto-restart", Enabled: "enabled", NeedsReload: true, Restarts: 4,
			Result: "exit-code", Fragment: "/usr/lib/systemd/system/x.service",
		}
		if d := cmp.Diff(want, f.Unit("x.service")); d != "" {
			t.Errorf("unit (-want +got):\n%s", d)
		}
	})
}

// One call answers for all units. Where systemd passes over a name, each is asked
// for by itself, so that no answer goes to another's question.
func TestProbeUnitsTogether(t *testing.T) {
	const show = `while [ "$1" != -- ]; do shift; done
shift
echo "$*" >>calls
first=yes
for name in "$@"; do
	case $name in *@.service) bad=yes; continue ;; esac
	[ "$first" ] || echo
	first=
	printf 'ActiveState=%s\n' "$name"
done
[ -z "$bad" ]`
	each(t, func(t *testing.T, h *shellhost.Host) {
		calls := h.Path("/calls")
		h.Program("systemctl", strings.ReplaceAll(show, ">>calls", ">>"+calls))
		for _, c := range []struct {
			units []string
			calls int
		}{
			{[]string{"a.service", "b.service", "c.timer"}, 1},
			{[]string{"a.service", "x@.service", "c.timer"}, 4},
			{[]string{"x@.service"}, 2},
		} {
			_ = os.Remove(calls)
			var p remote.Probe
			p.Tool("sh")
			for _, u := range c.units {
				p.Unit(u).Path("/not/there" + u)
			}
			f := probe(t, h, &p)
			for _, u := range c.units {
				want := u
				if strings.Contains(u, "@.") {
					want = ""
				}
				if got := f.Unit(u).Active; got != want {
					t.Errorf("%q: %s has the answer of %q", c.units, u, got)
				}
			}
			if text, _ := os.ReadFile(calls); strings.Count(string(text), "\n") != c.calls {
				t.Errorf("%q: systemctl was called so:\n%s", c.units, text)
			}
		}
	})
}

// Files are read together, whatever their names.
func TestProbeFilesTogether(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		texts := map[string]string{"/a": "one\n", "/b c": "two\n", `/d\n|e*\\`: "three\n", "/empty": "", "/$(touch pwned)": "four\n", "/at": "five"}
		var p remote.Probe
		for name, text := range texts {
			write(t, h.Path(name), text)
			p.Path(h.Path(name)).Content(h.Path(name))
		}
		write(t, h.Path("/large"), strings.Repeat("x", 1<<20+1))
		write(t, h.Path("/fits"), strings.Repeat("x", 1<<20))
		f := probe(t, h, p.Content(h.Path("/large")).Content(h.Path("/fits")).Content(h.Path("/gone")).Path(h.Path("/")))
		for name, text := range texts {
			got := f.Path(h.Path(name))
			if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(text))); got.Type != remote.Regular || got.SHA256 != sum || string(got.Content) != text || got.Size != int64(len(text)) || got.Mode != "644" || got.Modified == 0 {
				t.Errorf("%s: %+v", name, got)
			}
		}
		if got := f.Path(h.Path("/large")); got.Size != 1<<20+1 || len(got.Content) != 0 || got.SHA256 == "" {
			t.Errorf("a file of over 1 MiB: %d bytes, content of %d", got.Size, len(got.Content))
		}
		if got := f.Path(h.Path("/fits")); len(got.Content) != 1<<20 {
			t.Errorf("a file of 1 MiB: content of %d", len(got.Content))
		}
		if got := f.Path(h.Path("/gone")); got.Exists() || f.Path(h.Path("/")).Owner == "" {
			t.Errorf("%+v", got)
		}
		unharmed(t, h)
	})
}

// What was not asked has no answer: taken for "not there" it would be made anew.
func TestFactsPanic(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		var p remote.Probe
		f := probe(t, h, p.Path("/a"))
		for name, ask := range map[string]func(){
			"another path": func() { f.Path("/b") }, "a unit": func() { f.Unit("x") }, "two lines": func() { p.Path("/a\n/b") },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: there is no panic", name)
					}
				}()
				ask()
			}()
		}
	})
}
