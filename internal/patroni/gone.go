package patroni

import (
	"context"
	"errors"
	"strconv"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Terraform saves what a refresh found out only with the first change that follows.
// A destroy that is killed after the cluster has gone, and again after etcd was
// stopped, has left a cluster in the state that etcd cannot be asked about any more,
// and could never be finished. So the hosts of etcd tell, without etcd.

// gone is what they say.
type gone int

const (
	stays       gone = iota // nothing that would let anybody forget the cluster
	wasPurged               // nothing of it is left
	wasReleased             // its keys and its data are kept
)

// releasePath is where each host of etcd says that a cluster was released, with its
// uid. The note is written after the record in etcd says so, and removed before that
// is taken back: where there is one, the cluster is released.
func (c Cluster) releasePath() string {
	if c.Citus != nil {
		return c.authority().Path() + "/released." + strconv.Itoa(c.Citus.Group)
	}
	return c.authority().Path() + "/released"
}

// gone asks them: every host answers, so many have etcd installed, stopped and
// disabled, as a destroy leaves it, that there is no quorum, and either the cluster's
// authority, which each of them had, is on none (its keys went before that), or all
// say that it was released. Hosts that were built anew have no etcd installed, and no
// notes: they say nothing.
func (m *Manager) gone(ctx context.Context, c Cluster) gone {
	if c.Adopted() || len(c.Etcd.Members) == 0 {
		return stays
	}
	stopped, authorities, notes := 0, 0, 0
	for _, h := range c.holders(m.Fleet) {
		var p remote.Probe
		p.Path(c.authority().Path()).Content(c.releasePath()).Unit(etcd.Unit).Package("etcd-server")
		f, err := p.Run(ctx, h)
		if err != nil || !f.Package("etcd-server").Installed {
			return stays
		}
		if u := f.Unit(etcd.Unit); u.Active == "inactive" && u.Enabled != "enabled" {
			stopped++
		}
		if f.Path(c.authority().Path()).Exists() {
			authorities++
		}
		if released(f, c, c.UID) {
			notes++
		}
	}
	switch members := len(c.Etcd.Members); {
	case members-stopped >= etcd.Quorum(members):
		return stays
	case authorities == 0:
		return wasPurged
	case notes == members:
		return wasReleased
	}
	return stays
}

// released reports whether a host's note speaks of the cluster with that uid.
func released(f *remote.Facts, c Cluster, uid string) bool {
	return uid != "" && string(f.Path(c.releasePath()).Content) == uid+"\n"
}

// releaseNoted reports whether the release has been noted on all hosts that can be
// asked.
func (m *Manager) releaseNoted(ctx context.Context, c Cluster, uid string) bool {
	if c.Adopted() {
		return true
	}
	for _, h := range c.holders(m.Fleet) {
		var p remote.Probe
		p.Content(c.releasePath())
		if f, err := p.Run(ctx, h); err == nil && !released(f, c, uid) {
			return false
		}
	}
	return true
}

// noteRelease notes on the hosts of etcd that the cluster was released. One that
// cannot be reached need not have the note: etcd tells, as long as it runs.
func (d *Doer) noteRelease(ctx context.Context, c Cluster) error {
	note := remote.File{Path: c.releasePath(), Content: []byte(d.Known.Record.UID + "\n"), Mode: "0644"}
	for _, h := range c.holders(d.Fleet) {
		err := remote.WriteFile(ctx, h, note)
		switch {
		case host.Unreachable(err):
			d.Log.WarnContext(ctx, "the release could not be noted on a host of etcd", "host", h.Name(), "error", err)
		case err != nil:
			return err
		}
	}
	return nil
}

// dropRelease removes the notes. One host that has none is enough for them to say
// nothing.
func (d *Doer) dropRelease(ctx context.Context, c Cluster) error {
	var errs []error
	holders := c.holders(d.Fleet)
	for _, h := range holders {
		err := remote.RemoveFiles(ctx, h, c.releasePath())
		if err != nil && !host.Unreachable(err) {
			return err
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == len(holders) {
		return errors.Join(errs...)
	}
	return nil
}
