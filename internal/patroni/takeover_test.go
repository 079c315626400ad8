package patroni

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// What a database says of itself is read, and its settings are written so that
// PostgreSQL reads the same again.
func TestStandalone(t *testing.T) {
	s, err := parseStandalone(strings.Join([]string{
		"port=5433", "status=online,recovery", "data=/srv/pg", "system=7", "standby=false", "version=170011", "replicas=2",
		"now.max_connections=" + b64("300"), "now.wal_level=" + b64("logical"),
		"set.work_mem=" + b64("7MB"), "set.log_line_prefix=" + b64("it's \\ %m\n"), "set.data_directory=" + b64("/srv/pg"), "set.max_connections=" + b64("300"),
		"hba=" + b64("# comment\n\nhost  all\tall samenet md5\n"),
	}, "\n") + "\n")
	if err != nil {
		t.Fatal(err)
	}
	want := &Standalone{
		Online: true, Port: 5433, DataDir: "/srv/pg", SystemID: "7", Version: 170011, Replicas: 2,
		Now: map[string]string{"max_connections": "300", "wal_level": "logical"},
		Set: map[string]string{"work_mem": "7MB", "log_line_prefix": "it's \\ %m\n", "data_directory": "/srv/pg", "max_connections": "300"},
		HBA: []string{"host all all samenet md5"},
	}
	if d := cmp.Diff(want, s); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	conf := strings.SplitN(string(s.conf("/srv/pg").Content), "\n", 2)[1]
	if d := cmp.Diff("log_line_prefix = 'it''s \\\\ %m\\n'\nwork_mem = '7MB'\n", conf); d != "" {
		t.Errorf("conf (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{`max_connections = "300"`, `wal_level = "logical"`}, s.lowered(Document{})); d != "" {
		t.Errorf("lowered (-want +got):\n%s", d)
	}
	config := Settings{Parameter("max_connections"): "400", Parameter("wal_level"): "logical"}.Document()
	if got := s.lowered(config); len(got) > 0 {
		t.Errorf("lowered: %v", got)
	}
	if s, err := parseStandalone(""); s != nil || err != nil {
		t.Errorf("nothing is %v %v", s, err)
	}
	if _, err := parseStandalone("now.wal_level=!\n"); err == nil {
		t.Error("noise was accepted")
	}
}

// The others wait for the node that takes its database over as long as that can
// take, and not for one that was refused.
func TestTakeOverLate(t *testing.T) {
	c := Cluster{TakeOver: TakeOver{Node: "pg1", Debian: "17/main"}}
	begun := Known{Nodes: map[string]NodeRecord{"pg1": {}}}
	for _, w := range []struct {
		k      Known
		waited time.Duration
		late   bool
	}{{Known{}, 30 * time.Second, false}, {Known{}, 2 * time.Minute, true}, {begun, 15 * time.Minute, false}, {begun, time.Hour, true}} {
		if err := takeOverLate(c, w.k, w.waited); (err != nil) != w.late {
			t.Errorf("after %s: %v", w.waited, err)
		}
	}
}
