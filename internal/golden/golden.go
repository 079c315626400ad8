// Package golden compares what is rendered with files under testdata. With
// -update the files are written anew, to be read before they are committed.
package golden

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Check compares a text with testdata/NAME.golden.
func Check(tb testing.TB, name, got string) {
	tb.Helper()
	path := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			tb.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		tb.Fatalf("%v (run the test with -update to write it)", err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		tb.Errorf("%s (-want +got):\n%s", path, d)
	}
}

// Files compares files, each under a line with its path, owner and mode.
func Files(tb testing.TB, name string, files ...remote.File) {
	tb.Helper()
	var b bytes.Buffer
	for _, f := range files {
		b.WriteString("==> " + f.Path + " " + orRoot(f.Owner) + ":" + orRoot(f.Group) + " ")
		if f.Mode == "" {
			f.Mode = "0644"
		}
		b.WriteString(f.Mode)
		if f.Sensitive {
			b.WriteString(" sensitive")
		}
		b.WriteString("\n")
		b.Write(f.Content)
	}
	Check(tb, name, b.String())
}

func orRoot(name string) string {
	if name == "" {
		return "root"
	}
	return name
}
