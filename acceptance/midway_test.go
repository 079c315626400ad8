package acceptance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
)

// cut starts an apply, and when it has come to the step, cuts something off. It
// fails the test unless that ends the apply soon, with an error that says all it
// has to. What comes back at once may also be waited for, and the apply go through.
func (g *ground) cut(step string, off func(context.Context) error, back bool, args ...string) {
	g.t.Helper()
	r := g.begin(g.ctx, "apply", args...)
	r.await(g.t, step)
	if err := off(g.ctx); err != nil {
		g.t.Fatal(err)
	}
	begin := time.Now()
	code, text := r.end()
	took := time.Since(begin).Round(100 * time.Millisecond)
	_, said, _ := strings.Cut(text, "\nError: ")
	g.t.Logf("cut off in %s, the apply ended with %d after %s: %s", step, code, took, said)
	if code == 0 && back {
		return
	}
	if code == 0 {
		g.t.Errorf("cut off in %s, the apply went through", step)
		return
	}
	if took > 2*time.Minute {
		g.t.Errorf("it took %s to notice", took)
	}
	has(g.t, cli.Output{Text: text}, "Error: Unable to", "Host: "+g.name, "Step: ", "Cause: ", "Left as it is: ", "What to do: ")
	for _, nothing := range []string{"Cause: canceled", "Cause: context canceled"} {
		if strings.Contains(text, nothing) {
			g.t.Errorf("the error does not say what happened: %s", nothing)
		}
	}
}

// again is the power of the host: cut, and back at once.
func (g *ground) again(ctx context.Context) error {
	if err := g.lab.Kill(ctx, g.name); err != nil {
		return err
	}
	return g.lab.Start(ctx, g.name)
}

// start powers a host on.
func (g *ground) start(name string) {
	g.t.Helper()
	if err := g.lab.Start(g.ctx, name); err != nil {
		g.t.Fatal(err)
	}
}

// data makes a table, and returns a check that it is still there, in the same
// database.
func (g *ground) data() func() {
	g.t.Helper()
	const look = "select system_identifier, (select sum(n) from kept) from pg_control_system()"
	g.sql(g.name, "create table kept as select generate_series(1, 1000) as n")
	before := g.sql(g.name, look)
	return func() {
		g.t.Helper()
		if now := g.sql(g.name, look); now != before {
			g.t.Errorf("the data is %s, and was %s", now, before)
		}
	}
}

// changed is a configuration whose apply restarts etcd and reloads Patroni.
func changed(c settings) settings {
	c.Etcd, c.Node = "snapshot_count = 20000", `tags = { custom = { place = "here" } }`
	return c
}

// A host that loses its power while a step is at work on it, and comes back.
func (g *ground) reboot() {
	g.cluster(settings{})
	g.cut("etcd.start", g.again, true, "-target=pgha_etcd_cluster.dcs")
	g.cut("patroni.form", g.again, true)
	g.converges()
	intact := g.data()
	g.cluster(changed(settings{}))
	g.cut("etcd.restart", func(ctx context.Context) error { return g.lab.Kill(ctx, g.name) }, false)
	g.start(g.name)
	g.cut("patroni.reconfigure", g.again, true)
	g.converges()
	intact()
	if got := g.do("patronictl -c /etc/patroni/config.yml list"); !strings.Contains(got, "place: here") {
		g.t.Errorf("the tag is not there:\n%s", got)
	}
}

// A bastion that is lost while the host behind it is worked on, which goes on by
// itself meanwhile.
func (g *ground) behind() {
	bastion := g.lab.Host("dc2-bastion")
	base := settings{Provider: fmt.Sprintf("ssh { bastions = [{ host = %q }] }", bastion.Addr)}
	lost := func(ctx context.Context) error { return g.lab.Kill(ctx, bastion.Name) }
	g.cluster(base)
	g.cut("patroni.form", lost, false)
	if o := g.fails("bastion " + bastion.Addr); o.Took > time.Minute {
		g.t.Errorf("without the bastion it took %s to fail", o.Took)
	}
	g.start(bastion.Name)
	g.converges()
	intact := g.data()
	g.cluster(changed(base))
	g.cut("etcd.restart", lost, false)
	g.start(bastion.Name)
	g.converges()
	intact()
}

// A host that is far away and has hardly any CPU: each round trip takes 300 ms, and
// half of the time all its processes stand still. Everything takes longer, and
// nothing is given up. The lab delays packets between datacenters only, so the host
// is reached through one of another.
func (g *ground) slow() {
	if err := g.lab.Latency(g.ctx, "dc3", 150*time.Millisecond, 20*time.Millisecond); err != nil {
		g.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(g.ctx)
	var starved sync.WaitGroup
	starved.Go(func() {
		for ctx.Err() == nil {
			for _, part := range []struct {
				set   func(context.Context, ...string) error
				lasts time.Duration
			}{{g.lab.Freeze, 250 * time.Millisecond}, {g.lab.Thaw, 250 * time.Millisecond}} {
				if err := part.set(g.ctx, g.name); err != nil {
					g.t.Error(err)
					return
				}
				time.Sleep(part.lasts)
			}
		}
	})
	defer starved.Wait()
	defer stop()
	base := settings{Host: fmt.Sprintf("ssh = { bastions = [%q] }", g.lab.Host("shop").Addr)}
	g.cluster(base)
	g.converges()
}

// A clock that is an hour off. The lab's hosts share the machine's clock, so it is
// the command date that is an hour off here, which is all that the provider's checks
// and the scripts that make certificates know of the time; what etcd, Patroni and
// PostgreSQL make of a wrong clock is not shown.
func (g *ground) clock() {
	wrong := func(by string) {
		g.do("cat >/usr/local/bin/date <<'END'\n#!/bin/sh\nif [ \"$1 $2\" = '-u -d' ]; then exec /usr/bin/date -u -d \"$3 " + by + "\" \"$4\"; fi\nexec /usr/bin/date -d '" + by + "' \"$@\"\nEND\nchmod +x /usr/local/bin/date")
	}
	g.cluster(settings{})
	for by, says := range map[string]string{"+1 hour": "ahead of this machine's", "-1 hour": "behind this machine's"} {
		wrong(by)
		g.fails("Unable to create host clock", "Host: clock", "Step: check the host", "a clock ", says, "at most 1s apart (preflight.max_clock_skew)", "everything on the host")
		if got := g.do("ls -A /etc/pgha 2>/dev/null; echo done"); got != "done" {
			g.t.Errorf("a refused host was changed: %s", got)
		}
	}
	// A clock that goes wrong later.
	g.do("rm /usr/local/bin/date")
	g.Apply(g.ctx, "-target=pgha_host.db")
	wrong("+1 hour")
	g.fails("Unable to create etcd cluster dcs", "Host: clock", "no certificate can be made: the host's clock is 60 minutes ahead of that of the machine that runs Terraform", "set the host's clock right")
	if got := g.do("find /etc/pgha -name '*.crt' -o -name '*.key'"); got != "" {
		g.t.Errorf("certificates were made: %s", got)
	}
	g.do("rm /usr/local/bin/date")
	g.converges()
}
