package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// values are the files as a part of an access object, by names.
func (f Files) values() map[string]string {
	return map[string]string{
		"server_certificate": f.Server.Certificate, "server_key": f.Server.Key, "peer_certificate": f.Peer.Certificate, "peer_key": f.Peer.Key,
		"client_certificate": f.Client.Certificate, "client_key": f.Client.Key, "trusted": f.Trusted,
	}
}

// FileNames are the paths that whoever uses the cluster has to know, by what they are;
// nil if there are none.
func (a Access) FileNames() map[string]string {
	all := map[string]string{}
	if a.Files != nil {
		all = a.Files.values()
	}
	if p := a.PatroniFiles; p != nil {
		all["patroni_certificate"], all["patroni_key"], all["patroni_trusted"] = p.Certificate, p.Key, p.Trusted
	}
	for k, v := range all {
		if v == "" {
			delete(all, k)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// WithFileNames adds what FileNames returned.
func (a Access) WithFileNames(all map[string]string) Access {
	pair := func(what string) pki.Pair {
		return pki.Pair{Certificate: all[what+"_certificate"], Key: all[what+"_key"]}
	}
	if all["trusted"] != "" {
		a.Files = &Files{Server: pair("server"), Peer: pair("peer"), Client: pair("client"), Trusted: all["trusted"]}
	}
	if all["patroni_trusted"] != "" {
		a.PatroniFiles = &PatroniFiles{Pair: pair("patroni"), Trusted: all["patroni_trusted"]}
	}
	return a
}

// OwnTLS reports whether this provider makes the cluster's certificates.
func (a Access) OwnTLS() bool { return a.TLS && !a.Theirs && a.Files == nil }

// IssuesForPatroni reports whether this provider makes the certificates with which
// Patroni's nodes come to etcd.
func (a Access) IssuesForPatroni() bool { return a.TLS && a.Files == nil && a.PatroniFiles == nil }

// askFiles gets what a client needs from a member's host, where somebody else put it.
func (a Access) askFiles(ctx context.Context, h host.Host, name string) (session, error) {
	f := a.Files.on(name)
	step := "read the files that somebody else makes"
	fail := func(path, what string) (session, error) {
		return session{}, &problem.Error{Host: h.Name(), Step: step, Cause: fmt.Errorf("%s %s", path, what), Do: "have whoever makes it put it there."}
	}
	var p remote.Probe
	p.Secret(f.Client.Key).Secret(f.Client.Certificate).Secret(f.Trusted)
	if a.Auth {
		p.Secret(credentialsPath(a.Name))
	}
	found, err := p.Run(ctx, h)
	if err != nil {
		return session{}, err
	}
	for _, path := range []string{f.Client.Key, f.Client.Certificate, f.Trusted} {
		if len(found.Path(path).Content) == 0 {
			return fail(path, "is not there, or empty")
		}
	}
	s := session{host: h.Name(), theirs: true, authority: found.Path(f.Trusted).Content, certificate: found.Path(f.Client.Certificate).Content, key: found.Path(f.Client.Key).Content}
	if !a.Auth {
		return s, nil
	}
	if c := readCredentials(found, a.Name); c != nil {
		s.credentials = *c
	}
	if s.credentials.Provider == "" {
		return session{}, &problem.Error{
			Host: h.Name(), Cause: fmt.Errorf("this host does not have what is needed to log in to the etcd cluster %s", a.Name),
			Do: "apply its pgha_etcd_cluster resource first.",
		}
	}
	return s, nil
}

// broughtFiles are the files that a running member of a cluster of ours was told of, nil
// if its certificates are our own.
func (s settings) broughtFiles(cluster string) *Files {
	if s["CERT_FILE"] == "" || strings.HasPrefix(s["CERT_FILE"], Dir(cluster)+"/") {
		return nil
	}
	f := &Files{
		Server: pki.Pair{Certificate: s["CERT_FILE"], Key: s["KEY_FILE"]}, Peer: pki.Pair{Certificate: s["PEER_CERT_FILE"], Key: s["PEER_KEY_FILE"]},
		Client: pki.Pair{Certificate: s["CLIENT_CERT_FILE"], Key: s["CLIENT_KEY_FILE"]}, PeerName: s["PEER_CERT_ALLOWED_CN"], Trusted: s["TRUSTED_CA_FILE"],
	}
	if f.Peer == f.Server && f.PeerName == "" {
		f.Peer = pki.Pair{}
	}
	return f
}

// sameFiles are the files of all members, with a placeholder where each has its own name
// in a path.
func sameFiles(all map[string]Spec) (*Files, error) {
	names := sortedKeys(all)
	first := all[names[0]].Files
	equal := func(of func(name string) *Files) bool {
		return !slices.ContainsFunc(names, func(n string) bool {
			f, own := of(names[0]), of(n)
			return (f == nil) != (own == nil) || f != nil && *f != *own
		})
	}
	plain := func(name string) *Files { return all[name].Files }
	placed := func(name string) *Files {
		if all[name].Files == nil {
			return nil
		}
		f := *all[name].Files
		for _, p := range []*string{&f.Server.Certificate, &f.Server.Key, &f.Peer.Certificate, &f.Peer.Key, &f.Client.Certificate, &f.Client.Key, &f.Trusted} {
			*p = strings.ReplaceAll(*p, name, NamePlaceholder)
		}
		return &f
	}
	switch {
	case equal(plain):
		return first, nil
	case equal(placed):
		return placed(names[0]), nil
	}
	return nil, &problem.Error{
		Step: "compare the members", Cause: errors.New("their certificates are in files that differ in more than the members' names"),
		Do: "have the files at the same paths on all hosts, such as by links, and restart the members one at a time.",
	}
}

// serverName is the name that a scratch member's certificate is good for, which does not
// listen there.
func (s Spec) serverName(name string) string {
	if s.Files == nil {
		return ""
	}
	return s.Members[name].Address
}

// verifyAs has a client take a server for that of a name, wherever it is reached. With
// etcd's client ServerName is of no account: gRPC puts the endpoint's in its place.
func verifyAs(cfg *tls.Config, name string) {
	roots := cfg.RootCAs
	cfg.InsecureSkipVerify = true // VerifyConnection does it
	cfg.VerifyConnection = func(c tls.ConnectionState) error {
		between := x509.NewCertPool()
		for _, p := range c.PeerCertificates[1:] {
			between.AddCert(p)
		}
		_, err := c.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: name})
		return err
	}
}
