//go:build linux

package vip

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"time"
)

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
