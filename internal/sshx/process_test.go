package sshx

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

func start(t *testing.T, h host.Host, cmd host.Cmd) host.Process {
	t.Helper()
	if cmd.Name == "" {
		cmd.Name = "lock"
	}
	p, err := h.Start(testContext(t), cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// TestStart talks with a script line by line: nothing may be kept back.
func TestStart(t *testing.T) {
	h, _ := connect(t, sshtest.Config{Noise: "Welcome!\n"})
	p := start(t, h, host.Cmd{Script: `echo "hello $1"; while read -r line; do echo "got $line"; done; echo bye; exit 3`, Args: []string{"you"}})
	out := bufio.NewReader(p.Stdout())
	expect := func(want string) {
		t.Helper()
		got, err := out.ReadString('\n')
		if err != nil || got != want+"\n" {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	expect("hello you")
	for _, beat := range []string{"1", "2"} {
		if _, err := io.WriteString(p.Stdin(), beat+"\n"); err != nil {
			t.Fatal(err)
		}
		expect("got " + beat)
	}
	if err := p.Stdin().Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(p.Stdin(), "late"); err == nil {
		t.Error("writing after the end of input")
	}
	err := p.Wait()
	wantError(t, err, host.KindExit, "lock: exit status 3")
	expect("bye")
	if _, err := out.ReadByte(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

func TestStartStdin(t *testing.T) {
	h, _ := connect(t, sshtest.Config{})
	p := start(t, h, host.Cmd{Script: "cat", Stdin: []byte("first ")})
	io.WriteString(p.Stdin(), "second")
	p.Stdin().Close()
	got, err := io.ReadAll(p.Stdout())
	if err != nil || string(got) != "first second" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

// TestStartOutlivesItsContext pins that the context is for the start only.
func TestStartOutlivesItsContext(t *testing.T) {
	h, _ := connect(t, sshtest.Config{})
	ctx, cancel := context.WithCancel(testContext(t))
	p, err := h.Start(ctx, host.Cmd{Name: "lock", Script: "cat"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	cancel()
	io.WriteString(p.Stdin(), "still here")
	p.Stdin().Close()
	if got, _ := io.ReadAll(p.Stdout()); string(got) != "still here" {
		t.Errorf("got %q", got)
	}
}

// TestProcessClose pins that closing ends the script's input, by which a lock is
// freed, and that nothing waits for the script.
func TestProcessClose(t *testing.T) {
	h, s := connect(t, sshtest.Config{})
	mark := filepath.Join(t.TempDir(), "mark")
	p := start(t, h, host.Cmd{Script: `cat >/dev/null; echo > "$1"`, Args: []string{mark}})
	reading := make(chan error)
	go func() {
		_, err := io.ReadAll(p.Stdout())
		reading <- err
	}()
	waiting := make(chan error)
	go func() { waiting <- p.Wait() }()
	p.Close()
	p.Close()
	wantError(t, <-waiting, host.KindCanceled, "closed before its end")
	if err := <-reading; err == nil {
		t.Error("reading ended as if the output were complete")
	}
	await(t, func() bool { _, err := os.Stat(mark); return err == nil })
	if err := s.Await(testContext(t), func(st sshtest.Stats) bool { return st.InSession == 0 }); err != nil {
		t.Error("the session is still there")
	}
}

func TestProcessTimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the time of real limits")
	}
	t.Parallel()
	h, _ := connect(t, sshtest.Config{})
	p := start(t, h, host.Cmd{Script: "echo on; sleep 600", Timeout: time.Second})
	wantError(t, p.Wait(), host.KindTimeout)
}

func TestProcessLost(t *testing.T) {
	h, s := connect(t, sshtest.Config{})
	p := start(t, h, host.Cmd{Script: "echo on; cat"})
	s.Drop()
	err := p.Wait()
	wantError(t, err, host.KindLost)
	if !host.OutcomeUnknown(err) {
		t.Error("nobody knows what it did")
	}
}

// TestProcessThatFailsToStart is Start's version of every failure before go.
func TestProcessThatFailsToStart(t *testing.T) {
	h, _ := connect(t, sshtest.Config{Env: withPrograms(t, map[string]string{"id": loggedInAs("deploy", "1000"), "sudo": fakeSudo})})
	_, err := h.Start(testContext(t), host.Cmd{Name: "lock", Script: "cat"})
	wantError(t, err, host.KindBecome, "lock: cannot become", "a password is needed")
}

// TestProcessWithUnreadOutput pins that Wait learns of the end although nobody
// reads the output.
func TestProcessWithUnreadOutput(t *testing.T) {
	h, s := connect(t, sshtest.Config{})
	p := start(t, h, host.Cmd{Script: "head -c 100000 /dev/zero; cat"})
	s.Drop()
	wantError(t, p.Wait(), host.KindLost)

	p = start(t, h, host.Cmd{Script: "head -c 100000 /dev/zero; exit 4"})
	wantError(t, p.Wait(), host.KindExit)
	if n, err := io.Copy(io.Discard, p.Stdout()); n != 100000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}
