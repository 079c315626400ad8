package etcd

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// SnapshotFile is a snapshot on a host.
type SnapshotFile struct {
	Path string
	Size int64 // bytes
	Time time.Time
	// Member is the one that it was taken from: other hosts' snapshots are seen
	// as well where the folder is shared.
	Member string
}

// SnapshotsView is what there is of snapshots on a member's host.
type SnapshotsView struct {
	Directory string
	Files     []SnapshotFile // the oldest first
	// Scheduled: this host takes snapshots by a timer, when its turn comes.
	Scheduled bool
	// Failed: the last attempt to take one did.
	Failed bool
}

// Newest is the newest snapshot, false if there is none.
func (v SnapshotsView) Newest() (SnapshotFile, bool) {
	if len(v.Files) == 0 {
		return SnapshotFile{}, false
	}
	return v.Files[len(v.Files)-1], true
}

// snapshotTime is the form in which a snapshot's name has the time.
const snapshotTime = "20060102T150405Z"

// listSnapshots lists the snapshots on a member's host.
func (a Access) listSnapshots(ctx context.Context, h host.Host) (SnapshotsView, error) {
	res, err := h.Run(ctx, host.Cmd{
		Name: "etcd.snapshots", Script: remote.Script(scripts, "scripts/snapshot_list.sh"), Args: []string{snapshotServicePath, SnapshotDirectory + "/" + a.Name},
	})
	if err != nil {
		return SnapshotsView{}, err
	}
	var v SnapshotsView
	for line := range strings.Lines(string(res.Stdout)) {
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if field == "directory" {
			v.Directory = value
			continue
		}
		size, name, _ := strings.Cut(value, " ")
		stamp, member, ok := strings.Cut(strings.TrimSuffix(name, ".db"), "-")
		n, err1 := strconv.ParseInt(size, 10, 64)
		at, err2 := time.Parse(snapshotTime, stamp)
		if ok && err1 == nil && err2 == nil {
			v.Files = append(v.Files, SnapshotFile{Path: v.Directory + "/" + name, Size: n, Time: at.UTC(), Member: member})
		}
	}
	return v, nil
}

// Newest is the newest snapshot on any host, and which host it is on.
func (v View) Newest() (host string, f SnapshotFile, ok bool) {
	for _, m := range v.Members {
		if n, there := m.Snapshots.Newest(); there && (!ok || n.Time.After(f.Time)) {
			host, f, ok = m.Name, n, true
		}
	}
	return host, f, ok
}

// discoverSnapshots reads back how a cluster of this provider takes snapshots,
// nil if it does not.
func (m *Manager) discoverSnapshots(ctx context.Context, s Spec) (*Snapshots, error) {
	var found *Snapshots
	hosts := 0
	for _, name := range s.Names() {
		var p remote.Probe
		p.Content(snapshotServicePath).Content(snapshotTimerPath)
		f, err := p.Run(ctx, m.Doer.host(s, name))
		if err != nil {
			return nil, err
		}
		if one := parseSnapshots(s.Name, string(f.Path(snapshotServicePath).Content), string(f.Path(snapshotTimerPath).Content)); one != nil {
			one.Member = name
			found = one
			hosts++
		}
	}
	if found != nil && (hosts > 1 || len(s.Members) == 1) {
		found.Member = ""
	}
	return found, nil
}

// parseSnapshots reads what snapshotFiles wrote.
func parseSnapshots(cluster, service, timer string) *Snapshots {
	command, schedule := setting(service, "ExecStart"), setting(timer, "OnCalendar")
	words := strings.Fields(command)
	if len(words) < 6 || schedule == "" {
		return nil
	}
	dir, err1 := strconv.Unquote(words[2])
	keep, err2 := strconv.Unquote(words[3])
	n, err3 := strconv.Atoi(keep)
	dir, ours := strings.CutSuffix(dir, "/"+cluster)
	if err1 != nil || err2 != nil || err3 != nil || !ours {
		return nil
	}
	return &Snapshots{Schedule: schedule, Keep: n, Directory: dir}
}

// setting is the value of a setting in a unit's file.
func setting(text, key string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			return strings.TrimSuffix(value, "\n")
		}
	}
	return ""
}
