package sshx

import (
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sync/errgroup"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

// BenchmarkFleet connects to 1000 hosts in memory and runs one script on each,
// as a refresh does. It reports what is in use afterwards per host, for both
// ends of each connection.
func BenchmarkFleet(b *testing.B) {
	const hosts = 1000
	for b.Loop() {
		b.StopTimer()
		before := inUse()
		var n sshtest.Network
		key := sshtest.NewHostKey()
		cfg := trust()
		cfg.Dial = n.Dial
		var servers []*sshtest.Server
		for i := range hosts {
			addr := fmt.Sprintf("10.0.%d.%d:22", i/250, i%250)
			s, err := n.Serve(addr, sshtest.Config{Play: ok, HostKeys: []ssh.Signer{key}})
			if err != nil {
				b.Fatal(err)
			}
			servers = append(servers, s)
			cfg.HostKeys.Lines = append(cfg.HostKeys.Lines, knownhosts.Line([]string{addr}, key.PublicKey()))
		}
		f, err := New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		idle := inUse()
		b.StartTimer()
		var group errgroup.Group
		group.SetLimit(10) // Terraform's default for -parallelism
		for i := range hosts {
			group.Go(func() error {
				h := f.Host(host.Target{Address: fmt.Sprintf("10.0.%d.%d", i/250, i%250)})
				_, err := h.Run(b.Context(), host.Cmd{Name: "probe", Script: "x"})
				return err
			})
		}
		if err := group.Wait(); err != nil {
			b.Error(err)
		}
		b.StopTimer()
		b.ReportMetric(float64(inUse()-idle)/hosts/1024, "KiB/connection")
		b.ReportMetric(float64(idle-before)/hosts/1024, "KiB/idle-server")
		b.ReportMetric(float64(runtime.NumGoroutine())/hosts, "goroutines/connection")
		f.Close()
		for _, s := range servers {
			s.Close()
		}
		b.StartTimer()
	}
}

// inUse is the memory that is really needed, in bytes.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// BenchmarkRun is one script over a connection that is there.
func BenchmarkRun(b *testing.B) {
	oneHost(b, sshtest.Config{Play: ok}, host.Cmd{Name: "op", Script: "x"})
}

// BenchmarkKept is one script after the other in a session that is kept, in real
// shells.
func BenchmarkKept(b *testing.B) {
	oneHost(b, sshtest.Config{}, host.Cmd{Name: "op", Script: "cat", Stdin: []byte("question\n")})
}

// oneHost runs a script on one host, again and again.
func oneHost(b *testing.B, cfg sshtest.Config, cmd host.Cmd) {
	s, err := sshtest.Listen(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	f, err := New(trust(s))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	h := f.Host(target(s))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Run(b.Context(), cmd); err != nil {
			b.Fatal(err)
		}
	}
}
