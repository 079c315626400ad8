package etcd

import (
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/golden"
)

// What is written on a member's host. A difference here restarts every member
// of every cluster that there is, at the next apply.
func TestFiles(t *testing.T) {
	base := func() Spec {
		return Spec{
			Name: "dcs", Version: "3.5.16", ClientPort: 2379, PeerPort: 2380, TLS: true, Auth: true,
			Members:   map[string]Member{"pg1": {Address: "10.0.0.1"}, "pg2": {Address: "10.0.0.2"}, "pg3": {Address: "10.0.0.3"}},
			Heartbeat: 100 * time.Millisecond, Election: time.Second, QuotaBytes: 2 << 30, CompactionRetention: time.Hour,
		}
	}
	for name, change := range map[string]func(*Spec){
		"tls":   func(*Spec) {},
		"plain": func(s *Spec) { s.TLS, s.Auth = false, false },
		"names": func(s *Spec) {
			// A name says nothing about where to listen.
			s.Members = map[string]Member{"pg2": {Address: "pg2.example.test"}}
		},
		"ipv6": func(s *Spec) {
			s.Members = map[string]Member{"pg2": {Address: "fd00::2"}, "pg3": {Address: "fd00::3"}}
			s.ClientPort, s.PeerPort, s.SnapshotCount, s.CompactionRetention = 12379, 12380, 5000, 90*time.Minute
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := base()
			change(&s)
			golden.Files(t, "files-"+name, append(s.files("pg2"), s.initialFile("pg2", "0123456789abcdef", nil))...)
		})
	}
	t.Run("marker", func(t *testing.T) {
		m := Marker{Cluster: "dcs", UID: "0123456789abcdef", Member: "pg1", MachineID: "f00", Bootstrapped: true}
		golden.Files(t, "marker", m.file())
	})
}

// The timing follows the distance between the members and stays within what
// etcd accepts.
func TestTiming(t *testing.T) {
	for _, c := range []struct{ roundTrip, heartbeat, election time.Duration }{
		{0, 100 * time.Millisecond, time.Second},
		{20 * time.Millisecond, 100 * time.Millisecond, time.Second},
		{101 * time.Millisecond, 160 * time.Millisecond, 1600 * time.Millisecond},
		{time.Second, 1500 * time.Millisecond, 15 * time.Second},
		{10 * time.Second, 10 * time.Second, 50 * time.Second},
	} {
		h, e := Timing(c.roundTrip)
		if h != c.heartbeat || e != c.election {
			t.Errorf("%s leads to %s and %s, want %s and %s", c.roundTrip, h, e, c.heartbeat, c.election)
		}
		if err := CheckTiming(h, e); err != nil {
			t.Errorf("%s leads to what is refused: %v", c.roundTrip, err)
		}
	}
	for _, c := range []struct{ heartbeat, election time.Duration }{
		{9 * time.Millisecond, time.Second}, {100 * time.Millisecond, 499 * time.Millisecond}, {time.Second, 51 * time.Second},
	} {
		if CheckTiming(c.heartbeat, c.election) == nil {
			t.Errorf("%s and %s are accepted", c.heartbeat, c.election)
		}
	}
}

func TestQuorum(t *testing.T) {
	for members, want := range map[int]int{1: 1, 2: 2, 3: 2, 4: 3, 5: 3, 7: 4} {
		if got := Quorum(members); got != want {
			t.Errorf("quorum of %d is %d, want %d", members, got, want)
		}
	}
}
