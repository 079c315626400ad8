//go:build linux

package dns_test

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// pretender is a Patroni of the test's.
type pretender struct {
	t      *testing.T
	server *httptest.Server

	mu       sync.Mutex
	name     string
	status   int
	role     string
	timeline int
	version  string
	leader   string
	members  []object
	brief    bool          // /primary says only how it is
	delay    time.Duration // so much later come the answers
	lost     bool          // etcd cannot be asked
	asked    int
	positive time.Time // when the first question came that was answered with 200
}

func newPatroni(t *testing.T, name string) *pretender {
	t.Helper()
	p := &pretender{t: t, name: name, status: http.StatusServiceUnavailable, role: "replica", version: "4.0.7"}
	p.server = httptest.NewUnstartedServer(p)
	p.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(p.server.Close)
	p.server.Start()
	return p
}

func (p *pretender) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked++
	delay, status := p.delay, http.StatusOK
	own := object{"version": p.version, "scope": "demo"}
	if p.version > "3.2" {
		own["name"] = p.name
	}
	said := object{"state": "running", "role": p.role, "timeline": p.timeline, "patroni": own}
	switch r.URL.Path {
	case "/primary":
		if status = p.status; status == http.StatusOK && p.positive.IsZero() {
			p.positive = time.Now()
		}
		if p.brief {
			said = object{"state": "running"}
		}
	case "/patroni":
	case "/cluster":
		said = object{"members": append([]object{{"name": p.leader, "role": "leader", "state": "running", "timeline": p.timeline}}, p.members...)}
		if p.lost {
			status = http.StatusServiceUnavailable
		}
	default:
		status = http.StatusTeapot
	}
	p.mu.Unlock()
	time.Sleep(delay)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(said)
}

// with changes what it says.
func (p *pretender) with(f func(p *pretender)) *pretender {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
	return p
}

// leads has it be primary in a timeline.
func (p *pretender) leads(timeline int) *pretender {
	return p.with(func(p *pretender) {
		p.status, p.role, p.timeline, p.leader, p.positive = http.StatusOK, "primary", timeline, p.name, time.Time{}
	})
}

// follows has it be a replica.
func (p *pretender) follows() {
	p.with(func(p *pretender) { p.status, p.role = http.StatusServiceUnavailable, "replica" })
}

// replicas has it have others.
func (p *pretender) replicas(names ...string) {
	p.with(func(p *pretender) {
		p.members = nil
		for _, name := range names {
			p.members = append(p.members, object{"name": name, "role": "replica", "state": "streaming", "timeline": p.timeline})
		}
	})
}

// rounds waits for questions, which is how tests tell that the updater has had time to act.
func (p *pretender) rounds(n int) {
	p.t.Helper()
	count := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.asked
	}
	first := count()
	until(p.t, "questions to Patroni", func() bool { return count() >= first+n })
}
