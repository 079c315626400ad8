//go:build linux

package vip

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
)

// The tests of this file run the guard in network namespaces that a bridge connects. Their
// Patroni is a server of the test's, whose socket is in the guard's namespace. Their
// vip-manager is this program under that name, or what PGHA_TEST_VIP_MANAGER names; their
// Python what PGHA_TEST_PYTHON names.

const (
	lease = 4 * time.Second // as in the guard
	grace = 3 * time.Second
	// slack is how much later the kernel may take an address away.
	slack = 1500 * time.Millisecond
	// patient is how long a test waits for what has to happen.
	patient = 40 * time.Second
)

var virtual = map[string]netip.Prefix{
	"IPv4": netip.MustParsePrefix("10.77.1.100/24"),
	"IPv6": netip.MustParsePrefix("fd00:77::100/64"),
}

func init() {
	if filepath.Base(os.Args[0]) == "vip-manager" {
		likeVIPManager(strings.TrimPrefix(os.Args[1], "--config="))
	}
}

// likeVIPManager does what vip-manager does: asks its endpoint, and has the address added
// or deleted when the answer changes, when it starts, and every ten seconds.
func likeVIPManager(file string) {
	var c struct {
		IP, Interface string
		Netmask       int
		Interval      int
		Endpoints     []string `yaml:"dcs-endpoints"`
		Key           string   `yaml:"trigger-key"`
	}
	text, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(text, &c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cidr := fmt.Sprintf("%s/%d", c.IP, c.Netmask)
	up := func() bool {
		nic, err := net.InterfaceByName(c.Interface)
		if err != nil {
			return false
		}
		list, _ := nic.Addrs()
		return slices.ContainsFunc(list, func(a net.Addr) bool { return a.String() == cidr })
	}
	wanted := false
	for due := time.Now(); ; {
		if time.Now().After(due) {
			due = time.Now().Add(10 * time.Second)
			if verb := map[bool]string{true: "add", false: "delete"}[wanted]; up() != wanted {
				out, err := exec.Command("ip", "addr", verb, cidr, "dev", c.Interface).CombinedOutput()
				fmt.Fprintf(os.Stderr, "vip-manager: %s: %v %s\n", verb, err, out)
			}
		}
		time.Sleep(time.Duration(c.Interval) * time.Millisecond)
		if r, err := http.Get(c.Endpoints[0] + c.Key); err == nil {
			r.Body.Close()
			if want := r.StatusCode == http.StatusOK; want != wanted {
				wanted, due = want, time.Time{}
			}
		}
	}
}

// segment is a bridge in a namespace, to which boxes are connected.
type segment struct {
	t    *testing.T
	name string
	n    int
}

// box is a host: a namespace with an eth0.
type box struct {
	t         *testing.T
	name      string
	namespace *os.File
	asking    sync.Mutex
	rtnetlink int
	mac       string
	address   string
}

var segments atomic.Int32

func newSegment(t *testing.T) *segment {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("SKIPPED: needs ip")
	}
	t.Parallel()
	s := &segment{t: t, name: fmt.Sprintf("pgha-vip-%d-%d", os.Getpid(), segments.Add(1))}
	s.namespace(s.name)
	ip(t, s.name, "link add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up")
	return s
}

func (s *segment) namespace(name string) {
	s.t.Helper()
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		s.t.Fatalf("ip netns add: %v %s", err, out)
	}
	s.t.Cleanup(func() {
		// What a guard that was killed has left.
		pids, _ := exec.Command("ip", "netns", "pids", name).Output()
		for _, pid := range strings.Fields(string(pids)) {
			if n, _ := strconv.Atoi(pid); n > 0 && n != os.Getpid() {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			s.t.Errorf("ip netns del: %v %s", err, out)
		}
	})
}

// ip runs lines of ip commands in a namespace.
func ip(t *testing.T, namespace, lines string) {
	t.Helper()
	cmd := exec.Command("ip", "-n", namespace, "-batch", "-")
	cmd.Stdin = strings.NewReader(lines + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v %s", lines, err, out)
	}
}

func (s *segment) box() *box {
	s.t.Helper()
	s.n++
	b := &box{t: s.t, name: fmt.Sprintf("%s-%d", s.name, s.n), address: fmt.Sprintf("10.77.1.%d", 10+s.n)}
	s.namespace(b.name)
	var err error
	if b.namespace, err = os.Open("/run/netns/" + b.name); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { b.namespace.Close() })
	b.in(func() error {
		// Link-local addresses are good at once.
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
	})
	ip(s.t, s.name, fmt.Sprintf("link add p%d type veth peer name eth0 netns %s\nlink set p%d master br0 up", s.n, b.name, s.n))
	ip(s.t, b.name, fmt.Sprintf("link set lo up\nlink set eth0 up\naddr add %s/24 dev eth0\naddr add fd00:77::%d/64 dev eth0 nodad", b.address, 10+s.n))
	b.in(func() error {
		nic, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		b.mac = nic.HardwareAddr.String()
		b.rtnetlink, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		return err
	})
	s.t.Cleanup(func() { unix.Close(b.rtnetlink) })
	return b
}

// in does something in the box's namespace.
func (b *box) in(f func() error) {
	b.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- b.within(f)
	}()
	if err := <-done; err != nil {
		b.t.Fatal(err)
	}
}

// within leaves the thread where it was. One that cannot go back is never used again.
func (b *box) within(f func() error) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(b.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return back
	}
	runtime.UnlockOSThread()
	return err
}

// seen is an address of an interface, with the seconds that are left to it.
type seen struct {
	netip.Prefix
	left uint32
}

var errRead = errors.New("the addresses cannot be read")

// addresses asks the kernel.
func (b *box) addresses() (list []seen, err error) {
	b.asking.Lock()
	defer b.asking.Unlock()
	request := make([]byte, unix.NLMSG_HDRLEN+unix.SizeofIfAddrmsg)
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], unix.RTM_GETADDR)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if err := unix.Sendto(b.rtnetlink, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	buffer := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(b.rtnetlink, buffer, 0)
		if err != nil {
			return nil, err
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return list, nil
			case unix.NLMSG_ERROR:
				return nil, errRead
			}
			attrs, err := syscall.ParseNetlinkRouteAttr(&m)
			if err != nil {
				return nil, err
			}
			var s seen
			for _, a := range attrs {
				switch a.Attr.Type {
				case unix.IFA_ADDRESS:
					ip, _ := netip.AddrFromSlice(a.Value)
					s.Prefix = netip.PrefixFrom(ip, int(m.Data[1]))
				case unix.IFA_CACHEINFO:
					s.left = binary.NativeEndian.Uint32(a.Value[4:])
				}
			}
			list = append(list, s)
		}
	}
}

// observer looks about every 10 ms which boxes have an address.
type observer struct {
	t       *testing.T
	address netip.Prefix
	boxes   []*box
	end     chan struct{}
	ended   sync.WaitGroup

	mu    sync.Mutex
	looks int
	has   map[*box]seen
	begin map[*box]time.Time // since when each has it
	last  map[*box]time.Time // when it was there at last
	gaps  []string           // moments in which nobody had it
	both  []string           // moments in which several had it
}

func (s *segment) observe(address netip.Prefix, boxes ...*box) *observer {
	o := &observer{
		t: s.t, address: address, boxes: boxes, end: make(chan struct{}),
		has: map[*box]seen{}, begin: map[*box]time.Time{}, last: map[*box]time.Time{},
	}
	o.look()
	o.ended.Go(func() {
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-o.end:
				tick.Stop()
				return
			case <-tick.C:
				o.look()
			}
		}
	})
	s.t.Cleanup(func() {
		close(o.end)
		o.ended.Wait()
		for _, moment := range o.both {
			s.t.Errorf("two boxes had the address: %s", moment)
		}
	})
	return o
}

func (o *observer) look() {
	// Between two boxes the address may move. Who has it before and after the others were
	// looked at has it in between.
	first, before := o.once()
	second, after := o.once()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.looks++
	now := time.Now()
	n := 0
	for _, b := range o.boxes {
		if _, had := first[b]; had {
			if _, has := second[b]; has {
				n++
			}
			o.last[b] = before[b]
		}
		if s, has := second[b]; has {
			o.last[b] = after[b]
			if _, had := o.has[b]; !had {
				o.begin[b] = after[b]
			}
			o.has[b] = s
		} else {
			delete(o.has, b)
		}
	}
	if n > 1 {
		o.both = append(o.both, fmt.Sprint(now))
	}
	if len(first) == 0 && len(second) == 0 {
		o.gaps = append(o.gaps, fmt.Sprint(now))
	}
}

func (o *observer) once() (map[*box]seen, map[*box]time.Time) {
	has, at := map[*box]seen{}, map[*box]time.Time{}
	for _, b := range o.boxes {
		at[b] = time.Now()
		list, err := b.addresses()
		if err != nil {
			o.t.Errorf("the addresses of %s: %v", b.name, err)
		}
		for _, s := range list {
			if s.Addr() == o.address.Addr() {
				has[b] = s
			}
		}
	}
	return has, at
}

// holds reports whether a box has the address.
func (o *observer) holds(b *box) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, has := o.has[b]
	return has
}

// since is when a box got the address.
func (o *observer) since(b *box) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.begin[b]
}

func (o *observer) until(b *box, what string, has bool) {
	o.t.Helper()
	until(o.t, what, func() bool { return o.holds(b) == has })
}

// uninterrupted fails the test if the address was away.
func (o *observer) uninterrupted() {
	o.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.gaps) > 0 {
		o.t.Errorf("nobody had the address in %d of %d looks, first at %s", len(o.gaps), o.looks, o.gaps[0])
	}
}

func (o *observer) lastSeen(b *box) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last[b]
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patient); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, patient)
		}
	}
}

// pretender is a Patroni of the test's.
type pretender struct {
	b      *box
	server *httptest.Server
	tls    bool
	port   int

	mu       sync.Mutex
	status   int
	silent   bool
	asked    int
	positive time.Time     // when the last question came that was answered with 200
	late     chan struct{} // the next answer waits for its end
	waiting  bool
}

func (b *box) patroni(status int) *pretender {
	p := &pretender{b: b, status: status, port: 8008}
	p.listen()
	return p
}

func (p *pretender) listen() {
	p.b.t.Helper()
	p.server = httptest.NewUnstartedServer(p)
	p.server.Listener.Close()
	p.b.in(func() (err error) {
		p.server.Listener, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(p.port))
		return err
	})
	p.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if p.tls {
		p.server.StartTLS()
	} else {
		p.server.Start()
	}
	p.b.t.Cleanup(p.refuse)
}

func (p *pretender) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked++
	status, silent, late := p.status, p.silent, p.late
	p.late = nil
	if status == http.StatusOK && !silent {
		p.positive = time.Now()
	}
	p.waiting = late != nil
	p.mu.Unlock()
	if silent {
		<-r.Context().Done()
		return
	}
	if late != nil {
		<-late
	}
	if r.URL.Path != "/primary" {
		status = http.StatusTeapot
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `{"state": "running"}`)
}

func (p *pretender) set(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = status
}

func (p *pretender) silence(silent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = silent
}

// refuse has connections be refused.
func (p *pretender) refuse() {
	p.server.CloseClientConnections()
	p.server.Close()
}

// delay has the next answer wait until the channel is closed, and returns when the question
// is there.
func (p *pretender) delay() chan struct{} {
	p.b.t.Helper()
	late := make(chan struct{})
	p.mu.Lock()
	p.late = late
	p.mu.Unlock()
	until(p.b.t, "a question to delay", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.waiting
	})
	return late
}

// rounds waits for questions, which is how tests tell that the guard has had time to act.
func (p *pretender) rounds(n int) {
	p.b.t.Helper()
	count := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.asked
	}
	first := count()
	until(p.b.t, "questions to Patroni", func() bool { return count() >= first+n })
}

func (p *pretender) lastPositive() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.positive
}

// watchman is a guard that runs.
type watchman struct {
	t       *testing.T
	b       *box
	dir     string
	runtime string
	log     string
	script  string
	cmd     *exec.Cmd
	config  map[string]any
	ended   chan struct{}
}

var python = sync.OnceValues(func() (string, error) {
	name := os.Getenv("PGHA_TEST_PYTHON")
	if name == "" {
		name = "python3"
	}
	// It may be a script that looks for the real one.
	out, err := exec.Command(name, "-c", "import sys; print(sys.executable)").Output()
	return strings.TrimSpace(string(out)), err
})

// watchman prepares a guard in the box.
func (b *box) watchman(address netip.Prefix) *watchman {
	b.t.Helper()
	dir := b.t.TempDir()
	w := &watchman{t: b.t, b: b, dir: filepath.Join(dir, "etc"), runtime: filepath.Join(dir, "run"), log: filepath.Join(dir, "log"), script: filepath.Join(dir, "guard.py")}
	manager := os.Getenv("PGHA_TEST_VIP_MANAGER")
	if manager == "" {
		manager = filepath.Join(dir, "vip-manager")
		self, err := os.Executable()
		if err == nil {
			err = os.Symlink(self, manager)
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
	w.config = map[string]any{
		"address": address.Addr().String(), "prefix": address.Bits(), "interface": "eth0",
		"patroni": "http://127.0.0.1:8008/primary", "cafile": "", "vip_manager": manager,
	}
	interpreter, err := python()
	if err != nil {
		b.t.Skip("SKIPPED: needs python3")
	}
	text, err := os.ReadFile("guard.py")
	if err != nil {
		b.t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("#!/usr/bin/python3 "), []byte("#!"+interpreter+" "), 1)
	for _, d := range []string{w.dir, w.runtime} {
		if err := os.Mkdir(d, 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := os.WriteFile(w.script, text, 0o755); err != nil {
		b.t.Fatal(err)
	}
	w.configure()
	return w
}

// patient has the guard leave everything to vip-manager, however slow the machine is.
func (w *watchman) patient() *watchman {
	w.t.Helper()
	text, err := os.ReadFile(w.script)
	changed := bytes.Replace(text, []byte("\nPATIENCE = 2\n"), []byte("\nPATIENCE = 600\n"), 1)
	if err == nil && bytes.Equal(text, changed) {
		err = errors.New("it has another PATIENCE")
	}
	if err == nil {
		err = os.WriteFile(w.script, changed, 0o755)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return w
}

func (w *watchman) configure() {
	w.t.Helper()
	text, _ := json.Marshal(w.config)
	if err := os.WriteFile(filepath.Join(w.dir, "vip.json"), text, 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// command is the guard's program, to be run in the box.
func (w *watchman) command(args ...string) *exec.Cmd {
	interpreter, _ := python()
	cmd := exec.Command(interpreter, append([]string{"-I", w.script}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "RUNTIME_DIRECTORY=" + w.runtime}
	return cmd
}

// start runs the guard.
func (w *watchman) start(env ...string) *watchman {
	w.t.Helper()
	f, err := os.OpenFile(w.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	w.cmd = w.command("run", w.dir)
	w.cmd.Env = append(w.cmd.Env, env...)
	if setpriv, err := exec.LookPath("setpriv"); err == nil {
		// It has no more than its unit gives it.
		w.cmd.Path, w.cmd.Args = setpriv, append([]string{"setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--no-new-privs"}, w.cmd.Args...)
	}
	w.cmd.Stdout, w.cmd.Stderr = f, f
	w.b.in(w.cmd.Start)
	w.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(w.cmd, w.ended)
	cmd, ended := w.cmd, w.ended
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if w.t.Failed() {
			w.t.Logf("the guard in %s:\n%s", w.b.name, w.said())
		}
	})
	return w
}

func (w *watchman) said() string {
	text, _ := os.ReadFile(w.log)
	return string(text)
}

func (w *watchman) says(what string) {
	w.t.Helper()
	until(w.t, "the guard to say "+what, func() bool { return strings.Contains(w.said(), what) })
}

func (w *watchman) signal(s syscall.Signal) {
	w.t.Helper()
	if err := w.cmd.Process.Signal(s); err != nil {
		w.t.Fatal(err)
	}
}

// report is the guard's status.json.
func (w *watchman) report() (r struct {
	Holding, Primary bool
	Since            float64
	Because, Digest  string
}) {
	text, _ := os.ReadFile(filepath.Join(w.runtime, "status.json"))
	_ = json.Unmarshal(text, &r)
	return r
}

// manager is the process of the guard's vip-manager; 0 if it has none.
func (w *watchman) manager() int {
	own := strconv.Itoa(w.cmd.Process.Pid)
	text, _ := os.ReadFile("/proc/" + own + "/task/" + own + "/children")
	for _, pid := range strings.Fields(string(text)) {
		line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		if bytes.Contains(line, []byte("--config=")) {
			n, _ := strconv.Atoi(pid)
			return n
		}
	}
	return 0
}

// ask runs the ip of vip-manager.
func (w *watchman) ask(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(w.runtime, "bin", "ip"), args...)
	cmd.Env = []string{"PGHA_GUARD_SOCKET=" + filepath.Join(w.runtime, "guard.sock")}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// eachFamily runs a test for IPv4 and for IPv6.
func eachFamily(t *testing.T, f func(t *testing.T, address netip.Prefix)) {
	for name, address := range virtual {
		t.Run(name, func(t *testing.T) { f(t, address) })
	}
}

// one is a box with a guard that has the address.
func one(t *testing.T, address netip.Prefix) (*segment, *box, *pretender, *watchman) {
	t.Helper()
	s := newSegment(t)
	b := s.box()
	p := b.patroni(http.StatusOK)
	w := b.watchman(address).start()
	until(t, "the guard to take the address", func() bool { return w.report().Holding })
	return s, b, p, w
}

func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped by -short: waits for a lease to end")
	}
}

func TestGuardFollowsPatroni(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s := newSegment(t)
		b := s.box()
		p := b.patroni(http.StatusServiceUnavailable)
		o := s.observe(address, b)
		w := b.watchman(address).patient().start()
		w.says("Patroni answers 503")
		until(t, "vip-manager to run", func() bool { return w.manager() != 0 })
		p.rounds(2)
		for range 2 {
			if o.holds(b) {
				t.Fatal("it has the address of a primary")
			}
			begin := time.Now()
			p.set(http.StatusOK)
			o.until(b, "the address of the new primary", true)
			t.Logf("taken after %s", o.since(b).Sub(begin).Round(time.Millisecond))
			until(t, "its status", func() bool { return w.report().Holding })
			if r := w.report(); !r.Primary || r.Because != "Patroni answers 200" || r.Digest == "" || time.Since(time.UnixMicro(int64(r.Since*1e6))) > patient {
				t.Errorf("its status is %+v", r)
			}
			o.mu.Lock()
			if got := o.has[b]; got.Prefix != address || got.left > uint32(lease.Seconds()) {
				t.Errorf("it has %v", got)
			}
			o.mu.Unlock()
			p.rounds(2)
			begin = time.Now()
			p.set(http.StatusServiceUnavailable)
			o.until(b, "the end of it", false)
			took := o.lastSeen(b).Sub(begin)
			t.Logf("gone after %s", took.Round(time.Millisecond))
			if took > grace {
				t.Errorf("it was let go only after %s", took)
			}
			until(t, "its status", func() bool { return w.report().Because == "Patroni answers 503" })
		}
	})
}

// TestGuardsNeverBoth swaps the roles of two nodes, and has both be primary for a while: the
// one that comes later waits for the other.
func TestGuardsNeverBoth(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s := newSegment(t)
		type node struct {
			*box
			*pretender
			*watchman
		}
		var nodes [2]node
		for i := range nodes {
			b := s.box()
			nodes[i] = node{b, b.patroni(http.StatusServiceUnavailable), b.watchman(address)}
		}
		o := s.observe(address, nodes[0].box, nodes[1].box)
		for _, n := range nodes {
			n.watchman.start()
			n.rounds(1)
		}
		for i := range 3 {
			for _, n := range nodes {
				n.set(http.StatusServiceUnavailable)
			}
			until(t, "the end of the address", func() bool { return !o.holds(nodes[0].box) && !o.holds(nodes[1].box) })
			// The second begins while the first asks, or while it waits for vip-manager.
			nodes[0].set(http.StatusOK)
			nodes[0].rounds(i)
			nodes[1].set(http.StatusOK)
			until(t, "one of two primaries to take the address", func() bool { return o.holds(nodes[0].box) || o.holds(nodes[1].box) })
			nodes[0].rounds(3)
		}
		if o.holds(nodes[1].box) {
			nodes[0], nodes[1] = nodes[1], nodes[0]
		}
		nodes[1].set(http.StatusServiceUnavailable)
		nodes[1].rounds(2)
		for i := range 4 {
			from, to := nodes[i%2], nodes[(i+1)%2]
			begin := time.Now()
			if i < 2 {
				to.set(http.StatusOK)
				until(t, "the other to be noticed", func() bool { return strings.Contains(to.report().Because, from.mac+" has it") })
				begin = time.Now()
				from.set(http.StatusServiceUnavailable)
			} else {
				from.set(http.StatusServiceUnavailable)
				to.set(http.StatusOK)
			}
			o.until(to.box, "the other to have it", true)
			t.Logf("moved within %s", time.Since(begin).Round(time.Millisecond))
			if o.holds(from.box) {
				t.Error("the former primary still has it")
			}
		}
	})
}

func TestGuardKilled(t *testing.T) {
	slow(t)
	s, b, _, w := one(t, virtual["IPv4"])
	w6 := b.watchman(virtual["IPv6"]).start()
	until(t, "the other guard to take its address", func() bool { return w6.report().Holding })
	o, o6 := s.observe(virtual["IPv4"], b), s.observe(virtual["IPv6"], b)
	begin := time.Now()
	w.signal(syscall.SIGKILL)
	w6.signal(syscall.SIGKILL)
	for _, o := range []*observer{o, o6} {
		o.until(b, "the kernel to take it away", false)
		took := o.lastSeen(b).Sub(begin)
		t.Logf("%s gone after %s", o.address, took.Round(time.Millisecond))
		if took > lease+slack {
			t.Errorf("%s was there for %s", o.address, took)
		}
	}
}

// TestGuardFrozen pins that a node which stands still loses the address, and does not take
// it back for an answer that was on its way meanwhile.
func TestGuardFrozen(t *testing.T) {
	slow(t)
	address := virtual["IPv4"]
	s, b, p, w := one(t, address)
	o := s.observe(address, b)
	late := p.delay()
	manager := w.manager()
	begin := time.Now()
	w.signal(syscall.SIGSTOP)
	if err := syscall.Kill(manager, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	close(late)
	o.until(b, "the kernel to take it away", false)
	took := o.lastSeen(b).Sub(begin)
	t.Logf("gone after %s", took.Round(time.Millisecond))
	if took > lease+slack {
		t.Errorf("the address was there for %s", took)
	}
	p.set(http.StatusServiceUnavailable)
	w.signal(syscall.SIGCONT)
	if err := syscall.Kill(manager, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.rounds(8)
	if after := o.lastSeen(b).Sub(begin); after != took {
		t.Errorf("the address came back after %s", after)
	}
	p.set(http.StatusOK)
	o.until(b, "the address of the primary", true)
}

func TestGuardWithoutPatroni(t *testing.T) {
	for name, silence := range map[string]func(p *pretender){
		"hangs":   func(p *pretender) { p.silence(true) },
		"refuses": (*pretender).refuse,
	} {
		t.Run(name, func(t *testing.T) {
			address := virtual["IPv4"]
			s, b, p, w := one(t, address)
			o := s.observe(address, b)
			silence(p)
			o.until(b, "the guard to let go", false)
			took := o.lastSeen(b).Sub(p.lastPositive())
			t.Logf("gone after %s", took.Round(time.Millisecond))
			if took < grace-200*time.Millisecond || took > grace+slack {
				t.Errorf("it was let go after %s", took)
			}
			w.says("is not here: Patroni does not answer (")
			if name == "hangs" {
				p.silence(false)
			} else {
				p.listen()
			}
			o.until(b, "the address again", true)
		})
	}
}

func TestGuardWaitsForStranger(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s := newSegment(t)
		b, stranger := s.box(), s.box()
		add := fmt.Sprintf("addr add %s dev eth0", address)
		if address.Addr().Is6() {
			add += " nodad"
		}
		ip(t, stranger.name, add)
		p := b.patroni(http.StatusOK)
		o := s.observe(address, b)
		w := b.watchman(address).start()
		until(t, "the stranger to be noticed", func() bool { return strings.Contains(w.report().Because, stranger.mac+" has it") })
		p.rounds(4)
		if !o.lastSeen(b).IsZero() {
			t.Fatal("it took an address that somebody has")
		}
		ip(t, stranger.name, fmt.Sprintf("addr del %s dev eth0", address))
		begin := time.Now()
		o.until(b, "the address that is free", true)
		t.Logf("taken after %s", o.since(b).Sub(begin).Round(time.Millisecond))

		o = s.observe(address, b)
		ip(t, stranger.name, add)
		until(t, "the stranger to be noticed again", func() bool {
			r := w.report()
			return r.Holding && strings.Contains(r.Because, stranger.mac+" answers for it too")
		})
		w.says("TWO HOLDERS")
		ip(t, stranger.name, fmt.Sprintf("addr del %s dev eth0", address))
		until(t, "the end of it", func() bool { return w.report().Because == "Patroni answers 200" })
		o.uninterrupted()
	})
}

func TestGuardOutlivesVIPManager(t *testing.T) {
	address := virtual["IPv4"]
	s, b, p, w := one(t, address)
	o := s.observe(address, b)
	first := w.manager()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "another vip-manager", func() bool { now := w.manager(); return now != 0 && now != first })
	w.says("vip-manager was ended by signal 9; it is started again after 1 s")
	// The first that it does is to delete what is there.
	w.says("stays: Patroni answers 200")
	p.rounds(4)
	o.uninterrupted()
}

func TestGuardWithoutVIPManager(t *testing.T) {
	address := virtual["IPv4"]
	s := newSegment(t)
	b := s.box()
	b.patroni(http.StatusOK)
	o := s.observe(address, b)
	w := b.watchman(address)
	w.config["vip_manager"] = filepath.Join(w.dir, "absent")
	w.configure()
	w.start()
	o.until(b, "the address without a vip-manager", true)
	w.says("vip-manager cannot be started: No such file or directory; it is started again after 1 s")
	w.says("without vip-manager, which did not ask for it in time")
	w.says("it is started again after 2 s")
}

// Another vip-manager in the place of the one that runs, as a package brings it, runs soon.
func TestGuardExchangesVIPManager(t *testing.T) {
	address := virtual["IPv4"]
	s := newSegment(t)
	b := s.box()
	p := b.patroni(http.StatusOK)
	w := b.watchman(address)
	program, other := filepath.Join(w.dir, "vip-manager"), filepath.Join(w.dir, "other")
	for _, name := range []string{program, other} {
		if err := os.Symlink(w.config["vip_manager"].(string), name); err != nil {
			t.Fatal(err)
		}
	}
	// A copy is another file; links to the same one are not.
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	w.config["vip_manager"] = program
	w.configure()
	w.start()
	s.observe(address, b).until(b, "the address", true)
	o, first := s.observe(address, b), w.manager()
	if err := errors.Join(os.Remove(other), os.WriteFile(other, text, 0o755), os.Rename(other, program)); err != nil {
		t.Fatal(err)
	}
	w.says("vip-manager was exchanged, and is started again")
	until(t, "another vip-manager", func() bool { now := w.manager(); return now != 0 && now != first })
	p.rounds(4)
	o.uninterrupted()
}

// Who is connected to the address is told when it goes, instead of waiting for answers that
// nobody can give any more.
func TestGuardHangsUp(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s, b, p, _ := one(t, address)
		client := s.box()
		var l net.Listener
		b.in(func() (err error) { l, err = net.Listen("tcp", ":5432"); return err })
		defer l.Close()
		accepted := make(chan net.Conn, 2)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				accepted <- c
			}
		}()
		var kept []net.Conn
		defer func() {
			for _, c := range kept {
				c.Close()
			}
		}()
		connect := func(to string) (c net.Conn) {
			client.in(func() (err error) {
				c, err = (&net.Dialer{Timeout: patient}).Dial("tcp", net.JoinHostPort(to, "5432"))
				return err
			})
			kept = append(kept, c, <-accepted)
			return c
		}
		virtual, own := connect(address.Addr().String()), connect(b.address)
		p.set(http.StatusServiceUnavailable)
		virtual.SetReadDeadline(time.Now().Add(patient))
		if _, err := virtual.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the connection to the address ended with %v", err)
		}
		own.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := own.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection to the host's own address ended with %v", err)
		}
	})
}

func TestGuardReloads(t *testing.T) {
	address := virtual["IPv4"]
	s, b, p, w := one(t, address)
	o := s.observe(address, b)
	before, manager := w.report(), w.manager()
	if err := os.WriteFile(filepath.Join(w.dir, "vip.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.signal(syscall.SIGHUP)
	w.says("unusable, and it goes on with what it has")
	w.config["cluster"] = "another word"
	w.configure()
	w.signal(syscall.SIGHUP)
	until(t, "the new configuration", func() bool { r := w.report(); return r.Holding && r.Digest != before.Digest })
	until(t, "another vip-manager", func() bool { now := w.manager(); return now != 0 && now != manager })
	p.rounds(6)
	if now := w.report().Since; now != before.Since {
		t.Errorf("it holds since %f, and not since %f", now, before.Since)
	}
	o.uninterrupted()

	// Another address is another matter.
	other := netip.MustParsePrefix("10.77.1.101/24")
	both := s.observe(other, b)
	w.config["address"] = other.Addr().String()
	w.configure()
	w.signal(syscall.SIGHUP)
	both.until(b, "the other address", true)
	o.until(b, "the end of the first", false)
}

func TestGuardEnds(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s, b, _, w := one(t, address)
		o := s.observe(address, b)
		manager := w.manager()
		begin := time.Now()
		w.signal(syscall.SIGTERM)
		o.until(b, "the end of the address", false)
		t.Logf("gone after %s", o.lastSeen(b).Sub(begin).Round(time.Millisecond))
		<-w.ended
		if took := time.Since(begin); w.cmd.ProcessState.ExitCode() != 0 || took > lease {
			t.Errorf("it ended after %s: %s", took, w.cmd.ProcessState)
		}
		if err := syscall.Kill(manager, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("its vip-manager is still there: %v", err)
		}
	})
}

func TestGuardTakesBack(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s := newSegment(t)
		b := s.box()
		b.patroni(http.StatusOK)
		o := s.observe(address, b)
		w := b.watchman(address).patient().start()
		o.until(b, "the address of the primary", true)
		ip(t, b.name, fmt.Sprintf("addr del %s dev eth0", address))
		begin := time.Now()
		w.says("is not here: somebody has removed it")
		o.until(b, "the address again", true)
		t.Logf("back after %s", o.since(b).Sub(begin).Round(time.Millisecond))
	})
}

// TestGuardFindsAddress is about an address that is there when the guard starts.
func TestGuardFindsAddress(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		prefix int
		stays  bool
	}{
		"primary":              {http.StatusOK, 24, true},
		"primary, other mask":  {http.StatusOK, 32, true},
		"standby":              {http.StatusServiceUnavailable, 24, false},
		"standby, other mask":  {http.StatusServiceUnavailable, 16, false},
		"Patroni is not there": {0, 24, false},
	} {
		t.Run(name, func(t *testing.T) {
			address := virtual["IPv4"]
			s := newSegment(t)
			b := s.box()
			ip(t, b.name, fmt.Sprintf("addr add %s/%d dev eth0", address.Addr(), c.prefix))
			o := s.observe(address, b)
			if c.status != 0 {
				b.patroni(c.status)
			}
			w := b.watchman(address).start()
			if !c.stays {
				o.until(b, "the end of the address", false)
				return
			}
			until(t, "its status", func() bool { return w.report().Holding })
			until(t, "a lease", func() bool {
				o.mu.Lock()
				defer o.mu.Unlock()
				return o.has[b].Prefix == address && o.has[b].left <= uint32(lease.Seconds())
			})
			o.uninterrupted()
		})
	}
}

// TestGuardTellsNeighbours looks at what a third host believes, which has talked to the
// first holder.
func TestGuardTellsNeighbours(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s, first, p, _ := one(t, address)
		second, client := s.box(), s.box()
		o := s.observe(address, first, second)
		q := second.patroni(http.StatusServiceUnavailable)
		second.watchman(address).start()
		q.rounds(1)
		knows := func() string {
			out, err := exec.Command("ip", "-n", client.name, "neigh", "show", address.Addr().String(), "dev", "eth0").Output()
			if err != nil {
				t.Error(err)
			}
			_, mac, _ := strings.Cut(string(out), "lladdr ")
			mac, _, _ = strings.Cut(mac, " ")
			return mac
		}
		client.in(func() error {
			c, err := net.Dial("udp", net.JoinHostPort(address.Addr().String(), "9"))
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("?"))
			return err
		})
		until(t, "the client to know the first holder", func() bool { return knows() == first.mac })
		p.set(http.StatusServiceUnavailable)
		q.set(http.StatusOK)
		o.until(second, "the second to have it", true)
		until(t, "the client to know the second holder", func() bool { return knows() == second.mac })
	})
}

func TestGuardRefuses(t *testing.T) {
	s, b, p, w := one(t, virtual["IPv4"])
	o := s.observe(virtual["IPv4"], b)
	for _, c := range [][]string{
		{"addr", "add", "10.77.1.101/24", "dev", "eth0"},
		{"addr", "add", "10.77.1.100/32", "dev", "eth0"},
		{"addr", "add", "10.77.1.100/24", "dev", "lo"},
		{"addr", "delete", "10.77.1.11/24", "dev", "eth0"},
		{"addr", "flush", "dev", "eth0"},
		{"link", "set", "eth0", "down"},
		{"addr", "add", "nonsense", "dev", "eth0"},
		{},
	} {
		if out, err := w.ask(c...); err == nil || !strings.Contains(out, "only 10.77.1.100/24 on eth0") {
			t.Errorf("ip %v: %v %s", c, err, out)
		}
	}
	if out, err := w.ask("addr", "delete", "10.77.1.100/24", "dev", "eth0"); err == nil || !strings.Contains(out, "stays: Patroni answers 200") {
		t.Errorf("delete: %v %s", err, out)
	}
	if out, err := w.ask("addr", "add", "10.77.1.100/24", "dev", "eth0"); err != nil || out != "" {
		t.Errorf("add: %v %s", err, out)
	}
	o.uninterrupted()
	p.set(http.StatusServiceUnavailable)
	o.until(b, "the end of the address", false)
	if out, err := w.ask("addr", "add", "10.77.1.100/24", "dev", "eth0"); err == nil || !strings.Contains(out, "not primary in the last 1 s: Patroni answers 503") {
		t.Errorf("add: %v %s", err, out)
	}
	if out, err := w.ask("addr", "delete", "10.77.1.100/24", "dev", "eth0"); err != nil || out != "" {
		t.Errorf("delete: %v %s", err, out)
	}
	list, err := b.addresses()
	if err != nil || !slices.ContainsFunc(list, func(s seen) bool { return s.Addr().String() == b.address }) {
		t.Errorf("the box has %v, %v", list, err)
	}
	w.signal(syscall.SIGKILL)
	<-w.ended
	if out, err := w.ask("addr", "add", "10.77.1.100/24", "dev", "eth0"); err == nil || !strings.Contains(out, "cannot be asked") {
		t.Errorf("add: %v %s", err, out)
	}
}

func TestGuardVerifiesPatroni(t *testing.T) {
	address := virtual["IPv4"]
	s := newSegment(t)
	b := s.box()
	p := &pretender{b: b, status: http.StatusOK, port: 8008, tls: true}
	p.listen()
	o := s.observe(address, b)
	w := b.watchman(address)
	authority := filepath.Join(w.dir, "ca.crt")
	if err := os.WriteFile(authority, []byte(""), 0o644); err != nil {
		t.Fatal(err)
	}
	w.config["patroni"], w.config["cafile"] = "https://127.0.0.1:8008/primary", authority
	// What vip-manager is told may be somebody else's, too.
	w.config["endpoint"] = 8100
	w.configure()
	given := fmt.Sprintf("ip: %s\nnetmask: %d\ninterface: eth0\ndcs-type: patroni\ndcs-endpoints: [http://127.0.0.1:8100]\ntrigger-key: /vip\ntrigger-value: \"200\"\ninterval: 100\n", address.Addr(), address.Bits())
	if err := os.WriteFile(filepath.Join(w.dir, "vip-manager.yml"), []byte(given), 0o644); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.says("Patroni does not answer (")
	if !o.lastSeen(b).IsZero() {
		t.Error("it believes a Patroni that it cannot know")
	}
	// It notices by itself that the authority has changed.
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw})
	if err := os.WriteFile(authority, text, 0o644); err != nil {
		t.Fatal(err)
	}
	o.until(b, "the address", true)
	w.says("since vip-manager asked for it")
}

// TestGuardTellsSystemd hears what systemd would.
func TestGuardTellsSystemd(t *testing.T) {
	s := newSegment(t)
	b := s.box()
	p := b.patroni(http.StatusServiceUnavailable)
	late := p.delayed()
	w := b.watchman(virtual["IPv4"])
	path := filepath.Join(w.runtime, "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w.start("NOTIFY_SOCKET=" + path)
	var heard []string
	hear := func(what string) {
		t.Helper()
		buffer := make([]byte, 4096)
		for {
			_ = c.SetReadDeadline(time.Now().Add(patient))
			n, err := c.Read(buffer)
			if err != nil {
				t.Fatalf("%s was not heard, only %q", what, heard)
			}
			if text := string(buffer[:n]); !slices.Contains(heard, text) || text == what {
				heard = append(heard, text)
				if strings.HasPrefix(text, what) {
					return
				}
			}
		}
	}
	hear("WATCHDOG=1")
	if slices.Contains(heard, "READY=1") {
		t.Error("it was ready before Patroni had answered")
	}
	close(late)
	hear("READY=1")
	hear("WATCHDOG=1")
	hear("WATCHDOG=1")
	p.set(http.StatusOK)
	hear("STATUS=10.77.1.100/24 is here: Patroni answers 200")
}

// delayed has the first answer wait until the channel is closed.
func (p *pretender) delayed() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = make(chan struct{})
	return p.late
}

func TestGuardProbesAndRemoves(t *testing.T) {
	eachFamily(t, func(t *testing.T, address netip.Prefix) {
		s := newSegment(t)
		b, stranger := s.box(), s.box()
		w := b.watchman(address)
		probe := func(args ...string) string {
			t.Helper()
			interpreter, _ := python()
			cmd := exec.Command(interpreter, append([]string{"-I", "-", "probe"}, args...)...)
			text, err := os.ReadFile(w.script)
			if err != nil {
				t.Fatal(err)
			}
			var out, failed bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), &out, &failed
			b.in(cmd.Start)
			if err := cmd.Wait(); err != nil || failed.Len() > 0 {
				t.Fatalf("probe %v: %v %s", args, err, failed.String())
			}
			return out.String()
		}
		own := b.address
		if address.Addr().Is6() {
			own = "fd00:77::11"
		}
		subnet := fmt.Sprintf("{\"interface\": \"eth0\", \"prefix\": %d, \"mac\": %q, \"address\": %q}\n", address.Bits(), b.mac, own)
		vip := address.Addr().String()
		if got := probe(vip, "-"); got != subnet {
			t.Errorf("it sees %s, and not %s", got, subnet)
		}
		if got := probe(map[bool]string{true: "10.78.1.100", false: "fd00:78::100"}[address.Addr().Is4()], "-"); got != "{}\n" {
			t.Errorf("in no subnet it sees %s", got)
		}
		ip(t, stranger.name, fmt.Sprintf("addr add %s dev eth0%s", address, map[bool]string{true: " nodad"}[address.Addr().Is6()]))
		if got, want := probe(vip, "eth0"), subnet+fmt.Sprintf("{\"answer\": %q}\n", stranger.mac); got != want {
			t.Errorf("of a stranger's it sees %s, and not %s", got, want)
		}
		ip(t, stranger.name, fmt.Sprintf("addr del %s dev eth0", address))

		ip(t, b.name, fmt.Sprintf("addr add %s/%d dev eth0 valid_lft 100 preferred_lft 100", vip, address.Bits()+1))
		ip(t, b.name, fmt.Sprintf("addr add %s dev lo", address))
		if err := os.WriteFile(filepath.Join(w.runtime, "status.json"), []byte(`{"holding": true}`), 0o644); err != nil {
			t.Fatal(err)
		}
		want := []string{
			strings.TrimSpace(subnet), fmt.Sprintf(`{"local": "eth0", "prefix": %d, "lease": true}`, address.Bits()+1),
			fmt.Sprintf(`{"local": "lo", "prefix": %d, "lease": false}`, address.Bits()), `{"status": {"holding": true}}`,
		}
		got := strings.Split(strings.TrimSpace(probe(vip, "-", filepath.Join(w.runtime, "status.json"))), "\n")
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("of its own it sees %q, and not %q", got, want)
		}

		for range 2 {
			// As the provider runs it on a host that may have no other program.
			cmd := w.command("remove", w.dir)
			cmd.Args[2], cmd.Env = "-", []string{}
			text, err := os.Open(w.script)
			if err != nil {
				t.Fatal(err)
			}
			defer text.Close()
			cmd.Stdin = text
			b.in(cmd.Start)
			if err := cmd.Wait(); err != nil {
				t.Errorf("remove: %v", err)
			}
			list, err := b.addresses()
			var left []string
			for _, s := range list {
				if s.Addr() == address.Addr() {
					left = append(left, s.String())
				}
			}
			if err != nil || !slices.Equal(left, []string{address.String()}) {
				t.Errorf("only lo's is to be left, and there is %v, %v", left, err)
			}
		}
	})
}
