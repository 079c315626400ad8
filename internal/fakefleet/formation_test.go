package fakefleet_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// formation is a Citus formation: a coordinator and two groups of workers, two hosts each.
type formation struct {
	*fakefleet.Fleet
	t      *testing.T
	shards map[int]int    // that a group holds
	rows   map[int]bool   // groups in pg_dist_node
	events []string       // what the coordinator was asked to do
	uids   map[int]string // by group
	// shape and pins change what clusters and nodes are to be, if they are given.
	shape func(group int, s *patroni.ClusterSpec)
	pins  func(*patroni.Node)
}

// formed runs a test on hosts for a formation, of which nothing is there yet but etcd.
func formed(t *testing.T, seed uint64, do func(t *testing.T, f *formation)) {
	t.Helper()
	f := &formation{t: t, shards: map[int]int{}, rows: map[int]bool{}, uids: map[int]string{}}
	bubbleOf(t, seed, 6, func(t *testing.T, fleet *fakefleet.Fleet) {
		f.Fleet, f.t = fleet, t
		f.model()
		if _, err := f.Start("etcd").EtcdManager().Apply(patient(t), f.EtcdSpec()); err != nil {
			t.Fatal(err)
		}
		do(t, f)
	})
}

// model has servers answer what they are asked about Citus. Patroni of the coordinator
// registers a group that has a leader in etcd.
func (f *formation) model() {
	group := func(o *fakehost.Op) int {
		text := string(o.Cmd.Stdin)
		i := strings.Index(text, "groupid = ")
		n, _ := strconv.Atoi(strings.FieldsFunc(text[i+len("groupid = "):], func(r rune) bool { return r < '0' || r > '9' })[0])
		return n
	}
	f.Handle("postgres.citus.prepared", false, func(o *fakehost.Op) error { o.Printf("0\n"); return nil })
	f.Handle("postgres.citus.property", true, func(o *fakehost.Op) error {
		f.events = append(f.events, fmt.Sprintf("shards %t on %d", strings.Contains(string(o.Cmd.Stdin), "true"), group(o)))
		return nil
	})
	f.Handle("postgres.citus.shouldhave", false, func(o *fakehost.Op) error { o.Printf("1\n"); return nil })
	f.Handle("postgres.citus.busy", false, func(o *fakehost.Op) error { o.Printf("0\n"); return nil })
	f.Handle("postgres.citus.placements", false, func(o *fakehost.Op) error {
		o.Printf("%d\torders\n", f.shards[group(o)])
		return nil
	})
	f.Handle("postgres.citus.remove", true, func(o *fakehost.Op) error {
		g := group(o)
		for _, m := range f.of(g) {
			if n := f.Patroni.Node(m); n != nil && m.Units["patroni.service"].Active == "active" {
				f.t.Errorf("group %d is removed while Patroni runs on %s", g, m.Name)
			}
		}
		f.events = append(f.events, fmt.Sprintf("removed %d", g))
		f.rows[g] = false
		return nil
	})
	f.Handle("postgres.citus.nodes", false, func(o *fakehost.Op) error {
		g := group(o)
		if st := f.Etcd.Stores(); len(st) > 0 {
			if _, leads := st[0].Get(fmt.Sprintf("/service/main/%d/leader", g)); leads {
				f.rows[g] = true
			}
		}
		o.Printf("%d\n", map[bool]int{true: 1}[f.rows[g]])
		return nil
	})
}

// of are the hosts of a group.
func (f *formation) of(group int) []*fakehost.Machine { return f.Machines()[2*group : 2*group+2] }

func (f *formation) spec(group int) patroni.ClusterSpec {
	s := f.ClusterSpec()
	s.Cluster.Citus = &patroni.Citus{Group: group, Database: "shop"}
	s.DeletionProtection = false
	if f.shape != nil {
		f.shape(group, &s)
	}
	return s
}

func (f *formation) node(m *fakehost.Machine) patroni.Node {
	n := f.Node(m, "")
	for i, other := range f.Machines() {
		if other == m {
			n.Cluster.Citus = &patroni.Citus{Group: i / 2, Database: "shop"}
			n.Cluster.UID = f.uids[i/2]
		}
	}
	if f.pins != nil {
		f.pins(&n)
	}
	return n
}

// apply makes groups and their nodes, all side by side.
func (f *formation) apply(ctx context.Context, p *fakefleet.Process, groups ...int) error {
	errs := make([]error, len(groups))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, g := range groups {
		wg.Go(func() {
			applied, err := p.PatroniManager().ApplyCluster(ctx, f.spec(g))
			if err == nil {
				mu.Lock()
				f.uids[g] = applied.UID
				mu.Unlock()
				err = p.Each(f.of(g), func(m *fakehost.Machine) error {
					mu.Lock()
					n := f.node(m)
					mu.Unlock()
					return p.PatroniManager().ApplyNode(ctx, n)
				})
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// check looks at all groups.
func (f *formation) check(groups ...int) {
	f.t.Helper()
	for _, g := range groups {
		f.WaitFor(fmt.Sprintf("group %d to be healthy", g), func() bool { return f.Patroni.Healthy(fmt.Sprintf("main/%d", g), 1) })
	}
	passwords := map[string]bool{}
	f.Do(func() {
		for _, g := range groups {
			for _, m := range f.of(g) {
				text := string(m.Files.Read("/etc/patroni/config.yml"))
				if !strings.Contains(text, fmt.Sprintf("citus:\n    group: %d\n    database: shop\n", g)) {
					f.t.Errorf("the file on %s has no group:\n%s", m.Name, text)
				}
				_, rest, _ := strings.Cut(text, "superuser:\n")
				_, rest, _ = strings.Cut(rest, "password: ")
				password, _, _ := strings.Cut(rest, "\n")
				passwords[password] = true
			}
		}
	})
	if len(passwords) != 1 {
		f.t.Errorf("the groups have %d passwords of the superuser", len(passwords))
	}
	keys := slices.DeleteFunc(f.Keys("/pgha/patroni/service/main/formation/"), func(k string) bool { return strings.HasSuffix(k, "/extension") })
	if len(keys) != 2 {
		f.t.Errorf("the formation has %v", keys)
	}
}

func TestFormation(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			formed(t, seed, func(t *testing.T, f *formation) {
				if err := f.apply(patient(t), f.Start("first"), 0, 1, 2); err != nil {
					t.Fatal(err)
				}
				f.check(0, 1, 2)
				f.Settle()
				if err := f.apply(patient(t), f.Start("again"), 0, 1, 2); err != nil {
					t.Fatal(err)
				}
				for _, m := range f.Mutations("again") {
					t.Errorf("applying again did something: %s", m)
				}
			})
		})
	}
}

// Whenever making a formation is cut off, the next run finishes it: with one set of
// passwords and one authority.
func TestFormationCrash(t *testing.T) {
	total := 0
	formed(t, 1, func(t *testing.T, f *formation) {
		p := f.Start("undisturbed")
		if err := f.apply(patient(t), p, 0, 1); err != nil {
			t.Fatal(err)
		}
		total = p.Mutations()
	})
	for k := 1; k <= total; k += stride(20, 4) {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			t.Parallel()
			formed(t, 1, func(t *testing.T, f *formation) {
				if err := f.apply(patient(t), f.Start("killed", fakehost.CrashAfter(k)), 0, 1); err == nil {
					t.Error("the run that was killed reports success")
				}
				f.Sleep(time.Minute)
				second := f.Start("second")
				if err := f.apply(patient(t), second, 0, 1); err != nil {
					t.Log(second.Output())
					t.Fatal(err)
				}
				f.check(0, 1)
			})
		})
	}
}

// leave takes a group out: its nodes, and then the cluster.
func (f *formation) leave(ctx context.Context, p *fakefleet.Process, group int) error {
	err := p.Each(f.of(group), func(m *fakehost.Machine) error { return p.PatroniManager().DestroyNode(ctx, f.node(m), true) })
	if err != nil {
		return err
	}
	c := f.spec(group).Cluster
	c.UID = f.uids[group]
	return p.PatroniManager().DestroyCluster(ctx, c, true)
}

// protect says of the coordinator's cluster whether it is protected.
func (f *formation) protect(on bool) {
	f.t.Helper()
	s := f.spec(0)
	s.DeletionProtection = on
	if _, err := f.Start(fmt.Sprint("protect ", on)).PatroniManager().ApplyCluster(patient(f.t), s); err != nil {
		f.t.Fatal(err)
	}
}

// A group that leaves goes out of the metadata after its Patroni has ended and before its
// server does; one that holds shards does not leave. What groups share goes with the last.
func TestFormationLeaves(t *testing.T) {
	t.Parallel()
	formed(t, 1, func(t *testing.T, f *formation) {
		if err := f.apply(patient(t), f.Start("first"), 0, 1, 2); err != nil {
			t.Fatal(err)
		}
		f.check(0, 1, 2)
		f.protect(true)
		f.Do(func() { f.shards[2], f.rows[1], f.rows[2] = 7, true, true })
		err := f.leave(patient(t), f.Start("refused"), 2)
		wantError(t, err, "is the last node of the group main/2, which holds 7 shards of orders")
		if fmt.Sprint(f.events) != "[shards false on 2 shards true on 2]" {
			t.Errorf("the coordinator was told %v", f.events)
		}
		f.events = nil
		f.Do(func() { f.shards[2] = 0 })
		if err := f.leave(patient(t), f.Start("leaves"), 2); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(f.events) != "[shards false on 2 removed 2]" || f.rows[2] {
			t.Errorf("the coordinator was told %v; the rows are %v", f.events, f.rows)
		}
		if keys := append(f.Keys("/service/main/2/"), f.Keys("/pgha/patroni/service/main/2/")...); len(keys) > 0 {
			t.Errorf("left in etcd: %v", keys)
		}
		f.check(0, 1)
		f.protect(false)
		for _, g := range []int{1, 0} {
			if err := f.leave(patient(t), f.Start(fmt.Sprint("end ", g)), g); err != nil {
				t.Fatal(err)
			}
		}
		if keys := append(f.Keys("/service/"), f.Keys("/pgha/patroni/")...); len(keys) > 0 {
			t.Errorf("left in etcd: %v", keys)
		}
		for _, m := range f.Machines() {
			for _, path := range f.Traces(m) {
				if strings.Contains(path, "patroni") {
					t.Errorf("left on %s: %s", m.Name, path)
				}
			}
		}
	})
}

// A formation that is not protected is told all the same: what fails once is tried again,
// and only shards keep a group that leaves in the metadata.
func TestFormationLeavesUnprotected(t *testing.T) {
	for name, c := range map[string]struct {
		shards int
		events string
	}{
		"the connection fails once": {0, "[shards false on 1 removed 1]"},
		"with its shards":           {7, "[shards false on 1]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			formed(t, 1, func(t *testing.T, f *formation) {
				if err := f.apply(patient(t), f.Start("first"), 0, 1); err != nil {
					t.Fatal(err)
				}
				f.check(0, 1)
				f.Do(func() { f.shards[1], f.rows[1] = c.shards, true })
				fault := fakehost.FailCall(func(c fakehost.Call) bool { return c.Name == "postgres.citus.remove" }, 1, fakehost.Verdict{Err: fakehost.Kind(host.KindLost)})
				if err := f.leave(patient(t), f.Start("leaves", fault), 1); err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprint(f.events); got != c.events {
					t.Errorf("the coordinator was told %s, and not %s", got, c.events)
				}
			})
		})
	}
}

// A group whose nodes were destroyed and their data kept comes back with it, and not
// paused.
func TestFormationComesBack(t *testing.T) {
	t.Parallel()
	formed(t, 1, func(t *testing.T, f *formation) {
		if err := f.apply(patient(t), f.Start("first"), 0, 1); err != nil {
			t.Fatal(err)
		}
		f.check(0, 1)
		before := f.SystemIDs()
		p := f.Start("leaves")
		if err := p.Each(f.of(1), func(m *fakehost.Machine) error { return p.PatroniManager().DestroyNode(patient(t), f.node(m), false) }); err != nil {
			t.Fatal(err)
		}
		if config := f.Value("/service/main/1/config"); strings.Contains(config, "pause") {
			t.Errorf("it stays paused: %s", config)
		}
		f.Sleep(time.Minute)
		if err := f.apply(patient(t), f.Start("back"), 0, 1); err != nil {
			t.Fatal(err)
		}
		f.check(0, 1)
		for _, m := range f.of(1) {
			if now := f.SystemIDs()[m.Name]; now != before[m.Name] {
				t.Errorf("%s has the database %s, and had %s", m.Name, now, before[m.Name])
			}
		}
	})
}

// Whenever the end of a group is cut off, the next run finishes it.
func TestFormationLeavesCrash(t *testing.T) {
	total := 0
	ready := func(t *testing.T, do func(t *testing.T, f *formation)) {
		formed(t, 1, func(t *testing.T, f *formation) {
			if err := f.apply(patient(t), f.Start("first"), 0, 1); err != nil {
				t.Fatal(err)
			}
			f.check(0, 1)
			f.protect(true)
			f.Do(func() { f.rows[1] = true })
			do(t, f)
		})
	}
	ready(t, func(t *testing.T, f *formation) {
		p := f.Start("undisturbed")
		if err := f.leave(patient(t), p, 1); err != nil {
			t.Fatal(err)
		}
		total = p.Mutations()
	})
	for k := 1; k <= total; k += stride(4, 1) {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			t.Parallel()
			ready(t, func(t *testing.T, f *formation) {
				_ = f.leave(patient(t), f.Start("killed", fakehost.CrashAfter(k)), 1)
				f.Sleep(time.Minute)
				second := f.Start("second")
				if err := f.leave(patient(t), second, 1); err != nil {
					t.Log(second.Output())
					t.Fatal(err)
				}
				if f.rows[1] {
					t.Error("the group is still in the metadata")
				}
				f.check(0)
			})
		})
	}
}

// What does not go together is refused, and leaves what there is alone.
func TestFormationRefuses(t *testing.T) {
	t.Parallel()
	formed(t, 1, func(t *testing.T, f *formation) {
		if err := f.apply(patient(t), f.Start("first"), 0); err != nil {
			t.Fatal(err)
		}
		refused := func(name string, s patroni.ClusterSpec, says ...string) {
			t.Helper()
			_, err := f.Start(name).PatroniManager().ApplyCluster(patient(t), s)
			wantError(t, err, says...)
			for _, m := range f.Mutations(name) {
				if !strings.Contains(fmt.Sprint(m), "lock") {
					t.Errorf("%s did something: %s", name, m)
				}
			}
		}
		refused("plain", f.ClusterSpec(), "the group 0 of a Citus formation")
		other := f.spec(1)
		other.Cluster.Citus.Database = "other"
		refused("database", other, "citus.database of group 1 is other, and that of group 0 is shop")
		other = f.spec(1)
		other.Cluster.Namespace = "/other/"
		refused("namespace", other, `has a cluster "main" already, in another namespace (/service/main/0/)`)
		other = f.spec(1)
		other.Cluster.APIPort = 8009
		refused("ports", other, "the ports (postgresql_port, rest_api_port) of group 1")
		other = f.spec(1)
		other.Cluster.Users.Replication = "somebody"
		refused("users", other, "the accounts (credentials) of group 1")
		other = f.spec(1)
		other.Origin = patroni.Origin{Superuser: patroni.Made(1)}
		refused("passwords", other, "other passwords are wanted")

		applied, err := f.Start("second").PatroniManager().ApplyCluster(patient(t), f.spec(1))
		if err != nil {
			t.Fatal(err)
		}
		f.uids[1] = applied.UID
		n := f.node(f.of(1)[0])
		n.Name = f.of(0)[0].Name
		wantError(t, f.Start("name").PatroniManager().ApplyNode(patient(t), n), `group 0 of main has a node "pg1" already`)
	})
}
