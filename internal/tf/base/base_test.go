package base

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-log/tflogtest"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/redact"
)

const secret = "correct horse battery staple"

func services(t *testing.T) *Services {
	t.Helper()
	s := &Services{Redact: new(redact.Set), Now: time.Now}
	s.Redact.Add(secret)
	s.Log = NewLogger(s.Redact)
	return s
}

// No way into the log leads around redaction: the message, a value, what is
// attached to the logger, a group, an error.
func TestLogRedacts(t *testing.T) {
	t.Setenv("TF_LOG_PROVIDER", "TRACE")
	s := services(t)
	var out bytes.Buffer
	ctx := tflogtest.RootLogger(context.Background(), &out)
	log := s.Log.With("with", secret).WithGroup("group")
	for _, write := range []func(context.Context, string, ...any){log.DebugContext, log.InfoContext, log.WarnContext, log.ErrorContext} {
		write(ctx, "message "+secret, "value", secret, "error", errors.New(secret), "list", []string{secret}, slog.Group("inner", "x", secret))
	}
	if strings.Contains(out.String(), secret) {
		t.Errorf("the secret is in the log:\n%s", out.String())
	}
	lines, err := tflogtest.MultilineJSONDecode(&out)
	if err != nil {
		t.Fatal(err)
	}
	var levels []string
	for _, l := range lines {
		levels = append(levels, l["@level"].(string))
		if l["group.value"] == nil || l["with"] == nil {
			t.Errorf("fields are missing: %v", l)
		}
	}
	if d := cmp.Diff([]string{"debug", "info", "warn", "error"}, levels); d != "" {
		t.Errorf("levels (-want +got):\n%s", d)
	}
}

// An error becomes a diagnostic with everything it knows, at the attribute it is
// about, without secrets.
func TestFail(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		at   path.Path
		want []string
	}{
		"a problem": {
			&problem.Error{Host: "pg1", Step: "install", Cause: errors.New("bad " + secret), Log: []string{"log " + secret}, Do: "mend it."}, path.Empty(),
			[]string{"Host: pg1", "Step: install", "Cause: bad ", "log ", "What to do: mend it."},
		},
		"with a hint": {&host.Error{Host: "pg1", Op: "connect", Kind: host.KindAuth, Hint: "give a key"}, path.Empty(), []string{"Step: connect", "authentication rejected", "Left as it is: everything on the host.", "What to do: give a key"}},
		"a full disk": {
			problem.Fill(&host.Error{Host: "pg1", Op: "file.write", Kind: host.KindExit, ExitCode: 1, Stderr: "cat: write error: No space left on device"}, problem.Error{Host: "pg1", Step: "write it", Left: "that.", Do: engine.GoOn}), path.Empty(),
			[]string{"Host: pg1", "Step: write it", "Cause: a filesystem of the host is full: exit status 1: cat: write error", "Left as it is: that.", "What to do: make room"},
		},
		"a full disk in the log": {
			&problem.Error{Host: "pg1", Cause: errors.New("it ends"), Log: []string{"FATAL: could not write: No space left on device"}, Do: "mend it."}, path.Empty(),
			[]string{"Cause: a filesystem of the host is full: it ends", "What to do: make room"},
		},
		"several hosts": {
			errors.Join(&host.Error{Host: "pg1", Addr: "10.0.0.1", Op: "probe", Kind: host.KindUnreachable}, &host.Error{Host: "pg2", Op: "probe", Kind: host.KindBecome, Hint: "let it"}), path.Empty(),
			[]string{"Host: pg1 (10.0.0.1)\nStep: connect\nCause: unreachable\n", "Host: pg2\nStep: become root\n", "What to do: let it"},
		},
		"at an attribute": {&AttributeError{Path: path.Root("members"), Err: errors.New("no")}, path.Root("members"), []string{"no"}},
	} {
		var diags diag.Diagnostics
		services(t).Fail(&diags, "Unable to do it", c.err)
		if len(diags) != 1 || diags[0].Severity() != diag.SeverityError || diags[0].Summary() != "Unable to do it" {
			t.Errorf("%s: %v", name, diags)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(diags[0].Detail(), part) {
				t.Errorf("%s: it does not say %q: %s", name, part, diags[0].Detail())
			}
		}
		if strings.Contains(diags[0].Detail(), secret) {
			t.Errorf("%s: it says the secret", name)
		}
		at := path.Empty()
		if d, ok := diags[0].(diag.DiagnosticWithPath); ok {
			at = d.Path()
		}
		if !at.Equal(c.at) {
			t.Errorf("%s: it is at %s, want %s", name, at, c.at)
		}
	}
}

// Unreachable is not gone: it is an error or a warning, by what the user chose,
// and any other error is left to the caller.
func TestUnreachable(t *testing.T) {
	for kind, unreachable := range map[host.Kind]bool{
		host.KindUnreachable: true, host.KindAuth: true, host.KindHostKey: true, host.KindLost: true, host.KindExit: false, host.KindTimeout: false,
	} {
		for keep, severity := range map[bool]diag.Severity{false: diag.SeverityError, true: diag.SeverityWarning} {
			s := services(t)
			s.KeepUnreachable = keep
			var diags diag.Diagnostics
			if got := s.Unreachable(&diags, "host pg1", &host.Error{Host: "pg1", Op: "connect", Kind: kind}); got != unreachable || len(diags) > 0 != unreachable {
				t.Errorf("%s, keep %v: %v %v", kind, keep, got, diags)
			}
			if unreachable && (diags[0].Severity() != severity || !strings.Contains(diags[0].Detail(), "nothing is removed or recreated")) {
				t.Errorf("%s, keep %v: %v", kind, keep, diags)
			}
		}
	}
}

// Progress is a line of JSON for each event, added to what is there, without
// secrets.
func TestProgress(t *testing.T) {
	file := filepath.Join(t.TempDir(), "progress")
	s := services(t)
	for range 2 {
		var err error
		if s.Progress, err = OpenProgress(file); err != nil {
			t.Fatal(err)
		}
		step := engine.Step{ID: "a.b", Host: "pg1", Title: "do it", Risk: engine.Restart, Do: func(context.Context) error { return errors.New("with " + secret) }}
		_ = engine.Run(t.Context(), engine.Sequence(step), s.Observer("pgha_x y"))
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte(secret)) {
		t.Errorf("the secret is in the file:\n%s", b)
	}
	var states []string
	for line := range strings.Lines(string(b)) {
		var l progressLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		states = append(states, l.State)
		if l.Resource != "pgha_x y" || l.Step != "a.b" || l.Host != "pg1" || l.Risk != "restart" || l.N != 1 || l.Of != 1 {
			t.Errorf("line %+v", l)
		}
		if _, err := time.Parse(time.RFC3339, l.Time); err != nil || (l.Error != "") != (l.State == "failed") {
			t.Errorf("line %+v", l)
		}
	}
	if d := cmp.Diff([]string{"started", "failed", "started", "failed"}, states); d != "" {
		t.Errorf("states (-want +got):\n%s", d)
	}
	if p, err := OpenProgress(""); p != nil || err != nil {
		t.Errorf("without a file: %v %v", p, err)
	}
	if _, err := OpenProgress(filepath.Join(file, "x")); err == nil {
		t.Error("a file that cannot be is opened")
	}
}

// A process has one client for a cluster, however many resources ask at once,
// and a failure is not kept.
func TestEtcdIsSharedAndRetried(t *testing.T) {
	s := services(t)
	opened := 0
	s.OpenEtcd = func(context.Context, etcd.Access) (etcd.Client, error) {
		if opened++; opened == 1 {
			return nil, errors.New("not yet")
		}
		return &client{}, nil
	}
	a, b := etcd.Access{Name: "a"}, etcd.Access{Name: "b"}
	if _, err := s.Etcd(t.Context(), a); err == nil {
		t.Error("the failure was swallowed")
	}
	first, err := s.Etcd(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := s.Etcd(t.Context(), a); again != first {
		t.Error("the second has another client")
	}
	if other, _ := s.Etcd(t.Context(), b); other == first {
		t.Error("another cluster has the same client")
	}
	s.ForgetEtcd(a)
	if !first.(*client).closed {
		t.Error("the client was not closed")
	}
	if again, _ := s.Etcd(t.Context(), a); again == first {
		t.Error("a closed client was given out")
	}
}

// client is one that is never asked anything.
type client struct {
	etcd.Client
	closed bool
}

func (c *client) Close() error {
	c.closed = true
	return nil
}
