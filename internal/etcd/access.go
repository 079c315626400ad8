package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"embed"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

//go:embed scripts/*.sh
var scripts embed.FS

// Access says how to reach an etcd cluster. It is passed along between
// resources and holds no secrets: those are on the members' hosts, for whoever
// can log in there as root.
type Access struct {
	Name       string
	TLS, Auth  bool
	ClientPort int
	Members    map[string]Member
	// Authority is the name of the certificate authority that is wanted, which
	// those who use the cluster have to hear of; empty for whichever there is.
	Authority string
	// Passive are members that can be asked about themselves and nothing else: they
	// do not vote yet, or are away. They refuse whatever else a client asks.
	Passive map[string]bool
	// Theirs: somebody else made the cluster, and its certificates.
	Theirs bool
	// Files are certificates on the members' hosts that somebody else makes, and
	// PatroniFiles those on the hosts of Patroni's nodes; nil if there are none.
	Files        *Files
	PatroniFiles *PatroniFiles
	// ServerName is what the members' certificates are good for; empty for where they
	// are reached.
	ServerName string
}

// Access is how to reach the cluster that the spec describes.
func (s Spec) Access() Access {
	return Access{Name: s.Name, TLS: s.TLS, Auth: s.Auth, ClientPort: s.ClientPort, Members: s.Members, Authority: s.Authority, Theirs: s.TLS && s.Adopted(), Files: s.Files, PatroniFiles: s.PatroniFiles}
}

// reach is how to reach all members that there may be, those too that are to
// leave.
func (s Spec) reach() Access {
	a := s.Access()
	if len(s.Leaving) == 0 {
		return a
	}
	a.Members = maps.Clone(a.Members)
	for n, m := range s.Leaving {
		a.Members[n+" at "+m.Address] = m
	}
	return a
}

// Key identifies the cluster among those that a process talks to.
func (a Access) Key() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %v %v %v %d", a.Name, a.TLS, a.Theirs, a.Auth, a.ClientPort)
	if a.Files != nil {
		fmt.Fprintf(&b, " %v %s", a.Files.values(), a.ServerName)
	}
	for _, n := range a.Names() {
		fmt.Fprintf(&b, " %s=%+v %v", n, a.Members[n], a.Passive[n])
	}
	return b.String()
}

// Names returns the members' names in order.
func (a Access) Names() []string { return slices.Sorted(maps.Keys(a.Members)) }

// URL is where clients reach a member.
func (a Access) URL(name string) string {
	return Spec{TLS: a.TLS, ClientPort: a.ClientPort, Members: a.Members}.ClientURL(name)
}

// clientSubject is the organization in our own client certificates.
const clientSubject = "pgha-provider"

// staggered is how long to wait for one member's host before the next is asked
// as well.
const staggered = 1500 * time.Millisecond

// Open returns a client for the cluster.
func (a Access) Open(ctx context.Context, fleet host.Fleet) (Client, error) {
	cfg, err := a.Login(ctx, fleet)
	if err != nil {
		return nil, err
	}
	c, err := Dial(ctx, cfg)
	if err != nil {
		return nil, a.trouble(ctx, fleet, err)
	}
	return c, nil
}

// trouble says why nobody could log in to the cluster: what its members' own
// hosts say of them.
func (a Access) trouble(ctx context.Context, fleet host.Fleet, err error) error {
	step := "log in to the etcd cluster " + a.Name
	if host.KindOf(err) == host.KindForward || errors.Is(err, ErrAuth) {
		return problem.In("", step, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	errs := make([]error, len(a.Names()))
	var wg sync.WaitGroup
	for i, n := range a.Names() {
		wg.Go(func() {
			h := fleet.Host(a.Members[n].Target)
			var p remote.Probe
			of := Spec{Name: a.Name, TLS: a.TLS, Members: a.Members}
			p.Unit(Unit)
			for _, l := range of.leaves(n) {
				p.Content(l.Certificate)
			}
			if a.Files != nil {
				if errs[i] = a.troubleFiles(ctx, h, n, step); errs[i] != nil {
					return
				}
			}
			facts, failed := p.Run(ctx, h)
			if failed != nil {
				return
			}
			if facts.Unit(Unit).Running() {
				if over := (&HostFacts{Name: n, Facts: facts}).ended(of, time.Now()); a.OwnTLS() && over != nil {
					errs[i] = &problem.Error{
						Host: n, Step: step, Cause: over, Left: "everything.",
						Do: "apply the cluster's pgha_etcd_cluster resource alone first (terraform apply -target=pgha_etcd_cluster.NAME): it makes new certificates, which the running members take.",
					}
				}
				return
			}
			u := facts.Unit(Unit)
			lines, _ := remote.Journal(ctx, h, Unit, logLines, "")
			errs[i] = &problem.Error{
				Host: n, Step: step, Cause: fmt.Errorf("%s is %s (%s), not running", Unit, u.Active, u.Sub), Log: telling(lines),
				Left: "everything.", Do: "mend what the log names and start it (systemctl start etcd), then run the same again.",
			}
		})
	}
	wg.Wait()
	if found := errors.Join(errs...); found != nil {
		return found
	}
	return &problem.Error{
		Host: strings.Join(a.Names(), ", "), Step: step, Cause: err, Left: "everything.",
		Do: "see how etcd is on its hosts (systemctl status etcd, journalctl -u etcd): " + strings.Join(a.Names(), ", ") + ".",
	}
}

// Login gets what Dial needs from a member's host. It needs root on one of them
// and asks them one after the other, the next one as soon as one is slow.
func (a Access) Login(ctx context.Context, fleet host.Fleet) (DialConfig, error) {
	key, request, err := clientKey()
	if err != nil {
		return DialConfig{}, err
	}
	s, err := a.session(ctx, fleet, request)
	if err != nil {
		return DialConfig{}, &problem.Error{
			Host:  strings.Join(a.Names(), ", "),
			Step:  "log in to the etcd cluster " + a.Name,
			Cause: err,
			Do:    "make sure that at least one of its members' hosts can be reached: " + strings.Join(a.Names(), ", ") + ".",
		}
	}
	if a.TLS = s.comesWithTLS(a.TLS); !a.TLS {
		s.authority = nil
	}
	cfg := DialConfig{Authority: s.authority, Theirs: s.theirs}
	for _, n := range a.Names() {
		m := a.Members[n]
		cfg.Endpoints = append(cfg.Endpoints, Endpoint{
			URL: a.URL(n), Host: fleet.Host(m.Target), Addr: net.JoinHostPort(m.Address, strconv.Itoa(a.ClientPort)), Passive: a.Passive[n],
		})
	}
	if a.TLS {
		if cfg.TLS, err = s.tls(key); err != nil {
			return DialConfig{}, fmt.Errorf("etcd cluster %s: %w", a.Name, err)
		}
		if a.ServerName != "" {
			verifyAs(cfg.TLS, a.ServerName)
		}
	}
	if s.scheme == schemeHTTP && s.credentials.Provider == "" {
		a.Auth = false // TLS comes with the first users: so far there are none
	}
	if a.Auth {
		if s.credentials.Provider == "" {
			return DialConfig{}, &problem.Error{
				Host: s.host, Cause: fmt.Errorf("%s is missing or cannot be read", credentialsPath(a.Name)),
				Do: "apply the cluster's pgha_etcd_cluster resource: it is not complete on this host.",
			}
		}
		cfg.User, cfg.Password = ProviderUser, s.credentials.Provider
	}
	return cfg, nil
}

// clientKey makes a key and a signing request for this process.
func clientKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// session is what a member's host gave us to log in with.
type session struct {
	host        string
	credentials Credentials
	authority   []byte
	certificate []byte
	// Of a cluster whose certificates somebody else made, the key is there too.
	theirs bool
	key    []byte
	// scheme is with which to come, where the host says so; else it is as the
	// cluster's resource says.
	scheme string
}

// comesWithTLS reports whether clients are to come with https, where that is how the
// cluster is described.
func (s session) comesWithTLS(described bool) bool {
	switch s.scheme {
	case schemeHTTP:
		return false
	case schemeHTTPS:
		return true
	}
	return described
}

func (s session) tls(key *ecdsa.PrivateKey) (*tls.Config, error) {
	if s.theirs {
		return s.theirTLS()
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.authority) {
		return nil, fmt.Errorf("host %s has no certificate authority for it", s.host)
	}
	c, err := pki.Parse(s.certificate)
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", s.host, err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: roots,
		Certificates: []tls.Certificate{{Certificate: [][]byte{c.Raw}, PrivateKey: key}},
	}, nil
}

func (a Access) session(ctx context.Context, fleet host.Fleet, request []byte) (session, error) {
	return fromAny(ctx, a.Names(), func(ctx context.Context, name string) (session, error) {
		return a.ask(ctx, fleet.Host(a.Members[name].Target), name, request)
	})
}

// fromAny asks members one after the other, the next one as soon as one is slow or
// fails, and returns the first answer, or what all of them failed with.
func fromAny[T any](ctx context.Context, names []string, ask func(ctx context.Context, name string) (T, error)) (none T, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, len(names))
	var errs []error
	next, open := 0, 0
	for {
		if next < len(names) {
			name := names[next]
			next++
			open++
			go func() {
				value, err := ask(ctx, name)
				answers <- answer{value, err}
			}()
		}
		timer := time.NewTimer(staggered)
		select {
		case r := <-answers:
			timer.Stop()
			open--
			if r.err == nil {
				return r.value, nil
			}
			errs = append(errs, r.err)
			if open == 0 && next == len(names) {
				return none, errors.Join(errs...)
			}
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return none, errors.Join(append(errs, context.Cause(ctx))...)
		}
	}
}

func (a Access) ask(ctx context.Context, h host.Host, name string, request []byte) (session, error) {
	if a.TLS && a.Files != nil {
		return a.askFiles(ctx, h, name)
	}
	res, err := h.Run(ctx, host.Cmd{
		Name: "etcd.session", Script: pki.Script(scripts, "scripts/session.sh"),
		Args:  []string{credentialsPath(a.Name), Authority(a.Name).Path(), clientSubject, nextAuthority(a.Name).Path(), Spec{Name: a.Name}.authorityPath(), Spec{Name: a.Name}.stagePath()},
		Stdin: request, Sensitive: true,
	})
	if err != nil {
		return session{}, err
	}
	s := session{host: h.Name()}
	for line := range strings.Lines(string(res.Stdout)) {
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		b, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return session{}, fmt.Errorf("host %s: unexpected answer: %w", h.Name(), err)
		}
		switch field {
		case "credentials":
			if err := json.Unmarshal(b, &s.credentials); err != nil {
				return session{}, fmt.Errorf("host %s: %s cannot be read: %w", h.Name(), credentialsPath(a.Name), err)
			}
		case "authority":
			s.authority = pki.Bundle(b, s.authority)
		case "trusted":
			s.authority = pki.Bundle(s.authority, b)
		case "certificate":
			s.certificate = b
		case "scheme":
			s.scheme = strings.TrimSpace(string(b))
		}
	}
	if a.TLS && s.scheme == "" && len(s.certificate) == 0 {
		found, err := a.askMember(ctx, h)
		if found.scheme == schemeHTTP {
			found.credentials = s.credentials
			s = found
		} else if a.Theirs {
			return found, err
		}
	}
	if s.comesWithTLS(a.TLS) && len(s.certificate) == 0 || a.Auth && s.credentials.Provider == "" && s.scheme != schemeHTTP {
		return session{}, &problem.Error{
			Host: h.Name(), Cause: fmt.Errorf("this host does not have what is needed to log in to the etcd cluster %s", a.Name),
			Do: "apply its pgha_etcd_cluster resource first.",
		}
	}
	return s, nil
}
