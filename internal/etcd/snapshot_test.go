package etcd

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/golden"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/shellhost"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// snapshotHost is a host whose etcdctl saves a snapshot as etcd does: the
// database, and then its digest.
func snapshotHost(t *testing.T, shell []string) *shellhost.Host {
	t.Helper()
	h := shellhost.New(t, shell)
	for _, dir := range []string{"/var/lib/snapshots", "/etc/pgha/etcd/dcs"} {
		if err := os.MkdirAll(h.Path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(h.Path("/etc/pgha/etcd/dcs/credentials.json"), []byte(`{"root":"of root","pgha":"the password"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Program("etcdctl", `env | grep ^ETCDCTL | sort >/run/env
case $1 in
endpoint) echo '[{"Endpoint":"x","Status":{"header":{"cluster_id":1,"member_id":77,"revision":9,"raft_term":2},"version":"3.5.16","dbSize":20480,"leader":77,"raftIndex":8}}]' ;;
snapshot) [ "$2" = save ] || exit 9
	printf 'the database' >"$3"
	printf 'the database' | openssl dgst -sha256 -binary >>"$3" ;;
esac`)
	h.Program("etcdutl", `echo '{"hash":1,"revision":9,"totalKey":5,"totalSize":20480}'`)
	return h
}

func takeSnapshot(t *testing.T, h *shellhost.Host, args ...string) (string, error) {
	t.Helper()
	all := []string{"/var/lib/snapshots", "2", "pg1", "leader", "https://10.0.0.1:2379", "/etc/pgha/etcd/dcs", "/etc/pgha/etcd/dcs/credentials.json"}
	copy(all[1:], args)
	r, err := h.Run(t.Context(), host.Cmd{Name: "etcd.snapshot", Script: remote.Script(scripts, "scripts/snapshot.sh"), Args: all})
	return strings.ReplaceAll(string(r.Stdout), h.Root, ""), err
}

// files are all files in the folder for snapshots but the lock.
func snapshotFiles(t *testing.T, h *shellhost.Host) []string {
	t.Helper()
	entries, err := os.ReadDir(h.Path("/var/lib/snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != ".lock" {
			names = append(names, e.Name())
		}
	}
	return names
}

// A snapshot is taken, verified, and given its name when it is whole; the oldest
// of this member's are removed, nobody else's.
func TestSnapshotScript(t *testing.T) {
	for name, shell := range shellhost.Shells(t) {
		t.Run(name, func(t *testing.T) {
			h := snapshotHost(t, shell)
			for _, f := range []string{"20200101T000000Z-pg1.db", "20200102T000000Z-pg1.db", "20200101T000000Z-pg2.db", "20200101T000000Z-old-pg1.db", "mine.db", ".20200103T000000Z-pg1.db.part"} {
				if err := os.WriteFile(filepath.Join(h.Path("/var/lib/snapshots"), f), []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, err := takeSnapshot(t, h)
			if err != nil {
				t.Fatal(err)
			}
			files := snapshotFiles(t, h)
			if len(files) != 5 || !slices.Contains(files, "20200102T000000Z-pg1.db") || !slices.Contains(files, "20200101T000000Z-pg2.db") || !slices.Contains(files, "20200101T000000Z-old-pg1.db") || !slices.Contains(files, "mine.db") {
				t.Errorf("left: %v", files)
			}
			fields := strings.Fields(out)
			if len(fields) != 4 || fields[1] != "revision=9" || fields[2] != "keys=5" || fields[3] != "size=44" {
				t.Fatalf("it says %q", out)
			}
			path := strings.TrimPrefix(fields[0], "path=")
			b, err := os.ReadFile(h.Path(path))
			sum := sha256.Sum256([]byte("the database"))
			if err != nil || hex.EncodeToString(b[len(b)-32:]) != hex.EncodeToString(sum[:]) {
				t.Errorf("%s: %q, %v", path, b, err)
			}
			if info, err := os.Stat(h.Path(path)); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			env, _ := os.ReadFile(h.Path("/run/env"))
			for _, want := range []string{"ETCDCTL_USER=pgha:the password", "ETCDCTL_CERT=" + h.Root + "/etc/pgha/etcd/dcs/server.crt", "ETCDCTL_ENDPOINTS=https://10.0.0.1:2379"} {
				if !strings.Contains(string(env), want) {
					t.Errorf("etcdctl runs without %s:\n%s", want, env)
				}
			}
			for _, c := range h.Calls() {
				if strings.Contains(c, "the password") {
					t.Errorf("the password is an argument: %s", c)
				}
			}

			// None are removed where no number is given.
			if _, err := takeSnapshot(t, h, "0"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Whatever goes wrong ends with an error, leaves nothing half, and removes no
// snapshot that there is.
func TestSnapshotScriptFails(t *testing.T) {
	const good = `case $1 in
endpoint) echo '[{"Status":{"header":{"member_id":77},"dbSize":20480,"leader":77}}]' ;;
snapshot) `
	for name, c := range map[string]struct {
		etcdctl, etcdutl, df string
		want                 string
	}{
		"no quorum":         {etcdctl: `echo '[{"Status":{"header":{"member_id":77},"dbSize":20480,"leader":0}}]'`, want: "knows no leader"},
		"it does not run":   {etcdctl: `echo "context deadline exceeded" >&2; exit 1`, want: "context deadline exceeded"},
		"the save fails":    {etcdctl: good + `printf half >"$3.part"; echo "no space left on device" >&2; exit 1 ;; esac`, want: "no space left on device"},
		"it is unreadable":  {etcdutl: `echo "file does not exist or is corrupt" >&2; exit 1`, want: "cannot be read"},
		"it has no keys":    {etcdutl: `echo '{"hash":1}'`, want: "has no revision"},
		"a byte is flipped": {etcdctl: good + `printf 'the databasX%032d' 0 >"$3" ;; esac`, want: "did not arrive whole"},
		"the disk is full":  {df: `echo head; echo "x 100 90 65000 90% /"`, want: "No space left on device"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, shell := range shellhost.Shells(t) {
				h := snapshotHost(t, shell)
				if err := os.WriteFile(h.Path("/var/lib/snapshots/20200101T000000Z-pg1.db"), []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
				for program, text := range map[string]string{"etcdctl": c.etcdctl, "etcdutl": c.etcdutl, "df": c.df} {
					if text != "" {
						h.Program(program, text)
					}
				}
				_, err := takeSnapshot(t, h, "1")
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("the error is %v, want %q", err, c.want)
				}
				if files := snapshotFiles(t, h); !slices.Equal(files, []string{"20200101T000000Z-pg1.db"}) {
					t.Errorf("left: %v", files)
				}
			}
		})
	}
}

// A member that does not lead does nothing, unless it was told to act.
func TestSnapshotScriptFollows(t *testing.T) {
	for _, shell := range shellhost.Shells(t) {
		h := snapshotHost(t, shell)
		h.Program("etcdctl", `echo '[{"Status":{"header":{"member_id":77},"dbSize":20480,"leader":78}}]'; [ "$1" = endpoint ]`)
		out, err := takeSnapshot(t, h)
		if err != nil || !strings.Contains(out, "another member leads") || len(snapshotFiles(t, h)) > 0 {
			t.Errorf("%q, %v, %v", out, err, snapshotFiles(t, h))
		}
		if _, err := takeSnapshot(t, h, "2", "pg1", "always"); err == nil {
			t.Error("it did nothing though it was told to act always")
		}
	}
}

// Of a unit's journal, what the last attempt has said.
func TestLastAttempt(t *testing.T) {
	got := lastAttempt([]string{
		"No space left on device: old", "Starting pgha-etcd-snapshot.service - Snapshot of the etcd cluster dcs...",
		`{"level":"info","msg":"created temporary db file"}`, `{"level":"warn","msg":"retrying","error":"deadline"}`, "the snapshot cannot be read: it was not kept",
		"pgha-etcd-snapshot.service: Failed with result 'exit-code'.",
	})
	want := []string{"warn: retrying: deadline", "the snapshot cannot be read: it was not kept", "pgha-etcd-snapshot.service: Failed with result 'exit-code'."}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// What is written to the hosts is read back by an import.
func TestParseSnapshots(t *testing.T) {
	s := Spec{Name: "dcs", TLS: true, Auth: true, ClientPort: 2379, Members: map[string]Member{"pg1": {Address: "fd00::1"}}}
	s.Snapshots = &Snapshots{Schedule: "Mon..Fri 22:30", Keep: 5, Directory: "/srv/etcd"}
	files := s.snapshotFiles("pg1")
	golden.Files(t, "snapshots", files[1:]...)
	if got := parseSnapshots("dcs", string(files[1].Content), string(files[2].Content)); got == nil || *got != *s.Snapshots {
		t.Errorf("%+v", got)
	}
	if got := parseSnapshots("other", string(files[1].Content), string(files[2].Content)); got != nil {
		t.Errorf("taken for another cluster's: %+v", got)
	}
	if got := parseSnapshots("dcs", "[Service]\nExecStart=/bin/true\n", ""); got != nil {
		t.Errorf("taken for ours: %+v", got)
	}
}

// The snapshots on a host are listed where its service has them, or else in the
// usual place; what is unfinished or somebody else's is left out.
func TestSnapshotList(t *testing.T) {
	for _, shell := range shellhost.Shells(t) {
		h := snapshotHost(t, shell)
		for _, f := range []string{"20200102T000000Z-pg1.db", "20200101T000000Z-pg-2.db", ".20200103T000000Z-pg1.db", "other.db"} {
			if err := os.WriteFile(filepath.Join(h.Path("/var/lib/snapshots"), f), []byte("four"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(h.Path("/etc/systemd/unit"), []byte("[Service]\nReadWritePaths="+h.Path("/var/lib/snapshots")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"/etc/systemd/unit", "/nowhere"}, {"/etc/systemd/missing", "/var/lib/snapshots"}, {"/etc/systemd/missing", "/var/lib/nothing"}} {
			r, err := h.Run(t.Context(), host.Cmd{Name: "etcd.snapshots", Script: remote.Script(scripts, "scripts/snapshot_list.sh"), Args: args})
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(string(r.Stdout), h.Root, "")
			want := "directory=/var/lib/snapshots\nsnapshot=4 20200101T000000Z-pg-2.db\nsnapshot=4 20200102T000000Z-pg1.db\n"
			if args[1] == "/var/lib/nothing" {
				want = "directory=/var/lib/nothing\n"
			}
			if got != want {
				t.Errorf("%v: %q", args, got)
			}
		}
	}
}
