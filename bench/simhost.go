package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

// simHost is as much of a Debian host as a pgha_host needs: it keeps the files
// that are written to it, and answers the questions of the provider's probe
// (internal/remote/scripts/probe.sh) in the words of that script.
type simHost struct {
	name, ip string

	mu    sync.Mutex
	files map[string]simFile
}

type simFile struct {
	owner, group, mode string
	content            []byte
}

func newSimHost(name, ip string) *simHost {
	return &simHost{name: name, ip: ip, files: map[string]simFile{
		"/etc/hosts": {"root", "root", "644", []byte("127.0.0.1\tlocalhost\n" + ip + "\t" + name + "\n")},
	}}
}

// play is the scripts that the provider runs on a host that it prepares.
func (h *simHost) play(_ context.Context, c sshtest.Call) int {
	if c.Op == "flock.hold" {
		fmt.Fprintln(c.Stdout, "locked")
		_, _ = io.Copy(io.Discard, c.Stdin)
		return 0
	}
	in, err := io.ReadAll(c.Stdin)
	if err != nil {
		return 1
	}
	switch c.Op {
	case "probe":
		h.probe(string(in), c.Stdout)
	case "file.write":
		h.write(c.Args[0], simFile{c.Args[1], c.Args[2], strings.TrimLeft(c.Args[3], "0"), in})
	case "sysctl.apply", "cloud-init.wait":
	default:
		fmt.Fprintf(c.Stderr, "a simulated host does not know the operation %q\n", c.Op)
		return 127
	}
	return 0
}

func (h *simHost) write(path string, f simFile) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files[path] = f
}

// probe answers questions, a line each: a verb and an argument.
func (h *simHost) probe(questions string, w io.Writer) {
	var b strings.Builder
	n := 0
	for line := range strings.Lines(questions) {
		n++
		verb, argument, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		h.answer(verb, argument, func(field, value string) { fmt.Fprintf(&b, "%d.%s=%s\n", n, field, value) })
	}
	_, _ = io.WriteString(w, b.String())
}

func (h *simHost) answer(verb, argument string, out func(field, value string)) {
	switch verb {
	case "os":
		for _, f := range [][2]string{
			{"ID", "debian"}, {"VERSION_ID", "13"}, {"VERSION_CODENAME", "trixie"}, {"PRETTY_NAME", "Debian GNU/Linux 13 (trixie)"},
			{"arch", "amd64"}, {"kernel", "6.12.48"}, {"hostname", h.name}, {"machine_id", hexOf("machine " + h.name)[:32]},
			{"boot_id", "5e1f0c9e-0000-4000-8000-000000000000"}, {"cpus", "4"}, {"init", "systemd"}, {"memory_kib", "8388608"},
			{"memory_available_kib", "6291456"}, {"swap_kib", "0"}, {"hugepages", "0"},
		} {
			out(f[0], f[1])
		}
	case "clock":
		out("now", strconv.FormatInt(time.Now().UnixNano(), 10))
		out("synchronized", "yes")
		out("service", "chrony")
	case "disk":
		out("at", "/var/lib")
		out("size_kib", "104857600")
		out("free_kib", "83886080")
		out("mount", "/")
		out("writable", "yes")
		out("filesystem", "ext2/ext3")
	case "path", "content":
		h.path(argument, verb == "content", out)
	case "package":
		out("status", "ii ")
		out("version", "4.6.1-3")
	case "addresses":
		out("address", "eth0 "+h.ip+"/24")
	case "lookup":
		out("ms", "1")
	case "sysctl":
		out("value", "60")
	case "port": // nobody listens
	default:
		out("error", "unknown question")
	}
}

func (h *simHost) path(path string, content bool, out func(field, value string)) {
	h.mu.Lock()
	f, ok := h.files[path]
	h.mu.Unlock()
	if !ok {
		out("type", "missing")
		return
	}
	out("type", "file")
	out("sha256", hexOf(string(f.content)))
	out("mode", f.mode)
	out("owner", f.owner)
	out("group", f.group)
	out("size", strconv.Itoa(len(f.content)))
	if content {
		out("content", base64.StdEncoding.EncodeToString(f.content))
	}
}

func hexOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
