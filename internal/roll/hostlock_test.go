package roll

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// answering is a host whose lock script says one line after the other, one each time
// that it is started, and cannot be started once time is up.
type answering struct {
	host.Host
	name  string
	lines []string
	last  func() // called with the last line
}

func (a *answering) Name() string { return a.name }

func (a *answering) Start(ctx context.Context, _ host.Cmd) (host.Process, error) {
	if ctx.Err() != nil {
		return nil, &host.Error{Host: a.name, Op: "flock.hold", Kind: host.KindCanceled, Err: ctx.Err()}
	}
	line := a.lines[0]
	if a.lines = a.lines[1:]; len(a.lines) == 0 {
		a.last()
	}
	in, out := io.Pipe()
	return &script{in: in, out: out, stdout: strings.NewReader(line + "\n")}, nil
}

// script runs until its input ends.
type script struct {
	in     *io.PipeReader
	out    *io.PipeWriter
	stdout io.Reader
}

func (s *script) Stdin() io.WriteCloser { return s.out }
func (s *script) Stdout() io.Reader     { return s.stdout }
func (s *script) Close() error          { return s.out.Close() }
func (s *script) Wait() error {
	_, err := io.Copy(io.Discard, s.in)
	return err
}

// Whoever waits in vain is told for whom, wherever time was up: also if the lock had
// just become free on the first host, and the next one could not be asked any more.
func TestLockNamesWhoWasWaitedFor(t *testing.T) {
	for name, lines := range map[string][]string{
		"busy to the end":          {"busy alice", "busy alice"},
		"free in the last moment":  {"busy alice", "locked"},
		"somebody else in between": {"busy bob", "busy alice", "locked"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			hosts := []host.Host{&answering{name: "pg1", lines: lines, last: cancel}, &answering{name: "pg2"}}
			_, _, err := LockHosts(ctx, slog.New(slog.DiscardHandler), "/run/lock/x", "us", hosts)
			var p *problem.Error
			if !errors.As(err, &p) || p.Step != "lock out other applies" || !strings.Contains(err.Error(), "another apply is at work: alice") {
				t.Errorf("the error is %v", err)
			}
		})
	}
}
