package fakefleet_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

const citusPackage = "postgresql-17-citus"

// extended is a formation whose servers say which version Citus has.
type extended struct {
	*formation
	extension map[int]string // by group
	finished  int            // how often the update was
	pin       string         // versions.citus of all nodes
	wanted    string         // citus.extension_version
}

// extending runs a test on a complete formation of two groups, of Citus 13.2.2.
func extending(t *testing.T, do func(t *testing.T, e *extended)) {
	t.Helper()
	formed(t, 1, func(t *testing.T, f *formation) {
		e := &extended{formation: f, extension: map[int]string{0: "13.2-1", 1: "13.2-1"}, pin: "13.2.2"}
		e.servers()
		e.pins = func(n *patroni.Node) { n.Extensions = map[string]string{patroni.CitusExtension: e.pin} }
		e.shape = func(group int, s *patroni.ClusterSpec) {
			rollout := patroni.DefaultRollout()
			rollout.AllowDowntime = true // of two nodes, one is alone while the other restarts
			s.Rollout = &rollout
			if group == 0 {
				s.Extension = e.wanted
			}
		}
		if err := e.apply(patient(t), f.Start("first")); err != nil {
			t.Fatal(err)
		}
		f.check(0, 1)
		f.Settle()
		do(t, e)
	})
}

// group is the number of the group that a host is of.
func (e *extended) group(m *fakehost.Machine) int { return slices.Index(e.Machines(), m) / 2 }

func library(m *fakehost.Machine) string {
	version, _, _ := strings.Cut(m.Installed(citusPackage), "-")
	return version
}

// servers has them answer what they are asked about the extension. An update is made by
// the primary alone, whose library and those of its replicas have to be the new one's.
func (e *extended) servers() {
	e.Do(func() {
		for _, m := range e.Machines() {
			m.Publish(true, citusPackage, "13.2.2-1", "14.0.1-1")
		}
	})
	e.Handle("postgres.citus.extension", false, func(o *fakehost.Op) error {
		o.Printf("%s\tCitus %s on x86_64-pc-linux-gnu\n", e.extension[e.group(o.Machine)], library(o.Machine))
		return nil
	})
	e.Handle("postgres.citus.paths", false, func(o *fakehost.Op) error {
		if library(o.Machine) == "14.0.1" {
			o.Printf("14.0-1\n")
		}
		return nil
	})
	e.Handle("postgres.citus.update", true, func(o *fakehost.Op) error {
		g := e.group(o.Machine)
		if n := e.Patroni.Node(o.Machine); n == nil || !n.Primary() {
			return o.Fail(3, "ERROR:  cannot execute ALTER EXTENSION in a read-only transaction")
		}
		if library(o.Machine) != "14.0.1" {
			e.t.Errorf("the extension of group %d is updated on %s, which has the library %s", g, o.Machine.Name, library(o.Machine))
		}
		e.extension[g] = "14.0-1"
		return nil
	})
	e.Handle("postgres.citus.finish", true, func(*fakehost.Op) error {
		if e.extension[0] != "14.0-1" || e.extension[1] != "14.0-1" {
			e.t.Errorf("the update is finished with %v", e.extension)
		}
		e.finished++
		return nil
	})
}

// apply does what one apply of the whole does.
func (e *extended) apply(ctx context.Context, p *fakefleet.Process) error {
	return e.formation.apply(ctx, p, 0, 1)
}

// has looks at all servers.
func (e *extended) has(library, extension string) {
	e.t.Helper()
	e.Do(func() {
		for _, m := range e.Machines()[:4] {
			if v := m.Installed(citusPackage); v != library || e.extension[e.group(m)] != extension {
				e.t.Errorf("%s has Citus %s with the extension %s, and not %s with %s", m.Name, v, e.extension[e.group(m)], library, extension)
			}
		}
	})
}

// The library goes to all nodes and back while the extension is held, both go at once, and
// then there is no way back.
func TestFormationExtension(t *testing.T) {
	t.Parallel()
	extending(t, func(t *testing.T, e *extended) {
		step := func(name, pin, wanted string) error {
			e.pin, e.wanted = pin, wanted
			err := e.apply(patient(t), e.Start(name))
			e.Settle()
			return err
		}
		wantError(t, step("no word", "14.0.1", ""), "Citus 14.0.1 needs the extension at 14.0, which is 13.2-1", "extension_version", "is not given")
		e.has("13.2.2-1", "13.2-1")
		for _, s := range []struct{ name, pin, wanted, library, extension string }{
			{"held", "14.0.1", "13.2-1", "14.0.1-1", "13.2-1"},
			{"back", "13.2.2", "13.2-1", "13.2.2-1", "13.2-1"},
			{"the version first", "13.2.2", "14.0-1", "13.2.2-1", "13.2-1"},
			{"held again", "14.0.1", "13.2-1", "14.0.1-1", "13.2-1"},
			{"then raised", "14.0.1", "14.0-1", "14.0.1-1", "14.0-1"},
		} {
			if err := step(s.name, s.pin, s.wanted); err != nil {
				t.Fatal(err)
			}
			e.has(s.library, s.extension)
		}
		if e.finished != 1 {
			t.Errorf("the update was finished %d times", e.finished)
		}
		if err := step("again", "14.0.1", "14.0-1"); err != nil || len(e.Mutations("again")) > 0 {
			t.Errorf("applying again did something: %v %v", err, e.Mutations("again"))
		}
		wantError(t, step("too late", "13.2.2", "14.0-1"), "once the extension is updated there is no way back")
		e.has("14.0.1-1", "14.0-1")
	})
}

// A node whose library does not go with its formation's extension is refused.
func TestFormationExtensionDiffers(t *testing.T) {
	t.Parallel()
	extending(t, func(t *testing.T, e *extended) {
		applied, err := e.Start("third").PatroniManager().ApplyCluster(patient(t), e.spec(2))
		if err != nil {
			t.Fatal(err)
		}
		e.uids[2] = applied.UID
		n := e.node(e.of(2)[0])
		n.Extensions = map[string]string{patroni.CitusExtension: "14.0.1"}
		wantError(t, e.Start("other").PatroniManager().ApplyNode(patient(t), n), "versions.citus is 14.0.1, and main/0 has Citus 13.2.2 with the extension at 13.2-1")
		wantError(t, e.Start("planned").PatroniManager().FitsNode(patient(t), n), "versions.citus is 14.0.1")
	})
}

// Wherever an update of both is killed, the next run finishes it.
func TestFormationExtensionCrash(t *testing.T) {
	total := 0
	extending(t, func(t *testing.T, e *extended) {
		e.pin, e.wanted = "14.0.1", "14.0-1"
		p := e.Start("undisturbed")
		if err := e.apply(patient(t), p); err != nil {
			t.Fatal(err)
		}
		e.has("14.0.1-1", "14.0-1")
		if e.finished != 1 {
			t.Errorf("the update was finished %d times", e.finished)
		}
		total = p.Mutations()
	})
	t.Logf("%d changes", total)
	for k := 1; k <= total; k += stride(5, 1) {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			t.Parallel()
			extending(t, func(t *testing.T, e *extended) {
				e.pin, e.wanted = "14.0.1", "14.0-1"
				_ = e.apply(patient(t), e.Start("killed", fakehost.CrashAfter(k)))
				e.Sleep(time.Minute)
				second := e.Start("second")
				if err := e.apply(patient(t), second); err != nil {
					t.Log(second.Output())
					t.Fatal(err)
				}
				e.has("14.0.1-1", "14.0-1")
				if e.finished == 0 {
					t.Error("the update was not finished")
				}
				e.check(0, 1)
			})
		})
	}
}
