package etcd

import (
	"context"
	"errors"
	"fmt"
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
	var found *Files
	for _, n := range sortedKeys(all) {
		f := all[n].Files
		if f == nil {
			continue
		}
		one := *f
		for _, p := range []*string{&one.Server.Certificate, &one.Server.Key, &one.Peer.Certificate, &one.Peer.Key, &one.Client.Certificate, &one.Client.Key, &one.Trusted} {
			*p = strings.ReplaceAll(*p, n, NamePlaceholder)
		}
		switch {
		case found == nil && len(all) > 1:
			found = &one
		case found == nil:
			found = f
		case *found != one:
			return nil, &problem.Error{
				Step: "compare the members", Cause: errors.New("their certificates are in files that differ in more than the members' names"),
				Do: "have the files at the same paths on all hosts, such as by links, and restart the members one at a time.",
			}
		}
	}
	for n, s := range all {
		if found == nil || s.Files == nil {
			continue
		}
		// A name that is in a path on all hosts is no placeholder.
		same := true
		for _, other := range all {
			same = same && other.Files != nil && *other.Files == *s.Files
		}
		if same {
			return all[n].Files, nil
		}
	}
	return found, nil
}

// serverName is the name that a scratch member's certificate is good for, which does not
// listen there.
func (s Spec) serverName(name string) string {
	if s.Files == nil {
		return ""
	}
	return s.Members[name].Address
}
