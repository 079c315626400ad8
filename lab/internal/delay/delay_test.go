package delay

import (
	"bytes"
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// packet returns an IP header with the two addresses, and a number to know it
// by.
func packet(src, dst string, number byte) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	var p []byte
	if s.Is4() {
		p = make([]byte, 20)
		p[0] = 4 << 4
		copy(p[12:], s.AsSlice())
		copy(p[16:], d.AsSlice())
	} else {
		p = make([]byte, 40)
		p[0] = 6 << 4
		copy(p[8:], s.AsSlice())
		copy(p[24:], d.AsSlice())
	}
	return append(p, number)
}

// recorder notes when every packet came out.
type recorder struct {
	start time.Time
	mu    sync.Mutex
	got   []arrival
}

type arrival struct {
	number byte
	after  time.Duration
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, arrival{p[len(p)-1], time.Since(r.start)})
	return len(p), nil
}

func zones(dc2, dc3 Setting) Config {
	zone := func(s Setting, prefixes ...string) Zone {
		z := Zone{Setting: s}
		for _, p := range prefixes {
			z.Prefixes = append(z.Prefixes, netip.MustParsePrefix(p))
		}
		return z
	}
	return Config{Zones: []Zone{
		zone(Setting{}, "10.77.1.0/24", "fd77:10:77:1::/64"),
		zone(dc2, "10.77.2.0/24", "fd77:10:77:2::/64"),
		zone(dc3, "10.77.3.0/24", "fd77:10:77:3::/64"),
	}}
}

// collect feeds packets to a forwarder and returns when each came out, on a
// clock of its own.
func collect(t *testing.T, c Config, feed func(f *forwarder, accept func(...[]byte))) []arrival {
	t.Helper()
	var r *recorder
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r = &recorder{start: time.Now()}
		f := newForwarder(r, c)
		feed(f, func(packets ...[]byte) {
			for _, p := range packets {
				f.accept(ctx, p)
			}
		})
		time.Sleep(time.Hour) // of the test's clock
		cancel()
		f.wg.Wait()
	})
	return r.got
}

func TestDelayIsThatOfBothEnds(t *testing.T) {
	ms := time.Millisecond
	for _, c := range []struct {
		name     string
		src, dst string
		want     time.Duration
	}{
		{"out of the far one", "10.77.2.11", "10.77.1.11", 30 * ms},
		{"into the far one", "10.77.1.11", "10.77.2.11", 30 * ms},
		{"between two far ones", "10.77.2.11", "10.77.3.11", 40 * ms},
		{"IPv6", "fd77:10:77:1::11", "fd77:10:77:3::11", 10 * ms},
		{"between near ones", "10.77.1.11", "10.77.1.12", 0},
		{"from elsewhere", "10.77.0.1", "10.77.2.11", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := collect(t, zones(Setting{Delay: 30 * ms}, Setting{Delay: 10 * ms}), func(_ *forwarder, accept func(...[]byte)) {
				accept(packet(c.src, c.dst, 1))
			})
			if len(got) != 1 || got[0].after != c.want {
				t.Errorf("got %v, want one packet after %v", got, c.want)
			}
		})
	}
}

// Reordering would make TCP retransmit, which is not what a longer cable does.
func TestJitterKeepsOrder(t *testing.T) {
	const n = 200
	got := collect(t, zones(Setting{Delay: 20 * time.Millisecond, Jitter: 15 * time.Millisecond}, Setting{}), func(_ *forwarder, accept func(...[]byte)) {
		for i := range n {
			accept(packet("10.77.1.11", "10.77.2.11", byte(i)))
		}
	})
	if len(got) != n {
		t.Fatalf("%d packets came out, %d went in", len(got), n)
	}
	for i, a := range got {
		if a.number != byte(i) {
			t.Fatalf("packet %d came out as number %d", a.number, i)
		}
		if a.after > 35*time.Millisecond {
			t.Fatalf("packet %d took %v", i, a.after)
		}
	}
}

// A test shortens a delay while connections are open. What is on its way
// arrives first.
func TestConfigureAppliesToWhatComesAfter(t *testing.T) {
	got := collect(t, zones(Setting{Delay: time.Second}, Setting{}), func(f *forwarder, accept func(...[]byte)) {
		accept(packet("10.77.1.11", "10.77.2.11", 1))
		f.configure(zones(Setting{Delay: time.Millisecond}, Setting{}))
		accept(packet("10.77.1.11", "10.77.2.11", 2))
		accept(packet("10.77.2.11", "10.77.1.11", 3))
	})
	want := []arrival{{3, time.Millisecond}, {1, time.Second}, {2, time.Second}}
	if len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestGarbageIsDropped(t *testing.T) {
	var out bytes.Buffer
	f := newForwarder(&out, zones(Setting{}, Setting{}))
	for _, p := range [][]byte{nil, {}, {4 << 4}, {6 << 4, 0}, bytes.Repeat([]byte{0xff}, 100)} {
		f.accept(t.Context(), p)
	}
	if out.Len() != 0 {
		t.Errorf("%d bytes were sent on", out.Len())
	}
}
