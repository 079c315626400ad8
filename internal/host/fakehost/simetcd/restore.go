package simetcd

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// content is what is in a snapshot.
type content struct {
	Revision int64
	Keys     []contentKey
	Users    []contentUser
	Auth     bool
	Version  string // of the cluster
}

type contentKey struct {
	Key, Value        string
	Revision, Created int64
	Lease             int64
}

type contentUser struct {
	Name, Password string
	Root           bool
	Prefixes       []string
}

// snapshotText is a cluster's content as a snapshot has it.
func (st *Store) snapshotText() []byte {
	c := content{Revision: st.revision, Auth: st.auth, Version: "3.5.0"}
	for _, k := range slices.Sorted(maps.Keys(st.keys)) {
		e := st.keys[k]
		ck := contentKey{Key: k, Value: e.value, Revision: e.revision, Created: e.created}
		if e.lease != nil {
			ck.Lease = e.lease.ID
		}
		c.Keys = append(c.Keys, ck)
	}
	for _, n := range slices.Sorted(maps.Keys(st.users)) {
		u := st.users[n]
		c.Users = append(c.Users, contentUser{n, u.password, u.root, u.prefixes})
	}
	b, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return b
}

// from makes a cluster with a snapshot's content. Keys keep their leases, which
// nobody renews.
func (s *Sim) from(id, token string, text []byte) (*Store, error) {
	st := &Store{
		sim: s, id: id, token: token, members: map[string]*member{}, keys: map[string]*entry{}, users: map[string]*user{}, Alarms: map[string]string{}, Behind: map[string]uint64{},
		watchers: map[string]func(string){}, revision: 1, settled: true,
	}
	if len(text) == 0 {
		return st, nil
	}
	var c content
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("snapshot file cannot be read: %w", err)
	}
	st.revision, st.auth = c.Revision, c.Auth
	leases := map[int64]*Lease{}
	for _, k := range c.Keys {
		e := &entry{value: k.Value, revision: k.Revision, created: k.Created}
		if k.Lease != 0 {
			if leases[k.Lease] == nil {
				leases[k.Lease] = &Lease{ID: k.Lease}
			}
			e.lease = leases[k.Lease]
		}
		st.keys[k.Key] = e
	}
	for _, u := range c.Users {
		st.users[u.Name] = &user{password: u.Password, root: u.Root, prefixes: u.Prefixes}
	}
	return st, nil
}

// scratch is the etcd of one member that nobody knows of.
type scratch struct {
	store *Store
	port  int
}

const scratchPort = 23790

// handleRestore models the scripts of a restore.
func (s *Sim) handleRestore() {
	w := s.world
	w.Handle("etcd.restore.look", false, s.restoreLook)
	w.Handle("etcd.restore.scratch", true, s.restoreScratch)
	w.Handle("etcd.restore.pack", true, s.restorePack)
	w.Handle("etcd.restore.read", false, s.restoreRead)
	w.Handle("etcd.restore.write", true, s.restoreWrite)
	w.Handle("etcd.restore.member", true, s.restoreMember)
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (s *Sim) restoreLook(o *fakehost.Op) error {
	if !o.Need(1) {
		return o.Fail(2, "arguments")
	}
	text := o.Machine.Files.Read(o.Arg(1))
	if text == nil {
		return o.Fail(1, "%s does not exist", o.Arg(1))
	}
	var c content
	if json.Unmarshal(text, &c) != nil {
		return o.Fail(1, "%s is not a whole snapshot: its digest does not match", o.Arg(1))
	}
	o.Printf("size=%d\nsha256=%s\nrevision=%d\nkeys=%d\nversion=%s\n", len(text), sha(text), c.Revision, len(c.Keys), c.Version)
	return nil
}

func (s *Sim) restoreScratch(o *fakehost.Op) error {
	if !o.Need(5) {
		return o.Fail(2, "arguments")
	}
	var text []byte
	if o.Arg(1) != "" {
		if text = o.Machine.Files.Read(o.Arg(1)); sha(text) != o.Arg(2) {
			return o.Fail(1, "%s is not the file that was looked at", o.Arg(1))
		}
	}
	if o.Machine.DiskKiB < 384<<10 {
		return o.Fail(1, "No space left on device: /var/lib/etcd has %d MiB free", o.Machine.DiskKiB>>10)
	}
	if o.Machine.Files.Read(o.Arg(4)) == nil {
		return o.Fail(1, "Failed to load environment files")
	}
	st, err := s.from("scratch", "scratch", text)
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	o.Machine.Files.Put(o.Arg(3)+"/data/member", fakehost.File{Type: fakehost.Dir, Owner: "etcd", Group: "etcd", Mode: "700"})
	s.scratch[o.Machine.Name] = &scratch{st, scratchPort}
	o.Printf("port=%d\n", scratchPort)
	return nil
}

func (s *Sim) restorePack(o *fakehost.Op) error {
	if !o.Need(5) {
		return o.Fail(2, "arguments")
	}
	sc := s.scratch[o.Machine.Name]
	if sc == nil || !strings.HasSuffix(o.Arg(1), ":"+strconv.Itoa(sc.port)) {
		return o.Fail(1, "context deadline exceeded")
	}
	if sc.store.auth && !strings.Contains(string(o.Machine.Files.Read(o.Arg(4))), sc.store.users["pgha"].password) {
		return o.Fail(1, "authentication failed, invalid user ID or password")
	}
	for key, e := range sc.store.keys {
		if e.lease != nil {
			s.world.TB.Errorf("%s, which is bound to a lease, comes back from a snapshot", key)
		}
	}
	text := sc.store.snapshotText()
	o.Machine.Files.Put(o.Arg(5), fakehost.File{Owner: "root", Group: "root", Mode: "600", Content: text})
	delete(s.scratch, o.Machine.Name)
	o.Machine.Files.Remove(o.Arg(2))
	for _, p := range o.Machine.Files.Below(o.Arg(2)) {
		o.Machine.Files.Remove(p)
	}
	o.Printf("sha256=%s\nsize=%d\nrevision=%d\nkeys=%d\n", sha(text), len(text), sc.store.revision, len(sc.store.keys))
	return nil
}

func (s *Sim) restoreRead(o *fakehost.Op) error {
	text := o.Machine.Files.Read(o.Arg(1))
	offset, err1 := strconv.Atoi(o.Arg(2))
	length, err2 := strconv.Atoi(o.Arg(3))
	if !o.Need(3) || err1 != nil || err2 != nil || text == nil {
		return o.Fail(1, "%s: No such file or directory", o.Arg(1))
	}
	o.Printf("%s", base64.StdEncoding.EncodeToString(text[min(offset, len(text)):min(offset+length, len(text))]))
	return nil
}

func (s *Sim) restoreWrite(o *fakehost.Op) error {
	if !o.Need(4) {
		return o.Fail(2, "arguments")
	}
	part := o.Arg(1) + ".part"
	var have []byte
	if o.Arg(2) != "0" {
		have = o.Machine.Files.Read(part)
	}
	if strconv.Itoa(len(have)) != o.Arg(2) {
		return o.Fail(1, "%s has %d bytes", part, len(have))
	}
	have = slices.Concat(have, o.Cmd.Stdin)
	if strconv.Itoa(len(have)) != o.Arg(3) {
		o.Machine.Files.Put(part, fakehost.File{Owner: "root", Group: "root", Mode: "600", Content: have})
		return nil
	}
	o.Machine.Files.Remove(part)
	if sha(have) != o.Arg(4) {
		return o.Fail(1, "the file did not arrive whole")
	}
	o.Machine.Files.Put(o.Arg(1), fakehost.File{Owner: "root", Group: "root", Mode: "600", Content: have})
	return nil
}

// restored is the file in a data directory that has what it was restored from, as
// long as its cluster has not begun.
const restored = "/member/restored.json"

// restoredFrom is its content.
type restoredFrom struct {
	Text                 []byte
	Cluster, Token, Name string
}

func (s *Sim) restoreMember(o *fakehost.Op) error {
	if !o.Need(9) {
		return o.Fail(2, "arguments")
	}
	files, dir, uid := o.Machine.Files, o.Arg(3), o.Arg(4)
	if string(files.Read(dir+"/member/pgha-restored")) == uid {
		return nil
	}
	if u := o.Machine.Units[unitName]; u == nil || u.Active != "inactive" && u.Active != "failed" {
		return o.Fail(1, "etcd.service runs: it has to be stopped")
	}
	text := files.Read(o.Arg(1))
	if sha(text) != o.Arg(2) {
		return o.Fail(1, "%s is not the file that was agreed on", o.Arg(1))
	}
	if files.Get(dir) == nil {
		return o.Fail(1, "%s does not exist", dir)
	}
	if files.Get(dir+"/member") != nil {
		if files.Get(dir+"/before-"+uid) != nil {
			return o.Fail(1, "%s exists already", dir+"/before-"+uid)
		}
		files.Move(dir+"/member", dir+"/before-"+uid)
	}
	own := fakehost.File{Owner: "etcd", Group: "etcd", Mode: "600"}
	put := func(name string, content []byte) {
		f := own
		f.Content = content
		files.Put(path.Join(dir, name), f)
	}
	files.Put(o.Arg(9), fakehost.File{Owner: "root", Group: "etcd", Mode: "640", Content: []byte(sha(append([]byte("pgha.token."), text...)))})
	b, err := json.Marshal(restoredFrom{text, o.Arg(6), o.Arg(8), o.Arg(5)})
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	files.Put(dir+"/member", fakehost.File{Type: fakehost.Dir, Owner: "etcd", Group: "etcd", Mode: "700"})
	put("member/pgha-restored", []byte(uid))
	put(restored, b)
	put(dataID, []byte(fmt.Sprintf("%x", fakehost.Hash(8, o.Arg(8), o.Arg(6), sha(text)))))
	return nil
}

// begins finds the cluster that a restored member is of, or makes it with the first
// one. Members that were restored from different files are of different clusters.
func (s *Sim) begins(u *fakehost.Unit, env map[string]string, id string) (*Store, *member, error) {
	var r restoredFrom
	if err := json.Unmarshal(u.Machine.Files.Read(env["ETCD_DATA_DIR"]+restored), &r); err != nil {
		return nil, nil, fmt.Errorf("member %s is not of the cluster that its data is of", env["ETCD_NAME"])
	}
	var st *Store
	for _, other := range s.stores {
		if other.id == id {
			st = other
		}
	}
	if st == nil {
		var err error
		if st, err = s.from(id, r.Token, r.Text); err != nil {
			return nil, nil, err
		}
		for _, p := range strings.Split(r.Cluster, ",") {
			n, url, _ := strings.Cut(p, "=")
			st.members[url] = &member{name: n, id: fakehost.Hash(5, st.id, n), peerURL: url}
		}
		s.stores = append(s.stores, st)
	}
	mem := st.members[env["ETCD_INITIAL_ADVERTISE_PEER_URLS"]]
	if mem == nil || r.Name != env["ETCD_NAME"] {
		return nil, nil, fmt.Errorf("member %s is not of the cluster that its data is of", env["ETCD_NAME"])
	}
	mem.name, mem.machine, mem.unit, mem.env = env["ETCD_NAME"], u.Machine, u, env
	return st, mem, nil
}
