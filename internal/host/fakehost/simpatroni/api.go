package simpatroni

import (
	"bufio"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// listen opens the REST API. Like Patroni's it speaks HTTP/1.0 and closes after
// each answer.
func (n *Node) listen() {
	n.m.Listen(portOf(n.cfg.RestAPI.Listen), "patroni", func(conn net.Conn, from *fakehost.Process) {
		var cert *tls.Certificate
		n.sim.world.Do(func() { cert = n.cert })
		secure := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12})
		defer func() { _ = secure.Close() }()
		req, err := http.ReadRequest(bufio.NewReader(secure))
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		if a, ok := n.answer(req, body, from); ok {
			_, _ = fmt.Fprintf(secure, "HTTP/1.0 %d %s\r\nServer: BaseHTTP/0.6 Python/3.13\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
				a.code, http.StatusText(a.code), a.kind, len(a.body), a.body)
		}
	})
}

type answer struct {
	code int
	kind string
	body string
}

func plain(code int, format string, args ...any) answer {
	return answer{code, "text/html", fmt.Sprintf(format, args...)}
}

func jsonAnswer(code int, v any) answer { return answer{code, "application/json", render(v)} }

// answer answers a request; false is a connection that just ends.
func (n *Node) answer(req *http.Request, body []byte, from *fakehost.Process) (a answer, ok bool) {
	w := n.sim.world
	safe := req.Method == http.MethodGet
	call := fakehost.Call{
		Kind: "patroni", Host: n.m.Name, Name: req.Method + " " + req.URL.Path, Mutating: !safe, Args: []string{string(body)},
	}
	err := from.Do(context.Background(), call, func() error {
		ok = true
		allowed := false
		w.Do(func() {
			if !n.up {
				ok = false
				return
			}
			if a, allowed = n.allowed(req); allowed || safe {
				a, allowed = n.quick(req, body), true
			}
		})
		if ok && allowed && req.Method == http.MethodPost && req.URL.Path == "/switchover" {
			a, ok = n.switchover(body)
		}
		if ok && allowed && req.Method == http.MethodPost && req.URL.Path == "/restart" {
			a, ok = n.restart()
		}
		return nil
	})
	return a, ok && err == nil
}

// allowed checks whether a request that changes something may (api.py,
// check_access).
func (n *Node) allowed(req *http.Request) (answer, bool) {
	if !slices.Contains(n.cfg.RestAPI.Allowlist, "127.0.0.1") {
		return plain(http.StatusForbidden, "Access is denied"), false
	}
	user, password, _ := req.BasicAuth()
	want := n.cfg.RestAPI.Authentication
	if user != want.Username || subtle.ConstantTimeCompare([]byte(password), []byte(want.Password)) != 1 {
		return plain(http.StatusUnauthorized, "not authenticated"), false
	}
	return answer{}, true
}

// quick answers what Patroni answers at once.
func (n *Node) quick(req *http.Request, body []byte) answer {
	switch req.Method + " " + req.URL.Path {
	case "GET /patroni":
		return jsonAnswer(http.StatusOK, n.status())
	case "GET /cluster":
		return jsonAnswer(http.StatusOK, n.cluster())
	case "GET /config":
		if n.store != nil {
			if v, ok := n.store.Get(n.key("config")); ok {
				return answer{http.StatusOK, "application/json", v}
			}
		}
		return plain(http.StatusBadGateway, "")
	case "PATCH /config":
		return n.patch(body)
	case "POST /reinitialize":
		return n.reinitialize()
	case "POST /reload":
		n.Reload(n.unit)
		return plain(http.StatusAccepted, "reload scheduled")
	case "POST /switchover", "POST /restart":
		return answer{} // they take their time
	}
	n.sim.world.TB.Errorf("Patroni's %s %s is not modelled", req.Method, req.URL.Path)
	return plain(http.StatusNotImplemented, "not modelled")
}

// status is GET /patroni.
func (n *Node) status() map[string]any {
	s := map[string]any{
		"state": n.state, "role": n.Role(), "patroni": map[string]any{"version": upstream(n.version()), "scope": n.cfg.Scope, "name": n.name()},
	}
	if n.dynamic["pause"] == true {
		s["pause"] = true
	}
	if len(n.cfg.Tags) > 0 {
		s["tags"] = n.cfg.Tags
	}
	if n.store != nil {
		if _, led := n.store.Get(n.key("leader")); !led {
			s["cluster_unlocked"] = true
		}
	}
	if n.pg == nil {
		return s
	}
	s["database_system_identifier"], s["timeline"], s["server_version"] = n.pg.systemID, n.pg.timeline, n.pg.version
	s["postmaster_start_time"] = n.pg.started.Format("2006-01-02 15:04:05.000000-07:00")
	if n.pg.primary {
		s["xlog"] = map[string]any{"location": n.pg.lsn}
	} else {
		s["xlog"] = map[string]any{"received_location": n.pg.lsn, "replayed_location": n.pg.lsn, "paused": false}
		if n.pg.streaming && !n.version3() {
			s["replication_state"] = "streaming"
		}
		if n.store != nil && n.name() == n.synchronous() {
			s["sync_standby"] = true
		}
	}
	if len(n.pending) > 0 {
		s["pending_restart"] = true
		reason := map[string]any{}
		for name, value := range n.pending {
			reason[name] = map[string]any{"old_value": n.pg.running[name], "new_value": value}
		}
		s["pending_restart_reason"] = reason
	}
	return s
}

// cluster is GET /cluster, as the members' keys in etcd say.
func (n *Node) cluster() map[string]any {
	members := []map[string]any{}
	c := map[string]any{"scope": n.cfg.Scope}
	if n.version3() {
		delete(c, "scope")
	}
	if n.dynamic["pause"] == true {
		c["pause"] = true
	}
	if n.store != nil {
		leader, _ := n.store.Get(n.key("leader"))
		var status struct{ Optime int64 }
		_ = json.Unmarshal([]byte(first(n.store.Get(n.key("status")))), &status)
		for _, k := range n.store.Keys(n.key("members/")) {
			m := memberView(strings.TrimPrefix(k, n.key("members/")), first(n.store.Get(k)), leader, status.Optime)
			if m["name"] == n.synchronous() && m["role"] == "replica" {
				m["role"] = "sync_standby"
			}
			members = append(members, m)
		}
	}
	c["members"] = members
	return c
}

func memberView(name, text, leader string, optime int64) map[string]any {
	var k struct {
		ConnURL     string         `json:"conn_url"`
		APIURL      string         `json:"api_url"`
		State       string         `json:"state"`
		Replication string         `json:"replication_state"`
		Timeline    int64          `json:"timeline"`
		Location    int64          `json:"xlog_location"`
		Pending     bool           `json:"pending_restart"`
		Tags        map[string]any `json:"tags"`
	}
	_ = json.Unmarshal([]byte(text), &k)
	host, port, _ := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(k.ConnURL, "postgres://"), "/postgres"))
	m := map[string]any{"name": name, "role": "replica", "state": k.State, "api_url": k.APIURL, "host": host, "port": json.Number(port)}
	if k.Replication != "" && k.State == "running" {
		m["state"] = k.Replication
	}
	if k.Timeline != 0 {
		m["timeline"] = k.Timeline
	}
	if k.Pending {
		m["pending_restart"] = true
	}
	if len(k.Tags) > 0 {
		m["tags"] = k.Tags
	}
	switch {
	case name == leader:
		m["role"] = "leader"
	case k.Timeline == 0:
		m["lag"] = "unknown"
	default:
		m["lag"] = max(0, optime-k.Location)
	}
	return m
}

// patch is PATCH /config.
func (n *Node) patch(body []byte) answer {
	patch := parseDocument(string(body))
	if len(patch) == 0 {
		return plain(http.StatusBadRequest, "Bad Request")
	}
	if n.store == nil || !n.store.Quorum() {
		return plain(http.StatusServiceUnavailable, "")
	}
	key := n.key("config")
	text, ok := n.store.Get(key)
	if !ok {
		return plain(http.StatusServiceUnavailable, "")
	}
	doc, revision := parseDocument(text), n.store.Revision(key)
	if f := n.sim.BeforePatch; f != nil {
		n.sim.BeforePatch = nil
		other := parseDocument(text)
		f(other)
		n.store.Put(key, render(other), nil)
	}
	if n.store.Revision(key) != revision {
		return plain(http.StatusConflict, "Conflict")
	}
	if patchDocument(doc, patch) {
		n.store.Put(key, render(doc), nil)
	}
	return jsonAnswer(http.StatusOK, doc)
}

// SwitchOver is what somebody does by hand, with patronictl on this node. It returns
// what that says. It is not called as in World.Do.
func (n *Node) SwitchOver(leader, candidate string) string {
	a, _ := n.switchover([]byte(render(map[string]string{"leader": leader, "candidate": candidate})))
	return a.body
}

// switchover is POST /switchover: the leader goes, the candidate takes over,
// and the answer comes when another member has the lock.
func (n *Node) switchover(body []byte) (answer, bool) {
	var req struct{ Leader, Candidate string }
	_ = json.Unmarshal(body, &req)
	w := n.sim.world
	var refused answer
	var out Outcome
	w.Do(func() {
		if f := n.sim.Switchover; f != nil {
			out = f(req.Leader, req.Candidate)
		}
		refused = n.refuse(req.Leader, req.Candidate, out)
	})
	if refused.code != 0 {
		return refused, true
	}
	to := req.Candidate
	if out.To != "" {
		to = out.To
	}
	// Whoever has asked, the cluster goes on if this node's Patroni ends meanwhile.
	scope, store, run := n.cfg.Scope, n.store, 0
	var old *Node
	w.Do(func() {
		n.sim.moving[scope] = to
		n.hold(to)
		if old = n.peer(req.Leader); old != nil {
			old.logf("INFO: received switchover request with leader=%s candidate=%s", req.Leader, req.Candidate)
			run = old.run
			if n.sim.DemoteTime > 0 && old.pg != nil {
				old.state = "stopping"
				old.touch()
			}
		}
	})
	if !w.Sleep(n.sim.DemoteTime) {
		return answer{}, false
	}
	w.Do(func() {
		if old != nil && old.run == run && old.up {
			old.shutdown()
		}
	})
	if !w.Sleep(promoteTime) {
		return answer{}, false
	}
	led := ""
	w.Do(func() {
		led, _ = store.Get(n.key("leader"))
		if next := n.peer(to); led == "" && next != nil && next.pg != nil && next.lease != nil {
			store.Put(n.key("leader"), to, next.lease)
			next.busy, led = false, to
			next.promote()
			next.touch()
		}
		delete(n.sim.moving, scope)
		for _, m := range n.sim.members(scope) {
			m.busy = false
			m.poke()
		}
	})
	if !w.Sleep(time.Second+out.Late) || out.Silent {
		return answer{}, false
	}
	if led != to {
		return plain(http.StatusServiceUnavailable, "Switchover failed"), true
	}
	if to != req.Candidate {
		return plain(http.StatusOK, "Switched over to \"%s\" instead of \"%s\"", to, req.Candidate), true
	}
	return plain(http.StatusOK, "Successfully switched over to \"%s\"", to), true
}

// hold keeps all members from the race that a switchover decides.
func (n *Node) hold(string) {
	for _, m := range n.sim.members(n.cfg.Scope) {
		m.busy = true
	}
}

// refuse says why a switchover cannot be made; a zero answer is that it can.
func (n *Node) refuse(leader, candidate string, out Outcome) answer {
	if n.store == nil || !n.store.Quorum() {
		return plain(http.StatusServiceUnavailable, "Switchover failed")
	}
	have, _ := n.store.Get(n.key("leader"))
	c := n.peer(candidate)
	switch {
	case leader == "":
		return plain(http.StatusBadRequest, "Switchover could be performed only from a specific leader")
	case out.Fail:
		return plain(http.StatusServiceUnavailable, "Switchover failed")
	case out.Refuse != "":
		return plain(http.StatusPreconditionFailed, "%s", out.Refuse)
	case have != leader:
		return plain(http.StatusPreconditionFailed, "leader name does not match")
	case leader == candidate:
		return plain(http.StatusBadRequest, "Switchover target and source are the same")
	case c == nil:
		return plain(http.StatusPreconditionFailed, "candidate does not exists")
	case n.dynamic["synchronous_mode"] == true && n.synchronous() != candidate:
		return plain(http.StatusPreconditionFailed, "candidate name does not match with sync_standby")
	case !c.Streaming() || forbidden(c.cfg.Tags):
		return plain(http.StatusPreconditionFailed, "no good candidates have been found")
	case n.dynamic["pause"] == true && candidate == "":
		return plain(http.StatusBadRequest, "Switchover is possible only to a specific candidate in a paused state")
	}
	return answer{}
}
