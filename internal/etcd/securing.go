package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// TLS of a running cluster is turned on in stages, each of which leaves everybody
// let in; see adr/0027. A member's mark says how far its files are:
//
//	(nothing)  http, as it was made
//	open       clients may come with https as well; it comes with https to peers that want it
//	peers      the other members come with https
//	closed     nobody comes with http any more
//
// etcd serves both schemes on one port when it is told to listen for both at one
// address (etcd, embed/etcd.go, configureClientListeners, 3.4 and 3.5).

// tlsStage is how far a member is.
type tlsStage int

const (
	tlsOff tlsStage = iota
	tlsOpen
	tlsPeers
	tlsClosed
)

// stageNames are how marks say it.
var stageNames = map[tlsStage]string{tlsOpen: "open", tlsPeers: "peers", tlsClosed: "closed"}

// stagePath is a file on each member's host that says with which scheme clients
// are to come while it is not the one that the cluster was made with: "http" from
// before there is an authority until all members take https, "https" from then on.
func (s Spec) stagePath() string { return Dir(s.Name) + "/scheme" }

// Schemes in that file.
const (
	schemeHTTP  = "http"
	schemeHTTPS = "https"
)

// stageOf is how far a member's files are.
func (h *HostFacts) stageOf() tlsStage {
	if m := h.Marker; m != nil && m.TLS != "" {
		for stage, name := range stageNames {
			if name == m.TLS {
				return stage
			}
		}
	}
	if found := h.adopted(); found != nil {
		if found.plain() {
			return tlsOff
		}
		return tlsClosed
	}
	if h.Plain {
		return tlsOff
	}
	return tlsClosed
}

// markedTLS is what a member's mark says of it.
func (h *HostFacts) markedTLS() string {
	if h.Marker == nil {
		return ""
	}
	return h.Marker.TLS
}

// plain reports whether clients come to a member with these settings by http.
func (s settings) plain() bool {
	_, _, tls, err := s.first("ADVERTISE_CLIENT_URLS")
	return err == nil && !tls
}

// withStages adds to the spec of a cluster with TLS how far its members are.
func (s Spec) withStages(f Facts) Spec {
	if !s.TLS {
		return s
	}
	s.Stages = map[string]tlsStage{}
	for n, h := range f.Hosts {
		s.Stages[n] = h.stageOf()
		if found := h.adopted(); found != nil && found.plain() {
			s.Secured = true
		}
	}
	return s
}

// at is the spec with one member at another stage.
func (s Spec) at(name string, stage tlsStage) Spec {
	stages := map[string]tlsStage{name: stage}
	for n, have := range s.Stages {
		if n != name {
			stages[n] = have
		}
	}
	s.Stages = stages
	return s
}

// stage is how far a member is to be: at the end, unless it is said.
func (s Spec) stage(name string) tlsStage {
	if !s.TLS {
		return tlsOff
	}
	if stage, ok := s.Stages[name]; ok {
		return stage
	}
	return tlsClosed
}

// clientSchemes are those that a member takes from clients, and peerScheme is that
// of the other members. The first is the one that it tells clients of.
func (t tlsStage) clientSchemes() []string {
	switch t {
	case tlsOff:
		return []string{schemeHTTP}
	case tlsOpen, tlsPeers:
		return []string{schemeHTTP, schemeHTTPS}
	}
	return []string{schemeHTTPS}
}

func (t tlsStage) peerScheme() string {
	if t < tlsPeers {
		return schemeHTTP
	}
	return schemeHTTPS
}

// tlsSettings are those that a member's own certificates need.
func (s Spec) tlsSettings() [][2]string {
	dir := Dir(s.Name)
	return [][2]string{
		{"CERT_FILE", dir + "/server.crt"},
		{"KEY_FILE", dir + "/server.key"},
		{"TRUSTED_CA_FILE", dir + "/ca.crt"},
		{"CLIENT_CERT_AUTH", "true"},
		{"PEER_CERT_FILE", dir + "/peer.crt"},
		{"PEER_KEY_FILE", dir + "/peer.key"},
		{"PEER_TRUSTED_CA_FILE", dir + "/ca.crt"},
		{"PEER_CLIENT_CERT_AUTH", "true"},
		{"PEER_CERT_ALLOWED_CN", peerSubject(s.Name)},
		// A member would ask whether the address that another one comes from
		// is in that one's certificate. A host with several addresses, or
		// with both families, comes from the one nearest to whom it speaks
		// to, and a name has to be resolved for it; the member that was
		// refused so waits for ever. The name above is what counts.
		{"EXPERIMENTAL_PEER_SKIP_CLIENT_SAN_VERIFICATION", "true"},
	}
}

// secure has settings that somebody else made take and give TLS as far as a stage
// says, at the addresses that they have.
func (s Spec) secure(found settings, stage tlsStage) {
	if stage == tlsOff {
		return
	}
	for _, kv := range s.tlsSettings() {
		found[kv[0]] = kv[1]
	}
	for key, schemes := range map[string][]string{
		"LISTEN_CLIENT_URLS": stage.clientSchemes(), "ADVERTISE_CLIENT_URLS": stage.clientSchemes()[:1],
		"LISTEN_PEER_URLS": {stage.peerScheme()}, "INITIAL_ADVERTISE_PEER_URLS": {stage.peerScheme()},
	} {
		var list []string
		for text := range strings.SplitSeq(found[key], ",") {
			for _, scheme := range schemes {
				if text = strings.TrimSpace(text); text != "" {
					list = append(list, withScheme(text, scheme))
				}
			}
		}
		if len(list) > 0 {
			found[key] = strings.Join(list, ",")
		}
	}
}

// withScheme is a URL with another scheme.
func withScheme(text, scheme string) string {
	if _, rest, ok := strings.Cut(text, "://"); ok {
		return scheme + "://" + rest
	}
	return text
}

// peersAs gives members' peer URLs the scheme that the cluster is to have, so that
// they are found by it, and notes those that have another one.
func (s Spec) peersAs(m *LiveMember) {
	m.PeerURLs = slices.Clone(m.PeerURLs)
	for i, text := range m.PeerURLs {
		u, err := url.Parse(text)
		if err != nil || u.Scheme == s.scheme() {
			continue
		}
		m.OtherScheme = true
		m.PeerURLs[i] = withScheme(text, s.scheme())
	}
}

// securing reports whether TLS is being turned on.
func (p *planner) securing() bool {
	return p.s.ownTLS() && p.formed() && slices.ContainsFunc(p.stay, func(n string) bool { return p.s.stage(n) < tlsClosed || p.ownScheme(n) == schemeHTTP })
}

// opening reports whether there is a member that may not take https yet.
func (p *planner) opening() bool {
	return p.securing() && slices.ContainsFunc(p.stay, func(n string) bool { return p.s.stage(n) < tlsOpen || p.ownScheme(n) == schemeHTTP })
}

// ownScheme is what a member's host says of how clients are to come.
func (p *planner) ownScheme(name string) string {
	return strings.TrimSpace(string(p.f.Hosts[name].Facts.Path(p.s.stagePath()).Content))
}

// checkSecuring refuses what cannot be done while TLS is turned on, and the way
// back.
func (p *planner) checkSecuring() error {
	refuse := func(cause error, do string) error {
		return &problem.Error{Step: "check how the cluster's members are reached", Cause: cause, Left: "the members, as they are.", Do: do}
	}
	if !p.s.TLS {
		for _, n := range p.s.Names() {
			if m := p.f.Hosts[n].Marker; m != nil && m.TLS != "" {
				return problem.In(n, "", refuse(errors.New("turning TLS on has been begun, and there is no way back to http: whoever comes with https by now would be shut out"),
					"set tls = true, and apply that until a plan shows no changes."))
			}
		}
		return nil
	}
	switch {
	case !p.securing():
		return nil
	case len(p.changes) > 0:
		return refuse(errors.New("TLS is being turned on, and members are to come or go as well"), "apply the one until a plan shows no changes, then the other.")
	case p.opening() && len(p.upgrades) > 0 || p.opening() && p.f.Upgrade != nil:
		return refuse(errors.New("TLS is to be turned on, and etcd is to get another version as well"), "apply the one until a plan shows no changes, then the other.")
	}
	return p.checkBothSchemes(refuse)
}

// checkBothSchemes refuses to have members take both schemes where they cannot. etcd
// 3.4 hands what comes to its gateway by http, which Patroni uses, to the server that
// wants TLS, when it has both (embed/serve.go; tried with 3.4.23, and with 3.5.16 and
// 3.5.30, which do not).
func (p *planner) checkBothSchemes(refuse func(cause error, do string) error) error {
	for _, m := range p.f.Live {
		if r, _, ok := releaseOf(m.Version); p.opening() && ok && r.compare(release{3, 5}) < 0 {
			return refuse(fmt.Errorf("%s runs etcd %s, which cannot take http and https side by side: Patroni, which comes with http so far, would be without etcd", m.called(), m.Version),
				"bring etcd to 3.5 first, which goes one member at a time while authentication is off (version); then set tls = true.")
		}
	}
	return nil
}

// begin notes on a member's host that clients come with http, before there is an
// authority that would say otherwise.
func (p *planner) begin(name string) engine.Plan {
	if !p.opening() || p.s.stage(name) > tlsOff || p.ownScheme(name) == schemeHTTP {
		return engine.Plan{}
	}
	return engine.Sequence(p.do.step(p.s, name, "etcd.tls.begin", "note that clients come with http until all members take https", engine.Safe, func(ctx context.Context) error {
		return remote.WriteFile(ctx, p.do.host(p.s, name), p.s.schemeFile(schemeHTTP))
	}))
}

func (s Spec) schemeFile(scheme string) remote.File {
	return remote.File{Path: s.stagePath(), Content: []byte(scheme + "\n")}
}

// rolling is a row of turns, with who leads before it.
type rolling struct {
	leader string
	// next are who would be handed the role to.
	next []string
}

// rolls finds who leads, and who would after that.
func (p *planner) rolls() rolling {
	var r rolling
	for _, m := range p.f.Live {
		for _, n := range p.stay {
			if !slices.Contains(m.PeerURLs, p.s.PeerURL(n)) {
				continue
			}
			if m.Leader {
				r.leader = n
			}
			if !m.Learner && m.Problem == "" {
				r.next = append(r.next, n)
			}
		}
	}
	return r
}

// order has the leader last, which then hands its role over.
func (r *rolling) order(names []string) []string {
	order := slices.Sorted(slices.Values(names))
	i := slices.Index(order, r.leader)
	if i < 0 {
		return order
	}
	order = append(slices.Delete(order, i, i+1), r.leader)
	if i := slices.IndexFunc(r.next, func(n string) bool { return n != r.leader }); i >= 0 {
		r.leader = r.next[i]
	}
	return order
}

// advance are the turns that bring the cluster to TLS, as far as everybody stays
// let in. Those are left out that come first.
func (p *planner) advance() engine.Plan {
	var plan engine.Plan
	if !p.securing() || !p.settled() {
		return plan
	}
	p.turned = map[string]bool{}
	r := p.rolls()
	row := func(to tlsStage, due func(string) bool) {
		var names []string
		for _, n := range p.stay {
			if due(n) {
				names = append(names, n)
			}
		}
		leader := r.leader
		for _, n := range r.order(names) {
			p.turned[n] = true
			plan = plan.Then(p.do.turn(p.well(), p.securingTurn(n, to, n == leader)))
		}
	}
	row(tlsOpen, func(n string) bool { return p.s.stage(n) < tlsOpen })
	for _, n := range p.s.Names() {
		if p.ownScheme(n) == schemeHTTPS || !p.opening() {
			continue
		}
		plan = plan.Then(p.do.step(p.s, n, "etcd.tls.promote", "have clients come with https, which all members take", engine.Safe, func(ctx context.Context) error {
			err := remote.WriteFile(ctx, p.do.host(p.s, n), p.s.schemeFile(schemeHTTPS))
			p.do.Close() // which came with http
			return err
		}))
	}
	row(tlsPeers, func(n string) bool {
		m := p.f.Live.at(p.s.PeerURL(n))
		return p.s.stage(n) < tlsPeers || m != nil && m.OtherScheme
	})
	waiting := p.comingPlain()
	if len(waiting) == 0 {
		row(tlsClosed, func(n string) bool { return p.s.stage(n) < tlsClosed })
		return plan
	}
	what := "leave http open beside https for now: these do not come with https yet: " + strings.Join(waiting, ", ") + ". Applying a node (pgha_patroni_node) has it come with https; import those that are in no configuration. The next apply of the etcd cluster after that closes http, with another restart of one member at a time"
	return plan.Then(p.do.step(p.s, "", "etcd.tls.wait", what, engine.Safe, func(ctx context.Context) error {
		p.do.Log.InfoContext(ctx, "http stays open beside https", "cluster", p.s.Name, "waiting_for", strings.Join(waiting, ", "))
		return nil
	}))
}

// comingPlain are the clients that have not noted that they come with a certificate
// of the cluster's authority, and trust it.
func (p *planner) comingPlain() []string {
	authority := p.anyAuthority()
	var list []string
	for _, c := range p.f.Clients {
		if authority == nil || !strings.Contains(c.Trusts, pki.Fingerprint(authority)) {
			list = append(list, c.Name)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

// securingTurn is a member's turn to come to a stage.
func (p *planner) securingTurn(name string, to tlsStage, leads bool) turn {
	s := p.s.at(name, to)
	after := p.marker(name, p.formed())
	after.TLS = stageNames[to]
	at := *p
	at.s = s
	return turn{
		name: name, marker: after, leads: leads && len(p.stay) > 1, alone: len(p.stay) < 3,
		stage: &stageTurn{to: to, files: at.files(name), others: without(p.stay, name)},
	}
}

// notTwice leaves those out that are restarted for the first stage anyway.
func (p *planner) notTwice(names []string) []string {
	if !p.securing() || !p.settled() {
		return names
	}
	return slices.DeleteFunc(names, func(n string) bool { return p.s.stage(n) < tlsOpen })
}
