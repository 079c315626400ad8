package acceptance

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// holders looks every 10 ms which hosts have an address, from outside of them: through a
// socket in each one's network namespace, which works whatever stands still inside.
type holders struct {
	t       *testing.T
	address netip.Addr
	done    chan struct{}
	ended   sync.WaitGroup

	mu      sync.Mutex
	sockets map[string]int
	now     []string
	twice   []string // moments at which several had it
	none    time.Time
	longest time.Duration // in which nobody had it
	looks   int
	moves   []string
}

// watchHolders begins to look at all hosts of a site.
func (s *site) watchHolders(t *testing.T, address string) *holders {
	t.Helper()
	w := &holders{t: t, address: netip.MustParseAddr(address), done: make(chan struct{}), sockets: map[string]int{}}
	for _, h := range s.lab.Hosts() {
		if !h.Bastion {
			w.add(s, h.Name)
		}
	}
	w.ended.Go(w.look)
	t.Cleanup(func() {
		close(w.done)
		w.ended.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, fd := range w.sockets {
			_ = unix.Close(fd)
		}
		for _, when := range w.twice {
			t.Errorf("two holders: %s", when)
		}
		t.Logf("%d looks at who has %s; the longest time in which nobody had it: %s", w.looks, w.address, w.longest.Round(10*time.Millisecond))
	})
	return w
}

// add looks at a host, too, which has been started.
func (w *holders) add(s *site, name string) {
	w.t.Helper()
	fd, err := socketIn(netip.MustParseAddr(s.lab.Host(name).Addr))
	if err != nil {
		w.t.Fatalf("the network of %s: %v", name, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sockets[name] = fd
}

// drop looks at a host no more, whose power is about to be cut: the socket would keep its
// network alive.
func (w *holders) drop(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = unix.Close(w.sockets[name])
	delete(w.sockets, name)
}

// holder is who has the address now, empty if nobody or several have it.
func (w *holders) holder() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.now, "+")
}

// took forgets, and returns, how often the address moved, and for how long nobody had it.
func (w *holders) took() (moves []string, longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	moves, longest = w.moves, w.longest
	w.moves, w.longest = nil, 0
	return moves, longest
}

func (w *holders) look() {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-w.done:
			return
		case <-tick.C:
		}
		w.mu.Lock()
		have := w.have()
		if len(have) > 1 {
			// It may have moved between the looks at two hosts: then the first does not have it
			// any more.
			have = w.have()
		}
		w.looks++
		if len(have) > 1 {
			w.twice = append(w.twice, time.Now().Format("15:04:05.000")+" "+strings.Join(have, " and "))
		}
		if len(have) > 0 {
			if !w.none.IsZero() {
				w.longest, w.none = max(w.longest, time.Since(w.none)), time.Time{}
			}
			if len(w.now) > 0 && !slices.Equal(have, w.now) || len(w.now) == 0 {
				w.moves = append(w.moves, strings.Join(have, "+"))
			}
		} else if w.none.IsZero() {
			w.none = time.Now()
		}
		w.now = have
		w.mu.Unlock()
	}
}

// have is which hosts have the address.
func (w *holders) have() (list []string) {
	for name, fd := range w.sockets {
		if hasAddress(fd, w.address) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// socketIn opens a netlink socket in the network namespace of the host that has an address
// of its own.
func socketIn(own netip.Addr) (int, error) {
	type result struct {
		fd  int
		err error
	}
	c := make(chan result)
	go func() {
		// The thread is not to be used again: it is left in another namespace.
		runtime.LockOSThread()
		seen := map[string]bool{}
		files, _ := filepath.Glob("/proc/[0-9]*/ns/net")
		for _, file := range files {
			ns, err := os.Readlink(file)
			if err != nil || seen[ns] {
				continue
			}
			seen[ns] = true
			fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			_ = unix.Close(fd)
			if err != nil {
				continue
			}
			s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
			if err != nil {
				c <- result{0, err}
				return
			}
			_ = unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
			if hasAddress(s, own) {
				c <- result{s, nil}
				return
			}
			_ = unix.Close(s)
		}
		c <- result{0, fmt.Errorf("no process here has an interface with %s", own)}
	}()
	r := <-c
	return r.fd, r.err
}

// hasAddress reports whether one of the interfaces of a socket's namespace has an address.
func hasAddress(fd int, address netip.Addr) bool {
	family := byte(unix.AF_INET)
	if address.Is6() {
		family = unix.AF_INET6
	}
	req := make([]byte, unix.NLMSG_HDRLEN+8)
	binary.NativeEndian.PutUint32(req, uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], unix.RTM_GETADDR)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	req[unix.NLMSG_HDRLEN] = family
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false
	}
	found := false
	buf := make([]byte, 1<<15)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return found
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return found
		}
		for i := range messages {
			switch messages[i].Header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				return found
			case unix.RTM_NEWADDR:
				attrs, err := syscall.ParseNetlinkRouteAttr(&messages[i])
				if err != nil {
					continue
				}
				for _, a := range attrs {
					if a.Attr.Type == unix.IFA_ADDRESS {
						if have, ok := netip.AddrFromSlice(a.Value); ok && have == address {
							found = true
						}
					}
				}
			}
		}
	}
}
