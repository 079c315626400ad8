package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Snapshots says that snapshots are taken by a timer on the members' hosts.
type Snapshots struct {
	// Schedule is systemd's OnCalendar=.
	Schedule string
	// Keep is how many each host keeps.
	Keep int
	// Directory is where they are, in a folder named after the cluster.
	Directory string
	// Member is the one whose host takes them; empty for whichever leads.
	Member string
}

// SnapshotDirectory is where snapshots are unless the cluster's settings say
// otherwise.
const SnapshotDirectory = "/var/backups/etcd"

// snapshotDir is the folder of the cluster's snapshots on each member's host.
func (s Spec) snapshotDir() string {
	if s.Snapshots != nil {
		return s.Snapshots.Directory + "/" + s.Name
	}
	return s.standardSnapshotDir()
}

// standardSnapshotDir is where they are unless something else is said.
func (s Spec) standardSnapshotDir() string { return SnapshotDirectory + "/" + s.Name }

// snapshotTimeout bounds one snapshot. The largest database that etcd supports
// is 8 GiB.
const snapshotTimeout = 30 * time.Minute

// TakeSnapshot takes a snapshot now, verifies it, and returns where it is, as
// "MEMBER:PATH". The leader's host takes it, whose data is the newest; if it
// cannot, the others are asked in the order of their names. Older snapshots stay,
// however many there are. Reason is for the log.
func (d *Doer) TakeSnapshot(ctx context.Context, s Spec, reason string) (path string, err error) {
	names, err := d.leaderFirst(ctx, s)
	if err != nil {
		return "", problem.In("", "take a snapshot", err)
	}
	var errs []error
	for _, n := range names {
		d.Log.InfoContext(ctx, "taking a snapshot of the etcd cluster", "host", n, "reason", reason)
		found, err := d.snapshotOn(ctx, s, n)
		if err == nil {
			d.Log.InfoContext(ctx, "took a snapshot of the etcd cluster", "host", n, "path", found.Path, "revision", found.Revision, "keys", found.Keys, "bytes", found.Size)
			return n + ":" + found.Path, nil
		}
		d.Log.WarnContext(ctx, "a snapshot could not be taken", "host", n, "error", err)
		errs = append(errs, problem.Fill(err, problem.Error{Host: n, Step: "take a snapshot", Left: "the etcd cluster, as it was; no snapshot was kept."}))
		if ctx.Err() != nil {
			break
		}
	}
	return "", errors.Join(errs...)
}

// leaderFirst lists the members, the one that leads first.
func (d *Doer) leaderFirst(ctx context.Context, s Spec) ([]string, error) {
	c, err := d.client(ctx, s)
	if err != nil {
		return nil, err
	}
	health := Health(ctx, c, s, requestTimeout)
	leads := func(h MemberHealth) int {
		if h.Err == nil && h.Status.Leader == h.Status.MemberID && h.Status.Leader != 0 {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(health, func(a, b MemberHealth) int { return leads(a) - leads(b) })
	var names []string
	for _, h := range health {
		names = append(names, h.Member)
	}
	return names, nil
}

// taken is a snapshot that was taken.
type taken struct {
	Path                 string
	Revision, Keys, Size int64
}

func (d *Doer) snapshotOn(ctx context.Context, s Spec, name string) (taken, error) {
	h := d.host(s, name)
	if err := d.makeSnapshotDir(ctx, h, s); err != nil {
		return taken{}, err
	}
	res, err := h.Run(ctx, host.Cmd{
		Name: "etcd.snapshot", Script: remote.Script(scripts, "scripts/snapshot.sh"), Args: s.snapshotArgs(name, 0, "always", s.credentialsPath()), Timeout: snapshotTimeout,
	})
	if err != nil {
		return taken{}, err
	}
	var t taken
	for line := range strings.Lines(string(res.Stdout)) {
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		n, _ := strconv.ParseInt(value, 10, 64)
		switch field {
		case "path":
			t.Path = value
		case "revision":
			t.Revision = n
		case "keys":
			t.Keys = n
		case "size":
			t.Size = n
		}
	}
	if t.Path == "" || t.Revision == 0 || t.Size == 0 {
		return taken{}, fmt.Errorf("host %s: unexpected answer about the snapshot: %q", h.Name(), res.Stdout)
	}
	return t, nil
}

// snapshotArgs are the arguments of snapshot.sh on a member's host. None of them
// is a secret.
func (s Spec) snapshotArgs(name string, keep int, when, credentials string) []string {
	certificates := ""
	if s.TLS {
		certificates = Dir(s.Name)
	}
	if s.Files != nil {
		f := s.Files.on(name)
		certificates = theirFiles{Authority: f.Trusted, Client: f.Client.Certificate, ClientKey: f.Client.Key}.argument()
	}
	if theirs, ok := s.Theirs[name]; ok {
		certificates = theirs.argument()
	}
	if !s.Auth {
		credentials = ""
	}
	return []string{s.snapshotDir(), strconv.Itoa(keep), name, when, s.ClientURL(name), certificates, credentials}
}

// makeSnapshotDir makes the folder for snapshots. Only etcd's account and root
// can look into it: what is in etcd is in there, Patroni's passwords included.
func (d *Doer) makeSnapshotDir(ctx context.Context, h host.Host, s Spec) error {
	return remote.MakeDir(ctx, h, s.snapshotDir(), account, account, "0700")
}
