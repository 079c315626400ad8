package sshtest

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/internal/sshx/wire"
)

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// session serves one session until the client closes it or the command's
// output has ended, like sshd.
func (s *Server) session(conn *ssh.ServerConn, open ssh.NewChannel, ended func()) {
	ch, reqs, err := open.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	ran := make(chan struct{})
	var signal func(string)
	running := false
	for reqs != nil {
		select {
		case <-ran:
			// What sshd does when all is printed: the defers close.
			return
		case r, ok := <-reqs:
			if !ok {
				cancel()
				reqs = nil
				break
			}
			switch r.Type {
			case "exec":
				var m struct{ Line string }
				if ssh.Unmarshal(r.Payload, &m) != nil || running {
					r.Reply(false, nil)
					continue
				}
				running = true
				s.set(func() { s.stats.Commands = append(s.stats.Commands, m.Line) })
				r.Reply(true, nil)
				signal = s.exec(ctx, conn, ch, m.Line, ended, ran)
			case "signal":
				var m struct{ Signal string }
				if ssh.Unmarshal(r.Payload, &m) == nil {
					s.set(func() { s.stats.Signals = append(s.stats.Signals, m.Signal) })
					if signal != nil {
						signal(m.Signal)
					}
				}
			default:
				if r.WantReply {
					r.Reply(false, nil)
				}
			}
		}
	}
	if running {
		<-ran
	}
}

// exec starts a command. It calls ended when the command has, and closes ran when
// its output has.
func (s *Server) exec(ctx context.Context, conn *ssh.ServerConn, ch ssh.Channel, line string, ended func(), ran chan struct{}) func(signal string) {
	if s.cfg.Noise != "" {
		io.WriteString(ch, s.cfg.Noise)
		io.WriteString(ch.Stderr(), s.cfg.Noise)
	}
	if s.cfg.Play != nil {
		s.wg.Go(func() {
			defer close(ran)
			code := s.play(ctx, conn, ch, line)
			ended()
			exitStatus(ch, code)
		})
		return nil
	}
	var cmd *exec.Cmd
	if s.cfg.Shell != nil {
		cmd = s.cfg.Shell(line)
	} else {
		cmd = exec.Command("/bin/sh", "-c", line)
	}
	if cmd.Env == nil && s.cfg.Env != nil {
		cmd.Env = s.cfg.Env
	}
	return s.process(ch, cmd, ended, ran)
}

// play lets a function be the script. It does what the launcher and the wrapper
// of package wire do on a real host.
func (s *Server) play(ctx context.Context, conn *ssh.ServerConn, ch ssh.Channel, line string) int {
	cmd, err := wire.Parse(line)
	if err != nil {
		io.WriteString(ch.Stderr(), err.Error()+"\n")
		return 127
	}
	io.WriteString(ch.Stderr(), cmd.Nonce+" "+wire.MarkUp+"\n")
	for opener := cmd.Nonce; ; {
		code, ok := s.script(ctx, conn, ch, cmd)
		if !ok || !cmd.Keep {
			return code
		}
		if cmd, err = wire.ReadRequest(ch, opener); err != nil {
			return 0
		}
	}
}

// script plays one script. It reports whether it came to be told to go.
func (s *Server) script(ctx context.Context, conn *ssh.ServerConn, ch ssh.Channel, cmd wire.Command) (code int, ok bool) {
	s.set(func() { s.stats.Scripts++ })
	io.WriteString(ch.Stderr(), wire.Begin(cmd.Nonce))
	io.WriteString(ch, wire.Begin(cmd.Nonce))
	for want := []byte(wire.Go(cmd.Nonce)); len(want) > 0; want = want[1:] {
		var b [1]byte
		if _, err := io.ReadFull(ch, b[:]); err != nil || b[0] != want[0] {
			return 125, false
		}
	}
	call := Call{Command: cmd, Login: conn.User(), Stdin: ch, Stdout: ch, Stderr: ch.Stderr()}
	if cmd.Keep {
		call.Stdin = io.LimitReader(ch, int64(cmd.Input))
	}
	code = s.cfg.Play(ctx, call)
	io.WriteString(ch.Stderr(), wire.Exit(cmd.Nonce, code))
	if !cmd.Stream {
		io.WriteString(ch, wire.End(cmd.Nonce))
	}
	if cmd.Keep {
		io.WriteString(ch.Stderr(), wire.Status(cmd.Nonce, code))
		io.Copy(io.Discard, call.Stdin)
		io.WriteString(ch.Stderr(), wire.Free(cmd.Nonce))
		io.WriteString(ch, wire.Free(cmd.Nonce))
	}
	return code, true
}

// process runs a real command in a session of its own, like sshd.
func (s *Server) process(ch ssh.Channel, cmd *exec.Cmd, ended func(), ran chan struct{}) func(string) {
	fail := func(err error) func(string) {
		io.WriteString(ch.Stderr(), err.Error()+"\n")
		exitStatus(ch, 127)
		close(ran)
		return nil
	}
	cmd.SysProcAttr = newSession()
	inR, inW, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, errW
	err = cmd.Start()
	inR.Close()
	outW.Close()
	errW.Close()
	if err != nil {
		inW.Close()
		outR.Close()
		errR.Close()
		return fail(err)
	}
	s.mu.Lock()
	s.procs[cmd] = struct{}{}
	s.mu.Unlock()

	var copies sync.WaitGroup
	copies.Go(func() { io.Copy(ch, outR); outR.Close() })
	copies.Go(func() { io.Copy(ch.Stderr(), errR); errR.Close() })
	s.wg.Go(func() { io.Copy(inW, ch); inW.Close() })
	s.wg.Go(func() {
		err := cmd.Wait()
		s.mu.Lock()
		delete(s.procs, cmd)
		s.mu.Unlock()
		ended()
		var exit *exec.ExitError
		switch {
		case err == nil:
			exitStatus(ch, 0)
		case errors.As(err, &exit):
			if name := signalName(exit); name != "" {
				ch.SendRequest("exit-signal", false, ssh.Marshal(&struct {
					Signal  string
					Core    bool
					Message string
					Lang    string
				}{Signal: name}))
			} else {
				exitStatus(ch, exit.ExitCode())
			}
		}
		// A descendant that holds the output keeps the channel open, but
		// not longer than the server.
		done := make(chan struct{})
		go func() { copies.Wait(); close(done) }()
		select {
		case <-done:
		case <-s.ctx.Done():
			outR.Close()
			errR.Close()
			<-done
		}
		close(ran)
	})
	return func(name string) { kill(cmd, name) }
}

func exitStatus(ch ssh.Channel, code int) {
	ch.SendRequest("exit-status", false, ssh.Marshal(&struct{ Status uint32 }{uint32(code)}))
}

func signalName(e *exec.ExitError) string {
	ws, ok := e.Sys().(syscall.WaitStatus)
	if !ok || !ws.Signaled() {
		return ""
	}
	switch ws.Signal() {
	case syscall.SIGKILL:
		return "KILL"
	case syscall.SIGTERM:
		return "TERM"
	}
	return strings.ToUpper(ws.Signal().String())
}

func (s *Server) killProcesses() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for cmd := range s.procs {
		killAll(cmd)
	}
}
