package remote_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/shellhost"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// each runs a test with every shell that a host may have.
func each(t *testing.T, test func(t *testing.T, h *shellhost.Host)) {
	for name, shell := range shellhost.Shells(t) {
		t.Run(name, func(t *testing.T) { test(t, shellhost.New(t, shell)) })
	}
}

// hostile are names that a careless script would take apart or run.
var hostile = []string{
	"plain", "with space", " leading and trailing ", "it's", `say "hi"`, "$(touch pwned)", "`touch pwned`", "${HOME}", "a;touch pwned", "a|b&c",
	"-rf", "--", "*", "?[a]", "~", "back\\slash", "ünï–cødé 日本", "tab\there", "%s%n", "#comment", "!history", "{a,b}",
}

// unharmed checks that nothing was run that only looked like a name.
func unharmed(t *testing.T, h *shellhost.Host) {
	t.Helper()
	_ = filepath.WalkDir(h.Root, func(path string, _ os.DirEntry, err error) error {
		if filepath.Base(path) == "pwned" {
			t.Errorf("a name was run: %s", path)
		}
		return err
	})
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// entries are the names in a directory.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// A file arrives whole, with its owner and mode, whatever its name and content;
// what was there is replaced.
func TestWriteFile(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		content := []byte("a\x00b\xff'\"$(touch pwned)\n\n\nno line break at the end")
		for _, name := range append(hostile, "new\nline") {
			for _, dir := range []string{"", "sub of " + strings.ReplaceAll(name, "/", "_") + "/deeper/"} {
				f := remote.File{Path: h.Path("/files/" + dir + name), Content: content, Owner: "root", Group: "postgres", Mode: "0640"}
				for range 2 {
					if err := remote.WriteFile(t.Context(), h, f); err != nil {
						t.Fatalf("%q: %v", name, err)
					}
				}
				if got := read(t, f.Path); got != string(content) {
					t.Errorf("%q: %q", name, got)
				}
				if st, err := os.Stat(f.Path); err != nil || st.Mode().Perm() != 0o640 {
					t.Errorf("%q: %v %v", name, st.Mode(), err)
				}
				if got := entries(t, filepath.Dir(f.Path)); len(got) != 1 && dir != "" {
					t.Errorf("%q: beside it: %q", name, got)
				}
			}
		}
		unharmed(t, h)
		for _, c := range h.Calls() {
			if strings.HasPrefix(c, "chown") && !strings.HasPrefix(c, "chown [--] [root:postgres] [/files/") {
				t.Errorf("%s", c)
			}
		}
	})
}

// What does not arrive whole does not appear, and what was there stays.
func TestWriteFileHalf(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		f := remote.File{Path: h.Path("/files/a"), Content: []byte("new")}
		write(t, f.Path, "old")
		err := remote.WriteFile(t.Context(), truncating{h}, f)
		if err == nil || !strings.Contains(err.Error(), "did not arrive whole") {
			t.Errorf("the error is %v", err)
		}
		h.Program("chown", "exit 1")
		if err := remote.WriteFile(t.Context(), h, f); err == nil {
			t.Error("a failed chown was ignored")
		}
		if d := cmp.Diff([]string{"a"}, entries(t, h.Path("/files"))); d != "" {
			t.Errorf("files (-want +got):\n%s", d)
		}
		if got := read(t, f.Path); got != "old" {
			t.Errorf("the file is %q", got)
		}
	})
}

// Nothing stays of a file that was being written when the connection went: the
// script has nobody to complain to, and must clean up all the same. What earlier
// runs could not clean up, because the power went, goes later.
func TestWriteFileDeaf(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		f := remote.File{Path: h.Path("/files/a"), Content: []byte("new")}
		write(t, f.Path, "old")
		h.Deaf = true
		if err := remote.WriteFile(t.Context(), truncating{h}, f); err == nil {
			t.Error("half a file was accepted")
		}
		if d := cmp.Diff([]string{"a"}, entries(t, h.Path("/files"))); d != "" {
			t.Errorf("files (-want +got):\n%s", d)
		}
		h.Deaf = false
		for name, age := range map[string]time.Duration{".pgha.0123456789": 2 * time.Hour, ".pgha.abcdefghij": time.Minute, ".pgha.mine": 2 * time.Hour} {
			write(t, h.Path("/files/"+name), "half")
			then := time.Now().Add(-age)
			if err := os.Chtimes(h.Path("/files/"+name), then, then); err != nil {
				t.Fatal(err)
			}
		}
		if err := remote.WriteFile(t.Context(), h, f); err != nil {
			t.Error(err)
		}
		if d := cmp.Diff([]string{".pgha.abcdefghij", ".pgha.mine", "a"}, entries(t, h.Path("/files"))); d != "" {
			t.Errorf("files (-want +got):\n%s", d)
		}
	})
}

// A link is replaced and not followed; a directory is not replaced.
func TestWriteFileOverOthers(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		write(t, h.Path("/target"), "theirs")
		write(t, h.Path("/files/dir/x"), "x")
		for _, link := range []string{"link", "dangling", "todir"} {
			to := map[string]string{"link": "/target", "dangling": "/nowhere", "todir": "/files/dir"}[link]
			if err := os.Symlink(h.Path(to), h.Path("/files/"+link)); err != nil {
				t.Fatal(err)
			}
			f := remote.File{Path: h.Path("/files/" + link), Content: []byte("ours")}
			if err := remote.WriteFile(t.Context(), h, f); (err != nil) != (link == "todir") {
				t.Errorf("%s: %v", link, err)
			}
		}
		if st, _ := os.Lstat(h.Path("/files/link")); st.Mode()&os.ModeSymlink != 0 || read(t, h.Path("/files/link")) != "ours" {
			t.Error("the link is still there")
		}
		if got := read(t, h.Path("/target")); got != "theirs" {
			t.Errorf("the link's target is %q", got)
		}
		if err := remote.WriteFile(t.Context(), h, remote.File{Path: h.Path("/files/dir")}); err == nil {
			t.Error("a directory was replaced by a file")
		}
	})
}

// truncating loses the end of what is sent.
type truncating struct{ *shellhost.Host }

func (h truncating) Run(ctx context.Context, cmd host.Cmd) (host.Result, error) {
	cmd.Stdin = cmd.Stdin[:len(cmd.Stdin)-1]
	return h.Host.Run(ctx, cmd)
}

func TestRemoveFiles(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		var paths []string
		for _, name := range append(hostile, "new\nline") {
			write(t, h.Path("/files/"+name), "")
			paths = append(paths, h.Path("/files/"+name))
		}
		write(t, h.Path("/keep"), "")
		if err := os.Symlink(h.Path("/keep"), h.Path("/files/link")); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, h.Path("/files/link"), h.Path("/files/was never there"), h.Path("/nor/its/folder"))
		for range 2 {
			if err := remote.RemoveFiles(t.Context(), h, paths...); err != nil {
				t.Fatal(err)
			}
		}
		if left := entries(t, h.Path("/files")); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
		read(t, h.Path("/keep"))
		if err := remote.RemoveFiles(t.Context(), h, h.Path("/files")); err == nil {
			t.Error("a directory was removed")
		}
		unharmed(t, h)
	})
}

func TestDirs(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		for _, name := range append(hostile, "new\nline") {
			dir := h.Path("/dirs/" + name + "/data")
			for range 2 {
				if err := remote.MakeDir(t.Context(), h, dir, "postgres", "postgres", "0700"); err != nil {
					t.Fatalf("%q: %v", name, err)
				}
			}
			if st, err := os.Stat(dir); err != nil || !st.IsDir() || st.Mode().Perm() != 0o700 {
				t.Errorf("%q: %v %v", name, st, err)
			}
			if st, err := os.Stat(filepath.Dir(dir)); err != nil || st.Mode().Perm() != 0o755 {
				t.Errorf("parent of %q: %v %v", name, st, err)
			}
			write(t, filepath.Dir(dir)+"/other", "")
			// The second one is not empty, the third never was.
			if err := remote.RemoveEmptyDirs(t.Context(), h, dir, filepath.Dir(dir), h.Path("/nowhere")); err != nil {
				t.Fatalf("%q: %v", name, err)
			}
			if d := cmp.Diff([]string{"other"}, entries(t, filepath.Dir(dir))); d != "" {
				t.Errorf("%q (-want +got):\n%s", name, d)
			}
		}
		unharmed(t, h)
	})
}

func TestPurgeTree(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		write(t, h.Path("/outside/keep"), "")
		for _, name := range append(hostile, "new\nline") {
			dir := h.Path("/trees/" + name)
			write(t, dir+"/deep/er/file", "")
			write(t, dir+"/.hidden", "")
			if err := os.Symlink(h.Path("/outside"), dir+"/link"); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := remote.PurgeTree(t.Context(), h, dir); err != nil {
					t.Fatalf("%q: %v", name, err)
				}
			}
		}
		if left := entries(t, h.Path("/trees")); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
		read(t, h.Path("/outside/keep"))
		unharmed(t, h)
	})
}

// What must never be deleted is refused before anything is called that deletes.
func TestPurgeTreeRefuses(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		if err := os.Symlink(h.Path("/run"), h.Path("/link")); err != nil {
			t.Fatal(err)
		}
		// Stand-ins: a mistake in the script must not cost this machine.
		for _, program := range []string{"rm", "find", "mountpoint"} {
			h.Program(program, "exit 1")
		}
		for _, path := range []string{
			"/", "", "/srv", "/srv/", "/srv/x/", "//srv/x", "/srv//x", "/srv/x//", "srv/x/y", "./srv/x/y",
			"/srv/../x/y", "/srv/x/..", "/srv/x/../y", "/srv/./x/y", "/srv/x/.", "/../srv/x", h.Path("/link"), h.Path("/link/"),
		} {
			if err := remote.PurgeTree(t.Context(), h, path); err == nil {
				t.Errorf("%q is not refused", path)
			}
		}
		if calls := h.Calls(); len(calls) > 0 {
			t.Errorf("something was about to be deleted: %q", calls)
		}
	})
}

// Same goes by content, owner and mode.
func TestSame(t *testing.T) {
	f := remote.File{Path: "/a", Content: []byte("x"), Mode: "0640", Group: "postgres"}
	is := remote.Path{Type: remote.Regular, SHA256: f.SHA256(), Owner: "root", Group: "postgres", Mode: "640"}
	if !f.Same(is) {
		t.Error("a file is not the same as itself")
	}
	for name, change := range map[string]func(*remote.Path){
		"missing": func(p *remote.Path) { p.Type = remote.Missing }, "a link": func(p *remote.Path) { p.Type = remote.Link },
		"content": func(p *remote.Path) { p.SHA256 = "0" }, "owner": func(p *remote.Path) { p.Owner = "x" },
		"group": func(p *remote.Path) { p.Group = "root" }, "mode": func(p *remote.Path) { p.Mode = "600" },
	} {
		p := is
		change(&p)
		if f.Same(p) {
			t.Errorf("another %s is the same", name)
		}
	}
	if def := (remote.File{Path: "/a"}); !def.Same(remote.Path{Type: remote.Regular, SHA256: def.SHA256(), Owner: "root", Group: "root", Mode: "644"}) {
		t.Error("the defaults are not root, root, 0644")
	}
}

// Close to the root only a database is deleted, and one whose deletion was cut
// off.
func TestPurgeTreeCloseToTheRoot(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		gone  bool
	}{
		"a database":        {[]string{"PG_VERSION", "base/1"}, true},
		"an empty folder":   {nil, true},
		"something else":    {[]string{"base/1"}, false},
		"a database inside": {[]string{"main/PG_VERSION"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("/tmp", "pgha-purge-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			for _, f := range c.files {
				write(t, dir+"/"+f, "")
			}
			each(t, func(t *testing.T, h *shellhost.Host) {
				err := remote.PurgeTree(t.Context(), h, dir)
				if _, statErr := os.Stat(dir); os.IsNotExist(statErr) != c.gone || (err == nil) != c.gone {
					t.Errorf("error %v, afterwards %v", err, statErr)
				}
			})
		})
	}
}
