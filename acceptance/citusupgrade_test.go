package acceptance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// versions are what a group's nodes have of Citus: the library that runs, and the
// extension.
func (f *formation) versions() map[string]string {
	f.t.Helper()
	all := map[string]string{}
	for _, h := range slices.Concat(f.groups[:f.joined]...) {
		all[h] = f.on(h, `cd /; runuser -u postgres -- psql -XAtqd shop -c "select split_part(citus_version(), ' ', 2) || ' with ' || string_agg(extname || ' ' || extversion, ', ' order by extname) from pg_extension where extname like 'citus%'"`)
	}
	return all
}

// run waits until all nodes have a library and an extension.
func (f *formation) runs(library, extension string) {
	f.t.Helper()
	want := fmt.Sprintf("%s with citus %[2]s, citus_columnar %[2]s", library, extension)
	f.eventually("all nodes to run "+want, time.Minute, func(context.Context) (bool, string) {
		have := f.versions()
		for _, v := range have {
			if v != want {
				return false, fmt.Sprint(have)
			}
		}
		return true, ""
	})
}

// Citus goes to its next version: its library and its extension at once, while rows are
// written, and the apply is killed. From then on there is no way back; before, there is, and
// the library may go first alone.
func TestCitusUpgrade(t *testing.T) {
	turn(t)
	f := newFormation(t, []string{"c1", "c2"}, []string{"a1", "a2"}, []string{"b1", "b2"})
	from, to := f.citus, f.newest("postgresql-17-citus")
	if from == to {
		t.Skipf("SKIPPED: lab/extra-debs has one version of Citus only, %s", to)
	}
	minor := func(version string) string { return version[:strings.LastIndex(version, ".")] + "-1" }
	ctx := t.Context()
	f.configure(3)
	f.Apply(ctx)
	f.tables()
	for _, statement := range []string{
		"create extension citus_columnar", "create table events (id bigint, what text) using columnar", "select create_distributed_table('events', 'id')",
		"insert into events select n, 'e' from generate_series(1, 20000) n",
	} {
		f.shop(statement)
	}
	sums := func() string { return f.sums() + ", events " + f.shop("select count(*), sum(id) from events") }
	before := sums()
	f.runs(from, minor(from))

	t.Run("not without a word on the extension", func(t *testing.T) {
		f.citus = to
		f.configure(3)
		o := f.TryApply(ctx)
		if o.Code == 0 {
			t.Error("it is applied")
		}
		has(t, o, "Citus "+to+" needs the extension at", "citus.extension_version of the coordinator's pgha_patroni_cluster is not given")
		f.runs(from, minor(from))
	})

	t.Run("the library alone, and back", func(t *testing.T) {
		f.citus, f.extension = to, minor(from)
		f.configure(3)
		has(t, f.Plan(ctx), "the extension is at "+minor(from)+": until citus.extension_version raises it, distributed queries fail")
		f.Apply(ctx)
		f.runs(to, minor(from))
		f.NoChanges(ctx)
		f.citus = from
		f.configure(3)
		f.Apply(ctx)
		f.runs(from, minor(from))
		f.NoChanges(ctx)
		if now := sums(); now != before {
			t.Errorf("the tables hold %s, before %s", now, before)
		}
	})

	w := f.write(t)
	t.Run("both", func(t *testing.T) {
		f.citus, f.extension = to, minor(to)
		f.configure(3)
		o := f.Plan(ctx)
		has(t, o, "Citus's extension of shop goes to "+minor(to)+", in stages", "1. The library of", "missing on", "group 1, now led by", minor(from)+" -> "+minor(to),
			"3. CALL citus_finish_citus_upgrade() on the coordinator", "there is no way back but a restore")
		failed := w.Failed()
		w.TakeGap()
		begin := time.Now()
		k := sweeper(f.site, w, "citus.extension")
		k.after = nil // writes fail while a group has another library than its extension
		k.few("in citus.extension", "citus.extension")
		k.sweep(t, "apply")
		k.went(t, "in citus.extension")
		t.Logf("upgraded in %s; longest gap %s, %d writes failed", time.Since(begin).Round(time.Second), w.TakeGap().Round(time.Millisecond), w.Failed()-failed)
		f.runs(to, minor(to))
		f.NoChanges(ctx)
		if now := sums(); now != before {
			t.Errorf("the tables hold %s, before %s", now, before)
		}
		if bad := f.shop("select count(*) from citus_check_cluster_node_health() where result is not true"); bad != "0" {
			t.Errorf("%s connections between nodes do not work", bad)
		}
		if last := f.shop("select metadata->>'last_upgrade_version' from pg_dist_node_metadata"); last != minor(to) {
			t.Errorf("the update was not finished: %s", last)
		}
	})

	t.Run("there is no way back", func(t *testing.T) {
		f.citus = from
		f.configure(3)
		o := f.Plan(ctx)
		if o.Code != 1 {
			t.Errorf("another library is planned: exit status %d", o.Code)
		}
		has(t, o, "once the extension is updated there is no way back")
		f.citus, f.extension = to, minor(from)
		f.configure(3)
		if o = f.Plan(ctx); o.Code != 1 {
			t.Errorf("another version of the extension is planned: exit status %d", o.Code)
		}
		has(t, o, "The extension cannot go back")
		f.extension = minor(to)
		f.configure(3)
		f.NoChanges(ctx)
	})

	w.Check(t)
	f.shop("drop table events") // which cannot be moved, so that no group would leave
	f.Destroy(ctx)
}
