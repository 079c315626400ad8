//go:build linux

package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
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
