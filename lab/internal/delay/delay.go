// Package delay gives datacenters distance: it holds back every packet that
// passes between them.
//
// The kernel's own means (netem) is a module that many kernels of virtual
// machines, CI's among them, are built without. So the lab's router hands such
// packets to a process of ours, through a TUN device, which writes each of
// them back when its time has come. It adds a few tens of microseconds of its
// own, and carries some hundred thousand packets a second.
package delay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Setting is a datacenter's distance from the others.
type Setting struct {
	// Delay is added to every packet that leaves or enters, so a round trip
	// takes twice that longer.
	Delay time.Duration
	// Jitter varies the delay of each packet by up to this much either way.
	// It never reorders the packets between two datacenters.
	Jitter time.Duration
}

// Zone is a datacenter as the delaying process sees it.
type Zone struct {
	Prefixes []netip.Prefix
	Setting
}

// Config is what the delaying process works from. It reads it from a file, at
// its start and on every SIGHUP.
type Config struct{ Zones []Zone }

// ParseConfig reads a Config from JSON.
func ParseConfig(b []byte) (Config, error) {
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("delays: %w", err)
	}
	return c, nil
}

// zone returns the index of the zone that addr is in, or -1.
func (c Config) zone(addr netip.Addr) int {
	for i, z := range c.Zones {
		for _, p := range z.Prefixes {
			if p.Contains(addr) {
				return i
			}
		}
	}
	return -1
}

// ends returns the addresses in an IP packet's header.
func ends(packet []byte) (src, dst netip.Addr, ok bool) {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20])), true
	case len(packet) >= 40 && packet[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40])), true
	}
	return src, dst, false
}

// queueLength is how many packets may be on their way between two
// datacenters; more are dropped, as a router does. At a thousandth of a
// second each that is far beyond what TCP keeps in flight.
const queueLength = 1 << 16

// pair is an ordered pair of zones.
type pair struct{ from, to int }

type parcel struct {
	due  time.Time
	data []byte
}

// forwarder moves packets from one zone to another. Those of one pair of
// zones leave in the order in which they came.
type forwarder struct {
	out io.Writer

	mu     sync.Mutex
	config Config
	lanes  map[pair]chan parcel
	last   map[pair]time.Time
	wg     sync.WaitGroup
}

func newForwarder(out io.Writer, c Config) *forwarder {
	return &forwarder{out: out, config: c, lanes: map[pair]chan parcel{}, last: map[pair]time.Time{}}
}

func (f *forwarder) configure(c Config) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.config = c
}

// accept takes a packet (which it keeps) and sends it on when it is due. A
// packet that is not between two zones is sent on at once.
func (f *forwarder) accept(ctx context.Context, data []byte) {
	src, dst, ok := ends(data)
	if !ok {
		return
	}
	f.mu.Lock()
	p := pair{f.config.zone(src), f.config.zone(dst)}
	if p.from < 0 || p.to < 0 {
		f.mu.Unlock()
		_, _ = f.out.Write(data)
		return
	}
	from, to := f.config.Zones[p.from].Setting, f.config.Zones[p.to].Setting
	due := time.Now().Add(from.draw() + to.draw())
	if due.Before(f.last[p]) {
		due = f.last[p]
	}
	f.last[p] = due
	lane, ok := f.lanes[p]
	if !ok {
		lane = make(chan parcel, queueLength)
		f.lanes[p] = lane
		f.wg.Go(func() { f.carry(ctx, lane) })
	}
	f.mu.Unlock()
	select {
	case lane <- parcel{due, data}:
	default:
	}
}

// draw returns one packet's share of the delay.
func (s Setting) draw() time.Duration {
	d := s.Delay
	if s.Jitter > 0 {
		d += time.Duration(rand.Int64N(int64(2*s.Jitter)+1)) - s.Jitter
	}
	return max(d, 0)
}

// carry sends a lane's packets on, each when it is due.
func (f *forwarder) carry(ctx context.Context, lane <-chan parcel) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-lane:
			if wait := time.Until(p.due); wait > 0 {
				timer.Reset(wait)
				select {
				case <-ctx.Done():
					return
				case <-timer.C:
				}
			}
			_, _ = f.out.Write(p.data) // the device may refuse a packet; so may a cable
		}
	}
}

// run reads packets from in until it fails or ctx ends.
func (f *forwarder) run(ctx context.Context, in io.Reader) error {
	buf := make([]byte, 1<<16)
	for {
		n, err := in.Read(buf)
		if err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return err
		}
		f.accept(ctx, append([]byte(nil), buf[:n]...))
	}
}
