package etcd

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What etcd 3.5 said on a disk that was full, again and again.
const fullDisk = `{"level":"info","ts":"2026-11-27T20:55:34.524000Z","caller":"etcdmain/etcd.go:73","msg":"Running: ","args":["/usr/bin/etcd"]}
{"level":"warn","ts":"2026-11-27T20:55:34.525606Z","caller":"wal/wal.go:147","msg":"failed to preallocate an initial WAL file","path":"/var/lib/etcd/dcs/member/wal.tmp/0.wal","segment-bytes":64000000,"error":"no space left on device"}
{"level":"panic","ts":"2026-11-27T20:55:34.525681Z","caller":"etcdserver/raft.go:490","msg":"failed to create WAL","error":"no space left on device","stacktrace":"go.etcd.io/etcd/server/etcdserver.startNode"}
panic: failed to create WAL

goroutine 1 [running]:
go.uber.org/zap.(*Logger).Panic(0xc00047a070?, {0x124890d?, 0x1c?}, {0xc0004a4b80, 0x1, 0x1})
	go.uber.org/zap@v1.17.0/logger.go:226 +0x45
etcd.service: Failed with result 'exit-code'.
`

func TestTelling(t *testing.T) {
	want := []string{
		"warn: failed to preallocate an initial WAL file: no space left on device (path /var/lib/etcd/dcs/member/wal.tmp/0.wal)",
		"panic: failed to create WAL: no space left on device",
		"panic: failed to create WAL",
		"etcd.service: Failed with result 'exit-code'.",
	}
	if d := cmp.Diff(want, telling(strings.Split(fullDisk+fullDisk+fullDisk, "\n"))); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	calm := []string{`{"level":"info","msg":"one"}`, "Started etcd.service - etcd."}
	if d := cmp.Diff([]string{"info: one", "Started etcd.service - etcd."}, telling(calm)); d != "" {
		t.Errorf("without a complaint (-want +got):\n%s", d)
	}
}

// What one process said as it ended is of no account for why the next one does not
// start; how it ends again and again is.
func TestTellingOfTheLastStart(t *testing.T) {
	lines := strings.Split(`{"level":"warn","msg":"closed TCP streaming connection with remote peer"}
Stopped etcd.service - etcd.
Starting etcd.service - etcd...
it is forbidden
etcd.service: Control process exited, code=exited, status=1/FAILURE
etcd.service: Failed with result 'exit-code'.
etcd.service: Scheduled restart job, restart counter is at 1.
Starting etcd.service - etcd...`, "\n")
	if d := cmp.Diff([]string{"it is forbidden", "etcd.service: Failed with result 'exit-code'."}, telling(lines)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	old := []string{
		"Starting etcd.service - etcd...", "2026-11-29 14:00:00.000000 I | etcdmain: Git SHA: Not provided", "2026-11-29 14:00:00.000001 W | etcdmain: found invalid file",
		"2026-11-29 14:00:00.000002 C | etcdmain: cannot access data directory",
	}
	if d := cmp.Diff(old[2:], telling(old)); d != "" {
		t.Errorf("of 3.4 (-want +got):\n%s", d)
	}
}
