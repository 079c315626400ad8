package crossdc

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// cluster is a cluster of a site; with a group, one of a Citus formation.
func cluster(site string, groups ...int) []Member {
	one := func(citus *patroni.Citus, hosts ...string) Member {
		return Member{Hosts: hosts, Cluster: patroni.Cluster{
			Scope: "main", Namespace: "/service/", UID: site, PostgresPort: 5432, Citus: citus,
			Etcd:  etcd.Access{Name: "dcs", Members: map[string]etcd.Member{site: {Address: site, Target: host.Target{Name: site, Address: site}}}},
			Users: patroni.Users{Superuser: "postgres", Replication: "r", Rewind: "w"},
		}}
	}
	if len(groups) == 0 {
		return []Member{one(nil, site+"-1", site+"-2")}
	}
	var list []Member
	for _, g := range groups {
		list = append(list, one(&patroni.Citus{Group: g, Database: "db"}, site+"-1", site+"-2"))
	}
	return list
}

func spec(primary string, sites ...string) Spec {
	s := Spec{Name: "main", Primary: primary, Sites: map[string]Site{}, Limits: DefaultLimits}
	for _, name := range sites {
		s.Sites[name] = Site{Clusters: cluster(name)}
	}
	return s
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Spec)
		want   string // empty if it is right
	}{
		"right":     {func(*Spec) {}, ""},
		"cascading": {func(s *Spec) { s.Sites["dc3"] = Site{Clusters: cluster("dc3"), Follow: "dc2"} }, ""},
		"citus": {func(s *Spec) {
			s.Sites = map[string]Site{"dc1": {Clusters: cluster("dc1", 0, 1)}, "dc2": {Clusters: cluster("dc2", 0, 1)}}
		}, ""},
		"one site":         {func(s *Spec) { delete(s.Sites, "dc2"); delete(s.Sites, "dc3") }, "fewer than two sites"},
		"no such primary":  {func(s *Spec) { s.Primary = "dc9" }, "none of the sites dc1, dc2, dc3"},
		"follows itself":   {func(s *Spec) { s.Sites["dc3"] = Site{Clusters: cluster("dc3"), Follow: "dc3"} }, "which is no other site"},
		"follows nobody":   {func(s *Spec) { s.Sites["dc3"] = Site{Clusters: cluster("dc3"), Follow: "dc9"} }, "which is no other site"},
		"the same twice":   {func(s *Spec) { s.Sites["dc3"] = Site{Clusters: cluster("dc2")} }, "is in site dc2 and in site dc3"},
		"without hosts":    {func(s *Spec) { s.Sites["dc3"].Clusters[0].Hosts = nil }, "has no hosts"},
		"without clusters": {func(s *Spec) { s.Sites["dc3"] = Site{} }, "has no clusters"},
		"other accounts":   {func(s *Spec) { s.Sites["dc3"].Clusters[0].Cluster.Users.Rewind = "x" }, "a standby has its primary's"},
		"a group more": {func(s *Spec) {
			s.Sites["dc1"] = Site{Clusters: cluster("dc1", 0, 1)}
			s.Sites["dc2"] = Site{Clusters: cluster("dc2", 0)}
		}, "site dc1 has 2 clusters, and site dc2 has 1"},
		"other groups": {func(s *Spec) {
			s.Sites["dc1"] = Site{Clusters: cluster("dc1", 0, 1)}
			s.Sites["dc2"] = Site{Clusters: cluster("dc2", 0, 2)}
			delete(s.Sites, "dc3")
		}, "each group needs its counterpart"},
		"in a circle": {func(s *Spec) {
			s.Sites["dc2"] = Site{Clusters: cluster("dc2"), Follow: "dc3"}
			s.Sites["dc3"] = Site{Clusters: cluster("dc3"), Follow: "dc2"}
		}, "in a circle"},
		"a circle of primary": {func(s *Spec) { s.Sites["dc1"] = Site{Clusters: cluster("dc1"), Follow: "dc2"} }, ""}, // while it is the primary it follows nobody
	} {
		s := spec("dc1", "dc1", "dc2", "dc3")
		c.change(&s)
		err := s.Check()
		if got := ""; err != nil {
			got = err.Error()
			if c.want == "" || !strings.Contains(got, c.want) {
				t.Errorf("%s: %s", name, got)
			}
		} else if c.want != "" {
			t.Errorf("%s: nothing is wrong with it", name)
		}
	}
}

// What a site's clusters are told follows from who is the primary.
func TestStandby(t *testing.T) {
	s := spec("dc1", "dc1", "dc2", "dc3")
	s.Sites["dc3"] = Site{Clusters: cluster("dc3"), Follow: "dc2", Delay: time.Hour}
	for name, c := range map[string]struct {
		site, primary string
		standby       map[string]any
		slots         []string
	}{
		"the primary":                        {"dc1", "dc1", nil, []string{"slots/pgha_site_dc2"}},
		"a standby":                          {"dc2", "dc1", map[string]any{"host": "dc1-1,dc1-2", "port": int64(5432), "primary_slot_name": "pgha_site_dc2"}, nil},
		"one that follows a standby":         {"dc3", "dc1", map[string]any{"host": "dc2-1,dc2-2", "port": int64(5432), "recovery_min_apply_delay": "3600000ms"}, nil},
		"the same when that is the primary":  {"dc3", "dc2", map[string]any{"host": "dc2-1,dc2-2", "port": int64(5432), "primary_slot_name": "pgha_site_dc3", "recovery_min_apply_delay": "3600000ms"}, nil},
		"who is followed when it is primary": {"dc2", "dc2", nil, []string{"slots/pgha_site_dc1", "slots/pgha_site_dc3"}},
	} {
		if d := cmp.Diff(c.standby, s.standby(c.site, 0, c.primary)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		if d := cmp.Diff(c.slots, slices.Sorted(maps.Keys(s.slots(c.site, 0, c.primary)))); d != "" {
			t.Errorf("slots of %s (-want +got):\n%s", name, d)
		}
	}
	// Where one address leads to a standby's leader, a slot there can be used.
	s.Sites["dc2"].Clusters[0].Hosts = []string{"dc2-vip"}
	if got := s.standby("dc3", 0, "dc1")["primary_slot_name"]; got != "pgha_site_dc3" {
		t.Errorf("behind one address: slot %v", got)
	}
	if _, there := s.slots("dc2", 0, "dc1")["slots/pgha_site_dc3"]; !there {
		t.Error("nobody keeps WAL for dc3")
	}
}

// at is a view of the sites as they would be with a primary, with databases and notes.
func (s Spec) at(primary string) view {
	v := view{}
	for _, name := range s.names() {
		for i, m := range s.Sites[name].Clusters {
			config := patroni.Settings{"ttl": int64(30)}
			maps.Copy(config, s.slots(name, i, primary))
			if st := s.standby(name, i, primary); st != nil {
				config[standbyPath] = st
			}
			text, err := patroni.ParseDocument(config.Document().JSON())
			if err != nil {
				panic(err)
			}
			secrets := patroni.Secrets{Superuser: "1", Replication: "2", Rewind: "3"}
			v[name] = append(v[name], &look{
				site: name, index: i, cluster: m.Cluster,
				known: patroni.Known{Config: text, ConfigRevision: 1, Initialize: "77", Initialized: true, Secrets: &secrets, Leader: name + "-1", Nodes: map[string]patroni.NodeRecord{name + "-1": {}}},
				note:  &Note{Replication: s.Name, Site: name, Primary: primary, Generation: 3},
			})
		}
	}
	return v
}

// With everything as it should be there is nothing to do; what is missing is put in, in an
// order in which a slot is there before who uses it, and goes after.
func TestSettle(t *testing.T) {
	s := spec("dc1", "dc1", "dc2")
	if got := s.settle(s.at("dc1"), "dc1").String(); got != "" {
		t.Errorf("with nothing to do: %s", got)
	}
	fresh := s.at("dc1")
	for _, l := range fresh.all() {
		l.known = patroni.Known{Config: patroni.Document{}, ConfigRevision: 1, Secrets: &patroni.Secrets{Superuser: l.site}}
		l.note = nil
	}
	if got, want := s.settle(fresh, "dc1").String(),
		"crossdc.passwords@dc2 (main), crossdc.slots@dc1 (main), crossdc.follow@dc2 (main), crossdc.note@dc1 (main), crossdc.note@dc2 (main)"; got != want {
		t.Errorf("for a new one:\n%s, want\n%s", got, want)
	}
	// A cluster with a database that follows nobody is never told to: that would stop it.
	v := s.at("dc1")
	delete(v["dc2"][0].known.Config, "standby_cluster")
	if got := s.settle(v, "dc1").String(); strings.Contains(got, "follow") {
		t.Errorf("a primary is demoted: %s", got)
	}
	// Nor is a slot taken away that is somebody else's.
	v = s.at("dc1")
	v["dc1"][0].known.Config["slots"].(map[string]any)["backup"] = map[string]any{"type": "physical"}
	v["dc1"][0].known.Config["slots"].(map[string]any)["pgha_site_gone"] = map[string]any{"type": "physical"}
	if got := s.idle(v["dc1"][0], "dc1"); !slices.Equal(got, []string{"slots/pgha_site_gone"}) {
		t.Errorf("slots that go: %v", got)
	}
}

func TestPrimary(t *testing.T) {
	s := spec("dc1", "dc1", "dc2", "dc3")
	for name, c := range map[string]struct {
		change  func(view)
		primary string
		split   []string
	}{
		"as it should be": {func(view) {}, "dc1", nil},
		"nobody": {func(v view) {
			v["dc1"][0].known.Config[standbyPath] = map[string]any{"host": "dc2-1"}
		}, "", nil},
		"two": {func(v view) { delete(v["dc2"][0].known.Config, standbyPath) }, "", []string{"dc1", "dc2"}},
		"two of which one was given up": {func(v view) {
			delete(v["dc2"][0].known.Config, standbyPath)
			v["dc2"][0].note = &Note{Replication: "main", Site: "dc2", Primary: "dc2", Generation: 4, Lost: map[string]Lost{"dc1": {}}}
		}, "dc2", nil},
		"the primary cannot be reached":  {func(v view) { v["dc1"][0].err = errors.New("no route to host") }, "dc1", nil},
		"another site cannot be reached": {func(v view) { v["dc2"][0].err = errors.New("no route to host") }, "dc1", nil},
		"a new site": {func(v view) {
			delete(v["dc3"][0].known.Config, standbyPath)
			v["dc3"][0].note, v["dc3"][0].known.Initialized, v["dc3"][0].known.Initialize = nil, false, ""
		}, "dc1", nil},
	} {
		v := s.at("dc1")
		c.change(v)
		primary, split := s.primary(v)
		if primary != c.primary || !slices.Equal(split, c.split) {
			t.Errorf("%s: %q %v", name, primary, split)
		}
	}
}

// A forced move that was cut off before the promotion is known by its note, so that the next
// apply goes on with it.
func TestForcing(t *testing.T) {
	s := spec("dc2", "dc1", "dc2")
	for name, c := range map[string]struct {
		change func(view)
		want   string
	}{
		"nothing was given up": {func(view) {}, ""},
		"cut off": {func(v view) {
			v["dc2"][0].note = &Note{Primary: "dc2", Generation: 4, Lost: map[string]Lost{"dc1": {}}}
		}, "dc2"},
		"promoted": {func(v view) {
			v["dc2"][0].note = &Note{Primary: "dc2", Generation: 4, Lost: map[string]Lost{"dc1": {}}}
			delete(v["dc2"][0].known.Config, standbyPath)
		}, ""},
	} {
		v := s.at("dc1")
		c.change(v)
		if got := v.forcing(); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
		if given := v.gave("dc1"); given == (name == "nothing was given up") {
			t.Errorf("%s: dc1 was given up: %t", name, given)
		}
	}
}

// A cluster that a cut-off run has left in the middle of being cloned is cloned again.
func TestCloneCutOff(t *testing.T) {
	s := spec("dc1", "dc1", "dc2")
	v := s.at("dc1")
	v["dc2"][0].cloning, v["dc2"][0].known.Leader = "dc2-1", ""
	stale, err := Manager{}.stale(t.Context(), s, v, "dc1")
	if err != nil || len(stale) != 1 {
		t.Fatal(stale, err)
	}
	if got := strings.Join(Manager{}.clones(s, v, stale, "dc1").Describe(engine.Destructive), "; "); !strings.Contains(got, "begun and cut off") {
		t.Error(got)
	}
}

// What follows a cluster that is cloned is named, too, and comes after it.
func TestCloneCascade(t *testing.T) {
	s := spec("dc1", "dc1", "dc2", "dc3", "dc0")
	s.Sites["dc0"] = Site{Clusters: cluster("dc0"), Follow: "dc2"} // before it, by its name
	v := s.at("dc1")
	v["dc2"][0].cloning = "dc2-1"
	stale, err := Manager{}.stale(t.Context(), s, v, "dc1")
	var sites []string
	for _, l := range stale {
		sites = append(sites, l.site)
	}
	if err != nil || !slices.Equal(sites, []string{"dc2", "dc0"}) {
		t.Fatal(sites, err)
	}
	got := Manager{}.clones(s, v, stale, "dc1").Describe(engine.Destructive)
	if len(got) != 2 || !strings.Contains(got[1], "site dc2, which it follows, is cloned") {
		t.Errorf("%q", got)
	}
}

// Streams that end whenever the network is slow for a moment are named, with what to set.
func TestImpatient(t *testing.T) {
	s := spec("dc1", "dc1", "dc2")
	for name, c := range map[string]struct {
		set  map[string]string // of dc1
		away time.Duration
		want int
	}{
		"not set":                 {nil, time.Second, 0},
		"long enough":             {map[string]string{"wal_sender_timeout": "5s"}, 30 * time.Millisecond, 0},
		"too short":               {map[string]string{"wal_sender_timeout": "400"}, 30 * time.Millisecond, 1},
		"both":                    {map[string]string{"wal_sender_timeout": "400ms", "wal_receiver_timeout": "0.5s"}, 30 * time.Millisecond, 2},
		"for ever":                {map[string]string{"wal_sender_timeout": "0"}, time.Second, 0},
		"nobody knows how far":    {map[string]string{"wal_sender_timeout": "1ms"}, 0, 0},
		"it cannot be understood": {map[string]string{"wal_sender_timeout": "soon"}, time.Second, 0},
	} {
		v := s.at("dc1")
		parameters := map[string]any{}
		for k, value := range c.set {
			parameters[k] = value
		}
		v["dc1"][0].known.Config["postgresql"] = map[string]any{"parameters": parameters}
		list := impatient(v["dc2"][0], v["dc1"][0], c.away)
		if len(list) != c.want {
			t.Errorf("%s: %v", name, list)
		}
		for _, text := range list {
			if !strings.Contains(text, "site dc2 is 30ms away from site dc1") || !strings.Contains(text, "Set 600ms or more") {
				t.Errorf("%s: %s", name, text)
			}
		}
	}
}

// What does not belong together is refused.
func TestForeign(t *testing.T) {
	s := spec("dc1", "dc1", "dc2")
	for name, c := range map[string]struct {
		change func(view)
		want   string
	}{
		"right":               {func(view) {}, ""},
		"another replication": {func(v view) { v["dc2"][0].note.Replication = "other" }, `is in the replication "other" already`},
		"another site":        {func(v view) { v["dc2"][0].note.Site = "west" }, `is that of site "west"`},
		"another database":    {func(v view) { v["dc2"][0].known.Initialize = "78" }, "has a database of its own"},
		"no database yet":     {func(v view) { v["dc2"][0].known.Initialize = "" }, ""},
		"a name twice":        {func(v view) { v["dc2"][0].known.Nodes = map[string]patroni.NodeRecord{"dc1-1": {}} }, `both have a node "dc1-1"`},
	} {
		v := s.at("dc1")
		c.change(v)
		switch err := s.foreign(v, "dc1"); {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The acceptance of a loss counts once.
func TestAcceptance(t *testing.T) {
	if a, b := acceptance("dc1", 3), acceptance("dc1", 4); a == b || a != "dc1@3" {
		t.Errorf("%s %s", a, b)
	}
}
