//go:build linux

package dns_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The tests of the updater run it against a real BIND: a primary and a secondary
// server on high ports of 127.0.0.1. Its Patroni is a server of the test's. Its Python is
// what PGHA_TEST_PYTHON names, or the first that has dnspython.

const (
	// patient is how long a test waits for what has to happen.
	patient = 40 * time.Second
	// tsigSecret is the one of the key that the records are written with.
	tsigSecret = "c2VjcmV0LW9mLXRoZS11cGRhdGVycy1vZi10aGlzLXRlc3Q="
	// names is how many records the server lets this key write.
	names = 60
)

// tsigKeys are those that BIND knows. With the last one, the test does what others may do.
var tsigKeys = map[string][2]string{
	"k256":  {"hmac-sha256", tsigSecret},
	"k512":  {"hmac-sha512", "YW5vdGhlci1zZWNyZXQtb2YtdGhlLXVwZGF0ZXJzLW9mLXRoaXMtdGVzdC1sb25nZXI="},
	"admin": {"hmac-sha256", "YWRtaW5pc3RyYXRvci1vZi10aGlzLXRlc3Qtc2VjcmV0"},
}

type object = map[string]any

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patient); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, patient)
		}
	}
}

var python = sync.OnceValue(func() string {
	for _, name := range []string{os.Getenv("PGHA_TEST_PYTHON"), "python3", "/usr/bin/python3"} {
		if name != "" {
			// It may be a script that looks for the real one.
			if out, err := exec.Command(name, "-I", "-c", "import dns.update, sys; print(sys.executable)").Output(); err == nil {
				return strings.TrimSpace(string(out))
			}
		}
	}
	return ""
})

func bind9() string {
	for _, name := range []string{"named", "/usr/sbin/named"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// bind is a primary and a secondary BIND for pg.example.
type bind struct {
	t       *testing.T
	dir     string
	primary *named
	second  *named

	mu       sync.Mutex
	stranger io.Writer
	heard    *bufio.Reader
}

type named struct {
	t    *testing.T
	dir  string
	port int
	stop func()
}

// freePort is a port that neither TCP nor UDP uses, below those that are given to whoever
// asks for any: it must still be free later.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 10000 + rand.IntN(20000)
		address := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		l.Close()
		if u, err := net.ListenPacket("udp", address); err == nil {
			u.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

func newBind(t *testing.T) *bind {
	t.Helper()
	if bind9() == "" {
		t.Skip("SKIPPED: needs named")
	}
	if python() == "" {
		t.Skip("SKIPPED: needs python3 with dnspython")
	}
	dir := t.TempDir()
	b := &bind{
		t: t, dir: dir,
		primary: &named{t: t, dir: filepath.Join(dir, "primary"), port: freePort(t)},
		second:  &named{t: t, dir: filepath.Join(dir, "second"), port: freePort(t)},
	}
	var known, policy strings.Builder
	for name, key := range tsigKeys {
		fmt.Fprintf(&known, "key %q { algorithm %s; secret %q; };\n", name, key[0], key[1])
	}
	policy.WriteString("grant admin zonesub any;\n")
	for _, key := range []string{"k256", "k512"} {
		for i := range names {
			fmt.Fprintf(&policy, "grant %s name r%d.pg.example. A AAAA TXT CNAME;\ngrant %s name _pgha.r%d.pg.example. TXT;\n", key, i+1, key, i+1)
		}
	}
	options := func(n *named, more string) string {
		return fmt.Sprintf(`
			options {
				directory %q; pid-file none; lock-file none; session-keyfile none; managed-keys-directory %q;
				listen-on port %d { 127.0.0.1; }; listen-on-v6 { none; };
				recursion no; dnssec-validation no; allow-transfer { key admin; };
				notify-delay 0; notify-rate 1000; startup-notify-rate 1000; serial-query-rate 1000;
				use-v4-udp-ports { range 32768 60999; }; %s
			};
			controls { };
			%s`, n.dir, n.dir, n.port, more, known.String())
	}
	primary := options(b.primary, fmt.Sprintf("notify explicit; also-notify { 127.0.0.1 port %d; };", b.second.port)) +
		fmt.Sprintf("zone \"pg.example\" { type primary; file \"zone\"; update-policy { %s }; };\n", policy.String())
	second := options(b.second, "notify no; min-refresh-time 1; max-refresh-time 2;") +
		fmt.Sprintf("zone \"pg.example\" { type secondary; file \"zone\"; primaries { 127.0.0.1 port %d key admin; }; };\n", b.primary.port)
	zone := "$TTL 60\n@ SOA ns hostmaster 1 2 2 3600 1\n@ NS ns\nns A 127.0.0.1\npg1 A 10.77.1.11\npg2 A 10.77.1.12\n"
	for path, text := range map[string]string{"primary/named.conf": primary, "primary/zone": zone, "second/named.conf": second} {
		path = filepath.Join(dir, path)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b.primary.start()
	b.second.start()
	until(t, "the secondary server to have the zone", func() bool {
		return slices.Equal(b.second.addresses("pg1.pg.example."), []string{"10.77.1.11"})
	})
	return b
}

// start runs BIND. It ends when the test's end of a pipe does, whatever becomes of the test.
func (n *named) start() {
	n.t.Helper()
	out, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command("sh", "-c", `"$0" -g -n 1 -c named.conf </dev/null & read x; kill $!; wait`, bind9())
	cmd.Dir, cmd.Stdout, cmd.Stderr = n.dir, out, out
	pipe, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.stop = sync.OnceFunc(func() {
		pipe.Close()
		_ = cmd.Wait()
	})
	n.t.Cleanup(n.stop)
	until(n.t, "BIND to run", func() bool {
		said, _ := os.ReadFile(filepath.Join(n.dir, "log"))
		if strings.Contains(string(said), "exiting (due to") {
			n.t.Fatalf("BIND has ended:\n%s", said)
		}
		return strings.HasSuffix(string(said), "running\n") || len(n.addresses("ns.pg.example.")) > 0
	})
}

func (n *named) endpoint() string { return fmt.Sprintf("127.0.0.1:%d", n.port) }

func (n *named) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, n.endpoint())
	}}
}

// addresses is what clients would connect to.
func (n *named) addresses(name string) (list []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	found, _ := n.resolver().LookupNetIP(ctx, "ip", name)
	for _, a := range found {
		list = append(list, a.Unmap().String())
	}
	slices.Sort(list)
	return list
}

func (n *named) texts(name string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	list, _ := n.resolver().LookupTXT(ctx, name)
	slices.Sort(list) // BIND gives them in any order
	return list
}

func (n *named) cname(name string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	found, _ := n.resolver().LookupCNAME(ctx, name)
	return found
}

// stranger makes the updates that it reads, each a line of Python in which u is the update.
const stranger = `
import socket, sys, dns.update, dns.tsig, dns.rcode
key = dns.tsig.Key("admin", sys.argv[1], sys.argv[2])
for line in sys.stdin:
    u = dns.update.UpdateMessage("pg.example.", keyring=key)
    exec(line)
    wire = u.to_wire()
    with socket.create_connection(("127.0.0.1", int(sys.argv[3])), timeout=10) as s:
        s.sendall(len(wire).to_bytes(2, "big") + wire)
        s.recv(2, socket.MSG_WAITALL)
        print(dns.rcode.to_text(s.recv(65535)[3] & 15), flush=True)
`

// others does what somebody else might do.
func (b *bind) others(line string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stranger == nil {
		key := tsigKeys["admin"]
		cmd := exec.Command(python(), "-I", "-c", stranger, key[1], key[0], fmt.Sprint(b.primary.port))
		cmd.Stderr = os.Stderr
		in, _ := cmd.StdinPipe()
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			b.t.Fatal(err)
		}
		b.stranger, b.heard = in, bufio.NewReader(out)
		b.t.Cleanup(func() {
			in.Close()
			_ = cmd.Wait()
		})
	}
	_, _ = io.WriteString(b.stranger, line+"\n")
	if said, err := b.heard.ReadString('\n'); err != nil || said != "NOERROR\n" {
		b.t.Fatalf("%s: %v %s", line, err, said)
	}
}
