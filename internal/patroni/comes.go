package patroni

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// How nodes come to etcd where that changes under them: with https once etcd takes it,
// and with a user and a password before etcd wants one. A node notes in etcd that it
// does, which etcd's own resource waits for.

// loginKey is where the password is of the etcd user of a cluster that somebody else
// made, whose other passwords are in its nodes' files alone. All groups of a formation
// have one user.
func (c Cluster) loginKey() string { return c.shared("etcd_login") }

// withLogin is a node of a cluster that somebody else made, with what etcd is to know
// it by.
func (n Node) withLogin(k Known) Node {
	if n.Cluster.Adopted() && k.EtcdLogin != "" {
		n.EtcdUser, n.EtcdPassword = n.Cluster.etcdUser(), k.EtcdLogin
	}
	return n
}

// checkScheme makes sure that etcd takes https before a node is told to come with it.
func (d *Doer) checkScheme(n Node) error {
	if !n.Cluster.Etcd.IssuesForPatroni() || len(d.KV.Authority()) > 0 {
		return nil
	}
	return &problem.Error{
		Host: n.Target.Name, Step: "look how etcd is reached", Cause: fmt.Errorf("the members of the etcd cluster %s do not take https yet", n.Cluster.Etcd.Name),
		Left: "the node, as it was.", Do: "apply the pgha_etcd_cluster resource first, which turns TLS on.",
	}
}

// grantLogin makes the etcd user of a cluster that somebody else made.
func (p clusterPlanner) grantLogin() engine.Plan {
	c, k, do := p.s.Cluster, p.do.Known, p.do
	if !c.Etcd.Auth || k.EtcdLogin != "" && k.Record != nil && k.Record.EtcdUser {
		return engine.Plan{}
	}
	return engine.Sequence(p.step("cluster.etcd_user", "make the etcd user "+c.etcdUser()+", for "+c.sharedPrefix()+" only", engine.Safe, func(ctx context.Context) error {
		if do.Known.EtcdLogin == "" {
			password := etcd.NewPassword()
			if do.Redact != nil {
				do.Redact.Add(password)
			}
			if err := do.KV.Put(ctx, c.loginKey(), password); err != nil {
				return err
			}
			do.Known.EtcdLogin = password
		}
		if err := do.KV.GrantUser(ctx, c.etcdUser(), do.Known.EtcdLogin, c.sharedPrefix()); err != nil {
			return err
		}
		record := *do.Known.Record
		record.EtcdUser = true
		do.Known.Record = &record
		return putJSON(ctx, do.KV, c.recordKey(), record)
	}))
}

// restartsAlone reports whether the node runs a Patroni that was started to come with
// http, and is to come with https.
func (p *nodePlanner) restartsAlone() bool {
	if p.k == nil || !p.n.Cluster.Etcd.IssuesForPatroni() || !p.f.Facts.Unit(Unit).Running() || p.k.Nodes[p.n.Name].Trusts != "" {
		return false
	}
	if p.n.Cluster.Adopted() {
		return true
	}
	_, noted := p.k.Nodes[p.n.Name]
	return noted && (p.fileChanged() || p.f.Marker != nil && p.f.Marker.ReloadDue)
}

// fileChanged reports whether the node's file is not as it should be. It needs what
// etcd knows.
func (p *nodePlanner) fileChanged() bool {
	if !p.n.Cluster.Adopted() {
		return p.configChanged()
	}
	text, err := p.f.Foreign.Merge(p.n)
	return err != nil || !bytes.Equal(text, p.f.Foreign.text)
}

// comes are the steps after a node's file was written and read: Patroni is restarted
// if that is needed to come with https, and what is true by then is noted in etcd. Only
// then: etcd shuts out whoever does not come so, once all say that they do.
func (p *nodePlanner) comes() engine.Plan {
	var plan engine.Plan
	if p.k == nil {
		return plan
	}
	r := p.record()
	after := r
	after.LogsIn = p.logsIn()
	if p.restartsAlone() {
		plan = plan.Then(p.do.restartAlone(p.n))
		after.ClientTrust = etcd.TrustOf(p.etcdAuthority)
	}
	if after.Login != r.Login || after.ClientTrust != r.ClientTrust {
		plan = plan.Then(p.do.register(p.n, after))
	}
	return plan
}

// adoptedCertificates are those with which a node of a cluster that somebody else made
// comes to etcd. Its others are not ours.
func (p *nodePlanner) adoptedCertificates() engine.Plan {
	n, f, do := p.n, p.f, p.do
	var plan engine.Plan
	if !n.Cluster.Etcd.IssuesForPatroni() {
		return plan
	}
	if !f.Facts.Package("openssl").Installed {
		plan = plan.Then(do.install(n, []remote.Pin{{Name: "openssl"}}))
	}
	if file := (remote.File{Path: n.Cluster.etcdAuthorityPath(), Content: p.etcdAuthority}); !file.Same(f.Facts.Path(file.Path)) {
		plan = plan.Then(do.write(n, file))
	}
	l := n.etcdLeaf()
	why := l.Check(f.Facts.Path(l.Certificate).Content, pki.First(p.etcdAuthority), p.now, pki.RenewBefore)
	if !f.Facts.Path(l.Key).Exists() {
		why = "there is no key"
	}
	if why != "" {
		plan = plan.Then(do.issue(n, l, true, why))
	}
	return plan
}

// errOneAddress: etcd is named in a way in which the scheme is not a setting of its own.
var errOneAddress = errors.New("its etcd3 section names etcd by url, proxy or a DNS record (srv), where the scheme is part of the name: it cannot be told to come with https")
