package citus

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

func TestOf(t *testing.T) {
	all := []Holding{{1, "orders", 16, true, false, false}, {1, "items", 16, true, false, false}, {2, "orders", 16, true, false, false}}
	if list, n := of(all, 1); n != 32 || len(list) != 2 {
		t.Errorf("%d shards of %v", n, list)
	}
	if list, n := of(all, 3); n != 0 || len(list) != 0 {
		t.Errorf("%d shards of %v", n, list)
	}
}

// Only moves that need it ask for a replica identity.
func TestMovable(t *testing.T) {
	held := []Holding{{1, "orders", 16, true, false, false}, {1, "loose", 16, false, false, false}, {2, "loose", 16, false, false, false}}
	for mode, refused := range map[string]bool{"auto": true, "force_logical": false, "block_writes": false} {
		err := Moving{Mode: mode}.movable(held)
		var p *problem.Error
		if (err != nil) != refused || refused && (!errors.As(err, &p) || p.Step != CannotMove || !strings.HasPrefix(p.Cause.Error(), "loose: no primary key")) {
			t.Errorf("%s: %v", mode, err)
		}
	}
	if err := (Moving{Mode: "auto"}).movable(held[:1]); err != nil {
		t.Error(err)
	}
	// A key is of no use to a columnar table.
	held[0].Columnar = true
	if err := (Moving{Mode: "auto"}).movable(held[:1]); err == nil || !strings.Contains(err.Error(), "orders: columnar") {
		t.Error(err)
	}
}

// Fewer rows are lost ones, unless somebody deletes.
func TestMissing(t *testing.T) {
	before := map[string]Count{"same": {10, 3}, "more": {10, 0}, "queue": {10, 3}, "fewer": {10, 3}, "dropped": {10, 0}}
	after := map[string]Count{"same": {10, 3}, "more": {11, 0}, "queue": {2, 4}, "fewer": {9, 3}}
	lost, deleted := missing(before, after)
	if want := []string{"fewer: 10 rows before, 9 now"}; !slices.Equal(lost, want) {
		t.Errorf("lost are %q", lost)
	}
	if want := []string{"queue: 10 rows before, 2 now"}; !slices.Equal(deleted, want) {
		t.Errorf("deleted are %q", deleted)
	}
}

// A partitioned table has its rows in its partitions.
func TestCounted(t *testing.T) {
	held := []Holding{{1, "orders", 16, true, false, false}, {2, "orders", 16, true, false, false}, {1, "events", 16, true, true, false}, {1, "events_1", 16, true, false, false}}
	if got, want := counted(held), []string{"events_1", "orders"}; !slices.Equal(got, want) {
		t.Errorf("counted are %q", got)
	}
}

func TestText(t *testing.T) {
	v := View{
		Nodes: []Node{
			{Group: 0, Host: "10.0.0.1", Port: 5432, Role: "primary", Active: true, Metadata: true, Synced: true},
			{Group: 1, Host: "10.0.0.3", Port: 5432, Role: "primary", Active: true},
			{Group: 1, Host: "10.0.0.4", Port: 5432, Role: "secondary", Active: true},
		},
		Groups: []GroupView{{0, 0, 0}, {1, 32, 20 << 20}},
	}
	const want = `GROUP  NODE           ROLE       METADATA    SHARDS  SIZE
0      10.0.0.1:5432  primary    synced      0       0 KiB
1      10.0.0.3:5432  primary    not synced  32      20 MiB
1      10.0.0.4:5432  secondary
`
	var have []string
	for line := range strings.Lines(v.Text()) {
		have = append(have, strings.TrimRight(line, " \n"))
	}
	if got := strings.Join(have, "\n") + "\n"; got != want {
		t.Errorf("it is\n%s\nand not\n%s", got, want)
	}
}

func TestPreviewText(t *testing.T) {
	others := []Other{{Group: 2, Host: "10.0.0.5", Free: 20 << 20}, {Group: 3, Host: "10.0.0.7", Free: -1, Silent: []string{"d1", "d2"}}}
	p := Preview{Shards: 32, Bytes: 3 << 20, Tables: []Holding{{1, "items", 16, true, false, false}, {1, "orders", 16, true, false, false}}, Others: others}
	const want = "32 shards with 3072 KiB are moved, in a background job of Citus's, while they are read and written:\n  items: 16\n  orders: 16\nThey go to:\n" +
		"  group 2 (10.0.0.5), where the fullest node has 20 MiB free\n  group 3 (10.0.0.7); not asked for its room, since it does not answer: d1, d2"
	if got := p.String(); got != want {
		t.Errorf("it is %q", got)
	}
	p.Lost = true
	if got := p.String(); !strings.Contains(got, "goes with its 32 shards, and they are lost") || !strings.HasSuffix(got, "\n  items: 16\n  orders: 16") {
		t.Errorf("it is %q", got)
	}
}

func TestRoom(t *testing.T) {
	others := []Other{{Group: 2, Host: "b", Free: 30 << 20}, {Group: 3, Host: "c", Free: 20 << 20}}
	if err := room(others, 50<<20); err != nil {
		t.Error(err)
	}
	err := room(others, 50<<20+1)
	if err == nil || !strings.Contains(err.Error(), "the others together have room for 50 MiB: group 2 (b)") {
		t.Errorf("it says %v", err)
	}
	others[0].Free = -1
	if err := room(others, 1<<40); err != nil {
		t.Errorf("it is refused although nobody knows: %v", err)
	}
}

func TestJoiningText(t *testing.T) {
	j := Joining{Shards: 10, AllShards: 32, Bytes: 1 << 20, AllBytes: 3 << 20}
	if got := j.String(); !strings.HasPrefix(got, "About 10 of 32 shards, with 1024 KiB of 3072 KiB, are moved, an even share") {
		t.Errorf("it is %q", got)
	}
	j.Planned = true
	if got := j.String(); !strings.HasPrefix(got, "10 of 32 shards, with 1024 KiB of 3072 KiB, are moved, as Citus plans now. ") {
		t.Errorf("it is %q", got)
	}
}

func TestStrategy(t *testing.T) {
	tenth := 0.1
	for _, c := range []struct {
		m             Moving
		want, planned string
	}{
		{Moving{}, "null", "rebalance_strategy := null, threshold := null"},
		{Moving{Strategy: "by_disk_size"}, "E'by_disk_size'", "rebalance_strategy := E'by_disk_size', threshold := null"},
		{Moving{Threshold: &tenth}, "E'pgha_default_0.1'", "rebalance_strategy := null, threshold := 0.1"},
		{Moving{Strategy: "by_shard_count", Threshold: &tenth}, "E'pgha_by_shard_count_0.1'", "rebalance_strategy := E'by_shard_count', threshold := 0.1"},
	} {
		if got := c.m.strategy(); got != c.want {
			t.Errorf("%+v is %s, and not %s", c.m, got, c.want)
		}
		if got := c.m.planned(); got != c.planned {
			t.Errorf("%+v is planned with %s, and not %s", c.m, got, c.planned)
		}
	}
}
