package acceptance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
)

// tally makes a repository on each host with three versions of an extension's package:
// its library is one of PostgreSQL's own, under another name, and in 2.0 no library.
// Another package needs a newer server from its 1.1 on.
const tally = `mkdir -p /srv/tally && cd /srv/tally
build() {
	d=$(mktemp -d)
	mkdir -p "$d/DEBIAN" "$d/usr/lib/postgresql/17/lib" "$d/usr/share/postgresql/17/extension"
	printf 'Package: postgresql-17-tally\nVersion: %s\nArchitecture: all\nMaintainer: nobody <nobody@example.test>\nDepends: postgresql-17\nDescription: counts\n' "$1-1" >"$d/DEBIAN/control"
	if [ "$1" = 2.0 ]; then echo broken >"$d/usr/lib/postgresql/17/lib/tally.so"; else cp /usr/lib/postgresql/17/lib/pg_trgm.so "$d/usr/lib/postgresql/17/lib/tally.so"; fi
	printf "default_version = '%s'\nrelocatable = true\n" "$1" >"$d/usr/share/postgresql/17/extension/tally.control"
	echo "create function tally() returns real language c as '\$libdir/tally', 'show_limit';" >"$d/usr/share/postgresql/17/extension/tally--$1.sql"
	dpkg-deb -b "$d" . >/dev/null
	rm -r "$d"
	deb=postgresql-17-tally_$1-1_all.deb
	dpkg-deb -f "$deb"
	printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -d ' ' -f 1)"
}
needy() {
	d=$(mktemp -d)
	mkdir "$d/DEBIAN"
	printf 'Package: postgresql-17-needy\nVersion: %s\nArchitecture: all\nMaintainer: nobody <nobody@example.test>\nDepends: postgresql-17%s\nDescription: needs a server\n' "$1-1" "$2" >"$d/DEBIAN/control"
	dpkg-deb -b "$d" . >/dev/null
	rm -r "$d"
	deb=postgresql-17-needy_$1-1_all.deb
	dpkg-deb -f "$deb"
	printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -d ' ' -f 1)"
}
{ build 1.0; build 1.1; build 2.0; needy 1.0 ''; needy 1.1 " (>= NEWER)"; } >Packages
echo 'deb [trusted=yes] file:/srv/tally ./' >/etc/apt/sources.list.d/tally.list`

// An extension's package is pinned, brought to other versions along the road of
// PostgreSQL's own, and let go. Then a closed window, a time of soaking, and a disk that
// is full in the middle of an exchange.
func TestExtensions(t *testing.T) {
	turn(t)
	const patience = `rollout = { patience = "40s"%s }`
	u := newStaged(t, fmt.Sprintf(patience, ""), "pg1", "pg2", "pg3")
	ctx := t.Context()
	for _, h := range u.all {
		u.on(h, strings.Replace(tally, "NEWER", u.new.Postgres, 1))
	}
	pin := func(version string) {
		u.base.Versions = fmt.Sprintf("extensions = { tally = %q }", version)
		u.configure(u.base)
	}
	// installed checks which version there is, whether it is held, and what was restarted.
	installed := func(t *testing.T, version string, held bool, since map[string]string, restarted bool) {
		t.Helper()
		now := u.started()
		for _, h := range u.all {
			have := u.on(h, "dpkg-query -Wf '${Version}' postgresql-17-tally; apt-mark showhold")
			if !strings.HasPrefix(have, version) || strings.Contains(have, "tally") != held {
				t.Errorf("%s has %s", h, have)
			}
			if (now[h] != since[h]) != restarted {
				t.Errorf("%s was started at %s, and before at %s", h, now[h], since[h])
			}
		}
		u.healthy("pg1", u.all...)
		u.NoChanges(ctx)
	}
	refused := func(t *testing.T, texts ...string) {
		t.Helper()
		since := u.started()
		o := u.TryApply(ctx)
		if o.Code == 0 {
			t.Error("the apply went through")
		}
		has(t, o, texts...)
		for h, now := range u.started() {
			if now != since[h] {
				t.Errorf("%s was started at %s, and before at %s", h, now, since[h])
			}
		}
	}

	t.Run("new", func(t *testing.T) {
		since := u.started()
		pin("1.0")
		if plan := u.Plan(ctx); strings.Contains(plan.Text, "restart") {
			t.Errorf("something is to be restarted:\n%s", plan.Text)
		}
		u.Apply(ctx)
		installed(t, "1.0-1", true, since, false)
		u.sql(u.leader("pg1"), "create extension tally")
		if n := u.sql(u.leader("pg1"), "select tally()"); n != "0.3" {
			t.Errorf("it says %s", n)
		}
	})

	t.Run("another version", func(t *testing.T) {
		since, switched, broken := u.started(), u.switchovers(), u.w.Broken()
		pin("1.1")
		has(t, u.Plan(ctx), u.leader("pg1")+": switch over to a replica", "restart Patroni and PostgreSQL (postgresql-17-tally 1.0-1 -> 1.1-1)")
		u.Apply(ctx)
		installed(t, "1.1-1", true, since, true)
		if n, b := u.switchovers()-switched, u.w.Broken()-broken; n != 1 || b > 1 {
			t.Errorf("%d switchovers, and %d transactions failed", n, b)
		}
	})

	t.Run("a library that does not load", func(t *testing.T) {
		pin("2.0")
		refused(t, "libraries that are in use do not load into PostgreSQL", "tally", "the packages are not installed")
	})

	t.Run("a version that there is not", func(t *testing.T) {
		pin("3.0")
		refused(t, "no repository of this host has postgresql-17-tally in version 3.0; there are: 2.0-1, 1.1-1, 1.0-1")
	})

	t.Run("one that needs another server", func(t *testing.T) {
		needs := func(version string) {
			u.base.Versions = fmt.Sprintf(`extensions = { tally = "1.1", needy = %q }`, version)
			u.configure(u.base)
		}
		has := func(want string) {
			t.Helper()
			for _, h := range u.all {
				if have := u.on(h, "dpkg-query -Wf '${Version} ' postgresql-17 postgresql-17-needy 2>/dev/null || true"); !strings.HasPrefix(have, u.old.Postgres+"-") || !strings.HasSuffix(have, want) {
					t.Errorf("%s has %s", h, have)
				}
			}
		}
		needs("1.1")
		refused(t, "postgresql-17-needy", "Depends: postgresql-17 (>= "+u.new.Postgres+")")
		has("")
		needs("1.0")
		u.Apply(ctx)
		has("1.0-1")
		needs("1.1")
		refused(t, "postgresql-17-needy", "Depends: postgresql-17 (>= "+u.new.Postgres+")")
		has("1.0-1")
		pin("1.1")
		u.Apply(ctx)
	})

	t.Run("let go", func(t *testing.T) {
		since := u.started()
		u.base.Versions = ""
		u.configure(u.base)
		u.Apply(ctx)
		installed(t, "1.1-1", false, since, false)
		if n := u.sql(u.leader("pg1"), "select tally()"); n != "0.3" {
			t.Errorf("it says %s", n)
		}
	})

	newer := pins{u.old.Postgres, u.new.Patroni}
	t.Run("a closed window", func(t *testing.T) {
		day := time.Now().UTC().AddDate(0, 0, 3).Weekday().String()
		u.base.Cluster = fmt.Sprintf(patience, fmt.Sprintf(`, window = { days = [%q], from = "01:00", to = "05:00", time_zone = "UTC" }`, day))
		u.configure(u.base)
		u.Apply(ctx)
		u.to(newer)
		since := u.started()
		r := u.begin(ctx, "apply")
		steps := map[string]int{}
		r.next(func(p progress) (string, bool) {
			if p.State == "finished" {
				steps[p.Step]++
			}
			return "", false
		})
		code, text := r.end()
		if code == 0 {
			t.Error("the apply went through")
		}
		has(t, cli.Output{Code: code, Text: text}, "look whether the maintenance window is open", "it is open "+day[:3])
		if steps["patroni.stage"] != len(u.all) || steps["patroni.mark"] > 0 {
			t.Errorf("the packages are to be fetched, and no more: %v", steps)
		}
		u.unrestarted(t, since)
		for _, h := range u.all {
			if have := u.runs(h); have != u.old {
				t.Errorf("%s runs %v", h, have)
			}
		}
	})

	t.Run("soak", func(t *testing.T) {
		u.base.Cluster = fmt.Sprintf(patience, `, soak = "8s"`)
		u.to(newer)
		since := u.started()
		r := u.begin(ctx, "apply")
		began := map[string]time.Time{}
		r.next(func(p progress) (string, bool) {
			if p.Step == "patroni.verify" && p.State == "started" {
				began[p.Host] = time.Now()
			}
			if took := time.Since(began[p.Host]); p.Step == "patroni.verify" && p.State == "finished" && took < 7*time.Second {
				t.Errorf("%s had %s to soak", p.Host, took)
			}
			return "", false
		})
		r.wait(t)
		if len(began) != len(u.all) {
			t.Errorf("these had a turn: %v", began)
		}
		u.unrestarted(t, since)
		u.check(t, newer)
	})

	t.Run("a disk that is full", func(t *testing.T) {
		u.base.Cluster = fmt.Sprintf(patience, "")
		u.to(u.old)
		for _, h := range u.all {
			u.on(h, "mount -t tmpfs -o size=4k full /usr/share/doc/patroni")
		}
		refused(t, "the host's disk is full")
		u.healthy("pg1", u.all...)
		for _, h := range u.all {
			u.on(h, "umount /usr/share/doc/patroni")
			if have := u.runs(h); have != newer {
				t.Errorf("%s runs %v", h, have)
			}
		}
		u.Apply(ctx)
		u.check(t, u.old)
	})
	u.w.Check(t)
}
