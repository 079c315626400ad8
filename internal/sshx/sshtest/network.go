package sshtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
)

// Network is a network in memory, in which any name and port can be listened
// on. It stands in for the real one where a test needs a thousand hosts, IPv6
// with zones, or time that testing/synctest makes pass. The zero value is ready.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*memListener
	faults    map[string]error
	blackhole map[string]bool
	ports     int
}

// Listen starts to listen on address, "host:port".
func (n *Network) Listen(address string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners == nil {
		n.listeners = make(map[string]*memListener)
	}
	if n.listeners[address] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: memAddr(address), Err: syscall.EADDRINUSE}
	}
	l := &memListener{net: n, addr: memAddr(address), conns: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[address] = l
	return l, nil
}

// Serve starts a server on address. It needs no goroutine as long as nobody is
// connected, which counts for a thousand of them.
func (n *Network) Serve(address string, cfg Config) (*Server, error) {
	l, err := n.Listen(address)
	if err != nil {
		return nil, err
	}
	s := newServer(cfg)
	s.listener = l
	n.mu.Lock()
	defer n.mu.Unlock()
	l.(*memListener).take = s.take
	return s, nil
}

// Fail makes dialling address fail with err, until it is called with nil.
func (n *Network) Fail(address string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.faults == nil {
		n.faults = make(map[string]error)
	}
	n.faults[address] = err
}

// Swallow makes address answer nothing, as behind a firewall that drops.
func (n *Network) Swallow(address string, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.blackhole == nil {
		n.blackhole = make(map[string]bool)
	}
	n.blackhole[address] = on
}

// Dial is for sshx.Config and Config. Where nobody listens, it is refused.
func (n *Network) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) error {
		return &net.OpError{Op: "dial", Net: network, Addr: memAddr(address), Err: err}
	}
	n.mu.Lock()
	l, fault, hole := n.listeners[address], n.faults[address], n.blackhole[address]
	var take func(net.Conn)
	if l != nil {
		take = l.take
	}
	n.ports++
	from := memAddr(fmt.Sprintf("client:%d", n.ports))
	n.mu.Unlock()
	switch {
	case fault != nil:
		return nil, fail(fault)
	case hole:
		<-ctx.Done()
		return nil, fail(ctx.Err())
	case l == nil:
		return nil, fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	here, there := memPipe(from, memAddr(address))
	if take != nil {
		take(there)
		return here, nil
	}
	select {
	case l.conns <- there:
		return here, nil
	case <-l.done:
		return nil, fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	case <-ctx.Done():
		return nil, fail(ctx.Err())
	}
}

type memListener struct {
	net   *Network
	addr  memAddr
	conns chan net.Conn
	take  func(net.Conn) // gets the connections instead of conns
	once  sync.Once
	done  chan struct{}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		delete(l.net.listeners, string(l.addr))
	})
	return nil
}

func (l *memListener) Addr() net.Addr { return l.addr }

type memAddr string

func (memAddr) Network() string  { return "tcp" }
func (a memAddr) String() string { return string(a) }
