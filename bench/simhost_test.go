package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/wire"
)

// TestSimHost writes a file to a simulated host and asks for it.
func TestSimHost(t *testing.T) {
	h := newSimHost("host1", "127.88.0.1")
	run := func(op, in string, args ...string) (string, int) {
		var out bytes.Buffer
		code := h.play(context.Background(), sshtest.Call{
			Command: wire.Command{Op: op, Args: args}, Stdin: strings.NewReader(in), Stdout: &out, Stderr: &out,
		})
		return out.String(), code
	}
	if out, code := run("file.write", "abc", "/etc/x", "root", "postgres", "0640", "unused"); code != 0 {
		t.Fatalf("file.write: %d %s", code, out)
	}
	got, _ := run("probe", "port 5432\ncontent /etc/x\npath /etc/y\n")
	want := `2.type=file
2.sha256=ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
2.mode=640
2.owner=root
2.group=postgres
2.size=3
2.content=YWJj
3.type=missing
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if out, code := run("apt.install", ""); code == 0 || !strings.Contains(out, "apt.install") {
		t.Errorf("what a simulated host cannot do has to fail: %d %q", code, out)
	}
}
