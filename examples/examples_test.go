// Package examples_test checks that every example is complete, formatted and
// can be planned, and that nothing of the provider lacks one.
package examples_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
)

func TestMain(m *testing.M) { os.Exit(cli.Main(m)) }

// needsState are the examples that read what another one left behind. They are
// validated here, and applied by TestDemo.
var needsState = []string{"status"}

// requiredProviders completes the examples that leave it out for brevity.
const requiredProviders = `terraform {
  required_providers {
    pgha = {
      source = "pgha/pgha"
    }
  }
}
`

// folders returns the folders that hold .tf files, relative to this one.
func folders(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, pattern := range []string{"*.tf", "*/*.tf", "*/*/*.tf", "*/*/*/*.tf"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			list = append(list, filepath.Dir(f))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// environment is one in which no host can be reached: what these tests do must
// not need any.
func environment(t *testing.T) []string {
	t.Helper()
	home := t.TempDir()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(home, ".ssh", "id_ed25519")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"HOME=" + home, "PGHA_SSH_PRIVATE_KEY_FILE=" + file, "TF_VAR_superuser_password=only-for-this-test", "TF_VAR_tsig_secret=b25seSBmb3IgdGhpcyB0ZXN0LCBub3doZXJlIGVsc2U="}
}

// modules is how examples name this repository's modules.
const modules = `"../../modules/`

func load(t *testing.T, folder string, env []string) *cli.Dir {
	t.Helper()
	d := cli.FromFolder(t, folder, env...)
	files, err := filepath.Glob(filepath.Join(folder, "*.tf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		if strings.Contains(text, modules) {
			// The folder is a copy, and the modules are where they are.
			here, err := filepath.Abs("../modules")
			if err != nil {
				t.Fatal(err)
			}
			d.Write(filepath.Base(f), strings.ReplaceAll(text, modules, `"`+here+"/"))
			if o := d.Run(t.Context(), "get", "-no-color"); o.Code != 0 {
				t.Fatalf("get:\n%s", o.Text)
			}
		}
		if strings.Contains(text, "required_providers") {
			return d
		}
	}
	d.Write("terraform.tf", requiredProviders)
	return d
}

func TestExamplesPlan(t *testing.T) {
	env := environment(t)
	for _, folder := range folders(t) {
		t.Run(folder, func(t *testing.T) {
			t.Parallel()
			d := load(t, folder, env)
			if o := d.Run(t.Context(), "validate", "-no-color"); o.Code != 0 {
				t.Fatalf("validate:\n%s", o.Text)
			}
			if slices.Contains(needsState, folder) {
				return
			}
			if o := d.Run(t.Context(), "plan", "-no-color", "-refresh=false"); o.Code != 0 {
				t.Fatalf("plan:\n%s", o.Text)
			}
		})
	}
}

// The comment over a function's example is what it returns.
func TestFunctionExamplesReturnWhatTheySay(t *testing.T) {
	env := environment(t)
	files, err := filepath.Glob("functions/*/function.tf")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(b), "\n")
			want, isComment := strings.CutPrefix(first, "# ")
			o := load(t, filepath.Dir(file), env).Run(t.Context(), "plan", "-no-color")
			if !isComment || !strings.Contains(o.Text, `= "`+want+`"`) {
				t.Errorf("want %q in\n%s", want, o.Text)
			}
		})
	}
}

// Whoever adds a resource is told to show how it is used.
func TestNothingLacksAnExample(t *testing.T) {
	cmd := load(t, "provider", environment(t)).Cmd(context.Background(), "providers", "schema", "-json")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Providers map[string]struct {
			Resources   map[string]any `json:"resource_schemas"`
			DataSources map[string]any `json:"data_source_schemas"`
			Ephemeral   map[string]any `json:"ephemeral_resource_schemas"`
			Functions   map[string]any `json:"functions"`
		} `json:"provider_schemas"`
	}
	if err := json.Unmarshal(out, &schema); err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, p := range schema.Providers {
		for kind, names := range map[string]map[string]any{
			"resources/%/resource.tf": p.Resources, "resources/%/import.sh": p.Resources, "data-sources/%/data-source.tf": p.DataSources,
			"ephemeral-resources/%/ephemeral-resource.tf": p.Ephemeral, "functions/%/function.tf": p.Functions,
		} {
			for name := range names {
				have[strings.Replace(kind, "%", name, 1)] = true
			}
		}
	}
	if len(have) == 0 {
		t.Fatalf("the provider has nothing:\n%s", out)
	}
	for _, file := range slices.Sorted(maps.Keys(have)) {
		if _, err := os.Stat(file); err != nil {
			t.Errorf("there is no example: %v", err)
		}
	}
	// And the other way round: an example of something that is gone.
	for _, pattern := range []string{"resources/*/resource.tf", "data-sources/*/data-source.tf", "ephemeral-resources/*/ephemeral-resource.tf", "functions/*/function.tf", "resources/*/import.sh"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !have[filepath.ToSlash(f)] {
				t.Errorf("%s is an example of something that the provider does not have", f)
			}
		}
	}
}

func TestExamplesAreFormatted(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), cli.Binary(t), "fmt", "-check", "-diff", "-recursive", ".").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
