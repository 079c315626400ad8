package sshx

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what has to happen.
const patience = 30 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// clientKey is the key that tests log in with.
var clientKey = sync.OnceValues(func() (Key, ssh.PublicKey) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		panic(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		panic(err)
	}
	return Key{PEM: pem.EncodeToMemory(block)}, signer.PublicKey()
})

// asRoot is an environment in which the shell believes that root has logged in,
// whoever runs the tests.
func asRoot(t *testing.T) []string {
	return withPrograms(t, map[string]string{"id": "case $1 in -un) echo root;; *) echo 0;; esac"})
}

// withPrograms is an environment with programs of the test's before the real
// ones.
func withPrograms(t *testing.T, programs map[string]string) []string {
	t.Helper()
	dir := t.TempDir()
	for name, script := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"PATH=" + dir + ":/usr/bin:/bin", "HOME=" + dir}
}

func serve(t *testing.T, cfg sshtest.Config) *sshtest.Server {
	t.Helper()
	s, err := sshtest.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// trust makes a configuration that knows the servers' keys.
func trust(servers ...*sshtest.Server) Config {
	key, _ := clientKey()
	cfg := Config{User: "root", Keys: []Key{key}, Logger: slog.New(slog.DiscardHandler), RetryDelay: 20 * time.Millisecond}
	for _, s := range servers {
		cfg.HostKeys.Lines = append(cfg.HostKeys.Lines, knownhosts.Line([]string{s.Addr()}, s.HostKey()))
	}
	return cfg
}

func newFleet(t *testing.T, cfg Config) *Fleet {
	t.Helper()
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func target(s *sshtest.Server) host.Target { return targetOf(s.Addr()) }

func targetOf(addr string) host.Target {
	name, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		panic(err)
	}
	return host.Target{Name: "pg1", Address: name, Port: n}
}

// connect returns a host on a new server with a real shell.
func connect(t *testing.T, cfg sshtest.Config) (host.Host, *sshtest.Server) {
	t.Helper()
	if cfg.Play == nil && cfg.Env == nil {
		cfg.Env = asRoot(t)
	}
	s := serve(t, cfg)
	return newFleet(t, trust(s)).Host(target(s)), s
}

func mustRun(t *testing.T, h host.Host, cmd host.Cmd) host.Result {
	t.Helper()
	if cmd.Name == "" {
		cmd.Name = "test"
	}
	res, err := h.Run(testContext(t), cmd)
	if err != nil {
		t.Fatalf("%v (stderr %q)", err, res.Stderr)
	}
	return res
}

// wantError checks an error's kind and that its text, with the hint and the
// host's own words, has all of the parts.
func wantError(t *testing.T, err error, kind host.Kind, parts ...string) *host.Error {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", kind)
	}
	var e *host.Error
	if !errors.As(err, &e) {
		t.Fatalf("not a *host.Error: %v", err)
	}
	if e.Kind != kind {
		t.Fatalf("kind %q, want %q: %v", e.Kind, kind, err)
	}
	text := fmt.Sprintf("%v\n%s\n%s", err, e.Hint, e.Stderr)
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in:\n%s", p, text)
		}
	}
	return e
}

// logBuffer takes a log that is written to from several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func logTo(level slog.Level) (*slog.Logger, *logBuffer) {
	b := new(logBuffer)
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: level})), b
}
