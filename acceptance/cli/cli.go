// Package cli runs the real Terraform or OpenTofu with the provider built from
// this tree, as a user does.
package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Dir is a root module in a folder of its own.
type Dir struct {
	t    testing.TB
	Path string
	env  []string
	bin  string
	// rc is the CLI's configuration, and overrides are the folders of the
	// providers in it, by source.
	rc        string
	overrides map[string]string
}

// Main runs a package's tests and removes what New has built for them. It is for
// TestMain.
func Main(m *testing.M) int {
	code := m.Run()
	if folder != "" {
		_ = os.RemoveAll(folder)
	}
	return code
}

// folder is what built has made.
var folder string

// built is the folder with the provider, made once for a test process.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pgha-provider-")
	if err != nil {
		return "", err
	}
	folder = dir
	_, file, _, _ := runtime.Caller(0)
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "terraform-provider-pgha"), ".")
	cmd.Dir = filepath.Join(filepath.Dir(file), "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
})

// Binary finds the CLI: $PGHA_TEST_CLI, or else terraform or tofu. The test is
// skipped without it.
func Binary(t testing.TB) string {
	t.Helper()
	names := []string{"terraform", "tofu"}
	if chosen := os.Getenv("PGHA_TEST_CLI"); chosen != "" {
		names = []string{chosen}
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skipf("SKIPPED: not installed: %s", strings.Join(names, ", "))
	return ""
}

// New makes a root module of files (name to content). Env is added to the
// environment of every command.
func New(t testing.TB, files map[string]string, env ...string) *Dir {
	t.Helper()
	bin := Binary(t)
	provider, err := built()
	if err != nil {
		t.Fatal(err)
	}
	d := &Dir{t: t, Path: t.TempDir(), bin: bin, rc: filepath.Join(t.TempDir(), "cli.tfrc"), overrides: map[string]string{}}
	d.override("pgha/pgha", provider)
	for name, content := range files {
		d.Write(name, content)
	}
	d.env = append(os.Environ(), "TF_CLI_CONFIG_FILE="+d.rc, "TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1", "TF_INPUT=0")
	d.env = append(d.env, env...)
	return d
}

// Provider builds another provider, in a folder of this one's source, for the
// module to use.
func (d *Dir) Provider(source, folder string) {
	d.t.Helper()
	dir := d.t.TempDir()
	_, file, _, _ := runtime.Caller(0)
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "terraform-provider-"+filepath.Base(source)), "./"+folder)
	cmd.Dir = filepath.Join(filepath.Dir(file), "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("go build: %v\n%s", err, out)
	}
	d.override(source, dir)
}

func (d *Dir) override(source, folder string) {
	d.t.Helper()
	d.overrides[source] = folder
	var b strings.Builder
	for source, folder := range d.overrides {
		fmt.Fprintf(&b, "    %q = %q\n", source, folder)
	}
	write(d.t, d.rc, "provider_installation {\n  dev_overrides {\n"+b.String()+"  }\n  direct {}\n}\n")
}

// FromFolder is New with the .tf files of a folder.
func FromFolder(t testing.TB, folder string, env ...string) *Dir {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*.tf"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s has no .tf files (%v)", folder, err)
	}
	templates, err := filepath.Glob(filepath.Join(folder, "*.tftpl"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, p := range append(paths, templates...) {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(p)] = string(b)
	}
	return New(t, files, env...)
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Write puts a file into the module.
func (d *Dir) Write(name, content string) {
	d.t.Helper()
	write(d.t, filepath.Join(d.Path, name), content)
}

// Setenv adds to the environment of the commands that follow.
func (d *Dir) Setenv(kv ...string) { d.env = append(d.env, kv...) }

// Output is what a command printed, both streams together.
type Output struct {
	Text string
	Code int
	Took time.Duration
}

// Cmd prepares a command, for tests that start and interrupt it themselves.
func (d *Dir) Cmd(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.bin, args...)
	cmd.Dir, cmd.Env = d.Path, d.env
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 2 * time.Minute
	return cmd
}

// Run runs a command to its end.
func (d *Dir) Run(ctx context.Context, args ...string) Output {
	d.t.Helper()
	cmd := d.Cmd(ctx, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	err := cmd.Run()
	o := Output{Text: plain(out.String()), Took: time.Since(begin)}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		o.Code = exit.ExitCode()
	case err != nil:
		d.t.Fatalf("%v: %v\n%s", args, err, o.Text)
	}
	d.t.Logf("%s %s: exit status %d after %s", filepath.Base(d.bin), strings.Join(args, " "), o.Code, o.Took.Round(time.Millisecond))
	return o
}

// plain takes out the lines about the provider being a development build, and
// joins the lines that the CLI wrapped, so that texts can be looked for.
func plain(s string) string {
	return strings.ReplaceAll(s, "\r", "")
}

// Contains reports whether the output has a text, however it was wrapped.
func (o Output) Contains(text string) bool {
	return strings.Contains(unwrap(o.Text), unwrap(text))
}

func unwrap(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(" \n\t│╷╵", r) }), " ")
}

// Apply applies and fails the test if that fails.
func (d *Dir) Apply(ctx context.Context, args ...string) Output {
	d.t.Helper()
	o := d.Run(ctx, append([]string{"apply", "-auto-approve", "-no-color"}, args...)...)
	if o.Code != 0 {
		d.t.Fatalf("apply failed:\n%s", o.Text)
	}
	return o
}

// TryApply applies and returns the outcome.
func (d *Dir) TryApply(ctx context.Context, args ...string) Output {
	d.t.Helper()
	return d.Run(ctx, append([]string{"apply", "-auto-approve", "-no-color"}, args...)...)
}

// Destroy destroys and fails the test if that fails.
func (d *Dir) Destroy(ctx context.Context, args ...string) Output {
	d.t.Helper()
	o := d.Run(ctx, append([]string{"destroy", "-auto-approve", "-no-color"}, args...)...)
	if o.Code != 0 {
		d.t.Fatalf("destroy failed:\n%s", o.Text)
	}
	return o
}

// Plan plans: exit code 0 is no change, 1 an error, 2 changes.
func (d *Dir) Plan(ctx context.Context, args ...string) Output {
	d.t.Helper()
	return d.Run(ctx, append([]string{"plan", "-no-color", "-detailed-exitcode"}, args...)...)
}

// NoChanges fails the test unless a plan has nothing to do.
func (d *Dir) NoChanges(ctx context.Context, args ...string) {
	d.t.Helper()
	if o := d.Plan(ctx, args...); o.Code != 0 {
		d.t.Fatalf("the plan is not empty (exit status %d):\n%s", o.Code, o.Text)
	}
}

// Resources lists what is in the state.
func (d *Dir) Resources(ctx context.Context) []string {
	d.t.Helper()
	o := d.Run(ctx, "state", "list")
	return strings.Fields(o.Text)
}

// Outputs reads an output value.
func (d *Dir) Outputs(ctx context.Context, name string, into any) {
	d.t.Helper()
	cmd := d.Cmd(ctx, "output", "-json", name)
	b, err := cmd.Output()
	if err != nil {
		d.t.Fatalf("output %s: %v", name, err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		d.t.Fatalf("output %s: %v\n%s", name, err, b)
	}
}
