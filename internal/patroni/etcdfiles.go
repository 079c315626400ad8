package patroni

import (
	"context"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
)

// The certificates with which Patroni comes to etcd may be somebody else's, as those of
// etcd itself are then. They are named in Patroni's configuration and never written.
// Patroni opens each connection with the files as they are then; which files these are
// it reads only when it starts (patroni/dcs/etcd.py, 3.0 to 4.1).

// etcdFiles are those files on the node's host, nil if this provider makes its own, or
// if the configuration is somebody else's.
func (n Node) etcdFiles() *etcd.PatroniFiles {
	if !n.Cluster.Etcd.TLS || n.Cluster.Etcd.PatroniFiles == nil || n.Cluster.Adopted() {
		return nil
	}
	f := n.Cluster.Etcd.PatroniFiles.On(n.Name)
	return &f
}

// checkEtcdFiles says what is wrong with them. Members are the authorities that etcd's
// members trust, nil if they are not known.
func (n Node) checkEtcdFiles(found map[string]pki.Looked, members []byte, now time.Time) error {
	f := n.etcdFiles()
	if f == nil {
		return nil
	}
	if n.Cluster.Etcd.Files == nil {
		members = nil // what those of somebody else's cluster trust is not all known
	}
	return f.Check(n.Target.Name, account, n.Cluster.Etcd.Auth, found, members, now)
}

// lookEtcdFiles looks at them once more, now that there is who is to read them.
func (d *Doer) lookEtcdFiles(n Node) engine.Step {
	return d.step(n, "patroni.etcd.files", "check the files with which Patroni comes to etcd", engine.Safe, func(ctx context.Context) error {
		found, err := n.etcdFiles().Look(ctx, d.host(n), account)
		if err != nil {
			return err
		}
		return n.checkEtcdFiles(found, nil, time.Now())
	})
}

// CheckEtcdFiles says what is wrong with the files of a node that is to be made.
func (m *Manager) CheckEtcdFiles(ctx context.Context, n Node) error {
	f := n.etcdFiles()
	if f == nil {
		return nil
	}
	found, err := f.Look(ctx, m.Fleet.Host(n.Target), account)
	if err != nil {
		return err
	}
	return n.checkEtcdFiles(found, nil, m.Now())
}
