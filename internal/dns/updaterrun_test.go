//go:build linux

package dns_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// came is what came of an attempt.
type came struct {
	Outcome, Rcode, Tsig, Detail, Mark, Server string
	Values                                     []string
}

// updater is one of a node.
type updater struct {
	t       *testing.T
	dir     string
	runtime string
	log     string
	wrap    []string
	config  object
	cmd     *exec.Cmd
	ended   chan struct{}
}

var numbers atomic.Int32

// recordName is one that the updaters of a test may write, and nobody else uses.
func recordName(t *testing.T) string {
	t.Helper()
	n := numbers.Add(1)
	if n > names {
		t.Fatalf("there are only %d names", names)
	}
	return fmt.Sprintf("r%d.pg.example.", n)
}

// updater prepares one for a record.
func (b *bind) updater(t *testing.T, name string, p *pretender) *updater {
	t.Helper()
	dir := t.TempDir()
	u := &updater{t: t, dir: filepath.Join(dir, "etc"), runtime: filepath.Join(dir, "run"), log: filepath.Join(dir, "log")}
	u.config = object{
		"zone": "pg.example.", "name": name, "type": "address", "ttl": 5, "follow": "leader",
		"servers": []string{b.primary.endpoint(), b.second.endpoint()},
		"key":     object{"name": "k256", "algorithm": "hmac-sha256", "secret": tsigSecret},
		"patroni": p.server.URL, "cafile": "", "uid": "demo/db", "generation": 1,
		"targets": object{"pg1": []string{"10.77.1.11"}, "pg2": []string{"10.77.1.12"}, "pg3": []string{"10.77.1.13"}},
	}
	for _, d := range []string{u.dir, u.runtime} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	u.configure(nil)
	return u
}

func (u *updater) configure(more object) *updater {
	u.t.Helper()
	for key, value := range more {
		u.config[key] = value
	}
	text, _ := json.Marshal(u.config)
	if err := os.WriteFile(filepath.Join(u.dir, "record.json"), text, 0o600); err != nil {
		u.t.Fatal(err)
	}
	return u
}

func (u *updater) command(verb string) *exec.Cmd {
	args := append([]string{"-I"}, u.wrap...)
	cmd := exec.Command(python(), append(args, "updater.py", verb, u.dir)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "RUNTIME_DIRECTORY=" + u.runtime}
	return cmd
}

// discreet fails the test where the secret is to be read.
func (u *updater) discreet(what, text string) {
	u.t.Helper()
	for name, key := range tsigKeys {
		if strings.Contains(text, key[1]) || strings.Contains(text, key[1][4:20]) {
			u.t.Errorf("%s gives the secret of %s away", what, name)
		}
	}
}

func (u *updater) output(verb string) string {
	u.t.Helper()
	var out, failed bytes.Buffer
	cmd := u.command(verb)
	cmd.Stdout, cmd.Stderr = &out, &failed
	err := cmd.Run()
	u.discreet(verb, out.String()+failed.String())
	if err != nil || failed.Len() > 0 {
		u.t.Fatalf("%s: %v %s", verb, err, failed.String())
	}
	return out.String()
}

func (u *updater) does(verb string) (c came) {
	u.t.Helper()
	text := u.output(verb)
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		u.t.Fatalf("%s: %v in %s", verb, err, text)
	}
	return c
}

// expect runs once or remove, and has one outcome come of it.
func (u *updater) expect(verb, outcome string) came {
	u.t.Helper()
	c := u.does(verb)
	if c.Outcome != outcome {
		u.t.Fatalf("%s: %s was to come of it, and it is %+v", verb, outcome, c)
	}
	return c
}

func (u *updater) start(env ...string) *updater {
	u.t.Helper()
	f, err := os.OpenFile(u.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		u.t.Fatal(err)
	}
	defer f.Close()
	u.cmd = u.command("run")
	u.cmd.Env = append(u.cmd.Env, env...)
	u.cmd.Stdout, u.cmd.Stderr = f, f
	if err := u.cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	cmd, ended := u.cmd, make(chan struct{})
	u.ended = ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	u.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		status, _ := os.ReadFile(filepath.Join(u.runtime, "status.json"))
		u.discreet("the log or the status", u.said()+string(status))
		if strings.Contains(u.said(), "Traceback") || u.t.Failed() {
			u.t.Errorf("the updater in %s:\n%s\n%s", u.dir, u.said(), status)
		}
	})
	return u
}

func (u *updater) said() string {
	text, _ := os.ReadFile(u.log)
	return string(text)
}

func (u *updater) says(what string) {
	u.t.Helper()
	until(u.t, "the updater to say "+what, func() bool { return strings.Contains(u.said(), what) })
}

// report is the updater's status.json.
func (u *updater) report() (r struct {
	Primary                        bool
	Outcome, Because, Mark, Digest string
}) {
	text, _ := os.ReadFile(filepath.Join(u.runtime, "status.json"))
	_ = json.Unmarshal(text, &r)
	return r
}

func (u *updater) until(outcome string) {
	u.t.Helper()
	until(u.t, "the updater to come to "+outcome, func() bool { return u.report().Outcome == outcome })
}

func (u *updater) signal(s syscall.Signal) {
	u.t.Helper()
	if err := u.cmd.Process.Signal(s); err != nil {
		u.t.Fatal(err)
	}
}

// leadsTo waits until a name leads somewhere, on both servers, and says when it first did.
func (b *bind) leadsTo(t *testing.T, name string, want ...string) time.Time {
	t.Helper()
	slices.Sort(want)
	until(t, fmt.Sprintf("%s to lead to %v", name, want), func() bool { return slices.Equal(b.primary.addresses(name), want) })
	at := time.Now()
	until(t, fmt.Sprintf("%s to lead to %v on the secondary server", name, want), func() bool { return slices.Equal(b.second.addresses(name), want) })
	return at
}

// marked checks the mark on the primary server.
func (b *bind) marked(t *testing.T, name, want string) {
	t.Helper()
	if got := b.primary.texts(name); !slices.Equal(got, []string{want}) {
		t.Errorf("the mark of %s is %q, and not %q", name, got, want)
	}
}

// proxy stands between an updater and the primary server.
type proxy struct {
	port int
	// question sees a question by UDP and its answer, before it is given. It may change it.
	question func(question, answer []byte) [][]byte
	// update sees an update on its way, and says whether its answer is given.
	update func() bool
}

func (b *bind) proxy(t *testing.T, p *proxy) string {
	t.Helper()
	p.port = freePort(t)
	here := fmt.Sprintf("127.0.0.1:%d", p.port)
	packets, err := net.ListenPacket("udp", here)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", here)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { packets.Close(); l.Close() })
	go func() {
		buffer := make([]byte, 65535)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			question := slices.Clone(buffer[:n])
			answer := make([]byte, 65535)
			c, err := net.Dial("udp", b.primary.endpoint())
			if err != nil {
				continue
			}
			_ = c.SetDeadline(time.Now().Add(2 * time.Second))
			_, _ = c.Write(question)
			n, err = c.Read(answer)
			c.Close()
			if err != nil {
				continue
			}
			answers := [][]byte{answer[:n]}
			if p.question != nil {
				answers = p.question(question, answer[:n])
			}
			for _, a := range answers {
				_, _ = packets.WriteTo(a, from)
			}
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.relay(c, b.primary.endpoint())
		}
	}()
	return here
}

func (p *proxy) relay(c net.Conn, to string) {
	defer c.Close()
	message := framed(c)
	if message == nil {
		return
	}
	give := true
	if message[4]>>3&0xf == 5 && p.update != nil {
		give = p.update()
	}
	s, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer s.Close()
	_, _ = s.Write(message)
	if answer := framed(s); give {
		_, _ = c.Write(answer)
	} else {
		_, _ = c.Read(message) // until it is given up
	}
}

// framed reads a DNS message with the length before it.
func framed(c net.Conn) []byte {
	head := make([]byte, 2)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil
	}
	message := make([]byte, 2+int(binary.BigEndian.Uint16(head)))
	copy(message, head)
	if _, err := io.ReadFull(c, message[2:]); err != nil {
		return nil
	}
	return message
}

// questionKind is the type that a question asks for, and where its question section ends.
func questionKind(question []byte) (uint16, int) {
	at := 12
	for question[at] != 0 {
		at += int(question[at]) + 1
	}
	return binary.BigEndian.Uint16(question[at+1:]), at + 5
}
