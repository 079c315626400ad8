package examples_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
)

// TestModules runs the tests that modules bring along: tests/*.tftest.hcl. They plan, and
// reach no host.
func TestModules(t *testing.T) {
	env := environment(t)
	files, err := filepath.Glob("../modules/*/tests/*.tftest.hcl")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		module := filepath.Dir(filepath.Dir(file))
		t.Run(filepath.Base(module)+"/"+filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			d := cli.FromFolder(t, module, env...)
			d.Write(filepath.Base(file), string(b))
			if o := d.Run(t.Context(), "test", "-no-color"); o.Code != 0 {
				t.Errorf("test:\n%s", o.Text)
			}
		})
	}
}
