package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// SomebodyElse says who has to do something about certificates.
const SomebodyElse = "whoever makes these certificates has to renew it: an apply does not"

// nodeFile is the certificate with which a Patroni node comes to etcd.
type nodeFile struct {
	signed
	key string // where the node is noted
	err error  // why it could not be looked at
}

// lookNodes looks at the certificates with which Patroni's nodes come, where an authority
// is to be trusted no more, or authentication to be turned on: a node whose certificate
// is of that authority, or has a common name, would be shut out then, and its leader
// would step down.
func (m *Manager) lookNodes(ctx context.Context, c Client, s Spec, f Facts) ([]nodeFile, error) {
	if s.PatroniFiles == nil || !s.withdraws(f) && (!s.Auth || f.AuthOn) {
		return nil, nil
	}
	keys, err := c.List(ctx, "/pgha/patroni/")
	if err != nil {
		return nil, err
	}
	var list []nodeFile
	for _, kv := range keys {
		_, name, isNode := cutLast(kv.Key, "/nodes/")
		if !isNode {
			continue
		}
		var note struct {
			Target host.Target `json:"target"`
		}
		one := nodeFile{key: kv.Key}
		one.host, one.path = name, s.PatroniFiles.On(name).Certificate
		if one.err = json.Unmarshal([]byte(kv.Value), &note); one.err == nil {
			one.host = note.Target.Name
			one.text, one.err = m.lookNode(ctx, note.Target, one.path)
		}
		list = append(list, one)
	}
	return list, nil
}

// checkNodeFiles says why a node would be shut out by what is to be done, or cannot be
// asked.
func (p *planner) checkNodeFiles() error {
	const step, left = "make sure that Patroni's nodes are let in", "everything; no member was started or restarted."
	var errs []error
	for _, c := range p.f.NodeFiles {
		leaf, err := pki.Parse(c.text)
		switch {
		case c.err != nil:
			errs = append(errs, &problem.Error{
				Host: c.host, Step: step, Cause: c.err, Left: left,
				Do: "the certificate with which this node comes has to be looked at before an authority is trusted no more, or authentication turned on. Bring the host back; if it is gone for good, destroy the node or delete its note in etcd (" + c.key + ").",
			})
		case err == nil && p.s.Auth && leaf.Subject.CommonName != "":
			errs = append(errs, filesWrong(c.host, []pki.Fault{{Path: c.path, What: fmt.Sprintf("has the common name %q: %s", leaf.Subject.CommonName, nameless), Do: "have whoever makes it make another one without one"}}, left))
		}
	}
	return errors.Join(errs...)
}

// nameless says why the certificate with which Patroni comes has no common name (etcd,
// server/embed/serve.go, accessController.ServeHTTP).
const nameless = "with auth, etcd answers nobody who speaks JSON to it, as Patroni does, with a certificate that has one"

// nodePatience is how long a node's host may take to answer.
const nodePatience = 20 * time.Second

func (m *Manager) lookNode(ctx context.Context, at host.Target, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, nodePatience)
	defer cancel()
	found, err := pki.Look(ctx, m.Doer.Fleet.Host(at), "postgres", []string{path}, nil)
	if err != nil {
		return nil, err
	}
	return found[path].Text, nil
}

// Check says what is wrong with the files of somebody else's with which a
// node comes to etcd, on its host. Members are the authorities that etcd's members trust,
// nil if they are not known.
func (f PatroniFiles) Check(hostName, account string, auth bool, found map[string]pki.Looked, members []byte, now time.Time) error {
	faults := pki.CheckTrusted(f.Trusted, account, found)
	if len(faults) == 0 && f.Certificate != "" {
		trusted := found[f.Trusted].Text
		if len(members) > 0 {
			trusted = members
		}
		u := pki.Use{Pair: f.Pair, What: "the node's certificate for etcd", Account: account, Client: true}
		if auth {
			u.Nameless = nameless
		}
		faults = u.Check(found, trusted, now)
	}
	return filesWrong(hostName, faults, "the node, as it is.")
}

// Look looks at them on a node's host, as an account would read them.
func (f PatroniFiles) Look(ctx context.Context, h host.Host, account string) (map[string]pki.Looked, error) {
	return pki.Look(ctx, h, account, []string{f.Certificate, f.Trusted}, []string{f.Key})
}

// broughtCertificates looks when the certificates end that somebody else makes.
func (v *hostView) broughtCertificates(ctx context.Context, h host.Host, f Files, name string) error {
	found, err := pki.Look(ctx, h, account, []string{f.Server.Certificate, f.Peer.Certificate, f.Client.Certificate, f.Trusted}, nil)
	if err != nil {
		return err
	}
	v.authority = firstEnd(found[f.Trusted].Text)
	v.server, v.peer = leafEnd(found[f.Server.Certificate].Text), leafEnd(found[f.Peer.Certificate].Text)
	v.overdue = f.ending(name, found, time.Now())
	return nil
}

// leafEnd is when the first certificate of a text ends, firstEnd when the first of all
// does.
func leafEnd(text []byte) time.Time {
	c, err := pki.Parse(text)
	if err != nil {
		return time.Time{}
	}
	return c.NotAfter.UTC()
}

func firstEnd(text []byte) (first time.Time) {
	for _, c := range pki.ParseAll(text) {
		if first.IsZero() || c.NotAfter.Before(first) {
			first = c.NotAfter.UTC()
		}
	}
	return first
}

// troubleFiles says of a running member what is wrong with its files, which may be why
// nobody gets in.
func (a Access) troubleFiles(ctx context.Context, h host.Host, name, step string) error {
	f := a.Files.on(name)
	found, err := pki.Look(ctx, h, account, []string{f.Server.Certificate, f.Client.Certificate, f.Trusted}, []string{f.Server.Key, f.Client.Key})
	if err != nil {
		return nil // the first error counts
	}
	faults := pki.CheckTrusted(f.Trusted, account, found)
	for _, u := range []pki.Use{{Pair: f.Server, What: "the server's certificate", Server: true, Account: account}, {Pair: f.Client, What: "the client's certificate", Client: true, Account: account}} {
		if len(faults) == 0 {
			faults = append(faults, u.Check(found, found[f.Trusted].Text, time.Now())...)
		}
	}
	return problem.In("", step, filesWrong(name, faults, "everything."))
}
