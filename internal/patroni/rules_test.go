package patroni

import (
	"encoding/json"
	"strings"
	"testing"
)

// What Patroni or the server would quietly ignore is refused, with the reason.
func TestCheckParameter(t *testing.T) {
	for _, c := range []struct{ name, value, says string }{
		{"work_mem", "64MB", ""},
		{"Work_Mem", "64MB", ""},
		{"pg_stat_statements.max", "1000", ""},
		{"work mem", "1", "is not the name of a parameter"},
		{"a;b", "1", "is not the name of a parameter"},
		{"LISTEN_ADDRESSES", "*", "Patroni sets it from the node's own address"},
		{"ssl_key_file", "/x", "the provider keeps the key on each node"},
		{"synchronous_standby_names", "*", "use synchronous_mode"},
		{"max_connections", "24", "Patroni needs at least 25"},
		{"max_connections", "25", ""},
		{"wal_keep_size", "15MB", "Patroni needs at least 16MB"},
		{"wal_keep_size", "1GB", ""},
		{"wal_level", "minimal", "it must be one of replica, logical"},
		{"wal_level", "Logical", ""},
	} {
		got := CheckParameter(17, c.name, c.value)
		if c.says == "" && got != "" || !strings.Contains(got, c.says) {
			t.Errorf("%s = %q: %q, want %q", c.name, c.value, got, c.says)
		}
	}
}

// The three numbers on which failure detection rests; the presets keep the rule.
func TestCheckTiming(t *testing.T) {
	for _, c := range []struct {
		ttl, loopWait, retryTimeout int64
		paths                       string
	}{
		{30, 10, 10, ""}, {20, 1, 3, ""},
		{19, 1, 3, "ttl"}, {20, 0, 3, "loop_wait"}, {20, 1, 2, "retry_timeout"}, {0, 0, 0, "ttl loop_wait retry_timeout"},
		{29, 10, 10, "ttl"}, {30, 11, 10, "ttl"},
	} {
		var paths []string
		for _, v := range CheckTiming(c.ttl, c.loopWait, c.retryTimeout) {
			paths = append(paths, v.Path)
		}
		if got := strings.Join(paths, " "); got != c.paths {
			t.Errorf("%d %d %d: %q, want %q", c.ttl, c.loopWait, c.retryTimeout, got, c.paths)
		}
	}
	for _, name := range PresetNames() {
		if p := Presets[name]; len(CheckTiming(p.TTL, p.LoopWait, p.RetryTimeout)) > 0 {
			t.Errorf("the preset %s breaks the rule", name)
		}
	}
}

func member(name, role, state, lag string, tags map[string]any) ClusterMember {
	return ClusterMember{Name: name, Role: role, State: state, Lag: json.RawMessage(lag), Tags: tags}
}

// Who takes over from the leader pg1.
func TestCandidate(t *testing.T) {
	lead := member("pg1", "leader", "running", "", nil)
	for name, c := range map[string]struct {
		others []ClusterMember
		want   string
	}{
		"nobody":                  {nil, ""},
		"the least behind":        {[]ClusterMember{member("pg2", "replica", "streaming", "100", nil), member("pg3", "replica", "streaming", "0", nil)}, "pg3"},
		"synchronous before near": {[]ClusterMember{member("pg2", "replica", "streaming", "0", nil), member("pg3", "sync_standby", "streaming", "10", nil)}, "pg3"},
		"quorum counts":           {[]ClusterMember{member("pg2", "replica", "streaming", "0", nil), member("pg3", "quorum_standby", "streaming", "10", nil)}, "pg3"},
		"not one that starts":     {[]ClusterMember{member("pg2", "replica", "starting", "0", nil), member("pg3", "replica", "running", "9", nil)}, "pg3"},
		"not one of unknown lag":  {[]ClusterMember{member("pg2", "replica", "streaming", `"unknown"`, nil)}, ""},
		"not with nofailover":     {[]ClusterMember{member("pg2", "replica", "streaming", "0", map[string]any{"nofailover": true})}, ""},
		"nor with its text":       {[]ClusterMember{member("pg2", "replica", "streaming", "0", map[string]any{"nofailover": "yes"})}, ""},
		"not with priority zero":  {[]ClusterMember{member("pg2", "replica", "streaming", "0", map[string]any{"failover_priority": json.Number("0")})}, ""},
		"with priority one":       {[]ClusterMember{member("pg2", "replica", "streaming", "0", map[string]any{"failover_priority": 1.0})}, "pg2"},
		"nofailover false wins":   {[]ClusterMember{member("pg2", "replica", "streaming", "0", map[string]any{"nofailover": false, "failover_priority": 0})}, "pg2"},
	} {
		got, others := candidate(ClusterView{Members: append([]ClusterMember{lead}, c.others...)})
		if got != c.want || others != len(c.others) {
			t.Errorf("%s: %q of %d, want %q", name, got, others, c.want)
		}
	}
}

// A member does its work, or it is said what it does instead.
func TestRunning(t *testing.T) {
	for name, c := range map[string]struct {
		status string
		ok     bool
		why    string
	}{
		"primary":                 {`{"state": "running", "role": "primary"}`, true, ""},
		"primary of Patroni 3":    {`{"state": "running", "role": "master"}`, true, ""},
		"standby leader":          {`{"state": "running", "role": "standby_leader"}`, true, ""},
		"replica":                 {`{"state": "running", "role": "replica", "replication_state": "streaming"}`, true, ""},
		"catching up":             {`{"state": "running", "role": "replica", "replication_state": "in archive recovery"}`, false, "in archive recovery"},
		"not connected":           {`{"state": "running", "role": "replica", "patroni": {"version": "4.0.7"}}`, false, "does not stream yet"},
		"an old one that does":    {`{"state": "running", "role": "replica", "patroni": {"version": "3.0.2"}, "xlog": {"received_location": 5}}`, true, ""},
		"an old one that doesn't": {`{"state": "running", "role": "replica", "patroni": {"version": "3.0.2"}, "xlog": {}}`, false, "does not stream yet"},
		"cloning":                 {`{"state": "creating replica", "role": "uninitialized"}`, false, "PostgreSQL is creating replica"},
	} {
		var st NodeStatus
		if err := json.Unmarshal([]byte(c.status), &st); err != nil {
			t.Fatal(err)
		}
		if ok, why := Running(st); ok != c.ok || !strings.Contains(why, c.why) {
			t.Errorf("%s: %v %q", name, ok, why)
		}
	}
}

// The last node of a protected cluster stays.
func TestProtected(t *testing.T) {
	n := exampleNode()
	alone := Known{Record: &Record{DeletionProtection: true}, Initialized: true, Nodes: map[string]NodeRecord{"pg2": {}}, Members: map[string]Member{"pg2": {}}}
	if Protected(n, alone) == nil {
		t.Error("the last node is not protected")
	}
	for name, change := range map[string]func(*Known){
		"not protected":             func(k *Known) { k.Record = &Record{} },
		"no record":                 func(k *Known) { k.Record = nil },
		"never initialised":         func(k *Known) { k.Initialized = false },
		"another node":              func(k *Known) { k.Nodes = map[string]NodeRecord{"pg1": {}, "pg2": {}} },
		"a member that is not ours": func(k *Known) { k.Members = map[string]Member{"other": {}} },
	} {
		k := alone
		change(&k)
		if err := Protected(n, k); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
