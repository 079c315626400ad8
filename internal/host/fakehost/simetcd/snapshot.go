package simetcd

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// snapshotRoom is what has to stay free beside a snapshot, in KiB.
const snapshotRoom = 64 << 10

// snapshot is etcd.snapshot: a file with the member's keys, named after the time
// and the member.
func (s *Sim) snapshot(o *fakehost.Op) error {
	if !o.Need(7) {
		return o.Fail(2, "etcd.snapshot: arguments")
	}
	dir, member, when := o.Arg(1), o.Arg(3), o.Arg(4)
	keep, err := strconv.Atoi(o.Arg(2))
	if err != nil {
		return o.Fail(2, "%v", err)
	}
	svc, ok := o.Machine.Units[unitName].Service.(*service)
	if !ok || svc.member == nil || svc.member.unit == nil || svc.member.name != member {
		return o.Fail(1, "context deadline exceeded")
	}
	st := svc.store
	switch {
	case st.Leader() == "":
		return o.Fail(1, "this member knows no leader: there may be no quorum")
	case st.auth && !strings.Contains(string(o.Machine.Files.Read(o.Arg(7))), st.users["pgha"].password):
		return o.Fail(1, "authentication failed, invalid user ID or password")
	case when == "leader" && st.Leader() != member:
		o.Printf("another member leads: nothing to do here\n")
		return nil
	case o.Machine.Files.Get(dir) == nil:
		return o.Fail(1, "%s does not exist", dir)
	case o.Machine.DiskKiB < snapshotRoom:
		return o.Fail(1, "No space left on device: %s has %d MiB free", dir, o.Machine.DiskKiB>>10)
	}
	name := fmt.Sprintf("%s/%s-%s.db", dir, time.Now().UTC().Format("20060102T150405Z"), member)
	text := st.snapshotText()
	o.Machine.Files.Put(name, fakehost.File{Owner: "etcd", Group: "etcd", Mode: "600", Content: text})
	o.Printf("path=%s\nrevision=%d\nkeys=%d\nsize=%d\n", name, st.revision, len(st.keys), len(text))
	var own []string
	for _, f := range o.Machine.Files.List(dir) {
		if strings.HasSuffix(f, "Z-"+member+".db") {
			own = append(own, f)
		}
	}
	for ; keep > 0 && len(own) > keep; own = own[1:] {
		o.Machine.Files.Remove(path.Join(dir, own[0]))
	}
	return nil
}

// snapshots is etcd.snapshots: the files in the folder that the service names.
func (s *Sim) snapshots(o *fakehost.Op) error {
	if !o.Need(2) {
		return o.Fail(2, "etcd.snapshots: arguments")
	}
	dir := o.Arg(2)
	for line := range strings.Lines(string(o.Machine.Files.Read(o.Arg(1)))) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "ReadWritePaths="); ok {
			dir = v
		}
	}
	o.Printf("directory=%s\n", dir)
	for _, f := range o.Machine.Files.List(dir) {
		if strings.HasSuffix(f, ".db") && !strings.HasPrefix(f, ".") {
			o.Printf("snapshot=%d %s\n", len(o.Machine.Files.Read(path.Join(dir, f))), f)
		}
	}
	return nil
}
